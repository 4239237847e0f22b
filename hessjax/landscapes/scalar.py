"""Linear nets of one unit a layer: the smallest surfaces that are not convex and have no bad minimum."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hessjax.landscapes.base import Landscape, critical_point
from hessjax.landscapes.data import check_dtype, check_whole

__all__ = ["scalar_linear"]

Point = Float[np.ndarray, " n"]


def scalar_linear(*, depth: int = 2, inputs: float = 1.0, target: float = 1.0, dtype: str = "float32") -> Landscape:
    """A linear net of one unit a layer on one example, (target - w_depth ... w_1 inputs)^2; starts standard normal.

    All minima are global, a manifold; every other critical point has two zeros or more: with exactly two it is a strict
    saddle, with three or more the Hessian is zero, and it is a saddle all the same.

    Args:
      depth: number of weights.
      inputs: x of the example, not 0.
      target: y of the example, not 0.
      dtype: of params.

    Raises:
      ValueError: depth below 1, or inputs or target 0.

    Example:
      >>> land = scalar_linear(depth=3)
      >>> [(p["name"], p["index"], p["nullity"]) for p in land.facts["critical_points"]]
      [('global', 0, 2), ('two zeros', 1, 1), ('origin', 0, 3)]
    """
    check_whole("depth", depth)
    check_dtype(dtype)
    if not inputs * target or not np.isfinite(inputs * target):
        raise ValueError(f"inputs and target must be finite and not 0, got {inputs} and {target}.")
    hessian = lambda w: _product_hessian(np.asarray(w, float), inputs, target)
    return Landscape(
        name="scalar-linear",
        init=lambda key: jax.random.normal(key, (depth,), dtype),
        loss=lambda w: (target - inputs * jnp.prod(w)) ** 2,
        facts={
            "critical_points": _product_points(depth, inputs, target),
            "gradient": lambda w: _product_gradient(np.asarray(w, float), inputs, target),
            "hessian": hessian,
            "lower_bound": 0.0,
            "notes": [f"(y - {' '.join(f'w{k}' for k in range(1, depth + 1))} x)^2 at x = {inputs:g}, y = {target:g}"],
        },
    )


def _others(w: Point, *left_out: int) -> float:
    return float(np.prod(np.delete(w, left_out)))


def _product_gradient(w: Point, x: float, y: float) -> Point:
    return np.array([-2 * x * (y - x * np.prod(w)) * _others(w, i) for i in range(len(w))])


def _product_hessian(w: Point, x: float, y: float) -> Float[np.ndarray, "n n"]:
    n, rest = len(w), y - x * np.prod(w)
    one = np.array([_others(w, i) for i in range(n)])
    two = np.array([[0.0 if i == j else _others(w, i, j) for j in range(n)] for i in range(n)])
    return 2 * x**2 * np.outer(one, one) - 2 * x * rest * two


def _product_points(depth: int, x: float, y: float) -> list[dict[str, Any]]:
    ratio = y / x
    least = np.full(depth, abs(ratio) ** (1 / depth))
    least[0] *= np.sign(ratio)
    steep = 2 * x**2 * sum(_others(least, i) ** 2 for i in range(depth))
    kind = "minimum" if depth == 1 else "degenerate minimum"
    found = [critical_point(least, 0.0, np.append(np.zeros(depth - 1), steep), kind) | {"name": "global"}]
    for zeros in {2, 3, depth} & set(range(2, depth + 1)):
        values, kind = np.zeros(depth), "degenerate saddle"
        if zeros == 2:
            values[0], values[-1], kind = -2 * abs(x * y), 2 * abs(x * y), "strict saddle"
        point = critical_point(np.r_[np.zeros(zeros), np.ones(depth - zeros)], y**2, values, kind)
        found.append(point | {"name": "origin" if zeros == depth else {2: "two zeros", 3: "three zeros"}[zeros]})
    return found
