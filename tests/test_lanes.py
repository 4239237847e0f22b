"""A lane's rows against a plain loop that knows nothing of this library, and what must not change them."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import landscape_module_for_tests as user
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

from hessjax import OperatorError, Sweep, landscapes
from hessjax import lanes as lanes_module
from hessjax.landscapes import Landscape
from hessjax.lanes import PILOT, Lanes, Way, resolve
from hessjax.measuring import measure
from hessjax.times import _increasing

# A few roundings per operation, a few tens of operations in sequence per step; times eps, steps and the scale.
ROUNDING = 64
INPUTS = np.random.default_rng(1).standard_normal((7, 2)).astype("float32")
TARGETS = np.array([0, 1, 2, 0, 1, 2, 1])


def net_init(key):
    """Drawn in float32 whatever the run's dtype, so that both dtypes start at the same point."""
    a, b = jax.random.split(key)
    return {"v": jax.random.normal(a, (2, 3), jnp.float32), "w": jax.random.normal(b, (2, 2), jnp.float32)}


def net_model(params, inputs):
    return jnp.tanh(inputs @ params["w"]) @ params["v"]


def net_loss(params, batch):
    return optax.losses.softmax_cross_entropy_with_integer_labels(net_model(params, batch[0]), batch[1])


NET = Landscape("net", net_init, net_loss, (INPUTS, TARGETS), net_model)
STEPS = (0, 2, 5)


def run(lanes, steps, first=0):
    lanes.compile(list(steps))
    return lanes.run(first)


def lanes_of(land=NET, **given):
    config = Sweep(landscape=land, **({"num_steps": max(STEPS), "spacing": "linear", "times": 2} | given))
    return Lanes(config, resolve(config))


def plain_rows(config, optimizer, init):
    """One init's rows by jax.grad, jax.hessian, optax and NumPy, step by step in Python."""
    key = jax.random.fold_in(jax.random.key(config.seed), init)
    dtype = jnp.dtype(config.dtype)
    params = jax.tree.map(lambda x: x.astype(dtype), net_init(jax.random.fold_in(key, 0)))
    whole = (jnp.asarray(INPUTS, dtype), jnp.asarray(TARGETS))
    mean = lambda p, batch: jnp.mean(net_loss(p, batch))
    gradient, (_, unravel) = jax.jit(jax.grad(mean)), ravel_pytree(params)
    flat_loss = lambda flat: mean(unravel(flat), whole)
    hessian, state, rows = jax.jit(jax.hessian(flat_loss)), optimizer.init(params), []
    for step in range(max(STEPS) + 1):
        if step in STEPS:
            matrix = np.asarray(hessian(ravel_pytree(params)[0]), float)
            values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
            threshold = config.tol * np.abs(matrix).sum(axis=1).max()
            rows.append(
                {
                    "loss": mean(params, whole),
                    "error": np.mean(np.argmax(net_model(params, whole[0]), axis=-1) != TARGETS),
                    "grad_norm": np.linalg.norm(ravel_pytree(gradient(params, whole))[0]),
                    "eigenvalues": values,
                    "negative": np.sum(values < -threshold),
                    "zero": np.sum(np.abs(values) <= threshold),
                    "positive": np.sum(values > threshold),
                    "threshold": threshold,
                    "trace": np.trace(matrix),
                    "min_eigenvalue": values[0],
                    "max_eigenvalue": values[-1],
                    "status": 0,
                }
            )
        batch = whole
        if config.batch_size is not None:
            picks = jax.random.randint(
                jax.random.fold_in(jax.random.fold_in(key, 1), step), (config.batch_size,), 0, len(INPUTS)
            )
            batch = (whole[0][picks], whole[1][picks])
        updates, state = optimizer.update(gradient(params, batch), state, params)
        params = jax.tree.map(lambda x: x.astype(dtype), optax.apply_updates(params, updates))
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}


