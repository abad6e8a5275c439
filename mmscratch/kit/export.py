"""Collect the cells tagged `export` of each notebook into the module that its metadata names.

    python -m mmscratch.kit.export [--check] [notebook ...]

An exported cell holds imports, definitions and constants. The module gets those cells in their order, the
imports they use (wherever in the notebook those stand), a sorted `__all__` and the project's formatting.
If any notebook is refused, nothing is written.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import difflib
import re
import subprocess
import symtable
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmscratch.kit import project
from mmscratch.kit.project import Refused

_HEADER = "Collected from notebooks/{} by `make export`: edit the notebook, not this file."
_ORIGIN = re.compile(re.escape(_HEADER).replace(r"\{\}", r"\S+\.ipynb"))
_GIVEN = {*dir(builtins), "__name__", "__file__", "__doc__"}
# Calls that may stand in a constant. Not torch.tensor: a tensor made at import stays on one device for good.
_PURE_CALLS = set(
    """abs bool complex dict enumerate float frozenset int len list max min object property range reversed
    round set sorted str sum tuple zip re.compile partial functools.partial field dataclasses.field namedtuple
    collections.namedtuple NewType TypeVar typing.NewType typing.TypeVar torch.finfo torch.iinfo""".split()
)


class _Cell:
    """A code cell that parses: how to call it, whether it is exported, its syntax tree and names."""

    def __init__(self, name: str, source: str, exported: bool):
        self.name, self.source, self.exported = name, source, exported
        self.tree = ast.parse(source)
        table = symtable.symtable(source, name, "exec")
        symbols = table.get_symbols()
        self.bound = {s.get_name() for s in symbols if s.is_assigned() and not s.is_imported()}
        self.used = {s.get_name() for s in symbols if s.is_referenced()}
        inner = list(table.get_children())
        while inner:
            table = inner.pop()
            self.used |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and s.is_global()}
            inner += table.get_children()

    def patched(self) -> set[str]:
        """Names whose attributes the cell sets, as in `Model.forward = faster`."""
        stored = (
            n for n in ast.walk(self.tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
        )
        return {n.value.id for n in stored if isinstance(n.value, ast.Name)}

    def imports(self) -> Iterator[tuple[str, str, str]]:
        """(bound name, what it is bound to, statement) for each top-level import."""
        for node in self.tree.body:
            for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
                if isinstance(node, ast.Import):
                    target = alias.name if alias.asname else alias.name.split(".")[0]
                    yield alias.asname or target, target, ast.unparse(ast.Import([alias]))
                else:
                    statement = ast.unparse(ast.ImportFrom(node.module, [alias], node.level))
                    yield alias.asname or alias.name, f"{node.module}.{alias.name}", statement

    def without_imports(self) -> str:
        lines, imports = self.source.splitlines(), 0
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
                imports += 1
        text = "\n".join(lines).strip("\n")
        if len(ast.parse(text).body) + imports != len(self.tree.body):
            raise Refused(f"{self.name} has an import and something else on one line")
        return text


def _cells(file: str, notebook: Any) -> Iterator[_Cell]:
    for index, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            name = f"{file}, {project.cell_name(notebook, index)}"
            exported = "export" in project.tags(cell)
            try:
                yield _Cell(name, cell["source"], exported)
            except SyntaxError as error:
                if exported:
                    magic = re.search(r"^\s*[%!?]", cell["source"], re.MULTILINE)
                    problem = "has a magic" if magic else f"is not Python ({error.msg})"
                    raise Refused(f"{name} is exported but {problem}") from None


def _dotted(node: ast.expr) -> str:
    plain = all(isinstance(n, ast.Name | ast.Attribute | ast.Load) for n in ast.walk(node))
    return ast.unparse(node) if plain else ""


def _is_pure(node: ast.AST | None, records: set[str]) -> bool:
    """Whether evaluating the expression has no effect. `records`: dataclasses, which may be called."""
    if node is None or isinstance(node, ast.Lambda):
        return True
    if isinstance(node, ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr):
        return False
    if isinstance(node, ast.Call):
        name, function = _dotted(node.func), node.func
        method_of_text = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Constant)
        if not (name in _PURE_CALLS | records or name.startswith("math.") or method_of_text):
            return False
    return all(_is_pure(child, records) for child in ast.iter_child_nodes(node))


def _effect(node: ast.stmt, records: set[str]) -> str | None:
    """What in the statement has an effect when the module is imported, or None."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(value=ast.Constant()):
            return None
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            for decorator in node.decorator_list:
                call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
                if not _dotted(call.func) or not all(
                    _is_pure(a, records) for a in [*call.args, *call.keywords]
                ):
                    return f"the decorator `@{ast.unparse(decorator)}`"
            if isinstance(node, ast.ClassDef):
                if not all(_is_pure(part, records) for part in [*node.bases, *node.keywords]):
                    return f"the head of class {node.name}"
                return next(filter(None, (_effect(child, records) for child in node.body)), None)
            if all(_is_pure(part, records) for part in [*node.args.defaults, *node.args.kw_defaults]):
                return None
            return f"the default arguments of {node.name}"
        case ast.Assign() | ast.AnnAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stores = [n for target in targets for n in ast.walk(target)]
            plain = all(isinstance(n, ast.Name | ast.Tuple | ast.Store) for n in stores)
            if plain and _is_pure(node.value, records):
                return None
    return f"`{ast.unparse(node).splitlines()[0][:60]}`"


