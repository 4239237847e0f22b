"""Eigenvalues of stacks of symmetric matrices, by whatever is right and fastest where they are.

On a CPU all eigenvalues are counted out of a tridiagonal matrix (`tridiagonals`); elsewhere they are the backend's.
Small matrices of a stack are reduced to that form side by side (`householder`), others by LAPACK. On one CPU device
a stack is one LAPACK call that spreads over the cores. With several CPU devices in one process that call can wait for
a thread of the very pool it runs on, and never return (seen in jaxlib 0.10.2: a sharded loop over batched `syevd`), so
there the matrices of a stack go one after another; the cores are busy with other devices anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hessjax import householder
from hessjax.tridiagonals import Tridiagonals, bisected

__all__ = ["Reduced", "eigh", "eigvalsh", "is_counted", "mirrored", "reduced", "row_sum_norm", "svd"]


TOGETHER = 2**26  # bytes of a stack that one device reduces at once: enough for its cores, little beside the stack
# Side by side: matrices with rows of so many bytes at most, if there are so many of them, in groups of so many bytes of
# an entry. Of LAPACK's time, one device a core, n = 4 takes .18, 8 .3, 16 .27, 32 .6 and 48 1 in float32; in float64 16
# takes .55 and 32 1.1.
SMALL, FEWEST, LANES = 128, 16, 256
VECTOR = 16  # numbers: the longest vectors of a CPU, in float32


class Reduced(NamedTuple):
    """Tridiagonal matrices with the eigenvalues of those of a stack over `scale`, a power of two each.

    `norm`: the largest absolute row sum of the matrix. Of one with NaN or inf: zeros, and a scale of NaN.
    """

    t: Tridiagonals
    scale: Float[Array, "*batch"]
    norm: Float[Array, "*batch"]


def is_counted() -> bool:
    """Whether eigenvalues are counted here, rather than left to the backend.

    Measured on a CPU in float32, one device a core: for n of 4, 16, 64 and 512 it takes .71, .32, .33 and .30 of the
    time of `jnp.linalg.eigvalsh`, with .9, .5, .2 and .13 of its error (benchmarks/counts.py).

    Example:
      >>> is_counted() == (jax.default_backend() == "cpu")
      True
    """
    return jax.default_backend() == "cpu"


def eigvalsh(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch n"]:
    """Ascending eigenvalues of symmetric matrices, whose lower triangles are read; NaN where a matrix is not finite.

    Example:
      >>> eigvalsh(jnp.stack([jnp.eye(2), -jnp.eye(2), jnp.full((2, 2), jnp.inf)])).tolist()
      [[1.0, 1.0], [-1.0, -1.0], [nan, nan]]
    """
    if is_counted():
        return _values(a)
    a, ok = _finite(mirrored(a))  # JAX's derivatives would read the upper triangle too
    return jnp.where(ok[..., None], jnp.linalg.eigvalsh(a, symmetrize_input=False), jnp.nan)


def eigh(a: Float[Array, "*batch n n"]) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n n"]]:
    """Ascending eigenvalues, and eigenvectors as columns, of symmetric matrices; NaN where one is not finite."""
    a, ok = _finite(a)
    values, vectors = _mapped(_pairs, a) if _many_cpu_devices() else tuple(jnp.linalg.eigh(a))
    return jnp.where(ok[..., None], values, jnp.nan), jnp.where(ok[..., None, None], vectors, jnp.nan)


def _finite(a: Float[Array, "*batch n n"]) -> tuple[Float[Array, "*batch n n"], Bool[Array, "*batch"]]:
    """The stack with non-finite lanes zeroed (LAPACK may not return on NaN), and which lanes are finite."""
    ok = jnp.all(jnp.isfinite(a), axis=(-1, -2))
    return jnp.where(ok[..., None, None], a, 0), ok


def svd(a: Float[Array, "m n"]) -> tuple[Float[Array, "m k"], Float[Array, " k"], Float[Array, "k n"]]:
    """U, singular values descending, and V' of one finite matrix; under vmap one after another."""
    return _svd_alone(a)


