"""Lines, planes and meshes against closed forms, brute force, and curvature (FACTS V1, V3, V4)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import Polynomial
from numpy.testing import assert_allclose, assert_array_equal

import hessjax as hj
from hessjax import profiles, trees

RNG = np.random.default_rng(0)


def net(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"]


def loss(p, batch):
    return jnp.sum((net(p, batch[0]) - batch[1]) ** 2, -1)


def draw(seed, hidden=4):
    rng = np.random.default_rng(seed)
    shapes = {"w": (3, hidden), "b": (hidden,), "v": (hidden, 2)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def data(rows=17):
    rng = np.random.default_rng(9)
    return jnp.asarray(rng.normal(size=(rows, 3))), jnp.asarray(rng.normal(size=(rows, 2)))


def test_the_profile_of_the_scalar_net_is_its_polynomial(float64):
    """(1 - w1 w2)^2 from (1/2, -2/5) to (2, 1/2): V1."""
    land = hj.landscapes.get("scalar-linear", depth=2)
    start = jax.tree.map(
        jnp.asarray, jax.tree.structure(land.init(jax.random.key(0))).unflatten([jnp.array([0.5, -0.4])])
    )
    stop = jax.tree.structure(start).unflatten([jnp.array([2.0, 0.5])])
    ts = np.linspace(0, 2, 101)
    found = profiles.line(land.loss, start, stop, ts)
    exact = 729 * ts**4 / 400 - 81 * ts**3 / 200 - 1287 * ts**2 / 400 + 9 * ts / 25 + 36 / 25
    assert_allclose(found.values, exact, rtol=0, atol=1e-12)
    assert_allclose(found.length, np.hypot(1.5, 0.9))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_profile_of_a_deep_linear_net_is_a_polynomial_of_twice_its_depth(float64, depth):
    land = hj.landscapes.get("deep-linear", widths=(3,) * depth + (2,), dtype="float64")
    a, b = (jax.jit(land.init)(jax.random.key(k)) for k in (0, 1))
    ts = np.linspace(-0.5, 1.5, 101)
    values = np.asarray(profiles.line(land.loss, a, b, ts, batch=land.batch).values)
    fit = Polynomial.fit(ts, values, 2 * depth)
    assert np.abs(fit(ts) - values).max() < 1e-9 * np.abs(values).max()
    less = Polynomial.fit(ts, values, 2 * depth - 1)
    assert np.abs(less(ts) - values).max() > 1e-6 * np.abs(values).max()


def test_slices_curve_as_the_hessian_does(float64):
    """A central second difference of a slice is d'Hd; over two eigenvectors the Hessian is diagonal: V3."""
    p, batch, h = draw(1), data(), 1e-3
    H = hj.Hessian(loss, p, batch)
    d = trees.normal_like(jax.random.key(0), p)
    below, at, above = profiles.along(loss, p, d, [-h, 0, h], batch=batch).values
    assert_allclose((below - 2 * at + above) / h**2, trees.dot(d, H @ d), rtol=1e-5)
    values, vectors = hj.eigh(H)
    u, v = (H.like and trees.ravel(p)[1](vectors[:, k]) for k in (-1, -2))
    z = np.asarray(profiles.plane(loss, p, u, v, [-h, 0, h], [-h, 0, h], batch=batch).values)
    along_u, along_v = (z[1, 0] - 2 * z[1, 1] + z[1, 2]) / h**2, (z[0, 1] - 2 * z[1, 1] + z[2, 1]) / h**2
    cross = (z[2, 2] - z[2, 0] - z[0, 2] + z[0, 0]) / (4 * h**2)
    assert_allclose([along_u, along_v], [values[-1], values[-2]], rtol=1e-4)
    assert abs(cross) < 1e-4 * values[-1]


