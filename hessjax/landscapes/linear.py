"""Deep linear networks: gradient, both parts of the Hessian, ranks and critical points are closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hessjax.landscapes import data
from hessjax.landscapes.base import Landscape, near
from hessjax.landscapes.data import check_whole
from hessjax.landscapes.linear_derivatives import LOSSES, LayerProducts
from hessjax.landscapes.linear_points import Regression, count_classes, critical_points, layer_names

__all__ = ["autoencoder", "deep_linear", "generic_ranks", "linear_network"]

MAX_CLASSES = 4096  # more are not listed in the facts; `critical_points` yields them one by one


def deep_linear(
    *,
    widths: Sequence[int] = (3, 4, 2),
    rows: int = 20,
    loss: str | Callable = "squared",
    rank: int | str = "full",
    data_seed: int = 0,
    init_scale: float = 1.0,
    dtype: str = "float32",
) -> Landscape:
    """Deep linear network W_L ... W_1 x on standard normal inputs and targets, which are independent.

    Args:
      widths: input, hidden and output widths, at least two; (3, 2) is linear regression.
      rows: samples.
      loss: as for `linear_network`.
      rank: of the inputs, 1..min(rows, widths[0]), or "full".
      data_seed: seed of the data.
      init_scale: weights are normal with standard deviation init_scale / sqrt(fan in).
      dtype: of params and data.

    Returns:
      A landscape with the facts of `linear_network`.

    Raises:
      ValueError: an option out of range, naming it.

    References: Kawaguchi (2016), NeurIPS, arXiv:1605.07110.

    Example:
      >>> land = deep_linear(widths=(3, 4, 2))
      >>> [(p["subset"], p["kind"]) for p in land.facts["critical_points"]][:2]
      [((), 'strict saddle'), ((0,), 'strict saddle')]
    """
    _check_widths("widths", widths, 2)
    check_whole("rows", rows)
    x, y = data.noise(rows, widths[0], widths[-1], seed=data_seed)
    note = f"{rows} rows of standard normal inputs and targets (seed {data_seed})"
    if rank != "full":
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(x.shape):
            raise ValueError(f"rank must be 1..{min(x.shape)} (the lesser of rows and inputs) or 'full'; got {rank!r}.")
        x = x[:, :rank] @ np.random.default_rng([data_seed, 1]).standard_normal((rank, widths[0])) / rank**0.5
        note += f", inputs of rank {rank}"
    made = linear_network(x, y, hidden=tuple(widths[1:-1]), loss=loss, init_scale=init_scale, dtype=dtype)
    made.facts["notes"].insert(0, note)
    return made


def autoencoder(
    *,
    inputs: int = 6,
    hidden: int = 2,
    depth: int = 2,
    eigenvalues: Sequence[float | int] = (),
    sampled: bool = False,
    rows: int | None = None,
    condensed: bool = False,
    data_seed: int = 0,
    init_scale: float = 1.0,
    dtype: str = "float32",
) -> Landscape:
    """Linear autoencoder of inputs with a given covariance: loss (1/k) ||W_L ... W_1 x - x||^2 in k dimensions.

    With m eigenvectors of the covariance kept, S, the loss is (sum of eigenvalues - sum over S) / k; with one hidden
    layer and distinct positive eigenvalues the index is (p - m)(k - m) + #{i in S, j not in S: lambda_j > lambda_i}
    and the nullity m^2 + 2 m (p - m), p = `hidden`.

    Args:
      inputs: k.
      hidden: p, width of every hidden layer.
      depth: number of layers, at least 2.
      eigenvalues: of the covariance, k numbers from 0 up that are not all 0; () for 1, 2, ... k.
      sampled: False: rows whose second moments are the eigenvalues exactly. True: rows drawn from the normal
        distribution with that diagonal covariance, each input then centred over the rows.
      rows: number of them; None for k, one along each axis, or 10,000 where they are sampled. The published problem
        is inputs=16, hidden=4, sampled=True.
      condensed: the rows replaced by at most k rows of the same second moments, which are all that the mean loss sees:
        the same function of the weights, at a cost that does not grow with the rows.
      data_seed: seed of the rows.
      init_scale: as for `deep_linear`.
      dtype: of params and data.

    Returns:
      A landscape with the facts of `linear_network`.

    Raises:
      ValueError: an option out of range, naming it.

    References: Baldi & Hornik (1989), doi:10.1016/0893-6080(89)90014-2; Frye, Wadia, DeWeese & Bouchard (2019),
      arXiv:1901.10603.

    Example:
      >>> land = autoencoder(inputs=6, hidden=3)
      >>> len(land.facts["critical_points"]), round(land.facts["lower_bound"], 9)
      (42, 1.0)
    """
    for name, value, least in (("inputs", inputs, 1), ("hidden", hidden, 1), ("depth", depth, 2)):
        check_whole(name, value, least)
    values = np.asarray(eigenvalues, float) if np.size(eigenvalues) else np.arange(1.0, inputs + 1)
    if values.shape != (inputs,) or not np.isfinite(values).all() or values.min() < 0 or not values.any():
        raise ValueError(f"eigenvalues must be {inputs} numbers from 0 up, not all 0 (inputs); got {eigenvalues!r}.")
    least = 1 if sampled else inputs
    count = rows if rows is not None else 10_000 if sampled else inputs
    check_whole("rows", count, least)
    x = _inputs(values, count, sampled, rows is None, data_seed)
    if condensed:
        least = np.linalg.qr(x, mode="r")
        x = least * (len(least) / count) ** 0.5
    problem = Regression(x, x, (hidden,) * (depth - 1), scale=2 / inputs)  # 1/k is 2/k halves
    made = _network("autoencoder", problem, "squared", init_scale, dtype)
    how = f"sampled (seed {data_seed}) and centred" if sampled else "exact second moments"
    how += f", condensed to {len(x)}" if condensed else ""
    made.facts["notes"].insert(0, f"{count} rows, {how}, eigenvalues {values.min():g} to {values.max():g}")
    return made


def _inputs(values: np.ndarray, rows: int, sampled: bool, on_axes: bool, seed: int) -> np.ndarray:
    """Rows with second moments diag(values), exactly or on average."""
    draw = np.random.default_rng(seed)
    if sampled:
        x = draw.standard_normal((rows, values.size)) * values**0.5
        return x - x.mean(axis=0)
    basis = np.eye(rows) if on_axes else np.linalg.qr(draw.standard_normal((rows, values.size)))[0]
    return basis * (rows * values) ** 0.5


def linear_network(
    x: Float[np.ndarray, "rows inputs"],
    y: Float[np.ndarray, "rows outputs"],
    *,
    hidden: Sequence[int] = (4,),
    loss: str | Callable = "squared",
    init_scale: float = 1.0,
    dtype: str = "float32",
) -> Landscape:
    """Deep linear network W_L ... W_1 x on given data; params are {"W1": ..., "W2": ...}, the batch is (x, y).

    Args:
      x: inputs, not all zero.
      y: targets.
      hidden: widths of the hidden layers, () for linear regression.
      loss: "squared" (1/2 ||outputs - targets||^2), "log-cosh" (summed over outputs), mean over rows; or a function
        (outputs, targets) -> [N], of which only the network's shape is known.
      init_scale: as for `deep_linear`.
      dtype: of params and data.

    Returns:
      A landscape with the facts gradient and hessian, outer_product and functional (the parts of the Hessian: from
      first derivatives of the network, and from its second), ranks (`generic_ranks`) and lower_bound (of "log-cosh":
      0); for "squared" also hessian_lipschitz (of a point and a radius), canonical (W_L ... W_1, which with the index
      is what the loss sees of a critical point), problem (the `Regression`), classes (their number) and critical_points
      (up to 4096 classes). They are of the data in float64.

    Raises:
      ValueError: an option out of range, naming it.

    References: Kawaguchi (2016), NeurIPS, arXiv:1605.07110; Laurent & von Brecht (2018), ICML, arXiv:1712.01473: with
      hidden widths of at least min(inputs, outputs), all local minima of a convex differentiable loss are global.

    Example:
      >>> import hessjax as hj
      >>> land = linear_network(np.eye(2), np.diag([2.0, 1.0]), hidden=(1,))
      >>> saddle = land.facts["critical_points"][0]
      >>> op = hj.Hessian(land.loss, jax.tree.map(jnp.float32, saddle["point"]), land.batch)
      >>> int(hj.inertia(op, tol=1e-6).negative), saddle["index"]
      (2, 2)
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or 0 in (*x.shape, y.shape[1]):
        raise ValueError(f"x and y must be [rows, inputs] and [rows, outputs]; got shapes {x.shape} and {y.shape}.")
    if not np.isfinite(x).all() or not np.isfinite(y).all() or not x.any():
        raise ValueError("x and y must be finite, and x not all zero.")
    _check_widths("hidden", hidden, 0)
    return _network("deep-linear", Regression(x, y, tuple(hidden)), loss, init_scale, dtype)


