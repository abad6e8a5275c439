"""A box to type into, where a notebook is alive; nothing where a lesson is stored or read as a page."""

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
