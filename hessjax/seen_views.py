"""Draws seen_panels.py's records with matplotlib. No number is computed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax import axes
from hessjax.seen_panels import Contours, Matrix, Traces, over_columns
from hessjax.tables import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "MARKERS",
    "ON_VIRIDIS",
    "PALETTE",
    "draw_contours",
    "draw_matrix",
    "draw_surface",
    "draw_traces",
    "figure_of_seen",
    "on_surface",
]

LEVELS = 28
MARKERS = "osD^vP"
ON_VIRIDIS = ("#ffffff", "#ff9f40", "#ff5fa2", "#7fe7ff", "#c8ff5f", "#d9b3ff", "#ffd9b3", "#b3ffd9")
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5a4fa2", "#000000")  # Okabe and Ito's


def figure_of_seen(panel: Traces | Contours | Matrix) -> Figure:
    """A figure of one record; of a plane its contours and its surface beside each other.

    Example:
      >>> from hessjax.seen_panels import traces
      >>> len(figure_of_seen(traces([0, 1], {"loss": {"": [1, 2]}, "index": {"": [0, 1]}}, x_label="step")).axes)
      2
    """
    if isinstance(panel, Traces):
        return draw_traces(panel)
    if isinstance(panel, Matrix):
        found: Any = draw_matrix(panel, axes.given(None)).figure
        return found
    figure = axes.figure((13.5, 5.4))
    draw_contours(panel, figure.add_subplot(121))
    draw_surface(panel, figure.add_subplot(122, projection="3d"))
    return figure


def draw_traces(panel: Traces, ax: Axes | None = None) -> Figure:
    """Parts beside each other in a new figure, or the only part on the axes given."""
    if ax is not None:
        _part(panel, 0, ax)
        found: Any = ax.figure
        return found
    rows, columns = over_columns(len(panel.parts))
    figure = axes.figure((1.2 + 4.4 * columns, 0.6 + 3.7 * rows))
    for k in range(len(panel.parts)):
        _part(panel, k, figure.add_subplot(rows, columns, k + 1))
    if len(panel.parts) > 1:
        figure.suptitle(axes.plain(panel.title), x=0.01, ha="left", fontsize=12, fontweight="bold")
        figure.supxlabel(axes.plain(panel.note), fontsize=8, color=axes.GREY, x=0.99, ha="right")
    return figure


def _part(panel: Traces, number_of_it: int, ax: Axes) -> None:
    part, alone = panel.parts[number_of_it], len(panel.parts) == 1
    axes.frame(ax, panel.title if alone else part.label, panel.note if alone else "")
    axes.label(ax, panel.x_label, part.label if alone else "")
    marker = "o" if len(panel.x) <= 40 else ""
    for k, (name, values) in enumerate(part.curves.items()):
        colour = PALETTE[k % len(PALETTE)]
        style = "-" if k < len(PALETTE) else "--"
        ax.plot(panel.x, values, style, marker=marker, color=colour, markersize=3, linewidth=1.5, label=name)
    for name, level in part.levels.items():
        colour = PALETTE[list(part.curves).index(name) % len(PALETTE)] if name in part.curves else axes.GREY
        ax.axhline(level, color=colour, linestyle=":", linewidth=1.3, label=None if name in part.curves else name)
    shown = np.concatenate([*(v[np.isfinite(v)] for v in part.curves.values()), [*part.levels.values()]])
    if not shown.size:
        axes.empty(ax)
    elif part.axis.kind != "linear":
        axes.scale(ax, "y", part.axis, (shown.min(), shown.max()), max_ticks=7)
    if number_of_it == 0 and [name for name in part.curves if name]:
        ax.legend(frameon=False, fontsize=8)


def draw_contours(panel: Contours, ax: Axes) -> Axes:
    """Filled contours, with paths and marks in the plane."""
    axes.frame(ax, panel.title, panel.note)
    axes.label(ax, *panel.labels)
    finite = panel.heights[np.isfinite(panel.heights)]
    if finite.size and np.ptp(finite) > 0:
        filled = ax.contourf(panel.xs, panel.ys, panel.heights, levels=LEVELS, cmap="viridis")
        ax.contour(panel.xs, panel.ys, panel.heights, levels=LEVELS, colors="white", linewidths=0.3, alpha=0.6)
        _bar(ax, filled, panel)
    for k, (name, path) in enumerate(panel.paths.items()):
        colour = ON_VIRIDIS[k % len(ON_VIRIDIS)]
        ax.plot(*path.T, "-", color=colour, linewidth=1.6, label=name, zorder=3)
        ax.plot(*path[-1], "o", color=colour, markeredgecolor="black", markersize=5, zorder=4)
    for k, (name, place) in enumerate(panel.marks.items()):
        marker = MARKERS[k % len(MARKERS)]
        ax.plot(*place, marker, color="#b2182b", markeredgecolor="white", markersize=7, label=name, zorder=5)
    if panel.paths or panel.marks:
        ax.legend(fontsize=7.5, loc="best", framealpha=0.6, facecolor="#303030", labelcolor="white")
    ax.set_xlim(panel.xs[0], panel.xs[-1])
    ax.set_ylim(panel.ys[0], panel.ys[-1])
    return ax


def _bar(ax: Axes, filled: Any, panel: Contours) -> None:
    """The colour bar says values, also where colours are of other heights."""
    bar = ax.figure.colorbar(filled, ax=ax, pad=0.02)
    low, high = np.nanmin(panel.heights), np.nanmax(panel.heights)
    at = np.linspace(low, high, 7)
    if panel.heights is not panel.values:
        order = np.argsort(panel.heights, axis=None)
        known = np.isfinite(panel.heights.ravel()[order])
        values = np.interp(at, panel.heights.ravel()[order][known], panel.values.ravel()[order][known])
        bar.set_ticks(at.tolist(), labels=[number(value) for value in values])
    bar.ax.tick_params(labelsize=8)
    bar.set_label(axes.plain(panel.label), fontsize=9)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def draw_surface(panel: Contours, ax: Any) -> Any:
    """The surface, with the paths on it."""
    x, y = np.meshgrid(panel.xs, panel.ys)
    ax.plot_surface(x, y, panel.heights, cmap="viridis", linewidth=0, rcount=80, ccount=80, alpha=0.85)
    for k, path in enumerate(panel.paths.values()):
        inside = (path >= [panel.xs[0], panel.ys[0]]).all(1) & (path <= [panel.xs[-1], panel.ys[-1]]).all(1)
        kept = path[inside]
        ax.plot(*kept.T, on_surface(panel, kept), color=ON_VIRIDIS[k % len(ON_VIRIDIS)], linewidth=2, zorder=10)
    ax.tick_params(labelsize=7, pad=-2)
    ax.locator_params(nbins=5)
    ax.set_xlabel(axes.plain(panel.labels[0]), fontsize=8, labelpad=-2)
    ax.set_ylabel(axes.plain(panel.labels[1]), fontsize=8, labelpad=-2)
    ax.view_init(elev=32, azim=-60)
    ax.set_box_aspect((1, 1, 0.7), zoom=0.95)
    return ax


def on_surface(panel: Contours, points: np.ndarray) -> np.ndarray:
    """Heights at points of the plane, linear between those known.

    Example:
      >>> from hessjax.seen_panels import contours
      >>> on_surface(contours([0, 1], [0, 1], [[0, 1], [0, 1]]), np.array([[0.25, 0.5]])).tolist()
      [0.25]
    """
    if not len(points):
        return np.zeros(0)
    i, s = _cell(panel.xs, points[:, 0])
    j, t = _cell(panel.ys, points[:, 1])
    z = panel.heights
    return (1 - t) * ((1 - s) * z[j, i] + s * z[j, i + 1]) + t * ((1 - s) * z[j + 1, i] + s * z[j + 1, i + 1])


def _cell(grid: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k = np.clip(np.searchsorted(grid, at) - 1, 0, len(grid) - 2)
    return k, (at - grid[k]) / (grid[k + 1] - grid[k])


def draw_matrix(panel: Matrix, ax: Axes) -> Axes:
    """Cells with their numbers."""
    axes.frame(ax, panel.title, panel.note)
    shown = ax.imshow(panel.values, cmap="viridis")
    count = range(len(panel.names))
    ax.set_xticks(count, labels=[axes.plain(name) for name in panel.names], fontsize=8, rotation=30, ha="right")
    ax.set_yticks(count, labels=[axes.plain(name) for name in panel.names], fontsize=8)
    finite = panel.values[np.isfinite(panel.values)]
    middle = (finite.min() + finite.max()) / 2 if finite.size else 0.0
    for i in count:
        for j in count:
            value = panel.values[i, j]
            text = "–" if np.isnan(value) else number(value)
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if value <= middle else "black")
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(shown, ax=ax, pad=0.02)
    bar.set_label(axes.plain(panel.label), fontsize=9)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return ax
