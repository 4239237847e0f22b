"""Small ReLU nets with bad local minima: one hidden layer on a handful of points, as published.

All params are drawn standard normal, biases too; params are {"w": [inputs, hidden], "b": [hidden], "v": [hidden],
"c": []} of f(x) = v . act(x w + b) + c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessjax.landscapes import relu_points
from hessjax.landscapes.base import Landscape, critical_point, near
from hessjax.landscapes.data import check_dtype, check_whole
from hessjax.trees import PRNGKey

__all__ = ["ACTIVATIONS", "LOSSES", "POINTS", "jellyfish", "network", "relu_five_points", "xor"]

# (x, y) of Swirszcz et al. (2016), propositions 1, 2 and 3.
POINTS: dict[str, tuple[tuple[float, float], ...]] = {
    "D1": ((-1.0, 3.0), (1.0, -3.0), (3.0, 0.0), (4.0, 1.0), (5.0, 2.0)),
    "D2": ((-1.0, 5.0), (0.0, 0.0), (1.0, -1.0), (10.0, -3.0), (11.0, -4.0), (12.0, -5.0)),
    "D3": ((-1.0, 3.0), (0.0, 0.0), (1.0, -1.0), (10.0, -3.0), (11.0, -4.0), (12.0, -6.0)),
}
# Points of the plane, class 0 and then class 1.
XOR = (((0.0, 0.0), (1.0, 1.0)), ((0.0, 1.0), (1.0, 0.0)))
JELLYFISH = (((0.0, 1.0), (0.6, 0.2)), ((1.0, 0.0), (0.2, 0.6)))

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "leaky-relu": jax.nn.leaky_relu,
    "linear": lambda x: x,
}
LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "cross-entropy": lambda s, y: jnp.logaddexp(0.0, s) - y * s,
    "squared": lambda s, y: (s - (2 * y - 1)) ** 2,
}
SMALL = 3  # hidden units up to which the global minimum is found


Inputs = Float[Array, "rows inputs"] | Float[np.ndarray, "rows inputs"]


def network(params: PyTree, x: Inputs, activation: str = "relu") -> Float[Array, " rows"]:
    """v . act(x w + b) + c at every row.

    Example:
      >>> one = {"w": jnp.ones((1, 1)), "b": jnp.zeros(1), "v": jnp.ones(1), "c": jnp.zeros(())}
      >>> network(one, jnp.array([[-1.0], [2.0]])).tolist()
      [0.0, 2.0]
    """
    hidden = ACTIVATIONS[activation](jnp.matmul(x, params["w"], precision="float32") + params["b"])
    return jnp.matmul(hidden, params["v"], precision="float32") + params["c"]


def _normal(inputs: int, hidden: int, mean: float, scale: float, dtype: str) -> Callable[[PRNGKey], PyTree]:
    def init(key: PRNGKey) -> PyTree:
        shapes = {"b": (hidden,), "c": (), "v": (hidden,), "w": (inputs, hidden)}
        draw = lambda k, shape: mean + scale * jax.random.normal(k, shape, dtype)
        return {name: draw(k, shapes[name]) for name, k in zip(shapes, jax.random.split(key, 4), strict=True)}

    return init


def relu_five_points(*, data: str = "D1", hidden: int = 1, dtype: str = "float32") -> Landscape:
    """ReLU net with few units on five (or six) points of a line, L = sum over points of (f(x) - y)^2.

    A plain sum, without 1/2 and without a mean, as published: `loss(params, batch)` is that scalar, and H its Hessian.
    With one unit all smooth critical points are known, and the kinked minima, where a point sits exactly on the turn
    of the unit: there H depends on what autodiff takes for relu'(0), which is 0 in JAX.

    Args:
      data: "D1" (five points), "D2" or "D3" (six), of propositions 1, 2 and 3; the nets there have 1, 2 and 2 units.
      hidden: number of units.
      dtype: of params and data.

    Returns:
      The landscape. Facts: critical_points (of one unit all, one of each family that rescaling makes; of more the dead
      state and the published ones), gradient, hessian, lower_bound (to rounding the global minimum, for up to 3 units);
      kinked_minima: a list of point, loss and kinks, the rows that tie; published: a list of name, point, loss, kinks,
      and eigenvalues where there are no kinks (of D2 recovered from the losses of its misprint, of D3 the fits with the
      same rows on); misprinted: points of proposition 2 as printed, which are not critical.

    Raises:
      ValueError: unknown data, hidden below 1.

    Example:
      >>> land = relu_five_points(data="D1")
      >>> [(p["name"], p["loss"], p["kinks"]) for p in land.facts["published"]]
      [('local', 18.0, (2,)), ('better', 14.0, ())]
      >>> land.facts["lower_bound"]
      14.0

    References: Swirszcz, Czarnecki & Pascanu (2016), "Local minima in training of neural networks", arXiv:1611.06310.
    """
    if data not in POINTS:
        raise ValueError(f"unknown data {data!r}{near(str(data), list(POINTS))}")
    check_whole("hidden", hidden)
    check_dtype(dtype)
    x, y = np.array(POINTS[data])[:, :1], np.array(POINTS[data])[:, 1]
    return Landscape(
        name="relu-five-points",
        init=_normal(1, hidden, 0.0, 1.0, dtype),
        loss=lambda params, batch: jnp.sum((network(params, batch[0]) - batch[1]) ** 2),
        batch=(jnp.asarray(x, dtype), jnp.asarray(y, dtype)),
        model=network,
        facts=_line_facts(data, x, y, hidden),
    )


def _line_facts(data: str, x: np.ndarray, y: np.ndarray, hidden: int) -> dict[str, Any]:
    published = _published(data, x, y) if hidden == (1 if data == "D1" else 2) else []
    smooth = [relu_points.dead_state(x, y, hidden), *(p for p in published if not p["kinks"])]
    facts: dict[str, Any] = {"kinked_minima": [p for p in published if p["kinks"]]}
    if hidden == 1:
        smooth, facts["kinked_minima"] = relu_points.critical_points(x, y), relu_points.kinked_minima(x, y)
    return facts | {
        "critical_points": smooth,
        "gradient": lambda params: relu_points.gradient(params, x, y),
        "hessian": lambda params: relu_points.hessian(params, x, y),
        "lower_bound": _least(x, y, hidden, [*smooth, *facts["kinked_minima"]]),
        "published": published,
        "misprinted": _misprinted(x, y) if data == "D2" and hidden == 2 else [],
        "notes": [f"{data}: {len(y)} points on a line, {hidden} ReLU units, loss summed over points"],
    }


def _least(x: np.ndarray, y: np.ndarray, hidden: int, points: list[dict[str, Any]]) -> float:
    if hidden == 1:
        return min(p["loss"] for p in points)
    return relu_points.global_minimum(x, y, hidden) if hidden <= SMALL else 0.0


def _published(data: str, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """The points of the propositions.

    Of the second, those that have the losses 23/3 and 29 when the second weight is turned, as it is printed; of the
    third, the least-squares fits with the same rows on.
    """
    at = relu_points.point
    known = {
        "D1": [("local", at(1, -3, 1, 0), (2,), 1), ("better", at(-7, -4, 1, 0), (), 2)],
        "D2": [
            ("local", at([-3, 1], [13 / 3, -10], [1, -1], -3), (3,), 3),
            ("global", at([-5, 1], [1, -8], [1, -1], -1), (), 2),
        ],
        "D3": [
            ("local", at([-2, 1.5], [8 / 3, -85 / 6], [1, -1], -2), (), 3),
            ("global", at([-3, 1.5], [1, -79 / 6], [1, -1], -1), (), 2),
        ],
    }
    found = [relu_points.at_point(p, x, y, nullity, name) | {"kinks": kinks} for name, p, kinks, nullity in known[data]]
    smooth_only = ("eigenvalues", "index", "nullity", "kind")
    return [{k: v for k, v in p.items() if not (p["kinks"] and k in smooth_only)} for p in found]


def _misprinted(x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Proposition 2 has -1 for the second weight."""
    turned = [
        p | {"point": p["point"] | {"w": p["point"]["w"] * np.array([1.0, -1.0])}} for p in _published("D2", x, y)
    ]
    return [{"name": p["name"], "point": p["point"], "loss": relu_points.loss(p["point"], x, y)} for p in turned]


