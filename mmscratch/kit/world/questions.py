"""Questions about a scene whose answers are known."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor

from .captions import true_halves, true_relations
from .scenes import Scenes, Thing
from .words import (
    COLOUR_NAMES,
    HELD_OUT,
    NUMBERS,
    OPPOSITES,
    PLURALS,
    QUESTION_MARGIN,
    SHAPES,
    SIZES,
    article,
    python_random,
    require,
)


@dataclass(eq=False)
class Questions:
    """N questions: text, answer (one word) and kind as lists, and the scene each is about, (N,) long."""

    text: list[str]
    answer: list[str]
    kind: list[str]
    scene: Tensor

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> "Questions":
        rows = torch.arange(len(self))[[index] if isinstance(index, int) else index].tolist()
        columns = ([column[i] for i in rows] for column in (self.text, self.answer, self.kind))
        return Questions(*columns, self.scene[rows])

    def __iter__(self) -> Iterator[tuple[str, str, str, int]]:
        return zip(self.text, self.answer, self.kind, self.scene.tolist(), strict=True)


def questions(
    scenes: Scenes,
    kinds: Sequence[str] | Mapping[str, float] = (),
    *,
    n: int | None = None,
    generator: torch.Generator,
) -> Questions:
    """n questions (default: as many as scenes) with their answers.

    kinds: names from KINDS, equally often (all if empty), or a mapping from name to weight. Scenes are taken
    in turn from those that allow the question, so a kind gets its share even if few scenes allow it.

    Yes and no are equally frequent in every form of question; an attribute is counted with answers zero, one
    and more equally often. What a question names is unique in its picture, and positions are clear by
    QUESTION_MARGIN. A "no" to "is there a red circle?" is often half true (something red, some circle), and
    names withheld combinations as often as a "yes" does, so training never teaches that they do not exist.
    """
    weights = dict(kinds) if isinstance(kinds, Mapping) else dict.fromkeys(kinds or KINDS, 1.0)
    for kind, weight in weights.items():
        require(kind, KINDS, "kind of question")
        if weight < 0:
            raise ValueError(f"expected a weight >= 0 for {kind}, got {weight}")
    if not any(weights.values()):
        raise ValueError(f"expected a kind of question with a weight above 0, got {weights}")
    n = len(scenes) if n is None else n
    rng = python_random(generator)
    things = scenes.things()
    turns = {}
    for kind in weights:
        rows = [i for i, scene in enumerate(things) if len(scene) >= _ASK[kind].objects]
        rng.shuffle(rows)
        turns[kind] = (cycle(rows), min(len(rows), 500))

    asked: tuple[list[str], list[str], list[str], list[int]] = ([], [], [], [])
    for kind in rng.choices(list(weights), list(weights.values()), k=n):
        rows, patience = turns[kind]
        found = None
        for attempt in range(20 * patience):
            # Form and answer are settled before a scene is looked for: drawing them anew for each scene
            # would make the rarer answer rarer still. They change only where no scene seems to allow them.
            if attempt % patience == 0:
                form, coin = rng.random(), rng.random()
            row = next(rows)
            found = _ASK[kind].ask(things[row], form, coin, rng)
            if found:
                break
        if found is None:
            raise ValueError(f"expected scenes that allow a question about {kind}, got none in {len(scenes)}")
        for column, value in zip(asked, (*found, kind, row), strict=True):
            column.append(value)
    return Questions(*asked[:3], torch.tensor(asked[3], dtype=torch.long))


_Asked = tuple[str, str] | None  # question and answer, or None where the scene does not allow it


def _referent(scene: list[Thing], target: Thing, hidden: str, rng: random.Random) -> str | None:
    """A phrase that fits the target alone and does not speak of the hidden attribute, e.g. "small circle"."""
    fitting = []
    for attributes in _DESCRIPTIONS[hidden]:
        if sum(all(getattr(t, a) == getattr(target, a) for a in attributes) for t in scene) == 1:
            fitting.append(attributes)
    if not fitting:
        return None
    attributes = rng.choice(fitting)
    words = [getattr(target, a) for a in attributes]
    return " ".join(words if attributes[-1] == "shape" else [*words, "object"])


_DESCRIPTIONS = {
    "colour": (("shape",), ("size", "shape")),
    "shape": (("colour",), ("size", "colour")),
    "size": (("shape",), ("colour",), ("colour", "shape")),
}


def _name(thing: Thing) -> str:
    return f"the {thing.colour} {thing.shape}"


def _attribute(hidden: str) -> Callable[[list[Thing], float, float, random.Random], _Asked]:
    def ask(scene: list[Thing], form: float, coin: float, rng: random.Random) -> _Asked:
        target = rng.choice(scene)
        phrase = _referent(scene, target, hidden, rng)
        return phrase and (f"what {hidden} is the {phrase}?", getattr(target, hidden))

    return ask


def _count(scene: list[Thing], form: float, coin: float, rng: random.Random) -> _Asked:
    if form < 0.25:
        return "how many objects are there?", NUMBERS[len(scene)]
    attribute = ("colour", "shape", "size")[int(form * 4) - 1]
    words = (COLOUR_NAMES, SHAPES, SIZES)[int(form * 4) - 1]
    counts = dict.fromkeys(words, 0)
    for thing in scene:
        counts[getattr(thing, attribute)] += 1
    wanted = int(coin * 3)
    fitting = [word for word, count in counts.items() if min(count, 2) == wanted]
    if not fitting:
        return None
    word = rng.choice(fitting)
    plural = PLURALS[word] if attribute == "shape" else f"{word} objects"
    return f"how many {plural} are there?", NUMBERS[counts[word]]


def _existence(scene: list[Thing], form: float, coin: float, rng: random.Random) -> _Asked:
    yes = coin < 0.5
    if form < 0.3:  # one attribute only
        attribute, words = ("colour", COLOUR_NAMES) if form < 0.15 else ("shape", SHAPES)
        there = {getattr(thing, attribute) for thing in scene}
        word = rng.choice([word for word in words if (word in there) == yes])
        word = f"{word} object" if attribute == "colour" else word
        return f"is there {article(word)} {word}?", "yes" if yes else "no"
    there = {(thing.colour, thing.shape) for thing in scene}
    model = rng.choice(scene)
    pair = model.colour, model.shape
    if not yes:
        withheld = pair in HELD_OUT  # what is denied is withheld as often as what is affirmed
        for _ in range(1000):
            colour, shape = rng.choice(COLOUR_NAMES), rng.choice(SHAPES)
            if rng.random() < 0.7:  # half true: what there is, with one attribute changed
                other = rng.choice(scene)
                halves = ((model.colour, other.shape), (model.colour, shape), (colour, model.shape))
                colour, shape = rng.choice(halves)
            pair = colour, shape
            if pair not in there and (pair in HELD_OUT) == withheld:
                break
        else:
            return None
    return f"is there {article(pair[0])} {pair[0]} {pair[1]}?", "yes" if yes else "no"


def _relation(scene: list[Thing], form: float, coin: float, rng: random.Random) -> _Asked:
    a, b = rng.sample(scene, 2)
    true = true_relations(a, b, QUESTION_MARGIN)
    if not true:
        return None
    word = rng.choice(true)
    word = word if coin < 0.5 else OPPOSITES[word]
    return f"is {_name(a)} {word} {_name(b)}?", "yes" if coin < 0.5 else "no"


def _where(scene: list[Thing], form: float, coin: float, rng: random.Random) -> _Asked:
    a, b = rng.sample(scene, 2)
    across, down = abs(a.x - b.x), abs(a.y - b.y)
    if abs(across - down) < QUESTION_MARGIN:  # neither direction is the main one
        return None
    if across > down:
        answer = "left" if a.x < b.x else "right"
    else:
        answer = "above" if a.y < b.y else "below"
    return f"where is {_name(a)} relative to {_name(b)}?", answer


def _position(scene: list[Thing], form: float, coin: float, rng: random.Random) -> _Asked:
    target = rng.choice(scene)
    true = true_halves(target, QUESTION_MARGIN / 2)
    if not true:
        return None
    half = rng.choice(true)
    half = half if coin < 0.5 else OPPOSITES[half]
    return f"is {_name(target)} in the {half} half?", "yes" if coin < 0.5 else "no"


def _comparison(scene: list[Thing], form: float, coin: float, rng: random.Random) -> _Asked:
    a, b = rng.sample(scene, 2)
    yes, answer = coin < 0.5, "yes" if coin < 0.5 else "no"
    if form < 0.4:
        word = "larger" if form < 0.2 else "smaller"
        true = a.size != b.size and (a.size == "large") == (word == "larger")
        return (f"is {_name(a)} {word} than {_name(b)}?", answer) if true == yes else None
    # Each is called by one attribute that is not compared: "the small circle" and "the large circle" never
    # share a colour, so the words alone would tell.
    hidden = "size" if form < 0.6 else "colour" if form < 0.8 else "shape"
    if (getattr(a, hidden) == getattr(b, hidden)) != yes:
        return None
    if hidden == "size":
        first, second = _name(a), _name(b)
    else:
        shown = "shape" if hidden == "colour" else "colour"
        words = [getattr(t, shown) for t in scene]
        first, second = getattr(a, shown), getattr(b, shown)
        if words.count(first) > 1 or words.count(second) > 1:
            return None
        noun = "" if shown == "shape" else " object"
        first, second = f"the {first}{noun}", f"the {second}{noun}"
    return f"are {first} and {second} the same {hidden}?", answer


class _Kind(NamedTuple):
    ask: Callable[[list[Thing], float, float, random.Random], _Asked]
    objects: int  # least number of objects in the scene


_ASK = {
    "colour": _Kind(_attribute("colour"), 1),
    "shape": _Kind(_attribute("shape"), 1),
    "size": _Kind(_attribute("size"), 1),
    "count": _Kind(_count, 1),
    "existence": _Kind(_existence, 1),
    "relation": _Kind(_relation, 2),
    "comparison": _Kind(_comparison, 2),
    "position": _Kind(_position, 1),
    "where": _Kind(_where, 2),
}
KINDS = tuple(_ASK)
ANSWERS = ("yes", "no", *NUMBERS, *COLOUR_NAMES, *SHAPES, *SIZES, "left", "right", "above", "below")
