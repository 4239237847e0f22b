"""What the methods share: the surface they walk on, what a step is, and a search along a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from hessjax import trees
from hessjax.composition import lower
from hessjax.curvature import Hessian
from hessjax.finders.curvatures import Assembled, Curvature, Products
from hessjax.objective import mean_loss
from hessjax.stacks import mirrored

__all__ = ["HALVINGS", "Method", "Moved", "Place", "Surface", "backtracked", "chosen", "still"]

HALVINGS = 40  # of a step that leads nowhere, before it is given up


@dataclass(frozen=True)
class Surface:
    """A mean loss, its derivatives, and how far inner solves go.

    `inner` is the products of an inner solve; few leave out directions of little curvature. Of starts on the 16-4
    linear autoencoder, of 128 dimensions, Newton-MR leads 80 % to critical points with 64, 56 % with 100 and 25 % with
    25 of them.
    """

    loss: Callable
    batch: PyTree
    dense: bool
    inner: int

    def value(self, params: PyTree) -> Float[Array, ""]:
        """The mean loss."""
        return mean_loss(self.loss, params, self.batch)

    def gradient(self, params: PyTree) -> PyTree:
        """Its gradient, like params."""
        return jax.grad(self.value)(params)

    def curvature(self, params: PyTree) -> Curvature:
        """The Hessian: a matrix where inner solves are to work on one."""
        return Assembled(mirrored(lower(self._operator(params))), params) if self.dense else self.products(params)

    def products(self, params: PyTree) -> Curvature:
        """The Hessian by its products, where few are needed."""
        return Products(self._operator(params).linearized(self.inner), self.inner)

    def _operator(self, params: PyTree) -> Hessian:
        return Hessian(self.loss, params, self.batch)


class Place(NamedTuple):
    """A point, and the gradient there."""

    params: PyTree
    gradient: PyTree


class Moved(NamedTuple):
    """After a step: where it led, what the method remembers, whether to go on, and the products it took.

    A step that leads nowhere ends the run: at a critical point to rounding, in a flat region, or as far as it goes.
    """

    to: Place
    memory: Any
    going: Bool[Array, ""]
    num_matvecs: Int[Array, ""] | int


class Method(NamedTuple):
    """`begin(params)` makes what is remembered from step to step; `step(surface, place, memory)` is one of them."""

    begin: Callable[[PyTree], Any]
    step: Callable[[Surface, Place, Any], Moved]


def still(params: PyTree, length: Any) -> Bool[Array, ""]:
    """Whether a step of this length moves params by no more than rounding does.

    Example:
      >>> bool(still(jnp.ones(2), 1e-9)), bool(still(jnp.ones(2), 1e-3))
      (True, False)
    """
    return ~(length > trees.eps(params) * trees.norm(params))


def backtracked(
    surface: Surface, here: Place, direction: PyTree, slope: Any, *, first: Any = 1.0, sufficient: float = 1e-4
) -> tuple[Place, Bool[Array, ""], Any]:
    """The first of the steps first, first / 2, first / 4, ... times a direction that makes the gradient shorter.

    Shorter by a share of what its slope promises: ||g(x + t p)||^2 <= ||g||^2 + 2 sufficient t p' H g.

    Args:
      surface: of the gradient.
      here: x and g.
      direction: p.
      slope: p' H g.
      first: t to begin with.
      sufficient: the share.

    Returns:
      Where it led, whether anywhere, and t.
    """
    square = lambda g: trees.dot(g, g)
    begun = square(here.gradient)
    none = trees.scale(0, here.gradient)

    def tried(state):
        t, count, _, _ = state
        g = surface.gradient(trees.axpy(t, direction, here.params))
        enough = square(g) <= begun + 2 * sufficient * t * slope
        return jnp.where(enough, t, t / 2), count + 1, g, enough

    start = (jnp.asarray(first, begun.dtype) + 0 * begun, jnp.int32(0), none, begun != begun)
    t, _, gradient, found = jax.lax.while_loop(lambda s: ~s[3] & (s[1] < HALVINGS), tried, start)
    there = Place(trees.axpy(t, direction, here.params), gradient)
    return chosen(found, there, here), found, t


def chosen(which: Bool[Array, ""], one: Any, other: Any) -> Any:
    """`one` where `which`, else `other`, leaf by leaf.

    Example:
      >>> chosen(jnp.bool_(True), (jnp.ones(()),), (jnp.zeros(()),))[0].item()
      1.0
    """
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), one, other)
