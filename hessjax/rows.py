"""Rows of a batch: how many there are, and sums over them in chunks.

A batch is any pytree. Its rows run along the common leading axis of its non-scalar leaves; scalars and scalar
PRNG keys belong to every row and pass whole. Any remainder is its own, smaller pass: no row is padded or weighted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hessjax import trees

__all__ = ["drawn", "has_rows", "num_rows", "sum_over_chunks", "take"]


def has_rows(leaf: Any) -> bool:
    """Whether an array of a batch has rows: scalars and scalar PRNG keys belong to every row.

    Example:
      >>> has_rows(jnp.zeros(3)), has_rows(1.0)
      (True, False)
    """
    return jnp.ndim(leaf) > 0


def num_rows(batch: PyTree) -> int:
    """N, the common leading axis of the non-scalar leaves.

    Raises:
      ValueError: no leaf has rows, there are none, or the leaves disagree; the message lists their shapes.

    Example:
      >>> num_rows({"x": jnp.zeros((5, 2)), "y": jnp.zeros(5), "temperature": 1.0})
      5
    """
    shapes = {trees.path_str(p) or "batch": jnp.shape(x) for p, x in jax.tree.leaves_with_path(batch) if has_rows(x)}
    counts = {shape[0] for shape in shapes.values()}
    if not counts:
        raise ValueError("batch has no leaf with rows; a loss without data takes batch=None.")
    if len(counts) > 1:
        raise ValueError(
            f"batch leaves disagree on the number of rows: {shapes}. Every non-scalar leaf needs the same leading "
            "axis; close the loss over arrays that are not data, and make keys typed (jax.random.key)."
        )
    (count,) = counts
    if count == 0:
        raise ValueError(f"batch has no rows: {shapes}.")
    return count


def take(batch: PyTree, start: int, stop: int) -> PyTree:
    """Rows start..stop-1; leaves without rows whole."""
    return jax.tree.map(lambda x: x[start:stop] if has_rows(x) else x, batch)


def drawn(batch: PyTree, key: trees.PRNGKey, size: int | None) -> PyTree:
    """So many rows, drawn with replacement; leaves without rows whole. None: the batch itself.

    Example:
      >>> drawn({"x": jnp.arange(5), "temperature": 1.0}, jax.random.key(0), 3)["x"].shape
      (3,)
    """
    if batch is None or size is None:
        return batch
    picks = jax.random.randint(key, (size,), 0, num_rows(batch))
    return jax.tree.map(lambda x: x[picks] if has_rows(x) else x, batch)


def sum_over_chunks(part: Callable[[PyTree], PyTree], batch: PyTree, chunk: int | None) -> PyTree:
    """The sum of `part(rows)` over all rows, at most `chunk` of them at a time (None: all at once).

    Example:
      >>> float(sum_over_chunks(jnp.sum, jnp.arange(7.0), 3))
      21.0
    """
    count = num_rows(batch)
    if chunk is None or chunk >= count:
        return part(batch)
    passes, rest = divmod(count, chunk)
    whole = take(batch, 0, passes * chunk)
    # Pass k takes rows k, k + passes, ...: where rows are spread over devices, every device then has a share of it.
    folded = jax.tree.map(lambda x: jnp.reshape(x, (chunk, passes, *x.shape[1:])) if has_rows(x) else x, whole)
    nth = lambda k: jax.tree.map(lambda x: x[:, k] if has_rows(x) else x, folded)
    # The first pass (or the remainder) starts the sum, so that its sharding and dtype come from the data.
    start = part(take(batch, passes * chunk, count)) if rest else part(nth(0))
    body = lambda total, k: (trees.add(total, part(nth(k))), None)
    return jax.lax.scan(body, start, jnp.arange(0 if rest else 1, passes))[0]
