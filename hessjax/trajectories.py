"""The same init trained in several ways: where trajectories part, how far apart they end, what lies between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from hessjax import stacks, trees
from hessjax.arguments import check_count, check_key, check_tolerance
from hessjax.assembly import dense
from hessjax.curvature import Hessian
from hessjax.extremes import eigsh
from hessjax.landscapes.base import Landscape
from hessjax.modes import barrier, disagreement
from hessjax.negative import negative_fraction
from hessjax.objective import mean_loss
from hessjax.profiles import line
from hessjax.signature import by_values
from hessjax.train import Trainer, make_optimizer
from hessjax.trees import PRNGKey

__all__ = ["OPTIMIZERS", "Comparison", "compare_optimizers"]

DENSE = 1000  # params up to which all eigenvalues of every point are taken

# Of optax, at rates that suit the networks of `hj.landscapes`.
OPTIMIZERS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "sgd": ("sgd", 0.1, {}),
    "momentum": ("sgd", 0.02, {"momentum": 0.9}),
    "nesterov": ("sgd", 0.02, {"momentum": 0.9, "nesterov": True}),
    "adam": ("adam", 0.01, {}),
    "rmsprop": ("rmsprop", 0.003, {}),
    "adagrad": ("adagrad", 0.1, {}),
    "adadelta": ("adadelta", 1.0, {}),
    "lbfgs": ("lbfgs", 1.0, {}),
}


class Comparison(NamedTuple):
    """Trajectories of the same inits by several optimisers.

    Attributes:
      names: of the optimisers.
      steps: measured steps, [time]; the first is 0, where all are the same.
      params: every leaf [optimizer, init, time, ...].
      loss: [optimizer, init, time].
      grad_norm: [optimizer, init, time].
      sharpness: largest Hessian eigenvalue, [optimizer, init, time].
      negative: share of eigenvalues below -tol ||H||, [optimizer, init, time]; of large nets what is surely below.
      distance: between trajectories at the same time, [init, time, optimizer, optimizer].
      barrier: height of the loss on the line between last points, above that between their losses, [init, optimizer,
        optimizer]; NaN where one diverged.
      disagreement: share of rows that last points decide differently, [init, optimizer, optimizer]; NaN where one
        diverged, None where the landscape has no model or is not of classes.
    """

    names: tuple[str, ...]
    steps: Int[np.ndarray, " time"]
    params: PyTree
    loss: Float[np.ndarray, "optimizer init time"]
    grad_norm: Float[np.ndarray, "optimizer init time"]
    sharpness: Float[np.ndarray, "optimizer init time"]
    negative: Float[np.ndarray, "optimizer init time"]
    distance: Float[np.ndarray, "init time optimizer optimizer"]
    barrier: Float[np.ndarray, "init optimizer optimizer"]
    disagreement: Float[np.ndarray, "init optimizer optimizer"] | None


def compare_optimizers(
    land: Landscape,
    optimizers: Mapping[str, Any] | Sequence[str],
    key: PRNGKey,
    *,
    num_steps: int,
    times: int = 11,
    num_inits: int = 1,
    batch_size: int | None = None,
    tol: float = 1e-5,
    resolution: int = 21,
) -> Comparison:
    """Trains the same inits with each optimiser, on the same rows at every step, and compares what becomes of them.

    Args:
      land: the landscape; its options decide width, skips, normalisation.
      optimizers: name -> an optax transformation; or a sequence of (step, transformation), which take over at those
        steps, the first at 0, with a state of their own; or names of `OPTIMIZERS`, at the rates given there.
      key: of the inits and the rows drawn.
      num_steps: of training.
      times: how many measurements, evenly spaced from step 0 to num_steps, at least 2.
      num_inits: inits that every optimiser starts from.
      batch_size: rows drawn with replacement for each step; None: all.
      tol: eigenvalues within tol ||H|| of zero are not negative.
      resolution: points of the lines that barriers are measured on, at least 3.

    Raises:
      ValueError: no optimisers, unknown names, switches that do not begin at 0 and ascend; counts that are too small.
      TypeError: land is no Landscape; an optimiser is no transformation.

    Example:
      >>> import hessjax as hj
      >>> land = hj.landscapes.get("scalar-linear", depth=2)
      >>> ways = {"slow": optax.sgd(0.02), "then faster": [(0, optax.sgd(0.02)), (20, optax.sgd(0.1))]}
      >>> found = hj.compare_optimizers(land, ways, jax.random.key(0), num_steps=40, times=3)
      >>> found.steps.tolist(), bool(found.distance[0, 1, 0, 1] == 0), bool(found.loss[1, 0, 2] < found.loss[0, 0, 2])
      ([0, 20, 40], True, True)

    References: Im et al. (2016), arXiv:1612.04010, sections 3 and 4.
    """
    check_key(key)
    if not isinstance(land, Landscape):
        raise TypeError(f"land is {type(land).__name__}, wanted a Landscape, such as hj.landscapes.get(name).")
    counts = {
        "num_steps": (num_steps, 1),
        "times": (times, 2),
        "num_inits": (num_inits, 1),
        "resolution": (resolution, 3),
    }
    for name, (value, least) in counts.items():
        check_count(name, value, least)
    check_tolerance("tol", tol)
    plans = {name: _phases(name, plan, num_steps) for name, plan in _named(optimizers).items()}
    steps = np.unique(np.linspace(0, num_steps, times).round().astype(int))
    keys = jax.random.split(jax.random.fold_in(key, 0), num_inits)
    starts = jax.jit(jax.vmap(land.init))(keys)
    keys = jax.random.split(jax.random.fold_in(key, 1), num_inits)
    paths = [_path(land, plan, starts, keys, steps, batch_size) for plan in plans.values()]
    params = jax.tree.map(lambda *x: jnp.stack(x), *paths)
    one = partial(_one, land, jax.random.fold_in(key, 2), tol)
    measured = jax.jit(lambda points: jax.lax.map(lambda row: jax.lax.map(one, row), points))
    rows = [[np.asarray(x, float) for x in measured(path)] for path in paths]
    loss, grad_norm, sharpness, negative = (np.stack([row[k] for row in rows]) for k in range(4))
    distance = np.asarray(_distances(params))
    last = jax.tree.map(lambda x: x[:, :, -1], params)
    each = [jax.tree.map(lambda x, i=i: x[:, i], last) for i in range(num_inits)]
    barriers = np.stack([_barriers(land, points, resolution) for points in each])
    apart = None
    if land.model is not None and land.classifies:
        apart = np.stack([disagreement(land.model, points, land.batch[0]) for points in each])
    return Comparison(tuple(plans), steps, params, loss, grad_norm, sharpness, negative, distance, barriers, apart)


def _named(optimizers: Any) -> dict[str, Any]:
    if isinstance(optimizers, str) or not len(optimizers):
        raise ValueError(f"optimizers are {optimizers!r}, wanted at least one, by name: {', '.join(OPTIMIZERS)}.")
    if isinstance(optimizers, Mapping):
        return dict(optimizers)
    unknown = [name for name in optimizers if name not in OPTIMIZERS]
    if unknown:
        raise ValueError(f"unknown optimizer {unknown[0]!r}. Known: {', '.join(OPTIMIZERS)}; or a mapping of your own.")
    made = {name: OPTIMIZERS[name] for name in optimizers}
    return {name: make_optimizer(kind, rate, options=options) for name, (kind, rate, options) in made.items()}


def _phases(name: str, plan: Any, num_steps: int) -> list[tuple[int, Any]]:
    is_one = hasattr(plan, "init") and hasattr(plan, "update")
    phases = [(0, plan)] if is_one else list(plan) if isinstance(plan, Sequence) else [(0, plan)]
    if not phases or not all(isinstance(p, tuple) and len(p) == 2 and hasattr(p[1], "update") for p in phases):
        raise TypeError(
            f"optimizer {name!r} is {type(plan).__name__}, wanted an optax transformation or (step, it) pairs."
        )
    begins = [step for step, _ in phases]
    if begins[0] != 0 or begins != sorted(set(begins)) or begins[-1] >= num_steps:
        raise ValueError(
            f"optimizer {name!r} switches at steps {begins}, wanted 0 first, ascending, below {num_steps}."
        )
    return phases


def _path(
    land: Landscape, phases: list, starts: PyTree, keys: Array, steps: Int[np.ndarray, " time"], batch_size: int | None
) -> PyTree:
    """Params of every init at the measured steps, [init, time, ...]."""
    ends = [*(begin for begin, _ in phases[1:]), int(steps[-1])]
    params, found = starts, [starts]
    for (begin, optimizer), end in zip(phases, ends, strict=True):
        trainer = Trainer(land.loss, optax.with_extra_args_support(optimizer), land.batch, batch_size)
        advance = jax.jit(jax.vmap(trainer.advance, in_axes=(0, 0, None, None)))
        state, now = jax.vmap(trainer.start)(params), begin
        for step in sorted({*(int(s) for s in steps if begin < s <= end), end}):
            state, now = advance(state, keys, now, step), step
            if step in steps:
                found.append(state.params)
        params = state.params
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *found)


def _one(land: Landscape, key: PRNGKey, tol: float, params: PyTree) -> tuple[Array, ...]:
    loss, grad = jax.value_and_grad(lambda p: mean_loss(land.loss, p, land.batch))(params)
    op = Hessian(land.loss, params, land.batch)
    if op.size <= DENSE:
        matrix = dense(op)
        values = stacks.eigvalsh(jnp.where(jnp.isfinite(loss), matrix, jnp.nan))
        counts = by_values(values, stacks.row_sum_norm(matrix), tol)
        top, share = values[-1], jnp.where(jnp.isfinite(values[-1]), counts.negative / op.size, jnp.nan)
    else:
        top = eigsh(op, key, k=1, rtol=1e-3).values[0]
        share = negative_fraction(op, key, tol=tol, num_steps=32, num_probes=4).value
    return loss, trees.norm(grad), top, share


@jax.jit
def _distances(params: PyTree) -> Float[Array, "init time optimizer optimizer"]:
    def at(points: PyTree) -> Float[Array, "optimizer optimizer"]:
        one = lambda p: jax.vmap(lambda q: trees.norm(jax.tree.map(jnp.subtract, p, q)))(points)
        return jax.lax.map(one, points)

    over_times = lambda x: jax.lax.map(at, jax.tree.map(lambda y: jnp.moveaxis(y, 1, 0), x))
    return jax.lax.map(over_times, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), params))


def _barriers(land: Landscape, points: PyTree, resolution: int) -> Float[np.ndarray, "optimizer optimizer"]:
    count, ts = len(jax.tree.leaves(points)[0]), np.linspace(0, 1, resolution)
    each = [jax.tree.map(lambda x, k=k: x[k], points) for k in range(count)]
    heights = np.zeros((count, count))
    for i in range(count):
        for j in range(i):  # each pair by itself, as one that diverged is no part of the others' lines
            losses = np.asarray(line(land.loss, each[i], each[j], ts, batch=land.batch).values, float)
            heights[i, j] = heights[j, i] = barrier(ts, losses).height
    return heights
