"""The parity ledger: how far each primitive is from its reference, and which mistakes would be noticed.

`python -m mmscratch.kit.ledger` (`make ledger`) runs every case of `tests/parity` with its deliberate
errors, and the configurations that `tests/sweeps` draws, and writes `book/_data/parity.json`, from which the
ledger page is made. It exits 1 when a comparison is out of bounds. `problems` says what is wrong with a
stored ledger: a page with a missing or exceeded row is not built.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmscratch.kit import project
from mmscratch.kit.reference import Case, Comparison, Difference, cases, load

DRAWN = 12  # configurations for each sweep
DIFFERENCES = ("output", "input_gradient", "parameter_gradient")


def stored_path(tree: Path | None = None) -> Path:
    return (tree or project.require_root()) / "book" / "_data" / "parity.json"


# ---------------------------------------------------------------------------------------------------------
# Configurations that nobody chose


def sweeps(folder: Path) -> dict[str, Any]:
    """Name -> strategy of `Case`s, from the `SWEEPS` of the files in `folder` (`tests/sweeps`).

    A sweep is a function (draw, parity) -> Case; `parity` is the file of `tests/parity` of the same name,
    whose builders it uses. It draws whole numbers below a hundred only: among larger ones hypothesis mixes
    constants of whatever modules are loaded, and a ledger must not depend on those.
    """
    from hypothesis import strategies

    found = {}
    for path in sorted(folder.glob("*.py")):
        parity = load(folder.with_name("parity") / path.name)
        for sweep in load(path).SWEEPS:
            found[f"{path.stem}: {sweep.__name__}"] = strategies.composite(sweep)(parity)
    return found


def each(sweep: Any, run: Callable[[Case], None], count: int = DRAWN) -> None:
    """Call `run` on `count` cases drawn from a sweep, the same ones every time; a failure is made small."""
    from hypothesis import HealthCheck, given, settings

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(sweep)
    def drawn(case: Case) -> None:
        run(case)

    drawn()


def drawn(sweep: Any) -> list[Case]:
    """The cases of a sweep, each configuration once."""
    found: dict[str, Case] = {}
    each(sweep, lambda case: found.setdefault(case.name, case) and None)
    return list(found.values())


# ---------------------------------------------------------------------------------------------------------
# Rows


def package(library: str) -> str:
    """The distribution that the class named `library` ("open_clip CLIP") comes from."""
    module = re.split(r"[ .]", library)[0]
    names = importlib.metadata.packages_distributions().get(module)
    if not names:
        raise ModuleNotFoundError(f"{module} is not installed: pip install 'mmscratch[reference]'")
    return names[0]


def digest(found: Iterable[Case]) -> str:
    """Changes with the names, bounds and deliberate errors of the cases, not with their order."""
    lines = sorted(f"{case.name}|{case.bound:g}|{'|'.join(sorted(case.wrong))}" for case in found)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def grouped(found: Iterable[Case]) -> dict[tuple[str, str], list[Case]]:
    """Cases by primitive and reference, in order."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in found:
        groups.setdefault((case.primitive, case.library), []).append(case)
    return groups


def row(written: list[Case], drawn: list[Case], run: Callable[[Case], Comparison] = Case.run) -> dict:
    """One row: all comparisons of one primitive with one class. AssertionError where one is out of bounds."""
    first = written[0]
    name = package(first.library)
    found = [(case, run(case).check()) for case in (*written, *drawn)]
    seen = {_anonymous(tensor) for _, comparison in found for tensor in comparison.seen}
    unseen = {_anonymous(tensor) for _, comparison in found for tensor in comparison.unseen}
    compared = dict.fromkeys(what for _, comparison in found for what in comparison.compared)
    return {
        "primitive": first.primitive,
        "reference": first.library,
        "package": name,
        "version": importlib.metadata.version(name),
        "compared": sorted(compared, key=lambda what: (what.startswith("gradients"), what)),
        "written": len(written),
        "drawn": len(drawn),
        "bound": max(case.bound for case, _ in found),
        **{what: _largest(getattr(comparison, what) for _, comparison in found) for what in DIFFERENCES},
        "of_bound": max(_round(_worst(comparison) / case.bound) for case, comparison in found),
        "unseen": sorted(unseen - seen),
        "mutants": list(_mutants(found)),
        "digest": digest(written),
        "drawn_digest": digest(drawn),
    }


def _round(value: float) -> float:
    return float(f"{value:.1e}")


def _largest(found: Iterable[Difference | None]) -> list[float] | None:
    there = [difference for difference in found if difference is not None]
    if not there:
        return None
    return [_round(max(getattr(each, kind) for each in there)) for kind in ("absolute", "relative")]


def _worst(comparison: Comparison) -> float:
    found = [getattr(comparison, what) for what in DIFFERENCES]
    return max(difference.absolute for difference in found if difference is not None)


