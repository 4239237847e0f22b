"""What each figure of a profile shows: from the Dataset of open_profile to seen_panels.py's records, and its table."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax.seen_panels import Contours, Matrix, Traces, contours, pairs, traces
from hessjax.tables import num_params, shorten

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["profile_panels", "table"]

MAPS = {
    "loss": "loss",
    "error": "training error",
    "grad_norm": "gradient norm",
    "negative": "share of negative eigenvalues",
    "min_eigenvalue": "smallest eigenvalue",
    "max_eigenvalue": "largest eigenvalue",
}
RUNS = {
    "loss": "run_loss",
    "gradient norm": "run_grad_norm",
    "sharpness (largest eigenvalue)": "sharpness",
    "share of negative eigenvalues": "run_negative",
}


def profile_panels(ds: xr.Dataset) -> dict[str, Contours | Traces | Matrix]:
    """Every figure of a profile by file name.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Profile(landscape="bowl", optimizers=("sgd", "adam"), num_steps=9, times=4, resolution=3)
      >>> ds = hj.open_profile(hj.profile(config, tempfile.mkdtemp() + "/p.zarr", progress=False))
      >>> list(profile_panels(ds))
      ['plane_loss', 'training', 'from_start', 'between', 'separation', 'barrier']
    """
    found: dict[str, Any] = {f"plane_{name}": _plane(ds, name, label) for name, label in MAPS.items() if name in ds}
    found["training"], found["from_start"] = _training(ds), _from_start(ds)
    if ds.sizes["optimizer"] > 1:
        found["between"], found["separation"] = _between(ds), _separation(ds)
        for name, label in (("disagreement", "share of rows decided differently"), ("barrier", "height of the loss")):
            if name in ds:
                found[name] = _matrix(ds, name, label)
    return found


def _names(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in ds["optimizer"].values]


def _inits(ds: xr.Dataset) -> str:
    count = ds.sizes["init"]
    return f"median of {count:,} inits" if count > 1 else ""


def _plane(ds: xr.Dataset, name: str, label: str) -> Contours:
    values, kind = ds[name].values.astype(float), str(ds.attrs.get("config", {}).get("plane", ""))
    if name == "negative":
        values = np.where(values < 0, np.nan, values) / num_params(ds)
    paths = dict(zip(_names(ds), ds["coordinates"].values.astype(float), strict=True))
    labels = _axes(ds, kind)
    done = int(ds["done"].values.sum()) if "done" in ds else len(values)
    note = "" if done == len(values) else f"{done} of {len(values)} rows"
    x, y = ds["x"].values, ds["y"].values
    note = "; ".join(part for part in (note, _off(ds)) if part)
    return contours(x, y, values, label=label, labels=labels, title=label.capitalize(), note=note, paths=paths)


def _axes(ds: xr.Dataset, kind: str) -> tuple[str, str]:
    if kind == "trajectories":
        first, second = (float(x) for x in ds["explained"].values)
        return f"first component ({first:.1%} of the variance)", f"second ({second:.1%})"
    if kind == "solutions":
        return "distance from the first end to the second", "distance from their line"
    if kind == "eigenvectors":
        return "along the top eigenvector", "along the second"
    return "along a random direction, scaled to the net", "along another"


def _off(ds: xr.Dataset) -> str:
    """Paths are drawn at their nearest points of the plane: how far from it they are is to be known."""
    off = float(np.nanmax(ds["off_plane"].values))
    return f"trajectories are up to {off:.3g} off the plane" if off > 1e-3 * np.ptp(ds["x"].values) else ""


def _training(ds: xr.Dataset) -> Traces:
    names = _names(ds)
    median = lambda variable: _over_inits(ds[variable].values.astype(float))
    parts = {label: dict(zip(names, median(variable), strict=True)) for label, variable in RUNS.items()}
    levels = {"sharpness (largest eigenvalue)": _thresholds(ds)}
    note = "; ".join(x for x in (_inits(ds), "dotted: thresholds of stability" if any(levels.values()) else "") if x)
    shown: dict[str, Any] = {"title": "Along training", "note": note, "levels": levels}
    return traces(ds["step"].values, parts, x_label="training step", **shown)


def _thresholds(ds: xr.Dataset) -> dict[str, float]:
    """Those of the store that are numbers: it may be anybody's."""
    given = ds.attrs.get("thresholds")
    numbers = given.items() if isinstance(given, dict) else ()
    return {name: float(x) for name, x in numbers if isinstance(x, int | float) and abs(x) < 1e300}


