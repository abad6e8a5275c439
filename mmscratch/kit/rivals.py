"""Rivals: the library's model, trained as a lesson trains ours, by the lesson's own code.

`python -m mmscratch.kit.rivals 04` (`make rivals L=04`) takes from the notebook the statements that lead to a
figure, runs them as they stand, then again with the library's class in the place of ours, holding the same
first weights, and writes what both reached under each seed to `book/_data/rivals.json`. The entrants are the
`RIVALS` of `tests/rivals/*.py`. `problems` says where ours is worse, `digest` changes with the recipe.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib.metadata
import inspect
import io
import json
import math
import os
import re
import statistics
import sys
import time
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from mmscratch.kit import bench, excerpt, ledger, project, runs, train
from mmscratch.kit.reference import load

SIDES = ("ours", "reference")
SAME_START = 1e-3  # largest difference of the first loss, relative


@dataclass(frozen=True)
class Rival:
    """One training of a lesson, to be repeated with a library's model.

    figure: what the lesson records of it (`runs.record`); better: "higher" or "lower". training: the label of
    its `train.fit`, or its labels; trainings under others are skipped. exchange: name in the notebook -> what
    makes the library's object of ours, called whenever the notebook has given that name a value.
    references: the classes that take part, "timm VisionTransformer". uses: files of `tests/rivals` that make
    them, beside its own.
    """

    lesson: str
    figure: str
    better: str
    ours: str
    references: tuple[str, ...]
    training: str | tuple[str, ...]
    exchange: Mapping[str, Callable[[Any], Any]]
    uses: tuple[str, ...] = ()
    file: Path | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        return self.lesson, self.figure

    @property
    def trainings(self) -> tuple[str, ...]:
        return (self.training,) if isinstance(self.training, str) else self.training


class Adapted(nn.Module):
    """A library's model, called as the lesson calls ours: `call(model, *inputs)`."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.call(self.model, *inputs, **options)


@torch.no_grad()
def start_as(ours: nn.Module, theirs: nn.Module, mapping: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """`theirs` with the weights of `ours`, by the inverse of `mapping` (`from_transformers`).

    `mapping` only moves numbers. So give it a model whose weights are their own addresses, and read where
    each number of ours comes from. ValueError where one of theirs comes from nowhere.
    """
    numbered, count = copy.deepcopy(theirs).double(), 0
    for p in numbered.parameters():
        p.copy_(torch.arange(count, count + p.numel()).view_as(p))
        count += p.numel()
    addresses, flat = mapping(numbered).state_dict(), torch.full((count,), math.nan)
    for name, value in ours.state_dict().items():
        flat[addresses[name].long().flatten()] = value.flatten()
    for (name, p), values in zip(
        theirs.named_parameters(), flat.split([p.numel() for p in theirs.parameters()]), strict=True
    ):
        if values.isnan().any():
            raise ValueError(f"expected a number of ours for each of {name}, some have none")
        p.copy_(values.view_as(p))
    return theirs


def load_renamed(ours: nn.Module, theirs: nn.Module, rules: Mapping[str, str]) -> nn.Module:
    """`theirs` with the weights of `ours`, renamed by `rules` (patterns), loaded strictly.

    Rows may have another shape (a kernel for a flattened patch), but not another order.
    """
    wanted, state = theirs.state_dict(), {}
    for name, value in ours.state_dict().items():
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        there = wanted.get(name, value)
        state[name] = value.view_as(there) if value.shape[:1] == there.shape[:1] else value
    theirs.load_state_dict(state)
    return theirs


# ---------------------------------------------------------------------------------------------------------
# The lesson's own code


class _Claims(ast.NodeTransformer):
    """Takes assertions out: here nothing is claimed, only measured."""

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node)


def recipe(rival: Rival, notebook: Path | None = None) -> list[excerpt.Statement]:
    """The statements of the lesson that lead to the rival's figure, without assertions.

    Among them, though they may give nothing a name: those that train what is exchanged, or with it, those
    that change it (`set_stage(model, 1)`), and those that seed torch. ValueError unless one statement records
    the figure.
    """
    found = excerpt.statements(notebook or project.find_notebook(rival.lesson))
    statements = [excerpt.Statement(_Claims().visit(each.tree), each.file) for each in found]
    says = [_records(statement, rival.figure) for statement in statements]
    if (best := max(says, default=0)) == 0 or says.count(best) > 1:
        many = says.count(best) if best else 0
        raise ValueError(f"lesson {rival.lesson}: {many} statements record {rival.figure!r}, not one")
    before, last = statements[: says.index(best)], statements[says.index(best)]
    kept, teachers, functions = excerpt.leading_to(last, before), {"train.fit"}, {}
    for place, statement in enumerate(before):
        trains = not teachers.isdisjoint(name for name, _ in statement.calls())
        if isinstance(statement.tree, ast.FunctionDef):
            functions[statement.tree.name] = statement.loads
            teachers |= statement.binds if trains else set()
        elif (
            (trains and _uses(statement.loads, functions) & rival.exchange.keys())
            or _changes(statement, rival.exchange.keys())
            or _seeds(statement)
        ):
            kept += excerpt.leading_to(statement, before[:place])
    return [statement for statement in (*before, last) if any(statement is each for each in kept)]