def reduced(a: Float[Array, "*batch n n"]) -> Reduced:
    """Symmetric matrices as tridiagonal ones, by reflections: to a few eps of their norm the same eigenvalues.

    Lower triangles are read; whether all is finite, and how large it is, is asked of both.

    Example:
      >>> t, scale, norm = reduced(4.0 * jnp.eye(2))
      >>> t.diagonal.tolist(), t.beside.tolist(), float(scale), float(norm)
      ([2.0, 2.0], [0.0], 2.0, 4.0)
    """
    found = _reduced_stack(a.reshape(math.prod(a.shape[:-2]), *a.shape[-2:]))
    return jax.tree.map(lambda x: x.reshape(*a.shape[:-2], *x.shape[1:]), found)


@jax.custom_batching.custom_vmap
def _reduced_stack(a: Float[Array, "batch n n"]) -> Reduced:
    n, one = a.shape[-1], a.dtype.itemsize
    if n * one <= SMALL and len(a) >= FEWEST:
        return _in_groups(a, LANES // one)
    if _many_cpu_devices():
        return _mapped(_reduced_alone, a)
    return _mapped(_reduced, a, max(1, TOGETHER // (n**2 * one)))


@_reduced_stack.def_vmap
def _reduced_stacks(_, __, a: Float[Array, "size batch n n"]) -> tuple[Reduced, Reduced]:
    """A stack of them is one stack, so that matrices that a `vmap` makes a stack of are side by side too."""
    found = reduced(a)
    return found, jax.tree.map(lambda _: True, found)


def _in_groups(a: Float[Array, "batch n n"], lanes: int) -> Reduced:
    """So many at a time, side by side, in groups as equal as whole vectors are."""
    groups = -(-len(a) // lanes)
    each = -(-len(a) // (groups * VECTOR)) * VECTOR
    padded = jnp.pad(a, [(0, groups * each - len(a)), (0, 0), (0, 0)])
    found = jax.lax.map(_side_by_side, padded.reshape(groups, each, *a.shape[1:]))
    return jax.tree.map(lambda x: x.reshape(groups * each, *x.shape[2:])[: len(a)], found)


def _side_by_side(a: Float[Array, "lanes n n"]) -> Reduced:
    number = jnp.arange(a.shape[-1])[:, None]
    a = jnp.moveaxis(a, 0, -1)
    scale = _scale(_largest(a.reshape(-1, a.shape[-1])))
    a = jnp.where(jnp.isfinite(scale), a / scale, 0)
    a = jnp.where((number >= number.T)[..., None], a, jnp.swapaxes(a, 0, 1))
    norm = jnp.max(jnp.sum(jnp.abs(a), axis=0), axis=0) * scale
    diagonal, beside = householder.tridiagonal(a)
    return Reduced(Tridiagonals(diagonal.T, beside.T), scale, norm)


def _largest(a: Float[Array, "m n"]) -> Float[Array, " n"]:
    """The largest |entry| of every column; NaN if there is one.

    As integers, whose order is the same with NaN at its end: the maximum of floats loses NaN where XLA takes a CPU's
    vectors for it (from 4096 numbers on, in jaxlib 0.10.2 and 0.12.0).
    """
    integer = jnp.int64 if a.dtype == jnp.float64 else jnp.int32
    return jax.lax.bitcast_convert_type(jnp.max(jax.lax.bitcast_convert_type(jnp.abs(a), integer), axis=0), a.dtype)


def _scale(largest: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """A power of two of about the largest |entry| of a matrix; NaN where that is not finite.

    It rounds nothing, and lets squares be taken. It and its reciprocal, as a compiler may multiply, are in the range of
    normal numbers; others are zero on many machines.
    """
    ok = jnp.isfinite(largest)
    end = -int(jnp.finfo(largest.dtype).minexp)
    power = jnp.clip(jnp.floor(jnp.log2(jnp.where(ok & (largest > 0), largest, 1))) - 1, -end, end)
    return jnp.where(ok, jnp.ldexp(jnp.ones_like(largest), power.astype(jnp.int32)), jnp.nan)


def _reduced(a: Float[Array, "n n"]) -> Reduced:
    # Not a maximum of maxima: XLA makes one of two, which on a CPU goes through the entries one at a time.
    columns = _largest(a)
    scale = _scale(columns[jnp.argmax(columns)])
    a = jnp.where(jnp.isfinite(scale), a / scale, 0)
    norm = row_sum_norm(a) * scale
    if len(a) == 1:
        return Reduced(Tridiagonals(a[0], a[0, :0]), scale, norm)
    # LAPACK has columns where we have rows: what it is told to be an upper triangle is our lower one, not moved. Its
    # products with the trailing matrix are also quicker so; both save a sixth of the time at 512 rows.
    return Reduced(Tridiagonals(*jax.lax.linalg.tridiagonal(a.T, lower=False)[1:3]), scale, norm)


def row_sum_norm(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
    """||A||, the largest absolute row sum: at least the largest |eigenvalue|, at most sqrt(n) times it.

    Example:
      >>> float(row_sum_norm(jnp.array([[1.0, 9.0], [-2.0, 3.0]])))
      5.0
    """
    number = jnp.arange(a.shape[-1])
    lower = jnp.where(number[:, None] >= number, jnp.abs(a), 0)
    # Rows by a product: on a CPU XLA adds along the last axis one number at a time.
    rows = jnp.matmul(lower, jnp.ones((len(number), 1), a.dtype), precision="highest")[..., 0]
    columns = jnp.sum(jnp.where(number[:, None] > number, lower, 0), axis=-2)
    return jnp.max(rows + columns, axis=-1)


def _many_cpu_devices() -> bool:
    return jax.default_backend() == "cpu" and jax.local_device_count() > 1


# Under vmap these loop instead of batching; the derivatives are written out because such loops have none in reverse.
_reduced_alone = jax.custom_batching.sequential_vmap(_reduced)
_svd_alone = jax.custom_batching.sequential_vmap(lambda a: tuple(jnp.linalg.svd(a, full_matrices=False)))
_pairs_alone = jax.custom_batching.sequential_vmap(lambda a: tuple(jnp.linalg.eigh(a)))


@jax.custom_jvp
def _values(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch n"]:
    t, scale, _ = reduced(a)
    return bisected(t) * scale[..., None]


@_values.defjvp
def _values_jvp(primals, tangents):
    a, da = (mirrored(x) for (x,) in (primals, tangents))
    values, vectors = eigh(a)
    return values, jnp.einsum("...ji,...jk,...ki->...i", vectors, da, vectors)


def mirrored(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """The symmetric matrices of lower triangles.

    Mirrored, not averaged: a compiler may fuse a product into a + a.T and round its two halves apart.

    Example:
      >>> mirrored(jnp.array([[1.0, 7.0], [2.0, 3.0]])).tolist()
      [[1.0, 2.0], [2.0, 3.0]]
    """
    number = jnp.arange(a.shape[-1])
    return jnp.where(number[:, None] >= number, a, jnp.swapaxes(a, -1, -2))


@jax.custom_jvp
def _pairs(a: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    return _pairs_alone(a)


@_pairs.defjvp
def _pairs_jvp(primals, tangents):
    (a,), (da,) = primals, tangents
    values, vectors = _pairs_alone(a)
    rotated = vectors.T @ da @ vectors
    apart = values[None, :] - values[:, None] + jnp.eye(len(values), dtype=values.dtype)
    mixing = jnp.where(jnp.eye(len(values), dtype=bool), 0, rotated / apart)  # infinite where eigenvalues coincide
    return (values, vectors), (jnp.diag(rotated), vectors @ mixing)


def _mapped(solve: Callable, a: Float[Array, "*batch n n"], each: int = 1):
    """`solve` of every matrix, `each` of them at a time."""
    if a.ndim == 2:
        return solve(a)
    flat = a.reshape(-1, *a.shape[-2:])
    if each == 1:
        found = jax.lax.map(solve, flat)
    else:
        found = jax.vmap(solve)(flat) if len(flat) <= each else jax.lax.map(solve, flat, batch_size=each)
    return jax.tree.map(lambda x: x.reshape(*a.shape[:-2], *x.shape[1:]), found)
