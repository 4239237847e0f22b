"""Draws panels.py's records with matplotlib: the drawing behind plot.py, which has the public calls and their docs.

No number is computed here; one function a kind of record, on axes that are given or new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax import axes, panels
from hessjax.figures import Axis, Running
from hessjax.tables import number, shorten

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "overview"]


def draw(panel: Any, ax: Axes | None = None) -> Axes:
    """One record on the axes given, or on those of a new figure.

    Example:
        >>> import xarray as xr
        >>> loss = xr.DataArray([[2.0, 0.1]], dims=("init", "time"))
        >>> draw(panels.curves(xr.Dataset({"loss": loss}, {"step": ("time", [0, 9])}))).get_xlabel()
        'training step'
    """
    return _DRAW[type(panel)](panel, ax)


def _scatter(panel: panels.Scatter, ax: Axes | None, *, bar: bool = True) -> Axes:
    ax = axes.given(ax)
    axes.frame(ax, panel.title, panel.note)
    axes.label(ax, *panel.labels)
    if panel.x.size == 0:
        return axes.empty(ax)
    colours, cloud = axes.colours(len(panel.steps)), panel.x.size > 500
    order = np.random.default_rng(0).permutation(panel.x.size)  # no time is drawn on top of all others
    ax.scatter(
        panel.x[order],
        panel.y[order],
        s=7 if cloud else 18,
        c=colours[panel.time[order]],
        alpha=0.45 if cloud else 0.8,
        linewidths=0,
        rasterized=True,
    )
    if panel.running.x.size >= 3:
        _running(ax, panel.running)
    axes.scale(ax, "x", panel.axes[0], (panel.x.min(), panel.x.max()))
    axes.scale(ax, "y", panel.axes[1], (panel.y.min(), panel.y.max()))
    if bar:
        axes.colour_bar(ax, panel.steps)
    return ax


def _running(ax: Axes, running: Running) -> None:
    from matplotlib import patheffects

    halo = [patheffects.withStroke(linewidth=4, foreground="white", alpha=0.9)]
    ax.plot(
        running.x, running.median, color=axes.INK, linewidth=1.8, label="running median", path_effects=halo, zorder=5
    )
    for bound, name in ((running.low, "10 and 90 %"), (running.high, None)):
        ax.plot(running.x, bound, "--", color=axes.INK, linewidth=0.9, label=name, zorder=5)
    rising = running.median[-1] >= running.median[0]
    ax.legend(frameon=False, fontsize=8, loc="upper left" if rising else "upper right")


def _density(panel: panels.Density, ax: Axes | None, *, bar: bool = True) -> Axes:
    ax = axes.given(ax)
    axes.frame(ax, panel.title, panel.note)
    axes.label(ax, "eigenvalue λ", "share per unit of arcsinh(λ/c)")
    if panel.density.size == 0:
        return axes.empty(ax)
    values, top = panel.axis.inverse(panel.edges), 2 * np.nanmax(panel.density)
    axes.scale(ax, "x", panel.axis, (values[0], values[-1]), max_ticks=11 if bar else 7)
    axes.scale(ax, "y", Axis("log"), (panel.floor, top), max_ticks=6)
    share = 0.17  # of the height, below the curves, for the outliers: one row a time
    ax.set_ylim(panel.floor * (panel.floor / top) ** (share / (1 - share)), top)
    ax.axvspan(-panel.threshold, panel.threshold, color="#000000", alpha=0.07, linewidth=0, zorder=0)
    rows = share * (1 - (np.arange(len(panel.steps)) + 0.9) / (len(panel.steps) + 0.8))
    for t, colour in enumerate(axes.colours(len(panel.steps))):
        ax.stairs(panel.density[t].clip(panel.floor), values, color=colour, linewidth=1.2, baseline=None, zorder=2 + t)
        tick = {"transform": ax.get_xaxis_transform(), "color": colour, "linewidth": 0.9}
        ax.vlines(panel.outliers[t], rows[t] - 0.3 * share / len(rows), rows[t] + 0.3 * share / len(rows), **tick)
    ax.axhline(panel.floor, color=axes.GREY, linewidth=0.6)
    ticks = "ten largest,\nmedian by rank" if panel.outliers.shape[1] > 1 else "the largest,\nmedian"
    for x, y, text, where in (
        (0.01, share / 2, ticks, ax.transAxes),
        (0, 0.965, "counts as 0", ax.get_xaxis_transform()),
    ):
        ax.text(
            x, y, text, transform=where, fontsize=7, color=axes.GREY, ha="center" if x == 0 else "left", va="center"
        )
    if bar:
        axes.colour_bar(ax, panel.steps)
    return ax


def _estimated(panel: panels.Estimated, ax: Axes | None) -> Axes:
    ax = axes.given(ax)
    axes.frame(ax, panel.title, panel.note)
    axes.label(ax, "eigenvalue λ", "share per unit of λ")
    axes.scale(ax, "x", panel.axis, (panel.grid[0], panel.grid[-1]), max_ticks=9)
    axes.scale(ax, "y", Axis("log"), (panel.floor, 2 * panel.high.max()), max_ticks=7)
    ax.set_ylim(panel.floor, 2 * panel.high.max())
    low, high = panel.low.clip(panel.floor), panel.high.clip(panel.floor)
    ax.fill_between(panel.grid, low, high, color=axes.BLUE, alpha=0.25, linewidth=0, label="95 %")
    ax.plot(panel.grid, panel.value.clip(panel.floor), color=axes.BLUE, linewidth=1.4, label="density")
    tick = {"transform": ax.get_xaxis_transform(), "color": axes.INK, "markeredgewidth": 1}
    ax.plot(panel.outliers, np.full(len(panel.outliers), 0.02), "|", markersize=9, label="one by one", **tick)
    ax.axvline(0, color=axes.GREY, linewidth=0.6)
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    return ax


def _curves(panel: panels.Curves, ax: Axes | None) -> Axes:
    ax = axes.given(ax)
    axes.frame(ax, panel.title, panel.note)
    parts = [ax]
    if len(panel.curves) > 1:
        ax.set_axis_off()
        parts = [ax.inset_axes((0, 0.42, 1, 0.58))]
        parts.append(ax.inset_axes((0, 0, 1, 0.36), sharex=parts[0]))
    for part, curve in zip(parts, panel.curves):
        last = part is parts[-1]
        axes.label(part, "training step" if last else "", curve.label)
        if not np.isfinite(curve.bands).any():
            axes.empty(part)
            continue
        for low, high, alpha, name in ((0, 4, 0.16, "5–95 %"), (1, 3, 0.32, "25–75 %")):
            part.fill_between(
                panel.steps, curve.bands[low], curve.bands[high], color=axes.BLUE, alpha=alpha, linewidth=0, label=name
            )
        part.plot(panel.steps, curve.bands[2], "o-", color=axes.BLUE, markersize=3.5, linewidth=1.6, label="median")
        axes.scale(part, "x", panel.step_axis, (panel.steps[0], panel.steps[-1]))
        axes.scale(part, "y", curve.axis, (np.nanmin(curve.bands), np.nanmax(curve.bands)), max_ticks=5)
        part.tick_params(labelbottom=last)
        axes.align(part)
    if parts[0].lines:
        parts[0].legend(frameon=False, fontsize=8)
    return parts[0]


def _distributions(panel: panels.Distributions, ax: Axes | None) -> Axes:
    ax = axes.given(ax)
    axes.frame(ax, panel.title, panel.note, below=46)  # labels take two lines here
    if not panel.parts:
        axes.label(ax, "", "")
        return axes.empty(ax)
    ax.set_axis_off()
    columns = 2 if len(panel.parts) in (2, 4) else min(len(panel.parts), 3)
    lines = -(-len(panel.parts) // columns)
    width, height = (1.09 / columns) - 0.09, (0.93 + 0.27) / lines - 0.27
    for k, part in enumerate(panel.parts):
        row, column = divmod(k, columns)
        child = ax.inset_axes((column * (width + 0.09), (lines - 1 - row) * (height + 0.27), width, height))
        axes.label(child, part.label.replace(" (", "\n("), "share of inits (%)" if column == 0 else "", size=8)
        values = part.axis.inverse(part.histogram.edges)
        child.stairs(100 * part.histogram.mass, values, fill=True, color=axes.BLUE, alpha=0.85)
        child.axvline(part.median, color=axes.INK, linewidth=1)
        axes.scale(child, "x", part.axis, (values[0], values[-1]), max_ticks=4)
        child.set_title(f"median {number(part.median)}", fontsize=7.5, color=axes.GREY, loc="right", pad=2)
    return ax


def overview(ds: xr.Dataset, found: dict) -> Figure:
    """Six panels that share one colour bar and one footnote; the histograms are the four that matter most."""
    first = "negative_against_error" if "negative_against_error" in found else "positive_against_loss"
    names = [first, "negative_against_loss", "eigenvalue_density", "loss_curves", "gradient_norm_against_loss"]
    figure = axes.figure((14, 8.2))
    grid = figure.subplots(2, 3)
    for ax, name in zip(grid.ravel(), names):
        panel = found[name]._replace(note="")
        _DRAW[type(panel)](panel, ax, **({} if name == "loss_curves" else {"bar": False}))
    final = found["final_distribution"]
    parts = [part for part in final.parts if part.name in ("loss", "negative", "min_eigenvalue", "max_eigenvalue")]
    _distributions(final._replace(note="", parts=parts), grid[1, 2])
    axes.colour_bar(grid, ds["step"].values)
    if ds.attrs.get("title"):
        figure.suptitle(axes.plain(shorten(ds.attrs["title"], 110)), fontsize=14, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel(axes.plain(final.note), fontsize=8, color=axes.GREY, x=0.99, ha="right")
    return figure


_DRAW: dict[type, Any] = {
    panels.Scatter: _scatter,
    panels.Density: _density,
    panels.Curves: _curves,
    panels.Distributions: _distributions,
    panels.Estimated: _estimated,
}
