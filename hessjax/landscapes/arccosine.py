"""Two-layer ReLU networks under Gaussian inputs, in closed form: population loss, gradient and Hessian.

For x ~ N(0, I), f(w, v) = E relu(w.x) relu(v.x) = (1/2 pi) (|w||v| sin t + (pi - t) w.v) with t the angle between w and
v: half the arc-cosine kernel of order one. It is C^2 where w and v are not 0, angles 0 and pi included, where the mixed
second derivative is I / 2 and 0. At w = 0 it has a kink; derivatives here are then the mean of the one-sided ones, as
if t were pi / 2 (ReLU's derivative at 0 taken as 1/2), and the curvature of the kink, which is infinite, is left out.

References: Cho & Saul (2009), NeurIPS 22, eq. 6; Safran & Shamir (2018), ICML, arXiv:1712.08968, section 3.
"""

from __future__ import annotations

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["gradient", "hessian", "population_loss"]


def population_loss(
    w: Float[Array | np.ndarray, "students inputs"], v: Float[Array | np.ndarray, "teachers inputs"]
) -> Float[Array, ""]:
    """F = 1/2 E (sum_i relu(w_i.x) - sum_j relu(v_j.x))^2 over x ~ N(0, I), without sampling.

    That is 1/2 sum f(w_i, w_j) - sum f(w_i, v_j) + 1/2 sum f(v_i, v_j). Automatic derivatives of first and second order
    are exact at every angle; memory is O(n (n + k) d).

    Args:
      w: student units, one a row.
      v: teacher units, one a row.

    Returns:
      The loss; its rounding error is of the order of eps times the sum of all |u||u'|, not of the loss.

    Example:
      >>> w = jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> float(population_loss(w, jnp.zeros((1, 2)))), float(population_loss(w, w))
      (1.5683..., 0.0)
    """
    w, v = jnp.asarray(w), jnp.asarray(v)
    return _pairs(w, w) / 2 - _pairs(w, v) + _pairs(v, v) / 2


def _pairs(w: Float[Array, "units inputs"], u: Float[Array, "others inputs"]) -> Float[Array, ""]:
    """The sum of f(w_i, u_j) over all pairs."""
    (a, unit_w), (b, unit_u) = _polar(w), _polar(u)
    # Half angles from differences and sums of unit vectors: the cosine alone cannot tell angles below sqrt(eps) apart.
    x = jnp.sum((unit_w[:, None] - unit_u) ** 2, -1) / 4
    y = jnp.sum((unit_w[:, None] + unit_u) ** 2, -1) / 4
    return jnp.sum(_pair(a[:, None], b, jnp.sum(w[:, None] * u, -1), x, y))


@jax.custom_jvp
def _polar(w: Float[Array, "units inputs"]) -> tuple[Float[Array, " units"], Float[Array, "units inputs"]]:
    """Norms and unit vectors of the rows; a row of 0 has the unit vector 0 and no derivative."""
    norm = jnp.sqrt(jnp.sum(w * w, -1))
    return norm, w * _reciprocal(norm)[:, None]


@_polar.defjvp
def _polar_jvp(primals, tangents):
    (w,), (dw,) = primals, tangents
    norm, unit = _polar(w)
    along = jnp.sum(unit * dw, -1)
    return (norm, unit), (along, (dw - along[:, None] * unit) * _reciprocal(norm)[:, None])


def _reciprocal(a: Float[Array, " units"]) -> Float[Array, " units"]:
    """1 / a, and 0 where a is 0; the inner where keeps the derivative finite there too."""
    return jnp.where(a > 0, 1 / jnp.where(a > 0, a, 1), 0)


@jax.custom_jvp
def _pair(a, b, c, x, y):
    """The function f of the norms a and b, the product c = w.v, x = sin^2(t/2) and y = cos^2(t/2)."""
    t = _angle(x, y)
    return (a * b * jnp.sin(t) + (np.pi - t) * c) / (2 * np.pi)


@_pair.defjvp
def _pair_jvp(primals, tangents):
    """The terms in dt cancel, a b cos t = c, and with them all that is singular in a first derivative."""
    (a, b, _, x, y), (da, db, dc, _, _) = primals, tangents
    t = _angle(x, y)
    return _pair(*primals), (jnp.sin(t) * (b * da + a * db) + (np.pi - t) * dc) / (2 * np.pi)


@jax.custom_jvp
def _angle(x, y):
    return 2 * jnp.arctan2(jnp.sqrt(x), jnp.sqrt(y))


@_angle.defjvp
def _angle_jvp(primals, tangents):
    """With x + y = 1, dt = (y dx - x dy) / sqrt(xy); 0 at angles 0 and pi, where what it multiplies is 0."""
    (x, y), (dx, dy) = primals, tangents
    bent = x * y > 0
    slope = jnp.where(bent, 1 / jnp.sqrt(jnp.where(bent, x * y, 1)), 0)
    return _angle(x, y), slope * (y * dx - x * dy)


