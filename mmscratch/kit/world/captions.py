"""True sentences about a scene."""

import random
from itertools import pairwise

import torch

from .scenes import Scenes, Thing
from .words import CAPTION_MARGIN, HALVES, RELATIONS, article, python_random, require


def captions(
    scenes: Scenes, *, style: str = "canonical", generator: torch.Generator | None = None
) -> list[str]:
    """One true sentence per scene.

    canonical: every attribute, leftmost object first, and of two about equally far left the upper one, as in
    "a small red ring left of a large blue star above a small green cross" (each relation holds between the
    two phrases around it). varied: random order, wording and relations, size often left out, drawn from
    `generator`.
    """
    require(style, ("canonical", "varied"), "style")
    if style == "canonical":
        return [_canonical(scene) for scene in scenes.things()]
    rng = python_random(generator)
    return [_varied(scene, rng) for scene in scenes.things()]


def _canonical(scene: list[Thing]) -> str:
    columns: list[list[Thing]] = []
    for thing in sorted(scene, key=lambda t: t.x):
        if columns and thing.x - columns[-1][-1].x < CAPTION_MARGIN:
            columns[-1].append(thing)
        else:  # clearly further right than all before it
            columns.append([thing])
    for column in columns:
        column.sort(key=lambda t: t.y)
    return " left of ".join(" above ".join(describe(t) for t in column) for column in columns)


def _varied(scene: list[Thing], rng: random.Random) -> str:
    scene = rng.sample(scene, len(scene))
    phrases = [describe(t, rng.random() < 0.5) for t in scene]
    start = rng.choice(("", "there is ", "a picture of "))
    if len(scene) == 1:
        halves = true_halves(scene[0], CAPTION_MARGIN)
        if halves and rng.random() < 0.5:
            half = rng.choice(halves)
            return f"{start}{phrases[0]} {'at' if half in ('top', 'bottom') else 'on'} the {half}"
        return start + phrases[0]
    if rng.random() < 0.5:
        return f"{start}{', '.join(phrases[:-1])} and {phrases[-1]}"
    text = start + phrases[0]
    for (a, b), phrase in zip(pairwise(scene), phrases[1:], strict=True):
        text += f" {rng.choice(true_relations(a, b, CAPTION_MARGIN) or ('and',))} {phrase}"
    return text


def describe(thing: Thing, with_size: bool = True) -> str:
    """The object with its article, such as "a small red ring"."""
    if with_size:
        return f"a {thing.size} {thing.colour} {thing.shape}"
    return f"{article(thing.colour)} {thing.colour} {thing.shape}"


def true_relations(a: Thing, b: Thing, margin: float) -> list[str]:
    """Which of RELATIONS hold for a seen from b, by at least the margin."""
    steps = (b.x - a.x, a.x - b.x, b.y - a.y, a.y - b.y)
    return [name for name, step in zip(RELATIONS, steps, strict=True) if step >= margin]


def true_halves(a: Thing, margin: float) -> list[str]:
    """Which of HALVES hold the centre of a, by at least the margin."""
    steps = (0.5 - a.x, a.x - 0.5, 0.5 - a.y, a.y - 0.5)
    return [name for name, step in zip(HALVES, steps, strict=True) if step >= margin]