def xor(
    *,
    hidden: int = 2,
    activation: str = "relu",
    loss: str = "cross-entropy",
    init_mean: float = 0.0,
    init_scale: float = 1.0,
    dtype: str = "float32",
) -> Landscape:
    """XOR by a 2-h-1 net: the four corners of a square, classes by their parity.

    The model has the logits (0, f(x)), so that argmax is the sign of f. What the published experiments minimised, and
    for how long, is not known; here it is the logistic loss, or (f - +-1)^2.

    Args:
      hidden: number of units; 2 can do it.
      activation: relu, sigmoid, tanh, softplus, leaky-relu or linear.
      loss: "cross-entropy" (logistic, nats) or "squared" ((f(x) - (2 y - 1))^2), mean over points.
      init_mean: of all params, normal, biases too.
      init_scale: their standard deviation.
      dtype: of params and data.

    Raises:
      ValueError: an option out of range, naming it.

    Example:
      >>> import hessjax as hj
      >>> land = xor(hidden=3)
      >>> land.classifies, hj.Hessian(land.loss, land.init(jax.random.key(0)), land.batch).size
      (True, 13)

    References: Swirszcz, Czarnecki & Pascanu (2016), arXiv:1611.06310, table 1.
    """
    return _plane("xor", XOR, hidden, activation, loss, init_mean, init_scale, dtype)


