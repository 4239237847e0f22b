"""The Hessian at a point as methods use it: products, a linear solve, and its modes; of a matrix, or by products."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import stacks, trees
from hessjax.driving import multiply
from hessjax.krylov import lanczos
from hessjax.matrices import Matrix
from hessjax.minres import Solution, solved
from hessjax.operators import Operator

__all__ = ["MOST", "Assembled", "Curvature", "Modes", "Products"]

MOST = 1e7  # condition number beyond which a direction counts as one without curvature
PROBES = 8  # of the Frobenius norm, where there is no matrix


class Modes(NamedTuple):
    """A gradient by eigenvectors of the Hessian, or by Ritz vectors of the Krylov space that it begins.

    `parts` are its components along them; `basis` has them along its leading axis; `num_matvecs` is what it took.
    """

    values: Float[Array, " k"]
    parts: Float[Array, " k"]
    basis: PyTree
    num_matvecs: int

    def kept(self) -> Any:
        """Whether an eigenvalue is not zero beside the largest."""
        return jnp.abs(self.values) * MOST > jnp.max(jnp.abs(self.values))

    def combined(self, parts: Float[Array, " k"]) -> PyTree:
        """The vector with these components."""
        return trees.combine(parts, self.basis)


class Curvature(abc.ABC):
    """The Hessian at a point. `cost` is what it took to make, in products."""

    cost: int

    @abc.abstractmethod
    def product(self, v: PyTree) -> PyTree:
        """H v."""

    @abc.abstractmethod
    def solve(self, b: PyTree, **limits: Any) -> Solution:
        """The shortest x with H x nearest to b; `limits` as of `minres.solved`."""

    @abc.abstractmethod
    def modes(self, g: PyTree) -> Modes:
        """g by eigenvectors."""

    @abc.abstractmethod
    def frobenius(self) -> Float[Array, ""]:
        """||H||_F."""


@dataclass(frozen=True)
class Assembled(Curvature):
    """By its matrix, in `ravel_pytree` order; exact, n products' worth."""

    matrix: Float[Array, "n n"]
    like: PyTree

    @property
    def cost(self) -> int:
        """n."""
        return len(self.matrix)

    def product(self, v: PyTree) -> PyTree:
        return self._back(jnp.matmul(self.matrix, trees.ravel(v)[0], precision="highest"))

    def solve(self, b: PyTree, **limits: Any) -> Solution:
        found = solved(Matrix(self.matrix), trees.ravel(b)[0], **limits)
        return found._replace(x=self._back(found.x), num_matvecs=0 * found.num_matvecs)

    def modes(self, g: PyTree) -> Modes:
        values, vectors = stacks.eigh(self.matrix)
        parts = jnp.matmul(vectors.T, trees.ravel(g)[0], precision="highest")
        return Modes(values, parts, jax.vmap(self._back, in_axes=1)(vectors), 0)

    def frobenius(self) -> Float[Array, ""]:
        return jnp.linalg.norm(self.matrix)

    def _back(self, flat: Float[Array, " n"]) -> PyTree:
        return trees.ravel(self.like)[1](flat)


@dataclass(frozen=True)
class Products(Curvature):
    """By products: solves and modes are those of a Krylov space of `steps` dimensions."""

    op: Operator
    steps: int
    cost: int = 0

    def product(self, v: PyTree) -> PyTree:
        return multiply(self.op, v)

    def solve(self, b: PyTree, **limits: Any) -> Solution:
        return solved(self.op, b, **limits)

    def modes(self, g: PyTree) -> Modes:
        run = lanczos(self.op, jax.random.key(0), num_steps=self.steps, start=g)  # the start is given: nothing is drawn
        side = run.betas[:-1]
        used = jnp.arange(self.steps) < run.num_steps_done
        values, vectors = stacks.eigh(jnp.diag(run.alphas) + jnp.diag(side, 1) + jnp.diag(side, -1))
        # Steps that did not happen are rows and columns of zeros: eigenvectors without a part of g.
        parts = trees.norm(g) * vectors[0]
        basis = trees.combine(jnp.where(used[:, None], vectors, 0).T, run.basis)
        return Modes(values, parts, basis, self.steps)

    def frobenius(self) -> Float[Array, ""]:
        keys = jax.random.split(jax.random.key(0), PROBES)
        square = lambda key: trees.norm(self.product(trees.rademacher_like(key, self.op.like))) ** 2
        return jnp.sqrt(jnp.mean(jax.lax.map(square, keys)))
