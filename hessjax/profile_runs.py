"""The surface around training as a study: trajectories, lines and matrices first, then a plane, row by row, in a store.

What is cheap is computed when the store is made and kept whole: the trajectories of every optimiser, the lines from
the start to their ends and between these, and the plane's directions. Its rows are units that any number of processes
share, and that survive interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessjax import profiles, runs, trees
from hessjax.config import FINITE, Profile, Sweep, check_is
from hessjax.curvature import Hessian
from hessjax.extremes import eigsh
from hessjax.landscapes.base import Landscape
from hessjax.lanes import Lanes, resolve
from hessjax.measuring import error_rate, measure
from hessjax.objective import mean_loss
from hessjax.progress import say
from hessjax.records import CURVATURE
from hessjax.store import Spec, Store
from hessjax.tracking import stability_threshold
from hessjax.train import make_optimizer
from hessjax.trajectories import OPTIMIZERS, Comparison, compare_optimizers
from hessjax.working import write_units

if TYPE_CHECKING:
    import xarray

__all__ = ["open_profile", "profile"]

LINE = np.linspace(-0.25, 1.5, 71)  # where lines are looked at: 0 is a start, 1 an end
MARGIN = 0.25  # of a plane beyond the points that suggest it, in their range
ROWS = 8  # of the plane in a unit

# name: (dtype or None for the profile's own, long name, units); of every point of the plane
PER_POINT: dict[str, tuple[str | None, str, str]] = {
    "loss": (None, "loss, mean over rows", "loss"),
    "error": (None, "training error, share of rows misclassified", "1"),
    "grad_norm": (None, "Euclidean norm of the gradient", "loss / parameter"),
    "negative": ("int32", "eigenvalues below -threshold", "1"),
    "min_eigenvalue": (None, "smallest eigenvalue", CURVATURE),
    "max_eigenvalue": (None, "largest eigenvalue", CURVATURE),
}


class _Seen(NamedTuple):
    """What is kept whole: the plane, and what was found on the way to it."""

    frame: profiles.Frame
    coordinates: Float[np.ndarray, "optimizer time 2"]
    distance: Float[np.ndarray, "optimizer time"]
    explained: Float[np.ndarray, " 2"]
    xs: Float[np.ndarray, " x"]
    ys: Float[np.ndarray, " y"]


def profile(
    config: Profile,
    path: str | Path,
    *,
    unit: int | None = None,
    worker: tuple[int, int] = (0, 1),
    take_over: bool = False,
    progress: bool = True,
) -> Path:
    """Runs a study of the surface around training into the store at `path`, or resumes the one begun there.

    Args:
      config: what to run; a store made by another configuration is refused.
      path: folder of the store; made if absent.
      unit: rows of the plane per stored chunk; None: 8. Fixed when the store is made.
      worker: (i, n): this process does the units i, i + n, i + 2n, ... only, as for `hj.sweep`.
      take_over: when this worker's units are done, go on with those of others that nobody is at work on.
      progress: show rows done, rate and time left.

    Returns:
      The path. Read it with `open_profile`.

    Raises:
      StoreError: a store of another configuration (the fields that differ are named), or a path that is a file,
        read-only or full.
      ValueError: unknown landscape, option or optimiser; a switch of optimisers that is none.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Profile(landscape="quadratic", optimizers=("sgd", "adam"), num_steps=9, times=4, resolution=5)
      >>> ds = hj.open_profile(hj.profile(config, tempfile.mkdtemp() + "/p.zarr", progress=False))
      >>> dict(ds["loss"].sizes), ds["optimizer"].values.tolist()
      ({'y': 5, 'x': 5}, ['sgd', 'adam'])
    """
    check_is(Profile, config)
    runs.check_shares(unit, worker, "row of the plane")
    if Store.is_anything_at(path):
        Store.open(path)
    plans = {name: _phases(name) for name in config.optimizers}
    land = resolve(config)
    if trees.size(jax.eval_shape(land.init, jax.random.key(0))) < 2:
        raise ValueError(
            f"landscape {config.landscape_name!r} has one parameter: there is no plane; use hj.profiles.line."
        )
    store = _open_or_create(config, land, plans, Path(path), min(unit or ROWS, config.resolution), progress)
    if not runs.units_of(store, (0, 1) if take_over else worker):
        if progress:
            say(f"{config.landscape_name}: nothing left to do here, {store.num_done()}/{store.num_rows} are done")
        return store.path
    shown: dict[str, Any] = {"label": config.landscape_name, "what": "rows of the plane", "progress": progress}
    write_units(store, worker, _rows(config, land, store), at_once=store.unit, take_over=take_over, **shown)
    return store.path


def _phases(name: str) -> list[tuple[int, Any]]:
    """Optimisers that a word such as "adam+sgd@100" names, with the steps from which they train."""
    found = []
    for k, word in enumerate(name.split("+")):
        kind, at, step = word.partition("@")
        if kind not in OPTIMIZERS or (at == "@") != (k > 0) or (at and not step.isdecimal()):
            known = ", ".join(OPTIMIZERS)
            raise ValueError(f"optimizers: {name!r} is none of {known}, nor a switch between them like adam+sgd@100.")
        of, rate, options = OPTIMIZERS[kind]
        found.append((int(step or 0), make_optimizer(of, rate, options=options)))
    return found


def _open_or_create(
    config: Profile, land: Landscape, plans: dict[str, Any], path: Path, unit: int, progress: bool
) -> Store:
    small = {"num_inits": 1, "num_steps": 0, "times": 1, "seed": config.seed, "dtype": config.dtype}
    lanes = Lanes(Sweep(landscape=config.landscape, options=config.options, **small), land)
    identity = {"config": config.to_dict(), "landscape": lanes.identity()}
    if not Store.is_anything_at(path):
        Store.check_path(path)  # before training, not after it
        if progress:
            many = lambda count, what: f"{count} {what}{'s' * (count > 1)}"
            runs_ = f"{many(config.num_inits, 'init')} with {many(len(plans), 'optimizer')}"
            say(f"{config.landscape_name}: training {runs_}, {many(config.num_steps, 'step')}")
        sizes = {"num_steps": config.num_steps, "times": config.times, "num_inits": config.num_inits}
        key = jax.random.key(config.seed)
        found = compare_optimizers(land, plans, key, batch_size=config.batch_size, tol=config.tol, **sizes)
        attributes = {
            **identity,
            "kind": "profile",
            "title": f"{config.landscape_name}: the surface around {len(plans)} trajectories",
            "fingerprint": config.fingerprint,
            "precision": f"{config.dtype} params and losses",
            "thresholds": _thresholds(config.optimizers),
            **runs.circumstances(),
        }
        arrays = _arrays(config, land, found, _seen(config, land, found, key))
        Store.create(path, arrays, attributes, rows="y", unit=unit)
    store = Store.open(path)
    runs.refuse_another(store, identity, "profile")
    return store


def _thresholds(names: Sequence[str]) -> dict[str, float]:
    """Of the sharpness, for optimisers whose steps are the gradient's; the last one's, where they switch."""
    found = {}
    for name in names:
        kind = name.split("+")[-1].partition("@")[0]
        of, rate, options = OPTIMIZERS[kind]
        if of == "sgd":
            momentum = options.get("momentum", 0.0)
            of = "nesterov" if options.get("nesterov") else "sgd"
            found[name] = float(stability_threshold(rate, momentum=momentum, kind=of))
    return found


def _seen(config: Profile, land: Landscape, found: Comparison, key: Array) -> _Seen:
    """The plane of a configuration, its sides, and where the first init's trajectories are in it."""
    paths = jax.tree.map(lambda x: x[:, 0], found.params)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), paths)
    first_end = jax.tree.map(lambda x: x[0, -1], paths)
    explained = np.full(2, np.nan)
    if config.plane == "trajectories":
        kept = _near(flat)
        if len(kept) < 3:
            raise ValueError("optimizers: all diverged at once, so that no plane goes through their trajectories.")
        made = profiles.trajectory_plane(jax.tree.map(lambda x: x[kept], flat), origin="mean")
        frame, explained = made.frame, np.resize(np.asarray(made.explained), 2)
    elif config.plane == "solutions":
        ends = jax.tree.map(lambda x: jnp.swapaxes(x[:, :, -1], 0, 1).reshape(-1, *x.shape[3:]), found.params)
        kept = _near(ends)[:3]
        if len(kept) < 3:
            raise ValueError("optimizers: fewer than three ends of training are finite, so that no plane is theirs.")
        three = [jax.tree.map(lambda x, k=k: x[k], ends) for k in kept]
        frame, _ = profiles.plane_through(*three)
    elif not len(_near(jax.tree.map(lambda x: x[None], first_end))):
        raise ValueError(
            f"optimizers: {found.names[0]!r} diverged, and the plane is around its end; put another first."
        )
    elif config.plane == "eigenvectors":
        other = jax.random.fold_in(key, 3)  # numbers below are of `compare_optimizers`
        top = jax.jit(lambda p: eigsh(Hessian(land.loss, p, land.batch), other, k=2).vectors)(first_end)
        frame = profiles.Frame(first_end, jax.tree.map(lambda x: x[::-1], top))
    else:
        # Where there are vectors alone, such as those of a closed form, they are what is moved.
        vectors = "zero" if any(x.ndim > 1 for x in jax.tree.leaves(first_end)) else "scaled"
        keys = jax.random.split(jax.random.fold_in(key, 4))
        drawn = [profiles.filter_normalized(k, first_end, vectors=vectors) for k in keys]
        frame = profiles.Frame(first_end, jax.tree.map(lambda *x: jnp.stack(x), *drawn))
    at, off = _projected(frame, flat)
    shape = (len(found.names), len(found.steps))
    xs, ys = _sides(config, at, float(trees.norm(jax.tree.map(lambda x: x[0, -1] - x[0, 0], paths))))
    return _Seen(frame, at.reshape(*shape, 2), off.reshape(shape), explained, xs, ys)


