"""Rows summed once: the same linear function, with nothing left to do over the rows where all of it is known."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import hessjax as hj
from hessjax import contractions
from hessjax.contractions import contracted_once
from hessjax.jaxprs import linearized_once

pytestmark = pytest.mark.usefixtures("float64")
KEY = jax.random.key(0)
MANY = 10**9
N, WIDTH = 60, 3


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


X, Y, Z, M, M2 = (draw(N, WIDTH, seed=k) for k in range(5))
SEQUENCE, SEQUENCE_MASK = draw(10, 6, WIDTH), draw(10, 6, WIDTH, seed=1)
WIDE = draw(N, 2, 4)
W = draw(WIDTH, WIDTH)
SQUARE = draw(WIDTH, WIDTH, seed=7)
B = draw(WIDTH)
POSITIVE = M > 0


def rectified(u, mask=POSITIVE):
    return jnp.where(mask, u, 0.0)


def over_rows(a, b):
    """a' b, written as the derivative of a dense layer is."""
    return lax.dot_general(a, jnp.asarray(b), (((0,), (0,)), ((), ())))


# Linear functions, what they are of, and whether nothing with the rows is kept once they are rewritten.
CASES = {
    "kept on the left": (lambda s: Y.T @ (M * (X @ s)), W, True),
    "kept on the right": (lambda s: over_rows(M * (X @ s), Y), W, True),
    "transposed": (lambda s: (s @ X.T * M.T) @ Y, W, True),
    "no mask": (lambda s: Y.T @ (X @ s), W, True),
    "one matrix twice": (lambda s: X.T @ (M * (X @ s)), W, True),
    "a broadcast": (lambda b: Y.T @ (M * b), B, True),
    "a row sum": (lambda s: jnp.sum(M * (X @ s), 0), W, True),
    "neither": (lambda b: jnp.sum(M * b, 0), B, False),
    "negated and divided": (lambda s: Y.T @ (-(X @ s) / (2 + M**2)), W, True),
    "subtracted": (lambda s: Y.T @ (M * (X @ s) - M2 * (Z @ s)), W, True),
    "either case": (lambda s: Y.T @ jnp.where(POSITIVE, X @ s, Z @ s), W, True),
    "rectified": (lambda s: Y.T @ rectified(X @ s + s[0]), W, True),
    "1 + mask": (lambda s: (lambda u: Y.T @ (u + u * M))(X @ s), W, True),
    "two axes of rows": (
        lambda s: jnp.einsum("abi,abo->io", SEQUENCE, SEQUENCE_MASK * jnp.einsum("abi,io->abo", SEQUENCE, s)),
        W,
        True,
    ),
    "axes of rows in another order": (
        lambda s: lax.dot_general(
            jnp.asarray(SEQUENCE), jnp.einsum("abi,io->oba", SEQUENCE, s), (((0, 1), (2, 1)), ((), ()))
        ),
        W,
        False,  # their transposition stands between
    ),
    "columns in another order": (
        lambda s: over_rows(Y, M * lax.dot_general(jnp.asarray(WIDE), s, (((2, 1), (1, 2)), ((), ())))),
        draw(WIDTH, 4, 2),
        True,
    ),
    "a batch of sums": (
        lambda s: jnp.einsum("abi,abo->aio", SEQUENCE, jnp.einsum("abi,io->abo", SEQUENCE, s)),
        W,
        False,
    ),
    "a batch of vectors": (
        lambda s: jnp.einsum("abi,abo->io", SEQUENCE, jnp.einsum("abi,aio->abo", SEQUENCE, s)),
        draw(10, WIDTH, WIDTH),
        False,
    ),
    "two sums of one": (lambda s: (lambda u: (Y.T @ u, Z.T @ u, jnp.sum(u, 0)))(M * (X @ s)), W, True),
    "a bias among others": (lambda s: jnp.sum(M * (X @ s) + s[0] * M2, 0), W, False),
    "rows given out": (lambda s: (lambda u: (Y.T @ u, u))(M * (X @ s)), W, False),
    "rows of the vector": (lambda u: Y.T @ (M * u), X, False),
    "a function of rows": (lambda s: Y.T @ jnp.cumsum(M * (X @ s), 0), W, False),
    "other axes summed": (lambda s: (M * (X @ s)) @ SQUARE, W, False),
    "sums of sums": (lambda s: Z.T @ (M2 * (X @ (Y.T @ (M * (X @ s))))), W, True),
    "sums among others": (lambda s: Z.T @ (M2 * (X @ (Y.T @ (M * (X @ s)) + s))), W, True),
}


