"""The built site, as files and in a browser.

The site is built, strictly, into `_build/html` if it is missing or older than what it is made of.
"""

from __future__ import annotations

import fcntl
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
import yaml

from mmscratch.kit import figures, project

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
sys.path.insert(0, str(ROOT / "book" / "_ext"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
LESSONS = [lesson for lesson in project.lessons(ROOT) if lesson.written]
LESSON_PAGES = [lesson.notebook.removesuffix(".ipynb") for lesson in LESSONS]
BY_THEME = ["genindex", "search", "404"]


def sources() -> list[Path]:
    """All files that the site is made of."""
    trees = [ROOT / "book", ROOT / "notebooks", ROOT / "mmscratch" / "kit"]
    files = [path for tree in trees for path in tree.rglob("*") if path.suffix != ".pyc" and path.is_file()]
    singles = ["_config.yml", "_toc.yml", "index.md", "pyproject.toml", "data/benchmarks.json"]
    return files + [ROOT / name for name in singles if (ROOT / name).exists()]


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    (ROOT / "_build").mkdir(exist_ok=True)
    with open(ROOT / "_build" / ".test-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker builds, the others wait and find it fresh
        built = SITE / "sitemap.xml"  # written last, by every build
        if not built.exists() or built.stat().st_mtime < max(path.stat().st_mtime for path in sources()):
            shutil.rmtree(SITE, ignore_errors=True)
            command = [Path(sys.executable).with_name("jupyter-book"), "build", str(ROOT), "--all"]
            run = subprocess.run(
                [*command, "-n", "-W", "--keep-going"],
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            assert run.returncode == 0, (
                f"the site does not build:\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
            )
    return SITE


class Html(HTMLParser):
    """Elements with their attributes, ids, and the visible text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.ids: Counter[str] = Counter()
        self.text: list[str] = []
        self._hidden = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = {key: value or "" for key, value in attrs}
        self.elements.append((tag, attributes))
        if "id" in attributes:
            self.ids[attributes["id"]] += 1
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._hidden:
            self.text.append(data)

    def all(self, tag: str, *, having: str = "") -> list[dict[str, str]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (not having or having in attributes)
        ]


@functools.cache
def page(path: Path) -> Html:
    return Html(path.read_text(encoding="utf-8"))


def html_files(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def article(site: Path, name: str) -> str:
    text = (site / f"{name}.html").read_text(encoding="utf-8")
    return text[text.index('<article class="bd-article"') : text.index("</article>")]


# the pages as files


def test_every_page_of_the_contents_is_built_and_not_empty(site):
    for name in PAGES:
        words = " ".join(Html(article(site, name)).text).split()
        assert len(words) > 40, f"{name}: {len(words)} words"


def test_contents_list_every_written_lesson_in_order():
    assert [name for name in PAGES if name.startswith("notebooks/")] == LESSON_PAGES


def test_every_internal_link_and_anchor_resolves(site):
    base = urlsplit(project.site_url()).path
    broken = []
    for file in html_files(site):
        for tag, attributes in page(file).elements:
            target = attributes.get("href") or attributes.get("src")
            if not target or tag == "base" or attributes.get("rel") == "canonical":
                continue
            address, anchor = urldefrag(target)
            if urlsplit(address).scheme:
                continue
            if address.startswith(base):  # the page for missing pages has absolute addresses
                found = site / unquote(urlsplit(address).path.removeprefix(base))
            else:
                found = (file.parent / unquote(urlsplit(address).path)) if address else file
            if found.is_dir():
                found /= "index.html"
            if not found.is_file():
                broken.append(f"{file.relative_to(site)}: {target}")
            elif anchor and found.suffix == ".html" and unquote(anchor) not in page(found).ids:
                broken.append(f"{file.relative_to(site)}: no anchor {target}")
    assert not broken, "\n".join(broken)


def test_no_anchor_is_given_twice(site):
    for file in html_files(site):
        assert not [name for name, count in page(file).ids.items() if count > 1], file


def test_nothing_is_loaded_from_another_site(site):
    """Links may lead elsewhere; scripts, styles, pictures and fonts come from here."""
    foreign = []
    for file in html_files(site):
        for tag, attributes in page(file).elements:
            if tag in ("script", "img", "link", "iframe", "source", "video", "audio"):
                if attributes.get("rel") in ("canonical", "author", "index", "search", "next", "prev"):
                    continue
                for key in ("src", "href", "srcset"):
                    if urlsplit(attributes.get(key, "")).netloc:
                        foreign.append(f"{file.relative_to(site)}: {tag} {attributes[key]}")
    for file in site.rglob("*.css"):
        text = file.read_text(encoding="utf-8", errors="replace")
        foreign += [
            f"{file.name}: {url}"
            for url in re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", text)
        ]
    assert not foreign, "\n".join(foreign)


def test_pages_load_only_the_scripts_they_use(site):
    for name in PAGES:
        loaded = " ".join(script.get("src", "") for script in page(site / f"{name}.html").all("script"))
        assert ("tex-chtml" in loaded) == ('class="math' in article(site, name)), name
        for never in ("thebe", "fontawesome", "vega", "require"):
            assert never not in loaded, f"{name} loads {never}"
        assert "thebe" not in (site / f"{name}.html").read_text(encoding="utf-8").lower()


def test_lesson_can_be_opened_in_colab_and_downloaded_as_it_is(site):
    repository = project.repository_url().removeprefix("https://github.com/")
    for lesson in LESSONS:
        file = site / f"{lesson.notebook.removesuffix('.ipynb')}.html"
        links = [link["href"] for link in page(file).all("a", having="href")]
        colab = f"https://colab.research.google.com/github/{repository}/blob/main/{lesson.notebook}"
        assert links.count(colab) == 2, "the header of the page and that of the lesson both offer Colab"
        downloads = [link["href"] for link in page(file).all("a", having="download")]
        assert downloads
        for address in downloads:
            assert (file.parent / address).read_bytes() == (ROOT / lesson.notebook).read_bytes()


def test_lesson_page_says_what_the_metadata_says(site):
    for lesson in LESSONS:
        text = " ".join(" ".join(page(site / f"{lesson.notebook.removesuffix('.ipynb')}.html").text).split())
        assert f"{lesson.number} · {lesson.title}" in text
        assert f"{lesson.minutes} minutes" in text
        assert f"mmscratch.{lesson.module}" in text
        for reference in lesson.reference:
            assert reference in text


def test_every_picture_has_an_alternative(site):
    for file in html_files(site):
        for image in page(file).all("img"):
            assert image.get("alt", "").strip() or image.get("role") == "presentation", f"{file}: {image}"


def test_pictures_of_lessons_have_a_size_so_that_text_does_not_jump(site):
    for name in LESSON_PAGES:
        for image in Html(article(site, name)).all("img"):
            assert image.get("width") and image.get("height") and image.get("loading") == "lazy", image


def test_figures_are_numbered_by_lesson_and_have_captions(site):
    for lesson in LESSONS:
        body = article(site, lesson.notebook.removesuffix(".ipynb"))
        numbers = re.findall(r'<span class="caption-number">Fig\. ([\d.]+) </span>', body)
        assert numbers == [f"{int(lesson.number)}.{n}" for n in range(1, len(numbers) + 1)]
        # a sound has no number: it says itself what it is
        pictures = re.findall(r'<figure\b(?! class="sound")', body)
        assert len(numbers) == len(pictures), "a figure without caption"


def test_exported_cells_say_where_they_go(site):
    for lesson in LESSONS:
        notebook = json.loads((ROOT / lesson.notebook).read_text(encoding="utf-8"))
        exported = sum("export" in cell["metadata"].get("tags", ()) for cell in notebook["cells"])
        body = article(site, lesson.notebook.removesuffix(".ipynb"))
        assert len(re.findall(rf'data-module="{lesson.module}" class="cell tag_export', body)) == exported > 0


def test_grid_shows_all_lessons_and_links_only_what_is_written(site):
    cards = re.findall(
        r'<li class="lesson-card (is-\w+)" data-lesson="(\d+)">(.*?)</li>', article(site, "index")
    )
    assert [number for _, number, _ in cards] == [f"{n:02d}" for n in range(1, 47)]
    written = {lesson.number: lesson for lesson in LESSONS}
    for state, number, card in cards:
        assert ("<a " in card) == (state == "is-written") == (number in written), number
        assert ("planned" in card) == (number not in written)
        if lesson := written.get(number):
            assert (
                f"{lesson.minutes} min" in card
                and f'href="{lesson.notebook.removesuffix(".ipynb")}.html"' in card
            )


def test_ledger_shows_every_measurement(site):
    path = ROOT / "data" / "benchmarks.json"
    body = article(site, "book/parity")
    if not path.exists():
        assert "ledger-empty" in body
        return
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert len(re.findall(r'<th scope="row">', body)) == len(rows)
    for row in rows:
        assert f"{row['parameters']:,}" in body and f"{row['forward_ratio']:.2f}" in body


def test_pages_have_addresses_and_a_card_for_those_who_share_them(site):
    for name in PAGES:
        html = page(site / f"{name}.html")
        assert [link["href"] for link in html.all("link") if link.get("rel") == "canonical"] == [
            f"{project.site_url()}{name}.html"
        ]
        meta = {each.get("property"): each.get("content") for each in html.all("meta")}
        assert meta["og:image"] == f"{project.site_url()}_static/card.png"
        assert len(meta["og:description"]) > 40
    assert (site / "_static" / "card.png").read_bytes()[16:24] == (1200).to_bytes(4, "big") + (630).to_bytes(
        4, "big"
    )
    locations = re.findall(r"<loc>(.*?)</loc>", (site / "sitemap.xml").read_text(encoding="utf-8"))
    assert {f"{project.site_url()}{name}.html" for name in PAGES} <= set(locations)


def test_style_sheet_and_figures_share_the_accent():
    style = (ROOT / "book" / "_static" / "course.css").read_text(encoding="utf-8")
    assert re.search(r"--accent: (#\w+);\s*/\* figures.ACCENT", style)[1].upper() == figures.ACCENT.upper()
    assert re.search(r"--accent: (#\w+);\s*/\* figures.SKY", style)[1].upper() == figures.SKY.upper()


# what the extension makes of a notebook


def transformed(*sources: str, code: tuple[dict, ...] = ()) -> list[dict]:
    from lessons.source import Page

    cells = [{"cell_type": "markdown", "metadata": {}, "source": text} for text in sources]
    cells += [{"cell_type": "code", "metadata": {}, "source": "", "outputs": [], **each} for each in code]
    Page({"cells": cells}, project.lessons(ROOT), "99_none", ROOT / "book").transform()
    return cells


VIT = "https://arxiv.org/abs/2010.11929"
MAE = "https://arxiv.org/abs/2111.06377"


def test_link_to_a_paper_becomes_a_citation_and_the_page_ends_with_its_reference():
    cells = transformed(f"As [Dosovitskiy et al. (2021)]({VIT}) say.")
    assert cells[0]["source"] == "As Dosovitskiy et al. (2021){footcite:p}`dosovitskiy2021image` say."
    assert "footbibliography" in cells[-1]["source"]


def test_code_and_links_elsewhere_stay_as_they_are():
    text = (
        f"`[a]({VIT})` and ``[b]({VIT})``\n\n```python\n[c]({VIT})\n```\n[d](https://example.org) ![e]({VIT})"
    )
    cells = transformed(text)
    assert cells[0]["source"] == text
    assert len(cells) == 1, "nothing is cited, so there is no bibliography"


def test_link_to_the_glossary_becomes_a_term_and_a_missing_one_is_kept_for_sphinx_to_report():
    source = transformed(
        "[the token](../book/glossary.md#term-cls-token) [x](../book/glossary.md#term-nonsense)",
        "[y](../book/glossary.md#term-frechet-distance)",
    )
    assert source[0]["source"] == "{term}`the token <CLS token>` {term}`x <nonsense>`"
    assert source[1]["source"] == "{term}`y <Fréchet distance>`"


def test_section_of_references_is_printed_once():
    cells = transformed(
        f"[ViT]({VIT})",
        f"## References\n\nFirst papers first.\n\n- [ViT]({VIT})\n- [MAE]({MAE}), section 3\n",
    )
    source = cells[1]["source"]
    assert "First papers first." in source and "[ViT]" not in source
    assert source.count("{footcite:p}") == 1 and "he2022masked" in source
    assert source.count("footbibliography") == len(cells) - 1 == 1


def test_solution_is_folded_with_its_output():
    solution = transformed(code=({"metadata": {"tags": ["solution", "hide-input"]}},))[0]["metadata"]
    assert solution["tags"] == ["solution", "hide-cell"]
    assert solution["mystnb"]["code_prompt_show"] == "Show the solution"


def test_live_figure_gets_the_number_and_caption_of_a_figure():
    output = figures.live({"mark": "point"}, alt="Dots.", caption="Look.", name="fig-99-dots")
    cell = transformed(code=({"outputs": [{"output_type": "display_data", "data": output}]},))[0]
    assert cell["metadata"]["mystnb"]["figure"] == {
        "name": "fig-99-dots",
        "caption": "Look.",
        "classes": "live",
    }


def test_quiz_shows_markup_instead_of_running_it():
    from lessons.outputs import quiz_html

    question = {
        "prompt": "<img src=x onerror=alert(1)> `a<b` $x^2$",
        "options": ["<b>", "c"],
        "answer": 1,
        "why": "&",
    }
    text = quiz_html([question], "q")
    assert "<img" not in text and "<b>" not in text
    assert "<code>a&lt;b</code>" in text and r"\(x^2\)" in text


def test_small_differences_are_written_for_readers():
    from lessons.directives import scientific

    assert scientific(0) == "0"
    assert scientific(4.8e-7) == "4.8 × 10<sup>−7</sup>"


def test_glossary_is_in_order_and_bibliography_has_no_double():
    from lessons.source import citation_keys, glossary_terms

    terms = list(glossary_terms(ROOT / "book").values())
    assert terms == sorted(terms, key=str.lower) and len(terms) > 20
    entries = re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text(encoding="utf-8"), re.M)
    assert sorted(citation_keys(ROOT / "book").values()) == sorted(set(entries)) == sorted(entries)


# in a browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def address(site):
    """Where the site is served, with a trailing slash."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium found: install the package chromium to test the site in a browser")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address):
    """Open a page: `visit("index", width=390, scripts=False)`. Its complaints are in `tab.problems`."""
    contexts = []

    def open_page(name: str, *, width: int = 1280, scheme: str = "light", scripts: bool = True):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        tab = context.new_page()
        tab.problems = problems = []
        tab.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
        tab.on(
            "request",
            lambda r: (
                None
                if r.url.startswith((address, "data:", "blob:"))
                else problems.append(f"foreign: {r.url}")
            ),
        )
        tab.goto(urljoin(address, f"{name}.html"))
        tab.wait_for_load_state("networkidle")
        return tab

    yield open_page
    for context in contexts:
        context.close()


def scroll_through(tab) -> None:
    height = tab.evaluate("document.documentElement.scrollHeight")
    for y in range(0, height, 700):
        tab.evaluate(f"window.scrollTo(0, {y})")
        tab.wait_for_timeout(15)
    tab.wait_for_function("!document.querySelector('.live-figure:not(.is-drawn)')")
    tab.wait_for_load_state("networkidle")


def violations(tab) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    # its preloading asks for the imports of style sheets at wrong addresses
    found = Axe().run(tab, options={"preload": False}).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {each['help']}: {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("name", [*PAGES, "search"])
def test_page_in_a_browser_is_quiet_accessible_and_fits_a_phone(visit, name):
    tab = visit(name)
    scroll_through(tab)
    assert not tab.problems
    assert not violations(tab), "in light mode"
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    tab.wait_for_timeout(250)  # the theme fades from one to the other
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background)[:3])) < 64, background
    assert not violations(tab), "in dark mode"
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.wait_for_timeout(600)  # the theme makes what now scrolls reachable by keyboard, a little later
    wider = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wider == 0, f"{wider} px wider than a phone"
    assert not violations(tab), "on a phone"
    assert not tab.problems


