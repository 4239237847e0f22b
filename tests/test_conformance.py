"""What every operator and every landscape must do; a row in a table inherits all of it."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from problems import ALL, LABELS, SIGNS, STREAMED, X, arrays, cross_entropy, linear_model, logistic

import hessjax as hj
from hessjax import trees

operators = pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
operators_and_streams = pytest.mark.parametrize("case", ALL + STREAMED, ids=lambda case: case.name)
EPS = float(np.finfo(float).eps)
C = 50  # rounding: a product sums n terms of up to a few hundred operations, each eps relative to ||A||


def tolerance(dtype, a):
    return C * float(jnp.finfo(dtype).eps) * len(a) * np.abs(a).sum(axis=1).max()


@operators_and_streams
def test_dense_is_the_oracle_and_exactly_symmetric(case, dtype):
    oracle = case.oracle(0.5)
    got = np.asarray(hj.dense(case.make(0.5, dtype)))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, oracle, rtol=0, atol=tolerance(dtype, oracle))
    np.testing.assert_array_equal(got, got.T)


@operators_and_streams
def test_passes_its_own_checks(case, dtype):
    report = hj.check_operator(case.make(1.0, dtype), jax.random.key(1))
    assert report.ok
    assert {"determinism", "finite", "linear", "symmetric"} <= set(report.defects)
    assert max(report.defects.values()) <= report.tol


@operators
def test_jit_is_eager_and_keeps_dtype_and_structure(case, dtype):
    op, v = vector(case, dtype)
    eager, compiled = op.mv(v), jax.jit(lambda o, x: o.mv(x))(op, v)
    chex.assert_trees_all_close(compiled, eager, atol=tolerance(dtype, case.oracle(1.0)))
    chex.assert_trees_all_equal_shapes_and_dtypes(compiled, v)
    assert op.dtype == dtype
    assert op.size == trees.size(v) == len(case.oracle(1.0))


@pytest.mark.parametrize("case", STREAMED, ids=lambda case: case.name)
def test_streams_keep_dtype_and_structure_and_multiply_blocks(case, dtype):
    op, v = vector(case, dtype)
    got, oracle = op.mv(v), case.oracle(1.0)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, v)
    np.testing.assert_allclose(trees.ravel(got)[0], oracle @ trees.ravel(v)[0], atol=tolerance(dtype, oracle))
    block = op.products(jax.tree.map(lambda x: jnp.stack([x, -x, 2 * x]), v))
    for k, c in enumerate((1, -1, 2)):
        want = trees.scale(c, got)
        chex.assert_trees_all_close(jax.tree.map(lambda x, k=k: x[k], block), want, atol=tolerance(dtype, oracle))


@operators
def test_vmap_over_params_is_a_loop_without_retracing(case):
    chex.clear_trace_counter()
    product = jax.jit(chex.assert_max_traces(lambda op, v: op.mv(v), n=1))
    scales, v = (0.5, 1.0, 2.0), vector(case, "float32")[1]
    ops = [case.make(s, "float32") for s in scales]
    loop = [product(op, v) for op in ops]  # a second trace of the same shapes would raise
    together = jax.jit(jax.vmap(lambda op: op.mv(v)))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *ops))
    for k, scale in enumerate(scales):
        one = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        chex.assert_trees_all_close(one, loop[k], atol=tolerance("float32", case.oracle(scale)))


@pytest.mark.parametrize("case", [c for c in ALL if c.rows], ids=lambda case: case.name)
def test_rows_over_eight_devices_are_one_device(case):
    dtype = "float32"
    op, v = vector(case, dtype)
    eight = jax.tree.map(lambda x: jnp.concatenate([x] * 8), op.batch)  # 8 N rows divide evenly; the mean is the same
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(eight, NamedSharding(mesh, PartitionSpec("data")))
    sharded = dataclasses.replace(op, batch=spread)
    got = jax.jit(lambda o, x: o.mv(x))(sharded, v)
    chex.assert_trees_all_close(got, op.mv(v), atol=tolerance(dtype, case.oracle(1.0)))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("chunk", [None, 5])
def test_inits_over_devices_in_shard_map_are_one_device(chunk, check_vma):
    batch, params = arrays("float32", X, SIGNS), jax.random.normal(jax.random.key(0), (8, 4))
    spectrum = lambda p: hj.eigvalsh(hj.Hessian(logistic, p[0], batch, chunk=chunk))[None]
    mesh = Mesh(np.array(jax.devices()), ("init",), axis_types=(AxisType.Auto,))
    lane = PartitionSpec("init")
    spread = jax.shard_map(spectrum, mesh=mesh, in_specs=lane, out_specs=lane, check_vma=check_vma)
    alone = jnp.concatenate([spectrum(params[k : k + 1]) for k in range(8)])
    np.testing.assert_allclose(jax.jit(spread)(params), alone, atol=C * float(jnp.finfo("float32").eps))


@pytest.mark.parametrize("chunk", [None, 5])
def test_every_curvature_passes_through_shard_map(chunk):
    params, batch = jax.random.normal(jax.random.key(0), (8, 4, 3)), arrays("float32", X, LABELS)

    def product(p):
        problem = linear_model, cross_entropy, {"kernel": p[0]}, batch
        sampled = hj.Fisher(*problem, kind="sampled", key=jax.random.key(1), chunk=chunk)
        op = sampled + hj.GaussNewton(*problem, chunk=chunk) + hj.Residual(*problem, chunk=chunk)
        return (op.mv({"kernel": jnp.ones((4, 3))})["kernel"] + op.linearized().mv(problem[2])["kernel"])[None]

    mesh = Mesh(np.array(jax.devices()), ("init",), axis_types=(AxisType.Auto,))
    lane = PartitionSpec("init")
    spread = jax.jit(jax.shard_map(product, mesh=mesh, in_specs=lane, out_specs=lane, check_vma=True))
    alone = jnp.concatenate([product(params[k : k + 1]) for k in range(8)])
    np.testing.assert_allclose(spread(params), alone, atol=C * float(jnp.finfo("float32").eps))


def vector(case, dtype):
    op = case.make(1.0, dtype)
    return op, trees.normal_like(jax.random.key(3), op.like)


landscapes = pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits-mlp", {"widths": (3,), "rows": 40}),
        ("digits-mlp", {"widths": (4, 3), "rows": 30, "activation": "relu", "loss": "squared", "bias": False}),
        ("digits-mlp", {"widths": (), "rows": 20, "pool": 4}),
        ("memorization", {"widths": (3,), "inputs": 4, "outputs": 2, "rows": 10}),
        ("mlp", {"widths": (2,), "classes": 3, "rows_per_class": 5, "shape": 4}),
        ("quadratic", {}),
        ("quadratic", {"eigenvalues": (3.0,)}),
        *((name, {}) for name in ("bowl", "saddle", "quartic-valley", "quartic-saddle", "quartic-hill", "zero")),
        *((name, {}) for name in ("monkey-saddle", "peano", "gradient-flat", "polynomial")),
        ("saddle", {"across": 5.0, "along": -1.0}),
        ("polynomial", {"terms": ((1.5, (3, 0, 1)), (-2.0, (0, 0, 0)), (0.5, (1, 1, 2)))}),
        ("rosenbrock", {}),
        ("rosenbrock", {"dimension": 5, "steepness": 10.0}),
        *(("scalar-linear", {"depth": depth}) for depth in (1, 2, 3, 5)),
        ("scalar-linear", {"depth": 4, "inputs": -0.5, "target": 2.0}),
        ("teacher-student", {"students": 3, "teachers": 3}),
        ("teacher-student", {"students": 3, "teachers": 2, "inputs": 4, "teacher": 1}),
        ("relu-five-points", {}),
        ("relu-five-points", {"data": "D3", "hidden": 2}),
        ("xor", {"hidden": 3, "activation": "sigmoid", "loss": "squared"}),
        ("jellyfish", {"hidden": 3}),
        ("p-spin", {"size": 6}),
        ("p-spin", {"size": 5, "order": 2}),
        ("gaussian-field", {"dimension": 3, "num_features": 64}),
        ("deep-linear", {"widths": (3, 2, 2, 2), "rows": 6}),
        ("autoencoder", {"inputs": 4, "hidden": 2}),
    ],
    ids=str,
)


@landscapes
def test_landscape_inits_depend_on_the_key_alone(name, options, dtype):
    land = hj.landscapes.get(name, dtype=dtype, **options)
    one, again, other = (jax.jit(land.init)(jax.random.key(k)) for k in (0, 0, 1))
    chex.assert_trees_all_equal(one, again)
    assert float(trees.norm(trees.add(one, trees.scale(-1.0, other)))) > 0
    assert {leaf.dtype for leaf in jax.tree.leaves(one)} == {jnp.dtype(dtype)}


@landscapes
def test_landscape_hessian_conforms(name, options, dtype):
    land = hj.landscapes.get(name, dtype=dtype, **options)
    params = jax.jit(land.init)(jax.random.key(0))
    op = hj.Hessian(land.loss, params, land.batch)
    assert hj.check_operator(op, jax.random.key(0)).ok
    flat, unravel = trees.ravel(params)
    mean = lambda w: jnp.mean(land.loss(unravel(w)) if land.batch is None else land.loss(unravel(w), land.batch))
    oracle = jax.jit(jax.hessian(mean))(flat)
    np.testing.assert_allclose(hj.dense(op), oracle, atol=tolerance(dtype, np.asarray(oracle)))


@landscapes
def test_landscape_loss_is_vmappable_and_at_least_its_bound(name, options):
    land = hj.landscapes.get(name, **options)
    params = jax.jit(jax.vmap(land.init))(jax.random.split(jax.random.key(0), 3))
    mean = lambda p: jnp.mean(land.loss(p) if land.batch is None else land.loss(p, land.batch))
    together = jax.jit(jax.vmap(mean))(params)
    alone = [mean(jax.tree.map(lambda x, k=k: x[k], params)) for k in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert (together >= land.facts.get("lower_bound", -np.inf)).all()


def agrees(fact, size):
    """Whether the kind is one that the counts allow."""
    negative, positive, zero = fact["index"], size - fact["index"] - fact["nullity"], fact["nullity"]
    return {
        "minimum": not negative and not zero,
        "maximum": not positive and not zero,
        "strict saddle": negative > 0 < positive,
        "degenerate minimum": not negative and zero > 0,
        "degenerate maximum": not positive and zero > 0,
        "degenerate saddle": zero > 0 and not (negative and positive),
        "undecided": zero > 0 and not (negative and positive),
    }[fact["kind"]]


@landscapes
def test_landscape_facts_hold(name, options, float64):
    land = hj.landscapes.get(name, dtype="float64", **options)
    mean = lambda p: jnp.mean(land.loss(p) if land.batch is None else land.loss(p, land.batch))
    gradient, facts = jax.jit(jax.grad(mean)), land.facts
    for fact in facts.get("critical_points", []):
        point = jax.tree.map(jnp.asarray, fact["point"])
        exact = np.asarray(hj.dense(hj.Hessian(land.loss, point, land.batch)))
        atol = C * EPS * len(exact) * max(1.0, np.abs(exact).max())
        assert float(mean(point)) == pytest.approx(fact["loss"], abs=atol)
        assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient(point))) <= atol
        counts = hj.inertia(jnp.asarray(exact), tol=1e-10)
        assert (int(counts.negative), int(counts.zero)) == (fact["index"], fact["nullity"])
        assert agrees(fact, len(exact))
        if "eigenvalues" in fact:
            np.testing.assert_allclose(np.linalg.eigvalsh(exact), fact["eigenvalues"], atol=atol)
        assert fact["loss"] >= facts.get("lower_bound", -np.inf) - atol


@landscapes
def test_landscape_derivatives_in_closed_form_are_those_of_the_loss(name, options, float64):
    land = hj.landscapes.get(name, dtype="float64", **options)
    mean = lambda p: jnp.mean(land.loss(p) if land.batch is None else land.loss(p, land.batch))
    for seed in range(3):
        params = jax.jit(land.init)(jax.random.key(seed))
        host = jax.tree.map(np.asarray, params)
        if "gradient" in land.facts:
            want = jax.jit(jax.grad(mean))(params)
            chex.assert_trees_all_close(
                land.facts["gradient"](host), jax.tree.map(np.asarray, want), rtol=1e-10, atol=1e-11
            )
        if "hessian" in land.facts:
            want = np.asarray(hj.dense(hj.Hessian(land.loss, params, land.batch)))
            np.testing.assert_allclose(land.facts["hessian"](host), want, atol=1e-11 * max(1.0, np.abs(want).max()))
