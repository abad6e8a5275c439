"""The search box: in a running notebook it answers, in a stored one it stands aside."""

from __future__ import annotations

import pytest

from mmscratch.kit import widgets


@pytest.fixture
def live(monkeypatch):
    monkeypatch.delenv("MMSCRATCH_PROGRESS", raising=False)


def test_a_stored_run_gets_a_line_in_place_of_a_widget(monkeypatch, capsys):
    monkeypatch.setenv("MMSCRATCH_PROGRESS", "off")
    assert widgets.search_box(lambda text: pytest.fail("asked")) is None
    assert "search box appears in a running notebook" in capsys.readouterr().out
    assert widgets.search_box(str, label="Question") is None
    assert "question box appears in a running notebook" in capsys.readouterr().out


def test_without_ipywidgets_there_is_no_widget(live, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert widgets.search_box(str) is None
    assert "pip install ipywidgets" in capsys.readouterr().out


def test_typing_asks_and_shows_the_answer_and_an_error_is_one_line(live, capsys):
    pytest.importorskip("ipywidgets")
    asked = []

    def answer(text):
        asked.append(text)
        if text == "bad":
            raise ValueError("expected a better question")
        return text.upper()

    box = widgets.search_box(answer, start=" a cat ")
    field, below = box.children
    assert asked == ["a cat"]
    field.value = "a dog"
    assert asked[-1] == "a dog"
    field.value = "bad"
    assert "expected a better question" in capsys.readouterr().out + str(below.outputs)
    field.value = "  "
    assert asked == ["a cat", "a dog", "bad"]


def test_a_blank_field_takes_the_old_answer_away_at_once(live, monkeypatch):
    ipywidgets = pytest.importorskip("ipywidgets")
    waits = []
    monkeypatch.setattr(ipywidgets.Output, "clear_output", lambda self, wait=False: waits.append(wait))
    field, _ = widgets.search_box(str.upper, start="a cat").children
    field.value = " "
    assert waits == [True, False]
