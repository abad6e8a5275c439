"""The grid of lessons and the parity ledger."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mmscratch.kit import project

from .outputs import inline


class LessonGrid(SphinxDirective):
    """`{lesson-grid}`: cards of all lessons by part, or of one part with `:part: 1`.

    A written lesson is a link; a planned one says so and leads nowhere.
    """

    option_spec = {"part": directives.positive_int}

    def run(self) -> list[nodes.Node]:
        tree = Path(self.env.srcdir)
        parts = project.parts(tree)
        for path in ["book/lessons.yml", "book/_data/lesson_runs.json", *map(str, project.notebooks(tree))]:
            self.env.note_dependency(str(tree / path))
        if number := self.options.get("part"):
            return [self.cards(parts[number - 1].lessons)]
        return [node for part in parts for node in self.part(part)]

    def part(self, part: project.Part) -> list[nodes.Node]:
        title = f"Part {part.number} · {part.title}"
        section = nodes.section(ids=[nodes.make_id(f"part-{part.number}")], names=[f"part-{part.number}"])
        section["classes"].append("part")
        section += nodes.title(title, title)
        written = sum(lesson.written for lesson in part.lessons)
        tagline = f"{part.tagline}. {written} of {len(part.lessons)} lessons written."
        count = f"<span data-part-count>0</span> / {len(part.lessons)} done."
        done = f'<span class="progress-ui pst-js-only">{count}</span>'
        if part.page:
            target = f"{self.uri(part.page.removesuffix('.md'))}"
            tagline_html = f'{html.escape(tagline)} {done} <a href="{target}">About this part</a>'
        else:
            tagline_html = f"{html.escape(tagline)} {done}"
        section += nodes.raw("", f'<p class="part-tagline">{tagline_html}</p>', format="html")
        section += self.cards(part.lessons)
        return [section]

    def cards(self, lessons: Iterable[project.Lesson]) -> nodes.raw:
        cards = "\n".join(self.card(lesson) for lesson in lessons)
        return nodes.raw("", f'<ul class="lesson-grid">\n{cards}\n</ul>', format="html")

    def card(self, lesson: project.Lesson) -> str:
        title = html.escape(lesson.title)
        facts = [lesson.kind]
        if lesson.written:
            title = f'<a href="{self.uri(lesson.notebook.removesuffix(".ipynb"))}">{title}</a>'
            facts.append(f"{lesson.minutes} min")
            if lesson.seconds:
                facts.append(f"runs in {lesson.seconds} s")
        else:
            facts.append("planned")
        state = "is-written" if lesson.written else "is-planned"
        number = f'<span class="lesson-card-number">{lesson.number}</span>'
        return (
            f'<li class="lesson-card {state}" data-lesson="{lesson.number}">'
            f'<p class="lesson-card-title">{number} {title}</p>'
            f'<p class="lesson-card-builds">You will have built {inline(lesson.builds)}.</p>'
            f'<p class="lesson-card-facts">{" · ".join(facts)}</p></li>'
        )

    def uri(self, docname: str) -> str:
        return html.escape(self.env.app.builder.get_relative_uri(self.env.docname, docname))


COLUMNS = (  # heading, unit or hint, key, how it is written
    ("Case", "", "case", str),
    ("Parameters", "", "parameters", "{:,}".format),
    ("Output", "largest difference", "output", lambda value: scientific(value)),
    ("Gradients", "largest difference", "gradient", lambda value: scientific(value)),
    ("Forward", "our time / theirs", "forward_ratio", "{:.2f}".format),
    ("Forward + backward", "our time / theirs", "backward_ratio", "{:.2f}".format),
    ("On", "", "on", str),
)


def scientific(value: float) -> str:
    """4.8e-07 as a reader writes it; an exact zero as 0."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10<sup>{int(exponent):d}</sup>".replace("-", "\N{MINUS SIGN}")


class ParityLedger(SphinxDirective):
    """`{parity-ledger}`: every primitive beside its reference, from `data/benchmarks.json` (`make bench`)."""

    def run(self) -> list[nodes.Node]:
        tree = Path(self.env.srcdir)
        path = tree / "data" / "benchmarks.json"
        self.env.note_dependency(str(path))
        data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not data.get("rows"):
            text = "No measurements in this checkout. make bench takes them and fills this table."
            return [nodes.paragraph("", text, classes=["ledger-empty"])]
        lessons = {lesson.module: lesson for lesson in project.lessons(tree) if lesson.written}
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in data["rows"]:
            threads = f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}"
            row["on"] = threads if row.get("device", "cpu") == "cpu" else row["device"]
            groups.setdefault((row["primitive"], row["reference"]), []).append(row)
        head = "".join(
            f'<th scope="col">{name}{f"<small>{hint}</small>" if hint else ""}</th>'
            for name, hint, *_ in COLUMNS
        )
        bodies = "\n".join(self.group(*names, rows, lessons) for names, rows in groups.items())
        names = ("cpu", "gpu")  # their values need no word before them
        machine = [str(v) if k in names else f"{k} {v}" for k, v in data["machine"].items() if k != "threads"]
        table = (
            '<div class="ledger-scroll" role="region" aria-label="Parity ledger" tabindex="0">'
            f'<table class="ledger"><thead><tr>{head}</tr></thead>\n{bodies}\n</table></div>'
            f'<p class="ledger-machine">Measured on {html.escape(", ".join(machine))}.</p>'
        )
        return [nodes.raw("", table, format="html")]

    def group(
        self,
        primitive: str,
        reference: str,
        rows: list[dict[str, Any]],
        lessons: dict[str | None, project.Lesson],
    ) -> str:
        name = f"<code>{html.escape(primitive)}</code>"
        if lesson := lessons.get(primitive.split(".")[0]):
            docname = lesson.notebook.removesuffix(".ipynb")
            uri = self.env.app.builder.get_relative_uri(self.env.docname, docname)
            name = f'<a href="{html.escape(uri)}">{name}</a>'
        lines = [
            f'<tbody><tr><th scope="rowgroup" colspan="{len(COLUMNS)}"><span>{name} '
            f"against {html.escape(reference)}</span></th></tr>"
        ]
        for row in rows:
            first, *rest = [
                "–" if row[key] is None else html.escape(write(row[key])) if write is str else write(row[key])
                for *_, key, write in COLUMNS
            ]
            cells = "".join(f"<td>{cell}</td>" for cell in rest)
            lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
        return "\n".join(lines) + "</tbody>"


def setup(app: Sphinx) -> None:
    app.add_directive("lesson-grid", LessonGrid)
    app.add_directive("parity-ledger", ParityLedger)
