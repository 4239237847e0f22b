"""The teacher-student problem of Safran & Shamir: two-layer ReLU networks with output weights 1, Gaussian inputs.

The population loss has a closed form, and so have its global minima, the critical points with all students equal and
their spectra. Gradient descent also ends in minima that are not global: `hessjax.landscapes.spurious` counts them.

References: Safran & Shamir (2018), ICML, arXiv:1712.08968.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hessjax.landscapes import arccosine
from hessjax.landscapes.base import Landscape, near
from hessjax.landscapes.data import check_dtype, check_whole

__all__ = ["minimum_spectrum", "teacher_student", "teacher_units"]

PARALLEL = 1e-12  # unit vectors this close are one direction


def teacher_student(
    *,
    students: int = 6,
    teachers: int = 6,
    inputs: int | None = None,
    teacher: Any = "orthonormal",
    init_scale: float = 1.0,
    dtype: str = "float32",
) -> Landscape:
    """A two-layer ReLU student against a teacher of the same kind, in population loss; 6 against 6 by default.

    F(w) = 1/2 E (sum_i relu(w_i.x) - sum_j relu(v_j.x))^2 over x ~ N(0, I_d), params w [students, inputs], no batch.

    Args:
      students: units n of the student.
      teachers: units k of the teacher.
      inputs: input dimension d; None for that of the teacher, or k.
      teacher: "orthonormal" for the first k unit vectors of R^d, a seed for entries drawn from N(0, 1/d), or the units
        themselves as an array [teachers, inputs].
      init_scale: starts have entries from N(0, init_scale^2 / d).
      dtype: of params.

    Raises:
      ValueError: an option out of range, naming it; float64 without x64.

    Example:
      >>> import hessjax as hj
      >>> land = teacher_student(students=3, teachers=3)
      >>> minimum = land.facts["critical_points"][0]
      >>> spectrum = hj.eigvalsh(hj.Hessian(land.loss, jnp.asarray(minimum["point"], "float32")))
      >>> bool(np.allclose(spectrum, minimum["eigenvalues"], atol=1e-6))
      True

    References: Safran & Shamir (2018), ICML, arXiv:1712.08968, sections 3 and 4.
    """
    check_whole("students", students)
    v = teacher_units(teacher, teachers, inputs)
    orthonormal = isinstance(teacher, str)
    if not (init_scale > 0 and math.isfinite(init_scale)):
        raise ValueError(f"init_scale must be above 0 and finite, got {init_scale!r}.")
    check_dtype(dtype)
    target = jnp.asarray(v, dtype)
    shape = (students, v.shape[1])
    return Landscape(
        name="teacher-student",
        init=lambda key: init_scale / math.sqrt(shape[1]) * jax.random.normal(key, shape, dtype),
        loss=lambda w: arccosine.population_loss(w, target),
        facts={
            "critical_points": _minima(v, students, orthonormal) + (_means(students, *v.shape) if orthonormal else []),
            "gradient": lambda w: arccosine.gradient(np.asarray(w, float), v),
            "hessian": lambda w: arccosine.hessian(np.asarray(w, float), v),
            "lower_bound": 0.0,
            "notes": [
                f"{students} student and {len(v)} teacher units, population loss over inputs from N(0, I_{v.shape[1]})",
                "permuting the student's units changes nothing: each critical point stands for all of its permutations",
                "at a unit w_i = 0 the loss has a kink; derivatives there are the mean of the one-sided ones",
            ],
        },
    )


def teacher_units(teacher: Any, teachers: int, inputs: int | None) -> Float[np.ndarray, "teachers inputs"]:
    """The teacher's units in float64, from the options of `teacher_student`."""
    check_whole("teachers", teachers)
    if inputs is not None:
        check_whole("inputs", inputs)
    width = teachers if inputs is None else inputs
    if isinstance(teacher, str):
        if teacher != "orthonormal":
            raise ValueError(f"unknown teacher {teacher!r}{near(teacher, ['orthonormal'])} Or a seed, or an array.")
        if width < teachers:
            raise ValueError(f"inputs must be at least teachers for an orthonormal teacher; got {inputs} < {teachers}.")
        return np.eye(teachers, width)
    if isinstance(teacher, int | np.integer) and not isinstance(teacher, bool):
        check_whole("teacher", teacher, least=0)
        return np.random.default_rng(teacher).standard_normal((teachers, width)) / math.sqrt(width)
    return _given_units(teacher, teachers, inputs)


def _given_units(teacher: Any, teachers: int, inputs: int | None) -> Float[np.ndarray, "teachers inputs"]:
    try:
        v = np.array(teacher, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"teacher must be 'orthonormal', a seed or an array of numbers, got {teacher!r}.") from error
    wanted = (teachers, v.shape[-1] if inputs is None and v.ndim else inputs)
    if v.ndim != 2 or v.shape != wanted or v.size == 0:
        raise ValueError(f"teacher must be an array [teachers, inputs] = {list(wanted)}, got shape {list(v.shape)}.")
    if not np.isfinite(v).all() or not v.any(axis=1).all():
        raise ValueError("teacher must have finite entries and no unit that is 0.")
    return v


