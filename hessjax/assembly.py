"""Exact dense curvature and its spectrum: operator -> [n, n] -> eigenvalues, counts.

For a few thousand parameters; beyond that the matrix itself is the problem and the answer is matrix-free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from hessjax import signature, stacks, trees
from hessjax.columns import COLUMNS, pass_numbers
from hessjax.composition import Plan, lower, plan, unit_vectors
from hessjax.devices import memory_available, parse_bytes
from hessjax.matrices import Matrix, check_symmetric, is_symmetric
from hessjax.operators import Operator, check_operand
from hessjax.signature import Inertia
from hessjax.stacks import mirrored

__all__ = ["Eigh", "check_fits", "dense", "eigh", "eigvalsh", "explain", "inertia"]


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
    return _mirrored(jnp.asarray(op.a) if isinstance(op, Matrix) else _lower(op, columns or COLUMNS, bound))


def _lower(op: Operator, columns: int = COLUMNS, memory: int | None = None) -> Float[Array, "n n"]:
    """A matrix whose lower triangle is the operator's."""
    check_operand(op)
    check_fits(op.size, op.dtype)
    return _streamed_columns(op, columns) if op.streamed else _assembled(op, columns, memory)


@partial(jax.jit, static_argnames=("columns", "memory"))  # once per loss and shapes, however often params move
def _assembled(op: Operator, columns: int, memory: int | None) -> Float[Array, "n n"]:
    return lower(op, columns=columns, memory=memory)


_mirrored = jax.jit(mirrored)  # a program of its own, so that counts and eigenvalues share the other with `dense`


def explain(op: Operator, *, memory: str | int | None = None) -> Plan:
    """How `dense` puts an operator together: leaf by leaf, with what it is expected to take; nothing is computed.

    Args:
      op: any operator.
      memory: as of `dense`.

    Returns:
      A `Plan`, which prints as a table; below it, whether the matrix fits in memory.

    Raises:
      TypeError: `op` is no operator.
      ValueError: memory that is no size.

    Example:
      >>> import hessjax as hj
      >>> loss = lambda p, x: jnp.sum(jnp.tanh(x @ p["w"]) ** 2, -1)
      >>> plan = hj.explain(hj.Hessian(loss, {"w": jnp.zeros((8, 4))}, jnp.zeros((100, 8))))
      >>> [(leaf.path, leaf.way, leaf.why, leaf.tangents) for leaf in plan.leaves]
      [('w', 'pieces', 'dense', 4)]
    """
    check_operand(op)
    found = plan(op, memory=None if memory is None else parse_bytes(memory))
    itself = op.size**2 * jnp.dtype(op.dtype).itemsize / 2**20
    return found._replace(matrix=_too_large(op.size, op.dtype) or f"the matrix itself takes {itself:.3g} MiB")


def _streamed_columns(op: Operator, columns: int) -> Float[Array, "n n"]:
    n, units, flat = op.size, jax.jit(jax.vmap(unit_vectors(op))), jax.jit(jax.vmap(lambda v: trees.ravel(v)[0]))
    blocks = [flat(op.products(units(numbers))) for numbers in pass_numbers(n, columns)]
    return jnp.concatenate(blocks)[:n]


def check_fits(n: int, dtype: Any) -> None:
    """Refuses a matrix that would not fit in memory, with the bytes and what to use instead.

    Raises:
      ValueError: it and its workspace need more than is available.
    """
    why = _too_large(n, dtype)
    if why:
        raise ValueError(why)


def _too_large(n: int, dtype: Any) -> str:
    need, have = 3 * n * n * jnp.dtype(dtype).itemsize, memory_available()
    if need <= have:
        return ""
    return (
        f"a dense {n} x {n} {dtype} matrix and its workspace need {need / 2**30:.1f} GiB of the {have / 2**30:.1f} "
        "GiB available; restrict the operator to fewer parameters or use its products (op.mv, "
        "hj.spectrum; on the command line --method slq)."
    )