def test_symmetries_keep_the_loss_and_which_keep_the_spectrum(float64):
    """Units permuted, tanh units' signs flipped: loss and spectrum stay. ReLU units rescaled: the loss alone. V4."""
    p, batch = draw(2), data()
    order, signs = np.array([2, 0, 3, 1]), np.array([1.0, -1.0, -1.0, 1.0])
    permuted = {"w": p["w"][:, order], "b": p["b"][order], "v": p["v"][order]}
    flipped = {"w": p["w"] * signs, "b": p["b"] * signs, "v": p["v"] * signs[:, None]}
    mean = lambda f, q: float(jnp.mean(f(q, batch)))
    spectrum = lambda f, q: np.asarray(hj.eigvalsh(hj.Hessian(f, q, batch)))
    for other in (permuted, flipped):
        assert abs(mean(loss, other) - mean(loss, p)) < 1e-12
        assert_allclose(spectrum(loss, other), spectrum(loss, p), atol=1e-10)
    relu = lambda q, b: jnp.sum((jax.nn.relu(b[0] @ q["w"] + q["b"]) @ q["v"] - b[1]) ** 2, -1)
    scales = np.array([2.0, 0.25, 8.0, 1.0])
    rescaled = {"w": p["w"] * scales, "b": p["b"] * scales, "v": p["v"] / scales[:, None]}
    assert abs(mean(relu, rescaled) - mean(relu, p)) < 1e-12
    assert np.abs(spectrum(relu, rescaled) - spectrum(relu, p)).max() > 1


def brute(f, points):
    return np.array([f(point) for point in points])


@pytest.mark.parametrize("at_once", [None, 1, 5, 1000])
def test_every_mesh_is_a_loop(float64, at_once):
    a, b, c, d = (draw(k) for k in range(4))
    batch = data()
    mean = lambda q: float(jnp.mean(loss(q, batch)))
    mix = lambda weights, *points: jax.tree.map(lambda *x: sum(w * y for w, y in zip(weights, x)), *points)
    options = {"batch": batch, "at_once": at_once}
    xs, ys = np.linspace(-1, 2, 5), np.linspace(0, 1, 3)
    line = profiles.line(loss, a, b, xs, **options)
    assert_allclose(line.values, brute(mean, [mix((1 - t, t), a, b) for t in xs]), rtol=1e-12)
    rays = profiles.along(loss, a, jax.tree.map(lambda *x: jnp.stack(x), b, c), ys, **options)
    assert_allclose(rays.values, [brute(mean, [mix((1, t), a, way) for t in ys]) for way in (b, c)], rtol=1e-12)
    assert_allclose(rays.length, [trees.norm(b), trees.norm(c)])
    plane = profiles.plane(loss, a, b, c, xs, ys, **options)
    assert_allclose(plane.values, [brute(mean, [mix((1, x, y), a, b, c) for x in xs]) for y in ys], rtol=1e-12)
    square = profiles.bilinear(loss, (a, b, c, d), xs, ys, **options)
    corner = lambda x, y: mix(((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y), a, b, c, d)
    assert_allclose(square.values, [brute(mean, [corner(x, y) for x in xs]) for y in ys], rtol=1e-12)
    triangle = profiles.barycentric(loss, a, b, c, 4, **options)
    assert triangle.weights.shape == (10, 3)
    assert_allclose(triangle.weights.sum(1), 1)
    assert len({tuple(row) for row in triangle.weights.round(6)}) == 10
    assert_allclose(triangle.values, brute(mean, [mix(w, a, b, c) for w in triangle.weights]), rtol=1e-12)


def test_ends_of_a_line_are_the_points_themselves():
    a, b = jnp.array([0.1, 0.2]), jnp.array([0.3, 1e9])
    assert_array_equal(profiles.line(lambda w: w, a, b, [0, 1]).values, [a, b])


def test_curvature_is_mapped_like_a_loss(float64):
    """Extreme eigenvalues and the share below zero over a plane, against each point by itself."""
    p, batch = draw(1), data()
    u, v = (trees.normal_like(jax.random.key(k), p) for k in (0, 1))

    def curvature(q):
        H = hj.Hessian(loss, q, batch)
        values = hj.eigvalsh(hj.dense(H))
        return {"ends": values[jnp.array([0, -1])], "negative": jnp.mean(values < 0)}

    found = profiles.plane(curvature, p, u, v, [-1, 0, 1], [0, 2])
    assert (found.values["ends"].shape, found.values["negative"].shape) == ((2, 3, 2), (2, 3))
    for i, y in enumerate((0, 2)):
        for j, x in enumerate((-1, 0, 1)):
            here = jax.tree.map(lambda o, d, e, x=x, y=y: o + x * d + y * e, p, u, v)
            values = np.linalg.eigvalsh(hj.dense(hj.Hessian(loss, here, batch)))
            assert_allclose(found.values["ends"][i, j], values[[0, -1]], atol=1e-10)
            assert_allclose(found.values["negative"][i, j], np.mean(values < 0))


def test_one_device_and_several_see_the_same_surface(float64):
    p, batch = draw(0), data()
    assert jax.device_count() == 8
    ts = np.linspace(0, 1, 13)  # no multiple of eight
    spread = profiles.line(loss, p, draw(1), ts, batch=batch).values
    assert len(spread.sharding.device_set) > 1
    assert_allclose(spread, [jnp.mean(loss(jax.tree.map(lambda a, b, t=t: (1 - t) * a + t * b, p, draw(1)), batch))
                             for t in ts], rtol=1e-12)  # fmt: skip


def test_params_spread_over_devices_stay_so():
    mesh = jax.make_mesh((8,), ("params",), axis_types=(jax.sharding.AxisType.Auto,))
    place = lambda x: jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("params")))
    a, b = place(jnp.arange(16.0)), place(jnp.ones(16))
    found = profiles.line(lambda w: jnp.sum(w**2), a, b, [0.0, 0.5, 1.0])
    assert_allclose(found.values, [1240.0, (0.25 * (np.arange(16.0) + 1) ** 2).sum(), 16.0], rtol=1e-6)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(4)(x))
        return nn.Dense(1)(jnp.tanh(x))


