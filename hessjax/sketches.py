"""Traces from a sketch of the operator's range: Hutch++ and XTrace, the latter with an unbiased error estimate.

What the sketch holds is traced exactly, what it leaves by random vectors. XTrace's published error takes its
leave-one-out samples for independent and covers the truth too rarely; here their covariance is estimated as well,
without bias, from the samples that leave two vectors out (`_leave_out`). Called by traces.py, which has the docs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from hessjax import stacks, trees
from hessjax.driving import between, over, product, products, ready, space
from hessjax.estimates import Estimate, mean, normal_equivalent
from hessjax.krylov import eps, orthogonalize, product_eps
from hessjax.operators import Operator
from hessjax.trees import PRNGKey

__all__ = [
    "along_axes",
    "exact_square",
    "exact_trace",
    "hutchpp",
    "hutchpp_cost",
    "hutchpp_square",
    "image_length",
    "mean_square",
    "rounding",
    "sampled",
    "xtrace",
]


STREAMED_AXES = 256  # unit vectors, and their products, held in one pass over streamed data


def sampled(op: Operator, draw: Partial, xs: PyTree, sample: Callable) -> PyTree:
    """sample(z, A z) for z = draw(x) of every x (leading axis)."""
    if op.streamed:
        block = between(_drawn, draw, xs)
        return jax.vmap(sample)(block, products(op, block))

    def one(x):
        z = trees.vary_with(draw(x), op)
        return sample(z, product(op, z))

    return over(op, one, xs)


def _drawn(draw: Partial, xs: PyTree) -> PyTree:
    return jax.vmap(draw)(xs)


def image_length(z: PyTree, az: PyTree) -> Float[Array, ""]:
    """||A z||; the mean of its square over random z is the square of the Frobenius norm."""
    return trees.norm(az)


def mean_square(lengths: Float[Array, " k"], unit: Any = None) -> tuple[Array, Array, Array]:
    """Mean and standard error of (lengths / unit)^2, and the unit, the largest where None is given.

    Example:
      >>> value, error, unit = mean_square(jnp.array([1e30, 1e30]))
      >>> float(value), float(error), float(unit) > 9e29
      (1.0, 0.0, True)
    """
    if unit is None:
        largest = jnp.max(lengths)
        unit = jnp.where(largest > 0, largest, 1)
    return *mean((lengths / unit) ** 2), unit


def hutchpp(op: Operator, key: Any, *, num_probes: int) -> Estimate:
    """tr A: exactly on the range of half the vectors, from the other half on its complement."""
    if num_probes >= op.size - op.num_deflated:
        return exact_trace(op)
    op = ready(op, hutchpp_cost(num_probes))
    basis, image, left, rest = _halves(op, key, num_probes)
    held = jnp.diagonal(trees.gram(basis, image))
    samples = sampled(op, left, rest, trees.dot)
    value, error = mean(samples)
    error = error * normal_equivalent(len(samples), num_probes)  # fewer samples than probes: a longer tail
    error = jnp.hypot(error, rounding(op, jnp.sum(jnp.abs(held)) + jnp.abs(value)))
    return Estimate(jnp.sum(held) + value, error, jnp.int32(hutchpp_cost(num_probes)))


def hutchpp_square(op: Operator, key: Any, *, num_probes: int, unit: Any = None) -> tuple[Estimate, Array]:
    """||A||_F^2 in units of unit^2, as `hutchpp`; and the unit, chosen where None is given."""
    if num_probes >= op.size - op.num_deflated:
        return exact_square(op, unit)
    op = ready(op, hutchpp_cost(num_probes))
    _, image, left, rest = _halves(op, key, num_probes)
    lengths, held = sampled(op, left, rest, image_length), _lengths(image)
    if unit is None:
        unit = mean_square(jnp.concatenate([lengths, held]))[2]
    value, error, _ = mean_square(lengths, unit)
    error = error * normal_equivalent(len(lengths), num_probes)
    value = value + jnp.sum((held / unit) ** 2)
    error = jnp.hypot(error, rounding(op, value))
    return Estimate(value, error, jnp.int32(hutchpp_cost(num_probes))), unit


def hutchpp_cost(num_probes: int) -> int:
    """Products of `hutchpp`: half the vectors, the basis of their images, the other vectors.

    Example:
      >>> hutchpp_cost(40), hutchpp_cost(1)
      (60, 3)
    """
    return max(num_probes, 2) + max(num_probes // 2, 1)


def _halves(op: Operator, key: Any, num_probes: int) -> tuple[PyTree, PyTree, Partial, PyTree]:
    """A basis of the range of half the vectors and its image; what makes samples of the other half, and these."""
    half = max(num_probes // 2, 1)
    vectors = trees.vary_with(between(_normals, op.domain(), key, count=max(num_probes, 2)), op)
    sketch, rest = (jax.tree.map(lambda x, a=a, b=b: x[a:b], vectors) for a, b in ((0, half), (half, None)))
    basis = between(_orthonormal, products(op, sketch), rounding=eps(op))
    dimension = op.size - op.num_deflated - jnp.sum(_lengths(basis) > 0.5)
    return basis, products(op, basis), Partial(_left, basis, dimension), rest


def rounding(op: Operator, size: Float[Array, ""]) -> Float[Array, ""]:
    """What a sum of n terms of absolute sum `size` errs by: terms rounded as products are, summed in blocks."""
    return (4 * op.size**0.25 * eps(op) + product_eps(op) - eps(op)) * size


def _left(basis: PyTree, square: Any, z: PyTree) -> PyTree:
    """What a basis leaves of z, at the length whose square is given."""
    z = orthogonalize(z, basis, len(jax.tree.leaves(basis)[0]))
    length = trees.norm(z)  # noise in a Gaussian vector, and independent of its direction
    return trees.scale(jnp.where(length > 0, jnp.sqrt(square) / jnp.where(length > 0, length, 1), 0), z)


def exact_trace(op: Operator) -> Estimate:
    """tr A from n unit vectors."""
    total = jnp.sum(along_axes(op, trees.dot))
    return Estimate(total, 0 * total, jnp.int32(op.size))  # of NaN, nothing is known


def exact_square(op: Operator, unit: Any = None) -> tuple[Estimate, Array]:
    """||A||_F^2 in units of unit^2 from n unit vectors, and the unit, chosen where None is given."""
    square, _, unit = mean_square(along_axes(op, image_length), unit)
    return Estimate(op.size * square, 0 * square, jnp.int32(op.size)), unit


def along_axes(op: Operator, sample: Callable) -> Float[Array, " n"]:
    """sample(e, A e) of every unit vector e."""
    op, draw, axes = ready(op, op.size), Partial(_axis, op.domain()), jnp.arange(op.size)
    if not op.streamed:
        return sampled(op, draw, axes, sample)
    parts = [axes[k : k + STREAMED_AXES] for k in range(0, op.size, STREAMED_AXES)]
    return jnp.concatenate([sampled(op, draw, part, sample) for part in parts])


def _axis(domain: Operator, j: Any) -> PyTree:
    """The unit vector of a parameter's own direction, the j-th."""
    flat, unravel = trees.ravel(trees.zeros_like(space(domain)))
    return domain.confine(unravel((jnp.arange(flat.size) == j).astype(flat.dtype)))