def _matrix(x: Any, copies: int = 1) -> Float[Array, "*batch n n"]:
    """Operator, NumPy or JAX stack -> finite-dtype stack that LAPACK takes (bfloat16 and float16 lifted).

    A `Matrix` is its array; of other operators only the lower triangle is meant. `copies` more such stacks will be
    allocated; where they do not fit arrays are refused here, as `check_fits` refuses operators.
    """
    x = x.a if isinstance(x, Matrix) else x
    if isinstance(x, Operator):
        return _lifted(_lower(x))
    dtype = jnp.promote_types(jnp.result_type(x), jnp.float32)
    if not isinstance(x, Tracer):
        on_one = x.sharding.shard_shape(x.shape) if isinstance(x, jax.Array) else jnp.shape(x)
        need, have = copies * math.prod(on_one) * dtype.itemsize, memory_available()
        if need > have:
            raise ValueError(
                f"eigenvalues of a stack of shape {jnp.shape(x)} {dtype} need {need / 2**30:.3g} GiB more on a device, "
                f"with {have / 2**30:.3g} GiB available; take fewer matrices at a time (jax.lax.map with batch_size), "
                "or products of the operator (op.mv, hj.slq, hj.spectrum), which need no matrix."
            )
    check_symmetric(x, stack=True)
    return _lifted(jnp.asarray(x))


def _lifted(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def eigvalsh(x: Operator | Float[Any, "*batch n n"]) -> Float[Array, "*batch n"]:
    """All eigenvalues, ascending, of an operator or of every matrix of a stack.

    Args:
      x: an operator (assembled first) or symmetric [..., n, n]; bfloat16 and float16 are lifted to float32. As
        everywhere in JAX, NumPy's float64 is float32 unless x64 is on.

    Returns:
      Eigenvalues in the units of x; NaN throughout for a matrix with NaN or inf, the other lanes untouched.

    Raises:
      ValueError: not square; concrete, finite and not symmetric, or its copies would not fit in memory.
      TypeError: not real floating.

    Example:
      >>> import hessjax as hj
      >>> hj.eigvalsh(jnp.array([[0.0, 1.0], [1.0, 0.0]])).tolist()
      [-1.0, 1.0]
    """
    return _eigvalsh(_matrix(x))


_eigvalsh = jax.jit(stacks.eigvalsh)  # loops outside of a program are compiled anew at every call


def eigh(x: Operator | Float[Any, "*batch n n"]) -> Eigh:
    """Eigenvalues ascending and eigenvectors (columns) of an operator or of every matrix of a stack.

    Args and errors as `eigvalsh`; the vectors of an operator are flat, in `ravel_pytree` order.

    Example:
      >>> import hessjax as hj
      >>> values, vectors = hj.eigh(jnp.diag(jnp.array([2.0, 1.0])))
      >>> values.tolist(), jnp.abs(vectors).tolist()
      ([1.0, 2.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    a = _lifted(dense(x)) if isinstance(x, Operator) else _matrix(x, copies=3)
    return Eigh(*stacks.eigh(a))


_inertia = jax.jit(signature.inertia, static_argnums=1)


def inertia(x: Operator | Float[Any, "*batch n n"], *, tol: float | Sequence[float]) -> Inertia:
    """Counts of negative, zero and positive eigenvalues; zero is |lambda| <= tol ||A||.

    Args:
      x: an operator or symmetric [..., n, n].
      tol: relative to ||A||, the largest absolute row sum; at least 0. Scaling A changes no count. Of several, results
        have a last axis for them; they cost little more than one.

    Returns:
      Counts, whether they are certain, and the absolute threshold tol ||A||. No eigenvalue is computed where counts
      alone are faster (on CPUs). Nothing is certain of a traced matrix that is not symmetric.

    Raises:
      ValueError: tol negative or not finite; the matrix as for `eigvalsh`.
      TypeError: tol is no number, or traced.

    Example:
      >>> import hessjax as hj
      >>> counts = hj.inertia(jnp.diag(jnp.array([-2.0, 0.0, 1e-9, 5.0])), tol=1e-5)
      >>> int(counts.negative), int(counts.zero), int(counts.positive), bool(counts.certified)
      (1, 2, 1, True)
    """
    x = x.a if isinstance(x, Matrix) else x
    a = _matrix(x)
    found = _inertia(a, signature.checked(tol))
    if isinstance(x, Tracer):  # a concrete one was refused
        found = found._replace(certified=found.certified & signature.aligned(is_symmetric(a), found))
    return found
