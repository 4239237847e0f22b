"""What each figure of a search for critical points shows: from the Dataset of open_search to arrays, labels, a title.

As panels.py for sweeps. Titles state what was measured. Points of every status are shown, each as what it is: with a
loose cut-off most pictures of this kind have shown points that were not critical.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hessjax.critical import STATUSES
from hessjax.tables import number

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Found", "Group", "Norms", "Outcomes", "found", "matched", "norms", "outcomes", "search_panels", "summary"]

# Of a point called the truth's: shares of the largest known loss, and as published.
SAME_LOSS = 1e-6
SHADES = {
    "grad_norm_sq": ("log10 of the squared gradient norm", (-32, 0)),
    "flatness": ("flatness r", (0, 1)),
}
LOOSE = 1e-4  # the published cut-off that lets in points that are not critical


class Group(NamedTuple):
    """Points of one status: loss, index as a share of the parameters, what is shown as colour, and more."""

    name: str
    x: np.ndarray
    y: np.ndarray
    shade: np.ndarray
    columns: dict[str, np.ndarray]


class Found(NamedTuple):
    """Index against loss of all points found; `truth` [k, 2] are known points, `law` [k, 2] a curve to compare with.

    `shade` says what the colour is, and `limits` from where to where it goes.
    """

    title: str
    note: str
    labels: tuple[str, str]
    groups: list[Group]
    truth: np.ndarray
    law: np.ndarray
    law_name: str
    shade: str
    limits: tuple[float | int, float | int]


class Outcomes(NamedTuple):
    """Share of each status, [finder, status]."""

    title: str
    note: str
    finders: list[str]
    shares: np.ndarray


class Norms(NamedTuple):
    """Squared gradient norms of each finder's points, ascending; the cut-off, and what rounding allows."""

    title: str
    note: str
    finders: list[str]
    values: list[np.ndarray]
    cutoff: float
    floor: float


def found(
    ds: xr.Dataset,
    *,
    cutoff: float | None = None,
    statuses: Sequence[str] = STATUSES[:3],
    colour: str = "grad_norm_sq",
    law: Any = None,
    law_name: str = "",
) -> Found:
    """Index against loss, points by status.

    Args:
      ds: what open_search returns, with counts.
      cutoff: another cut-off than the search's: points below it are called critical.
      statuses: of the points that are shown.
      colour: "grad_norm_sq" (its logarithm) or "flatness" (r, 1 where the gradient is flat).
      law: [k, 2] losses and shares of a curve to draw; None: that of the search's landscape where it has one, as far as
        the losses shown.
      law_name: what it is.

    Raises:
      ValueError: another colour.

    Example:
      >>> import xarray as xr
      >>> row = lambda *v: xr.DataArray([[x] for x in v], dims=("start", "finder"))
      >>> ds = xr.Dataset({"loss": row(1.0, 2.0), "negative": row(0, 1), "positive": row(2, 1), "zero": row(0, 0),
      ...                  "status": row(0, 2), "grad_norm_sq": row(1e-20, 1e-3)}, {"finder": ["newton"]})
      >>> [(group.name, group.y.tolist()) for group in found(ds).groups]
      [('unfinished', [0.5]), ('critical', [0.0])]
    """
    if colour not in SHADES:
        raise ValueError(f"colour must be one of {', '.join(SHADES)}; got {colour!r}.")
    flat = {name: ds[name].values.ravel() for name in ("loss", "grad_norm_sq", "status")}
    counts = [ds[name].values.ravel() for name in ("negative", "zero", "positive")]
    total = np.maximum(sum(counts), 1)
    status = flat["status"].copy()
    if cutoff is not None:
        usable = (status >= 0) & (status < STATUSES.index("diverged"))
        status = np.where(usable, np.where(flat["grad_norm_sq"] < cutoff, 0, 2), status)
    groups = []
    for k in (2, 1, 0):  # critical ones on top
        some = (status == k) & np.isfinite(flat["loss"]) & (counts[0] >= 0)
        if STATUSES[k] in statuses and some.any():
            shade = ds[colour].values.ravel()[some]
            shade = np.log10(np.maximum(shade, 1e-40)) if colour == "grad_norm_sq" else shade
            columns = {"start": np.repeat(np.arange(ds.sizes["start"]), ds.sizes["finder"])[some]}
            columns |= {"loss": flat["loss"][some], "index": counts[0][some], "nullity": counts[1][some]}
            columns |= {"squared gradient norm": flat["grad_norm_sq"][some]}
            columns |= {name: ds[name].values.ravel()[some] for name in ("flatness", "flatness_h") if name in ds}
            groups.append(Group(STATUSES[k], flat["loss"][some], (counts[0] / total)[some], shade, columns))
    truth = np.array([(loss, index / total.max()) for loss, index, _ in ds.attrs.get("truth", [])]).reshape(-1, 2)
    share = (status == 0).sum() / max((status >= 0).sum(), 1)
    same, judged = matched(ds, status)
    known = f", {same} of {judged} of them known points" if len(truth) else ""
    title = f"{number(100 * share)} % critical{known}"
    said = ds.attrs.get("config", {}).get("grad_norm_sq_tol") if cutoff is None else cutoff
    note = f"{(status >= 0).sum():,} points" + (f", critical below a squared gradient norm of {said:g}" if said else "")
    own = ds.attrs.get("law")
    if law is None and own:
        law, law_name = _within(np.asarray(own["curve"], float), groups), own["name"]
    curve = np.empty((0, 2)) if law is None else np.asarray(law, float)
    return Found(title, note, ("loss", "index / number of parameters"), groups, truth, curve, law_name, *SHADES[colour])


