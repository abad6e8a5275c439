"""Time our modules against the libraries: `python -m mmscratch.kit.bench [--threads 1] [module ...]`.

Runs every `Case` of `tests/parity` marked `bench`, checks parity on the way and keeps the figures in
`data/benchmarks.json`, from where lessons and the ledger page show them. Exits 1 when parity is broken or
ours is more than 5 % slower.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import torch

from mmscratch.kit.project import exclusive, require_root, root, write_text
from mmscratch.kit.reference import Case, Comparison, Table, Timing, at_most, cases

ALLOWED_RATIO = 1.05
KEY = ("primitive", "reference", "case", "device")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks named on the command line; the exit code says whether all is well."""
    parser = argparse.ArgumentParser(
        prog="python -m mmscratch.kit.bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "modules", nargs="*", help="names of files in tests/parity, such as vit (default: all)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--pairs", type=int, default=21, help="interleaved pairs of runs per figure")
    parser.add_argument("--output", type=Path, help="default: data/benchmarks.json")
    options = parser.parse_args(arguments)
    output = options.output or require_root() / "data" / "benchmarks.json"
    torch.set_num_threads(options.threads)

    rows, problems = [], []
    for case in cases(require_root() / "tests" / "parity", options.modules):
        if not case.bench:
            continue
        comparison = case.run(wrong=False, timing=options.pairs, device=options.device)
        if _slow(comparison):  # a busy spell or the truth? three times the sample decides
            comparison = case.run(wrong=False, timing=3 * options.pairs, device=options.device)
        rows.append(row(case, comparison, options.device))
        try:
            comparison.check()
        except AssertionError as error:
            problems.append(f"{case.library}, {error}")
        problems += [f"{case.library}, {case.name}: {problem}" for problem in _slow(comparison)]
        print(f"{case.library}, {case.name}: done", file=sys.stderr)
    save(output, rows, machine(options.threads))
    print(_table(rows))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _slow(comparison: Comparison) -> list[str]:
    timings = {"forward": comparison.forward, "forward and backward": comparison.backward}
    return [
        f"{what} takes {timing.ratio:.2f} of the reference's time, allowed {ALLOWED_RATIO}"
        for what, timing in timings.items()
        if timing is not None and timing.ratio > ALLOWED_RATIO
    ]


def row(case: Case, comparison: Comparison, device: str = "cpu") -> dict:
    """One benchmark as it is stored: differences, time of ours divided by that of the reference, and the
    operations of ours with the fraction that they reach of the machine's rate in matrix products."""
    forward, backward = comparison.forward, comparison.backward
    rate = comparison.matmul_rate

    def fraction(timing: Timing | None) -> float | None:
        found = timing and timing.fraction(rate)
        return found and float(f"{found:.3g}")

    return {
        "primitive": case.primitive,
        "reference": case.library,
        "case": case.name,
        "size": "realistic" if case.bench == "realistic" else "lesson",
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "parameters": comparison.parameters,
        "output": float(f"{comparison.output.absolute:.1e}"),
        "gradient": None if comparison.gradient is None else float(f"{comparison.gradient:.1e}"),
        "forward_ratio": forward and round(forward.ratio, 3),
        "backward_ratio": backward and round(backward.ratio, 3),
        "forward_spread": forward and forward.spread and [round(ratio, 3) for ratio in forward.spread],
        "backward_spread": backward and backward.spread and [round(ratio, 3) for ratio in backward.spread],
        "forward_ms": forward and [round(forward.ours, 2), round(forward.reference, 2)],
        "backward_ms": backward and [round(backward.ours, 2), round(backward.reference, 2)],
        "forward_operations": forward and forward.operations,
        "backward_operations": backward and backward.operations,
        "matmul_gflops": rate and round(rate / 1e9, 1),
        "forward_of_matmul": fraction(forward),
        "backward_of_matmul": fraction(backward),
        "threads": comparison.threads,
    }


def machine(threads: int) -> dict:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else cpu, "threads": threads, "torch": torch.__version__.split("+")[0]}


def save(path: Path, rows: list[dict], machine: dict) -> None:
    """Merge `rows`, measured on `machine`, into the file; a row replaces the one of the same primitive,
    reference, case, device."""
    with exclusive(path.parent):  # two benchmarks may end at once
        kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
        new = [r | {"machine": machine} for r in rows]
        merged = {tuple(r.get(k) for k in KEY): r for r in [*kept, *new]}
        ordered = sorted(merged.values(), key=lambda r: [str(r.get(k)) for k in KEY])
        text = json.dumps({"rows": ordered}, indent=1, ensure_ascii=False) + "\n"
        write_text(path, text)


class Stored(Table):
    """The stored benchmarks of one primitive; `figures` holds the numbers, the display is a table."""

    def __init__(self, rows: list[dict], caption: str):
        shown = _table(rows)
        super().__init__(shown.columns, shown.rows, caption)
        self.figures = rows


def stored(*primitives: str, path: Path | None = None) -> Stored:
    """What `make bench` stored for some primitives (`"vit.VisionTransformer"`), for display in their lesson.

    Raises FileNotFoundError or ValueError, with the command that measures them, when there are none.
    """
    if path is None:  # an installed package carries a copy beside this module
        path = root() / "data" / "benchmarks.json" if root() else Path(__file__).with_name("benchmarks.json")
    command = f"python -m mmscratch.kit.bench {primitives[0].split('.')[0]}"
    if not path.is_file():
        raise FileNotFoundError(f"no benchmarks stored in {path}: run {command}")
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [r for primitive in primitives for r in found["rows"] if r["primitive"] == primitive]
    for primitive in primitives:
        if all(r["primitive"] != primitive for r in rows):
            raise ValueError(f"no benchmarks of {primitive} in {path}: run {command}")
    threads = "/".join(str(n) for n in sorted({r["threads"] for r in rows}))
    machines = dict.fromkeys(f"{r['machine']['cpu']}, torch {r['machine']['torch']}" for r in rows)
    where = f"{'; '.join(machines)}; threads: {threads}"
    return Stored(rows, f"Time of ours divided by theirs ({where}).")


def _table(rows: list[dict]) -> Table:
    def ratio(value):
        return "–" if value is None else f"{value:.2f}"

    shown = []
    for r in rows:
        device = "" if r.get("device", "cpu") == "cpu" else f", {r['device']}"
        shown.append(
            (
                f"{r['reference']}, {r['case']}{device}",
                at_most(r["output"]),
                "–" if r["gradient"] is None else at_most(r["gradient"]),
                ratio(r["forward_ratio"]),
                ratio(r["backward_ratio"]),
            )
        )
    return Table(("reference", "outputs", "gradients", "forward", "forward + backward"), shown)


if __name__ == "__main__":
    sys.exit(main())
