"""Curvature of data that streams from the host, batch by batch: every product is one pass over the batches.

Each batch's part is one compiled call; while it runs, the next batch is loaded. Weights are rows, so a short last
batch counts for what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from hessjax import rows, trees
from hessjax.curvature import STATIC, Hessian, check_function, check_options
from hessjax.operators import Operator, multiply, pytree

__all__ = ["Streamed"]


class Source:
    """The user's batches, told apart by identity: what is part of a pytree's structure must have an equality."""

    def __init__(self, batches: Iterable):
        self.batches = batches

    def __iter__(self):
        return map(_on_host, self.batches)

    def __eq__(self, other):
        return isinstance(other, Source) and self.batches is other.batches

    def __hash__(self):
        return id(self.batches)


def _on_host(batch: PyTree) -> PyTree:
    """The batch with other libraries' tensors as NumPy arrays; JAX's own stay where they are."""
    foreign = lambda x: hasattr(x, "__array__") and not isinstance(x, jax.Array | np.ndarray | np.generic)
    return jax.tree.map(lambda x: np.asarray(x) if foreign(x) else x, batch)


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Streamed(Operator):
    """Curvature of the mean loss over batches that are read again for every product: sum_b n_b A_b v / sum_b n_b.

    For data that do not fit in memory. Estimators drive it from the host, one pass over the batches per product (or
    per block of products); it cannot be an argument of `jit` or `vmap`.

    Args:
      loss: as `operator` takes it: per example, or a scalar, which is taken for the mean of its batch's rows.
      params: any pytree of real floating arrays.
      batches: whatever can be iterated over again and again: a list, a data loader. Each batch is a pytree of rows, as
        for `Hessian`; sizes may differ, and every size is compiled once.
      operator: `operator(loss, params, batch) -> Operator` makes one batch's part. Define it once: a fresh lambda is
        a recompilation. Gauss-Newton: `lambda loss, params, batch: hj.GaussNewton(model, loss, params, batch)`.

    The loss is traced once per size of batch, and what Python draws while it is traced stays fixed: randomness belongs
    into a batch, as keys.

    Raises:
      TypeError: batches is an iterator, which can be read only once, or a single batch, such as a tuple of arrays;
        params as for `Hessian`; a product inside `jit`.
      ValueError: no batches, or a batch without rows.

    Example:
      >>> import hessjax as hj
      >>> loss = lambda p, x: 0.5 * (x @ p) ** 2
      >>> batches = [jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.array([[2.0, 0.0]])]
      >>> hj.Streamed(loss, jnp.zeros(2), batches).mv(jnp.array([1.0, 1.0])).tolist()
      [2.6666667461395264, 2.0]
    """

    loss: Callable = field(metadata=STATIC)
    params: PyTree
    batches: Any = field(metadata=STATIC)
    operator: Callable = field(default=Hessian, kw_only=True, metadata=STATIC)

    def __post_init__(self):
        check_function(self.loss, "loss(params, batch) -> [N] or scalar")
        check_function(self.operator, "operator(loss, params, batch) -> Operator")
        check_options(self.params, None)
        if not isinstance(self.batches, Source):
            _check_batches(self.batches)
            object.__setattr__(self, "batches", Source(self.batches))

    @property
    def streamed(self) -> bool:
        return True

    @property
    def like(self) -> PyTree:
        trees.check_params(self.params)
        return trees.structs(self.params)

    def product(self, v: PyTree) -> PyTree:
        return self._pass(v, many=False)

    def products(self, block: PyTree) -> PyTree:
        return self._pass(block, many=True)

    def _pass(self, v: PyTree, *, many: bool) -> PyTree:
        if any(isinstance(x, Tracer) for x in jax.tree.leaves((self.params, v))):
            raise TypeError(
                "a streamed operator reads its batches on the host and cannot be part of jit, vmap or grad; call mv "
                "from Python, or pass data that fit in memory to Hessian(loss, params, batch, chunk=...)."
            )
        total, count = jax.tree.map(lambda x: jnp.zeros(x.shape, trees.scalar_dtype(x)), v), 0
        for batch in self.batches:
            before, count = total, count + rows.num_rows(batch)
            total = _add_part(self.operator, self.loss, many, self.params, batch, v, total)
            jax.block_until_ready(before)  # one batch is computed while the next is loaded, never a queue of them
        if count == 0:
            raise ValueError("batches is empty: nothing to take a mean of; a loader must start again at every iter().")
        return _mean(total, count, v)

    def defects(self) -> dict[str, tuple[Array, str]]:
        first = next(iter(self.batches), None)
        return {} if first is None else self.operator(self.loss, self.params, first).defects()


@partial(jax.jit, static_argnums=(0, 1, 2))  # here and not in a method: one program for all operators of these shapes
def _add_part(
    operator: Callable, loss: Callable, many: bool, params: PyTree, batch: PyTree, v: PyTree, total: PyTree
) -> PyTree:
    op = operator(loss, params, batch)
    part = op.linearized(len(jax.tree.leaves(v)[0])).products(v) if many else multiply(op, v)
    return jax.tree.map(lambda t, x: t + rows.num_rows(batch) * x.astype(t.dtype), total, part)


@jax.jit
def _mean(total: PyTree, count: Any, like: PyTree) -> PyTree:
    return jax.tree.map(lambda t, x: (t / count).astype(x.dtype), total, like)


def _check_batches(batches: Any) -> None:
    if isinstance(batches, Iterator) and iter(batches) is batches:
        raise TypeError(
            f"batches is {type(batches).__name__}, an iterator, which can be read only once, but every product reads "
            "all batches; pass a list, or an object whose __iter__ starts again."
        )
    single = isinstance(batches, Mapping | str) or hasattr(batches, "shape") or not hasattr(batches, "__iter__")
    # (x, y) is a batch; two batches that are arrays are a list.
    single = single or (isinstance(batches, tuple) and len(batches) > 0 and all(hasattr(x, "shape") for x in batches))
    if single:
        raise TypeError(
            f"batches is {type(batches).__name__}, wanted an iterable of batches such as a list; for one batch that "
            "fits in memory write Hessian(loss, params, batch)."
        )
