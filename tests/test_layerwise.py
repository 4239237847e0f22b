"""Hessians from pieces against `jax.hessian`, for every architecture; what is chosen; what does not separate."""

from fnmatch import fnmatchcase
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hessjax as hj
from hessjax import layerwise, trees
from tests.architectures import ARCHITECTURES, XY, N, cross_entropy, draw, labels, mlp, squared


def exact(loss, params, batch):
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jit(jax.hessian(lambda x: jnp.mean(loss(unravel(x), batch))))(flat))


@cache
def known(case):
    """A case's loss, params, data and Hessian; x64 is on."""
    loss, params, batch = case.make()
    return loss, params, batch, exact(loss, params, batch)


def assert_close(got, want, tolerance=1e-10):
    np.testing.assert_allclose(got, want, atol=tolerance * max(np.abs(want).max(), 1e-300), rtol=0)


@pytest.fixture
def pieces_wherever_known(monkeypatch):
    """Also where columns would cost less."""
    monkeypatch.setattr(layerwise, "GAIN", 0.0)


@pytest.mark.parametrize("case", ARCHITECTURES, ids=lambda case: case.name)
def test_every_architecture_of_pieces_is_jax_hessian(case, float64, pieces_wherever_known):
    loss, params, batch, want = known(case)
    op = hj.Hessian(loss, params, batch)
    ways = {leaf.path: leaf.way for leaf in hj.explain(op).leaves}
    columns = {path for path in ways if any(fnmatchcase(path, pattern) for pattern in case.columns)}
    assert {path for path, way in ways.items() if way == "columns"} == columns, hj.explain(op)
    assert_close(hj.dense(op), want)


@pytest.mark.parametrize("case", ARCHITECTURES, ids=lambda case: case.name)
def test_what_is_chosen_is_jax_hessian_too_and_so_are_columns(case, float64):
    loss, params, batch, want = known(case)
    fresh = lambda params, batch: loss(params, batch)  # or the program of the test above would be taken
    assert_close(hj.dense(hj.Hessian(fresh, params, batch)), want)
    assert_close(hj.dense(hj.Hessian(fresh, params, batch), memory=1), want)


# --- other curvatures, parts and sums of them -------------------------------------------------------------------------


# As models these have one output in all, or what is not of a row goes into every output, or their data are no rows.
OUTPUTS_WITHOUT_ROWS = {"scalar mean", "scalar with decay", "decay in every row", "orthogonality", "weighted rows"}


@pytest.mark.parametrize("case", ARCHITECTURES, ids=lambda case: case.name)
def test_gauss_newton_and_residual_of_every_architecture_are_closed_forms(case, float64, pieces_wherever_known):
    """Each loss is taken for a model of one output a row, or of one in all, under a curve."""
    model, params, batch, _ = known(case)
    flat, unravel = ravel_pytree(params)
    outputs = model(params, batch)
    target = jnp.zeros(N if outputs.ndim else ())
    curve = lambda z, t: jnp.log(jnp.cosh(z / 3 - t))
    problem = (lambda p, x: model(p, x), curve, params, (batch, target))
    slopes = jnp.atleast_2d(jax.jit(jax.jacobian(lambda p: model(unravel(p), batch)))(flat))  # [N or 1, P]
    weights = jnp.atleast_1d(1 - jnp.tanh(outputs / 3) ** 2) / 9
    want = slopes.T @ (weights[:, None] * slopes) / len(slopes)
    ways = {leaf.path: leaf.way for leaf in hj.explain(hj.GaussNewton(*problem)).leaves}
    patterns = ("*",) if case.name in OUTPUTS_WITHOUT_ROWS else case.columns
    columns = {path for path in ways if any(fnmatchcase(path, pattern) for pattern in patterns)}
    assert {path for path, way in ways.items() if way == "columns"} == columns
    assert_close(hj.dense(hj.GaussNewton(*problem)), want)
    whole = exact(lambda p, x: curve(model(p, x), 0.0), params, batch)
    assert_close(hj.dense(hj.Residual(*problem)), whole - want)


