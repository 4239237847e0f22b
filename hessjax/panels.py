"""What each figure of a sweep shows: from the Dataset of open_sweep to arrays, axes, labels, a title and a footnote.

plot.py draws these records with matplotlib and interactive.py with plotly: both show the same points and say the same.
Titles state what was measured ("31 % negative at loss 2.4, 5.1 % at 0.06"), never what was hoped for.
A variable that is missing, or rows that are, make an emptier record whose title or footnote says so; never an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hessjax.figures import (
    Axis,
    Histogram,
    Running,
    arcsinh_histogram,
    choose_axis,
    histogram,
    quantile_bands,
    running_median,
    step_axis,
)
from hessjax.tables import SHORT, by_row, label, note, num_params, number, rows, usable

if TYPE_CHECKING:
    import xarray as xr

    from hessjax.spectra import Spectrum

__all__ = [
    "Curve",
    "Curves",
    "Density",
    "Distribution",
    "Distributions",
    "Estimated",
    "Scatter",
    "curves",
    "density",
    "distributions",
    "estimated",
    "gradient",
    "index",
    "panels",
]

SIGNS = {"negative": "below −threshold", "positive": "above the threshold"}
HOVER = {"init": "init", "step": "step", **SHORT}
NUM_OUTLIERS = 10
NOTHING = "No usable rows"


class Scatter(NamedTuple):
    """Every usable (init, time) row as a point, and the running median; `columns` is what one may ask of a point."""

    title: str
    note: str
    labels: tuple[str, str]
    axes: tuple[Axis, Axis]
    x: np.ndarray
    y: np.ndarray
    init: np.ndarray
    time: np.ndarray
    steps: np.ndarray
    running: Running
    columns: dict[str, np.ndarray]


class Curve(NamedTuple):
    """Quantiles (5, 25, 50, 75, 95 %) of one quantity at each time, [5, time]."""

    label: str
    axis: Axis
    bands: np.ndarray


class Curves(NamedTuple):
    """Curves over training steps."""

    title: str
    note: str
    steps: np.ndarray
    step_axis: Axis
    curves: list[Curve]


class Density(NamedTuple):
    """Eigenvalues pooled over inits at each time: density per unit of arcsinh(lambda / width), [time, bin].

    `floor` is where a logarithmic density axis ends: below a single eigenvalue, or 1e-5 of the top.
    """

    title: str
    note: str
    steps: np.ndarray
    axis: Axis
    threshold: float
    edges: np.ndarray
    density: np.ndarray
    floor: float
    outliers: np.ndarray


class Estimated(NamedTuple):
    """An estimated density [point] with its 95 % band, and the eigenvalues that are known one by one.

    `floor` is where a logarithmic density axis ends: a third of the peak of a single eigenvalue.
    """

    title: str
    note: str
    axis: Axis
    threshold: float
    grid: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    floor: float
    outliers: np.ndarray


class Distribution(NamedTuple):
    """Histogram of one quantity over inits."""

    name: str
    label: str
    axis: Axis
    histogram: Histogram
    median: float


class Distributions(NamedTuple):
    """Histograms at the last measured time."""

    title: str
    note: str
    step: int
    parts: list[Distribution]


def index(ds: xr.Dataset, against: str = "loss", sign: str = "negative") -> Scatter:
    """Share of eigenvalues of one sign against the loss or the error, one point per init and time.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(2.0, 0.1), "negative": row(3, 1)}, {"step": ("time", [0, 9])},
        ...                 {"landscape": {"num_params": 10}})
        >>> index(ds).y
        array([0.3, 0.1])
    """
    if against not in ("loss", "error"):
        raise ValueError(f"against must be 'loss' or 'error', got {against!r}.")
    if sign not in SIGNS:
        raise ValueError(f"sign must be 'negative' or 'positive', got {sign!r}.")
    found = _scatter(ds, against, sign, lambda count: count / num_params(ds))
    title = _ends(sign, against, found)
    axes = (found.axes[0], Axis())
    labels = (found.labels[0], f"share of eigenvalues {SIGNS[sign]}")
    return found._replace(title=found.title or title, axes=axes, labels=labels)


def gradient(ds: xr.Dataset) -> Scatter:
    """Gradient norm against loss: where training slows down the gradient need not be small.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> gradient(xr.Dataset({"loss": row(2.0, 0.1), "grad_norm": row(1.0, 0.5)}, {"step": ("time", [0, 9])})).title
        'Median gradient 1 at step 0, 0.5 at 9'
    """
    found = _scatter(ds, "loss", "grad_norm")
    medians = np.array(
        [np.median(found.y[found.time == t]) if t in found.time else np.nan for t in range(len(found.steps))]
    )
    return found._replace(title=found.title or _over_time("Median gradient", found.steps, medians))


def _scatter(ds, x_name: str, y_name: str, scale=lambda y: y) -> Scatter:
    """The points where both columns are finite; a title only if there is nothing to show."""
    missing = [name for name in (x_name, y_name) if name not in ds]
    table = rows(ds)
    x, y = (np.asarray(table.get(n, np.full(len(table["time"]), np.nan)), float) for n in (x_name, y_name))
    shown = np.isfinite(x) & np.isfinite(y)
    x, y = x[shown], scale(y[shown])
    title = f"This sweep has no variable {missing[0]!r}" if missing else "" if x.size else NOTHING
    return Scatter(
        title=title,
        note=note(ds),
        labels=(label(ds, x_name), label(ds, y_name)),
        axes=(choose_axis(x) if x_name == "loss" else Axis(), choose_axis(y)),
        x=x,
        y=y,
        init=table["init"][shown],
        time=table["time"][shown],
        steps=ds["step"].values,
        running=running_median(x, y, axis=choose_axis(x) if x_name == "loss" else Axis()),
        columns={text: table[n][shown] for n, text in HOVER.items() if n in table},
    )


def curves(ds: xr.Dataset) -> Curves:
    """Quantile bands of the loss, and of the error where there is one, over training steps.

    Example:
        >>> import xarray as xr
        >>> loss = xr.DataArray([[2.0, 0.1]], dims=("init", "time"))
        >>> curves(xr.Dataset({"loss": loss}, {"step": ("time", [0, 9])})).title
        'Median loss 2 at step 0, 0.1 at 9'
    """
    keep, steps = usable(ds), ds["step"].values
    parts = []
    for name in ("loss", "error"):
        if name in ds:
            bands = quantile_bands(by_row(ds, name), keep)
            parts.append(Curve(label(ds, name), choose_axis(bands) if name == "loss" else Axis(), bands))
    title = _over_time("Median loss", steps, parts[0].bands[2])
    return Curves(title, note(ds), steps, step_axis(steps), parts)


def density(ds: xr.Dataset) -> Density:
    """Density of the eigenvalues of all inits at each time, and the medians of the largest ones by rank.

    Of a sweep that estimates spectra, the density of its quadratures' nodes, and the largest eigenvalue.

    The arcsinh axis is linear within the median threshold (kept between 1e-7 and 1e-2 of the largest |eigenvalue|), so
    the eigenvalues that count as zero are one peak in the middle.

    Example:
        >>> import xarray as xr
        >>> values = xr.DataArray([[[-1.0, 0.0, 0.0, 5.0]]], dims=("init", "time", "eigenvalue"))
        >>> loss = xr.DataArray([[0.5]], dims=("init", "time"))
        >>> density(xr.Dataset({"loss": loss, "eigenvalues": values}, {"step": ("time", [0])})).title
        '50 % of eigenvalues count as zero at step 0'
    """
    keep, steps = usable(ds), ds["step"].values
    kept = "eigenvalues" in ds or "nodes" in ds
    if not kept or not keep.any():
        none, title = np.zeros((0, 0)), NOTHING if kept else "This sweep kept no spectra"
        return Density(title, note(ds), steps, Axis("arcsinh"), 0.0, np.array([-1.0, 1.0]), none, 1.0, none)
    pooled, outliers = _pooled(ds, keep)
    low, high = min(p.min() for p, _ in pooled if p.size), max(p.max() for p, _ in pooled if p.size)
    threshold = float(np.median(by_row(ds, "threshold")[keep])) if "threshold" in ds else 0.0
    axis = Axis("arcsinh", float(np.clip(threshold, *(max(-low, high, 1e-30) * np.array([1e-7, 1e-2])))))
    num_bins = int(np.clip(2 * max(p.size for p, _ in pooled) ** (1 / 3), 20, 160))
    bins = {"limits": (float(low), float(high)), "num_bins": num_bins}
    parts = [arcsinh_histogram(p, axis.width, weights=w, **bins) for p, w in pooled]
    stack = np.array([h.density if p.size else np.full(h.density.shape, np.nan) for h, (p, _) in zip(parts, pooled)])
    last = max(t for t, (p, _) in enumerate(pooled) if p.size)
    zero = number(100 * np.average(np.abs(pooled[last][0]) <= threshold, weights=pooled[last][1]), 2)
    title = f"{zero} % of eigenvalues count as zero at step {steps[last]:,}"
    floor = float(max(0.7 * np.nanmin(stack[stack > 0]), 1e-5 * np.nanmax(stack)))
    how = "" if "eigenvalues" in ds else f"; estimated from {ds.sizes['probe']} probes each"
    return Density(title, note(ds) + how, steps, axis, threshold, parts[0].edges, stack, floor, outliers)


def _pooled(ds: xr.Dataset, keep: np.ndarray) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Of each time, the eigenvalues of all usable inits, or the nodes that stand for them, with what each counts.

    Beside them the medians of the largest eigenvalues by rank, of a quadrature the one that is known.
    """
    if "eigenvalues" in ds:
        values = ds["eigenvalues"].transpose("time", "init", "eigenvalue").values
        weights, largest = np.broadcast_to(1.0, values.shape), values[..., -NUM_OUTLIERS:]
    else:
        wide = (ds[name].transpose("time", "init", "probe", "node").values for name in ("nodes", "weights"))
        values, weights = (x.reshape(*x.shape[:2], -1) for x in wide)
        largest = by_row(ds, "max_eigenvalue").T[..., None]
    pooled, outliers = [], []
    for t, some in enumerate(keep.T):
        counted = weights[t][some] > 0
        pooled.append((values[t][some][counted], weights[t][some][counted]))
        outliers.append(np.median(largest[t][some], axis=0) if some.any() else np.full(largest.shape[-1], np.nan))
    return pooled, np.array(outliers)


