"""A sweep's Dataset as plain columns: which rows are usable, the numbers per time, and the words that go with them.

Figures and reports need the same answers to "which rows", "how many parameters", "what was left out": given once, here.
It reads the variables that open_sweep names and knows nothing of figures; an absent variable is simply no column.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hessjax.figures import quantile_bands, scientific

if TYPE_CHECKING:
    import xarray as xr

    from hessjax.spectra import Spectrum

__all__ = [
    "SHORT",
    "by_row",
    "done",
    "label",
    "note",
    "num_params",
    "number",
    "per_time",
    "rows",
    "shorten",
    "spectrum_facts",
    "unit",
    "usable",
]

# The numbers of a row that tables and tooltips show, in their order, and what to call them there.
SHORT = {
    "loss": "loss",
    "error": "error",
    "grad_norm": "gradient norm",
    "negative": "negative",
    "zero": "zero",
    "positive": "positive",
    "count_error": "error of counts",
    "unresolved": "unresolved",
    "trace": "trace",
    "trace_error": "error of trace",
    "min_eigenvalue": "smallest λ",
    "max_eigenvalue": "largest λ",
}


def number(value: float | np.number, digits: int = 3) -> str:
    """A number for titles and tables, to a few significant digits.

    Example:
        >>> number(0.051234), number(2049.0), number(1.5e-7), number(-0.2), number(151.0, 2)
        ('0.0512', '2,049', '1.5×10⁻⁷', '−0.2', '151')
    """
    size = abs(float(value))
    sign = "−" if value < 0 else ""
    if size and math.isfinite(size) and not 1e-4 <= size < 1e6:
        return sign + scientific(size, digits)
    return sign + (f"{size:,.0f}" if 10**digits <= size < 1e6 else f"{size:.{digits}g}")


def label(ds: xr.Dataset, name: str) -> str:
    """What to write on an axis: a variable's long name up to its first comma, with its unit where that adds something.

    Example:
        >>> import xarray as xr
        >>> loss = ("t", [1.0], {"long_name": "training loss, mean over rows", "units": "nats"})
        >>> label(xr.Dataset({"loss": loss}), "loss")
        'training loss (nats)'
    """
    attrs = ds[name].attrs if name in ds else {}
    long_name = str(attrs.get("long_name", name.replace("_", " "))).split(",")[0]
    known = unit(ds, name)
    return shorten(f"{long_name} ({known})" if known and known not in long_name else long_name)


def shorten(text: object, most: int = 60) -> str:
    """Text that fits on an axis, with an ellipsis where it was cut.

    Example:
        >>> shorten("loss of a net with a very long name", most=12)
        'loss of a n…'
    """
    text = str(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def unit(ds: xr.Dataset, name: str) -> str:
    """A variable's unit; empty for pure numbers and counts.

    Example:
        >>> import xarray as xr
        >>> unit(xr.Dataset({"loss": ("t", [1.0], {"units": "nats"}), "error": ("t", [0.5], {"units": "1"})}), "loss")
        'nats'
    """
    text = str(ds[name].attrs.get("units", "")) if name in ds else ""
    return "" if text in ("1", "count", "dimensionless") else text.replace("^2", "²")


def by_row(ds: xr.Dataset, name: str) -> np.ndarray:
    """A variable as an array [init, time], in that order whatever the order of its dims.

    Example:
        >>> import xarray as xr
        >>> by_row(xr.Dataset({"loss": (("time", "init"), [[1.0, 2.0]])}), "loss").shape
        (2, 1)
    """
    return ds[name].transpose("init", "time").values


def num_params(ds: xr.Dataset) -> int:
    """Number of parameters: what the landscape says, else the length of a spectrum, else the largest sum of the counts.

    Example:
        >>> import xarray as xr
        >>> num_params(xr.Dataset(attrs={"landscape": {"num_params": 226}}))
        226
    """
    landscape = ds.attrs.get("landscape", {})
    stated = landscape.get("num_params") if isinstance(landscape, dict) else None
    if stated:
        return int(stated)
    for name in ("eigenvalue", "parameter"):
        if name in ds.sizes:
            return ds.sizes[name]
    counts = [by_row(ds, sign) for sign in ("negative", "zero", "positive")]
    return max(1, int(np.sum(counts, axis=0).max()))


def done(ds: xr.Dataset) -> np.ndarray:
    """Boolean [init]: which inits have been computed; all of them where the Dataset does not say.

    Example:
        >>> import xarray as xr
        >>> done(xr.Dataset(coords={"init": [0, 1], "done": ("init", [True, False])}))
        array([ True, False])
    """
    return ds["done"].values.astype(bool) if "done" in ds else np.ones(ds.sizes["init"], bool)


def usable(ds: xr.Dataset) -> np.ndarray:
    """Boolean [init, time]: computed, status 0 and a finite loss. Everything else stays out of the figures.

    Example:
        >>> import xarray as xr
        >>> loss = xr.DataArray([[1.0, float("nan")]], dims=("init", "time"))
        >>> usable(xr.Dataset({"loss": loss}, coords={"step": ("time", [0, 9])}))
        array([[ True, False]])
    """
    keep = np.isfinite(by_row(ds, "loss")) & done(ds)[:, None]
    return keep & (by_row(ds, "status") == 0) if "status" in ds else keep


def rows(ds: xr.Dataset) -> dict[str, np.ndarray]:
    """The usable rows as flat columns: init, time (index), step, and each variable that has one number per row.

    Example:
        >>> import xarray as xr
        >>> loss = xr.DataArray([[1.0, 0.5]], dims=("init", "time"))
        >>> rows(xr.Dataset({"loss": loss}, coords={"init": [7], "step": ("time", [0, 9])}))["init"]
        array([7, 7])
    """
    keep = usable(ds)
    which, time = np.nonzero(keep)
    init = ds["init"].values if "init" in ds.coords else np.arange(keep.shape[0])
    table = {"init": init[which], "time": time, "step": ds["step"].values[time]}
    names = [str(name) for name, variable in ds.data_vars.items() if set(variable.dims) == {"init", "time"}]
    return table | {name: by_row(ds, name)[keep] for name in names}


def per_time(ds: xr.Dataset) -> list[dict]:
    """One record per time: the step, how many rows are usable and how many are not, and quantiles of every variable.

    Returns:
        Dicts with keys `step`, `usable`, `lost` (computed but not finite), `certified` (share of the usable rows; None
        where unknown), and for each number per row, `name` -> (5 %, 50 %, 95 %), NaN without usable rows.

    Example:
        >>> import xarray as xr
        >>> loss = xr.DataArray([[1.0], [3.0]], dims=("init", "time"))
        >>> record = per_time(xr.Dataset({"loss": loss}, coords={"step": ("time", [4])}))[0]
        >>> record["step"], record["usable"], float(record["loss"][1])
        (4, 2, 2.0)
    """
    keep = usable(ds)
    names = [str(n) for n, v in ds.data_vars.items() if set(v.dims) == {"init", "time"}]
    quantiles = {
        name: quantile_bands(by_row(ds, name), keep, levels=(0.05, 0.5, 0.95)).T
        for name in names
        if name not in ("certified", "status")
    }
    lost = (done(ds)[:, None] & ~keep).sum(0)
    exact = "certified" in ds and "unresolved" not in ds
    certified = by_row(ds, "certified").astype(bool) if exact else None
    records = []
    for t, step in enumerate(ds["step"].values):
        share = float(certified[keep[:, t], t].mean()) if certified is not None and keep[:, t].any() else None
        counts = {"step": int(step), "usable": int(keep[:, t].sum()), "lost": int(lost[t]), "certified": share}
        records.append(counts | {name: tuple(q[t]) for name, q in quantiles.items()})
    return records


def note(ds: xr.Dataset) -> str:
    """The footnote: how many inits are shown, and how many rows are not and why.

    Example:
        >>> import xarray as xr
        >>> loss = xr.DataArray([[1.0, 0.5], [2.0, float("nan")]], dims=("init", "time"))
        >>> note(xr.Dataset({"loss": loss}, coords={"step": ("time", [0, 9])}))
        '2 inits; 1 row of 1 init left out (not finite)'
    """
    finished, keep = done(ds), usable(ds)
    total = int(finished.sum())
    text = _count("init", total)
    if total < len(finished):
        text = f"{total:,} of {_count('init', len(finished))} computed so far"
    lost = ~keep & finished[:, None]
    if lost.any():
        text += f"; {_count('row', int(lost.sum()))} of {_count('init', int(lost.any(1).sum()))} left out (not finite)"
    if "unresolved" in ds and keep.any():
        share = lambda name: number(100 * np.median(by_row(ds, name)[keep]) / num_params(ds), 2)
        text += f"; counts estimated, median error {share('count_error')} %, {share('unresolved')} % unresolved"
    return text


def _count(word: str, count: int) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def spectrum_facts(found: Spectrum) -> dict[str, str]:
    """What an estimated spectrum says, name by name, every number with its error.

    Example:
        >>> import jax, jax.numpy as jnp, hessjax as hj
        >>> found = hj.spectrum(hj.Matrix(jnp.diag(jnp.arange(20.0))), jax.random.key(0), k=2)
        >>> spectrum_facts(found)["largest"]
        '18 19'
    """
    negative, values = found.negative, found.outliers.values
    percent = lambda x: number(100 * float(x), 3)
    share = f"{percent(negative.value)} %"
    if float(negative.unresolved) > 0:
        share += f" to {percent(negative.value + negative.unresolved)} %"
    lost = int((~np.asarray(found.outliers.converged)).sum())
    error = f"± {percent(negative.std_error)} % standard error"
    below = f"(below −{number(float(negative.threshold))})"
    if float(negative.unresolved) > 0.05:
        below += "; more steps or a larger tol resolve more"
    facts = {
        "negative": f"{share}, {error} {below}",
        "trace": f"{number(float(found.trace.value), 5)} ± {number(float(found.trace.std_error), 2)} standard error",
        "smallest": " ".join(number(float(v), 4) for v in values[values < 0][:4]) or "none among those found",
        "largest": " ".join(number(float(v), 4) for v in values[values >= 0][-4:]) or "none among those found",
        "bulk": f"{number(float(found.bulk.nodes.min()))} to {number(float(found.bulk.nodes.max()))}, "
        f"resolved to {number(float(found.bulk.resolution), 2)}",
        "products": f"{int(found.num_matvecs):,}",
    }
    return facts | ({"not converged": f"{lost} of {len(values)} eigenvalues: see their residuals"} if lost else {})
