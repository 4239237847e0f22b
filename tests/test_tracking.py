"""Measurements inside training: when, of what, through which optimisers; what they cost; thresholds (FACTS E1)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hessjax as hj
from hessjax import measures, tracking
from hessjax.train import Trainer

KEY = jax.random.key(0)


def bowl(w):
    return 8 * w[0] ** 2 + w[1] ** 2


def run(optimizer, w, num_steps, f=bowl):
    """Params before every update, and what is tracked after it, in one compiled loop."""

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(jax.grad(f)(w), state, w, value=f(w), grad=jax.grad(f)(w), value_fn=f)
        return (optax.apply_updates(w, updates), state), (w, hj.tracked(state))

    return jax.jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), None, length=num_steps)[1])(w)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_params_are_measured_before_updates_at_multiples_of_every(every):
    optimizer = optax.chain(optax.clip(1.0), hj.track(lambda w: {"w": w}, every), optax.sgd(0.05))
    ws, seen = run(optimizer, jnp.array([1.0, -2.0]), 10)
    last = np.arange(10) // every * every
    assert_array_equal(seen["w"], np.asarray(ws)[last])
    bare, _ = run(optax.chain(optax.clip(1.0), optax.sgd(0.05), hj.track(jnp.sum, 1)), jnp.array([1.0, -2.0]), 10)
    assert_array_equal(bare, ws)  # updates pass through unchanged


def test_before_the_first_update_nothing_is_said():
    state = hj.track(lambda w: {"f": w, "i": jnp.int32(3), "b": w[0] > 0}, 5).init(jnp.ones(2))
    seen = hj.tracked(state)
    assert np.isnan(seen["f"]).all()
    assert (seen["i"], seen["b"]) == (-1, False)


@pytest.mark.parametrize(
    "inner",
    [optax.adam(0.1), optax.lbfgs(), optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
     optax.MultiSteps(optax.adam(0.1), every_k_schedule=2), optax.rmsprop(0.1), optax.adagrad(0.1)],
    ids=["adam", "lbfgs", "inject_hyperparams", "multi_steps", "rmsprop", "adagrad"],
)  # fmt: skip
def test_any_optimiser_can_be_wrapped_and_trains_as_it_would(inner):
    w = jnp.array([1.0, -2.0])
    wrapped, seen = run(hj.track(jnp.sum, 2, inner), w, 6)
    alone, _ = run(optax.chain(hj.track(jnp.sum, 2), inner), w, 6)
    assert_array_equal(wrapped, alone)
    assert_allclose(seen, np.asarray(wrapped).sum(1)[[0, 0, 2, 2, 4, 4]], rtol=1e-6)


def test_trackers_are_found_wherever_they_are():
    one, two = hj.track(jnp.sum, 1), hj.track(jnp.max, 1)
    params = {"x": jnp.ones(3), "y": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"no hj\.track in this optimizer's state"):
        hj.tracked(optax.adam(0.1).init(params))
    both = optax.chain(two, hj.track(jnp.min, 1, optax.chain(one, optax.sgd(0.1))))
    state = both.update(jnp.ones(3), both.init(jnp.arange(3.0)), jnp.arange(3.0))[1]
    assert [float(x) for x in hj.tracked(state)] == [2.0, 0.0, 3.0]
    tracker = hj.track(lambda p: jnp.sum(p["x"]), 1)
    assert float(hj.tracked(tracker.update(params, tracker.init(params), params)[1])) == 3.0


def test_a_measure_with_a_state_gets_it_back_and_the_optimisers():
    class Counting:
        def init(self, params):
            return jnp.int32(0)

        def update(self, params, state, inner_state):
            return {"calls": state + 1, "momentum": inner_state[0].trace[0]}, state + 1

    optimizer = hj.track(Counting(), 2, optax.sgd(0.1, momentum=0.5))
    ws, seen = run(optimizer, jnp.array([1.0, 1.0]), 5)
    assert_array_equal(seen["calls"], [1, 1, 2, 2, 3])
    grads = 16 * np.asarray(ws)[:, 0]
    assert_allclose(seen["momentum"], [0, 0, grads[1] + grads[0] / 2] * 1 + [grads[1] + grads[0] / 2,
                    grads[3] + grads[2] / 2 + grads[1] / 4 + grads[0] / 8], rtol=1e-5)  # fmt: skip


def test_under_vmap_every_lane_is_its_own():
    optimizer = hj.track(jnp.sum, 3, optax.sgd(0.05))
    starts = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    ws, seen = jax.vmap(lambda w: run(optimizer, w, 5))(starts)
    for k, w in enumerate(starts):
        alone, values = run(optimizer, w, 5)
        assert_allclose(ws[k], alone, rtol=1e-6)
        assert_allclose(seen[k], values, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: hj.track(jnp.sum, 0), ValueError, "every must be a whole number, at least 1; got 0"),
        (lambda: hj.track(3, 1), TypeError, "measure is int, wanted a function of params"),
        (lambda: hj.track(jnp.sum, 1, 0.1), TypeError, "inner is float, wanted an optax.GradientTransformation"),
        (
            lambda: hj.track(jnp.sum, 1).update(1.0, hj.track(jnp.sum, 1).init(1.0)),
            ValueError,
            "update\\(grads, state, par",
        ),
        (lambda: tracking.tensorboard(3), TypeError, "writer is int"),
        (lambda: tracking.cost(jnp.sum, optax.sgd(0.1), bowl, jnp.ones(2), share=1.0), ValueError, "share must be"),
        (lambda: tracking.stability_threshold(0.1, kind="lion"), ValueError, "kind must be one of sgd, nesterov, adam"),
    ],
)
def test_what_cannot_be_tracked_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_logs_have_every_measurement_once(tmp_path):
    path = tmp_path / "deep" / "run.jsonl"
    measure = lambda w: {"w": w, "bad": jnp.where(w[0] > 0, jnp.nan, 1.0)}
    run(hj.track(measure, 2, optax.sgd(0.05), log=tracking.jsonl(path)), jnp.array([1.0, -1.0]), 5)
    jax.effects_barrier()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(line["count"] for line in lines) == [0, 2, 4]
    first = next(line for line in lines if line["count"] == 0)
    assert first["w"] == [1.0, -1.0]
    assert first["bad"] is None
    written = []

    class Writer:
        def scalar(self, name, value, step):
            written.append((name, value, step))

    tracking.tensorboard(Writer(), "run")(
        4, measures.Ends(np.array([3.0]), np.array([0.5]), np.array([True]), np.int32(9))
    )
    assert written == [("run/values/0", 3.0, 4), ("run/residuals/0", 0.5, 4), ("run/converged/0", 1.0, 4),
                       ("run/num_matvecs", 9.0, 4)]  # fmt: skip


def test_under_vmap_only_what_is_due_is_logged():
    seen = []
    optimizer = hj.track(jnp.sum, 3, optax.sgd(0.05), log=lambda count, value: seen.append((int(count), float(value))))
    starts = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    jax.vmap(lambda w: run(optimizer, w, 5))(starts)
    jax.effects_barrier()
    assert sorted(count for count, _ in seen) == [0, 0, 3, 3]
    assert {value for count, value in seen if count == 0} == {3.0, 2.0}


def test_a_tracker_within_another_comes_after_it():
    inside = hj.track(lambda w: 2.0, 1, hj.track(lambda w: 3.0, 1, optax.sgd(0.1)))
    chain = optax.chain(hj.track(lambda w: 1.0, 1), inside, hj.track(lambda w: 4.0, 1))
    _, state = chain.update(jnp.ones(2), chain.init(jnp.ones(2)), jnp.ones(2))
    assert [float(x) for x in hj.tracked(state)] == [1.0, 2.0, 3.0, 4.0]


def test_cost_is_a_share_that_is_kept_to():
    size = 200
    a = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), "float32")
    f = lambda w: jnp.sum(jnp.tanh(a @ w) ** 2)
    found = tracking.cost(measures.extremes(f, KEY), optax.sgd(0.1), f, jnp.ones(size), share=0.2)
    assert found.share <= 0.2
    assert_allclose(found.share, found.measure_s / (found.measure_s + found.every * found.step_s))
    if found.every > 1:
        more = found.every - 1
        assert found.measure_s / (found.measure_s + more * found.step_s) > 0.2


def radius(kind, curvature, rate, beta):
    """Spectral radius of one step on curvature x^2 / 2, from the optimiser itself: its map of (x, momentum)."""
    optimizers = {
        "sgd": optax.sgd(rate, momentum=beta),
        "nesterov": optax.sgd(rate, momentum=beta, nesterov=True),
        "adam": optax.chain(optax.ema(beta, debias=False), optax.sgd(rate)),
    }
    optimizer = optimizers[kind]

    def step(x, m):
        state = jax.tree.map(lambda leaf: m if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, optimizer.init(x))
        updates, state = optimizer.update(curvature * x, state, x)
        moment = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return jnp.stack([x + updates, moment[0]])

    jacobian = jnp.stack(jax.jacobian(step, argnums=(0, 1))(jnp.float64(1.0), jnp.float64(0.5)), axis=1)
    return np.abs(np.linalg.eigvals(np.asarray(jacobian))).max()


@pytest.mark.parametrize(("kind", "beta", "at"), [("sgd", 0.0, 200), ("sgd", 0.9, 380), ("nesterov", 0.9, 135.7142857),
                                                  ("adam", 0.9, 3800)])  # fmt: skip
def test_optimisers_diverge_from_the_threshold_on(float64, kind, beta, at):
    threshold = tracking.stability_threshold(0.01, momentum=beta, kind=kind)
    assert_allclose(threshold, at, rtol=1e-9)
    assert radius(kind, threshold * (1 - 1e-6), 0.01, beta) < 1
    assert radius(kind, threshold * (1 + 1e-6), 0.01, beta) > 1


def net(p, batch):
    return jnp.sum((jnp.tanh(batch[0] @ p["w"]) @ p["v"] - batch[1]) ** 2, -1)


def problem(dtype="float32"):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    return {"w": draw(4, 6), "v": draw(6, 2)}, (draw(40, 4), draw(40, 2))


@pytest.mark.parametrize("which", ["LA", "SA", "BE", "LM"])
def test_tracked_extremes_are_the_untracked_calls(which):
    """Along a run of 40 steps, against all eigenvalues at the same params; later measurements take one round."""
    params, batch = problem()
    k, optimizer = 3, None
    measure = measures.extremes(net, KEY, batch, k=k, which=which, rtol=1e-4)
    optimizer = hj.track(lambda p: p, 8, hj.track(measure, 8, optax.sgd(0.01)))
    trainer = Trainer(net, optimizer, batch)
    state, advance = trainer.start(params), jax.jit(trainer.advance)
    for stop in (1, 9, 17, 25, 33):
        state = advance(state, KEY, stop - 8 if stop > 1 else 0, stop)
        at, found = hj.tracked(state.opt_state)
        exact = np.asarray(hj.eigvalsh(hj.Hessian(net, at, batch)))
        places = {"LA": [-3, -2, -1], "SA": [0, 1, 2], "BE": [0, -2, -1], "LM": np.sort(np.argsort(-np.abs(exact))[:3])}
        assert found.converged.all()
        assert_allclose(found.values, exact[places[which]], atol=2e-4 * np.abs(exact).max())
        assert (found.residuals <= 1e-4 * np.abs(exact).max() * 1.01).all()
        untracked = hj.eigsh(hj.Hessian(net, at, batch), KEY, k=k, which=which)
        assert_allclose(found.values, untracked.values, atol=2e-4 * np.abs(exact).max())
    cold, warm = measure.update(at, measure.init(at), None)
    again, _ = measure.update(at, warm, None)
    assert again.num_matvecs == 10 < cold.num_matvecs


def test_a_new_top_direction_is_seen_by_the_random_vector():
    """A block that holds all other eigenvectors exactly, and not the top one."""
    a = jnp.diag(jnp.array([1.0, 2.0, 3.0, 4.0, 50.0]))
    f = lambda w: w @ a @ w / 2
    measure = measures.extremes(f, KEY)
    value, _ = measure.update(jnp.ones(5), measures.Kept(jnp.eye(5)[2:4], jnp.int32(1)), None)
    assert_allclose(value.values, [50.0], rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_params_zero_curvature_and_repeated_eigenvalues(size):
    measure = measures.extremes(lambda w: 3 * jnp.sum(w**2), KEY, k=size)
    value, _ = measure.update(jnp.ones(size), measure.init(jnp.ones(size)), None)
    assert_allclose(value.values, [6.0] * size, rtol=1e-5)
    flat = measures.extremes(lambda w: 0.0 * jnp.sum(w), KEY, k=size)
    value, _ = flat.update(jnp.ones(size), flat.init(jnp.ones(size)), None)
    assert_array_equal(value.values, 0)
    with pytest.raises(ValueError, match=f"k must be at most {size}"):
        measures.extremes(bowl, KEY, k=size + 1).init(jnp.ones(size))


def test_a_step_that_was_not_finite_is_forgotten():
    quartic = measures.extremes(lambda w: jnp.sum(w**4), KEY)
    lost, state = quartic.update(jnp.array([jnp.nan, 1.0]), quartic.init(jnp.ones(2)), None)
    assert np.isnan(lost.values).all()
    assert not lost.converged.any()
    value, _ = quartic.update(jnp.array([1.0, 2.0]), state, None)
    assert_allclose(value.values, [48.0], rtol=1e-5)


def test_the_gradients_share_in_the_top_subspace(float64):
    params, batch = problem("float64")
    H = hj.Hessian(net, params, batch)
    _, vectors = hj.eigh(H)
    grad = hj.trees.ravel(jax.grad(lambda p: jnp.mean(net(p, batch)))(params))[0]
    measure = measures.overlap(net, KEY, batch, k=4, rtol=1e-7, max_matvecs=10_000)
    value, _ = measure.update(params, measure.init(params), None)
    inside = vectors[:, -4:].T @ grad
    assert_allclose(value.share, inside @ inside / (grad @ grad), rtol=1e-5)
    assert_allclose(value.grad_norm, jnp.linalg.norm(grad))


PRECONDITIONED = {
    "adam": (optax.adam(1e-3, b1=0.0), {}),
    "adam, eps within the root": (optax.adam(1e-3, b1=0.0, b2=0.9, eps=1e-4, eps_root=1e-3),
                                  {"b2": 0.9, "eps": 1e-4, "eps_root": 1e-3}),
    "adamw": (optax.adamw(1e-3, b1=0.0, weight_decay=0.0), {}),
    "amsgrad": (optax.amsgrad(1e-3, b1=0.0), {}),
    "rmsprop": (optax.rmsprop(1e-3, decay=0.9), {}),
    "rmsprop, bias corrected": (optax.rmsprop(1e-3, decay=0.9, bias_correction=True), {"b2": 0.9}),
    "rmsprop, centered": (optax.rmsprop(1e-3, decay=0.9, centered=True, eps=1e-4), {"eps": 1e-4}),
    "adagrad": (optax.adagrad(1e-3), {"eps": 1e-7}),
    "adamax": (optax.adamax(1e-3, b1=0.0), {"preconditioner": lambda state: state[0].nu}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(PRECONDITIONED))
def test_preconditioned_sharpness_is_that_of_the_divided_hessian(float64, name):
    """Against the dense matrix, divided by what the update itself shows: (update without momentum) / gradient."""
    params, batch = problem("float64")
    made, options = PRECONDITIONED[name]
    mean = lambda p: jnp.mean(net(p, batch))
    state, p = made.init(params), params
    for _ in range(5):
        updates, state = made.update(jax.grad(mean)(p), state, p)
        p = optax.apply_updates(p, updates)
    measure = measures.preconditioned_sharpness(net, KEY, batch, rtol=1e-7, max_matvecs=10_000, **options)
    value, _ = measure.update(p, measure.init(p), state)
    # The update just made divided the gradient before it by P of the state it left.
    before = jax.tree.map(lambda a, u: a - u, p, updates)
    divided = jax.tree.map(lambda g, u: -1e-3 * g / u, jax.grad(mean)(before), updates)
    d = np.asarray(hj.trees.ravel(divided)[0]) ** -0.5
    dense = np.asarray(hj.dense(hj.Hessian(net, p, batch)))
    assert_allclose(value.values[0], np.linalg.eigvalsh(d[:, None] * dense * d)[-1], rtol=1e-5)
    fresh, _ = measure.update(params, measure.init(params), made.init(params))
    assert np.isnan(fresh.values).all() == (name != "adagrad")  # its sum begins at .1
    assert (int(fresh.num_matvecs) == 0) == (name != "adagrad" and "preconditioner" not in options)
    assert np.isnan(fresh.residuals).all() == np.isnan(fresh.values).all()


def test_a_log_that_is_a_path_is_told_how_one_is_made(untyped):
    with pytest.raises(TypeError, match=r"log is str, wanted a function such as hj\.tracking\.jsonl\(path\)"):
        hj.track(bowl, 1, log="run.jsonl")


def test_preconditioned_sharpness_needs_second_moments():
    measure = measures.preconditioned_sharpness(bowl, KEY)
    with pytest.raises(ValueError, match=r"inner=optax\.adam.*got none"):
        hj.track(measure, 1).init(jnp.ones(2))
    with pytest.raises(ValueError, match="second moments"):
        hj.track(measure, 1, optax.sgd(0.1)).init(jnp.ones(2))
    with pytest.raises(ValueError, match=r"state ScaleByNovogradState .* give preconditioner="):
        hj.track(measure, 1, optax.novograd(0.1)).init(jnp.ones(2))


def test_other_measures_are_the_calls_they_are_named_after():
    params, batch = problem()
    H = hj.Hessian(net, params, batch)
    same = lambda a, b: jax.tree.map(lambda x, y: assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)
    same(measures.trace(net, KEY, batch)(params), hj.trace(H, KEY, num_probes=8))
    same(measures.negative_fraction(net, KEY, batch, tol=1e-4)(params),
         hj.negative_fraction(H, KEY, tol=1e-4, num_steps=32, num_probes=4))  # fmt: skip
    density = measures.density(net, KEY, batch, num_steps=8, num_probes=2)(params)
    same(density, hj.slq(H, KEY, num_steps=8, num_probes=2))
    tracked = hj.tracked(run_once(hj.track(measures.trace(net, KEY, batch), 1, optax.sgd(0.1)), params))
    same(tracked, hj.trace(H, KEY, num_probes=8))


def run_once(optimizer, params):
    return jax.jit(lambda p: optimizer.update(p, optimizer.init(p), p)[1])(params)


@pytest.mark.parametrize("given", [{"k": 0}, {"which": "top"}, {"rtol": 0.0}, {"max_matvecs": 5}])
def test_measures_that_make_no_sense_are_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        measures.extremes(bowl, KEY, **given)


def test_a_new_top_eigenvalue_of_many_params_is_found_at_the_second_measurement_at_the_latest():
    """Of 200,000, the vectors kept those of others: a random vector holds a few thousandths of it."""
    size = 200_000
    d = np.random.default_rng(0).uniform(-2, 6, size)
    d[:2] = 10, 12
    measure = measures.extremes(lambda w: jnp.sum(jnp.asarray(d, "float32") * w**2) / 2, KEY)
    block = jnp.zeros((2, size)).at[0, 0].set(1).at[1, int(np.argmax(d[2:])) + 2].set(1)
    state, update = measures.Kept(block, jnp.int32(1)), jax.jit(measure.update)
    for _ in range(2):
        value, state = update(jnp.ones(size), state, None)
    assert_allclose(value.values, [12.0], rtol=1e-3)


def test_measurements_draw_vectors_of_their_own():
    """From nothing, on twice the identity, what is left is what was drawn."""
    measure, w = measures.extremes(lambda w: jnp.sum(w**2), KEY), jnp.ones(50)
    begun = measure.init(w)
    zeros = lambda number: measures.Kept(jnp.zeros_like(begun.block), jnp.int32(number))
    drawn = [measure.update(w, zeros(number), None)[1].block for number in (0, 1)]
    first = begun.block / jnp.linalg.norm(begun.block, axis=1, keepdims=True)
    both = np.concatenate([*drawn, first])
    assert np.abs(both @ both.T - np.eye(len(both))).max() < 0.8


@pytest.mark.parametrize("budget", [10, 300])
def test_vectors_that_are_lost_are_drawn_anew(budget):
    """Of twice the identity, after a step that was not finite."""
    measure = hj.measures.extremes(lambda w: jnp.sum(w**2), jax.random.key(0), k=3, max_matvecs=budget)
    begun = measure.init(jnp.ones(10))
    lost = begun._replace(block=jnp.full_like(begun.block, jnp.nan))
    found, _ = measure.update(jnp.ones(10), lost, None)
    assert_allclose(found.values, 2, rtol=1e-5)
    assert found.converged.all()