def _anonymous(tensor: str) -> str:
    """`layers.3.bias` as `layers.*.bias`: what is true of one layer is asked of all."""
    return re.sub(r"(?<=[._])\d+(?=\.)|^\d+(?=\.)", "*", tensor)


def _mutants(found: list[tuple[Case, Comparison]]) -> Iterator[dict]:
    """Each deliberate error: how often it was tried, and the configuration that shows it least."""
    tried: dict[str, list[tuple[float, str]]] = {}
    for case, comparison in found:
        for variant, difference in comparison.wrong.items():
            tried.setdefault(variant, []).append((difference, case.name))
    for variant, differences in tried.items():
        least, case = min(differences)
        yield {
            "name": variant,
            "tried": len(differences),
            "least": _round(least) if math.isfinite(least) else None,  # another shape, or it broke
            "case": case,
        }


def measure(tree: Path, say: Callable[[str], None] = lambda line: None) -> dict:
    """Run everything; returns what is stored."""
    import torch

    written = grouped(cases(tree / "tests" / "parity"))
    swept: dict[tuple[str, str], list[Case]] = {}
    for sweep in sweeps(tree / "tests" / "sweeps").values():
        for key, found in grouped(drawn(sweep)).items():
            swept.setdefault(key, []).extend(found)
    if unknown := swept.keys() - written.keys():
        raise ValueError(f"sweeps without a case in tests/parity: {sorted(unknown)}")
    rows = []
    for key, found in written.items():
        rows.append(row(found, swept.get(key, [])))
        say(f"{' against '.join(key)}: {len(found)} written, {len(swept.get(key, []))} drawn")
    versions = {name: importlib.metadata.version(name) for name in ("hypothesis", "torch")}
    return {"made_with": versions, "threads": torch.get_num_threads(), "rows": rows}


def problems(ledger: Mapping[str, Any], primitives: Iterable[str] = ()) -> list[str]:
    """What is wrong with a stored ledger, a line each. `primitives`: names that must have a row."""
    lines = []
    for row in ledger["rows"]:
        name = f"{row['primitive']} against {row['reference']}"
        if not row["of_bound"] <= 1:
            lines.append(f"{name}: differs by {row['of_bound']:g} times its bound")
        if not row["written"]:
            lines.append(f"{name}: no configuration was compared")
        if not row["mutants"]:
            lines.append(f"{name}: no deliberate error was tried")
        for mutant in row["mutants"]:
            if mutant["least"] is not None and not mutant["least"] > row["bound"]:
                lines.append(f"{name}: the wrong variant '{mutant['name']}' passes")
    there = {row["primitive"] for row in ledger["rows"]}
    lines += [f"{primitive}: no row" for primitive in primitives if primitive not in there]
    return lines


@functools.cache
def load_stored(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------------------
# What the lessons showed


def recorded(notebook: Mapping[str, Any]) -> list[dict[str, str]]:
    """The comparisons that `compare` and `table` printed in an executed notebook, a dictionary each.

    Keys: name, parameters, outputs, gradients, wrong (the least of the deliberate errors), as printed.
    """
    found: dict[str, dict[str, str]] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            text = "".join(output.get("data", {}).get("text/plain", ""))
            if text.startswith("compared with"):
                for comparison in _printed(text):
                    found.setdefault(comparison["name"], comparison)
    return list(found.values())


def _printed(text: str) -> list[dict[str, str]]:
    head, *rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    if len(head) > 2:
        names = ("name", "parameters", "outputs", "gradients", "wrong")
        return [dict(zip(names, line, strict=True)) for line in rows]
    facts = {name: value for name, value in rows}
    wrong = [value for name, value in rows if name.startswith("wrong on purpose")]
    gradients = [value for name, value in rows if name.startswith("gradients")]
    return [
        {
            "name": head[1],
            "parameters": facts["parameters"],
            "outputs": facts["outputs differ by"],
            "gradients": max(gradients, key=number, default="–"),
            "wrong": min(wrong, key=number, default="–"),
        }
    ]


def number(shown: str) -> float:
    """`≤ 1e-6` as 1e-06; `0` as 0, `∞` as infinity."""
    return math.inf if shown == "∞" else float(shown.lstrip("≤≥ "))


def main() -> int:
    tree = project.require_root()
    try:
        ledger = measure(tree, lambda line: print(line, file=sys.stderr))
    except AssertionError as error:
        print(error, file=sys.stderr)
        return 1
    project.write_text(stored_path(tree), json.dumps(ledger, indent=1, ensure_ascii=False) + "\n")
    mutants = sum(len(row["mutants"]) for row in ledger["rows"])
    total = sum(row["written"] + row["drawn"] for row in ledger["rows"])
    print(f"{len(ledger['rows'])} rows, {total} configurations, {mutants} deliberate errors, all noticed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
