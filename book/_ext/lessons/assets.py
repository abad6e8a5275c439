"""What a page loads: only what it uses, and all of it from the site itself."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import vl_convert
from docutils import nodes
from sphinx.application import Sphinx

from mmscratch.kit import project

from .outputs import VEGALITE_VERSION
from .source import term_slug

# name or content of a script -> what a page must contain to need it; other scripts always stay
NEEDED_BY = {
    "tex-chtml-full.js": 'class="math',
    "window.MathJax": 'class="math',
    "toggleHint": 'class="toggle',
    "toggleOpenOnPrint": 'class="toggle',
    "togglebuttonSelector": 'class="toggle',
    "design-tabs.js": "sd-tab-",
    "togglebutton.js": 'class="toggle',
    "clipboard.min.js": 'class="highlight',
    "copybutton.js": 'class="highlight',
}
# the theme's and Jupyter Book's live code in a rented kernel, which needs other servers
NEVER = ("thebe", "THEBE", "sphinx-thebe")
STYLES_NEEDED_BY = {
    "sphinx-thebe.css": "\0",
    "togglebutton.css": 'class="toggle',
    "copybutton.css": 'class="highlight',
    "sphinx-design.min.css": "sd-",
    "mystnb": 'class="cell',
    "pygments.css": 'class="highlight',
}
_THEBE = re.compile(
    r'<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName = .*?</script>', re.S
)
_EXPORTED = re.compile(r'<div class="(cell tag_export[^"]*)"')
_IMAGE = re.compile(r'<img (?P<rest>[^>]*?)src="(?P<src>[^"]+)"(?P<more>[^>]*?)/?>')


def _name(asset: Any) -> str:
    return str(getattr(asset, "filename", asset) or "")


def _wanted(asset: Any, body: str, rules: dict[str, str]) -> bool:
    text = _name(asset) + str(getattr(asset, "attributes", {}).get("body", ""))
    if any(mark in text for mark in NEVER):
        return False
    return all(mark in body for name, mark in rules.items() if name in text)


def tidy_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """`html-page-context`: drop what the page does not use, mend what screen readers stumble over."""
    body = context.get("body", "")
    context["script_files"] = [asset for asset in context["script_files"] if _wanted(asset, body, NEEDED_BY)]
    context["css_files"] = [asset for asset in context["css_files"] if _wanted(asset, body, STYLES_NEEDED_BY)]
    if 'class="math' in body and not any("tex-chtml" in _name(asset) for asset in context["script_files"]):
        app.add_js_file(app.config.mathjax_path, loading_method="defer")  # mathematics in a quiz only
    if body:
        context["body"] = _mended(app, body)
        if pagename.startswith("notebooks/"):
            name = pagename.removeprefix("notebooks/")
            module = next(each.module for each in project.lessons(Path(app.srcdir)) if each.name == name)
            context["body"] = _EXPORTED.sub(rf'<div data-module="{module}" class="\1"', context["body"])
    context["use_thebe"] = False


def _mended(app: Sphinx, body: str) -> str:
    # the label would replace the visible text, "Show the code", for a screen reader
    body = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    # a list whose items are not list items is announced as broken
    body = body.replace(' role="list"', "").replace(' role="doc-biblioentry"', "")
    body = _THEBE.sub("", body)
    return _IMAGE.sub(lambda match: _sized(app, match), body)


def _sized(app: Sphinx, match: re.Match[str]) -> str:
    """Give a picture its size, so that the text below it does not jump, and load it when it comes near."""
    source, attributes = match["src"], match["rest"] + match["more"]
    if "loading=" in attributes or not source.endswith((".png", ".svg")) or "://" in source:
        return match[0]
    found = _file(app, source.split("/")[-1])
    size = _size(found) if found else None
    sizes = f' width="{size[0]}" height="{size[1]}"' if size and "width" not in attributes else ""
    return (
        f'<img {match["rest"]}src="{source}"{match["more"].rstrip()}{sizes} loading="lazy" decoding="async"/>'
    )


def _file(app: Sphinx, name: str) -> Path | None:
    for original, copied in getattr(app.builder, "images", {}).items():
        if copied == name:
            return Path(app.srcdir, original)
    return None


def _size(path: Path) -> tuple[int, int] | None:
    head = path.read_bytes()[:2048]
    if head.startswith(b"\x89PNG"):
        return struct.unpack(">II", head[16:24])
    text = head.decode("utf-8", "replace")
    sizes = [re.search(rf'<svg[^>]*?\b{key}="([\d.]+)(?:px)?"', text) for key in ("width", "height")]
    return tuple(round(float(size[1])) for size in sizes) if all(sizes) else None


def number_figures_by_page(app: Sphinx, env: Any) -> list[str]:
    """`env-get-updated`: figure 4.2 is the second of lesson 04, whatever lessons come before it."""
    for docname, kinds in env.toc_fignumbers.items():
        name = Path(docname).name
        chapter = (int(name[:2]),) if docname.startswith("notebooks/") else ()
        for numbers in kinds.values():
            for count, label in enumerate(sorted(numbers, key=numbers.get), start=1):
                numbers[label] = (*chapter, count)
    return []


def lower_case_anchors(app: Sphinx, doctree: Any) -> None:
    """`doctree-read`: "#term-cls-token" leads to "CLS token", whatever case Sphinx gave its own anchor."""
    if app.env.docname != "book/glossary":
        return
    for term in doctree.findall(nodes.term):
        anchor = f"term-{term_slug(term.astext())}"
        if anchor not in term["ids"]:
            term["ids"].append(anchor)


def copy_vega(app: Sphinx, exception: Exception | None) -> None:
    """`build-finished`: the Vega bundle from vl-convert joins the other scripts; maps and spare fonts go."""
    if exception or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    bundle = static / "vega.js"
    first = f"/* Vega-Lite {VEGALITE_VERSION} from vl-convert {vl_convert.__version__} */\n"
    if not bundle.exists() or not bundle.read_text(encoding="utf-8").startswith(first):
        # in a function of its own, so that its many names do not become globals of the page
        code = vl_convert.javascript_bundle(vl_version=VEGALITE_VERSION)
        bundle.write_text(f"{first}(function(){{{code}\n}})();\n", encoding="utf-8")
    for pattern in ("**/*.map", "**/*.ttf", "scripts/fontawesome.js*", "sphinx-thebe.*"):
        for path in static.glob(pattern):
            path.unlink()


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", lower_case_anchors)
    app.connect("env-get-updated", number_figures_by_page, priority=900)
    # after all others have said what they want to load
    app.connect("html-page-context", tidy_page, priority=900)
    app.connect("build-finished", copy_vega)
