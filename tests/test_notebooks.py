"""The form of every lesson, read without running it, and the reader of that form itself."""

import json
import re

import pytest
from nbformat.v4 import new_output
from notebook_tree import code, text

from mmscratch.kit import clean, form, project
from mmscratch.kit.figures import VEGALITE_MIME
from mmscratch.kit.quiz import QUIZ_MIME

LESSONS = pytest.mark.parametrize("path", project.notebooks(), ids=lambda path: path.stem)


@LESSONS
def test_a_lesson_has_the_form_of_the_guide(path):
    problems = form.problems(path)
    assert not problems, "\n".join([path.name, *problems])


@LESSONS
def test_a_lesson_is_stored_as_one_clean_run(path):
    assert not clean.clean_files([path], check=True), f"run `make lesson L={path.name[:2]}`"


def test_every_lesson_is_listed_once_and_only_planned_lessons_carry_their_plan():
    lessons = project.lessons()
    assert [lesson.number for lesson in lessons] == sorted(lesson.number for lesson in lessons)
    assert {lesson.name for lesson in lessons if lesson.written} == {
        path.stem for path in project.notebooks()
    }


def shown(source, *tags, number=1, data=None, **metadata):
    """A code cell that ran, with one output."""
    cell = code(source, *tags, **metadata)
    cell.execution_count = number
    cell.outputs = [new_output("display_data", data or {"text/plain": "1"})]
    return cell


def picture(name="fig-04-loss", *tags, number=1, caption="The loss falls to zero.", alt="A line that falls."):
    figure = {"figure": {"name": name, "caption": caption}, "image": {"alt": alt}}
    return shown("draw()", *tags, number=number, data={"image/png": "iVBO"}, mystnb=figure)


def live(name="fig-04-live", caption="Move the slider to see it.", alt="A slider and a curve."):
    spec = {"description": alt, "usermeta": {"mmscratch": {"caption": caption, "name": name}}}
    return shown("show()", data={VEGALITE_MIME: spec, "text/plain": alt})


def lesson():
    """The cells of a lesson that departs from the guide in its length alone."""
    quiz = {QUIZ_MIME: {"version": 1, "questions": [{}] * 5}, "text/plain": "Quiz"}
    inside = {
        "problem": [picture("fig-04-diagram", "diagram", "hide-input")],
        "by-hand": [shown("import torch\nassert_close(1, 1)\nassert_equal(2, 2)"), text("Again."), picture()],
        "from-scratch": [
            shown("def f():\n    '''Prose.'''\n    return 1", "export"),
            text("Try."),
            shown("f()"),
        ],
        "same-as-the-library": [shown("compare(f).check()")],
        "train": [
            shown("assert f() == 1, 'why'\nassert f() < 2\nassert f()"),
            text("See."),
            picture("fig-04-b"),
        ],
        "look-inside": [live()],
        "break-it": [shown("assert f() > 0\nassert f() != 7", "property"), text("So."), picture("fig-04-c")],
        "exercises": [text(level) for level in ("Easy: a", "Medium: b", "Hard: c")]
        + [shown("assert f() + 1 == 2", "solution") for _ in range(3)],
        "quiz": [shown("quiz(q)", "hide-input", data=quiz)],
        "key-terms": [text(f"[term](../book/glossary.md#term-{word})") for word in ("a", "b", "c")],
    }
    cells = []
    for landmark, (heading, hint) in form.LANDMARKS.items():
        cells += [text(f"## {heading}\n\n{hint}", landmark=landmark), *inside.get(landmark, [])]
    return cells


@pytest.fixture
def problems(tree):
    """A function from cells (and metadata) to what the reader of the form says about that lesson."""

    def read(cells, **facts):
        (tree.path / "book" / "glossary.md").write_text("# Glossary\n")
        (tree.path / "book" / "_data").mkdir(exist_ok=True)
        (tree.path / "book" / "_data" / "lesson_runs.json").write_text(json.dumps({"04": {"seconds": 30}}))
        (tree.path / "_toc.yml").write_text("chapters:\n- file: notebooks/04_vit\n")
        path = tree.notebook("04_vit", cells, **facts)
        stored = project.read_notebook(path)
        stored.cells[1].execution_count = 0  # the set-up cell ran too
        path.write_text(clean.to_text(clean.clean(path, stored)))
        return form.problems(path)

    return read


def test_a_lesson_after_the_guide_has_only_its_length_against_it(problems):
    found = problems(lesson())
    assert [problem.split(":")[0] for problem in found] == ["words", "code lines"]
    assert found[0].endswith("expected at least 1800")


def index_of(cells, landmark):
    return next(i for i, cell in enumerate(cells) if cell.metadata.get("landmark") == landmark)


def without(landmark):
    def spoil(cells):
        del cells[index_of(cells, landmark)]

    return spoil


def insert(*new, before="at-work"):
    def spoil(cells):
        cells[index_of(cells, before) : index_of(cells, before)] = new

    return spoil


def unrun(cells):
    cells[3].execution_count = None


def raising_nothing(cells):
    cells[3].metadata["tags"] = ["raises-exception"]


def swap_landmarks(cells):
    one, two = cells[index_of(cells, "train")], cells[index_of(cells, "break-it")]
    one.metadata["landmark"], two.metadata["landmark"] = "break-it", "train"


