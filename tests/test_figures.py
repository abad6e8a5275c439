"""Figures and quizzes: what they draw, what they refuse, and that both come out the same every time."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import matplotlib
import nbformat
import numpy as np
import pytest
import torch

matplotlib.use("agg")

import altair as alt  # noqa: E402

from mmscratch.kit import figures  # noqa: E402
from mmscratch.kit.quiz import QUIZ_MIME, Question, bundle, quiz, written  # noqa: E402
from mmscratch.kit.train import History  # noqa: E402


def png(figure) -> bytes:
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        figures.use_style()
        yield


# pictures


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(5, 3, 8, 6),
        torch.rand(5, 1, 8, 6),
        (np.random.default_rng(0).random((5, 8, 6, 3)) * 255).astype(np.uint8),
        [torch.rand(8, 6) for _ in range(5)],
    ],
    ids=["tensor", "grey tensor", "bytes", "list of planes"],
)
def test_image_grid_takes_pictures_in_every_usual_form(images):
    figure = figures.image_grid(images, columns=3)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == 5
    assert [axis.get_images()[0].get_array().shape[:2] for axis in shown] == [(8, 6)] * 5


def test_image_grid_shows_a_byte_picture_and_the_same_floats_alike():
    values = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    floats = torch.from_numpy(values / 255).permute(2, 0, 1)
    one, two = (
        figures.image_grid([picture]).axes[0].get_images()[0].get_array() for picture in (values, floats)
    )
    np.testing.assert_allclose(one, two)


def test_image_grid_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="at least one picture"):
        figures.image_grid([])
    with pytest.raises(ValueError, match=r"expected 2 titles, one a picture, got 1"):
        figures.image_grid(torch.rand(2, 3, 4, 4), titles=["one"])
    with pytest.raises(ValueError, match=r"got shape \(2, 7, 5\)"):
        figures.image_grid([np.zeros((2, 7, 5))])


def test_curve_takes_runs_of_the_training_loop():
    run = History(
        "vit", losses=[3.0, 2.0, 1.0], metric_steps=[0, 2], metrics=[0.2, 0.8], metric_name="accuracy"
    )
    axis = figures.curve(run, smooth=1).axes[0]
    assert list(axis.lines[0].get_ydata()) == [3.0, 2.0, 1.0]
    axis = figures.curve([run, run], of="metric", reference={"chance": 0.25}).axes[0]
    assert axis.get_ylabel() == "accuracy"
    assert list(axis.lines[0].get_xdata()) == [0, 2]
    assert list(axis.lines[-1].get_ydata()) == [0.25, 0.25]


def test_curve_averages_only_over_the_past():
    axis = figures.curve({"a": [0.0, 4.0, 8.0]}, smooth=2).axes[0]
    assert list(axis.lines[0].get_ydata()) == [0.0, 2.0, 6.0]


def test_curve_refuses_an_empty_history():
    with pytest.raises(ValueError, match="at least one value"):
        figures.curve({})
    with pytest.raises(ValueError, match="at least one value"):
        figures.curve({"a": []})


def test_bars_write_their_numbers_out_and_refuse_unknown_names():
    figure = figures.bars({"chance": 0.25, "ours": 0.913}, xlabel="accuracy", highlight="ours", limit=1)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.25", "0.91"]
    with pytest.raises(ValueError, match="'theirs'"):
        figures.bars({"ours": 1.0}, xlabel="accuracy", highlight="theirs")


def test_overlay_refuses_a_map_that_is_no_map():
    figures.overlay(torch.rand(3, 8, 8), torch.rand(2, 2))
    with pytest.raises(ValueError, match=r"got shape \(4,\)"):
        figures.overlay(torch.rand(3, 8, 8), torch.rand(4))


def test_drawing_twice_gives_the_same_bytes_on_an_opaque_ground():
    def draw():
        return png(figures.image_grid(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))))

    assert draw() == draw()
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(draw())).convert("RGBA")
    assert picture.getpixel((0, 0)) == (255, 255, 255, 255)


def test_neighbouring_colours_of_the_palette_differ_in_lightness_or_hue_for_dichromats():
    """Simulated protanopia and deuteranopia (Vienot et al. 1999): no two colours of the palette collapse."""
    simulations = {
        "protanopia": [[0.1124, 0.8876, 0.0], [0.1124, 0.8876, 0.0], [0.0040, -0.0040, 1.0]],
        "deuteranopia": [[0.2927, 0.7073, 0.0], [0.2927, 0.7073, 0.0], [-0.0223, 0.0223, 1.0]],
    }
    colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in figures.PALETTE])
    for name, matrix in simulations.items():
        seen = (colours**2.2 @ np.array(matrix).T).clip(0, 1) ** (1 / 2.2)
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(len(seen))
        assert distances.min() > 0.1, f"{name}: two colours of the palette look the same"


# live figures

TEXTS = dict(alt="A line that rises.", caption="Move the slider.", name="fig-99-line")


def chart():
    slope = alt.param(name="slope", value=1, bind=alt.binding_range(min=0, max=3, step=1, name="Slope"))
    data = alt.Data(values=[{"x": i, "y": i / 3} for i in range(4)])
    return (
        alt.Chart(data, width=300, height=100)
        .transform_calculate(z="datum.y * slope")
        .mark_line(point=True)
        .encode(x="x:Q", y="z:Q", color=alt.value(figures.BLUE))
        .add_params(slope)
    )


def test_live_figure_is_one_output_of_json_and_text():
    output = figures.live(chart(), **TEXTS)
    assert set(output) == {"application/vnd.vegalite.v5+json", "text/plain"}
    spec = output["application/vnd.vegalite.v5+json"]
    assert "/v5" in spec["$schema"]
    assert spec["description"] == output["text/plain"] == "A line that rises."
    assert spec["usermeta"]["mmscratch"] == {"caption": "Move the slider.", "name": "fig-99-line"}
    assert len(json.dumps(spec)) < 3000


@pytest.mark.parametrize("version", ["5.8", "6.4"], ids=["near JupyterLab's", "the site's"])
def test_live_figure_is_drawn_by_old_and_new_vega_lite(version):
    import vl_convert

    svg = vl_convert.vegalite_to_svg(
        figures.live(chart(), **TEXTS)[figures.VEGALITE_MIME], vl_version=version
    )
    assert svg.count("<path") > 4
    assert figures.BLUE.lower() in svg.lower()


def test_live_figure_is_a_valid_notebook_output():
    output = nbformat.v4.new_output("display_data", data=figures.live(chart(), **TEXTS))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    nbformat.validate(notebook)


def test_live_figure_keeps_six_digits_and_no_number_that_json_lacks():
    spec = {"data": {"values": [{"x": 1 / 3, "y": float("nan")}]}, "mark": "point"}
    values = figures.live(spec, **TEXTS)[figures.VEGALITE_MIME]["data"]["values"]
    assert values == [{"x": 0.333333, "y": None}]


@pytest.mark.parametrize("missing", ["alt", "caption"])
def test_live_figure_needs_its_texts(missing):
    with pytest.raises(ValueError, match=missing):
        figures.live(chart(), **{**TEXTS, missing: " "})
    with pytest.raises(ValueError, match="'line'"):
        figures.live(chart(), **{**TEXTS, "name": "line"})


# sound


def tone(seconds: float = 1.6, rate: int = 16_000, peak: float = 0.5) -> torch.Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    return peak * torch.sin(2 * torch.pi * 440 * time)


class Player(HTMLParser):
    """The attributes of each tag, and the text outside the player."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text = {}, ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        assert tag not in self.tags
        self.tags[tag] = dict(attributes)

    def handle_data(self, data):
        self.text += data


