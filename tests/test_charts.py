"""Charts: words and marks lie where they say, and every answer follows from the table alone."""

from __future__ import annotations

import re

import pytest
import torch
from test_typeset import (
    every_box_holds_exactly_its_ink,  # noqa: F401
    seeded,
)

from mmscratch.kit import charts, typeset

SOME = {
    split: charts.sample(60, generator=torch.Generator().manual_seed(4), split=split)
    for split in typeset.SPLITS
}


@pytest.mark.parametrize("kind", charts.KINDS)
def test_boxes_of_a_chart_hold_the_ink(every_box_holds_exactly_its_ink, kind):  # noqa: F811
    found = charts.sample(6, generator=seeded(9), split="test", kinds=(kind,), damaged=False)
    assert {chart.kind for chart in found} == {kind} and every_box_holds_exactly_its_ink
    for chart in found:
        assert chart.image.shape == (3, 240, 320) and chart.image.dtype == torch.uint8
        charts.check_apart(chart.words)


@pytest.mark.parametrize("split", typeset.SPLITS)
def test_everything_a_reader_needs_is_written(split):
    for chart in SOME[split]:
        written = [word.text for word in chart.words]
        assert written[: len(chart.title.split())] == chart.title.split()
        for name in chart.categories:
            assert name in written or chart.style.legend
        if chart.printed:
            for row in chart.values:
                for value in row:
                    assert charts.show(value) in written or f"{charts.show(value)}%" in written
        if len(chart.series) > 1:
            assert set(chart.series) <= set(written)


@pytest.mark.parametrize("split", typeset.SPLITS)
def test_bars_are_as_tall_as_their_values_and_of_their_colour(split):
    for chart in SOME[split]:
        if "bar" not in chart.kind:
            continue
        largest = max(max(row) for row in chart.values)
        tallest = max(m.box[3] - m.box[1] for m in chart.marks)
        for mark in chart.marks:
            left, top, right, bottom = mark.box
            value = chart.values[mark.series][mark.category]
            assert abs((bottom - top) / tallest - value / largest) <= 2.5 / tallest
            if bottom - top > 6 and not chart.style.damaged:
                inside = chart.image[:, top + 2 : bottom - 2, left + 1 : right - 1].float().mean((1, 2))
                wanted = torch.tensor(charts.COLOURS[chart.style.colours[mark.series]])
                assert (inside - wanted).abs().max() < 12


def test_pie_slices_fill_the_circle_and_stand_where_their_colour_is():
    for chart in charts.sample(20, generator=seeded(2), split="train", kinds=("pie",), damaged=False):
        assert sum(chart.values[0]) == 100 and min(chart.values[0]) >= 3
        for mark in chart.marks:
            left, top, right, bottom = mark.box
            if chart.values[0][mark.category] >= 10:
                inside = chart.image[:, top:bottom, left:right].float().mean((1, 2))
                wanted = torch.tensor(charts.COLOURS[chart.style.colours[mark.category]])
                assert (inside - wanted).abs().max() < 30


def read(chart):
    """The numbers as `Chart.table` writes them: {series: {category: value}}, by nothing but its text."""
    _, head, *rows = [line.split(" | ") for line in chart.table().splitlines()]
    names = head[1:]
    table = {name: {} for name in names}
    for category, *cells in rows:
        for name, cell in zip(names, cells, strict=True):
            table[name][category] = float(cell.replace(",", ""))
    return table


def solve(question: str, chart) -> str | None:
    """The answer worked out from the table's text, by another route than the templates' own."""
    table = read(chart)
    names = list(table)
    named = re.search(rf" of ({'|'.join(map(re.escape, names))})\b", question)
    row = table[named[1] if named and len(names) > 1 else names[0]]
    if m := re.match(r"what is the value(?: of \S+)? for (.+)\?", question):
        return charts.show(row[m[1]])
    if m := re.match(r"what is the sum(?: of \S+)? for (.+) and (.+)\?", question):
        return charts.show(round(row[m[1]] + row[m[2]], 1))
    if question.startswith("by how much do the largest"):
        return charts.show(round(max(row.values()) - min(row.values()), 1))
    if m := re.match(r"how many values.* are above ([\d,.]+)\?", question):
        return str(sum(v > float(m[1].replace(",", "")) for v in row.values()))
    if m := re.match(
        r"(which|what is the value).*the (tallest|highest|largest|shortest|lowest|smallest) ", question
    ):
        choose = max if m[2] in ("tallest", "highest", "largest") else min
        best = choose(row, key=row.get)
        return best if m[1] == "which" else charts.show(row[best])
    if question.startswith("does the line"):
        values = list(row.values())
        return "yes" if values[-1] > values[0] else "no"
    if m := re.match(r"do the lines of (\S+) and (\S+) cross\?", question):
        signs = {a > b for a, b in zip(table[m[1]].values(), table[m[2]].values(), strict=True)}
        return "yes" if len(signs) == 2 else "no"
    if m := re.match(r"is there a \S+ called (.+)\?", question):
        return "yes" if m[1] in row else "no"
    if m := re.match(r"which \S+ is directly right of (.+)\?", question):
        order = list(row)
        return order[order.index(m[1]) + 1]
    if m := re.match(r"which \S+ is (?:furthest|in the) (left|right|first|last)", question):
        return list(row)[0 if m[1] in ("left", "first") else -1]
    if m := re.match(r"what heads the (first|last) column", question):
        return names[0 if m[1] == "first" else -1]
    if m := re.match(r"what is listed (first|last)", question):
        listed = list(row) if chart.kind == "pie" else names
        return listed[0 if m[1] == "first" else -1]
    if question == "is the first bar taller than the last?":
        first, last = (list(row.values())[i] for i in (0, -1))
        return "yes" if first > last else "no"
    if m := re.match(r"what colour is the (line that ends|\S+) ?(highest|lowest|bar|slice)\?", question):
        rows = chart.values
        if chart.kind == "pie":
            sizes = list(rows[0])
        elif chart.kind == "line":
            sizes = [each[-1] for each in rows]
        else:
            sizes = [max(each) for each in rows]
        wanted = min(sizes) if {"lowest", "smallest"} & set(m.groups()) else max(sizes)
        return chart.style.colours[sizes.index(wanted)]
    return None