def _near(points: PyTree) -> np.ndarray:
    """Numbers of the points that did not diverge: whose squares, of all of them, can be added up."""
    norms = np.asarray(jax.vmap(trees.norm)(points), float)
    return np.flatnonzero(norms < 1e-3 * np.sqrt(float(jnp.finfo(jax.tree.leaves(points)[0].dtype).max)))


def _projected(frame: profiles.Frame, points: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the nearest points of the plane, and distances from it, also where directions are oblique."""
    gram = np.asarray(trees.gram(frame.directions, frame.directions), float)
    away = jax.tree.map(lambda x, o: x - o, points, frame.origin)
    at = np.asarray(trees.gram(away, frame.directions), float) @ np.linalg.inv(gram)
    weights = jnp.asarray(at, trees.scalar_dtype(frame.origin))
    off = jax.tree.map(jnp.subtract, away, trees.combine(weights, frame.directions))
    return at, np.asarray(jax.vmap(trees.norm)(off), float)


def _sides(config: Profile, at: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    at = at[np.isfinite(at).all(1)]
    if config.extent is not None or config.plane in ("eigenvectors", "random"):
        reach = config.extent or (1.0 if config.plane == "random" else length / 2 or 1.0)
        middle = (at.min(0) + at.max(0)) / 2 if config.plane in ("trajectories", "solutions") else np.zeros(2)
        ends = np.stack([middle - reach, middle + reach])
    else:
        low, high = at.min(0), at.max(0)
        room = MARGIN * np.maximum(high - low, 0.1 * (high - low).max() or 1.0)
        ends = np.stack([low - room, high + room])
    xs, ys = (np.linspace(ends[0, k], ends[1, k], config.resolution) for k in (0, 1))
    return xs, ys


def _arrays(config: Profile, land: Landscape, found: Comparison, seen: _Seen) -> dict[str, Spec]:
    """Every array of the store: what is whole, and the plane's."""
    kind, points = config.dtype, config.resolution
    made: dict[str, Spec] = {}

    def whole(name: str, dims: tuple[str, ...], values: Any, long_name: str, units: str = "1") -> None:
        values = np.asarray(values)
        dtype = "int64" if values.dtype.kind == "i" else kind
        attrs = {"long_name": long_name, "units": units}
        made[name] = Spec(dims, values.shape, dtype, attrs, values.astype(dtype))

    runs_, pair = ("optimizer", "init", "time"), ("init", "optimizer", "other")
    whole("step", ("time",), found.steps, "training step")
    whole("run_loss", runs_, found.loss, "training loss along training", "loss")
    whole("run_grad_norm", runs_, found.grad_norm, "Euclidean norm of the gradient", "loss / parameter")
    whole("sharpness", runs_, found.sharpness, "largest eigenvalue", CURVATURE)
    whole("run_negative", runs_, found.negative, "share of negative eigenvalues")
    moved = jax.tree.map(lambda x: x[:, :, -1] - x[:, :, 0], found.params)
    whole("moved", runs_[:2], jax.vmap(jax.vmap(trees.norm))(moved), "distance from start to end", "parameter")
    whole("separation", ("init", "time", *pair[1:]), found.distance, "distance between trajectories", "parameter")
    whole("barrier", pair, found.barrier, "height of the loss between ends", "loss")
    if found.disagreement is not None:
        whole("disagreement", pair, found.disagreement, "share of rows that ends decide differently")
    whole("t", ("t",), LINE, "place on a line: 0 its first point, 1 its last")
    whole("line_loss", ("optimizer", "init", "t"), _from_start(land, found), "loss between start and end", "loss")
    whole("between_loss", (*pair, "t"), _between(land, found), "loss between ends", "loss")
    whole("coordinates", ("optimizer", "time", "axis"), seen.coordinates, "place in the plane of the first init")
    whole("off_plane", ("optimizer", "time"), seen.distance, "distance from the plane", "parameter")
    whole("explained", ("axis",), seen.explained, "share of the trajectories' variance along the axis")
    whole("x", ("x",), seen.xs, "place along the first direction")
    rows = lambda tree: jax.vmap(lambda p: trees.ravel(p)[0])(tree)
    whole("origin", ("parameter",), trees.ravel(seen.frame.origin)[0], "the plane's (0, 0), in ravel_pytree order")
    whole("directions", ("axis", "parameter"), rows(seen.frame.directions), "the plane's directions")
    words = "whether the row's numbers are: " + ", ".join(f"{i} {word}" for i, word in enumerate(FINITE))
    made["status"] = Spec(("y",), (points,), "int8", {"long_name": words, "units": "1"}, fill=-1)
    made["y"] = Spec(("y",), (points,), kind, {"long_name": "place along the second"}, seen.ys.astype(kind))
    for name in _measured(config, land):
        dtype, long_name, units = PER_POINT[name]
        attrs = {"long_name": long_name, "units": units}
        made[name] = Spec(("y", "x"), (points, points), dtype or kind, attrs, fill=-1 if dtype else None)
    return made


def _from_start(land: Landscape, found: Comparison) -> np.ndarray:
    """[optimizer, init, t], from step 0 through the last."""
    flat = jax.tree.map(lambda x: x[:, :, jnp.array([0, -1])].reshape(-1, *x.shape[3:]), found.params)
    return _along(land, flat, *(np.arange(0, len(jax.tree.leaves(flat)[0]), 2) + k for k in (0, 1))).reshape(
        len(found.names), -1, len(LINE)
    )


def _between(land: Landscape, found: Comparison) -> np.ndarray:
    """[init, optimizer, other, t], from one's last point to the other's."""
    ends = jax.tree.map(lambda x: jnp.swapaxes(x[:, :, -1], 0, 1).reshape(-1, *x.shape[3:]), found.params)
    count = len(found.names)
    inits = len(jax.tree.leaves(ends)[0]) // count
    i, a, b = (x.ravel() for x in np.meshgrid(*map(np.arange, (inits, count, count)), indexing="ij"))
    return _along(land, ends, i * count + a, i * count + b).reshape(inits, count, count, len(LINE))


def _along(land: Landscape, points: PyTree, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Losses on lines between points of those numbers, [lines, t]."""
    at = lambda k: jax.tree.map(lambda x: x[k], points)
    line = lambda a, b: profiles.line(land.loss, at(a), at(b), LINE, batch=land.batch).values
    return np.array([np.asarray(line(int(a), int(b)), float) for a, b in zip(first, last, strict=True)])


def _measured(config: Profile, land: Landscape) -> tuple[str, ...]:
    names = ["loss"] + ["error"] * land.classifies
    names += ["grad_norm"] * (config.measure != "loss")
    return (*names, *(("negative", "min_eigenvalue", "max_eigenvalue") if config.measure == "curvature" else ()))


def _rows(config: Profile, land: Landscape, store: Store) -> Callable[[int, int], Callable[[], Mapping[str, Any]]]:
    """Begins rows of the plane; all units have one shape, so that there is one program."""
    like = jax.eval_shape(land.init, jax.random.key(0))
    unravel = trees.ravel(jax.tree.map(lambda x: jnp.zeros(x.shape, config.dtype), like))[1]
    at, u, v = (unravel(jnp.asarray(x)) for x in (store.read("origin"), *store.read("directions")))
    xs, ys = np.asarray(store.read("x"), float), np.asarray(store.read("y"), float)
    value = partial(_at, land, _measured(config, land), config.tol)

    def begin(start: int, stop: int) -> Callable[[], Mapping[str, Any]]:
        rows = np.minimum(np.arange(start, start + store.unit), stop - 1)
        return lambda: evaluated(rows, stop - start)

    def evaluated(rows: np.ndarray, count: int) -> dict[str, np.ndarray]:
        found = profiles.plane(value, at, u, v, xs, ys[rows]).values
        found = {name: np.asarray(x)[:count] for name, x in found.items()}
        good = np.all([np.isfinite(x).all(1) for x in found.values()], axis=0)
        return {**found, "status": np.where(good, 0, 1).astype(np.int8)}

    return begin


def _at(land: Landscape, names: Sequence[str], tol: float, params: PyTree) -> dict[str, Array]:
    if "max_eigenvalue" in names:
        found = measure(land, params, tol=tol, spectrum=False)
        return {name: found[name] for name in names}
    loss = lambda p: mean_loss(land.loss, p, land.batch)
    if "grad_norm" in names:
        value, grad = jax.value_and_grad(loss)(params)
        found = {"loss": value, "grad_norm": trees.norm(grad)}
    else:
        found = {"loss": loss(params)}
    return found | ({"error": error_rate(land, params)} if land.classifies else {})


def open_profile(path: str | Path) -> xarray.Dataset:
    """The store of a profile, finished or not, as an xarray.Dataset.

    Dimensions y and x of the plane, optimizer (and other), init, time, t of lines, axis, parameter; coordinates x, y,
    step, t, optimizer, other and done (y): rows not done yet hold NaN. Attributes: config, landscape, thresholds of the
    sharpness, versions, device, wall_s, num_done.

    Args:
      path: folder of the store.

    Raises:
      StoreError: there is no store there, or one of another kind.
      ImportError: xarray or zarr is not installed; the message has the command.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Profile(landscape="bowl", optimizers=("sgd", "adam"), num_steps=9, times=4, resolution=3)
      >>> ds = hj.open_profile(hj.profile(config, tempfile.mkdtemp() + "/p.zarr", progress=False))
      >>> ds["barrier"].sel(optimizer="sgd", other="adam").shape
      (1,)
    """
    names = {"optimizer": "optimizers", "other": "optimizers"}
    return runs.opened(path, "profile", names).set_coords(["step"])
