"""Spurious minima of the teacher-student problem: the published protocol, all starts at once, and its results.

Gradient descent on a closed-form population loss needs no data and ends at points to full precision, so that whether
a minimum is global is read off its loss.

References: Safran & Shamir (2018), "Spurious local minima are common in two-layer ReLU neural networks", ICML,
arXiv:1712.08968, section 4.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hessjax.landscapes import arccosine
from hessjax.landscapes.data import check_dtype, check_whole
from hessjax.landscapes.shares import wilson
from hessjax.landscapes.teacher import teacher_units
from hessjax.trees import PRNGKey

__all__ = ["PUBLISHED", "Descents", "SpuriousRate", "descend", "spurious_rate"]

BAD_LOSS = 1e-3  # an end point at or above it is no global minimum
LARGEST_GRADIENT = 1e4  # 2 pi |gradient| of a unit above which a descent starts again with half the step
LANES = 1024  # descents per compiled program
FEWEST_LANES = 16  # below this many, lanes cost nothing
SEGMENT = 256  # steps between looks at which descents have ended
SAME_LEVEL = 1e-4  # losses closer than this, relatively, are one level

# (n - k, k): percent of 1000 runs that end at a spurious minimum, their mean smallest eigenvalue and mean loss,
# recomputed from the end points published with the paper. None were found for n - k = 1 and k = 6, 7, 9.
PUBLISHED: dict[tuple[int, int], tuple[float, float, float]] = {
    (0, 6): (0.3, 0.0047, 0.0251),
    (0, 7): (5.5, 0.0141, 0.0232),
    (0, 8): (12.6, 0.0213, 0.0215),
    (0, 9): (21.8, 0.0268, 0.0204),
    (0, 10): (34.6, 0.0304, 0.0203),
    (0, 11): (45.5, 0.0336, 0.0201),
    (0, 12): (58.5, 0.0351, 0.0213),
    (0, 13): (73.0, 0.0368, 0.0217),
    (0, 14): (73.6, 0.0375, 0.0231),
    (0, 15): (80.3, 0.0381, 0.0244),
    (0, 16): (85.1, 0.0378, 0.0267),
    (0, 17): (89.7, 0.0386, 0.0275),
    (0, 18): (90.0, 0.0387, 0.0288),
    (0, 19): (93.4, 0.0383, 0.0307),
    (0, 20): (94.9, 0.0379, 0.0329),
    (1, 6): (0.0, math.nan, math.nan),
    (1, 7): (0.0, math.nan, math.nan),
    (1, 8): (0.1, 0.0059, 0.0206),
    (1, 9): (0.0, math.nan, math.nan),
    (1, 10): (0.1, 0.0057, 0.0179),
    (1, 11): (0.1, 0.0056, 0.0168),
    (1, 12): (0.3, 0.0055, 0.0158),
    (1, 13): (1.5, 0.0015, 0.0384),
    (1, 14): (5.5, 0.0021, 0.0328),
    (1, 15): (10.2, 0.0039, 0.0321),
    (1, 16): (18.0, 0.0055, 0.0306),
    (1, 17): (23.3, 0.0062, 0.0298),
    (1, 18): (36.9, 0.0064, 0.0276),
    (1, 19): (49.1, 0.0077, 0.0275),
}


class Descents(NamedTuple):
    """End points of gradient descent from many starts."""

    params: Float[Array, "starts students inputs"]
    loss: Float[Array, " starts"]
    grad_norm: Float[Array, " starts"]  # max_i 2 pi |gradient with respect to w_i|
    num_steps: Int[Array, " starts"]  # all of them, those before a restart included
    converged: Bool[Array, " starts"]  # grad_norm <= tol
    restarts: Int[Array, " starts"]  # each from the same start with half the step


class _Lanes(NamedTuple):
    """Descents under way: JAX arrays in the programs, NumPy arrays between them."""

    params: Any  # [lanes, students, inputs], as are grad and start
    grad: Any
    grad_norm: Any  # [lanes], as are the others
    start: Any
    step: Any
    num_steps: Any
    restarts: Any


def descend(
    key: PRNGKey,
    *,
    students: int,
    teachers: int,
    num_starts: int = 1000,
    inputs: int | None = None,
    teacher: Any = "orthonormal",
    step: float = 0.1,
    tol: float = 1e-9,
    max_steps: int = 100_000,
    good_loss: float = 0.0,
    dtype: str = "float64",
) -> Descents:
    """Fixed-step gradient descent on the population loss from many random starts: the published protocol.

    Starts have entries from N(0, 1/d), and start i depends on (key, i) alone. A descent ends when
    max_i 2 pi |gradient_i| <= tol; where that passes 1e4 it starts again with half the step. Descents run in compiled
    segments, of which those that have ended take no further part.

    Args:
      key: of the starts.
      students: units n of the student.
      teachers: units k of the teacher.
      num_starts: descents.
      inputs: input dimension d, as for `teacher_student`.
      teacher: as for `teacher_student`.
      step: of gradient descent, in units of weight^2 / loss.
      tol: largest 2 pi |gradient_i| of an end point.
      max_steps: after which a descent is left unconverged; an eigenvalue of 0.001 needs 200 000.
      good_loss: a loss below which a descent is left too, looked at now and then; the published protocol has none (0).
        With n > k the global minima are degenerate and tol is a million steps away: 1e-3 gives the same counts soon.
      dtype: of everything.

    Raises:
      ValueError: an option out of range, naming it; float64 without x64; a tol below the rounding of dtype.

    Example:
      >>> ends = descend(jax.random.key(0), students=2, teachers=2, num_starts=4, tol=1e-4, dtype="float32")
      >>> bool(ends.converged.all()), bool((ends.loss < 1e-3).all())
      (True, True)

    References: Safran & Shamir (2018), ICML, arXiv:1712.08968, section 4.
    """
    for name, value in {"students": students, "num_starts": num_starts, "max_steps": max_steps}.items():
        check_whole(name, value)
    check_dtype(dtype)
    v = teacher_units(teacher, teachers, inputs)
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"step must be above 0 and finite, got {step!r}.")
    least = 2 * math.pi * students * float(np.finfo(dtype).eps)
    if not tol >= least:
        raise ValueError(f"tol must be at least {least:.1g}, the rounding of {dtype} gradients; got {tol!r}.")
    with jax.default_matmul_precision("float32"):
        return _descend(key, jnp.asarray(v, dtype), (students, v.shape[1]), num_starts, step, tol, max_steps, good_loss)


def _descend(key, v, shape, num_starts, step, tol, max_steps, good_loss) -> Descents:
    lanes = _begin(key, jnp.arange(num_starts), v, jnp.asarray(step, v.dtype), shape)
    lanes = _Lanes(*(np.array(field) for field in lanes))
    live = _is_live(lanes, tol, max_steps)
    while (these := np.flatnonzero(live)[:LANES]).size:
        padded = np.resize(these, max(FEWEST_LANES, 1 << (these.size - 1).bit_length()))
        moved = _advance(_Lanes(*(field[padded] for field in lanes)), v, tol, max_steps)
        goes_on = _is_live(moved, tol, max_steps)
        if good_loss > 0:
            goes_on &= ~(_losses(moved.params, v) < good_loss)
        live[these] = np.asarray(goes_on)[: these.size]
        for field, new in zip(lanes, moved):
            field[these] = np.asarray(new)[: these.size]
    params = jnp.asarray(lanes.params)
    ended = map(jnp.asarray, (lanes.grad_norm, lanes.num_steps, lanes.grad_norm <= tol, lanes.restarts))
    return Descents(params, _losses(params, v), *ended)


@partial(jax.jit, static_argnames="shape")
def _begin(key, starts, v, step, shape) -> _Lanes:
    def one(i):
        start = jax.random.normal(jax.random.fold_in(key, i), shape, v.dtype) / math.sqrt(shape[1])
        return _Lanes(start, *_slope(start, v), start, step, 0, 0)

    return jax.vmap(one)(starts)


def _slope(w, v):
    grad = arccosine.gradient(w, v, jnp)
    return grad, 2 * np.pi * jnp.sqrt(jnp.max(jnp.sum(grad**2, axis=1)))


def _is_live(lanes, tol, max_steps):
    return ~(lanes.grad_norm <= tol) & (lanes.num_steps < max_steps)


@jax.jit
def _advance(lanes: _Lanes, v, tol, max_steps) -> _Lanes:
    """At most a segment of steps, in which lanes that have ended stay as they are."""

    def move(lane):
        live = _is_live(lane, tol, max_steps)
        return jax.tree.map(lambda new, old: jnp.where(live, new, old), _move(lane, v), lane)

    goes_on = lambda carry: (carry[0] < SEGMENT) & jnp.any(_is_live(carry[1], tol, max_steps))
    body = lambda carry: (carry[0] + 1, jax.vmap(move)(carry[1]))
    return jax.lax.while_loop(goes_on, body, (0, lanes))[1]


def _move(lane: _Lanes, v) -> _Lanes:
    over = ~(lane.grad_norm <= LARGEST_GRADIENT)  # NaN too
    params = jnp.where(over, lane.start, lane.params - lane.step * lane.grad)
    step = jnp.where(over, lane.step / 2, lane.step)
    return _Lanes(params, *_slope(params, v), lane.start, step, lane.num_steps + 1, lane.restarts + over)


@jax.jit
def _losses(params, v):
    return jax.lax.map(lambda w: arccosine.population_loss(w, v), params, batch_size=LANES)


class SpuriousRate(NamedTuple):
    """How often descents end at a spurious minimum, and at which losses."""

    share: float  # of the descents decided
    interval: tuple[float, float]  # Wilson's, 95 %
    levels: Float[np.ndarray, " levels"]  # distinct losses of the spurious minima, ascending
    counts: Int[np.ndarray, " levels"]  # descents at each
    undecided: int  # descents not converged whose loss is still 1e-3 or more


def spurious_rate(descents: Descents) -> SpuriousRate:
    """The share of descents that converged to a loss of 1e-3 or more, with its 95 % interval.

    A descent not converged counts as good below 1e-3, since its loss only falls, and is left out above.

    Returns:
      The share, Wilson's interval, and the spurious losses with their counts, those within a relative 1e-4 of the
      next taken as one. The first two are NaN where no descent is decided.

    Example:
      >>> ends = descend(jax.random.key(0), students=2, teachers=2, num_starts=4, tol=1e-4, dtype="float32")
      >>> spurious_rate(ends).share
      0.0

    References: Wilson (1927), J. Am. Stat. Assoc. 22(158):209-212, doi:10.1080/01621459.1927.10502953.
    """
    loss, converged = np.asarray(descents.loss, float), np.asarray(descents.converged)
    high = ~(loss < BAD_LOSS)
    undecided = int((high & ~converged).sum())
    levels, counts = _levels(np.sort(loss[high & converged]))
    total = loss.size - undecided
    share = float(counts.sum()) / total if total else math.nan
    interval = wilson(int(counts.sum()), total) if total else (math.nan, math.nan)
    return SpuriousRate(share, interval, levels, counts, undecided)


def _levels(losses: Float[np.ndarray, " bad"]) -> tuple[Float[np.ndarray, " levels"], Int[np.ndarray, " levels"]]:
    """Means and sizes of the runs of sorted losses that no gap above SAME_LEVEL divides."""
    if not losses.size:
        return losses, np.zeros(0, int)
    runs = np.split(losses, np.flatnonzero(np.diff(losses) > SAME_LEVEL * losses[1:]) + 1)
    return np.array([run.mean() for run in runs]), np.array([run.size for run in runs])
