"""The words and measures of the tiny world, written once."""

import random
from collections.abc import Iterable

import torch

SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")
# Chosen by search so that any two, and each and the ground, stay apart (CIELAB distance above 20) for full
# colour vision and for simulated protanopia, deuteranopia and tritanopia; a test measures it.
COLOURS = {
    "red": "#BC0C27", "orange": "#EE882C", "yellow": "#FED300", "green": "#1F946A",
    "cyan": "#20CFF4", "blue": "#063AC5", "purple": "#764A96", "black": "#121212",
}  # fmt: skip
COLOUR_NAMES = tuple(COLOURS)
SIZES = ("small", "large")
# Radii are drawn from these ranges; a shape fits in the square of half-side `radius` around its centre.
RADII = {"small": (0.115, 0.135), "large": (0.17, 0.20)}
BIG_RADII = {"small": (0.20, 0.24), "large": (0.33, 0.37)}  # one object that fills 16 px, for generators
MAX_OBJECTS = 4
NUMBERS = ("zero", "one", "two", "three", "four")
RELATIONS = ("left of", "right of", "above", "below")
HALVES = ("left", "right", "top", "bottom")
SPLITS = ("train", "test", "heldout", "all")
# One colour withheld per shape, all six different: 6 of the 48 combinations.
HELD_OUT = (
    ("red", "circle"), ("yellow", "square"), ("green", "triangle"),
    ("blue", "cross"), ("purple", "star"), ("orange", "ring"),
)  # fmt: skip

GAP = 0.02  # least free space between the squares of two objects
EDGE = 0.01  # and between an object and the border
# A caption says "left of" from here on. Two objects are at least 2 * 0.115 + GAP apart along x or y, which is
# more than three of these margins: of up to four objects in one column, each is clearly above the next.
CAPTION_MARGIN = 0.08
QUESTION_MARGIN = 0.10  # a question about a position is asked only where the answer is clear by this much

PLURALS = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES} | {"object": "objects"}
OPPOSITES = {
    "left of": "right of", "right of": "left of", "above": "below", "below": "above",
    "left": "right", "right": "left", "top": "bottom", "bottom": "top",
}  # fmt: skip


def require(value: str, allowed: Iterable[str], what: str) -> None:
    """Refuse a name that is not one of the allowed."""
    if value not in allowed:
        raise ValueError(f"{what}: expected one of {', '.join(allowed)}, got {value!r}")


def rgb(colour: str) -> tuple[float, ...]:
    """#rrggbb as three numbers in [0, 1]."""
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def article(word: str) -> str:
    """The "a" or "an" that goes before a word."""
    return "an" if word[0] in "aeiou" else "a"


def python_random(generator: torch.Generator | None) -> random.Random:
    """Python's generator, seeded from torch's: texts are drawn word by word, where it is ten times faster."""
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"expected a torch.Generator, got {generator!r}")
    return random.Random(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
