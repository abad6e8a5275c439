"""Printed text with its truth: words in many typefaces, whole pages, and the damage that scanning does.

Training and test share no typeface and no word of the lexicon, so a reader that does well on `split="test"`
has learned letters and not the fonts or the vocabulary. Everything follows from one generator.

    g = torch.Generator().manual_seed(0)
    printed = typeset.words(64, generator=g, split="train", damaged=True)   # .image (H, W) uint8, .text
    page = typeset.page(generator=g, split="test")                          # .image (3, H, W) uint8, .words
    page.words[0].text, page.words[0].box                                   # "Harbour", (32, 28, 141, 52)

Boxes are (left, top, right, bottom) in pixels, right and bottom exclusive, and hold exactly the ink.
"""

from __future__ import annotations

import functools
import io
import random
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from mmscratch.kit import data
from mmscratch.kit.make_fonts import FACES

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Box = tuple[int, int, int, int]
Colour = tuple[int, int, int]

CHARACTERS = string.digits + string.ascii_letters + "!\"#$%&'()*+,-./:;=?@"
"""Every character that can be printed, but for the space between words."""

SPLITS = ("train", "test")
TEST_FAMILIES = (
    "archivo-narrow", "cabin", "eb-garamond", "jetbrains-mono", "karla", "rubik", "spectral", "zilla-slab",
)  # fmt: skip
FONTS = {
    "train": tuple(face for face in FACES if not face.startswith(TEST_FAMILIES)),
    "test": tuple(face for face in FACES if face.startswith(TEST_FAMILIES)),
}


@dataclass(frozen=True)
class Word:
    """A word on a page: its text, the box of its ink, and the line and block it belongs to."""

    text: str
    box: Box
    line: int = 0
    block: int = 0


@dataclass(frozen=True)
class Printed:
    """One word as a picture (H, W), uint8, cut out with a small margin; `face` names its typeface."""

    image: Tensor
    text: str
    face: str


def as_text(words: Iterable[Any]) -> str:
    """What has a `text` and the number of a `line`, joined by spaces, lines by newlines; "" for no word."""
    lines: dict[int, list[str]] = {}
    for word in words:
        lines.setdefault(word.line, []).append(word.text)
    return "\n".join(" ".join(line) for line in lines.values())


@dataclass(frozen=True)
class Page:
    """A page (3, H, W), uint8, with its words in reading order."""

    image: Tensor
    words: list[Word]

    @property
    def text(self) -> str:
        """The words in reading order, one space between words, one newline between lines."""
        return as_text(self.words)


def dice(generator: torch.Generator) -> random.Random:
    """A fast source of single draws, seeded by one draw of `generator`."""
    return random.Random(int(torch.randint(2**62, (), generator=generator)))


def check_split(split: str) -> str:
    """`split`, or a ValueError that lists the splits."""
    if split not in SPLITS:
        raise ValueError(f"expected split to be one of {', '.join(SPLITS)}, got {split!r}")
    return split


@functools.lru_cache(maxsize=512)
def font(face: str, size: int) -> FreeTypeFont:
    """A typeface of `FONTS` at `size` pixels a line. ValueError for an unknown name or a size below 5."""
    if face not in FACES:
        raise ValueError(f"expected one of {len(FACES)} faces such as {FACES[0]}, got {face!r}")
    if size < 5:
        raise ValueError(f"expected a font size of at least 5 pixels, got {size}")
    # the basic layout needs no library that a machine may lack, so boxes are the same everywhere
    return ImageFont.truetype(data.path(f"fonts/{face}.ttf"), size, layout_engine=ImageFont.Layout.BASIC)


# ---------------------------------------------------------------------------------------------------------
# What is written


UNFIT = frozenset("sex sexy sexual boob boobs lgbt lgbtq porn nude naked poop".split())  # for a random page


