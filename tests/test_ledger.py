"""The parity ledger: configurations that nobody chose, and a stored table that is complete and current."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import json

import pytest

from mmscratch.kit import ledger, project
from mmscratch.kit.reference import BOUND, Comparison, Difference, cases, compare, table

ROOT = project.require_root()
LEDGER = json.loads(ledger.stored_path(ROOT).read_text(encoding="utf-8"))
WRITTEN = ledger.grouped(cases(ROOT / "tests" / "parity"))
SWEEPS = ledger.sweeps(ROOT / "tests" / "sweeps")
LESSONS = [lesson for lesson in project.lessons(ROOT) if lesson.written]


@pytest.mark.parametrize("name", SWEEPS)
def test_a_configuration_that_nobody_chose_equals_the_reference(name):
    ledger.each(SWEEPS[name], lambda case: case.run().check() and None)


# -- the stored table


def test_every_primitive_and_reference_has_its_row_and_no_other_has():
    assert {(row["primitive"], row["reference"]) for row in LEDGER["rows"]} == WRITTEN.keys()


def test_the_ledger_was_filled_from_the_cases_of_today():
    stale = [
        " against ".join(key)
        for row in LEDGER["rows"]
        if row["digest"] != ledger.digest(WRITTEN[key := (row["primitive"], row["reference"])])
    ]
    assert not stale, "run make ledger"


@pytest.mark.skipif(
    importlib.metadata.version("hypothesis") != LEDGER["made_with"]["hypothesis"],
    reason="another hypothesis draws other configurations",
)
def test_the_ledger_was_filled_from_the_sweeps_of_today():
    drawn: dict = {}
    for sweep in SWEEPS.values():
        for key, found in ledger.grouped(ledger.drawn(sweep)).items():
            drawn.setdefault(key, []).extend(found)
    stored = {
        (row["primitive"], row["reference"]): row["drawn_digest"] for row in LEDGER["rows"] if row["drawn"]
    }
    assert stored == {key: ledger.digest(found) for key, found in drawn.items()}, "run make ledger"


def test_every_row_was_measured_with_the_versions_that_are_installed():
    stored = {row["package"]: row["version"] for row in LEDGER["rows"]}
    assert stored == {name: importlib.metadata.version(name) for name in stored}, "run make ledger"


def test_every_row_keeps_its_bound_and_every_deliberate_error_is_noticed():
    primitives = [f"{lesson.module}." for lesson in LESSONS if lesson.reference]
    modules = {row["primitive"].split(".")[0] + "." for row in LEDGER["rows"]}
    assert set(primitives) <= modules
    assert ledger.problems(LEDGER) == []
    tried = {
        (row["primitive"], row["reference"]): {m["name"] for m in row["mutants"]} for row in LEDGER["rows"]
    }
    assert tried == {key: {name for case in found for name in case.wrong} for key, found in WRITTEN.items()}


def test_rows_measured_again_say_the_same():
    """The smallest rows, in full: the same counts and tensors, differences of the same order."""
    for key in (
        ("modalities.cut_patches", "torch Unfold"),
        ("transformer.Attention", "torch MultiheadAttention"),
    ):
        (stored,) = [row for row in LEDGER["rows"] if (row["primitive"], row["reference"]) == key]
        again = ledger.row([dataclasses.replace(case, bench=False) for case in WRITTEN[key]], [])
        for same in ("package", "version", "written", "bound", "digest", "unseen"):
            assert again[same] == stored[same]
        assert [m["name"] for m in again["mutants"]] == [m["name"] for m in stored["mutants"]]
        assert again["of_bound"] <= 1


def spoiled(change):
    found = copy.deepcopy(LEDGER)
    change(found["rows"][0])
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(of_bound=1.2), "1.2 times its bound"),
        (lambda row: row.update(of_bound=float("nan")), "times its bound"),
        (lambda row: row.update(written=0), "no configuration"),
        (lambda row: row.update(mutants=[]), "no deliberate error"),
        (lambda row: row["mutants"][0].update(least=1e-6), "passes"),
    ],
)
def test_what_is_wrong_with_a_ledger_is_said(change, message):
    (line,) = ledger.problems(spoiled(change))
    assert message in line and LEDGER["rows"][0]["primitive"] in line


def test_a_primitive_without_a_row_is_named():
    assert ledger.problems(LEDGER, ["vit.VisionTransformer", "new.Thing"]) == ["new.Thing: no row"]


def test_a_difference_beyond_the_bound_stops_the_measurement():
    (case, *_), _ = WRITTEN["modalities.cut_patches", "torch Unfold"], None
    found = Comparison("x", BOUND, 0, 0, True, Difference(1.0, 1.0), None, None)
    with pytest.raises(AssertionError, match="differ by"):
        ledger.row([case], [], run=lambda case: found)


# -- what a row is made of


def test_a_bias_on_keys_is_what_a_comparison_of_attention_cannot_see():
    import torch

    case = next(c for c in WRITTEN["transformer.Attention", "torch MultiheadAttention"] if c.name == "self")
    found = case.run(wrong=False)
    assert found.unseen == ("in_proj_bias[2/3]",)
    assert {"in_proj_bias", "in_proj_bias[1/3]", "in_proj_bias[3/3]", "out_proj.bias"} <= set(found.seen)
    assert found.compared == ("outputs", "gradients of inputs", "gradients of parameters")

    idle = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    idle[1].weight.requires_grad_(True)
    found = compare("idle", lambda model: copy.deepcopy(model), idle, torch.ones(2, 3))
    assert found.unseen == ()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("layers.3.attention.bias", "layers.*.attention.bias"),
        ("encoder.layers.encoder_layer_11.ln.weight", "encoder.layers.encoder_layer_*.ln.weight"),
        ("0.layers.1.in_proj_bias[2/3]", "*.layers.*.in_proj_bias[2/3]"),
        ("fc1.weight", "fc1.weight"),
    ],
)
def test_what_is_said_of_a_layer_is_said_of_all(name, shown):
    assert ledger._anonymous(name) == shown


@pytest.mark.parametrize(
    ("library", "name"),
    [("open_clip CLIP", "open_clip_torch"), ("torch.nn.Transformer", "torch"), ("scipy solve_ivp", "scipy")],
)
def test_a_class_comes_from_a_package(library, name):
    assert ledger.package(library) == name


def test_a_class_of_no_package_is_refused():
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        ledger.package("nowhere Class")


# -- what the lessons showed


def notebook(*shown):
    outputs = [{"data": {"text/plain": repr(each)}} for each in shown]
    return {"cells": [{"cell_type": "code", "outputs": outputs}]}


def test_a_comparison_is_read_back_as_it_was_shown():
    found = Comparison(
        "lib Class", BOUND, 1234, 1300, True, Difference(3e-7, 1e-7), Difference(2e-8, 0.0),
        Difference(2e-6, 0.0),
        wrong={"a": 0.3, "b": 0.02},
    )  # fmt: skip
    plain = Comparison("other", BOUND, 0, 0, True, Difference(0.0, 0.0), None, None)
    (single,) = ledger.recorded(notebook(found))
    assert single == dict(
        name="lib Class", parameters="1,234 of 1,300", outputs="≤ 1e-6", gradients="≤ 1e-5", wrong="≥ 1e-2"
    )
    both = ledger.recorded(notebook(table(found, plain)))
    assert both[0] == single | {"parameters": "1,234"}
    assert both[1] == dict(name="other", parameters="0", outputs="0", gradients="–", wrong="–")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_every_lesson_with_a_reference_shows_a_comparison_within_the_bound(lesson):
    found = ledger.recorded(project.read_notebook(ROOT / lesson.notebook))
    assert found or not lesson.reference
    for comparison in found:
        differences = [comparison["outputs"], comparison["gradients"]]
        assert all(ledger.number(value) <= BOUND for value in differences if value != "–"), comparison
    assert any(comparison["wrong"] != "–" for comparison in found)
