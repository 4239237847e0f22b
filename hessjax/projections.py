"""Operators seen on a part of their space: principal blocks (`restrict`) and complements (`deflate`).

Both are P A P with an orthogonal projector P: onto some leaves of the tree, or away from known eigenvectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree

from hessjax import trees
from hessjax.operators import Operator, Wrapper, check_operand, pytree

__all__ = ["Deflated", "Eigenpairs", "Restricted", "deflate", "restrict"]


class Eigenpairs(NamedTuple):
    """Eigenvalues ascending with unit eigenvectors, along a leading axis k of every leaf of `vectors`.

    `residuals` are ||A v - lambda v||, measured; `converged` where they are within the tolerance asked for.
    """

    values: Float[Array, " k"]
    vectors: PyTree
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]
    num_matvecs: Int[Array, ""]


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Deflated(Wrapper):
    """P A P with P = I - V V', V an orthonormal block; made by `deflate`."""

    a: Operator
    vectors: PyTree

    def product(self, v: PyTree) -> PyTree:
        v = trees.conform(self._project(v), self.a.like)
        return self._project(self.a.product(v))

    def products(self, block: PyTree) -> PyTree:
        project = jax.vmap(self._project)
        return project(self.a.products(project(block)))

    def linearized(self, num_products: int = 1) -> Operator:
        return Deflated(self.a.linearized(num_products), self.vectors)

    @property
    def num_deflated(self) -> int:
        return self.a.num_deflated + len(jax.tree.leaves(self.vectors)[0])

    def confine(self, v: PyTree) -> PyTree:
        return self._project(self.a.confine(v))

    def domain(self) -> Operator:
        return Deflated(self.a.domain(), self.vectors)

    def _project(self, v: PyTree) -> PyTree:
        for _ in range(2):  # one subtraction leaves rounding of the size of what it took away
            part = trees.combine(trees.dots(self.vectors, v), self.vectors)
            v = jax.tree.map(lambda x, p: (x - p).astype(x.dtype), v, part)
        return v


def deflate(op: Operator, eigenpairs: Eigenpairs) -> Operator:
    """P A P, the operator with the given eigenvectors projected out: P = I - sum_i v_i v_i'.

    Estimators see the operator on the n - k dimensions left, without the k zeros that projecting makes, and so does a
    `shift` of it; `density(quadrature, grid, atoms=eigenpairs)` puts the eigenvalues back at their mass.

    Args:
      op: the operator A.
      eigenpairs: orthonormal eigenvectors of A, as `eigsh` returns them (leading axis k).

    Raises:
      TypeError: `op` is no operator, `eigenpairs` are none.
      ValueError: vectors of another space than A's, as many as its dimensions, or (where concrete) not orthonormal.

    Example:
      >>> import hessjax as hj
      >>> A = hj.Matrix(jnp.diag(jnp.array([1.0, 2.0, 9.0])))
      >>> top = hj.eigsh(A, jax.random.key(0), k=1)
      >>> hj.dense(hj.deflate(A, top)).round(4).diagonal().tolist()
      [1.0, 2.0, 0.0]
    """
    check_operand(op)
    if not hasattr(eigenpairs, "vectors"):
        raise TypeError(f"eigenpairs is {type(eigenpairs).__name__}, wanted what hj.eigsh returns.")
    vectors, left = jax.tree.map(jnp.asarray, eigenpairs.vectors), op.size - op.num_deflated
    count = len(jax.tree.leaves(vectors)[0])
    if count == 0:
        return op
    trees.conform(jax.tree.map(lambda x: x[0], vectors), op.like, "an eigenvector")
    if count >= left:
        raise ValueError(
            f"{count} eigenvectors leave nothing of {left} dimensions; deflate fewer, as eigsh finds them."
        )
    if not any(isinstance(x, Tracer) for x in jax.tree.leaves(vectors)):
        off = float(jnp.max(jnp.abs(trees.gram(vectors, vectors) - jnp.eye(count))))
        if off >= 1e-2:  # NaN passes: where products failed, what follows says so
            raise ValueError(f"eigenvectors are not orthonormal: |V V' - I| is {off:.2g}; take them of eigsh or a QR.")
    return Deflated(op, vectors)


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Restricted(Operator):
    """The principal block of A on the leaves kept; vectors have the tree of A's with None for the others."""

    a: Operator
    keep: tuple[bool, ...] = field(metadata={"static": True})

    @property
    def like(self) -> PyTree:
        leaves, structure = jax.tree.flatten(self.a.like)
        return structure.unflatten([x if kept else None for x, kept in zip(leaves, self.keep, strict=True)])

    def product(self, v: PyTree) -> PyTree:
        return self._kept(self.a.product(self._with_zeros(v)))

    def products(self, block: PyTree) -> PyTree:
        if not self.streamed:
            return super().products(block)
        return self._kept(self.a.products(jax.vmap(self._with_zeros)(block)))  # one pass, as `Deflated`

    def _with_zeros(self, v: PyTree) -> PyTree:
        # They are constants, with which the compiler drops the part of the product in the leaves left out.
        given, (like, structure) = iter(jax.tree.leaves(v)), jax.tree.flatten(self.a.like)
        whole = [next(given) if kept else jnp.zeros(x.shape, x.dtype) for x, kept in zip(like, self.keep, strict=True)]
        return structure.unflatten(whole)

    def _kept(self, v: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(v)
        return structure.unflatten([x if kept else None for x, kept in zip(leaves, self.keep, strict=True)])

    def linearized(self, num_products: int = 1) -> Operator:
        return Restricted(self.a.linearized(num_products), self.keep)

    @property
    def streamed(self) -> bool:
        return self.a.streamed

    def defects(self) -> dict[str, tuple[Array, str]]:
        return self.a.defects()


def restrict(op: Operator, where: str | Callable[[str], Any]) -> Operator:
    """The principal block of an operator on some leaves of its params: second derivatives in these leaves alone.

    Args:
      op: the operator A.
      where: a pattern of `fnmatch` on tree paths such as "Dense_0/*" or "*/kernel"; or a predicate on such paths.

    Returns:
      An operator on trees like A's with None for the leaves left out.

    Raises:
      ValueError: no leaf matches; the message lists the paths.
      TypeError: `op` is no operator; `where` neither a string nor a function.

    Example:
      >>> import hessjax as hj
      >>> H = hj.Hessian(lambda p: p["a"] ** 2 * p["b"] + 3 * p["b"] ** 2, {"a": jnp.array(1.0), "b": jnp.array(2.0)})
      >>> hj.dense(hj.restrict(H, "b")).tolist()
      [[6.0]]
    """
    check_operand(op)
    if not isinstance(where, str) and not callable(where):
        raise TypeError(
            f"where is {type(where).__name__}, wanted a pattern such as '*/kernel' or a function of a path."
        )
    paths = [trees.path_str(path) for path, _ in jax.tree.leaves_with_path(op.like)]
    keep = tuple(fnmatchcase(p, where) if isinstance(where, str) else bool(where(p)) for p in paths)
    if not any(keep):
        asked = repr(where) if isinstance(where, str) else "the predicate"
        raise ValueError(
            f"no leaf matches {asked}; the paths are {', '.join(p or '(the whole array)' for p in paths)}."
        )
    return Restricted(op, keep)
