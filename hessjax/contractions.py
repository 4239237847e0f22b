"""Linearisations with the rows of their data summed once, where that takes less work than at every step.

A linearisation keeps activations, masks and errors, all with one row per example. Where it spreads a vector over the
rows, masks it and sums the rows again, everything but the vector is the same at every step:

    out[i, j] = sum_n second[n, i] mask[n, j] sum_k first[n, k] s[k, j] = sum_k t[j, k, i] s[k, j]

`t` is summed once, and then a step reads its numbers in place of a matrix product over all rows. In the Hessian of a
multilayer perceptron these are the terms in which an error meets the weights of two adjacent layers, a third of all
products between hidden layers; they pay where there are many more rows than a layer has inputs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float, PyTree

from hessjax.jaxprs import Kept, among, fresh, linear_in, may_rewrite, spliced
from hessjax.masks import ONE, Mask, Numbers, Terms, combined, values
from hessjax.programs import struct
from hessjax.rowsums import Factor, Sink, Source, sink_of, source_of

__all__ = ["contracted_once"]

# Flop of a matrix product in the time a byte takes to be read: two shared cores do 204 GFLOP/s and 36 GB/s.
FLOPS_PER_BYTE = 8.0
TOGETHER = 512  # rows of a matrix product that are enough for its full speed
MASKED = 2**24  # numbers in a masked matrix
DTYPES = ("float32", "float64")  # a sum over all rows is kept: narrower dtypes have not the digits


def contracted_once(push: Callable[[PyTree], PyTree], v: PyTree, num_products: int) -> Callable[[PyTree], PyTree]:
    """`push`, a linear function of vectors like `v`, as a program that takes less time in all if called so often.

    As it is unless `may_rewrite`, and where sums made once would cost more than they save.

    Example:
      >>> import jax
      >>> x, mask, y = (jax.random.normal(jax.random.key(k), (1000, 2)) for k in range(3))
      >>> push = jax.linearize(lambda s: y.T @ (mask * (x @ s)), jnp.zeros((2, 2)))[1]
      >>> once = contracted_once(push, jnp.zeros((2, 2)), 100)
      >>> [leaf.shape for leaf in jax.tree.leaves(push)], [leaf.shape for leaf in jax.tree.leaves(once)]
      ([(1000, 2), (1000, 2), (2, 1000)], [(2, 2, 2)])
      >>> bool(jnp.allclose(once(jnp.eye(2)), push(jnp.eye(2)), rtol=1e-4))
      True
    """
    if num_products < 1 or not may_rewrite():
        return push
    program = Kept.of(push, v)
    read = _read(program)
    goes = _paying(read, num_products)
    return _rewritten(program, read, goes).function() if goes else push


class Tensor(NamedTuple):
    """t[j, a, b] = sum_n mask[n, j] first[n, a] second[n, b], by what it is made of; t[0, a, b] without a mask."""

    first: Factor
    second: Factor
    mask: Mask
    rows: tuple[int, ...]  # axes of the mask
    like: Any  # shape and dtype of the mask

    @property
    def num_rows(self) -> int:
        return math.prod(self.like.shape[axis] for axis in self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1 if self.mask == ONE else self.width, self.first.width, self.second.width

    @property
    def width(self) -> int:
        return math.prod(self.like.shape) // self.num_rows


class Way(NamedTuple):
    """From a source to a sink: the tensor, and whether the source's matrix is its first or second."""

    tensor: Tensor
    axis: int


class Read(NamedTuple):
    """What is known of a program: sinks by their equations' numbers, sources by their results."""

    sinks: dict[int, Sink]
    sources: dict[Any, Source]
    ways: dict[int, dict[Any, Way | None]]  # to each sink from each of its terms; None where there is none
    stays: set[Any]  # terms that are used in another way


# --- what pays --------------------------------------------------------------------------------------------------------