def _uses(names: set[str], functions: Mapping[str, set[str]]) -> set[str]:
    """`names`, and those that the functions among them use."""
    while more := set().union(*(functions.get(name, set()) for name in names)) - names:
        names = names | more
    return names


def _changes(statement: excerpt.Statement, names: Collection[str]) -> bool:
    """Is it a call for its effect: a method of one of `names` or its parts, or a function that is handed one?
    A loop over its parameters is not seen."""
    call = statement.tree.value if isinstance(statement.tree, ast.Expr) else None
    if not isinstance(call, ast.Call) or ast.unparse(call.func) == "print":
        return False
    owner = [call.func.value] if isinstance(call.func, ast.Attribute) else []
    for each in (*owner, *call.args, *(keyword.value for keyword in call.keywords)):
        while isinstance(each, (ast.Attribute, ast.Subscript)):
            each = each.value
        if isinstance(each, ast.Name) and each.id in names:
            return True
    return False


def _seeds(statement: excerpt.Statement) -> bool:
    """Is it `torch.manual_seed(...)`, and nothing else?"""
    tree = statement.tree
    return isinstance(tree, ast.Expr) and ast.unparse(tree).startswith("torch.manual_seed(")


def _records(statement: excerpt.Statement, figure: str) -> int:
    """Letters of the figure's name that the statement says where it records it; 0 where it does not.

    A name may be put together: `f"world: {name}"` says seven of them.
    """
    for called, call in statement.calls():
        if called == "runs.record" and call.args:
            name = call.args[0]
            parts = name.values if isinstance(name, ast.JoinedStr) else [name]
            said = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            pattern = "".join(".+" if part is None else re.escape(part) for part in said)
            if re.fullmatch(pattern, figure):
                return sum(len(part) for part in said if part)
    return 0


def digest(rival: Rival, statements: Sequence[excerpt.Statement]) -> str:
    """Changes when the recipe does: the lesson's statements, `kit.train`, the file of the rival, or what it
    uses of others (and not which rivals stand there).

    Comments, layout and docstrings do not count; every version of Python gives the same.
    """
    trees = [statement.tree for statement in statements]
    trees.append(ast.parse(inspect.getsource(train)))
    if rival.file is not None:
        trees.append(ast.parse(rival.file.read_text(encoding="utf-8")))
        for name in rival.uses:
            used = ast.parse(rival.file.with_name(name).read_text(encoding="utf-8"))
            used.body = [part for part in used.body if not ast.unparse(part).startswith("RIVALS = ")]
            trees.append(used)
    text = "\n".join(map(_canonical, trees))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(node: Any) -> str:
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    for name in ("ctx", "kind", "type_comment", "type_ignores", "type_params"):
        fields.pop(name, None)
    if "body" in fields and isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
        fields["body"] = fields["body"][ast.get_docstring(node, clean=False) is not None :]
    inside = ",".join(f"{name}={_canonical(value)}" for name, value in fields.items())
    return f"{type(node).__name__}({inside})"


# ---------------------------------------------------------------------------------------------------------
# Measuring


@dataclass
class Run:
    """What training left: the figure, CPU seconds of each `train.fit` by label, and the first loss."""

    figure: float = math.nan
    parts: dict[str, float] = field(default_factory=dict)
    start: float = math.nan

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())


def run(rival: Rival, statements: Sequence[excerpt.Statement], seed: int, *, reference: bool) -> Run:
    """Execute the statements under `seed`, with the library's objects in the place of ours if `reference`.

    ValueError where nothing was trained under one of the rival's labels, or the figure was not recorded.
    """
    scope, found = types.ModuleType("a_part_of_the_lesson"), Run()
    sys.modules[scope.__name__] = scope  # dataclasses look their module up
    with _environment(seed), _observed(rival, found):
        for statement in statements:
            exec(statement.code, scope.__dict__)
            for name in (statement.binds & rival.exchange.keys()) if reference else ():
                with torch.random.fork_rng(devices=[]):
                    scope.__dict__[name] = rival.exchange[name](scope.__dict__[name])
    missing = [f"training {label!r}" for label in rival.trainings if label not in found.parts]
    if not math.isfinite(found.figure):
        missing.append(f"figure {rival.figure!r}")
    if missing:
        raise ValueError(f"lesson {rival.lesson}: no {missing[0]} came by")
    return found


