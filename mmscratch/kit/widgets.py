"""A box to type into, where a notebook is alive; nothing where a lesson is stored or read as a page."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any


def alive() -> bool:
    """Whether widgets can work here: ipywidgets is installed and the run is not one that is being stored."""
    stored = os.environ.get("MMSCRATCH_PROGRESS") == "off"
    return not stored and importlib.util.find_spec("ipywidgets") is not None


def search_box(
    answer: Callable[[str], Any],
    *,
    prompt: str = "Describe a picture",
    start: str = "",
    label: str = "Search",
) -> Any:
    """A text field that shows `answer(text)` below itself whenever the reader presses Enter.

    `label` stands before the field, `prompt` in it. `answer` returns anything that a cell can show; a ValueError it raises is shown as one line. Returns the
    widget, or None, with a printed line that says why, where widgets cannot work.
    """
    if not alive():
        print(f"The {label.lower()} box appears in a running notebook; here you see what it would show.")
        return None
    import ipywidgets
    from IPython.display import display

    field = ipywidgets.Text(value=start, placeholder=prompt, description=label, continuous_update=False)
    below = ipywidgets.Output()

    def show(_change: Any = None) -> None:
        below.clear_output(wait=True)
        with below:
            if field.value.strip():
                try:
                    display(answer(field.value.strip()))
                except ValueError as error:
                    print(error)

    field.observe(show, names="value")
    show()
    return ipywidgets.VBox([field, below])
