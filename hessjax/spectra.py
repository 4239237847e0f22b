"""The whole spectrum of an operator too large for a matrix, by one call: outliers exactly, the bulk as a density.

The eigenvalues largest in magnitude are found by `eigsh` and projected out; what is left has a far smaller range, and
the same number of Lanczos steps resolves it far better. Both are put together at their right masses.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessjax import trees
from hessjax.arguments import check_count, check_key
from hessjax.driving import run
from hessjax.estimates import Estimate
from hessjax.extremes import eigsh
from hessjax.functionals import Curve, density, spectral_function
from hessjax.krylov import product_eps, tridiagonals
from hessjax.negative import Fraction, bounds
from hessjax.operators import Operator, check_operand
from hessjax.projections import Eigenpairs, deflate
from hessjax.quadrature import Quadrature, gauss
from hessjax.sketches import rounding
from hessjax.trees import PRNGKey

__all__ = ["Spectrum", "spectrum"]


class Spectrum(NamedTuple):
    """Outliers and bulk of a spectrum, and the share of it that is negative.

    Args:
      outliers: eigenpairs, ascending; k of the n eigenvalues.
      bulk: quadrature of the other n - k.
      negative: share of all n eigenvalues below the threshold.
      trace: sum of all n eigenvalues.
      num_matvecs: products taken in all.
    """

    outliers: Eigenpairs
    bulk: Quadrature
    negative: Fraction
    trace: Estimate
    num_matvecs: Any

    @property
    def size(self) -> int:
        """n, the number of eigenvalues."""
        return sum(math.prod(x.shape[1:]) for x in jax.tree.leaves(self.outliers.vectors))

    def __repr__(self) -> str:
        """A line, not the vectors; tree transformations put what has no shape in their place."""
        try:
            outliers, (count, steps) = len(self.outliers.values), self.bulk.nodes.shape
            return (
                f"Spectrum({self.size} eigenvalues: {outliers} one by one, the rest by {count} probes x {steps} steps)"
            )
        except (AttributeError, TypeError, ValueError):
            return object.__repr__(self)

    def width(self) -> float:
        """A kernel no narrower than what is resolved: the bulk's resolution, or a thousandth of the largest |value|.

        Raises:
          ValueError: the spectrum is not finite.
        """
        largest = max(np.abs(self.outliers.values).max(initial=0), np.abs(self.bulk.nodes).max())
        width = float(max(self.bulk.resolution, 1e-3 * largest))
        if not np.isfinite(width) or not np.isfinite(largest):
            raise ValueError("this spectrum is not finite, nor was a product; hj.check_operator(op, key) says why.")
        return width or 1.0

    def grid(self, num_points: int = 600) -> np.ndarray:
        """Points that show bulk and outliers alike: even in arcsinh(lambda / width), and more around each outlier."""
        width, atoms = self.width(), np.asarray(self.outliers.values, float)
        ends = np.array([min([*atoms, self.bulk.nodes.min()]), max([*atoms, self.bulk.nodes.max()])], float)
        low, high = np.arcsinh((ends + 4 * width * np.array([-1, 1])) / width)
        even = width * np.sinh(np.linspace(low, high, num_points))
        around = (atoms[:, None] + width * np.linspace(-4, 4, 33)).ravel()
        return np.unique(np.concatenate([even, around]))

    def density(self, grid: Float[Any, " grid"], *, width: Any = None) -> Curve:
        """The density of all n eigenvalues, each a Gaussian of standard deviation `width` (None: `width()`)."""
        atoms = self.outliers if len(self.outliers.values) else None
        return density(self.bulk, grid, width=self.width() if width is None else width, atoms=atoms)


def spectrum(
    op: Operator,
    key: PRNGKey,
    *,
    k: int = 10,
    tol: float = 1e-5,
    rtol: float | None = None,
    num_steps: int = 64,
    num_probes: int = 8,
    max_matvecs: int | None = None,
) -> Spectrum:
    """Outliers, bulk density, negative share and trace of an operator of any size.

    Args:
      op: a symmetric operator A.
      key: draws starts and probes.
      k: eigenvalues found exactly, the largest in magnitude; 0 for none, and of more than n - 1, n - 1.
      tol: eigenvalues above -tol ||A|| do not count as negative; ||A|| is the largest |Ritz value|.
      rtol: of the outliers, as for `eigsh`; None: 1e-4, or what products reach in the dtype of the params (1.6e-2 in
        bfloat16). Those that do not converge are deflated all the same, and the density is then uncertain by their
        residuals.
      num_steps: Lanczos steps per probe on the bulk.
      num_probes: probes.
      max_matvecs: products the outliers may take; None: as `eigsh`.

    Returns:
      Everything with its error; `density` and `grid` make the curve.

    Raises:
      ValueError: counts below their least, tol negative, an operator deflated already.

    Example:
      >>> import hessjax as hj
      >>> A = hj.Matrix(jnp.diag(jnp.concatenate([jnp.array([9.0]), jnp.linspace(-1.0, 1.0, 99)])))
      >>> found = hj.spectrum(A, jax.random.key(0), k=1)
      >>> found.outliers.values.round(3).tolist(), bool(abs(found.bulk.nodes).max() < 1.01)
      ([9.0], True)
      >>> curve = found.density(found.grid())
      >>> bool(abs(jnp.trapezoid(curve.value, found.grid()) - 1) < 1e-3)
      True

    References: `eigsh`, `slq`, `negative_fraction`; outliers apart from the bulk: Papyan (2019), arXiv:1811.07062.
    """
    check_key(key)
    check_operand(op)
    if op.num_deflated:
        raise ValueError(
            f"op has {op.num_deflated} directions deflated already; pass the operator itself, and k for those in all."
        )
    check_count("k", k, 0)
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol}; it is relative to the largest |Ritz value|.")
    k = min(k, op.size - 1)
    check_count("num_steps", num_steps)
    check_count("num_probes", num_probes)
    for_outliers, for_bulk = jax.random.split(key)
    if k:
        rtol = max(1e-4, 2 * product_eps(op)) if rtol is None else rtol
        outliers = eigsh(op, for_outliers, k=k, which="LM", rtol=rtol, max_matvecs=max_matvecs)
        op = deflate(op, outliers)
    else:
        outliers = _none(op)
    bulk, negative = run(_bulk, op, for_bulk, tol, outliers.values, num_steps=num_steps, num_probes=num_probes)
    mean, size = (spectral_function(bulk, f, atoms=outliers if k else None) for f in (lambda x: x, jnp.abs))
    total = outliers.num_matvecs + bulk.num_matvecs
    # However well the outliers converged: tr A = tr V'AV + tr PAP for any orthonormal V.
    error = jnp.hypot(mean.std_error, rounding(op, size.value))
    trace = Estimate(op.size * mean.value, op.size * error, total)
    return Spectrum(outliers, bulk, negative._replace(num_matvecs=total), trace, total)


def _bulk(op: Operator, key: Any, tol: Any, known: Float[Array, " k"], *, num_steps: int, num_probes: int):
    t = tridiagonals(op, key, num_steps=num_steps, num_probes=num_probes, full=False)
    return gauss(t, op, num_steps), bounds(t, op, tol, known if len(known) else None)


def _none(op: Operator) -> Eigenpairs:
    space = trees.zeros_like(trees.lift(op.like), 0)
    none = jnp.zeros(0, trees.scalar_dtype(op.like))
    return Eigenpairs(none, space, none, none > 0, jnp.int32(0))