@contextlib.contextmanager
def _environment(seed: int) -> Iterator[None]:
    """One thread, the CPU's settings, the seed, nothing printed."""
    threads, values = torch.get_num_threads(), {"MMSCRATCH_SEED": str(seed), "MMSCRATCH_PRESET": "cpu"}
    values["MMSCRATCH_PROGRESS"] = "off"
    with mock.patch.dict(os.environ, values), contextlib.redirect_stdout(io.StringIO()):
        for name in ("MMSCRATCH_RECORD", "MMSCRATCH_CHECKPOINTS", "MMSCRATCH_KEEP"):
            os.environ.pop(name, None)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _observed(rival: Rival, found: Run) -> Iterator[None]:
    """Time the rival's training, skip all others, and catch its figure."""
    fit = train.fit

    def timed(*arguments: Any, label: str = "training", **options: Any) -> train.History:
        if label not in rival.trainings:
            return train.History(label, losses=[math.nan], metric_steps=[0], metrics=[math.nan])
        if label in found.parts:
            raise ValueError(f"lesson {rival.lesson} trains {label!r} twice")
        begun = time.process_time()
        history = fit(*arguments, label=label, **options)
        found.parts[label] = time.process_time() - begun
        found.start = history.losses[0] if len(found.parts) == 1 else found.start
        return history

    def record(name: str, value: float) -> float:
        if name == rival.figure:
            found.figure = float(value)
        return value

    with mock.patch.object(train, "fit", timed), mock.patch.object(runs, "record", record):
        yield


def row(rival: Rival, seeds: int = 5) -> dict[str, Any]:
    """Train both under seeds 0, 1, 2 ... in turn."""
    statements = recipe(rival)
    found: dict[str, list[Run]] = {side: [] for side in SIDES}
    for seed in range(seeds):
        for side in SIDES:
            found[side].append(run(rival, statements, seed, reference=side == "reference"))
            last = found[side][-1]
            print(
                f"{rival.lesson}, seed {seed}, {side}: {last.figure:.4f} in {last.seconds:.1f} s", flush=True
            )
    packages = {name: ledger.package(name) for name in rival.references}
    return {
        "lesson": rival.lesson,
        "figure": rival.figure,
        "better": rival.better,
        "primitive": rival.ours,
        "references": [
            {"class": name, "package": package, "version": importlib.metadata.version(package)}
            for name, package in packages.items()
        ],
        **{
            side: {
                "figure": [round(each.figure, 4) for each in found[side]],
                "seconds": [round(each.seconds, 1) for each in found[side]],
                "start": [round(each.start, 5) for each in found[side]],
            }
            for side in SIDES
        },
        "digest": digest(rival, statements),
        "machine": bench.machine(1),
    }


# ---------------------------------------------------------------------------------------------------------
# What is stored, and what is wrong with it


def stored_path(tree: Path | None = None) -> Path:
    return (tree or project.require_root()) / "book" / "_data" / "rivals.json"


def rivals(folder: Path) -> list[Rival]:
    """The `RIVALS` of the files in `folder` (`tests/rivals`), by lesson."""
    found = []
    for path in sorted(folder.glob("[!_]*.py")):
        for rival in load(path).RIVALS:
            object.__setattr__(rival, "file", path)
            found.append(rival)
    return sorted(found, key=lambda rival: rival.key)


def half_range(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / 2


def lead(row: Mapping[str, Any]) -> float:
    """By how much the mean of ours is better than that of the reference; negative where it is worse."""
    ours, theirs = (statistics.mean(row[side]["figure"]) for side in SIDES)
    return ours - theirs if row["better"] == "higher" else theirs - ours


def problems(stored: Mapping[str, Any]) -> list[str]:
    """One line for each row that does not hold: ours worse by more than half the range that the reference's
    own seeds span, another start, or too few seeds."""
    found = []
    for row in stored["rows"]:
        what, theirs = f"lesson {row['lesson']}, {row['figure']}", row["reference"]["figure"]
        if not lead(row) >= -half_range(theirs):
            allowed = f"half of what the reference's seeds span is {half_range(theirs):.4f}"
            found.append(f"{what}: ours is worse by {-lead(row):.4f}, {allowed}")
        if len(theirs) < 3 or len(theirs) != len(row["ours"]["figure"]):
            found.append(f"{what}: expected three seeds or more of both, got {len(theirs)} of the reference")
        starts = zip(*(row[side]["start"] for side in SIDES), strict=False)
        if not all(math.isclose(a, b, rel_tol=SAME_START) for a, b in starts):
            found.append(f"{what}: the two did not start from the same weights")
    return found


def save(target: Path, row: dict[str, Any], order: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Put the row in the place of that of the same lesson and figure; drop rows that are not in `order`."""
    with project.exclusive(target.parent):
        stored = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {"rows": []}
        rows = {(each["lesson"], each["figure"]): each for each in [*stored["rows"], row]}
        stored = {"rows": [rows[key] for key in order if key in rows]}
        project.write_text(target, json.dumps(stored, indent=1) + "\n")
    return stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", help="numbers such as 04 (default: all that have a rival)")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    tree = project.require_root()
    entrants = rivals(tree / "tests" / "rivals")
    if unknown := set(options.lessons) - {rival.lesson for rival in entrants}:
        raise SystemExit(f"no rivals for {', '.join(sorted(unknown))} in tests/rivals")
    for rival in entrants:
        if not options.lessons or rival.lesson in options.lessons:
            measured = row(rival, options.seeds)
            save(stored_path(tree), measured, [each.key for each in entrants])
            if found := problems({"rows": [measured]}):
                raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
