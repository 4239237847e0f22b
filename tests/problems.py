"""The case table: operators with an independent dense oracle, and why each row exists.

A row's `make(scale, dtype)` builds the operator at params multiplied by `scale` (so that moving params can be told
from retracing); `oracle(scale)` is its matrix in float64 by closed form in NumPy, or by `jax.hessian` of a loss
written a second time. A new operator is one row and inherits the whole of test_conformance.py.
"""

from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hessjax as hj


class Case(NamedTuple):
    name: str
    make: Callable  # (scale, dtype) -> Operator
    oracle: Callable  # (scale) -> float64 [n, n]
    why: str
    rows: bool = False  # has a batch of per-example rows that may be sharded


RNG = np.random.default_rng(0)
X = RNG.standard_normal((13, 4))  # 13 rows: every chunk size but 1 and 13 leaves a remainder
Y1 = RNG.standard_normal(13)
W1 = RNG.standard_normal(4)
LABELS = RNG.integers(0, 3, 13)
SIGNS = RNG.integers(0, 2, 13)
KERNEL = RNG.standard_normal((4, 3))
SYMMETRIC = (lambda a: (a + a.T) / 2)(RNG.standard_normal((6, 6)))


def arrays(dtype, *values):
    return tuple(jnp.asarray(v, dtype if np.asarray(v).dtype.kind == "f" else np.int32) for v in values)


# Losses are module-level functions: a fresh lambda per call would be a fresh static value, hence a retrace.
def squared(params, batch):
    x, y = batch
    return (x @ params - y) ** 2


def squared_scalar(params, batch):
    return jnp.mean(squared(params, batch))


def logistic(params, batch):
    x, y = batch
    return jnp.logaddexp(0.0, x @ params) - y * (x @ params)


def softmax(params, batch):
    x, y = batch
    z = x @ params["kernel"]
    return jax.nn.logsumexp(z, axis=-1) - jnp.take_along_axis(z, y[:, None], axis=-1)[:, 0]


def tempered(params, batch):
    z = batch["x"] @ params / batch["temperature"]
    return jnp.logaddexp(0.0, z) - batch["y"] * z


def rosenbrock(params):
    return (1.0 - params["x"]) ** 2 + 100.0 * (params["y"] - params["x"] ** 2) ** 2


