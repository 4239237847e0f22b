"""What a random estimate returns, and how its error is told: the mean of independent samples with its standard error.

A 95 % interval is value +- 1.96 std_error from 40 samples on, and with Student's t below; one sample has no error
bar (NaN). Stopping at a wanted accuracy looks at the error bar alone, never at how much the mean last moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from hessjax import trees
from hessjax.arguments import check_count
from hessjax.driving import either, ready, until
from hessjax.operators import Operator
from hessjax.trees import PRNGKey

__all__ = ["Estimate", "half_width", "interval", "mean", "normal_equivalent", "to_accuracy", "to_rtol"]


LEAST_SAMPLES = 8  # before an error bar is believed


class Estimate(NamedTuple):
    """A value with the standard error of its estimation, and the products it took.

    +-1.96 std_error covers the truth in 95 % of runs from 40 probes on, Student's t below; 0 where the value is exact,
    NaN where one probe says nothing of its error.
    """

    value: PyTree
    std_error: PyTree
    num_matvecs: Int[Array, ""]

    def interval(self, num_probes: int) -> tuple[PyTree, PyTree]:
        """Ends of the 95 % interval, of an estimate from so many probes; any number from 40 on is the same.

        With `rtol`, they are those of all repeats: num_matvecs over the products that one probe takes.

        Example:
          >>> low, high = Estimate(jnp.float32(5.0), jnp.float32(0.1), jnp.int32(8)).interval(num_probes=8)
          >>> round(float(low), 3), round(float(high), 3)
          (4.764, 5.236)
        """
        return interval(self.value, self.value, self.std_error, num_probes)


def interval(low: PyTree, high: PyTree, std_error: PyTree, num_probes: int) -> tuple[PyTree, PyTree]:
    """`low` less, and `high` plus, what `half_width(num_probes)` makes of their standard error; NaN from one probe.

    Raises:
      ValueError: num_probes below 1.

    Example:
      >>> [float(x) for x in interval(jnp.float32(1.0), jnp.float32(2.0), jnp.float32(0.5), 100)]
      [0.019999980926513672, 2.9800000190734863]
    """
    check_count("num_probes", num_probes)
    width = half_width(num_probes)
    band = jax.tree.map(lambda x: jnp.where(x == 0, 0, width * x), std_error)  # what is exact is so from one probe
    return jax.tree.map(jnp.subtract, low, band), jax.tree.map(jnp.add, high, band)


def mean(samples: Float[Array, "probes ..."]) -> tuple[Array, Array]:
    """The mean of independent samples and its standard error, NaN for one sample.

    Example:
      >>> value, error = mean(jnp.array([1.0, 3.0]))
      >>> float(value), float(error)
      (2.0, 1.0)
    """
    count, value = len(samples), jnp.mean(samples, axis=0)
    if count == 1:
        return value, jnp.full_like(value, jnp.nan)
    off = samples - value
    unit = jnp.max(jnp.abs(off), axis=0)  # squares of very small deviations would vanish
    unit = jnp.where(unit > 0, unit, 1)
    return value, unit * jnp.sqrt(jnp.sum((off / unit) ** 2, axis=0) / (count * (count - 1)))


def normal_equivalent(num_samples: int, num_probes: int) -> float:
    """What to multiply a standard error of few samples by, so that it may be read as one of `num_probes`.

    Example:
      >>> round(normal_equivalent(20, 40), 3), normal_equivalent(40, 40) > 1
      (1.068, True)
    """
    return _quantile(num_samples - 1) / half_width(num_probes)


def half_width(num_probes: int, batches: int = 1) -> float:
    """Standard errors on either side of a mean that make a 95 % interval: 1.96, or Student's t below 40 samples.

    Args:
      num_probes: samples in a batch.
      batches: of so many independent batches, whose errors were pooled.

    Example:
      >>> [round(half_width(count), 2) for count in (1, 8, 40)], round(half_width(8, batches=2), 2)
      ([inf, 2.36, 1.96], 2.14)
    """
    return 1.96 if batches * num_probes >= 40 else _quantile(batches * (num_probes - 1))


def _quantile(freedom: int) -> float:
    """Student's, of a two-sided 95 % interval; on the host, for the numbers of probes are static."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975)) if freedom > 0 else math.inf