def _within(curve: np.ndarray, groups: list[Group]) -> np.ndarray:
    """A curve over the losses of the points shown, with its ends there."""
    if not groups:
        return curve
    losses = np.concatenate([group.x for group in groups])
    low, high = np.clip((losses.min(), losses.max()), curve[0, 0], curve[-1, 0])
    x = np.unique(np.concatenate([curve[:, 0], [low, high]]))
    x = x[(x >= low) & (x <= high)]
    return np.stack([x, np.interp(x, *curve.T)], axis=1)


def matched(ds: xr.Dataset, status: np.ndarray | None = None) -> tuple[int, int]:
    """How many critical points have the loss (to 1e-6 of the largest known) and the index of a known one, of how many.

    Example:
      >>> import xarray as xr
      >>> row = lambda *v: xr.DataArray([[x] for x in v], dims=("start", "finder"))
      >>> ds = xr.Dataset({"loss": row(1.0, 2.0), "negative": row(0, 1), "status": row(0, 0)})
      >>> matched(ds.assign_attrs(truth=[[1.0, 0, 0]]))
      (1, 2)
    """
    status = ds["status"].values.ravel() if status is None else status
    truth = np.array(ds.attrs.get("truth", []), float).reshape(-1, 3)
    if "negative" not in ds or not len(truth):
        return 0, int((status == 0).sum())
    loss, index = (ds[name].values.ravel()[status == 0] for name in ("loss", "negative"))
    near = np.abs(loss[:, None] - truth[:, 0]) <= SAME_LOSS * max(np.abs(truth[:, 0]).max(), 1e-300)
    return int((near & (index[:, None] == truth[:, 1])).any(axis=1).sum()), len(loss)


