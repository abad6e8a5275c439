import json
import os

import pytest
from notebook_tree import code, text

from mmscratch.kit import clean, export, form, lesson, project
from mmscratch.kit.lesson import LessonFailed
from mmscratch.kit.project import Refused

CELLS = [
    text("Numbers."),
    code("import os\nimport sys\nimport torch\ntorch.randn(3, generator=torch.Generator().manual_seed(0))"),
    text("Noise of every kind."),
    code("sys.stderr.write('\\r 50%|##  | 1/2 [00:00<00:00, 9it/s]')\nprint(object(), flush=True)\nprint(2)"),
    text("A picture, a set, a failure, where and how it ran."),
    code("import matplotlib.pyplot as plt\n\nplt.plot([1, 2]);"),
    code("raise KeyError('x')", "raises-exception"),
    code("print({'a', 'b'}, os.getcwd()[-9:], torch.get_num_threads(), os.environ['MMSCRATCH_PROGRESS'])"),
    code("def f():\n    return 1", "export"),
]


def test_a_second_run_changes_no_byte(tree):
    path = tree.notebook("04_vit", CELLS, tidy=False)
    lesson.store(path)
    first = path.read_bytes()
    run = lesson.store(path)
    assert path.read_bytes() == first
    outputs = {
        cell.source: cell.outputs for cell in project.read_notebook(path).cells if cell.cell_type == "code"
    }
    assert outputs[CELLS[-2].source][0].text.endswith("notebooks 1 off\n")
    assert clean.clean_files([path], check=True) == []
    assert "def f()" in tree.module("vit").read_text()
    assert len(run.seconds) == 7 and all(seconds > 0 for seconds in run.seconds.values())
    noted = json.loads((tree.path / "book" / "_data" / "lesson_runs.json").read_text())
    seconds, cpu = max(1, round(sum(run.seconds.values()))), max(1, round(run.cpu))
    assert noted["04"].pop("machine")["threads"] == 1
    assert noted == {"04": {"cells": 7, "cpu": cpu, "seconds": seconds, "threads": 1}}
    assert 0.1 < run.cpu < 60


def test_a_run_for_its_time_alone_leaves_the_notebook_as_it_is(tree, capsys, monkeypatch):
    path = tree.notebook("04_vit", [code("print(1)")], tidy=False)
    before = path.read_bytes()
    monkeypatch.setattr(project, "root", lambda: tree.path)
    assert lesson.main(["4", "--time"]) == 0
    assert path.read_bytes() == before
    noted = json.loads((tree.path / "book" / "_data" / "lesson_runs.json").read_text())
    assert noted["04"]["cells"] >= 1 and noted["04"]["cpu"] >= 1


def test_a_time_on_another_machine_stands_beside_the_first(tree, monkeypatch, capsys):
    path = tree.notebook("04_vit", [code("print(1)")], tidy=False)
    before, runs = path.read_bytes(), tree.path / "book" / "_data" / "lesson_runs.json"
    monkeypatch.setattr(project, "root", lambda: tree.path)
    assert lesson.main(["4", "--again"]) == 1 and "run it without --again" in capsys.readouterr().err
    runs.parent.mkdir(parents=True, exist_ok=True)
    runs.write_text(json.dumps({"04": {"cells": 1, "seconds": 58, "threads": 2}}))
    assert lesson.main(["4", "--again"]) == 0
    noted = json.loads(runs.read_text())["04"]
    assert path.read_bytes() == before and noted["seconds"] == 58
    assert noted["again"]["machine"]["cpu"] and noted["again"]["seconds"] >= 1
    assert lesson.main(["4", "--time"]) == 0
    timed = json.loads(runs.read_text())["04"]
    assert timed["again"] == noted["again"] and timed["seconds"] < 58
    lesson.store(path)  # other outputs: nothing is known of the other machine
    assert "again" not in json.loads(runs.read_text())["04"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            code("accuracy = 0.31\nassert accuracy > 0.9, f'{accuracy} is low'"),
            "Error: 0.31 is low\n.*> 2 assert",
        ),
        (code("import warnings\nwarnings.warn('slow')"), "wrote to stderr: .*UserWarning: slow"),
        (code("x = 1", "raises-exception"), "tagged `raises-exception`, but nothing was raised"),
        (code("import time\ntime.sleep(60)"), "ran longer than 1 s"),
        (code("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), "ended the kernel"),
    ],
)
def test_a_failed_run_names_the_cell_and_leaves_the_notebook_alone(tree, cell, message):
    path = tree.notebook("04_vit", [text("Do."), cell])
    before = path.read_bytes()
    with pytest.raises((LessonFailed, Refused), match=rf"(?s)04_vit\.ipynb, cell \[2\] .*{message}"):
        lesson.store(path, timeout=1 if "sleep" in cell.source else 60)
    assert path.read_bytes() == before
    assert not (tree.path / "book" / "_data").exists()


def test_an_edit_made_during_the_run_is_not_overwritten(tree, monkeypatch):
    path = tree.notebook("04_vit", [code("1")])

    def execute(path, notebook, **options):
        path.write_text(path.read_text().replace("built a thing", "built two things"))
        return lesson.Run(notebook, {1: 0.1})

    monkeypatch.setattr(lesson, "execute", execute)
    with pytest.raises(Refused, match="edited while it ran"):
        lesson.store(path)
    assert "built two things" in path.read_text()


def test_a_run_takes_variables_but_inherits_no_seed(tree, monkeypatch):
    monkeypatch.setenv("MMSCRATCH_SEED", "99")
    source = "import os\nprint(os.environ.get('MMSCRATCH_SEED'), os.environ.get('MMSCRATCH_RECORD'))"
    path = tree.notebook("04_vit", [code(source)])
    before = path.read_bytes()
    run = lesson.execute(path, env={"MMSCRATCH_RECORD": "there"})
    assert run.notebook.cells[2].outputs[0].text == "None there\n"
    assert path.read_bytes() == before


def test_the_kernel_has_ended_when_the_run_is_over(tree):
    run = lesson.execute(tree.notebook("04_vit", [code("import os\nprint(os.getpid())")]))
    with pytest.raises(ProcessLookupError):
        os.kill(int(run.notebook.cells[2].outputs[0].text), 0)


def test_a_new_lesson_takes_its_plan_and_is_exported_and_clean(tree):
    tree.index("[{name: 07_clip, title: CLIP, kind: Learn, builds: a dual encoder}]")
    path = lesson.new("07", "clip", tree=tree.path)
    facts = project.lesson_metadata(path)
    assert (facts["title"], facts["kind"], facts["builds"], facts["module"]) == (
        "CLIP",
        "Learn",
        "a dual encoder",
        "clip",
    )
    assert clean.clean_files([path], check=True) == []
    assert export.export(tree=tree.path).keys() == {"clip"}
    landmarks = [cell.metadata.get("landmark") for cell in project.read_notebook(path).cells]
    assert [name for name in landmarks if name] == list(form.LANDMARKS)
    with pytest.raises(Refused, match="lesson 07 exists: notebooks/07_clip.ipynb"):
        lesson.new("07", "siglip", tree=tree.path)
    with pytest.raises(Refused, match="two digits and a name like"):
        lesson.new("08", "Sig-LIP", tree=tree.path)