def _network(name: str, problem: Regression, loss: str | Callable, init_scale: float, dtype: str) -> Landscape:
    if not callable(loss) and loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}{near(str(loss), list(LOSSES))} Or a function (outputs, targets).")
    if not init_scale > 0:
        raise ValueError(f"init_scale must be above 0, got {init_scale!r}.")
    names = layer_names(problem.depth)
    shapes = dict(zip(names, zip(problem.widths[1:], problem.widths[:-1], strict=True), strict=True))

    def init(key):
        keys = jax.random.split(key, len(names))
        normal = lambda k, shape: jax.random.normal(k, shape, dtype) * jnp.asarray(init_scale / shape[1] ** 0.5, dtype)
        return {name: normal(k, shapes[name]) for k, name in zip(keys, names, strict=True)}

    def model(params, inputs):
        for name in names:
            inputs = inputs @ params[name].T
        return inputs

    per_row = _per_row(loss, problem.scale)
    return Landscape(
        name=name,
        init=init,
        loss=lambda params, batch: per_row(model(params, batch[0]), batch[1]),
        batch=(jnp.asarray(problem.x, dtype), jnp.asarray(problem.y, dtype)),
        model=model,
        facts=_facts(problem, loss),
    )


def _per_row(loss: str | Callable, scale: float) -> Callable:
    if callable(loss):
        return loss
    value = LOSSES[loss].value
    return lambda outputs, targets: scale * jnp.sum(value(outputs - targets), axis=-1)


