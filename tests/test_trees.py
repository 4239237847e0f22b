"""Pytree vector algebra against NumPy on the ravelled vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessjax import trees

FLOATS = st.floats(-3, 3)
TINY = 1e-30  # XLA flushes subnormals to zero
TREE = {"a": np.array([[1.0, -2.0], [3.0, 0.5]]), "b": (np.array(4.0), np.array([-1.0, 2.0, 0.0]))}


def tree(dtype, scale=1.0):
    return jax.tree.map(lambda x: jnp.asarray(x * scale, dtype), TREE)


def flat(t):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)])


@given(c=FLOATS, d=FLOATS)
def test_algebra_is_that_of_the_ravelled_vectors(c, d):
    u, v = tree("float32", c), tree("float32", d)
    np.testing.assert_allclose(flat(trees.add(u, trees.scale(2.0, v))), flat(u) + 2 * flat(v), rtol=1e-6, atol=TINY)
    np.testing.assert_allclose(trees.dot(u, v), flat(u) @ flat(v), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(trees.norm(u), np.linalg.norm(flat(u)), rtol=1e-5, atol=1e-6)


def test_scale_and_cast_keep_or_change_dtype_as_said(dtype):
    u = tree(dtype)
    assert {x.dtype for x in jax.tree.leaves(trees.scale(np.float64(2.0), u))} == {jnp.dtype(dtype)}
    mixed = {"x": jnp.ones(2, dtype), "labels": jnp.arange(2), "key": jax.random.key(0), "t": 0.5}
    cast = trees.cast(mixed, "bfloat16")
    assert cast["x"].dtype == cast["t"].dtype == jnp.bfloat16
    assert cast["labels"].dtype == mixed["labels"].dtype
    assert cast["key"].dtype == mixed["key"].dtype


def test_bfloat16_is_accumulated_in_float32():
    ones = {"x": jnp.ones(4096, "bfloat16")}  # in bfloat16 the running sum would stop at 256
    assert float(trees.dot(ones, ones)) == 4096.0
    assert trees.dot(ones, ones).dtype == jnp.float32


def test_size_structs_and_ravel_round_trip(dtype):
    t = tree(dtype)
    assert trees.size(t) == trees.size(trees.structs(t)) == 8
    vector, unravel = trees.ravel(t)
    np.testing.assert_array_equal(vector, flat(t))
    jax.tree.map(np.testing.assert_array_equal, unravel(vector), t)


def test_draws_have_the_shape_dtype_and_law_asked_for(dtype):
    like = {
        "a": jax.ShapeDtypeStruct((300, 10), jnp.dtype(dtype)),
        "b": jax.ShapeDtypeStruct((3000,), jnp.dtype(dtype)),
    }
    normal, signs = trees.normal_like(jax.random.key(0), like), trees.rademacher_like(jax.random.key(0), like)
    assert trees.structs(normal) == trees.structs(signs) == like
    assert set(np.unique(flat(signs))) == {-1.0, 1.0}
    n = trees.size(like)
    assert abs(flat(normal).mean()) < 4 / n**0.5
    assert abs(flat(normal).var() - 1) < 4 * (2 / n) ** 0.5
    assert abs(np.corrcoef(np.ravel(normal["a"]), normal["b"])[0, 1]) < 4 / 3000**0.5  # leaves have keys of their own


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({}, ValueError, "empty tree"),
        ({"a": jnp.zeros((0, 3))}, ValueError, "no scalars"),
        ({"a": {"n": jnp.arange(3)}}, TypeError, "'a/n' is int32"),
        ({"a": jnp.zeros(2), "on": jnp.array(True)}, TypeError, "'on' is bool"),
        ({"a": jnp.zeros(2, "complex64")}, TypeError, "complex64"),
        ({"a": "text"}, TypeError, "'a' is str"),
        ({"a": True}, TypeError, "'a' is bool"),
    ],
)
def test_trees_that_are_no_vectors_are_refused_by_leaf(bad, error, words):
    with pytest.raises(error, match=words):
        trees.check_params(bad)


def test_conform_names_the_first_leaf_of_another_shape():
    like = trees.structs(tree("float32"))
    with pytest.raises(ValueError, match=r"'a' has shape \(3,\), wanted \(2, 2\)"):
        trees.conform({"a": jnp.zeros(3), "b": (jnp.zeros(()), jnp.zeros(3))}, like)
    with pytest.raises(ValueError, match="tree structure"):
        trees.conform([1.0], like)
    assert trees.conform(TREE, like)["a"].dtype == jnp.float32  # NumPy float64 is taken in the operator's dtype
