"""A repository of notebooks in an empty folder, for tests of the tools that read and write notebooks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mmscratch.kit import clean, project


def code(source: str, *tags: str, **metadata: Any) -> Any:
    """A code cell."""
    return new_code_cell(source, metadata={**metadata, **({"tags": list(tags)} if tags else {})})


def text(source: str, **metadata: Any) -> Any:
    """A Markdown cell."""
    return new_markdown_cell(source, metadata=metadata)


class Tree:
    """A repository with the folders and the settings of ours, and no lesson."""

    def __init__(self, path: Path):
        self.path = path
        for folder in ("notebooks", "mmscratch", "book", "data"):
            (path / folder).mkdir()
        shutil.copy(project.require_root() / "pyproject.toml", path)

    def notebook(self, name: str, cells: Sequence[Any] = (), *, tidy: bool = True, **lesson: Any) -> Path:
        """Write `notebooks/NAME.ipynb` with a title before `cells`; `lesson` overrides its metadata."""
        facts = {
            "number": name[:2],
            "module": name[3:],
            "kind": "Build",
            "minutes": 40,
            "prerequisites": [],
            "reference": ["torch.nn.Linear"],
            "builds": "a thing",
            "objectives": ["see", "build", "measure"],
            **lesson,
        }
        title = text(f"# Title of {name}\n\nYou will have built a thing.")
        path = self.path / "notebooks" / f"{name}.ipynb"
        notebook = new_notebook(cells=[title, *cells], metadata={"lesson": facts})
        path.write_text(clean.to_text(clean.clean(path, notebook) if tidy else notebook), encoding="utf-8")
        return path

    def module(self, name: str) -> Path:
        """Path of a collected module."""
        return self.path / "mmscratch" / f"{name}.py"

    def index(self, lessons: str) -> None:
        """Write `book/lessons.yml` with one part; `lessons` is the YAML list of its lessons."""
        part = f"parts:\n- title: See\n  tagline: pixels become tokens\n  lessons: {lessons}\n"
        (self.path / "book" / "lessons.yml").write_text(part, encoding="utf-8")