@functools.lru_cache(maxsize=2)
def lexicon(split: str) -> tuple[str, ...]:
    """Lower-case English words (names and tags of the emoji), four of five in "train", the rest in "test"."""
    import zlib

    check_split(split)
    emoji = data.emoji(size=8)
    texts = [*emoji.names, *(tag for tags in emoji.tags for tag in tags)]
    found = {part for text in texts for part in text.lower().replace("-", " ").split()}
    found = {word for word in found if 2 < len(word) < 13 and word.isascii() and word.isalpha()}
    found -= UNFIT
    test = [word for word in sorted(found) if zlib.crc32(word.encode()) % 5 == 0]
    return tuple(test if split == "test" else sorted(found.difference(test)))


def text(rng: random.Random, split: str) -> str:
    """One token as documents have them: a word, a number, a date, a price, a code."""
    draw = rng.random()
    if draw < 0.68:
        word = rng.choice(lexicon(split))
        word = rng.choices([word, word.capitalize(), word.upper()], [6, 3, 1])[0]
        mark = rng.random()
        if mark < 0.16:
            return word + rng.choice(",.:;!?,.")
        if mark < 0.20:
            return rng.choice(["({})", '"{}"', "'{}'", "{}'s", "#{}", "*{}"]).format(word)
        return f"{word}-{rng.choice(lexicon(split))[:5]}" if mark < 0.22 else word
    if draw < 0.90:
        return number(rng)
    code = "".join(rng.choices(string.ascii_uppercase + string.digits, k=rng.randint(2, 4)))
    if draw < 0.96:
        return code + rng.choice(["-", "/", ""]) + str(rng.randint(0, 9999))
    return rng.choice(["{}@{}.com", "{}+{}", "{}={}", "{}&{}", "{}/{}"]).format(
        rng.choice(lexicon(split))[:6], rng.choice(lexicon(split))[:6]
    )


def number(rng: random.Random) -> str:
    """A number as it is printed: 1,204, 37.5, 12%, $8.99, (350), 2026-11-22, 14:05."""
    size = 10 ** rng.randint(1, 5)
    kind = rng.randint(0, 7)
    if kind < 2:
        return f"{rng.randrange(size):,}"
    if kind == 2:
        return f"{rng.random() * min(size, 1000):.{rng.randint(1, 2)}f}"
    if kind == 3:
        return f"{rng.choice(['', '-', '+'])}{rng.randrange(100)}{rng.choice(['', '.5'])}%"
    if kind == 4:
        return f"${rng.random() * size:,.2f}"
    if kind == 5:
        day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1950, 2039)
        return rng.choice([f"{year}-{month:02}-{day:02}", f"{day}/{month}/{year}", f"{day}.{month}.{year}"])
    if kind == 6:
        return f"{rng.randrange(24):02}:{rng.randrange(60):02}"
    return rng.choice(["({})", "{}", "{}x", "No.{}"]).format(rng.randrange(size))


# ---------------------------------------------------------------------------------------------------------
# How it is printed