def estimated(found: Spectrum) -> Estimated:
    """The density of a spectrum estimated from products, with its band over probes and its outliers.

    The axis is linear within the kernel's width and logarithmic beyond; the density is per unit of lambda.

    Example:
        >>> import jax, jax.numpy as jnp, hessjax as hj
        >>> found = hj.spectrum(hj.Matrix(jnp.diag(jnp.arange(20.0))), jax.random.key(0), k=2)
        >>> estimated(found).outliers.round(3).tolist()
        [18.0, 19.0]
    """
    width, grid = found.width(), found.grid()
    curve = found.density(grid)
    value, ends = np.asarray(curve.value, float), curve.interval(len(found.bulk.nodes))
    low, high = (np.where(np.isnan(end), value, end) for end in ends)  # one probe has no band
    one = 1 / (found.size * width * np.sqrt(2 * np.pi))
    negative = found.negative
    percent = lambda x: f"{number(100 * float(x), 2)} %"
    title = f"{percent(negative.value)} of eigenvalues are below −{number(float(negative.threshold), 2)}"
    if float(negative.unresolved) > 0.5e-3:
        title = f"at least {title} ({percent(negative.unresolved)} unresolved)"
    count, steps = found.bulk.nodes.shape
    text = f"{found.size:,} parameters; {int(found.num_matvecs):,} products: {len(found.outliers.values)} eigenvalues "
    text += f"one by one, the rest by {count} probes x {steps} steps; kernel {number(width, 2)}; band: 95 %"
    return Estimated(
        title=title,
        note=text,
        axis=Axis("arcsinh", width),
        threshold=float(negative.threshold),
        grid=grid,
        value=value,
        low=low,
        high=high,
        floor=one / 3,
        outliers=np.asarray(found.outliers.values, float),
    )


