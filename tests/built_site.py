"""The built site, as files and in a browser: what the tests of the site share.

The site is built, strictly, into `_build/html` if it is missing or older than what it is made of.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gzip
import http.server
import io
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import pytest
import yaml

from mmscratch.kit import project

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
    trees = [ROOT / "book", ROOT / "notebooks", ROOT / "mmscratch" / "kit", ROOT / "data" / "runs"]
    files = [path for tree in trees for path in tree.rglob("*") if path.suffix != ".pyc" and path.is_file()]
    singles = ["_config.yml", "_toc.yml", "index.md", "pyproject.toml", "requirements.lock"]
    singles += ["data/benchmarks.json", "data/manifest.json"]
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


class Served(http.server.SimpleHTTPRequestHandler):
    """As a host of pages serves them: text compressed."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def send_head(self):
        path = Path(self.translate_path(self.path))
        if path.suffix not in (".html", ".css", ".js", ".svg", ".json", ".xml") or not path.is_file():
            return super().send_head()
        text = compressed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        return io.BytesIO(text)


@functools.cache
def compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), 6)


@pytest.fixture(scope="session")
def address(site):
    """Where the site is served, with a trailing slash."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Served, directory=str(site)))
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
    """Open a page: `visit("index", width=390, scripts=False)`.

    Its complaints are in `tab.problems`, what it loaded in `tab.requests`, their bytes in `tab.bytes[0]`.
    `before`: a script that runs before the page's own. `slow`: how many times slower the processor is.
    `base`: where the site is, if not on the server. `context`: one that another tab has opened.
    """
    contexts = []

    def open_page(
        name: str,
        *,
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
        scripts: bool = True,
        before: str = "",
        slow: float = 1,
        base: str = address,
        context=None,
        **options,
    ):
        if context is None:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                java_script_enabled=scripts,
                **options,
            )
            context.set_default_timeout(120_000)  # a crowded machine is slow, not wrong
            contexts.append(context)
        tab = context.new_page()

        def failed(request):
            if request.failure != "net::ERR_ABORTED":  # going to another page gives up what is on its way
                tab.problems.append(f"failed: {request.url}: {request.failure}")

        tab.problems, tab.requests, tab.bytes = [], [], [0]
        tab.on("console", lambda m: tab.problems.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: tab.problems.append(str(error)))
        tab.on("requestfailed", failed)
        tab.on("request", lambda request: note(tab, request.url, base))
        network = context.new_cdp_session(tab)
        network.send("Network.enable")
        network.on("Network.loadingFinished", lambda event: count(tab, event["encodedDataLength"]))
        if slow != 1:
            network.send("Emulation.setCPUThrottlingRate", {"rate": slow})
        if before:
            tab.add_init_script(before)
        tab.goto(urljoin(base, f"{name}.html"))
        tab.wait_for_load_state("networkidle")
        return tab

    yield open_page
    for context in contexts:
        context.close()


def note(tab, url: str, base: str) -> None:
    if not url.startswith(("data:", "blob:")):
        tab.requests.append(url)
        if not url.startswith(base):
            tab.problems.append(f"foreign: {url}")


def count(tab, size: int) -> None:
    tab.bytes[0] += size


def turn(tab, scheme: str) -> bool:
    """Let the machine ask for "light" or "dark"; whether the page follows.

    The page hears of it with its next frame. A headless browser on a crowded machine may owe that frame for
    long, so the wish is said again, at most three times. False: the browser draws nothing any more.
    """
    from playwright.sync_api import Error

    followed = f"document.documentElement.dataset.theme === '{scheme}'"
    for _ in range(3):
        tab.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
        tab.emulate_media(color_scheme=scheme)
        with contextlib.suppress(Error, AssertionError):
            tab.screenshot(clip={"x": 0, "y": 0, "width": 1, "height": 1}, timeout=20_000)  # a frame, now
            until(tab, followed)
            return True
    return False


def until(tab, expression: str, seconds: float = 20) -> None:
    """Wait until `expression` is true. (Playwright's own waiting needs eval, which pages forbid.)"""
    end = time.monotonic() + seconds
    while not tab.evaluate(expression):
        assert time.monotonic() < end, f"still not true after {seconds} s: {expression}"
        tab.wait_for_timeout(50)


def scroll_through(tab) -> None:
    height = tab.evaluate("document.documentElement.scrollHeight")
    for y in range(0, height, 700):
        tab.evaluate(f"window.scrollTo(0, {y})")
        tab.wait_for_timeout(15)
    until(tab, "!document.querySelector('.live-figure:not(.is-drawn)')")
    tab.wait_for_load_state("networkidle")


# code is coloured alike everywhere: one of each kind is enough to look at, and axe looks at every word of it
THIN = """() => { const seen = new Set();
  for (const word of document.querySelectorAll(".highlight pre span")) {
    if (seen.has(word.className)) word.replaceWith(...word.childNodes);
    seen.add(word.className);
  } }"""


def violations(tab, *, colours: bool = True, structure: bool = True) -> list[str]:
    """What axe has against the page as it is: its colours, and all else."""
    from axe_playwright_python.sync_playwright import Axe

    tab.evaluate(THIN)
    # its preloading asks for the imports of style sheets at wrong addresses
    options = {"preload": False, "resultTypes": ["violations"]}
    if not structure:
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    if not colours:
        options["rules"] = {"color-contrast": {"enabled": False}}
    found = Axe().run(tab, options=options).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {each['help']}: {each['nodes'][0]['html'][:200]}" for each in found
    ]
