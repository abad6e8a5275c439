"""Tesseract on the same pictures: single words in one go, whole pages with its own layout.

Tesseract is a program, not a package (`kit.system` says how to install it); pytesseract calls it. Where one
of them is missing, `obstacle()` is a sentence that says so and the functions raise RuntimeError with it.

    tesseract.words([image, ...])        # one text each; page segmentation mode 7: "a single text line"
    tesseract.page(image).words          # mode 3: "fully automatic"; boxes, lines, confidences
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmscratch.kit import system, typeset

BORDER = 10  # pixels of ground around a word: Tesseract wants air
PLAIN = str.maketrans("‘’‚“”„—–", '\'\',"""--')  # typographic marks as `typeset` prints them
HEIGHT = 36  # to which words are scaled: 24 to 36 do alike on damaged training words, 48 and 64 worse


@dataclass(frozen=True)
class Found:
    """A word that Tesseract read: text, box (left, top, right, bottom), line, confidence from 0 to 1."""

    text: str
    box: tuple[int, int, int, int]
    line: int
    confidence: float


@dataclass(frozen=True)
class PageFound:
    """What Tesseract read on a page, in its reading order, and the seconds that it took."""

    words: list[Found]
    seconds: float

    @property
    def text(self) -> str:
        """Words joined by spaces, lines by newlines."""
        return typeset.as_text(self.words)


def obstacle() -> str:
    """Why Tesseract cannot be asked here, in a sentence; empty where it can."""
    if system.find("tesseract") is None:
        return system.advice("tesseract")
    if importlib.util.find_spec("pytesseract") is None:
        return 'pytesseract is missing (the lessons on OCR): pip install "mmscratch[ocr]"'
    return ""


def version() -> str:
    """Such as "5.3.0"."""
    return str(_client().get_tesseract_version()).split("-")[0]


def _client():
    if reason := obstacle():
        raise RuntimeError(reason)
    import pytesseract

    os.environ.setdefault("OMP_THREAD_LIMIT", "1")  # one thread, as the models of the book are timed
    return pytesseract


def words(images: Sequence[Tensor], *, psm: int = 7, height: int = HEIGHT, border: int = BORDER) -> list[str]:
    """The text of each picture of one word, (H, W) grey, uint8; one call of the program for all of them.

    Each is scaled to `height` pixels and gets a border of its ground. psm: 7 a line, 8 a word, 13 a raw
    line. Spaces inside a word are removed, typographic quotes and dashes made plain. Mode 7 reads words
    better than mode 8, which often invents marks.
    """
    client = _client()
    if psm not in (6, 7, 8, 10, 13):
        raise ValueError(f"expected psm 6, 7, 8, 10 or 13 for pictures of words, got {psm}")
    if not len(images):
        return []
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, image in enumerate(images):
            paths.append(str(Path(folder, f"{i:05}.png")))
            framed(image, height, border).save(paths[-1])
        listing = Path(folder, "all.txt")
        listing.write_text("\n".join(paths) + "\n")
        text = client.image_to_string(str(listing), config=f"--psm {psm} --dpi 300")
    pages = text.split("\f")[: len(images)]
    if len(pages) < len(images):
        raise RuntimeError(f"expected {len(images)} texts of Tesseract, got {len(pages)}")
    return ["".join(page.split()).translate(PLAIN) for page in pages]


def framed(image: Tensor, height: int, border: int) -> Image.Image:
    """A grey picture at a given height, with a border of the median of its edge."""
    if image.ndim != 2 or min(image.shape) < 1:
        raise ValueError(f"expected a grey picture (H, W), got {tuple(image.shape)}")
    edge = torch.cat([image[0], image[-1], image[:, 0], image[:, -1]])
    picture = Image.fromarray(np.ascontiguousarray(image.numpy()))
    picture = picture.resize(
        (max(1, round(picture.width * height / picture.height)), height), Image.Resampling.BICUBIC
    )
    size = (picture.width + 2 * border, height + 2 * border)
    ground = Image.new("L", size, int(edge.median()))
    ground.paste(picture, (border, border))
    return ground


def page(image: Tensor, *, psm: int = 3, scale: float = 1.0) -> PageFound:
    """Read a page (3, H, W), uint8, with Tesseract's own layout analysis. `scale` enlarges it first.

    psm: 1 with and 3 without finding its orientation, 4 one column, 6 one block, 11 sparse text.
    """
    client = _client()
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"expected a picture (3, H, W) with pixels, got {tuple(image.shape)}")
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    start = time.perf_counter()
    if scale != 1:
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
        )
    told = client.image_to_data(picture, config=f"--psm {psm}", output_type=client.Output.DICT)
    seconds = time.perf_counter() - start
    lines: dict[tuple, int] = {}
    found = []
    for i, text in enumerate(told["text"]):
        if not text.strip():
            continue
        place = tuple(told[key][i] for key in ("block_num", "par_num", "line_num"))
        left, top, wide, high = (told[key][i] / scale for key in ("left", "top", "width", "height"))
        box = (round(left), round(top), round(left + wide), round(top + high))
        found.append(
            Found(
                text.translate(PLAIN), box, lines.setdefault(place, len(lines)), float(told["conf"][i]) / 100
            )
        )
    return PageFound(found, seconds)
