"""Charts and tables with their truth: every number, the box of every word, and questions that need each.

A sibling of the tiny world for documents. A chart is drawn by Pillow in a few milliseconds from values that
are known, in typefaces, words and styles of a split (`typeset`); training and test share no typeface and no
word from the lexicon.

    g = torch.Generator().manual_seed(0)
    chart = charts.sample(1, generator=g, split="test")[0]
    chart.image                                   # (3, 240, 320) uint8
    chart.values[series][category], chart.words   # the numbers; typeset.Word(text, box, ...)
    for q in charts.questions(chart, generator=g):
        q.text, q.answer, q.need                  # need: text, layout, visual, both, arithmetic
        q.correct("41")                           # numbers within 5 % (Masry et al. 2022), words by letters

What a question needs: "text", a label alone; "layout", where labels stand; "visual", what is drawn and not
written; "both", a mark and a label or number; "arithmetic", several numbers.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mmscratch.kit import typeset
from mmscratch.kit.typeset import Box, Colour, Sheet, Word

KINDS = ("bar", "grouped bar", "line", "pie", "table")
NEEDS = ("text", "layout", "visual", "both", "arithmetic")
TOLERANCE = 0.05

COLOURS: dict[str, Colour] = {
    "red": (206, 55, 48), "blue": (48, 105, 190), "green": (56, 150, 76), "orange": (236, 140, 40),
    "purple": (130, 80, 170), "brown": (132, 86, 60), "pink": (232, 130, 180), "grey": (128, 132, 138),
}  # fmt: skip
THEMES: tuple[tuple[Colour, Colour, Colour], ...] = (  # ground, ink, grid
    ((255, 255, 255), (30, 30, 30), (215, 215, 215)),
    ((246, 246, 240), (40, 40, 60), (210, 210, 200)),
    ((234, 234, 242), (20, 20, 20), (255, 255, 255)),
    ((250, 250, 250), (90, 90, 90), (225, 225, 225)),
    ((34, 38, 46), (230, 230, 230), (70, 75, 85)),
)
MEASURES = (
    ("Sales", "$M"), ("Users", "k"), ("Output", "t"), ("Visitors", "k"), ("Share", "%"), ("Rainfall", "mm"),
    ("Costs", "$k"), ("Speed", "km/h"), ("Energy", "GWh"), ("Orders", ""), ("Weight", "kg"),
    ("Score", "points"),
)  # fmt: skip
SEQUENCES = (
    ("month", ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")),
    ("day", ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")),
    ("quarter", ("Q1", "Q2", "Q3", "Q4")),
    ("year", tuple(map(str, range(2008, 2030)))),
)


TEMPLATES = (  # every word of a question that is neither a name nor in the tables above
    "rows what is the title in unit given there a called yes no which first last row heads column of "
    "numbers furthest left right directly listed legend has tallest shortest highest lowest largest "
    "smallest bar point slice cell value colour does line end higher than it starts do lines and cross "
    "for sum by how much differ many values are above group team type place that ends taller bars"
)


def shared_words() -> list[str]:
    """Words that charts and questions share, lower case: all but names from the lexicon, and numbers."""
    measures = [word for pair in MEASURES for word in pair if word]
    dates = [word for dimension, names in SEQUENCES for word in (dimension, *names)]
    years = map(str, range(1995, 2031))
    words = [*TEMPLATES.split(), *COLOURS, *measures, *dates, *years]
    return list(dict.fromkeys(word.casefold() for word in words))


@dataclass(frozen=True)
class Style:
    """How a chart looks; drawn at random by `sample`."""

    face: str
    title_face: str
    size: int
    theme: int
    colours: tuple[str, ...]
    grid: bool
    frame: bool
    printed: bool  # numbers are written at the marks
    legend: str  # "", "right" or "top"
    angle: int  # of the labels below the axis, in degrees
    markers: bool
    damaged: bool


@dataclass(frozen=True)
class Mark:
    """A bar, a point or a slice: whose it is, and its box."""

    series: int
    category: int
    box: Box


@dataclass(frozen=True)
class Chart:
    """A chart: what it says (`values[series][category]`), how it looks, where its words and marks are."""

    kind: str
    title: str
    measure: str
    unit: str
    dimension: str
    categories: tuple[str, ...]
    series: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    style: Style
    image: Tensor
    words: list[Word]
    marks: list[Mark] = field(default_factory=list)

    @property
    def printed(self) -> bool:
        """Whether every number can be read as text."""
        return self.style.printed or self.kind == "table"

    def table(self) -> str:
        """The data as text: a header, then a line a category, cells between bars."""
        head = " | ".join([self.dimension, *self.series])
        rows = [
            " | ".join([name, *(show(row[i]) for row in self.values)])
            for i, name in enumerate(self.categories)
        ]
        return "\n".join([f"{self.title} ({self.unit})" if self.unit else self.title, head, *rows])


@dataclass(frozen=True)
class Question:
    """A question about one chart; `kind` names the template."""

    text: str
    answer: str
    need: str
    kind: str

    def correct(self, given: str) -> bool:
        """Whether an answer counts: a number within 5 %, yes and no and words by letters, case aside."""
        wanted, found = parse(self.answer), parse(given)
        if wanted is not None:
            return found is not None and abs(found - wanted) <= TOLERANCE * abs(wanted) + 1e-9
        return given.strip().strip(".").casefold() == self.answer.casefold()


def show(value: float) -> str:
    """A number as charts write it: 1,204 or 37.5."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def parse(text: str) -> float | None:
    """The number that a text is, or None: thousands may be set apart, a unit may stand around it."""
    found = re.fullmatch(r"[^\d\-.]{0,4}(-?\d[\d,]*\.?\d*|-?\.\d+)\s*[^\d]{0,8}", text.strip())
    return float(found[1].replace(",", "")) if found else None