def jellyfish(
    *,
    hidden: int = 2,
    activation: str = "relu",
    loss: str = "cross-entropy",
    init_mean: float = 0.0,
    init_scale: float = 1.0,
    dtype: str = "float32",
) -> Landscape:
    """Four points of the plane whose classes cross, (1, 0) and (0.2, 0.6) against (0, 1) and (0.6, 0.2): 2-h-1 net.

    Args:
      hidden: number of units; 2 can do it.
      activation: as for `xor`.
      loss: as for `xor`.
      init_mean: as for `xor`.
      init_scale: as for `xor`.
      dtype: of params and data.

    Raises:
      ValueError: an option out of range, naming it.

    Example:
      >>> jellyfish(activation="sigmoid").batch[1].tolist()
      [0, 0, 1, 1]

    References: Swirszcz, Czarnecki & Pascanu (2016), arXiv:1611.06310, table 1.
    """
    return _plane("jellyfish", JELLYFISH, hidden, activation, loss, init_mean, init_scale, dtype)


def _plane(
    name: str, points: Any, hidden: int, activation: str, loss: str, mean: float, scale: float, dtype: str
) -> Landscape:
    check_whole("hidden", hidden)
    check_dtype(dtype)
    for option, value, known in (("activation", activation, ACTIVATIONS), ("loss", loss, LOSSES)):
        if value not in known:
            raise ValueError(f"unknown {option} {value!r}{near(str(value), list(known))}")
    if not np.isfinite(mean) or not scale > 0:
        raise ValueError(f"init_mean must be finite and init_scale above 0, got {mean!r} and {scale!r}.")
    x, y = np.concatenate(points), np.repeat(np.arange(2, dtype=np.int32), len(points[0]))

    def per_row(params: PyTree, batch: Any) -> Float[Array, " rows"]:
        s = network(params, batch[0], activation)
        return LOSSES[loss](s, jnp.asarray(batch[1], s.dtype))

    def model(params: PyTree, inputs: Inputs) -> Float[Array, "rows 2"]:
        s = network(params, inputs, activation)
        return jnp.stack([jnp.zeros_like(s), s], axis=-1)

    facts: dict[str, Any] = {"lower_bound": 0.0, "notes": [f"four points, 2-{hidden}-1 {activation} net, {loss} loss"]}
    if activation == "relu":
        facts["critical_points"] = [_dead(hidden, loss)]
    batch = (jnp.asarray(x, dtype), jnp.asarray(y))
    return Landscape(name, _normal(2, hidden, mean, scale, dtype), per_row, batch, model, facts)


def _dead(hidden: int, loss: str) -> dict[str, Any]:
    """All units off: f = c = 0 by balance, where the one eigenvalue that is not zero is l''(0)."""
    value, curvature = {"cross-entropy": (np.log(2.0), 0.25), "squared": (1.0, 2.0)}[loss]
    where = {"b": -np.ones(hidden), "c": np.zeros(()), "v": np.ones(hidden), "w": np.zeros((2, hidden))}
    spectrum = np.append(np.zeros(4 * hidden), curvature)
    return critical_point(where, value, spectrum, "degenerate minimum", name="dead: no point on")