def gradient(
    w: Float[Array | np.ndarray, "students inputs"],
    v: Float[Array | np.ndarray, "teachers inputs"],
    xp: ModuleType = np,
) -> Float[Array | np.ndarray, "students inputs"]:
    """The gradient of `population_loss` with respect to w, sum_j g(w_i, w_j) - sum_j g(w_i, v_j).

    Here g(w, v) = (1/2 pi) (|v| sin t w / |w| + (pi - t) v), and v / 4 at w = 0.

    Args:
      w: student units, one a row.
      v: teacher units, one a row.
      xp: `numpy`, or `jax.numpy` where it is to be compiled.

    Example:
      >>> gradient(np.eye(2), np.eye(2)).tolist()
      [[0.0, 0.0], [0.0, 0.0]]
    """
    return _pulls(w, w, xp) - _pulls(w, v, xp)


def _pulls(w, u, xp):
    """Sum over j of g(w_i, u_j)."""
    (_, unit_w), (norm_u, unit_u) = _units(w, xp), _units(u, xp)
    cos = unit_w @ unit_u.T
    sin = xp.sqrt(xp.maximum(1 - cos**2, 0))
    # An error of the angle enters times the angle itself, so the cosine is accurate enough here.
    return xp.sum(u, 0) / 2 + ((sin @ norm_u)[:, None] * unit_w - xp.arctan2(sin, cos) @ u) / (2 * np.pi)


def _units(w, xp):
    """Norms and unit vectors of the rows, 0 for a row of 0."""
    norm = xp.sqrt(xp.sum(w * w, -1))
    return norm, w / xp.where(norm > 0, norm, 1)[:, None]


def hessian(
    w: Float[np.ndarray, "students inputs"], v: Float[np.ndarray, "teachers inputs"]
) -> Float[np.ndarray, "size size"]:
    """The Hessian of `population_loss` with respect to w in row-major order, size = students x inputs.

    Block (i, j) is h2(w_i, w_j), and block (i, i) has sum_j h1(w_i, w_j) - sum_j h1(w_i, v_j) added, with
    h1(w, v) = (|v| sin t / 2 pi |w|) (I - ww' / |w|^2 + ee'), e the unit vector towards v at a right angle to w, and
    h2(w, v) = (1/2 pi) ((pi - t) I + sin t (pp' - mm')), p and m the directions of the sum and of the difference of
    the unit vectors. At a row of 0, h1 = 0 and h2 = I / 4 (I / 2 with another row of 0).

    Example:
      >>> hessian(np.ones((1, 2)), np.ones((1, 2))).tolist()
      [[0.5, 0.0], [0.0, 0.5]]
    """
    students, inputs = w.shape
    angle, sin, minus, plus = _bisectors(w, w)
    blocks = np.einsum("ij,ijp,ijq->ipjq", sin, plus, plus) - np.einsum("ij,ijp,ijq->ipjq", sin, minus, minus)
    blocks += np.einsum("ij,pq->ipjq", np.pi - angle, np.eye(inputs))
    blocks /= 2 * np.pi
    each = np.arange(students)
    blocks[each, :, each, :] += _bendings(w, w) - _bendings(w, v)
    return blocks.reshape(students * inputs, students * inputs)


def _bendings(w, u):
    """Sum over j of h1(w_i, u_j), [students, inputs, inputs]."""
    (norm_w, unit_w), (norm_u, _) = _units(w, np), _units(u, np)
    angle, sin, minus, plus = _bisectors(w, u)
    weight = sin * norm_u / (2 * np.pi * np.where(norm_w > 0, norm_w, np.inf)[:, None])
    across = np.cos(angle / 2)[..., None] * minus + np.sin(angle / 2)[..., None] * plus
    off = np.eye(w.shape[1]) - unit_w[:, :, None] * unit_w[:, None, :]
    return weight.sum(1)[:, None, None] * off + np.einsum("ij,ijp,ijq->ipq", weight, across, across)


def _bisectors(w, u):
    """Angles, their sines, and unit vectors along the differences and the sums of the unit vectors.

    The last two are 0 at angles 0 and pi. With a row of 0 they are equal, the angle is pi / 2 and the sine unused.
    """
    (_, unit_w), (_, unit_u) = _units(w, np), _units(u, np)
    minus, plus = unit_u - unit_w[:, None], unit_u + unit_w[:, None]
    apart, along = np.linalg.norm(minus, axis=-1), np.linalg.norm(plus, axis=-1)
    minus /= np.where(apart > 0, apart, 1)[..., None]
    plus /= np.where(along > 0, along, 1)[..., None]
    return 2 * np.arctan2(apart, along), apart * along / 2, minus, plus