# ---------------------------------------------------------------------------------------------------------
# What a chart says


def sample(
    n: int, *, generator: torch.Generator, split: str, kinds: Sequence[str] = KINDS,
    size: tuple[int, int] = (240, 320), printed: bool | None = None, damaged: bool | float = 0.3,
) -> list[Chart]:  # fmt: skip
    """n charts of the given kinds. size: (height, width), at least 160 x 200.

    `printed` fixes whether numbers are written at the marks (tables always write them); `damaged` is True,
    False or the share of charts that noise, blur and JPEG befall. ValueError for an unknown kind or split.
    """
    typeset.check_split(split)
    if not kinds or (unknown := set(kinds) - set(KINDS)):
        raise ValueError(
            f"expected kinds among {', '.join(KINDS)}, got {sorted(unknown) if kinds else 'none'}"
        )
    if size[0] < 160 or size[1] < 200:
        raise ValueError(f"expected a size of at least 160 x 200, got {size[0]} x {size[1]}")
    rng, found = typeset.dice(generator), []
    for _ in range(n):
        kind, chart = rng.choice(kinds), None
        while chart is None:
            try:
                chart = _chart(rng, split, kind, size, printed, float(damaged))
            except ValueError:  # its words do not fit on the picture: another draw
                continue
        found.append(chart)
    return found


def _chart(rng, split, kind, size, printed, damaged) -> Chart:
    measure, unit = rng.choice(MEASURES)
    several = kind in ("grouped bar", "line", "table")
    number = {"pie": rng.randint(3, 5), "table": rng.randint(3, 6)}.get(kind, rng.randint(3, 7))
    dimension, categories = _names(rng, split, number, ordered=kind == "line" or rng.random() < 0.4)
    names = rng.randint(1 if kind == "line" else 2, 3) if several else 1
    lexicon = typeset.lexicon(split)
    series = [w.capitalize() for w in rng.sample(lexicon, names * 3) if len(w) < 9][:names]
    if several and dimension != "year" and rng.random() < 0.2:
        first = rng.randint(1995, 2024)
        series = [str(first + i) for i in range(names)]
    if len(series) < names:
        raise ValueError("too few short words")
    values = _values(rng, kind, names, number, unit)
    if kind == "pie":
        unit, dimension = "%", dimension if dimension != "year" else "group"
    series = series if several and names > 1 else [measure]
    style = Style(
        face=rng.choice(typeset.FONTS[split]),
        title_face=rng.choice(typeset.FONTS[split]),
        size=rng.randint(10, 12) + size[1] // 320,
        theme=rng.choices(range(len(THEMES)), [6, 2, 2, 2, 1])[0],
        colours=tuple(rng.sample(list(COLOURS), max(names, number if kind == "pie" else names))),
        grid=rng.random() < 0.6,
        frame=rng.random() < 0.4,
        printed=rng.random() < 0.5 if printed is None else printed,
        legend=rng.choice(("right", "top")) if names > 1 or (kind == "pie" and rng.random() < 0.5) else "",
        angle=rng.choice((0, 0, 30, 45, 90)),
        markers=rng.random() < 0.5,
        damaged=rng.random() < damaged,
    )
    place = rng.choice(
        ["", "", f" in {rng.choice(lexicon).capitalize()}", f" of {rng.choice(lexicon).capitalize()}"]
    )
    title = f"{measure}{place} by {dimension}"
    drawing = _Drawing(
        Chart(
            kind, title, measure, unit, dimension, tuple(categories), tuple(series), values, style, None, []
        ),
        size,
    )
    picture = drawing.draw()
    if style.damaged:
        picture = typeset.damage(picture, rng, strength=0.4)
    chart = drawing.chart
    return Chart(
        chart.kind, title, measure, unit, dimension, chart.categories, chart.series, values, style,
        typeset.to_tensor(picture), drawing.sheet.words, drawing.marks,
    )  # fmt: skip


