"""Streamed operators: equal to resident ones whatever the batches, compiled once a size, driven from the host."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import KERNEL, LABELS, X, arrays, softmax, softmax_oracle

import hessjax as hj

PARAMS = {"kernel": jnp.asarray(KERNEL, "float32")}
WHOLE = arrays("float32", X, LABELS)


def cut(*sizes):
    return [tuple(a[i:j] for a in WHOLE) for i, j in pairwise(np.cumsum([0, *sizes]))]


class Loader:
    """Batches made afresh at every pass; counts the passes."""

    def __init__(self, batches, change=lambda batch: batch):
        self.batches, self.change, self.passes = batches, change, 0

    def __iter__(self):
        self.passes += 1
        return map(self.change, self.batches)


def mean_softmax(params, batch):
    return jnp.mean(softmax(params, batch))


@pytest.mark.parametrize("loss", [softmax, mean_softmax])
@pytest.mark.parametrize("sizes", [(13,), (5, 5, 3), (6, 1, 6), (1,) * 13])
def test_it_is_the_resident_operator_whatever_the_batches(loss, sizes):
    resident = hj.dense(hj.Hessian(softmax, PARAMS, WHOLE))
    np.testing.assert_allclose(hj.dense(hj.Streamed(loss, PARAMS, cut(*sizes))), resident, atol=1e-6)


def test_a_block_of_products_reads_the_batches_once():
    loader = Loader(cut(5, 5, 3))
    op = hj.Streamed(softmax, PARAMS, loader)
    block = jax.random.normal(jax.random.key(0), (7, 4, 3))
    got = op.products({"kernel": block})["kernel"]
    assert loader.passes == 1
    for v, av in zip(block, got, strict=True):
        np.testing.assert_allclose(op.mv({"kernel": v})["kernel"], av, atol=1e-6)


def test_a_matrix_is_read_in_blocks_of_columns_also_of_composites():
    loader = Loader(cut(5, 5, 3))
    op = hj.shift(2 * hj.Streamed(softmax, PARAMS, loader) + hj.Hessian(softmax, PARAMS, WHOLE), 0.5)
    np.testing.assert_allclose(hj.dense(op), 3 * softmax_oracle(1.0) + 0.5 * np.eye(12), atol=2e-6)
    assert loader.passes == 1
    np.testing.assert_allclose(hj.dense(op, columns=5), 3 * softmax_oracle(1.0) + 0.5 * np.eye(12), atol=2e-6)
    assert loader.passes == 1 + 3
    inner = hj.dense(hj.restrict(op, "kernel") - op)
    np.testing.assert_allclose(inner, np.zeros((12, 12)), atol=2e-6)


def test_a_ragged_last_batch_is_one_more_trace_and_moving_params_none():
    chex.clear_trace_counter()
    loss = chex.assert_max_traces(softmax, n=2)
    for scale in (1.0, 2.0):
        params = {"kernel": scale * PARAMS["kernel"]}
        for loader in (cut(5, 5, 3), Loader(cut(5, 5, 3))):
            op = hj.Streamed(loss, params, loader)
            op.mv(PARAMS)
            op.mv(PARAMS)


def test_sums_over_batches_do_not_saturate_and_keep_the_dtype():
    loss = lambda p, b: 0.5 * b * p**2  # the mean of b, 1; a bfloat16 running sum stops at 256
    batches = [jnp.ones(1, "bfloat16")] * 600
    got = hj.Streamed(loss, jnp.array(0.0, "bfloat16"), batches).mv(1.0)
    assert got.dtype == jnp.bfloat16
    assert float(got) == 1.0


def test_tensors_of_other_libraries_are_read_as_arrays():
    class Tensor:
        def __init__(self, a):
            self.a = np.asarray(a)

        def __array__(self, dtype=None, copy=None):
            return self.a

    batches = [[Tensor(x), Tensor(y)] for x, y in cut(5, 5, 3)]
    got = hj.Streamed(softmax, PARAMS, batches).mv(PARAMS)
    chex.assert_trees_all_close(got, hj.Hessian(softmax, PARAMS, WHOLE).mv(PARAMS), atol=1e-6)


def test_a_loader_that_changes_its_rows_is_found():
    rng = np.random.default_rng(0)
    noisy = Loader(cut(5, 5, 3), lambda batch: (batch[0] + rng.standard_normal(batch[0].shape), batch[1]))
    words = "fails the determinism check.*two passes over the batches differ"
    with pytest.raises(hj.OperatorError, match=words):
        hj.check_operator(hj.Streamed(softmax, PARAMS, noisy), jax.random.key(0))
    still = Loader(cut(5, 5, 3))
    assert hj.check_operator(hj.Streamed(softmax, PARAMS, still), jax.random.key(0)).ok
    assert still.passes == 3  # two of products, one for the rows of the per-example check


def test_check_finds_coupled_examples():
    coupled = lambda p, batch: softmax(p, batch) * jnp.mean(batch[0])
    with pytest.raises(hj.OperatorError, match="fails the per-example check"):
        hj.check_operator(hj.Streamed(coupled, PARAMS, cut(5, 5, 3)), jax.random.key(0))


def test_another_order_of_the_same_rows_is_no_defect():
    rng = np.random.default_rng(0)

    class Shuffled:
        def __iter__(self):
            order = rng.permutation(13)
            return ((WHOLE[0][order[i : i + 5]], WHOLE[1][order[i : i + 5]]) for i in (0, 5, 10))

    assert hj.check_operator(hj.Streamed(softmax, PARAMS, Shuffled()), jax.random.key(0)).ok


def test_as_a_tree_its_params_are_leaves_and_its_batches_one_by_identity():
    batches = cut(5, 5, 3)
    one, same, other = (hj.Streamed(softmax, PARAMS, b) for b in (batches, batches, list(batches)))
    structure = jax.tree.structure
    assert structure(one) == structure(same) != structure(other)
    assert hash(structure(one)) == hash(structure(same))
    assert jax.tree.leaves(one) == [PARAMS["kernel"]]
    assert one.streamed
    assert one.linearized() is one
    moved = jax.tree.map(lambda p: 0.5 * p, one)
    np.testing.assert_allclose(hj.dense(moved), softmax_oracle(0.5), atol=1e-6)


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        (iter(cut(5, 8)), TypeError, "list_iterator, an iterator, which can be read only once"),
        ((b for b in cut(5, 8)), TypeError, "generator, an iterator, which can be read only once"),
        ([], ValueError, "batches is empty"),
        ({"x": WHOLE[0]}, TypeError, "dict, wanted an iterable of batches such as a list"),
        (WHOLE[0], TypeError, "wanted an iterable of batches such as a list"),
        (WHOLE, TypeError, "tuple, wanted an iterable of batches such as a list"),
        (None, TypeError, "NoneType, wanted an iterable of batches"),
        ([(WHOLE[0][:0], WHOLE[1][:0])], ValueError, "batch has no rows"),
        ([(WHOLE[0], WHOLE[1][:5])], ValueError, "disagree on the number of rows"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_is_no_iterable_of_batches_is_one_clear_line(batches, error, words, untyped):
    with pytest.raises(error, match=words) as caught:
        hj.Streamed(softmax, PARAMS, batches).mv(PARAMS)
    assert "\n" not in str(caught.value)


def test_blocks_and_complements_multiply_a_block_in_one_pass():
    loader = Loader(cut(5, 5, 3))
    op = hj.Streamed(softmax, PARAMS, loader)
    first = jax.tree.map(lambda p: jnp.zeros((1, *p.shape)).at[0, 0, 0].set(1.0), PARAMS)
    zero = jnp.zeros(1)
    pairs = hj.Eigenpairs(zero, first, zero, zero == 0, jnp.int32(0))
    for part in (hj.restrict(op, "*"), hj.deflate(op, pairs), -2.0 * hj.restrict(hj.deflate(op, pairs), "kernel")):
        block = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), (4, *p.shape)), PARAMS)
        want = [part.product(jax.tree.map(lambda x, k=k: x[k], block)) for k in range(4)]
        loader.passes = 0
        got = part.products(block)
        assert loader.passes == 1
        jax.tree.map(lambda x, *each: np.testing.assert_allclose(x, np.stack(each), atol=1e-6), got, *want)


def test_a_product_inside_a_compiled_function_is_refused():
    op = hj.Streamed(softmax, PARAMS, cut(5, 8))
    for call in (lambda: jax.jit(op.mv)(PARAMS), lambda: jax.jit(lambda o: o.mv(PARAMS))(op)):
        with pytest.raises(TypeError, match="cannot be part of jit, vmap or grad"):
            call()


def test_bad_functions_are_refused(untyped):
    with pytest.raises(TypeError, match=r"loss is str, wanted a function loss\(params, batch\)"):
        hj.Streamed("loss", PARAMS, cut(13))
    with pytest.raises(TypeError, match="operator is str, wanted a function operator"):
        hj.Streamed(softmax, PARAMS, cut(13), operator="hessian")
