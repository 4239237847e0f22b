"""Figures of profiles and of training: what is on them is what was given."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hessjax as hj
from hessjax.seen_panels import contours, heights, pairs, traces
from hessjax.seen_views import on_surface

GRID = np.linspace(-1, 1, 9)
SADDLE = hj.profiles.plane(lambda w: w[0] ** 2 - w[1] ** 2, jnp.zeros(2), *jnp.eye(2), GRID, GRID)


def sweep(tmp_path, **given):
    config = hj.Sweep(landscape="quadratic", num_inits=5, num_steps=6, times=4, spacing="linear", **given)
    return hj.open_sweep(hj.sweep(config, tmp_path / "s.zarr", progress=False)).load()


def test_lines_are_the_values_by_name():
    line = lambda k: hj.profiles.line(lambda w: k * w @ w, jnp.zeros(2), jnp.ones(2), [0.0, 0.5, 1.0])
    ax = hj.plot.lines({"one": line(1.0), "two": line(2.0)})
    assert [x.get_label() for x in ax.lines] == ["one", "two"]
    assert_allclose([x.get_ydata() for x in ax.lines], [[0, 0.5, 2], [0, 1, 4]])
    several = hj.profiles.along(lambda w: w @ w, jnp.zeros(2), jnp.eye(2) * 2, [0.0, 1.0])
    assert [x.get_label() for x in hj.plot.lines(several).lines] == ["1", "2"]
    with pytest.raises(ValueError, match="different ts"):
        hj.plot.lines({"a": line(1.0), "b": hj.profiles.line(lambda w: w @ w, jnp.zeros(2), jnp.ones(2), [0.0, 1.0])})


def test_a_plane_has_its_paths_marks_and_bar():
    ax = hj.plot.plane(SADDLE, paths={"sgd": [(0.5, 0.1), (0.0, 0.9)]}, marks={"saddle": (0.0, 0.0)}, label="height")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["sgd", "saddle"]
    assert_allclose(ax.lines[0].get_xydata(), [(0.5, 0.1), (0.0, 0.9)])
    assert ax.figure.axes[-1].get_ylabel() == "height"
    surface = hj.plot.surface(SADDLE, paths={"sgd": [(0.5, 0.0), (0.0, 0.5), (9.0, 0.0)]})
    (drawn,) = surface.lines
    assert_allclose(np.stack(drawn.get_data_3d(), 1), [(0.5, 0.0, 0.25), (0.0, 0.5, -0.25)])  # on it, and within it


def test_a_path_has_one_colour_in_the_plane_and_on_its_surface():
    paths = {"sgd": [(0.5, 0.0), (0.0, 0.5)], "adam": [(0.2, 0.1), (0.0, 0.4)]}
    flat, solid = hj.plot.plane(SADDLE, paths=paths), hj.plot.surface(SADDLE, paths=paths)
    named = {line.get_label(): line.get_color() for line in flat.lines if line.get_label() in paths}
    assert [line.get_color() for line in solid.lines] == [named["sgd"], named["adam"]]


def test_what_would_hide_all_else_is_compressed_and_the_order_kept():
    values = np.array([[0.0, 1.0, 2.0, 1e6]])
    shown, said = heights(values, "loss")
    assert "arcsinh" in said
    assert (np.diff(shown[0]) > 0).all()
    assert shown.max() < 20
    assert heights(np.array([[0.0, 1.0, 2.0]]), "loss")[1] == "loss"
    assert heights(np.full((1, 2), np.nan), "loss")[1] == "loss"
    wide = np.geomspace(1e-3, 1e6, 81).reshape(9, 9)
    found = contours(GRID, GRID, wide)
    assert_array_equal(np.argsort(found.heights, axis=None), np.arange(81))


def test_between_points_of_the_plane_heights_are_linear():
    found = contours([0, 1, 3], [0, 2], [[0, 1, 3], [4, 5, 7]])
    at = np.array([[0.5, 1.0], [2.0, 0.5], [3.0, 2.0], [0.0, 0.0]])
    assert_allclose(on_surface(found, at), at[:, 0] + 2 * at[:, 1])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), wanted \(3, 2\)"):
        contours([0, 1], [0, 1, 2], np.zeros((2, 3)))
    with pytest.raises(ValueError, match="wanted a matrix of 2 names"):
        hj.plot.matrix(np.zeros((2, 3)), ["a", "b"])
    with pytest.raises(ValueError, match=r"loss of 'a' has shape \(2,\), wanted \(3,\), that of step"):
        traces([0, 1, 2], {"loss": {"a": [0, 1]}}, x_label="step")
    assert pairs(["a"], [[0.0]], label="x").names == ("a",)


def test_a_matrix_shows_its_numbers_and_a_gap_where_one_is_missing():
    ax = hj.plot.matrix([[0.0, np.nan], [0.25, 0.0]], ["a", "b"])
    assert [t.get_text() for t in ax.texts if t.get_text()] == ["0", "–", "0.25", "0"]


def test_optimisers_compared_have_their_thresholds():
    land = hj.landscapes.get("scalar-linear", depth=2)
    ways = {"slow": optax.sgd(0.02), "fast": optax.sgd(0.1)}
    found = hj.compare_optimizers(land, ways, jax.random.key(0), num_steps=9, times=4)
    loss, _, sharp, _ = hj.plot.comparison(found, thresholds={"slow": 100.0, "fast": 20.0}).axes
    assert_allclose([x.get_ydata() for x in loss.lines], found.loss[:, 0])
    curves, levels = sharp.lines[:2], sharp.lines[2:]
    assert_allclose([x.get_ydata()[0] for x in levels], [100, 20])
    assert [x.get_color() for x in levels] == [x.get_color() for x in curves]  # each optimiser's own


def test_training_seen_is_the_sweep_s_rows(tmp_path):
    ds = sweep(tmp_path, options={"eigenvalues": (-1.0, 2.0)})
    figure = hj.plot.along_training(ds, names=("loss", "grad_norm", "negative", "index"), inits=[3])
    loss, norm, share, index = figure.axes
    assert_allclose(loss.lines[0].get_ydata(), ds["loss"][3])
    assert_allclose(norm.lines[0].get_ydata(), ds["grad_norm"][3])
    assert_allclose(share.lines[0].get_ydata(), 0.5)
    assert_allclose(index.lines[0].get_ydata(), 1)
    middle = hj.plot.along_training(ds).axes[0].lines[0].get_ydata()
    assert_allclose(middle, np.median(ds["loss"], axis=0), rtol=1e-6)
    for bad, said in (
        ({"names": ("los",)}, "has 'los'"),
        ({"names": ("error",)}, "no 'error'"),
        ({"inits": [5]}, "0 to 4"),
    ):
        with pytest.raises(ValueError, match=said):
            hj.plot.along_training(ds, **bad)


def test_final_losses_are_every_init_and_the_medians(tmp_path):
    ds = sweep(tmp_path)
    ax = hj.plot.final_losses({16: ds, 1: [3.0, 1.0, 2.0]})
    medians, every = ax.lines[0], ax.lines[-1]
    assert_allclose(medians.get_xydata(), [(1, 2), (16, float(np.median(ds["loss"][:, -1])))], rtol=1e-6)
    assert len(every.get_xdata()) == 8
    with pytest.raises(ValueError, match="losses are empty"):
        hj.plot.final_losses({})
