"""Curvature of a loss as an operator: Hessian-vector products of a mean over rows, exact and chunked.

Forward over reverse (Pearlmutter 1994): the product costs about two gradients, no matrix is formed.
The mean over N is taken once, whatever the chunks, so a short last chunk cannot bias it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import rows, trees
from hessjax.contractions import contracted_once
from hessjax.jaxprs import linearized_once, may_rewrite
from hessjax.objective import PRECISION, loss_form, losses
from hessjax.operators import Operator, pytree
from hessjax.transposes import transposed_once

__all__ = ["Curvature", "Hessian"]

STATIC = {"static": True}


class Curvature(Operator):
    """What the second derivatives of a loss over rows of data share: chunks, one mean, linearisation, a check.

    A kind of curvature says what the loss is as a function of params and batch, and what a product is over some rows.
    """

    params: PyTree
    batch: PyTree
    chunk: int | None
    precision: str

    @property
    @abc.abstractmethod
    def _objective(self) -> Callable:
        """The loss as a function of params (and of the batch, unless that is None)."""

    @abc.abstractmethod
    def _part(self, v: PyTree, some: PyTree, reduce: Callable) -> PyTree:
        """The product over some rows of the data, with `reduce` (a mean or a sum) taken of the rows' losses."""

    def _data(self) -> PyTree:
        """What is cut into chunks: the batch, and anything else that has its rows."""
        return self.batch

    @property
    def like(self) -> PyTree:
        trees.check_params(self.params)
        return trees.structs(self.params)

    def product(self, v: PyTree) -> PyTree:
        if self.chunk is None:
            return self._part(v, self._data(), jnp.mean)
        wide = trees.scalar_dtype(v)  # sums in bfloat16 would stop growing, in float16 overflow
        mean = lambda some: trees.cast(self._part(v, some, jnp.mean), wide)
        part = lambda some: trees.scale(rows.num_rows(some), mean(some))
        count, total = self._num_rows(), rows.sum_over_chunks(part, self._data(), self.chunk)
        return jax.tree.map(lambda x, like: (x / count).astype(like.dtype), total, v)

    def linearized(self, num_products: int = 1) -> Operator:
        if self.chunk is not None:  # the residuals of all chunks at once would be the memory chunk= saves
            return self
        return _linearized(self, num_products=_rounded(num_products))

    def _arrays(self) -> PyTree:
        return jax.tree.map(jnp.asarray, self.params)

    def _num_rows(self) -> int:
        if self._form() == "scalar":
            raise ValueError(
                f"chunk={self.chunk} needs a per-example loss, but this one returns a scalar (which may couple "
                "examples); return the [N] losses instead of their mean, or leave chunk out."
            )
        return rows.num_rows(self.batch)

    def _form(self) -> str:
        return loss_form(self._objective, self.params, self.batch)

    def defects(self) -> dict[str, tuple[Array, str]]:
        splits = self._form() == "per-example" and rows.num_rows(self.batch) > 1
        return {"per-example": (jax.jit(_coupling)(self), COUPLED)} if splits else {}


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Linearized(Operator):
    """A derivative taken once: `push` is what `jax.linearize` returned at `point`, its residuals leaves."""

    push: Any
    point: PyTree

    @property
    def like(self) -> PyTree:
        return trees.structs(self.point)

    def product(self, v: PyTree) -> PyTree:
        return self.push(trees.vary_like(v, self.point))


def _rounded(num_products: int) -> int:
    """A power of 4 at most so large, 1 where it makes no difference: not every number of steps is another program."""
    power = (max(num_products, 1).bit_length() - 1) // 2
    return 4 ** min(power, 6) if may_rewrite() else 1


# What jax.linearize returns is static and new each time: compiled, it is one and the same at every params.
@partial(jax.jit, static_argnames="num_products")
def _linearized(op: Curvature, num_products: int) -> Linearized:
    params = op._arrays()
    zeros = trees.vary_like(trees.zeros_like(op.like), params)
    # A product is linear in v: its derivative at zero is itself, less all that does not depend on v. Leaves that are
    # zero whatever v is are made to depend on it, as jax 0.7 has no place for such constants in what it returns.
    product = lambda v: jax.tree.map(lambda x, y: jnp.where(False, y, x), op.product(v), v)
    push = contracted_once(linearized_once(product, zeros), zeros, num_products)
    return Linearized(transposed_once(push, zeros), params)


COUPLED = (
    "loss(rows of batch) is not rows of loss(batch): the examples are coupled (batch statistics, a contrastive term, "
    "a mean inside the loss, one dropout mask for all rows); return a scalar instead, freeze the statistics, or give "
    "every row a key"
)


