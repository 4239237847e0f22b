"""Kinks against the derivatives they break, dead units against pre-activations counted by hand."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from hessjax.kinks import kinks

PLACE = 0.5  # every function below is read here, between two places where it is smooth
SMOOTH_AT = (-0.3, 1.3)
RNG = np.random.default_rng(0)


@jax.custom_jvp
def heaviside(x):
    return jnp.where(x > 0, 1.0, 0.0)


heaviside.defjvp(lambda x, t: (heaviside(*x), jnp.zeros_like(x[0])))


@jax.custom_jvp
def relu_by_rule(x):
    return jnp.maximum(x, 0)


relu_by_rule.defjvp(lambda x, t: (relu_by_rule(*x), heaviside(x[0]) * t[0]))


@jax.custom_jvp
def half_square(x):
    return relu_by_rule(x) ** 2 / 2


half_square.defjvp(lambda x, t: (half_square(*x), relu_by_rule(x[0]) * t[0]))


def piecewise(x):
    return jnp.piecewise(x, [x < PLACE, x >= PLACE], [lambda t: -t, lambda t: 2 * t])


def at(f):
    """A function with its kink at 0, moved to PLACE."""
    return lambda x: f(x - PLACE)


KINKED = {
    "relu": at(jax.nn.relu),
    "flax relu": at(nn.relu),
    "relu squared": at(lambda x: jax.nn.relu(x) ** 2),
    "maximum": at(lambda x: jnp.maximum(x, 0)),
    "minimum": at(lambda x: jnp.minimum(0, x)),
    "where": at(lambda x: jnp.where(x > 0, x, 0)),
    "where, turned": at(lambda x: jnp.where(jnp.less(0, x), x, 0)),
    "times a condition": at(lambda x: x * (x > 0)),
    "leaky relu": at(jax.nn.leaky_relu),
    "prelu": at(lambda x: nn.PReLU().apply({"params": {"negative_slope": jnp.asarray(0.1, x.dtype)}}, x)),
    "elu": at(jax.nn.elu),  # its second derivative jumps
    "selu": at(jax.nn.selu),
    "abs": at(jnp.abs),
    "soft sign": at(jax.nn.soft_sign),
    "sign": at(jnp.sign),
    "clip below": lambda x: jnp.clip(x, PLACE, 9.0),
    "clip above": lambda x: jnp.clip(x, -9.0, PLACE),
    "clamp": lambda x: lax.clamp(jnp.asarray(-9.0, x.dtype), x, jnp.asarray(PLACE, x.dtype)),
    "relu6 below": at(jax.nn.relu6),
    "relu6 above": lambda x: jax.nn.relu6(x + 6 - PLACE),
    "hard tanh": lambda x: jax.nn.hard_tanh(x + 1 - PLACE),
    "hard sigmoid": lambda x: jax.nn.hard_sigmoid(x + 3 - PLACE),
    "hard swish": lambda x: jax.nn.hard_swish(x - 3 - PLACE),
    "fmax": lambda x: jnp.fmax(x, PLACE),
    "round": jnp.round,
    "floor": lambda x: jnp.floor(x + 0.5),
    "remainder": lambda x: (x - PLACE + 10.0) % 5.0,
    "piecewise": piecewise,
    "step of a step": at(lambda x: jnp.where(jnp.sign(x) >= 0.5, x, -x)),
    "step of a condition": at(lambda x: jnp.where(jnp.where(x > 0, 1.0, 2.0) > 1.5, x, -x)),
    "integers": lambda x: (x + 0.5) * (x + 0.5).astype(int),
    "branch by number": jax.vmap(lambda x: lax.switch(jnp.floor(x + 0.5).astype(int), [jnp.sin, jnp.cos, jnp.tanh], x)),
    "truncation": lambda x: x * jnp.trunc(x + 0.5),
    "ceiling of a relu": at(lambda x: (x + 1) * jnp.ceil(jax.nn.relu(x) / 2)),
    "where, compared before in vain": at(lambda x: (jnp.mean(x > 0), jnp.where(x > 0, x, -x))[1]),
    "bessel i0e": at(jax.scipy.special.i0e),
    "bessel i1e": at(jax.scipy.special.i1e),  # its second derivative jumps
    "angle": at(lambda x: jnp.arctan2(x, -1 - x**2)),
    "complex logarithm": at(lambda x: jnp.log(-2.0 + x * 1j).imag),
    "derivative of a rule": at(lambda x: relu_by_rule(x)),
    "derivative of a rule's rule": at(lambda x: half_square(x)),
    "both bounds": lambda x: lax.clamp(jnp.full_like(x, PLACE), x, jnp.full_like(x, 9.0)),
    "comparison with a relu": at(lambda x: jnp.where(jax.nn.relu(x) > 0, x, -x)),
    "hinge": at(lambda x: optax.losses.hinge_loss(1 + x, jnp.ones_like(x))),
    "cond": jax.vmap(lambda x: lax.cond(x > PLACE, lambda t: t, lambda t: 0 * t, x)),
}
SMOOTH = {
    "softplus": at(jax.nn.softplus),
    "log sigmoid": at(jax.nn.log_sigmoid),
    "logaddexp": lambda x: jnp.logaddexp(x, PLACE),
    "binary cross-entropy": at(lambda x: optax.losses.sigmoid_binary_cross_entropy(x, jnp.ones_like(x))),
    "tanh": at(jnp.tanh),
    "gelu": at(jax.nn.gelu),
    "exact gelu": at(lambda x: jax.nn.gelu(x, approximate=False)),
    "silu": at(jax.nn.silu),
    "mish": at(jax.nn.mish),
    "square plus": at(jax.nn.squareplus),
    "logsumexp": lambda x: jax.nn.logsumexp(jnp.stack([x, jnp.full_like(x, PLACE)]), axis=0),
    "log softmax": lambda x: jax.nn.log_softmax(jnp.stack([x, PLACE - 0 * x]), axis=0)[0],
    "softmax": lambda x: jax.nn.softmax(jnp.stack([x, PLACE - 0 * x]), axis=0)[0],
    "softmax cross-entropy": lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(
        jnp.stack([x, PLACE - 0 * x], -1), jnp.zeros(x.shape, int)
    ),
    "stopped": at(lambda x: x * lax.stop_gradient(jnp.abs(x))),
    "erf": at(jax.scipy.special.erf),
    "determinant": lambda x: jnp.linalg.det(jnp.array([[2.0, 1.0], [1.0, 0.0]]) + x[:, None, None] ** 2),
    "inverse": lambda x: jnp.linalg.inv(jnp.array([[2.0, 1.0], [1.0, 4.0]]) + x[:, None, None] ** 2)[:, 0, 0],
}


def jumps(f, places, step=1e-7):
    """By how much the value, slope or curvature of f differs on both sides of each place."""
    one = lambda t: f(t[None])[0]
    derivatives = jax.jit(jax.vmap(lambda t: jnp.stack([g(t) for g in (one, jax.grad(one), jax.grad(jax.grad(one)))])))
    x = jnp.asarray(places)
    return np.abs(derivatives(x + step) - derivatives(x - step)).max(axis=1)


@pytest.mark.parametrize("name", KINKED)
def test_a_kink_is_found_where_a_derivative_jumps(name, float64):
    f = KINKED[name]
    assert [jump > 0.1 for jump in jumps(f, [SMOOTH_AT[0], PLACE, SMOOTH_AT[1]])] == [False, True, False]
    loss = lambda x: jnp.sum(f(x))
    found = kinks(loss, jnp.array([SMOOTH_AT[0], PLACE, SMOOTH_AT[1]]))
    assert {position for site in found.sites for position in site.positions} == {(1,)}
    assert (found.smooth, found.margin) == (False, 0.0)
    elsewhere = kinks(loss, jnp.array([SMOOTH_AT[0], PLACE - 0.1, SMOOTH_AT[1]]))
    assert elsewhere.smooth
    assert elsewhere.margin == pytest.approx(0.1)


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_have_none_however_they_are_computed(name, float64):
    f = SMOOTH[name]
    assert name == "stopped" or jumps(f, [PLACE]) < 1e-5
    found = kinks(lambda x: jnp.sum(f(x)), jnp.array([SMOOTH_AT[0], PLACE, SMOOTH_AT[1]]))
    assert found.sites == []
    assert (found.num_tied, found.margin, found.smooth) == (0, math.inf, True)


@pytest.mark.parametrize(
    ("function", "positions"),
    [
        (jnp.max, [()]),
        (jnp.min, []),
        (lambda w: jnp.max(w.reshape(2, 3), axis=1), [(0,)]),
        (lambda w: w[jnp.argmax(w)], [()]),
        (lambda w: nn.max_pool(w.reshape(1, 2, 3, 1), (2, 2), (1, 1)), [(0, 0, 1, 0)]),
        (lambda w: nn.max_pool(w.reshape(1, 6, 1), (2,), (2,), padding=((1, 1),)), [(0, 1, 0)]),
        (lambda w: lax.cummax(w), [(2,)]),
        (lambda w: lax.cummax(w, reverse=True), [(1,)]),
        (lambda w: jnp.sort(w) * jnp.arange(6), [(4,)]),  # the two largest
        (lambda w: lax.top_k(w, 1)[0], [(0,)]),
        (lambda w: lax.top_k(w, 3)[0], [(0,)]),
        (lambda w: jnp.sum(w**2), []),
        (lambda w: lax.approx_max_k(w, 1)[0], [(0,)]),
        (lambda w: jnp.median(w[1:5]), [(2,)]),
        (lambda w: jax.ops.segment_max(w, jnp.array([0, 1, 1, 2, 2, 2]), 3), [(2,)]),
        (lambda w: jax.ops.segment_max(w, jnp.array([0, 1, 0, 1, 0, 1]), 2), []),
        (lambda w: jax.ops.segment_min(-w, jnp.array([0, 1, 1, 2, 2, 2]), 3), [(2,)]),
        (lambda w: jnp.full(2, 4.0).at[jnp.array([0, 0, 1, 1, 1, 1])].max(w), [(1,), (2,)]),  # with what was there
        (lambda w: jnp.full(2, 9.0).at[jnp.array([0, 0, 1, 1, 1, 1])].max(w), []),
        (lambda w: w[jnp.lexsort((w, jnp.array([0, 0, 1, 1, 1, 1])))] * jnp.arange(6), []),
        (lambda w: w[jnp.lexsort((w, jnp.array([0, 1, 1, 0, 0, 0])))] * jnp.arange(6), [(4,)]),
    ],
)
def test_equal_extrema_tie(function, positions):
    w = jnp.array([1.0, 4.0, 4.0, 2.0, 3.0, 0.0])
    found = kinks(lambda w: jnp.sum(function(w)), w)
    assert [at for site in found.sites for at in site.positions] == positions
    assert found.num_tied == len(positions)


@pytest.mark.parametrize(
    ("function", "singular"),
    [
        (lambda w: jnp.sum(jnp.linalg.svd(w, compute_uv=False)), [2.0, 1.0, 0.0]),  # |s| + ...
        (lambda w: jnp.linalg.norm(w, 2), [2.0, 2.0, 1.0]),
        (lambda w: jnp.sum(jnp.linalg.svd(w)[0][:, 0] ** 2 * jnp.arange(3)), [2.0, 2.0, 1.0]),  # vectors change places
        (lambda w: jnp.sum(jnp.linalg.pinv(w) ** 2), [2.0, 1.0, 0.0]),
    ],
)
def test_singular_values_tie_with_zero_and_with_one_another(function, singular, float64):
    assert not kinks(function, jnp.diag(jnp.array(singular))).smooth
    generic = RNG.standard_normal((3, 3))
    values = np.linalg.svd(generic, compute_uv=False)
    found = kinks(function, jnp.asarray(generic))
    assert found.smooth
    nearest = np.min([*values, *-np.diff(values)])
    assert next(site for site in found.sites if site.primitive == "svd").margin == pytest.approx(nearest)


def test_three_equal_maxima_are_one_tied_result():
    assert kinks(jnp.max, jnp.ones(3)).num_tied == 1


def test_windows_with_dilations_are_those_of_the_pool(float64):
    rng = np.random.default_rng(0)
    x = rng.permutation(35.0 * np.arange(1, 36)).reshape(1, 7, 5, 1)
    options = {
        "window_strides": (1, 2, 1, 1),
        "window_dilation": (1, 2, 1, 1),
        "padding": ((0, 0), (1, 2), (0, 1), (0, 0)),
    }
    pool = lambda w: lax.reduce_window(w, -jnp.inf, lax.max, (1, 2, 3, 1), **options)
    padded = np.pad(x[0, :, :, 0], ((1, 2), (0, 1)), constant_values=-np.inf)
    windows = [padded[i : i + 3 : 2, j : j + 3].ravel() for i in range(0, 8, 2) for j in range(4)]
    assert pool(jnp.asarray(x)).size == len(windows)
    nearest = min(-np.diff(np.sort(window)[-2:][::-1])[0] for window in windows)
    assert kinks(lambda w: jnp.sum(pool(w)), jnp.asarray(x)).margin == nearest


@pytest.mark.parametrize(
    "loss",
    [
        lambda w, x: w * jnp.sum(jnp.maximum(x, 0)),  # of data
        lambda w, x: w * jnp.sum(jnp.where(x > 0, w, 2.0)),
        lambda w, x: w * jnp.abs(jnp.zeros(3)).sum(),
        lambda w, x: jnp.sum(jax.nn.relu(jnp.pad(w[None], 2))),  # of padding
        lambda w, x: jnp.max(jnp.stack([w, w])),  # of a number with itself
        lambda w, x: jnp.maximum(w - w, 0),
        lambda w, x: jnp.sum(jax.nn.relu(jax.nn.relu(w - 5.0))),  # of a unit that is off
        lambda w, x: jnp.sum(nn.max_pool(jax.nn.relu(w - jnp.full((1, 2, 2, 1), 5.0)), (2, 2))),
        lambda w, x: w * lax.stop_gradient(jnp.abs(w - 1.0)),  # that no derivative reaches
        lambda w, x: w * jnp.where(lax.stop_gradient(w) > 1.0, 1.0, 2.0),
        lambda w, x: (jnp.abs(w - 1.0), w)[1],  # that nothing uses
        lambda w, x: w * jnp.floor(jnp.abs(w - 1.0) + 0.5),  # of which a step sees nothing
        lambda w, x: jnp.where(jnp.abs(w - 1.0) < 2.0, w, 0.0),
        lambda w, x: w * (w * 0.5).astype(int),  # zero from -1 to 1
    ],
)
def test_ties_that_no_change_of_params_can_break_are_none(loss):
    assert kinks(loss, jnp.float32(1.0), jnp.array([0.0, 1.0, -1.0])).num_tied == 0


def test_a_kink_in_the_second_derivative_alone_is_one_and_in_the_third_is_none():
    assert kinks(lambda w: jnp.abs(w[0] * w[1]), jnp.zeros(2)).num_tied == 1
    assert kinks(lambda w: jnp.abs(w[0] * w[1] * w[2]), jnp.zeros(3)).num_tied == 0
    assert kinks(lambda w: jnp.maximum(w[0], w[0] + w[1] ** 2), jnp.zeros(2)).num_tied == 1
    assert kinks(lambda w: jnp.maximum(w[0], w[0] + w[1] ** 3), jnp.zeros(2)).num_tied == 0


X = jnp.array([-1.0, 0.0, 2.0])
PROGRAMS = {
    "jit": jax.jit(lambda w: jnp.sum(jax.jit(jax.nn.relu)(w))),
    "remat": jax.checkpoint(lambda w: jnp.sum(jax.nn.relu(w))),
    "vmap": lambda w: jnp.sum(jax.vmap(jax.nn.relu)(w)),
    "vmap of cond": lambda w: jnp.sum(jax.vmap(lambda t: lax.cond(t > 0, lambda t: t, jnp.zeros_like, t))(w)),
    "map": lambda w: jnp.sum(lax.map(jax.nn.relu, w)),
    "scan": lambda w: lax.scan(lambda c, t: (c + jax.nn.relu(t), None), 0.0, w)[0],
    "scan in reverse": lambda w: lax.scan(lambda c, t: (c, jnp.abs(t)), 0.0, w, reverse=True)[1].sum(),
    "fori": lambda w: lax.fori_loop(0, 3, lambda i, c: c + jax.nn.relu(w[i]), 0.0),
    "while": lambda w: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + jax.nn.relu(w[c[0]])), (0, 0.0))[
        1
    ],
    "cond": lambda w: lax.cond(w[2] > 0, lambda w: jnp.sum(jax.nn.relu(w)), lambda w: jnp.sum(w), w),
    "switch": lambda w: lax.switch(1, [jnp.sum, lambda w: jnp.sum(jnp.abs(w)), jnp.max], w),
    "cond in scan": lambda w: lax.scan(lambda c, t: (c, lax.cond(c > 0, jnp.sin, jax.nn.relu, t)), 0.0 * w[0], w)[
        1
    ].sum(),
    "gradient": lambda w: jnp.sum(jax.grad(lambda w: jnp.sum(jax.nn.relu(w) ** 2))(w) ** 2),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_within_programs_are_read(name, dtype):
    found = kinks(PROGRAMS[name], X.astype(dtype))
    ties = [site.num_tied for site in found.sites if site.margin == 0.0]
    assert ties == ([1, 1] if name == "gradient" else [1])  # of relu, and of its derivative


def pooled_slope(w, reducer, start):
    """The slope of a pool in a fixed direction, and in reverse: programs of their own kind."""
    pool = lambda x: lax.reduce_window(x, start, reducer, (2,), (1,), "VALID")
    forward = jax.jvp(pool, (w,), (jnp.arange(4.0),))[1]
    return jnp.sum(forward) + jnp.sum(jax.grad(lambda x: jnp.sum(pool(x)))(w) * jnp.arange(4.0))


@pytest.mark.parametrize(("reducer", "start"), [(lax.max, -jnp.inf), (lax.min, jnp.inf)])
def test_derivatives_of_a_pool_jump_where_it_ties(reducer, start):
    found = kinks(lambda w: pooled_slope(w, reducer, start), jnp.array([1.0, 2.0, 2.0, 5.0]))
    assert {site.primitive for site in found.sites} == {"select_and_gather_add", "select_and_scatter_add"}
    assert {at for site in found.sites for at in site.positions} == {(1,)}


def test_interpolation_has_kinks_at_its_knots():
    loss = lambda w: jnp.sum(jnp.interp(w, jnp.arange(4.0), jnp.array([0.0, 1.0, 4.0, 9.0])))
    assert kinks(loss, jnp.array([0.5, 1.25, 2.75])).smooth
    assert {at[-1] for site in kinks(loss, jnp.array([0.5, 2.0, 2.75])).sites for at in site.positions} == {1}
    knots = jnp.array([[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]])
    lanes = lambda w: jnp.sum(jax.vmap(lambda x, at: jnp.interp(x, at, at**2))(w, knots))
    assert kinks(lanes, jnp.array([[0.25, 0.5], [0.5, 1.0]])).smooth
    tied = kinks(lanes, jnp.array([[0.25, 0.5], [2.0, 1.0]]))
    assert {at[-2:] for site in tied.sites for at in site.positions} == {(1, 0)}


def test_scattered_extrema_have_the_margin_of_their_places(float64):
    rng = np.random.default_rng(2)
    places, w = rng.integers(0, 40, (3, 60)), rng.standard_normal((3, 60))
    groups = [np.sort(w[k][places[k] == place]) for k in range(3) for place in range(30)]  # the others are dropped
    nearest = min(group[-1] - group[-2] for group in groups if len(group) > 1)
    scatter = jax.vmap(lambda x, at: jnp.full(30, -jnp.inf).at[at].max(x, mode="drop"))
    loss = lambda w: jnp.sum(jnp.where(jnp.isfinite(y := scatter(w, jnp.asarray(places))), y, 0.0))
    assert kinks(loss, jnp.asarray(w)).margin == nearest


def test_a_number_taken_as_a_boolean_is_a_step_at_zero():
    for loss in (lambda w: jnp.sum(w.astype(bool) * (1 + w)), lambda w: jnp.any(w[1:2]) + jnp.sum(w)):
        below, at_zero, above = (float(loss(jnp.array([-1.0, c, 2.0]))) for c in (-1e-3, 0.0, 1e-3))
        assert below - at_zero == pytest.approx(1, abs=0.01) == above - at_zero
        assert {at for site in kinks(loss, X).sites for at in site.positions} in ({(1,)}, {(0,)})
        assert kinks(loss, X + 0.5).smooth


def test_what_was_there_is_an_operand_of_a_scattered_extremum():
    loss = lambda w: jnp.sum(jnp.zeros(3).at[jnp.arange(3)].max(w))
    w = jnp.array([-1.1, 0.25, 2.2])
    assert kinks(loss, w).margin == 0.25 == kinks(lambda w: jnp.sum(jnp.maximum(w, 0)), w).margin
    assert kinks(loss, w, tol=0.5).num_tied == 1


def test_a_step_after_the_slope_of_a_pool_sees_it_jump():
    pool = lambda v: lax.reduce_window(v, -jnp.inf, lax.max, (2,), (1,), "VALID")
    slope = lambda w: jax.grad(lambda v: jnp.sum(pool(v) * jnp.array([1.0, -2.0, 3.0])))(w)
    loss = lambda w: jnp.sum((w + 0.1 * jnp.sign(slope(w) - 0.5)) ** 2)
    assert not kinks(loss, jnp.array([1.0, 2.0, 2.0, 5.0])).smooth
    assert kinks(loss, jnp.array([1.0, 2.0, 2.5, 5.0])).smooth


NOT_FINITE = {
    "norm": (jnp.linalg.norm, [0.0, 0.0]),
    "entropy": (lambda w: jnp.sum(w * jnp.log(w)), [0.0, 1.0]),
    "second derivative": (lambda w: jnp.sum(w**1.5), [0.0]),
    "value": (lambda w: jnp.sum(1 / w), [0.0]),
    "arc cosine": (lambda w: jnp.sum(jnp.arccos(w)), [1.0]),
    "largest eigenvalue": (lambda w: jnp.linalg.eigvalsh(jnp.diag(w))[-1], [1.0, 1.0]),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_derivatives_that_are_not_finite_are_not_called_smooth(name):
    loss, place = NOT_FINITE[name]
    found = kinks(loss, jnp.array(place))
    assert (found.num_tied, found.finite, found.smooth) == (0, False, False)
    assert "not finite" in str(found)
    elsewhere = kinks(loss, jnp.array([0.25, 0.5][: len(place)]))
    assert elsewhere.finite
    assert elsewhere.smooth


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_narrow_dtypes_keep_their_ties(narrow):
    assert kinks(lambda w: jnp.sum(jnp.maximum(w, w / 2)), jnp.zeros(1000, narrow)).num_tied == 1000
    assert kinks(lambda w: jnp.sum(jnp.max(w, axis=1)), jnp.ones((200, 2), narrow)).num_tied >= 190


def test_a_loop_of_lanes_that_end_apart_is_read_lane_by_lane():
    loss = lambda w: jnp.sum(jax.vmap(lambda x: lax.while_loop(lambda c: c < 8.0, lambda c: 2 * c, x))(w))
    assert kinks(loss, jnp.array([2.0, 3.0])).num_tied == 1
    smooth = kinks(loss, jnp.array([2.5, 3.0]))  # 10 and 12 against 8, and 5 and 6 before
    assert (smooth.smooth, smooth.margin) == (True, 2.0)


def test_what_no_derivative_reaches_need_have_none():
    w = jnp.array([0.5, 1.5, 2.5])
    stopped = lax.stop_gradient
    asked = lambda w: jax.pure_callback(np.asarray, jax.ShapeDtypeStruct((3,), w.dtype), stopped(w))
    assert kinks(lambda w: jnp.sum(w * asked(w)), w).smooth
    assert kinks(lambda w: jnp.sum(w * jnp.nextafter(stopped(w), 9.0)), w).smooth
    assert kinks(lambda w: jnp.sum(w * jnp.signbit(stopped(w))), w).smooth


def test_a_branch_not_taken_need_not_be_read():
    loss = lambda w: lax.cond(w[0] > 5, lambda w: jnp.sum(w * jnp.signbit(w)), jnp.sum, w)
    assert kinks(loss, jnp.ones(2)).smooth
    assert not kinks(loss, jnp.full(2, 9.0)).smooth


def test_a_loss_that_cannot_be_hashed_is_read_too(untyped):
    class Loss:
        __hash__ = None

        def __call__(self, w):
            return jnp.sum(jnp.abs(w))

    @dataclasses.dataclass(frozen=True)
    class Scaled:
        by: jax.Array

        def __call__(self, w):
            return jnp.sum(self.by * jnp.abs(w))

    assert kinks(Loss(), X).num_tied == 1
    assert kinks(Scaled(jnp.ones(3)), X).num_tied == 1  # has a hash, which fails


def test_the_map_of_a_linear_solve_is_read():
    dense = lambda w: jnp.sum(jnp.linalg.solve(jnp.diag(2 + jax.nn.relu(w)), jnp.ones(3)))
    conjugate = lambda w: jnp.sum(jax.scipy.sparse.linalg.cg(lambda x: (2 + jax.nn.relu(w)) * x, jnp.ones(3))[0])
    inside = lambda w: jnp.sum(
        lax.custom_linear_solve(
            lambda x: (2 + jnp.abs(w)) * x, jnp.ones(3), lambda _, b: b / (2 + jnp.abs(w)), symmetric=True
        )
    )
    with_aux = lambda w: jnp.sum(
        lax.custom_linear_solve(
            lambda x: (2 + jnp.abs(w)) * x,
            jnp.ones(3),
            lambda _, b: (b / (2 + jnp.abs(w)), jnp.ones(2)),
            symmetric=True,
            has_aux=True,
        )[0]
    )
    for loss in (dense, conjugate, inside, with_aux):
        assert {at for site in kinks(loss, X).sites for at in site.positions} == {(1,)}


def test_what_is_not_read_is_not_called_smooth(untyped):
    larger = lambda w: lax.reduce(w, jnp.float32(0.0), lambda a, b: jnp.maximum(a, b) * 1.0, (0,))
    mesh = jax.make_mesh((1,), ("i",))
    sharded = lambda w: jnp.sum(jax.shard_map(jax.nn.relu, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())(w))
    for loss, name in ((larger, "reduce"), (sharded, "shard_map"), (lambda w: jnp.sum(w * jnp.signbit(w)), "bitcast")):
        found = kinks(loss, X)
        assert (found.num_tied, found.smooth) == (0, False)
        [unread] = found.unread
        assert unread.startswith(name)
        assert "test_kinks.py:" in unread
        assert "not read: " in str(found)
    assert kinks(lambda w: jnp.sum(w) + jnp.sum(jnp.signbit(X) * 1.0), X).unread == []  # of data


def test_ties_of_a_scan_keep_their_step_and_the_branch_not_taken_has_none():
    found = kinks(PROGRAMS["scan"], X)
    assert [site.positions for site in found.sites] == [[(1,)]]
    assert found.sites[0].shape == (3,)
    branch = kinks(lambda w: lax.cond(w[2] > 0, lambda w: jnp.sum(w), lambda w: jnp.sum(jnp.abs(w)), w), X)
    assert [(site.primitive, site.num_tied, site.margin) for site in branch.sites] == [("gt", 0, 2.0)]


def test_a_scan_is_its_steps_one_by_one(float64):
    rng = np.random.default_rng(1)
    w, xs = jnp.asarray(rng.standard_normal((4, 4))), jnp.asarray(rng.standard_normal((6, 4)))
    step = lambda h, x, w: jax.nn.relu(w @ h + x)

    def unrolled(w):
        h = jnp.ones(4)
        for x in xs:
            h = step(h, x, w)
        return jnp.sum(h)

    scanned = kinks(lambda w: jnp.sum(lax.scan(lambda h, x: (step(h, x, w), None), jnp.ones(4), xs)[0]), w)
    apart = kinks(unrolled, w)
    assert scanned.margin == pytest.approx(apart.margin, rel=1e-12)
    assert len(apart.sites) == 6 * len(scanned.sites)


def test_the_number_of_steps_of_a_while_loop_is_a_switch():
    loss = lambda w: lax.while_loop(lambda c: c < 8.0, lambda c: 2 * c, w)
    assert kinks(loss, jnp.float32(2.0)).num_tied == 1
    assert kinks(loss, jnp.float32(3.0)).margin == 2.0  # 3, 6, 12 against 8


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


@jax.custom_vjp
def clipped_sign(x):
    return jnp.sign(x)


clipped_sign.defvjp(lambda x: (jnp.sign(x), x), lambda x, g: (jnp.where(jnp.abs(x) <= 2.0, g, 0.0),))


@jax.custom_vjp
def clipped_gradient(x):
    return jnp.abs(x)


clipped_gradient.defvjp(lambda x: (jnp.abs(x), x), lambda x, g: (jnp.clip(g * jnp.sign(x), -9.0, 9.0),))


@jax.custom_jvp
def relu_squared(x):
    return jnp.maximum(x, 0) ** 2


relu_squared.defjvp(lambda x, t: (relu_squared(*x), 2 * jax.nn.relu(x[0]) * t[0]))


@pytest.mark.parametrize(
    ("function", "positions"),
    [(straight_through, []), (clipped_sign, [(2,)]), (relu_squared, [(1,)])],
)
def test_what_is_differentiated_by_a_rule_has_the_kinks_of_the_rule(function, positions):
    found = kinks(lambda w: jnp.sum(function(w)), X)
    assert [at for site in found.sites for at in site.positions] == positions


def test_a_rule_that_is_not_linear_is_read_too():
    found = kinks(lambda w: jnp.sum(jnp.maximum(clipped_gradient(w), 2.0)), X)
    assert {position for site in found.sites for position in site.positions} == {(1,), (2,)}


def test_what_a_rule_lets_through_moves():
    found = kinks(lambda w: jnp.sum(jax.nn.relu(straight_through(w))), X)
    assert found.sites[0].positions == [(1,)]


def test_the_margin_is_the_distance_and_tol_is_absolute(float64):
    w = jnp.array([-3.0, 0.25, 0.5])
    loss = lambda w: jnp.sum(jax.nn.relu(w) + jnp.maximum(w, 10.0))
    assert kinks(loss, w).margin == 0.25
    assert [site.margin for site in kinks(loss, w).sites] == [0.25, 9.5]
    counts = [kinks(loss, w, tol=tol).num_tied for tol in (0.0, 0.2, 0.25, 0.6, 9.5)]
    assert counts == [0, 0, 1, 2, 4]


# Units that are on, off, on for the last row, and zero for the last row and else off.
INPUTS = np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [1.0, 1.0, 4.0]])
WEIGHTS = np.array([[1.0, -1.0, -1.0, -1.0], [1.0, -1.0, -1.0, -1.0], [0.25, 0.0, 1.0, 0.5]])
ONE_SIDED = {
    "relu": jax.nn.relu,
    "maximum": lambda z: jnp.maximum(z, 0),
    "maximum, turned": lambda z: jnp.maximum(0, z),
    "where": lambda z: jnp.where(z > 0, z, 0),
    "where, turned": lambda z: jnp.where(jnp.less(0, z), z, 0),
    "where at most": lambda z: jnp.where(z <= 0, 0, z),
    "where not": lambda z: jnp.where(~(z >= 0), 0, z),
    "relu6": jax.nn.relu6,
    "clip": lambda z: jnp.clip(z, 0, 100),
    "squared": lambda z: jax.nn.relu(z) ** 2,
}
TWO_SIDED = {
    "leaky relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "celu": jax.nn.celu,
    "softplus": jax.nn.softplus,
    "abs": jnp.abs,
    "hard tanh": jax.nn.hard_tanh,
    "by hand": lambda z: jnp.maximum(z, 0) - 0.1 * jnp.minimum(z, 0),
}


@pytest.mark.parametrize("name", ONE_SIDED)
def test_a_unit_is_dead_where_it_is_below_zero_for_all_rows(name, dtype):
    w, x = jnp.asarray(WEIGHTS, dtype), jnp.asarray(INPUTS, dtype)
    assert np.flatnonzero((INPUTS @ WEIGHTS < 0).all(axis=0)).tolist() == [1]
    found = kinks(lambda w, x: jnp.sum(ONE_SIDED[name](x @ w), axis=1), w, x)
    [layer] = found.dead
    assert layer[3:] == ((4,), 4, 1, [(1,)])
    assert [site.positions for site in found.sites if site.num_tied] == [[(2, 3)]]


@pytest.mark.parametrize("name", TWO_SIDED)
def test_activations_without_an_off_side_have_no_dead_units(name):
    found = kinks(lambda w, x: jnp.sum(TWO_SIDED[name](x @ w), axis=1), jnp.asarray(WEIGHTS), jnp.asarray(INPUTS))
    assert found.dead == []


UNITS = {
    "rows by the loss": lambda w, x: jnp.sum(jax.nn.relu(x @ w)),
    "a row at a time": lambda w, x: jax.vmap(lambda row: jnp.sum(jax.nn.relu(row @ w)))(x),
    "transposed": lambda w, x: jnp.sum(jax.nn.relu(w.T @ x.T), axis=0),
    "transposed, a row at a time": lambda w, x: jax.vmap(lambda row: jnp.sum(jax.nn.relu(w.T @ row)))(x),
    "positions": lambda w, x: jnp.sum(jax.nn.relu(jnp.stack([x, 2 * x], axis=1) @ w), axis=(1, 2)),
    "scan over rows": lambda w, x: lax.map(lambda row: jnp.sum(jax.nn.relu(row @ w)), x),
    "with a bias and a residual": lambda w, x: jnp.sum(jax.nn.relu(x @ w + jnp.zeros(4) + 0.0 * (x @ w)), axis=1),
    "without a product": lambda w, x: jnp.sum(jax.nn.relu(jnp.sum(x[:, :, None] * w, axis=1)), axis=1),
}


@pytest.mark.parametrize("name", UNITS)
def test_units_are_the_axes_along_which_weights_differ(name):
    [layer] = kinks(UNITS[name], jnp.asarray(WEIGHTS), jnp.asarray(INPUTS)).dead
    assert layer.shape == (4,)
    assert layer.positions == [(1,)]


def test_a_scan_over_layers_has_the_units_of_each():
    layers = jnp.stack([jnp.eye(2), -jnp.eye(2), jnp.eye(2)])
    loss = lambda w, x: lax.scan(lambda h, w: (jax.nn.relu(h @ w - 0.5), None), x, w)[0].sum(axis=1)
    [layer] = kinks(loss, layers, jnp.ones((3, 2))).dead
    assert layer.shape == (3, 2)
    assert layer.positions == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_units_that_the_program_does_not_tell_have_no_record():
    assert kinks(lambda w: jnp.sum(jax.nn.relu(w)), -jnp.ones(3)).dead == []


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(5, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Conv(4, (2, 2), strides=(2, 2))(x))
        x = nn.relu(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        return nn.Dense(3)(x)


def convolutional(dtype):
    net, x, y = Net(), jax.random.normal(jax.random.key(0), (7, 8, 8, 2), dtype), jnp.arange(7) % 3
    params = jax.jit(net.init)(jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    params["Conv_0"]["bias"] = params["Conv_0"]["bias"].at[jnp.array([1, 3])].set(-50.0)
    params["Dense_0"]["bias"] = params["Dense_0"]["bias"].at[2].set(-50.0)
    cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
    return net, params, lambda p, b: cross_entropy(net.apply({"params": p}, b[0]), b[1]), (x, y)


def test_channels_and_features_of_a_convolutional_net_are_counted():
    net, params, loss, batch = convolutional("float32")
    _, state = net.apply({"params": params}, batch[0], capture_intermediates=True)
    before = [np.asarray(state["intermediates"][name]["__call__"][0]) for name in ("Conv_0", "Conv_1", "Dense_0")]
    wanted = [np.flatnonzero((z < 0).all(axis=tuple(range(z.ndim - 1)))) for z in before]
    found = kinks(loss, params, batch)
    assert [layer.positions for layer in found.dead] == [[(int(k),) for k in layer] for layer in wanted]
    assert [layer.num_units for layer in found.dead] == [5, 4, 6]
    assert {1, 3} <= {k for (k,) in found.dead[0].positions}
    # Off channels fill whole windows with zeros, which tie with nothing that moves.
    assert found.smooth
    assert found.margin <= min(np.abs(z).min() for z in before)


def test_a_tie_of_a_convolutional_net_is_found_where_it_is(float64):
    net, params, loss, batch = convolutional("float64")
    z = net.apply({"params": params}, batch[0], capture_intermediates=True)[1]["intermediates"]["Conv_1"]["__call__"][0]
    # One channel with no weights: zero everywhere, and any change of params breaks that.
    params["Conv_1"]["kernel"] = jnp.zeros_like(params["Conv_1"]["kernel"]).at[:, :, :, 1:].set(0.5)
    found = kinks(loss, params, batch)
    assert found.num_tied == z[..., 0].size > 0
    assert {position[-1] for site in found.sites for position in site.positions} == {0}


def test_ties_depend_on_neither_the_form_of_the_loss_nor_the_dtype(dtype):
    x = jnp.asarray([[1.0, 1.0], [3.0, 1.0]], dtype)
    params = {"w": jnp.asarray([1.0, -1.0], dtype), "v": jnp.asarray(2.0, dtype)}
    per_row = lambda p, x: p["v"] * jax.nn.relu(x @ p["w"]) ** 2
    for loss in (per_row, lambda p, x: jnp.mean(per_row(p, x)), lambda p, x: jnp.sum(per_row(p, x))):
        found = kinks(loss, params, x)
        assert found.num_tied == 1
        assert found.sites[0].positions == [(0,)]


def test_what_is_not_a_number_is_not_called_smooth():
    found = kinks(lambda w: jnp.sum(jnp.abs(w)), jnp.array([1.0, math.nan]))
    assert (found.num_tied, found.smooth) == (0, False)
    assert math.isnan(found.margin)
    infinite = kinks(lambda w: jnp.sum(jnp.maximum(w, jnp.array([0.0, -jnp.inf]))), jnp.ones(2))
    assert (infinite.margin, infinite.smooth) == (1.0, True)


def test_a_norm_at_zero_that_is_guarded_is_a_kink():
    guarded = lambda w: jnp.where(w @ w > 0, jnp.sqrt(jnp.where(w @ w > 0, w @ w, 1.0)), 0.0)
    assert kinks(guarded, jnp.zeros(2)).num_tied == 2  # each comparison is a program's equation
    assert kinks(guarded, jnp.ones(2)).smooth


def test_params_move_without_a_new_trace():
    traces = []

    def loss(w):
        traces.append(1)
        return jnp.sum(jnp.abs(w))

    assert [kinks(loss, jnp.full(2, c), tol=t).num_tied for c, t in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.5))] == [2, 0, 2]
    assert len(traces) == 1


def test_a_site_names_its_function_and_line():
    relu = kinks(lambda w: jnp.sum(jax.nn.relu(w)), X).sites[0]
    assert relu.function == "relu"
    assert "test_kinks.py:" in relu.source
    assert "<lambda>" in relu.source
    one = kinks(lambda w: jnp.sum(jnp.clip(w, 0, 1)), X).sites[0]
    two = kinks(lambda w: jnp.sum(jnp.clip(w, 0, 1)), X).sites[0]  # the same traced clip, another line
    assert one.source != two.source
    assert kinks(lambda w: jnp.sum(jnp.abs(w)), X).sites[0][:2] == ("abs", "")


def test_the_summary_is_a_few_lines(untyped):
    found = kinks(lambda w, x: jnp.sum(jax.nn.relu(x @ w), axis=1), jnp.asarray(WEIGHTS), jnp.asarray(INPUTS))
    lines = str(found).splitlines()
    assert len(lines) == 3
    assert "1 tied" in lines[0]
    assert "1 of 12 tied at (2, 3)" in lines[1]
    assert "of 4 units dead at (1,)" in lines[-1]
    assert str(kinks(lambda w: jnp.sum(w**2), X)).startswith("smooth")
    assert str(kinks(lambda w: jnp.sum(jnp.abs(w)), X + 0.5)) == "no tie; 1 site, nearest tie at distance 0.5"
    assert "... (9)" in str(kinks(lambda w: jnp.sum(jnp.abs(w)), jnp.zeros(9)))


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ((3, X), {}, TypeError, "loss is int, wanted a function"),
        ((jnp.sum, jnp.arange(3)), {}, TypeError, "wanted a real floating array"),
        ((jnp.sum, {}), {}, ValueError, "params is an empty tree"),
        ((jnp.sum, X), {"tol": -1.0}, ValueError, "tol must be a number from 0 up, got -1.0"),
        ((jnp.sum, X), {"tol": math.nan}, ValueError, "tol must be a number from 0 up"),
        ((jnp.sum, X), {"tol": "small"}, ValueError, "tol must be a number from 0 up, got 'small'"),
        ((lambda w: (w, w), X), {}, TypeError, "loss returned tuple, wanted one floating array"),
        ((lambda w: jnp.argmax(w), X), {}, TypeError, "loss returned int32, wanted one floating array"),
    ],
)
def test_bad_input_is_answered_in_one_line(untyped, args, options, error, words):
    with pytest.raises(error, match=words) as caught:
        kinks(*args, **options)
    assert "\n" not in str(caught.value)


def test_a_traced_call_is_told_that_values_are_needed(untyped):
    with pytest.raises(TypeError, match=r"call it outside jax\.jit"):
        jax.jit(lambda w: kinks(jnp.sum, w))(X)
