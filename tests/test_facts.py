"""What the field has published, as checks: quadrature (Q), random matrices (R), the edge of stability (E).

Facts Q7 (blocks) are in test_projections.py, G (Gauss-Newton) in test_gauss_newton.py, T in test_surfaces.py, R1,
R2, R9 and T6 in test_rmt.py, L in test_linear.py, S in test_teacher.py, W in test_relu.py.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize
from spectra import diagonal, matrix, tridiagonal, within

import hessjax as hj

KEY = jax.random.key(0)
# n = 2000 with the outliers of Q1 and Q3; a random start sees no difference between a diagonal matrix and another.
VALUES = np.r_[[-0.5, 1.0, 2.0, 5.0, 20.0, 100.0], np.random.default_rng(0).uniform(0, 1, 1994)]


def test_q1_a_gauss_rule_is_exact_to_degree_2m_minus_1(float64):
    v = np.random.default_rng(1).standard_normal(2000)
    v /= np.linalg.norm(v)
    t = hj.lanczos(diagonal(VALUES, "float64"), KEY, num_steps=12, start=jnp.asarray(v))
    nodes, vectors = np.linalg.eigh(tridiagonal(t))
    for k in range(24):
        assert vectors[0] ** 2 @ nodes**k == pytest.approx(v**2 @ VALUES**k, rel=1e-10)


def test_q3_ghosts_are_copies_of_an_outlier_and_share_its_weight(dtype):
    op = diagonal(VALUES, dtype)
    runs = {r: hj.lanczos(op, KEY, num_steps=150, reorthogonalize=r) for r in ("full", "none")}
    copies = {r: int(np.sum(np.linalg.eigvalsh(tridiagonal(t)) > 50)) for r, t in runs.items()}
    assert copies["full"] == 1
    assert copies["none"] > 10  # 22 in float64 and 35 in float32 were seen
    q = np.asarray(runs["full"].basis, float)
    assert np.abs(q @ q.T - np.eye(150)).max() < 10 * float(jnp.finfo(dtype).eps)
    full, none = (hj.slq(op, KEY, num_steps=150, num_probes=2, reorthogonalize=r) for r in ("full", "none"))
    above = lambda rule: np.where(np.asarray(rule.nodes) > 50, rule.weights, 0).sum(1)
    np.testing.assert_allclose(above(none), above(full), atol=1e-6)
    assert np.sum((np.asarray(full.nodes) > 50) & (np.asarray(full.weights) > 0), 1).tolist() == [1, 1]


def test_three_outliers_are_three_in_float32():
    # Rivals count 10 to 51 Ritz values above 10 in 80 steps.
    values = np.r_[[100.0, 50.0, 20.0], np.random.default_rng(0).uniform(0, 1, 1997)]
    t = hj.lanczos(diagonal(values), KEY, num_steps=80)
    assert np.sum(np.linalg.eigvalsh(tridiagonal(t)) > 10) == 3
    found = hj.eigsh(diagonal(values), KEY, k=5)
    assert np.sum(np.asarray(found.values) > 10) == 3
    np.testing.assert_allclose(found.values[2:], [20, 50, 100], rtol=1e-5)


def test_q4_hutchinsons_variance_is_the_formula_and_the_error_says_it(float64):
    a = matrix(np.random.default_rng(0).standard_normal(12) * 3)
    found = hj.trace(hj.Matrix(jnp.asarray(a)), KEY, num_probes=200_000, method="hutchinson")
    variance = 2 * (np.linalg.norm(a) ** 2 - (np.diag(a) ** 2).sum())
    assert float(found.std_error) ** 2 * 200_000 == pytest.approx(variance, rel=0.02)
    assert within(found, np.trace(a))


def test_q6_spectral_densitys_kernel_is_a_width(float64):
    # google/spectral-density: sigma_squared = 1e-5 is the variance over the range, the grid ends .01 beyond the nodes.
    one = jnp.ones((2, 1))
    q = hj.Quadrature(jnp.array([[0.0], [1.0]]), one, jnp.asarray(0.0), jnp.int32(2))  # T = 0 and T = 1, a draw each
    grid, width = np.linspace(-0.01, 1.01, 10_000), np.sqrt(1e-5 * 1.0)
    curve = np.asarray(hj.density(q, grid, width=width).value)
    total = np.sum(curve) * (grid[1] - grid[0])
    assert total == pytest.approx(0.9992, abs=1e-4)  # of which the tails outside are 7.8e-4; they renormalise
    for centre in (0.0, 1.0):
        assert grid[np.argmax(np.where(np.abs(grid - centre) < 0.5, curve, 0))] == pytest.approx(centre, abs=1e-4)
        peak = 1 / (2 * width * np.sqrt(2 * np.pi))
        shape = peak * np.exp(-((grid - centre) ** 2) / (2 * width**2))
        np.testing.assert_allclose(curve[np.abs(grid - centre) < 0.5], shape[np.abs(grid - centre) < 0.5], atol=1e-9)
    wide = np.linspace(-0.05, 1.05, 10_000)
    assert np.sum(hj.density(q, wide, width=width).value) * (wide[1] - wide[0]) == pytest.approx(1, abs=1e-6)


def test_r2_the_moments_of_wishart_plus_wigner(float64):
    # Pennington & Bahri (2017): H = (1/m) J J' + Wigner of variance 2 eps, phi = n / m.
    rng, n, phi, eps = np.random.default_rng(0), 1500, 0.25, 0.5
    j, w = rng.standard_normal((n, int(n / phi)), "float32"), rng.standard_normal((n, n), "float32")
    h = np.float64(j @ j.T) * phi / n + np.sqrt(eps / n) * np.float64(w + w.T)
    r = phi + 2 * eps
    formulas = [1, 1 + r, phi**2 + 3 * r + 1, phi**3 + 4 * phi**2 + 2 * r**2 + 6 * r + 1]
    np.testing.assert_allclose(formulas, [1, 2.25, 4.8125, 11.890625])
    h2 = h @ h
    exact = [np.trace(h) / n, np.trace(h2) / n, np.sum(h * h2) / n, np.sum(h2 * h2) / n]
    np.testing.assert_allclose(exact, formulas, rtol=3e-3)
    q = hj.slq(hj.Matrix(jnp.asarray((h + h.T) / 2)), KEY, num_steps=8, num_probes=40)
    for k, moment in enumerate(exact, start=1):
        found = hj.spectral_function(q, lambda x, k=k: x**k)
        assert within(found, moment)
        assert float(found.std_error) < 0.02 * moment


@pytest.mark.parametrize(("theta", "overlap"), [(2.0, 0.75), (3.0, 8 / 9), (0.5, None)])
def test_r9_the_outlier_of_a_spiked_wigner_matrix(theta, overlap):
    # Baik, Ben Arous & Peche: theta + 1/theta and squared overlap 1 - 1/theta^2 above theta = 1; the bulk's edge below.
    g = np.random.default_rng(7).standard_normal((1000, 1000))
    u = np.ones(1000) / 1000**0.5
    a = (g + g.T) / (2 * 1000) ** 0.5 + theta * np.outer(u, u)
    found = hj.eigsh(hj.Matrix(jnp.asarray(a, "float32")), KEY, k=1)
    assert bool(found.converged[0])
    assert float(found.values[0]) == pytest.approx(2 if overlap is None else theta + 1 / theta, abs=0.06)
    squared = float(found.vectors[0] @ jnp.asarray(u, "float32")) ** 2
    assert squared < 0.1 if overlap is None else squared == pytest.approx(overlap, abs=0.03)


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("gd", lambda b: 2.0),
        ("polyak", lambda b: 2 + 2 * b),
        ("nesterov", lambda b: (2 + 2 * b) / (1 + 2 * b)),
        ("ema", lambda b: (2 + 2 * b) / (1 - b)),
    ],
)
def test_e1_training_is_stable_up_to_the_published_curvature(name, threshold, float64):
    # The step of optax on lambda x^2 / 2 is linear in (x, momentum): its spectral radius passes 1 at the threshold.
    rate, beta = 0.01, 0.9
    optimizer = {
        "gd": optax.sgd(rate),
        "polyak": optax.sgd(rate, momentum=beta),
        "nesterov": optax.sgd(rate, momentum=beta, nesterov=True),
        "ema": optax.chain(optax.ema(beta, debias=False), optax.scale(-rate)),  # Adam's first moment
    }[name]
    state, unravel = jax.flatten_util.ravel_pytree((jnp.zeros(()), optimizer.init(jnp.zeros(()))))

    def radius(curvature):
        def step(flat):
            x, inner = unravel(flat)
            update, inner = optimizer.update(curvature * x, inner, x)
            return jax.flatten_util.ravel_pytree((x + update, inner))[0]

        kept = sorted({0, state.size - 1})  # x and the momentum, without the count that ema keeps
        return np.abs(np.linalg.eigvals(np.asarray(jax.jacobian(step)(state))[np.ix_(kept, kept)])).max()

    critical = threshold(beta) / rate
    assert critical == pytest.approx({"gd": 200, "polyak": 380, "nesterov": 135.7142857, "ema": 3800}[name])
    assert radius((1 - 1e-6) * critical) < 1 < radius((1 + 1e-6) * critical)


@pytest.mark.parametrize("rows", [48, 64, 96, 128])
def test_r6_minimisers_of_a_net_that_memorises_noise_have_the_energy_of_the_law(rows, float64):
    # 16-16-16 tanh, no biases, energy averaged over outputs: (1 - phi)^2 / 2 with phi = 32 / rows, not (1 - phi) / 2.
    energies = []
    for seed in range(3):
        land = hj.landscapes.get("memorization", rows=rows, data_seed=seed, dtype="float64")
        start, unravel = jax.flatten_util.ravel_pytree(jax.jit(land.init)(jax.random.key(seed)))
        mean = lambda w, land=land, unravel=unravel: jnp.mean(land.loss(unravel(w), land.batch)) / 16
        both = jax.jit(jax.value_and_grad(mean))
        found = optimize.minimize(
            lambda w, both=both: tuple(map(np.asarray, both(w))), start, jac=True, method="L-BFGS-B",
            options={"maxiter": 6000, "maxfun": 20_000, "ftol": 0, "gtol": 1e-9},
        )  # fmt: skip
        energies.append(found.fun)
    phi = 512 / (rows * 16)
    assert np.mean(energies) == pytest.approx(float(hj.rmt.minimizer_energy(phi)), rel=0.2)
    assert np.mean(energies) < 0.85 * (1 - phi) / 2


def test_l8_points_where_newtons_method_ends_are_of_the_known_classes(float64):
    # k = 6, p = 2: starts uniform in loss along gradient descent, half of them moved; Newton with a pseudo-inverse and
    # backtracking on |g|^2 (Frye et al. 2019, arXiv:1901.10603).
    land = hj.landscapes.get("autoencoder", inputs=6, hidden=2, dtype="float64")
    start, unravel = jax.flatten_util.ravel_pytree(land.init(jax.random.key(3)))
    mean = lambda w: jnp.mean(land.loss(unravel(w), land.batch))
    gradient, hessian = jax.grad(mean), jax.hessian(mean)
    squared = lambda w: jnp.sum(gradient(w) ** 2)
    step = lambda w, _: (w - 0.02 * gradient(w), w)
    path = jax.jit(lambda w: jax.lax.scan(step, w, length=3000)[1])(start)
    losses = np.asarray(jax.vmap(mean)(path))
    starts = path[np.abs(losses[:, None] - np.linspace(losses[0], losses[-1], 40)).argmin(0)]
    moved = starts.at[::2].add(0.1 * jax.random.normal(jax.random.key(1), starts[::2].shape))

    def newton(w, _):
        g, h = gradient(w), hessian(w)
        values, vectors = jnp.linalg.eigh(h)
        kept = jnp.abs(values) > 1e-4 * jnp.abs(values).max()
        p = -vectors @ (jnp.where(kept, 1 / jnp.where(kept, values, 1), 0) * (vectors.T @ g))
        scales = 0.5 ** jnp.arange(25.0)
        tried = jax.vmap(lambda t: squared(w + t * p))(scales)
        wanted = squared(w) + jnp.where(scales == 1, 0.5, 1e-4) * scales * (2 * p @ h @ g)
        found = jnp.argmax(tried <= wanted)
        return jnp.where(tried[found] <= wanted[found], w + scales[found] * p, w), None

    ends = jax.jit(lambda s: jax.lax.map(lambda w: jax.lax.scan(newton, w, length=200)[0], s))(moved)
    norms = np.asarray(jax.vmap(squared)(ends))
    ok = norms < 1e-10
    assert ok.mean() >= 0.45
    classes = {(round(p["loss"], 6), p["index"]) for p in land.facts["critical_points"]}
    for w in np.asarray(ends)[ok]:
        index = int((np.linalg.eigvalsh(np.asarray(hessian(jnp.asarray(w)))) < -1e-5).sum())
        assert any(abs(float(mean(w)) - loss) < 1e-6 + 5e-7 and index == known for loss, known in classes)
    assert len({round(float(mean(w)), 4) for w in np.asarray(ends)[ok]}) >= 3
