"""What a scene looks like: pictures, masks and boxes."""

from collections.abc import Callable

import torch
from torch import Tensor

from .scenes import Scenes
from .words import COLOURS, rgb


# Signed distances to the outline, negative inside. x: (n, 1, S), y: (n, S, 1), r: (n, 1, 1), all in pixels.
# Sharp corners come from the largest of the distances to straight edges; only + - * abs max sqrt are used.
def _circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return (x * x + y * y).sqrt_().sub_(0.95 * r)


def _ring(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return (x * x + y * y).sqrt_().sub_(0.70 * r).abs_().sub_(0.25 * r)


def _square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()).sub_(0.84 * r)


def _cross(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    x, y, long, wide = x.abs(), y.abs(), 0.95 * r, 0.33 * r
    return torch.minimum(torch.maximum(x - long, y - wide), torch.maximum(x - wide, y - long))


def _triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    h = 0.8660254 * r  # equilateral: base 2 r, height 2 h
    return torch.maximum(0.8660254 * x.abs() - 0.5 * (y + h), y - h)


def _star(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Five points, by folding the plane onto one tenth of the star (I. Quilez, 2D distance functions)."""
    tip = 1.05 * r
    x, y = x.abs(), 0.0955 * tip - y  # y upwards, from the centre of the star, not of its box
    c, s = 0.8090170, 0.5877853  # cos, sin of 36 degrees
    fold = (c * x - s * y).clamp_(min=0).mul_(2)
    x, y = x - c * fold, y + s * fold
    fold = (c * x + s * y).neg_().clamp_(min=0).mul_(2)
    x, y = (x + c * fold).abs_(), y + s * fold - tip
    u, v = 0.5 * s, 0.5 * c - 1  # from the tip to the notch, which lies at half the radius
    length = (u * u + v * v) ** 0.5
    return y.mul_(u / length).sub_(x.mul_(v / length))


_Outline = Callable[[Tensor, Tensor, Tensor], Tensor]
_OUTLINES: tuple[_Outline, ...] = (_circle, _square, _triangle, _cross, _star, _ring)  # as in SHAPES
# Half width and half height of each shape's tight box, in radii; the last row stands for an empty place (-1).
_EXTENTS = (
    (0.95, 0.95), (0.84, 0.84), (1.0, 0.8660254), (0.95, 0.95), (0.9986, 0.9497), (0.95, 0.95), (0.0, 0.0),
)  # fmt: skip


def _coverage(scenes: Scenes, size: int) -> Tensor:
    """How much of each pixel each object would cover if it were alone. (B, M, S, S) in [0, 1]."""
    device = scenes.x.device
    shape, place = scenes.shape.flatten(), torch.arange(scenes.shape.numel(), device=device)
    pixel = torch.arange(size, device=device) + 0.5
    x = (pixel - scenes.x.flatten()[:, None] * size)[:, None, :]
    y = (pixel - scenes.y.flatten()[:, None] * size)[:, :, None]
    r = (scenes.radius.flatten() * size)[:, None, None]
    out = torch.zeros(len(shape), size, size, device=device)
    for number, outline in enumerate(_OUTLINES):
        rows = place[shape == number]
        if len(rows):
            # A pixel is covered by half where the outline crosses its centre: a one-pixel ramp.
            out[rows] = outline(x[rows], y[rows], r[rows]).neg_().add_(0.5).clamp_(0, 1)
    return out.view(*scenes.shape.shape, size, size)


def render(
    scenes: Scenes,
    image_size: int = 32,
    *,
    chunk: int = 256,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Anti-aliased pictures. (B, 3, S, S) float in [0, 1], on the scenes' device.

    `chunk` scenes at a time keep the working set in the cache, which is faster; the result does not depend
    on it. `noise` is the standard deviation of Gaussian pixel noise from `generator`.
    """
    _check_sizes(image_size, chunk)
    if noise < 0:
        raise ValueError(f"expected noise >= 0, got {noise}")
    if noise and generator is None:
        raise ValueError(f"expected a generator for noise {noise}, got None")
    device = scenes.x.device
    palette = torch.tensor([rgb(colour) for colour in COLOURS.values()], device=device)
    images = torch.empty(len(scenes), 3, image_size, image_size, device=device)
    for start in range(0, len(scenes), chunk):
        part, out = scenes[start : start + chunk], images[start : start + chunk]
        cover = _coverage(part, image_size)
        out.copy_(part.background[:, :, None, None].expand_as(out))
        for place in range(part.shape.shape[1]):
            colour = palette[part.colour[:, place]][:, :, None, None]  # -1 reads black, with no cover
            out.lerp_(colour.expand_as(out), cover[:, place, None].expand_as(out))
    if noise:
        for out in images.split(512):  # a fixed size, so that noise does not depend on `chunk`
            grain = torch.randn(out.shape, generator=generator, device=generator.device)
            out.add_(grain.to(device), alpha=noise).clamp_(0, 1)
    return images


def masks(scenes: Scenes, image_size: int = 32) -> Tensor:
    """The share of each pixel that shows each object. (B, M, S, S) in [0, 1]; empty places are zero."""
    _check_sizes(image_size, 1)
    cover = _coverage(scenes, image_size)
    left = (1 - cover).flip(1).cumprod(1).flip(1)  # what an object and all in front of it leave free
    cover[:, :-1] *= left[:, 1:]
    return cover


def boxes(scenes: Scenes) -> Tensor:
    """Tight boxes (left, top, right, bottom) in picture sides. (B, M, 4); empty places are zero."""
    extent = torch.tensor(_EXTENTS, device=scenes.x.device)[scenes.shape]
    half = extent * scenes.radius[..., None]
    centre = torch.stack((scenes.x, scenes.y), -1)
    return torch.cat((centre - half, centre + half), -1)


def _check_sizes(image_size: int, chunk: int) -> None:
    if image_size < 1:
        raise ValueError(f"expected an image size of at least 1 pixel, got {image_size}")
    if chunk < 1:
        raise ValueError(f"expected a chunk of at least 1 scene, got {chunk}")
