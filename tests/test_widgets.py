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


def wav(samples, rate=8000) -> bytes:
    import io

    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="WAV")
    return stream.getvalue()


def test_a_sound_file_becomes_one_channel_and_its_rate():
    import torch

    samples, rate = widgets.read_sound(wav([[0.5, -0.5], [0.25, 0.75]]))
    assert rate == 8000
    torch.testing.assert_close(samples, torch.tensor([0.0, 0.5]), atol=1e-4, rtol=0)
    for content, why in (
        (b"no sound", "not a sound file that can be read"),
        (wav([]), "the sound file is empty"),
    ):
        with pytest.raises(ValueError, match=why):
            widgets.read_sound(content)


def test_an_uploaded_sound_is_answered_and_a_bad_one_is_one_line(live, capsys):
    pytest.importorskip("ipywidgets")
    heard = []
    button, below = widgets.sound_box(
        lambda samples, rate: heard.append((len(samples), rate)) or "heard"
    ).children

    def uploaded(content: bytes) -> tuple:
        import datetime

        when = datetime.datetime.now(datetime.UTC)
        kind = {"name": "a.wav", "type": "audio/wav", "size": len(content), "last_modified": when}
        return (kind | {"content": memoryview(content)},)

    button.value = uploaded(wav([0.0, 0.1, 0.2]))
    assert heard == [(3, 8000)]
    button.value = uploaded(b"no sound")
    assert "not a sound file" in capsys.readouterr().out + str(below.outputs) and len(heard) == 1


def test_a_stored_run_gets_a_line_in_place_of_an_upload(monkeypatch, capsys):
    monkeypatch.setenv("MMSCRATCH_PROGRESS", "off")
    assert widgets.sound_box(lambda samples, rate: pytest.fail("asked")) is None
    assert "recording box appears in a running notebook" in capsys.readouterr().out