def two_layer(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
    return 0.5 * jnp.sum((hidden @ params["out"] - y) ** 2, axis=-1)


def dropped(params, batch):
    """Dropout with one key a row: randomness that is data."""
    keep = jax.vmap(lambda key: jax.random.bits(key, (4,), "uint8") < 180)(batch["keys"])  # the same at any dtype
    return jnp.tanh((batch["x"] * keep) @ params - batch["y"]) ** 2


def batch_normalised(params, batch):
    """Batch statistics couple the rows: only the scalar form is right."""
    x, y = batch
    z = x @ params
    z = (z - jnp.mean(z)) / jnp.sqrt(jnp.var(z) + 0.1)
    return jnp.mean((z - y) ** 2)


TWO_LAYER = {
    "in": {"kernel": RNG.standard_normal((4, 3)), "bias": RNG.standard_normal(3)},
    "out": RNG.standard_normal((3, 2)),
}
Y2 = RNG.standard_normal((13, 2))


def linear_oracle(scale):
    return 2 / len(X) * X.T @ X


def logistic_oracle(scale, temperature=1.0):
    s = 1 / (1 + np.exp(-X @ (W1 * scale) / temperature))
    return X.T @ (X * (s * (1 - s))[:, None]) / len(X) / temperature**2


def softmax_oracle(scale):
    z = X @ (KERNEL * scale)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    covariance = np.einsum("nc,cd->ncd", p, np.eye(3)) - np.einsum("nc,nd->ncd", p, p)
    # Kernels are [inputs, classes]: flat index (input, class).
    return np.einsum("ni,nj,ncd->icjd", X, X, covariance).reshape(12, 12) / len(X)


def rosenbrock_oracle(scale):
    x, y = 2.5 * scale, 0.8 * scale
    return np.array([[2 + 1200 * x**2 - 400 * y, -400 * x], [-400 * x, 200.0]])


@contextmanager
def ravelled_in_float64(params, scale):
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        yield jax.flatten_util.ravel_pytree(jax.tree.map(lambda p: jnp.asarray(p * scale, "float64"), params))
    finally:
        jax.config.update("jax_enable_x64", before)


def autodiff_oracle(loss, params, batch):
    """`jax.hessian` of the mean loss over ravelled params in float64; for losses with no closed form."""

    def at(scale):
        with ravelled_in_float64(params, scale) as (flat, unravel):
            return np.asarray(jax.jit(jax.hessian(lambda w: jnp.mean(loss(unravel(w), batch("float64")))))(flat))

    return at


def scaled(params, scale, dtype):
    return jax.tree.map(lambda p: jnp.asarray(p * scale, dtype), params)


def hessian(loss, params, *data, **options):
    return lambda scale, dtype: hj.Hessian(
        loss, scaled(params, scale, dtype), arrays(dtype, *data) if data else None, **options
    )


def dropout_batch(dtype):
    return {
        "x": jnp.asarray(X, dtype),
        "y": jnp.asarray(Y1, dtype),
        "keys": jax.random.split(jax.random.key(7), len(X)),
    }


def tempered_batch(dtype):
    return {"x": jnp.asarray(X, dtype), "y": jnp.asarray(SIGNS, dtype), "temperature": jnp.asarray(2.0, dtype)}


ROSENBROCK = {"x": np.array(2.5), "y": np.array(0.8)}

HESSIANS = [
    Case("linear-squared", hessian(squared, W1, X, Y1), linear_oracle, "closed form (2/N) X'X", rows=True),
    Case("linear-chunk-5", hessian(squared, W1, X, Y1, chunk=5), linear_oracle, "ragged chunks weigh right", rows=True),
    Case("linear-chunk-1", hessian(squared, W1, X, Y1, chunk=1), linear_oracle, "one row a pass", rows=True),
    Case("linear-chunk-13", hessian(squared, W1, X, Y1, chunk=13), linear_oracle, "chunk = N", rows=True),
    Case("linear-scalar", hessian(squared_scalar, W1, X, Y1), linear_oracle, "the scalar form, mean inside"),
    Case("logistic", hessian(logistic, W1, X, SIGNS), logistic_oracle, "curvature depends on params", rows=True),
    Case("softmax", hessian(softmax, {"kernel": KERNEL}, X, LABELS), softmax_oracle, "classes", rows=True),
    Case(
        "softmax-chunk-4",
        hessian(softmax, {"kernel": KERNEL}, X, LABELS, chunk=4),
        softmax_oracle,
        "integer targets are cut with the rows",
        rows=True,
    ),
    Case("rosenbrock", hessian(rosenbrock, ROSENBROCK), rosenbrock_oracle, "no data; scalar leaves; indefinite"),
    Case(
        "two-layer",
        hessian(two_layer, TWO_LAYER, X, Y2),
        autodiff_oracle(two_layer, TWO_LAYER, lambda dtype: arrays(dtype, X, Y2)),
        "nested tree, indefinite",
        rows=True,
    ),
    Case(
        "tempered-chunk-4",
        lambda scale, dtype: hj.Hessian(tempered, scaled(W1, scale, dtype), tempered_batch(dtype), chunk=4),
        lambda scale: logistic_oracle(scale, 2.0),
        "a scalar batch leaf passes whole",
    ),
    Case(
        "dropout-chunk-6",
        lambda scale, dtype: hj.Hessian(dropped, scaled(W1, scale, dtype), dropout_batch(dtype), chunk=6),
        autodiff_oracle(dropped, W1, dropout_batch),
        "one key a row, cut with the rows",
    ),
    Case(
        "batch-norm-scalar",
        hessian(batch_normalised, W1, X, Y1),
        autodiff_oracle(batch_normalised, W1, lambda dtype: arrays(dtype, X, Y1)),
        "coupled rows in the scalar form",
    ),
]  # fmt: skip


def matrix(scale, dtype):
    return hj.Matrix(jnp.asarray(SYMMETRIC * scale, dtype))


def linear(scale, dtype):
    return HESSIANS[0].make(scale, dtype)


def logit(scale, dtype):
    return HESSIANS[5].make(scale, dtype)


def two_layered(scale, dtype):
    return HESSIANS[9].make(scale, dtype)


TWO_LAYERED = HESSIANS[9].oracle
PROJECTED = np.linalg.qr(RNG.standard_normal((6, 2)))[0].T  # any two orthonormal vectors, not eigenvectors


def deflated(scale, dtype):
    k = jnp.zeros(2, dtype)
    return hj.deflate(matrix(scale, dtype), hj.Eigenpairs(k, jnp.asarray(PROJECTED, dtype), k, k > 0, jnp.int32(0)))


def deflated_oracle(scale):
    p = np.eye(6) - PROJECTED.T @ PROJECTED
    return p @ (SYMMETRIC * scale) @ p


ALGEBRA = [
    Case("matrix", matrix, lambda s: SYMMETRIC * s, "the bridge from NumPy"),
    Case("sum", lambda s, d: linear(s, d) + logit(s, d), lambda s: linear_oracle(s) + logistic_oracle(s), "A + B"),
    Case("difference", lambda s, d: logit(s, d) - linear(s, d), lambda s: logistic_oracle(s) - linear_oracle(s), "-"),
    Case("scaled", lambda s, d: 2.5 * logit(s, d), lambda s: 2.5 * logistic_oracle(s), "c A"),
    Case("negated", lambda s, d: -logit(s, d), lambda s: -logistic_oracle(s), "-A"),
    Case("shifted", lambda s, d: hj.shift(logit(s, d), -0.3), lambda s: logistic_oracle(s) - 0.3 * np.eye(4), "A + cI"),
    Case("linearized", lambda s, d: logit(s, d).linearized(), logistic_oracle, "shared work done once"),
    Case(
        "restricted",
        lambda s, d: hj.restrict(two_layered(s, d), "in/*"),
        lambda s: TWO_LAYERED(s)[:15, :15],
        "a principal block; leaves in ravel order: in/bias, in/kernel, out",
    ),
    Case(
        "restricted-linearized",
        lambda s, d: hj.restrict(two_layered(s, d), lambda path: "kernel" in path).linearized(),
        lambda s: TWO_LAYERED(s)[3:15, 3:15],
        "a predicate; zeros of the leaves left out meet residuals",
    ),
    Case("deflated", deflated, deflated_oracle, "P A P"),
]  # fmt: skip


# Losses of a model's outputs. Oracles: the model's derivatives from jax.jacobian in float64, the rest in NumPy.
def linear_model(params, x):
    return x @ params["kernel"]


def two_layer_model(params, x):
    return jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"]) @ params["out"]


def positions_model(params, x):
    """Three positions of two classes a row, [N, 3, 2]: every hidden unit is one position's."""
    hidden = jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"])
    return hidden[:, :, None] * params["out"]


def heads_model(params, inputs):
    outputs = two_layer_model(params, inputs["x"])
    return {"mean": outputs[:, 0], "log_scale": outputs[:, 1]}


def cross_entropy(outputs, labels):
    picked = jnp.take_along_axis(outputs, labels[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(outputs, axis=-1) - picked
    return jnp.sum(nll, axis=tuple(range(1, nll.ndim)))


def mean_cross_entropy(outputs, labels):
    return jnp.mean(cross_entropy(outputs, labels))


def logistic_loss(outputs, signs):
    return jnp.sum(jnp.logaddexp(0.0, outputs) - signs * outputs, axis=-1)


def half_squares(outputs, targets):
    return 0.5 * jnp.sum((outputs - targets) ** 2, axis=-1)


def heteroscedastic(outputs, targets):
    return 0.5 * jnp.exp(-outputs["log_scale"]) * (outputs["mean"] - targets["y"]) ** 2 + 0.5 * outputs["log_scale"]


def derivatives(model, params, scale):
    """Outputs at X, [N, ..., K], and their first and second derivatives in the ravelled params, in float64."""
    with ravelled_in_float64(params, scale) as (flat, unravel):
        f = lambda w: model(unravel(w), jnp.asarray(X))
        return tuple(np.asarray(jax.jit(g)(flat)) for g in (f, jax.jacobian(f), jax.jacfwd(jax.jacrev(f))))


def probabilities(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


INFORMATION = {
    "categorical": lambda z: (p := probabilities(z))[..., None] * (np.eye(z.shape[-1]) - p[..., None, :]),
    "bernoulli": lambda z: (sigmoid(z) * sigmoid(-z))[..., None] * np.eye(z.shape[-1]),
    "gaussian": lambda z: np.ones_like(z)[..., None] * np.eye(z.shape[-1]),
}
DRAW = {  # as documented: in float32, with the key folded with the number of the row, then of the leaf of outputs
    "categorical": lambda key, z: jnp.eye(z.shape[-1])[jax.random.categorical(key, z)],
    "bernoulli": lambda key, z: jax.random.bernoulli(key, jax.nn.sigmoid(z)),
    "gaussian": lambda key, z: jax.random.normal(key, z.shape, "float32"),  # about the mean
}
MEAN = {"categorical": probabilities, "bernoulli": sigmoid, "gaussian": lambda z: z}
KEY = jax.random.key(5)


def fisher_oracle(model, params, likelihood):
    def at(scale):
        z, jac, _ = derivatives(model, params, scale)
        jac, middle = jac.reshape(-1, *jac.shape[-2:]), INFORMATION[likelihood](z.reshape(-1, z.shape[-1]))
        return np.einsum("mai,mab,mbj->ij", jac, middle, jac) / len(z)

    return at


def outer_oracle(model, params, likelihood, targets):
    """(1/N) sum_i g_i g_i' with g_i = J_i' (mean - target)."""

    def at(scale):
        z, jac, _ = derivatives(model, params, scale)
        scores = (MEAN[likelihood](z) - targets(z)).reshape(len(z), -1)
        rows = np.einsum("na,nai->ni", scores, jac.reshape(*scores.shape, -1))
        return rows.T @ rows / len(z)

    return at


def drawn(likelihood):
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(KEY, i), 0))(jnp.arange(len(X)))
    draws = lambda z: np.asarray(jax.vmap(DRAW[likelihood])(keys, jnp.asarray(z, "float32")), "float64")
    return lambda z: draws(z) + (z if likelihood == "gaussian" else 0)


def residual_oracle(scale):
    z, _, second = derivatives(two_layer_model, TWO_LAYER, scale)
    return np.einsum("nk,nkij->ij", z - Y2, second) / len(z)


def heads_oracle(scale):
    z, jac, _ = derivatives(two_layer_model, TWO_LAYER, scale)
    gap, inverse = z[:, 0] - Y1, np.exp(-z[:, 1])
    middle = np.array([[inverse, -gap * inverse], [-gap * inverse, 0.5 * gap**2 * inverse]])
    return np.einsum("nai,abn,nbj->ij", jac, middle, jac) / len(z)


def of_model(operator, model, loss, params, inputs, targets, **options):
    return lambda scale, dtype: operator(
        model, loss, scaled(params, scale, dtype), arrays(dtype, inputs, targets), **options
    )


def heads(scale, dtype):
    (x, y), params = arrays(dtype, X, Y1), scaled(TWO_LAYER, scale, dtype)
    return hj.GaussNewton(heads_model, heteroscedastic, params, [{"x": x}, {"y": y}], chunk=6)


BITS = RNG.integers(0, 2, (13, 2))
WORDS = RNG.integers(0, 2, (13, 3))
LINEAR = {"kernel": KERNEL}
SOFTMAX = linear_model, cross_entropy, LINEAR, X, LABELS
SQUARES = two_layer_model, half_squares, TWO_LAYER, X, Y2
CHOICES = two_layer_model, cross_entropy, TWO_LAYER, X, BITS[:, 0]
YES_NO = two_layer_model, logistic_loss, TWO_LAYER, X, BITS
POSITIONS = positions_model, cross_entropy, TWO_LAYER, X, WORDS
SAMPLED = {"kind": "sampled", "key": KEY}

MODELS = [
    Case("gauss-newton", of_model(hj.GaussNewton, *SOFTMAX), softmax_oracle, "linear model: the Hessian", rows=True),
    Case(
        "gauss-newton-scalar",
        of_model(hj.GaussNewton, linear_model, mean_cross_entropy, LINEAR, X, LABELS),
        softmax_oracle,
        "the scalar form, mean inside",
    ),
    Case(
        "gauss-newton-squares",
        of_model(hj.GaussNewton, *SQUARES),
        fisher_oracle(two_layer_model, TWO_LAYER, "gaussian"),
        "J'J / N",
        rows=True,
    ),
    Case(
        "gauss-newton-chunk-5",
        of_model(hj.GaussNewton, *CHOICES, chunk=5),
        fisher_oracle(two_layer_model, TWO_LAYER, "categorical"),
        "ragged chunks weigh right",
        rows=True,
    ),
    Case("gauss-newton-heads", heads, heads_oracle, "trees in, trees out, a coupled and indefinite middle", rows=True),
    Case("residual", of_model(hj.Residual, *SQUARES), residual_oracle, "sum of residual times curvature", rows=True),
    Case("residual-chunk-5", of_model(hj.Residual, *SQUARES, chunk=5), residual_oracle, "ragged chunks", rows=True),
    Case("residual-linear", of_model(hj.Residual, *SOFTMAX), lambda s: np.zeros((12, 12)), "a linear model: exactly 0"),
    Case(
        "gauss-newton-linearized",
        lambda s, d: of_model(hj.GaussNewton, *CHOICES)(s, d).linearized(),
        fisher_oracle(two_layer_model, TWO_LAYER, "categorical"),
        "shared work done once",
    ),
    Case(
        "residual-linearized",
        lambda s, d: of_model(hj.Residual, *SQUARES)(s, d).linearized(),
        residual_oracle,
        "shared work done once",
    ),
    Case("fisher", of_model(hj.Fisher, *SOFTMAX), softmax_oracle, "categorical, in closed form", rows=True),
    Case(
        "fisher-positions-chunk-5",
        of_model(hj.Fisher, *POSITIONS, chunk=5),
        fisher_oracle(positions_model, TWO_LAYER, "categorical"),
        "positions are independent observations",
        rows=True,
    ),
    Case(
        "fisher-bernoulli",
        of_model(hj.Fisher, *YES_NO, likelihood="bernoulli"),
        fisher_oracle(two_layer_model, TWO_LAYER, "bernoulli"),
        "s (1 - s)",
        rows=True,
    ),
    Case(
        "fisher-gaussian-linearized",
        lambda s, d: of_model(hj.Fisher, *SQUARES, likelihood="gaussian")(s, d).linearized(),
        fisher_oracle(two_layer_model, TWO_LAYER, "gaussian"),
        "the identity",
    ),
    Case(
        "fisher-sampled",
        of_model(hj.Fisher, *CHOICES, **SAMPLED),
        outer_oracle(two_layer_model, TWO_LAYER, "categorical", drawn("categorical")),
        "one draw a row",
    ),
    Case(
        "fisher-sampled-positions-chunk-5",
        of_model(hj.Fisher, *POSITIONS, **SAMPLED, chunk=5),
        outer_oracle(positions_model, TWO_LAYER, "categorical", drawn("categorical")),
        "one draw a position, the same whatever the chunks",
    ),
    Case(
        "fisher-sampled-bernoulli-chunk-4",
        of_model(hj.Fisher, *YES_NO, likelihood="bernoulli", **SAMPLED, chunk=4),
        outer_oracle(two_layer_model, TWO_LAYER, "bernoulli", drawn("bernoulli")),
        "one draw a logit",
    ),
    Case(
        "fisher-sampled-gaussian",
        of_model(hj.Fisher, *SQUARES, likelihood="gaussian", **SAMPLED),
        outer_oracle(two_layer_model, TWO_LAYER, "gaussian", drawn("gaussian")),
        "one normal an output",
    ),
    Case(
        "fisher-empirical",
        of_model(hj.Fisher, *SQUARES, kind="empirical"),
        outer_oracle(two_layer_model, TWO_LAYER, "gaussian", lambda z: Y2),
        "the targets of the data",
        rows=True,
    ),
    Case(
        "fisher-empirical-chunk-5",
        of_model(hj.Fisher, *CHOICES, kind="empirical", chunk=5),
        outer_oracle(two_layer_model, TWO_LAYER, "categorical", lambda z: np.eye(2)[BITS[:, 0]]),
        "ragged chunks weigh right",
        rows=True,
    ),
]  # fmt: skip


def softmax_gauss_newton(loss, params, batch):
    return hj.GaussNewton(linear_model, loss, params, batch)


def streamed(loss, *data, **options):
    """Three batches, of 5, 5 and 3 rows."""

    def make(scale, dtype):
        whole = arrays(dtype, *data)
        batches = [tuple(x[k : k + 5] for x in whole) for k in (0, 5, 10)]
        return hj.Streamed(loss, scaled(LINEAR, scale, dtype), batches, **options)

    return make


STREAMED = [
    Case("streamed", streamed(softmax, X, LABELS), softmax_oracle, "a ragged last batch weighs by its rows"),
    Case(
        "streamed-gauss-newton",
        streamed(cross_entropy, X, LABELS, operator=softmax_gauss_newton),
        softmax_oracle,
        "any kind of curvature",
    ),
    Case(
        "streamed-algebra",
        lambda s, d: hj.shift(2 * streamed(softmax, X, LABELS)(s, d) - MODELS[0].make(s, d), 0.5),
        lambda s: softmax_oracle(s) + 0.5 * np.eye(12),
        "composites are driven from the host too, with parts that are not streamed",
    ),
]  # fmt: skip

ALL = HESSIANS + ALGEBRA + MODELS
