"""The whole book as one PDF: every page of the site printed by headless Chromium, joined, with bookmarks.

`python -m mmscratch.kit.pdf` reads `_build/html` and writes `_build/multimodal-from-scratch.pdf`.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmscratch.kit import pages, project

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCALE = 0.75  # of letters on the screen: most lines of code fit the sheet
# all pictures, now; links to other pages of the book lead to its address, not to this machine's files
PREPARE = """(site) => {
  const here = new URL(document.documentElement.dataset.content_root, location.href).href;
  document.querySelectorAll("img[loading]").forEach((image) => { image.loading = "eager"; });
  document.querySelectorAll("a[href]").forEach((link) => {
    if (link.getAttribute("href").startsWith("#") || !link.href.startsWith(here)) return;
    link.href = site + link.href.slice(here.length);
  });
  return Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
}"""


def contents() -> list[str]:
    """The pages of the book in order."""
    return pages.expected(project.require_root())


def printed(tab: Any) -> bytes:
    """The page that is open in `tab`, one of Playwright, as tagged PDF; the style sheet says what is open."""
    tab.emulate_media(media="print", color_scheme="light")
    tab.evaluate("document.documentElement.dataset.theme = 'light'")
    tab.evaluate(PREPARE, project.site_url())
    margin = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
    return tab.pdf(format="A4", margin=margin, scale=SCALE, print_background=True, tagged=True)


def write(site: Path, names: Sequence[str], target: Path, *, browser: Any) -> int:
    """Print the pages `names` of the built `site` into `target` and return how many sheets it has.

    `browser` is one of Playwright's. Raises FileNotFoundError for a page that is not built.
    """
    from pypdf import PdfReader, PdfWriter

    book = PdfWriter()
    for name in names:
        page = site / f"{name}.html"
        if not page.is_file():
            raise FileNotFoundError(f"{page} is not there: run `make book` first")
        tab = browser.new_page(viewport={"width": 900, "height": 1200})
        tab.goto(page.resolve().as_uri())
        title = tab.locator("article h1").first.evaluate("h => h.firstChild.textContent")
        book.append(PdfReader(io.BytesIO(printed(tab))), outline_item=title.strip(), import_outline=False)
        tab.close()
    book.add_metadata({"/Title": "Multimodal from Scratch"})
    book.compress_identical_objects()
    with target.open("wb") as file:
        book.write(file)
    return len(book.pages)


def main() -> None:
    from playwright.sync_api import sync_playwright

    root = project.require_root()
    if (chromium := next(filter(None, map(shutil.which, BROWSERS)), None)) is None:
        sys.exit("Chromium is needed to print: install the package chromium")
    target = root / "_build" / "multimodal-from-scratch.pdf"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        sheets = write(root / "_build" / "html", contents(), target, browser=browser)
        browser.close()
    print(f"{sheets} pages. The book is at {target}")


if __name__ == "__main__":
    main()
