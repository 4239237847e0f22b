"""What to measure while training: `hj.track` takes these, and any function of params.

A measure is `params -> pytree`, or has `init(params) -> state` and `update(params, state, inner_state) -> (value,
state)`, so that it can go on from where it was: extreme eigenvalues are found in the last subspace, in a few products.
`inner_state` is that of the optimiser that `hj.track` wraps, None without one.

>>> import hessjax as hj
>>> measure, w = hj.measures.extremes(lambda w: w[0] ** 2 - 3 * w[1] ** 2, jax.random.key(0), which="SA"), jnp.ones(2)
>>> measure.update(w, measure.init(w), None)[0].values.round(4).tolist()
[-6.0]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from hessjax import trees
from hessjax.arguments import check_count, check_key
from hessjax.curvature import Hessian
from hessjax.estimates import Estimate
from hessjax.extremes import ENDS
from hessjax.negative import Fraction
from hessjax.negative import negative_fraction as _negative_fraction
from hessjax.objective import mean_loss
from hessjax.operators import Operator, Wrapper, pytree
from hessjax.preconditioners import preconditioner as preconditioner_of
from hessjax.projections import Eigenpairs
from hessjax.quadrature import Quadrature, slq
from hessjax.subspaces import matvecs, refined, width
from hessjax.traces import trace as _trace
from hessjax.trees import PRNGKey

__all__ = [
    "Ends",
    "Overlap",
    "density",
    "extremes",
    "negative_fraction",
    "overlap",
    "preconditioned_sharpness",
    "trace",
]


class Ends(NamedTuple):
    """Extreme eigenvalues, ascending, with measured residuals: each is within its residual of a true one."""

    values: Float[Array, " k"]
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]
    num_matvecs: Int[Array, ""]


class Kept(NamedTuple):
    """Between measurements: the best vectors, and how many measurements there were, so that none draws as another."""

    block: PyTree
    number: Int[Array, ""]


class Overlap(NamedTuple):
    """How much of the gradient lies in the span of the top eigenvectors: `share` of its squared norm."""

    share: Float[Array, ""]
    grad_norm: Float[Array, ""]
    ends: Ends


def extremes(
    loss: Callable,
    key: PRNGKey,
    batch: PyTree = None,
    *,
    k: int = 1,
    which: str = "LA",
    rtol: float = 1e-3,
    max_matvecs: int | None = None,
    chunk: int | None = None,
) -> Any:
    """k extreme eigenvalues of the Hessian, the largest being the sharpness, each time from the last subspace.

    Costs k + 7 products where the params have moved little, and more, up to `max_matvecs`, where residuals are above
    `rtol`, as near the edge of stability, where the top eigenvalues are close together. k + 1 vectors are kept between
    measurements, 4 k + 36 in one. An eigenvalue that comes up far from the vectors kept is found by random ones, others
    each time; of a very large model it can be some measurements late. `hj.eigsh` begins from scratch.

    Args:
      loss: `loss(params, batch)`, per example or scalar; or `loss(params)`.
      key: draws vectors.
      batch: data; a constant of the programs compiled with it.
      k: how many.
      which: "LA" largest, "SA" smallest, "LM" largest in magnitude, "BE" from both ends in turn.
      rtol: relative to the largest |Ritz value|. An eigenvalue is within its residual, and usually its square over the
        gap.
      max_matvecs: products of one measurement; None: 50 times as many as the least.
      chunk: rows per pass.

    Raises:
      ValueError: k below 1, an unknown `which`, rtol not above 0, max_matvecs less than k + 7.

    Example:
      >>> import hessjax as hj
      >>> sharpness = hj.measures.extremes(lambda w: 2 * w[0] ** 2 + jnp.cos(w[1]), jax.random.key(0))
      >>> w = jnp.zeros(2)
      >>> value, state = sharpness.update(w, sharpness.init(w), None)
      >>> value.values.round(4).tolist()
      [4.0]

    References: Cohen et al. (2021), arXiv:2103.00065 (sharpness along training).
    """
    options = _checked(key, k, which, rtol, max_matvecs)
    return Extremes(loss, key, batch, chunk, *options)


def overlap(
    loss: Callable,
    key: PRNGKey,
    batch: PyTree = None,
    *,
    k: int = 10,
    rtol: float = 1e-2,
    max_matvecs: int | None = None,
    chunk: int | None = None,
) -> Any:
    """The share of the gradient in the span of the k top eigenvectors, which are kept up to date as in `extremes`.

    Args:
      loss: as in `extremes`.
      key: draws vectors.
      batch: data.
      k: how many eigenvectors.
      rtol: as in `extremes`.
      max_matvecs: as in `extremes`.
      chunk: rows per pass.

    Raises:
      ValueError: as `extremes`.

    Example:
      >>> import hessjax as hj
      >>> f = lambda w: 4 * w[0] ** 2 + w[1] ** 2 / 2
      >>> measure, w = hj.measures.overlap(f, jax.random.key(0), k=1), jnp.array([1.0, 6.0])
      >>> value, _ = measure.update(w, measure.init(w), None)
      >>> round(float(value.share), 3), round(float(value.grad_norm), 3)
      (0.64, 10.0)

    References: Gur-Ari et al. (2018), arXiv:1812.04754, equation 3.
    """
    options = _checked(key, k, "LA", rtol, max_matvecs)
    return _Overlap(Extremes(loss, key, batch, chunk, *options))


def preconditioned_sharpness(
    loss: Callable,
    key: PRNGKey,
    batch: PyTree = None,
    *,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    preconditioner: Callable[[Any], PyTree] | None = None,
    k: int = 1,
    rtol: float = 1e-3,
    max_matvecs: int | None = None,
    chunk: int | None = None,
) -> Any:
    """The largest eigenvalues of P^(-1/2) H P^(-1/2), P what Adam, RMSProp or Adagrad divide gradients by.

    Needs `hj.track(..., inner=optimizer)`. P is read from the optimiser's state before the update: of Adam and its kin
    sqrt(nu / (1 - b2^count) + eps_root) + eps, of RMSProp sqrt(nu + eps), of Adagrad sqrt(sum + eps); at count 0, where
    there is none yet, nothing is measured and the values are NaN. Adamax keeps a state of Adam's type and cannot be
    told from it: give its own P. Compare with `hj.tracking.stability_threshold`, from when 1 - b1^count, by which
    Adam's first steps are larger, is nearly 1.

    Args:
      loss: as in `extremes`.
      key: draws vectors.
      batch: data.
      b2: the optimiser's, for the bias correction, which its state does not tell: another one makes the
        values wrong by the square root of (1 - b2^count) over the same with the optimiser's.
      eps: the optimiser's.
      eps_root: of Adam, the optimiser's.
      preconditioner: P of an optimiser's state, like params, where it is another; None: by the state.
      k: how many eigenvalues.
      rtol: as in `extremes`.
      max_matvecs: as in `extremes`.
      chunk: rows per pass.

    Raises:
      ValueError: as `extremes`; when it is first called, without an optimiser whose state has second moments of a
        kind that is known.

    Example:
      >>> import optax
      >>> import hessjax as hj
      >>> f = lambda w: 8 * w[0] ** 2 + w[1] ** 2
      >>> adam = optax.adam(0.1)
      >>> w, measure = jnp.array([1.0, 1.0]), hj.measures.preconditioned_sharpness(f, jax.random.key(0))
      >>> _, state = adam.update(jax.grad(f)(w), adam.init(w), w)
      >>> value, _ = measure.update(w, measure.init(w), state)          # 16 / 16, and 2 / 2
      >>> value.values.round(4).tolist()
      [1.0]

    References: Cohen et al. (2022), arXiv:2207.14484, section 2.
    """
    options = _checked(key, k, "LA", rtol, max_matvecs)
    sizes = {"b2": b2, "eps": eps, "eps_root": eps_root}
    return _Preconditioned(Extremes(loss, key, batch, chunk, *options), sizes, preconditioner)


def negative_fraction(
    loss: Callable,
    key: PRNGKey,
    batch: PyTree = None,
    *,
    tol: float,
    num_steps: int = 32,
    num_probes: int = 4,
    chunk: int | None = None,
) -> Callable[[PyTree], Fraction]:
    """The share of negative eigenvalues, with the same probes each time: `hj.negative_fraction` of the Hessian.

    Example:
      >>> import hessjax as hj
      >>> f = lambda w: w[0] ** 2 - w[1] ** 2
      >>> share = hj.measures.negative_fraction(f, jax.random.key(0), tol=1e-4, num_probes=400)(jnp.ones(2))
      >>> bool(abs(share.value - 0.5) < 3 * share.std_error)
      True
    """
    sizes: dict[str, Any] = {"num_steps": num_steps, "num_probes": num_probes}
    return lambda params: _negative_fraction(Hessian(loss, params, batch, chunk=chunk), key, tol=tol, **sizes)


def trace(
    loss: Callable, key: PRNGKey, batch: PyTree = None, *, num_probes: int = 8, chunk: int | None = None
) -> Callable[[PyTree], Estimate]:
    """The trace of the Hessian, with the same test vectors each time: `hj.trace`.

    Example:
      >>> import hessjax as hj
      >>> float(hj.measures.trace(lambda w: jnp.sum(w**2), jax.random.key(0))(jnp.ones(3)).value)
      6.0
    """
    return lambda params: _trace(Hessian(loss, params, batch, chunk=chunk), key, num_probes=num_probes)


def density(
    loss: Callable,
    key: PRNGKey,
    batch: PyTree = None,
    *,
    num_steps: int = 64,
    num_probes: int = 4,
    chunk: int | None = None,
) -> Callable[[PyTree], Quadrature]:
    """The spectral density, with the same probes each time: `hj.slq`, for `hj.density`.

    Example:
      >>> import hessjax as hj
      >>> found = hj.measures.density(lambda w: jnp.sum(w**2), jax.random.key(0), num_steps=3)(jnp.ones(3))
      >>> bool(jnp.allclose(found.nodes[:, 0], 2.0))
      True
    """
    sizes: dict[str, Any] = {"num_steps": num_steps, "num_probes": num_probes}
    return lambda params: slq(Hessian(loss, params, batch, chunk=chunk), key, **sizes)


@final
@dataclass(frozen=True, eq=False)
class Extremes:
    """What `extremes` returns: `init`, and `update`, whose `found` has the vectors too."""

    loss: Callable
    key: PRNGKey
    batch: PyTree
    chunk: int | None
    k: int
    which: str
    rtol: float
    max_matvecs: int

    def init(self, params: PyTree) -> Kept:
        """What the first measurement begins with: random vectors."""
        size = trees.size(params)
        if self.k > size:
            raise ValueError(f"k must be at most {size}, the number of params; got {self.k}.")
        keys = jax.random.split(jax.random.fold_in(self.key, 0), width(self.k, size))
        drawn = jax.vmap(lambda key: trees.normal_like(key, trees.structs(params)))(keys)
        return Kept(drawn, jnp.int32(0))

    def update(self, params: PyTree, state: Kept, inner_state: Any) -> tuple[Ends, Kept]:
        """The eigenvalues, and what to begin with the next time."""
        found, kept = self.found(Hessian(self.loss, params, self.batch, chunk=self.chunk), state)
        return _ends(found), kept

    def found(self, op: Operator, state: Kept) -> tuple[Eigenpairs, Kept]:
        """Of an operator on such params."""
        block, key = state.block, jax.random.fold_in(jax.random.fold_in(self.key, 1), state.number)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(block)]))
        block = jax.tree.map(lambda x: jnp.where(finite, x, 0), block)  # a step that was not finite is forgotten
        sizes = {"k": self.k, "which": self.which, "rtol": self.rtol, "max_matvecs": self.max_matvecs}
        found, block = refined(op.linearized(matvecs(self.k + 1)), block, key, **sizes)
        return found, Kept(block, state.number + 1)


@final
@dataclass(frozen=True, eq=False)
class _Overlap:
    top: Extremes

    def init(self, params: PyTree) -> PyTree:
        return self.top.init(params)

    def update(self, params: PyTree, state: PyTree, inner_state: Any) -> tuple[Overlap, PyTree]:
        top = self.top
        found, block = top.found(Hessian(top.loss, params, top.batch, chunk=top.chunk), state)
        grad = jax.grad(lambda p: mean_loss(top.loss, p, top.batch))(params)
        square, inside = trees.dot(grad, grad), trees.dots(found.vectors, grad)
        share = jnp.sum(inside**2) / jnp.where(square > 0, square, jnp.nan)
        return Overlap(share, jnp.sqrt(square), _ends(found)), block


@final
@dataclass(frozen=True, eq=False)
class _Preconditioned:
    top: Extremes
    sizes: dict[str, float]
    given: Callable[[Any], PyTree] | None

    def init(self, params: PyTree) -> PyTree:
        return self.top.init(params)

    def update(self, params: PyTree, state: PyTree, inner_state: Any) -> tuple[Ends, PyTree]:
        top = self.top
        if self.given is None:
            divided, known = preconditioner_of(inner_state, params, **self.sizes)
        else:
            divided, known = trees.conform(self.given(inner_state), params, "preconditioner"), jnp.bool_(True)
        op = Hessian(top.loss, params, top.batch, chunk=top.chunk)
        scaled = _Between(op, jax.tree.map(lambda p, w: jax.lax.rsqrt(p).astype(w.dtype), divided, params))

        def measured(kept: PyTree) -> tuple[Ends, PyTree]:
            found, block = top.found(scaled, kept)
            return _ends(found), block

        unknown = jnp.full(top.k, jnp.nan, trees.scalar_dtype(params))
        none = Ends(unknown, unknown, jnp.zeros(top.k, bool), jnp.int32(0))
        return jax.lax.cond(known, measured, lambda kept: (none, kept), state)


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class _Between(Wrapper):
    """D A D with a diagonal D."""

    a: Operator
    d: PyTree

    def product(self, v: PyTree) -> PyTree:
        times = lambda x: jax.tree.map(jnp.multiply, self.d, x)
        return times(self.a.product(times(v)))

    def products(self, block: PyTree) -> PyTree:
        times = jax.vmap(lambda x: jax.tree.map(jnp.multiply, self.d, x))
        return times(self.a.products(times(block)))

    def linearized(self, num_products: int = 1) -> Operator:
        return _Between(self.a.linearized(num_products), self.d)


def _ends(found: Eigenpairs) -> Ends:
    return Ends(found.values, found.residuals, found.converged, found.num_matvecs)


def _checked(key: Any, k: Any, which: Any, rtol: Any, max_matvecs: Any) -> tuple[int, str, float, int]:
    check_key(key)
    check_count("k", k)
    if which not in ENDS:
        raise ValueError(f"which must be one of {', '.join(ENDS)}; got {which!r}.")
    if not rtol > 0:
        raise ValueError(f"rtol must be above 0, got {rtol!r}.")
    each = matvecs(k + 1)
    limit = 50 * each if max_matvecs is None else max_matvecs
    check_count("max_matvecs", limit, each)
    return k, which, float(rtol), limit