@pytest.mark.parametrize("split", typeset.SPLITS)
def test_every_answer_follows_from_the_table(split):
    solved, kinds = set(), set()
    for chart in SOME[split]:
        for question in charts.all_questions(chart):
            kinds.add(question.kind)
            if (answer := solve(question.text, chart)) is not None:
                assert question.answer == answer, (question, chart.table())
                solved.add(question.kind)
            assert question.correct(question.answer)
    assert kinds - solved == {"title", "unit", "colour"}  # told by the chart's looks
    for chart in SOME[split]:
        for question in charts.all_questions(chart):
            if question.kind == "colour":
                name = re.match(r"what colour is (.+)\?", question.text)[1]
                assert question.answer == chart.style.colours[chart.series.index(name)]


def test_needs_are_what_they_say():
    seen = set()
    for chart in SOME["train"] + SOME["test"]:
        asked = charts.questions(chart, generator=seeded(1))
        assert len({q.need for q in asked}) == len(asked)
        seen |= {q.need for q in asked}
        for question in charts.all_questions(chart):
            if question.need == "visual":
                assert chart.kind != "table"
                assert question.kind != "extreme" or not chart.printed  # written numbers would tell
    assert seen == set(charts.NEEDS)


def test_splits_share_no_face_and_no_word_of_the_lexicon():
    faces, words = {}, {}
    for split, found in SOME.items():
        faces[split] = {c.style.face for c in found} | {c.style.title_face for c in found}
        words[split] = {w.text.lower() for c in found for w in c.words}
    assert not faces["train"] & faces["test"]
    lexica = {split: set(typeset.lexicon(split)) for split in typeset.SPLITS}
    fixed = {word.lower() for m, u in charts.MEASURES for word in (m, u)} | set(
        "by in of group team type place".split()
    )
    fixed |= {word.lower() for name, all_ in charts.SEQUENCES for word in (name, *all_)}
    assert not (words["train"] - fixed) & lexica["test"] and not (words["test"] - fixed) & lexica["train"]


def test_the_same_generator_draws_the_same_charts():
    one, two = (charts.sample(4, generator=seeded(6), split="train") for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.image, b.image) and a.words == b.words and a.values == b.values
    first = charts.sample(1, generator=seeded(6), split="train")[0]
    assert torch.equal(first.image, one[0].image)


def test_styles_vary():
    styles = [chart.style for chart in SOME["train"]]
    for name in ("face", "theme", "grid", "frame", "printed", "legend", "angle", "markers", "damaged"):
        assert len({getattr(style, name) for style in styles}) > 1, name
    assert all(c.printed for c in charts.sample(5, generator=seeded(), split="test", printed=True))
    plain = charts.sample(
        5, generator=seeded(), split="test", kinds=("bar", "line"), printed=False, damaged=False
    )
    assert not any(c.printed or c.style.damaged for c in plain)


@pytest.mark.parametrize(
    ("answer", "given", "right"),
    [
        ("41", "42", True), ("41", "44", False), ("1,204", "1204", True), ("$M", "$m", True),
        ("37.5", "37.5%", True), ("0.2", "$0.2", True), ("yes", "Yes.", True), ("yes", "no", False),
        ("12", "twelve", False), ("-3", "-3", True), ("Jan", "jan", True), ("2019", "Q3", False),
    ],
)  # fmt: skip
def test_an_answer_counts_within_five_per_cent_or_by_its_letters(answer, given, right):
    assert charts.Question("?", answer, "both", "value").correct(given) is right


def test_crossing_is_not_told_where_lines_nearly_touch():
    assert charts.crossing((10, 20, 30), (30, 20.1, 10)) is None
    assert charts.crossing((10, 20, 30), (30, 24, 10)) is True
    assert charts.crossing((10, 20, 30), (20, 30, 40)) is False
    assert charts.crossing((10, 29.9), (20, 30)) is None


@pytest.mark.parametrize("largest", [0.9, 1, 3.7, 10, 19.9, 47, 100, 999, 5000])
def test_ticks_are_round_and_reach(largest):
    found = charts.ticks(largest)
    assert found[0] == 0 and found[-1] >= largest - 1e-9 and 4 <= len(found) <= 8
    assert found[-2] < largest


def test_bad_input_is_refused():
    for options, message in (
        ({"split": "dev"}, "split to be one of train, test, got 'dev'"),
        ({"split": "test", "kinds": ("radar",)}, r"kinds among bar, .*got \['radar'\]"),
        ({"split": "test", "kinds": ()}, "got none"),
        ({"split": "test", "size": (50, 320)}, "at least 160 x 200, got 50 x 320"),
    ):
        with pytest.raises(ValueError, match=message):
            charts.sample(1, generator=seeded(), **options)
    with pytest.raises(ValueError, match=r"needs among text, .*got \['sound'\]"):
        charts.questions(SOME["test"][0], generator=seeded(), needs=("sound",))