def model_and_loss(name):
    model, _, params, batch = mlp([4, 3, 3], loss=cross_entropy if name == "cross-entropy" else squared)
    params = jax.tree.map(jnp.asarray, params)
    return model, cross_entropy if name == "cross-entropy" else squared, params, jax.tree.map(jnp.asarray, batch)


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("name", ["cross-entropy", "squares"])
def test_gauss_newton_of_pieces_is_the_closed_form_and_the_residual_the_rest(
    name, chunk, float64, pieces_wherever_known
):
    problem = model_and_loss(name)
    model, loss, params, (x, y) = problem
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacobian(lambda p: model(unravel(p), x))(flat)  # [n, outputs, P]
    outputs = model(params, x)
    curvature = jax.vmap(jax.hessian(lambda z, t: loss(z[None], t[None])[0]))(outputs, y)
    want = jnp.einsum("nap,nab,nbq->pq", jacobian, curvature, jacobian) / len(x)
    gauss_newton, rest = hj.GaussNewton(*problem, chunk=chunk), hj.Residual(*problem, chunk=chunk)
    assert {leaf.way for op in (gauss_newton, rest) for leaf in hj.explain(op).leaves} == {"pieces"}
    assert_close(hj.dense(gauss_newton), want)
    whole = exact(lambda p, batch: loss(model(p, batch[0]), batch[1]), params, (x, y))
    assert_close(hj.dense(rest), whole - want)


def test_a_model_whose_loss_couples_its_rows_is_columns(float64, pieces_wherever_known):
    model, _, params, batch = model_and_loss("squares")
    loss = lambda z, y: jnp.sum((z - jnp.mean(z, axis=0) - y) ** 2)
    op = hj.GaussNewton(model, loss, params, batch)
    assert {(leaf.way, leaf.why) for leaf in hj.explain(op).leaves} == {
        ("columns", "rows of the outputs meet in the loss")
    }
    flat, unravel = ravel_pytree(params)
    forward = jax.jacobian(lambda p: model(unravel(p), batch[0]).ravel())(flat)
    curvature = jax.hessian(lambda z: loss(z.reshape(batch[1].shape), batch[1]))(model(params, batch[0]).ravel())
    assert_close(hj.dense(op), forward.T @ curvature @ forward)


@pytest.mark.parametrize("chunk", [1, 2, 5, 7])
def test_chunks_of_rows_any_remainder(chunk, float64, pieces_wherever_known):
    _, loss, params, batch = mlp([4, 5, 3])
    params, batch = jax.tree.map(jnp.asarray, (params, batch))
    op = hj.Hessian(loss, params, batch, chunk=chunk)
    assert {leaf.way for leaf in hj.explain(op).leaves} == {"pieces"}
    assert_close(hj.dense(op), exact(loss, params, batch))


def test_a_block_is_that_part_of_the_whole_and_takes_only_its_own_pieces(float64, pieces_wherever_known):
    _, loss, params, batch = mlp([4, 5, 4, 3])
    params, batch = jax.tree.map(jnp.asarray, (params, batch))
    op = hj.Hessian(loss, params, batch)
    whole, at = (
        hj.dense(op),
        ravel_pytree(jax.tree.map_with_path(lambda path, x: jnp.full(x.shape, "1" in trees.path_str(path)), params))[0],
    )
    block = hj.restrict(op, "1/*")
    assert_close(hj.dense(block), whole[at][:, at])
    assert [leaf.path for leaf in hj.explain(block).leaves] == ["1/b", "1/w"]
    assert hj.explain(block).flops < hj.explain(op).flops / 2
    nested = hj.restrict(hj.restrict(op, "1/*"), "*w") * 2.0 + hj.restrict(op, "1/w")
    own = ravel_pytree(
        jax.tree.map_with_path(lambda path, x: jnp.full(x.shape, trees.path_str(path) == "1/w"), params)
    )[0]
    assert_close(hj.dense(nested), 3 * whole[own][:, own])


def test_sums_shifts_and_complements_of_pieces(float64):
    problem = model_and_loss("squares")
    model, loss, params, batch = problem
    whole = hj.Hessian(lambda p, batch: loss(model(p, batch[0]), batch[1]), params, batch)
    parts = hj.GaussNewton(*problem) + hj.Residual(*problem)
    want = hj.dense(whole)
    assert_close(hj.dense(parts), want)
    assert_close(hj.dense(hj.shift(2 * whole - parts, 0.5)), want + 0.5 * jnp.eye(len(want)))
    top = hj.eigsh(whole, jax.random.key(0), k=2)
    flat = jax.vmap(lambda v: ravel_pytree(v)[0])(top.vectors)
    projector = jnp.eye(len(want)) - flat.T @ flat
    assert_close(hj.dense(hj.deflate(whole, top)), projector @ want @ projector, 1e-9)


