"""The teacher-student problem: closed forms against formulas written out pair by pair, sampling and autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessjax.landscapes import arccosine
from hessjax.landscapes.spurious import PUBLISHED, Descents, descend, spurious_rate
from hessjax.landscapes.teacher import minimum_spectrum, teacher_student

EPS = float(np.finfo("float64").eps)
# (students, teachers, inputs, teacher): fewer, as many and more students; one unit; more inputs; random teachers.
SHAPES = [
    (4, 3, 5, 0),
    (3, 3, 3, "orthonormal"),
    (2, 4, 5, "orthonormal"),
    (5, 3, 4, "orthonormal"),
    (1, 1, 1, "orthonormal"),
    (3, 1, 2, "orthonormal"),
    (2, 5, 3, 7),
    (4, 4, 2, 1),
]


def case(students, teachers, inputs, teacher, dtype="float64"):
    land = teacher_student(students=students, teachers=teachers, inputs=inputs, teacher=teacher, dtype=dtype)
    return land, np.array(land.init(jax.random.key(3)), float)


def units(teachers, inputs, teacher):
    """The teacher as the documentation says it is."""
    if teacher == "orthonormal":
        return np.eye(teachers, inputs)
    return np.random.default_rng(teacher).standard_normal((teachers, inputs)) / inputs**0.5


def cosine(w, v):
    return w @ v / np.linalg.norm(w) / np.linalg.norm(v)


def pair(w, v):
    """E relu(w.x) relu(v.x), by the angle from the cosine."""
    t = np.arccos(np.clip(cosine(w, v), -1, 1))
    return np.linalg.norm(w) * np.linalg.norm(v) * (np.sin(t) + (np.pi - t) * np.cos(t)) / (2 * np.pi)


def pair_gradient(w, v):
    t = np.arccos(np.clip(cosine(w, v), -1, 1))
    return (np.linalg.norm(v) * np.sin(t) * w / np.linalg.norm(w) + (np.pi - t) * v) / (2 * np.pi)


def pair_own(w, v):
    """The second derivative of `pair` in w twice, as published: it divides by the sine."""
    t, w1, v1 = np.arccos(cosine(w, v)), w / np.linalg.norm(w), v / np.linalg.norm(v)
    n = np.cos(t) * w1 - v1
    scale = np.linalg.norm(v) / (2 * np.pi * np.sin(t) * np.linalg.norm(w))
    return scale * (np.sin(t) ** 2 * (np.eye(w.size) - np.outer(w1, w1)) + np.outer(n, n))


def pair_mixed(w, v):
    """The second derivative of `pair` in w and v, as published."""
    t, w1, v1 = np.arccos(cosine(w, v)), w / np.linalg.norm(w), v / np.linalg.norm(v)
    n_wv, n_vw = (w1 - np.cos(t) * v1) / np.sin(t), (v1 - np.cos(t) * w1) / np.sin(t)
    return ((np.pi - t) * np.eye(w.size) + np.outer(n_wv, v1) + np.outer(n_vw, w1)) / (2 * np.pi)


def written_out(w, v):
    """Loss, gradient and Hessian of distinct directions, pair by pair."""
    n, d = w.shape
    total = lambda a, b: sum(pair(x, y) for x in a for y in b)
    loss = total(w, w) / 2 - total(w, v) + total(v, v) / 2
    grad, hess = w / 2, np.zeros((n, d, n, d))
    for i in range(n):
        hess[i, :, i] = np.eye(d) / 2 - sum(pair_own(w[i], u) for u in v)
        grad[i] -= sum(pair_gradient(w[i], u) for u in v)
        for j in set(range(n)) - {i}:
            grad[i] += pair_gradient(w[i], w[j])
            hess[i, :, i] += pair_own(w[i], w[j])
            hess[i, :, j] = pair_mixed(w[i], w[j])
    return loss, grad, hess.reshape(n * d, n * d)


@jax.jit
def automatic(w, v):
    """Loss, gradient and Hessian by autodiff."""
    loss = lambda w: arccosine.population_loss(w, v)
    return loss(w), jax.grad(loss)(w), jax.hessian(loss)(w).reshape(w.size, w.size)


def assert_same(got, wanted, atol):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[2] > 1])
def test_loss_gradient_and_hessian_are_the_published_formulas(float64, shape):
    land, w = case(*shape)
    v = units(*shape[1:])
    wanted = written_out(w, v)
    atol = 1e3 * EPS * (np.abs(w).sum() + np.abs(v).sum()) ** 2
    assert_same(automatic(w, v), wanted, atol)
    assert_same((jax.jit(land.loss)(w), land.facts["gradient"](w), land.facts["hessian"](w)), wanted, atol)


def test_reverse_over_reverse_is_forward_over_reverse(float64):
    land, w = case(4, 3, 5, 0)
    w[1], w[2], w[3] = 2 * units(3, 5, 0)[0], -units(3, 5, 0)[1], 0
    twice = jax.jit(jax.jacrev(jax.grad(land.loss)))(w).reshape(w.size, w.size)
    np.testing.assert_allclose(twice, jax.jit(jax.hessian(land.loss))(w).reshape(twice.shape), atol=1e3 * EPS)


def test_the_loss_is_half_the_mean_squared_difference_of_the_networks(float64):
    land, w = case(4, 3, 5, 0)
    x = np.random.default_rng(1).standard_normal((400_000, 5))
    relu = lambda u: np.maximum(x @ u.T, 0).sum(1)
    sample = (relu(w) - relu(units(3, 5, 0))) ** 2 / 2
    assert abs(float(jax.jit(land.loss)(w)) - sample.mean()) < 4 * sample.std() / 400_000**0.5


@pytest.mark.parametrize("angle", [1e-3, 1e-6, 1e-9, 1e-13, 0.0])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_small_angles_and_angles_near_pi_tend_to_the_limits(float64, angle, side):
    """One student c v turned by the angle: the second derivatives differ from the limit by at most the angle."""
    v = np.array([[0.6, -0.8, 0.0]])
    w = 2.5 * side * (np.cos(angle) * v + np.sin(angle) * np.array([[0.0, 0.0, 1.0]]))
    land = teacher_student(students=1, teachers=1, teacher=v, dtype="float64")
    facing = (1 + side) / 2
    limit = (2.5**2 + 1 - 2 * 2.5 * facing) / 4, (w - facing * v) / 2, np.eye(3) / 2
    got = automatic(w, v)
    assert_same(got, limit, 100 * EPS + angle)
    assert_same(got[1:], (land.facts["gradient"](w), land.facts["hessian"](w)), 100 * EPS)


def test_equal_students_add_up_and_their_hessian_is_that_of_the_sum(float64):
    """Two equal students parallel to the teacher: F = |2w - v|^2 / 4 to second order."""
    v = np.array([[1.0, 2.0]])
    w = np.concatenate([0.7 * v, 0.7 * v])
    land = teacher_student(students=2, teachers=1, teacher=v, dtype="float64")
    half = np.eye(2) / 2
    wanted = 0.4**2 * 5 / 4, np.concatenate([0.2 * v, 0.2 * v]), np.block([[half, half], [half, half]])
    assert_same(automatic(w, v), wanted, 100 * EPS)
    assert_same((land.facts["gradient"](w), land.facts["hessian"](w)), wanted[1:], 100 * EPS)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] > 1])
def test_closed_forms_and_autodiff_agree_at_zero_units_and_at_the_teachers(float64, shape):
    land, w = case(*shape)
    v = units(*shape[1:])
    w[0], w[-1] = 0, v[0]
    wanted = land.facts["gradient"](w), land.facts["hessian"](w)
    assert_same(automatic(w, v)[1:], wanted, 1e3 * EPS * (np.abs(w).sum() + np.abs(v).sum()))


def test_third_derivatives_are_finite_at_zero_units_and_zero_angles(float64):
    land, w = case(3, 3, 3, "orthonormal")
    w[0], w[1], w[2] = 0, [0, 2, 0], [0, 2, 0]
    assert np.isfinite(np.asarray(jax.jit(jax.jacfwd(jax.hessian(land.loss)))(w))).all()


def test_a_zero_unit_counts_nothing_and_has_the_mean_of_its_one_sided_gradients(float64):
    w, v = case(3, 2, 4, 5)[1], units(2, 4, 5)
    w[1] = 0
    assert float(automatic(w, v)[0]) == pytest.approx(float(automatic(w[[0, 2]], v)[0]), rel=100 * EPS)
    step = np.zeros_like(w)
    step[1] = 1e-9 * np.random.default_rng(0).standard_normal(4)
    sides = [np.asarray(automatic(w + s, v)[1]) for s in (step, -step)]
    # The gradients of the other units move by the order of the step.
    np.testing.assert_allclose(automatic(w, v)[1], sum(sides) / 2, atol=1e-7)


def test_float32_keeps_the_derivatives_at_angles_below_the_root_of_its_rounding():
    rng = np.random.default_rng(2)
    land = teacher_student(students=6, teachers=6)
    for size in (1e-3, 1e-4, 1e-5):
        w = jnp.asarray(np.eye(6) + size * rng.standard_normal((6, 6)), "float32")
        atol = 4 * 12 * float(jnp.finfo("float32").eps)  # a few roundings for each of the 12 pairs of a unit
        loss, grad, hess = automatic(w, jnp.eye(6, dtype="float32"))
        assert_same((grad, hess), (land.facts["gradient"](w), land.facts["hessian"](w)), atol)
        assert float(loss) == pytest.approx(0, abs=12 * atol)


def test_params_and_loss_have_the_dtype_asked_for(dtype):
    land = teacher_student(students=3, teachers=2, dtype=dtype)
    w = jax.jit(land.init)(jax.random.key(0))
    losses, grads = jax.jit(jax.vmap(jax.value_and_grad(land.loss)))(w[None])
    assert (w.dtype, w.shape) == (grads.dtype, grads[0].shape) == (dtype, (3, 2))
    assert (losses.dtype, losses.shape) == (dtype, (1,))


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_starts_have_the_spread_their_scale_says(scale):
    w = np.asarray(teacher_student(students=200, teachers=4, inputs=25, init_scale=scale).init(jax.random.key(0)))
    assert w.std() == pytest.approx(scale / 5, rel=4 / (2 * w.size) ** 0.5)


def test_the_gradient_needs_no_more_memory_than_pairs_times_inputs():
    n = 24
    land = teacher_student(students=n, teachers=n)
    shape = jax.ShapeDtypeStruct((n, n), jnp.float32)
    used = jax.jit(jax.grad(land.loss)).lower(shape).compile().memory_analysis().temp_size_in_bytes
    assert used <= 4 * 2 * (3 * n**3)  # bytes; pairs times inputs are 3 n^3 here, a matrix for each pair n^4


# Eigenvalues at w = v = I_k to nine digits, with their multiplicities.
LISTED = {
    5: [(0.090845057, 10), (0.295019117, 4), (0.409154943, 5), (0.754651065, 1), (1.454980883, 4), (1.791123650, 1)],
    8: [(0.277501761, 7), (2.222498239, 7)],
}


@pytest.mark.parametrize("k", LISTED)
def test_the_spectrum_at_the_global_minimum_has_the_listed_eigenvalues(k):
    spectrum = minimum_spectrum(k)
    assert spectrum.size == k * k
    for value, multiplicity in LISTED[k]:
        assert (abs(spectrum - value) < 1e-8).sum() == multiplicity


@pytest.mark.parametrize("k", range(1, 10))
@pytest.mark.parametrize("extra", [0, 1, 3])
def test_the_spectrum_at_the_global_minimum_is_that_of_the_hessian(float64, k, extra):
    land = teacher_student(students=k, teachers=k, inputs=k + extra, dtype="float64")
    point = land.facts["critical_points"][0]["point"]
    matrices = [land.facts["hessian"](point)]
    if k in (1, 2, 5):
        matrices.append(automatic(point, np.eye(k, k + extra))[2])
    for matrix in matrices:
        assert_same([np.linalg.eigvalsh(matrix)], [minimum_spectrum(k, inputs=k + extra)], 64 * EPS * k)


@pytest.mark.parametrize("shape", [*SHAPES, (3, 3, 1, 0), (1, 3, 5, "orthonormal"), (6, 6, 6, "orthonormal")])
def test_critical_points_are_what_the_facts_say(float64, shape):
    land, _ = case(*shape)
    names = []
    for fact in land.facts["critical_points"]:
        check_fact(land, fact, units(*shape[1:]))
        names.append(fact.get("name"))
    assert ("teacher" in names) == (shape[0] == shape[1])
    assert ("teacher, last unit split" in names) == (shape[0] > shape[1])
    assert ("all against it" in names) == (shape[3] == "orthonormal" and shape[1] > 1)


TURNED = np.array([[1.0, 0.0], [-2.0, 0.0], [0.6, 0.8], [-0.3, -0.4], [0.0, 1.0]])


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 2, 3], [0, 2, 4], [0, 0, 2], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("extra", [0, 2])
def test_teachers_with_parallel_and_opposite_units_have_the_nullity_their_facts_say(float64, rows, extra):
    land = teacher_student(
        students=len(rows) + extra, teachers=len(rows), teacher=TURNED[rows], dtype="float64"
    )  # fmt: skip
    check_fact(land, land.facts["critical_points"][0], TURNED[rows])


def check_fact(land, fact, v):
    w = fact["point"]
    loss, grad, hess = automatic(w, v)
    values = np.linalg.eigvalsh(hess)
    size = np.abs(w).sum() + np.abs(v).sum()
    assert float(loss) == pytest.approx(fact["loss"], abs=100 * EPS * size**2)
    np.testing.assert_allclose(grad, 0, atol=100 * EPS * size)
    zero = 1e-10  # far above rounding, far below the smallest eigenvalue of these cases
    assert ((values < -zero).sum(), (abs(values) <= zero).sum()) == (fact["index"], fact["nullity"])
    assert fact["loss"] >= land.facts["lower_bound"]
    if "eigenvalues" in fact:
        assert_same([values], [fact["eigenvalues"]], 100 * EPS * size)
    degenerate, saddle = "degenerate " if fact["nullity"] else "", fact["index"] > 0
    assert fact["kind"] == ("strict saddle" if saddle else degenerate + "minimum")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"students": 0}, "students must be a whole number"),
        ({"students": 2.0}, "students must be a whole number"),
        ({"teachers": 0}, "teachers must be a whole number"),
        ({"inputs": 0}, "inputs must be a whole number"),
        ({"inputs": 5}, "inputs must be at least teachers"),
        ({"teacher": "orthonomal"}, "did you mean 'orthonormal'"),
        ({"teacher": -1}, "teacher must be a whole number"),
        ({"teacher": np.ones(3)}, "teacher must be an array"),
        ({"teacher": np.ones((5, 3))}, r"\[6, 3\], got shape \[5, 3\]"),
        ({"teacher": np.ones((6, 3)), "inputs": 4}, r"\[6, 4\], got shape \[6, 3\]"),
        ({"teacher": np.zeros((6, 3))}, "no unit that is 0"),
        ({"teacher": np.full((6, 3), np.nan)}, "finite entries"),
        ({"teacher": [["a"]]}, "an array of numbers"),
        ({"init_scale": 0.0}, "init_scale must be above 0"),
        ({"init_scale": float("inf")}, "init_scale must be above 0"),
        ({"dtype": "int32"}, "dtype must be"),
        ({"dtype": "float64"}, "needs x64"),
    ],
)
def test_options_out_of_range_are_answered_in_one_line(untyped, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        teacher_student(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_starts": 0}, "num_starts must be a whole number"),
        ({"max_steps": 0}, "max_steps must be a whole number"),
        ({"step": 0.0}, "step must be above 0"),
        ({"tol": 1e-9}, "tol must be at least"),
        ({"tol": float("nan")}, "tol must be at least"),
        ({"dtype": "float64"}, "needs x64"),
    ],
)
def test_options_of_descents_out_of_range_are_answered_in_one_line(untyped, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        descend(jax.random.key(0), **({"students": 2, "teachers": 2, "tol": 1e-4, "dtype": "float32"} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [{"teachers": 0}, {"teachers": 3, "inputs": 2}])
def test_a_spectrum_of_no_teacher_is_refused(bad):
    with pytest.raises(ValueError, match="whole number"):
        minimum_spectrum(**bad)


@pytest.mark.parametrize("k", [6, 7])
def test_converged_descents_end_at_the_global_minimum_or_at_the_published_level(float64, k):
    land = teacher_student(students=k, teachers=k, dtype="float64")
    ends = descend(jax.random.key(1), students=k, teachers=k, num_starts=60)
    assert np.asarray(ends.converged).all()
    assert not np.asarray(ends.restarts).any()
    for w, norm in zip(np.asarray(ends.params), np.asarray(ends.grad_norm), strict=True):
        grad = 2 * np.pi * np.linalg.norm(land.facts["gradient"](w), axis=1).max()
        assert grad == pytest.approx(norm, abs=100 * EPS * k)
        assert norm <= 1e-9
    loss = np.asarray(ends.loss)
    np.testing.assert_allclose(loss, jax.jit(jax.vmap(land.loss))(ends.params), atol=1e3 * EPS)
    np.testing.assert_allclose(loss[loss < 1e-3], 0, atol=1e3 * EPS)
    np.testing.assert_allclose(loss[loss >= 1e-3], PUBLISHED[0, k][2], atol=1e-4)


def test_descents_depend_on_the_key_and_their_number_alone(float64):
    run = lambda seed, starts: descend(jax.random.key(seed), students=3, teachers=3, num_starts=starts)
    many, again, alone, other = run(0, 40), run(0, 40), run(0, 2), run(1, 2)
    for a, b in zip(many, again, strict=True):
        np.testing.assert_array_equal(a, b)
    # Programs of other widths may round otherwise; the same minimum is known to tol / (2 pi lambda).
    reach = 2 * 1e-9 * 3**0.5 / (2 * np.pi * minimum_spectrum(3)[0])
    np.testing.assert_allclose(alone.params, many.params[:2], atol=reach)
    assert np.abs(alone.num_steps - many.num_steps[:2]).max() <= 1
    assert np.abs(other.params - alone.params).max() > 0.1


def test_a_descent_that_diverges_starts_again_with_half_the_step(float64):
    """One unit against one: far out the Hessian is I / 2, so steps above 4 diverge, and 3 is the first below."""
    run = lambda step: descend(jax.random.key(0), students=1, teachers=1, inputs=3, num_starts=5, step=step)
    ends, plain = run(48.0), run(3.0)
    assert np.asarray(ends.restarts).tolist() == [4] * 5
    assert np.asarray(ends.converged).all()
    np.testing.assert_allclose(ends.params, plain.params, atol=100 * EPS)
    assert (np.asarray(ends.num_steps) > np.asarray(plain.num_steps)).all()


def test_a_descent_takes_the_steps_of_plain_gradient_descent(float64):
    land = teacher_student(students=4, teachers=3, dtype="float64")
    ends = descend(jax.random.key(5), students=4, teachers=3, num_starts=2, max_steps=300, step=0.2)
    w = jax.random.normal(jax.random.fold_in(jax.random.key(5), 1), (4, 3), "float64") / 3**0.5
    w = jax.jit(lambda w: jax.lax.fori_loop(0, 300, lambda _, w: w - 0.2 * jax.grad(land.loss)(w), w))(w)
    np.testing.assert_allclose(ends.params[1], w, atol=1e4 * EPS)
    assert ends.num_steps.tolist() == [300, 300]


def test_descents_cut_short_are_undecided_until_their_loss_is_small(float64):
    ends = descend(jax.random.key(0), students=4, teachers=4, num_starts=20, max_steps=40)
    assert not np.asarray(ends.converged).any()
    rate = spurious_rate(ends)
    assert rate.undecided == (np.asarray(ends.loss) >= 1e-3).sum() > 0
    assert rate.levels.size == rate.counts.size == 0


def test_more_students_than_teachers_are_left_at_a_good_loss(float64):
    ends = descend(jax.random.key(0), students=5, teachers=3, num_starts=20, good_loss=1e-3)
    assert (np.asarray(ends.loss) < 1e-3).all()
    assert np.asarray(ends.num_steps).max() < 10_000
    assert spurious_rate(ends)[0] == 0


def test_random_and_given_teachers_are_descended_to(float64):
    v = np.array([[1.0, 0.2, 0.0], [-0.3, 1.0, 0.5]])
    ends = descend(jax.random.key(0), students=2, teachers=2, teacher=v, num_starts=8)
    good = np.asarray(ends.params)[np.asarray(ends.loss) < 1e-3]
    assert len(good)
    for w in good:
        np.testing.assert_allclose(w[np.argsort(-w[:, 0])], v, atol=1e-7)


def ends_at(losses, converged):
    n = len(losses)
    return Descents(
        jnp.zeros((n, 1, 1)), jnp.asarray(losses), *[jnp.zeros(n)] * 2, jnp.asarray(converged), jnp.zeros(n)
    )


def test_the_rate_counts_converged_high_ends_in_their_levels():
    losses = [0.0, 1e-12, 0.02, 0.0200001, 0.03, 0.5, 1e-5]
    rate = spurious_rate(ends_at(losses, [True, True, True, True, True, False, False]))
    assert (rate.share, rate.undecided, rate.counts.tolist()) == (0.5, 1, [2, 1])
    np.testing.assert_allclose(rate.levels, [0.02000005, 0.03], rtol=1e-6)


@pytest.mark.parametrize(("bad", "of", "low", "high"), [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407)])
def test_the_interval_is_wilsons(bad, of, low, high):
    rate = spurious_rate(ends_at([1.0] * bad + [0.0] * (of - bad), [True] * of))
    assert rate.interval == pytest.approx((low, high), abs=1e-6)


def test_nothing_decided_is_no_rate():
    rate = spurious_rate(ends_at([1.0, float("nan")], [False, False]))
    assert rate.undecided == 2
    assert np.isnan([rate.share, *rate.interval]).all()


def test_one_descent_in_eight_of_k_8_ends_at_the_published_spurious_minimum(float64):
    percent, min_eigenvalue, level = PUBLISHED[0, 8]
    ends = descend(jax.random.key(0), students=8, teachers=8, num_starts=1000)
    rate = spurious_rate(ends)
    assert np.asarray(ends.converged).all()
    assert 90 <= rate.counts.sum() <= 165
    assert rate.interval[0] < percent / 100 < rate.interval[1]
    np.testing.assert_allclose(rate.levels, level, atol=1e-4)
    w = np.asarray(ends.params)[np.asarray(ends.loss) >= 1e-3][0]
    values = np.linalg.eigvalsh(arccosine.hessian(w, np.eye(8)))
    assert values[0] == pytest.approx(min_eigenvalue, abs=1e-4)
