"""`{concepts}`: entries of the glossary, in the order of the field, each with the lesson that builds it."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx

from mmscratch.kit import project

from .landing import LessonDirective
from .source import glossary_entries, term_slug


class Concepts(LessonDirective):
    """Each line of the content is `term: 07`. The definition is the glossary's, which has the only copy."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        tree = self.tree()
        self.env.note_dependency(str(tree / "book" / "glossary.md"))
        entries = glossary_entries(tree / "book")
        lessons = {lesson.number: lesson for lesson in project.lessons(tree)}
        listed = nodes.definition_list(classes=["concepts"])
        for line in filter(str.strip, self.content):
            if not (match := re.fullmatch(r"(.+): (\d\d)", line.strip())):
                raise self.error(f"expected `term: 07`, got {line!r}")
            term, number = match.groups()
            if (slug := term_slug(term)) not in entries or number not in lessons:
                raise self.error(f"{line.strip()}: no such entry in glossary.md, or no such lesson")
            listed += self.entry(slug, *entries[slug], lessons[number])
        return [listed]

    def entry(self, slug: str, term: str, definition: str, lesson: project.Lesson) -> nodes.Node:
        item = nodes.definition_list_item()
        item += nodes.term("", term, ids=[f"concept-{slug}"])
        body = nodes.definition()
        self.state.nested_parse(StringList([definition], self.get_source_info()[0]), self.lineno, body)
        word = "Built in lesson" if lesson.written else "Lesson"
        text = f'<p class="concept-lesson">{word} {self.titled(lesson)}</p>'
        body += nodes.raw("", text, format="html")
        item += body
        return item


def setup(app: Sphinx) -> None:
    app.add_directive("concepts", Concepts)
