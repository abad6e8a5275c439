"""A part of a lesson: those statements of its notebook that lead to one of them, and no others.

What a notebook trains can so be trained outside it, with the notebook's own code, in a moment's preparation.
"""

from __future__ import annotations

import ast
import dis
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmscratch.kit import project


def _loads(code: types.CodeType) -> set[str]:
    own = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_NAME", "LOAD_GLOBAL")}
    return own.union(*(_loads(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@dataclass(frozen=True)
class Statement:
    """One statement at the top level of a notebook."""

    tree: ast.stmt
    file: str = "lesson"

    @cached_property
    def code(self) -> types.CodeType:
        return compile(ast.Module([self.tree], []), self.file, "exec")

    @cached_property
    def loads(self) -> set[str]:
        """Names of the notebook that it uses, also inside the functions it defines; not what a loop's own
        head gives a value."""
        loaded = _loads(self.code)
        if isinstance(self.tree, ast.For):
            loaded = loaded - _names(self.tree.target) | _names(self.tree.iter) & loaded
        return loaded

    @cached_property
    def binds(self) -> set[str]:
        """Names of the notebook that it gives a value."""
        return {step.argval for step in dis.get_instructions(self.code) if step.opname == "STORE_NAME"}

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """Every call in it, with what is called as the code says it: "runs.record"."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node


def parse(source: str, file: str = "lesson") -> list[Statement]:
    return [Statement(tree, file) for tree in ast.parse(source).body]


def statements(notebook: Path) -> list[Statement]:
    """All statements of a notebook's code cells, in order."""
    cells = [cell.source for cell in project.read_notebook(notebook).cells if cell.cell_type == "code"]
    return [statement for source in cells for statement in parse(source, notebook.name)]


def leading_to(last: Statement, before: Sequence[Statement]) -> list[Statement]:
    """The statements of `before` that `last` rests on, in order, and `last`.

    A function may use a name bound after its own. What only changes an object in place is not found.
    """
    late: set[str] = set()
    while True:
        wanted, kept = last.loads | late, [last]
        for statement in reversed(before):
            if statement.binds & wanted:
                kept.insert(0, statement)
                wanted = wanted - statement.binds | statement.loads
        later = wanted & set().union(*(statement.binds for statement in before))
        if later <= late:
            return kept
        late |= later