class Sheet:
    """A picture that remembers every word written on it."""

    def __init__(self, width: int, height: int, ground: Colour = (255, 255, 255)):
        self.picture = Image.new("RGB", (width, height), ground)
        self.draw = ImageDraw.Draw(self.picture)
        self.words: list[Word] = []
        self.lines = 0

    def write(
        self, x: float, y: float, content: str, *, face: str, size: int, colour: Colour = (0, 0, 0),
        align: str = "left", angle: int = 0, block: int = 0,
    ) -> Box:  # fmt: skip
        """One line of words at x (its left, middle or right, as `align` says) below y; the box of its ink.

        `angle` turns it counter-clockwise, in degrees: then (x, y) is the top left, middle or right of the
        turned line. ValueError for a line without a character, or outside the sheet.
        """
        if not content.strip():
            raise ValueError(f"expected a line with at least one character, got {content!r}")
        kind, share = font(face, size), {"left": 0.0, "middle": 0.5, "right": 1.0}[align]
        width = kind.getlength(content)
        if angle % 360:
            boxes = self._turned(x, y, content, kind, colour, share, angle)
        else:
            x, boxes, gap = round(x - share * width), [], kind.getlength(" ")
            for part in content.split():
                left = round(x)
                self.draw.text((left, round(y)), part, font=kind, fill=colour)
                boxes.append((part, tuple(map(int, self.draw.textbbox((left, round(y)), part, font=kind)))))
                x += kind.getlength(part) + gap
        for part, (left, top, right, bottom) in boxes:
            if left < 0 or top < 0 or right > self.picture.width or bottom > self.picture.height:
                raise ValueError(
                    f"{part!r} at {(left, top, right, bottom)} leaves the {self.picture.size} sheet"
                )
            self.words.append(Word(part, (left, top, right, bottom), self.lines, block))
        self.lines += 1
        edges = list(zip(*(box for _, box in boxes), strict=True))
        return min(edges[0]), min(edges[1]), max(edges[2]), max(edges[3])

    def _turned(self, x, y, content, kind, colour, share, angle):
        """Each word drawn on the whole line's canvas, turned and laid on the sheet."""
        width, height = int(kind.getlength(content)) + 4, sum(kind.getmetrics()) + 4
        boxes, at, place = [], 2.0, None
        for part in content.split():
            ink = Image.new("L", (width, height))
            ImageDraw.Draw(ink).text((round(at), 2), part, font=kind, fill=255)
            ink = ink.rotate(angle, Image.Resampling.BICUBIC, expand=True)
            ink = ink.point(lambda v: 0 if v < 8 else v)
            place = (round(x - share * ink.width), round(y))
            self.picture.paste(colour, place, ink)
            left, top, right, bottom = ink.getbbox()
            boxes.append((part, (left + place[0], top + place[1], right + place[0], bottom + place[1])))
            at += kind.getlength(part) + kind.getlength(" ")
        return boxes

    def tensor(self) -> Tensor:
        """The picture, (3, H, W) uint8."""
        return to_tensor(self.picture)


def to_tensor(picture: Image.Image) -> Tensor:
    """(H, W) of a grey picture, (3, H, W) of a coloured one; uint8."""
    array = torch.from_numpy(np.array(picture))
    return array.permute(2, 0, 1).contiguous() if array.ndim == 3 else array


def damage(picture: Image.Image, rng: random.Random, *, strength: float = 1.0) -> Image.Image:
    """What scanners, phones and chat applications do: uneven light, blur, noise, JPEG. Boxes stay true.

    `strength` 0 leaves the picture alone, 1 makes it hard to read in places.
    """
    if not 0 <= strength <= 2:
        raise ValueError(f"expected a strength in [0, 2], got {strength}")
    if strength == 0:
        return picture
    if rng.random() < 0.6:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.1) * strength))
    noise = np.random.default_rng(rng.getrandbits(62))
    array = np.asarray(picture, dtype=np.float32)
    height, width = array.shape[:2]
    slope = rng.uniform(-40, 40) * strength
    light = slope * (
        np.linspace(-0.5, 0.5, width)[None] + rng.uniform(-1, 1) * np.linspace(-0.5, 0.5, height)[:, None]
    )
    grain = noise.standard_normal((height, width), dtype=np.float32) * rng.uniform(0, 22) * strength
    added = (light + grain).astype(np.float32)
    array = array + (added[..., None] if array.ndim == 3 else added)
    picture = Image.fromarray(array.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.6:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=int(rng.uniform(max(5, 60 - 45 * strength), 80)))
        picture = Image.open(stream)
        picture.load()
    return picture


