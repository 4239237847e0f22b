"""MINRES-QLP against numpy's least-squares solution of least length, and SciPy's MINRES."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

import hessjax as hj
from hessjax import driving, minres

RNG = np.random.default_rng(1)


def symmetric(eigenvalues):
    q = np.linalg.qr(RNG.standard_normal((len(eigenvalues),) * 2))[0]
    a = (q * eigenvalues) @ q.T
    return (a + a.T) / 2


def spread(n, zeros=0):
    """Eigenvalues of both signs, some of them zero."""
    values = RNG.uniform(0.3, 3, n) * RNG.choice([-1, 1], n)
    values[:zeros] = 0
    return values


def shortest(a, b):
    return np.linalg.lstsq(a, b, rcond=1e-10)[0]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 40])
def test_solves_an_indefinite_system(n, float64):
    a, b = symmetric(spread(n)), RNG.standard_normal(n)
    found = hj.minres_qlp(hj.Matrix(jnp.asarray(a)), jnp.asarray(b), rtol=1e-12)
    np.testing.assert_allclose(found.x, np.linalg.solve(a, b), rtol=1e-8, atol=1e-9)
    assert found.converged
    assert found.residual <= 1e-12


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize(("n", "zeros"), [(1, 1), (2, 1), (5, 1), (5, 4), (20, 6), (60, 20)])
def test_finds_the_shortest_least_squares_solution_of_a_singular_system(n, zeros, consistent, float64):
    a = symmetric(spread(n, zeros))
    b = a @ RNG.standard_normal(n) if consistent else RNG.standard_normal(n)
    found = hj.minres_qlp(hj.Matrix(jnp.asarray(a)), jnp.asarray(b), rtol=1e-10)
    want = shortest(a, b)
    np.testing.assert_allclose(found.x, want, atol=2e-7 * max(1.0, float(np.linalg.norm(want))))
    assert found.converged
    r = a @ np.asarray(found.x) - b
    assert (found.residual if consistent else found.normal_residual) < 1e-7
    assert np.linalg.norm(a @ r) <= 1e-7 * np.linalg.norm(a, 2) * np.linalg.norm(b)


def test_every_iterate_has_the_residual_of_scipys(float64):
    """MINRES is QLP's iterate where the matrix is not singular; SciPy's stops are its own, so it is given steps."""
    a, b = symmetric(spread(30)), RNG.standard_normal(30)
    for steps in (1, 2, 3, 5, 9, 20):
        found = hj.minres_qlp(hj.Matrix(jnp.asarray(a)), jnp.asarray(b), rtol=0.0, max_steps=steps)
        other, _ = scipy.sparse.linalg.minres(a, b, rtol=1e-300, maxiter=steps)
        ours, theirs = (np.linalg.norm(a @ np.asarray(x) - b) for x in (found.x, other))
        assert abs(ours - theirs) <= 1e-9 * np.linalg.norm(b), steps
        size = np.linalg.norm(a, 2) * np.linalg.norm(found.x) + np.linalg.norm(b)
        assert found.num_matvecs == steps
        assert ours / size <= float(found.residual) * (1 + 1e-9)


def test_its_residual_is_that_of_the_krylov_space(float64):
    """The iterate minimises ||A x - b|| over span(b, A b, ..., A^(k-1) b), by numpy's least squares."""
    a, b = symmetric(spread(12, 4)), RNG.standard_normal(12)
    for k in range(1, 6):
        q = np.linalg.qr(np.stack([np.linalg.matrix_power(a, i) @ b for i in range(k)], axis=1))[0]
        least = np.linalg.norm(a @ q @ np.linalg.lstsq(a @ q, b, rcond=None)[0] - b)
        found = hj.minres_qlp(hj.Matrix(jnp.asarray(a)), jnp.asarray(b), rtol=0.0, max_steps=k)
        assert abs(np.linalg.norm(a @ np.asarray(found.x) - b) - least) < 1e-10


def test_params_of_several_leaves_in_float32():
    loss = lambda p: jnp.sum(jnp.cosh(p["a"])) + p["b"] @ p["b"] - jnp.sum(p["a"]) * jnp.sum(p["b"])
    op = hj.Hessian(loss, {"a": jnp.zeros((2, 2)), "b": jnp.ones(3)})
    b = {"a": jnp.arange(4.0).reshape(2, 2), "b": jnp.ones(3)}
    found = hj.minres_qlp(op, b, rtol=1e-6)
    back = op.mv(found.x)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), back, b)


