"""A dense symmetric matrix as an operator, and what is refused as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PyTree

from hessjax.operators import Operator, pytree

__all__ = ["Matrix", "check_symmetric", "is_symmetric"]

TILE = 8  # rows and columns of a tile


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Matrix(Operator):
    """A symmetric matrix as an operator on flat vectors; the bridge from NumPy, and the estimators' test bench.

    Args:
      a: [n, n], real floating and symmetric (a concrete matrix is checked).

    Raises:
      ValueError: not square, empty, or concrete, finite and not symmetric to 100 eps of its largest entry.
      TypeError: not real floating.

    Example:
      >>> Matrix(jnp.array([[2.0, 1.0], [1.0, 2.0]])).mv(jnp.array([1.0, -1.0])).tolist()
      [1.0, -1.0]
    """

    a: Any

    def __post_init__(self):
        check_symmetric(self.a)

    @property
    def like(self) -> PyTree:
        return jax.ShapeDtypeStruct(self.a.shape[-1:], jnp.result_type(self.a))

    def product(self, v: PyTree) -> PyTree:
        return jnp.matmul(jnp.asarray(self.a), v, precision="float32").astype(v.dtype)


def check_symmetric(a: Any, *, stack: bool = False) -> None:
    """Refuses anything but real floating symmetric [n, n] (or [..., n, n] where `stack`); values only if concrete."""
    shape, dtype = jnp.shape(a), jnp.result_type(a)
    if not jnp.issubdtype(dtype, jnp.floating):
        hint = "" if jnp.issubdtype(dtype, jnp.complexfloating) else "; write a.astype(float)"
        raise TypeError(f"matrix has dtype {dtype}, wanted a real floating one{hint}.")
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0 or (len(shape) > 2 and not stack):
        raise ValueError(f"matrix has shape {shape}, wanted {'[..., n, n]' if stack else '[n, n]'} with n >= 1.")
    if isinstance(a, Tracer):
        return
    with jax.ensure_compile_time_eval():  # a constant met while tracing is concrete too
        a = jnp.asarray(a)
        bad = jnp.argwhere(~_is_symmetric(a))
    if len(bad):
        lane: tuple[int, ...] = tuple(bad[0].tolist())
        defect = float(_asymmetry(a[lane])[0])
        which = f"matrix {', '.join(map(str, lane))} of the stack" if lane else "matrix"
        raise ValueError(f"{which} is not symmetric: max |a - a.T| = {defect:.3g}; write (a + a.T) / 2 if meant.")


def is_symmetric(a: Float[Array, "*batch n n"]) -> Bool[Array, "*batch"]:
    """Which matrices are symmetric to 100 eps of their largest entry; also any that is not finite.

    Example:
      >>> is_symmetric(jnp.array([[1.0, 2.0], [0.0, 1.0]])).item()
      False
    """
    if a.ndim == 2 or jax.default_backend() != "cpu":
        return _is_symmetric(a)
    # One after another a matrix and its transpose stay in the cache.
    return jax.lax.map(_is_symmetric, a.reshape(-1, *a.shape[-2:])).reshape(a.shape[:-2])


def _is_symmetric(a: Float[Array, "*batch n n"]) -> Bool[Array, "*batch"]:
    return ~jnp.greater(*_asymmetry(a))


def _asymmetry(a: Float[Array, "*batch n n"]) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """The largest |a - a'| and what rounding explains of it; of a matrix that is not finite they may be NaN."""
    n = a.shape[-1]
    tiled = n - n % TILE
    within = a[..., :tiled, :tiled].reshape(*a.shape[:-2], tiled // TILE, TILE, tiled // TILE, TILE)
    # A tile beside the one across the diagonal, both in the cache: a whole column read for a row is not.
    tiles = jnp.swapaxes(within, -3, -2) - jnp.moveaxis(within, (-2, -4, -1, -3), (-4, -3, -2, -1))
    edge = jnp.swapaxes(a[..., tiled:, :], -1, -2) - a[..., tiled:]
    lists = [jnp.max(jnp.abs(a), axis=-2)]
    lists += [jnp.max(jnp.abs(tiles), axis=-4).reshape(*a.shape[:-2], tiled * TILE)] if tiled else []
    lists += [jnp.max(jnp.abs(edge), axis=-2)] if tiled < n else []
    # Not a maximum of maxima: XLA makes one of two, which on a CPU goes through the entries one at a time.
    most = lambda x: jnp.take_along_axis(x, jnp.argmax(x, axis=-1, keepdims=True), axis=-1)[..., 0]
    defect = most(jnp.concatenate(lists[1:], axis=-1))
    return defect, 100 * float(jnp.finfo(a.dtype).eps) * most(lists[0])