def _read(program: Kept) -> Read:
    number = {var: k for k, var in enumerate(program.kept)}
    linear = linear_in(program.template.invars, program.eqns)
    read = Read({}, {}, {}, set())
    terms: dict[Any, Terms] = {}
    of = lambda x: terms.get(x, {x: ONE}) if among(x, linear) else {}
    for k, eqn in enumerate(program.eqns):
        sums = combined(eqn, linear, number, of)
        sink, source = sink_of(eqn, number, linear), source_of(eqn, number, linear)
        if sums is not None:
            terms[eqn.outvars[0]] = sums
        elif sink is not None:
            ways = {term: _way(read.sources.get(term), sink, mask, number) for term, mask in of(sink.u).items()}
            read.sinks[k], read.ways[k] = sink, ways
            read.stays.update(term for term, way in ways.items() if way is None)
        else:
            read.stays.update(term for x in eqn.invars for term in of(x))
        if source is not None:
            read.sources[eqn.outvars[0]] = source
    read.stays.update(term for x in program.template.outvars for term in of(x))
    used = {term for ways in read.ways.values() for term, way in ways.items() if way is not None}
    read.stays.update(term for name in used for term in of(read.sources[name].s))  # what tensors multiply is whole
    return read


def _paying(read: Read, num_products: int) -> set[Any]:
    """A sink goes if every way to it is known and a source if every way from it is, where that pays."""
    known = lambda ways: [way.tensor for way in ways if way is not None]
    options: dict[Any, tuple[float, list[Tensor]]] = {
        k: (read.sinks[k].flops, known(ways.values())) for k, ways in read.ways.items() if all(ways.values())
    }
    for term in read.sources.keys() - read.stays:
        options[term] = (read.sources[term].flops, known(ways.get(term) for ways in read.ways.values()))
    uses = Counter(tensor for _, tensors in options.values() for tensor in {*tensors})
    return {name for name, (flops, tensors) in options.items() if _pays(flops, tensors, uses, num_products)}


def _pays(flops: float, tensors: list[Tensor], uses: Counter, num_products: int) -> bool:
    """Whether the flops saved at all steps, less bytes read, are more than those that make the tensors (a share)."""
    size = lambda tensor: math.prod(tensor.shape)
    step = lambda t: FLOPS_PER_BYTE * size(t) * t.like.dtype.itemsize + 2.0 * t.width * t.first.width * t.second.width
    net = flops - sum(map(step, tensors))
    return num_products * net > sum(2.0 * tensor.num_rows * size(tensor) / uses[tensor] for tensor in tensors)


def _way(source: Source | None, sink: Sink, mask: Mask, number: Numbers) -> Way | None:
    """None where the rows that are summed are not those spread over, or sums would not keep their digits."""
    like = struct(sink.u)
    if source is None or source.rows != sink.rows or str(like.dtype) not in DTYPES or not sink.rows:
        return None
    if not like.size * source.matrix.width * sink.matrix.width:
        return None
    order = lambda matrix: (-1,) if matrix.var is None else (number[matrix.var], *matrix.rows, *matrix.columns)
    first, second = sorted((source.matrix, sink.matrix), key=order)
    tensor = Tensor(first, second, mask, sink.rows, jax.ShapeDtypeStruct(like.shape, like.dtype))
    return Way(tensor, 1 if source.matrix == first else 2)


# --- the program that is left -----------------------------------------------------------------------------------------


def _rewritten(program: Kept, read: Read, goes: set[Any]) -> Kept:
    names: dict[Tensor, Any] = {}
    eqns: list[JaxprEqn] = []
    for k, eqn in enumerate(program.eqns):
        gone = [term for term in read.ways.get(k, ()) if k in goes or term in goes]
        if eqn.outvars and eqn.outvars[0] in goes:
            like = struct(eqn.outvars[0])
            eqns += spliced(partial(jnp.zeros, like.shape, like.dtype), [], eqn.outvars)
        else:
            eqns += _summed(eqn, read.sinks[k], read, read.ways[k], gone, names) if gone else [eqn]
    more = {name: _tensor(tensor, program.kept) for tensor, name in names.items()}
    return program._replace(kept=program.kept | more, eqns=eqns)


def _summed(
    eqn: JaxprEqn, sink: Sink, read: Read, ways: Mapping[Any, Way | None], gone: list[Any], names: dict[Tensor, Any]
) -> list[JaxprEqn]:
    """A sink's result as what it is of the terms that stay, if any does, and of the tensors of those that are gone."""
    rest = [] if len(gone) == len(ways) else [fresh(struct(eqn.outvars[0]))]
    before = [eqn.replace(outvars=rest)] if rest else []
    inputs, parts = rest, []
    for term in gone:
        way, source = ways[term], read.sources[term]
        assert way is not None  # or the sink, and the source, would stay
        if way.tensor not in names:
            names[way.tensor] = fresh(jax.ShapeDtypeStruct(way.tensor.shape, way.tensor.like.dtype))
        inputs = [*inputs, names[way.tensor], source.s]
        parts.append(partial(_part, axis=way.axis, inner=source.inner, sink=_result(sink)))
    return before + spliced(partial(_total, parts), inputs, eqn.outvars)


