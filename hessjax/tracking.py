"""Measurements inside training: an optax transformation that measures every so many steps, and what it costs.

`hj.track` goes into any optax chain, under jit: what it measured last is in the optimiser's state. Under `jax.vmap` a
conditional runs both sides, so a sweep of many inits measures between segments of training instead.

>>> import hessjax as hj
>>> optimizer = optax.chain(hj.track(jnp.sum, every=2), optax.sgd(0.5))
>>> w, state = jnp.ones(2), optimizer.init(jnp.ones(2))
>>> hj.tracked(optimizer.update(w, state, w)[1]).tolist()
2.0
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from hessjax import trees
from hessjax.arguments import check_count
from hessjax.objective import mean_loss

__all__ = ["Cost", "TrackState", "cost", "jsonl", "stability_threshold", "tensorboard", "track", "tracked"]

ROUNDS, STEPS = 5, 10  # measurements that are timed, and training steps before each


class TrackState(NamedTuple):
    """What `track` keeps in the optimiser's state.

    Attributes:
      count: updates so far.
      value: what was measured last; NaN, -1 or False before the first update.
      measure_state: of a measure that keeps one.
      inner_state: of the optimiser that is wrapped.
    """

    count: Int[Array, "*lanes"]
    value: PyTree
    measure_state: PyTree
    inner_state: PyTree


def track(
    measure: Any,
    every: int,
    inner: Any = None,
    *,
    log: Callable[[Any, Any], None] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Measures params before the update at counts 0, every, 2 every, ...; updates pass through unchanged.

    Args:
      measure: `params -> pytree` of arrays; or an object with `init(params) -> state` and `update(params, state,
        inner_state) -> (value, state)`, such as those of `hj.measures`, which go on from the last subspace.
      every: updates between measurements.
      inner: the optimiser, an optax.GradientTransformation or what has its init and update, where the measure looks at
        its state, such as Adam's second moments; None: an element of a chain, anywhere in it.
      log: called on the host with each count and value, as NumPy arrays; `jsonl` and `tensorboard` make one.

    Raises:
      ValueError: every below 1; when it is first called, without params.
      TypeError: measure is neither; inner is no transformation.

    Example:
      >>> import optax
      >>> import hessjax as hj
      >>> f = lambda w: 8 * w[0] ** 2 + w[1] ** 2
      >>> optimizer = optax.chain(hj.track(hj.measures.extremes(f, jax.random.key(0)), 10), optax.sgd(0.01))
      >>> w = jnp.ones(2)
      >>> _, state = optimizer.update(jax.grad(f)(w), optimizer.init(w), w)
      >>> hj.tracked(state).values.round(4).tolist()
      [16.0]
    """
    check_count("every", every)
    begin, update = _parts(measure)
    if inner is not None and not (hasattr(inner, "init") and hasattr(inner, "update")):
        raise TypeError(f"inner is {type(inner).__name__}, wanted an optax.GradientTransformation, or None.")
    if log is not None and not callable(log):
        raise TypeError(f"log is {type(log).__name__}, wanted a function such as hj.tracking.jsonl(path), or None.")
    wrapped = optax.with_extra_args_support(optax.identity() if inner is None else inner)
    seen = (lambda state: None) if inner is None else (lambda state: state)

    def init(params: PyTree) -> TrackState:
        state, inner_state = begin(params), wrapped.init(params)
        shapes, _ = jax.eval_shape(update, params, state, seen(inner_state))
        return TrackState(jnp.int32(0), jax.tree.map(_nothing, shapes), state, inner_state)

    def logged(due: Any, count: Any, value: Any) -> None:
        if due and log is not None:  # under vmap both sides run
            log(count, value)

    def updated(updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any) -> tuple[PyTree, Any]:
        if params is None:
            raise ValueError("hj.track measures params: call optimizer.update(grads, state, params).")

        def now(_):
            value, kept = update(params, state.measure_state, seen(state.inner_state))
            if log is not None:
                jax.debug.callback(logged, due, state.count, value)
            return jax.tree.map(_like, (value, kept), (state.value, state.measure_state))

        due, kept = state.count % every == 0, (state.value, state.measure_state)
        value, measured = jax.lax.cond(due, now, lambda _: kept, None)
        updates, inner_state = wrapped.update(updates, state.inner_state, params, **extra)
        return updates, TrackState(state.count + 1, value, measured, inner_state)

    return optax.GradientTransformationExtraArgs(init, updated)


