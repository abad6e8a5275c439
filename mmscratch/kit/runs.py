"""Seeds and stored runs: the same notebook under several seeds, and what it measured.

A lesson calls `seed()` once and `record(name, value)` for every figure it concludes something from.
`python -m mmscratch.kit.runs 04 --seeds 5` executes it under seeds 0 to 4 and writes `data/runs/04.json`:
the figures, which `table("04")` shows in the lesson, and how far every assertion was from failing
(`kit.margins`). With `--again`, on another machine, what came out there is stored beside it, until a new
first run drops it. A measurement too long for a lesson goes through `kept(name, measure)` and is repeated by
`python -m mmscratch.kit.runs 10 --kept`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def seed(default: int = 0) -> int:
    """Seed torch and return the seed: `default`, or MMSCRATCH_SEED where a sweep sets it."""
    import torch

    value = int(os.environ.get("MMSCRATCH_SEED", default))
    torch.manual_seed(value)
    return value


def record(name: str, value: float) -> float:
    """Note a measured figure under `name` (kept only while a sweep runs) and hand it back."""
    if not math.isfinite(value):
        raise ValueError(f"expected a finite figure for {name!r}, got {value}")
    target = os.environ.get("MMSCRATCH_RECORD")
    if target:
        path = Path(target)
        figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if name in figures:
            raise ValueError(f"recorded twice in one run: {name!r}")
        path.write_text(json.dumps({**figures, name: float(value)}), encoding="utf-8")
    return value


def summarise(values: list[float]) -> str:
    """Mean and half-width of the range, as printed in tables: '0.97 ± 0.01'."""
    spread = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


def table(lesson: str, *names: str):
    """The stored figures of a lesson, all of them or the named ones, as a table to display.

    KeyError names what there is.
    """
    from mmscratch.kit import data
    from mmscratch.kit.reference import Table

    columns = ("measured", "mean ± half the range", "lowest", "highest")
    if os.environ.get("MMSCRATCH_RECORD") or os.environ.get("MMSCRATCH_CHECKPOINTS"):  # not measured yet
        return Table(columns, [])
    stored = json.loads(data.path(f"runs/{lesson}.json").read_text(encoding="utf-8"))
    figures = stored["figures"]
    missing = [name for name in names if name not in figures]
    if missing:
        raise KeyError(
            f"no stored figure {missing[0]!r} for lesson {lesson}; there are: {', '.join(figures)}"
        )
    chosen = {name: figures[name] for name in names or figures}
    rows = [(name, summarise(v), f"{min(v):.2f}", f"{max(v):.2f}") for name, v in chosen.items()]
    return Table(columns, rows, f"Lesson {lesson} under {stored['seeds']} seeds.")


def kept(name: str, measure: Callable[[], Any]) -> Any:
    """What `measure()` returned when it last ran, from `data/runs/<name>.json`: for what takes minutes.

    `name` starts with the lesson's number, such as "10_scale". `measure` runs, and its result (lists, dicts,
    texts and numbers) is stored, only under `python -m mmscratch.kit.runs 10 --kept`. FileNotFoundError,
    with that command, when it never ran.
    """
    from mmscratch.kit import data, make_data, project

    command = f"python -m mmscratch.kit.runs {name.split('_')[0]} --kept"
    if os.environ.get("MMSCRATCH_KEEP") == name.split("_")[0]:
        result = measure()
        target = project.require_root() / "data" / "runs" / f"{name}.json"
        project.write_text(target, json.dumps(result, indent=1) + "\n")
        make_data.register(target, licence="CC-BY-4.0", origin="measured by this book", rebuild=command)
        return json.loads(json.dumps(result))  # as every later run reads it
    if f"runs/{name}.json" not in data.manifest():
        raise FileNotFoundError(f"{name} was never measured: run {command}")
    return json.loads(data.path(f"runs/{name}.json").read_text(encoding="utf-8"))


def sweep(
    lesson: str, seeds: int, first: int = 0, threads: int | None = None
) -> tuple[dict[str, list[float]], list[dict[str, Any]]]:
    """Execute the lesson's notebook once per seed, from `first` on, and collect what it recorded, and by how
    much its claims held (`cell`, `claim`, `holds_by`): those that every seed came to."""
    from mmscratch.kit import lesson as runner
    from mmscratch.kit import margins, project

    path, threads = project.find_notebook(lesson), threads or os.cpu_count() or 1
    instrumented = margins.instrument(project.read_notebook(path))
    figures: dict[str, list[float]] = {}
    distances: list[dict[tuple[str, str], float]] = []
    for value in range(first, first + seeds):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "record.json")
            environment = {"MMSCRATCH_SEED": str(value), "MMSCRATCH_RECORD": str(target)}
            runner.execute(path, env=environment, threads=threads, notebook=copy.deepcopy(instrumented))
            distances.append(margins.noted(target))
            found = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
        if not found:
            raise ValueError(f"lesson {lesson} recorded nothing; it needs runs.record(name, value)")
        if figures and found.keys() != figures.keys():
            raise ValueError(
                f"seed {value} recorded {sorted(found)}, seed {first} recorded {sorted(figures)}"
            )
        for name, figure in found.items():
            figures.setdefault(name, []).append(round(figure, 4))
        print(f"seed {value}: " + ", ".join(f"{name} {figure:.3f}" for name, figure in found.items()))
    claims = [
        {"cell": key[0], "claim": key[1], "holds_by": [float(f"{found[key]:.4g}") for found in distances]}
        for key in distances[0]
        if all(key in found for found in distances)
    ]
    return figures, claims


def claims(stored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The measured claims of a stored sweep, those of another machine behind its own, seed by seed."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for claim in (*stored.get("claims", ()), *stored.get("again", {}).get("claims", ())):
        known = found.setdefault((claim["cell"], claim["claim"]), {**claim, "holds_by": []})
        known["holds_by"] = [*known["holds_by"], *claim["holds_by"]]
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lesson", help="number of the lesson, such as 04")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--kept", action="store_true", help="repeat the long measurements, in place of the seeds"
    )
    parser.add_argument(
        "--again", action="store_true", help="on another machine: store beside what the lesson shows"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="the first seed; where it is not 0, nothing is stored"
    )
    parser.add_argument("--threads", type=int, help="of each run; default: all")
    options = parser.parse_args()
    if options.again and (options.kept or options.first):
        parser.error("--again goes with neither --kept nor --first")
    from mmscratch.kit import bench, lesson, make_data, project

    target = project.require_root() / "data" / "runs" / f"{options.lesson}.json"
    machine = bench.machine(options.threads or os.cpu_count() or 1)
    if options.again:
        if not target.is_file():
            raise SystemExit(f"expected the figures of a first machine in {target}: run it without --again")
        first = json.loads(target.read_text(encoding="utf-8"))
        if first.get("machine", {}).get("cpu") == machine["cpu"]:
            raise SystemExit(f"expected another machine than the first, got {machine['cpu']} again")
    if options.kept:
        path = project.find_notebook(options.lesson)
        lesson.execute(path, env={"MMSCRATCH_KEEP": options.lesson}, timeout=3600)
        return
    figures, measured = sweep(options.lesson, options.seeds, options.first, options.threads)
    print(f"{len(measured)} claims measured")
    if options.first:  # other seeds than the stored ones: every assertion of the lesson held
        return
    stored = {"seeds": options.seeds, "machine": machine, "figures": figures, "claims": measured}
    rebuild = f"make seeds L={options.lesson}"
    if options.again:
        stored = {**first, "again": stored}
        rebuild += f"; elsewhere: python -m mmscratch.kit.runs {options.lesson} --again"
    project.write_text(target, json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    make_data.register(target, licence="CC-BY-4.0", origin="measured by this book", rebuild=rebuild)


if __name__ == "__main__":
    main()