def _defined(node: ast.stmt) -> list[str]:
    """Names that a top-level statement without effects defines (imports left out)."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [n.id for target in targets if target for n in ast.walk(target) if isinstance(n, ast.Name)]


def _check_imports(tree: ast.AST, earlier: set[str], where: str) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            if node.names[0].name == "*":
                raise Refused(f"{where} imports `*`; name what it uses")
            base = "." * node.level + (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            for module in [
                f"mmscratch.{a.name}" if base == "mmscratch" else base or a.name for a in node.names
            ]:
                top, _, rest = module.partition(".")
                if top not in sys.stdlib_module_names | {"torch"} and not (
                    top == "mmscratch" and rest.split(".")[0] in earlier
                ):
                    known = ", ".join(f"mmscratch.{name}" for name in sorted(earlier)) or "none so far"
                    raise Refused(
                        f"{where} imports {module}; a primitive imports torch, the standard library and "
                        f"primitives of earlier lessons ({known})"
                    )


def _definitions(cells: list[_Cell], earlier: set[str]) -> dict[str, _Cell]:
    """Where each exported name is defined. Refuses effects, foreign imports, redefinition and patching."""
    exported = [cell for cell in cells if cell.exported]
    records = {
        node.name
        for cell in exported
        for node in cell.tree.body
        if isinstance(node, ast.ClassDef)
        and re.search("dataclass|NamedTuple", " ".join(map(ast.unparse, node.decorator_list + node.bases)))
    }
    home: dict[str, _Cell] = {}
    for cell in exported:
        _check_imports(cell.tree, earlier, cell.name)
        for node in cell.tree.body:
            if effect := _effect(node, records):
                raise Refused(
                    f"{cell.name} is exported but {effect} has an effect when the module is imported; "
                    "exported cells hold imports, definitions and constants"
                )
            for name in _defined(node):
                if name in home:
                    raise Refused(f"{cell.name} defines `{name}` a second time, after {home[name].name}")
                home[name] = cell
    for cell in cells:
        for name in sorted(home.keys() & (cell.patched() | (set() if cell.exported else cell.bound))):
            raise Refused(
                f"{cell.name} changes `{name}`, which {home[name].name} exports; "
                "exported names are never patched, so give the other thing its own name"
            )
    return home


def _needed_imports(cells: list[_Cell], home: dict[str, _Cell], earlier: set[str]) -> list[str]:
    """The import statements that exported code uses. Refuses names that the module would not have."""
    statements: dict[str, dict[str, str]] = {}  # bound name -> {statement: what it binds}
    for cell in cells:
        for name, target, statement in cell.imports():
            statements.setdefault(name, {})[statement] = target
    needed = {s for found in statements.values() for s in found if s.startswith("from __future__")}
    for cell in (cell for cell in cells if cell.exported):
        for name in sorted(cell.used - _GIVEN | (cell.used & statements.keys())):
            found = statements.get(name, {})
            if name in home and found:
                raise Refused(f"{home[name].name} defines `{name}`, which the notebook also imports")
            if len(set(found.values())) > 1:
                raise Refused(f"{cell.name} uses `{name}`, imported as {' and as '.join(sorted(found))}")
            if not found and name not in home:
                giver = next((other.name for other in cells if name in other.bound), None)
                origin = f"comes from {giver}, which is not exported" if giver else "is defined nowhere"
                raise Refused(f"{cell.name} is exported and uses `{name}`, which {origin}")
            _check_imports(ast.parse("\n".join(found)), earlier, cell.name)
            needed |= found.keys()
    return sorted(needed, key=lambda s: (not s.startswith("from __future__"), s))


def module_source(path: Path, notebook: Any, earlier: set[str]) -> str | None:
    """The module of one notebook, not yet formatted; None where it exports nothing.

    `earlier`: modules of lessons with a lower number. Raises Refused naming notebook and cell.
    """
    facts = project.lesson_metadata(path, notebook)
    cells = list(_cells(path.name, notebook))
    home = _definitions(cells, earlier)
    if not any(cell.exported for cell in cells):
        return None
    title = facts["title"].replace("\\", "\\\\").replace('"', "'").rstrip(".")
    head = [f'"""{title}.\n\n{_HEADER.format(path.name)}\n"""', *_needed_imports(cells, home, earlier)]
    public = sorted(name for name in home if not name.startswith("_"))
    body = [cell.without_imports() for cell in cells if cell.exported]
    return "\n".join([*head, f"\n__all__ = {public!r}\n", *(f"{text}\n\n" for text in body if text)])


def _format(sources: dict[str, str], tree: Path) -> dict[str, str]:
    """The sources (by module) as ruff writes them with the project's settings."""
    settings = ["--no-cache", "--quiet", "--config", str(tree / "pyproject.toml")]
    sort_imports = ["--select", "I", "--fix", "--config", 'lint.isort.known-first-party = ["mmscratch"]']
    with tempfile.TemporaryDirectory() as folder:
        files = {module: Path(folder, f"{module}.py") for module in sources}
        for module, file in files.items():
            file.write_text(sources[module], encoding="utf-8")
        for command in (["check", *sort_imports], ["format"]):
            ruff = [sys.executable, "-m", "ruff", *command, *settings, folder]
            done = subprocess.run(ruff, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"ruff {command[0]} failed: {done.stdout}{done.stderr}")
        return {module: file.read_text(encoding="utf-8") for module, file in files.items()}


