import json

import pytest

from mmscratch.kit import project

PLANNED = "{name: 07_clip, title: CLIP, kind: Build, builds: a dual encoder}"


def test_addresses_and_version_are_those_of_pyproject():
    assert project.root() is not None
    assert project.repository_url().startswith("https://") and not project.repository_url().endswith("/")
    assert project.site_url().endswith("/")
    assert (project.root() / "pyproject.toml").read_text().count(f'"{project.package_version()}"') == 1


def test_addresses_come_from_the_installed_package_where_there_is_no_checkout(monkeypatch):
    here = project.repository_url(), project.site_url(), project.package_version()
    monkeypatch.setattr(project, "root", lambda: None)
    project._project.cache_clear()
    try:
        assert (project.repository_url(), project.site_url(), project.package_version()) == here
        with pytest.raises(FileNotFoundError, match="needs a checkout"):
            project.require_root()
    finally:
        project._project.cache_clear()


def test_lessons_merge_the_index_the_notebooks_and_the_measured_times(tree):
    tree.notebook("04_vit", prerequisites=["01"], reference=["torchvision"], minutes=35)
    one = "{name: 01_modalities, title: Modalities, kind: Learn, builds: tensors}"
    tree.index(f"[{one}, {{name: 04_vit}}, {PLANNED}]")
    (tree.path / "book" / "_data").mkdir()
    (tree.path / "book" / "_data" / "lesson_runs.json").write_text(json.dumps({"04": {"seconds": 58}}))
    first, written, planned = project.lessons(tree.path)
    assert (first.number, first.written, first.seconds, first.module) == ("01", False, None, None)
    assert (written.title, written.seconds, written.minutes) == ("Title of 04_vit", 58, 35)
    assert written.written and written.prerequisites == ("01",) and written.reference == ("torchvision",)
    assert (planned.title, planned.kind, planned.part) == ("CLIP", "Build", 1)
    assert planned.notebook == "notebooks/07_clip.ipynb"
    assert project.parts(tree.path)[0].tagline == "pixels become tokens"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[{name: 04_vit, title: ViT, kind: Build, builds: it}]", "keep its name"),
        ("[{name: 04_vit}, {name: 07_clip}]", "07_clip is planned and needs title, kind and builds"),
        ("[{name: 04_vit}, {name: 07_clip, title: CLIP, kind: Buidl, builds: it}]", "'Buidl' is not one of"),
        ("[{name: 04_vit}, {name: 4_clip}]", "looks like 07_clip, got '4_clip'"),
        ("[{name: 04_vit}, {name: 04_clip, title: C, kind: Build, builds: it}]", "number 04 is used by"),
        (f"[{PLANNED}]", "does not list the notebook 04_vit"),
    ],
)
def test_a_contradictory_index_is_refused(tree, index, message):
    tree.notebook("04_vit")
    tree.index(index)
    with pytest.raises(ValueError, match=message):
        project.lessons(tree.path)


def test_a_prerequisite_must_be_a_lesson_of_the_book(tree):
    tree.notebook("04_vit", prerequisites=["02"])
    tree.index("[{name: 04_vit}]")
    with pytest.raises(ValueError, match=r"prerequisites \['02'\] are not in"):
        project.lessons(tree.path)


PATH = "{title: All, promise: Everything., lessons: %s}"


def test_a_path_is_an_order_of_lessons_or_the_whole_book(tree):
    tree.notebook("04_vit", minutes=35)
    tree.index(f"[{{name: 04_vit}}, {PLANNED}]")
    index = tree.path / "book" / "lessons.yml"
    both = PATH % "all" + ", " + PATH % '["07"]'
    index.write_text(f"{index.read_text()}\npaths: [{both}]\n")
    whole, part = project.paths(tree.path)
    assert whole.whole and [lesson.number for lesson in whole.lessons] == ["04", "07"]
    assert not part.whole and part.lessons[0].title == "CLIP" and part.promise == "Everything."


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (PATH % '["09"]', r"path 'All': no lesson \['09'\]"),
        (PATH % '["07", "04"]', "lessons out of order"),
        (PATH % "[]", "lessons out of order"),
        ("{title: All, lessons: all}", r"a path has title, promise and lessons, got \['lessons', 'title'\]"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(tree, path, message):
    tree.notebook("04_vit")
    tree.index(f"[{{name: 04_vit}}, {PLANNED}]")
    index = tree.path / "book" / "lessons.yml"
    index.write_text(f"{index.read_text()}\npaths: [{path}]\n")
    with pytest.raises(ValueError, match=message):
        project.paths(tree.path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "Tutorial"}, "kind must be one of Learn, Build, Lab, Project, got 'Tutorial'"),
        ({"number": "05"}, "number is '05', the file's name says '04'"),
        ({"minutes": "40"}, "minutes must be int"),
        ({"minutes": True}, "minutes must be int"),
        ({"minutes": -3}, "minutes must be positive"),
        ({"module": "kit"}, "module must be a module name"),
        ({"module": "no-name"}, "module must be a module name"),
        ({"objectives": "see"}, "objectives must be a list of str"),
        ({"reference": [""]}, "reference must be a list of str, not empty"),
        ({"builds": ""}, "builds must be str, not empty"),
        ({"prerequisites": ["07"]}, "numbers of earlier lessons"),
        ({"colour": "red"}, r"missing nothing, unknown \['colour'\]"),
    ],
)
def test_wrong_metadata_is_refused_with_the_notebook_named(tree, wrong, message):
    path = tree.notebook("04_vit", tidy=False, **wrong)
    with pytest.raises(ValueError, match=rf"04_vit\.ipynb: metadata\.lesson.*{message}"):
        project.lesson_metadata(path)


def test_missing_metadata_title_or_json_is_refused(tree):
    path = tree.notebook("04_vit")
    with pytest.raises(ValueError, match="metadata.lesson is missing"):
        project.lesson_metadata(path, {"cells": [], "metadata": {}})
    whole = json.loads(path.read_text())
    with pytest.raises(ValueError, match="starts with the title"):
        project.lesson_metadata(path, {**whole, "cells": whole["cells"][1:]})
    path.write_text("{")
    with pytest.raises(ValueError, match="04_vit.ipynb: not a notebook"):
        project.lesson_metadata(path)


def test_a_lesson_is_found_by_its_number(tree):
    path = tree.notebook("04_vit")
    assert project.find_notebook("04", tree.path) == path
    with pytest.raises(FileNotFoundError, match="no notebook for lesson '05'.*04_vit"):
        project.find_notebook("05", tree.path)


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "kept.txt"
    project.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        project.write_text(path, "new \udc80")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
