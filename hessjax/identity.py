"""Which of many points are one and the same, up to what the loss does not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from hessjax.arguments import check_tolerance
from hessjax.critical import CriticalPoints

__all__ = ["Groups", "distinct"]


class Groups(NamedTuple):
    """`label` [points] numbers the groups in order of loss, -1 where a point is not critical; `first` is a point of
    each, and `count` how many there are.
    """

    label: Int[np.ndarray, " points"]
    first: Int[np.ndarray, " groups"]
    count: Int[np.ndarray, " groups"]


def distinct(
    points: CriticalPoints,
    *,
    predict: Callable[[PyTree], Any] | None = None,
    symmetries: Callable[[PyTree], Any] | str | None = None,
    index: Any = None,
    eigenvalues: Any = None,
    rtol: float = 1e-6,
) -> Groups:
    """Groups critical points that are the same: the same loss, and index, predictions and spectra where they are given.

    Params are never compared: a network's hidden units can be permuted, and a linear one has whole manifolds of points
    that compute the same.

    Args:
      points: what `hj.find_critical_points` returned; those that are not critical belong to no group.
      predict: params to predictions, an array or a pytree of them, compared entry by entry:
        lambda params: model(params, inputs).
      symmetries: what else tells points apart. A function from params to a form that no symmetry changes, such as
        a landscape may have under `facts["canonical"]`; or "orthogonal", where all symmetries are orthogonal maps
        (permutations, signs), which keep `eigenvalues`; rescalings of ReLU nets do not.
      index: [points], numbers of negative eigenvalues.
      eigenvalues: [points, n], for symmetries="orthogonal".
      rtol: relative to the largest loss, prediction, entry or |eigenvalue| of all points.

    Raises:
      TypeError: points are not of that kind; predict is no function.
      ValueError: eigenvalues without symmetries="orthogonal", or the other way round; a length that is not the points'.

    Example:
      >>> import hessjax as hj, jax.numpy as jnp
      >>> wells = lambda x: jnp.sum((x**2 - 1) ** 2)
      >>> found = hj.find_critical_points(wells, jnp.array([[1.1, 1.0], [-1.0, 0.9], [0.1, 0.0], [1.0, 0.9]]))
      >>> hj.distinct(found).label.tolist(), hj.distinct(found, symmetries=lambda x: x).label.tolist()
      ([0, 0, 1, 0], [0, 1, 2, 0])
    """
    check_tolerance("rtol", rtol)
    if not hasattr(points, "status"):
        raise TypeError(f"points are {type(points).__name__}, wanted what hj.find_critical_points returns.")
    orthogonal = isinstance(symmetries, str) and symmetries == "orthogonal"
    if orthogonal != (eigenvalues is not None) or not (symmetries is None or orthogonal or callable(symmetries)):
        raise ValueError(
            'symmetries must be None, a function of params, or "orthogonal" with eigenvalues=, which are for nothing '
            f"else; got {_short(symmetries)} {'without' if eigenvalues is None else 'with'} eigenvalues."
        )
    if not (predict is None or callable(predict)):
        raise TypeError(f"predict is {type(predict).__name__}, wanted a function of params.")
    used = np.flatnonzero(points.status == 0)
    kinds = np.zeros(len(points.loss), int) if index is None else np.asarray(index)
    blocks = [np.asarray(points.loss, float)[:, None]]
    blocks += [_of_each(f, points.params) for f in (predict, symmetries) if callable(f)]
    if eigenvalues is not None:
        if np.ndim(eigenvalues) != 2:
            raise ValueError(f"eigenvalues have shape {np.shape(eigenvalues)}, wanted [points, n].")
        blocks.append(np.sort(np.asarray(eigenvalues, float), axis=1))
    for name, block in (("index", kinds), *(("eigenvalues", block) for block in blocks)):
        if np.shape(block)[:1] != (len(points.loss),):
            has = f"{len(block)} rows" if np.ndim(block) else "no rows"
            raise ValueError(f"{name} has {has}, wanted one for each of {len(points.loss)} points.")
    scaled = np.concatenate([block / (np.abs(block[used]).max(initial=0.0) or 1.0) for block in blocks], axis=1)
    label, firsts = np.full(len(points.loss), -1), np.empty(0, int)
    for k in used[np.argsort(points.loss[used], kind="stable")]:
        near = firsts[(np.abs(scaled[firsts] - scaled[k]).max(1) <= rtol) & (kinds[firsts] == kinds[k])]
        if not len(near):
            firsts = np.append(firsts, k)
        label[k] = label[near[0]] if len(near) else len(firsts) - 1
    return Groups(label, firsts, np.bincount(label[used], minlength=len(firsts)))


def _short(symmetries: Any) -> str:
    return repr(symmetries) if symmetries is None or isinstance(symmetries, str) else type(symmetries).__name__


def _of_each(function: Callable, params: PyTree) -> Float[np.ndarray, "points k"]:
    count = len(jax.tree.leaves(params)[0])
    forms = [jax.tree.leaves(function(jax.tree.map(lambda x, k=k: x[k], params))) for k in range(count)]
    rows = [np.concatenate([np.ravel(np.asarray(x, float)) for x in form] or [np.empty(0)]) for form in forms]
    return np.stack(rows) if rows else np.empty((0, 0))
