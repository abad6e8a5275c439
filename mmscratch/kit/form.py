"""The form of a lesson, checked without running it: landmarks, pace, figures, checks, exercises, quiz, links.

    python -m mmscratch.kit.form [notebook ...]

The bands are measured on books that engineers read; they keep a lesson readable, not long. Cells that the
page folds away (`hide-input`, `solution`) and the set-up cell do not count towards pace: a reader passes by.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import statistics
import sys
import tokenize
from pathlib import Path
from typing import Any

from mmscratch.kit import project
from mmscratch.kit.figures import VEGALITE_MIME
from mmscratch.kit.quiz import QUIZ_MIME

LANDMARKS = {  # cell metadata `landmark` on the heading's cell: (usual heading, what belongs there)
    "problem": ("The problem", "One concrete input and today's wrong or missing answer, run."),
    "by-hand": ("By hand", "Numbers small enough to read: one element with a loop, then all at once, equal."),
    "from-scratch": ("From scratch", "Equation, then the module with its symbols; after each piece, use it."),
    "same-as-the-library": ("Same as the library", "Weights mapped over; outputs and gradients compared."),
    "train": ("Train it", "What you expect; the run; held-out metric beside a baseline that could win."),
    "look-inside": ("Look inside", "Something to touch, with numbers of the model just trained."),
    "break-it": ("Break it", "One change that makes it fail, measured, and why."),
    "at-work": ("At work", "When to choose it, what it costs, what changed since the paper."),
    "summary": ("Summary", "Five sentences worth remembering."),
    "exercises": ("Exercises", "Easy, medium, hard; each with a folded solution that asserts."),
    "quiz": ("Quiz", "Four to six questions about this lesson."),
    "key-terms": ("Key terms", "Each linked to the glossary."),
    "references": ("References", "Primary papers first."),
}
TAGS = {"export", "hide-input", "solution", "diagram", "property", "nbval-check-output", "raises-exception"}
TAGS |= {"colab", "remove-cell"}

BANDS: dict[str, tuple[float, float]] = {  # measure: (smallest, largest)
    "median code lines of a cell": (1, 8),
    "90th percentile of code lines of a cell": (1, 25),
    "code lines of the longest cell": (1, 40),
    "plotting lines in a cell that is not folded": (0, 8),
    "words": (1800, 4000),
    "code lines": (150, 400),
    "words per code line": (5, 14),
    "share of code cells led by prose": (0.85, 1),
    "longest run of code cells": (1, 2),
    "share of code cells with an output": (0.6, 1),
    "diagrams": (1, math.inf),
    "figures from outputs": (3, math.inf),
    "live figures": (1, math.inf),
    "checks": (8, math.inf),
    "parity checks": (1, math.inf),
    "property checks": (2, math.inf),
    "objectives": (3, 4),
    "solved exercises": (3, math.inf),
    "quiz questions": (4, 6),
    "glossary links in the key terms": (3, math.inf),
    "seconds to run": (0, 90),
    "kB without live figures": (0, 1000),
}

_FOLDED = {"hide-input", "solution", "colab", "remove-cell"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)[^)]*\)")
_CODE = re.compile(r"(?<!`)(`{1,2})(?!`).+?(?<!`)\1(?!`)")
_MYST = {
    "a directive": re.compile(r"^\s*(?:`{3,}|~{3,}|:{3,})\s*\{[\w:+-]+\}", re.MULTILINE),
    "a role": re.compile(r"\{[\w:+-]+\}`code`"),
    "a label": re.compile(r"^\([\w-]+\)=\s*$", re.MULTILINE),
}
_PLOTTING = re.compile(r"\b(?:plt|ax|axes|axis|fig|figure)\b(?:\[[^\]]*\])?\.")


def code_lines(source: str) -> list[str]:
    """Lines with code: blank lines, comments and docstrings, which are prose, left out."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            prose.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    layout = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {n for t in tokens if t.type not in layout for n in range(t.start[0], t.end[0] + 1)}
    return [line for number, line in enumerate(source.splitlines(), 1) if number in code - prose]


def words(markdown: str) -> int:
    """Words of prose: code blocks and addresses left out, a formula counts as one word."""
    text = re.sub(r"^\s*```.*?^\s*```", " ", markdown, flags=re.MULTILINE | re.DOTALL)
    text = _LINK.sub(r"\2", re.sub(r"\$\$.+?\$\$|\$[^$\n]+\$", " formula ", text, flags=re.DOTALL))
    return len(re.findall(r"\w[\w'’.,-]*", text))


def checks(source: str) -> tuple[int, int]:
    """(all checks that can fail, those of them that compare with a library, outputs and gradients)."""
    plain = parity = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rsplit(".", 1)[-1]
            plain += name.startswith("assert_")
            parity += name == "check" and not node.args  # of a kit.reference.Comparison
        plain += isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant)
    return plain + parity, parity