def modules(tree: Path, only: Iterable[Path] = ()) -> dict[str, str]:
    """Module -> text, for all notebooks of `tree` or for `only` some.

    Raises Refused with one line for each notebook that is refused. A broken notebook that was not asked for
    does not stop the others.
    """
    chosen = {path.resolve() for path in only} or {path.resolve() for path in project.notebooks(tree)}
    refusals: list[str] = []
    sources: dict[str, str] = {}
    owners: dict[str, str] = {}
    for path in project.notebooks(tree):
        try:
            notebook = project.read_notebook(path)
            module = project.lesson_metadata(path, notebook)["module"]
            if module in owners:
                raise Refused(f"{path.name} and {owners[module]} both name the module {module!r}")
            earlier = set(owners)
            owners[module] = path.name
            written = tree / "mmscratch" / f"{module}.py"
            if written.is_file() and not _ORIGIN.search(written.read_text(encoding="utf-8")):
                raise Refused(
                    f"{path.name} names the module {module!r}, but {written.name} is written by hand"
                )
            if path.resolve() in chosen and (source := module_source(path, notebook, earlier)):
                sources[module] = source
        except ValueError as error:
            if path.resolve() in chosen:
                refusals.append(str(error))
    if refusals:
        raise Refused("\n".join(refusals))
    return _format(sources, tree) if sources else {}


def export(only: Iterable[Path] = (), *, check: bool = False, tree: Path | None = None) -> dict[str, str]:
    """Write the modules that differ and delete orphans, modules whose notebook is gone (`check`: neither).

    Returns module -> difference. Orphans are looked for when `only`, the notebooks to look at, is empty.
    Raises Refused.
    """
    tree, only = tree or project.require_root(), list(only)
    wanted = modules(tree, only)
    differences = {}
    for path in sorted((tree / "mmscratch").glob("*.py")) if not only else ():
        if path.stem not in wanted and _ORIGIN.search(path.read_text(encoding="utf-8")):
            wanted[path.stem] = ""
    for module, text in wanted.items():
        path = tree / "mmscratch" / f"{module}.py"
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text == old:
            continue
        source = f"{path.name} of its notebook" if text else "no notebook names it"
        lines = difflib.unified_diff(
            old.splitlines(True), text.splitlines(True), f"mmscratch/{path.name}", source
        )
        differences[module] = "".join(lines)
        if not check and text:
            project.write_text(path, text)
        elif not check:
            path.unlink()
    return differences


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mmscratch.kit.export", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing, show what differs, fail on any")
    parser.add_argument("notebook", nargs="*", type=Path, help="default: all, and modules of notebooks gone")
    options = parser.parse_args(arguments)
    try:
        differences = export(options.notebook, check=options.check)
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    for module, difference in differences.items():
        print(difference if options.check else f"mmscratch/{module}.py brought up to date")
    return int(options.check and bool(differences))


if __name__ == "__main__":
    sys.exit(main())