def warp(mask: Image.Image, rng: random.Random) -> Image.Image:
    """The ink of a word as another typeface might have it: wider or narrower, slanted, at times bolder."""
    wide, slant = rng.uniform(0.75, 1.3), rng.uniform(-0.12, 0.22)
    if mask.height > 20 and rng.random() < 0.12:
        mask = mask.filter(ImageFilter.MaxFilter(3))
    width, height = mask.size
    room = abs(slant) * height
    size = (max(1, round(width * wide + room)), height)
    # each new point (x, y) is taken from ((x - shift(y)) / wide, y); the foot stays for a slant to the right
    left = slant * height if slant > 0 else 0.0
    turned = mask.transform(
        size,
        Image.Transform.AFFINE,
        (1 / wide, slant / wide, -left / wide, 0, 1, 0),
        Image.Resampling.BICUBIC,
    )
    return turned.crop(turned.getbbox())


def word(
    content: str, rng: random.Random, *, face: str, size: int = 32, damaged: bool = False,
    strength: float = 1.0, turn: float = 0.0, warped: bool = False,
) -> Printed:  # fmt: skip
    """One word in grey, with a margin of a few pixels. `damaged` also varies contrast and slant.

    `turn` rotates it by so many degrees, `warped` bends the typeface (`warp`). Ink and
    ground differ by at least a quarter of the range.
    """
    kind = font(face, size)
    left, top, right, bottom = kind.getbbox(content)
    if right <= left or bottom <= top:
        raise ValueError(f"expected a word with ink, got {content!r}")
    ink, ground = rng.randint(0, 40), rng.randint(225, 255)
    if damaged:
        ink, ground = rng.randint(0, 110), rng.randint(170, 255)
        if rng.random() < 0.2:
            ink, ground = ground, ink
        turn += rng.uniform(-2.5, 2.5) * strength
    room = [rng.randint(1, 2 + size // 12) for _ in range(4)]
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), content, font=kind, fill=255)
    if warped:
        mask = warp(mask, rng)
    if turn:
        mask = mask.rotate(turn, Image.Resampling.BICUBIC, expand=True)
        mask = mask.crop(mask.getbbox())
    picture = Image.new("L", (mask.width + room[0] + room[2], mask.height + room[1] + room[3]), ground)
    picture.paste(ink, (room[0], room[1]), mask)
    if damaged:
        picture = damage(picture, rng, strength=strength)
    return Printed(to_tensor(picture), content, face)


def words(
    n: int, *, generator: torch.Generator, split: str, damaged: bool | float = False, strength: float = 1.0,
    texts: Sequence[str] | None = None, warped: bool = False,
) -> list[Printed]:  # fmt: skip
    """n words, each with its own text, typeface and size (14 to 44 pixels).

    `damaged` True, or the share of words that is damaged. `warped` bends each typeface its own way, for
    training: 19 faces are few. `texts` sets what is written. ValueError for a
    character outside `CHARACTERS`.
    """
    check_split(split)
    if texts is not None and (len(texts) != n or set("".join(texts)) - set(CHARACTERS)):
        odd = "".join(sorted(set("".join(texts)) - set(CHARACTERS)))
        raise ValueError(f"expected {n} texts of known characters, got {len(texts)} and {odd!r}")
    rng, found = dice(generator), []
    for i in range(n):
        content = text(rng, split) if texts is None else texts[i]
        face, size = rng.choice(FONTS[split]), rng.randint(14, 44)
        hurt = rng.random() < float(damaged)
        found.append(word(content, rng, face=face, size=size, damaged=hurt, strength=strength, warped=warped))
    return found


# ---------------------------------------------------------------------------------------------------------
# Pages


