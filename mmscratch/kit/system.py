"""System packages that pip cannot install: found, installed where permitted, else named in one line.

`python -m mmscratch.kit.system chromium tesseract`
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Tool(NamedTuple):
    """What to look for (a program or a file), the Debian packages that bring it, and what it is for."""

    found_by: tuple[str, ...]
    packages: tuple[str, ...]
    purpose: str


TOOLS = {
    "chromium": Tool(
        ("chromium", "chromium-browser", "google-chrome"),
        ("chromium", "fonts-dejavu-core"),
        "the tests of the site",
    ),
    "tesseract": Tool(("tesseract",), ("tesseract-ocr",), "the lessons on OCR"),
    "espeak-ng": Tool(("espeak-ng",), ("espeak-ng",), "make data (speech)"),
    "noto-emoji": Tool(
        ("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",),
        ("fonts-noto-color-emoji",),
        "make data (emoji)",
    ),
}


def find(name: str) -> str | None:
    """Path of a tool, or None. ValueError for a name we do not know."""
    if name not in TOOLS:
        raise ValueError(f"expected one of {', '.join(TOOLS)}, got {name!r}")
    for place in TOOLS[name].found_by:
        if place.startswith("/"):
            path = place if Path(place).is_file() else None
        else:
            path = shutil.which(place)
        if path:
            return path
    return None


def advice(name: str) -> str:
    """The one line that tells a person how to install a tool."""
    packages = " ".join(TOOLS[name].packages)
    return f"{name} is missing ({TOOLS[name].purpose}). On Debian or Ubuntu: sudo apt-get install {packages}"


def _as_root() -> list[str] | None:
    """How to become root without asking anybody: already, by sudo without a password, or not at all."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def ensure(name: str) -> bool:
    """True when the tool is there, installing it first where that is permitted; else one line of advice."""
    if find(name):
        return True
    prefix = _as_root() if shutil.which("apt-get") else None
    if prefix is not None:
        print(f"Installing {' '.join(TOOLS[name].packages)} ...", flush=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *TOOLS[name].packages]
        for command in (["apt-get", "update", "-qq"], install):
            subprocess.run([*prefix, *command], env=quiet, capture_output=True)
    if find(name):
        return True
    print(advice(name))
    return False


def main() -> None:
    for name in sys.argv[1:]:
        ensure(name)


if __name__ == "__main__":
    main()
