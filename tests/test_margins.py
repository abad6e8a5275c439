"""How far an assertion of a lesson is from failing, read from its code and its stored figures."""

from __future__ import annotations

import pytest

from mmscratch.kit.margins import margins

FIGURES = {
    "accuracy": [0.95, 0.91],
    "shape, plain ViT": [0.9, 0.8],
    "shape, CNN": [1.0, 0.99],
    "loss": [0.2, 0.4],
}
RECORDED = """
accuracy = runs.record("accuracy", measure())
for name in ("plain ViT", "CNN"):
    runs.record(f"shape, {name}", shape[name])
runs.record("loss", history.losses[-1])
"""


def notebook(*sources):
    return {"cells": [{"cell_type": "code", "source": source} for source in sources]}


@pytest.mark.parametrize(
    ("claim", "shown", "values"),
    [
        ("accuracy > 0.9", "accuracy > 0.9", (0.05, 0.01)),
        ("accuracy >= 0.9", "accuracy > 0.9", (0.05, 0.01)),
        ("history.losses[-1] < 0.5", "history.losses[-1] < 0.5", (0.3, 0.1)),
        (
            'shape["CNN"] > shape["plain ViT"] + 0.05',
            "shape['CNN'] > shape['plain ViT'] + 0.05",
            (0.05, 0.14),
        ),
        ('min(shape["CNN"], accuracy) > 0.9', "min(shape['CNN'], accuracy) > 0.9", (0.05, 0.01)),
        ('abs(accuracy - shape["plain ViT"]) < 2 * 0.1', None, (0.15, 0.09)),
        ("accuracy > 0.92", "accuracy > 0.92", (0.03, -0.01)),
    ],
)
def test_a_claim_about_recorded_figures_has_a_margin(claim, shown, values):
    (found,) = margins(notebook(RECORDED, f"assert {claim}"), FIGURES)
    assert found.claim == (shown or found.claim)
    assert found.values == pytest.approx(values) and found.least == min(found.values)
    assert set(found.figures) <= FIGURES.keys()


def test_a_chain_and_a_conjunction_are_several_claims():
    found = margins(
        notebook(RECORDED, 'assert accuracy > 0.5 > history.losses[-1] and shape["CNN"] > 0.9'), FIGURES
    )
    assert [margin.least for margin in found] == pytest.approx([0.41, 0.1, 0.09])


@pytest.mark.parametrize(
    "claim",
    ["other > 0.5", "accuracy == 0.5", "all(x > 0 for x in accuracy)", "not accuracy < 0.5", "0.1 < 0.5"],
)
def test_what_the_stored_figures_do_not_decide_is_left_alone(claim):
    assert margins(notebook(RECORDED, f"assert {claim}"), FIGURES) == []


def test_cells_that_are_not_python_and_names_of_two_variables_are_passed_over():
    cells = notebook("%timeit x", 'runs.record(f"shape, {a}{b}", shape[a])', 'assert shape["CNN"] > 0.5')
    assert margins(cells, FIGURES) == []