def tracked(opt_state: PyTree) -> Any:
    """What was measured last, wherever in an optimiser's state it is; of several trackers a tuple, in their order, one
    that wraps another before it.

    Args:
      opt_state: the state of an optimiser with `track` in it.

    Raises:
      ValueError: there is none.

    Example:
      >>> import optax
      >>> import hessjax as hj
      >>> optimizer = hj.track(lambda w: {"size": jnp.sum(w**2)}, 2, optax.sgd(0.5))
      >>> w, state = jnp.ones(2), optimizer.init(jnp.ones(2))
      >>> for _ in range(4):
      ...     updates, state = optimizer.update(w, state, w)
      ...     w = optax.apply_updates(w, updates)
      >>> hj.tracked(state)["size"].tolist()          # at count 2: (1 / 4)^2 + (1 / 4)^2
      0.125
    """
    found = _inside(opt_state)
    if not found:
        raise ValueError("tracked: no hj.track in this optimizer's state; pass what optimizer.update returned second.")
    return found[0].value if len(found) == 1 else tuple(x.value for x in found)


def _inside(state: Any) -> list[TrackState]:
    is_state = lambda x: isinstance(x, TrackState)
    found = [x for x in jax.tree.leaves(state, is_leaf=is_state) if is_state(x)]
    return [y for x in found for y in (x, *_inside(x.inner_state))]


def _parts(measure: Any) -> tuple[Callable, Callable]:
    if hasattr(measure, "init") and hasattr(measure, "update"):
        return measure.init, measure.update
    if not callable(measure):
        raise TypeError(f"measure is {type(measure).__name__}, wanted a function of params, or init and update.")
    return lambda params: (), lambda params, state, inner_state: (measure(params), state)


def _nothing(x: jax.ShapeDtypeStruct) -> Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.full(x.shape, jnp.nan, x.dtype)
    return jnp.full(x.shape, -1 if jnp.issubdtype(x.dtype, jnp.signedinteger) else 0, x.dtype)


def _like(new: Any, old: Any) -> Array:
    return jnp.asarray(new, old.dtype)


