"""Rows and chunked sums: any N, any chunk, ragged or not, is the plain sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessjax import rows


@given(count=st.integers(1, 9), chunk=st.integers(1, 12))
def test_any_chunks_sum_to_the_whole(count, chunk):
    batch = {"x": jnp.arange(count, dtype="float32"), "factor": jnp.array(2.0)}
    part = lambda some: {"sum": jnp.sum(some["x"] * some["factor"])}
    assert float(rows.sum_over_chunks(part, batch, chunk)["sum"]) == count * (count - 1)


@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 8, 9])
def test_no_pass_sees_more_rows_than_asked_nor_a_row_twice(chunk):
    seen = []

    def part(some):
        jax.debug.callback(lambda x: seen.extend([x.tolist()]), some, ordered=True)
        return jnp.sum(some)

    jax.block_until_ready(rows.sum_over_chunks(part, jnp.arange(8.0), chunk))
    jax.effects_barrier()
    assert sorted(row for part in seen for row in part) == list(range(8))
    assert max(map(len, seen)) == min(chunk, 8)


def test_keys_are_rows_where_they_are_many_and_whole_where_one():
    many = {"x": jnp.zeros((4, 2)), "key": jax.random.split(jax.random.key(0), 4)}
    one = {"x": jnp.zeros((4, 2)), "key": jax.random.key(0)}
    assert rows.num_rows(many) == rows.num_rows(one) == 4
    assert rows.take(many, 1, 3)["key"].shape == (2,)
    assert rows.take(one, 1, 3)["key"].shape == ()


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"x": jnp.zeros((3, 2)), "y": jnp.zeros(4)}, r"disagree.*'x': \(3, 2\).*'y': \(4,\)"),
        ({"t": jnp.array(1.0)}, "no leaf with rows"),
        (jnp.zeros((0, 2)), "no rows"),
    ],
)
def test_batches_without_common_rows_are_refused(batch, words):
    with pytest.raises(ValueError, match=words):
        rows.num_rows(batch)


def test_the_sum_keeps_its_dtype(dtype):
    out = rows.sum_over_chunks(jnp.sum, jnp.ones(7, dtype), 2)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, 7)
