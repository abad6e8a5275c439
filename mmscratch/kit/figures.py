"""How the book draws, and sounds: one palette, one matplotlib style, the few pictures every lesson needs.

The palette is that of Okabe and Ito, which readers with any common form of colour blindness can tell apart.
Every figure has a white background, so that it reads the same on a light page, a dark page and paper. The
functions that draw with matplotlib return a closed `Figure`: as the last line of a cell it is shown once.
"""

from __future__ import annotations

import base64
import html
import io
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#6B7280"

PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""Colours of categories, in this order."""

ACCENT = BLUE
"""The one colour of emphasis; the site's style sheet uses the same."""

SEQUENTIAL = "cividis"
"""Colour map of magnitudes: perceptually even, and the same to colour-blind readers."""

DIVERGING = "RdBu"
"""Colour map of signed values; always centre it on zero."""

VEGALITE_MIME = "application/vnd.vegalite.v5+json"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_FLAC_RATE = 655_350  # samples a second, the most that FLAC can say
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_CONFIG = {
    "background": "#ffffff",
    "font": _FONT,
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": "#e5e7eb"},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "header": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "title": {"fontSize": 14, "anchor": "start", "fontWeight": 600},
    "view": {"stroke": None},
    "range": {"category": list(PALETTE), "heatmap": {"scheme": SEQUENTIAL}},
    "mark": {"color": ACCENT},
}


def use_style() -> None:
    """Set matplotlib's defaults for the book: 100 dpi, white and opaque, readable sizes, the palette.

    Titles stand at the left, since a title states the finding and is read first.
    """
    import matplotlib as mpl

    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.figsize": (6.4, 3.6),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.family": "DejaVu Sans",
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e5e7eb",
            "grid.linewidth": 0.8,
            "axes.prop_cycle": mpl.cycler(color=PALETTE),
            "lines.linewidth": 2.0,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "image.cmap": SEQUENTIAL,
            "image.interpolation": "nearest",
        }
    )