class Batches(NamedTuple):
    """Running sums over independent estimates of the same number of products; errors add by their squares."""

    total: PyTree
    error: PyTree
    count: Int[Array, ""]
    num_matvecs: Int[Array, ""]

    def estimate(self) -> Estimate:
        """Their mean."""
        mean = lambda tree: jax.tree.map(lambda x: x / self.count, tree)
        return Estimate(mean(self.total), mean(self.error), self.num_matvecs)


def to_accuracy(
    op: Operator,
    key: PRNGKey,
    batch: Callable[[Any], Estimate],
    *,
    first: Estimate | None = None,
    num_probes: int = 40,
    rtol: Any = 0.0,
    atol: Any = 0.0,
    each: int,
    max_matvecs: Any,
    exact: tuple[Callable[[], Estimate], int] | None = None,
) -> Estimate:
    """The mean of as many independent estimates `batch(key)` as bring its 95 % interval to +-(rtol |value| + atol).

    That is 1.96 |std_error|, or Student's t while there are fewer than 40 samples, `num_probes` in each estimate; of
    fewer than 8 no spread is believed. Stops before one more, of at most `each` products, could exceed `max_matvecs`;
    takes at least one. Of trees, |.| is the Euclidean norm. `first` stands for `batch(jax.random.fold_in(key, 0))`
    where a caller has it already. `exact` is what has no error, and its products: once batches would take more.

    Example:
      >>> from hessjax.matrices import Matrix
      >>> batch = lambda key: Estimate(jax.random.normal(key), jnp.float32(1.0), jnp.int32(1))
      >>> found = to_accuracy(Matrix(jnp.eye(1)), jax.random.key(0), batch, atol=0.5, each=1, max_matvecs=100)
      >>> int(found.num_matvecs)
      16
    """
    widths = jnp.asarray([half_width(num_probes, count + 1) for count in range(-(-40 // num_probes))])

    def more(done: Batches) -> Batches:
        one = batch(jax.random.fold_in(key, done.count))
        error = jax.tree.map(jnp.hypot, done.error, one.std_error)  # squares of very small errors would vanish
        return Batches(trees.add(done.total, one.value), error, done.count + 1, done.num_matvecs + one.num_matvecs)

    def reached(done: Batches):
        value, error, _ = done.estimate()
        width, error = widths[jnp.minimum(done.count, len(widths)) - 1], trees.norm(error)
        # Of very few samples the spread itself is unknown, but of none. NaN is not more accurate tomorrow.
        settled = (done.count * num_probes >= LEAST_SAMPLES) | ~(error > 0)
        return settled & ~(width * error > rtol * trees.norm(value) + atol)

    def enough(done: Batches):
        spent = (done.count + 1) * each
        return reached(done) | (spent > (max_matvecs if exact is None else jnp.minimum(max_matvecs, exact[1])))

    first = batch(jax.random.fold_in(key, 0)) if first is None else first
    begun = Batches(first.value, first.std_error, jnp.int32(1), first.num_matvecs)
    done = until(op, enough, more, begun)
    if exact is None:
        return done.estimate()

    def instead() -> Estimate:
        found = exact[0]()
        return found._replace(num_matvecs=done.num_matvecs + found.num_matvecs)

    stays = reached(done) | (done.num_matvecs + exact[1] > max_matvecs)
    return either(op, stays, done.estimate, instead)


def to_rtol(
    op: Operator,
    key: Any,
    rtol: Any,
    max_matvecs: Any,
    *args: Any,
    one: Callable,
    num_probes: int,
    each: int,
    exact: Callable[[Operator], Estimate] | None = None,
    **options: Any,
) -> Estimate:
    """`to_accuracy` of `one(op, key, *args, num_probes=..., **options)`, on the operator made ready once.

    `exact(op)` takes n products.

    Example:
      >>> from hessjax.matrices import Matrix
      >>> one = lambda op, key, num_probes: Estimate(1 + jax.random.normal(key), jnp.float32(1.0), jnp.int32(1))
      >>> found = to_rtol(Matrix(jnp.eye(1)), jax.random.key(0), 0.1, 9, one=one, num_probes=2, each=1)
      >>> int(found.num_matvecs)
      9
    """
    op, bars = ready(op, each), {"num_probes": num_probes, "rtol": rtol, "each": each, "max_matvecs": max_matvecs}
    whole = None if exact is None else (partial(exact, op), op.size)
    return to_accuracy(op, key, lambda k: one(op, k, *args, num_probes=num_probes, **options), exact=whole, **bars)