def outcomes(ds: xr.Dataset) -> Outcomes:
    """What became of each method's starts.

    Example:
      >>> import xarray as xr
      >>> status = xr.DataArray([[0], [0], [3]], dims=("start", "finder"))
      >>> outcomes(xr.Dataset({"status": status}, {"finder": ["newton"]})).shares.round(2).tolist()
      [[0.67, 0.0, 0.0, 0.33]]
    """
    status = ds["status"].values
    counts = np.stack([(status == k).sum(axis=0) for k in range(len(STATUSES))], axis=1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    best = int(shares[:, 0].argmax())
    names = [str(name) for name in ds["finder"].values]
    title = f"{names[best]}: {number(100 * shares[best, 0])} % of starts lead to critical points"
    return Outcomes(title, f"{(status[:, 0] >= 0).sum():,} starts of each method", names, shares)


def norms(ds: xr.Dataset) -> Norms:
    """Squared gradient norms of the points found.

    Example:
      >>> import xarray as xr
      >>> row = lambda *v: xr.DataArray([[x] for x in v], dims=("start", "finder"))
      >>> ds = xr.Dataset({"grad_norm_sq": row(1e-20, 1e-3), "status": row(0, 2)}, {"finder": ["newton"]})
      >>> norms(ds).values[0].tolist()
      [1e-20, 0.001]
    """
    names, values = [str(name) for name in ds["finder"].values], []
    for k in range(len(names)):
        squares, status = ds["grad_norm_sq"].values[:, k], ds["status"].values[:, k]
        values.append(np.sort(squares[(status >= 0) & np.isfinite(squares)].astype(float)))
    cutoff = float(ds.attrs.get("config", {}).get("grad_norm_sq_tol", 0.0))
    floor = float(np.nanmedian(ds["floor"].values)) if "floor" in ds and np.isfinite(ds["floor"].values).any() else 0.0
    everything = np.concatenate(values) if values else np.empty(0)
    between = ((everything >= cutoff) & (everything < LOOSE)).mean() if len(everything) else 0.0
    title = f"{number(100 * between)} % of points between the cut-off and {LOOSE:g}, as has passed for critical"
    return Norms(title, "dashed: cut-off; dotted: rounding of the params", names, values, cutoff, floor)


def search_panels(ds: xr.Dataset) -> dict[str, Found | Outcomes | Norms]:
    """Every figure of a search by file name.

    Example:
      >>> import xarray as xr
      >>> row = lambda *v: xr.DataArray([[x] for x in v], dims=("start", "finder"))
      >>> ds = xr.Dataset({"grad_norm_sq": row(1e-20, 1e-3), "status": row(0, 2)}, {"finder": ["newton"]})
      >>> list(search_panels(ds))
      ['outcomes', 'gradient_norms']
    """
    shown: dict[str, Found | Outcomes | Norms] = {"points": found(ds)} if "negative" in ds else {}
    return shown | {"outcomes": outcomes(ds), "gradient_norms": norms(ds)}


def summary(ds: xr.Dataset) -> list[dict[str, Any]]:
    """A row for each method: counts of each status, medians of steps and products, and of critical points those without
    a negative eigenvalue, those of them above the known lower bound, and those that are known.

    Example:
      >>> import xarray as xr
      >>> row = lambda *v: xr.DataArray([[x] for x in v], dims=("start", "finder"))
      >>> ds = xr.Dataset({"status": row(0, 2), "num_steps": row(3, 5), "num_matvecs": row(6, 8)})
      >>> ds = ds.assign_coords(finder=["newton"])
      >>> summary(ds)[0]["critical"], summary(ds)[0]["steps"]
      (1, 4.0)
    """
    rows = []
    for k, name in enumerate(ds["finder"].values):
        status = ds["status"].values[:, k]
        done = status >= 0
        counts = {word: int((status == s).sum()) for s, word in enumerate(STATUSES)}
        medians = {"steps": "num_steps", "products": "num_matvecs"}
        made = {word: float(np.median(ds[v].values[done, k])) if done.any() else 0.0 for word, v in medians.items()}
        if "negative" in ds:
            lowest = (status == 0) & (ds["negative"].values[:, k] == 0)
            made["index 0"] = int(lowest.sum())
            bound = ds.attrs.get("lower_bound")
            if bound is not None:  # candidates for bad minima
                loss = ds["loss"].values[:, k]
                above = loss > bound + SAME_LOSS * max(float(np.nanmax(np.abs(ds["loss"].values), initial=0.0)), 1e-300)
                made["above the bound"] = int((lowest & above).sum())
        if "negative" in ds and ds.attrs.get("truth"):
            made["known"] = matched(ds.isel(finder=[k]))[0]
        rows.append({"method": str(name), **counts, **made})
    return rows
