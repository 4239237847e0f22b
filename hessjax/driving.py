"""Loops around products: one compiled program where the operator can be traced, a host loop where it is streamed.

An algorithm is written once, as steps of the kind `state -> state` that are given the product of `state.v`; what runs
them is decided here. Recurrences are computed in at least float32, whatever the dtype of the params.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from hessjax import trees
from hessjax.devices import memory_available
from hessjax.operators import Operator, multiply

__all__ = ["between", "either", "over", "product", "products", "ready", "repeat", "run", "space", "together", "until"]

# Scalars in vectors multiplied at once. On a CPU many leave the cache: 8 probes of an 85,002-parameter net took 1.8
# times as long together as one after another, of 15,500 parameters 0.8, of 200 parameters 0.6; two or four at a time
# were slower than either. Accelerators want width.
CPU_SCALARS, ACCELERATOR_SCALARS = 2**17, 2**27


def run(function: Callable, op: Operator, *args: Any, **static: Any) -> Any:
    """`function(op, *args, **static)`: compiled once per operator's structure and options, or from the host."""
    if op.streamed:
        return function(op, *args, **static)
    return _compiled(function, tuple(static))(op, *args, **static)


def between(function: Callable, *args: Any, **static: Any) -> Any:
    """`function(*args, **static)` as one program: what an algorithm does between products, streamed or not.

    Compiled once where `function` is a module's own; functions among `args` are `jax.tree_util.Partial`.
    """
    return _compiled(function, tuple(static))(*args, **static)


@cache
def _compiled(function: Callable, static: tuple[str, ...]) -> Callable:
    return jax.jit(function, static_argnames=static)


def ready(op: Operator, num_products: int) -> Operator:
    """The operator that so many products should be taken of: linearised, if that keeps at most a quarter of the memory.

    As far as fits: for many products, or one, or not at all. What only making it takes is not counted.
    """
    if op.streamed:
        return op
    for count in (num_products, 1):
        kept = jax.eval_shape(lambda o, count=count: o.linearized(count), op)
        if _held(kept) <= memory_available() // 4:
            return op.linearized(count)
    return op


def _held(op: Operator) -> int:
    """Bytes of an operator's arrays, keys among them."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(op) if hasattr(x, "dtype"))


def space(op: Operator) -> PyTree:
    """Shapes and dtypes of an iteration's vectors: the operator's, in at least float32."""
    return trees.lift(op.like)


def product(op: Operator, v: PyTree) -> PyTree:
    """A v from and to the vectors of an iteration."""
    if all(x.dtype != jnp.float16 for x in jax.tree.leaves(op.like)):
        return trees.lift(multiply(op, _lowered(v, op)))
    # Entries of a long unit vector are below what float16 has digits for.
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0.0) for x in jax.tree.leaves(v)]))
    unit = jnp.exp2(jnp.floor(jnp.log2(jnp.where(largest > 0, largest, 1))))
    return trees.scale(unit, trees.lift(multiply(op, _lowered(trees.scale(1 / unit, v), op))))


def products(op: Operator, block: PyTree) -> PyTree:
    """A times every vector of a block (leading axis), in one pass where it is streamed."""
    if op.streamed:
        return trees.lift(op.products(_lowered(block, op)))
    return over(op, partial(product, op), block)


def _lowered(v: PyTree, op: Operator) -> PyTree:
    return jax.tree.map(lambda x, like: x.astype(like.dtype), v, op.like)


def over(op: Operator, function: Callable[[PyTree], PyTree], xs: PyTree) -> PyTree:
    """`function` of every x (leading axis), `together(op, count)` at once."""
    count = len(jax.tree.leaves(xs)[0])
    width = together(op, count)
    if width == 1:  # no batch axis at all, which would cost one of length 1 in every product
        return jax.lax.map(function, xs)
    return jax.vmap(function)(xs) if width == count else jax.lax.map(function, xs, batch_size=width)


def together(op: Operator, count: int) -> int:
    """How many of `count` vectors are multiplied at once: as is fast for the operator's size, and fits in memory."""
    fits = memory_available() // (4 * max(_held(op), 1))  # a product's tangents are about as large as what it is of
    if jax.default_backend() == "cpu":
        return count if count * op.size <= CPU_SCALARS and count <= fits else 1
    return max(1, min(count, ACCELERATOR_SCALARS // op.size, fits))


def repeat(
    op: Operator,
    step: Callable[..., Any],
    state: Any,
    start: Any,
    stop: Any,
    *,
    lanes: bool = False,
    ended: Callable[[Any], Array] | None = None,
    **static: Any,
) -> Any:
    """For i = start .. stop - 1: state = step(state, A state.v, i, domain, **static), `domain` that of A.

    With `lanes`, for a batch of states.

    Where `ended` of the state (of the batch) is all true, a streamed operator reads its data no more; a compiled loop
    goes on, in which such a state stays as it is.

    A streamed operator multiplies the vectors of all lanes in one pass over its data; each step is a compiled program,
    one and the same in every call where `step` is a module's own function.
    """
    multiply, domain = products if lanes else product, op.domain()
    if not op.streamed:
        advance = _in_lanes if lanes else _alone
        body = lambda i, s: advance(step, s, multiply(op, s.v), i, domain, static)
        return jax.lax.fori_loop(start, stop, body, state)
    advance = _jitted_in_lanes if lanes else _jitted_alone
    options = tuple(static.items())
    for i in range(int(start), int(stop)):
        if ended is not None and bool(jnp.all(ended(state))):
            break
        state = advance(step, state, multiply(op, state.v), jnp.int32(i), domain, options)
    return state


def _alone(step: Callable, state: Any, w: PyTree, i: Any, domain: Operator, options: Any) -> Any:
    return step(state, w, i, domain, **dict(options))


def _in_lanes(step: Callable, state: Any, w: PyTree, i: Any, domain: Operator, options: Any) -> Any:
    return jax.vmap(partial(step, **dict(options)), in_axes=(0, 0, None, None))(state, w, i, domain)


_jitted_alone = jax.jit(_alone, static_argnums=(0, 5))
_jitted_in_lanes = jax.jit(_in_lanes, static_argnums=(0, 5))


def until(op: Operator, done: Callable[[Any], Bool[Array, ""]], step: Callable[[Any], Any], state: Any) -> Any:
    """`step` until `done`, without leaving the compiled program unless the operator is streamed."""
    if not op.streamed:
        return jax.lax.while_loop(lambda s: ~done(s), step, state)
    while not bool(done(state)):
        state = step(state)
    return state


def either(op: Operator, which: Bool[Array, ""], one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """`one()` where `which`, else `other()`; without leaving the compiled program unless the operator is streamed."""
    if not op.streamed:
        return jax.lax.cond(which, one, other)
    return one() if bool(which) else other()
