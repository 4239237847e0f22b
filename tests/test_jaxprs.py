"""Programs that are rewritten: what is equal is kept once, what has an effect or a sign of zero is not equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from hessjax.jaxprs import Kept, linear_in, linearized_once, spliced


def kept(push):
    return len(jax.tree.leaves(push))


def test_equal_residuals_are_kept_once():
    twice = lambda x: (jnp.sin(x) * jnp.cos(x), jnp.sin(x) ** 2)
    x = jnp.arange(3.0)
    once = linearized_once(twice, x)
    assert kept(once) < kept(jax.linearize(twice, x)[1])
    for found, wanted in zip(once(x), jax.jvp(twice, (x,), (x,))[1], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_zeros_of_either_sign_are_two():
    def function(s):
        one = jax.lax.stop_gradient(s) * 0 + 1
        return s / (one * 0.0), s / (one * -0.0)

    assert [float(x) for x in linearized_once(function, jnp.float32(1.0))(jnp.float32(1.0))] == [np.inf, -np.inf]


def test_effects_happen_as_often_as_they_did():
    seen = []

    def function(x):
        for _ in range(2):
            jax.debug.callback(lambda y: seen.append(float(y)), jax.lax.stop_gradient(x))
        return x**2

    linearized_once(function, jnp.float32(3.0))(jnp.float32(1.0))
    jax.effects_barrier()
    assert seen == [3.0, 3.0]


def test_answers_from_the_host_are_not_equal_for_being_asked_alike():
    answers = iter(range(1, 10))
    ask = lambda: np.float32(next(answers))

    def function(x):
        return [x * io_callback(ask, jax.ShapeDtypeStruct((), "float32")) for _ in range(2)]

    assert {float(x) for x in linearized_once(function, jnp.float32(1.0))(jnp.float32(1.0))} == {1.0, 2.0}


@pytest.mark.parametrize(
    "inner",
    [
        lambda x: (x, 2 * x),  # an argument handed on
        lambda x: (2 * x,) * 2,  # one result twice
        lambda x: (2 * x, jnp.zeros(3)),  # a constant
        lambda x: (jax.jit(lambda y: 3 * y)(x), jnp.cumsum(x)),
    ],
)
def test_functions_compiled_inside_are_the_same(inner):
    function = lambda x: jax.tree.map(lambda y: y + x, jax.jit(inner)(x))
    x = jnp.arange(3.0)
    for found, wanted in zip(Kept.of(function, x).function()(x), function(x), strict=True):
        np.testing.assert_allclose(found, wanted)


def test_what_is_not_used_is_not_kept():
    a, b = jnp.ones(3), jnp.ones(4)

    def push(x):
        jnp.sum(b * x[0])
        return a * x[1]

    found = Kept.of(push, jnp.ones(2)).function()
    assert [leaf.shape for leaf in jax.tree.leaves(found)] == [(3,)]


def test_results_may_be_arguments_and_constants():
    a = jnp.arange(3.0)
    found = Kept.of(lambda x: (x, a, 1.0, a * x), a).function()(a)
    assert [np.asarray(x).tolist() for x in found] == [[0, 1, 2], [0, 1, 2], 1.0, [0, 1, 4]]


def test_linear_variables_follow_from_arguments():
    jaxpr = jax.make_jaxpr(lambda x: jnp.sin(x) + jnp.cos(jnp.ones(3)))(jnp.ones(3)).jaxpr
    found = linear_in(jaxpr.invars, jaxpr.eqns)
    assert {eqn.primitive.name for eqn in jaxpr.eqns if not found.isdisjoint(eqn.outvars)} == {"sin", "add"}


def test_spliced_equations_connect():
    jaxpr = jax.make_jaxpr(lambda x: jnp.sin(x) + 1.0)(1.0).jaxpr
    sine = jaxpr.eqns[0]
    eqns = [*spliced(lambda x: jnp.cos(x) * 2, sine.invars, sine.outvars), *jaxpr.eqns[1:]]
    rewritten = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(jaxpr.replace(eqns=eqns), []))
    assert float(rewritten(0.0)[0]) == 3.0
