"""Figures of profiles, of optimisers compared and of training seen; `hj.plot` has them beside those of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax import axes
from hessjax.seen_panels import contours, pairs, traces
from hessjax.seen_views import draw_contours, draw_matrix, draw_surface, draw_traces
from hessjax.tables import by_row, num_params

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hessjax.profiles import Line, Plane
    from hessjax.trajectories import Comparison

__all__ = ["along_training", "comparison", "final_losses", "lines", "matrix", "plane", "surface"]

# Of a sweep's rows: what is drawn, and how it is called.
SEEN = {
    "loss": "loss",
    "error": "training error",
    "grad_norm": "gradient norm",
    "negative": "share of negative eigenvalues",
    "index": "negative eigenvalues",
    "max_eigenvalue": "largest eigenvalue",
    "min_eigenvalue": "smallest eigenvalue",
    "trace": "trace",
}


def lines(found: Line | Mapping[str, Line], *, label: str = "loss", title: str = "", ax: Axes | None = None) -> Axes:
    """Values along lines, by the position t on them.

    Args:
        found: What hj.profiles.line or along returned, or several of them by name, at the same ts.
        label: What the values are.
        title: Of the figure.
        ax: Axes to draw on; a new figure if None.

    Raises:
        ValueError: the values are no numbers, or lines are at different ts.

    Example:
        >>> import jax.numpy as jnp, hessjax as hj
        >>> found = hj.profiles.line(lambda w: w @ w, jnp.zeros(2), jnp.ones(2), np.linspace(-1, 2, 31))
        >>> lines(found).get_xlabel()
        't'
    """
    given: dict[str, Any] = dict(found) if isinstance(found, Mapping) else {"": found}
    curves: dict[str, Any] = {}
    for name, one in given.items():
        values = np.asarray(one.values, float)
        several = values if values.ndim > 1 else values[None]
        curves |= {f"{name} {k + 1}".strip() if values.ndim > 1 else name: row for k, row in enumerate(several)}
    ts = next(iter(given.values())).ts
    if any(not np.array_equal(one.ts, ts) for one in given.values()):
        raise ValueError("lines are at different ts: draw them on the same axes, one after another.")
    ax = axes.given(ax)
    draw_traces(traces(ts, {label: curves}, x_label="t", title=title), ax)
    return ax


def plane(
    found: Plane,
    *,
    paths: Mapping[str, Any] | None = None,
    marks: Mapping[str, Any] | None = None,
    label: str = "loss",
    labels: tuple[str, str] = ("x", "y"),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Contours over a plane, with trajectories and points in it.

    Where the largest values would hide all else, colours are of arcsinh of the height above the lowest; the bar says
    values.

    Args:
        found: What hj.profiles.plane or bilinear returned, of numbers.
        paths: Coordinates [points, 2] by name, such as `Frame.project` returns; the last point is marked.
        marks: Coordinates (x, y) by name.
        label: What the values are.
        labels: Of the axes.
        title: Of the figure.
        ax: Axes to draw on; a new figure if None.

    Raises:
        ValueError: the values are not a number for each point.

    Example:
        >>> import jax.numpy as jnp, hessjax as hj
        >>> grid = np.linspace(-1, 1, 9)
        >>> found = hj.profiles.plane(lambda w: w[0] ** 2 - w[1] ** 2, jnp.zeros(2), *jnp.eye(2), grid, grid)
        >>> plane(found, paths={"sgd": [(1.0, 0.1), (0.5, 0.2), (0.0, 1.0)]}).get_legend().get_texts()[0].get_text()
        'sgd'
    """
    panel = contours(
        found.xs, found.ys, found.values, label=label, labels=labels, title=title, paths=paths, marks=marks
    )
    return draw_contours(panel, axes.given(ax))


def surface(
    found: Plane,
    *,
    paths: Mapping[str, Any] | None = None,
    label: str = "loss",
    labels: tuple[str, str] = ("x", "y"),
    ax: Any = None,
) -> Axes:
    """A plane's values as a surface, with trajectories on it.

    Args:
        found: As for `plane`.
        paths: As for `plane`.
        label: What the values are.
        labels: Of the axes.
        ax: Axes with projection="3d"; a new figure if None.

    Example:
        >>> import jax.numpy as jnp, hessjax as hj
        >>> grid = np.linspace(-1, 1, 9)
        >>> found = hj.profiles.plane(lambda w: w[0] ** 2 - w[1] ** 2, jnp.zeros(2), *jnp.eye(2), grid, grid)
        >>> surface(found).name
        '3d'
    """
    panel = contours(found.xs, found.ys, found.values, label=label, labels=labels, paths=paths)
    return draw_surface(panel, axes.figure((6.8, 5.4)).add_subplot(projection="3d") if ax is None else ax)


def matrix(
    values: Any, names: Sequence[str], *, label: str = "disagreement", title: str = "", ax: Axes | None = None
) -> Axes:
    """A number of every pair: disagreement, distance, barrier.

    Args:
        values: [k, k].
        names: Of the k things.
        label: What the numbers are.
        title: Of the figure.
        ax: Axes to draw on; a new figure if None.

    Raises:
        ValueError: values are not as many as names, squared.

    Example:
        >>> matrix([[0.0, 0.08], [0.08, 0.0]], ["sgd", "adam"]).get_yticklabels()[1].get_text()
        'adam'
    """
    return draw_matrix(pairs(names, values, label=label, title=title), axes.given(ax))