def pushed(function, v):
    return jax.linearize(function, jax.tree.map(jnp.zeros_like, v))[1]


def keeps_rows(push):
    return any(N in x.shape or 10 in x.shape for x in jax.tree.leaves(push))


@pytest.fixture
def always(monkeypatch):
    """Whatever it costs."""
    monkeypatch.setattr(contractions, "FLOPS_PER_BYTE", 0.0)


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_same_function(name, always):
    function, v, all_known = CASES[name]
    v = jnp.asarray(v)
    rewritten = contracted_once(pushed(function, v), v, MANY)
    chex.assert_trees_all_close(rewritten(v), function(v), rtol=1e-12, atol=1e-12)
    block = jnp.stack([v, 2 * v, v**2])
    chex.assert_trees_all_close(jax.vmap(rewritten)(block), jax.vmap(function)(block), rtol=1e-12, atol=1e-12)
    assert keeps_rows(rewritten) == (not all_known)


def random_function(rng):
    """A linear function of (s, t) [d, d]: matrices spread over rows, masked, added, summed, and so on again."""
    kept = [draw(N, WIDTH, seed=int(rng.integers(1000))) for _ in range(3)]
    plan = [(int(rng.integers(9)), *map(int, rng.integers(0, 1000, 3))) for _ in range(14)]

    def function(v):
        small, tall = [*v], []
        for kind, a, b, c in plan:
            k = kept[c % len(kept)]
            if kind < 2 or not tall:
                tall.append(k @ small[a % len(small)])
            elif kind == 2:
                tall.append(jnp.broadcast_to(small[a % len(small)][b % WIDTH], (N, WIDTH)))
            elif kind == 3:
                tall.append(tall[a % len(tall)] * k)
            elif kind == 4:
                tall.append(jnp.where(k > 0, tall[a % len(tall)], tall[b % len(tall)] if c % 2 else 0.0))
            elif kind == 5:
                tall.append(tall[a % len(tall)] - tall[b % len(tall)])
            elif kind == 6:
                tall.append(tall[a % len(tall)] @ SQUARE)
            else:
                small.append(k.T @ tall[a % len(tall)] / N)
        return [k.T @ x / N for k, x in zip(kept * 14, tall, strict=False)], small, jnp.sum(tall[-1], 0)

    return function


@pytest.mark.parametrize("seed", range(12))
def test_any_linear_function_stays_itself(seed, always):
    function, v = random_function(np.random.default_rng(seed)), [jnp.asarray(W), jnp.asarray(SQUARE)]
    rewritten = contracted_once(linearized_once(function, v), v, MANY)
    chex.assert_trees_all_close(jax.jit(rewritten)(v), function(v), rtol=1e-9, atol=1e-9)


ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "softplus": jax.nn.softplus, "silu": jax.nn.silu}


def net(activation, widths=(2, 4, 5, 1)):
    """A multilayer perceptron's squared error over many rows, and params."""

    def loss(params, batch):
        h, y = batch
        for w, b in params[:-1]:
            h = activation(h @ w + b)
        return 0.5 * (h @ params[-1][0] + params[-1][1] - y)[:, 0] ** 2

    return loss, [(jnp.asarray(draw(a, b)), jnp.asarray(draw(b))) for a, b in pairwise(widths)]


