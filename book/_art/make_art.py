"""Draws the landing page's picture (hero.svg, hero-narrow.svg) and the social card into book/_static.

Run once when they should change: `python book/_art/make_art.py`. The card needs the package resvg-py.
"""

from __future__ import annotations

import math
from pathlib import Path

STATIC = Path(__file__).resolve().parents[1] / "_static"
INK, SOFT, PAPER, GROUND = "#1f2933", "#5b6470", "#ffffff", "#f4f6f9"
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

# the scene, in a square of side 4: kind, centre, radius, colour
SCENE = [
    ("circle", 0.95, 2.45, 0.66, VERMILION),
    ("square", 2.62, 2.3, 0.74, BLUE),
    ("triangle", 1.4, 0.98, 0.66, GREEN),
    ("star", 3.05, 0.8, 0.6, ORANGE),
    ("diamond", 3.3, 3.35, 0.5, PURPLE),
]


def polygon(points: list[tuple[float, float]], colour: str) -> str:
    return f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="{colour}"/>'


def shape(kind: str, x: float, y: float, r: float, colour: str) -> str:
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{colour}"/>'
    corners = {"square": (4, 45), "triangle": (3, -90), "diamond": (4, 0), "star": (10, -90)}
    count, start = corners[kind]
    radius = [r * (1.15 if kind in ("square", "triangle") else 1)] * count
    if kind == "star":
        radius = [r * 1.1, r * 0.48] * 5
    angles = [math.radians(start + 360 * i / count) for i in range(count)]
    return polygon(
        [(x + radius[i] * math.cos(a), y + radius[i] * math.sin(a)) for i, a in enumerate(angles)], colour
    )


def picture(x: float, y: float, side: float) -> str:
    """The scene, cut into 4 x 4 patches that stand slightly apart."""
    unit, gap = side / 4, side * 0.028
    content = "".join(shape(k, cx * unit, cy * unit, r * unit, colour) for k, cx, cy, r, colour in SCENE)
    parts = [
        f'<defs><g id="scene"><rect width="{side}" height="{side}" fill="{GROUND}"/>{content}</g></defs>'
    ]
    for row in range(4):
        for column in range(4):
            name = f"p{row}{column}"
            parts.append(
                f'<clipPath id="{name}"><rect x="{column * unit:.1f}" y="{row * unit:.1f}" '
                f'width="{unit:.1f}" height="{unit:.1f}"/></clipPath>'
                f'<g transform="translate({x + column * gap:.1f} {y + row * gap:.1f})">'
                f'<use href="#scene" clip-path="url(#{name})"/></g>'
            )
    return "".join(parts)


def token_colours() -> list[list[str]]:
    """Four cells a token: the colours found at four points of its patch."""
    columns = []
    for row in range(4):
        for column in range(4):
            cells = []
            for dx, dy in ((0.3, 0.3), (0.7, 0.3), (0.3, 0.7), (0.7, 0.7)):
                x, y = column + dx, row + dy
                hits = [c for _, cx, cy, r, c in SCENE if math.hypot(x - cx, y - cy) < r * 0.95]
                cells.append(hits[0] if hits else "#dde3ea")
            columns.append(cells)
    return columns


def tokens(x: float, y: float, width: float, height: float) -> str:
    step = width / 16
    cell = height / 4
    return "".join(
        f'<rect x="{x + i * step:.1f}" y="{y + j * cell:.1f}" width="{step - 4:.1f}" height="{cell - 2:.1f}" '
        f'rx="2" fill="{colour}"/>'
        for i, column in enumerate(token_colours())
        for j, colour in enumerate(column)
    )


