"""By how much the assertions of a lesson hold under each of its stored seeds.

A sweep over seeds executes a copy of the notebook in which `instrument` has put `compared` in the place of
every comparison that an assertion makes: it compares as before and notes by how much. `margins` reads those
distances beside the notebook. Where a lesson was swept before distances were noted, it puts the figures that
the lesson recorded (`runs.record("test accuracy", accuracy)`) into its assertions (`assert accuracy > 0.9`).
What has no distance (equality, flags, texts) is left alone.
"""

from __future__ import annotations

import ast
import copy
import json
import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS = {"min": min, "max": max, "abs": abs}
_COMPARISONS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "is": operator.is_,
    "is not": operator.is_not,
    "in": lambda a, b: a in b,
    "not in": lambda a, b: a not in b,
}
_SYMBOLS = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


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

    @property
    def varies(self) -> bool:
        """Whether another seed makes a difference: by more than a hundredth of the largest distance."""
        return max(self.values) - min(self.values) > 0.01 * max(map(abs, self.values))


def margins(
    notebook: Mapping[str, Any],
    figures: Mapping[str, list[float]],
    measured: Sequence[Mapping[str, Any]] = (),
    *,
    elsewhere: bool = False,
) -> list[Margin]:
    """The claims of a notebook that its stored runs decide, in order.

    figures: name -> one for each seed. measured: what a sweep over the instrumented notebook stored, `claim`
    and `holds_by`; of these, only claims that vary between seeds or rest on a figure. A measured claim that
    the notebook makes no longer is passed over. elsewhere: the figures are of other runs than the measured
    claims, so what they decide counts beside them.
    """
    decided = {margin.claim: margin for margin in _decided(notebook, figures)}
    if not measured:
        return list(decided.values())
    stored: dict[str, list[tuple[float, ...]]] = {}
    for each in measured:
        stored.setdefault(each["claim"], []).append(tuple(each["holds_by"]))
    found = []
    for _, claim in claims(notebook):
        known = decided.pop(claim, None)
        if stored.get(claim):  # one claim may stand in two cells: in order
            first = known.values if known and elsewhere else ()
            values = (*first, *stored[claim].pop(0))
            margin = Margin(claim, values, known.figures if known else ())
            found += [margin] if known or margin.varies else []
        elif known:
            found.append(known)
    return found


def _decided(notebook: Mapping[str, Any], figures: Mapping[str, list[float]]) -> list[Margin]:
    trees = list(_code(notebook))
    names = {}
    for tree in trees:
        names |= _recorded(tree, figures)
    found = []
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                found += _claims(node.test, names, figures)
    return found


# ---------------------------------------------------------------------------------------------------------
# Measured while the lesson runs


def instrument(notebook: Mapping[str, Any]) -> Any:
    """A copy of the notebook whose assertions also note their distance to failing. Nothing else differs:
    operands are evaluated once and in order, lines keep their numbers, what fails still fails."""
    instrumented = copy.deepcopy(notebook)
    for cell, source, tests in _asserted(instrumented):
        lines = source.encode().splitlines(keepends=True)
        for test in reversed(tests):  # from the end, so that earlier places stay where they are
            watched = _watched(copy.deepcopy(test), cell.get("id", ""), [])
            if watched is None:
                continue
            first, last = test.lineno - 1, test.end_lineno - 1
            text = f"({ast.unparse(ast.fix_missing_locations(watched))}" + "\n" * (last - first) + ")"
            head, tail = lines[first][: test.col_offset], lines[last][test.end_col_offset :]
            lines[first : last + 1] = (head + text.encode() + tail).splitlines(keepends=True)
        cell["source"] = b"".join(lines).decode()
    return instrumented


