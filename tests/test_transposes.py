"""Products of a linearisation with transposes kept: the same numbers, no slow form left, wherever they are used."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import hessjax as hj
from hessjax.transposes import transposed_once

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X, G, W = (jnp.asarray(RNG.standard_normal(shape), "float32") for shape in ((7, 3), (7, 5), (3, 5)))
CUBE = jnp.asarray(RNG.standard_normal((4, 7, 3)), "float32")


def over_rows(a, b):
    """a' b, written as the derivative of a dense layer is."""
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


# Linear functions of v, what v is, and how many products contract a leading axis with one side kept.
CASES = {
    "kept on the left": (lambda v: over_rows(X, v), G, 1),
    "kept on the right": (lambda v: over_rows(v, X), G, 1),
    "there and back": (lambda v: over_rows(X, X @ v), W, 1),
    "one array twice": (lambda v: (over_rows(X, v), over_rows(v, X)), G, 2),
    "two axes": (lambda v: jnp.einsum("abi,abo->io", CUBE, v), jnp.ones((4, 7, 2)), 1),
    "axes in another order": (lambda v: jnp.einsum("abi,bao->oi", CUBE, v), jnp.ones((7, 4, 2)), 1),
    "a vector": (lambda v: v @ X, jnp.arange(7.0), 0),
    "already fast": (lambda v: (X @ v) @ W.T, W, 0),
    "a batch": (lambda v: jnp.einsum("nbi,nbo->nio", CUBE, v), jnp.ones((4, 7, 2)), 0),
    "computed of what is kept": (lambda v: over_rows(v, jnp.cos(X @ W)), G, 1),
    "no product": (lambda v: jnp.sum(v * G), G, 0),
}


def slow(function, v):
    """Products of a program that contract the left side's leading axis, one side of them kept."""
    program = jax.make_jaxpr(function)(v).jaxpr
    kept = set(program.constvars)
    inner = [eqn for eqn in program.eqns if eqn.primitive is lax.dot_general_p]
    count = 0
    for eqn in inner:
        (left, _), batch = eqn.params["dimension_numbers"]
        trailing = tuple(left) == tuple(range(eqn.invars[0].aval.ndim))[-len(left) :]
        count += not trailing and not any(batch) and any(x in kept for x in eqn.invars)
    return count


@pytest.mark.parametrize("name", CASES)
def test_products_are_the_same_and_of_a_fast_form(name):
    push, v, count = CASES[name]
    v = v.astype("float32")
    rewritten = transposed_once(jax.linearize(push, jnp.zeros_like(v))[1], jnp.zeros_like(v))
    chex.assert_trees_all_close(rewritten(v), push(v), rtol=1e-5)
    assert slow(jax.linearize(push, jnp.zeros_like(v))[1], v) == count
    assert slow(rewritten, v) == 0


def net(params, batch):
    x, y = batch
    h = jnp.tanh(x @ params["w"] + params["b"])
    return (h @ params["v"] - y) ** 2


BATCH = X, jnp.ones(7)
PARAMS = {"w": W, "b": jnp.zeros(5), "v": jnp.ones(5)}


def test_an_operators_linearisation_is_it(dtype):
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    op = hj.Hessian(net, cast(PARAMS), cast(BATCH))
    linear = op.linearized()
    rtol = 50 * float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(linear.mv(op.params), op.mv(op.params), rtol=rtol, atol=rtol)
    leaves = {x.shape for x in jax.tree.leaves(linear)}
    assert (7, 3) in leaves
    assert (3, 7) in leaves  # activations, and their transpose


def test_moving_params_do_not_retrace():
    traced = jax.jit(chex.assert_max_traces(lambda linear, v: linear.product(v), n=1))
    for scale in (1.0, 2.0):
        op = hj.Hessian(net, jax.tree.map(lambda x: scale * x, PARAMS), BATCH)  # noqa: B023
        chex.assert_trees_all_close(traced(op.linearized(), PARAMS), op.mv(PARAMS), rtol=1e-4, atol=1e-5)


def test_it_is_batched_differentiated_and_spread_as_before():
    top = lambda p: hj.slq(hj.Hessian(net, p, BATCH), KEY, num_steps=2, num_probes=1).nodes[0, -1]
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    np.testing.assert_allclose(
        jax.vmap(top)(many), [top(jax.tree.map(lambda x, k=k: x[k], many)) for k in (0, 1)], rtol=1e-5
    )
    product = lambda p: sum(jax.tree.leaves(jax.tree.map(jnp.sum, hj.Hessian(net, p, BATCH).linearized().mv(PARAMS))))
    plain = lambda p: sum(jax.tree.leaves(jax.tree.map(jnp.sum, hj.Hessian(net, p, BATCH).mv(PARAMS))))
    chex.assert_trees_all_close(jax.grad(product)(PARAMS), jax.grad(plain)(PARAMS), rtol=1e-3, atol=1e-4)
    mesh, p = Mesh(np.array(jax.devices()), "d"), PartitionSpec("d")
    scales = jnp.arange(1.0, 1 + len(jax.devices()))
    one = lambda c: top(jax.tree.map(lambda x: c[0] * x, PARAMS))[None]
    spread = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=p, out_specs=p))(scales)
    np.testing.assert_allclose(spread, jax.vmap(lambda c: one(c[None])[0])(scales), rtol=1e-4)


def test_other_backends_keep_what_they_were_given(monkeypatch):
    push = jax.linearize(CASES["kept on the left"][0], G)[1]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert transposed_once(push, G) is push
