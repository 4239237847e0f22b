"""Eigenvalues of stacks of symmetric matrices, by whatever is right and fastest where they are.

On a CPU all eigenvalues are counted out of a tridiagonal matrix (`tridiagonals`), which LAPACK reduces to; elsewhere
they are the backend's. On one CPU device a stack is one LAPACK call that spreads over the cores. With several CPU
devices in one process that call can wait for a thread of the very pool it runs on, and never return (seen in jaxlib
0.10.2: a sharded loop over batched `syevd`), so there the matrices of a stack go one after another; the cores are busy
with other devices anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hessjax.tridiagonals import Tridiagonals, bisected

__all__ = ["Reduced", "eigh", "eigvalsh", "finite", "is_counted", "reduced", "svd"]


TOGETHER = 2**26  # bytes of a stack that one device reduces at once: enough for its cores, little beside the stack


class Reduced(NamedTuple):
    """Tridiagonal matrices with the eigenvalues of those of a stack over `scale`, a power of two each."""

    t: Tridiagonals
    scale: Float[Array, "*batch"]


def is_counted() -> bool:
    """Whether eigenvalues are counted here, rather than left to the backend.

    Measured on a CPU in float32, one matrix after another on one core: for n of 16, 64, 226 and 512 it takes .56, .29,
    .34 and .32 of the time of `jnp.linalg.eigvalsh`, with a third of its error.

    Example:
      >>> is_counted() == (jax.default_backend() == "cpu")
      True
    """
    return jax.default_backend() == "cpu"


def eigvalsh(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch n"]:
    """Ascending eigenvalues of finite symmetric matrices.

    Example:
      >>> eigvalsh(jnp.stack([jnp.eye(2), -jnp.eye(2)])).tolist()
      [[1.0, 1.0], [-1.0, -1.0]]
    """
    return _values(a) if is_counted() else jnp.linalg.eigvalsh(a)


def eigh(a: Float[Array, "*batch n n"]) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n n"]]:
    """Ascending eigenvalues, and eigenvectors as columns, of finite symmetric matrices."""
    return _mapped(_pairs, a) if _many_cpu_devices() else tuple(jnp.linalg.eigh(a))


def finite(a: Float[Array, "*batch n n"]) -> tuple[Float[Array, "*batch n n"], Bool[Array, "*batch"]]:
    """The stack with non-finite lanes zeroed (LAPACK may not return on NaN), and which lanes are finite."""
    ok = jnp.all(jnp.isfinite(a), axis=(-1, -2))
    return jnp.where(ok[..., None, None], a, 0), ok


def svd(a: Float[Array, "m n"]) -> tuple[Float[Array, "m k"], Float[Array, " k"], Float[Array, "k n"]]:
    """U, singular values descending, and V' of one finite matrix; under vmap one after another."""
    return _svd_alone(a)


def reduced(a: Float[Array, "*batch n n"]) -> Reduced:
    """Finite symmetric matrices as tridiagonal ones, by reflections: to a few eps of their norm the same eigenvalues.

    Example:
      >>> t, scale = reduced(4.0 * jnp.eye(2))
      >>> t.diagonal.tolist(), t.beside.tolist(), float(scale)
      ([0.5, 0.5], [0.0], 8.0)
    """
    if _many_cpu_devices():
        return _mapped(_reduced_alone, a)
    return _mapped(_reduced, a, max(1, TOGETHER // (a.shape[-1] ** 2 * a.dtype.itemsize)))


def _reduced(a: Float[Array, "n n"]) -> Reduced:
    largest = jnp.max(jnp.abs(a))
    # Over and above what it divides by: a power of two, that rounds nothing and lets squares be taken.
    scale = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(jnp.where(largest > 0, largest, 1))[1])
    a = a / scale
    if len(a) == 1:
        return Reduced(Tridiagonals(a[0], a[0, :0]), scale)
    return Reduced(Tridiagonals(*jax.lax.linalg.tridiagonal(a)[1:3]), scale)


def _many_cpu_devices() -> bool:
    return jax.default_backend() == "cpu" and jax.local_device_count() > 1


# Under vmap these loop instead of batching; the derivatives are written out because such loops have none in reverse.
_reduced_alone = jax.custom_batching.sequential_vmap(_reduced)
_svd_alone = jax.custom_batching.sequential_vmap(lambda a: tuple(jnp.linalg.svd(a, full_matrices=False)))
_pairs_alone = jax.custom_batching.sequential_vmap(lambda a: tuple(jnp.linalg.eigh(a)))


@jax.custom_jvp
def _values(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch n"]:
    t, scale = reduced(a)
    return bisected(t) * scale[..., None]


@_values.defjvp
def _values_jvp(primals, tangents):
    (a,), (da,) = primals, tangents
    values, vectors = eigh(a)
    return values, jnp.einsum("...ji,...jk,...ki->...i", vectors, da, vectors)


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
    flat = a.reshape(-1, *a.shape[-2:])
    if a.ndim == 2:
        return solve(a)
    if each == 1:
        found = jax.lax.map(solve, flat)
    else:
        found = jax.vmap(solve)(flat) if len(flat) <= each else jax.lax.map(solve, flat, batch_size=each)
    return jax.tree.map(lambda x: x.reshape(*a.shape[:-2], *x.shape[1:]), found)