@pytest.mark.parametrize(
    "lift", [jax.jit, lambda f: lambda w: jax.vmap(f)(w[None])[0], lambda f: lambda w: jax.lax.map(f, w[None])[0]]
)
def test_it_passes_through_transformations(lift, float64, pieces_wherever_known):
    x, y = map(jnp.asarray, XY)
    loss = lambda w, batch: squared(jnp.tanh(batch[0] @ w), batch[1])
    w = jnp.asarray(draw(1, 4, 3))
    matrix = lambda w: hj.dense(hj.Hessian(loss, w, (x, y)))
    assert_close(lift(matrix)(w), exact(loss, w, (x, y)))
    # Derivatives of it: the third derivative of the loss.
    v = jnp.asarray(draw(2, 4, 3))
    third = jax.jvp(
        lambda w: jnp.asarray(jax.hessian(lambda u: jnp.mean(loss(u.reshape(4, 3), (x, y))))(w.ravel())), (w,), (v,)
    )[1]
    assert_close(jax.jvp(matrix, (w,), (v,))[1], third)


def test_params_that_move_do_not_trace_it_again():
    traces = []

    def loss(w, batch):
        traces.append(1)
        return jnp.sum(jnp.tanh(batch @ w) ** 2, axis=-1)

    x = jnp.asarray(draw(0, 9, 4), "float32")
    first = hj.dense(hj.Hessian(loss, jnp.ones((4, 3)), x))
    count = len(traces)
    assert not np.allclose(hj.dense(hj.Hessian(loss, 2 * jnp.ones((4, 3)), x)), first)
    assert len(traces) == count


# --- what is chosen ---------------------------------------------------------------------------------------------------


def test_a_layer_with_more_units_than_weights_is_columns_and_one_with_many_weights_a_unit_pieces():
    loss = lambda p, x: jnp.sum(jnp.tanh(jax.lax.conv_general_dilated(x, p["k"], (1, 1), "SAME")) ** 2, axis=(1, 2, 3))
    wide = hj.Hessian(loss, {"k": jnp.ones((1, 1, 2, 2))}, jnp.ones((3, 1, 9, 9)))
    deep = hj.Hessian(loss, {"k": jnp.ones((2, 40, 3, 3))}, jnp.ones((3, 40, 3, 3)))
    assert [leaf.way for leaf in hj.explain(wide).leaves] == ["columns"]
    assert "operations" in hj.explain(wide).leaves[0].why
    assert [(leaf.way, leaf.why) for leaf in hj.explain(deep).leaves] == [("pieces", "convolution")]


def test_a_plan_prints_a_line_a_leaf_and_counts_what_it_takes():
    loss = lambda p, x: jnp.sum(jnp.tanh(x @ p["w"]) ** 2, -1) + jnp.sum(jnp.sin(p["v"]) ** 2)
    plan = hj.explain(hj.Hessian(loss, {"w": jnp.zeros((30, 4)), "v": jnp.ones(3)}, jnp.zeros((50, 30))))
    assert [(leaf.path, leaf.way) for leaf in plan.leaves] == [("v", "columns"), ("w", "pieces")]
    assert plan.leaves[0].why == "it meets no rows of the data"
    table = str(plan).splitlines()
    assert table[0].split() == ["leaf", "size", "way", "tangents", "Mflop", "MiB", "why"]
    assert len(table) == 4
    assert table[3] == "the matrix itself takes 0.0577 MiB"  # 123^2 float32
    # One product sums pairs of 30 features with pairs of 4 units over 50 rows: 2 x 50 x 900 x 16 operations at least.
    assert 1.44e6 <= plan.leaves[1].flops <= 1.6e6
    assert plan.flops >= plan.leaves[1].flops