def _coupling(op: Curvature) -> Float[Array, ""]:
    """Relative difference between the losses of a few rows on their own and of the same rows among all.

    Few rows, because statistics of a large part of a batch are nearly those of the whole.
    """
    count = rows.num_rows(op.batch)
    parts = sorted({(0, 1), (count // 2, min(count // 2 + 2, count)), (count - 1, count)})
    values = lambda batch: losses(op._objective, op.params, batch, precision=op.precision)
    whole = values(op.batch)
    gaps = [jnp.max(_gap(values(rows.take(op.batch, a, b)), whole[a:b])) for a, b in parts]
    return jnp.max(jnp.stack(gaps)) / jnp.maximum(jnp.max(jnp.abs(whole)), jnp.finfo(whole.dtype).tiny)


def _gap(few: Float[Array, " n"], whole: Float[Array, " n"]) -> Float[Array, " n"]:
    """Infinite where rows have a loss among all others but none alone, such as those over their own deviation."""
    lost = jnp.isfinite(whole) & ~jnp.isfinite(few)
    return jnp.where(lost, jnp.inf, jnp.abs(few - whole))


def check_function(function: Any, signature: str) -> None:
    """Refuses what cannot be called as `signature`, such as "loss(params, batch) -> [N] or scalar", says."""
    if not callable(function):
        name = signature.split("(")[0]
        raise TypeError(f"{name} is {type(function).__name__}, wanted a function {signature}.")


def check_options(params: PyTree, chunk: Any) -> None:
    """Refuses chunks that are no number of rows, and params that are no vectors."""
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a whole number of rows, at least 1, or None for all at once; got {chunk!r}.")
    leaves = jax.tree.leaves(params)
    if leaves and all(hasattr(x, "dtype") for x in leaves):
        trees.check_params(params)  # tree transformations fill in placeholders, which are not arrays


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Hessian(Curvature):
    """The Hessian of the mean loss at `params`: (1/N) sum_i d^2 loss_i / d params^2.

    `params` and `batch` are leaves and `loss` is static: define the loss once, then moving params never retraces
    and `jax.vmap` over params is an ensemble.

    Args:
      loss: `loss(params, batch) -> [N]` per example, meaning loss(rows of batch) = rows of loss(batch); or a scalar;
        or `loss(params)` with `batch=None`, a scalar.
      params: any pytree of real floating arrays.
      batch: any pytree whose non-scalar leaves share the leading axis N; scalars and scalar PRNG keys pass whole.
      chunk: rows per pass, at least 1; None takes all at once. Needs the per-example form. The remainder is a
        smaller pass of its own, and anything from N up is one pass.
      precision: `jax.default_matmul_precision` under which the loss is traced. Accelerators default lower than
        float32, and the signs of small eigenvalues would be noise.

    Raises:
      ValueError: chunk below 1 or with a scalar loss; loss of another shape; batch leaves of different lengths;
        empty params.
      TypeError: params with integer, boolean or complex leaves; `loss` not callable.

    Units: loss / params^2. One product costs two to three gradients.

    Example:
      >>> import hessjax as hj
      >>> loss = lambda p, batch: 0.5 * (batch["x"] @ p["w"] - batch["y"]) ** 2     # [N]: one per row
      >>> batch = {"x": jnp.array([[1.0, 0.0], [0.0, 2.0]]), "y": jnp.array([1.0, 1.0])}
      >>> H = hj.Hessian(loss, {"w": jnp.zeros(2)}, batch)
      >>> H.mv({"w": jnp.ones(2)})["w"].tolist()
      [0.5, 2.0]

    References: Pearlmutter (1994), Neural Computation 6(1), doi:10.1162/neco.1994.6.1.147.
    """

    loss: Callable = field(metadata=STATIC)
    params: PyTree
    batch: PyTree = None
    chunk: int | None = field(default=None, kw_only=True, metadata=STATIC)
    precision: str = field(default=PRECISION, kw_only=True, metadata=STATIC)

    def __post_init__(self):
        check_function(self.loss, "loss(params, batch) -> [N] or scalar")
        check_options(self.params, self.chunk)

    @property
    def _objective(self) -> Callable:
        return self.loss

    def _part(self, v: PyTree, some: PyTree, reduce: Callable) -> PyTree:
        value = lambda p: reduce(losses(self.loss, p, some, precision=self.precision))
        return jax.jvp(jax.grad(value), (self._arrays(),), (v,))[1]
