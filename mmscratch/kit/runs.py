"""Seeds and stored runs: the same notebook under several seeds, and what it measured.

A lesson calls `seed()` once and `record(name, value)` for every figure it concludes something from.
`python -m mmscratch.kit.runs 04 --seeds 5` executes it under seeds 0 to 4 and writes `data/runs/04.json`,
which `table("04")` shows in the lesson.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from pathlib import Path


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
        figures = json.loads(path.read_text()) if path.exists() else {}
        if name in figures:
            raise ValueError(f"recorded twice in one run: {name!r}")
        path.write_text(json.dumps({**figures, name: float(value)}))
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
    stored = json.loads(data.path(f"runs/{lesson}.json").read_text())
    figures = stored["figures"]
    missing = [name for name in names if name not in figures]
    if missing:
        raise KeyError(
            f"no stored figure {missing[0]!r} for lesson {lesson}; there are: {', '.join(figures)}"
        )
    chosen = {name: figures[name] for name in names or figures}
    rows = [(name, summarise(v), f"{min(v):.2f}", f"{max(v):.2f}") for name, v in chosen.items()]
    return Table(columns, rows, f"Lesson {lesson} under {stored['seeds']} seeds.")


def sweep(lesson: str, seeds: int) -> dict[str, list[float]]:
    """Execute the lesson's notebook once per seed and collect what it recorded."""
    from mmscratch.kit import lesson as runner
    from mmscratch.kit import project

    figures: dict[str, list[float]] = {}
    for value in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "record.json")
            environment = {"MMSCRATCH_SEED": str(value), "MMSCRATCH_RECORD": str(target)}
            runner.execute(project.find_notebook(lesson), env=environment, threads=os.cpu_count() or 1)
            found = json.loads(target.read_text()) if target.exists() else {}
        if not found:
            raise ValueError(f"lesson {lesson} recorded nothing; it needs runs.record(name, value)")
        if figures and found.keys() != figures.keys():
            raise ValueError(f"seed {value} recorded {sorted(found)}, seed 0 recorded {sorted(figures)}")
        for name, figure in found.items():
            figures.setdefault(name, []).append(round(figure, 4))
        print(f"seed {value}: " + ", ".join(f"{name} {figure:.3f}" for name, figure in found.items()))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lesson", help="number of the lesson, such as 04")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    from mmscratch.kit import make_data, project

    figures = sweep(options.lesson, options.seeds)
    target = project.require_root() / "data" / "runs" / f"{options.lesson}.json"
    project.write_text(target, json.dumps({"seeds": options.seeds, "figures": figures}, indent=1) + "\n")
    make_data.register(
        target, licence="CC-BY-4.0", origin="measured by this book", rebuild=f"make seeds L={options.lesson}"
    )


if __name__ == "__main__":
    main()
