"""Run a lesson in a fresh kernel and store it, or begin a new one.

    python -m mmscratch.kit.lesson 04 [--threads 1] [--timeout 600] [--time | --again]
    python -m mmscratch.kit.lesson new 07 clip [--module clip]

A stored lesson is one clean run from the first cell to the last. A run that fails leaves the notebook alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmscratch.kit import clean, export, form, project
from mmscratch.kit.project import Refused

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class LessonFailed(RuntimeError):
    """A cell failed. The message names notebook, cell and error, and shows the lines that it came from."""


@dataclass(frozen=True)
class Run:
    """An executed notebook, the seconds that each of its code cells took, by index in `notebook.cells`, and
    the CPU seconds of its kernel, imports and all (0 where the system does not say)."""

    notebook: Any
    seconds: dict[int, float]
    cpu: float = 0.0


def _cpu_of_children() -> float:
    """CPU seconds of the processes that this one started and that have ended."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def environment(threads: int = 1) -> dict[str, str]:
    """Variables under which lessons are stored and tested: a fixed number of threads, no progress bars."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MMSCRATCH_PROGRESS": "off",
        "PYTHONHASHSEED": "0",  # sets of strings print in one order
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning of the kernel's debugger
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",  # the libraries' own bars, which become widgets where ipywidgets is installed
    }


def _client(notebook: Any, cwd: Path, timeout: int, sockets: str) -> Any:
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class ThisPython(KernelSpecManager):
        """A kernel of the Python that runs us, whatever kernels the user has registered elsewhere."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    # over TCP the kernel warns on stderr that its messages are not encrypted
    private = {} if os.name == "nt" else {"transport": "ipc", "ip": f"{sockets}/kernel"}
    manager = AsyncKernelManager(kernel_spec_manager=ThisPython(), **private)
    settings = {"timeout": timeout, "record_timing": False, "resources": {"metadata": {"path": str(cwd)}}}
    return NotebookClient(notebook, km=manager, **settings)


def execute(
    path: Path,
    *,
    env: Mapping[str, str] | None = None,
    threads: int = 1,
    timeout: int = 600,
    notebook: Any = None,
) -> Run:
    """Run the notebook at `path` (or `notebook` in its place) in a fresh kernel, in the notebook's folder.

    `env`: variables on top of `environment(threads)`, such as MMSCRATCH_SEED. `timeout`: seconds for a cell.
    Stores nothing. Raises LessonFailed.
    """
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = project.read_notebook(path) if notebook is None else notebook
    # of kit.runs and kit.checkpoints; left over, they would change what is stored
    own = ("MMSCRATCH_SEED", "MMSCRATCH_RECORD", "MMSCRATCH_CHECKPOINTS", "MMSCRATCH_KEEP")
    inherited = {key: value for key, value in os.environ.items() if key not in own}
    seconds: dict[int, float] = {}
    before = _cpu_of_children()
    with tempfile.TemporaryDirectory() as sockets, contextlib.ExitStack() as stack:
        client = _client(notebook, path.resolve().parent, timeout, sockets)
        settings = {**inherited, **environment(threads), **(env or {})}
        # nbclient leaves a kernel alive whose manager it was given, unless told otherwise
        stack.enter_context(client.setup_kernel(env=settings, cleanup_kc=True))
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            where = f"{path.name}, {project.cell_name(notebook, index)}"
            start = time.perf_counter()
            try:
                client.execute_cell(cell, index, execution_count=len(seconds) + 1)
            except CellExecutionError as error:
                frames = [
                    line for line in _ANSI.sub("", error.traceback).splitlines() if re.match(r"-+> ?\d", line)
                ]
                trail = "".join(f"\n    {frame}" for frame in frames)
                raise LessonFailed(f"{where} failed: {error.ename}: {error.evalue}{trail}") from None
            except CellTimeoutError:
                raise LessonFailed(f"{where} ran longer than {timeout} s") from None
            except DeadKernelError:
                raise LessonFailed(f"{where} ended the kernel (out of memory?)") from None
            seconds[index] = time.perf_counter() - start
            failed = any(output.output_type == "error" for output in cell.outputs)
            if "raises-exception" in project.tags(cell) and not failed:
                raise LessonFailed(f"{where} is tagged `raises-exception`, but nothing was raised")
    return Run(notebook, seconds, _cpu_of_children() - before)