def _names(rng: random.Random, split: str, n: int, *, ordered: bool) -> tuple[str, list[str]]:
    if ordered:
        dimension, names = rng.choice([pair for pair in SEQUENCES if len(pair[1]) >= n])
        start = rng.randint(0, len(names) - n)
        return dimension, list(names[start : start + n])
    words = _short(split)
    return rng.choice(("group", "team", "type", "place")), [w.capitalize() for w in rng.sample(words, n)]


def _short(split: str) -> list[str]:
    return [word for word in typeset.lexicon(split) if len(word) < 9]


def _values(rng: random.Random, kind: str, rows: int, n: int, unit: str) -> tuple[tuple[float, ...], ...]:
    if kind == "pie":
        cuts = sorted(rng.sample(range(1, 20), n - 1))
        shares = [5 * (b - a) for a, b in pairwise([0, *cuts, 20])]
        shifts = [rng.randint(-2, 2) for _ in shares[1:]]
        shares = [shares[0] - sum(shifts), *(a + b for a, b in zip(shares[1:], shifts, strict=True))]
        if min(shares) < 3:
            raise ValueError("a slice too thin to see")
        return (tuple(map(float, shares)),)
    top = 100 if unit == "%" else rng.choice((10, 20, 50, 80, 100, 200, 400, 1000, 5000))
    step = 0.1 if top <= 20 else 1 if top <= 400 else 10 if top == 1000 else 50
    drawn = []
    for _ in range(rows):
        if kind == "line" and rng.random() < 0.7:  # a walk, as time series are
            at, row = rng.uniform(0.2, 0.8), []
            for _ in range(n):
                at = min(0.97, max(0.05, at + rng.gauss(0, 0.16)))
                row.append(at)
        else:
            row = [rng.uniform(0.08, 1) for _ in range(n)]
        drawn.append(tuple(round(round(top * v / step) * step, 1) or step for v in row))
    return tuple(drawn)


# ---------------------------------------------------------------------------------------------------------
# How it is drawn


def ticks(largest: float) -> list[float]:
    """Round numbers from 0 to at least `largest`, four to seven of them."""
    power = 10 ** math.floor(math.log10(largest / 4))
    step = next(s * power for s in (1, 2, 2.5, 5, 10, 20) if largest / (s * power) <= 5.6)
    return [round(i * step, 6) for i in range(math.ceil(largest / step - 1e-9) + 1)]


