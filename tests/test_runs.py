"""Seeds, recorded figures and what a sweep over seeds stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmscratch.kit import data, lesson, make_data, project, runs

SOURCE = "for name in found:\n    assert found[name] < 2, name"


@pytest.fixture(autouse=True)
def no_sweep(monkeypatch):
    for name in ("MMSCRATCH_SEED", "MMSCRATCH_RECORD", "MMSCRATCH_CHECKPOINTS", "MMSCRATCH_KEEP"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A checkout with an empty data folder and one notebook."""
    (tmp_path / "data").mkdir()
    (tmp_path / "notebooks").mkdir()
    cell = {"cell_type": "code", "id": "04-001", "source": SOURCE, "metadata": {}, "outputs": []}
    notebook = {"cells": [cell | {"execution_count": None}], "metadata": {}, "nbformat": 4}
    text = json.dumps(notebook | {"nbformat_minor": 5})
    (tmp_path / "notebooks" / "04_thing.ipynb").write_text(text)
    monkeypatch.setattr(make_data, "DATA", tmp_path / "data")
    monkeypatch.setattr(project, "root", lambda: tmp_path)
    monkeypatch.delenv("MMSCRATCH_DATA_DIR", raising=False)
    return tmp_path


@pytest.fixture
def executed(home, monkeypatch):
    """Let the notebook record `figures(seed)` in place of running, and list how it was called."""
    calls = []

    def install(figures):
        def execute(path, *, env, threads, notebook):
            calls.append((path.name, env["MMSCRATCH_SEED"]))
            with monkeypatch.context() as patch:
                for name, value in env.items():
                    patch.setenv(name, value)
                found = figures(runs.seed())
                for name, value in found.items():
                    runs.record(name, value)
                exec(notebook.cells[0].source, {"found": found})  # as the kernel would

        monkeypatch.setattr(lesson, "execute", execute)
        return calls

    return install


# -- seed and record


def test_the_seed_comes_from_the_environment_and_seeds_torch(monkeypatch):
    assert runs.seed() == 0 and runs.seed(3) == 3
    drawn = torch.rand(2)
    monkeypatch.setenv("MMSCRATCH_SEED", "3")
    assert runs.seed(0) == 3
    assert torch.equal(torch.rand(2), drawn)


def test_a_figure_is_kept_only_while_a_sweep_runs(tmp_path, monkeypatch):
    assert runs.record("accuracy", 0.5) == 0.5
    target = tmp_path / "record.json"
    monkeypatch.setenv("MMSCRATCH_RECORD", str(target))
    assert runs.record("accuracy", 0.25) == 0.25 and runs.record("loss", torch.tensor(2.0)) == 2.0
    assert json.loads(target.read_text()) == {"accuracy": 0.25, "loss": 2.0}


def test_a_name_recorded_twice_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MMSCRATCH_RECORD", str(tmp_path / "record.json"))
    runs.record("accuracy", 0.5)
    with pytest.raises(ValueError, match="recorded twice in one run: 'accuracy'"):
        runs.record("accuracy", 0.6)


def test_a_figure_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite figure for 'loss', got nan"):
        runs.record("loss", float("nan"))


# -- sweep and table


def test_a_sweep_runs_the_notebook_once_per_seed_and_keeps_the_figures_in_order(executed):
    calls = executed(lambda seed: {"accuracy": 0.9 + seed / 100, "loss": 1 / 3})
    figures, claims = runs.sweep("04", 3)
    assert figures == {"accuracy": [0.9, 0.91, 0.92], "loss": [0.3333] * 3}
    assert claims == [
        {"cell": "04-001", "claim": "found[name] < 2", "holds_by": [1.1, 1.09, 1.08]},
    ]
    assert calls == [("04_thing.ipynb", "0"), ("04_thing.ipynb", "1"), ("04_thing.ipynb", "2")]