def claims(notebook: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Cell and text of every claim that `instrument` would measure, in the notebook's order."""
    found: list[tuple[str, str]] = []
    for cell, _, tests in _asserted(notebook):
        texts: list[str] = []
        for test in tests:
            _watched(copy.deepcopy(test), "", texts)
        found += [(cell.get("id", ""), text) for text in dict.fromkeys(texts)]
    return found


def compared(cell: str, left: Any, *links: tuple[str, str | None, Callable[[], Any]]) -> Any:
    """The value of the comparison `left OP operand() OP ...`, as Python would give it.

    links: the operator, what it claims (None where it has no distance) and the operand, which is evaluated
    only when the links before it hold. While a sweep runs, notes by how much each claim holds.
    """
    for index, (symbol, claim, operand) in enumerate(links):
        right = operand()
        result = _COMPARISONS[symbol](left, right)
        if claim is not None:
            _note(cell, claim, _distance(left, right) if symbol[0] == "<" else _distance(right, left))
        if index == len(links) - 1 or not result:
            return result
        left = right


def noted(record: Path) -> dict[tuple[str, str], float]:
    """Least distance for each cell and claim of the run that kept its figures in `record`."""
    path = _beside(record)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found: dict[tuple[str, str], float] = {}
    for cell, claim, distance in map(json.loads, lines):
        found[cell, claim] = min(distance, found.get((cell, claim), math.inf))
    return found


def _beside(record: Path) -> Path:
    return record.with_name(f"{record.stem}.claims")


_noted: dict[tuple[str, str, str], float] = {}


def _note(cell: str, claim: str, distance: float | None) -> None:
    record = os.environ.get("MMSCRATCH_RECORD")
    if not record or distance is None or distance >= _noted.get((record, cell, claim), math.inf):
        return
    _noted[record, cell, claim] = distance
    with _beside(Path(record)).open("a", encoding="utf-8") as file:
        file.write(json.dumps([cell, claim, distance]) + "\n")


def _distance(low: Any, high: Any) -> float | None:
    """By how much `low` is below `high`, the least of all elements; None where that is no finite number."""
    if isinstance(low, bool) or isinstance(high, bool):
        return None
    try:
        gap = high * 1.0 - low * 1.0  # not in whole numbers, which may have no sign
        gap = gap.detach() if hasattr(gap, "detach") else gap
        gap = float(gap.min() if hasattr(gap, "min") else gap)
    except (TypeError, ValueError, RuntimeError):  # texts, lists, tensors of nothing
        return None
    return gap if math.isfinite(gap) else None


def _asserted(notebook: Mapping[str, Any]) -> Iterator[tuple[Any, str, list[ast.expr]]]:
    """The code cells that assert something, their source, and what they assert; not inside functions, which
    may be sent to other processes."""

    def tests(statements: Sequence[ast.stmt]) -> Iterator[ast.expr]:
        for statement in statements:
            if isinstance(statement, ast.Assert):
                yield statement.test
            elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                for block in ("body", "orelse", "handlers", "finalbody"):
                    yield from tests(getattr(statement, block, ()))

    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        try:
            found = list(tests(ast.parse(source).body))
        except SyntaxError:
            continue
        if found:
            yield cell, source, found


def _watched(
    test: ast.expr, cell: str, found: list[str], wrap: Callable[[str], str] = str
) -> ast.expr | None:
    """`test` with `compared` in the place of its comparisons, whose claims are added to `found`; None where
    there is none to measure. Enters only what fails as soon as one of its comparisons does."""
    scoped = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)  # would mean something else in a lambda
    if any(isinstance(node, scoped) for node in ast.walk(test)):
        return None

    def watch_all(parts: list[ast.expr], wrap: Callable[[str], str] = wrap) -> bool:
        watched = [_watched(part, cell, found, wrap) for part in parts]
        parts[:] = [new or old for new, old in zip(watched, parts, strict=True)]
        return any(watched)

    if isinstance(test, ast.Compare):
        return _watched_comparison(test, cell, found, wrap)
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return test if watch_all(test.values) else None
    if isinstance(test, ast.IfExp):
        branches = [test.body, test.orelse]
        seen = watch_all(branches)
        test.body, test.orelse = branches
        return test if seen else None
    if not isinstance(test, ast.Call) or test.keywords:
        return None
    if isinstance(test.func, ast.Name) and test.func.id == "all" and len(test.args) == 1:
        (argument,) = test.args
        if isinstance(argument, (ast.List, ast.Tuple)):
            return test if watch_all(argument.elts) else None
        if isinstance(argument, (ast.GeneratorExp, ast.ListComp)):
            loops = "".join(map(ast.unparse, argument.generators))
            element = [argument.elt]
            seen = watch_all(element, lambda text: wrap(text + loops))
            argument.elt = element[0]
            return test if seen else None
    if isinstance(test.func, ast.Attribute) and test.func.attr == "all" and not test.args:  # of a tensor
        inner = _watched(test.func.value, cell, found, lambda text: wrap(f"({text}).all()"))
        if inner is not None and isinstance(test.func.value, ast.Compare):
            test.func.value = inner
            return test
    return None


def _watched_comparison(
    test: ast.Compare, cell: str, found: list[str], wrap: Callable[[str], str]
) -> ast.expr | None:
    links, left, measurable = [], test.left, False
    for comparison, right in zip(test.ops, test.comparators, strict=True):
        claim = None
        constant = isinstance(left, ast.Constant) and isinstance(right, ast.Constant)
        if isinstance(comparison, _ORDERS) and not constant:  # 0.3 in `a < 0.1 < 0.3 < b`
            claim, measurable = wrap(_claim(left, comparison, right)), True
            found.append(claim)
        operand = ast.Lambda(ast.arguments([], [], None, [], [], None, []), right)
        parts = [ast.Constant(_SYMBOLS[type(comparison)]), ast.Constant(claim), operand]
        links.append(ast.Tuple(parts, ast.Load()))
        left = right
    here = ast.parse(f"__import__({__name__!r}).kit.margins.compared", mode="eval").body
    return ast.Call(here, [ast.Constant(cell), test.left, *links], []) if measurable else None


def _claim(left: ast.expr, comparison: ast.cmpop, right: ast.expr) -> str:
    strict = ast.Lt() if isinstance(comparison, (ast.Lt, ast.LtE)) else ast.Gt()
    return ast.unparse(ast.Compare(left, [strict], [right]))


# ---------------------------------------------------------------------------------------------------------
# Computed from recorded figures


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
        if not isinstance(comparison, _ORDERS):
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
            values = tuple(round(sign * (a - b), 4) for a, b in values)
            found.append(Margin(_claim(left, comparison, right), values, tuple(sorted(used))))
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
