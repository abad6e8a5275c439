"""Weights that ship with the book: stored small, loaded whole, and as good as the manifest says."""

from __future__ import annotations

import ast
import json
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from mmscratch.kit import checkpoints, data, excerpt, lesson, make_data, project

SHIPPED = sorted(Path(name).stem for name in data.manifest() if name.startswith("checkpoints/"))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A checkout with an empty data folder."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(make_data, "DATA", tmp_path / "data")
    monkeypatch.setattr(project, "root", lambda: tmp_path)
    monkeypatch.delenv("MMSCRATCH_DATA_DIR", raising=False)
    monkeypatch.delenv("MMSCRATCH_CHECKPOINTS", raising=False)
    return tmp_path


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def refuse(*_):
    raise AssertionError("called, but the weights are stored")


def fill(value: float):
    def recipe(model):
        with torch.no_grad():
            model[0].weight.fill_(value)

    return recipe


def store(monkeypatch, value: float, metrics=lambda model: {"accuracy": 0.5}, model: nn.Module | None = None):
    with monkeypatch.context() as patch:
        patch.setenv("MMSCRATCH_CHECKPOINTS", "train")
        return checkpoints.load_or_train("04_tiny", model or network(), fill(value), metrics)


def test_the_switch_trains_stores_and_registers_and_then_a_plain_run_loads(home, monkeypatch):
    measured = []

    def metrics(model):
        assert not model.training and not torch.is_grad_enabled()
        measured.append(model[0].weight[0, 0].item())
        return {"accuracy": 2 / 3, "loss": torch.tensor(0.5)}

    trained = store(monkeypatch, 0.1, metrics)
    assert not trained.training
    assert measured == [torch.tensor(0.1).half().item()]  # what is stored, not what was trained
    entry = data.manifest()["checkpoints/04_tiny.safetensors"]
    assert entry["metrics"] == {"accuracy": 0.6667, "loss": 0.5} and entry["rebuild"] == "make checkpoints"
    tensors, _ = data.checkpoint("04_tiny")
    assert {value.dtype for value in tensors.values() if value.is_floating_point()} == {torch.float16}
    assert tensors["1.num_batches_tracked"].dtype == torch.int64

    model = network()
    loaded = checkpoints.load_or_train("04_tiny", model.double(), refuse, refuse)
    assert loaded is model and not loaded.training and loaded[0].weight.dtype == torch.float64
    assert all(
        torch.equal(value, trained.state_dict()[name].to(value)) for name, value in model.state_dict().items()
    )


def test_a_later_lesson_gets_the_stored_weights_frozen_in_eval_mode(home, monkeypatch):
    trained = store(monkeypatch, 0.1)
    model = network()
    assert checkpoints.load("04_tiny", model) is model and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(
        torch.equal(value, trained.state_dict()[name].to(value)) for name, value in model.state_dict().items()
    )


def test_weights_of_another_model_are_refused(home, monkeypatch):
    store(monkeypatch, 0.1)
    for other in (
        network(width=4),
        nn.Linear(2, 3),
        nn.Sequential(*network(), nn.Linear(3, 1)),
        network()[:1],
    ):
        with pytest.raises(RuntimeError, match="loading state_dict"):
            checkpoints.load_or_train("04_tiny", other, refuse, refuse)


@pytest.mark.parametrize("size", [0, 10, 300])
def test_truncated_weights_are_not_loaded_and_the_message_says_what_to_do(home, monkeypatch, size):
    store(monkeypatch, 0.1)
    monkeypatch.setattr(project, "repository_url", lambda: None)
    monkeypatch.setattr(data, "_cache", lambda: home / "cache")
    file = home / "data" / "checkpoints" / "04_tiny.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(data.DataError, match=r"(?s)04_tiny.*missing or damaged.*make checkpoints"):
        checkpoints.load("04_tiny", network())


def test_weights_that_are_not_stored_are_named(home):
    (home / "data" / "manifest.json").write_text('{"files": {}}')
    with pytest.raises(ValueError, match="checkpoints/04_tiny.safetensors"):
        checkpoints.load_or_train("04_tiny", network(), refuse, refuse)