def _minima(v: Float[np.ndarray, "teachers inputs"], students: int, orthonormal: bool) -> list[dict[str, Any]]:
    """The global minimum w = v, the last unit in equal parts where there are more students; none where fewer."""
    extra = students - len(v)
    if extra < 0:
        return []
    point = np.concatenate([v[:-1], np.repeat(v[-1:] / (extra + 1), extra + 1, axis=0)])
    nullity = _nullity(v, students)
    fact = {
        "name": "teacher, last unit split" if extra else "teacher",
        "point": point,
        "loss": 0.0,
        "index": 0,
        "nullity": nullity,
        "kind": "degenerate minimum" if nullity else "minimum",
    }
    if orthonormal and not extra:
        fact["eigenvalues"] = minimum_spectrum(len(v), inputs=v.shape[1])
    return [fact]


def _nullity(v: Float[np.ndarray, "teachers inputs"], students: int) -> int:
    """Null directions at the global minimum, where the Hessian is the form E (sum_i 1[w_i.x > 0] dw_i.x)^2.

    It sees only the sum of dw over units of one direction. Across a hyperplane that sum must not jump: it is 0, or,
    where both directions of a line occur, the same for both, and these common values add up to 0.
    """
    unit = v / np.linalg.norm(v, axis=1, keepdims=True)
    same = np.linalg.norm(unit[:, None] - unit, axis=-1) < PARALLEL
    rays = unit[~np.tril(same, -1).any(axis=1)]
    lines = int((np.linalg.norm(rays[:, None] + rays, axis=-1) < PARALLEL).sum()) // 2
    return v.shape[1] * (students - len(rays) + max(lines - 1, 0))


def _means(n: int, k: int, d: int) -> list[dict[str, Any]]:
    """The critical points with all students equal, along the mean of an orthonormal teacher or against it.

    At the angle t of that direction and every v_j, |sum_i w_i| = (k sin t + (pi - t) k cos t) / pi =: r, and F is
    F(0) - r^2 / 4. The Hessian is 1/2 on the sum of the units less sum_j h1(w_i, v_j) on each one: 0 along w_i,
    n k^2 sin t / (2 pi r (k - 1)) across it in the teachers' span, n k sin t / (2 pi r) outside.
    """
    if k < 2:
        return []
    found = []
    sin = math.sqrt((k - 1) / k)
    for name, cos in (("all on the teachers' mean", 1 / math.sqrt(k)), ("all against it", -1 / math.sqrt(k))):
        r = (k * sin + (math.pi - math.acos(cos)) * k * cos) / math.pi
        within, outside = (n * sin / (2 * math.pi * r) * c for c in (k * k / (k - 1), k))
        bends = np.repeat([0.0, within, outside], [1, k - 1, d - k])
        eigenvalues = np.sort(np.concatenate([np.repeat(-bends, n - 1), n / 2 - bends]))
        index = int((eigenvalues < 0).sum())
        point = np.zeros((n, d))
        point[:, :k] = r * cos / n
        found.append(
            {
                "name": name,
                "point": point,
                "loss": k / 4 + k * (k - 1) / (4 * math.pi) - r * r / 4,
                "index": index,
                "nullity": int((eigenvalues == 0).sum()),
                "kind": "strict saddle" if index else "minimum",
                "eigenvalues": eigenvalues,
            }
        )
    return found


def minimum_spectrum(teachers: int, *, inputs: int | None = None) -> Float[np.ndarray, " size"]:
    """Eigenvalues of the Hessian at the global minimum w = v of an orthonormal teacher with as many students.

    With q = 1 / 2 pi: 1/4 - q, k (k - 1) / 2 times; 1/4 + q, k (k - 3) / 2 times; k - 1 times both roots of
    x^2 - (1/2 + k/4) x + (k + 1) / 16 + q/2 - q^2; and those of [[1/2 + (k - 1) q, (k - 1) / 4], [1/4, k/4 + q]].
    Every further input adds 1/4, k - 1 times, and (k + 1) / 4. For k = 2 the count k (k - 3) / 2 = -1 takes away one
    of the 1/4 + q among the roots; for k = 1 the Hessian is I / 2.

    Args:
      teachers: k, units of the teacher and of the student.
      inputs: d, at least k; None for k.

    Returns:
      All k d eigenvalues, ascending.

    Raises:
      ValueError: teachers or inputs out of range.

    Example:
      >>> minimum_spectrum(2).round(6).tolist()
      [0.090845, 0.409155, 0.590845, 0.909155]
    """
    check_whole("teachers", teachers)
    check_whole("inputs", teachers if inputs is None else inputs, least=teachers)
    k, extra = teachers, 0 if inputs is None else inputs - teachers
    if k == 1:
        return np.full(1 + extra, 0.5)
    q = 1 / (2 * math.pi)
    a, b, c, d = 0.5 + (k - 1) * q, (k - 1) / 4, 0.25, k / 4 + q
    twice = _roots(0.5 + k / 4, (k + 1) / 16 + q / 2 - q * q)
    counts = {0.25 - q: k * (k - 1) // 2, 0.25 + q: max(k * (k - 3) // 2, 0), 0.25: extra * (k - 1), (k + 1) / 4: extra}
    values = np.repeat(list(counts), list(counts.values()))
    values = np.concatenate([values, np.repeat(twice, k - 1), _roots(a + d, a * d - b * c)])
    if k == 2:
        values = np.delete(values, np.argmin(abs(values - (0.25 + q))))
    return np.sort(values)


def _roots(total: float, product: float) -> list[float]:
    """Both real roots of x^2 - total x + product."""
    half = math.sqrt(total * total / 4 - product)
    return [total / 2 - half, total / 2 + half]
