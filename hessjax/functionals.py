"""What a quadrature says: density, distribution function, traces of functions, log-determinant.

Arithmetic on nodes and weights (`logdet` takes a quadrature of its own); every curve with its standard error over
probes. Eigenvalues known exactly (`atoms`) join the bulk of a deflated operator at their own mass.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Real

from hessjax.arguments import check_accuracy, check_key
from hessjax.driving import run
from hessjax.estimates import Estimate, interval, mean, to_rtol
from hessjax.krylov import cost, runs, tridiagonals
from hessjax.operators import Operator
from hessjax.projections import Eigenpairs
from hessjax.quadrature import Quadrature, gauss
from hessjax.trees import PRNGKey

__all__ = ["Curve", "cdf", "density", "logdet", "spectral_function"]

Points = Real[Any, " grid"]
Width = float | Real[Any, ""]


class Curve(NamedTuple):
    """A function on a grid, with its standard error over probes (NaN with one probe)."""

    value: Float[Array, " grid"]
    std_error: Float[Array, " grid"]

    def interval(self, num_probes: int) -> tuple[Float[Array, " grid"], Float[Array, " grid"]]:
        """Ends of the 95 % interval at every point, of a curve from `num_probes` probes.

        Example:
          >>> low, high = Curve(jnp.ones(1), jnp.array([0.1])).interval(num_probes=8)
          >>> low.round(3).tolist(), high.round(3).tolist()
          ([0.764...], [1.236...])
        """
        return interval(self.value, self.value, self.std_error, num_probes)


def density(quadrature: Quadrature, grid: Points, *, width: Width, atoms: Eigenpairs | None = None) -> Curve:
    """The eigenvalue density on a grid, every eigenvalue a Gaussian of unit mass.

    Args:
      quadrature: of `slq` or `kpm`.
      grid: values of lambda.
      width: standard deviation of the Gaussian, in units of lambda; a width below `quadrature.resolution` shows
        nodes, not eigenvalues, and warns.
      atoms: eigenpairs that were deflated from the operator whose quadrature this is; each counts 1/n.

    Returns:
      The density (it integrates to 1 over all lambda) and its standard error at every point.

    Raises:
      ValueError: width not above 0; atoms of another number than were deflated.

    Example:
      >>> import hessjax as hj
      >>> q = hj.slq(hj.Matrix(jnp.diag(jnp.arange(8.0))), jax.random.key(0), num_probes=4)
      >>> grid = jnp.linspace(-5.0, 12.0, 400)
      >>> curve = hj.density(q, grid, width=1.0)
      >>> round(float(jnp.trapezoid(curve.value, grid)), 3)
      1.0
    """
    _check_width(width, quadrature)
    points = _points("grid", grid)

    def gaussian(centres):
        z = (points[:, None] - centres) / width
        return jnp.exp(-(z**2) / 2) / (width * math.sqrt(2 * math.pi))

    return _curve(quadrature, gaussian, atoms)


def cdf(quadrature: Quadrature, x: Points, *, atoms: Eigenpairs | None = None) -> Curve:
    """The share of eigenvalues at or below x.

    A step at every node: between the nodes of unresolved bulk the truth may differ by the weight of a node.

    Args:
      quadrature: of `slq` or `kpm`.
      x: values of lambda.
      atoms: as for `density`.

    Example:
      >>> import hessjax as hj
      >>> q = hj.slq(hj.Matrix(jnp.diag(jnp.array([1.0, 2.0]))), jax.random.key(0), num_probes=2)
      >>> hj.cdf(q, jnp.array([0.5, 3.0])).value.tolist()
      [0.0, 1.0]
    """
    points = _points("x", x)
    return _curve(quadrature, lambda nodes: (nodes <= points[:, None]).astype(nodes.dtype), atoms)


def spectral_function(
    quadrature: Quadrature, f: Callable[[Array], Array], *, atoms: Eigenpairs | None = None
) -> Estimate:
    """tr f(A) / n, the mean of f over the eigenvalues.

    Args:
      quadrature: of `slq` or `kpm`.
      f: elementwise; polynomials up to degree 2 num_steps - 1 are integrated exactly for each probe.
      atoms: as for `density`.

    Returns:
      The mean over probes, and its standard error. NaN where f is not finite at a node that has weight.

    Example:
      >>> import hessjax as hj
      >>> q = hj.slq(hj.Matrix(jnp.eye(3)), jax.random.key(0), num_probes=2)
      >>> round(float(hj.spectral_function(q, jnp.exp).value), 4)
      2.7183
    """
    if not callable(f):
        raise TypeError(f"f is {type(f).__name__}, wanted a function of eigenvalues, elementwise.")
    found = _curve(quadrature, lambda nodes: f(nodes)[None], atoms)
    return Estimate(found.value[0], found.std_error[0], quadrature.num_matvecs)


def logdet(
    op: Operator,
    key: PRNGKey,
    *,
    shift: float | Real[Any, ""] = 0.0,
    num_steps: int = 64,
    num_probes: int = 8,
    reorthogonalize: str = "none",
    rtol: float | None = None,
    max_matvecs: int = 10_000,
) -> Estimate:
    """log det(A + shift I); of an operator deflated, over the dimensions left.

    Args:
      op: a symmetric operator A.
      key: draws the probes.
      shift: added to every eigenvalue; A + shift I should be positive definite.
      num_steps: as for `slq`.
      num_probes: as for `slq`.
      reorthogonalize: as for `slq`.
      rtol: repeat with fresh probes until the 95 % interval is within rtol |value|.
      max_matvecs: products that rtol may take; whether it was reached, the result's `interval` tells.

    Returns:
      NaN where a node plus the shift is not above 0.

    Raises:
      ValueError: num_steps or num_probes below 1, an unknown `reorthogonalize`, rtol not above 0.

    Example:
      >>> import hessjax as hj
      >>> found = hj.logdet(hj.Matrix(2.0 * jnp.eye(3)), jax.random.key(0), num_probes=2)
      >>> round(float(found.value), 4)   # 3 log 2
      2.0794

    References: Ubaru, Chen & Saad (2017), SIAM J. Matrix Anal. Appl. 38(4), doi:10.1137/16M1104974.
    """
    if isinstance(shift, str | bytes) or jnp.ndim(shift):
        raise ValueError(f"shift must be a real number, got {shift!r}.")
    check_key(key)
    options = runs(op, num_steps, num_probes, reorthogonalize)
    limit = check_accuracy("rtol", rtol, num_probes, max_matvecs)
    if rtol is None:
        return run(_logdet, op, key, shift, **options)
    return run(to_rtol, op, key, rtol, limit, shift, one=_logdet, each=cost(op, num_steps, num_probes), **options)


def _logdet(op: Operator, key: Any, shift: Any, *, num_steps: int, num_probes: int, full: bool) -> Estimate:
    t = tridiagonals(op, key, num_steps=num_steps, num_probes=num_probes, full=full)
    log = lambda nodes: jnp.where(nodes + shift > 0, jnp.log(jnp.where(nodes + shift > 0, nodes + shift, 1)), jnp.nan)
    value, std_error, num_matvecs = spectral_function(gauss(t, op, num_steps), log)
    count = op.size - op.num_deflated
    return Estimate(count * value, count * std_error, num_matvecs)


def _curve(q: Quadrature, f: Callable[[Array], Array], atoms: Eigenpairs | None) -> Curve:
    """The mean of f: [m] -> [points, m] over the eigenvalues: the probes' nodes, and atoms at their own mass."""
    _check_quadrature(q)

    def one_probe(nodes, weights):
        seen = weights != 0  # an unused slot's node is no eigenvalue: f may be infinite there
        return jnp.sum(jnp.where(seen, f(nodes) * weights, 0), axis=-1)

    value, std_error = mean(jax.vmap(one_probe)(q.nodes, q.weights))
    if atoms is None:
        return Curve(value, std_error)
    _check_atoms(q, atoms)
    known = jnp.mean(f(atoms.values.astype(q.nodes.dtype)), axis=-1)
    return Curve((1 - q.left_out) * value + q.left_out * known, (1 - q.left_out) * std_error)