def test_a_streamed_operator_gives_the_same():
    x = jnp.asarray(RNG.standard_normal((30, 4)), jnp.float32)
    loss = lambda w, rows: jnp.log(jnp.cosh(rows @ w))
    w, b = jnp.ones(4) * 0.1, jnp.arange(4.0)
    whole = hj.minres_qlp(hj.Hessian(loss, w, x), b)
    parts = hj.minres_qlp(hj.Streamed(loss, w, [x[:10], x[10:]]), b)
    np.testing.assert_allclose(parts.x, whole.x, rtol=1e-3, atol=1e-4)
    assert parts.num_matvecs == whole.num_matvecs


def test_lanes_end_each_for_itself():
    stack = jnp.stack([jnp.eye(3), jnp.diag(jnp.array([1.0, 2.0, -3.0])), jnp.zeros((3, 3))])
    found = jax.vmap(lambda a: hj.minres_qlp(hj.Matrix(a), jnp.ones(3)))(stack)
    assert found.num_matvecs.tolist() == [1, 3, 1]
    np.testing.assert_allclose(found.x, [[1, 1, 1], [1, 0.5, -1 / 3], [0, 0, 0]], atol=1e-5)
    assert found.residual[2] == 1
    assert found.normal_residual[2] == 0


def test_a_right_hand_side_of_zero():
    found = hj.minres_qlp(hj.Matrix(jnp.eye(2)), jnp.zeros(2))
    assert found.x.tolist() == [0, 0]
    assert found.converged
    assert found.num_matvecs == 0


def test_no_longer_than_asked():
    a = hj.Matrix(jnp.diag(jnp.array([1.0, 1e-3])))
    found = hj.minres_qlp(a, jnp.ones(2), max_norm=10.0)
    assert not found.converged
    assert jnp.linalg.norm(found.x) <= 10


def test_steps_that_run_out():
    found = hj.minres_qlp(hj.Matrix(jnp.diag(jnp.arange(1.0, 9.0))), jnp.ones(8), max_steps=2)
    assert not found.converged
    assert found.num_matvecs == 2


def test_directions_smaller_than_the_condition_asked_are_left_out(float64):
    a = hj.Matrix(jnp.diag(jnp.array([1.0, 1e-5])))
    found = hj.minres_qlp(a, jnp.ones(2), rtol=1e-12, max_condition=1e3)
    assert jnp.linalg.norm(found.x) < 10
    whole = hj.minres_qlp(a, jnp.ones(2), rtol=1e-12)
    np.testing.assert_allclose(whole.x, [1, 1e5], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_scaling_the_matrix_changes_no_step(scale, float64):
    a, b = symmetric(spread(10, 2)), RNG.standard_normal(10)
    found = hj.minres_qlp(hj.Matrix(jnp.asarray(scale * a)), jnp.asarray(b), rtol=1e-9)
    np.testing.assert_allclose(scale * np.asarray(found.x), shortest(a, b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rtol": -1.0}, "rtol must be a number from 0 up"),
        ({"max_steps": 0}, "max_steps must be a whole number, at least 1"),
        ({"max_norm": 0.0}, "max_norm must be above 0"),
        ({"max_condition": -1.0}, "max_condition must be above 0"),
        ({"b": jnp.ones(3)}, "has shape"),
    ],
)
def test_bad_input_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        hj.minres_qlp(hj.Matrix(jnp.eye(2)), **{"b": jnp.ones(2), **given})


def test_lengths_whose_squares_are_too_large():
    a = hj.Matrix(jnp.asarray(1e-20 * np.diag([1, -2, 0.0]), jnp.float32))
    found = hj.minres_qlp(a, jnp.ones(3))
    np.testing.assert_allclose(found.x, [1e20, -5e19, 0], rtol=1e-5, atol=1e15)


def test_an_exhausted_space_keeps_directions_that_are_small(float64):
    a = hj.Matrix(jnp.diag(jnp.array([1.0, 1e-9])))
    np.testing.assert_allclose(hj.minres_qlp(a, jnp.ones(2), rtol=0.0).x, [1, 1e9], rtol=1e-6)


def test_another_tolerance_is_no_other_program():
    a, b = hj.Matrix(jnp.diag(jnp.arange(1.0, 9.0))), jnp.ones(8)
    programs = getattr(driving._compiled(minres._within, ()), "_cache_size")  # noqa: B009 -- jax's types lack it
    loose = hj.minres_qlp(a, b, rtol=1e-1)
    made = programs()
    tight = hj.minres_qlp(a, b, rtol=1e-6, max_steps=50, max_norm=10.0, max_condition=1e5)
    assert programs() == made
    assert int(loose.num_matvecs) < int(tight.num_matvecs)
