"""Static figures of a sweep, a search or a spectrum, on matplotlib axes that are given or made.

What is drawn comes from panels.py, so a figure here and its interactive twin in a report show the same numbers.
Nothing is shown and no global is touched: no pyplot, no rcParams, no backend; `ax.figure.savefig(...)` writes a figure.
Colours are viridis over time, readable in print and to the colour-blind; a missing variable is a note, not an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax import axes, drawing, found_panels, panels, views
from hessjax.drawing import draw
from hessjax.figures import Axis
from hessjax.found_views import draw_found
from hessjax.pictures import along_training, comparison, final_losses, lines, matrix, plane, surface
from hessjax.seen_panels import Contours, Matrix, Traces
from hessjax.seen_views import figure_of_seen
from hessjax.tables import number

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hessjax.free_laws import FreeLaw
    from hessjax.portraits import Portrait
    from hessjax.spectra import Spectrum

__all__ = [
    "along_training",
    "comparison",
    "critical_points",
    "density",
    "eigenvalue_density",
    "final_distribution",
    "final_losses",
    "gradient_norm_against_loss",
    "gradient_norms",
    "index_against_loss",
    "law",
    "lines",
    "loss_curves",
    "matrix",
    "outcomes",
    "overview",
    "plane",
    "portrait",
    "save",
    "save_all",
    "spectrum",
    "surface",
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
    return draw(panels.index(ds, against, sign), ax)


def gradient_norm_against_loss(ds: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Gradient norm against loss on logarithmic axes: training that is stuck need not be at zero gradient.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(2.0, 0.1), "grad_norm": row(1.0, 0.05)}, {"step": ("time", [0, 9])})
        >>> gradient_norm_against_loss(ds).get_yscale()
        'log'
    """
    return draw(panels.gradient(ds), ax)


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
    return draw(panels.density(ds), ax)


