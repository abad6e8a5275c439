"""What a page loads: only what it uses, and all of it from the site itself."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import posixpath
import re
import struct
from pathlib import Path
from typing import Any

import myst_nb
import vl_convert
from docutils import nodes
from fontTools import subset
from sphinx.application import Sphinx

from mmscratch.kit import project

from .outputs import VEGALITE_VERSION
from .source import term_slug

# Every page loads these, joined into one file each. Order matters: later style sheets win, later scripts use
# what earlier ones define. Paths are those in `_static`.
STYLES = (
    "basic.css",
    "styles/pydata-sphinx-theme.css",
    "pygments.css",
    "styles/sphinx-book-theme.css",
    "copybutton.css",
    "mystnb.css",
    "course.css",
)
# of the theme's two thousand, the icons that it shows here; a test compares them with the pages
ICONS = (
    "angle-left",
    "angle-right",
    "arrow-up",
    "bars",
    "circle-half-stroke",
    "list",
    "magnifying-glass",
    "moon",
    "sun",
    "xmark",
)
SCRIPTS = (
    "documentation_options.js",
    "doctools.js",
    "sphinx_highlight.js",
    "clipboard.min.js",
    "copybutton.js",
    "scripts/bootstrap.js",
    "scripts/pydata-sphinx-theme.js",
    "scripts/sphinx-book-theme.js",
    "course.js",
    "quiz.js",
    "progress.js",
)
_ICON = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"[^"]*"\}')
_URL = re.compile(r"url\((['\"]?)(?!data:|#|['\"])([^)'\"]+)\1\)")
# Jupyter Book's live code in a rented kernel, which needs other servers
_THEBE = re.compile(
    r'<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName = .*?</script>', re.S
)
_PRINTED = re.compile(
    r'<div class="output (?:stream|text_plain)[^"]*"><div class="highlight"><pre>(?P<text>.*?)</pre>', re.S
)
_EXPORTED = re.compile(r'<div class="(cell tag_export[^"]*)"')
_IMAGE = re.compile(r'<img (?P<rest>[^>]*?)src="(?P<src>[^"]+)"(?P<more>[^>]*?)/?>')


def _source(static: Path, name: str) -> Path:
    """Where a part lies. MyST-NB's own style sheet reaches `_static` only after the pages are written."""
    path = Path(myst_nb.__file__).with_name("static") / name if name == "mystnb.css" else static / name
    if not path.is_file():
        raise FileNotFoundError(f"{name} is no longer part of the theme; mend the lists in {__file__}")
    return path


def _style(static: Path, name: str) -> str:
    """A style sheet as a part of one that lies in `static`: what it refers to is found from there."""
    text = re.sub(r"/\*.*?\*/", "", _source(static, name).read_text(encoding="utf-8"), flags=re.S)
    text = text.replace('@charset "UTF-8";', "")
    # the fonts of icons are there as woff2, which every browser of the last ten years reads
    text = re.sub(r",url\([^)]+\.ttf\) format\(\"truetype\"\)", "", text)
    wanted = {f".fa-{icon}:before" for icon in ICONS}
    text = _ICON.sub(lambda m: m[0] if wanted & set(m[1].split(",")) else "", text)
    folder = posixpath.dirname(name)
    return _URL.sub(lambda m: f"url({posixpath.normpath(posixpath.join(folder, m[2]))})", text)


def _script(static: Path, name: str) -> str:
    text = _source(static, name).read_text(encoding="utf-8")
    return re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.M) + "\n;"


def join_files(static: Path) -> dict[str, str]:
    """Write `book.css` and `book.js` into `static`; returns a short hash of each, by name."""
    texts = {
        "book.css": "\n".join(_style(static, name) for name in STYLES),
        "book.js": "\n".join(_script(static, name) for name in SCRIPTS),
    }
    for name, text in texts.items():
        (static / name).write_text(text, encoding="utf-8")
    return {name: hashlib.sha256(text.encode()).hexdigest()[:8] for name, text in texts.items()}


