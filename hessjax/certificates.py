"""Whether a critical point is really there, how far away, and with which index: by Newton and Kantorovich.

With b = ||H^-1||, s = ||H^-1 g|| and a Lipschitz constant K of the Hessian around a point, b K s <= 1/2 proves that
exactly one critical point lies within r = 2 s / (1 + (1 - 2 b K s)^1/2), and as K r < 1 / b no eigenvalue changes its
sign on the way: its index is the one here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from hessjax import trees
from hessjax.arguments import check_tolerance, hashable
from hessjax.assembly import dense
from hessjax.curvature import Hessian
from hessjax.kinks import Kinks, kinks
from hessjax.objective import mean_loss

__all__ = ["Certificate", "certify_point"]

FACTOR = 2.0  # by which an estimate of K is enlarged
PROBES, ITERATIONS = 8, 20  # directions from which third derivatives are maximised, and how often each is improved
DRAWS = 4  # of the rounding of the gradient
CLEARANCE = 10.0  # radii that the nearest tie must be away, in its own units


class Certificate(NamedTuple):
    """What is known of the critical point near a point.

    `certified`: it exists within `radius`, and has `index` negative eigenvalues and no zero one; `holds` says the same
    of a K that was estimated. `unique` is the radius within which there is no other. `lipschitz` is K, `kantorovich`
    b K s, to be at most 1/2, `step` the length s of the Newton step (of the shortest one where H is singular, and
    nothing is proved), `min_abs_eigenvalue` the least |eigenvalue| that does not count as zero, `gap` the ratio of the
    least |eigenvalue| that does not to the largest that does (inf where none does), and `rounding` what was taken for
    the error of H's eigenvalues.
    """

    certified: bool
    holds: bool
    radius: float
    unique: float
    index: int
    nullity: int
    lipschitz: float
    kantorovich: float
    step: float
    min_abs_eigenvalue: float
    gap: float
    rounding: float
    notes: tuple[str, ...]


def certify_point(
    loss: Callable[..., Any],
    point: PyTree,
    batch: PyTree = None,
    *,
    lipschitz: float | Callable[[PyTree, float], float] | None = None,
    tol: float = 1e-8,
) -> Certificate:
    """Whether a critical point exists near a point, with the index that the Hessian has here.

    Args:
      loss: `loss(params, batch) -> [N]` or scalar; `loss(params)` where batch is None. Its mean over rows is meant.
        Compiled once: what it closes over is that of the first call.
      point: any pytree of floating arrays; float64 (x64), as a rule.
      batch: any pytree, or None.
      lipschitz: K with ||H(x) - H(y)|| <= K ||x - y|| (largest |eigenvalue|, Euclidean norm) around the point: a
        number that holds everywhere, or a function of the point and a radius, as landscapes that know it have it under
        `facts["hessian_lipschitz"]`. Only with it is anything certified. None: twice the largest third derivative that
        8 searches by products find at the point.
      tol: eigenvalues count as zero up to tol times the largest absolute row sum of the Hessian.

    Returns:
      Certificate. The rounding of the gradient is measured (by moving the params by their eps), that of eigenvalues
      taken to be 32 n eps of the largest absolute row sum: the arithmetic of the loss itself is not enclosed.

    Raises:
      TypeError, ValueError: as `hj.dense` and `hj.kinks.kinks`; lipschitz is negative or not finite; tol is no number
        from 0 up.

    Example:
      >>> import hessjax as hj
      >>> loss = lambda x: x[0] ** 2 - x[1] ** 2 + x[0] ** 3 / 6
      >>> found = hj.certify_point(loss, jnp.array([1e-4, 0.0]), lipschitz=1.0)
      >>> found.certified, found.index, found.radius < 1.1e-4
      (True, 1, True)

    References: Kantorovich (1948); Ortega (1968), doi:10.2307/2313800; Nocedal & Wright (2006), section 11.1.
    """
    check_tolerance("tol", tol)
    point = jax.tree.map(jnp.asarray, point)
    found = kinks(loss, point, batch)
    flat, unravel = ravel_pytree(point)
    kept = hashable(loss)
    value, g, matrix, noise = (np.asarray(x, np.float64) for x in _derivatives(kept, point, batch))
    eps = trees.eps(point)
    if not all(np.isfinite(x).all() for x in (value, g, matrix)):
        return _nothing(("the loss, its gradient or its Hessian is not finite",))
    values, vectors = np.linalg.eigh(matrix)
    size = float(np.abs(matrix).sum(1).max())
    rounding, sizes = 32 * len(flat) * eps * size, np.abs(values)
    zero = sizes <= max(tol * size, rounding)
    least = float(sizes[~zero].min(initial=math.inf))
    parts = (g @ vectors)[~zero] / values[~zero]
    step, index = float(np.linalg.norm(parts)), int((values[~zero] < 0).sum())
    gap = least / float(sizes[zero].max()) if zero.any() and sizes[zero].max() > 0 else math.inf
    known = {"index": index, "nullity": int(zero.sum()), "step": step, "min_abs_eigenvalue": least, "gap": gap}
    notes = _notes(found)
    if zero.any():
        note = f"{zero.sum()} eigenvalues are zero, {gap:.3g} times smaller than the others: nothing is proved"
        return _nothing((*notes, note))._replace(**known, rounding=rounding)
    inverse = 1 / (least - rounding)
    step += inverse * float(noise)
    way = unravel(jnp.asarray(vectors @ (g @ vectors / values), flat.dtype))
    k, supplied = _constant(lipschitz, kept, point, batch, 2 * step, way)
    h = inverse * k * step
    radius = 2 * step / (1 + math.sqrt(1 - 2 * h)) if h <= 0.5 else math.nan
    unique = _unique(lipschitz, point, inverse, step, k) if h <= 0.5 else math.nan
    clear = not found.num_tied and not found.unread and not found.margin <= CLEARANCE * radius
    holds = h <= 0.5 and clear and found.finite and least - rounding > k * radius
    return Certificate(
        certified=holds and supplied,
        holds=holds,
        radius=radius,
        unique=unique,
        lipschitz=k,
        kantorovich=h,
        rounding=rounding,
        notes=(*notes, *([] if supplied else [f"K is {FACTOR:g} times the largest third derivative found"])),
        **known,
    )


def _unique(lipschitz: Any, point: PyTree, inverse: float, step: float, k: float) -> float:
    """The radius without another critical point, as far as K holds: a function is asked for larger balls."""
    alone = lambda k: math.inf if k == 0 else (1 + math.sqrt(max(1 - 2 * inverse * k * step, 0))) / (inverse * k)
    if not callable(lipschitz):
        return alone(k)
    best = reach = 2 * step or 1e-12
    larger: Any = k
    for _ in range(80):
        reach *= 2
        larger = lipschitz(point, reach)
        if not 2 * inverse * float(larger) * step <= 1:
            break
        best = max(best, min(reach, alone(float(larger))))
    else:
        return math.inf if float(larger) == 0 else best
    return best


def _nothing(notes: tuple[str, ...]) -> Certificate:
    nan = math.nan
    return Certificate(False, False, nan, nan, 0, 0, nan, nan, nan, nan, nan, nan, notes)


def _notes(found: Kinks) -> tuple[str, ...]:
    notes = [f"at a kink: {site}" for site in found.sites if site.num_tied]
    notes += [f"dead units: {layer}" for layer in found.dead if layer.num_dead]
    notes += [f"perhaps kinks in what is not read: {name}" for name in found.unread]
    return tuple(notes)


@partial(jax.jit, static_argnums=0)
def _derivatives(loss: Callable, point: PyTree, batch: PyTree) -> tuple[Array, Array, Array, Array]:
    """The loss, g and H, and how far rounding of the params moves g."""
    value = lambda p: mean_loss(loss, p, batch)
    gradient = jax.grad(value)
    g = gradient(point)

    moved = lambda key: trees.norm(trees.axpy(-1, g, gradient(trees.nudged(key, point))))
    noise = jnp.max(jax.lax.map(moved, jax.random.split(jax.random.key(0), DRAWS)))
    return value(point), ravel_pytree(g)[0], dense(Hessian(loss, point, batch)), noise


def _constant(
    lipschitz: Any, loss: Callable, point: PyTree, batch: PyTree, radius: float, way: PyTree
) -> tuple[float, bool]:
    """K around the point, and whether it was supplied."""
    if lipschitz is None:
        return FACTOR * float(_third(loss, point, batch, way)), False
    given: Any = lipschitz(point, radius) if callable(lipschitz) else lipschitz
    k = float(given)
    if not 0 <= k < math.inf:
        raise ValueError(f"lipschitz must be a finite number from 0 up, got {k!r}.")
    return k, True


@partial(jax.jit, static_argnums=0)
def _third(loss: Callable, point: PyTree, batch: PyTree, way: PyTree) -> Float[Array, ""]:
    """The largest ||D^3 f[u, u, .]|| that is met on the way from random u, and from the Newton step, to its maxima.

    Reference: De Lathauwer, De Moor & Vandewalle (2000), doi:10.1137/S0895479898346995 (the power method).
    """
    gradient = jax.grad(lambda p: mean_loss(loss, p, batch))
    product = lambda p, u: jax.jvp(gradient, (p,), (u,))[1]

    def unit(v):
        length = trees.norm(v)
        return trees.scale(jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0), v)

    def climb(u):
        def better(state, _):
            u, most = state
            w = jax.jvp(lambda p: product(p, u), (point,), (u,))[1]
            return (unit(w), jnp.maximum(most, trees.norm(w))), None

        return jax.lax.scan(better, (unit(u), jnp.zeros((), trees.scalar_dtype(u))), length=ITERATIONS)[0][1]

    random = jax.lax.map(lambda key: climb(trees.normal_like(key, point)), jax.random.split(jax.random.key(0), PROBES))
    return jnp.maximum(jnp.max(random), climb(way))