def page(
    *, generator: torch.Generator, split: str, width: int = 640, height: int = 820,
    damaged: bool = False, columns: int | None = None, strength: float = 0.5,
) -> Page:  # fmt: skip
    """A page: a heading, paragraphs in one or two columns, and a ruled list of items and amounts."""
    check_split(split)
    if width < 320 or height < 240 or columns not in (None, 1, 2):
        raise ValueError(f"expected at least 320 x 240 and 1 or 2 columns, got {width} x {height}, {columns}")
    rng = dice(generator)
    dark, light = rng.randint(0, 60), rng.randint(235, 255)
    sheet = Sheet(width, height, (light, light, rng.randint(light - 8, light)))
    colour, margin = (dark, dark, dark), rng.randint(28, 44)
    body, size = rng.choice(FONTS[split]), rng.randint(13, 18)
    columns, y, block = columns or rng.randint(1, 2), margin, 0
    title = " ".join(rng.choice(lexicon(split)).capitalize() for _ in range(rng.randint(2, 4)))
    face, large = rng.choice(FONTS[split]), rng.randint(24, 34)
    while font(face, large).getlength(title) > width - 2 * margin:
        large -= 2
    accent = rng.choice([colour, (20, 60, 130), (120, 20, 30)])
    y = sheet.write(margin, y, title, face=face, size=large, colour=accent)[3] + size
    gutter = 2 * size
    column = (width - 2 * margin - (columns - 1) * gutter) // columns
    foot = height - margin - 7 * int(1.6 * size)
    for number_ in range(columns):
        x, at = margin + number_ * (column + gutter), y
        while at + 3 * size < foot:
            block += 1
            for line in _paragraph(rng, split, body, size, column):
                if at + 1.5 * size > foot:
                    break
                sheet.write(x, at, line, face=body, size=size, colour=colour, block=block)
                at += int(1.45 * size)
            at += size
    at, block = foot + size, block + 1
    for _ in range(rng.randint(3, 5)):
        item = " ".join(rng.choice(lexicon(split)).capitalize() for _ in range(rng.randint(1, 2)))
        sheet.draw.line([(margin, at - 4), (width - margin, at - 4)], fill=(150, 150, 150))
        sheet.write(margin, at, item, face=body, size=size, colour=colour, block=block)
        sheet.lines -= 1  # item and amount are one line of reading
        amount = f"${rng.random() * 10 ** rng.randint(1, 4):,.2f}"
        sheet.write(
            width - margin, at, amount, face=body, size=size, colour=colour, align="right", block=block
        )
        at += int(1.6 * size)
    picture = damage(sheet.picture, rng, strength=strength) if damaged else sheet.picture
    return Page(to_tensor(picture), sheet.words)


def _paragraph(rng: random.Random, split: str, face: str, size: int, width: int) -> list[str]:
    """Lines of a few sentences, each at most `width` pixels long."""
    kind, lines, line, start = font(face, size), [], "", True
    for _ in range(rng.randint(18, 40)):
        token = rng.choice(lexicon(split)) if rng.random() < 0.88 else number(rng)
        token = token.capitalize() if start else token
        start = rng.random() < 0.12
        token += "." if start else rng.choice(["", "", "", "", "", ","])
        longer = f"{line} {token}".strip()
        if kind.getlength(longer) > width and line:
            lines.append(line)
            longer = token
        line = longer
    return [*lines, line]


def turned(page: Page, degrees: float) -> Page:
    """The page turned counter-clockwise about its middle by a few degrees, boxes with it (loosely)."""
    import math

    picture = Image.fromarray(page.image.permute(1, 2, 0).numpy())
    ground = tuple(int(v) for v in page.image[:, 0, 0])
    picture = picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=ground)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    mx, my, found = (picture.width - 1) / 2, (picture.height - 1) / 2, []
    for each in page.words:
        left, top, right, bottom = each.box
        xs, ys = zip(
            *(
                (mx + cos * (x - mx) + sin * (y - my), my - sin * (x - mx) + cos * (y - my))
                for x in (left, right)
                for y in (top, bottom)
            ),
            strict=True,
        )
        box = (math.floor(min(xs)), math.floor(min(ys)), math.ceil(max(xs)), math.ceil(max(ys)))
        found.append(replace(each, box=box))
    return Page(to_tensor(picture), found)