def text(
    x: float,
    y: float,
    content: str,
    size: float,
    *,
    colour: str = INK,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{content}</text>'
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    angle = math.atan2(y2 - y1, x2 - x1)
    tip = [(x2, y2)] + [
        (x2 - 11 * math.cos(angle + turn), y2 - 11 * math.sin(angle + turn)) for turn in (0.5, -0.5)
    ]
    line = (
        f'<line x1="{x1}" y1="{y1}" x2="{x2 - 6 * math.cos(angle):.1f}" y2="{y2 - 6 * math.sin(angle):.1f}" '
        f'stroke="{SOFT}" stroke-width="2.5"/>'
    )
    return line + polygon(tip, SOFT)


def bars(x: float, y: float, colour: str) -> str:
    heights = (16, 34, 24, 42, 12, 29, 37, 20)
    return "".join(
        f'<rect x="{x + i * 13}" y="{y - h}" width="9" height="{h}" rx="1.5" fill="{colour}"/>'
        for i, h in enumerate(heights)
    )


def flow(x: float, y: float) -> str:
    """Picture, tokens, transformer, answer; below, ours beside the reference. 1060 x 330."""
    parts = [picture(x, y + 22, 240), text(x, y + 10, "a picture, cut into patches", 15, colour=SOFT)]
    left = x + 300
    parts += [
        arrow(x + 265, y + 92, left - 6, y + 92),
        text(left + 4, y + 10, "patches become tokens", 15, colour=SOFT),
        tokens(left + 4, y + 58, 264, 68),
        arrow(left + 272, y + 92, left + 312, y + 92),
    ]
    model = left + 318
    parts += [
        text(model + 4, y + 10, "a model you wrote", 15, colour=SOFT),
        *(
            f'<rect x="{model + 4}" y="{y + 40 + i * 37}" width="142" height="30" rx="6" fill="{BLUE}" '
            f'opacity="{1 - 0.16 * i}"/>'
            + text(model + 75, y + 60 + i * 37, label, 14, colour="#fff", weight=600, anchor="middle")
            for i, label in enumerate(("attention", "MLP", "norm"))
        ),
        arrow(model + 152, y + 92, model + 190, y + 92),
    ]
    answer = model + 198
    parts += [
        text(answer + 2, y + 10, "an answer you can check", 15, colour=SOFT),
        f'<rect x="{answer}" y="{y + 40}" width="244" height="104" rx="12" fill="{GROUND}"/>',
        text(answer + 18, y + 76, "What is left of the square?", 16),
        text(answer + 18, y + 118, "a red circle", 22, weight=700, colour="#B84A00"),
    ]
    base = y + 262
    parts += [
        f'<rect x="{left + 4}" y="{y + 175}" width="{answer + 240 - left}" height="1.5" fill="#d5dae1"/>',
        bars(left + 8, base - 10, BLUE),
        text(left + 8, base + 10, "ours", 15, weight=600),
        text(left + 146, base - 20, "=", 34, weight=600, colour=SOFT, anchor="middle"),
        bars(left + 182, base - 10, "#8a94a0"),
        text(left + 182, base + 10, "the library", 15, weight=600),
        text(model + 4, base - 30, "same weights, same outputs, same gradients", 17, weight=600),
        text(model + 4, base - 4, "to within 10⁻⁵, no slower to train", 17, colour=SOFT),
    ]
    return "".join(parts)


def narrow_flow(x: float, y: float) -> str:
    """The same for a narrow window, from top to bottom. 400 x 640."""
    parts = [
        text(x, y + 10, "a picture, cut into patches", 17, colour=SOFT),
        picture(x, y + 24, 190),
        f'<rect x="{x + 218}" y="{y + 24}" width="182" height="206" rx="12" fill="{GROUND}"/>',
        text(x + 234, y + 74, "What is left of", 18),
        text(x + 234, y + 98, "the square?", 18),
        text(x + 234, y + 150, "a red circle", 22, weight=700, colour="#B84A00"),
        text(x + 234, y + 202, "can be checked", 16, colour=SOFT),
        text(x, y + 274, "patches become tokens", 17, colour=SOFT),
        tokens(x, y + 288, 400, 84),
        text(x, y + 414, "a model you wrote", 17, colour=SOFT),
    ]
    for i, label in enumerate(("attention", "MLP", "norm")):
        left = x + i * 134
        parts.append(
            f'<rect x="{left}" y="{y + 428}" width="126" height="42" rx="8" fill="{BLUE}" '
            f'opacity="{1 - 0.16 * i}"/>'
            + text(left + 63, y + 455, label, 18, colour="#fff", weight=600, anchor="middle")
        )
    base = y + 556
    parts += [
        bars(x + 2, base - 10, BLUE),
        text(x + 2, base + 14, "ours", 17, weight=600),
        text(x + 140, base - 20, "=", 34, weight=600, colour=SOFT, anchor="middle"),
        bars(x + 178, base - 10, "#8a94a0"),
        text(x + 178, base + 14, "the library", 17, weight=600),
        text(x, base + 52, "same weights, outputs and gradients,", 18, weight=600),
        text(x, base + 78, "to within 10⁻⁵, no slower to train", 18, colour=SOFT),
    ]
    return "".join(parts)


def svg(width: int, height: int, content: str) -> str:
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    opening += f'viewBox="0 0 {width} {height}" font-family="{FONT}">'
    return f'{opening}<rect width="{width}" height="{height}" fill="{PAPER}"/>{content}</svg>\n'


def hero() -> str:
    return svg(1100, 324, flow(20, 24))


def narrow_hero() -> str:
    return svg(440, 664, narrow_flow(20, 18))


def card() -> str:
    title = text(60, 112, "Multimodal from Scratch", 60, weight=700)
    promise = text(60, 166, "Build the models that see, read, hear, draw and act,", 29, colour=SOFT)
    proof = text(60, 206, "and prove each equal to the library people use.", 29, colour=SOFT)
    return svg(
        1200, 630, title + promise + proof + f'<g transform="translate(60 262) scale(1.01)">{flow(0, 14)}</g>'
    )


if __name__ == "__main__":
    import resvg_py

    (STATIC / "hero.svg").write_text(hero(), encoding="utf-8")
    (STATIC / "hero-narrow.svg").write_text(narrow_hero(), encoding="utf-8")
    (STATIC / "card.png").write_bytes(
        bytes(resvg_py.svg_to_bytes(svg_string=card(), font_family="DejaVu Sans"))
    )