def test_a_checkpoint_over_the_limit_is_refused_with_both_sizes_and_nothing_is_stored(home, monkeypatch):
    with pytest.raises(ValueError, match=r"checkpoint 04_tiny has 8,4\d\d,\d\d\d bytes, allowed 4,000,000"):
        store(monkeypatch, 0.1, refuse, model=network(width=600_000))
    assert not list((home / "data").rglob("*.*"))


@pytest.mark.parametrize("moment", ["while it is measured", "while it is written"])
def test_a_failure_leaves_the_stored_checkpoint_as_it_was(home, monkeypatch, moment):
    def fail(*_):
        raise OSError(moment)

    store(monkeypatch, 0.1)
    with monkeypatch.context() as patch, pytest.raises(OSError, match=moment):
        if moment == "while it is written":
            patch.setattr(os, "replace", fail)
        store(patch, 0.2, fail if moment == "while it is measured" else lambda model: {})
    loaded = checkpoints.load_or_train("04_tiny", network(), refuse, refuse)
    assert loaded[0].weight[0, 0] == torch.tensor(0.1).half()
    assert os.listdir(home / "data" / "checkpoints") == ["04_tiny.safetensors"]


def test_the_command_runs_the_lessons_that_have_a_checkpoint(home, monkeypatch):
    (home / "notebooks").mkdir()
    for name, source in (("04_a", "load_or_train('x')"), ("05_b", "pass"), ("06_c", "load_or_train('y')")):
        (home / "notebooks" / f"{name}.ipynb").write_text(json.dumps({"source": source}))
    ran = []
    monkeypatch.setattr(lesson, "execute", lambda path, *, env, **_: ran.append((path.stem, *env.items())))
    switch = ("MMSCRATCH_CHECKPOINTS", "train")
    monkeypatch.setattr("sys.argv", ["checkpoints"])
    checkpoints.main()
    assert ran == [("04_a", switch), ("06_c", switch)]
    ran.clear()
    monkeypatch.setattr("sys.argv", ["checkpoints", "06"])
    checkpoints.main()
    assert ran == [("06_c", switch)]


# -- what ships


def test_a_function_may_rest_on_a_later_one():
    lines = ["unused = 1", "def f():\n    return g()", "def g():\n    return n", "n = 2", "f()"]
    statements = excerpt.parse("\n".join(lines))
    assert excerpt.leading_to(statements[-1], statements[:-1]) == statements[1:]


def recipes() -> dict[str, tuple[Path, list[excerpt.Statement]]]:
    """Checkpoint -> its notebook, and the statements of it that lead to `load_or_train`, and no others."""
    found = {}
    for path in project.notebooks():
        statements = excerpt.statements(path)
        for place, statement in enumerate(statements):
            for name, call in statement.calls():
                if name.endswith("load_or_train"):
                    kept = excerpt.leading_to(statement, statements[:place])
                    found[ast.literal_eval(call.args[0])] = path, kept
    return found


def test_every_shipped_checkpoint_is_loaded_by_a_lesson_and_every_loaded_one_ships():
    assert sorted(recipes()) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_checkpoint_is_small_finite_and_as_good_as_its_manifest_says(name, monkeypatch):
    monkeypatch.delenv("MMSCRATCH_CHECKPOINTS", raising=False)
    monkeypatch.delenv("MMSCRATCH_SEED", raising=False)
    tensors, _ = data.checkpoint(name)
    assert tensors and all(value.isfinite().all() for value in tensors.values())
    entry = data.manifest()[f"checkpoints/{name}.safetensors"]
    assert entry["bytes"] <= checkpoints.LIMIT and entry["metrics"]

    path, statements = recipes()[name]
    load, measured = checkpoints.load_or_train, {}

    def load_and_measure(called, model, recipe, metrics):
        model = load(called, model, recipe, metrics)
        if called == name:  # and not one that it rests on
            with torch.no_grad():
                measured.update(metrics(model))
        return model

    monkeypatch.setattr(checkpoints, "load_or_train", load_and_measure)
    monkeypatch.chdir(path.parent)
    scope = types.ModuleType("a_part_of_the_lesson")
    monkeypatch.setitem(sys.modules, scope.__name__, scope)
    for statement in statements:
        exec(statement.code, scope.__dict__)
    assert measured == pytest.approx(entry["metrics"], abs=0.03)
