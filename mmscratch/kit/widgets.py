"""A box to type into or a button for a sound file, where a notebook is alive; nothing where it is stored."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any


def obstacle(label: str = "Search") -> str:
    """Why the box called `label` cannot work here, in a sentence; empty where it can."""
    if os.environ.get("MMSCRATCH_PROGRESS") == "off":
        return f"The {label.lower()} box appears in a running notebook; here you see what it would show."
    if importlib.util.find_spec("ipywidgets") is None:
        return (
            f"The {label.lower()} box needs ipywidgets: pip install ipywidgets, and start the notebook again."
        )
    return ""


def search_box(
    answer: Callable[[str], Any],
    *,
    prompt: str = "Describe a picture",
    start: str = "",
    label: str = "Search",
) -> Any:
    """A text field that shows `answer(text)` below itself whenever the reader presses Enter.

    `label` stands before the field, `prompt` in it. `answer` returns anything that a cell can show; a
    ValueError it raises is shown as one line, a blank field as nothing. Returns the widget, or None, with a
    printed line that says why, where widgets cannot work.
    """
    if reason := obstacle(label):
        print(reason)
        return None
    import ipywidgets
    from IPython.display import display

    field = ipywidgets.Text(value=start, placeholder=prompt, description=label, continuous_update=False)
    below = ipywidgets.Output()

    def show(_change: Any = None) -> None:
        text = field.value.strip()
        below.clear_output(wait=bool(text))  # to wait for an output that never comes would keep the old one
        with below:
            if text:
                try:
                    display(answer(text))
                except ValueError as error:
                    print(error)

    field.observe(show, names="value")
    show()
    return ipywidgets.VBox([field, below])


def sound_box(answer: Callable[[Any, int], Any], *, label: str = "Recording") -> Any:
    """A button that takes a sound file and shows `answer(waveform, rate)` below itself.

    The waveform is (L,) float32, channels averaged; the rate is the file's. WAV, FLAC, Ogg and MP3 are read.
    A ValueError of `answer`, or a file that holds no sound, is shown as one line. Returns the widget, or
    None, with a printed line that says why, where widgets cannot work.
    """
    if reason := obstacle(label):
        print(reason)
        return None
    import ipywidgets
    from IPython.display import display

    button = ipywidgets.FileUpload(accept=".wav,.flac,.ogg,.mp3", description=label)
    below = ipywidgets.Output()

    def show(_change: Any = None) -> None:
        below.clear_output()
        with below:
            for file in button.value:
                try:
                    display(answer(*read_sound(bytes(file["content"]))))
                except ValueError as error:
                    print(error)

    button.observe(show, names="value")
    return ipywidgets.VBox([button, below])


def read_sound(content: bytes) -> tuple[Any, int]:
    """The samples (L,) of a sound file, channels averaged, and its rate; ValueError where it holds none."""
    import io

    import soundfile
    import torch

    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"not a sound file that can be read: {str(error).splitlines()[0][:80]}") from None
    if not len(samples):
        raise ValueError("the sound file is empty")
    return torch.from_numpy(samples.mean(axis=1)), int(rate)
