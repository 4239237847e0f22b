"""The furniture of a matplotlib figure: a frame, labels, scales through zero, a colour bar of times.

One look for every figure of plot.py, set on the axes themselves, because rcParams belong to the user.
No data and no pyplot here; matplotlib is imported inside the functions, so importing this module costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hessjax.figures import Axis, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["align", "colour_bar", "colours", "empty", "figure", "frame", "given", "label", "plain", "scale"]

INK, GREY, BLUE = "#1a1a1a", "#6b6b6b", "#3b6ea8"


def figure(size: tuple) -> Figure:
    """A figure outside pyplot: no window, no global state, freed with its last reference.

    Example:
        >>> figure((4, 3)).get_size_inches()
        array([4., 3.])
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as err:
        raise ImportError("hessjax.plot needs matplotlib: pip install 'hessjax[plot]'") from err
    return Figure(figsize=size, layout="constrained", facecolor="white")


def given(ax: Axes | None) -> Axes:
    """The axes that were given, or those of a new figure.

    Example:
        >>> given(None).figure.get_size_inches()
        array([6.8, 4.8])
    """
    return figure((6.8, 4.8)).add_subplot() if ax is None else ax


def plain(text: object) -> str:
    r"""Text as it is: a dollar sign starts no formula.

    Example:
        >>> plain("5$ loss")
        '5\\$ loss'
    """
    return str(text).replace("$", r"\$")


def frame(ax: Axes, title: str, note: str, *, below: float | int = 34) -> None:
    """A title above and a footnote so many points below.

    Example:
        >>> ax = given(None)
        >>> frame(ax, "Losses", "1,024 inits")
        >>> ax.get_title(loc="left")
        'Losses'
    """
    ax.set_title(plain(title), fontsize=10.5, fontweight="bold", color=INK, loc="left", pad=8)
    foot = ax.annotate(plain(note), (1, 0), (0, -below), xycoords="axes fraction", textcoords="offset points")
    foot.set(fontsize=7.5, color=GREY, ha="right", va="top", annotation_clip=False)


def label(ax: Axes, x: str, y: str, *, size: float | int = 10) -> None:
    """Labels of both axes, a light grid, and no box.

    Example:
        >>> ax = given(None)
        >>> label(ax, "loss (nats)", "share")
        >>> ax.get_xlabel()
        'loss (nats)'
    """
    ax.set_xlabel(plain(x), fontsize=size)
    ax.set_ylabel(plain(y), fontsize=size)
    ax.tick_params(labelsize=size - 1, color=GREY)
    ax.grid(True, color="#000000", alpha=0.09, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)


def scale(ax: Axes, which: Literal["x", "y"], axis: Axis, limits: tuple, *, max_ticks: int = 9) -> None:
    """Set the x or y axis to its scale, with round ticks between the limits.

    Example:
        >>> ax = given(None)
        >>> scale(ax, "x", Axis("arcsinh", 1e-3), (-1.0, 10.0))
        >>> [text.get_text() for text in ax.get_xticklabels()][:3]
        ['−0.1', '−0.001', '0']
    """
    one = ax.xaxis if which == "x" else ax.yaxis
    if axis.kind == "linear":
        ax.locator_params(axis=which, nbins=max_ticks)
        return
    set_scale = ax.set_xscale if which == "x" else ax.set_yscale
    set_scale("log") if axis.kind == "log" else set_scale("asinh", linear_width=axis.width)
    values, labels = ticks(axis, float(limits[0]), float(limits[1]), max_ticks=max_ticks)
    one.set_ticks(values.tolist(), labels=labels)
    one.set_ticks([], minor=True)


def align(ax: Axes, points: float | int = 36) -> None:
    """Put the label of the y axis this far to the left, so that stacked axes agree.

    Example:
        >>> ax = given(None)
        >>> align(ax)
        >>> ax.yaxis.label.get_position()[1]
        0.5
    """
    from matplotlib.transforms import ScaledTranslation

    shift = ScaledTranslation(-points / 72, 0, ax.figure.dpi_scale_trans)
    ax.yaxis.set_label_coords(0, 0.5, transform=ax.transAxes + shift)


def empty(ax: Axes) -> Axes:
    """Axes that say that there is nothing to show.

    Example:
        >>> empty(given(None)).texts[0].get_text()
        'nothing to show'
    """
    ax.set_xticks([])
    ax.set_yticks([])
    ax.text(0.5, 0.5, "nothing to show", transform=ax.transAxes, ha="center", va="center", color=GREY)
    return ax


def colours(count: int) -> np.ndarray:
    """Viridis without its palest end, one colour (RGBA) a time.

    Example:
        >>> colours(8).shape
        (8, 4)
    """
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.93, count) if count > 1 else [0.35])


def colour_bar(ax: Any, steps: np.ndarray) -> None:
    """One block of colour for each time, labelled by its training step; none for a single time. `ax`: axes, or several.

    Example:
        >>> ax = given(None)
        >>> colour_bar(ax, np.array([0, 10, 100]))
        >>> ax.figure.axes[-1].get_ylabel()
        'training step'
    """
    if len(steps) < 2:
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    norm = BoundaryNorm(np.arange(len(steps) + 1) - 0.5, len(steps))
    home = np.ravel(ax)[0].figure
    bar = home.colorbar(ScalarMappable(norm, ListedColormap(colours(len(steps)))), ax=ax, pad=0.015, aspect=32)
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 10)).round().astype(int)).tolist()
    bar.set_ticks(shown, labels=[f"{steps[t]:,}" for t in shown])
    bar.ax.tick_params(which="both", length=0, labelsize=8)
    bar.ax.spines[:].set_visible(False)
    bar.set_label("training step", fontsize=9)
