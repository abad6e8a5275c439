"""From a plain notebook to the source of its page."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from pybtex.database import parse_file
from sphinx.application import Sphinx

from mmscratch.kit import project
from mmscratch.kit.figures import VEGALITE_MIME

COLAB = "https://colab.research.google.com/github/{repository}/blob/main/{notebook}"
KIND_NOTES = {
    "Learn": "mechanism first",
    "Build": "a trained system first",
    "Lab": "an experiment first",
    "Project": "a product first",
}

# what progress.js brings to life; hidden where there are no scripts or nothing can be kept
END = """<div class="lesson-end progress-ui pst-js-only" data-lesson-end="{number}">
<button type="button" class="lesson-button" aria-pressed="false">Mark this lesson as done</button>
<a class="lesson-button is-primary" data-next href="#" hidden>Next</a>
</div>
"""

_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
# a code span (left alone), or a link with its text and its target
_CODE_OR_LINK = re.compile(
    r"(?P<code>(`+)(?!`).+?(?<!`)\2(?!`))|(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)"
)
_GLOSSARY_LINK = re.compile(r"(?:\.\./book/)?glossary\.md#term-([\w-]+)")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s")


def term_slug(term: str) -> str:
    """The anchor of a glossary entry, without its "term-": "CLS token" -> "cls-token", accents folded."""
    plain = unicodedata.normalize("NFKD", term).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


@functools.lru_cache(maxsize=4)
def _glossary(path: Path, _modified: int) -> dict[str, tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = [
        (above, line[2:]) for above, line in zip(lines, lines[1:], strict=False) if line.startswith(": ")
    ]
    return {term_slug(term): (term, definition) for term, definition in pairs}


def glossary_entries(book: Path) -> dict[str, tuple[str, str]]:
    """Slug -> term and definition of every entry of the glossary."""
    path = book / "glossary.md"
    return _glossary(path, path.stat().st_mtime_ns)


def glossary_terms(book: Path) -> dict[str, str]:
    """Slug -> term of every entry of the glossary."""
    return {slug: term for slug, (term, _) in glossary_entries(book).items()}


@functools.lru_cache(maxsize=4)
def _keys(path: Path, _modified: int) -> dict[str, str]:
    entries = parse_file(str(path), bib_format="bibtex").entries
    return {entry.fields["url"]: key for key, entry in entries.items() if "url" in entry.fields}


def citation_keys(book: Path) -> dict[str, str]:
    """Address -> key of every entry of the bibliography that has an address."""
    path = book / "references.bib"
    return _keys(path, path.stat().st_mtime_ns)


class Page:
    """One lesson's notebook on its way to a page. `cells` is changed in place."""

    def __init__(self, notebook: dict[str, Any], lessons: list[project.Lesson], name: str, book: Path):
        self.cells: list[dict[str, Any]] = notebook["cells"]
        self.by_number = {lesson.number: lesson for lesson in lessons}
        self.lesson = next((lesson for lesson in lessons if lesson.name == name), None)
        self.terms = glossary_terms(book)
        self.keys = citation_keys(book)
        self.cited: set[str] = set()

    def transform(self) -> None:
        for cell in self.cells:
            if cell["cell_type"] == "markdown":
                text = "".join(cell["source"])
                cell["source"] = (
                    self.references(text) if text.startswith("## References") else self.links(text)
                )
            elif cell["cell_type"] == "code":
                fold_solution(cell)
                number_live_figure(cell)
        if self.cited and not any("{footbibliography}" in cell["source"] for cell in self.cells):
            self.cells.append(markdown("references", "## References\n\n```{footbibliography}\n```\n"))
        if self.lesson is not None and self.lesson.written:
            title, _, promise = self.cells[0]["source"].partition("\n")
            self.cells[0]["source"] = f"# {self.lesson.number} · {title.removeprefix('# ')}\n{promise}"
            self.cells.insert(1, markdown("header", self.header(self.lesson)))
            self.cells.append(markdown("end", END.format(number=self.lesson.number)))

    def links(self, text: str) -> str:
        """Links to papers become citations, links to the glossary become terms; code is left alone."""
        fence, lines = None, []
        for line in text.split("\n"):
            if match := _FENCE.match(line):
                mark = match[1]
                if fence is None:
                    fence = mark
                elif mark[0] == fence[0] and len(mark) >= len(fence):
                    fence = None
            lines.append(line if fence else _CODE_OR_LINK.sub(self._link, line))
        return "\n".join(lines)

    def _link(self, match: re.Match[str]) -> str:
        if match["code"]:
            return match[0]
        text, target = match["text"], match["target"]
        if key := self.keys.get(target):
            self.cited.add(key)
            return f"{text}{{footcite:p}}`{key}`"
        if slug := _GLOSSARY_LINK.fullmatch(target):
            # an unknown slug stays as it is: Sphinx then warns, and the strict build fails
            return f"{{term}}`{text} <{self.terms.get(slug[1], slug[1])}>`"
        return match[0]

    def references(self, text: str) -> str:
        """The section "References": items that link to papers are left out, as all are printed below."""
        kept, only_here = [], []
        for line in text.split("\n"):
            found = [self.keys[m["target"]] for m in _CODE_OR_LINK.finditer(line) if m["target"] in self.keys]
            if found and _ITEM.match(line):
                only_here += [key for key in found if key not in self.cited and key not in only_here]
            else:
                kept.append(line)
        body = self.links("\n".join(kept)).rstrip()
        self.cited |= set(only_here)
        if only_here:
            body += (
                "\n\n{.further-reading}\nFurther reading: "
                + ", ".join(f"{{footcite:p}}`{key}`" for key in only_here)
                + "."
            )
        return body + ("\n\n```{footbibliography}\n```\n" if self.cited else "\n")

    def header(self, lesson: project.Lesson) -> str:
        """What the notebook's metadata says about the lesson, as MyST."""
        seconds = f"{lesson.seconds} s on a CPU" if lesson.seconds else "not measured yet"
        facts = {
            "Kind": f"{lesson.kind}: {KIND_NOTES[lesson.kind]}",
            "To read": f"{lesson.minutes} minutes",
            "To run": seconds,
            "Builds on": ", ".join(map(self._lesson_link, lesson.prerequisites)) or "nothing",
            "Held against": ", ".join(lesson.reference),
            "Becomes": f"`mmscratch.{lesson.module}`",
        }
        repository = "/".join(project.repository_url().rsplit("/", 2)[1:])
        colab = COLAB.format(repository=repository, notebook=lesson.notebook)
        lines = [":::::{div} lesson-header", "::::{div} lesson-facts"]
        lines += [f"- **{name}** {value}" for name, value in facts.items()]
        lines += ["::::", "::::{div} lesson-objectives", "**After this lesson you can**", ""]
        lines += [f"- {self.links(objective)}" for objective in lesson.objectives]
        state = "Pass the quiz at the end to tick these."  # progress.js says here what the reader has done
        lines += ["", f'<p class="lesson-state progress-ui pst-js-only" data-lesson-state>{state}</p>', ""]
        lines += ["::::", "::::{div} lesson-run"]
        source = f"../_sources/{lesson.notebook}"  # the committed file, which Sphinx copies there
        lines += [
            f"[Open in Colab]({colab}){{.lesson-button}} "
            f'<a class="lesson-button" href="{source}" download>Download the notebook</a> '
            "[Run it on your machine](../book/how_to_read.md#run-it){.lesson-button}",
            "::::",
            ":::::",
        ]
        return "\n".join(lines) + "\n"

    def _lesson_link(self, number: str) -> str:
        lesson = self.by_number[number]
        label = f"{lesson.number} {lesson.title}"
        return f"[{label}]({lesson.name}.ipynb)" if lesson.written else f"{label} (planned)"