def heard(sound: figures.Sound) -> tuple[np.ndarray, int]:
    import soundfile

    kind, _, content = Player(sound._repr_html_()).tags["audio"]["src"].partition(",")
    assert kind == "data:audio/flac;base64"
    return soundfile.read(io.BytesIO(base64.b64decode(content, validate=True)), dtype="float32")


def test_sound_is_played_as_it_is():
    waveform = tone()
    samples, rate = heard(figures.audio(waveform, 16_000, label="a tone"))
    assert rate == 16_000 and samples.shape == (25_600,)
    assert np.abs(samples - waveform.numpy()).max() <= 2**-16 + 1e-9
    again, _ = heard(figures.audio(samples, 16_000, label="a tone"))  # an array, already in 16 bits
    assert np.array_equal(samples, again)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_sound_takes_any_floating_tensor_with_a_gradient_or_without(dtype):
    waveform = tone(0.1).to(dtype).requires_grad_()
    samples, _ = heard(figures.audio(waveform, 16_000, label="a tone"))
    assert np.abs(samples - tone(0.1).numpy()).max() < 2e-3


def test_full_scale_does_not_wrap_around():
    samples, _ = heard(figures.audio(torch.tensor([1.0, -1.0]), 8000, label="two samples"))
    assert samples.tolist() == [1 - 2**-15, -1.0]


def test_player_has_a_name_works_without_scripts_and_loads_nothing():
    sound = figures.audio(tone(), 16_000, label='"red" & <blue>', caption="Listen for 2 > 1.")
    page = Player(sound._repr_html_())
    player = page.tags["audio"]
    assert "controls" in player and player["preload"] == "none" and "autoplay" not in player
    assert player["aria-label"] == '"red" & <blue>'
    assert "max-width: 100%" in player["style"]
    assert page.text.endswith('"red" & <blue> (1.6\u00a0s). Listen for 2 > 1.')
    assert set(page.tags) == {"figure", "audio", "figcaption", "strong"}
    assert not re.search(r"<script|\son\w+=|https?:", sound._repr_html_())
    assert repr(sound) == 'sound: "red" & <blue>, 1.6 s at 16000 Hz'
    assert repr(figures.audio(tone(0.05), 16_000, label="a click")) == "sound: a click, 0.05 s at 16000 Hz"