BATCH = draw(400, 2), draw(400, 1)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_hessians_are_the_same_and_their_cross_terms_made_once(name):
    loss, params = net(ACTIVATIONS[name])
    op = hj.Hessian(loss, params, BATCH)
    one, many = op.linearized(), op.linearized(1000)
    for seed in range(3):
        v = jax.tree.map(lambda x, s=seed: draw(*x.shape, seed=s + 1), params)
        chex.assert_trees_all_close(many.mv(v), op.mv(v), rtol=1e-10, atol=1e-12)
    shapes = [[x.shape for x in jax.tree.leaves(linear) if x.ndim == 3] for linear in (one, many)]
    assert shapes[0] == []
    # One tensor for both of its blocks, where a derivative that is taken forward and back is the same program.
    assert shapes[1].count((4, 2, 5)) == (1 if name in ("relu", "tanh") else 2)


def test_a_tensor_that_does_not_pay_is_not_made():
    loss, params = net(jnp.tanh)
    tensors = lambda batch, count: [
        x.shape for x in jax.tree.leaves(hj.Hessian(loss, params, batch).linearized(count)) if x.ndim == 3
    ]
    assert tensors(BATCH, 1000)
    assert not tensors(BATCH, 1)  # all sums over the rows, for one step
    assert not tensors(jax.tree.map(lambda x: x[:20], BATCH), 1000)  # no more numbers to read than rows to sum


@pytest.mark.parametrize("order", [1, -1])
def test_either_side_may_be_infinite_where_its_rows_are_left_out(order, always):
    """Each matrix is the source's of one sum and the sink's of the other."""
    infinite = jnp.asarray(Z).at[0].set(jnp.inf)
    counts = jnp.arange(N)[:, None] > 1

    def function(s):
        u, w = jnp.where(counts, X @ s, 0.0), jnp.where(counts, infinite @ s, 0.0)
        return (over_rows(X, w), over_rows(X, u))[::order]

    rewritten = contracted_once(pushed(function, jnp.asarray(W)), jnp.asarray(W), MANY)
    assert not keeps_rows(rewritten)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in function(W))
    chex.assert_trees_all_close(rewritten(W), function(W), rtol=1e-12)


def test_what_is_multiplied_by_nothing_stays_infinite(always):
    """Of 0 x inf there is no sum, though of what `where` leaves out there is."""
    x, zero = jnp.asarray(X).at[0, 1].set(jnp.inf), jnp.asarray(M).at[0].set(0.0)
    for push in (lambda s: Y.T @ (zero * (x @ s)), lambda s: over_rows(x, zero * (Y @ s))):
        rewritten = contracted_once(pushed(push, jnp.asarray(W)), jnp.asarray(W), MANY)
        assert not keeps_rows(rewritten)
        assert not bool(jnp.all(jnp.isfinite(rewritten(W))))
        assert bool(jnp.all(jnp.isfinite(rewritten(W)) <= jnp.isfinite(push(W))))


def test_estimates_have_the_derivative_they_had_where_masks_are_zero():
    """At blank rows without biases an even activation's derivative is zero, but not that derivative's own."""
    x = jnp.asarray(draw(1000, 2)).at[:300].set(0.0)
    loss = lambda p, batch: 0.5 * (jnp.cos(batch[0] @ p[0] + p[1]) @ p[2] - batch[1])[:, 0] ** 2
    weights = [jnp.asarray(w) for w in (draw(2, 4), np.zeros(4), draw(4, 1))]
    estimate = lambda b: (
        hj.trace(
            hj.Hessian(loss, [weights[0], b, weights[2]], (x, jnp.asarray(draw(1000, 1)))),
            KEY,
            num_probes=100,
            method="hutchinson",
        ).value
    )
    step = 1e-5 * jnp.eye(4)[0]
    difference = (estimate(weights[1] + step) - estimate(weights[1] - step)) / 2e-5
    assert float(jax.grad(estimate)(weights[1])[0]) == pytest.approx(float(difference), rel=1e-6)


@pytest.mark.parametrize("name", ["halved", "scaled"])
def test_masks_of_many_steps_are_neither_exponential_nor_deep(name):
    step = {"halved": lambda h: h - 0.1 * h, "scaled": lambda h: h * M[:, :1]}[name]

    def function(s):
        h = X @ s
        for _ in range({"halved": 60, "scaled": 600}[name]):
            h = step(h)
        return Y.T @ h

    rewritten = contracted_once(pushed(function, jnp.asarray(W)), jnp.asarray(W), MANY)
    chex.assert_trees_all_close(rewritten(W), function(W), rtol=1e-9)