def jsonl(path: str | Path) -> Callable[[Any, Any], None]:
    """A `log` for `track` that appends a line to a file: {"count": ..., name of every array: its numbers}.

    Args:
      path: the file; its folder is made.

    Example:
      >>> import tempfile
      >>> import hessjax as hj
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     log = hj.tracking.jsonl(folder + "/run.jsonl")
      ...     log(0, {"sharpness": np.float32(2.5)})
      ...     print(Path(folder, "run.jsonl").read_text().strip())
      {"count": 0, "sharpness": 2.5}
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def log(count: Any, value: Any) -> None:
        line = {"count": int(count), **{name: x.tolist() for name, x in _named(value).items()}}
        with open(path, "a") as file:
            file.write(json.dumps(_finite(line)) + "\n")

    return log


def tensorboard(writer: Any, prefix: str = "hessjax") -> Callable[[Any, Any], None]:
    """A `log` for `track` that writes every number to a TensorBoard writer, with the count as the step.

    Args:
      writer: anything with `add_scalar(name, value, step)` (tensorboardX, torch.utils.tensorboard) or `scalar(name,
        value, step)` (flax.metrics.tensorboard).
      prefix: of the names.

    Raises:
      TypeError: writer has neither.

    Example:
      >>> import hessjax as hj
      >>> class Writer:
      ...     def add_scalar(self, name, value, step):
      ...         print(name, value, step)
      >>> hj.tracking.tensorboard(Writer())(10, {"ends": np.array([1.0, 2.0])})
      hessjax/ends/0 1.0 10
      hessjax/ends/1 2.0 10
    """
    write = getattr(writer, "add_scalar", None) or getattr(writer, "scalar", None)
    if write is None:
        raise TypeError(f"writer is {type(writer).__name__}, wanted one with add_scalar or scalar.")

    def log(count: Any, value: Any) -> None:
        for name, x in _named(value).items():
            for k, number in enumerate(np.ravel(x)):
                place = f"/{k}" if np.ndim(x) else ""
                write(f"{prefix}/{name}{place}", float(number), int(count))

    return log


def _named(value: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree.flatten_with_path(value)[0]
    return {trees.path_str(path).replace(".", "") or "value": np.asarray(x) for path, x in leaves}


def _finite(x: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(x, dict):
        return {name: _finite(y) for name, y in x.items()}
    if isinstance(x, list):
        return [_finite(y) for y in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x


class Cost(NamedTuple):
    """What a measure costs beside a training step.

    Attributes:
      measure_s: seconds of a measurement that goes on from the last one, some steps before.
      step_s: seconds of a training step: gradient and update.
      every: the least number of steps between measurements with which their share is no more than was asked for.
      share: of the time of training and measuring, with that many.
    """

    measure_s: float
    step_s: float
    every: int
    share: float


def cost(
    measure: Any,
    optimizer: optax.GradientTransformation,
    loss: Callable,
    params: PyTree,
    batch: PyTree = None,
    *,
    share: float = 0.1,
) -> Cost:
    """Times a measure and a training step, and says how often one can measure for so much of the time.

    Trains a little from `params`: warm starts save less where params have moved further between measurements.

    Args:
      measure: as for `track`.
      optimizer: of the training step.
      loss: `loss(params, batch)`, per example or scalar.
      params: where to measure.
      batch: data of a training step.
      share: of all time that measurements may take, above 0 and below 1.

    Raises:
      ValueError: share is not between 0 and 1.

    Example:
      >>> import optax
      >>> import hessjax as hj
      >>> f = lambda w: jnp.sum(w**4)
      >>> measure = hj.measures.extremes(f, jax.random.key(0))
      >>> found = hj.tracking.cost(measure, optax.sgd(0.1), f, jnp.ones(9), share=0.25)
      >>> found.every >= 1, found.share <= 0.25
      (True, True)
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share!r}.")
    begin, update = _parts(measure)

    def stepped(params: PyTree, state: PyTree, batch: PyTree):
        value, grad = jax.value_and_grad(lambda p: mean_loss(loss, p, batch))(params)
        updates, state = optax.with_extra_args_support(optimizer).update(
            grad, state, params, value=value, grad=grad, value_fn=lambda p: mean_loss(loss, p, batch)
        )
        return optax.apply_updates(params, updates), state

    step, measured = jax.jit(stepped), jax.jit(update)
    state = (params, optimizer.init(params), begin(params))
    steps, measurements = [], []
    for number in range(ROUNDS + 1):  # the first compiles; params move between measurements, as they will
        params, inner, kept = state
        for _ in range(STEPS):
            (params, inner), seconds = _timed(step, params, inner, batch)
            steps.append(seconds)
        (_, kept), seconds = _timed(measured, params, kept, inner)
        measurements += [seconds] * (number > 0)
        state = (params, inner, kept)
    measure_s, step_s = float(np.median(measurements)), float(np.median(steps))
    every = max(1, int(np.ceil(measure_s * (1 - share) / (share * step_s))))
    return Cost(measure_s, step_s, every, measure_s / (measure_s + every * step_s))


def _timed(function: Callable, *args: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    found = jax.block_until_ready(function(*args))
    return found, time.perf_counter() - began


def stability_threshold(learning_rate: Any, *, momentum: Any = 0.0, kind: str = "sgd") -> Any:
    """The curvature above which an optimiser diverges on a quadratic form; training hovers about it.

    Args:
      learning_rate: the step's.
      momentum: beta; of Adam b1.
      kind: "sgd", with Polyak's momentum as optax.sgd has it: (2 + 2 beta) / rate; "nesterov": (2 + 2 beta) / ((1 + 2
        beta) rate); "adam": gradients averaged, (2 + 2 beta) / ((1 - beta) rate), for the preconditioned curvature.

    Raises:
      ValueError: an unknown kind.

    Example:
      >>> import hessjax as hj
      >>> at = hj.tracking.stability_threshold
      >>> [round(at(0.01, momentum=0.9, kind=kind), 4) for kind in ("sgd", "nesterov", "adam")]
      [380.0, 135.7143, 3800.0]

    References: Cohen et al. (2021), arXiv:2103.00065, appendix B; Cohen et al. (2022), arXiv:2207.14484, equation 5.
    """
    divided = {"sgd": 1.0, "nesterov": 1 + 2 * momentum, "adam": 1 - momentum}
    if kind not in divided:
        raise ValueError(f"kind must be one of {', '.join(divided)}; got {kind!r}.")
    return (2 + 2 * momentum) / (divided[kind] * learning_rate)
