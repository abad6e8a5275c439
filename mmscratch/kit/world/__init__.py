"""The tiny world: a few coloured shapes on a light ground, and everything that is true about them.

Scenes are batches of numbers (`Scenes`); pictures, boxes, masks, captions, questions, answers and films are
all computed from them, so every claim a model makes can be checked. Lengths are in units of the picture's
side, x grows to the right and y grows downwards, as in an image. Words of this world live in `VOCABULARY` and
are read by `Tokeniser`; a sibling (charts, pages, sound, screens) reuses both and brings its own words.

    g = torch.Generator().manual_seed(0)
    scenes = world.sample(512, generator=g, split="train")
    images = world.render(scenes)                    # (512, 3, 32, 32) in [0, 1]
    texts = world.captions(scenes)                   # "a small red ring left of a large blue star"
    asked = world.questions(scenes, generator=g)     # .text, .answer, .kind, .scene
    ids = world.Tokeniser().encode(texts)            # (512, T)
    films = world.film(64, generator=g)              # .video (64, 16, 3, 32, 32), .motions, .captions()
"""

from .captions import captions
from .motion import MOTIONS, Film, film
from .pictures import boxes, masks, render
from .questions import ANSWERS, KINDS, Questions, questions
from .scenes import Scenes, Thing, sample
from .tokeniser import SPECIALS, VOCABULARY, Tokeniser
from .words import (
    BIG_RADII,
    COLOUR_NAMES,
    COLOURS,
    HALVES,
    HELD_OUT,
    MAX_OBJECTS,
    NUMBERS,
    RADII,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
)

__all__ = [
    "ANSWERS",
    "BIG_RADII",
    "COLOURS",
    "COLOUR_NAMES",
    "Film",
    "HALVES",
    "HELD_OUT",
    "KINDS",
    "MAX_OBJECTS",
    "MOTIONS",
    "NUMBERS",
    "Questions",
    "RADII",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "SPECIALS",
    "SPLITS",
    "Scenes",
    "Thing",
    "Tokeniser",
    "VOCABULARY",
    "boxes",
    "captions",
    "film",
    "masks",
    "questions",
    "render",
    "sample",
]
