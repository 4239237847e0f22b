"""Every estimator, however it is driven: streamed, batched, over devices, from another key; and driving's own parts."""

import gc
import weakref
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from problems import SIGNS, X, arrays, logistic, softmax
from spectra import diagonal

import hessjax as hj
from hessjax import driving

KEY = jax.random.key(0)
COMPILE, COMPILED = "/jax/core/compile/backend_compile_duration", []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: COMPILED.append(event))
FEW = {"num_steps": 3, "num_probes": 2}


def pairs(op, key):
    found = hj.eigsh(op, key, k=2)
    return found._replace(vectors=jax.tree.map(jnp.abs, found.vectors))  # up to sign


ESTIMATORS = {
    "lanczos": lambda op, key: hj.lanczos(op, key, num_steps=3),
    "slq": lambda op, key: hj.slq(op, key, **FEW),
    "kpm": lambda op, key: hj.kpm(op, key, num_moments=7, num_probes=2),
    "negative fraction": lambda op, key: hj.negative_fraction(op, key, tol=1e-3, **FEW),
    "eigsh": pairs,
    "xtrace": lambda op, key: hj.trace(op, key, num_probes=3),
    "hutch++": lambda op, key: hj.trace(op, key, num_probes=3, method="hutch++"),
    "hutchinson, repeated": lambda op, key: hj.trace(op, key, num_probes=2, method="hutchinson", rtol=0.3),
    "diagonal": lambda op, key: hj.diagonal(op, key, num_probes=3),
    "norm": lambda op, key: hj.frobenius_norm(op, key, num_probes=3),
    "deflated": lambda op, key: hj.logdet(hj.deflate(op, hj.eigsh(op, key, k=1)), key, shift=1.0, **FEW),
}
PASSES = {"lanczos": 3, "slq": 3, "negative fraction": 3, "xtrace": 2, "hutch++": 3, "norm": 1, "diagonal": 1}
BATCH = arrays("float32", X, SIGNS)


def everything(params, key):
    op = hj.Hessian(logistic, params, BATCH)
    return {name: jax.tree.map(jnp.asarray, estimate(op, key)) for name, estimate in ESTIMATORS.items()}


def assert_close(got, want, atol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=10 * atol, atol=atol)


class Loader:
    """Batches of 5, 5 and 3 rows; counts how often they were read."""

    passes = 0

    def __init__(self, data):
        self.batches = [jax.tree.map(lambda x, k=k: x[k : k + 5], data) for k in (0, 5, 10)]

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