def _facts(problem: Regression, loss: str | Callable) -> dict[str, Any]:
    shape = "-".join(map(str, problem.widths))
    if callable(loss):
        return {"notes": [f"linear network {shape}, loss {getattr(loss, '__name__', repr(loss))}"]}
    products = LayerProducts(problem, loss)
    facts = {
        "gradient": products.gradient,
        "hessian": products.hessian,
        "outer_product": products.outer_product,
        "functional": products.functional,
        "ranks": generic_ranks(problem.widths, problem.spectrum.inputs),
        "lower_bound": 0.0,
        "notes": [f"linear network {shape}, {loss} loss"],
    }
    if loss == "squared":
        classes = count_classes(problem)
        facts |= {"lower_bound": problem.lower_bound, "problem": problem, "classes": classes}
        facts["hessian_lipschitz"] = products.lipschitz
        facts["canonical"] = products.end_to_end
        facts["notes"].append(f"{classes} classes of critical points")
        if classes <= MAX_CLASSES:
            facts["critical_points"] = list(critical_points(problem))
    return facts


def generic_ranks(widths: Sequence[int], rank: int) -> dict[str, int]:
    """Ranks of the Hessian of a linear network and of its parts, at generic weights and targets.

    With r the rank of the inputs, K outputs, hidden widths M_i, L layers, q = min(r, K, M_i) and s = min(r, K):

        outer product: q (r + K - q)
        functional:    2 q sum M_i + 2 q s - L q^2  (0 for one layer, where the formula does not apply)
        Hessian:       2 q sum M_i - L q^2 + q (r + K)

    The outer product's is that of any strictly convex loss; for cross-entropy, which does not see the sum of the
    outputs, K is K - 1 throughout.

    Args:
      widths: input, hidden and output widths; the first counts only through `rank`.
      rank: of the inputs.

    Returns:
      Ranks under inputs (`rank` itself), outer_product, functional and hessian.

    References: Singh, Bachmann & Hofmann (2021), NeurIPS, arXiv:2106.16225.

    Example:
      >>> generic_ranks((25, 5, 10, 10), 25)
      {'inputs': 25, 'outer_product': 150, 'functional': 175, 'hessian': 250}
    """
    *hidden, k = widths[1:]
    q, s, layers = min(rank, k, *hidden), min(rank, k), len(hidden) + 1
    functional = 2 * q * sum(hidden) + 2 * q * s - layers * q**2 if hidden else 0
    hessian = 2 * q * sum(hidden) - layers * q**2 + q * (rank + k)
    return {"inputs": rank, "outer_product": q * (rank + k - q), "functional": functional, "hessian": hessian}


def _check_widths(name: str, widths: Any, least: int) -> None:
    if not isinstance(widths, Sequence) or isinstance(widths, str) or len(widths) < least:
        raise ValueError(f"{name} must be a sequence of {least} or more whole numbers; got {widths!r}.")
    for width in widths:
        check_whole(name, width)
