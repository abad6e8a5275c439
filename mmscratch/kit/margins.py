"""By how much the assertions of a lesson hold under each of its stored seeds.

A lesson records figures (`runs.record("test accuracy", accuracy)`) and asserts things about them
(`assert accuracy > 0.9`). `margins` finds both in the notebook's code and puts the stored figures into the
assertions: how far each is from failing, seed by seed. Assertions about anything else are left alone.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS = {"min": min, "max": max, "abs": abs}


@dataclass(frozen=True)
class Margin:
    """`claim`, as the lesson's code says it, the distance to its failing for each seed, and the names of the
    figures that it rests on."""

    claim: str
    values: tuple[float, ...]
    figures: tuple[str, ...] = ()

    @property
    def least(self) -> float:
        return min(self.values)


def margins(notebook: Mapping[str, Any], figures: Mapping[str, list[float]]) -> list[Margin]:
    """The claims of a notebook that its stored figures (name -> one for each seed) decide, in order."""
    trees = list(_code(notebook))
    names = {}
    for tree in trees:
        names |= _recorded(tree, figures)
    found = []
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                found += _claims(node.test, names, figures)
    return list({margin.claim: margin for margin in found}.values())


def _code(notebook: Mapping[str, Any]) -> Iterator[ast.Module]:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            try:
                yield ast.parse("".join(cell["source"]))
            except SyntaxError:  # a magic, or a cell that shows an error
                continue


def _recorded(tree: ast.AST, figures: Mapping[str, list[float]]) -> dict[str, str]:
    """Expression -> name of the figure that holds its value."""
    names: dict[str, str] = {}

    def bind(target: ast.expr, name: ast.expr) -> None:
        if isinstance(name, ast.Constant) and name.value in figures:
            names[ast.unparse(target)] = name.value
        elif isinstance(name, ast.JoinedStr) and isinstance(target, ast.Subscript):
            for figure in figures:  # shape[name] under f"shape, {name}": the key is what the figure says
                for key in _keys(target.slice, name, figure):
                    exact = ast.Subscript(target.value, ast.Constant(key), ast.Load())
                    names[ast.unparse(exact)] = figure

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "runs.record" and len(node.args) == 2:
            bind(node.args[1], node.args[0])
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func) == "runs.record" and len(node.targets) == 1:
                bind(node.targets[0], node.value.args[0])
    return names


def _keys(key: ast.expr, name: ast.JoinedStr, figure: str) -> list[str]:
    """What `key`, a variable that stands once in the f-string `name`, was when it gave `figure`."""
    before, variable, after = "", None, ""
    for part in name.values:
        if isinstance(part, ast.Constant):
            before, after = (before + part.value, after) if variable is None else (before, after + part.value)
        elif variable is None:
            variable = ast.unparse(part.value)
        else:
            return []  # two variables: more than one way to read the name
    fits = figure.startswith(before) and figure.endswith(after) and len(figure) > len(before) + len(after)
    return [figure[len(before) : len(figure) - len(after)]] if variable == ast.unparse(key) and fits else []


def _claims(test: ast.expr, names: Mapping[str, str], figures: Mapping[str, list[float]]) -> list[Margin]:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return [margin for part in test.values for margin in _claims(part, names, figures)]
    if not isinstance(test, ast.Compare):
        return []
    found, sides = [], [test.left, *test.comparators]
    for left, comparison, right in zip(sides, test.ops, sides[1:], strict=False):
        if not isinstance(comparison, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)):
            continue
        seeds = len(next(iter(figures.values())))
        used: set[str] = set()
        try:
            values = [
                (_value(left, seed, names, figures, used), _value(right, seed, names, figures, used))
                for seed in range(seeds)
            ]
        except LookupError:
            continue
        if used:
            sign = 1 if isinstance(comparison, (ast.Gt, ast.GtE)) else -1
            mark = ">" if sign > 0 else "<"
            claim = f"{ast.unparse(left)} {mark} {ast.unparse(right)}"
            values = tuple(round(sign * (a - b), 4) for a, b in values)
            found.append(Margin(claim, values, tuple(sorted(used))))
    return found


def _value(node: ast.expr, seed: int, names: Mapping, figures: Mapping, used: set[str]) -> float:
    """The number that `node` is under one seed; LookupError where the stored figures do not say."""

    def value(part: ast.expr) -> float:
        return _value(part, seed, names, figures, used)

    if (name := names.get(ast.unparse(node))) is not None:
        used.add(name)
        return figures[name][seed]
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.Call) and ast.unparse(node.func) in _FUNCTIONS and not node.keywords:
        if len(node.args) > 1 or ast.unparse(node.func) == "abs":
            return _FUNCTIONS[ast.unparse(node.func)](*map(value, node.args))
    raise LookupError(ast.unparse(node))
