"""Where searches for critical points begin: along training, at inits, beside known points, or in a sweep's store.

Start i depends on the key and on i alone, so that a study can make any of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from hessjax import trees
from hessjax.arguments import check_count, check_key, check_tolerance
from hessjax.config import Sweep
from hessjax.landscapes.base import Landscape
from hessjax.lanes import Lanes, resolve
from hessjax.records import landscape_differences
from hessjax.store import Store, StoreError
from hessjax.train import Trainer, make_optimizer
from hessjax.trees import PRNGKey

__all__ = ["along_training", "around", "at_random", "from_sweep"]

TOGETHER = 64  # starts that are trained at once


def at_random(land: Landscape, key: PRNGKey, num_starts: int, *, first: int = 0) -> PyTree:
    """The landscape's inits.

    Args:
      land: the landscape.
      key: start i is `land.init` of the key folded with i.
      num_starts: how many.
      first: number of the first.

    Returns:
      Params with a leading axis of starts, as `hj.find_critical_points` takes them.

    Raises:
      TypeError: land is no Landscape.
      ValueError: num_starts below 1.

    Example:
      >>> import hessjax as hj
      >>> land = hj.landscapes.get("autoencoder", inputs=4, hidden=2)
      >>> at_random(land, jax.random.key(0), 3)["W1"].shape
      (3, 2, 4)
    """
    check_key(key)
    _check_landscape(land)
    return _inits(land, key, _numbers(num_starts, first))


def _check_landscape(land: Any) -> None:
    if not isinstance(land, Landscape):
        raise TypeError(f"land is {type(land).__name__}, wanted a Landscape, such as hj.landscapes.get(name).")


def along_training(
    land: Landscape,
    key: PRNGKey,
    num_starts: int,
    *,
    num_steps: int = 1000,
    optimizer: str = "sgd",
    learning_rate: float = 0.01,
    noise: float = 0.0,
    first: int = 0,
) -> PyTree:
    """Points on trajectories of training, uniform in loss: an init and a trajectory for each start.

    The published way of finding saddles of all heights: the start is where the loss on its trajectory is nearest to a
    level drawn uniformly between the least and the largest there.

    Args:
      land: the landscape.
      key: of the inits, levels and noise.
      num_starts: how many.
      num_steps: of training, on all rows.
      optimizer: name of an optax optimiser.
      learning_rate: of it.
      noise: standard deviation of normal noise that every second start is moved by.
      first: number of the first.

    Raises:
      TypeError: land is no Landscape.
      ValueError: an unknown optimiser; num_starts or num_steps below 1; noise below 0.

    Example:
      >>> import hessjax as hj
      >>> land = hj.landscapes.get("quadratic", eigenvalues=(1.0, 2.0))
      >>> starts = along_training(land, jax.random.key(0), 4, num_steps=100, learning_rate=0.1)
      >>> starts.shape
      (4, 2)

    References: Frye et al. (2021), doi:10.1162/neco_a_01388; Pennington & Bahri (2017), ICML.
    """
    check_key(key)
    check_count("num_steps", num_steps)
    check_tolerance("noise", noise)
    make_optimizer(optimizer, learning_rate, num_steps=num_steps)  # a mistake is answered here, not while tracing
    _check_landscape(land)
    training = {"num_steps": num_steps, "optimizer": optimizer, "learning_rate": float(learning_rate)}
    return _along(land, key, _numbers(num_starts, first), noise, **training)


def around(points: Sequence[PyTree], key: PRNGKey, num_starts: int, *, noise: float, first: int = 0) -> PyTree:
    """Points in turn, moved by normal noise.

    Args:
      points: params, at least one; a landscape's known ones are [p["point"] for p in land.facts["critical_points"]].
      key: of the noise.
      num_starts: how many.
      noise: its standard deviation, in units of the params.
      first: number of the first.

    Raises:
      ValueError: no points, or of different structures; num_starts below 1; noise below 0.

    Example:
      >>> around([jnp.zeros(2), jnp.ones(2)], jax.random.key(0), 3, noise=0.0).tolist()
      [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """
    check_key(key)
    check_tolerance("noise", noise)
    if not len(points):
        raise ValueError("points are none, wanted at least one.")
    if len({jax.tree.structure(p) for p in points}) > 1:
        raise ValueError("points are of different structures, wanted params of one landscape.")
    stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(leaf) for leaf in x]), *points)
    numbers = _numbers(num_starts, first)
    return _noisy(jax.tree.map(lambda x: x[numbers % len(points)], stacked), key, numbers, noise)


def from_sweep(
    path: str | Path,
    key: PRNGKey,
    num_starts: int,
    *,
    noise: float = 0.0,
    first: int = 0,
    landscape: str | None = None,
) -> PyTree:
    """Points of a sweep's trainings, uniform in loss over its finished rows; trained again, as stores hold no params.

    Starts depend on the rows that are there: finish the sweep before a search that may have to be gone on with.

    Args:
      path: folder of a sweep's store, of a named landscape.
      key: of the levels and the noise.
      num_starts: how many.
      noise: as of `along_training`.
      first: number of the first.
      landscape: the sweep's "package.module:factory", where it has one: a store is data, and does not say what is run.

    Returns:
      Params in the sweep's dtype.

    Raises:
      StoreError: there is no sweep there, no row of it is done, its landscape was an object, or is made by a factory
        that `landscape` does not name.
      ValueError: a float64 sweep without x64.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Sweep(landscape="quadratic", num_inits=3, num_steps=4, times=2)
      >>> path = hj.sweep(config, tempfile.mkdtemp() + "/q.zarr", progress=False)
      >>> from_sweep(path, jax.random.key(0), 5).shape
      (5, 6)
    """
    check_key(key)
    check_tolerance("noise", noise)
    store, _ = sweep_at(path, landscape)
    losses, steps = store.read("loss"), store.read("step")
    inits, times = np.nonzero(np.isfinite(losses) & (store.read("status") == 0))
    if not len(inits):
        raise StoreError(f"the sweep at {str(store.path)!r} has no finished row to start from.")
    found = losses[inits, times]
    numbers = _numbers(num_starts, first)
    levels = np.asarray(_over(jax.random.uniform, key, numbers))
    aims = found.min() + levels * (found.max() - found.min())
    row = _nearest(found, aims)
    lanes = _lanes(store.path.resolve(), str(store.attributes.get("created")), landscape)
    params = _trained(lanes, store.read("init")[inits[row]], steps[times[row]])
    return _noisy(params, key, numbers, noise * (numbers % 2))


def _nearest(found: np.ndarray, aims: np.ndarray) -> np.ndarray:
    """Where each aim's nearest is, the lower of two as near."""
    order = np.argsort(found, kind="stable")
    ascending = found[order]
    above = np.clip(np.searchsorted(ascending, aims), 1, max(len(found) - 1, 1))
    above = np.minimum(above, len(found) - 1)
    below = np.maximum(above - 1, 0)
    lower = np.abs(ascending[below] - aims) <= np.abs(ascending[above] - aims)
    return order[np.where(lower, below, above)]


def _trained(lanes: Lanes, inits: np.ndarray, steps: np.ndarray) -> PyTree:
    """Params of many inits, each after its own number of steps, a lane's width at a time."""
    parts = []
    for first in range(0, len(inits), lanes.width):
        some = slice(first, first + lanes.width)
        given = (np.resize(x[some], lanes.width).astype(np.int32) for x in (inits, steps))
        parts.append(jax.tree.map(lambda x, some=some: np.asarray(x)[: len(inits[some])], _after(lanes, *given)))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


@partial(jax.jit, static_argnums=0)
def _after(lanes: Lanes, inits: Array, steps: Array) -> PyTree:
    return jax.vmap(lanes.params)(inits, steps)


@lru_cache(maxsize=1)  # a study asks for each of its units
def _lanes(path: Path, created: str, landscape: str | None) -> Lanes:
    """The programs of a sweep, if the landscape of that name is the one it was of."""
    store, config = sweep_at(path, landscape)
    lanes = Lanes(config, resolve(config))
    other = landscape_differences(store.attributes["landscape"], lanes.identity())
    if other:
        raise StoreError(f"the sweep at {str(path)!r} was of another landscape of this name: {'; '.join(other)}.")
    return lanes


def sweep_at(path: str | Path, landscape: str | None) -> tuple[Store, Sweep]:
    """A sweep's store and its configuration. Code that the store names is run only where `landscape` names it too.

    Raises:
      StoreError: it is not a sweep's, or its landscape cannot be made by name.
    """
    store = Store.open(path)
    try:
        config = Sweep.from_dict(store.attributes["config"])
        if ":" in config.landscape_name and config.landscape != landscape:
            raise StoreError(
                f"the sweep at {str(store.path)!r} is of {config.landscape_name!r}; a store is data and does not say "
                "what is run: name that landscape yourself if you trust it."
            )
        resolve(config)
    except KeyError as error:
        raise StoreError(f"the store at {str(store.path)!r} is not of a sweep: it has no {error}.") from error
    except StoreError:
        raise
    except ValueError as error:
        raise StoreError(f"the sweep at {str(store.path)!r} cannot be run again: {error}") from error
    return store, config


def _numbers(num_starts: int, first: int) -> Array:
    check_count("num_starts", num_starts)
    check_count("first", first, 0)
    return jnp.arange(first, first + num_starts)


def _over(function: Callable, key: PRNGKey, numbers: Array, *more: Any) -> PyTree:
    """`function(own key, ...)` of every number, some at a time."""
    one = lambda xs: function(jax.random.fold_in(key, xs[0]), *xs[1:])
    return jax.lax.map(one, (numbers, *more), batch_size=min(TOGETHER, len(numbers)))


@partial(jax.jit, static_argnums=0)
def _inits(land: Landscape, key: PRNGKey, numbers: Array) -> PyTree:
    return _over(land.init, key, numbers)


@partial(jax.jit, static_argnums=0, static_argnames=("num_steps", "optimizer", "learning_rate"))
def _along(
    land: Landscape,
    key: PRNGKey,
    numbers: Array,
    noise: Any,
    *,
    num_steps: int,
    optimizer: str,
    learning_rate: float,
) -> PyTree:
    trainer = Trainer(land.loss, make_optimizer(optimizer, learning_rate, num_steps=num_steps), land.batch)

    def one(key: Array, amount: Array) -> PyTree:
        init, level, moved, rest = jax.random.split(key, 4)
        state = trainer.start(land.init(init))
        losses = trainer.losses(state, rest, num_steps)
        finite = jnp.isfinite(losses)
        losses = jnp.where(finite, losses, jnp.inf)  # what diverged is not walked to
        top = jnp.max(jnp.where(finite, losses, -jnp.inf))
        aim = jax.random.uniform(level, dtype=losses.dtype) * (top - jnp.min(losses)) + jnp.min(losses)
        step = jnp.argmin(jnp.abs(losses - aim))
        return _moved(trainer.advance(state, rest, 0, step).params, moved, amount)

    return _over(one, key, numbers, noise * (numbers % 2))


@jax.jit
def _noisy(params: PyTree, key: PRNGKey, numbers: Array, noise: Any) -> PyTree:
    amounts = jnp.broadcast_to(jnp.asarray(noise), numbers.shape)
    return _over(lambda k, p, amount: _moved(p, k, amount), key, numbers, params, amounts)


def _moved(params: PyTree, key: PRNGKey, noise: Any) -> PyTree:
    return trees.axpy(noise, trees.normal_like(key, params), params)