RUNS = {
    "float64 adam": ({"dtype": "float64", "optimizer": "adam", "learning_rate": 0.05}, lambda: optax.adam(0.05)),
    "float64 mini-batches, linear": (
        {"dtype": "float64", "optimizer": "sgd", "learning_rate": 0.3, "schedule": "linear", "batch_size": 3},
        lambda: optax.sgd(optax.schedules.linear_schedule(0.3, 0.0, 5)),
    ),
    "float32 momentum, cosine": (
        {"optimizer": "sgd", "learning_rate": 0.3, "schedule": "cosine", "optimizer_options": {"momentum": 0.9}},
        lambda: optax.sgd(optax.schedules.cosine_decay_schedule(0.3, 5), momentum=0.9),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_rows_are_those_of_a_plain_loop(float64, name):
    given, optimizer = RUNS[name]
    # The relative threshold is far from every eigenvalue, in both dtypes: the counts are integers to be equal.
    lanes = lanes_of(num_inits=5, seed=3, lane_width=2, tol=1e-3, **given)
    rows = [run(lanes, STEPS)] + [lanes.run(first) for first in (2, 4)]
    eps = float(jnp.finfo(lanes.config.dtype).eps)
    for init in (0, 3, 4):
        wanted = plain_rows(lanes.config, optimizer(), init)
        got = {k: v[init % 2] for k, v in rows[init // 2].items()}
        assert set(got) == {*wanted, "certified"}
        assert got["certified"].all()
        for field in ("negative", "zero", "positive", "status", "error"):
            assert_allclose(got[field], wanted[field], atol=eps, err_msg=f"{field} of init {init}")
        for field in set(wanted) - {"negative", "zero", "positive", "status", "error"}:
            scale = 10 * np.abs(wanted["eigenvalues"]).max()  # n = 10
            tolerance = ROUNDING * (1 + max(STEPS)) * eps * scale
            assert_allclose(got[field], wanted[field], atol=tolerance, rtol=0, err_msg=f"{field} of init {init}")
            assert got[field].dtype == lanes.config.dtype


def test_lbfgs_reaches_the_minimum_of_a_bowl():
    """On a quadratic form in 3 dimensions L-BFGS with a line search is done in a few steps."""
    lanes = lanes_of(user.bowl((0.5, 1.0, 2.0)), num_inits=2, num_steps=12, optimizer="lbfgs", learning_rate=1.0)
    rows = run(lanes, [0, 12])
    assert (rows["loss"][:, 1] <= 1e-6 * rows["loss"][:, 0]).all()
    assert_allclose(rows["eigenvalues"][:, 1], [[0.5, 1.0, 2.0]] * 2, rtol=8 * np.finfo("float32").eps)


def test_past_the_last_init_a_lane_repeats_it():
    lanes = lanes_of(num_inits=21, lane_width=4)
    last = run(lanes, [0], first=20)
    for name, value in last.items():
        assert_array_equal(value[1:], np.repeat(value[:1], 3, axis=0), err_msg=name)


@pytest.mark.parametrize(
    ("given", "width"),
    [
        ({"num_inits": 100, "lane_width": 64}, 50),
        ({"num_inits": 256, "lane_width": 64}, 64),
        ({"num_inits": 257, "lane_width": 64}, 64),  # more than four lanes
        ({"num_inits": 3, "lane_width": 64}, 3),
        ({"num_inits": 5, "lane_width": 4}, 3),
        ({"num_inits": 5, "lane_width": 4, "first_init": 4}, 4),  # a part of a larger study
    ],
)
def test_few_lanes_are_equally_wide(given, width):
    config = Sweep(landscape="quadratic", num_steps=1, times=2, **given)
    assert Lanes(config, resolve(config)).width == width


def test_a_width_that_devices_do_not_divide_uses_them_and_keeps_its_inits():
    odd = lanes_of(num_inits=11, lane_width=11)
    assert odd.mesh.size == 6  # two inits each, as with all eight
    rows, even = run(odd, [0]), run(lanes_of(num_inits=88, lane_width=8), [0])
    assert_array_equal(rows["loss"][:8], even["loss"])
    assert {value.shape[0] for value in rows.values()} == {11}


def test_one_device_and_eight_agree_to_rounding():
    """At step 0, where nothing has had time to amplify: c eps n ||H||."""
    wide, narrow = lanes_of(num_inits=8, lane_width=8), lanes_of(num_inits=8, lane_width=1)
    assert (wide.mesh.size, narrow.mesh.size) == (8, 1)
    many = run(wide, [0])
    one_by_one = [run(narrow, [0])] + [narrow.run(i) for i in range(1, 8)]
    one = {k: np.concatenate([row[k] for row in one_by_one]) for k in many}
    tolerance = ROUNDING * np.finfo("float32").eps * 10 * np.abs(many["eigenvalues"]).max()
    for name in ("loss", "grad_norm", "eigenvalues", "trace"):
        assert_allclose(many[name], one[name], atol=tolerance, rtol=0, err_msg=name)


@functools.cache
def quartic_rows(ruin):
    lanes = lanes_of(
        user.quartic(ruin), num_inits=8, lane_width=4, num_steps=4, optimizer="sgd", learning_rate=0.1, tol=1e-4
    )
    parts = [run(lanes, [0, 2, 4]), lanes.run(4)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


@pytest.mark.parametrize("ruin", ["nan", "far"])
def test_an_init_that_diverges_is_a_row_and_the_others_are_untouched(ruin):
    healthy, rows = quartic_rows("nothing"), quartic_rows(ruin)
    first = 1 if ruin == "far" else 0  # from far away it takes a step or two to infinity
    ruined = rows["status"][:, -1] == 1
    assert 1 <= ruined.sum() <= 4
    assert_array_equal(rows["status"][:, first:], np.repeat(ruined[:, None], 3 - first, axis=1))
    assert (healthy["status"] == 0).all()
    for name, value in rows.items():
        assert_array_equal(value[~ruined], healthy[name][~ruined], err_msg=name)
    bad = {name: value[ruined][:, first:] for name, value in rows.items()}
    for name in ("negative", "zero", "positive", "certified"):
        assert not bad[name].any(), name
    for name in ("loss", "eigenvalues", "trace", "min_eigenvalue", "max_eigenvalue", "threshold"):
        assert not np.isfinite(bad[name]).any(), name


def test_a_finite_loss_without_second_derivatives_has_a_status_of_its_own():
    rows = quartic_rows("kink")
    kinked = rows["status"][:, 0] == 2
    assert 1 <= kinked.sum() <= 4
    assert np.isfinite(rows["loss"]).all()
    assert np.isnan(rows["eigenvalues"][kinked, 0]).all()
    assert not rows["positive"][kinked, 0].any()
    assert (rows["status"][~kinked, 0] == 0).all()


def test_a_diverged_quadratic_form_has_no_counts_though_its_hessian_is_constant():
    land = user.bowl()
    at = jax.jit(lambda params: measure(land, params, tol=1e-5))
    found = at(jnp.array([jnp.nan, 0.0, 0.0]))
    assert (int(found["status"]), int(found["negative"]), int(found["positive"])) == (1, 0, 0)
    assert np.isnan(found["eigenvalues"]).all()
    assert [int(at(jnp.ones(3))[k]) for k in ("negative", "zero", "positive")] == [1, 0, 2]


def test_inertia_has_the_counts_and_stores_no_eigenvalues():
    everything, counts = lanes_of(num_inits=3, measure="spectrum"), lanes_of(num_inits=3, measure="inertia")
    a, b = run(everything, [0, 3]), run(counts, [0, 3])
    assert set(a) - set(b) == {"eigenvalues"}
    for name in ("negative", "zero", "positive", "certified"):
        assert_array_equal(a[name], b[name])
    assert a["eigenvalues"].shape == (3, 2, 10)


def test_chunks_change_rounding_only():
    whole, chunked = lanes_of(num_inits=2), lanes_of(num_inits=2, chunk=3)
    a, b = run(whole, [0]), run(chunked, [0])
    tolerance = ROUNDING * np.finfo("float32").eps * 10 * np.abs(a["eigenvalues"]).max()
    assert_allclose(a["eigenvalues"], b["eigenvalues"], atol=tolerance, rtol=0)


def test_the_error_is_there_only_where_the_task_classifies():
    names = {True: run(lanes_of(num_inits=1), [0]), False: run(lanes_of(user.clouds(), num_inits=1), [0])}
    assert ["error" in names[k] for k in (True, False)] == [True, False]
    regression = Landscape("net", net_init, net_loss, (INPUTS, TARGETS.astype(float)), net_model)
    assert not resolve(Sweep(landscape=regression)).classifies


# ---------------------------------------------------------------------------------------------------------- times


def steps_of(land=None, **given):
    config = Sweep(landscape=land or user.bowl((0.5, 1.0, 2.0)), num_inits=4, lane_width=4, **given)
    return Lanes(config, resolve(config)).steps()


def test_linear_log_and_given_steps_are_as_written():
    assert steps_of(num_steps=10, times=6, spacing="linear") == [0, 2, 4, 6, 8, 10]
    assert steps_of(num_steps=64, times=8, spacing="log") == [0, 1, 2, 4, 8, 16, 32, 64]
    assert steps_of(num_steps=9, times=(1, 3, 9)) == [1, 3, 9]
    assert steps_of(num_steps=9, times=(4,)) == [4]


@pytest.mark.parametrize("spacing", ["loss", "log", "linear"])
def test_as_many_times_as_steps_are_all_steps_and_no_steps_are_step_0(spacing):
    assert steps_of(num_steps=5, times=6, spacing=spacing) == list(range(6))
    assert steps_of(num_steps=0, times=1, spacing=spacing) == [0]
    assert steps_of(num_steps=7, times=1, spacing=spacing) == [0]
    assert steps_of(num_steps=7, times=2, spacing=spacing) == [0, 7]


def test_loss_spacing_is_even_in_the_pilots_median():
    """Gradient descent on a diagonal bowl in closed form: x_t = (1 - rate d)^t x_0, for the inits 0..31."""
    d, rate, num_steps, times = np.array([0.5, 1.0, 2.0]), 0.02, 120, 7
    steps = steps_of(num_steps=num_steps, times=times, spacing="loss", optimizer="sgd", learning_rate=rate, seed=5)
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(5), i), 0) for i in range(PILOT)]
    x0 = np.array([jax.random.normal(k, (3,)) for k in keys], float)
    t = np.arange(num_steps + 1)[:, None, None]
    median = np.median(0.5 * np.sum(d * ((1 - rate * d) ** t * x0) ** 2, axis=-1), axis=1)
    aims = np.linspace(median[0], median[-1], times)
    assert steps == [*(int(np.argmax(median <= aim)) for aim in aims[:-1]), num_steps]
    # Hence even: each gap in the loss is the wanted one, to within what one step at either end of it gains.
    assert (np.diff(median) < 0).all()
    assert_allclose(-np.diff(median[steps]), -np.diff(aims), atol=2 * np.abs(np.diff(median)).max())


@pytest.mark.parametrize("kind", ["constant", "rising", "nan from the start", "nan later"])
def test_loss_spacing_without_a_falling_loss_is_still_increasing_steps_from_first_to_last(kind):
    t = lambda p: jnp.sum(p)
    loss = {
        "constant": lambda p: 0.0 * t(p),
        "rising": lambda p: -t(p**2) * 0 + t(p) * 0 + 1.0,
        "nan from the start": lambda p: t(jnp.log(p)),
        "nan later": lambda p: t(jnp.log(p)) + t(p),
    }[kind]
    init = lambda key: -jnp.ones(2) if kind == "nan from the start" else jnp.full(2, 0.01)
    steps = steps_of(
        Landscape(kind, init, loss), num_steps=9, times=4, spacing="loss", optimizer="sgd", learning_rate=0.5
    )
    assert steps[0] == 0
    assert steps[-1] == 9
    assert len(steps) == 4
    assert steps == sorted(set(steps))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(0, 30))
def test_increasing_steps_start_at_0_end_at_the_last_and_move_only_where_they_must(wanted, extra):
    wanted = [0, *sorted(wanted[1:])]
    last = max(len(wanted) - 1, 1) + extra
    wanted = [min(w, last) for w in wanted]
    found = _increasing(wanted, last)
    assert len(found) == len(wanted)
    assert found == sorted(set(found))
    assert found[0] == 0
    assert len(found) == 1 or found[-1] == last
    if len(wanted) > 1 and wanted == sorted(set(wanted)) and wanted[-1] == last:
        assert found == wanted


# ------------------------------------------------------------------------------------------- programs and refusals


def test_more_lanes_compile_nothing_and_trace_nothing(monkeypatch):
    traces, said = [], []

    def loss(x, batch):
        traces.append(1)
        return jnp.sum((x - batch) ** 4, axis=-1)

    land = Landscape("counted", lambda key: jax.random.normal(key, (3,)), loss, np.ones((4, 3), "float32"))
    lanes = lanes_of(land, num_inits=9, lane_width=2, num_steps=4)
    run(lanes, [0, 1, 4])
    before = len(traces)
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            monkeypatch.setattr(logger, "propagate", False)
            jax.jit(lambda x: x + 17.25)(1.0)  # what a compilation looks like
            seen = len(said)
            for first in (2, 4, 6, 8):
                lanes.run(first)
    finally:
        logger.removeHandler(handler)
    assert seen > 0
    assert said[seen:] == []
    assert len(traces) == before


def test_a_memory_bound_is_kept_by_fewer_columns_or_refused_in_one_line():
    inputs = np.random.default_rng(0).standard_normal((300, 8)).astype("float32")
    # Examples are coupled, so that every leaf is columns.
    loss = lambda w, x: jnp.var(jnp.sum(jnp.tanh(x @ w), axis=-1))
    land = Landscape("wide", lambda key: jax.random.normal(key, (8, 6)), loss, inputs)
    config = Sweep(landscape=land, num_inits=1, num_steps=0, times=1)
    free = Lanes(config, resolve(config))
    rows = run(free, [0])
    bounded = Lanes(config, resolve(config), free._workspace() - 1)
    fewer = run(bounded, [0])
    assert bounded.way.columns < free.way.columns
    assert bounded._workspace() <= bounded.memory
    tolerance = ROUNDING * 48 * np.finfo("float32").eps * np.abs(rows["eigenvalues"]).max()
    assert_allclose(fewer["eigenvalues"], rows["eigenvalues"], atol=tolerance, rtol=0)
    with pytest.raises(ValueError, match=r"needs .* MiB with one column at a time, over the bound") as caught:
        Lanes(config, resolve(config), 1).compile([0])
    assert "\n" not in str(caught.value)
    assert "chunk=" in str(caught.value)


def test_a_memory_bound_that_pieces_break_is_kept_by_columns():
    inputs = np.random.default_rng(0).standard_normal((30, 40)).astype("float32")
    loss = lambda w, x: jnp.sum(jnp.tanh(x @ w), axis=-1) ** 2
    land = Landscape("wide", lambda key: jax.random.normal(key, (40, 2)), loss, inputs)
    config = Sweep(landscape=land, num_inits=1, num_steps=0, times=1)
    free = Lanes(config, resolve(config))
    rows = run(free, [0])
    assert free.way.pieces
    bounded = Lanes(config, resolve(config), free._workspace() - 1)
    fewer = run(bounded, [0])
    assert not bounded.way.pieces
    assert bounded._workspace() <= bounded.memory
    tolerance = ROUNDING * 80 * np.finfo("float32").eps * np.abs(rows["eigenvalues"]).max()
    assert_allclose(fewer["eigenvalues"], rows["eigenvalues"], atol=tolerance, rtol=0)


def test_small_inits_are_measured_so_many_at_a_time_as_the_cache_holds(monkeypatch):
    width = 2 * len(jax.devices())
    config = Sweep(landscape="quadratic", num_inits=width, lane_width=width, num_steps=2, times=2)
    many = Lanes(config, resolve(config))
    together = run(many, [0, 2])
    one = Lanes(config, resolve(config))
    one.compile([0, 2], Way())
    alone = one.run(0)
    assert (one.way.together, many.way.together) == (1, 2)
    for name, value in alone.items():
        assert_allclose(together[name], value, rtol=1e-5, atol=1e-5)
    tight = Lanes(config, resolve(config), many._workspace() - 1)
    run(tight, [0, 2])
    assert tight.way.together == 1
    assert tight._workspace() <= tight.memory
    again = Lanes(config, resolve(config))
    again.compile([0, 2], many.way)
    assert again.way == many.way
    for name, value in again.run(0).items():
        assert_array_equal(value, together[name])


@pytest.mark.parametrize("guess", [1, 100])  # bytes that one init takes at the least: far too few, or about right
def test_how_many_inits_fit_is_judged_by_what_the_program_takes(monkeypatch, guess):
    width = 16 * len(jax.devices())
    config = Sweep(landscape="quadratic", num_inits=width, lane_width=width, num_steps=2, times=2)
    one = Lanes(config, resolve(config))
    one.compile([0], Way())
    cache = one._workspace() // one.mesh.size * 5
    monkeypatch.setattr(lanes_module, "batch_bytes", lambda *_: cache)
    monkeypatch.setattr(Lanes, "_least", lambda self: guess)
    lanes = Lanes(config, resolve(config))
    lanes.compile([0])
    assert lanes.way.together > 1
    assert lanes._workspace() <= cache * lanes.mesh.size


def test_a_matrix_beyond_memory_is_refused_before_anything_is_compiled():
    land = Landscape("huge", lambda key: jnp.zeros(10**6), lambda w: jnp.sum(w**4), None)
    config = Sweep(landscape=land, num_inits=1, num_steps=0, times=1)
    with pytest.raises(ValueError, match=r"a dense 1000000 x 1000000 float32 matrix .* hj\.spectrum"):
        Lanes(config, resolve(config)).compile([0])


def test_float64_without_x64_is_refused_with_the_line_to_write():
    with pytest.raises(ValueError, match=r'jax\.config\.update\("jax_enable_x64", True\)'):
        resolve(Sweep(landscape="quadratic", dtype="float64"))


def test_params_and_data_take_the_sweeps_dtype_and_targets_stay_whole(float64):
    land = resolve(Sweep(landscape=NET, dtype="float64"))
    assert {str(x.dtype) for x in jax.tree.leaves(land.init(jax.random.key(0)))} == {"float64"}
    assert [str(x.dtype) for x in land.batch] == ["float64", "int64"]
    digits = resolve(Sweep(options={"widths": (), "rows": 8}))
    assert digits.batch[0].dtype == "float32"


@pytest.mark.parametrize(
    ("factory", "error", "words"),
    [
        (user.whole_numbers, TypeError, "leaf 'a' is int32, wanted a real floating array"),
        (user.nothing, ValueError, "empty tree"),
        (user.vector_loss, ValueError, r"loss\(params\) returned shape \(3,\), wanted a scalar"),
        (lambda: user.clouds(shape="columns"), ValueError, r"returned shape \(3,\), wanted .* \(6,\)"),
        (lambda: user.clouds(shape="whole"), ValueError, "wanted a real floating one"),
        (user.no_landscape, TypeError, "landscape is dict, wanted a name or a hessjax.landscapes.Landscape"),
        (user.restless, OperatorError, "determinism"),
        (user.everywhere_nan, OperatorError, "finite"),
    ],
)
def test_a_landscape_that_cannot_be_swept_is_refused_in_one_line_before_anything_runs(factory, error, words):
    config = Sweep(landscape=factory(), num_steps=2, times=2, num_inits=2)
    with pytest.raises(error, match=words) as caught:
        Lanes(config, resolve(config)).check()
    assert "\n" not in str(caught.value)


def test_chunk_with_a_scalar_loss_is_refused_at_once():
    config = Sweep(landscape=user.clouds(scalar=True), chunk=2)
    with pytest.raises(ValueError, match="chunk"):
        Lanes(config, resolve(config))


def test_identity_tells_data_and_loss_apart_and_is_plain():
    same, again = (lanes_of(user.clouds(), num_inits=2).identity() for _ in range(2))
    assert same == again
    moved = lanes_of(user.clouds(user.CENTRES + 1e-3), num_inits=2).identity()
    assert moved["data"] != same["data"]
    assert (same["num_params"], same["num_rows"], moved["num_rows"]) == (3, 6, 6)
    keys = landscapes.Landscape("k", lambda key: jnp.ones(2), lambda p, b: jnp.sum(p**2), {"keys": jax.random.key(0)})
    assert lanes_of(keys, num_inits=1).landscape.batch["keys"].dtype == jax.random.key(0).dtype


def estimated_and_exact(**given):
    """Rows of a sweep by products alone, and by the matrix."""
    config = Sweep(landscape="quadratic", num_inits=8, num_steps=4, times=2, lane_width=4, **given)
    both = []
    for measured in ("slq", "spectrum"):
        one = Lanes(dataclasses.replace(config, measure=measured), resolve(config))
        one.compile(one.steps())
        both.append(one.run(0))
    return both


def test_estimated_rows_agree_with_exact_ones_within_their_errors():
    """All at once, with Bonferroni's limit; what does not depend on the spectrum is the same."""
    est, true = estimated_and_exact(num_probes=40, options={"eigenvalues": (-2.0, -1.0, 0.0, 0.5, 1.0, 3.0, 3.0, 4.0)})
    for name in ("loss", "grad_norm", "status"):
        assert_array_equal(est[name], true[name])
    assert_allclose(est["min_eigenvalue"], true["min_eigenvalue"], rtol=1e-4)  # as many steps as dimensions
    assert_allclose(est["max_eigenvalue"], true["max_eigenvalue"], rtol=1e-4)
    assert (np.abs(est["trace"] - true["trace"]) < 4 * est["trace_error"] + 1e-4).all()
    for name in ("negative", "positive"):
        doubt = 4 * est["count_error"] + est["unresolved"] + 0.5  # half an eigenvalue of rounding
        assert (np.abs(est[name] - true[name]) <= doubt).all()
    assert (est["unresolved"] < 1e-2).all()  # the steps span the space
    assert (est["negative"] + est["zero"] + est["positive"] == 8).all()
    assert not est["certified"].any()
    assert est["nodes"].shape == est["weights"].shape == (4, 2, 40, 64)
    assert_allclose(est["weights"].sum(-1), 1, rtol=1e-5)


def test_what_few_steps_do_not_resolve_is_told_of_a_net():
    """714 parameters at 24 steps: counts lie within errors and what is unresolved, and on average well within."""
    given = {"widths": (16, 16), "rows": 64}
    config = Sweep(landscape="digits-mlp", options=given, num_inits=4, num_steps=40, times=2, lane_width=4)
    both = []
    for measured in ("slq", "spectrum"):
        one = Lanes(dataclasses.replace(config, measure=measured, lanczos_steps=24), resolve(config))
        one.compile([0, 40])
        both.append(one.run(0))
    est, values = both[0], both[1]["eigenvalues"].astype(float)
    bound = est["threshold"].astype(float)[..., None]
    for name, where in (("negative", values < -bound), ("positive", values > bound)):
        off = np.abs(est[name] - where.sum(-1))
        assert (off <= 4 * est["count_error"] + est["unresolved"] + 0.5).all()
        assert off.mean() < 0.5 * est["unresolved"].mean()
    assert (est["unresolved"] > 10).all()


def test_probes_are_the_inits_own_and_the_same_at_all_its_times():
    rows, _ = estimated_and_exact(num_probes=2)
    assert_allclose(rows["weights"][:, 0], rows["weights"][:, 1], atol=1e-4)  # a quadratic form's Hessian stays
    assert np.abs(rows["weights"][0, 0] - rows["weights"][1, 0]).max() > 1e-2


def test_one_probe_has_no_error_and_a_diverged_init_no_counts():
    config = Sweep(landscape="landscape_module_for_tests:quartic", options={"ruin": "nan"}, num_inits=12, num_steps=1,
                   times=2, lane_width=12, measure="slq", num_probes=1, lanczos_steps=3)  # fmt: skip
    lanes = Lanes(config, resolve(config))
    lanes.compile(lanes.steps())
    rows = lanes.run(0)
    lost = rows["status"] == 1
    assert 0 < lost.sum() < lost.size
    assert np.isnan(rows["trace_error"]).all()
    for name in ("negative", "zero", "positive"):
        assert (rows[name][lost] == 0).all()
    assert np.isnan(rows["nodes"][lost]).all()
    assert np.isfinite(rows["nodes"][~lost]).all()


def test_a_net_too_large_for_its_matrix_is_estimated(monkeypatch):
    config = Sweep(landscape="quadratic", num_inits=2, num_steps=1, times=1, lane_width=2)
    refused = ValueError("the matrix does not fit")

    def check(*_):
        raise refused

    monkeypatch.setattr(lanes_module, "check_fits", check)
    with pytest.raises(ValueError, match="does not fit"):
        Lanes(config, resolve(config)).compile([0])
    lanes = Lanes(dataclasses.replace(config, measure="slq"), resolve(config))
    lanes.compile([0])
    assert lanes.run(0)["nodes"].shape == (2, 1, 8, 64)