class _Drawing:
    """One chart on its way to the sheet. Shapes are drawn at twice the size and shrunk, words afterwards."""

    def __init__(self, chart: Chart, size: tuple[int, int]):
        self.chart, self.style, (self.height, self.width) = chart, chart.style, size
        self.ground, self.ink, self.grid = THEMES[chart.style.theme]
        self.sheet = Sheet(self.width, self.height, self.ground)
        self.big = Image.new("RGB", (2 * self.width, 2 * self.height), self.ground)
        self.pen = ImageDraw.Draw(self.big)
        self.marks: list[Mark] = []
        self.later: list[tuple] = []  # words wait until the shapes are shrunk
        self.left, self.top, self.right, self.bottom = 8, 6, self.width - 8, self.height - 6

    def colour(self, i: int) -> Colour:
        return COLOURS[self.style.colours[i]]

    def draw(self) -> Image.Image:
        s, c = self.style, self.chart
        title = s.size + 3
        while self.length(c.title, s.title_face, title) > self.width - 20:
            title -= 1  # below 5 pixels there is no font: ValueError, another draw
        self.say(self.width / 2, self.top, c.title, face=s.title_face, size=title, align="middle", block=0)
        self.top += title + 8
        if s.legend and c.kind != "table":
            self.legend(c.categories if c.kind == "pie" else c.series)
        {"pie": self.pie, "table": self.table}.get(c.kind, self.axes)()
        self.sheet.picture.paste(self.big.reduce(2))
        for x, y, text, options in self.later:
            self.sheet.write(x, y, text, **options)
        check_apart(self.sheet.words)
        return self.sheet.picture

    # -- words and shapes

    def length(self, text: str, face: str | None = None, size: int | None = None) -> float:
        return typeset.font(face or self.style.face, size or self.style.size).getlength(text)

    def say(self, x: float, y: float, text: str, **options) -> None:
        given = {"face": self.style.face, "size": self.style.size, "colour": self.ink, "block": 1}
        self.later.append((x, y, text, given | options))

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float = 1) -> None:
        self.pen.line([(2 * x, 2 * y) for x, y in points], fill=colour, width=round(2 * width), joint="curve")

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.pen.rectangle((2 * left, 2 * top, 2 * right - 1, 2 * bottom - 1), fill=colour)

    # -- parts

    def legend(self, names: Sequence[str]) -> None:
        s = self.style
        lengths = [self.length(name) for name in names]
        if s.legend == "right":
            x, y = self.right - max(lengths) - s.size, self.top + 6
            for i, name in enumerate(names):
                self.box(x - 4, y + 3, x + s.size - 6, y + s.size, self.colour(i))
                self.say(x + s.size - 2, y, name, block=2)
                y += s.size + 7
            self.right = int(x) - 14
            return
        x = (self.width - sum(lengths) - len(names) * (s.size + 10)) / 2
        if x < 4:
            raise ValueError("a legend wider than the picture")
        for i, (name, length) in enumerate(zip(names, lengths, strict=True)):
            self.box(x, self.top + 3, x + s.size - 2, self.top + s.size, self.colour(i))
            self.say(x + s.size + 2, self.top, name, block=2)
            x += length + s.size + 10
        self.top += s.size + 8

    def labels_below(self, step: float) -> tuple[int, float]:
        """Angle of the category labels, and the room they take."""
        s, names = self.style, self.chart.categories
        longest, angle = max(map(self.length, names)), s.angle
        if angle == 0 and longest > step - 6:
            angle = 45
        turn = math.radians(angle)
        if angle and s.size / math.sin(turn) * 1.3 > step:
            raise ValueError("labels too close")
        return angle, longest * math.sin(turn) + (s.size + 4) * math.cos(turn)

    def axes(self) -> None:
        c, s = self.chart, self.style
        marks = ticks(max(max(row) for row in c.values) * (1.12 if s.printed else 1.0))
        unit = f"{c.measure} ({c.unit})" if c.unit else c.measure
        self.say(self.left, self.top + (self.bottom - self.top) / 4, unit, angle=90, block=3)
        self.left += s.size + 6 + max(self.length(show(v)) for v in marks) + 6
        step = (self.right - self.left) / len(c.categories)
        angle, room = self.labels_below(step)
        self.bottom -= room + 6
        if self.bottom - self.top < 70 or step < 14:
            raise ValueError("no room to draw")
        scale = (self.bottom - self.top - 6) / marks[-1]
        for value in marks:
            y = self.bottom - value * scale
            if s.grid:
                self.line([(self.left, y), (self.right, y)], self.grid)
            self.line([(self.left - 3, y), (self.left, y)], self.ink)
            self.say(self.left - 6, y - s.size * 0.62, show(value), align="right", block=3)
        self.line([(self.left, self.bottom), (self.right, self.bottom)], self.ink)
        if s.frame:
            self.line([(self.left, self.bottom), (self.left, self.top)], self.ink)
        for i, name in enumerate(c.categories):
            x = self.left + (i + 0.5) * step
            if angle:
                x += s.size * (0.6 if angle == 90 else 0.5)
                self.say(x, self.bottom + 4, name, angle=angle, align="right", block=4)
            else:
                self.say(x, self.bottom + 4, name, align="middle", block=4)
        (self.lines if c.kind == "line" else self.bars)(step, scale)

    def bars(self, step: float, scale: float) -> None:
        c, s = self.chart, self.style
        thick = step * 0.74 / len(c.values)
        if thick < 4:
            raise ValueError("bars too thin")
        for k, row in enumerate(c.values):
            for i, value in enumerate(row):
                left = self.left + (i + 0.13) * step + k * thick
                top = self.bottom - value * scale
                self.box(left, top, left + thick - 1, self.bottom, self.colour(k))
                box = (round(left), round(top), round(left + thick - 1), round(self.bottom))
                self.marks.append(Mark(k, i, box))
                if s.printed:
                    self.say(
                        left + thick / 2,
                        top - s.size - 3,
                        show(value),
                        align="middle",
                        size=s.size - 1,
                        block=5,
                    )

    def lines(self, step: float, scale: float) -> None:
        c, s = self.chart, self.style
        for k, row in enumerate(c.values):
            points = [(self.left + (i + 0.5) * step, self.bottom - v * scale) for i, v in enumerate(row)]
            self.line(points, self.colour(k), 2)
            for i, (x, y) in enumerate(points):
                if s.markers:
                    self.pen.ellipse((2 * x - 5, 2 * y - 5, 2 * x + 5, 2 * y + 5), fill=self.colour(k))
                self.marks.append(Mark(k, i, (round(x) - 2, round(y) - 2, round(x) + 3, round(y) + 3)))
                if s.printed:
                    self.say(x, y - s.size - 5, show(row[i]), align="middle", size=s.size - 1, block=5)

    def pie(self) -> None:
        c, s = self.chart, self.style
        written = [] if s.legend else list(c.categories)
        reach = max(map(self.length, written), default=0) + (self.length("00%") if s.printed else 0) + 16
        radius = min((self.right - self.left) / 2 - reach, (self.bottom - self.top) / 2 - s.size - 6)
        if radius < 32:
            raise ValueError("no room for the pie")
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        turn = -90.0
        for i, share in enumerate(c.values[0]):
            end = turn + 3.6 * share
            edges = (2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius))
            self.pen.pieslice(edges, turn, end, fill=self.colour(i), outline=self.ground, width=2)
            middle = math.radians((turn + end) / 2)
            text = " ".join(written[i : i + 1] + ([f"{show(share)}%"] if s.printed else []))
            if text:
                out = 1.0 if math.cos(middle) > 0.2 else 0.0 if math.cos(middle) < -0.2 else 0.5
                at = (x + (radius + 6) * math.cos(middle), y + (radius + 4 + s.size * 0.6) * math.sin(middle))
                self.say(
                    at[0],
                    at[1] - s.size * 0.6,
                    text,
                    align={1.0: "left", 0.0: "right"}.get(out, "middle"),
                    block=4,
                )
            inner = (x + radius / 2 * math.cos(middle), y + radius / 2 * math.sin(middle))
            self.marks.append(
                Mark(0, i, tuple(round(v + d) for v, d in zip(inner * 2, (-2, -2, 3, 3), strict=True)))
            )
            turn = end

    def table(self) -> None:
        c, s = self.chart, self.style
        rows = [[c.dimension.capitalize(), *c.series]]
        rows += [[name, *(show(row[i]) for row in c.values)] for i, name in enumerate(c.categories)]
        widths = [max(self.length(row[j]) for row in rows) + 14 for j in range(len(rows[0]))]
        spare = (self.right - self.left - sum(widths)) / len(widths)
        high = min(s.size * 2.2, (self.bottom - self.top) / len(rows))
        if spare < 0 or high < s.size + 5:
            raise ValueError("a table too large")
        if s.grid:
            self.box(self.left, self.top, self.right, self.top + high, self.grid)
        for i, row in enumerate(rows):
            x, y = self.left, self.top + i * high
            if s.frame or i == 1:
                self.line([(self.left, y), (self.right, y)], self.ink if i == 1 else self.grid)
            for j, cell in enumerate(row):
                end = x + widths[j] + spare
                middle = y + (high - s.size * 1.2) / 2
                self.say(
                    x + 6 if j == 0 else end - 6,
                    middle,
                    cell,
                    align="left" if j == 0 else "right",
                    block=3 + i,
                )
                if i and j:
                    self.marks.append(Mark(j - 1, i - 1, (round(x), round(y), round(end), round(y + high))))
                x = end


