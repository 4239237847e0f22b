"""Surfaces in closed form: their critical points and Hessians are facts, and the tests' oracles."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hessjax.landscapes.base import Landscape

__all__ = ["quadratic"]


def quadratic(
    *,
    eigenvalues: Sequence[float | int] = (-2.0, -1.0, 0.0, 0.5, 1.0, 4.0),
    rotation_seed: int = 0,
    dtype: str = "float32",
) -> Landscape:
    """The quadratic form x'Ax/2 with the given eigenvalues in a random orthonormal basis; starts standard normal.

    Args:
      eigenvalues: the spectrum of A, at least one number.
      rotation_seed: seed of the basis, drawn uniformly from the orthogonal group.
      dtype: of params.

    Raises:
      ValueError: no eigenvalues, or one that is not finite.

    Example:
      >>> import hessjax as hj, numpy as np
      >>> land = hj.landscapes.get("quadratic", eigenvalues=(-1.0, 2.0))
      >>> spectrum = hj.eigvalsh(hj.Hessian(land.loss, land.init(jax.random.key(0))))
      >>> np.round(np.asarray(spectrum), 5).tolist()
      [-1.0, 2.0]
    """
    values = np.sort(np.asarray(eigenvalues, dtype=float).reshape(-1))
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"eigenvalues must be one or more finite numbers, got {eigenvalues!r}.")
    q, r = np.linalg.qr(np.random.default_rng(rotation_seed).standard_normal((values.size, values.size)))
    q = q * np.sign(np.diag(r))  # Haar: the sign convention of QR is not (Mezzadri 2007, arXiv:math-ph/0609050)
    exact = (q * values) @ q.T
    a = jnp.asarray((exact + exact.T) / 2, dtype)
    index, nullity = int((values < 0).sum()), int((values == 0).sum())
    return Landscape(
        name="quadratic",
        init=lambda key: jax.random.normal(key, (values.size,), dtype),
        loss=lambda x: 0.5 * jnp.dot(x, jnp.matmul(a, x, precision="float32"), precision="float32"),
        facts={
            "critical_points": [
                {
                    "point": np.zeros(values.size),
                    "loss": 0.0,
                    "index": index,
                    "nullity": nullity,
                    "kind": _kind(values),
                }
            ],
            "gradient": lambda x: exact @ x,
            "hessian": lambda x: exact,
            "eigenvalues": values,
            "lower_bound": 0.0 if index == 0 else -np.inf,
            "notes": [f"x'Ax/2 in {values.size} dimensions, eigenvalues {values.min():g} to {values.max():g}"],
        },
    )


def _kind(values: np.ndarray) -> str:
    """What a quadratic form is at 0, in the words of `hj.KINDS`: with no higher order, the null space decides nothing
    where all other eigenvalues agree in sign, and the constant function is both a minimum and a maximum.
    """
    if (values > 0).any() and (values < 0).any():
        return "strict saddle"
    if not values.any():
        return "undecided"
    prefix = "degenerate " if (values == 0).any() else ""
    return prefix + ("minimum" if values.max() > 0 else "maximum")
