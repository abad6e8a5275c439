"""Formulas as MathML, made at build time: no script has to set them, and a screen reader can read them."""

from __future__ import annotations

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)
_converter = LatexToMathML(fancy_error=False)


def mathml(tex: str, *, display: bool = False) -> str:
    """A formula of LaTeX as a `<math>` element. Raises math_core.LatexError for what it does not know."""
    return _converter.convert_with_local_state(tex.strip(), displaystyle=display)


def _converted(node: nodes.Element, *, display: bool) -> str:
    try:
        return mathml(node.astext(), display=display)
    except LatexError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        raise nodes.SkipNode from None


def visit_inline(writer, node: nodes.math) -> None:
    writer.body.append(f'<span class="math">{_converted(node, display=False)}</span>')
    raise nodes.SkipNode


def visit_block(writer, node: nodes.math_block) -> None:
    formula = _converted(node, display=True)
    writer.body.append(writer.starttag(node, "div", CLASS="math"))
    writer.body.append(formula)
    if node["number"]:
        writer.body.append(f'<span class="eqno">({get_node_equation_number(writer, node)})</span>')
    writer.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