def test_params_without_entries_are_left_alone(always):
    function = lambda s: (Y.T @ (M * (X @ s[0] + jnp.asarray(X)[:, :0] @ s[1])), s[1])
    v = [jnp.asarray(W), jnp.zeros((0, WIDTH))]
    rewritten = contracted_once(pushed(function, v), v, MANY)
    chex.assert_trees_all_close(rewritten(v), function(v), rtol=1e-12)


def test_numbers_of_products_share_programs():
    loss, params = net(jnp.tanh)
    traces = []

    def counted(p, batch):
        traces.append(1)
        return loss(p, batch)

    totals = []
    for count in (256, 300, 512, 1000):
        hj.Hessian(counted, params, BATCH).linearized(count)
        totals.append(len(traces))
    assert totals == [totals[0]] * 4


def test_rows_that_are_masked_out_may_be_infinite(always):
    """Padding, and derivatives where a function has none: what `where` leaves out does not count."""
    x, scale = jnp.asarray(X).at[0].set(jnp.inf), jnp.asarray(M).at[1].set(0.0)
    counts = jnp.arange(N)[:, None] > 1
    function = lambda s: Y.T @ jnp.where(counts, (x @ s) / scale, 0.0)
    rewritten = contracted_once(pushed(function, jnp.asarray(W)), jnp.asarray(W), MANY)
    assert not keeps_rows(rewritten)
    assert bool(jnp.all(jnp.isfinite(function(W))))
    chex.assert_trees_all_close(rewritten(W), function(W), rtol=1e-12)


def test_narrow_dtypes_are_left_alone(always):
    cast = lambda x: jnp.asarray(x, "bfloat16")
    push = pushed(lambda s: cast(Y).T @ (cast(M) * (cast(X) @ s)), cast(W))
    assert contracted_once(push, cast(W), MANY) is push


def test_estimates_are_those_of_the_operator_under_jit_vmap_and_shard_map():
    loss, params = net(jnp.tanh)
    top = lambda p: hj.slq(hj.Hessian(loss, p, BATCH), KEY, num_steps=30, num_probes=20).nodes[:, -1]
    exact = lambda p: hj.eigvalsh(hj.Hessian(loss, p, BATCH))[-1]
    np.testing.assert_allclose(top(params), exact(params), rtol=1e-9)
    many = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), params)
    np.testing.assert_allclose(jax.vmap(top)(many)[:, 0], jax.vmap(exact)(many), rtol=1e-9)
    mesh, spec = Mesh(np.array(jax.devices()), "d"), PartitionSpec("d")
    one = lambda c: top(jax.tree.map(lambda x: c[0] * x, params))[None, 0]
    scales = jnp.linspace(0.5, 1.0, len(jax.devices()))
    spread = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=spec, out_specs=spec))(scales)
    expected = [exact(jax.tree.map(lambda x, c=c: c * x, params)) for c in scales]
    np.testing.assert_allclose(spread, expected, rtol=1e-9)


def test_one_program_for_all_params():
    loss, params = net(jnp.tanh)
    traced = jax.jit(chex.assert_max_traces(lambda linear, u: linear.product(u), n=1))
    for scale in (1.0, 2.0):
        op = hj.Hessian(loss, jax.tree.map(lambda x, c=scale: c * x, params), BATCH)
        chex.assert_trees_all_close(traced(op.linearized(1000), params), op.mv(params), rtol=1e-9, atol=1e-12)


def test_other_backends_keep_what_they_were_given(monkeypatch, always):
    push = pushed(CASES["no mask"][0], jnp.asarray(W))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert contracted_once(push, jnp.asarray(W), MANY) is push


def test_no_product_over_rows_is_left(always):
    function, v, _ = CASES["rectified"]
    v = jnp.asarray(v)
    rewritten = contracted_once(pushed(function, v), v, MANY)
    program = jax.make_jaxpr(rewritten)(v).jaxpr
    sizes = {size for eqn in program.eqns if eqn.primitive is lax.dot_general_p for size in eqn.invars[0].aval.shape}
    assert sizes == {WIDTH}