def distributions(ds: xr.Dataset) -> Distributions:
    """Histograms over inits at the last time: loss, error, gradient norm, share of negative eigenvalues, extremes.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([[x] for x in v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(0.2, 0.1), "negative": row(3, 0)}, {"step": ("time", [9])},
        ...                 {"landscape": {"num_params": 10}})
        >>> distributions(ds).title
        'Step 9: negative λ in 1 of 2 inits'
    """
    table, step = rows(ds), int(ds["step"].values[-1])
    last = table["time"] == ds.sizes["time"] - 1
    if not last.any():
        return Distributions("No usable rows at the last time", note(ds), step, [])
    names = [n for n in ("loss", "error", "grad_norm", "negative", "min_eigenvalue", "max_eigenvalue") if n in table]
    parts = []
    for name in names:
        column = table[name][last] / (num_params(ds) if name == "negative" else 1)
        column = column[np.isfinite(column)]
        if column.size:
            axis = choose_axis(column) if name in ("loss", "grad_norm", "max_eigenvalue") else Axis()
            text = "share of negative eigenvalues" if name == "negative" else label(ds, name)
            parts.append(Distribution(name, text, axis, histogram(column, axis), float(np.median(column))))
    title = f"Step {step:,}: {last.sum():,} inits"
    if "negative" in table:
        some = (table["negative"][last] > 0).sum()
        title = f"Step {step:,}: negative λ in {some:,} of {last.sum():,} inits"
    return Distributions(title, note(ds), step, parts)


