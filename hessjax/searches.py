"""A search for critical points as a study: starts -> points -> spectra -> rows of a store that survives interruption.

A unit of the store is some starts, by every method; what a start leads to depends on its number and on which other
starts are in its unit (lanes that run together round alike, not the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from hessjax import runs, starts, trees
from hessjax.config import Search, Sweep, check_is
from hessjax.critical import STATUSES, CriticalPoints, find_critical_points
from hessjax.landscapes.base import Landscape
from hessjax.lanes import Lanes, resolve
from hessjax.measuring import measure
from hessjax.objective import mean_loss
from hessjax.progress import say
from hessjax.records import CURVATURE
from hessjax.store import Spec, Store
from hessjax.working import write_units

if TYPE_CHECKING:
    import xarray

__all__ = ["EXACT", "open_search", "search"]

UNIT = 64  # starts
EXACT = 3000  # parameters up to which all eigenvalues of a point are taken
MAX_TRUTH = 4096  # known points that the store keeps

# name: (dtype or None for the search's own, long name, units); of every start and method
PER_POINT: dict[str, tuple[str | None, str, str]] = {
    "loss": (None, "loss, mean over rows", "loss"),
    "grad_norm_sq": (None, "squared norm of the gradient", "loss^2 / parameter^2"),
    "flatness": (None, "||H p + g|| / (||H||_F ||p|| + ||g||) of p = -H^+ g", "1"),
    "flatness_h": (None, "||H (H p + g)|| / (||H||_F ||H p + g||)", "1"),
    "floor": (None, "what rounding of the params moves the gradient by, squared", "loss^2 / parameter^2"),
    "status": ("int8", "what the point is: " + ", ".join(f"{i} {s}" for i, s in enumerate(STATUSES)), "1"),
    "num_steps": ("int32", "steps", "1"),
    "num_matvecs": ("int32", "products with Hessians", "1"),
}
COUNTED: dict[str, tuple[str | None, str, str]] = {
    "negative": ("int32", "eigenvalues below -threshold, the index", "1"),
    "zero": ("int32", "eigenvalues within the threshold, the nullity", "1"),
    "positive": ("int32", "eigenvalues above the threshold", "1"),
    "threshold": (None, "absolute threshold, tol times the largest absolute row sum", CURVATURE),
}
LAW_POINTS = 65  # of a curve that points are compared with


def search(
    config: Search,
    path: str | Path,
    *,
    unit: int | None = None,
    worker: tuple[int, int] = (0, 1),
    take_over: bool = False,
    progress: bool = True,
) -> Path:
    """Runs a search for critical points into the store at `path`, or resumes the one begun there.

    Args:
      config: what to run; a store made by another configuration is refused.
      path: folder of the store; made if absent.
      unit: starts per stored chunk; None: 64. Fixed when the store is made.
      worker: (i, n): this process does the units i, i + n, i + 2n, ... only. Whoever runs the same configuration on
        the same store shares its units; one that another is at work on is left to it, unless that one is dead.
      take_over: when this worker's units are done, go on with those of others that nobody is at work on.
      progress: show starts done, rate and time left.

    Returns:
      The path. Read it with `open_search`.

    Raises:
      StoreError: a store of another configuration (the fields that differ are named), or a path that is a file,
        read-only or full; a sweep to start from that is not there.
      ValueError: unknown landscape, optimiser or option; known points of a landscape that has none.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Search(landscape="gradient-flat", num_starts=4, starts="random", dtype="float32")
      >>> path = hj.search(config, tempfile.mkdtemp() + "/s.zarr", progress=False)
      >>> hj.open_search(path)["status"].shape
      (4, 1)
    """
    check_is(Search, config)
    runs.check_shares(unit, worker, "start")
    if Store.is_anything_at(path):
        Store.open(path)
    land = resolve(config)
    store = _open_or_create(config, land, Path(path), min(unit or UNIT, config.num_starts))
    if not runs.units_of(store, (0, 1) if take_over else worker):
        if progress:
            say(f"{config.landscape_name}: nothing left to do here, {store.num_done()}/{store.num_rows} are done")
        return store.path
    begin = lambda start, stop: partial(_unit, config, land, start, stop)
    shown: dict[str, Any] = {"label": config.landscape_name, "what": "starts", "progress": progress}
    shown["take_over"] = take_over
    write_units(store, worker, begin, at_once=store.unit, **shown)
    return store.path


def _open_or_create(config: Search, land: Landscape, path: Path, unit: int) -> Store:
    small = {"num_inits": 1, "num_steps": 0, "times": 1, "seed": config.seed, "dtype": config.dtype}
    lanes = Lanes(Sweep(landscape=config.landscape, options=config.options, **small), land)
    identity = {"config": config.to_dict(), "landscape": lanes.identity()}
    if not Store.is_anything_at(path):
        _starts(config, land, 0, 1)  # what cannot be started from is refused before there is a store
        attributes = {
            **identity,
            "kind": "search",
            "title": f"{config.landscape_name}: critical points from {config.num_starts} starts",
            "fingerprint": config.fingerprint,
            "precision": f"{config.dtype} params, gradients and eigenvalues",
            "truth": _truth(land),
            "law": _law(land),
            "lower_bound": _finite(land.facts.get("lower_bound")),
            **runs.circumstances(),
        }
        Store.create(path, _arrays(config, lanes.num_params), attributes, rows="start", unit=unit)
    store = Store.open(path)
    runs.refuse_another(store, identity, "search")
    return store


def _truth(land: Landscape) -> list[list[float | int]]:
    """[loss, index, nullity] of every class of known critical points."""
    facts = land.facts.get("critical_points", [])[:MAX_TRUTH]
    return [list(x) for x in sorted({(float(f["loss"]), int(f["index"]), int(f["nullity"])) for f in facts})]


def _law(land: Landscape) -> dict[str, Any] | None:
    """A curve of losses and shares of negative eigenvalues that points are compared with, and its name."""
    curve = land.facts.get("index_curve")
    if curve is None:
        return None
    low, high = curve["losses"]
    losses = np.linspace(low, high, LAW_POINTS)
    return {"name": curve["name"], "curve": np.stack([losses, curve["share"](losses)], axis=1).tolist()}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _arrays(config: Search, num_params: int) -> dict[str, Spec]:
    """Every array of the store of a search."""
    count, methods = config.num_starts, len(config.methods)
    table = PER_POINT | (COUNTED if num_params <= EXACT else {})
    found = {"start": Spec(("start",), (count,), "int64", {"long_name": "start number"}, np.arange(count))}
    named = {"long_name": "loss at the start", "units": "loss"}
    found["start_loss"] = Spec(("start",), (count,), config.dtype, named)
    for name, (dtype, long_name, units) in table.items():
        attrs, fill = {"long_name": long_name, "units": units}, -1 if (dtype or "").startswith("int") else None
        found[name] = Spec(("start", "finder"), (count, methods), dtype or config.dtype, attrs, fill=fill)
    wide = ("start", "finder", "eigenvalue"), (count, methods, num_params), config.dtype
    if num_params <= EXACT:
        found["eigenvalues"] = Spec(*wide, {"long_name": "Hessian eigenvalue", "units": CURVATURE})
    dims = ("start", "finder", "parameter")
    found["params"] = Spec(dims, wide[1], config.dtype, {"long_name": "the point, in ravel_pytree order"})
    return found


def _starts(config: Search, land: Landscape, first: int, count: int) -> PyTree:
    key = jax.random.key(config.seed)
    numbered: dict[str, Any] = {"first": first}
    if config.starts == "random":
        return starts.at_random(land, key, count, **numbered)
    if config.starts == "known":
        points = [fact["point"] for fact in land.facts.get("critical_points", [])]
        if not points:
            raise ValueError(f"landscape {config.landscape_name!r} has no known critical points to start from.")
        return trees.cast(starts.around(points, key, count, noise=config.noise, **numbered), config.dtype)
    if config.starts == "sweep":
        made = starts.from_sweep(
            str(config.sweep), key, count, noise=config.noise, landscape=config.landscape_name, **numbered
        )
        return trees.cast(made, config.dtype)
    training: dict[str, Any] = {
        "num_steps": config.num_steps,
        "optimizer": config.optimizer,
        "learning_rate": config.learning_rate,
    }
    return starts.along_training(land, key, count, noise=config.noise, **training, **numbered)


def _unit(config: Search, land: Landscape, first: int, stop: int) -> dict[str, np.ndarray]:
    """Rows first..stop-1: every method's points."""
    begun = _starts(config, land, first, stop - first)
    columns = []
    for method in config.methods:
        limits = {"max_steps": config.max_steps, "grad_norm_sq_tol": config.grad_norm_sq_tol}
        points = find_critical_points(land.loss, begun, land.batch, method=method, **limits)
        columns.append(_columns(land, points, config.tol))
    rows = {name: np.stack([column[name] for column in columns], axis=1) for name in columns[0]}
    return {"start_loss": np.asarray(_losses(land, begun)), **rows}


