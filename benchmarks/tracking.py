"""Claim: sharpness tracked inside full-batch Adam takes .68 of the time every 10 steps and .40 every 100, of minibatch Adam .24 every 1000, in 8 to 26 products a time where hj.eigsh takes 64; training stopped every 10 for hj.eigsh takes 4.7 times as long; power iteration from its last vector, for the largest magnitude alone, takes 4 to 18 to the same residual, and less time (.45, .22 and .13).

Problem: 64-256-256-10 ReLU network, cross-entropy, all 1797 digits (8 x 8, not pooled), P = 85,002, float32, Adam,
steps 100 to 200 from a random start on all rows, and 1000 to 2000 on 128; sharpness always of all rows, to a residual
of 1e-3 of it. Two numbers first: a gradient of all rows takes .85 GFLOP (slq.py counts them), a product 1.9, so that
eight are 18 gradients; and the vectors of a measurement, 20 and their images, 14 MB, are read some ten times.

`share` of the time of training and measuring is measuring, from the rounds' ratios; `predicted` is
`hj.tracking.cost`'s, from measurements ten steps apart where the timed steps begin. `products`: of one measurement, the
mean. `loss_apart`: of the last step, relative to untracked training. What leads to the timed steps is not timed, so
that the first measurement goes on from the last one before.

Rivals: training stopped on the host for `hj.eigsh`, k = 1, from scratch; for power iteration as PyHessian has it
(random start, ends where the eigenvalue moves by less than 1e-3 of it, 100 products at most), from its last vector
(`warm`), and to our residual (`by residual`). Their vectors stay on the device; they find the largest magnitude and
would miss a largest eigenvalue that is below it.
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

import hessjax as hj
from benchmarks.harness import Cost, Program, compare, prepare, row
from hessjax import trees
from hessjax.objective import mean_loss

ERROR = "|sharpness - float64's of ARPACK at the same params| / float64's, the larger of first and last measurement"
RTOL = 1e-3
FULL = {"widths": (256, 256), "activation": "relu", "pool": 1, "rows": None}
SMOKE = {"widths": (8, 8), "activation": "relu", "pool": 4, "rows": 64}


class Setting(NamedTuple):
    """How a net is trained: rows a step, steps timed, and steps from a measurement to the next."""

    what: str
    rows: int | None
    num_steps: int
    everys: tuple[int, ...]


class Blocks(NamedTuple):
    """By block of steps: params and the wrapped optimiser's state before it, what its first step tracked, all losses.

    `end`: what training goes on from.
    """

    params: Any
    states: Any
    values: Any
    losses: jax.Array
    end: Any


def run() -> list[dict[str, Any]]:
    """Rows: training untracked, tracked, and interrupted by rivals; with all rows a step, then with some."""
    smoke = bool(os.environ.get("HESSJAX_SMOKE"))
    land = hj.landscapes.get("digits-mlp", **(SMOKE if smoke else FULL))
    settings = [Setting("all rows", None, 100, (10, 100)), Setting("128 rows", 128, 1000, (1000,))]
    if smoke:
        settings = [Setting("16 rows", 16, 20, (10,))]
    return [found for setting in settings for found in _rows(land, setting, smoke)]


def trained(optimizer: Any, gradient: Callable, carry: Any, first: Any = 0, *, every: int, count: int) -> Blocks:
    """`count` blocks of `every` steps from carry = (params, state).

    gradient(params, number) -> (loss, gradient); steps are numbered from `first` on.
    """

    def step(carry, number):
        params, state = carry
        loss, grad = gradient(params, number)
        updates, state = optimizer.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), (loss, _tracked(state))

    def block(carry, first):
        before = carry[0], getattr(carry[1], "inner_state", ())
        carry, (losses, values) = jax.lax.scan(step, carry, first + jnp.arange(every))
        return carry, (*before, jax.tree.map(lambda x: x[0], values), losses)

    end, (params, states, values, losses) = jax.lax.scan(block, carry, first + every * jnp.arange(count))
    return Blocks(params, states, values, losses.ravel(), end)


def _tracked(state: Any) -> Any:
    try:
        return hj.tracked(state)
    except ValueError:
        return ()


def gradients(land: Any, rows: int | None) -> Callable:
    """Of all rows, or of so many neighbours, further on at every step."""

    def taken(batch, number, count: int):
        at = number * count % (len(batch[1]) - count)
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at, count), batch)

    def gradient(params, number):
        batch = land.batch if rows is None else taken(land.batch, number, rows)
        return jax.value_and_grad(partial(mean_loss, land.loss))(params, batch)

    return gradient


def _rows(land: Any, setting: Setting, smoke: bool) -> list[dict[str, Any]]:
    measure = hj.measures.extremes(land.loss, jax.random.key(1), land.batch, rtol=RTOL)
    adam, start, gradient = optax.adam(1e-3), land.init(jax.random.key(0)), gradients(land, setting.rows)
    steps = setting.num_steps
    segment = lambda optimizer, every, count: jax.jit(partial(trained, optimizer, gradient, every=every, count=count))
    plain = segment(adam, steps, 1)
    resumed = plain((start, adam.init(start))).end
    last = lambda every: jax.tree.map(
        lambda x: x[-1], segment(adam, every, steps // every)((start, adam.init(start))).params
    )
    programs = {"untracked": prepare(plain, resumed)}
    for every in setting.everys:
        optimizer = optax.chain(hj.track(measure, every), adam)
        program, between = segment(optimizer, every, steps // every), segment(adam, every, 1)
        # What comes before is not timed: only the first measurement of all begins with random vectors.
        first = prepare(program, (start, optimizer.init(start)))
        ready = prepare(program, first.call().end)
        programs[f"hj.track, every {every}"] = ready._replace(compile_s=first.compile_s)
        for name, rival in _rivals(land).items():
            v = rival(last(every), None)[1]
            call = partial(_interrupted, between, rival, resumed, every * np.arange(steps // every), v)
            programs[f"{name}, every {every}"] = Program(call)
    costs = compare(programs, rounds=2 if smoke else 3)
    answers = {name: program.call() for name, program in programs.items()}
    batch = jax.tree.map(lambda x: x[: setting.rows], land.batch)
    said = hj.tracking.cost(measure, adam, land.loss, resumed[0], batch)
    return [_row(setting, name, cost, answers, costs, said, smoke) for name, cost in costs.items()]


def _row(
    setting: Setting, name: str, cost: Cost, answers: dict[str, Blocks], costs: dict[str, Cost], said: Any, smoke: bool
) -> dict[str, Any]:
    found, untracked = answers[name], answers["untracked"]
    numbers: dict[str, Any] = {"step_ms": 1e3 * costs["untracked"].run_s / setting.num_steps}
    label = f"{setting.what}: {name}"
    if name == "untracked":
        return row(label, cost, error=None, error_is="none: it measures nothing", **numbers)
    every = setting.num_steps // len(found.values.num_matvecs)
    numbers["share"] = 1 - 1 / cost.ratio
    if name.startswith("hj.track"):
        numbers["predicted"] = said.measure_s / (said.measure_s + every * said.step_s)
    numbers["products"] = float(np.mean(found.values.num_matvecs))
    numbers["loss_apart"] = float(abs(found.losses[-1] / untracked.losses[-1] - 1))
    values = np.ravel(found.values.values)
    apart = []
    for k in {0, len(values) - 1}:
        true = exact(SMOKE if smoke else FULL, jax.tree.map(lambda x, k=k: x[k], found.params))
        apart.append(abs(float(values[k]) / true - 1))
    return row(label, cost, error=max(apart), error_is=ERROR, **numbers)


class Seen(NamedTuple):
    """What a rival found at one place."""

    values: jax.Array
    num_matvecs: jax.Array


def _rivals(land: Any) -> dict[str, Callable]:
    """(params, the last vector or None) -> (what is seen, vector); each is told the tolerance of ours."""

    def scratch(params, _):
        found = hj.eigsh(hj.Hessian(land.loss, params, land.batch), jax.random.key(2), k=1, rtol=RTOL)
        return Seen(found.values[0], found.num_matvecs), None

    def iterated(warm, by_residual):
        def rival(params, v):
            drawn = trees.normal_like(jax.random.key(3), trees.structs(params)) if v is None or not warm else v
            return power(land.loss, params, land.batch, drawn, by_residual)

        return rival

    return {
        "hj.eigsh": scratch,
        "power iteration": iterated(False, False),
        "power iteration, warm": iterated(True, False),
        "power iteration, warm, by residual": iterated(True, True),
    }


@partial(jax.jit, static_argnums=(0, 4))
def power(loss: Callable, params: Any, batch: Any, v: Any, by_residual: bool) -> tuple[Seen, Any]:
    """Ends where the Rayleigh quotient moves by less than the tolerance, as PyHessian's, or where the residual is less.

    Or after 100 products, PyHessian's limit.
    """
    slope = jax.grad(partial(mean_loss, loss))

    def turn(state):
        v, value, _, count = state
        w = jax.jvp(lambda p: slope(p, batch), (params,), (v,))[1]
        new = trees.dot(v, w)
        off = trees.norm(trees.axpy(-new, v, w)) if by_residual else jnp.abs(new - value)
        return trees.scale(1 / trees.norm(w), w), new, off, count + 1

    def going(state):
        _, value, off, count = state
        return (count < 100) & ~(off <= RTOL * jnp.abs(value))

    v, far = trees.scale(1 / trees.norm(v), v), jnp.float32(jnp.inf)
    v, value, _, count = jax.lax.while_loop(going, turn, (v, jnp.float32(0), far, jnp.int32(0)))
    return Seen(value, count), v


def _interrupted(between: Callable, rival: Callable, carry: Any, firsts: Any, v: Any) -> Blocks:
    """Training that the host stops to measure."""
    kept = []
    for first in firsts:
        seen, v = rival(carry[0], v)
        block = between(carry, first)
        kept.append((carry[0], jax.block_until_ready(seen), block.losses))
        carry = block.end
    params, seen, losses = jax.tree.map(lambda *x: jnp.stack(x), *kept)
    return Blocks(params, (), seen, losses.ravel(), carry)


def exact(options: dict[str, Any], params: Any, scale: Any = None) -> float:
    """The largest eigenvalue of the Hessian in float64 by ARPACK; with a scale d, of that of d H d."""
    params = jax.tree.map(np.asarray, params)
    jax.config.update("jax_enable_x64", True)
    try:
        land = hj.landscapes.get("digits-mlp", **options, dtype="float64")
        x, unravel = ravel_pytree(trees.cast(params, "float64"))
        d = np.ones(x.size) if scale is None else np.asarray(ravel_pytree(scale)[0])
        slope = jax.grad(lambda x, batch: mean_loss(land.loss, unravel(x), batch))
        # Params and batch are arguments, lest the compiler multiply them together while it compiles.
        product = jax.jit(lambda x, batch, v: jax.jvp(lambda x: slope(x, batch), (x,), (v,))[1])
        between = lambda v: d * np.asarray(product(x, land.batch, d * np.ravel(v)))
        sparse: Any = scipy.sparse.linalg  # whose types are narrower than what it takes
        op = sparse.LinearOperator((x.size, x.size), matvec=between, dtype=np.float64)
        draw = np.random.default_rng(0).normal(size=x.size)
        return float(sparse.eigsh(op, k=1, which="LA", tol=1e-8, v0=draw, return_eigenvectors=False)[0])
    finally:
        jax.config.update("jax_enable_x64", False)
