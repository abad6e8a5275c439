"""What other programs read: a card for each lesson, structured data, and a feed of changes."""

from __future__ import annotations

import datetime
import functools
import html
import json
import re
import textwrap
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import vl_convert
from docutils import nodes
from sphinx.application import Sphinx

from mmscratch.kit import project

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")  # those of kit.figures
_CHANGE = re.compile(r"^## (\d{4}-\d\d-\d\d) · (.+)$", re.M)


@functools.lru_cache(maxsize=2)
def _lessons(tree: Path) -> dict[str, project.Lesson]:
    return {lesson.name: lesson for lesson in project.lessons(tree)}


def card(lesson: project.Lesson) -> bytes:
    """1200 x 630 pixels that say what a shared link leads to, as PNG."""
    patches = "".join(
        f'<rect x="{884 + 64 * (n % 4)}" y="{80 + 64 * (n // 4)}" width="56" height="56" rx="6" '
        f'fill="{COLOURS[(int(lesson.number) * 5 + n * 7) % len(COLOURS)]}" opacity="{0.35 + n % 3 * 0.3}"/>'
        for n in range(16)
    )
    lines = textwrap.wrap(lesson.title, 22)[:3]
    title = "".join(
        f'<text x="80" y="{210 + 78 * n}" font-size="66" font-weight="700" fill="#1f2933">'
        f"{html.escape(line)}</text>"
        for n, line in enumerate(lines)
    )
    builds = textwrap.wrap(f"You will have built {plain(lesson.builds)}.", 44)[:5]
    start = 210 + 78 * len(lines)
    promise = "".join(
        f'<text x="80" y="{start + 42 * n}" font-size="29" fill="#5b6470">{html.escape(line)}</text>'
        for n, line in enumerate(builds)
    )
    return vl_convert.svg_to_png(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1200" height="630" font-family="{FONT}">'
        f'<rect width="1200" height="630" fill="#fff"/>'
        f'{patches}<rect width="16" height="630" fill="#0072B2"/>'
        f'<text x="80" y="126" font-size="40" font-weight="600" fill="#0072B2">Lesson {lesson.number}</text>'
        f'{title}{promise}<text x="80" y="572" font-size="28" font-weight="600" fill="#1f2933">'
        "Multimodal from Scratch</text></svg>"
    )


def plain(text: str) -> str:
    """One line of Markdown without its marks."""
    return re.sub(r"[`*$]", "", re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", text))


def structured_data(tree: Path, pagename: str) -> dict[str, Any] | None:
    """The book as a course of schema.org, and a lesson as a part of it."""
    site = project.site_url()
    course = {"@type": "Course", "name": "Multimodal from Scratch", "url": site, "@id": f"{site}#course"}
    name = pagename.removeprefix("notebooks/")
    lessons = _lessons(tree)
    if pagename == "index":
        return {
            "@context": "https://schema.org",
            **course,
            "description": "Multimodal models built from scratch in PyTorch, one notebook a lesson.",
            "inLanguage": "en",
            "isAccessibleForFree": True,
            "provider": {
                "@type": "Organization",
                "name": "The authors of Multimodal from Scratch",
                "url": site,
            },
            "hasPart": [_resource(lesson) for lesson in lessons.values() if lesson.written],
        }
    if name in lessons and pagename != name:
        return {"@context": "https://schema.org", **_resource(lessons[name]), "isPartOf": course}
    return None


def _resource(lesson: project.Lesson) -> dict[str, Any]:
    return {
        "@type": "LearningResource",
        "name": f"{lesson.number} · {lesson.title}",
        "url": f"{project.site_url()}notebooks/{lesson.name}.html",
        "position": int(lesson.number),
        "learningResourceType": lesson.kind,
        "timeRequired": f"PT{lesson.minutes}M",
        "teaches": [plain(objective) for objective in lesson.objectives],
    }


def feed(text: str) -> str:
    """RSS 2.0 of the page of changes: one item for each `## 2026-11-21 · Title` in `text`."""
    site = project.site_url()
    pieces = _CHANGE.split(text)[1:]
    items = []
    for day, title, body in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
        when = datetime.datetime.fromisoformat(f"{day}T12:00:00+00:00")
        link = f"{site}book/changes.html#{nodes.make_id(f'{day} · {title}')}"
        items.append(
            f"<item><title>{html.escape(title)}</title><link>{link}</link>"
            f'<guid isPermaLink="true">{link}</guid><pubDate>{format_datetime(when)}</pubDate>'
            f"<description>{html.escape(' '.join(plain(body).split()))}</description></item>"
        )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<rss version="2.0" xmlns:atom="http://www.w3.org/2005/Atom">'
        f"<channel><title>Multimodal from Scratch: changes</title><link>{site}</link>"
        f'<atom:link href="{site}feed.xml" rel="self" type="application/rss+xml"/>'
        "<description>New lessons, and what changed in those that are there.</description>"
        f"<language>en</language>\n{chr(10).join(items)}\n</channel></rss>\n"
    )


def describe_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """`html-page-context`: the card and the structured data of a page."""
    if data := structured_data(Path(app.srcdir), pagename):
        # "</" would end the script element early
        context["structured_data"] = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
    tags = context.get("metatags", "") + '\n<meta name="twitter:card" content="summary_large_image" />'
    lesson = _lessons(Path(app.srcdir)).get(pagename.removeprefix("notebooks/"))
    if lesson and pagename.startswith("notebooks/"):
        image = f"{project.site_url()}_static/cards/{lesson.number}.png"
        alt = html.escape(
            f"Lesson {lesson.number}: {lesson.title}. You will have built {plain(lesson.builds)}."
        )
        tags = re.sub(r'(<meta property="og:image" content=")[^"]*', rf"\g<1>{image}", tags)
        tags = re.sub(r'(<meta property="og:image:alt" content=")[^"]*', lambda m: m[1] + alt, tags)
    context["metatags"] = tags


def write_files(app: Sphinx, exception: Exception | None) -> None:
    """`build-finished`: the cards and the feed."""
    if exception or app.builder.format != "html":
        return
    tree = Path(app.srcdir)
    cards = Path(app.outdir, "_static", "cards")
    cards.mkdir(exist_ok=True)
    for lesson in _lessons(tree).values():
        if lesson.written:
            (cards / f"{lesson.number}.png").write_bytes(card(lesson))
    changes = (tree / "book" / "changes.md").read_text(encoding="utf-8")
    Path(app.outdir, "feed.xml").write_text(feed(changes), encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", describe_page, priority=850)
    app.connect("build-finished", write_files)