def test_even_noise_stays_small_in_a_notebook_and_comes_out_the_same_every_time():
    noise = 2 * torch.rand(25_600, generator=torch.Generator().manual_seed(0)) - 1
    first, second = (figures.audio(noise, 16_000, label="noise")._repr_html_() for _ in range(2))
    assert first == second and len(first) < 80_000


def test_sound_is_shown_by_a_notebook():
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(figures.audio(tone(0.1), 16_000, label="a tone"))
    assert data["text/plain"].startswith("sound: a tone") and data["text/html"].startswith("<figure")


@pytest.mark.parametrize(
    ("waveform", "rate", "label", "message"),
    [
        (torch.zeros(2, 100), 16_000, "x", r"\(L,\) floating, L >= 1, got shape \(2, 100\)"),
        (torch.zeros(0), 16_000, "x", r"got shape \(0,\)"),
        (torch.zeros(9, dtype=torch.int16), 16_000, "x", "floating.* of int16"),
        (torch.zeros(9), 0, "x", "from 1 to 655,350, got 0"),
        (torch.zeros(9), 16_000.0, "x", "whole number of samples a second .* got 16000.0"),
        (torch.zeros(9), 10**6, "x", "got 1000000"),
        (torch.tensor([0.0, float("nan"), float("inf")]), 16_000, "x", "finite samples, got 2 that are not"),
        (torch.tensor([0.0, -1.5]), 16_000, "x", r"in \[-1, 1\], got one of size 1.5"),
        (torch.zeros(9), 16_000, " ", "needs a label, got ' '"),
    ],
)
def test_player_refuses_what_cannot_be_played(waveform, rate, label, message):
    with pytest.raises(ValueError, match=message):
        figures.audio(waveform, rate, label=label)


# quiz


def question(**changes) -> Question:
    return Question(
        **{"prompt": "How many?", "answer": 3, "options": [1, 2, 3], "why": "One counts.", **changes}
    )


def test_quiz_answer_is_found_wherever_the_option_stands():
    data = question(answer=torch.tensor(2), options=[1, 2, 3]).as_json()
    assert data["options"][data["answer"]] == "2"


def test_quiz_order_is_the_same_every_time_and_not_guessable():
    questions = [
        question(prompt=f"Question {i}?", answer="right", options=["right", "a", "b", "c"])
        for i in range(200)
    ]
    first, second = ([each.as_json()["answer"] for each in questions] for _ in range(2))
    assert first == second
    counts = [first.count(place) for place in range(4)]
    assert min(counts) > 30, f"the right answer should stand anywhere, got {counts}"


def test_quiz_order_does_not_depend_on_the_order_of_writing():
    assert question(options=[3, 2, 1]).texts == question(options=[1, 2, 3]).texts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": [1, 3]}, "at least 3 options, got 2"),
        ({"options": [1, 2, 4]}, "'3' is not among"),
        ({"options": [3, 3.0, 1]}, "read the same"),
        ({"why": " "}, "needs a `why`"),
        ({"prompt": ""}, "needs a prompt"),
        ({"answer": "three", "options": None}, "whole number"),
    ],
)
def test_quiz_refuses_a_question_that_cannot_be_answered(changes, message):
    with pytest.raises(ValueError, match=message):
        question(**changes)


def test_quiz_makes_up_wrong_counts_for_a_whole_number():
    texts = question(answer=196, options=None).texts
    assert len(texts) == 4 and "196" in texts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (85798656, "85,798,656"),
        (np.int64(1000), "1,000"),
        (torch.tensor(0.25), "0.25"),
        (1 / 3, "0.3333"),
        (17448062976.0, "17,448,062,976"),
        (1.5e-7, "1.5e-07"),
        (True, "yes"),
        (" as it is ", "as it is"),
    ],
)
def test_quiz_writes_numbers_for_readers(value, text):
    assert written(value) == text


def test_quiz_output_is_json_with_a_form_without_scripts(capsys):
    output = bundle(question(prompt="Is `a < b` & so on?"), question())
    assert output[QUIZ_MIME]["questions"][0]["prompt"] == "Is `a < b` & so on?"
    page = output["text/html"]
    assert "<code>a &lt; b</code> &amp; so on?" in page
    assert page.count("<details>") == 2
    assert not re.search(r"<script|\son\w+=", page)
    nbformat.validate(
        nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", data=output)])
            ]
        )
    )
    quiz(question())
    assert "Quiz" in capsys.readouterr().out


def test_quiz_refuses_the_same_question_twice():
    with pytest.raises(ValueError, match="every question once"):
        bundle(question(), question())
    with pytest.raises(ValueError, match="at least one question"):
        bundle()
