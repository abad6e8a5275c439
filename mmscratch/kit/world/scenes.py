"""Scenes as batches of numbers, and how they are drawn at random."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .words import COLOUR_NAMES, EDGE, GAP, HELD_OUT, MAX_OBJECTS, RADII, SHAPES, SIZES, SPLITS, require


class Thing(NamedTuple):
    """One object in words: what a caption or a question can speak about. Lengths in picture sides."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(eq=False)
class Scenes:
    """A batch of B scenes with room for M objects each; empty places hold -1 (and 0 in lengths).

    shape, colour, size: (B, M) long, positions in SHAPES, COLOUR_NAMES, SIZES. x, y, radius: (B, M) float,
    centre and half-extent in picture sides. background: (B, 3) RGB in [0, 1]. Later objects cover earlier.
    """

    shape: Tensor
    colour: Tensor
    size: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    background: Tensor

    def __post_init__(self) -> None:
        for field in fields(self)[1:]:
            got, expected = tuple(getattr(self, field.name).shape), tuple(self.shape.shape)
            expected = (len(self.shape), 3) if field.name == "background" else expected
            if got != expected:
                raise ValueError(f"{field.name}: expected shape {expected}, got {got}")

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> "Scenes":
        """Some of the scenes, always as a batch: `scenes[3]` holds one scene."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):  # also what ends `for scene in scenes`
                raise IndexError(f"expected an index below {len(self)}, got {index}")
            index = [index]
        return Scenes(*(getattr(self, f.name)[index] for f in fields(self)))

    @property
    def present(self) -> Tensor:
        """Which places hold an object. (B, M) bool."""
        return self.shape >= 0

    @property
    def count(self) -> Tensor:
        """Objects in each scene. (B,) long."""
        return self.present.sum(1)

    @property
    def held_out(self) -> Tensor:
        """Which objects wear a withheld colour for their shape. (B, M) bool."""
        table = torch.zeros(
            len(COLOUR_NAMES) + 1, len(SHAPES) + 1, dtype=torch.bool, device=self.shape.device
        )
        for colour, shape in HELD_OUT:  # the extra row and column answer for -1
            table[COLOUR_NAMES.index(colour), SHAPES.index(shape)] = True
        return table[self.colour, self.shape]

    def to(self, device: torch.device | str) -> "Scenes":
        """The same scenes on another device."""
        return Scenes(*(getattr(self, f.name).to(device) for f in fields(self)))

    def things(self) -> list[list[Thing]]:
        """The scenes as words and plain numbers, one list per scene, in the order of the places."""
        columns = (getattr(self, f.name).tolist() for f in fields(self)[:-1])
        return [
            [
                Thing(SHAPES[s], COLOUR_NAMES[c], SIZES[z], x, y, r)
                for s, c, z, x, y, r in zip(*rows, strict=True)
                if s >= 0
            ]
            for rows in zip(*columns, strict=True)
        ]

    @staticmethod
    def of(things: Iterable[Iterable[Thing]], background: float = 0.96) -> "Scenes":
        """Scenes written by hand, the inverse of `things`."""
        scenes = [list(scene) for scene in things]
        places = max((len(scene) for scene in scenes), default=0)
        empty = (-1, -1, -1, 0.0, 0.0, 0.0)
        rows = []
        for scene in scenes:
            for t in scene:
                for name, allowed in ((t.shape, SHAPES), (t.colour, COLOUR_NAMES), (t.size, SIZES)):
                    require(name, allowed, "attribute")
            row = [
                (SHAPES.index(t.shape), COLOUR_NAMES.index(t.colour), SIZES.index(t.size), t.x, t.y, t.radius)
                for t in scene
            ]
            rows.append(row + [empty] * (places - len(row)))
        table = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), places, 6)
        return Scenes(
            *table[..., :3].long().unbind(-1),
            *table[..., 3:].float().unbind(-1),
            torch.full((len(rows), 3), background),
        )

    @staticmethod
    def cat(parts: Sequence["Scenes"]) -> "Scenes":
        """One batch after another; batches with fewer places are padded."""
        if not parts:
            raise ValueError("expected at least one batch of scenes, got none")
        places = max(part.shape.shape[1] for part in parts)

        def column(name: str) -> Tensor:
            pad = -1 if name in ("shape", "colour", "size") else 0
            values = [getattr(part, name) for part in parts]
            if name != "background":
                values = [F.pad(v, (0, places - v.shape[1]), value=pad) for v in values]
            return torch.cat(values)

        return Scenes(*(column(f.name) for f in fields(Scenes)))


def sample(
    n: int,
    *,
    generator: torch.Generator,
    split: str = "train",
    min_objects: int = 1,
    max_objects: int = 2,
    radii: Mapping[str, tuple[float, float]] = RADII,
) -> Scenes:
    """n scenes of `min_objects` to `max_objects` objects, each number equally likely, that do not overlap.

    split: train and test use the 42 seen colour-shape combinations, heldout has at least one of the 6
    withheld ones in every scene, all uses all 48. Within a scene no two objects share both colour and shape,
    so that "the red circle" is one thing. `radii` names the sizes to draw from and their ranges.

    Training can never contain a scene of test or heldout, whatever the seeds: the splits read different
    random streams of one generator, and x lies on even steps of 2^-20 for train and all, on odd steps for
    test and heldout. Drawn on the CPU; the result depends only on the generator's state and the arguments.
    """
    require(split, SPLITS, "split")
    for name, (low, high) in radii.items():
        require(name, SIZES, "size")
        if not 0 < low <= high < 0.5 - EDGE:
            raise ValueError(f"radius of {name}: expected 0 < low <= high < {0.5 - EDGE}, got {low}, {high}")
    if not radii:
        raise ValueError(f"radii: expected at least one of {', '.join(SIZES)}, got none")
    if not 1 <= min_objects <= max_objects <= MAX_OBJECTS:
        raise ValueError(
            f"expected 1 <= min_objects <= max_objects <= {MAX_OBJECTS}, got {min_objects} and {max_objects}"
        )
    if n < 0:
        raise ValueError(f"expected a number of scenes >= 0, got {n}")
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        got = getattr(generator, "device", generator)
        raise ValueError(f"expected a torch.Generator on the CPU (one per purpose, seeded), got {got!r}")

    stream = split_stream(generator, split)
    count = torch.randint(min_objects, max_objects + 1, (n, 1), generator=stream)
    present = torch.arange(max_objects) < count

    # Colour-shape pairs without repetition: the highest of 48 random keys.
    pairs = len(COLOUR_NAMES) * len(SHAPES)
    withheld = torch.tensor([COLOUR_NAMES.index(c) * len(SHAPES) + SHAPES.index(s) for c, s in HELD_OUT])
    keys = torch.rand(n, pairs, generator=stream)
    if split in ("train", "test"):
        keys[:, withheld] = -1.0
    elif split == "heldout":  # one withheld pair gets the highest key, so it is always drawn
        chosen = withheld[torch.randint(len(withheld), (n, 1), generator=stream)]
        keys.scatter_(1, chosen, 2.0)
    pair = keys.topk(max_objects, dim=1).indices
    # topk sorts, so the withheld pair would always come first: shuffle the places that are in use.
    order = torch.where(present, torch.rand(n, max_objects, generator=stream), 2.0).argsort(1)
    pair = pair.gather(1, order)

    names = sorted(radii, key=SIZES.index)
    which = torch.randint(len(names), (n, max_objects), generator=stream)
    low, high = torch.tensor([radii[name] for name in names]).unbind(1)
    radius = low[which] + (high - low)[which] * torch.rand(n, max_objects, generator=stream)

    absent = ~present
    radius = radius.masked_fill(absent, 0.0)
    xy = _place(radius, present, stream)
    return Scenes(
        shape=(pair % len(SHAPES)).masked_fill(absent, -1),
        colour=(pair // len(SHAPES)).masked_fill(absent, -1),
        size=torch.tensor([SIZES.index(name) for name in names])[which].masked_fill(absent, -1),
        x=on_steps(xy[..., 0], split).masked_fill(absent, 0.0),
        y=xy[..., 1].masked_fill(absent, 0.0),
        radius=radius,
        background=0.93 + 0.07 * torch.rand(n, 3, generator=stream),
    )


def split_stream(generator: torch.Generator, split: str) -> torch.Generator:
    """A generator of its own for each split: the same state of `generator` gives every split other scenes."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator().manual_seed((seed + SPLITS.index(split) * 0x9E3779B9) % 2**62)