def panels(ds: xr.Dataset) -> dict[str, Scatter | Curves | Density | Distributions]:
    """All figures of a sweep by file name, in the order in which a report shows them.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(2.0, 0.1), "grad_norm": row(1.0, 0.5), "negative": row(3, 1),
        ...                  "positive": row(4, 6)}, {"step": ("time", [0, 9])}, {"landscape": {"num_params": 10}})
        >>> list(panels(ds))[:2]
        ['negative_against_loss', 'positive_against_loss']
    """
    against = [name for name in ("loss", "error") if name in ds]
    found = {f"negative_against_{name}": index(ds, name) for name in against}
    found["positive_against_loss"] = index(ds, "loss", "positive")
    found |= {"eigenvalue_density": density(ds), "loss_curves": curves(ds)}
    return found | {"gradient_norm_against_loss": gradient(ds), "final_distribution": distributions(ds)}


def _ends(sign: str, against: str, found: Scatter) -> str:
    """'31 % negative at loss 2.4, 5.1 % at 0.06' from the ends of the running median."""
    if found.x.size == 0:
        return NOTHING
    x, y = found.running.x, found.running.median
    if x.size < 3:
        x, y = np.array([np.median(found.x)]), np.array([np.median(found.y)])
    title = f"{number(100 * y[-1], 2)} % negative at {against} {number(x[-1], 2)}".replace("negative", sign)
    return title + (f", {number(100 * y[0], 2)} % at {number(x[0], 2)}" if x.size > 1 else "")


def _over_time(what: str, steps: np.ndarray, medians: np.ndarray) -> str:
    seen = np.nonzero(np.isfinite(medians))[0]
    if seen.size == 0:
        return NOTHING
    ends = seen[[0, -1]] if seen.size > 1 else seen
    first, *last = [f"{number(medians[t], 2)} at {'step ' if t == ends[0] else ''}{steps[t]:,}" for t in ends]
    return ", ".join([f"{what} {first}", *last])