def store(
    path: Path, *, threads: int = 1, timeout: int = 600, outputs: bool = True, again: bool = False
) -> Run:
    """Export the lesson, run it, store it clean and note its time in `book/_data/lesson_runs.json`.

    With `outputs` False the time alone is stored, and the notebook stays as it is. With `again` it stays too,
    and the time of this machine goes beside that of the first, until the lesson is stored anew. Raises
    LessonFailed, or Refused where there is no first time or the notebook changed; then nothing is stored.
    """
    from mmscratch.kit import bench

    tree, number = path.resolve().parents[1], path.name[:2]
    runs_file = tree / "book" / "_data" / "lesson_runs.json"

    def noted() -> dict[str, Any]:
        return json.loads(runs_file.read_text(encoding="utf-8")) if runs_file.is_file() else {}

    if again and number not in noted():
        raise Refused(f"expected a first time of lesson {number} in {runs_file}: run it without --again")
    before = path.read_text(encoding="utf-8")
    draft = project.read_notebook(path)
    for cell in draft.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    draft = clean.clean(path, draft)
    export.export([path], tree=tree)
    run = execute(path, threads=threads, timeout=timeout, notebook=draft)
    text = clean.to_text(clean.clean(path, run.notebook))
    if path.read_text(encoding="utf-8") != before:
        raise Refused(f"{path.name} was edited while it ran; the run is not stored, run it again")
    if outputs and not again:
        project.write_text(path, text)
    total = max(1, round(sum(run.seconds.values())))
    facts = {"cells": len(run.seconds), "seconds": total, "threads": threads}
    facts |= {"machine": bench.machine(threads)} | ({"cpu": max(1, round(run.cpu))} if run.cpu else {})
    with project.exclusive(tree):  # two lessons may be stored at once
        runs = noted()
        if again:
            runs[number]["again"] = facts
        else:
            kept = {} if outputs else runs.get(number, {})
            runs[number] = facts | ({"again": kept["again"]} if "again" in kept else {})
        project.write_text(runs_file, json.dumps(runs, indent=2, sort_keys=True) + "\n")
    return run


def skeleton(
    number: str, name: str, module: str, *, title: str = "", kind: str = "Build", builds: str = ""
) -> Any:
    """A new lesson: the guide's landmarks in order, one exported function, nothing run yet."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    title = title or name.replace("_", " ").capitalize()
    cells = [new_markdown_cell(f"# {title}\n\nOne sentence: what you will have built.")]
    code = {
        "from-scratch": new_code_cell(
            f'def {module}() -> None:\n    """One sentence, shapes and units, errors, source."""',
            metadata={"tags": ["export"]},
        )
    }
    for landmark, (heading, hint) in form.LANDMARKS.items():
        cells.append(new_markdown_cell(f"## {heading}\n\n{hint}", metadata={"landmark": landmark}))
        cells += [code[landmark]] if landmark in code else []
    facts = {
        "number": number,
        "module": module,
        "kind": kind,
        "minutes": 40,
        "prerequisites": [],
        "reference": ["the library's class"],
        "builds": builds or "one line: what the reader will have built",
        "objectives": ["three or four", "each", "testable"],
    }
    return new_notebook(cells=cells, metadata={"lesson": facts})


def new(number: str, name: str, module: str = "", *, tree: Path | None = None) -> Path:
    """Write the skeleton of lesson `number` to `notebooks/NN_name.ipynb`, with the facts planned for it.

    Raises Refused if the number has a notebook already.
    """
    import yaml

    tree = tree or project.require_root()
    path = tree / "notebooks" / f"{number}_{name}.ipynb"
    if taken := [other.name for other in project.notebooks(tree) if other.name.startswith(number)]:
        raise Refused(f"lesson {number} exists: notebooks/{taken[0]}")
    if not project.NOTEBOOK_NAME.fullmatch(path.stem):
        raise Refused(f"a lesson is called by two digits and a name like any_resolution, got {path.stem!r}")
    planned: dict[str, str] = {}
    if (index := tree / "book" / "lessons.yml").is_file():
        for part in yaml.safe_load(index.read_text(encoding="utf-8"))["parts"]:
            planned |= next((dict(entry) for entry in part["lessons"] if entry["name"] == path.stem), {})
    planned.pop("name", None)
    draft = skeleton(number, name, module or name, **planned)
    project.write_text(path, clean.to_text(clean.clean(path, draft)))
    return path


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m mmscratch.kit.lesson", description=__doc__.split("\n")[0]
    )
    try:
        if arguments[:1] == ["new"]:
            parser.add_argument("number", type=lambda text: text.zfill(2))
            parser.add_argument("name")
            parser.add_argument("--module", default="", help="default: the name")
            options = parser.parse_args(arguments[1:])
            path = new(options.number, options.name, options.module)
            print(
                f"wrote notebooks/{path.name}; in book/lessons.yml keep only its name, list it in _toc.yml,"
            )
            print(f"write the lesson and store it with `make lesson L={options.number}`")
            return 0
        parser.add_argument(
            "number", type=lambda text: text.zfill(2), help="of the lesson; or: new NUMBER NAME"
        )
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--timeout", type=int, default=600, metavar="SECONDS", help="for one cell")
        only = parser.add_mutually_exclusive_group()
        only.add_argument("--time", action="store_true", help="store the time alone, no outputs")
        only.add_argument(
            "--again", action="store_true", help="the time on another machine, beside the first"
        )
        options = parser.parse_args(arguments)
        path = project.find_notebook(options.number)
        how = dict(outputs=not options.time, again=options.again)
        run = store(path, threads=options.threads, timeout=options.timeout, **how)
    except (FileNotFoundError, LessonFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path.name}: {len(run.seconds)} cells in {sum(run.seconds.values()):.1f} s, stored; slowest:")
    for index in sorted(run.seconds, key=run.seconds.__getitem__, reverse=True)[:5]:
        print(f"  {run.seconds[index]:6.1f} s  {project.cell_name(run.notebook, index)}")
    if problems := form.problems(path):
        print("not yet as the guide wants it:", *problems, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