def _concrete(x: Any) -> bool:
    return not isinstance(x, Tracer)


def _points(name: str, given: Any) -> Array:
    points = jnp.asarray(given)
    if points.ndim != 1:
        raise ValueError(f"{name} has shape {points.shape}, wanted values of lambda in one dimension.")
    return points


def _check_quadrature(q: Any) -> None:
    if not isinstance(q, Quadrature):
        raise TypeError(f"quadrature is {type(q).__name__}, wanted what hj.slq(op, key) or hj.kpm(op, key) returns.")


def _check_width(width: Any, q: Quadrature) -> None:
    _check_quadrature(q)
    if not _concrete(width):
        return
    if not width > 0:
        raise ValueError(f"width must be above 0, in units of the eigenvalues; got {width!r}.")
    if _concrete(q.resolution) and width < q.resolution:
        warnings.warn(
            f"width {float(width):.3g} is below the quadrature's resolution {float(q.resolution):.3g}: peaks may be "
            "nodes, not eigenvalues; take more steps, or a wider kernel.",
            stacklevel=3,
        )


def _check_atoms(q: Quadrature, atoms: Eigenpairs) -> None:
    if not _concrete(q.left_out):
        return
    count, size = len(atoms.values), sum(x[0].size for x in jax.tree.leaves(atoms.vectors))
    left_out = round(float(q.left_out) * size)
    if left_out != count:
        raise ValueError(
            f"atoms are {count} eigenvalues of {size}, but the quadrature leaves out {left_out}; take it of the "
            "deflated operator: slq(deflate(op, atoms), key)."
        )