def test_statistics_along_a_line_are_frozen_moved_or_taken_anew():
    """The three policies against the module applied by hand; they differ."""
    module, x = Normed(), jnp.asarray(RNG.normal(size=(32, 3)), "float32")
    y = jnp.sin(x[:, :1])
    starts = [module.init(jax.random.key(k), x, train=True) for k in (0, 1)]
    ends = [{**v, **module.apply(v, x + k, train=True, mutable=["batch_stats"])[1]} for k, v in enumerate(starts)]
    squared = lambda z, t: jnp.sum((z - t) ** 2, -1)
    ts = [0.0, 0.5, 1.0]
    mix = lambda t, a, b: jax.tree.map(lambda p, q: (1 - t) * p + t * q, a, b)
    by_hand = lambda variables, **how: float(jnp.mean(squared(module.apply(variables, x, **how), y)))
    frozen, params = hj.adapters.linen(module, ends[0], train=False)
    found = profiles.line(hj.adapters.per_example(frozen, squared), params, ends[1]["params"], ts, batch=(x, y))
    wanted = [by_hand({**ends[0], "params": mix(t, ends[0]["params"], ends[1]["params"])}, train=False) for t in ts]
    assert_allclose(found.values, wanted, rtol=1e-5)
    moving = hj.adapters.linen(module, ends[0], statistics="params", train=False)
    other = hj.adapters.linen(module, ends[1], statistics="params", train=False)
    found = profiles.line(hj.adapters.per_example(moving.model, squared), moving.params, other.params, ts, batch=(x, y))
    moved = [by_hand(mix(t, *ends), train=False) for t in ts]
    assert_allclose(found.values, moved, rtol=1e-5)
    anew, params = hj.adapters.linen(module, ends[0], statistics="batch", train=True)
    found = profiles.line(hj.adapters.scalar(anew, squared), params, ends[1]["params"], ts, batch=(x, y))
    mixed = [{**ends[0], "params": mix(t, ends[0]["params"], ends[1]["params"])} for t in ts]
    again = [float(jnp.mean(squared(module.apply(v, x, train=True, mutable=["batch_stats"])[0], y))) for v in mixed]
    assert_allclose(found.values, again, rtol=1e-5)
    assert len({round(values[1], 4) for values in (wanted, moved, again)}) == 3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: profiles.line(loss, draw(0), draw(1), [], batch=data()), "ts must be a line of finite numbers"),
        (lambda: profiles.line(loss, draw(0), draw(1), [0, np.nan], batch=data()), "ts must be a line of finite"),
        (lambda: profiles.line(loss, draw(0), draw(1), "all", batch=data()), "ts must be a line of numbers, got str"),
        (lambda: profiles.line(loss, draw(0), draw(1, hidden=5), [0], batch=data()), "b"),
        (lambda: profiles.plane(loss, draw(0), draw(1), {"w": 1.0}, [0], [0], batch=data()), "v"),
        (lambda: profiles.along(loss, draw(0), {"w": jnp.ones(3)}, [0], batch=data()), "directions"),
        (
            lambda: profiles.barycentric(loss, *(draw(k) for k in range(3)), 1, batch=data()),
            "num must be .* at least 2",
        ),
        (lambda: profiles.bilinear(loss, (draw(0),), [0], [0], batch=data()), "corners are 1, wanted four"),
        (lambda: profiles.combinations(loss, jnp.eye(3), [[1.0, 2.0]]), "weights have shape \\(1, 2\\)"),
        (lambda: profiles.line(loss, draw(0), draw(1), [0], batch=data(), at_once=0), "at_once"),
        (lambda: profiles.line(net, draw(0), draw(1), [0], batch=data()[0]), "loss returned shape"),
    ],
)
def test_what_is_no_line_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_params_that_cannot_move_are_refused():
    with pytest.raises(TypeError, match="leaf 'n' is int32"):
        profiles.line(lambda p: p["w"], {"w": 1.0, "n": jnp.arange(3)}, {"w": 1.0, "n": jnp.arange(3)}, [0])