def check_apart(words: Sequence[Word]) -> None:
    """ValueError where two words lie on one another, so that no reader could be right."""
    for i, one in enumerate(words):
        a = one.box
        for other in words[:i]:
            b = other.box
            if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
                raise ValueError(f"{one.text!r} lies on {other.text!r}")


# ---------------------------------------------------------------------------------------------------------
# Questions


def questions(chart: Chart, *, generator: torch.Generator, needs: Sequence[str] = NEEDS) -> list[Question]:
    """One question of each need that this chart can be asked, drawn from all its questions.

    A need is missing where the chart has no such question (nothing is only visual in a table).
    """
    if unknown := set(needs) - set(NEEDS):
        raise ValueError(f"expected needs among {', '.join(NEEDS)}, got {sorted(unknown)}")
    rng, asked = typeset.dice(generator), all_questions(chart)
    chosen = []
    for need in needs:
        kinds = sorted({q.kind for q in asked if q.need == need})
        if kinds:  # first the kind, so that a chart with many categories is not asked one kind alone
            kind = rng.choice(kinds)
            chosen.append(rng.choice([q for q in asked if (q.need, q.kind) == (need, kind)]))
    return chosen


def all_questions(chart: Chart) -> list[Question]:
    """Every question that has one right answer for this chart."""
    return [*_about_text(chart), *_about_layout(chart), *_about_marks(chart), *_about_numbers(chart)]


