import importlib.util
import subprocess
import sys
import types

import pytest

from mmscratch.kit import colab, project


@pytest.fixture
def pip(monkeypatch):
    """Records what would be run; nothing is installed."""
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: calls.append((command, options)))
    return calls


def run_first_cell():
    exec(colab.first_cell(), {})


def pretend(monkeypatch, *, on_colab: bool, installed: bool):
    if on_colab:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    else:
        monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)


def test_on_colab_the_package_is_installed_from_the_repository(monkeypatch, pip):
    pretend(monkeypatch, on_colab=True, installed=False)
    run_first_cell()
    [(command, options)] = pip
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-1] == f"mmscratch[reference] @ git+{project.repository_url()}"
    assert options == {"check": True}  # a failed installation stops the notebook here, not ten cells later


@pytest.mark.parametrize(("on_colab", "installed"), [(True, True), (False, True), (False, False)])
def test_anywhere_else_nothing_happens(monkeypatch, pip, on_colab, installed):
    pretend(monkeypatch, on_colab=on_colab, installed=installed)
    run_first_cell()
    assert pip == []


def test_launch_address(monkeypatch):
    monkeypatch.setattr(colab, "repository_url", lambda: "https://github.com/owner/book")
    assert colab.launch_url("notebooks/04_vit.ipynb") == (
        "https://colab.research.google.com/github/owner/book/blob/main/notebooks/04_vit.ipynb"
    )
    monkeypatch.setattr(colab, "repository_url", lambda: "https://example.org/book")
    with pytest.raises(ValueError, match="example.org"):
        colab.launch_url("notebooks/04_vit.ipynb")
