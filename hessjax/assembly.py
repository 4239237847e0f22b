"""Exact dense curvature and its spectrum: operator -> [n, n] -> eigenvalues, counts.

For a few thousand parameters; beyond that the matrix itself is the problem and the answer is matrix-free.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hessjax import stacks, trees
from hessjax.columns import COLUMNS, pass_numbers
from hessjax.composition import Plan, lower, mirrored, plan, unit_vectors
from hessjax.devices import memory_available, parse_bytes
from hessjax.matrices import Matrix, check_symmetric
from hessjax.operators import Operator, check_operand

__all__ = ["Eigh", "Inertia", "counts", "dense", "eigh", "eigvalsh", "explain", "inertia"]


class Inertia(NamedTuple):
    """How many eigenvalues lie below -threshold, within it, and above it; one row per matrix of the stack.

    `certified`: no eigenvalue lies within the solver's own error of +-threshold, so the counts are those of the
    exact eigenvalues of the matrix given. A matrix with NaN or inf: counts 0, certified False, threshold NaN.
    """

    negative: Int[Array, "*batch"]
    zero: Int[Array, "*batch"]
    positive: Int[Array, "*batch"]
    certified: Bool[Array, "*batch"]
    threshold: Float[Array, "*batch"]


class Eigh(NamedTuple):
    """Eigenvalues ascending, and unit eigenvectors as columns."""

    values: Float[Array, "*batch n"]
    vectors: Float[Array, "*batch n n"]


def dense(op: Operator, *, columns: int | None = None, memory: str | int | None = None) -> Float[Array, "n n"]:
    """The operator as a matrix, exactly symmetric, in `ravel_pytree` order.

    Second derivatives of losses whose rows do not meet are put together from per-layer pieces, all others from columns,
    which are products with unit vectors; `explain` says which.

    Args:
      op: any operator; traced or concrete.
      columns: unit vectors per pass; None: 64. More take more memory, less are slower. A streamed operator reads its
        batches once a pass.
      memory: what pieces may take, e.g. "1GiB"; more than that is columns. None: a quarter of what is available.

    Returns:
      The lower triangle, mirrored: symmetric to the last bit. Rounding is the only asymmetry that second derivatives
      have; `check_operator` measures it.

    Raises:
      TypeError: `op` is no operator.
      ValueError: columns below 1, memory that is no size, or a matrix that would not fit in memory.

    Example:
      >>> import hessjax as hj
      >>> H = hj.Hessian(lambda p: p["a"] ** 2 * p["b"], {"a": jnp.array(1.0), "b": jnp.array(3.0)})
      >>> hj.dense(H).tolist()
      [[6.0, 2.0], [2.0, 0.0]]
    """
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}.")
    bound = None if memory is None else parse_bytes(memory)
    if isinstance(op, Matrix):
        return mirrored(jnp.asarray(op.a))
    check_operand(op)
    _check_fits(op.size, op.dtype)
    if op.streamed:
        return _streamed_columns(op, columns or COLUMNS)
    return _assembled(op, columns or COLUMNS, bound)


@partial(jax.jit, static_argnames=("columns", "memory"))  # once per loss and shapes, however often params move
def _assembled(op: Operator, columns: int, memory: int | None) -> Float[Array, "n n"]:
    return mirrored(lower(op, columns=columns, memory=memory))


def explain(op: Operator) -> Plan:
    """How `dense` puts an operator together: leaf by leaf, with what it is expected to take; nothing is computed.

    Args:
      op: any operator.

    Returns:
      A `Plan`, which prints as a table.

    Raises:
      TypeError: `op` is no operator.

    Example:
      >>> import hessjax as hj
      >>> loss = lambda p, x: jnp.sum(jnp.tanh(x @ p["w"]) ** 2, -1)
      >>> plan = hj.explain(hj.Hessian(loss, {"w": jnp.zeros((8, 4))}, jnp.zeros((100, 8))))
      >>> [(leaf.path, leaf.way, leaf.why, leaf.tangents) for leaf in plan.leaves]
      [('w', 'pieces', 'dense', 4)]
    """
    check_operand(op)
    return plan(op)


def _streamed_columns(op: Operator, columns: int) -> Float[Array, "n n"]:
    n, units, flat = op.size, jax.jit(jax.vmap(unit_vectors(op))), jax.jit(jax.vmap(lambda v: trees.ravel(v)[0]))
    blocks = [flat(op.products(units(numbers))) for numbers in pass_numbers(n, columns)]
    return mirrored(jnp.concatenate(blocks)[:n])


def _check_fits(n: int, dtype: Any) -> None:
    need, have = 3 * n * n * jnp.dtype(dtype).itemsize, memory_available()
    if need > have:
        raise ValueError(
            f"a dense {n} x {n} {dtype} matrix and its workspace need {need / 2**30:.1f} GiB of the {have / 2**30:.1f} "
            "GiB available; restrict the operator to fewer parameters or use its products (op.mv, "
            "hj.spectrum; on the command line --method slq)."
        )


def _matrix(x: Any) -> Float[Array, "*batch n n"]:
    """Operator, NumPy or JAX stack -> finite-dtype stack that LAPACK takes (bfloat16 and float16 lifted)."""
    if isinstance(x, Operator):
        x = dense(x)
    check_symmetric(x, stack=True)
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _finite(a: Float[Array, "*batch n n"]) -> tuple[Float[Array, "*batch n n"], Bool[Array, "*batch"]]:
    """The stack with non-finite lanes zeroed (LAPACK may not return on NaN), and which lanes are finite."""
    ok = jnp.all(jnp.isfinite(a), axis=(-1, -2))
    return jnp.where(ok[..., None, None], a, 0), ok


def eigvalsh(x: Operator | Float[Any, "*batch n n"]) -> Float[Array, "*batch n"]:
    """All eigenvalues, ascending, of an operator or of every matrix of a stack.

    Args:
      x: an operator (assembled first) or symmetric [..., n, n]; bfloat16 and float16 are lifted to float32. As
        everywhere in JAX, NumPy's float64 is float32 unless x64 is on.

    Returns:
      Eigenvalues in the units of x; NaN throughout for a matrix with NaN or inf, the other lanes untouched.

    Raises:
      ValueError: not square, or concrete and not symmetric.
      TypeError: not real floating.

    Example:
      >>> import hessjax as hj
      >>> hj.eigvalsh(jnp.array([[0.0, 1.0], [1.0, 0.0]])).tolist()
      [-1.0, 1.0]
    """
    a, ok = _finite(_matrix(x))
    return jnp.where(ok[..., None], stacks.eigvalsh(a), jnp.nan)


def eigh(x: Operator | Float[Any, "*batch n n"]) -> Eigh:
    """Eigenvalues ascending and eigenvectors (columns) of an operator or of every matrix of a stack.

    Args and errors as `eigvalsh`; the vectors of an operator are flat, in `ravel_pytree` order.

    Example:
      >>> import hessjax as hj
      >>> values, vectors = hj.eigh(jnp.diag(jnp.array([2.0, 1.0])))
      >>> values.tolist(), jnp.abs(vectors).tolist()
      ([1.0, 2.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    a, ok = _finite(_matrix(x))
    values, vectors = stacks.eigh(a)
    return Eigh(jnp.where(ok[..., None], values, jnp.nan), jnp.where(ok[..., None, None], vectors, jnp.nan))


def inertia(x: Operator | Float[Any, "*batch n n"], *, tol: float) -> Inertia:
    """Counts of negative, zero and positive eigenvalues; zero is |lambda| <= tol ||A||.

    Args:
      x: an operator or symmetric [..., n, n].
      tol: relative to ||A||, the largest absolute row sum; at least 0. Scaling A changes no count.

    Returns:
      Counts, whether they are certain, and the absolute threshold tol ||A||.

    Raises:
      ValueError: tol negative or NaN; the matrix as for `eigvalsh`.

    Example:
      >>> import hessjax as hj
      >>> counts = hj.inertia(jnp.diag(jnp.array([-2.0, 0.0, 1e-9, 5.0])), tol=1e-6)
      >>> int(counts.negative), int(counts.zero), int(counts.positive), bool(counts.certified)
      (1, 2, 1, True)
    """
    a = _matrix(x)
    return counts(eigvalsh(a), row_sum_norm(a), tol=tol)


def row_sum_norm(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
    """||A||, the largest absolute row sum: at least the largest |eigenvalue|, at most sqrt(n) times it."""
    return jnp.max(jnp.sum(jnp.abs(a), axis=-1), axis=-1)


def counts(values: Float[Array, "*batch n"], norm: Float[Array, "*batch"], *, tol: float) -> Inertia:
    """`inertia` from eigenvalues already computed and the row-sum norm of their matrix.

    Certified by the solver's own error, modelled as 2 sqrt(n) eps max|lambda|: the backward error of a
    tridiagonal eigensolver is a modest multiple of eps ||A||_2 (Golub & Van Loan, 4th ed., section 8.3), and the
    tests hold every solver used here to this figure. At threshold 0 only an exact zero matrix's zeros are certain.
    """
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol}; it is relative to the largest absolute row sum.")
    threshold = (tol * norm).astype(values.dtype)
    ok = jnp.isfinite(threshold) & jnp.all(jnp.isfinite(values), axis=-1)
    edge = threshold[..., None]
    count = lambda mask: jnp.where(ok, jnp.sum(mask, axis=-1, dtype=jnp.int32), 0)
    error = 2 * values.shape[-1] ** 0.5 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values), axis=-1, keepdims=True)
    near = (jnp.abs(jnp.abs(values) - edge) <= error) & (error > 0)
    return Inertia(
        negative=count(values < -edge),
        zero=count(jnp.abs(values) <= edge),
        positive=count(values > edge),
        certified=ok & ~jnp.any(near, axis=-1),
        threshold=jnp.where(ok, threshold, jnp.nan),
    )
