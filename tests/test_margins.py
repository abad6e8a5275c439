"""How far an assertion of a lesson is from failing, read from its code and its stored figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmscratch.kit.margins import claims, instrument, margins, noted

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


# -- measured while the lesson runs


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Execute an instrumented notebook and hand back what it noted: claim -> distance."""

    def execute(*sources, **names):
        record = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        monkeypatch.setenv("MMSCRATCH_RECORD", str(record))
        written = notebook(*sources)
        copied = instrument(written)
        assert written == notebook(*sources)  # the committed one is as it was
        for cell in copied["cells"]:
            exec(compile(cell["source"], "cell", "exec"), names)
        found = noted(record)
        assert [claim for _, claim in claims(written) if ("", claim) in found] == list(
            dict.fromkeys(claim for _, claim in found)
        )
        return {claim: distance for (_, claim), distance in found.items()}

    return execute


@pytest.mark.parametrize(
    ("claim", "distances"),
    [
        ("a > 0.9", {"a > 0.9": 0.05}),
        ("a >= 0.95", {"a > 0.95": 0.0}),
        ("0 < b < a", {"0 < b": 0.25, "b < a": 0.7}),
        ("0.1 < 0.2 < b", {"0.2 < b": 0.05}),
        ("a > 0.5 and word == 'x' and min(a, b) < c[0]", {"a > 0.5": 0.45, "min(a, b) < c[0]": 0.75}),
        ("all(x > b for x in c)", {"x > b for x in c": 0.75}),
        ("all([x <= 3 for x in c if x > 1])", {"x < 3 for x in c if x > 1": 0.0}),
        ("all((a > b, word))", {"a > b": 0.7}),
        ("(x > c).all()", {"(x > c).all()": 0.5}),
        ("x[0] > a", {"x[0] > a": 0.55}),
        ("a > 0.9 if word == 'x' else a > 1", {"a > 0.9": 0.05}),
        ("(a or b) < 2", {"(a or b) < 2": 1.05}),
        ("word in 'xyz' != b > 0", {"b > 0": 0.25}),
    ],
)
def test_an_assertion_notes_by_how_much_it_holds(run, claim, distances):
    names = {"a": 0.95, "b": 0.25, "c": np.array([1.0, 2, 3]), "x": torch.tensor([1.5, 2.6, 3.7])}
    names["x"].requires_grad_()
    names["c"] = torch.from_numpy(names["c"]) if "all()" in claim else names["c"]
    assert run(f"assert {claim}, 'why'", word="x", **names) == pytest.approx(distances, abs=1e-6)


@pytest.mark.parametrize(
    "claim",
    [
        "a == 0.95",
        "word < 'y'",
        "not a < 0.5",
        "a < 0.5 or a > 0.6",
        "any(x > 1 for x in c)",
        "(n := a) > 0.5 and n > 0.5",
        "c < [9]",
        "True > False",
        "a < float('inf')",
        "{1} < {1, 2}",
        "torch.equal(x, x)",
    ],
)
def test_what_has_no_distance_is_asserted_and_left_alone(run, claim):
    names = {"a": 0.95, "c": [1.0, 2], "x": torch.ones(2), "torch": torch, "word": "x"}
    assert run(f"assert {claim}", **names) == {}


@pytest.mark.parametrize(
    "claim",
    [
        "a > 1",
        "0 < a < 0.5",
        "all(x > 1 for x in c)",
        "(x > 1).all()",
        "a == 1 > 0.5",
        "0 < float('nan') < 1",
    ],
)
def test_what_fails_fails_as_before(run, claim):
    names = {"a": 0.95, "c": [2.0, 1], "x": torch.ones(2)}
    with pytest.raises(AssertionError, match="^why$"):
        run(f"assert {claim}, 'why'", **names)


def test_operands_are_evaluated_once_in_order_and_not_after_a_link_that_fails(run):
    asked = []

    def ask(value):
        asked.append(value)
        return value

    assert run("assert ask(1) < ask(2) < ask(4)", ask=ask) == {"ask(1) < ask(2)": 1, "ask(2) < ask(4)": 2}
    assert asked == [1, 2, 4]
    with pytest.raises(AssertionError):
        run("assert ask(9) < ask(8) < ask(7)", ask=ask)
    assert asked[3:] == [9, 8]


def test_the_least_of_a_loop_counts_and_lines_keep_their_numbers(run):
    source = """
ü = "ä"
for x in c:  # é
    assert ü == "ä" and (
        x >
        0.5
    ), f"{x}"
    if x:
        try: assert x < 3; assert x > 0.25
        finally: pass
def function():
    assert 1 > 2 and x < 0
def broken(): raise LookupError
"""
    assert run(source, c=[2.0, 0.75, 1]) == {"x > 0.5": 0.25, "x < 3": 1, "x > 0.25": 0.5}
    copied = instrument(notebook(source))["cells"][0]["source"]
    assert copied.count("\n") == source.count("\n")
    assert copied.splitlines()[10:] == source.splitlines()[10:] and "# é" in copied


def test_measured_distances_stand_in_the_order_of_the_notebook_before_computed_ones():
    cells = notebook(
        RECORDED,
        "assert other > 0.5",
        "assert accuracy > 0.9 and same > 0",
        "assert other > 0.5",
        "assert gone",
    )
    measured = [
        {"cell": "1", "claim": "no longer > there", "holds_by": [1.0, 2.0]},
        {"cell": "2", "claim": "other > 0.5", "holds_by": [0.1, 0.3]},
        {"cell": "3", "claim": "same > 0", "holds_by": [0.5, 0.5]},
        {"cell": "4", "claim": "other > 0.5", "holds_by": [0.2, 0.1]},
    ]
    found = margins(cells, FIGURES, measured)
    assert [(m.claim, m.values, m.figures) for m in found] == [
        ("other > 0.5", (0.1, 0.3), ()),
        ("accuracy > 0.9", (0.05, 0.01), ("accuracy",)),
        ("other > 0.5", (0.2, 0.1), ()),
    ]
    measured.append({"cell": "3", "claim": "accuracy > 0.9", "holds_by": [0.0501, 0.0501]})
    (again,) = (
        m for m in margins(cells, FIGURES, measured) if m.figures
    )  # a figure may be the same each time
    assert again.values == (0.0501, 0.0501)


def test_where_the_measured_runs_are_others_what_the_figures_decide_counts_too():
    cells = notebook(RECORDED, "assert accuracy > 0.9")
    measured = [{"cell": "2", "claim": "accuracy > 0.9", "holds_by": [0.06, 0.04]}]
    (same,) = margins(cells, FIGURES, measured)
    (other,) = margins(cells, FIGURES, measured, elsewhere=True)
    assert (same.values, same.least) == ((0.06, 0.04), 0.04)
    assert (other.values, other.least) == ((0.05, 0.01, 0.06, 0.04), 0.01)


def test_nothing_is_written_where_no_sweep_runs(monkeypatch, tmp_path):
    monkeypatch.delenv("MMSCRATCH_RECORD", raising=False)
    exec(instrument(notebook("assert 0 < x"))["cells"][0]["source"], {"x": 1})
    assert noted(tmp_path / "record.json") == {}
