"""Spin glasses and random fields: closed forms against autodiff, statistics against their laws, laws against points."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import hessjax as hj
from hessjax.landscapes import glass

EPS = np.finfo(float).eps
SHAPES = [(2, 7), (3, 2), (3, 6), (4, 5), (5, 3)]  # order, size


def close(found, wanted, terms):
    """Equal but for rounding in sums of that many terms, none larger than the largest result."""
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=16 * EPS * terms * np.abs(wanted).max())


def critical_points(land, starts, flow_steps, keep=lambda x: x):
    """Levenberg-Marquardt on the squared gradient after some steps downhill; those that reach gradients of rounding.

    keep maps a point back to where the search is to stay.
    """
    size, found = starts.shape[1], []
    gradient, hessian = land.facts["gradient"], land.facts["hessian"]
    for x, steps in zip(starts, flow_steps, strict=True):
        unit = 1 / np.linalg.norm(hessian(x), 2)
        for _ in range(steps):
            x = keep(x - 0.1 * unit * gradient(x))
        damping, g = 1.0, unit * gradient(x)
        for _ in range(60):
            h = unit * hessian(x)
            trial = keep(x - np.linalg.solve(h @ h + damping * (g @ g) * np.eye(size), h @ g))
            after = unit * gradient(trial)
            down = after @ after < g @ g
            x, g, damping = (trial, after, damping / 4) if down else (x, g, damping * 4)
        if g @ g < 1e-24:
            found.append(x)
    return np.array(found)


def on_sphere(x):
    return math.sqrt(x.size) * x / np.linalg.norm(x)


def glass_points(seed, size=40, order=3, num_starts=36, well=1.0):
    land = glass.p_spin(size=size, order=order, couplings_seed=seed, well=well, dtype="float64")
    starts = np.random.default_rng(seed).standard_normal((num_starts, size))
    flow = np.tile([0, 4, 12, 25, 50, 100], num_starts // 6)
    return land, critical_points(land, np.array([on_sphere(x) for x in starts]), flow, on_sphere)


@pytest.mark.parametrize(("order", "size"), SHAPES)
def test_the_loss_is_the_polynomial_of_its_couplings_on_the_sphere(order, size, float64):
    land = glass.p_spin(size=size, order=order, well=3.0, couplings_seed=5, dtype="float64")
    couplings = np.random.default_rng(5).standard_normal((size,) * order)
    x = np.random.default_rng(1).standard_normal(size)
    s = on_sphere(x)
    energy = couplings
    for _ in range(order):
        energy = s @ energy.reshape(size, -1)
    energy = energy[0] * size ** (-(order - 1) / 2) / size
    off = np.linalg.norm(x) / math.sqrt(size) - 1
    assert float(land.loss(jnp.asarray(s))) == pytest.approx(energy, abs=16 * EPS * size**order)
    assert float(land.loss(jnp.asarray(x))) == pytest.approx(energy + 1.5 * off**2, abs=16 * EPS * size**order)


@pytest.mark.parametrize(("order", "size"), SHAPES)
def test_gradient_and_hessian_of_a_glass_are_those_of_its_loss(order, size, float64):
    land = glass.p_spin(size=size, order=order, well=2.5, couplings_seed=3, dtype="float64")
    for x in np.random.default_rng(0).standard_normal((3, size)):
        x *= 1.5
        close(land.facts["gradient"](x), jax.jit(jax.grad(land.loss))(x), size**order)
        close(land.facts["hessian"](x), jax.jit(jax.hessian(land.loss))(x), size**order)


@pytest.mark.parametrize(("order", "size"), [(2, 3), (3, 3), (4, 2)])
def test_the_derivative_rule_of_the_form_is_that_of_its_contractions(order, size, float64):
    land = glass.p_spin(size=size, order=order, couplings_seed=2, dtype="float64")
    couplings = jnp.asarray(np.random.default_rng(2).standard_normal((size,) * order)) / math.sqrt(size)

    def plain(x):
        t, length = couplings, jnp.linalg.norm(x)
        for _ in range(order):
            t = (x / length) @ t.reshape(size, -1)
        return t[0] + 0.5 * (length / math.sqrt(size) - 1) ** 2

    x = jnp.asarray(np.random.default_rng(0).standard_normal(size))
    for derivative in (lambda f: jax.jacrev(jax.grad(f)), lambda f: jax.jacfwd(jax.hessian(f))):
        close(jax.jit(derivative(land.loss))(x), jax.jit(derivative(plain))(x), size**order)


@pytest.mark.parametrize(("order", "overlap"), [(2, 0.6), (3, -0.8), (4, 0.7)])
def test_energies_have_the_covariance_of_the_model(order, overlap, float64):
    size, draws = 3, 600
    s = math.sqrt(size) * np.array([1.0, 0.0, 0.0])
    t = math.sqrt(size) * np.array([overlap, math.sqrt(1 - overlap**2), 0.0])
    pair = jnp.asarray(np.stack([s, t]))
    energies = np.array([
        jax.vmap(glass.p_spin(size=size, order=order, couplings_seed=k, dtype="float64").loss)(pair)
        for k in range(draws)
    ])  # fmt: skip
    h = size * energies
    for products, wanted in ((h[:, 0] ** 2, size), (h[:, 1] ** 2, size), (h[:, 0] * h[:, 1], size * overlap**order)):
        assert abs(products.mean() - wanted) <= 4 * products.std() / math.sqrt(draws)
    assert np.all(np.abs(h.mean(0)) <= 4 * math.sqrt(size / draws))


@pytest.mark.parametrize(("order", "size"), SHAPES)
def test_on_the_sphere_the_radius_has_the_wells_curvature_and_mixes_with_the_gradient(order, size, float64):
    land = glass.p_spin(size=size, order=order, well=1.7, dtype="float64")
    x = np.asarray(land.init(jax.random.key(2)))
    h, g = jax.jit(lambda x: (jax.hessian(land.loss)(x), jax.grad(land.loss)(x)))(x)
    u = x / math.sqrt(size)
    close(h @ u, 1.7 / size * u - np.asarray(g) / math.sqrt(size), size**order)


@pytest.mark.parametrize(("order", "size", "well"), [(3, 12, 1.0), (4, 8, 30.0)])
def test_at_critical_points_one_eigenvalue_is_radial_and_the_rest_are_riemannian(order, size, well, float64):
    land, points = glass_points(4, size=size, order=order, num_starts=12, well=well)
    assert len(points) >= 3
    homogeneous = lambda x: (land.loss(x) - well_part(x)) * (jnp.linalg.norm(x) / math.sqrt(size)) ** order
    well_part = lambda x: 0.5 * well * (jnp.linalg.norm(x) / math.sqrt(size) - 1) ** 2
    ambient, euclidean = jax.jit(jax.hessian(land.loss)), jax.jit(jax.hessian(homogeneous))
    slope = jax.jit(jax.grad(homogeneous))
    for x in points:
        h, u = np.asarray(ambient(x)), x / np.linalg.norm(x)
        # Of a gradient of 1e-12 of the curvature, which is left, the Hessian mixes 1 / |x| into the radius.
        atol = (1e-12 + 16 * EPS * size**order) * np.abs(h).max()
        assert land.facts["radial_eigenvalue"] == well / size
        np.testing.assert_allclose(h @ u, well / size * u, atol=atol)
        tangent = np.linalg.qr(np.column_stack([u, np.eye(size)[:, 1:]]))[0][:, 1:]
        # Hess = P (Euclidean Hessian) P - (x . Euclidean gradient) / N on the sphere of radius sqrt(N).
        riemannian = tangent.T @ euclidean(x) @ tangent - x @ slope(x) / size * np.eye(size - 1)
        np.testing.assert_allclose(tangent.T @ h @ tangent, riemannian, atol=atol)
        wanted = np.sort([*np.linalg.eigvalsh(riemannian), well / size])
        np.testing.assert_allclose(np.linalg.eigvalsh(h), wanted, atol=atol)


@pytest.mark.parametrize("size", [2, 5, 12])
def test_the_two_spin_glass_has_2n_critical_points_with_every_index_twice(size, float64):
    land = glass.p_spin(size=size, order=2, well=0.7, couplings_seed=size, dtype="float64")
    facts = land.facts["critical_points"]
    assert sorted(f["index"] for f in facts) == sorted([*range(size)] * 2)
    assert [f["kind"] for f in facts] == ["minimum"] * 2 + ["strict saddle"] * (2 * size - 2)
    assert len({f["name"] for f in facts}) == 2 * size
    points = jnp.asarray(np.stack([f["point"] for f in facts]))
    losses, slopes, hessians = jax.jit(
        lambda x: (jax.vmap(land.loss)(x), jax.vmap(jax.grad(land.loss))(x), jax.vmap(jax.hessian(land.loss))(x))
    )(points)
    counts, atol = hj.inertia(hessians, tol=1e-12), 16 * EPS * size**2
    np.testing.assert_allclose(losses, [f["loss"] for f in facts], atol=atol)
    np.testing.assert_allclose(slopes, 0, atol=atol)
    assert counts.negative.tolist() == [f["index"] for f in facts]
    assert counts.zero.tolist() == [f["nullity"] for f in facts]
    np.testing.assert_allclose(np.linalg.eigvalsh(hessians), [f["eigenvalues"] for f in facts], atol=atol)
    lowest = land.facts["lower_bound"]
    assert lowest == min(f["loss"] for f in facts)
    starts = jax.vmap(land.init)(jax.random.split(jax.random.key(0), 50))
    assert (jax.vmap(land.loss)(starts) >= lowest).all()


@pytest.mark.parametrize("order", [2, 3, 4])
def test_antipodes_mirror_the_energy_as_the_parity_of_the_order_says(order, float64):
    land = glass.p_spin(size=6, order=order, dtype="float64")
    x = np.asarray(land.init(jax.random.key(3)))
    sign = (-1) ** order
    close(land.loss(jnp.asarray(-x)), sign * land.loss(jnp.asarray(x)), 6**order)
    radial = np.outer(x, x) / 6**2  # the well's, which does not change sign
    close(land.facts["hessian"](-x) - radial, sign * (land.facts["hessian"](x) - radial), 6**order)
    assert f"{'even' if order % 2 == 0 else 'odd'} order" in " ".join(land.facts["notes"])


def test_the_index_at_critical_points_is_that_of_their_energy(float64):
    # Given its energy the tangent Hessian is a shifted Gaussian matrix of n = N - 1 rows, weighted by |det|. Its number
    # of negative eigenvalues has a standard deviation of sqrt(log n) / pi in the bulk, and a mean within one eigenvalue
    # of n times the law: 1/4 from the 1/N term of the orthogonal ensemble's density, 1/2 from the weight (a matrix of
    # one row more, with an eigenvalue at 0) and at most 1/2 x 1/pi from the radius, sqrt((N - 1) / N) of the law's.
    size, off, energies = 40, [], []
    for seed in range(3):
        land, points = glass_points(seed, size=size)
        gradient, hessian = jax.jit(jax.grad(land.loss)), jax.jit(jax.hessian(land.loss))
        for x in points:
            assert float(jnp.sum(gradient(x) ** 2)) < 1e-18
            negative = int((np.linalg.eigvalsh(hessian(x)) < 0).sum())
            energies.append(float(land.loss(jnp.asarray(x))))
            off.append(negative - (size - 1) * float(land.facts["index_law"](energies[-1])))
    off, spread = np.array(off), math.sqrt(math.log(size - 1)) / math.pi
    assert len(off) >= 40
    assert min(energies) < -1.4
    assert max(energies) > 0.1
    assert np.abs(off).max() <= 4 * spread + 1
    assert 4 * spread + 1 < math.sqrt(size)  # sharper than the O(1/sqrt(N)) of the theorem
    assert abs(off.mean()) <= 1 + 4 * spread / math.sqrt(len(off))


@pytest.mark.parametrize("order", [2, 3, 7])
def test_the_index_law_is_the_semicircle_below_its_shift(order):
    radius, threshold = 2 * math.sqrt(order * (order - 1)), glass.threshold_energy(order)
    energies = threshold * np.array([[0.9, 0.3], [0.0, -0.7]])
    density = lambda x: 2 / (math.pi * radius**2) * math.sqrt(max(radius**2 - x**2, 0.0))
    wanted = [[quad(density, -radius, order * e)[0] for e in row] for row in energies]
    np.testing.assert_allclose(glass.p_spin_index(energies, order), wanted, atol=1e-8)  # quad's own tolerance
    assert glass.p_spin_index(energies, order).dtype == np.float64


@pytest.mark.parametrize("order", [2, 3, 7])
def test_the_index_vanishes_at_the_threshold_with_exponent_three_halves(order):
    threshold = glass.threshold_energy(order)
    assert threshold == pytest.approx(-2 * math.sqrt(1 - 1 / order), rel=4 * EPS)
    assert glass.p_spin_index([threshold, 2 * threshold, -threshold], order).tolist() == [0, 0, 1]
    # t - sin t cos t = 2 t^3 / 3 (1 - t^2 / 5 + ..), and t^2 = 2 d (1 + d / 6 + ..) at a depth d in units of E_inf; the
    # energy holds the depth to eps / depth.
    for depth in (1e-3, 1e-6):
        found = float(glass.p_spin_index(threshold * (1 - depth), order))
        assert found == pytest.approx(2 / (3 * math.pi) * (2 * depth) ** 1.5, rel=depth + 8 * EPS / depth)


def test_the_ground_state_energy_is_where_the_complexity_vanishes():
    assert glass.ground_state_energy(2) == glass.threshold_energy(2) == pytest.approx(-math.sqrt(2), rel=4 * EPS)
    assert glass.ground_state_energy(3) == pytest.approx(-1.657, abs=5e-4)
    for order in (3, 4, 10, 1000):
        edge, deep = -glass.threshold_energy(order), -glass.ground_state_energy(order)
        tail, _ = quad(lambda z, e: math.sqrt(z * z - e * e), edge, deep, args=(edge,), epsabs=1e-12)
        published = 0.5 * math.log(order - 1) - (order - 2) / (4 * (order - 1)) * deep**2 - 2 / edge**2 * tail
        assert abs(published) < 1e-9


@pytest.mark.parametrize("length", [0.5, 2.0])
@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_gradient_and_hessian_of_a_field_are_those_of_its_loss(dimension, length, float64):
    land = glass.gaussian_field(
        dimension=dimension, length=length, confinement=0.3, num_features=50, field_seed=9, dtype="float64"
    )
    for x in np.random.default_rng(0).standard_normal((3, dimension)):
        parabola = 0.15 * x @ x
        terms = 50 * dimension
        assert float(land.loss(jnp.asarray(x))) == pytest.approx(land.facts["field"](x) + parabola, abs=1e-12)
        close(land.facts["gradient"](x), jax.jit(jax.grad(land.loss))(x), terms)
        close(land.facts["hessian"](x), jax.jit(jax.hessian(land.loss))(x), terms)


@pytest.mark.parametrize(("dimension", "length", "num_features"), [(1, 1.0, 1), (2, 0.7, 3), (8, 1.5, 40)])
def test_field_values_are_normal_with_the_covariance_of_the_kernel(dimension, length, num_features):
    draws, x = 1000, np.zeros(dimension)
    y = np.full(dimension, 0.9 * length)  # |x - y|^2 = 0.81 N length^2
    fields = [
        glass.gaussian_field(dimension=dimension, length=length, num_features=num_features, field_seed=k).facts["field"]
        for k in range(draws)
    ]
    v = np.array([(field(x), field(y)) for field in fields]) / math.sqrt(dimension)
    for products, wanted in (
        (v[:, 0], 0),
        (v[:, 0] ** 2, 1),
        (v[:, 1] ** 2, 1),
        (v[:, 1] ** 4, 3),
        (v[:, 0] * v[:, 1], math.exp(-0.81 / 2)),
    ):
        assert abs(products.mean() - wanted) <= 4 * products.std() / math.sqrt(draws)


def test_few_waves_give_the_hessian_the_fourth_moment_of_their_number():
    # H = -sum_m c_m w_m w_m', c_m ~ N(0, N/M): the pairings of tr H^4 by the moments of normal vectors. As N and M grow
    # it is 2 + 3 N/M, the semicircle's fourth moment and the free kurtosis.
    n, m, draws = 6, 24, 500
    quarter = [
        np.linalg.matrix_power(
            glass.gaussian_field(dimension=n, num_features=m, field_seed=k).facts["hessian"](np.ones(n)), 4
        ).trace()
        / n
        for k in range(draws)
    ]
    alone = 3 * (n + 2) * (n + 4) * (n + 6) / n**3 * n / m
    paired = n * (1 - 1 / m) * (2 * (n + 2) ** 2 + 3 * (n + 2)) / n**3
    assert abs(np.mean(quarter) - alone - paired) <= 4 * np.std(quarter) / math.sqrt(draws)


KERNELS = {
    "exponential": (lambda z: jnp.exp(-z), (1.0, -1.0, 1.0)),
    "wide": (lambda z: 2 * jnp.exp(-z / 9), (2.0, -2 / 9, 2 / 81)),
    "rational": (lambda z: 1 / (1 + z), (1.0, -1.0, 2.0)),
}


def value_and_hessian_covariance(f, n):
    """Of (V, V_ij for i <= j) at one point, by differentiating E[V(x) V(y)] = n f(|x - y|^2 / 2n) in x and in y."""
    upper = np.triu_indices(n)
    covariance = lambda x, y: n * f(jnp.sum((x - y) ** 2) / (2 * n))
    at = jnp.zeros(n)
    both = jax.jit(jax.hessian(lambda x: jax.hessian(covariance, 1)(x, at)[upper]))(at)
    cross = jax.jit(jax.hessian(covariance, 1))(at, at)[upper]
    full = np.block([[np.array([[covariance(at, at)]]), cross[None]], [cross[:, None], both[:, *upper]]])
    return full, upper


@pytest.mark.parametrize("name", KERNELS)
def test_the_hessian_given_the_value_has_the_law_that_the_index_is_read_from(name, float64):
    f, (variance, slope, curvature) = KERNELS[name]
    n = 5
    full, (i, j) = value_and_hessian_covariance(f, n)
    same = (i == j).astype(float)
    given = full[1:, 1:] - np.outer(full[1:, 0], full[0, 1:]) / full[0, 0]
    np.testing.assert_allclose(full[1:, 0] / full[0, 0], slope / (n * variance) * same, atol=1e-14)
    gaussian = curvature / n * (np.diag(1 + same))
    shared = (curvature - slope**2 / variance) / n * np.outer(same, same)
    np.testing.assert_allclose(given, gaussian + shared, atol=1e-14)


@pytest.mark.parametrize("name", KERNELS)
def test_the_law_of_a_field_is_the_semicircle_below_its_shift(name):
    variance, slope, curvature = kernel = KERNELS[name][1]
    radius, confinement = 2 * math.sqrt(curvature), 0.3 * math.sqrt(curvature)
    density = lambda x: 2 / (math.pi * radius**2) * math.sqrt(max(radius**2 - x**2, 0.0))
    shifts = radius * np.array([-0.95, -0.4, 0.0, 0.7])
    wanted = [quad(density, -radius, -shift)[0] for shift in shifts]
    values = (shifts - confinement) * variance / slope
    found = glass.bray_dean_index(values, kernel=kernel, confinement=confinement)
    np.testing.assert_allclose(found, wanted, atol=1e-8)  # quad's own tolerance


@pytest.mark.parametrize("name", KERNELS)
def test_the_index_of_a_gaussian_hessian_given_its_value_is_the_law(name, float64):
    # 1/4 of an eigenvalue from the 1/N term of the orthogonal ensemble's density, and less from the shared shift.
    f, kernel = KERNELS[name]
    n, draws = 16, 400
    full, (i, j) = value_and_hessian_covariance(f, n)
    given = full[1:, 1:] - np.outer(full[1:, 0], full[0, 1:]) / full[0, 0]
    scales, axes = np.linalg.eigh(given)
    noise = np.random.default_rng(1).standard_normal((draws, len(given))) * np.sqrt(np.maximum(scales, 0)) @ axes.T
    edge = 2 * math.sqrt(kernel[2]) * kernel[0] / -kernel[1]
    confinement = 0.4 * math.sqrt(kernel[2])
    for value in edge * np.array([-0.5, 0.0, 0.2, 0.8]):
        h = np.zeros((draws, n, n))
        h[:, i, j] = h[:, j, i] = noise + value * n * full[1:, 0] / full[0, 0]
        for added in (0.0, confinement):
            shares = (np.linalg.eigvalsh(h + added * np.eye(n)) < 0).mean(1)
            wanted = float(glass.bray_dean_index(value, kernel=kernel, confinement=added))
            assert abs(shares.mean() - wanted) <= 0.5 / n + 4 * shares.std() / math.sqrt(draws)


@pytest.mark.parametrize("confinement", [0.0, 0.2])
def test_the_index_at_critical_points_of_a_field_is_that_of_its_value(confinement, float64):
    # As for the glass. A free kurtosis of k moves the share by at most k / (4 pi), here a tenth of an eigenvalue.
    n, num_features, num_starts = 20, 1000, 30
    land = glass.gaussian_field(
        dimension=n, num_features=num_features, confinement=confinement, field_seed=2, dtype="float64"
    )
    starts = 2 * np.random.default_rng(0).standard_normal((num_starts, n))
    points = critical_points(land, starts, np.tile([0, 1, 3, 6, 10, 20], num_starts // 6))
    gradient, hessian = jax.jit(jax.grad(land.loss)), jax.jit(jax.hessian(land.loss))
    spread, off, values = math.sqrt(math.log(n)) / math.pi, [], []
    for x in points:
        assert float(jnp.sum(gradient(x) ** 2)) < 1e-18
        values.append(land.facts["field"](x) / n)
        negative = int((np.linalg.eigvalsh(hessian(x)) < 0).sum())
        off.append(negative - n * float(land.facts["index_law"](values[-1])))
    assert len(off) >= 8
    assert max(values) - min(values) > 0.5
    assert np.abs(off).max() <= 4 * spread + 1
    assert abs(np.mean(off)) <= 1 + 4 * spread / math.sqrt(len(off))


def test_the_index_of_a_field_grows_with_its_value_from_none_to_all():
    values = np.linspace(-3, 3, 61)
    shares = glass.bray_dean_index(values)
    assert (np.diff(shares) >= 0).all()
    assert shares[values <= -2].max() == 0
    assert shares[values >= 2].min() == 1
    np.testing.assert_allclose(shares + shares[::-1], 1, atol=4 * EPS)
    length, confinement = 3.0, 0.1
    land = glass.gaussian_field(length=length, confinement=confinement)
    # eps (f'/f) + mu over 2 sqrt(f''), with f(z) = exp(-z / length^2)
    np.testing.assert_allclose(
        land.facts["index_law"](values), glass.bray_dean_index(values - confinement * length**2), atol=64 * EPS
    )


def test_a_field_in_the_plane_can_be_drawn(dtype):
    land = glass.gaussian_field(dtype=dtype)
    ticks = np.linspace(-3, 3, 15)
    grid = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1)
    heights = jax.jit(jax.vmap(jax.vmap(land.loss)))(jnp.asarray(grid, dtype))
    wanted = [[land.facts["field"](x) for x in row] for row in grid]
    assert heights.dtype == jnp.dtype(dtype)
    # Frequencies, points and angles are each rounded by half an eps; angles are below 20, under waves whose amplitudes
    # add up to about sqrt(pi / 2) sqrt(N M).
    atol = 3 / 2 * 20 * float(jnp.finfo(dtype).eps) * math.sqrt(math.pi / 2 * 2 * 1024)
    np.testing.assert_allclose(heights, wanted, atol=atol)


def test_numpy_numbers_are_numbers(untyped, float64):
    # A NumPy float would widen a float32 loss under x64, and a NumPy order would multiply a shape and not repeat it.
    land = glass.p_spin(size=np.int64(3), order=np.int32(3), well=np.float64(2.0))
    assert land.loss(jnp.ones(3, "float32")).dtype == jnp.float32
    field = glass.gaussian_field(length=np.float64(2.0), confinement=np.float64(1.0))
    assert field.loss(field.init(jax.random.key(0))).dtype == jnp.float32
    assert glass.p_spin_index(0.0, np.int64(3)) == 0.5


LANDSCAPES = [(glass.p_spin, {"size": 6, "order": 3}, "couplings_seed"), (glass.gaussian_field, {}, "field_seed")]


@pytest.mark.parametrize(("factory", "options", "seed"), LANDSCAPES)
def test_a_seed_is_the_identity_of_its_surface(factory, options, seed, float64):
    one, again = (factory(**options, **{seed: 7}, dtype="float64") for _ in range(2))
    other = factory(**options, **{seed: 8}, dtype="float64")
    x = one.init(jax.random.key(1))
    assert float(one.loss(x)) == float(again.loss(x)) != float(other.loss(x))
    np.testing.assert_array_equal(x, other.init(jax.random.key(1)))


@pytest.mark.parametrize(("factory", "options", "seed"), LANDSCAPES)
def test_losses_keep_their_dtype_under_jit_and_vmap_and_their_hessians_are_the_facts(factory, options, seed, dtype):
    land = factory(**options, dtype=dtype)
    starts = jax.jit(jax.vmap(land.init))(jax.random.split(jax.random.key(0), 4))
    losses = jax.jit(jax.vmap(land.loss))(starts)
    assert (starts.dtype, losses.dtype) == (jnp.dtype(dtype), jnp.dtype(dtype))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(losses, [land.loss(x) for x in starts], atol=1000 * eps)
    op = hj.Hessian(land.loss, starts[0])
    wanted = land.facts["hessian"](starts[0])
    np.testing.assert_allclose(hj.dense(op), wanted, atol=1000 * eps * np.abs(wanted).max())


def test_a_glass_starts_uniformly_on_its_sphere(dtype):
    land = glass.p_spin(size=5, order=3, dtype=dtype)
    starts = np.asarray(jax.vmap(land.init)(jax.random.split(jax.random.key(0), 4000)), float)
    np.testing.assert_allclose((starts**2).sum(1), 5, rtol=32 * float(jnp.finfo(dtype).eps))
    covariance = starts.T @ starts / len(starts)
    # On the sphere E x_i^2 = 1, Var x_i^2 = 2(N - 1)/(N + 2) and Var x_i x_j = N/(N + 2), all below 3/2.
    assert np.abs(covariance - np.eye(5)).max() < 4 * math.sqrt(1.5 / len(starts))
    assert np.abs(starts.mean(0)).max() < 4 / math.sqrt(len(starts))


@pytest.mark.parametrize(
    ("factory", "options", "words"),
    [
        (glass.p_spin, {"size": 1}, "size must be a whole number, at least 2; got 1"),
        (glass.p_spin, {"size": True}, "size must be a whole number"),
        (glass.p_spin, {"size": 3.0}, "size must be a whole number"),
        (glass.p_spin, {"order": 1}, "order must be a whole number, at least 2; got 1"),
        (glass.p_spin, {"size": 300}, r"size 300 and order 3 ask for 300\*\*3 couplings; at most 2\*\*24"),
        (glass.p_spin, {"size": 2, "order": 10**6}, r"2\*\*1000000 couplings; at most"),
        (glass.p_spin, {"well": 0.0}, "well must be a finite number, above 0; got 0.0"),
        (glass.p_spin, {"well": float("nan")}, "well must be a finite number, above 0; got nan"),
        (glass.p_spin, {"well": "deep"}, "well must be a finite number, above 0; got 'deep'"),
        (glass.p_spin, {"couplings_seed": -1}, "couplings_seed must be a whole number, at least 0; got -1"),
        (glass.gaussian_field, {"dimension": 0}, "dimension must be a whole number, at least 1; got 0"),
        (glass.gaussian_field, {"num_features": 0}, "num_features must be a whole number, at least 1; got 0"),
        (glass.gaussian_field, {"dimension": 20_000}, "ask for 20480000 numbers; at most"),
        (glass.gaussian_field, {"length": -1.0}, "length must be a finite number, above 0; got -1.0"),
        (glass.gaussian_field, {"length": float("inf")}, "length must be a finite number, above 0; got inf"),
        (glass.gaussian_field, {"confinement": -0.1}, "confinement must be a finite number, at least 0; got -0.1"),
        (glass.gaussian_field, {"field_seed": 0.5}, "field_seed must be a whole number"),
        (glass.threshold_energy, {"order": 1}, "order must be a whole number, at least 2; got 1"),
        (glass.ground_state_energy, {"order": 2.5}, "order must be a whole number, at least 2; got 2.5"),
        (glass.p_spin_index, {"energy": 0.0, "order": 0}, "order must be a whole number, at least 2; got 0"),
        (glass.bray_dean_index, {"value": 0.0, "kernel": (1.0, 1.0, 1.0)}, r"kernel must be f\(0\) > 0"),
        (glass.bray_dean_index, {"value": 0.0, "kernel": (1.0, -1.0, 0.9)}, r"kernel must be f\(0\) > 0"),
        (glass.bray_dean_index, {"value": 0.0, "confinement": float("inf")}, "confinement must be a finite number"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(factory, options, words, untyped):
    with pytest.raises(ValueError, match=words) as caught:
        factory(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("law", [lambda x: glass.p_spin_index(x, 3), glass.bray_dean_index])
def test_laws_keep_the_shape_of_what_they_are_given(law):
    assert law(0.3).shape == ()
    assert law([0.1, 0.2]).shape == (2,)
    assert law(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert np.isnan(law(np.nan))