def test_a_second_profile_of_the_same_function_traces_nothing():
    calls = []

    def f(w):
        calls.append(w)
        return w @ w

    again = lambda k: hj.profiles.line(f, jnp.zeros(3), k * jnp.ones(3), [0.0, 0.5, 1.0]).values
    first = again(1.0)
    traced = len(calls)
    assert_allclose(again(2.0), 4 * first)
    assert len(calls) == traced > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_places_between_params_of_half_precision_are_not_rounded_before_them(dtype):
    """At 1000 + t (with t of a power of two's digits) the weight itself would be off by more than a unit."""
    a, b = jnp.zeros(3, dtype), jnp.full(3, 1024, dtype)
    ts = (np.arange(5) + 1000) / 1024
    found = profiles.line(lambda w: w[0].astype("float32"), a, b, ts)
    assert_array_equal(found.values, jnp.asarray(np.arange(5) + 1000, dtype).astype("float32"))


@pytest.mark.parametrize("committed", ["params", "batch", "both", "closed over"])
def test_what_is_put_on_one_device_is_seen_by_all(committed):
    device = jax.local_devices()[-1]
    put = lambda tree, name: jax.device_put(tree, device) if committed in (name, "both") else tree
    a, b = put(jnp.ones(3), "params"), put(jnp.arange(3.0), "params")
    x, ts = put(jnp.linspace(0, 1, 12).reshape(4, 3), "batch"), np.linspace(0, 1, 7)
    expected = [np.mean((np.asarray(x) @ ((1 - t) * np.asarray(a) + t * np.asarray(b))) ** 2) for t in ts]
    if committed == "closed over":
        here = jax.device_put(x, device)
        found = profiles.line(lambda w: jnp.mean((here @ w) ** 2), a, b, ts)
    else:
        found = profiles.line(lambda w, rows: (rows @ w) ** 2, a, b, ts, batch=x)
    assert_allclose(found.values, expected, rtol=1e-6)
    assert len(found.values.sharding.device_set) > 1