class Result(NamedTuple):
    """Shapes of a sink's result: of the axes of u that stay and of the matrix's columns, and which come first."""

    kept: tuple[int, ...]
    columns: tuple[int, ...]
    columns_first: bool


def _result(sink: Sink) -> Result:
    kept = tuple(size for axis, size in enumerate(struct(sink.u).shape) if axis not in sink.rows)
    columns = tuple(struct(sink.matrix.var).shape[axis] for axis in sink.matrix.columns)  # none of ones
    return Result(kept, columns, sink.columns_first)


def _total(parts: list[Callable[[Array, Array], Array]], *inputs: Array) -> Array:
    """The rest, if any, and every part of its tensor and vector."""
    rest, pairs = inputs[: len(inputs) - 2 * len(parts)], inputs[len(inputs) - 2 * len(parts) :]
    return reduce(jnp.add, [*rest, *(part(t, s) for part, t, s in zip(parts, pairs[::2], pairs[1::2], strict=True))])


def _part(t: Float[Array, "j a b"], s: Array, *, axis: int, inner: tuple[int, ...], sink: Result) -> Array:
    free = tuple(k for k in range(s.ndim) if k not in inner)
    s = s.transpose(*free, *inner).reshape(-1, t.shape[axis])
    if t.shape[0] == 1:
        out = lax.dot_general(s, t[0], (((1,), (axis - 1,)), ((), ())), precision="highest")
    elif t.shape[axis] == 1:
        out = s * t.reshape(t.shape[0], -1)
    else:
        out = lax.dot_general(t, s, (((axis,), (1,)), ((0,), (0,))), precision="highest")
    out = out.reshape(*sink.kept, *sink.columns)
    count = len(sink.kept)
    return out.transpose(*range(count, out.ndim), *range(count)) if sink.columns_first else out


def _tensor(tensor: Tensor, kept: Mapping[Any, Array]) -> Float[Array, "j a b"]:
    """A matrix product for a few j at a time: masked for all at once, a matrix would not fit where the result does."""
    first, second = (_rows(matrix, kept, tensor) for matrix in (tensor.first, tensor.second))
    factor, counts = values(tensor.mask, kept)
    factor, counts = (_columns(x, tensor) for x in (factor, jnp.asarray(counts, tensor.like.dtype)))
    finite = [jnp.where(jnp.isfinite(x), x, 0) for x in (first, second)]
    product = lambda row: jnp.matmul(finite[0].T * row[None], finite[1], precision="highest")
    together = min(TOGETHER, MASKED // tensor.num_rows) // tensor.first.width
    t = lax.map(product, factor, batch_size=max(1, min(together, len(factor))))
    # What is infinite in a row that a `where` leaves out does not count; elsewhere nothing is finite with it.
    lost = [jnp.matmul(counts, (~jnp.isfinite(x)).astype(counts.dtype)) > 0 for x in (first, second)]
    return jnp.where(lost[0][:, :, None] | lost[1][:, None, :], jnp.nan, t)


def _columns(mask: Any, tensor: Tensor) -> Float[Array, "j n"]:
    """A mask's columns as rows; one of them where all are alike."""
    free = tuple(axis for axis in range(len(tensor.like.shape)) if axis not in tensor.rows)
    whole = jnp.broadcast_to(jnp.asarray(mask, tensor.like.dtype), tensor.like.shape)
    return whole.transpose(*free, *tensor.rows).reshape(-1, tensor.num_rows)[: tensor.shape[0]]


def _rows(matrix: Factor, kept: Mapping[Any, Array], tensor: Tensor) -> Float[Array, "n columns"]:
    if matrix.var is None:
        return jnp.ones((tensor.num_rows, 1), tensor.like.dtype)
    return kept[matrix.var].transpose(*matrix.rows, *matrix.columns).reshape(tensor.num_rows, matrix.width)