def trim_icons(static: Path) -> None:
    """Leave in the font of icons what the style sheet names: a dozen of its two thousand."""
    path = static / "vendor" / "fontawesome" / "webfonts" / "fa-solid-900.woff2"
    style = (static / "book.css").read_text(encoding="utf-8")
    codes = {int(code, 16) for code in re.findall(r'"\\([ef][0-9a-f]{3})"', style)}
    options = subset.Options(flavor="woff2", hinting=False, layout_features=[])
    font = subset.load_font(str(path), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=codes)
    subsetter.subset(font)
    subset.save_font(font, str(path), options)


def finish_pages(app: Sphinx, exception: Exception | None) -> None:
    """`build-finished`, last, as the theme writes some files only now: join them, and name their version
    in every page, so that a browser never keeps an old one."""
    if exception or app.builder.format != "html":
        return
    hashes = join_files(Path(app.outdir, "_static"))
    trim_icons(Path(app.outdir, "_static"))
    for path in Path(app.outdir).rglob("*.html"):
        if "_static" in path.parts:
            continue
        page = path.read_text(encoding="utf-8")
        for name, digest in hashes.items():
            page = re.sub(rf"({re.escape(name)}\?v=)\w*", rf"\g<1>{digest}", page)
        # the sidebar's logo and search stand outside every landmark
        page = page.replace(
            '<div id="pst-primary-sidebar" class', '<div id="pst-primary-sidebar" role="complementary" class'
        )
        path.write_text(page, encoding="utf-8")


@functools.cache
def early_script(app_source: Path) -> str:
    """What runs before the page is drawn; it stands in the page, and the security policy names its hash."""
    return (app_source / "book" / "_templates" / "early.js").read_text(encoding="utf-8").strip()


def security_policy(script: str) -> str:
    """What a page may load and run: its own site's files, and the one inline script that is `script`.

    Styles may stand in the page, as Vega-Lite and Sphinx write some; pictures and sounds may too.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'sha256-{digest}'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "media-src 'self' data:",
            "font-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
        )
    )


def tidy_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """`html-page-context`: one style sheet, one script, and mend what screen readers stumble over."""
    context["early_script"] = script = early_script(Path(app.srcdir))
    policy = html.escape(security_policy(script), quote=True).replace("&#x27;", "'")
    context["metatags"] = (
        f'\n<meta http-equiv="Content-Security-Policy" content="{policy}" />\n'
        '<meta name="referrer" content="strict-origin-when-cross-origin" />\n' + context.get("metatags", "")
    )
    if body := context.get("body", ""):
        body = _mended(app, body)
        if pagename.startswith("notebooks/"):
            name = pagename.removeprefix("notebooks/")
            module = next(each.module for each in project.lessons(Path(app.srcdir)) if each.name == name)
            body = _EXPORTED.sub(rf'<div data-module="{module}" class="\1"', body)
        context["body"] = body
    context["use_thebe"] = False


def _mended(app: Sphinx, body: str) -> str:
    # the label would replace the visible text, "Show the code", for a screen reader
    body = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    # a list whose items are not list items is announced as broken
    body = body.replace(' role="list"', "").replace(' role="doc-biblioentry"', "")
    body = _THEBE.sub("", body)
    body = _PRINTED.sub(_prose, body)
    return _IMAGE.sub(lambda match: _sized(app, match), body)


def _prose(match: re.Match[str]) -> str:
    """Mark printed lines without columns: those may wrap where the window is narrow."""
    text = html.unescape(re.sub(r"<[^>]+>", "", match["text"]))
    columns = any(re.search(r"\S {2,}\S|\S\t", line) or line.startswith("  ") for line in text.splitlines())
    return match[0] if columns else match[0].replace('class="output', 'class="is-prose output', 1)


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
    app.connect("build-finished", finish_pages, priority=950)
