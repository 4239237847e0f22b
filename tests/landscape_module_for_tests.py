"""A user's module, reached as landscape_module_for_tests:factory: one landscape that works, and many that do not."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from hessjax.landscapes import Landscape

DIAGONAL = (-1.0, 0.5, 2.0)
CENTRES = np.random.default_rng(0).standard_normal((6, 3))

not_callable = 3


def bowl(curvatures=DIAGONAL):
    """A diagonal quadratic form; its Hessian is diag(curvatures) everywhere."""
    d = jnp.asarray(curvatures, float)
    return Landscape("bowl", lambda key: jax.random.normal(key, d.shape), lambda p: 0.5 * jnp.sum(d * p**2))


def quartic(ruin="nothing", above=0.6):
    """sum x^4 / 4 + x.b / 10; an init whose first draw exceeds `above` is NaN, far away, or in a kink, as told."""

    def init(key):
        x = jax.random.normal(key, (3,))
        ruined = {"nothing": x, "nan": jnp.nan * x, "far": 100.0 + x, "kink": 0.0 * x}[ruin]
        return jnp.where(x[0] > above, ruined, x)

    def loss(x):
        # |x|^1.5 has no second derivative at 0, and a quarter of x^4 sends steps from far away to infinity.
        return jnp.sum(jnp.abs(x) ** 1.5 if ruin == "kink" else x**4) / 4 + jnp.dot(x, jnp.arange(3.0)) / 10

    return Landscape("quartic", init, loss)


def clouds(centres=CENTRES, scalar=False, shape="rows"):
    """sum_i log cosh(x - c_i) over rows, per example or as one scalar, or of a wrong shape."""

    def loss(x, batch):
        each = jnp.sum(jnp.log(jnp.cosh(x - batch)), axis=-1)
        return {"rows": jnp.mean(each) if scalar else each, "columns": x, "whole": jnp.ones(3, int)}[shape]

    return Landscape("clouds", lambda key: jax.random.normal(key, (3,)), loss, jnp.asarray(centres, float))


def whole_numbers():
    return Landscape("whole", lambda key: {"a": jnp.arange(3)}, lambda p: 1.0 * jnp.sum(p["a"]))


def nothing():
    return Landscape("nothing", lambda key: {}, lambda p: jnp.zeros(()))


def vector_loss():
    return Landscape("vector", lambda key: jnp.ones(3), lambda p: p)


def restless():
    """Draws a number outside JAX at each trace: not a function."""
    return Landscape("restless", lambda key: jnp.ones(3), lambda p: jnp.sum(p**3) * np.random.default_rng().normal())


def everywhere_nan():
    return Landscape("nan", lambda key: jnp.ones(3), lambda p: jnp.sum(jnp.log(-p) * p**2))


def no_landscape():
    return {"init": None}


def buggy():
    return [][1]


def fails_in_a_worker():
    """Works in the process of the tests, and in no other."""
    if "PYTEST_CURRENT_TEST" in os.environ and os.environ.get("HESSJAX_TEST_PID") != str(os.getpid()):
        raise RuntimeError("no such luck in this process")
    return bowl()