def comparison(found: Comparison, *, init: int = 0, thresholds: Mapping[str, float] | None = None) -> Figure:
    """Optimisers compared: loss, gradient norm, sharpness and negative share over training.

    Args:
        found: What hj.compare_optimizers returned.
        init: Which init.
        thresholds: Of the sharpness, by optimiser, such as hj.tracking.stability_threshold gives; dotted lines.

    Example:
        >>> import jax, optax, hessjax as hj
        >>> land = hj.landscapes.get("scalar-linear", depth=2)
        >>> found = hj.compare_optimizers(land, {"sgd": optax.sgd(0.1)}, jax.random.key(0), num_steps=9, times=4)
        >>> len(comparison(found, thresholds={"sgd": 20.0}).axes)
        4
    """
    parts = {
        "loss": found.loss,
        "gradient norm": found.grad_norm,
        "sharpness (largest eigenvalue)": found.sharpness,
        "share of negative eigenvalues": found.negative,
    }
    curves = {label: dict(zip(found.names, values[:, init], strict=True)) for label, values in parts.items()}
    levels = {"sharpness (largest eigenvalue)": dict(thresholds or {})}
    note = "dotted: thresholds of stability" if thresholds else ""
    return draw_traces(
        traces(found.steps, curves, x_label="training step", title="The same init", note=note, levels=levels)
    )


def along_training(
    ds: xr.Dataset,
    *,
    names: Sequence[str] = ("loss", "grad_norm", "negative"),
    inits: Sequence[int] | None = None,
) -> Figure:
    """Quantities of a sweep beside each other along training: a plateau of the loss is not a zero of the gradient.

    With names=("loss", "index") it is the staircase of training that approaches one saddle after another and leaves
    it, with the number of descent directions beside it.

    Args:
        ds: A sweep, as open_sweep returns it.
        names: Of loss, error, grad_norm, negative (as a share), index (as a number), max_eigenvalue, min_eigenvalue,
            trace.
        inits: Rows that are drawn; None: the median over all.

    Raises:
        ValueError: an unknown name, or one that the sweep has not; a row that is not there.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(2.0, 0.1), "grad_norm": row(1.0, 0.5), "negative": row(3, 1)},
        ...                 {"step": ("time", [0, 9])}, {"landscape": {"num_params": 10}})
        >>> [ax.get_title(loc="left") for ax in along_training(ds).axes]
        ['loss', 'gradient norm', 'share of negative eigenvalues']
    """
    unknown = [name for name in names if name not in SEEN]
    if unknown:
        raise ValueError(f"names has {unknown[0]!r}, wanted some of {', '.join(SEEN)}.")
    count = ds.sizes["init"]
    if inits is not None and not all(0 <= k < count for k in inits):
        raise ValueError(f"inits are {list(inits)}, wanted rows 0 to {count - 1}.")
    parts = {}
    for name in names:
        variable = "negative" if name == "index" else name
        if variable not in ds:
            raise ValueError(f"the sweep has no {variable!r}; it has {', '.join(map(str, ds.data_vars))}.")
        values = by_row(ds, variable).astype(float)
        if variable == "negative":
            values = np.where(values < 0, np.nan, values) / (1 if name == "index" else num_params(ds))
        rows = {f"init {k}": values[k] for k in inits or ()}
        parts[SEEN[name]] = rows or {"": _median(values)}
    note = f"median of {count:,} inits" if inits is None else ""
    title = str(ds.attrs.get("title", ""))
    return draw_traces(traces(ds["step"].values, parts, x_label="training step", title=title, note=note))


def _median(values: np.ndarray) -> np.ndarray:
    """Over what is finite; NaN where nothing is."""
    kept = np.isfinite(values).any(0)
    found = np.full(values.shape[1], np.nan)
    found[kept] = np.nanmedian(np.where(np.isfinite(values[:, kept]), values[:, kept], np.nan), axis=0)
    return found


def final_losses(losses: Mapping[Any, Any], *, what: str = "width", ax: Axes | None = None) -> Axes:
    """Final losses of many inits against the width of their net, or another number: every init, and the medians.

    Args:
        losses: For every width the last losses of its inits: a sweep's dataset, or numbers.
        what: What the numbers are.
        ax: Axes to draw on; a new figure if None.

    Raises:
        ValueError: nothing was given.

    Example:
        >>> final_losses({2: [0.3, 0.1], 8: [0.02, 0.01, 0.01]}).get_xlabel()
        'width'
    """
    if not losses:
        raise ValueError("losses are empty: give some for each width, {2: [...], 8: [...]}.")
    last = {float(k): by_row(x, "loss")[:, -1] if hasattr(x, "data_vars") else x for k, x in losses.items()}
    found = {k: np.ravel(np.asarray(x, float)) for k, x in sorted(last.items())}
    ks, counts = np.array(list(found)), [len(x) for x in found.values()]
    medians = np.array([np.median(x[np.isfinite(x)]) if np.isfinite(x).any() else np.nan for x in found.values()])
    many = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    ax = axes.given(ax)
    draw_traces(traces(ks, {"final loss": {"median": medians}}, x_label=what, note=f"{many} inits each"), ax)
    values = np.concatenate(list(found.values()))
    ax.plot(np.repeat(ks, counts), values, "o", color=axes.GREY, markersize=3, alpha=0.35, zorder=1)
    if ks[0] > 0 and ks[-1] > 8 * ks[0]:
        ax.set_xscale("log", base=2)
        ax.set_xticks(ks, labels=[f"{k:g}" for k in ks])
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size == values.size and positive.max() > 100 * positive.min():
        ax.set_yscale("log")
    return ax