@pytest.mark.parametrize("name", LESSON_PAGES)
def test_live_figures_are_drawn_and_follow_their_controls(visit, name):
    tab = visit(name)
    assert not tab.evaluate("'vegaEmbed' in window && !document.querySelector('.live-figure')")
    scroll_through(tab)
    figure_count = tab.locator(".live-figure").count()
    assert figure_count >= 1, "a lesson has at least one figure to touch"
    assert tab.locator(".live-figure .live-drawing svg").count() == figure_count
    for control in tab.locator(".live-figure input[type=range]").all():
        drawing = control.locator("xpath=ancestor::div[contains(@class, 'live-drawing')]").locator("svg")
        before = drawing.inner_html()
        control.focus()
        at_end = control.evaluate("input => Number(input.value) >= Number(input.max)")
        tab.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
        tab.wait_for_function(
            "([svg, before]) => svg.innerHTML !== before", arg=[drawing.element_handle(), before]
        )
    assert not tab.problems


@pytest.mark.parametrize("name", LESSON_PAGES)
def test_live_figure_on_a_phone_stays_inside_its_card(visit, name):
    tab = visit(name, width=390)
    scroll_through(tab)
    for card in tab.locator(".live-figure").all():
        spills = card.evaluate("card => card.scrollWidth - card.clientWidth")
        assert spills <= 1 or card.get_attribute("tabindex") == "0", (
            "what scrolls can be reached with the keyboard"
        )


