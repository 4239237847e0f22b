"""Spectra and counts of stacks against NumPy in float64, closed forms, and the solver's own error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spectra import exact_eigenvalues

import hessjax as hj
from hessjax import assembly, stacks
from hessjax.matrices import is_symmetric


def with_spectrum(values, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    a = (q * np.asarray(values)) @ q.T
    return (a + a.T) / 2


def goe(n, seed=0):
    a = np.random.default_rng(seed).standard_normal((n, n))
    return (a + a.T) / 2


def test_eigenvalues_are_numpys_for_every_matrix_of_a_stack(dtype):
    stack = np.stack([goe(7, s) for s in range(6)]).reshape(2, 3, 7, 7)
    got = hj.eigvalsh(stack.astype(dtype))
    assert got.shape == (2, 3, 7)
    assert got.dtype == dtype
    atol = 20 * float(jnp.finfo(dtype).eps) * 7
    np.testing.assert_allclose(got, np.linalg.eigvalsh(stack), atol=atol)
    values, vectors = hj.eigh(stack.astype(dtype))
    np.testing.assert_allclose(values, got, atol=atol)
    np.testing.assert_allclose(vectors @ (values[..., None] * np.swapaxes(vectors, -1, -2)), stack, atol=atol)


@pytest.mark.parametrize("n", [1, 2, 64, 65, 130])
def test_dense_assembles_any_size_in_any_number_of_passes(n, float64):
    # Sizes about the 64 columns of a pass, and a width that never divides them.
    c = jnp.arange(1.0, n + 1)
    loss = lambda p: jnp.sum(c * p**2) / 2 + jnp.prod(p[:2]) * (n > 1)
    want = np.diag(np.arange(1.0, n + 1))
    if n > 1:
        want[0, 1] = want[1, 0] = 1.0
    for columns in (None, 7):
        np.testing.assert_allclose(hj.dense(hj.Hessian(loss, jnp.ones(n)), columns=columns), want, atol=1e-12)


def test_dense_compiles_once_however_often_params_move():
    traces = []

    def loss(p):
        traces.append(1)
        return jnp.sum(p**4)

    first = hj.dense(hj.Hessian(loss, jnp.ones(3)))
    count = len(traces)
    np.testing.assert_allclose(hj.dense(hj.Hessian(loss, 2 * jnp.ones(3))), 4 * first)
    assert len(traces) == count


def test_bfloat16_and_float16_are_lifted():
    for low in ("bfloat16", "float16"):
        assert hj.eigvalsh(jnp.diag(jnp.array([2.0, -1.0], low))).tolist() == [-1.0, 2.0]
        assert hj.eigvalsh(jnp.diag(jnp.array([2.0, -1.0], low))).dtype == jnp.float32


def test_a_non_finite_matrix_is_a_field_and_the_others_are_untouched():
    stack = np.stack([goe(5, s) for s in range(4)]).astype("float32")
    alone = hj.eigvalsh(stack)
    stack[1, 2, 3] = stack[1, 3, 2] = np.nan
    stack[2, 0, 0] = np.inf
    values, counts = hj.eigvalsh(stack), hj.inertia(stack, tol=1e-5)
    np.testing.assert_array_equal(np.isnan(values).all(axis=1), [False, True, True, False])
    np.testing.assert_array_equal(values[jnp.array([0, 3])], alone[jnp.array([0, 3])])
    for field in (counts.negative, counts.zero, counts.positive):
        assert field[1] == field[2] == 0
    assert counts.certified.tolist() == [True, False, False, True]
    assert np.isnan(counts.threshold[1:3]).all()


def test_counts_are_those_of_the_spectrum_given(dtype):
    values = [-3.0, -1e-2, 0.0, 0.0, 1e-9, 2.0, 50.0]
    counts = hj.inertia(with_spectrum(values).astype(dtype), tol=1e-5)
    assert (int(counts.negative), int(counts.zero), int(counts.positive)) == (2, 3, 2)
    assert bool(counts.certified)
    assert float(counts.threshold) == pytest.approx(1e-5 * np.abs(with_spectrum(values)).sum(1).max(), rel=1e-5)


@given(power=st.integers(-30, 30), seed=st.integers(0, 5))
def test_counts_do_not_change_with_the_scale(power, seed):
    a = np.float32(2.0**power) * goe(6, seed).astype("float32")  # a power of two scales without rounding
    got, want = hj.inertia(a, tol=1e-4), hj.inertia(goe(6, seed).astype("float32"), tol=1e-4)
    assert [int(x) for x in got[:3]] == [int(x) for x in want[:3]]
    assert bool(got.certified) == bool(want.certified)


def test_zero_and_identity_and_one_by_one_matrices():
    zero, identity = hj.inertia(jnp.zeros((4, 4)), tol=0.0), hj.inertia(jnp.eye(4), tol=1e-3)
    assert (int(zero.negative), int(zero.zero), int(zero.positive), bool(zero.certified)) == (0, 4, 0, True)
    assert (int(identity.negative), int(identity.zero), int(identity.positive)) == (0, 0, 4)
    assert int(hj.inertia(jnp.array([[-2.0]]), tol=0.0).negative) == 1


@pytest.mark.parametrize("n", [2, 10, 64, 226])
def test_the_solver_errs_by_less_than_its_model(n, dtype):
    # |computed - exact| <= 2 sqrt(n) eps max|lambda|, for random and clustered spectra: within what `certified` allows.
    eps = float(jnp.finfo(dtype).eps)
    clustered = np.concatenate([np.zeros(n // 2), 10.0 ** np.linspace(-8, 0, n - n // 2)])
    for a in (goe(n, 1), with_spectrum(clustered, 2), with_spectrum(np.linspace(-1, 1e3, n), 3)):
        given = a.astype(dtype)
        given = (given + given.T) / 2
        exact = exact_eigenvalues(given)
        worst = np.abs(np.asarray(hj.eigvalsh(given), "float64") - exact).max()
        assert worst <= 2 * n**0.5 * eps * np.abs(exact).max()


def test_an_eigenvalue_within_rounding_of_the_threshold_is_not_certified():
    a = jnp.diag(jnp.array([1.0, 1e-3, -1.0]))
    assert not bool(hj.inertia(a, tol=1e-3).certified)  # the row-sum norm is 1, so an eigenvalue sits on the threshold
    assert bool(hj.inertia(a, tol=1.01e-3).certified)
    assert not bool(hj.inertia(jnp.diag(jnp.array([1.0, 0.0])), tol=0.0).certified)  # is that zero exact, or rounding?


def test_counts_of_many_random_matrices_are_never_certified_wrongly():
    stack = np.stack(
        [goe(24, s) for s in range(200)] + [with_spectrum(np.r_[np.zeros(12), np.ones(12)], s) for s in range(50)]
    )
    stack = stack.astype("float32")
    counts = hj.inertia((stack + np.swapaxes(stack, 1, 2)) / 2, tol=1e-5)
    exact = np.linalg.eigvalsh(((stack + np.swapaxes(stack, 1, 2)) / 2).astype("float64"))
    edge = np.asarray(counts.threshold, "float64")[:, None]
    ok = np.asarray(counts.certified)
    assert ok.mean() > 0.9
    np.testing.assert_array_equal(counts.negative[ok], (exact < -edge).sum(1)[ok])
    np.testing.assert_array_equal(counts.positive[ok], (exact > edge).sum(1)[ok])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: hj.eigvalsh(np.ones((2, 3))), ValueError, r"shape \(2, 3\), wanted \[\.\.\., n, n\]"),
        (lambda: hj.eigvalsh(np.zeros((0, 0))), ValueError, "n >= 1"),
        (lambda: hj.eigvalsh(np.array([[0.0, 1.0], [0.0, 0.0]])), ValueError, r"not symmetric.*\(a \+ a.T\) / 2"),
        (lambda: hj.eigvalsh(np.eye(2, dtype=int)), TypeError, "wanted a real floating"),
        (lambda: hj.eigvalsh(np.eye(2, dtype=complex)), TypeError, "dtype complex"),
        (lambda: hj.inertia(np.eye(2), tol=-1.0), ValueError, "tol must be at least 0, got -1"),
        (lambda: hj.inertia(np.eye(2), tol=float("nan")), ValueError, "tol must be at least 0"),
        (lambda: hj.inertia(np.eye(2), tol=float("inf")), ValueError, "tol must be finite"),
        (lambda: hj.inertia(np.eye(2), tol=1j), TypeError, "tol is complex, wanted a number"),
        (lambda: jax.jit(lambda t: hj.inertia(np.eye(2), tol=t))(0.1), TypeError, "known before anything is traced"),
        (lambda: hj.Matrix(np.ones((2, 3))), ValueError, r"wanted \[n, n\]|wanted \[\.\.\., n, n\]"),
        (
            lambda: hj.dense(hj.Hessian(lambda p: p @ p, jnp.ones(2)), columns=0),
            ValueError,
            "columns must be at least 1",
        ),
    ],
)
def test_bad_matrices_are_one_clear_line(call, error, words, untyped):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_asymmetric_matrix_is_found_beside_a_large_one():
    stack = np.stack([1e6 * np.eye(2), [[0.0, 1.0], [-1.0, 0.0]]])
    with pytest.raises(ValueError, match="matrix 1 of the stack is not symmetric"):
        hj.eigvalsh(stack)


def test_dense_of_a_matrix_is_exactly_symmetric_too():
    a = np.eye(3, dtype="float32")
    a[0, 1], a[1, 0] = 1.0, 1.0 + 1e-6  # within the rounding a matrix may have
    got = np.asarray(hj.dense(hj.Matrix(a)))
    np.testing.assert_array_equal(got, got.T)


def test_a_matrix_beyond_memory_is_refused_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(assembly, "memory_available", lambda: 10**6)
    with pytest.raises(ValueError, match=r"dense 1000 x 1000 float32.*op\.mv"):
        hj.dense(hj.Hessian(lambda p: jnp.sum(p**2), jnp.ones(1000)))


def test_traced_matrices_are_not_checked_for_symmetry():
    lower = jnp.array([[1.0, 0.0], [5.0, 2.0]])
    assert jax.jit(hj.eigvalsh)(lower).shape == (2,)


@pytest.mark.parametrize("call", [hj.eigvalsh, hj.eigh, lambda a: hj.inertia(a, tol=1e-5)])
def test_a_stack_beyond_memory_is_refused_with_its_bytes(call, monkeypatch):
    monkeypatch.setattr(assembly, "memory_available", lambda: 2**20)
    stack = np.broadcast_to(np.eye(64, dtype="float32"), (100, 64, 64))
    with pytest.raises(ValueError, match=r"need 0\.\d+ GiB more .* 0\.000977 GiB available.*hj\.spectrum") as caught:
        call(stack)
    assert "\n" not in str(caught.value)
    call(stack[:8])


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 16, 21])
def test_an_asymmetric_pair_is_found_wherever_it_is_and_rounding_and_nan_are_passed_by(n):
    whole = np.random.default_rng(n).standard_normal((n, n)).astype("float32")
    whole = np.maximum(whole, whole.T)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    stack = np.stack([whole] * (len(pairs) + 2))
    for lane, (i, j) in enumerate(pairs):
        stack[lane, i, j] += 1e-3
    stack[-2] *= 1 + 1e-7 * np.random.default_rng(0).standard_normal((n, n))
    stack[-1, 0, n - 1] = np.nan
    found = jax.jit(lambda a: hj.inertia(a, tol=1e-3).certified)(stack)
    assert not found[: len(pairs)].any()
    assert not found[-1]
    assert is_symmetric(jnp.asarray(stack)).tolist() == [False] * len(pairs) + [True, True]
    hj.eigvalsh(stack[-2:])
    if pairs:
        with pytest.raises(ValueError, match=r"max \|a - a.T\| = 0.001"):
            hj.eigvalsh(stack[len(pairs) - 1 :])


def test_derivatives_of_an_operators_eigenvalues_are_those_of_its_symmetric_matrix(float64, monkeypatch):
    """Whose upper triangle is not made: on a CPU, and where the backend's eigenvalues are taken."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3)))
    loss = lambda p, x: jnp.sum(jnp.tanh(jnp.tanh(x @ p["v"]) @ p["w"]) ** 2, axis=-1)
    params = {"v": jnp.asarray(np.random.default_rng(1).standard_normal((3, 2))), "w": jnp.full((2, 2), 0.3)}
    largest = lambda p: hj.eigvalsh(hj.Hessian(loss, p, x))[-1]
    along = jax.tree.map(jnp.ones_like, params)
    at = lambda t: np.linalg.eigvalsh(hj.dense(hj.Hessian(loss, jax.tree.map(lambda p: p + t, params), x)))[-1]
    for counted in (True, False):
        monkeypatch.setattr(stacks, "is_counted", lambda counted=counted: counted)
        jax.clear_caches()
        value, slope = jax.jvp(lambda p: largest(p), (params,), (along,))
        np.testing.assert_allclose(value, at(0.0), atol=1e-12)
        np.testing.assert_allclose(slope, (at(1e-5) - at(-1e-5)) / 2e-5, atol=1e-7)
    jax.clear_caches()


