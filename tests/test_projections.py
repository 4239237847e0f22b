"""Blocks and complements: P A P against NumPy, and what Q7 says of every network's blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import TWO_LAYER, Y2, X, arrays, scaled, two_layer
from spectra import diagonal, matrix

import hessjax as hj
from hessjax import trees

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SPREAD = np.linspace(-1.0, 3.0, 12)


def pairs(vectors, dtype="float64"):
    """Eigenpairs with these vectors, the only part of them that projecting looks at."""
    k = jnp.zeros(len(jax.tree.leaves(vectors)[0]), dtype)
    return hj.Eigenpairs(k, jax.tree.map(lambda q: jnp.asarray(q, dtype), vectors), k, k == 0, jnp.int32(0))


def network(dtype="float64"):
    return hj.Hessian(two_layer, scaled(TWO_LAYER, 1.0, dtype), arrays(dtype, X, Y2))


def orthonormal(k, n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, k)))[0].T


def test_deflating_is_projecting_on_both_sides(float64):
    a, v = matrix(SPREAD), orthonormal(3, 12)
    op, p = hj.deflate(hj.Matrix(jnp.asarray(a)), pairs(v)), np.eye(12) - v.T @ v
    np.testing.assert_allclose(hj.dense(op), p @ a @ p, atol=1e-14)
    assert op.num_deflated == 3
    x = RNG.standard_normal(12)
    np.testing.assert_allclose(op.confine(jnp.asarray(x)), p @ x, atol=1e-14)
    np.testing.assert_allclose(op.linearized().mv(x), p @ a @ p @ x, atol=1e-13)


def test_deflating_twice_and_around_other_operators_adds_up(float64):
    a, v = matrix(SPREAD), orthonormal(5, 12)
    p = np.eye(12) - v.T @ v
    twice = hj.deflate(hj.deflate(hj.Matrix(jnp.asarray(a)), pairs(v[:2])), pairs(v[2:]))
    op = hj.shift(-2.0 * twice, 0.5)
    assert op.num_deflated == 5
    np.testing.assert_allclose(p @ np.asarray(hj.dense(op)) @ p, p @ (0.5 * np.eye(12) - 2 * a) @ p, atol=1e-13)
    np.testing.assert_allclose(op.confine(jnp.ones(12)), p @ np.ones(12), atol=1e-14)
    assert (twice + hj.Matrix(jnp.asarray(a))).num_deflated == 0  # a sum is on the whole space again


def test_eigenvectors_deflated_leave_the_other_eigenvalues(dtype):
    op = diagonal(np.arange(1.0, 31), dtype)
    rest = hj.deflate(op, hj.eigsh(op, KEY, k=2))
    atol = 60 * 30 * 10 * float(jnp.finfo(dtype).eps) + 2e-6  # vectors err by rtol, values by its square
    np.testing.assert_allclose(np.sort(hj.eigvalsh(rest)), np.r_[0, 0, np.arange(1.0, 29)], atol=atol)


def test_vectors_are_trees_of_the_params(float64):
    op = network()
    top = hj.eigsh(op, KEY, k=2, which="LM", rtol=1e-9)
    rest = hj.deflate(op, top)
    flat = jax.vmap(lambda q: trees.ravel(q)[0])(top.vectors)
    p = np.eye(21) - np.asarray(flat).T @ np.asarray(flat)
    np.testing.assert_allclose(hj.dense(rest), p @ np.asarray(hj.dense(op)) @ p, atol=1e-12)
    with pytest.raises(ValueError, match="an eigenvector has tree structure"):
        hj.deflate(op, pairs(orthonormal(2, 21)))
    with pytest.raises(ValueError, match="an eigenvector has shape"):
        hj.deflate(diagonal(SPREAD, "float64"), pairs(orthonormal(2, 13)))


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("in/*", range(15)),
        ("in/bias", range(3)),
        ("*", range(21)),
        ("*kernel", range(3, 15)),
        ("out", range(15, 21)),
        ("[io]*t*", range(15, 21)),
        (lambda path: (path.startswith("in") and path.endswith("bias")) or path == "out", [0, 1, 2, *range(15, 21)]),
    ],
)
def test_a_block_is_the_principal_submatrix(where, kept, float64):
    block, whole = hj.restrict(network(), where), np.asarray(hj.dense(network()))
    np.testing.assert_allclose(hj.dense(block), whole[np.ix_(kept, kept)], atol=1e-13)
    assert block.size == len(kept)
    assert len(jax.tree.leaves(block.like)) <= 3
    np.testing.assert_allclose(hj.dense(block.linearized()), hj.dense(block), atol=1e-13)


def test_a_flat_array_has_the_empty_path(float64):
    whole = hj.restrict(diagonal(SPREAD, "float64"), "*")
    np.testing.assert_allclose(hj.dense(whole), np.diag(SPREAD))
    with pytest.raises(ValueError, match=r"no leaf matches 'w'; the paths are \(the whole array\)"):
        hj.restrict(diagonal(SPREAD), "w")


def test_what_matches_nothing_lists_the_paths(untyped):
    with pytest.raises(ValueError, match=r"no leaf matches 'conv/\*'; the paths are in/bias, in/kernel, out\."):
        hj.restrict(network("float32"), "conv/*")
    with pytest.raises(ValueError, match="no leaf matches the predicate"):
        hj.restrict(network("float32"), lambda path: False)
    with pytest.raises(TypeError, match=r"where is int, wanted a pattern such as '\*/kernel' or a function of a path"):
        hj.restrict(network("float32"), 3)


def test_blocks_traces_sum_and_their_eigenvalues_interlace(float64):
    # Fact Q7, of any network.
    op = network()
    values = np.asarray(hj.eigvalsh(op))
    blocks = [np.asarray(hj.eigvalsh(hj.restrict(op, name))) for name in ("in/bias", "in/kernel", "out")]
    assert sum(b.sum() for b in blocks) == pytest.approx(values.sum(), rel=1e-12)
    for b in blocks:  # Cauchy: lambda_i <= mu_i <= lambda_{i + n - m}
        assert (b >= values[: len(b)] - 1e-12).all()
        assert (b <= values[len(values) - len(b) :] + 1e-12).all()


def test_estimators_take_blocks(float64):
    block = hj.restrict(network(), "in/*")
    values = np.asarray(hj.eigvalsh(block))
    found = hj.eigsh(block, KEY, k=2, which="BE", rtol=1e-9)
    np.testing.assert_allclose(found.values, values[[0, -1]], atol=1e-10)
    assert jax.tree.structure(found.vectors) == jax.tree.structure(block.like)
    np.testing.assert_allclose(hj.trace(block, KEY, num_probes=15).value, values.sum(), rtol=1e-12)
    assert jax.tree.structure(hj.diagonal(block, KEY, num_probes=2).value) == jax.tree.structure(block.like)


def deep_linear(params, batch):
    x, y = batch
    h = x
    for w in params:
        h = h @ w.T
    return jnp.sum((h - y) ** 2, axis=-1) / 2


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_deep_linear_layers_spectrum_is_the_products_of_its_factors(layer, float64):
    # Fact Q7: with A after and B before the layer, A'A (x) B X X' B' / N; dims 4-3-5-2, 13 rows.
    rng = np.random.default_rng(2)
    weights = [rng.standard_normal(s) for s in ((3, 4), (5, 3), (2, 5))]
    op = hj.Hessian(deep_linear, [jnp.asarray(w) for w in weights], arrays("float64", X, Y2))
    after, before = np.eye(2), X.T / np.sqrt(len(X))
    for w in weights[:layer]:
        before = w @ before
    for w in weights[:layer:-1]:
        after = after @ w
    outer = np.multiply.outer(np.linalg.eigvalsh(after.T @ after), np.linalg.eigvalsh(before @ before.T))
    got = hj.eigvalsh(hj.restrict(op, str(layer)))
    np.testing.assert_allclose(got, np.sort(outer.ravel()), rtol=1e-10, atol=1e-12 * outer.max())


def test_what_is_no_orthonormal_part_of_the_space_is_refused():
    op = diagonal(SPREAD)
    with pytest.raises(ValueError, match=r"eigenvectors are not orthonormal: \|V V' - I\| is 3"):
        hj.deflate(op, pairs(2 * orthonormal(2, 12), "float32"))
    with pytest.raises(ValueError, match="12 eigenvectors leave nothing of 12 dimensions"):
        hj.deflate(op, pairs(np.eye(12), "float32"))
    assert hj.deflate(op, pairs(np.zeros((0, 12)), "float32")) is op


def test_estimators_see_a_deflated_operator_and_its_shift_on_what_is_left():
    op = hj.deflate(diagonal(np.arange(1.0, 7)), hj.eigsh(diagonal(np.arange(1.0, 7)), KEY, k=2))
    shifted = hj.shift(op, 5.0)  # 6, 7, 8, 9
    np.testing.assert_allclose(hj.trace(shifted, KEY).value, 30.0, rtol=1e-5)
    np.testing.assert_allclose(hj.logdet(shifted, KEY, num_probes=200).value, np.log(6 * 7 * 8 * 9.0), rtol=0.05)
    with pytest.raises(ValueError, match="op has 2 directions deflated already"):
        hj.spectrum(op, KEY, k=1)


NO_OPERATOR = {
    "restrict": lambda a: hj.restrict(a, "*"),
    "shift": lambda a: hj.shift(a, 1.0),
    "deflate": lambda a: hj.deflate(a, None),
    "check": lambda a: hj.check_operator(a, KEY),
}


@pytest.mark.parametrize("name", NO_OPERATOR)
def test_what_is_no_operator_is_told_what_to_wrap(name, untyped):
    with pytest.raises(TypeError, match=r"wanted an operator such as hj\.Matrix\(a\)"):
        NO_OPERATOR[name](jnp.eye(3))


BULK = np.r_[np.linspace(100.0, 101.0, 119), 200.0]  # far from the zeros that deflating makes


@pytest.mark.parametrize("streamed", [False, True])
def test_iterations_stay_in_the_space_of_a_deflated_operator(streamed):
    a = jnp.asarray(matrix(BULK), "float32")
    loss = lambda p, rows: p @ rows @ p / 2
    whole = hj.Streamed(loss, jnp.zeros(120), [a]) if streamed else hj.Matrix(a)
    op = hj.deflate(whole, hj.eigsh(whole, KEY, k=1))
    low = hj.eigsh(op, KEY, k=2, which="SA")
    assert low.converged.all()
    np.testing.assert_allclose(low.values, BULK[:2], rtol=1e-5)
    both = hj.eigsh(op, KEY, k=2, which="BE")
    np.testing.assert_allclose(both.values, BULK[[0, -2]], rtol=1e-5)
    for reorthogonalize in ("full", "none"):
        t = hj.lanczos(op, KEY, num_steps=20, reorthogonalize=reorthogonalize)
        ritz = np.linalg.eigvalsh(np.diag(t.alphas) + np.diag(t.betas[:-1], 1) + np.diag(t.betas[:-1], -1))
        assert 99.99 < ritz[0] < ritz[-1] < 101.01
    q = hj.slq(op, KEY, num_steps=20, num_probes=2)
    assert float(q.resolution) == pytest.approx(1 / 20, rel=0.2)
    assert float(hj.kpm(op, KEY, num_probes=2).nodes.min()) > 99.5
    assert float(hj.logdet(op, KEY, num_steps=20).value) == pytest.approx(np.log(BULK[:-1]).sum(), rel=1e-3)


def test_what_is_no_eigenpairs_is_told_so(untyped):
    with pytest.raises(TypeError, match=r"eigenpairs is ArrayImpl, wanted what hj\.eigsh returns"):
        hj.deflate(diagonal(np.ones(3)), jnp.ones(3))
