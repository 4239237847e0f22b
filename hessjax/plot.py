"""Static figures of a sweep or a spectrum, on matplotlib axes that are given or made.

What is drawn comes from panels.py, so a figure here and its interactive twin in a report show the same numbers.
Nothing is shown and no global is touched: no pyplot, no rcParams, no backend; `ax.figure.savefig(...)` writes a figure.
Colours are viridis over time, readable in print and to the colour-blind; a missing variable is a note, not an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax import axes, panels
from hessjax.figures import Axis, Running
from hessjax.tables import number, shorten

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "eigenvalue_density",
    "final_distribution",
    "gradient_norm_against_loss",
    "index_against_loss",
    "loss_curves",
    "overview",
    "save_all",
    "spectrum",
]

_SIGN_COLOURS = {"negative": "#b2182b", "zero": "#8c8c8c", "positive": "#2166ac"}


def index_against_loss(
    ds: xr.Dataset, *, against: str = "loss", sign: str = "negative", ax: Axes | None = None
) -> Axes:
    """Share of negative (or positive) eigenvalues against loss or error, every init and time a point coloured by time.

    The line is the running median over points sorted by loss, the dashed lines the 10 and 90 % quantiles.

    Args:
        ds: A sweep, as open_sweep returns it.
        against: "loss" or "error".
        sign: "negative" for the index (of a critical point), "positive" for how nearly a point is a minimum.
        ax: Axes to draw on; a new figure if None.

    Returns:
        The axes.

    References:
        Dauphin et al. 2014, arXiv:1406.2572, figure 1; Pennington & Bahri 2017, figure 1.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(2.0, 0.1), "negative": row(3, 1)}, {"step": ("time", [0, 9])},
        ...                 {"landscape": {"num_params": 10}})
        >>> index_against_loss(ds).get_xlabel()
        'loss'
    """
    return _scatter(panels.index(ds, against, sign), ax)


def gradient_norm_against_loss(ds: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Gradient norm against loss on logarithmic axes: training that is stuck need not be at zero gradient.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(2.0, 0.1), "grad_norm": row(1.0, 0.05)}, {"step": ("time", [0, 9])})
        >>> gradient_norm_against_loss(ds).get_yscale()
        'log'
    """
    return _scatter(panels.gradient(ds), ax)


