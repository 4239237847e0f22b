"""A dense symmetric matrix as an operator, and what is refused as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import PyTree

from hessjax.operators import Operator, pytree

__all__ = ["Matrix", "check_symmetric"]


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Matrix(Operator):
    """A symmetric matrix as an operator on flat vectors; the bridge from NumPy, and the estimators' test bench.

    Args:
      a: [n, n], real floating and symmetric (a concrete matrix is checked).

    Raises:
      ValueError: not square, empty, or concrete and not symmetric to 100 eps of its largest entry.
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
        raise TypeError(f"matrix has dtype {dtype}, wanted a real floating one; write a.astype(float).")
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0 or (len(shape) > 2 and not stack):
        raise ValueError(f"matrix has shape {shape}, wanted {'[..., n, n]' if stack else '[n, n]'} with n >= 1.")
    if isinstance(a, Tracer):
        return
    with jax.ensure_compile_time_eval():  # a constant met while tracing is concrete too
        a = jnp.asarray(a)
        transpose, finite = jnp.swapaxes(a, -1, -2), jnp.isfinite(a) & jnp.isfinite(jnp.swapaxes(a, -1, -2))
        largest = lambda x: jnp.max(jnp.abs(x), axis=(-1, -2), initial=0.0, where=finite)
        defect, scale = largest(a - transpose), largest(a)
        bad = jnp.argwhere(defect > 100 * jnp.finfo(a.dtype).eps * scale)
    if len(bad):
        lane: tuple[int, ...] = tuple(bad[0].tolist())
        which = f"matrix {', '.join(map(str, lane))} of the stack" if lane else "matrix"
        raise ValueError(
            f"{which} is not symmetric: max |a - a.T| = {float(defect[lane]):.3g}; write (a + a.T) / 2 if meant."
        )