def _mark_name(chart: Chart) -> str:
    return {"pie": "slice", "line": "point", "table": "cell"}.get(chart.kind, "bar")


def _about_text(c: Chart) -> list[Question]:
    found = [Question("what is the title?", c.title, "text", "title")]
    if c.kind not in ("pie", "table") and c.unit:
        found.append(Question(f"in what unit is {c.measure.lower()} given?", c.unit, "text", "unit"))
    for name, other in zip(c.categories, _absent(c), strict=True):  # as many yes as no
        found.append(Question(f"is there a {c.dimension} called {name}?", "yes", "text", "category"))
        found.append(Question(f"is there a {c.dimension} called {other}?", "no", "text", "category"))
    return found


def _absent(c: Chart) -> list[str]:
    """As many names as there are categories, of the same sort and none of them on the chart."""
    written = {*c.categories, *c.series, *c.title.split()}
    sort = next((names for _, names in SEQUENCES if c.categories[0] in names), None)
    if sort is None:
        split = next((s for s in typeset.SPLITS if c.categories[0].lower() in _short(s)), "train")
        sort = [word.capitalize() for word in _short(split)]
    names = [name for name in sort if name not in written] or [f"No {c.categories[0]}"]
    start = sum(map(ord, c.title + c.categories[0])) * 7919  # the same for the same chart
    return [names[(start + i) % len(names)] for i in range(len(c.categories))]


def _about_layout(c: Chart) -> list[Question]:
    found = []
    if c.kind == "table":
        for ordinal, i in (("first", 0), ("last", -1)):
            found.append(
                Question(f"which {c.dimension} is in the {ordinal} row?", c.categories[i], "layout", "row")
            )
            if len(c.series) > 1:
                found.append(
                    Question(f"what heads the {ordinal} column of numbers?", c.series[i], "layout", "column")
                )
    elif c.kind != "pie":
        for side, i in (("left", 0), ("right", -1)):
            found.append(
                Question(f"which {c.dimension} is furthest {side}?", c.categories[i], "layout", "side")
            )
        for a, b in pairwise(c.categories):
            found.append(Question(f"which {c.dimension} is directly right of {a}?", b, "layout", "next"))
    if c.style.legend and c.kind != "table":
        names = c.categories if c.kind == "pie" else c.series
        for ordinal, i in (("first", 0), ("last", -1)):
            found.append(Question(f"what is listed {ordinal} in the legend?", names[i], "layout", "legend"))
    return found


def _extremes(row: Sequence[float]) -> list[tuple[str, int]]:
    """("largest", index) and ("smallest", index), each where it stands out by a twentieth of the range."""
    order = sorted(range(len(row)), key=row.__getitem__)
    apart = 0.05 * max(row)
    found = []
    if row[order[-1]] - row[order[-2]] >= apart:
        found.append(("largest", order[-1]))
    if row[order[1]] - row[order[0]] >= apart:
        found.append(("smallest", order[0]))
    return found


def _of(c: Chart, k: int) -> str:
    return f" of {c.series[k]}" if len(c.series) > 1 else ""


