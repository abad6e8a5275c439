"""Films of the tiny world: every object stays still or moves along one axis, at a constant speed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .captions import describe
from .pictures import render
from .scenes import Scenes, on_steps, sample, split_stream
from .words import EDGE, GAP, RADII

# Append only: labels in checkpoints are positions in this list.
MOTIONS = ("still", "left", "right", "up", "down")
_DIRECTIONS = torch.tensor(
    [[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]]
)  # y grows downwards


@dataclass(eq=False)
class Film:
    """B films of T frames with room for M objects each.

    video: (B, T, 3, S, S) float in [0, 1]. scenes: the first frame. motions: (B, M) long, positions in
    MOTIONS, -1 in empty places. velocity: (B, M, 2) float, along x and y in picture sides a frame.
    """

    video: Tensor
    scenes: Scenes
    motions: Tensor
    velocity: Tensor

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> "Film":
        """Some of the films, always as a batch: `film[3]` holds one."""
        scenes = self.scenes[index]  # refuses an index beyond the end
        index = [index] if isinstance(index, int) else index
        return Film(self.video[index], scenes, self.motions[index], self.velocity[index])

    def frame(self, number: int) -> Scenes:
        """The scenes of one frame, from 0 or from the end: what `boxes` and `masks` need."""
        frames = self.video.shape[1]
        if not -frames <= number < frames:
            raise IndexError(f"expected a frame below {frames}, got {number}")
        return _moved(self.scenes, self.velocity, torch.tensor([number % frames]))

    def captions(self) -> list[str]:
        """One true sentence per film, the object that begins leftmost first.

        Such as "a small red ring moves left and a large blue star stays still".
        """
        texts = []
        for scene, motions in zip(self.scenes.things(), self.motions.tolist(), strict=True):
            told = sorted(zip(scene, (m for m in motions if m >= 0), strict=True), key=lambda pair: pair[0].x)
            texts.append(" and ".join(f"{describe(thing)} {_does(MOTIONS[m])}" for thing, m in told))
        return texts


def film(
    n: int,
    *,
    generator: torch.Generator,
    frames: int = 16,
    image_size: int = 32,
    split: str = "train",
    min_objects: int = 1,
    max_objects: int = 1,
    radii: Mapping[str, tuple[float, float]] = RADII,
    speed: tuple[float, float] = (0.15, 0.35),
) -> Film:
    """n films in which each object draws one of MOTIONS, all equally likely, whatever the other objects do.

    speed: range of the way from the first frame to the last, in picture sides. In every frame the objects lie
    inside the picture and apart from each other; where two would meet, ways and speeds are drawn again, ever
    slower. Three objects and more need smaller radii than the default. Objects and splits are those of
    `sample`: no film of training, nor its first frame, can be in test or heldout.

    Of an object alone, the ways to the left cover the same places as those to the right (as do up and down):
    the frames in any order tell the axis, only their order tells the direction. A single frame gives a hint,
    since what begins at the left edge cannot go left.
    """
    low, high = speed
    widest = max((high for _, high in radii.values()), default=0.0)
    room = 1 - 2 * (widest + EDGE)
    if not 0 < low <= high < room:
        raise ValueError(
            f"speed: expected 0 < low <= high < {room:.3g}, the room that a radius of {widest} leaves, "
            f"got {low}, {high}"
        )
    if frames < 2:
        raise ValueError(f"expected at least 2 frames, got {frames}")
    scenes = sample(
        n, generator=generator, split=split, min_objects=min_objects, max_objects=max_objects, radii=radii
    )
    stream = split_stream(generator, split)
    present = scenes.present
    motions = torch.randint(len(MOTIONS), present.shape, generator=stream).masked_fill(~present, -1)
    start, way = _ways(scenes.radius, present, motions, speed, frames, stream)
    scenes.x = on_steps(start[..., 0], split).masked_fill(~present, 0.0)
    scenes.y = start[..., 1].masked_fill(~present, 0.0)
    velocity = way / (frames - 1)
    video = render(_moved(scenes, velocity, torch.arange(frames)), image_size)
    return Film(video.view(n, frames, 3, image_size, image_size), scenes, motions, velocity)


def _does(motion: str) -> str:
    return "stays still" if motion == "still" else f"moves {motion}"


def _moved(scenes: Scenes, velocity: Tensor, times: Tensor) -> Scenes:
    """The scenes at some frames: (B * T) scenes, the frames of one film together."""
    repeated = scenes[torch.arange(len(scenes)).repeat_interleave(len(times))]
    step = (velocity[:, None] * times[:, None, None]).flatten(0, 1)  # (B * T, M, 2)
    repeated.x, repeated.y = repeated.x + step[..., 0], repeated.y + step[..., 1]
    return repeated


def _ways(
    radius: Tensor,
    present: Tensor,
    motions: Tensor,
    speed: tuple[float, float],
    frames: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """First centres and ways from first to last frame, (B, M, 2) each, by rejection in batches."""
    n, places = radius.shape
    start, way = torch.zeros(n, places, 2), torch.zeros(n, places, 2)
    direction = _DIRECTIONS[motions.clamp(min=0)] * present[..., None]
    together = present[:, :, None] & present[:, None, :] & ~torch.eye(places, dtype=torch.bool)
    apart = radius[:, :, None] + radius[:, None, :] + GAP
    apart.masked_fill_(~together, -1.0)  # any distance will do
    times = torch.linspace(0, 1, frames)[:, None, None]
    todo, rounds = torch.arange(n), 0
    while len(todo):
        waiting = []
        tries = 4 if rounds == 0 else 1024 // places**2  # few films are left after the first round
        for rows in todo.split(max(1, 2**18 // (tries * frames * places**2))):
            shape = (len(rows), tries, places)
            share = torch.rand(*shape, 1, generator=generator) ** (1 + rounds)  # later rounds are slower
            length = speed[0] + (speed[1] - speed[0]) * share
            ways = length * direction[rows][:, None]
            edge = radius[rows][:, None, :, None] + EDGE
            first = edge - ways.clamp(max=0)  # the whole way lies inside
            last = 1 - edge - ways.clamp(min=0)
            starts = first + (last - first) * torch.rand(*shape, 2, generator=generator)
            centres = starts[:, :, None] + times * ways[:, :, None]  # (b, tries, T, M, 2)
            step = (centres[:, :, :, :, None] - centres[:, :, :, None]).abs().amax(-1)
            free = (step >= apart[rows][:, None, None]).flatten(2).all(-1)
            pick = torch.arange(len(rows)), free.int().argmax(1)  # the first that is free
            start[rows], way[rows] = starts[pick], ways[pick]
            waiting.append(rows[~free.any(1)])
        todo, rounds = torch.cat(waiting), rounds + 1
        if rounds > 40:
            tight = [round(r, 3) for r in radius[todo[0]].tolist()]
            asked = [MOTIONS[m] for m in motions[todo[0]].tolist() if m >= 0]
            raise ValueError(
                f"expected radii and a speed that let objects pass each other, got radii {tight}, "
                f"{', '.join(asked)}, speed {speed}"
            )
    return start, way
