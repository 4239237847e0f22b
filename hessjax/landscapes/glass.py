"""Random surfaces in high dimension: the spherical p-spin glass and the isotropic Gaussian field.

At a critical point of either, the Hessian is a shifted Gaussian matrix, so the share of directions that go down is a
function of the value alone as the dimension grows. The laws are public functions beside the surfaces they hold on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hessjax.landscapes.base import Landscape
from hessjax.landscapes.data import check_whole
from hessjax.landscapes.index_laws import bray_dean_index, ground_state_energy, p_spin_index, threshold_energy

__all__ = [
    "bray_dean_index",
    "gaussian_field",
    "ground_state_energy",
    "p_spin",
    "p_spin_index",
    "threshold_energy",
]

LARGEST = 2**24  # couplings, or entries of the frequencies, held in memory: 128 MiB in float64


def p_spin(
    *,
    size: int = 30,
    order: int = 3,
    well: float | int = 1.0,
    couplings_seed: int = 0,
    dtype: str = "float32",
) -> Landscape:
    """The spherical p-spin glass: energy per site of a random homogeneous polynomial on the sphere |s|^2 = N.

        H(s) = N^(-(p-1)/2) sum J_{i1..ip} s_i1 .. s_ip,   J standard normal,   E[H(s) H(s')] = N (s.s'/N)^p
        loss(x) = H(sqrt(N) x / |x|) / N + well/2 (|x| / sqrt(N) - 1)^2

    Params are a vector of R^N, starting uniformly on the sphere; at 0 the loss is not defined. All critical points lie
    on the sphere. There the Hessian is the Riemannian one, N - 1 eigenvalues of order 1/N, and one more, well/N > 0,
    along the radius; elsewhere on the sphere it has also -gradient/sqrt(N) between the radius and the tangent. At the
    antipode of a point on the sphere the loss is the same for even p and changes sign for odd p.

    Args:
      size: N, the number of spins, at least 2.
      order: p, at least 2. The couplings are a dense tensor of size**order numbers, at most 2**24.
      well: strength of the radial well, above 0; it does not move the critical points.
      couplings_seed: seed of J.
      dtype: of params and couplings.

    Returns:
      The landscape. facts: gradient and hessian in closed form; radial_eigenvalue, well/N; index_law(energy), which is
      `p_spin_index`; threshold_energy and ground_state_energy; for order 2 all 2N critical points, which are the unit
      eigenvectors of the couplings (their index is the number of smaller eigenvalues), and the lower bound.

    Raises:
      ValueError: an option out of range, naming it.

    References: Crisanti & Sommers (1992), doi:10.1007/BF01309287; Auffinger, Ben Arous & Cerny (2013),
      doi:10.1002/cpa.21422; as a model of networks, Choromanska et al. (2015), arXiv:1412.0233.

    Example:
      >>> import hessjax as hj
      >>> land = p_spin(size=6, order=2, well=3.0)
      >>> saddle = land.facts["critical_points"][4]
      >>> int(hj.inertia(hj.Hessian(land.loss, jnp.asarray(saddle["point"], "float32")), tol=1e-5).negative)
      2
    """
    check_whole("size", size, 2)
    check_whole("order", order, 2)
    check_whole("couplings_seed", couplings_seed, 0)
    size, order, seed, well = int(size), int(order), int(couplings_seed), _number("well", well)
    if order * math.log2(size) > math.log2(LARGEST):
        raise ValueError(f"size {size} and order {order} ask for {size}**{order} couplings; at most 2**24 are held.")
    couplings = _symmetric(np.random.default_rng(seed).standard_normal((size,) * order)) / math.sqrt(size)
    energy, radius = _form(jnp.asarray(couplings, dtype), order), math.sqrt(size)

    def loss(x):
        length = jnp.linalg.norm(x)
        return energy(x / length)[0] + 0.5 * well * (length / radius - 1) ** 2

    return Landscape(
        name="p-spin",
        init=lambda key: _on_sphere(jax.random.normal(key, (size,), dtype), radius),
        loss=loss,
        facts={
            "gradient": lambda x: _p_spin_gradient(couplings, well, np.asarray(x, float)),
            "hessian": lambda x: _p_spin_hessian(couplings, well, np.asarray(x, float)),
            "radial_eigenvalue": well / size,
            "index_law": functools.partial(p_spin_index, order=order),
            "index_curve": {
                "name": f"spherical {order}-spin glass, N to infinity",
                "share": lambda energy: p_spin_index(energy, order) * (size - 1) / size,  # none along the radius
                "losses": (ground_state_energy(order), -ground_state_energy(order)),
            },
            "threshold_energy": threshold_energy(order),
            "ground_state_energy": ground_state_energy(order),
            "notes": _p_spin_notes(size, order, well, seed),
            **(_eigenvector_facts(couplings, well) if order == 2 else {}),
        },
    )


def gaussian_field(
    *,
    dimension: int = 2,
    length: float | int = 1.0,
    confinement: float | int = 0.0,
    num_features: int = 1024,
    field_seed: int = 0,
    dtype: str = "float32",
) -> Landscape:
    """A smooth isotropic Gaussian random field on R^N, in a parabola if asked.

        loss(x) = V(x) + confinement/2 |x|^2,   E[V(x) V(y)] = N exp(-|x - y|^2 / (2 N length^2))
        V(x) = sqrt(N / M) sum_m r_m cos(w_m.x + t_m),   w_m ~ N(0, I / (N length^2)), r_m Rayleigh, t_m uniform

    V is one fixed sum of M waves. Given the frequencies it is exactly Gaussian, stationary, and of variance N
    everywhere; its covariance is the stated one on average over frequencies, and single ones depart from it by
    O(N / sqrt(M)). The semicircle of its Hessian has a free kurtosis of 3N/M, so M should be many times N.

    Args:
      dimension: N, at least 1; 2 can be drawn.
      length: correlation length per sqrt(N), in units of x, above 0.
      confinement: curvature of the parabola, at least 0; the unconfined field has Hessian eigenvalues of order
        1 / length^2.
      num_features: M, the number of waves. They hold dimension x num_features numbers, at most 2**24.
      field_seed: seed of the realisation.
      dtype: of params and waves. Starts are normal of standard deviation 2 length in each coordinate, where two of
        them see values with a correlation of about exp(-4).

    Returns:
      The landscape. facts: gradient and hessian in closed form; field(x), V alone; kernel, the f(0), f'(0), f''(0) that
      `bray_dean_index` takes; index_law(value), the same with this kernel and confinement, of value V/N.

    Raises:
      ValueError: an option out of range, naming it.

    References: Bray & Dean (2007), doi:10.1103/PhysRevLett.98.150201; Fyodorov (2004),
      doi:10.1103/PhysRevLett.92.240601; the waves, Rahimi & Recht (2007), NeurIPS 20.

    Example:
      >>> land = gaussian_field(dimension=2)
      >>> land.loss(jnp.zeros(2)).shape, land.facts["hessian"](np.zeros(2)).shape
      ((), (2, 2))
    """
    check_whole("dimension", dimension)
    check_whole("num_features", num_features)
    check_whole("field_seed", field_seed, 0)
    dimension, num_features, seed = int(dimension), int(num_features), int(field_seed)
    length, confinement = _number("length", length), _number("confinement", confinement, zero=True)
    if dimension * num_features > LARGEST:
        raise ValueError(
            f"dimension {dimension} and num_features {num_features} ask for {dimension * num_features} numbers; "
            "at most 2**24 are held."
        )
    waves = _waves(dimension, length, num_features, seed)
    frequencies, amplitudes, phases = (jnp.asarray(part, dtype) for part in waves)

    def loss(x):
        angles = jnp.matmul(frequencies, x, precision="float32") + phases
        field = jnp.dot(amplitudes, jnp.cos(angles), precision="float32")
        return field + 0.5 * confinement * jnp.dot(x, x, precision="float32")

    kernel = (1.0, -1 / length**2, 1 / length**4)
    return Landscape(
        name="gaussian-field",
        init=lambda key: 2 * length * jax.random.normal(key, (dimension,), dtype),
        loss=loss,
        facts={
            **_field_facts(*waves, confinement),
            "kernel": kernel,
            "index_law": functools.partial(bray_dean_index, kernel=kernel, confinement=confinement),
            **({} if confinement else _index_curve(dimension, kernel)),
            "notes": [
                f"Gaussian field on R^{dimension}, covariance N exp(-|x-y|^2 / (2 N {length:g}^2)), seed {seed}",
                f"{num_features} waves: Gaussian given their frequencies; Hessian's free kurtosis 3N/M = "
                f"{3 * dimension / num_features:.2g}",
                f"confinement {confinement:g} |x|^2 / 2; the index law takes V/N, without the confinement",
            ],
        },
    )


def _symmetric(tensor: Float[np.ndarray, "*axes"]) -> Float[np.ndarray, "*axes"]:
    """The mean over all permutations of axes, one more axis at a time."""
    for axis in range(1, tensor.ndim):
        tensor = sum((tensor.swapaxes(other, axis) for other in range(axis)), start=tensor) / (axis + 1)
    return tensor


def _form(tensor: jax.Array, times: int) -> Callable:
    """u -> the symmetric tensor with `times` of its axes contracted with u, flat.

    Its derivative is `times` the form of one contraction less. Said so, every derivative reads the tensor once, where
    differentiating the contractions one by one would read it again for each.
    """
    if times == 0:
        return lambda u: tensor
    lower, multiply = _form(tensor, times - 1), functools.partial(jnp.matmul, precision="float32")

    @jax.custom_jvp
    def form(u):
        return multiply(lower(u).reshape(-1, u.size), u)

    @form.defjvp
    def _(point, direction):
        (u,), (v,) = point, direction
        matrix = lower(u).reshape(-1, u.size)
        return multiply(matrix, u), times * multiply(matrix, v)

    return form


def _contract(tensor: np.ndarray, u: np.ndarray, times: int) -> np.ndarray:
    """The same on the host."""
    for _ in range(times):
        tensor = tensor.reshape(-1, u.size) @ u
    return tensor


def _on_sphere(x, radius):
    return radius * x / jnp.linalg.norm(x)


def _p_spin_gradient(
    couplings: Float[np.ndarray, "*axes"], well: float, x: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    length, radius, p = np.linalg.norm(x), math.sqrt(x.size), couplings.ndim
    u = x / length
    pull = _contract(couplings, u, p - 1)
    return p / length * (pull - (pull @ u) * u) + well * (length / radius - 1) / radius * u


def _p_spin_hessian(
    couplings: Float[np.ndarray, "*axes"], well: float, x: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n n"]:
    """Of T[x, .., x] / |x|^p by the product rule; with m, pull, energy = T[u^(p-2)], T[u^(p-1)], T[u^p]."""
    length, radius, p = np.linalg.norm(x), math.sqrt(x.size), couplings.ndim
    u, eye = x / length, np.eye(x.size)
    m = _contract(couplings, u, p - 2).reshape(x.size, x.size)
    pull = m @ u
    energy, along, mixed = pull @ u, np.outer(u, u), np.outer(pull, u)
    glass = p * (p - 1) * m - p**2 * (mixed + mixed.T) - p * energy * eye + p * (p + 2) * energy * along
    return glass / length**2 + well * (along / radius**2 + (length / radius - 1) / (radius * length) * (eye - along))


def _eigenvector_facts(couplings: Float[np.ndarray, "n n"], well: float) -> dict[str, Any]:
    """On the sphere x'Ax / N has A's eigenvectors for critical points; the tangent Hessian is 2 (A - value) / N."""
    size = len(couplings)
    values, vectors = np.linalg.eigh(couplings)
    points = []
    for k, value in enumerate(values):
        spectrum = np.sort([*(2 / size * (np.delete(values, k) - value)), well / size])
        points += [
            {
                "name": f"{sign}eigenvector {k}",
                "point": step * math.sqrt(size) * vectors[:, k],
                "loss": float(value),
                "index": k,
                "nullity": 0,
                "kind": "strict saddle" if k else "minimum",
                "eigenvalues": spectrum,
            }
            for sign, step in (("+", 1.0), ("-", -1.0))
        ]
    return {"critical_points": points, "lower_bound": float(values[0])}


def _p_spin_notes(size: int, order: int, well: float, seed: int) -> list[str]:
    mirror = (
        "even order: antipodes have the same energy and spectrum"
        if order % 2 == 0
        else "odd order: at the antipode energy and Riemannian Hessian change sign"
    )
    return [
        f"{order}-spin glass of {size} spins on the sphere |s|^2 = {size}, energy per site, seed {seed}",
        f"one eigenvalue, {well / size:g} along the radius, is the well's at every critical point",
        mirror,
        "the loss is not defined at 0",
    ]


def _waves(
    dimension: int, length: float, num_features: int, seed: int
) -> tuple[Float[np.ndarray, "m n"], Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Frequencies, amplitudes and phases."""
    rng = np.random.default_rng(seed)
    frequencies = rng.standard_normal((num_features, dimension)) / (math.sqrt(dimension) * length)
    amplitudes = math.sqrt(dimension / num_features) * rng.rayleigh(size=num_features)
    return frequencies, amplitudes, rng.uniform(0, 2 * np.pi, num_features)


def _index_curve(dimension: int, kernel: tuple[float, float, float]) -> dict[str, Any]:
    """Of an unconfined field, whose loss is V."""
    share = lambda loss: bray_dean_index(np.asarray(loss) / dimension, kernel=kernel)
    name = "isotropic Gaussian field, N to infinity"
    return {"index_curve": {"name": name, "share": share, "losses": (-3.0 * dimension, 3.0 * dimension)}}


def _field_facts(frequencies, amplitudes, phases, confinement) -> dict[str, Callable]:
    angles = lambda x: frequencies @ np.asarray(x, float) + phases
    eye = np.eye(frequencies.shape[1])
    return {
        "field": lambda x: float(amplitudes @ np.cos(angles(x))),
        "gradient": lambda x: confinement * np.asarray(x, float) - (amplitudes * np.sin(angles(x))) @ frequencies,
        "hessian": lambda x: confinement * eye - (frequencies.T * (amplitudes * np.cos(angles(x)))) @ frequencies,
    }


def _number(name: str, value: Any, *, zero: bool = False) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (number and value < math.inf and (value > 0 or (zero and value == 0))):
        raise ValueError(f"{name} must be a finite number, {'at least' if zero else 'above'} 0; got {value!r}.")
    return float(value)
