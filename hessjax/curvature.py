"""Curvature of a loss as an operator: Hessian-vector products of a mean over rows, exact and chunked.

Forward over reverse (Pearlmutter 1994): the product costs about two gradients, no matrix is formed.
The mean over N is taken once, whatever the chunks, so a short last chunk cannot bias it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from hessjax import rows, trees
from hessjax.objective import PRECISION, loss_form, losses, mean_loss
from hessjax.operators import Linearized, Operator, pytree

__all__ = ["Hessian"]

STATIC = {"static": True}


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Hessian(Operator):
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
        _check_static(self.loss, self.chunk)
        leaves = jax.tree.leaves(self.params)
        if leaves and all(hasattr(x, "dtype") for x in leaves):
            trees.check_params(self.params)  # tree transformations fill in placeholders, which are not arrays

    @property
    def like(self) -> PyTree:
        trees.check_params(self.params)
        return trees.structs(self.params)

    def product(self, v: PyTree) -> PyTree:
        params = jax.tree.map(jnp.asarray, self.params)
        if self.chunk is None:
            return jax.jvp(jax.grad(self._mean), (params,), (v,))[1]
        wide = trees.scalar_dtype(v)  # a sum over chunks in bfloat16 would stop growing, in float16 overflow
        part = lambda some: trees.cast(jax.jvp(jax.grad(lambda p: self._sum(p, some)), (params,), (v,))[1], wide)
        count, total = self._num_rows(), rows.sum_over_chunks(part, self.batch, self.chunk)
        return jax.tree.map(lambda x, like: (x / count).astype(like.dtype), total, v)

    def linearized(self) -> Operator:
        if self.chunk is not None:  # the residuals of all chunks at once would be the memory chunk= saves
            return self
        params = jax.tree.map(jnp.asarray, self.params)
        _, push = jax.linearize(jax.grad(self._mean), params)
        return Linearized(push, params)

    def _mean(self, params: PyTree) -> Array:
        return mean_loss(self.loss, params, self.batch, precision=self.precision)

    def _sum(self, params: PyTree, some: PyTree) -> Array:
        return jnp.sum(losses(self.loss, params, some, precision=self.precision))

    def _num_rows(self) -> int:
        if self.batch is None or loss_form(self.loss, self.params, self.batch) == "scalar":
            raise ValueError(
                f"chunk={self.chunk} needs a per-example loss, but this one returns a scalar (which may couple "
                "examples); return the [N] losses instead of their mean, or leave chunk out."
            )
        return rows.num_rows(self.batch)

    def defects(self) -> dict[str, tuple[Array, str]]:
        return {"per-example": (jax.jit(_coupling)(self), COUPLED)} if self._splits() else {}

    def _splits(self) -> bool:
        per_example = self.batch is not None and loss_form(self.loss, self.params, self.batch) == "per-example"
        return per_example and rows.num_rows(self.batch) > 1


COUPLED = (
    "loss(rows of batch) is not rows of loss(batch): the examples are coupled (batch statistics, a contrastive term, "
    "a mean inside the loss); return a scalar instead, or freeze the statistics"
)


def _check_static(loss: Any, chunk: Any) -> None:
    if not callable(loss):
        raise TypeError(f"loss is {type(loss).__name__}, wanted a function loss(params, batch) -> [N] or scalar.")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a whole number of rows, at least 1, or None for all at once; got {chunk!r}.")


def _coupling(op: Hessian) -> Array:
    """Relative difference between the losses of a few rows on their own and of the same rows among all.

    Few rows, because statistics of a large part of a batch are nearly those of the whole.
    """
    count = rows.num_rows(op.batch)
    parts = sorted({(0, 1), (count // 2, min(count // 2 + 2, count)), (count - 1, count)})
    values = lambda batch: losses(op.loss, op.params, batch, precision=op.precision)
    whole = values(op.batch)
    gaps = [jnp.max(jnp.abs(values(rows.take(op.batch, a, b)) - whole[a:b])) for a, b in parts]
    return jnp.max(jnp.stack(gaps)) / jnp.maximum(jnp.max(jnp.abs(whole)), jnp.finfo(whole.dtype).tiny)
