"""Is the built site whole? Every page of `_toc.yml` must be there and say something.

`python -m mmscratch.kit.pages` ends by printing where the site is; with `--build` it builds it first.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from mmscratch.kit import project

LEAST_WORDS = 20


def expected(root: Path) -> list[str]:
    """Documents named in `_toc.yml`, the root page first."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))

    def walk(entries: list[dict]) -> list[str]:
        found = []
        for entry in entries:
            found += [entry["file"]] if "file" in entry else []
            for below in ("chapters", "sections"):
                found += walk(entry.get(below, []))
        return found

    return [toc["root"], *walk(toc.get("parts", [])), *walk(toc.get("chapters", []))]


def words(page: Path) -> int:
    """Words a reader sees in the article of a built page."""
    article = re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), re.S)
    text = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", article.group(0) if article else "", flags=re.S)
    return len(text.split())


def faults(root: Path) -> list[str]:
    """One line for each page that is missing or empty."""
    lines = []
    for name in expected(root):
        page = root / "_build" / "html" / f"{name}.html"
        if not page.exists():
            lines.append(f"missing page: {page.relative_to(root)}")
        elif (count := words(page)) < LEAST_WORDS:
            lines.append(f"empty page: {page.relative_to(root)} ({count} words)")
    return lines


def build(root: Path) -> None:
    """Build the site from scratch, strictly. SystemExit says what is wrong with it.

    An incremental build keeps stale sidebars, and warns only of the files that it reads. `.complete` is
    written last: a build that was interrupted is begun again. Of two that run at once one waits, and does
    nothing when the other has built meanwhile.
    """
    asked, stamp = time.time(), root / "_build" / "html" / ".complete"
    with project.exclusive(root / "_build"):
        if stamp.exists() and stamp.stat().st_mtime >= asked:
            return
        shutil.rmtree(root / "_build", ignore_errors=True)
        command = [Path(sys.executable).with_name("jupyter-book"), "build", str(root)]
        status = subprocess.run([*command, "-n", "-W", "--keep-going", "--quiet"]).returncode
        if status:
            sys.exit(status)
        if lines := faults(root):
            sys.exit("\n".join(lines))
        stamp.touch()


def main() -> None:
    root = project.require_root()
    if "--build" in sys.argv:
        return build(root)
    lines = faults(root)
    if lines:
        sys.exit("\n".join(lines))
    if "--quiet" not in sys.argv:
        site = root / "_build" / "html" / "index.html"
        print(f"{len(expected(root))} pages. The book is at {site.as_uri()}")


if __name__ == "__main__":
    main()
