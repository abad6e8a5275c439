"""What stands only on the landing page and its neighbours: paths, progress, a living figure, times."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mmscratch.kit import project
from mmscratch.kit.figures import VEGALITE_MIME

from .outputs import controls, draw, inline, specification


def raw(text: str) -> list[nodes.Node]:
    return [nodes.raw("", text, format="html")]


def duration(minutes: int) -> str:
    """55 min, 1 h, 7 h 20 min."""
    hours, rest = divmod(minutes, 60)
    return " ".join([f"{hours} h"] * bool(hours) + [f"{rest} min"] * bool(rest or not hours))


class LessonDirective(SphinxDirective):
    """A directive that reads the lessons; the page is read again when they change."""

    def tree(self) -> Path:
        tree = Path(self.env.srcdir)
        for path in ["book/lessons.yml", "book/_data/lesson_runs.json", *map(str, project.notebooks(tree))]:
            self.env.note_dependency(str(tree / path))
        return tree

    def uri(self, docname: str) -> str:
        return html.escape(self.env.app.builder.get_relative_uri(self.env.docname, docname))

    def titled(self, lesson: project.Lesson) -> str:
        """Number and title, as a link where the lesson is written."""
        text = f"{lesson.number} {html.escape(lesson.title)}"
        if not lesson.written:
            return f'{text} <span class="is-planned">planned</span>'
        return f'<a href="{self.uri(lesson.notebook.removesuffix(".ipynb"))}">{text}</a>'


class LearningPaths(LessonDirective):
    """`{learning-paths}`: the paths of `book/lessons.yml`, each an ordered list of lessons."""

    def run(self) -> list[nodes.Node]:
        return raw(
            f'<ul class="paths">{"".join(self.path(each) for each in project.paths(self.tree()))}</ul>'
        )

    def path(self, path: project.LearningPath) -> str:
        written = [lesson for lesson in path.lessons if lesson.written]
        minutes = duration(sum(lesson.minutes for lesson in written))
        facts = f"{len(path.lessons)} lessons, {len(written)} written: {minutes} to read"
        if path.whole:
            steps = '<p class="path-steps"><a href="#the-lessons">All of them, in order</a></p>'
        else:
            items = "".join(f"<li>{self.titled(lesson)}</li>" for lesson in path.lessons)
            steps = f'<details class="path-steps"><summary>Its lessons</summary><ol>{items}</ol></details>'
        return (
            f'<li class="path{" is-whole" * path.whole}"><p class="path-title">{html.escape(path.title)}</p>'
            f"<p>{inline(path.promise)}</p>"
            f'<p class="path-facts">{facts}</p>{steps}</li>'
        )


class Progress(LessonDirective):
    """`{progress}`: what the reader has done. `progress.js` fills it. Hidden where nothing is kept."""

    def run(self) -> list[nodes.Node]:
        lessons = project.lessons(self.tree())
        total = len(lessons)
        first = next(lesson for lesson in lessons if lesson.written)
        href = self.uri(first.notebook.removesuffix(".ipynb"))
        return raw(
            '<section class="progress-panel progress-ui pst-js-only" aria-label="Your progress"'
            " data-progress>"
            f'<p class="progress-count"><strong><span data-count>0</span> / {total}</strong> lessons done</p>'
            f'<progress max="{total}" value="0" aria-label="Lessons done"></progress>'
            '<p class="progress-actions">'
            f'<a class="lesson-button is-primary" data-next href="{href}">'
            f"Start with {first.number} · {html.escape(first.title)}</a> "
            '<button type="button" class="lesson-button" data-save>Save to a file</button> '
            '<button type="button" class="lesson-button" data-load>Load from a file</button> '
            '<button type="button" class="lesson-button" data-clear>Forget</button>'
            '<input type="file" accept=".json,application/json" hidden'
            ' aria-label="A file of saved progress"></p>'
            '<p class="progress-note">Kept in this browser only. No account, no cookie, nothing is sent.</p>'
            '<p class="progress-said" role="status" data-progress-said></p></section>'
        )


class LessonFigure(LessonDirective):
    """`{lesson-figure} fig-10-search`: a live figure of a lesson, on another page too."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        tree = self.tree()
        for lesson in (each for each in project.lessons(tree) if each.written):
            for spec in live_specs(tree / lesson.notebook):
                if (facts := spec["usermeta"]["mmscratch"])["name"] == name:
                    return self.figure(lesson, spec, facts["caption"])
        raise self.error(f"no written lesson has a live figure {name!r}")

    def figure(self, lesson: project.Lesson, spec: dict[str, Any], caption: str) -> list[nodes.Node]:
        svg, (width, height), file = draw(spec)
        self.env.app.env.lesson_pictures = {**getattr(self.env, "lesson_pictures", {}), file: svg}
        source = self.uri("index").rsplit("#")[0].removesuffix("index.html") + f"_images/{file}"
        picture = (
            f'<img class="live-picture" fetchpriority="high" loading="eager" src="{source}" width="{width}" '
            f'height="{height}" alt="{html.escape(spec["description"])}">'
        )
        return raw(
            f'<figure class="align-default live"><div class="live-figure docutils container '
            f'has-{controls(spec)}-controls">{picture}{specification(spec)}</div>'
            f"<figcaption><p>{inline(caption)} From lesson {self.titled(lesson)}.</p></figcaption></figure>"
        )


def live_specs(notebook: Path) -> Iterator[dict[str, Any]]:
    """The specifications of a notebook's live figures."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            if isinstance(spec := output.get("data", {}).get(VEGALITE_MIME), dict):
                yield spec


class LessonTimes(LessonDirective):
    """`{lesson-times}`: seconds and cells of every written lesson's last stored run."""

    def run(self) -> list[nodes.Node]:
        tree = self.tree()
        runs = json.loads((tree / "book" / "_data" / "lesson_runs.json").read_text(encoding="utf-8"))
        rows, total = [], 0
        for lesson in project.lessons(tree):
            if lesson.written and (run := runs.get(lesson.number)):
                total += run["seconds"]
                figures = (run["seconds"], run["threads"], run["cells"], lesson.minutes)
                cells = "".join(f"<td>{value}</td>" for value in figures)
                rows.append(f'<tr><th scope="row">{self.titled(lesson)}</th>{cells}</tr>')
        names = ("Seconds to run", "Threads", "Code cells", "Minutes to read")
        head = '<th scope="col">Lesson</th>' + "".join(f'<th scope="col">{name}</th>' for name in names)
        return raw(
            '<div class="ledger-scroll" role="region" aria-label="Measured times" tabindex="0">'
            f'<table class="ledger times"><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div><p>Together {duration(round(total / 60))}.</p>"
        )


def write_pictures(app: Sphinx, exception: Exception | None) -> None:
    """`build-finished`: the pictures of figures that stand on another page than their lesson's."""
    if not exception and app.builder.format == "html":
        for file, svg in getattr(app.env, "lesson_pictures", {}).items():
            path = Path(app.outdir, "_images", file)
            path.parent.mkdir(exist_ok=True)
            path.write_text(svg, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.add_directive("learning-paths", LearningPaths)
    app.add_directive("progress", Progress)
    app.add_directive("lesson-figure", LessonFigure)
    app.add_directive("lesson-times", LessonTimes)
    app.connect("build-finished", write_pictures)