@pytest.fixture
def keep_small_programs():
    """A streamed estimator is many small programs: all of them worth keeping on disk."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_streamed_operator_gives_the_residents_numbers_and_moving_params_retrace_neither(
    name, float64, keep_small_programs
):
    traces, data = [], arrays("float64", X, SIGNS)

    def loss(params, batch):
        traces.append(1)
        return logistic(params["w"], batch)

    loader, counts = Loader(data), []
    for scale in (0.1, 0.2):
        params = {"w": jnp.full(4, scale)}
        whole = ESTIMATORS[name](hj.Hessian(loss, params, data), KEY)
        loader.passes = 0
        streamed = ESTIMATORS[name](hj.Streamed(loss, params, loader), KEY)
        assert jax.tree.structure(whole) == jax.tree.structure(streamed)
        assert_close(streamed, whole, 1e-10)
        counts.append(len(traces))
    assert counts[0] == counts[1]
    assert loader.passes == PASSES.get(name, loader.passes) > 0  # one pass multiplies the vectors of all probes


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_second_streamed_estimate_compiles_nothing_and_lets_the_first_params_go(name):
    loader, counts, params_seen = Loader(BATCH), [], []

    def loss(params, batch):  # of this test alone: the first estimate has something to compile
        return logistic(params, batch)

    for seed in (1, 2):
        params = jax.random.normal(jax.random.key(seed), (4,))
        params_seen.append(weakref.ref(params))
        jax.block_until_ready(ESTIMATORS[name](hj.Streamed(loss, params, loader), jax.random.key(seed)))
        counts.append(COMPILED.count(COMPILE))
    del params
    gc.collect()
    assert counts[1] == counts[0] > 0
    assert [seen() for seen in params_seen] == [None, None]


@pytest.fixture(scope="module")
def alone():
    """Everything of eight params, one after another."""
    params = jax.random.normal(KEY, (8, 4))
    one = jax.jit(everything)
    found = jax.tree.map(lambda *x: jnp.stack(x), *(one(p, KEY) for p in params))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))  # NaN would be as NaN is, whatever drives it
    return params, found


def test_an_ensemble_is_a_loop_and_a_legacy_key_the_typed_one(alone):
    params, want = alone
    assert_close(jax.jit(jax.vmap(everything, in_axes=(0, None)))(params, jax.random.PRNGKey(0)), want, 2e-4)


@pytest.mark.parametrize("check_vma", [True, False])
def test_inits_over_devices_in_shard_map_are_one_device(check_vma, alone):
    params, want = alone
    mesh = Mesh(np.array(jax.devices()), ("init",), axis_types=(AxisType.Auto,))
    lane = PartitionSpec("init")
    one = lambda p: jax.tree.map(lambda x: x[None], everything(p[0], KEY))
    spread = jax.shard_map(one, mesh=mesh, in_specs=lane, out_specs=lane, check_vma=check_vma)
    assert_close(jax.jit(spread)(params), want, 2e-4)


def test_params_and_data_over_devices_are_one_device():
    x, y = jax.random.normal(KEY, (64, 16)), jnp.ones(64)
    loss = lambda p, b: jnp.logaddexp(0.0, -b[1] * (jnp.tanh(b[0] @ p["w"]) @ p["v"]))
    params = {"w": jax.random.normal(KEY, (16, 8)), "v": jnp.ones(8)}
    mesh = Mesh(np.array(jax.devices()), ("d",), axis_types=(AxisType.Auto,))
    at = lambda tree, *axes: jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))
    spread = {"w": at(params["w"], None, "d"), "v": at(params["v"], "d")}
    for f in (ESTIMATORS["slq"], ESTIMATORS["xtrace"]):
        want = f(hj.Hessian(loss, params, (x, y)), KEY)
        got = f(hj.Hessian(loss, spread, (at(x, "d"), at(y, "d"))), KEY)
        assert_close(got, want, 2e-4)


@pytest.mark.parametrize(("backend", "scalars"), [("cpu", 0), ("cpu", 200), ("gpu", 0), ("gpu", 60), ("gpu", 200)])
def test_any_number_at_once_is_the_same(backend, scalars, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(driving, "CPU_SCALARS", scalars)
    monkeypatch.setattr(driving, "ACCELERATOR_SCALARS", scalars)
    op, xs = diagonal(np.arange(20.0)), jax.random.normal(KEY, (7, 20))
    got = driving.over(op, lambda x: {"norm": jnp.sum(driving.product(op, x) ** 2)}, xs)
    np.testing.assert_allclose(got["norm"], np.sum((np.arange(20.0) * xs) ** 2, 1), rtol=1e-6)


class Power(NamedTuple):
    v: jax.Array
    steps: jax.Array


def advance(state, w, i, domain, *, by):
    assert (domain.size, domain.num_deflated) == (3, 0)
    return Power(w, state.steps + by * i)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("lanes", [False, True])
def test_repeating_gives_each_step_its_product_and_number(streamed, lanes):
    d = np.array([1.0, 2.0, 3.0], "float32")
    loss = lambda p, x: jnp.sum(jnp.asarray(d) * p**2) / 2 + 0 * x
    op = hj.Streamed(loss, jnp.zeros(3), [jnp.zeros(2), jnp.zeros(1)]) if streamed else diagonal(d)
    v = jnp.ones((4, 3)) * jnp.arange(1.0, 5.0)[:, None] if lanes else jnp.ones(3)
    begun = Power(v, jnp.zeros(4, jnp.int32) if lanes else jnp.int32(0))
    done = driving.repeat(op, advance, begun, 2, 5, lanes=lanes, by=10)
    np.testing.assert_allclose(done.v, v * d**3, rtol=1e-6)
    np.testing.assert_array_equal(done.steps, 10 * (2 + 3 + 4))


@pytest.mark.parametrize("streamed", [False, True])
def test_until_stops_before_the_first_step_where_all_is_done(streamed):
    op = hj.Streamed(logistic, jnp.zeros(4), Loader(BATCH)) if streamed else diagonal(np.ones(4))
    for start, end in ((0, 5), (5, 5), (9, 9)):
        assert int(driving.until(op, lambda n: n >= 5, lambda n: n + 1, jnp.int32(start))) == end


def test_an_operator_is_linearised_where_memory_allows(monkeypatch):
    op = hj.Hessian(logistic, jnp.zeros(4), BATCH)
    streamed = hj.Streamed(logistic, jnp.zeros(4), Loader(BATCH))
    assert isinstance(driving.ready(op, 9), type(op.linearized()))
    assert driving.ready(streamed, 9) is streamed
    monkeypatch.setattr(driving, "memory_available", lambda: 0)
    assert driving.ready(op, 9) is op


def test_it_is_linearised_for_as_many_products_as_fit(monkeypatch):
    """What is made once for 10,000 products, 50 x 80 x 50 numbers, is more than one keeps: twice 1000 x 50."""
    x, y = jax.random.normal(KEY, (1000, 50)), jnp.ones(1000)
    loss = lambda p, batch: (jax.nn.relu(jax.nn.relu(batch[0] @ p[0]) @ p[1]).sum(1) - batch[1]) ** 2
    op = hj.Hessian(loss, (jax.random.normal(KEY, (50, 80)), jax.random.normal(KEY, (80, 50))), (x, y))
    held = lambda linear: sum(leaf.nbytes for leaf in jax.tree.leaves(linear))
    one, many = held(op.linearized(1)), held(op.linearized(10_000))
    assert many > one
    assert held(driving.ready(op, 10_000)) == many
    monkeypatch.setattr(driving, "memory_available", lambda: 4 * (many - 1))
    assert held(driving.ready(op, 10_000)) == one
    monkeypatch.setattr(driving, "memory_available", lambda: 4 * (one - 1))
    assert driving.ready(op, 10_000) is op


def test_iterations_are_in_float32_at_least(dtype):
    op = diagonal(np.arange(4.0), "bfloat16")
    assert driving.space(op).dtype == jnp.float32
    assert driving.product(op, jnp.ones(4)).dtype == jnp.float32
    assert driving.products(op, jnp.ones((2, 4))).tolist() == [[0.0, 1.0, 2.0, 3.0]] * 2
    assert driving.space(diagonal(np.ones(4), dtype)).dtype == dtype


def test_one_program_serves_all_operators_of_a_structure():
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(lambda op, v, *, c: c * op.product(v), n=1)
    for scale in (1.0, 2.0):
        got = driving.run(traced, diagonal(scale * np.arange(3.0)), jnp.ones(3), c=3)
        assert got.tolist() == [0.0, 3 * scale, 6 * scale]


@pytest.mark.parametrize(
    "estimate", [partial(hj.eigsh, k=1), hj.slq, hj.kpm, partial(hj.negative_fraction, tol=0.0), hj.logdet, hj.spectrum]
)
def test_what_is_no_operator_is_told_what_to_wrap(estimate, untyped):
    for bad, words in (
        (np.eye(3), r"op is ndarray, wanted an operator such as hj\.Matrix\(a\)"),
        (softmax, r"op is function, wanted an operator such as hj\.Hessian\(loss, params, batch\)"),
    ):
        with pytest.raises(TypeError, match=words):
            estimate(bad, KEY)


def test_keys_in_an_operator_that_keeps_nothing_are_counted_as_memory():
    loss = lambda p, b: (b["x"] @ p + 0.1 * jax.vmap(jax.random.normal)(b["k"])) ** 2
    batch = {"x": jax.random.normal(KEY, (8, 3)), "k": jax.random.split(KEY, 8)}
    whole, chunked = (hj.Hessian(loss, jnp.ones(3), batch, chunk=chunk) for chunk in (None, 4))
    np.testing.assert_allclose(hj.eigsh(chunked, KEY, k=1).values, hj.eigsh(whole, KEY, k=1).values, rtol=1e-5)
    model, targets = (lambda p, x: x @ p), jnp.zeros(8, int)
    options = {"kind": "sampled", "key": KEY, "chunk": 4}
    sampled = hj.Fisher(model, lambda z, y: jnp.zeros(len(z)), jnp.ones((3, 4)), (batch["x"], targets), **options)
    assert np.isfinite(hj.slq(sampled, KEY, num_steps=3).nodes).all()


def test_an_exhausted_streamed_run_reads_its_data_no_more():
    loader = Loader(jnp.ones((13, 1)))
    op = hj.Streamed(identity, jnp.zeros(40), loader)
    loader.passes = 0
    q = hj.slq(op, KEY, num_steps=30, num_probes=3)
    assert loader.passes <= 2  # one product exhausts the space, a second where the first was not exact
    np.testing.assert_allclose(q.nodes[:, 0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(q.weights.sum(1), 1.0, rtol=1e-6)


def identity(params, rows):
    return jnp.sum(params**2) / 2 + 0 * rows[:, 0]