def _about_marks(c: Chart) -> list[Question]:
    """What the eye sees, asked as visual only where no number is written; and the number it belongs to."""
    found, mark = [], _mark_name(c)
    adjective = {"bar": ("tallest", "shortest"), "point": ("highest", "lowest")}.get(
        mark, ("largest", "smallest")
    )
    words = dict(zip(("largest", "smallest"), adjective, strict=True))
    for k, row in enumerate(c.values):
        for which, i in _extremes(row):
            phrase = f"the {words[which]} {mark}{_of(c, k)}"
            need = "both" if c.printed else "visual"
            found.append(Question(f"which {c.dimension} has {phrase}?", c.categories[i], need, "extreme"))
            if c.kind != "pie" or c.printed:
                found.append(
                    Question(f"what is the value of {phrase}?", show(row[i]), "both", "value of extreme")
                )
    if c.kind in ("grouped bar", "line") and len(c.series) > 1:
        for name, colour in zip(c.series, c.style.colours, strict=False):
            found.append(Question(f"what colour is {name}?", colour, "visual", "colour"))
    if c.kind == "pie" or (c.kind in ("grouped bar", "line") and len(c.series) > 1):
        found += _about_colours(c)
    if c.kind == "bar" and not c.printed:
        row = c.values[0]
        if abs(row[0] - row[-1]) > 0.1 * max(row):
            answer = "yes" if row[0] > row[-1] else "no"
            found.append(
                Question("is the first bar taller than the last?", answer, "visual", "first and last")
            )
    if c.kind == "line":
        for k, row in enumerate(c.values):
            if abs(row[-1] - row[0]) > 0.1 * max(row):
                answer = "yes" if row[-1] > row[0] else "no"
                found.append(
                    Question(
                        f"does the line{_of(c, k)} end higher than it starts?", answer, "visual", "trend"
                    )
                )
        for k, one in enumerate(c.values):
            for m in range(k):
                answer = crossing(one, c.values[m])
                if answer is not None:
                    text = f"do the lines of {c.series[m]} and {c.series[k]} cross?"
                    found.append(Question(text, "yes" if answer else "no", "visual", "crossing"))
    return found


def _about_colours(c: Chart) -> list[Question]:
    """The colour of what stands out: nothing of it is written on the chart, nor any name in the question."""
    if c.kind == "line":
        rows, phrases = [row[-1] for row in c.values], ("line that ends highest", "line that ends lowest")
    elif c.kind == "pie":
        rows, phrases = c.values[0], ("largest slice", "smallest slice")
    else:
        rows, phrases = [max(row) for row in c.values], ("tallest bar",)
    extremes = dict(_extremes(rows))
    return [
        Question(
            f"what colour is the {phrase}?", c.style.colours[extremes[which]], "visual", "colour of extreme"
        )
        for which, phrase in zip(("largest", "smallest"), phrases, strict=False)
        if which in extremes
    ]


def crossing(one: Sequence[float], other: Sequence[float]) -> bool | None:
    """Whether two lines cross; None where they come too near to one another to tell."""
    gaps = [a - b for a, b in zip(one, other, strict=True)]
    near = 0.04 * max(*one, *other)
    if any(a * b < 0 and min(abs(a), abs(b)) >= near for a, b in pairwise(gaps)):
        return True
    return None if min(map(abs, gaps)) < near or any(a * b < 0 for a, b in pairwise(gaps)) else False


def _about_numbers(c: Chart) -> list[Question]:
    found = []
    exact = c.printed  # a sum of numbers read off an axis is too loose to be judged
    if c.kind == "pie" and not exact:
        return found
    for k, row in enumerate(c.values):
        for i, name in enumerate(c.categories):
            found.append(Question(f"what is the value{_of(c, k)} for {name}?", show(row[i]), "both", "value"))
        for (i, a), (j, b) in pairwise(enumerate(c.categories)):
            total = round(row[i] + row[j], 1)
            found.append(
                Question(f"what is the sum{_of(c, k)} for {a} and {b}?", show(total), "arithmetic", "sum")
            )
        if exact:
            spread = round(max(row) - min(row), 1)
            if spread > 0:
                text = f"by how much do the largest and the smallest value{_of(c, k)} differ?"
                found.append(Question(text, show(spread), "arithmetic", "difference"))
        limit = ticks(max(row))[len(ticks(max(row))) // 2]
        if all(abs(v - limit) > 0.04 * max(row) for v in row):
            count = str(sum(v > limit for v in row))
            found.append(
                Question(f"how many values{_of(c, k)} are above {show(limit)}?", count, "arithmetic", "count")
            )
    return found
