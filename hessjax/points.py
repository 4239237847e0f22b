"""What kind of point a point of a loss surface is: by its spectrum, and where that does not tell, by what lies beyond.

Strict cases are decided by the signs of the Hessian's eigenvalues. Where some are zero the reduced function is read
(`reduced`): if its first form is of odd order the point is a saddle, if of even order, what its signs say. What is not
proved is undecided.
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
from jax.tree_util import Partial
from jaxtyping import PyTree

from hessjax import trees
from hessjax.arguments import check_tolerance, hashable
from hessjax.assembly import dense
from hessjax.curvature import Hessian
from hessjax.descents import descent
from hessjax.kinks import Kinks, is_smooth_along, kinks
from hessjax.leading import Leading, largest_coefficient, leading_form
from hessjax.objective import mean_loss

__all__ = ["KINDS", "Verdict", "classify_point"]

KINDS = (
    "minimum",
    "maximum",
    "strict saddle",
    "degenerate minimum",
    "degenerate maximum",
    "degenerate saddle",
    "undecided",
    "not critical",
)


TRIED = 8  # eigenvectors of each sign that a line through a kink is tried along, the largest eigenvalues first


class Verdict(NamedTuple):
    """What a point is, and by what.

    `kind` is one of `hj.KINDS`; `index` and `nullity` count eigenvalues below -`threshold` and within it; `direction`
    is a unit step of the params' structure in which the loss goes down to lowest order, None where none is known. Of a
    degenerate point it is where the way down begins: it may bend, and straight on the loss may rise; `hj.escape`
    follows it.
    """

    kind: str
    index: int
    nullity: int
    min_eigenvalue: float
    grad_norm_sq: float
    threshold: float
    direction: PyTree
    notes: tuple[str, ...]


def classify_point(
    loss: Callable[..., Any],
    point: PyTree,
    batch: PyTree = None,
    *,
    tol: float = 1e-8,
    grad_norm_sq_tol: float = 1e-10,
    lower_bound: float | None = None,
) -> Verdict:
    """The kind of a critical point: minimum, maximum, saddle, and whether its Hessian alone says so.

    With all eigenvalues of one sign it is a minimum or a maximum; with both signs, a strict saddle. Where some are zero
    and the others of one sign, the reduced function of the splitting lemma decides, never the loss on the null space:
    on a line, by its first coefficient that is not zero, to sixth order; in more dimensions, by its cubic form (any is
    a saddle), then by its quartic form, whose sign is proved by a sum of squares; failing these, by a curve on which it
    falls like a power over several radii. It is a degenerate minimum also where the loss is `lower_bound`. Everything
    else is undecided: no number of evaluations proves a minimum.

    Args:
      loss: `loss(params, batch) -> [N]` or scalar; `loss(params)` where batch is None. Its mean over rows is meant.
        Compiled once: what it closes over is that of the first call.
      point: any pytree of floating arrays; float64 (x64) where the Hessian is singular.
      batch: any pytree, or None.
      tol: eigenvalues count as zero up to tol times the largest absolute row sum of the Hessian, and not below the
        rounding of the dtype. Leading the Hessian only what is zero to rounding is taken for zero: with an eigenvalue
        between the two the kind is undecided.
      grad_norm_sq_tol: absolute, of the squared gradient norm; above it the point is not critical.
      lower_bound: of the mean loss over all params, where one is known (0 of a sum of squares).

    Returns:
      Verdict. At a kink (`hj.kinks`) the Hessian is that of one side, and the kind is undecided with a note, unless the
      loss goes down on a line where it is smooth, and up on another: a saddle. Where the gradient is not zero, a Newton
      step must lead nearer to a critical point with the same signs.

    Raises:
      TypeError, ValueError: as `hj.dense` and `hj.kinks.kinks`; point is narrower than float32; tol or grad_norm_sq_tol
        is not a number from 0 up; lower_bound is not finite, or above the loss.

    Example:
      >>> import hessjax as hj
      >>> verdict = hj.classify_point(lambda x: x[0] ** 2 - x[1] ** 4, jnp.zeros(2))
      >>> verdict.kind, verdict.index, verdict.nullity, jnp.abs(verdict.direction).tolist()
      ('degenerate saddle', 0, 1, [0.0, 1.0])
      >>> hj.classify_point(lambda x: (x[0] - x[1] ** 2) ** 2, jnp.zeros(2), lower_bound=0.0).kind
      'degenerate minimum'

    References: Gromoll & Meyer (1969), doi:10.1016/0040-9383(69)90022-6 (the splitting lemma); Kawaguchi (2016),
    arXiv:1605.07110 (saddles without negative eigenvalues); Frye et al. (2021), arXiv:2003.10397 (points taken for
    critical).
    """
    check_tolerance("tol", tol)
    check_tolerance("grad_norm_sq_tol", grad_norm_sq_tol)
    if lower_bound is not None and not math.isfinite(lower_bound):
        raise ValueError(f"lower_bound must be finite, got {lower_bound}.")
    point = jax.tree.map(jnp.asarray, point)
    found = kinks(loss, point, batch)
    eps = trees.eps(point)
    if eps > float(jnp.finfo(jnp.float32).eps):
        raise TypeError("point is of a dtype narrower than float32, whose rounding hides every kind; widen it.")
    flat, unravel = ravel_pytree(point)
    surface = _Surface(hashable(loss), unravel, batch, max(tol, 32 * len(flat) * eps), eps)
    here = surface.at(flat)
    if lower_bound is not None and here.loss < lower_bound - 1e3 * eps * max(abs(lower_bound), abs(here.loss)):
        raise ValueError(f"lower_bound is {lower_bound}, and the loss at the point is below it, {here.loss}.")
    kind, step, notes = _critical(surface, here, found, grad_norm_sq_tol, lower_bound)
    direction = None if step is None else unravel(step)
    dead = sum(layer.num_dead for layer in found.dead)
    notes = (*notes, *(f"perhaps kinks in what is not read: {name}" for name in found.unread))
    notes = (*notes, f"{dead} dead units") if dead else notes
    negative, zero, _ = here.counts
    smallest = float(here.values[0])
    return Verdict(kind, negative, zero, smallest, here.grad_norm_sq, here.threshold, direction, notes)


class _Place(NamedTuple):
    """A point, and what of the loss is known there; eigenvectors in columns."""

    x: Any
    loss: float
    gradient: Any
    values: np.ndarray
    vectors: np.ndarray
    counts: tuple[int, int, int]
    threshold: float

    @property
    def grad_norm_sq(self) -> float:
        return float(jnp.linalg.norm(self.gradient)) ** 2

    def split(self, zero: int) -> tuple[Any, Any, Any]:
        """A basis of the null space, one of the range, and the eigenvalues there."""
        order = np.argsort(np.abs(self.values))
        as_params = lambda a: jnp.asarray(a, self.x.dtype)
        within, across = order[:zero], order[zero:]
        return as_params(self.vectors[:, within]), as_params(self.vectors[:, across]), as_params(self.values[across])


@partial(jax.jit, static_argnums=0)
def _first(loss: Callable, point: PyTree, batch: PyTree) -> tuple[Any, PyTree]:
    return jax.value_and_grad(lambda p: mean_loss(loss, p, batch))(point)


@partial(jax.jit, static_argnums=0)
def _second(loss: Callable, point: PyTree, batch: PyTree) -> Any:
    return dense(Hessian(loss, point, batch))


class _Surface(NamedTuple):
    """A mean loss of flat params; what is compiled is kept from one point to the next."""

    of_params: Callable
    unravel: Callable
    batch: PyTree
    tol: float  # of zero eigenvalues, relative, not below the rounding of the Hessian
    eps: float  # of the coarsest params

    def displaced(self, x: Any, sign: float) -> Partial:
        """sign times the loss, of displacements from x: one program for all points."""
        return Partial(_Displaced(self.of_params, self.unravel), x, self.batch, jnp.asarray(sign, x.dtype))

    def at(self, x: Any) -> _Place:
        given = self.of_params, self.unravel(x), self.batch
        (value, gradient), matrix = _first(*given), np.asarray(_second(*given), np.float64)
        finite = bool(np.isfinite(matrix).all())
        values, vectors = np.linalg.eigh(matrix if finite else np.zeros_like(matrix))
        values = values if finite else np.full_like(values, np.nan)
        threshold = self.tol * float(np.abs(matrix).sum(1).max())
        negative, positive = int((values < -threshold).sum()), int((values > threshold).sum())
        counts = negative, len(values) - negative - positive, positive
        return _Place(x, float(value), ravel_pytree(gradient)[0], values, vectors, counts, threshold)


class _Displaced(NamedTuple):
    of_params: Callable
    unravel: Callable

    def __call__(self, x: Any, batch: PyTree, sign: Any, t: Any) -> Any:
        return sign * mean_loss(self.of_params, self.unravel(x + t.astype(x.dtype)), batch)


@jax.jit
def _along(function: Partial, ways: Any) -> Any:
    return jax.lax.map(function, ways)


Decision = tuple[str, Any, tuple[str, ...]]  # kind, step down, notes


def _critical(
    surface: _Surface, here: _Place, found: Kinks, grad_norm_sq_tol: float, lower_bound: float | None
) -> Decision:
    """What has to be true before a spectrum says anything, then what it says."""
    if not math.isfinite(here.loss) or not np.isfinite(here.values).all():
        return "not critical", None, ("the loss or its Hessian is not finite",)
    if not here.grad_norm_sq <= grad_norm_sq_tol:
        return "not critical", None, (f"squared gradient norm {here.grad_norm_sq:.3g} above {grad_norm_sq_tol:.3g}",)
    if found.num_tied:
        return _at_a_kink(surface, here, f"at a kink: {next(str(site) for site in found.sites if site.num_tied)}")
    negative, zero, positive = here.counts
    lowest = jnp.asarray(here.vectors[:, 0], here.x.dtype) if negative else None
    if zero and not (negative and positive):
        return _degenerate(surface, here, lowest, lower_bound)
    if not _steps_home(surface, here, found.margin):
        return "undecided", lowest, ("a Newton step leads to no critical point with the same signs",)
    return ("strict saddle" if negative and positive else "maximum" if negative else "minimum"), lowest, ()


def _at_a_kink(surface: _Surface, here: _Place, note: str) -> Decision:
    """A saddle where the loss is smooth on a line that it goes down on, and on one that it goes up on; else undecided.

    Eigenvectors are tried, of the Hessian of one side: on a line without a tie that moves its curvature is the loss's.
    """
    smooth = {}
    for sign in (-1, 1):
        for k in np.flatnonzero(sign * here.values > here.threshold)[::sign][-TRIED:][::-1]:
            way = jnp.asarray(here.vectors[:, k], here.x.dtype)
            if is_smooth_along(surface.of_params, surface.unravel(here.x), surface.unravel(way), surface.batch):
                smooth[sign] = way
                break
    if smooth.keys() == {-1, 1}:
        if float(jnp.linalg.norm(here.gradient)) > _rounding(surface, here) or _slopes(surface, here):
            return "undecided", smooth[-1], (note, "no minimum and no maximum, perhaps not critical: it slopes down")
        return (
            "strict saddle",
            smooth[-1],
            (note, "smooth on a line on which it goes down, and on one on which it goes up"),
        )
    down = ("no minimum: smooth on a line that goes down",) if -1 in smooth else ()
    return "undecided", smooth.get(-1), (note, *down)


def _slopes(surface: _Surface, here: _Place) -> bool:
    """Whether the loss falls in proportion to a short way somewhere, which the gradient of one side need not say."""
    ways = np.random.default_rng(3).standard_normal((4 * TRIED, len(here.x)))
    ways = np.concatenate([ways, -ways, np.eye(len(here.x))[:256], -np.eye(len(here.x))[:256]])
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    short = 1e-6 * (1 + float(jnp.linalg.norm(here.x)))
    fell = _along(surface.displaced(here.x, 1.0), jnp.asarray(short * ways, here.x.dtype))
    bent = short**2 * float(np.abs(here.values).max())
    return bool(np.min(np.asarray(fell)) - here.loss < -10 * bent - 1e2 * surface.eps * abs(here.loss))


def _steps_home(surface: _Surface, here: _Place, margin: float) -> bool:
    """Whether a Newton step, where there is one to take, leaves a tenth of the gradient and the signs as they are.

    And is short beside the distance of the nearest kink.
    """
    null, across, values = here.split(here.counts[1])
    length, rest = float(jnp.linalg.norm(here.gradient)), float(jnp.linalg.norm(here.gradient @ null))
    rounding = _rounding(surface, here)
    if length <= rounding:
        return True
    step = -(across @ ((here.gradient @ across) / values))
    there = surface.at(here.x + step)
    if margin <= 10 * float(jnp.linalg.norm(step)):
        return False
    left = float(jnp.linalg.norm(there.gradient))
    return there.counts == here.counts and left <= max(0.1 * length, rounding) and rest <= max(0.1 * length, rounding)


def _rounding(surface: _Surface, here: _Place) -> float:
    """What a gradient may be that is zero but for the rounding of the params."""
    return 1e2 * surface.eps * float(np.abs(here.values).max()) * (1 + float(jnp.linalg.norm(here.x)))


def _degenerate(surface: _Surface, here: _Place, lowest: Any, lower_bound: float | None) -> Decision:
    """Of a point whose eigenvalues are zero or of one sign.

    Zero up to `tol` is not zero: an eigenvalue that is above rounding outweighs all that is of higher order near the
    point, so with one of them nothing is decided.
    """
    negative, zero, positive = here.counts
    there = _polished(surface, here)
    moved = float(jnp.linalg.norm(there.x - here.x))
    notes = (f"read {moved:.3g} away, where the gradient has no part in the range",) if moved else ()
    if there.counts != here.counts or moved > 1e-4 * (1 + float(jnp.linalg.norm(here.x))):
        return "undecided", lowest, (*notes, "the signs are others there, or it is far")
    # The rounding of the bound, and of a sum of squares of residuals that are zero but for theirs.
    squares = surface.eps * float(np.abs(there.values).max()) * (1 + float(jnp.linalg.norm(there.x)) ** 2)
    slack = surface.eps * (16 * abs(lower_bound or 0.0) + 1e3 * squares)
    if not negative and lower_bound is not None and there.loss <= lower_bound + slack:
        return "degenerate minimum", None, (*notes, "the loss is its lower bound")
    sign = -1.0 if negative else 1.0  # a maximum's mirror image is a minimum
    null, across, values = there.split(zero)
    function = surface.displaced(there.x, sign)
    coefficients = largest_coefficient(function, len(there.x), there.x.dtype)
    least = 1e4 * surface.eps * max(float(np.abs(there.values).max()) / 2, coefficients)
    hidden = float(np.sort(np.abs(there.values))[zero - 1])
    if hidden > 32 * len(here.x) * surface.eps * float(np.abs(there.values).max()):
        return "undecided", lowest, (*notes, f"eigenvalues up to {hidden:.3g} are below the threshold and not zero")
    if float(jnp.linalg.norm(there.gradient @ null)) > _rounding(surface, there):
        return "undecided", lowest, (*notes, "the gradient has a part in the null space")
    regular = across, jnp.abs(values)
    leading = leading_form(function, null, regular, least, surface.eps)
    if not leading.down and not leading.only_up:
        leading = _searched(surface, there, sign, (null, regular), leading)
    notes, step = (*notes, leading.note), leading.direction if leading.down else None
    if negative:
        if leading.down:
            return "strict saddle", lowest, notes
        return ("degenerate maximum" if leading.only_up else "undecided"), lowest, (*notes, "no minimum")
    if leading.only_up:
        return "degenerate minimum", None, notes
    if leading.only_down and not positive:
        return "degenerate maximum", step, notes
    if leading.down and (positive or leading.up):
        return "degenerate saddle", step, notes
    return "undecided", step, notes


def _searched(surface: _Surface, there: _Place, sign: float, spaces: tuple, leading: Leading) -> Leading:
    """With a curve down, and where there is nothing else that goes up one up, if a search finds them."""
    null, regular = spaces
    down = descent(surface.displaced(there.x, sign), null, regular, eps=surface.eps)
    if down is None:
        return leading
    way = null @ (null.T @ jnp.asarray(down.points[0], there.x.dtype))
    way = way / jnp.linalg.norm(way)
    mirrored = surface.displaced(there.x, -sign)
    up = leading.up or (len(regular[1]) == 0 and descent(mirrored, null, regular, eps=surface.eps) is not None)
    return leading._replace(note=f"{leading.note}; {down}", down=True, up=up, direction=way)


def _polished(surface: _Surface, here: _Place) -> _Place:
    """The point after Newton steps in the range: derivatives of third order are read where the gradient is zero.

    A part of the gradient as small as the cut-off allows moves coefficients by far more than rounding: on a valley of
    minima it would make a saddle of each.
    """
    zero, there = here.counts[1], here
    for _ in range(4):
        _, across, values = there.split(zero)
        step = -(across @ ((there.gradient @ across) / values))
        if float(jnp.linalg.norm(step)) <= 4 * surface.eps * float(jnp.linalg.norm(here.x)):
            break
        there = surface.at(there.x + step)
    return there
