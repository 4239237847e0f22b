"""The algebra of operators against that of their matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh
from spectra import diagonal

import hessjax as hj

A = np.array([[2.0, 1.0, 0.0], [1.0, -1.0, 0.5], [0.0, 0.5, 3.0]], "float32")
B = np.diag(np.array([1.0, 0.0, -2.0], "float32"))
V = np.array([1.0, -1.0, 2.0], "float32")


@given(c=st.floats(-4, 4), d=st.floats(-4, 4))
def test_any_expression_is_that_of_the_matrices(c, d):
    a, b = hj.Matrix(A), hj.Matrix(B)
    op = hj.shift(c * a - b * d, 0.5) + (-a)
    want = c * A - d * B + 0.5 * np.eye(3) - A
    np.testing.assert_allclose(op @ V, want @ V, atol=1e-4)
    np.testing.assert_allclose(hj.dense(op), want, atol=1e-5)


def test_scalars_may_be_python_numpy_or_traced():
    product = jax.jit(lambda c: (c * hj.Matrix(A)).mv(V))
    for c in (2, 2.0, np.float64(2.0), np.float32(2.0), jnp.array(2.0)):
        np.testing.assert_allclose((c * hj.Matrix(A)).mv(V), 2 * A @ V)
        np.testing.assert_allclose(product(c), 2 * A @ V, rtol=1e-6)
        assert (c * hj.Matrix(A)).mv(V).dtype == jnp.float32


def test_linearized_expressions_are_the_same_operator():
    hessian = hj.Hessian(lambda p: jnp.sum(p**4), jnp.array([1.0, 2.0, 3.0]))
    op = hj.shift(2.0 * hessian - hj.Matrix(B), 1.0)
    np.testing.assert_allclose(op.linearized().mv(V), op.mv(V), rtol=1e-6)


def test_operators_on_different_spaces_do_not_add():
    with pytest.raises(ValueError, match="different spaces"):
        hj.Matrix(A) + hj.Matrix(np.eye(2, dtype="float32"))
    tree = hj.Hessian(lambda p: p["x"] @ p["x"], {"x": jnp.ones(3)})
    with pytest.raises(ValueError, match="different spaces"):
        tree + hj.Matrix(A)


@pytest.mark.parametrize("bad", [1.0, "a", None, V])
def test_only_operators_add(bad, untyped):
    with pytest.raises(TypeError):
        hj.Matrix(A) + bad


@pytest.mark.parametrize("bad", [hj.Matrix(B), V, 1j])
def test_only_real_scalars_multiply_and_shift(bad, untyped):
    with pytest.raises(TypeError):
        hj.Matrix(A) * bad
    with pytest.raises(TypeError, match="shift needs a real scalar"):
        hj.shift(hj.Matrix(A), bad)


def test_a_users_operator_is_two_methods():
    from dataclasses import dataclass

    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Diagonal(hj.Operator):
        d: jax.Array

        @property
        def like(self):
            return jax.ShapeDtypeStruct(self.d.shape, self.d.dtype)

        def product(self, v):
            return self.d * v

    op = Diagonal(jnp.array([3.0, -1.0, 0.0]))
    assert hj.check_operator(op, jax.random.key(0)).ok
    assert hj.eigvalsh(op).tolist() == [-1.0, 0.0, 3.0]
    assert hj.inertia(op - 2 * op, tol=1e-6).negative == 1


def test_an_operator_prints_its_size_and_no_array():
    op = hj.Matrix(jnp.eye(3))
    assert repr(2 * op + op) == "Sum(3 x 3, float32)"
    assert repr(op) == "Matrix(3 x 3, float32)"
    assert op.shape == (3, 3)
    assert "Matrix object at" in repr(jax.tree.map(lambda _: None, op))


@pytest.mark.parametrize("c", [1e-20, 1.0, 1e20])
def test_a_check_does_not_depend_on_the_scale(c):
    assert hj.check_operator(c * hj.Matrix(A), jax.random.key(0)).ok
    linear = jax.tree.map(lambda x: x, hj.Matrix(A))
    object.__setattr__(linear, "a", jnp.triu(A))  # what __init__ refuses
    with pytest.raises(hj.OperatorError, match="symmetric"):
        hj.check_operator(c * linear, jax.random.key(0))


def test_integers_of_any_size_scale_and_shift():
    op = diagonal(np.ones(2))
    assert (2**40 * op).mv(jnp.ones(2)).tolist() == [2.0**40] * 2
    assert hj.shift(op, 2**40).mv(jnp.ones(2)).tolist() == [2.0**40] * 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scipy_solves_for_half_precision_in_float32(dtype):
    op = diagonal(np.r_[3.0, np.linspace(0, 1, 19)], dtype).to_scipy()
    assert op.dtype == np.float32
    assert eigsh(op, k=1)[0] == pytest.approx([3.0], rel=2e-2)


def test_a_domain_has_the_dimensions_and_no_products():
    op = diagonal(np.ones(3))
    domain = (2 * op).domain()
    assert (domain.size, domain.num_deflated, domain.like) == (3, 0, op.like)
    with pytest.raises(TypeError, match="a domain is where an operator acts, and has no products"):
        domain.mv(jnp.ones(3))
