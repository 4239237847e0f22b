"""Values along a line, to second order: x(s), its slope and its curvature at s = 0, pushed through functions.

What an entry's value cannot tell, its slope and curvature along a random direction do: whether it depends on what
moves there, almost surely. Forward only, and no program is built: the functions may be equations run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Series", "along", "filled", "is_real", "jvp_of_vjp"]


class Series(NamedTuple):
    """A value, and its first two derivatives along the line; None where it is constant."""

    value: Any
    slope: Any = None
    curvature: Any = None

    @property
    def moves(self) -> bool:
        """Whether it may vary along the line."""
        return self.slope is not None


def is_real(x: Any) -> bool:
    """Whether it is of a dtype that is differentiated (complex numbers too)."""
    return jnp.issubdtype(getattr(x, "dtype", type(x)), jnp.inexact)


def filled(x: Series) -> Series:
    """With zeros for derivatives that are not there: what a loop carries. Integers have none."""
    if x.moves or not is_real(x.value):
        return x
    return Series(x.value, jnp.zeros_like(x.value), jnp.zeros_like(x.value))


def along(
    function: Callable[..., Sequence[Any]], inputs: Sequence[Series], derivative: Callable = jax.jvp
) -> list[Series]:
    """The results of `function(*values)` along the line.

    With x' and x'' of the inputs, y' = J x' and y'' = J x'' + x'^T (d^2 f) x'.

    Args:
      function: arrays to a sequence of arrays.
      inputs: of its arguments.
      derivative: what `jax.jvp` is; `jvp_of_vjp` for functions that are differentiated in reverse only.

    Example:
      >>> line = Series(jnp.float32(3.0), jnp.float32(1.0), jnp.float32(0.0))
      >>> [float(x) for x in along(lambda x: [x * x], [line])[0]]
      [9.0, 6.0, 2.0]
    """
    given = [x.value for x in inputs]
    results = list(function(*given))
    moving = [k for k, x in enumerate(inputs) if x.moves]
    real = [k for k, y in enumerate(results) if is_real(y)]
    if not moving or not real:
        return [Series(y) for y in results]

    def of_moving(*values: Any) -> list[Any]:
        at = dict(zip(moving, values, strict=True))
        outs = function(*(at.get(k, x) for k, x in enumerate(given)))
        return [outs[k] for k in real]

    values, slopes, curvatures = zip(*(inputs[k] for k in moving), strict=True)
    push = lambda x, t: derivative(of_moving, x, t)
    (_, firsts), (_, seconds) = jax.jvp(push, (values, slopes), (slopes, curvatures))
    derivatives = dict(zip(real, zip(firsts, seconds, strict=True), strict=True))
    return [Series(y, *derivatives.get(k, ())) for k, y in enumerate(results)]


def jvp_of_vjp(function: Callable[..., Sequence[Any]], values: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """As `jax.jvp`, by transposing the vjp: for functions with a reverse rule alone, such as `jax.custom_vjp`.

    Example:
      >>> value, slope = jvp_of_vjp(lambda x: [x**3], (2.0,), (1.0,))
      >>> float(slope[0])
      12.0
    """
    results, back = jax.vjp(function, *values)
    (slopes,) = jax.linear_transpose(back, results)(tuple(tangents))
    return results, slopes