def test_a_plan_says_when_the_matrix_will_not_fit_and_what_less_memory_makes_columns():
    loss = lambda p, x: jnp.sum(jnp.tanh(x @ p) ** 2, -1)
    large = hj.Hessian(loss, jax.ShapeDtypeStruct((3000, 400), "float32"), jnp.zeros((50, 3000)))
    assert "need 16093.3 GiB" in str(hj.explain(large))  # three of 1.2e6^2 float32
    small = hj.Hessian(loss, jnp.zeros((30, 4)), jnp.zeros((50, 30)))
    ways = [hj.explain(small, memory=size).leaves[0].way for size in (None, "1KiB")]
    assert ways == ["pieces", "columns"]
    with pytest.raises(ValueError, match="memory must be a positive size"):
        hj.explain(small, memory="much")


def test_the_plan_of_a_matrix_and_of_parts_of_operators(untyped):
    matrix = hj.explain(hj.Matrix(jnp.eye(3)))
    assert (matrix.leaves[0].why, matrix.flops) == ("the matrix is given", 0)
    op = hj.Hessian(lambda p: jnp.sum(p**4), jnp.ones(3))
    assert hj.explain(2 * op - op).leaves[1].why == "no data to separate"
    with pytest.raises(TypeError, match="op is"):
        hj.explain(jnp.eye(3))


def test_memory_bounds_what_pieces_take():
    loss = lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2, -1)
    op = hj.Hessian(loss, jnp.ones((30, 4)), jnp.ones((50, 30)))
    for size in (0, "much"):
        with pytest.raises(
            ValueError, match=rf"memory must be a positive size such as '4GiB' or '512MB', got {size!r}"
        ):
            hj.dense(op, memory=size)
    np.testing.assert_allclose(hj.dense(op, memory="1KiB"), hj.dense(op, memory="1GiB"), atol=1e-4)
    np.testing.assert_allclose(hj.dense(op, memory=1), hj.dense(op), atol=1e-4)


def over_rows(w):
    return lambda h, row: (jnp.tanh(h + row @ w),) * 2


# --- rows that meet ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (lambda w, x: jnp.sqrt(jnp.mean((x @ w) ** 2)), "a function of the mean"),
        (lambda w, x: jnp.mean((x @ w - jnp.mean(x @ w, axis=0)) ** 2), "the batch's mean"),
        (lambda w, x: jnp.mean(((x @ w) @ (x @ w).T) ** 2), "every row with every other"),
        (lambda w, x: jnp.mean(jnp.cumsum(x @ w, axis=0) ** 2), "sums along the rows"),
        (lambda w, x: jnp.mean(((x @ w)[::-1] * (x @ w)) ** 2), "another row"),
        (lambda w, x: jnp.mean((x @ w)[jnp.array([1, 0, 2, 3, 4, 5, 6])] * (x @ w)), "another row, by index"),
        (lambda w, x: jnp.max(jnp.sum((x @ w) ** 2, -1)), "the worst row"),
        (lambda w, x: jax.nn.logsumexp(jnp.sum((x @ w) ** 2, -1)), "a soft maximum"),
        (lambda w, x: jnp.mean(jnp.sort(x @ w, axis=0)[:3] ** 2), "sorted rows"),
        (lambda w, x: jnp.mean((x @ w).reshape(-1)[3:] ** 2), "rows run together"),
        (lambda w, x: jnp.mean(jax.lax.scan(over_rows(w), jnp.zeros(3), x)[1]), "a loop over rows"),
        (lambda w, x: jnp.sum(jnp.sum(x @ w, 0) ** 2), "the square of a sum"),
    ],
)  # fmt: skip
def test_rows_that_meet_are_seen(loss, why, float64, pieces_wherever_known):
    w, x = jnp.asarray(draw(1, 4, 3)), jnp.asarray(draw(0, 7, 4))
    op = hj.Hessian(loss, w, x)
    assert [leaf.way for leaf in hj.explain(op).leaves] == ["columns"], why
    assert_close(hj.dense(op), exact(loss, w, x))