def _columns(land: Landscape, points: CriticalPoints, tol: float) -> dict[str, np.ndarray]:
    """One method's arrays, [starts, ...]."""
    flat = np.asarray(jax.vmap(lambda p: trees.ravel(p)[0])(points.params))
    with np.errstate(over="ignore"):  # under x64 sums over float32 params are float64
        found = {name: getattr(points, name).astype(dtype or flat.dtype) for name, (dtype, *_) in PER_POINT.items()}
    found["params"] = flat
    if flat.shape[1] <= EXACT:
        measured: Mapping[str, Any] = _measured(land, tol, jax.tree.map(jnp.asarray, points.params))
        found |= {name: np.asarray(measured[name]) for name in (*COUNTED, "eigenvalues")}
    return found


@partial(jax.jit, static_argnums=0)
def _losses(land: Landscape, params: PyTree) -> jax.Array:
    return jax.lax.map(lambda p: mean_loss(land.loss, p, land.batch), params)


@partial(jax.jit, static_argnums=(0, 1))
def _measured(land: Landscape, tol: float, params: PyTree) -> dict[str, jax.Array]:
    return jax.lax.map(partial(measure, land, tol=tol), params)


def open_search(path: str | Path) -> xarray.Dataset:
    """The rows of a search's store, finished or not, as an xarray.Dataset.

    Dimensions start, finder, eigenvalue, parameter; coordinates start, finder (methods by name) and done (start): rows
    not done yet hold NaN, counts and status -1. Attributes: config, landscape, truth ([loss, index, nullity] of known
    points), law (name, and a curve of loss and share below 0) where the landscape has one, versions, device, wall_s,
    num_done.

    Args:
      path: folder of the store.

    Raises:
      StoreError: there is no store there, or one of another kind.
      ImportError: xarray or zarr is not installed; the message has the command.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Search(landscape="bowl", num_starts=2, starts="random", dtype="float32")
      >>> ds = hj.open_search(hj.search(config, tempfile.mkdtemp() + "/s.zarr", progress=False))
      >>> ds["negative"].values.tolist(), ds["finder"].values.tolist()
      ([[0], [0]], ['newton-mr'])
    """
    return runs.opened(path, "search", {"finder": "methods"}).set_coords(["start"])