def _lengths(block: PyTree) -> Float[Array, " k"]:
    return jax.vmap(trees.norm)(block)


def _orthonormal(block: PyTree, *, rounding: float) -> PyTree:
    """An orthonormal basis of a block's span; zero rows where a vector lies in the span of those before it."""
    count = len(jax.tree.leaves(block)[0])
    lengths = _lengths(block)
    least = 8 * rounding * jnp.max(lengths)

    def add(k, basis):
        w = orthogonalize(jax.tree.map(lambda x: x[k], block), basis, count)
        w = orthogonalize(w, basis, count)  # nearly dependent vectors: what is left is mostly rounding of the first
        length = trees.norm(w)
        q = trees.scale(jnp.where(length > least, 1 / jnp.where(length > least, length, 1), 0), w)
        return jax.tree.map(lambda rows, x: rows.at[k].set(x), basis, q)

    return jax.lax.fori_loop(0, count, add, jax.tree.map(jnp.zeros_like, block))


class Sketch(NamedTuple):
    """What XTrace needs of test vectors W, Q (a basis of the range of A W) and A, in the coordinates of Q.

    `removed` has in row i the unit vector of the range of Q orthogonal to all A w_j but j = i; zero where w_i can be
    left out without losing any of the range. `own` are w_i' A w_i, `square` are ||w_i||^2.
    """

    matrix: Float[Array, "m m"]
    vectors: Float[Array, "m m"]
    images: Float[Array, "m m"]
    removed: Float[Array, "m m"]
    own: Float[Array, " m"]
    square: Float[Array, " m"]
    rank: Float[Array, ""]


def xtrace(op: Operator, key: Any, *, num_probes: int) -> Estimate:
    """tr A from num_probes sketches that each leave one test vector out, for the vector to estimate the rest."""
    size, op = op.size - op.num_deflated, ready(op, 2 * num_probes)
    if num_probes >= size:
        return exact_trace(op)
    sketch = _sketch(op, key, num_probes)
    value, error = between(_without_one, sketch, size=size)
    error = jnp.hypot(error, rounding(op, jnp.sum(jnp.abs(jnp.diagonal(sketch.matrix)))))
    return Estimate(value, error, jnp.int32(2 * num_probes))