def _over_inits(values: np.ndarray) -> np.ndarray:
    """The median over axis 1 of what is finite; NaN where nothing is."""
    values = np.where(np.isfinite(values), values, np.nan)
    lost = np.asarray(np.isnan(values).all(1))
    return np.where(lost, np.nan, np.nanmedian(np.where(lost[:, None], 0, values), axis=1))


def _from_start(ds: xr.Dataset) -> Traces:
    curves = dict(zip(_names(ds), _over_inits(ds["line_loss"].values.astype(float)), strict=True))
    text: dict[str, Any] = {
        "title": "From the start to each end",
        "note": "; ".join(x for x in (_inits(ds), "0: start, 1: end") if x),
    }
    return traces(ds["t"].values, {"loss": curves}, x_label="t", **text)


def _between(ds: xr.Dataset) -> Traces:
    names, values = _names(ds), ds["between_loss"].values.astype(float)
    chosen = list(itertools.combinations(range(len(names)), 2))
    rows = _over_inits(np.stack([values[:, i, j] for i, j in chosen]))
    curves = {f"{names[i]} – {names[j]}": row for (i, j), row in zip(chosen, rows, strict=True)}
    return traces(ds["t"].values, {"loss": curves}, x_label="t", title="Between ends of training", note=_inits(ds))


def _separation(ds: xr.Dataset) -> Traces:
    names, values = _names(ds), ds["separation"].values.astype(float)
    chosen = list(itertools.combinations(range(len(names)), 2))
    rows = _over_inits(np.stack([values[:, :, i, j] for i, j in chosen]))
    curves = {f"{names[i]} – {names[j]}": row for (i, j), row in zip(chosen, rows, strict=True)}
    text: dict[str, Any] = {"title": "Where trajectories part", "note": _inits(ds)}
    return traces(ds["step"].values, {"distance": curves}, x_label="training step", **text)


def _matrix(ds: xr.Dataset, name: str, label: str) -> Matrix:
    values = ds[name].values.astype(float)
    middle = _over_inits(np.swapaxes(values.reshape(len(values), -1), 0, 1)).reshape(values.shape[1:])
    title = {"disagreement": "Disagreement of ends", "barrier": "Barriers between ends"}[name]
    names = _names(ds)
    short = [shorten(x, 20) for x in names]  # as long as they are told apart: a plot has one place for a name
    return pairs(short if len(set(short)) == len(short) else names, middle, label=label, title=title, note=_inits(ds))


def table(ds: xr.Dataset) -> list[dict[str, Any]]:
    """A row for each optimiser: medians over inits of what training ended with, and of the barrier on its line.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Profile(landscape="bowl", optimizers=("sgd",), num_steps=9, times=4, resolution=3)
      >>> ds = hj.open_profile(hj.profile(config, tempfile.mkdtemp() + "/p.zarr", progress=False))
      >>> list(table(ds)[0])
      ['optimizer', 'loss', 'gradient norm', 'sharpness', 'threshold', 'negative', 'distance from start', 'monotone']
    """
    last = {name: _over_inits(ds[name].values.astype(float))[:, -1] for name in (*RUNS.values(),)}
    moved = _over_inits(ds["moved"].values.astype(float))
    inside = (ds["t"].values >= 0) & (ds["t"].values <= 1)
    lines = ds["line_loss"].values.astype(float)[..., inside]
    slack = 1e-6 * np.abs(lines).max(-1, keepdims=True)
    monotone = (np.diff(lines, axis=-1) <= slack).all(-1)
    thresholds = _thresholds(ds)
    return [
        {
            "optimizer": name,
            "loss": float(last["run_loss"][k]),
            "gradient norm": float(last["run_grad_norm"][k]),
            "sharpness": float(last["sharpness"][k]),
            "threshold": thresholds.get(name),
            "negative": float(last["run_negative"][k]),
            "distance from start": float(moved[k]),
            "monotone": f"{int(monotone[k].sum())} of {monotone.shape[1]}",
        }
        for k, name in enumerate(_names(ds))
    ]