def _section(notebook: Any, landmark: str) -> list[Any]:
    """The cells from a landmark's heading to the next landmark."""
    found: list[Any] = []
    for cell in notebook.cells:
        here = cell.metadata.get("landmark")
        if here == landmark or (found and here is None):
            found.append(cell)
        elif found:
            break
    return found


def _mime(cell: Any, prefix: str) -> list[Any]:
    data = [output.get("data", {}) for output in cell.get("outputs", ())]
    return [bundle[mime] for bundle in data for mime in bundle if mime.startswith(prefix)]


def measure(notebook: Any) -> dict[str, float]:
    """The numbers that `BANDS` bounds, as far as the notebook itself has them (not its time and size)."""
    told = [
        cell for cell in notebook.cells if cell.cell_type == "markdown" or not project.tags(cell) & _FOLDED
    ]
    pace = [cell for cell in told if cell.cell_type == "code"]
    shown = [
        c for c in notebook.cells if c.cell_type == "code" and not project.tags(c) & {"solution", "colab"}
    ]
    lengths = sorted(len(code_lines(cell.source)) for cell in pace) or [0]
    run = longest_run = led = 0
    for before, cell in zip([None, *told], told, strict=False):
        run = run + 1 if cell.cell_type == "code" else 0
        longest_run = max(longest_run, run)
        led += run == 1 and before is not None
    total_words = sum(words(cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    counted = [checks(cell.source) for cell in shown]
    pictures = [cell for cell in shown if _mime(cell, "image/")]
    diagrams = [c for c in pictures if "diagram" in project.tags(c) or _mime(c, "image/svg")]
    drawn = sum(
        bool(mark) for c in told if c.cell_type == "markdown" for mark, _, _ in _LINK.findall(c.source)
    )
    solutions = [cell for cell in _section(notebook, "exercises") if "solution" in project.tags(cell)]
    quiz = [data for cell in _section(notebook, "quiz") for data in _mime(cell, QUIZ_MIME)]
    terms = _LINK.findall("\n".join(cell.source for cell in _section(notebook, "key-terms")))
    return {
        "median code lines of a cell": statistics.median(lengths),
        "90th percentile of code lines of a cell": lengths[math.ceil(0.9 * len(lengths)) - 1],
        "code lines of the longest cell": lengths[-1],
        "plotting lines in a cell that is not folded": max(
            (sum(bool(_PLOTTING.search(line)) for line in code_lines(cell.source)) for cell in pace),
            default=0,
        ),
        "words": total_words,
        "code lines": sum(lengths),
        "words per code line": round(total_words / max(1, sum(lengths)), 1),
        "share of code cells led by prose": round(led / max(1, len(pace)), 2),
        "longest run of code cells": longest_run,
        "share of code cells with an output": round(
            sum(bool(c.outputs) for c in shown) / max(1, len(shown)), 2
        ),
        "diagrams": len(diagrams) + drawn,
        "figures from outputs": len(pictures) - len(diagrams),
        "live figures": sum(len(_mime(cell, VEGALITE_MIME)) for cell in shown),
        "checks": sum(number for number, _ in counted),
        "parity checks": sum(number for _, number in counted),
        "property checks": sum(
            number
            for cell, (number, _) in zip(shown, counted, strict=True)
            if "property" in project.tags(cell)
        ),
        "objectives": len(notebook.metadata.get("lesson", {}).get("objectives", ())),
        "solved exercises": sum(checks(cell.source)[0] > 0 for cell in solutions if cell.cell_type == "code"),
        "quiz questions": sum(len(data["questions"]) for data in quiz),
        "glossary links in the key terms": sum("glossary.md#term-" in target for _, _, target in terms),
    }


def _run_problems(notebook: Any) -> list[str]:
    """What a stored run must not have: gaps in the numbers, errors, noise on stderr."""
    found, count = [], 0
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        where, count = project.cell_name(notebook, index), count + 1
        if cell.execution_count != count:
            found.append(
                f"{where}: execution count is {cell.execution_count}, expected {count}; run `make lesson`"
            )
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed != ("raises-exception" in project.tags(cell)):
            found.append(
                f"{where}: {'stored an error' if failed else 'is tagged raises-exception, stored no error'}"
            )
        if any(output.get("name") == "stderr" for output in cell.outputs):
            found.append(f"{where}: stored output on stderr")
    return found


def _figure_problems(notebook: Any, number: str) -> list[str]:
    """Every picture and live figure needs a description, a caption and a name of its own."""
    found: list[str] = []
    names: list[str] = []
    for index, cell in enumerate(notebook.cells):
        where = project.cell_name(notebook, index)
        figures = []  # (name, caption, alt)
        if pictures := _mime(cell, "image/"):
            book = cell.metadata.get("mystnb", {})
            figure = book.get("figure", {})
            figures.append((figure.get("name"), figure.get("caption"), book.get("image", {}).get("alt")))
            if len(pictures) > 1:
                found.append(f"{where}: {len(pictures)} pictures under one caption; draw them in one figure")
        for spec in _mime(cell, VEGALITE_MIME):
            own = spec.get("usermeta", {}).get("mmscratch", {})
            figures.append((own.get("name"), own.get("caption"), spec.get("description")))
        for name, *texts in figures:
            names.append(name)
            if not str(name).startswith(f"fig-{number}-"):
                found.append(f"{where}: figure name {name!r}, expected one that starts with 'fig-{number}-'")
            for kind, text in zip(("caption", "alt text"), texts, strict=True):
                if len(str(text or "").split()) < 4:
                    found.append(f"{where}: figure {name} has no {kind} worth reading: {text!r}")
        if cell.cell_type == "markdown":
            found += [
                f"{where}: picture {t} has no alt text"
                for mark, alt, t in _LINK.findall(cell.source)
                if mark and not alt
            ]
    found += [
        f"figure name {name} is used twice"
        for name in sorted({n for n in names if names.count(n) > 1}, key=str)
    ]
    return found


def _text_problems(path: Path, notebook: Any) -> list[str]:
    """Landmarks, tags, dead links and markup that only the site would understand."""
    found = []
    order = [cell.metadata["landmark"] for cell in notebook.cells if "landmark" in cell.metadata]
    if order != list(LANDMARKS):
        missing = [name for name in LANDMARKS if name not in order]
        problem = f"missing {', '.join(missing)}" if missing else f"found {', '.join(order)}"
        found.append(f"landmarks (cell metadata `landmark`), each once and in order: {problem}")
    title = notebook.cells[0].source.splitlines() if notebook.cells else []
    if len([line for line in title if line.strip()]) != 2:
        found.append(
            "the first cell must hold the title and one sentence that says what the reader will have built"
        )
    for index, cell in enumerate(notebook.cells):
        where = project.cell_name(notebook, index)
        if unknown := sorted(project.tags(cell) - TAGS):
            found.append(f"{where}: unknown tag {', '.join(unknown)}; known: {', '.join(sorted(TAGS))}")
        if "landmark" in cell.metadata and not cell.source.startswith("#"):
            found.append(f"{where}: a landmark belongs to a heading")
        if cell.cell_type == "markdown":
            text = _CODE.sub("`code`", cell.source)
            raw = [kind for kind, pattern in _MYST.items() if pattern.search(text)]
            found += [f"{where}: {kind} of MyST, which JupyterLab and Colab show raw" for kind in raw]
            for _, _, target in _LINK.findall(text):
                local = target.split("#")[0]
                if local and ":" not in local and not (path.parent / local).exists():
                    found.append(f"{where}: link to {target}, which does not exist")
    exercises = " ".join(cell.source for cell in _section(notebook, "exercises")).lower()
    found += [
        f"exercises: none is called {level}" for level in ("easy", "medium", "hard") if level not in exercises
    ]
    return found


def problems(path: Path) -> list[str]:
    """Everything in which the lesson at `path` departs from the guide, a line each; none when finished."""
    try:
        notebook = project.read_notebook(path)
        facts = project.lesson_metadata(path, notebook)
    except ValueError as error:
        return [str(error)]
    tree, number = path.resolve().parents[1], facts["number"]
    found = [*_text_problems(path, notebook), *_run_problems(notebook), *_figure_problems(notebook, number)]
    measures = measure(notebook)
    live = sum(len(json.dumps(spec)) for cell in notebook.cells for spec in _mime(cell, VEGALITE_MIME))
    measures["kB without live figures"] = round((path.stat().st_size - live) / 1000)
    runs = tree / "book" / "_data" / "lesson_runs.json"
    run = json.loads(runs.read_text(encoding="utf-8")).get(number) if runs.is_file() else None
    if run is None:
        found.append("its time is not measured; run `make lesson`")
    else:
        measures["seconds to run"] = run["seconds"]
    for name, value in measures.items():
        low, high = BANDS[name]
        if not low <= value <= high:
            band = f"at least {low}" if value < low else f"at most {high}"
            found.append(f"{name}: {value:g}, expected {band}")
    toc = tree / "_toc.yml"
    if toc.is_file() and not re.search(rf"\bnotebooks/{path.stem}\b", toc.read_text(encoding="utf-8")):
        found.append(f"_toc.yml does not list notebooks/{path.stem}")
    return found


def main(arguments: list[str]) -> int:
    bad = False
    for path in [Path(argument) for argument in arguments] or project.notebooks():
        for problem in problems(path):
            bad = True
            print(f"{path.name}: {problem}")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