def _without_one(sketch: Sketch, *, size: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean of the samples that each leave a vector out, and its standard error with their covariance."""
    samples, pairs = _leave_out(sketch, size)
    value, error = mean(samples)
    unit, count = jnp.max(jnp.abs(pairs)), len(samples)
    pairs = pairs / jnp.where(unit > 0, unit, 1)
    covariance = jnp.sum(pairs * pairs.T) / max(count * (count - 1), 1)
    return value, jnp.hypot(error, unit * jnp.sqrt(jnp.maximum(covariance, 0)))


def _sketch(op: Operator, key: Any, count: int) -> Sketch:
    w = trees.vary_with(between(_normals, op.domain(), key, count=count), op)
    y = products(op, w)
    q = between(_orthonormal, y, rounding=eps(op))
    return between(_coordinates, w, y, q, products(op, q), rounding=eps(op))


def _coordinates(w: PyTree, y: PyTree, q: PyTree, z: PyTree, *, rounding: float) -> Sketch:
    """From W, Y = A W, Q and Z = A Q."""
    r = trees.gram(q, y)
    left, sizes, right = stacks.svd(r)
    kept = sizes > 4 * len(r) * rounding * sizes[0]
    onto = jnp.where(kept, left, 0)  # coordinates: of the numerical range alone
    inverse = jnp.where(kept, sizes[0] / jnp.where(kept, sizes, 1), 0)[:, None] * right  # directions alone matter
    # w_i is needed for the range only if no vanishing combination of the A w_j involves it.
    involved = jnp.sum(jnp.where(kept[:, None], 0, right) ** 2, axis=0) > rounding
    length = jnp.linalg.norm(inverse, axis=0)
    removed = jnp.where(involved | (length == 0), 0, inverse / jnp.where(length > 0, length, 1)).T
    turn = partial(jnp.matmul, precision="highest")
    return Sketch(
        turn(turn(onto.T, trees.gram(q, z)), onto),
        turn(onto.T, trees.gram(q, w)).T,
        turn(onto.T, trees.gram(z, w)).T,
        removed,
        jax.vmap(trees.dot)(w, y),
        _lengths(w) ** 2,
        jnp.sum(kept).astype(r.dtype),
    )


def _leave_out(s: Sketch, size: int) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    """The trace with sketches that leave w_i out, t_i; and how much each changes when w_j is left out too, D_ij.

    Given the other vectors, t_i is unbiased: E[t_i - tr A | w_j, j != i] = 0. So of t_i and t_j only the parts that
    involve both w_i and w_j covary, and these are what leaving the other one out changes: cov(t_i, t_j) =
    E[D_ij D_ji], exactly. The variance of the mean of m samples is then their own over m, which the scatter of the t_i
    estimates less one covariance, plus that covariance.
    """
    turn = partial(jnp.matmul, precision="highest")
    one = jnp.sum(s.removed**2, axis=1)  # 1 where leaving w_i out takes a dimension, else 0
    along = turn(s.removed, s.vectors.T)  # [j, i]: s_j . w_i
    x = s.vectors - jnp.diagonal(along)[:, None] * s.removed
    bent = turn(s.removed, s.matrix)
    k = turn(bent, s.removed.T)  # s_i' H s_j
    base = s.own - 2 * jnp.sum(x * s.images, axis=1) + jnp.sum(turn(x, s.matrix) * x, axis=1)
    left = s.square - jnp.sum(x * x, axis=1)
    without = jnp.trace(s.matrix) - jnp.diagonal(k)

    def total(held, form, square, rank):
        """Trace on the sketch, plus the rest's from one vector scaled to the length a unit variance has there."""
        dimension = size - rank
        return held + jnp.where(square > 0, dimension * form / jnp.where(square > 0, square, 1), 0)

    samples = total(without, base, left, s.rank - one)
    # Leaving w_j out as well takes u = (s_j - c s_i) / sqrt(1 - c^2), c = s_i . s_j, from the range: rows i, columns j.
    c = turn(s.removed, s.removed.T)
    sine2 = 1 - c**2
    usable = (one[:, None] * one[None, :] > 0.5) & (sine2 > 1e-4) & ~jnp.eye(len(c), dtype=bool)
    sine2 = jnp.where(usable, sine2, 1)
    sine = jnp.sqrt(sine2)
    mine = lambda m: (m.T - c * jnp.diagonal(m)[:, None]) / sine  # [j, i] of s_j . y_i -> [i, j] of u_ij . y_i
    g = mine(along)
    u_image, u_bent_x = mine(turn(s.removed, s.images.T)), mine(turn(bent, x.T))
    u_k_u = (jnp.diagonal(k)[None, :] - 2 * c * k + c**2 * jnp.diagonal(k)[:, None]) / sine2
    form = base[:, None] + 2 * g * u_image - 2 * g * u_bent_x + g**2 * u_k_u
    both = total(without[:, None] - u_k_u, form, left[:, None] + g**2, s.rank - 2)
    return samples, jnp.where(usable, samples[:, None] - both, 0)


def _normals(domain: Operator, key: PRNGKey, *, count: int) -> PyTree:
    draw = lambda k: trees.lift(domain.confine(trees.normal_like(k, space(domain))))
    return jax.vmap(draw)(jax.random.split(key, count))