def eigenvalue_density(ds: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Density of the eigenvalues of all inits, one curve per time, on an axis through zero.

    Plotted is the share of the eigenvalues per unit of u = arcsinh(lambda / c), c the median threshold: on the axis as
    drawn, equal areas are equal shares (p(u) = p(lambda) sqrt(lambda^2 + c^2); one decade is 2.3 units of u). The
    grey band holds the eigenvalues that count as zero; the ticks below are the medians by rank of the ten largest.

    Example:
        >>> import xarray as xr
        >>> values = xr.DataArray([[[-1.0, 0.0, 0.0, 5.0]]], dims=("init", "time", "eigenvalue"))
        >>> loss = xr.DataArray([[0.5]], dims=("init", "time"))
        >>> eigenvalue_density(xr.Dataset({"loss": loss, "eigenvalues": values}, {"step": ("time", [0])})).get_xscale()
        'asinh'
    """
    return _density(panels.density(ds), ax)


def loss_curves(ds: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Median loss over training steps with the 25-75 % and 5-95 % bands; the error, if any, in a panel below.

    Example:
        >>> import xarray as xr
        >>> loss = xr.DataArray([[2.0, 0.1], [2.2, 0.3]], dims=("init", "time"))
        >>> loss_curves(xr.Dataset({"loss": loss}, {"step": ("time", [0, 9])})).get_xlabel()
        'training step'
    """
    return _curves(panels.curves(ds), ax)


def final_distribution(ds: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Histograms over inits at the last time: loss, error, share of negative eigenvalues, smallest and largest one.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([[x] for x in v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(0.2, 0.1), "negative": row(3, 0)}, {"step": ("time", [9])},
        ...                 {"landscape": {"num_params": 10}})
        >>> len(final_distribution(ds).child_axes)
        2
    """
    return _distributions(panels.distributions(ds), ax)


def spectrum(eigenvalues, *, threshold: Any = None, ax: Axes | None = None) -> Axes:
    """One model's spectrum: eigenvalues by rank on an axis through zero, coloured and counted by sign.

    Args:
        eigenvalues: [n], any order.
        threshold: |lambda| up to which an eigenvalue counts as zero; n eps max |lambda| for float32 if None.
        ax: Axes to draw on; a new figure if None.

    Example:
        >>> spectrum([-0.5, 0.0, 1e-9, 2.0], threshold=1e-6).get_title(loc="left")
        '1 negative, 2 zero, 1 positive of 4 eigenvalues'
    """
    ax, values = axes.given(ax), np.sort(np.ravel(np.asarray(eigenvalues, dtype=float)))
    finite = np.isfinite(values)
    lost, values = int((~finite).sum()), values[finite]
    largest = float(np.abs(values).max()) if values.size else 1.0
    if threshold is None:
        threshold = values.size * np.finfo(np.float32).eps * largest
    threshold = float(threshold)
    signs = {"negative": values < -threshold, "zero": np.abs(values) <= threshold, "positive": values > threshold}
    title = ", ".join(f"{where.sum():,} {sign}" for sign, where in signs.items()) + f" of {values.size:,} eigenvalues"
    footnote = f"zero: |λ| ≤ {number(threshold)}" + (f"; {lost:,} not finite, left out" if lost else "")
    axes.frame(ax, title, footnote)
    axes.label(ax, "rank", "eigenvalue λ")
    if values.size == 0:
        return axes.empty(ax)
    axis = Axis("arcsinh", float(np.clip(threshold, 1e-7 * largest, 1e-2 * largest)) or 1.0)
    axes.scale(ax, "y", axis, (values[0], values[-1]))
    ax.axhspan(-threshold, threshold, color="#000000", alpha=0.07, linewidth=0, zorder=0)
    rank = np.arange(1, values.size + 1)
    for sign, where in signs.items():
        ax.plot(rank[where], values[where], ".", markersize=4, color=_SIGN_COLOURS[sign], label=sign)
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return ax


def overview(ds: xr.Dataset) -> Figure:
    """Six panels on one page: index against error and loss, density, curves, gradient norm, final distribution.

    Without an error, the first panel is the share of positive eigenvalues.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(2.0, 0.1), "grad_norm": row(1.0, 0.5), "negative": row(3, 1),
        ...                  "positive": row(4, 6)}, {"step": ("time", [0, 9])}, {"landscape": {"num_params": 10}})
        >>> len(overview(ds).axes) >= 6
        True
    """
    return _overview(ds, panels.panels(ds))


def save_all(ds: xr.Dataset, folder: str | Path, *, found: dict | None = None) -> list[Path]:
    """Write every figure of a sweep, and the overview, as PNG at 150 dpi.

    Args:
        ds: A sweep, as open_sweep returns it.
        folder: Where to write; made if it does not exist. Files of the same name are replaced.
        found: panels.panels(ds), for a caller that has it already.

    Returns:
        The files, the overview last.

    Example:
        >>> import tempfile, xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(2.0, 0.1), "grad_norm": row(1.0, 0.5), "negative": row(3, 1),
        ...                  "positive": row(4, 6)}, {"step": ("time", [0, 9])}, {"landscape": {"num_params": 10}})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(save_all(ds, folder)[-1].name)
        overview.png
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = found or panels.panels(ds)
    figures: dict[str, Any] = {name: _DRAW[type(panel)](panel, None).figure for name, panel in found.items()}
    figures["overview"] = _overview(ds, found)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values()):
        figure.savefig(path, dpi=150)
    return paths


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
    for x, y, text, where in (
        (0.01, share / 2, "ten largest,\nmedian by rank", ax.transAxes),
        (0, 0.965, "counts as 0", ax.get_xaxis_transform()),
    ):
        ax.text(
            x, y, text, transform=where, fontsize=7, color=axes.GREY, ha="center" if x == 0 else "left", va="center"
        )
    if bar:
        axes.colour_bar(ax, panel.steps)
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
    axes.frame(ax, panel.title, panel.note)
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


def _overview(ds: xr.Dataset, found: dict) -> Figure:
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
}