def on_steps(x: Tensor, split: str) -> Tensor:
    """x moved by less than 2^-19 to the steps that belong to its split; exact in float32."""
    odd = int(split in ("test", "heldout"))
    return (2 * (x * 2**19).floor() + odd) * 2.0**-20


def _place(radius: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
    """Centres (B, M, 2) without overlap, by rejection in batches: uniform among all such layouts.

    Only where 132 uniform layouts in a row failed (nearly always four large objects) does each object get a
    quadrant of its own: what fits there is almost always of that form, and is found a hundred times sooner.
    """
    n, places = radius.shape
    xy = torch.zeros(n, places, 2)
    together = present[:, :, None] & present[:, None, :] & ~torch.eye(places, dtype=torch.bool)
    apart = radius[:, :, None] + radius[:, None, :] + GAP
    apart.masked_fill_(~together, -1.0)  # any distance will do
    todo, rounds = torch.arange(n), 0
    while len(todo):
        waiting = []
        tries = 4 if rounds == 0 else 64  # few scenes are left after the first round
        for rows in todo.split(max(1, 2**18 // (tries * places**2))):
            r = radius[rows][:, None, :, None] + EDGE
            u = torch.rand(len(rows), tries, places, 2, generator=generator)
            if rounds > 2:
                corner = torch.rand(len(rows), tries, 4, generator=generator).argsort(-1)[..., :places]
                u = (u + torch.stack((corner % 2, corner // 2), -1)) / 2
            candidates = r + (1 - 2 * r) * u
            step = (candidates[:, :, :, None] - candidates[:, :, None]).abs().amax(-1)  # (b, tries, M, M)
            free = (step >= apart[rows][:, None]).flatten(2).all(-1)
            xy[rows] = candidates[torch.arange(len(rows)), free.int().argmax(1)]  # the first that is free
            waiting.append(rows[~free.any(1)])
        todo, rounds = torch.cat(waiting), rounds + 1
        if rounds > 500:
            tight = [round(r, 3) for r in radius[todo[0]].tolist()]
            raise ValueError(f"expected radii that fit side by side, got {tight}")
    return xy
