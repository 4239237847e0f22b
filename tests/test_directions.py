"""Directions: norms filter by filter in every layout, planes that hold the points they are made of, components."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hessjax as hj
from hessjax import trees
from hessjax.profiles import filter_normalized, normalized, plane_through, trajectory_plane

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)


def params_of(module, *inputs):
    return jax.tree.map(lambda x: x + 0.1, module.init(jax.random.key(1), *inputs)["params"])  # no norm is 0


def norms(tree, axes):
    return np.sqrt((np.asarray(tree, float) ** 2).sum(axes))


LAYERS = {  # a module, its input, the leaf, and the axes that a filter's norm sums over
    "dense": (nn.Dense(5), jnp.ones((2, 3)), ("kernel",), (0,)),
    "convolution": (nn.Conv(4, (3, 2)), jnp.ones((1, 5, 5, 3)), ("kernel",), (0, 1, 2)),
    "transposed": (nn.ConvTranspose(4, (3,)), jnp.ones((1, 5, 3)), ("kernel",), (0, 1)),
    "embedding": (nn.Embed(7, 3), jnp.zeros((2,), int), ("embedding",), (1,)),
    "queries": (nn.MultiHeadDotProductAttention(2), jnp.ones((1, 4, 6)), ("query", "kernel"), (0,)),
    "attention's outputs": (nn.MultiHeadDotProductAttention(2), jnp.ones((1, 4, 6)), ("out", "kernel"), (0, 1)),
    "recurrent": (nn.RNN(nn.SimpleCell(3)), jnp.ones((1, 4, 2)), ("cell", "h", "kernel"), (0,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_filters_of_flax_layers_have_the_norms_of_the_params(name):
    module, inputs, path, summed = LAYERS[name]
    params = params_of(module, inputs)
    direction = filter_normalized(KEY, params)
    for part in path:
        params, direction = params[part], direction[part]
    assert_allclose(norms(direction, summed), norms(params, summed), rtol=1e-5)
    cosine = np.vdot(direction, params) / np.linalg.norm(direction) / np.linalg.norm(params)
    assert abs(cosine) < 0.9  # random, not the params themselves


def test_layers_whole_none_at_all_and_other_layouts():
    params = {"conv": {"weight": jnp.asarray(RNG.normal(size=(4, 3, 2, 2))), "bias": jnp.arange(1.0, 5.0)}}
    layer = filter_normalized(KEY, params, norm="layer")["conv"]["weight"]
    assert_allclose(jnp.linalg.norm(layer), jnp.linalg.norm(params["conv"]["weight"]), rtol=1e-5)
    torch = filter_normalized(KEY, params, filters={"*/weight": 0})["conv"]["weight"]
    assert_allclose(norms(torch, (1, 2, 3)), norms(params["conv"]["weight"], (1, 2, 3)), rtol=1e-5)
    pair = filter_normalized(KEY, params, filters={"*/weight": (0, -1)})["conv"]["weight"]
    assert_allclose(norms(pair, (1, 2)), norms(params["conv"]["weight"], (1, 2)), rtol=1e-5)
    plain = filter_normalized(KEY, params, norm="none", vectors="scaled")
    drawn = trees.normal_like(KEY, trees.structs(params))
    jax.tree.map(assert_array_equal, plain, drawn)
    scaled = filter_normalized(KEY, params, vectors="scaled")["conv"]["bias"]
    assert_allclose(jnp.linalg.norm(scaled), jnp.sqrt(30.0), rtol=1e-5)
    for norm in ("filter", "layer", "none"):
        assert not filter_normalized(KEY, params, norm=norm)["conv"]["bias"].any()


def test_filters_that_are_zero_do_not_move():
    params = jnp.array([[0.0, 1.0], [0.0, 2.0]])
    assert_array_equal(normalized(jnp.ones((2, 2)), params)[:, 0], 0)
    assert_array_equal(normalized(jnp.zeros((2, 2)), params), 0)
    assert normalized(jnp.ones((2, 2), jnp.bfloat16), params.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_rescaled_relu_net_looks_the_same_in_normalised_directions():
    """Units scaled up and down again compute the same; a direction scaled with them does too."""
    w = {"in": jnp.asarray(RNG.normal(size=(3, 4)), "float32"), "out": jnp.asarray(RNG.normal(size=(4, 2)), "float32")}
    model = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    scaled = {"in": 8 * w["in"], "out": w["out"] / 8}
    x = jnp.asarray(RNG.normal(size=(20, 3)), "float32")
    at = lambda p: model(jax.tree.map(lambda a, d: a + 0.3 * d, p, filter_normalized(KEY, p)), x)
    assert_allclose(at(w), at(scaled), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"norm": "weight"}, "norm must be one of filter, layer, none; got 'weight'"),
        ({"vectors": "keep"}, "vectors must be one of zero, scaled; got 'keep'"),
        ({"filters": {"*/kernel": 0}}, "'\\*/kernel' matches no leaf; the paths are w"),
        ({"filters": {"w": 2}}, "'w' has 2 axes, no axis \\(2,\\)"),
    ],
)
def test_unknown_norms_and_filters_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        filter_normalized(KEY, {"w": jnp.ones((2, 2))}, **given)


def test_a_plane_through_three_points_holds_them(float64):
    points = [{"a": jnp.asarray(RNG.normal(size=(3, 2))), "b": jnp.asarray(RNG.normal(size=4))} for _ in range(3)]
    frame, at = plane_through(*points)
    gram = trees.gram(frame.directions, frame.directions)
    assert_allclose(gram, np.eye(2), atol=1e-14)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *points)
    coordinates, off = frame.project(stacked)
    assert_allclose(coordinates, at, atol=1e-13)
    assert_allclose(off, 0, atol=1e-13)
    flat = np.stack([trees.ravel(p)[0] for p in points])
    between = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)
    assert_allclose(between(at), between(flat), rtol=1e-13)
    assert_array_equal(frame.u["b"], frame.directions["b"][0])
    assert_array_equal(frame.v["b"], frame.directions["b"][1])
    with pytest.raises(ValueError, match="lie on one line"):
        plane_through(points[0], points[1], trees.axpy(0.5, points[1], trees.scale(0.5, points[0])))
    with pytest.raises(ValueError, match="lie on one line"):
        plane_through(points[0], points[0], points[1])


def test_components_are_those_of_a_singular_value_decomposition(float64):
    points = RNG.normal(size=(30, 12)) * np.linspace(3, 0.1, 12) + 5
    tree = {"a": jnp.asarray(points[:, :6].reshape(30, 2, 3)), "b": jnp.asarray(points[:, 6:])}
    found = trajectory_plane(tree)
    centred = points - points.mean(0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    assert_allclose(found.explained[:12], s**2 / (s**2).sum(), atol=1e-12)
    assert_allclose(found.explained.sum(), 1)
    flat = np.concatenate([np.asarray(found.frame.directions["a"]).reshape(2, 6), found.frame.directions["b"]], 1)
    assert_allclose(np.abs(flat @ vt[:2].T), np.eye(2), atol=1e-10)
    away = points - points[-1]
    assert_allclose(found.coordinates, away @ flat.T, atol=1e-10)
    assert_allclose(found.distance, np.linalg.norm(away - away @ flat.T @ flat, axis=1), atol=1e-10)
    nearest = trajectory_plane(tree, origin="mean")
    assert (nearest.distance**2).sum() < (found.distance**2).sum()
    assert_allclose(trajectory_plane(tree, origin="first").coordinates[0], 0, atol=1e-12)
    assert trajectory_plane(tree, num_components=5).coordinates.shape == (30, 5)


def test_a_trajectory_of_little_height_is_still_an_orthonormal_frame():
    t = np.linspace(0, 1, 40)
    points = jnp.asarray(np.stack([t, 1e-4 * np.sin(9 * t), 0 * t], 1), "float32")
    found = trajectory_plane(points)
    assert_allclose(found.frame.directions @ found.frame.directions.T, np.eye(2), atol=1e-6)
    assert_allclose(found.explained[0], 1, atol=1e-6)


@pytest.mark.parametrize(
    ("points", "given", "said"),
    [
        (jnp.ones((5, 3)), {}, "all the same"),
        (jnp.tile(jax.random.normal(jax.random.key(0), 300), (7, 1)), {}, "all the same"),
        ([{"w": jnp.ones((3, 2))}, {"w": jnp.ones((4, 2))}], {}, "points must be params with one leading axis"),
        (jnp.ones((2, 3)), {}, "points are 2, wanted at least 3"),
        (jnp.arange(4.0)[:, None], {}, "num_components is 2, more than there are params"),
        (jnp.array([[1e30, 0.0], [0.0, 0.0], [1.0, 1.0]], "float32"), {}, "too large"),
        (jnp.eye(4), {"origin": "end"}, "origin must be one of last, first, mean; got 'end'"),
    ],
)
def test_trajectories_without_a_plane_are_refused(points, given, said):
    with pytest.raises(ValueError, match=said):
        trajectory_plane(points, **given)


def test_points_on_a_line_have_a_plane_all_the_same():
    ts = jnp.linspace(-1.0, 2.0, 9)[:, None]
    found = trajectory_plane(ts * jnp.array([1.0, 2.0, -2.0]))
    assert_allclose(found.frame.directions @ found.frame.directions.T, np.eye(2), atol=1e-6)
    assert_allclose(np.abs(found.frame.directions[0]), np.array([1, 2, 2]) / 3, atol=1e-6)
    assert_allclose(found.coordinates[:, 1], 0, atol=1e-5)
    assert_allclose(found.distance, 0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_norms_of_half_precision_are_those_of_wider_numbers(dtype):
    """Squares of these overflow in float16."""
    w = jnp.asarray(RNG.normal(size=(200, 5)) * 100, dtype)
    d = jnp.asarray(RNG.normal(size=(200, 5)), dtype)
    made = normalized(d, w)
    assert made.dtype == dtype
    assert_allclose(norms(made, 0), norms(w, 0), rtol=2e-2)
    vector = normalized(d[:, 0], w[:, 0], vectors="scaled")
    assert vector.dtype == dtype
    assert_allclose(norms(vector, 0), norms(w[:, 0], 0), rtol=2e-2)


def test_the_frame_is_public():
    assert hj.profiles.Frame is type(plane_through(*jnp.eye(3))[0])