def test_other_seeds_are_tried_and_nothing_is_stored(executed, home, monkeypatch):
    calls = executed(lambda seed: {"accuracy": 1 / seed})
    monkeypatch.setattr("sys.argv", ["runs", "04", "--seeds", "2", "--first", "100005"])
    runs.main()
    assert [seed for _, seed in calls] == ["100005", "100006"]
    assert not list(home.rglob("04.json"))


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        (
            lambda seed: {"a": 1.0} if seed == 0 else {"a": 1.0, "b": 1.5},
            r"seed 1 recorded \['a', 'b'\], seed 0 .*\['a'\]",
        ),
        (lambda seed: {} if seed else {"a": 1.0}, "recorded nothing"),
        (lambda seed: {"a": 1.0} if seed else {}, "recorded nothing"),
    ],
)
def test_runs_that_record_different_figures_are_refused(executed, figures, message):
    executed(figures)
    with pytest.raises(ValueError, match=message):
        runs.sweep("04", 3)


def test_the_command_stores_figures_that_the_lesson_can_show(executed, home, monkeypatch):
    executed(lambda seed: {"accuracy": 0.9 + seed / 50, "baseline": 0.5})
    monkeypatch.setattr("sys.argv", ["runs", "04", "--seeds", "2"])
    runs.main()
    entry = data.manifest()["runs/04.json"]
    stored = json.loads((home / "data/runs/04.json").read_text())
    assert stored["claims"] == [
        {"cell": "04-001", "claim": "found[name] < 2", "holds_by": [1.1, 1.08]},
    ]
    assert (
        entry["rebuild"] == "make seeds L=04"
        and entry["bytes"] == (home / "data/runs/04.json").stat().st_size
    )
    table = runs.table("04")
    assert list(table.rows) == [
        ("accuracy", "0.91 ± 0.01", "0.90", "0.92"),
        ("baseline", "0.50 ± 0.00", "0.50", "0.50"),
    ]
    assert "2 seeds" in repr(table) and "<table" in table._repr_html_()
    assert [row[0] for row in runs.table("04", "baseline").rows] == ["baseline"]
    with pytest.raises(
        KeyError, match="no stored figure 'speed' for lesson 04; there are: accuracy, baseline"
    ):
        runs.table("04", "speed")


def command(monkeypatch, *arguments: str, cpu: str = "this one") -> None:
    """`python -m mmscratch.kit.runs 04 --seeds 2 ...` on a machine of that name."""
    machine = {"cpu": cpu, "threads": 1, "torch": "2"}
    monkeypatch.setattr("mmscratch.kit.bench.machine", lambda threads: machine)
    monkeypatch.setattr("sys.argv", ["runs", "04", "--seeds", "2", *arguments])
    runs.main()


def test_what_another_machine_found_stands_beside_what_the_lesson_shows(executed, home, monkeypatch):
    with pytest.raises(SystemExit, match="run it without --again"):
        command(monkeypatch, "--again")
    executed(lambda seed: {"accuracy": 0.8 + seed / 50})
    command(monkeypatch)
    with pytest.raises(SystemExit, match="another machine than the first, got this one again"):
        command(monkeypatch, "--again")
    executed(lambda seed: {"accuracy": 0.9 + seed / 50})
    command(monkeypatch, "--again", cpu="another")
    stored = json.loads((home / "data/runs/04.json").read_text())
    assert (stored["machine"]["cpu"], stored["figures"]) == ("this one", {"accuracy": [0.8, 0.82]})
    again = stored["again"]
    assert (again["machine"]["cpu"], again["figures"]) == ("another", {"accuracy": [0.9, 0.92]})
    assert data.manifest()["runs/04.json"]["rebuild"].endswith("runs 04 --again")
    assert runs.table("04").rows[0][1] == "0.81 ± 0.01"
    assert [claim["holds_by"] for claim in runs.claims(stored)] == [[1.2, 1.18, 1.1, 1.08]]
    command(monkeypatch)  # a new first run: what stood beside the old one is gone
    assert "again" not in json.loads((home / "data/runs/04.json").read_text())