@pytest.mark.parametrize(
    "loss",
    [
        lambda w, x: jnp.mean((jnp.hstack([x @ w, x @ w])[:, ::-1].reshape(7, 2, 3).transpose(1, 0, 2)) ** 4),
        lambda w, x: jnp.mean(jnp.sort(x @ w, axis=1)[:, 1:] ** 2),
        lambda w, x: jnp.mean(jnp.cumsum(x @ w, axis=1) ** 2) / 2.0 - 1.0,
        lambda w, x: jnp.mean(jax.lax.top_k(x @ w, 2)[0] ** 2),
        lambda w, x: jnp.mean(jnp.where(x @ w > 0, (x @ w) ** 3, jnp.abs(x @ w))),
        lambda w, x: jnp.mean(jnp.pad(x @ w, ((0, 0), (1, 1))) ** 2) + 0.0 * jnp.sum(w),
        lambda w, x: jnp.mean(jax.lax.cond(True, jnp.sin, jnp.cos, x @ w)),
        lambda w, x: jnp.mean(jax.lax.dynamic_slice(x @ w, (0, 1), (7, 2)) ** 2),
        lambda w, x: jnp.sum(jnp.einsum("ni,nj->nij", x @ w, x @ w) ** 2) / 7,
        lambda w, x: jnp.mean(jnp.linalg.norm(x @ w, axis=1) ** 3),
    ],
)  # fmt: skip
def test_what_keeps_rows_apart_is_seen_too(loss, float64, pieces_wherever_known):
    w, x = jnp.asarray(draw(1, 4, 3)), jnp.asarray(draw(0, 7, 4))
    op = hj.Hessian(loss, w, x)
    assert [leaf.way for leaf in hj.explain(op).leaves] == ["pieces"]
    assert_close(hj.dense(op), exact(loss, w, x))


def test_one_row_and_data_of_equal_sizes_along_every_axis(float64, pieces_wherever_known):
    for n, width in ((1, 3), (3, 3)):
        x, w = jnp.asarray(draw(n, n, width)), jnp.asarray(draw(7, width, 3))
        loss = lambda w, x: squared(jnp.tanh(jnp.tanh(x @ w) @ w), x)
        assert_close(hj.dense(hj.Hessian(loss, w, x)), exact(loss, w, x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes_keep_theirs(dtype, pieces_wherever_known):
    x, w = jnp.asarray(draw(0, 7, 4), dtype), jnp.asarray(draw(1, 4, 3), dtype)
    loss = lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2, axis=-1)
    got = hj.dense(hj.Hessian(loss, w, x))
    assert got.dtype == dtype
    want = exact(loss, w.astype("float32"), x.astype("float32"))
    np.testing.assert_allclose(got.astype("float32"), want, atol=0.1 * np.abs(want).max())


def test_products_kept_wider_than_their_weights(pieces_wherever_known):
    x, w = jnp.asarray(draw(0, 7, 4), "bfloat16"), jnp.asarray(draw(1, 4, 3), "bfloat16")
    wide = lambda w, x: jax.lax.dot(x, w, preferred_element_type=jnp.float32)
    loss = lambda w, x: jnp.sum(jnp.tanh(wide(w, x)) ** 2, axis=-1)
    op = hj.Hessian(loss, w, x)
    assert [leaf.way for leaf in hj.explain(op).leaves] == ["pieces"]
    want = exact(lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2, axis=-1), w.astype("float32"), x.astype("float32"))
    np.testing.assert_allclose(hj.dense(op).astype("float32"), want, atol=0.05 * np.abs(want).max())


def test_data_without_rows_in_common_are_columns(float64):
    x, table, w = jnp.asarray(draw(0, 7, 4)), jnp.asarray(draw(1, 5, 3)), jnp.asarray(draw(2, 4, 3))
    loss = lambda w, batch: jnp.mean(jnp.tanh(batch["x"] @ w) @ batch["table"].T)
    op = hj.Hessian(loss, w, {"x": x, "table": table})
    assert [leaf.way for leaf in hj.explain(op).leaves] == ["columns"]
    assert_close(hj.dense(op), exact(loss, w, {"x": x, "table": table}))


def test_integer_and_key_data_pass(float64, pieces_wherever_known):
    keys, x, w = jax.random.split(jax.random.key(0), 7), jnp.asarray(draw(0, 7, 4)), jnp.asarray(draw(1, 4, 3))

    def loss(w, batch):
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 0.7, (4,)))(batch["keys"])
        return cross_entropy(jnp.tanh((batch["x"] * keep) @ w), batch["y"])

    batch = {"x": x, "keys": keys, "y": jnp.asarray(labels(3))}
    op = hj.Hessian(loss, w, batch)
    assert [leaf.way for leaf in hj.explain(op).leaves] == ["pieces"]
    assert_close(hj.dense(op), exact(loss, w, batch))