def test_matrices_in_operators_are_read_below_their_diagonals_and_traced_ones_looked_at():
    a = jnp.array([[2.0, 1e38], [0.0, 2.0]])
    found = jax.jit(lambda a: hj.inertia(hj.Matrix(a) * 2.0, tol=1e-5))(a)
    assert (int(found.negative), int(found.positive)) == (0, 2)
    assert not jax.jit(lambda a: hj.inertia(hj.Matrix(a), tol=1e-5).certified)(jnp.array([[2.0, 1.0], [0.0, 2.0]]))


def test_an_empty_stack_has_no_counts():
    assert hj.inertia(jnp.zeros((0, 16, 16)), tol=1e-5).negative.shape == (0,)
    assert hj.eigvalsh(jnp.zeros((0, 16, 16))).shape == (0, 16)


@pytest.mark.parametrize("call", [hj.eigvalsh, lambda x: hj.inertia(x, tol=1e-5), hj.eigh, hj.dense])
def test_a_second_call_compiles_nothing(call, caplog):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3)), "float32")
    loss = lambda p, x: jnp.sum(jnp.tanh(x @ p) ** 2, axis=-1)
    first, second = jnp.ones((3, 2)), 2 * jnp.ones((3, 2))
    call(hj.Hessian(loss, first, x))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        jax.jit(lambda x: x + 17.0)(x)
        assert any("compil" in line.lower() for line in caplog.messages)  # so it would be seen
        caplog.clear()
        call(hj.Hessian(loss, second, x))
    assert not [line for line in caplog.messages if "Finished XLA compilation" in line]
