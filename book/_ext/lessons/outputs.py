"""Live figures and quizzes: from the JSON in a notebook to HTML that reads well before any script has run."""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from typing import Any

import myst_nb.core.render as myst_nb_render
import vl_convert
from docutils import nodes
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from sphinx.application import Sphinx

from mmscratch.kit.figures import VEGALITE_MIME
from mmscratch.kit.quiz import QUIZ_MIME

from .mathematics import mathml

VEGALITE_VERSION = "6.4"
"""Vega-Lite on the site. JupyterLab has an older one, 5.6; a test also draws with the nearest to that."""


def _svg_size(svg: str) -> tuple[int, int]:
    opening = svg[: svg.index(">")]
    width, height = (re.search(rf'\b{name}="([\d.]+)"', opening) for name in ("width", "height"))
    if not width or not height:
        raise ValueError(f"vl-convert drew a picture without a size: {opening[:200]}")
    return round(float(width[1])), round(float(height[1]))


class LiveFigure:
    """A live figure is a picture with its specification beside it; `course.js` draws over the picture."""

    mime_priority_overrides = [("html", VEGALITE_MIME, 0)]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        if inline or data.mime_type != VEGALITE_MIME:
            return None
        spec = data.content
        svg, _, name = draw(spec)
        uri = renderer.write_file([name], svg.encode(), overwrite=False, exists_ok=True)
        picture = nodes.image(uri=uri, alt=spec.get("description", ""), classes=["live-picture"])
        figure = nodes.container(classes=["live-figure", f"has-{controls(spec)}-controls"])
        figure += [picture, nodes.raw("", specification(spec), format="html")]
        return [figure]


def draw(spec: dict[str, Any]) -> tuple[str, tuple[int, int], str]:
    """The picture of a live figure as SVG, its width and height, and a name for its file."""
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGALITE_VERSION)
    return svg, _svg_size(svg), f"live-{hashlib.sha256(svg.encode()).hexdigest()[:16]}.svg"


def controls(spec: dict[str, Any]) -> int:
    """How many sliders, menus and buttons stand below the figure: the page keeps their room free."""
    return sum(isinstance(each.get("bind"), dict) for each in spec.get("params", ()))


def specification(spec: dict[str, Any]) -> str:
    """The specification as data in the page."""
    # "</" would end the script element early
    text = json.dumps(spec, separators=(",", ":")).replace("</", "<\\/")
    return f'<script type="application/json" class="live-spec">{text}</script>'


@lru_cache
def _markdown() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).use(dollarmath_plugin)
    parser.add_render_rule(
        "math_inline",
        lambda self, tokens, index, options, env: (
            f'<span class="math">{mathml(tokens[index].content)}</span>'
        ),
    )
    return parser


def inline(text: str) -> str:
    """One line of Markdown with $mathematics$ as HTML; HTML in it is shown, not used."""
    return _markdown().renderInline(text)


def quiz_html(questions: list[dict[str, Any]], prefix: str) -> str:
    """A form a question. Without the script its buttons stay hidden and the answer is in a fold."""
    return "\n".join(
        ['<div class="quiz" data-quiz>']
        + [
            _question_html(question, f"{prefix}-{n}", n, len(questions))
            for n, question in enumerate(questions, 1)
        ]
        + ['<p class="quiz-score" role="status" data-quiz-score></p>', "</div>"]
    )


def _question_html(question: dict[str, Any], name: str, n: int, total: int) -> str:
    options = "\n".join(
        f'<div class="quiz-option"><input type="radio" name="{name}" id="{name}-{i}" value="{i}">'
        f'<label for="{name}-{i}">{inline(option)}</label></div>'
        for i, option in enumerate(question["options"])
    )
    right = inline(question["options"][question["answer"]])
    prompt, why = inline(question["prompt"]), inline(question["why"])
    return f"""<form class="quiz-question" data-answer="{question["answer"]}">
<fieldset><legend><span class="quiz-number">Question {n} of {total}</span> {prompt}</legend>
{options}
</fieldset>
<button type="submit" class="quiz-check" hidden>Check</button>
<p class="quiz-verdict" role="status"></p>
<details class="quiz-why"><summary>Answer</summary><p><strong>{right}</strong>. {why}</p></details>
</form>"""


class Quiz:
    """A quiz is a labelled form; `course.js` checks it."""

    mime_priority_overrides = [("html", QUIZ_MIME, 0)]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        if inline or data.mime_type != QUIZ_MIME:
            return None
        text = quiz_html(data.content["questions"], f"quiz-{data.cell_index}-{data.output_index}")
        return [nodes.raw("", text, format="html")]


def setup(app: Sphinx) -> None:
    original = myst_nb_render.load_mime_renders
    myst_nb_render.load_mime_renders = lambda: [*original(), LiveFigure, Quiz]
