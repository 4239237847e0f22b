"""The case table: operators with an independent dense oracle, and why each row exists.

A row's `make(scale, dtype)` builds the operator at params multiplied by `scale` (so that moving params can be told
from retracing); `oracle(scale)` is its matrix in float64 by closed form in NumPy, or by `jax.hessian` of a loss
written a second time. A new operator is one row and inherits the whole of test_conformance.py.
"""

from collections.abc import Callable
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
    moves: bool = True  # may be an argument of a compiled function at other params


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


def autodiff_oracle(loss, params, batch):
    """`jax.hessian` of the mean loss over ravelled params in float64; for losses with no closed form."""

    def at(scale):
        before = jax.config.read("jax_enable_x64")
        jax.config.update("jax_enable_x64", True)
        try:
            tree = jax.tree.map(lambda p: jnp.asarray(p * scale, "float64"), params)
            flat, unravel = jax.flatten_util.ravel_pytree(tree)
            return np.asarray(jax.jit(jax.hessian(lambda w: jnp.mean(loss(unravel(w), batch("float64")))))(flat))
        finally:
            jax.config.update("jax_enable_x64", before)

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


ALGEBRA = [
    Case("matrix", matrix, lambda s: SYMMETRIC * s, "the bridge from NumPy"),
    Case("sum", lambda s, d: linear(s, d) + logit(s, d), lambda s: linear_oracle(s) + logistic_oracle(s), "A + B"),
    Case("difference", lambda s, d: logit(s, d) - linear(s, d), lambda s: logistic_oracle(s) - linear_oracle(s), "-"),
    Case("scaled", lambda s, d: 2.5 * logit(s, d), lambda s: 2.5 * logistic_oracle(s), "c A"),
    Case("negated", lambda s, d: -logit(s, d), lambda s: -logistic_oracle(s), "-A"),
    Case("shifted", lambda s, d: hj.shift(logit(s, d), -0.3), lambda s: logistic_oracle(s) - 0.3 * np.eye(4), "A + cI"),
    # What jax.linearize returns is static and new each time: it is made inside a compiled function, never passed in.
    Case("linearized", lambda s, d: logit(s, d).linearized(), logistic_oracle, "shared work done once", moves=False),
]  # fmt: skip

ALL = HESSIANS + ALGEBRA