def image_grid(
    images: Any,
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    size: float = 1.2,
    title: str | None = None,
    outlines: Sequence[str | None] | None = None,
) -> Figure:
    """Pictures in rows, without axes.

    Args:
        images: (B, C, H, W) tensor or array, or a sequence of pictures, each (C, H, W), (H, W, C) or (H, W);
            uint8 in [0, 255] or float in [0, 1] (values outside are clipped).
        titles: one short text a picture.
        columns: pictures a row; at most 8 by default.
        size: width of a picture in inches.
        title: the finding, above all pictures.
        outlines: a colour a picture, or None, for a frame (right and wrong answers, say; say it in `titles`
            too, colour alone does not reach every reader).

    Raises ValueError for no pictures, for a shape that is no picture, or for a wrong number of titles or
    outlines.
    """
    import matplotlib.pyplot as plt

    pictures = [_picture(image) for image in images]
    if not pictures:
        raise ValueError("image_grid needs at least one picture, got none")
    for name, given in (("titles", titles), ("outlines", outlines)):
        if given is not None and len(given) != len(pictures):
            raise ValueError(f"expected {len(pictures)} {name}, one a picture, got {len(given)}")
    columns = min(columns or 8, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    height, width = pictures[0].shape[:2]
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * size, rows * (size * height / width + (0.28 if titles else 0.04))),
        squeeze=False,
        layout="constrained",
    )
    for index, axis in enumerate(axes.flat):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        axis.spines[:].set_visible(False)
        if index >= len(pictures):
            axis.set_visible(False)
            continue
        axis.imshow(pictures[index], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if titles:
            axis.set_title(titles[index], fontsize=9, fontweight="normal", loc="center", pad=3)
        if outlines and outlines[index]:
            axis.spines[:].set(visible=True, color=outlines[index], linewidth=2.5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    plt.close(figure)
    return figure


def curve(
    history: Any,
    *,
    of: str = "loss",
    smooth: int | None = None,
    xlabel: str = "step",
    ylabel: str | None = None,
    title: str | None = None,
    reference: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Learning curves, one line a run.

    Args:
        history: what `kit.train.fit` returned, or several of them, or a mapping from a name to values (at
            steps 0, 1, ...) or to (step, value) pairs.
        of: "loss" or "metric" of the runs of `kit.train`; not used for a mapping.
        smooth: average each value with this many before it; by default a fiftieth of a run for losses.
        xlabel, ylabel: what the axes count, with units.
        title: the finding.
        reference: name -> a constant to hold the curves against (chance, a baseline), drawn dashed.
        ax: draw here instead of in a new figure.

    Raises ValueError for an empty history or an unknown `of`.
    """
    import matplotlib.pyplot as plt

    lines = _lines(history, of)
    if not lines or not all(lines.values()):
        raise ValueError(f"curve needs at least one value a line, got {history!r}")
    figure, axis = (ax.figure, ax) if ax is not None else plt.subplots()
    for name, points in lines.items():
        steps, values = zip(*points, strict=True)
        window = smooth or (max(1, len(values) // 50) if of == "loss" else 1)
        averaged = [
            sum(values[max(0, i + 1 - window) : i + 1]) / min(i + 1, window) for i in range(len(values))
        ]
        axis.plot(steps, averaged, label=name, marker="o" if len(values) < 12 else None, markersize=4)
    for name, value in (reference or {}).items():
        axis.axhline(value, color=GREY, linestyle="--", linewidth=1.2)
        axis.annotate(
            name, (1, value), (-4, 3), axis.get_yaxis_transform(), "offset points",
            ha="right", color="#4B5563", fontsize=9,
        )  # fmt: skip
    first = history if hasattr(history, "losses") else next(iter(history), None)
    metric_name = getattr(first, "metric_name", "") or "metric"
    axis.set(xlabel=xlabel, ylabel=ylabel or (metric_name if of == "metric" else "loss"))
    if title:
        axis.set_title(title)
    if len(lines) > 1:
        axis.legend()
    if ax is None:
        plt.close(figure)
    return figure


def bars(
    values: Mapping[str, float],
    *,
    xlabel: str,
    title: str | None = None,
    highlight: str | Sequence[str] = (),
    errors: Mapping[str, float] | None = None,
    limit: float | None = None,
    number: str = "{:.2f}",
) -> Figure:
    """Horizontal bars with their numbers written out, in the order given: a result beside its baselines.

    Args:
        values: name -> value.
        xlabel: what is counted, with its unit.
        title: the finding.
        highlight: names drawn in the accent colour; the others are grey.
        errors: name -> half-width of an error bar.
        limit: end of the axis, such as 1.0 for an accuracy.
        number: format of the written numbers.

    Raises ValueError for no values or for a highlighted name that is not among them.
    """
    import matplotlib.pyplot as plt

    chosen = {highlight} if isinstance(highlight, str) else set(highlight)
    if not values or (unknown := chosen - values.keys()):
        raise ValueError(
            f"bars: expected names among {list(values)}, got {sorted(unknown) if values else 'none'}"
        )
    figure, axis = plt.subplots(figsize=(6.4, 0.45 * len(values) + 1.1))
    names, lengths = list(values), [float(value) for value in values.values()]
    colours = [ACCENT if name in chosen else "#9CA3AF" for name in names]
    deviations = [errors.get(name, 0.0) for name in names] if errors else None
    axis.barh(names, lengths, color=colours, xerr=deviations, height=0.66, error_kw={"elinewidth": 1.2})
    for row, length in enumerate(lengths):
        beyond = length + (deviations[row] if deviations else 0.0)
        axis.annotate(number.format(length), (beyond, row), (4, 0), textcoords="offset points", va="center")
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_xlabel(xlabel)
    axis.margins(x=0.12)
    if limit is not None:
        axis.set_xlim(0, limit * 1.09)  # room for the number of a full bar
    if title:
        axis.set_title(title)
    plt.close(figure)
    return figure


def overlay(image: Any, heat: Any, *, ax: Axes | None = None, strength: float = 0.6) -> Figure:
    """A picture with a map of weights over it, such as attention over patches.

    Args:
        image: a picture as `image_grid` takes it, H pixels high and W wide.
        heat: (h, w) weights, at any resolution; each cell is drawn as one rectangle, not smoothed.
        ax: draw here instead of in a new figure.
        strength: opacity of the largest weight, in (0, 1].

    Raises ValueError if `heat` is not two-dimensional or has negative values.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    picture = _picture(image)
    weights = np.asarray(heat.detach().cpu() if hasattr(heat, "detach") else heat, dtype=float)
    if weights.ndim != 2 or weights.min() < 0:
        raise ValueError(f"heat must be (h, w) weights of at least 0, got shape {weights.shape}")
    figure, axis = (ax.figure, ax) if ax is not None else plt.subplots(figsize=(3.2, 3.2))
    height, width = picture.shape[:2]
    extent = (0, width, height, 0)
    shade = weights / max(weights.max(), 1e-12)
    axis.imshow(
        picture.mean(axis=-1) if picture.ndim == 3 else picture, cmap="gray", vmin=0, vmax=1, extent=extent
    )
    axis.imshow(shade, cmap="inferno", alpha=strength * shade, vmin=0, vmax=1, extent=extent)
    axis.set_axis_off()
    if ax is None:
        plt.close(figure)
    return figure


def live(chart: Any, *, alt: str, caption: str, name: str) -> dict[str, Any]:
    """The one output of a live figure: its Vega-Lite 5 specification and, as plain text, its description.

    Args:
        chart: an Altair chart (anything with `to_dict()`), or a Vega-Lite specification.
        alt: what a reader who cannot see the figure needs to know: what is drawn, what moves, what one sees.
        caption: one or two sentences: what to look for.
        name: label of the figure, unique in the book, such as "fig-04-position".

    JupyterLab draws version 5; Altair writes version 6 and would need a network there. Numbers are kept to
    six significant digits, which is finer than any screen. Raises ValueError for a missing text or a bad
    label.
    """
    for key, text in (("alt", alt), ("caption", caption)):
        if not text.strip():
            raise ValueError(f"a live figure needs {key!r}, got {text!r}")
    if not name.startswith("fig-"):
        raise ValueError(f"a figure's name starts with 'fig-', got {name!r}")
    spec = dict(chart if isinstance(chart, Mapping) else chart.to_dict())
    spec["$schema"] = _SCHEMA
    spec["description"] = alt
    spec["config"] = {**_CONFIG, **{k: v for k, v in spec.get("config", {}).items() if k != "view"}}
    # `usermeta` is the field that Vega-Lite leaves to its users: the site reads caption and label from it
    spec["usermeta"] = {"mmscratch": {"caption": caption, "name": name}}
    return {VEGALITE_MIME: _rounded(spec), "text/plain": alt}


def show(chart: Any, *, alt: str, caption: str, name: str) -> None:
    """Show a live figure: drawn by JupyterLab, and on the site by a script that the site itself serves.

    Arguments and errors are those of `live`. On Colab, which draws no Vega-Lite of its own, the chart brings
    its libraries along from the network.
    """
    from IPython.display import HTML, display

    bundle = live(chart, alt=alt, caption=caption, name=name)
    if "COLAB_RELEASE_TAG" in os.environ and hasattr(chart, "to_html"):
        display(HTML(chart.to_html()))
    else:
        display(bundle, raw=True)


@dataclass(frozen=True, repr=False)
class Sound:
    """A player on the page; as the last line of a cell, or given to IPython's `display`, it is shown."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def audio(waveform: Any, rate: int, *, label: str, caption: str = "") -> Sound:
    """A player with the sound inside it, as lossless 16-bit FLAC: it needs no script, no file and no network.

    Args:
        waveform: (L,) tensor or array, floating, in [-1, 1]. It is played as it is, not made louder.
        rate: samples a second, from 1 to 655,350.
        label: what sounds, in a few words: the player's name to a screen reader, and written below it.
        caption: one or two sentences: what to listen for.

    Raises ValueError for anything else, an empty label among it. A second of speech at 16 kHz adds about 30
    kB to the notebook.
    """
    import numpy as np
    import soundfile

    if hasattr(waveform, "detach"):
        waveform = waveform.detach().cpu()
        waveform = waveform.float() if waveform.is_floating_point() else waveform  # NumPy has no bfloat16
    samples = np.asarray(waveform)
    if samples.ndim != 1 or not len(samples) or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"a waveform is (L,) floating, L >= 1, got shape {samples.shape} of {samples.dtype}")
    if isinstance(rate, bool) or not isinstance(rate, numbers.Integral) or not 1 <= rate <= _FLAC_RATE:
        raise ValueError(
            f"expected a whole number of samples a second from 1 to {_FLAC_RATE:,}, got {rate!r}"
        )
    if not np.isfinite(samples).all():
        raise ValueError(f"expected finite samples, got {int((~np.isfinite(samples)).sum())} that are not")
    if (peak := float(np.abs(samples).max())) > 1 + 1e-6:  # room for rounding
        raise ValueError(f"expected samples in [-1, 1], got one of size {peak:.3g}; divide by the largest")
    if not label.strip():
        raise ValueError(f"a sound needs a label, got {label!r}")
    whole = np.round(samples.astype(np.float64) * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, whole, int(rate), format="FLAC", subtype="PCM_16", compression_level=1.0)
    address = "data:audio/flac;base64," + base64.b64encode(stream.getvalue()).decode()
    seconds = len(samples) / rate
    duration = f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
    name = html.escape(label)
    said = f"<strong>{name}</strong> ({duration.replace(' ', '&nbsp;')})" + (
        f". {html.escape(caption)}" if caption.strip() else ""
    )
    player = (
        f'<figure class="sound" style="margin: 1em 0">'
        f'<audio controls preload="none" aria-label="{name}" src="{address}" style="max-width: 100%">'
        f"A browser that plays FLAC is needed.</audio><figcaption>{said}</figcaption></figure>"
    )
    return Sound(player, f"sound: {label}, {duration} at {rate} Hz")


def _lines(history: Any, of: str) -> dict[str, list[tuple[float, float]]]:
    """Name -> (step, value) pairs of anything that `curve` takes."""
    if of not in ("loss", "metric"):
        raise ValueError(f"expected of='loss' or of='metric', got {of!r}")
    if isinstance(history, Mapping):
        pairs = {
            name: [value if isinstance(value, tuple | list) else (i, value) for i, value in enumerate(values)]
            for name, values in history.items()
        }
    else:
        runs = [history] if hasattr(history, "losses") else list(history)
        pairs = {
            run.label: list(
                enumerate(run.losses) if of == "loss" else zip(run.metric_steps, run.metrics, strict=True)
            )
            for run in runs
        }
    return {name: [(float(x), float(y)) for x, y in points] for name, points in pairs.items()}


def _picture(image: Any) -> Any:
    """(H, W, C) or (H, W) float array in [0, 1] of a picture in any of the accepted forms."""
    import numpy as np

    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[-1] not in (3, 4):
        array = array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(f"a picture is (C, H, W), (H, W, C) or (H, W), got shape {array.shape}")
    if array.dtype == np.uint8:
        return array / 255
    return array.astype(float).clip(0, 1)


def _rounded(value: Any) -> Any:
    """`value` as JSON can hold it: floats to six significant digits, infinities and NaN as null."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