def markdown(name: str, text: str) -> dict[str, Any]:
    return {"id": f"page-{name}", "cell_type": "markdown", "metadata": {}, "source": text}


def fold_solution(cell: dict[str, Any]) -> None:
    """A solution is folded with its output, so that an exercise can be tried first."""
    metadata = cell.setdefault("metadata", {})
    tags = metadata.get("tags", [])
    if "solution" in tags:
        metadata["tags"] = [tag for tag in tags if tag != "hide-input"] + ["hide-cell"]
        prompts = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
        metadata["mystnb"] = {**metadata.get("mystnb", {}), **prompts}


def number_live_figure(cell: dict[str, Any]) -> None:
    """Caption and label of a live figure become those of its cell, so that it is numbered like the others."""
    for output in cell.get("outputs", ()):
        spec = output.get("data", {}).get(VEGALITE_MIME)
        if isinstance(spec, dict) and (figure := spec.get("usermeta", {}).get("mmscratch")):
            cell["metadata"].setdefault("mystnb", {})["figure"] = {**figure, "classes": "live"}


def transform_notebook(app: Sphinx, docname: str, text: list[str]) -> None:
    """`source-read`: rewrite the JSON of a lesson's notebook before it is parsed."""
    if not docname.startswith("notebooks/"):
        return
    tree = Path(app.srcdir)
    notebook = json.loads(text[0])
    Page(notebook, project.lessons(tree), Path(docname).name, tree / "book").transform()
    text[0] = json.dumps(notebook)
    for path in (
        "book/lessons.yml",
        "book/glossary.md",
        "book/references.bib",
        "book/_data/lesson_runs.json",
    ):
        if (tree / path).exists():
            app.env.note_dependency(tree / path)


def fill_in_addresses(app: Sphinx, docname: str, text: list[str]) -> None:
    """`source-read`: `{{ repository }}` and `{{ repository_name }}` in a page, code blocks included."""
    if not docname.startswith("notebooks/"):
        repository = project.repository_url()
        text[0] = text[0].replace("{{ repository }}", repository)
        text[0] = text[0].replace("{{ repository_name }}", repository.rsplit("/", 1)[-1])


def setup(app: Sphinx) -> None:
    app.connect("source-read", transform_notebook)
    app.connect("source-read", fill_in_addresses)