@pytest.mark.parametrize("name", LESSON_PAGES)
def test_quiz_works_with_the_keyboard_alone(visit, name):
    tab = visit(name)
    forms = tab.locator(".quiz-question").all()
    assert forms, "a lesson ends with a quiz"
    for form in forms:
        options, verdict = form.locator("input"), form.locator(".quiz-verdict")
        right = int(form.get_attribute("data-answer"))
        wrong = (right + 1) % options.count()
        options.first.focus()
        tab.keyboard.press("Tab")
        assert form.locator(".quiz-check").evaluate("button => button === document.activeElement")
        tab.keyboard.press("Enter")
        assert "Choose" in verdict.inner_text()
        for choice, words in ((wrong, "Not quite"), (right, "Right")):
            options.nth(choice).focus()
            tab.keyboard.press("Space")
            tab.keyboard.press("Enter")
            assert words in verdict.inner_text()
        assert form.locator(".quiz-why p").is_visible(), "the reason is shown"
    assert f"{len(forms)} of {len(forms)} right" in tab.locator("[data-quiz-score]").inner_text()
    assert not tab.problems


@pytest.mark.parametrize("name", LESSON_PAGES)
def test_lesson_without_scripts_still_shows_figures_and_answers(visit, name):
    tab = visit(name, scripts=False)
    for picture in tab.locator(".live-picture").all():
        assert picture.is_visible()
    assert not tab.locator(".quiz-check").first.is_visible()
    answer = tab.locator(".quiz-why").first
    answer.locator("summary").click()
    assert answer.locator("p").is_visible()


def test_search_finds_a_term(visit):
    tab = visit("search")
    tab.goto(tab.url + "?q=registers")
    tab.wait_for_selector("#search-results li", timeout=15000)
    assert "Glossary" in tab.locator("#search-results").inner_text()
