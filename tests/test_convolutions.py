"""Convolutions rewritten for loops: the same numbers, of any layout, stride, dilation and grouping, in any loop."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import hessjax as hj
from hessjax import convolutions
from hessjax.convolutions import fast_in_loops

KEY = jax.random.key(0)
# Shapes of input and kernel, and the convolution's options.
CASES = {
    "channels last": ((2, 5, 6, 3), (3, 2, 3, 4), {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}),
    "channels first": ((2, 3, 5, 6), (4, 3, 3, 2), {}),
    "every axis elsewhere": ((5, 3, 2, 6), (4, 3, 3, 2), {"dimension_numbers": ("HCNW", "OHIW", "CWHN")}),
    "strides": ((2, 3, 7, 6), (4, 3, 3, 2), {"window_strides": (2, 3), "padding": ((1, 0), (0, 2))}),
    "dilations": (
        (2, 3, 7, 6),
        (4, 3, 3, 2),
        {"lhs_dilation": (2, 1), "rhs_dilation": (1, 2), "padding": ((1, 0), (2, 2))},
    ),
    "groups": ((2, 4, 5, 6), (6, 2, 3, 2), {"feature_group_count": 2}),
    "depthwise": ((2, 4, 5, 6), (8, 1, 3, 2), {"feature_group_count": 4}),
    "batch groups": ((4, 3, 5, 6), (6, 3, 3, 2), {"batch_group_count": 2}),
    "one axis": ((2, 3, 7), (4, 3, 3), {}),
    "three axes": ((2, 3, 4, 5, 3), (4, 3, 2, 2, 2), {}),
    "no axis": ((2, 3), (4, 3), {}),
}


def convolution(name):
    x_shape, w_shape, options = CASES[name]
    x, w = jax.random.normal(KEY, x_shape), jax.random.normal(jax.random.key(1), w_shape)
    defaults = {"window_strides": (1,) * (len(x_shape) - 2), "padding": "VALID"}
    return partial(lax.conv_general_dilated, **{**defaults, **options}), x, w


def layouts(function, *args):
    """Batch and channel axes of every convolution of a program, those of its loops too, and how many axes it has."""

    def found(program):
        for eqn in program.eqns:
            if eqn.primitive is convolutions.CONVOLUTION:
                x, kernel, out = eqn.params["dimension_numbers"]
                yield x[:2], kernel[:2], out[:2], len(x)
            for inner in convolutions._inner(eqn):
                yield from found(inner)

    return list(found(jax.make_jaxpr(function)(*args)))


def are_fast(function, *args):
    """Whether there are convolutions, and all of them channels-last."""
    seen = layouts(function, *args)
    last = lambda n: ((0, n - 1), (n - 1, n - 2), (0, n - 1), n)
    return bool(seen) and all(one == last(one[-1]) for one in seen)


@pytest.mark.parametrize("name", CASES)
def test_convolutions_and_their_derivatives_are_the_same(name):
    conv, x, w = convolution(name)
    both = lambda operands: jnp.sum(jnp.tanh(conv(*operands)))
    hvp = lambda v: jax.jvp(jax.grad(both), ((x, w),), (v,))[1]
    for function in (lambda operands: conv(*operands), jax.grad(both), hvp):
        chex.assert_trees_all_close(fast_in_loops(function)((x, w)), function((x, w)), atol=1e-4)
        assert are_fast(fast_in_loops(function), (x, w))


def relu_net(w):
    h = jax.nn.relu(
        lax.conv(jnp.ones((2, 3, 7), w.dtype), w, (1,), "SAME")
    )  # relu: a custom_jvp with a program of its own
    return jnp.sum(h**2)


WRAPPERS = {
    "jit": jax.jit,
    "scan": lambda f: lambda w: lax.scan(lambda c, _: (c + 1e-2 * f(c), f(c)), w, None, length=3),
    "fori": lambda f: lambda w: lax.fori_loop(0, 3, lambda i, c: c + 1e-2 * f(c), w),
    "while": lambda f: lambda w: lax.while_loop(lambda c: jnp.sum(f(c)) > 1e9, f, w),
    "cond": lambda f: lambda w: lax.cond(w.sum() > 0, f, lambda c: -f(c), w),
    "map": lambda f: lambda w: lax.map(f, jnp.stack([w, 2 * w])),
    "checkpoint": jax.checkpoint,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_loops_and_branches_are_rewritten_inside(name):
    wrapped, w = WRAPPERS[name](jax.grad(relu_net)), convolution("one axis")[2]
    chex.assert_trees_all_close(fast_in_loops(wrapped)(w), wrapped(w), rtol=1e-5)
    assert are_fast(fast_in_loops(wrapped), w)
    assert not are_fast(wrapped, w)


def test_it_is_traced_batched_and_differentiated_as_before():
    w = convolution("one axis")[2]
    f = fast_in_loops(jax.grad(relu_net))
    many = jnp.stack([w, -w, 2 * w])
    chex.assert_trees_all_close(jax.jit(jax.vmap(f))(many), jax.vmap(jax.grad(relu_net))(many), rtol=1e-5)
    total = lambda g, x: jnp.sum(g(x) ** 2)
    chex.assert_trees_all_close(
        jax.grad(partial(total, f))(w), jax.grad(partial(total, jax.grad(relu_net)))(w), rtol=1e-5
    )
    assert f(w.astype("bfloat16")).dtype == jnp.bfloat16


def test_what_has_no_convolution_is_left_as_it_is():
    f = lambda x: jnp.sin(x) @ x
    assert str(jax.make_jaxpr(fast_in_loops(f))(jnp.ones(3))) == str(jax.make_jaxpr(f)(jnp.ones(3)))


def test_other_backends_compute_their_own_layouts(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    w = convolution("one axis")[2]
    assert layouts(fast_in_loops(relu_net), w) == layouts(relu_net, w)


def test_over_devices_as_on_one():
    mesh, p = Mesh(np.array(jax.devices()), "d"), PartitionSpec("d")
    ws = jnp.stack([i * convolution("one axis")[2] for i in range(len(jax.devices()))])
    one = lambda w: fast_in_loops(WRAPPERS["scan"](jax.grad(relu_net)))(w[0])[0][None]
    got = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=p, out_specs=p))(ws)
    want = jax.vmap(lambda w: WRAPPERS["scan"](jax.grad(relu_net))(w)[0])(ws)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def conv_loss(w, batch):
    x, y = batch
    h = lax.conv_general_dilated(x, w["kernel"], (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    return (jnp.tanh(h).reshape(len(x), -1) @ w["out"] - y) ** 2


@pytest.mark.parametrize("chunk", [None, 3])
def test_products_in_loops_are_fast_and_those_of_jax(chunk):
    batch = jax.random.normal(KEY, (8, 6, 2)), jnp.ones(8)
    params = {"kernel": jax.random.normal(KEY, (3, 2, 4)), "out": jnp.ones(12) / 3}
    op = hj.Hessian(conv_loss, params, batch, chunk=chunk)
    v = jax.tree.map(jnp.ones_like, params)
    mean = lambda p: jnp.mean(conv_loss(p, batch))
    chex.assert_trees_all_close(op.mv(v), jax.jvp(jax.grad(mean), (params,), (v,))[1], rtol=1e-4, atol=1e-6)
    in_loop = lambda o: hj.slq(o, KEY, num_steps=4, num_probes=2)
    of_products = layouts(lambda o: o.mv(v), op)
    assert are_fast(lambda o: o.mv(v), op)
    assert len(layouts(in_loop, op)) >= len(of_products) or chunk is None  # linearised, the primal pass is not in it
    np.testing.assert_allclose(hj.eigvalsh(op), np.linalg.eigvalsh(hj.dense(op)), atol=1e-4)
