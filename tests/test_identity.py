"""Points that are the same: a net's under permutations and signs, a linear net's on one manifold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessjax as hj

RNG = np.random.default_rng(1)


def found(params, loss, status=None):
    loss = np.asarray(loss, float)
    zeros = np.zeros(len(loss))
    status = np.zeros(len(loss), np.int8) if status is None else np.asarray(status, np.int8)
    return hj.CriticalPoints(params, loss, zeros, zeros, zeros, status, zeros.astype(int), zeros.astype(int), zeros)


def test_by_loss_and_index():
    points = found(np.zeros((5, 1)), [3.0, 1.0, 1.0 + 1e-9, 3.0, 1.0])
    assert hj.distinct(points).label.tolist() == [1, 0, 0, 1, 0]
    groups = hj.distinct(points, index=[0, 0, 0, 1, 1])
    assert groups.label.tolist() == [2, 0, 0, 3, 1]
    assert groups.count.tolist() == [2, 1, 1, 1]
    assert points.loss[groups.first].tolist() == [1, 1, 3, 3]


def test_points_that_are_not_critical_are_in_no_group():
    groups = hj.distinct(found(np.zeros((4, 1)), [1.0, np.nan, 2.0, 1.0], status=[0, 3, 2, 0]))
    assert groups.label.tolist() == [0, -1, -1, 0]
    assert groups.count.tolist() == [2]
    none = hj.distinct(found(np.zeros((2, 1)), [1.0, 2.0], status=[1, 1]))
    assert (none.label.tolist(), len(none.first)) == ([-1, -1], 0)


def test_hidden_units_permuted_and_mirrored_are_one_point(float64):
    x = jnp.asarray(RNG.standard_normal((20, 3)))
    model = lambda p: jnp.tanh(x @ p["a"]) @ p["b"]
    loss = lambda p: jnp.mean((model(p) - 1) ** 2)
    base = {"a": RNG.standard_normal((3, 4)), "b": RNG.standard_normal(4)}
    order, signs = RNG.permutation(4), RNG.choice([-1, 1], 4)
    twin = {"a": (base["a"] * signs)[:, order], "b": (base["b"] * signs)[order]}
    other = {"a": base["a"] * 1.01, "b": base["b"]}
    params = jax.tree.map(lambda *p: np.stack(p), base, twin, other)
    points = found(params, [loss(p) for p in (base, twin, other)])
    spectra = jax.vmap(lambda p: hj.eigvalsh(hj.dense(hj.Hessian(loss, p))))(params)
    by_spectrum = hj.distinct(points, symmetries="orthogonal", eigenvalues=spectra).label
    by_prediction = hj.distinct(points, predict=model).label
    for label in (by_spectrum, by_prediction):
        assert label[0] == label[1] != label[2]


def test_predictions_tell_apart_what_losses_do_not():
    points = found(np.array([[1.0], [-1.0], [1.0]]), [1.0, 1.0, 1.0])
    assert hj.distinct(points).label.tolist() == [0, 0, 0]
    assert hj.distinct(points, predict=lambda p: 3 * p).label.tolist() == [0, 1, 0]


def test_a_linear_nets_points_are_its_classes(float64):
    """Moved along their manifold, W_2 A, A^-1 W_1, points stay the same; and each class is another."""
    land = hj.landscapes.get("autoencoder", inputs=4, hidden=2, dtype="float64")
    facts = land.facts["critical_points"]
    moved = []
    for fact in facts:
        a = np.eye(2) + 0.3 * RNG.standard_normal((2, 2))
        moved.append({"W1": np.linalg.inv(a) @ fact["point"]["W1"], "W2": fact["point"]["W2"] @ a})
    params = jax.tree.map(lambda *p: np.stack(p), *[f["point"] for f in facts], *moved)
    points = found(params, [f["loss"] for f in facts] * 2)
    groups = hj.distinct(points, symmetries=land.facts["canonical"], index=[f["index"] for f in facts] * 2)
    assert groups.count.tolist() == [2] * len(facts)
    assert (groups.label[: len(facts)] == groups.label[len(facts) :]).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"symmetries": "orthogonal"}, "without eigenvalues"),
        ({"eigenvalues": np.ones((2, 1))}, "got None with eigenvalues"),
        ({"symmetries": "permutations"}, "got 'permutations'"),
        ({"index": [1]}, "index has 1 rows, wanted one for each of 2 points"),
        ({"index": 1}, "index has no rows, wanted one for each of 2 points"),
        ({"symmetries": np.ones(2)}, "got ndarray without eigenvalues"),
        (
            {"symmetries": "orthogonal", "eigenvalues": np.ones(2)},
            r"eigenvalues have shape \(2,\), wanted \[points, n\]",
        ),
        ({"rtol": -1.0}, "rtol must be a number from 0 up"),
    ],
)
def test_bad_input_is_refused(given, said, untyped):
    with pytest.raises(ValueError, match=said):
        hj.distinct(found(np.zeros((2, 1)), [1.0, 2.0]), **given)


def test_predictions_may_be_trees():
    points = found(np.array([[1.0], [-1.0], [1.0]]), [1.0, 1.0, 1.0])
    groups = hj.distinct(points, predict=lambda p: {"a": p * jnp.ones((2, 2)), "b": p[0]})
    assert groups.label.tolist() == [0, 1, 0]


def test_what_is_not_found_points_is_refused(untyped):
    with pytest.raises(TypeError, match="predict is list, wanted a function"):
        hj.distinct(found(np.zeros((2, 1)), [1.0, 2.0]), predict=[1.0])
    with pytest.raises(TypeError, match="points are list, wanted what"):
        hj.distinct([1.0, 2.0])
