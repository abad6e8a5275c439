"""System packages, and the check that the built site is whole."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mmscratch.kit import pages, project, system


class Machine:
    """A machine with its own PATH, on which no command runs but is noted."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.ran, self.installs, self.sudo_asks = folder, [], (), False
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setattr(subprocess, "run", self._run)
        self.become = lambda user: monkeypatch.setattr(os, "geteuid", lambda: user)
        self.become(1000)

    def has(self, *programs: str) -> None:
        for name in programs:
            (self.folder / name).write_text("#!/bin/sh\n")
            (self.folder / name).chmod(0o755)

    def _run(self, command, **_):
        self.ran.append(" ".join(command))
        if "install" in command:
            self.has(*self.installs)
        return subprocess.CompletedProcess(command, int("true" in command and self.sudo_asks))


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    (tmp_path / "bin").mkdir()
    return Machine(tmp_path / "bin", monkeypatch)


ADVICE = (
    "tesseract is missing (the lessons on OCR). On Debian or Ubuntu: sudo apt-get install tesseract-ocr\n"
)


def test_a_tool_that_is_there_is_found_and_nothing_runs(machine, capsys):
    machine.has("apt-get", "google-chrome")
    assert system.ensure("chromium")
    assert system.find("chromium") == str(machine.folder / "google-chrome")
    assert machine.ran == [] and capsys.readouterr().out == ""


def test_root_installs_what_is_missing_without_questions(machine, capsys):
    machine.has("apt-get")
    machine.become(0)
    machine.installs = ["tesseract"]
    assert system.ensure("tesseract")
    assert machine.ran == [
        "apt-get update -qq",
        "apt-get install -y -qq --no-install-recommends tesseract-ocr",
    ]
    assert capsys.readouterr().out == "Installing tesseract-ocr ...\n"


def test_sudo_is_used_only_where_it_asks_for_no_password(machine, capsys):
    machine.has("apt-get", "sudo")
    machine.installs, machine.sudo_asks = ["tesseract"], True
    assert not system.ensure("tesseract")
    assert machine.ran == ["sudo -n true"] and capsys.readouterr().out == ADVICE
    machine.sudo_asks = False
    assert system.ensure("tesseract")
    assert machine.ran[-1].startswith("sudo -n apt-get install -y")


@pytest.mark.parametrize("programs", [["apt-get"], []], ids=["no permission", "another system"])
def test_without_permission_there_is_one_line_of_advice_and_nothing_runs(machine, capsys, programs):
    machine.has(*programs)
    assert not system.ensure("tesseract")
    assert machine.ran == [] and capsys.readouterr().out == ADVICE


def test_an_installation_that_fails_ends_in_advice(machine, capsys):
    machine.has("apt-get")
    machine.become(0)
    assert not system.ensure("tesseract")
    assert capsys.readouterr().out.endswith(ADVICE)


def test_a_file_of_that_name_in_the_current_folder_is_no_program(machine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tesseract").write_text("a note about OCR")
    assert system.find("tesseract") is None


def test_a_font_is_found_by_its_file(machine, tmp_path, monkeypatch):
    font = tmp_path / "NotoColorEmoji.ttf"
    tool = system.TOOLS["noto-emoji"]._replace(found_by=(str(font),))
    monkeypatch.setitem(system.TOOLS, "noto-emoji", tool)
    assert system.find("noto-emoji") is None
    font.touch()
    assert system.find("noto-emoji") == str(font)


def test_an_unknown_tool_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="expected one of chromium, .*noto-emoji, got 'emacs'"):
        system.ensure("emacs")


def test_the_command_advises_on_each_missing_tool_and_does_not_fail(machine, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["system", "chromium", "tesseract"])
    system.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["chromium", "tesseract"]


# -- pages

TOC = """
format: jb-book
root: index
parts:
  - caption: One
    chapters:
      - file: book/part_1
        sections:
          - file: notebooks/04_thing
      - url: https://example.org
  - caption: Two
    chapters: [{file: book/glossary}]
"""
PAGES = ["index", "book/part_1", "notebooks/04_thing", "book/glossary"]


@pytest.fixture
def site(tmp_path) -> Path:
    """A checkout with a built site of four pages."""
    (tmp_path / "_toc.yml").write_text(TOC)
    for name in PAGES:
        write(tmp_path, name, "<p>word</p> " * 40)
    return tmp_path


def write(root: Path, name: str, article: str) -> None:
    page = root / "_build" / "html" / f"{name}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"<html><nav>{'menu ' * 50}</nav><article>{article}</article></html>")


def test_a_whole_site_has_no_faults_and_says_where_it_is(site, monkeypatch, capsys):
    assert pages.expected(site) == PAGES
    assert pages.faults(site) == []
    monkeypatch.setattr(project, "root", lambda: site)
    monkeypatch.setattr("sys.argv", ["pages"])
    pages.main()
    address = (site / "_build/html/index.html").as_uri()
    assert capsys.readouterr().out == f"4 pages. The book is at {address}\n"
    monkeypatch.setattr("sys.argv", ["pages", "--quiet"])
    pages.main()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", PAGES)
def test_a_missing_page_is_named_and_fails_the_build(site, name, monkeypatch):
    (site / "_build" / "html" / f"{name}.html").unlink()
    monkeypatch.setattr(project, "root", lambda: site)
    with pytest.raises(SystemExit) as stop:
        pages.main()
    assert stop.value.code == f"missing page: _build/html/{name}.html"


@pytest.mark.parametrize(
    ("article", "count"),
    [
        ("", 0),
        ("<h1>Thing</h1> <p>a little text</p>", 4),
        (f"<script>{'code ' * 50}</script><style>{'rule ' * 50}</style><img alt='{'word ' * 50}'>", 0),
    ],
)
def test_menus_scripts_and_attributes_do_not_fill_an_empty_page(site, article, count):
    write(site, "notebooks/04_thing", article)
    assert pages.faults(site) == [f"empty page: _build/html/notebooks/04_thing.html ({count} words)"]


def test_every_fault_is_reported_at_once(site):
    write(site, "index", "")
    (site / "_build/html/book/glossary.html").unlink()
    assert [line.split(":")[0] for line in pages.faults(site)] == ["empty page", "missing page"]
