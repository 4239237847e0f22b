"""`check_operator`: is this a deterministic, linear, symmetric, finite operator of separate examples?

A study that measures something else than the user thinks is worse than one that stops, so studies call this first.
It costs four products and two compilations of one; of a streamed operator, two passes over its batches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from hessjax import trees
from hessjax.arguments import check_key
from hessjax.operators import Operator, check_operand
from hessjax.trees import PRNGKey

__all__ = ["OperatorError", "OperatorReport", "check_operator"]

CAUSES = {
    "determinism": "two traces of the same product differ: the loss draws random numbers, reads a clock or a global; "
    "pass a fixed key in batch (dropout: one key per row)",
    "finite": "a product holds NaN or inf: the loss has no finite second derivative at these params",
    "linear": "A(u + 3v) is not Au + 3Av: rounding at this dtype, or a custom derivative rule that is not linear",
    "symmetric": "u.Av is not v.Au: a stop_gradient or custom_vjp makes this no Hessian, or rounding at this dtype",
}
UNKNOWN = "what it compares is NaN or infinite: the loss is not finite at these params"
PASSES_DIFFER = (
    "two passes over the batches differ: the loader draws random numbers (augmentation, another choice of rows each "
    "time); make it give the same rows whenever it is iterated over"
)


class OperatorReport(NamedTuple):
    """Relative defect of each property; `ok` where all are within `tol`."""

    defects: dict[str, float]
    tol: float
    ok: bool


class OperatorError(ValueError):
    """An operator that is not what estimators assume; `.report` has the defects."""

    def __init__(self, message: str, report: OperatorReport):
        super().__init__(message)
        self.report = report


def check_operator(op: Operator, key: PRNGKey, *, tol: float | None = None) -> OperatorReport:
    """Measures how far `op` is from deterministic, finite, linear, symmetric and per-example.

    Args:
      op: the operator; concrete, not traced.
      key: PRNG key of the random vectors.
      tol: largest relative defect allowed; None: 1000 eps of the operator's dtype, at most 0.1.

    Returns:
      The defects, each relative to the size of the products, and the tolerance.

    Raises:
      OperatorError: a defect exceeds tol; the message names the cause and `.report` has all defects.

    Example:
      >>> import hessjax as hj
      >>> hj.check_operator(hj.Matrix(jnp.eye(3)), jax.random.key(0)).ok
      True
    """
    check_key(key)
    check_operand(op)
    rounding = trees.eps(op.like)
    bound = min(1000 * rounding, 0.1) if tol is None else float(tol)
    causes = CAUSES | {"determinism": PASSES_DIFFER} if op.streamed else CAUSES
    measured = {name: (value, causes[name]) for name, value in _defects(op, key).items()}
    measured |= op.defects()
    defects = {name: float(value) for name, (value, _) in measured.items()}
    bad = [name for name, value in defects.items() if not value <= bound]  # `not <=` so that NaN is bad
    report = OperatorReport(defects, bound, not bad)
    if bad:
        # Randomness and NaN make every later check fail too: name the first cause only.
        first = next(name for name in ("determinism", "finite", *defects) if name in bad)
        cause = UNKNOWN if math.isnan(defects[first]) else measured[first][1]
        raise OperatorError(
            f"operator fails the {first} check, relative defect {defects[first]:.2g} > {bound:.2g}: {cause}.", report
        )
    return report


def _defects(op: Operator, key: PRNGKey) -> dict[str, Array]:
    u, v, both = _vectors(key, trees.zeros_like(op.like))
    if op.streamed:  # the same program in both passes: what differs is the data
        (au, av), (again, a_both) = _pair(op, u, v), _pair(op, u, both)
    else:  # a fresh lambda is a fresh trace: Python-side randomness shows as a difference
        first, second = (jax.jit(lambda o, x: o.product(x)) for _ in range(2))
        au, again, av, a_both = first(op, u), second(op, u), second(op, v), second(op, both)
    return jax.jit(_gaps)(u, v, au, again, av, a_both)


def _pair(op: Operator, u: PyTree, v: PyTree) -> tuple[PyTree, PyTree]:
    both = op.products(jax.tree.map(lambda *x: jnp.stack(x), u, v))
    au, av = (jax.tree.map(lambda x, k=k: x[k], both) for k in range(2))
    return au, av


@jax.jit
def _vectors(key: PRNGKey, zeros: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    flat, unravel = trees.ravel(zeros)
    # One draw for all leaves: random number generators are what takes longest to compile here.
    u, v = (unravel(x) for x in jax.random.normal(key, (2, flat.size), flat.dtype))
    return u, v, trees.add(u, trees.scale(3.0, v))


def _gaps(u: PyTree, v: PyTree, au: PyTree, again: PyTree, av: PyTree, a_both: PyTree) -> dict[str, Array]:
    # Squares of products below 1e-19 or above 1e19 leave float32: relative defects are those of the products over
    # their largest entry.
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0.0) for x in jax.tree.leaves((au, av))]))
    unit = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1).astype(trees.scalar_dtype(u))
    au, again, av, a_both = (jax.tree.map(lambda x: (x / unit).astype(x.dtype), y) for y in (au, again, av, a_both))
    size = jnp.maximum(trees.norm(au) + 3 * trees.norm(av), jnp.finfo(trees.scalar_dtype(u)).tiny)
    gap = lambda a, b: trees.norm(trees.add(a, trees.scale(-1.0, b))) / size
    uav, vau = trees.dot(u, av), trees.dot(v, au)
    # Of random u and v, u.Av is about |u||Av| / sqrt(n): without the root any operator passes once n is large.
    scale = jnp.maximum(trees.norm(u) * trees.norm(av) / trees.size(u) ** 0.5, jnp.finfo(uav.dtype).tiny)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((au, av))]))
    same = [jnp.array_equal(x, y, equal_nan=True) for x, y in zip(*map(jax.tree.leaves, (au, again)), strict=True)]
    return {
        # Two NaN in the same place are no randomness: only values that differ are.
        "determinism": jnp.where(jnp.all(jnp.stack(same)), 0.0, jnp.where(finite, gap(au, again), jnp.inf)),
        "finite": jnp.where(finite, 0.0, jnp.inf),
        "linear": gap(a_both, trees.add(au, trees.scale(3.0, av))),
        "symmetric": jnp.abs(uav - vau) / scale,
    }