@pytest.mark.parametrize("other", [["--kept"], ["--first", "5"]])
def test_another_machine_repeats_the_stored_seeds_and_nothing_else(monkeypatch, capsys, other):
    with pytest.raises(SystemExit):
        command(monkeypatch, "--again", *other)
    assert "neither --kept nor --first" in capsys.readouterr().err


def test_claims_of_one_machine_alone_are_kept_too():
    one, other = ({"cell": "a", "claim": text, "holds_by": [1.0]} for text in ("x < 1", "y < 1"))
    assert runs.claims({"claims": [one], "again": {"claims": [other]}}) == [one, other]
    assert runs.claims({"figures": {}}) == []


def test_while_figures_are_being_measured_the_table_is_empty(home, monkeypatch):
    monkeypatch.setenv("MMSCRATCH_RECORD", str(home / "record.json"))
    assert list(runs.table("04").rows) == []


def test_a_lesson_without_stored_figures_is_named(home):
    (home / "data" / "manifest.json").write_text('{"files": {}}')
    with pytest.raises(ValueError, match="runs/07.json"):
        runs.table("07")


STORED = sorted(Path(name).stem for name in data.manifest() if name.startswith("runs/"))


@pytest.mark.parametrize("name", [name for name in STORED if not name.isdigit()])
def test_a_kept_measurement_is_read_by_its_lesson(name):
    source = project.find_notebook(name.split("_")[0]).read_text(encoding="utf-8")
    assert "runs.kept(" in source and name in source


@pytest.mark.parametrize("number", [name for name in STORED if name.isdigit()])
def test_stored_figures_are_complete(number):
    stored = json.loads(data.path(f"runs/{number}.json").read_text())
    assert stored["seeds"] >= 5
    assert all(len(values) == stored["seeds"] for values in stored["figures"].values())
    for found in (stored, stored.get("again", {})):
        for claim in found.get("claims", ()):
            assert len(claim["holds_by"]) == found["seeds"] and min(claim["holds_by"]) >= 0
    if "again" in stored:
        again = stored["again"]
        assert again["figures"].keys() == stored["figures"].keys() and again["machine"]["cpu"]
        assert all(len(values) == again["seeds"] for values in again["figures"].values())
    source = project.find_notebook(number).read_text(encoding="utf-8")
    assert "runs.record(" in source


# -- long measurements


def test_a_long_measurement_runs_only_when_asked_and_is_read_back_as_it_was_stored(home, monkeypatch):
    (home / "data" / "manifest.json").write_text(json.dumps({"files": {}}))
    monkeypatch.setenv("MMSCRATCH_DATA_DIR", str(home / "data"))
    monkeypatch.setattr(data, "_checkout", lambda: home / "data")
    with pytest.raises(FileNotFoundError, match="python -m mmscratch.kit.runs 10 --kept"):
        runs.kept("10_scale", lambda: pytest.fail("measured without being asked"))
    monkeypatch.setenv("MMSCRATCH_KEEP", "07")
    with pytest.raises(FileNotFoundError):
        runs.kept("10_scale", lambda: pytest.fail("another lesson was asked"))
    monkeypatch.setenv("MMSCRATCH_KEEP", "10")
    measured = runs.kept("10_scale", lambda: {"rows": [(1, 0.5)]})
    monkeypatch.delenv("MMSCRATCH_KEEP")
    assert runs.kept("10_scale", lambda: None) == measured == {"rows": [[1, 0.5]]}


def test_the_command_repeats_the_long_measurements_of_its_lesson(home, monkeypatch):
    (home / "notebooks" / "10_other.ipynb").touch()
    asked = []
    monkeypatch.setattr(lesson, "execute", lambda path, **options: asked.append((path.name, options["env"])))
    monkeypatch.setattr("sys.argv", ["runs", "10", "--kept"])
    runs.main()
    assert asked == [("10_other.ipynb", {"MMSCRATCH_KEEP": "10"})]
