"""Columns of an operator, leaf by leaf: products with unit vectors, of which only what is not known yet is computed.

A matrix is symmetric, so a column needs the rows of leaves that have not had their own columns. A tangent in a late
layer never meets the layers before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hessjax.convolutions import fast_in_loops
from hessjax.pushes import Push

__all__ = ["COLUMNS", "column_blocks", "grouped", "pass_numbers"]

# Columns per pass: the tangents of 64 columns stay near the cache while the products stay matrix-matrix;
# within 15 % of the best of 16, 32, 64, 113, all on the main job, on one and on two devices.
COLUMNS = 64


def grouped(order: Sequence[int], sizes: Sequence[int], columns: int = COLUMNS) -> list[list[int]]:
    """Leaves in the order given, those of few numbers together: a pass of few columns wastes what a pass costs.

    Example:
      >>> grouped([2, 0, 1], [100, 8, 8])
      [[2, 0], [1]]
    """
    groups: list[list[int]] = []
    for k in order:
        small = groups and sum(sizes[n] for n in groups[-1]) < columns
        groups[-1].append(k) if small else groups.append([k])
    return groups


def pass_numbers(n: int, columns: int = COLUMNS) -> Int[Array, "passes width"]:
    """Numbers of the columns of every pass: equal passes, so that at most passes - 1 columns are padding.

    Example:
      >>> pass_numbers(5, 4).tolist()
      [[0, 1, 2], [3, 4, 5]]
    """
    passes = -(-n // min(columns, n))
    width = -(-n // passes)
    return jnp.arange(passes * width).reshape(passes, width)


def column_blocks(
    push: Push, like: Sequence[Any], order: Sequence[int], others: Sequence[int], columns: int = COLUMNS
) -> dict[tuple[int, int], Float[Array, "a b"]]:
    """Blocks of the leaves of `order` with each other and with `others`, keyed (leaf, leaf at most it).

    Args:
      push: the operator as a linear program of leaves.
      like: their shapes and dtypes.
      order: leaves whose columns are taken, best in the order in which the loss uses them.
      others: leaves that have their own blocks already.
      columns: unit vectors a pass.

    Example:
      >>> push = Push.of(lambda v: (2.0 * v[0], v[0].sum() + v[1]), [jnp.ones(2), jnp.ones(1)])
      >>> found = column_blocks(push, [jnp.ones(2), jnp.ones(1)], [0, 1], [])
      >>> {key: block.tolist() for key, block in found.items()}
      {(0, 0): [[2.0, 0.0], [0.0, 2.0]], (1, 0): [[1.0, 1.0]], (1, 1): [[1.0]]}
    """
    sizes = [x.size for x in like]
    groups, found = grouped(order, sizes, columns), {}
    for number, group in enumerate(groups):
        wanted = [*others, *(k for later in groups[number:] for k in later)]
        for k, rows in zip(group, _columns(push, like, group, wanted, columns), strict=True):
            for n, block in zip(wanted, rows, strict=True):
                if block is not None and (n not in group or n >= k):
                    key, whole = ((n, k), block.T) if n >= k else ((k, n), block)
                    found[key] = whole
    return found


def _columns(push: Push, like: Sequence[Any], group: list[int], wanted: list[int], columns: int) -> list[list[Any]]:
    """For each leaf of a group, its columns: for each leaf wanted, [its size, the other's], None where zero."""
    ends = [sum(like[n].size for n in group[: k + 1]) for k in range(len(group))]
    total = ends[-1]
    nonzero = [n for n in wanted if any(push.reaches(k)[n] for k in group)]

    def column(j: Array) -> list[Array]:
        unit = (jnp.arange(total) == j).astype(jnp.result_type(*(like[k].dtype for k in group)))
        parts = jnp.split(unit, ends[:-1])
        tangents = {k: x.reshape(like[k].shape).astype(like[k].dtype) for k, x in zip(group, parts, strict=True)}
        out = push(tangents, nonzero)
        return [jnp.zeros(like[n].size, like[n].dtype) if x is None else x.ravel() for n in nonzero for x in [out[n]]]

    numbers = pass_numbers(total, columns)
    taken = jax.lax.map(fast_in_loops(jax.vmap(column)), numbers) if nonzero else []
    whole = {n: x.reshape(numbers.size, -1)[:total] for n, x in zip(nonzero, taken, strict=True)}
    cut = lambda n, a, b: None if n not in whole else whole[n][a:b]
    starts = [0, *ends[:-1]]
    return [[cut(n, a, b) for n in wanted] for a, b in zip(starts, ends, strict=True)]