def toothless_solution(cells):
    next(c for c in cells if "solution" in c.metadata.get("tags", ())).source = "f()"


def prose():
    return text("See.")


def number():
    return shown("1")


def uncompared(cells):
    next(c for c in cells if c.source == "compare(f).check()").source = "compare(f)"


def easy_only(cells):
    for cell in cells:
        cell.source = cell.source.replace("Hard", "Easy").replace("hard", "easy")


BAD = {
    "a landmark is missing": (without("break-it"), "missing break-it"),
    "landmarks in the wrong order": (swap_landmarks, "each once and in order: found problem"),
    "a cell without a run": (unrun, r"cell \[3\] `import torch`: execution count is None"),
    "a promised exception that did not come": (
        raising_nothing,
        "is tagged raises-exception, stored no error",
    ),
    "a picture without alt text": (
        insert(text("See."), picture("fig-04-x", alt="")),
        "fig-04-x has no alt text",
    ),
    "a picture without caption": (insert(text("See."), picture("fig-04-x", caption="x")), "has no caption"),
    "a live figure without alt text": (
        insert(text("See."), live("fig-04-x", alt="")),
        "fig-04-x has no alt text",
    ),
    "a figure of another lesson": (insert(text("See."), picture("fig-05-x")), "starts with 'fig-04-'"),
    "a figure name used twice": (insert(text("See."), live()), "fig-04-live is used twice"),
    "a drawing without alt text": (insert(text("![](../book/glossary.md)")), "picture .* has no alt text"),
    "a dead link": (
        insert(text("See [it](../book/none.md#x).")),
        "link to ../book/none.md#x, which does not exist",
    ),
    "a role": (insert(text("As {cite}`paper` says.")), "a role of MyST"),
    "a directive": (insert(text("```{note}\nHello\n```")), "a directive of MyST"),
    "a label": (insert(text("(here)=\n## There")), "a label of MyST"),
    "an unknown tag": (insert(text("See."), shown("1", "exprot")), "unknown tag exprot"),
    "three code cells in a row": (
        insert(text("See."), shown("1"), shown("2"), shown("3")),
        "longest run .*: 3",
    ),
    "code that no prose leads": (
        insert(*[f() for _ in range(3) for f in (prose, number, number)]),
        "share of code cells led",
    ),
    "a long cell": (insert(text("See."), shown("x = 1\n" * 41)), "longest cell: 41, expected at most 40"),
    "plotting in the reader's way": (insert(text("See."), shown("ax.plot()\n" * 9)), "not folded: 9"),
    "cells that show nothing": (
        insert(*[c for _ in range(9) for c in (text("See."), code("1"))]),
        "with an output",
    ),
    "a solution that asserts nothing": (toothless_solution, "solved exercises: 2, expected at least 3"),
    "a reference never compared": (uncompared, "parity checks: 0, expected at least 1"),
    "exercises of one difficulty": (easy_only, "none is called hard"),
}


@pytest.mark.parametrize("spoil, message", BAD.values(), ids=BAD.keys())
def test_a_departure_from_the_guide_is_named(problems, spoil, message):
    cells = lesson()
    spoil(cells)
    found = "\n".join(problems(cells))
    assert re.search(message, found), found


def test_few_objectives_a_slow_run_and_a_missing_entry_are_named(tree, problems):
    assert any("objectives: 1, expected at least 3" in p for p in problems(lesson(), objectives=["see"]))
    path = tree.path / "notebooks" / "04_vit.ipynb"
    (tree.path / "book" / "_data" / "lesson_runs.json").write_text(json.dumps({"04": {"seconds": 120}}))
    (tree.path / "_toc.yml").write_text("chapters:\n- file: notebooks/04_vitamins\n")
    found = form.problems(path)
    assert "seconds to run: 120, expected at most 90" in found
    assert "_toc.yml does not list notebooks/04_vit" in found


def test_size_counts_everything_but_live_figures(problems, tree):
    cells = lesson()
    spec = {"usermeta": {"mmscratch": {"name": "fig-04-big"}}, "data": "x" * 1_200_000}
    insert(text("See."), shown("show()", data={VEGALITE_MIME: spec}))(cells)
    assert not any("kB" in problem for problem in problems(cells))
    insert(text("See."), shown("print()", data={"text/plain": "x" * 1_200_000}))(cells)
    assert any("kB without live figures: 12" in problem for problem in problems(cells))


def test_prose_is_not_code_and_code_is_not_prose():
    source = (
        'def f(x):\n    """One.\n\n    Two.\n    """\n    # why\n\n    y = """a\nb"""\n    return y  # so'
    )
    assert form.code_lines(source) == ["def f(x):", '    y = """a', 'b"""', "    return y  # so"]
    prose = "Two [linked words](http://a.b/c) and $x + y = z$.\n\n```\nnot counted\n```\n\n$$a = b$$"
    assert form.words(prose) == 6


def test_markup_inside_code_is_no_markup(problems):
    harmless = "`{x}` and `y`, ``{cite}`key` ``, `[a](b.md)`; a set {1, 2}."
    cells = lesson()
    insert(text(harmless))(cells)
    assert len(problems(cells)) == 2


def test_only_checks_that_can_fail_count():
    assert form.checks("assert True\nassert_close(a, b)\nassert x == y\ncompare(a, b)") == (2, 0)
    assert form.checks("compare(a, b).check()") == (1, 1)