def loss_curves(ds: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Median loss over training steps with the 25-75 % and 5-95 % bands; the error, if any, in a panel below.

    Example:
        >>> import xarray as xr
        >>> loss = xr.DataArray([[2.0, 0.1], [2.2, 0.3]], dims=("init", "time"))
        >>> loss_curves(xr.Dataset({"loss": loss}, {"step": ("time", [0, 9])})).get_xlabel()
        'training step'
    """
    return draw(panels.curves(ds), ax)


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
    return draw(panels.distributions(ds), ax)


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


def density(found: Spectrum, *, ax: Axes | None = None) -> Axes:
    """A spectrum estimated without a matrix: density with its 95 % band over probes, and ticks at the outliers.

    Args:
        found: What hj.spectrum returned.
        ax: Axes to draw on; a new figure if None.

    Example:
        >>> import jax, jax.numpy as jnp, hessjax as hj
        >>> found = hj.spectrum(hj.Matrix(jnp.diag(jnp.arange(20.0))), jax.random.key(0), k=2)
        >>> density(found).get_yscale()
        'log'

    Raises:
        TypeError: `found` is something else, such as a quadrature.
    """
    if not hasattr(found, "outliers"):
        raise TypeError(
            f"found is {type(found).__name__}, wanted what hj.spectrum(op, key) returns; of a quadrature, draw "
            "hj.density(quadrature, grid, width=...).value over grid."
        )
    return draw(panels.estimated(found), ax)


def critical_points(
    ds: xr.Dataset,
    *,
    cutoff: float | None = None,
    statuses: Sequence[str] = ("critical", "gradient-flat", "unfinished"),
    colour: str = "grad_norm_sq",
    law: Any = None,
    law_name: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Index against loss of all points that a search found, known points beside; gradient norm or flatness as colour.

    Args:
        ds: A search, as open_search returns it.
        cutoff: Another cut-off of the squared gradient norm than the search's, below which a point is called critical.
        statuses: Of the points that are shown.
        colour: "grad_norm_sq" (its logarithm) or "flatness" (r, 1 where the gradient is flat).
        law: Losses and shares [k, 2] of a curve to draw, such as hj.rmt's index law; None: the landscape's own, where
            it has one.
        law_name: What the curve is.
        ax: Axes to draw on; None: those of a new figure.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([[x] for x in v], dims=("start", "finder"))
        >>> ds = xr.Dataset({"loss": row(1.0, 2.0), "negative": row(0, 1), "positive": row(2, 1), "zero": row(0, 0),
        ...                  "status": row(0, 2), "grad_norm_sq": row(1e-20, 1e-3)})
        >>> critical_points(ds).get_ylabel()
        'index / number of parameters'
    """
    return draw_found(
        found_panels.found(ds, cutoff=cutoff, statuses=statuses, colour=colour, law=law, law_name=law_name), ax
    )


def outcomes(ds: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """What became of a search's starts, a bar for each method: critical, gradient-flat, unfinished, diverged.

    Example:
        >>> import xarray as xr
        >>> status = xr.DataArray([[0], [3]], dims=("start", "finder"))
        >>> outcomes(xr.Dataset({"status": status}, {"finder": ["newton"]})).get_xlabel()
        'share of starts'
    """
    return draw_found(found_panels.outcomes(ds), ax)


def gradient_norms(ds: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How small the gradients of a search's points are, a curve for each method, with the cut-off and the rounding.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([[x] for x in v], dims=("start", "finder"))
        >>> ds = xr.Dataset({"grad_norm_sq": row(1e-20, 1e-3), "status": row(0, 2)}, {"finder": ["newton"]})
        >>> gradient_norms(ds).get_xscale()
        'log'
    """
    return draw_found(found_panels.norms(ds), ax)


def law(law: FreeLaw, eigenvalues: Any = (), *, ax: Axes | None = None) -> Axes:
    """A random-matrix law, over the histogram of measured eigenvalues where there are any.

    Args:
        law: Such as `hj.rmt.wishart_plus_wigner(phi, eps)` makes; a share of equal eigenvalues is a dashed line.
        eigenvalues: Any shape, pooled; those far beyond the law and the others are counted below the axis.
        ax: Axes to draw on; a new figure if None.

    Example:
        >>> import hessjax as hj
        >>> mixed = hj.rmt.wishart_plus_wigner(0.25, 0.5)
        >>> law(mixed, mixed.sample(200, seed=0)).get_title(loc="left")
        '22.5% below 0 by the law, 22.5% measured'

    Raises:
        TypeError: `law` is something else.
    """
    if not hasattr(law, "bands"):
        raise TypeError(f"law is {type(law).__name__}, wanted one that hj.rmt makes, such as hj.rmt.semicircle().")
    return views.draw_law(law, np.ravel(np.asarray(eigenvalues, float)), axes.given(ax))


def portrait(found: Portrait) -> Figure:
    """A landscape: its loss over a plane, as contours and as a surface, and the spectra at its points.

    Args:
        found: What hessjax.portraits.portrait returned.

    Example:
        >>> import jax, hessjax as hj
        >>> from hessjax.portraits import portrait as measured
        >>> len(portrait(measured(hj.landscapes.get("saddle"), jax.random.key(0), resolution=9, tol=1e-6)).axes)
        4
    """
    return views.draw_portrait(found)


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
    return drawing.overview(ds, panels.panels(ds))


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
    found = found or panels.panels(ds)
    return _write({**_figures(found), "overview": drawing.overview(ds, found)}, folder)


def save(folder: str | Path, *, found: dict[str, Any]) -> list[Path]:
    """Write panels as PNG at 150 dpi, and the first of them as the overview too.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp, hessjax as hj
        >>> one = hj.spectrum(hj.Matrix(jnp.diag(jnp.arange(20.0))), jax.random.key(0), k=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print([path.name for path in save(folder, found={"density": panels.estimated(one)})])
        ['density.png', 'overview.png']
    """
    figures = _figures(found)
    return _write({**figures, "overview": next(iter(figures.values()))}, folder)


def _figures(found: dict) -> dict[str, Any]:
    return {name: _figure(panel) for name, panel in found.items()}


def _figure(panel: Any) -> Any:
    if isinstance(panel, Traces | Contours | Matrix):
        return figure_of_seen(panel)
    ours = found_panels.Found | found_panels.Outcomes | found_panels.Norms
    return (draw_found if isinstance(panel, ours) else draw)(panel).figure


def _write(figures: dict[str, Any], folder: str | Path) -> list[Path]:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values()):
        figure.savefig(path, dpi=150)
    return paths
