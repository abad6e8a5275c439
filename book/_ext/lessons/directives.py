"""The grid of lessons."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

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


def setup(app: Sphinx) -> None:
    app.add_directive("lesson-grid", LessonGrid)
