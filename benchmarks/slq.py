"""Claim: SLQ of 64 steps x 8 probes costs at most 1.10 x its 512 Hessian-vector products, >= 1.8 x faster than PyHessian, hessian-eigenthings and curvlinops; memory does not grow with num_steps.

Problem: 64-256-256-10 ReLU network, cross-entropy, all 1797 digits (8 x 8, not pooled), P = 85,002, float32, at a
random init. In matrix products alone, with f1, f2, f3 = 0.059, 0.236, 0.009 GFLOP for one pass through each kernel: a
gradient takes 2 f1 + 3 f2 + 3 f3 = 0.85, what is linear in v of a product 2 f1 + 6 f2 + 6 f3 = 1.59, and the rest of it,
the same for all, f1 + f2 + 2 f3 = 0.31: linearised once, SLQ could take 0.84 of its products. Two of the six f2 have
all but the vector the same at every step: summed over the rows once (2 x 1797 x 64 x 256 x 256 = 15 GFLOP), they are two
readings of 16.8 MB, and what is left is 0.60 of the products. `gflops` counts these, `of_peak` is to this run's rate of
products [1797, 256] x [256, 256]; "matrix product, torch" is PyTorch's rate of the same.

`ratio` is the time over that of as many isolated products, a jitted call each, of the same round: for "hj.slq" it is
the claim's. `ms` and `gradients` are for one product. `temp_m` is the workspace at m steps, from 32 on with those sums in
it, which fewer steps do not make up for. Rivals, in turns with ours:

- plain JAX: what one writes without a library, Lanczos on flat params in a scan, a probe after another.
- on PyTorch, with `run.py bench --peers`, in a process and an environment of their own: PyHessian, hessian-eigenthings
  and curvlinops as shipped, same weights, all rows as one batch, as many threads as cores. PyHessian 0.1, the newest
  release on the index, calls torch.eig, which PyTorch has removed: it raises after a probe's products, so its time is
  that of 8 such probes without their eigenvalues, and it has no answer. hessian-eigenthings (1.0.0a5 is the newest on
  the index) reorthogonalises always.

Errors: a Gauss rule gives v'Hv and v'HHv of its probe v exactly, so each probe's are compared with float64's products
at the same params. `trace_error`: the mean over probes against tr H / P, exact because a ReLU network is linear in each
weight on its own, which makes the diagonal of H that of Gauss-Newton; `trace_std_error` is what 8 probes allow.
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import hessjax as hj
from benchmarks.harness import Cost, Program, compare, prepare, row
from benchmarks.peers.densities import LAYER as TORCH_LAYER
from benchmarks.peers.densities import Peer, started
from hessjax import trees
from hessjax.krylov import unit_start
from hessjax.objective import PRECISION, mean_loss

ISOLATED, GRADIENT, LAYER = "isolated products", "gradient", "matrix product"
OURS, KEPT, PLAIN = "hj.slq", "hj.slq, full", "plain JAX"
MOMENTS = "largest relative difference of a probe's v'Hv or v'HHv from float64's product"
VECTOR = "||difference from float64|| / ||float64||"
FULL = {"widths": (256, 256), "activation": "relu", "pool": 1, "rows": None}
SMOKE = {"widths": (8, 8), "activation": "relu", "pool": 4, "rows": 32}


class Problem:
    """The network, a Hessian, the probes' key and starts, the sizes; the same in float64 for errors."""

    def __init__(self, options: dict[str, Any], num_steps: int, num_probes: int):
        self.num_steps, self.num_probes, self.options = num_steps, num_probes, options
        self.landscape = hj.landscapes.get("digits-mlp", **options)
        self.params = self.landscape.init(jax.random.key(0))
        self.hessian = hj.Hessian(self.landscape.loss, self.params, self.landscape.batch)
        self.key = jax.random.key(1)
        starts = jax.vmap(partial(unit_start, self.hessian))(jax.random.split(self.key, num_probes))
        self.starts = jax.block_until_ready(starts)  # those of slq with this key

    @property
    def products(self) -> int:
        return self.num_steps * self.num_probes

    def float64(self) -> hj.Hessian:
        """The Hessian at the same float32 params; made and used under x64."""
        loss = hj.landscapes.get("digits-mlp", **self.options, dtype="float64").loss
        return hj.Hessian(loss, *(trees.cast(x, "float64") for x in (self.params, self.landscape.batch)))


def run() -> list[dict[str, Any]]:
    """The rows: SLQ, its products, the rivals, a gradient; all take turns."""
    smoke = bool(os.environ.get("HESSJAX_SMOKE"))
    problem = Problem(SMOKE, 8, 2) if smoke else Problem(FULL, 64, 8)
    land, params = problem.landscape, problem.params
    layers = [params[f"Dense_{k}"] for k in range(len(params))]
    sizes = {"num_steps": problem.num_steps, "num_probes": problem.num_probes}
    loss = float(mean_loss(land.loss, params, land.batch))
    with started(layers, land.batch, loss=loss, **sizes) as peers:
        programs = yardsticks(problem) | ours(problem) | {PLAIN: plain(problem)}
        programs |= {peer.what: peer.program for peer in peers}
        costs = compare(programs, rounds=2 if smoke else 7)
        answers = {name: program.call() for name, program in programs.items()}
    return rows(problem, costs, answers, peers)


def yardsticks(problem: Problem) -> dict[str, Program]:
    """As many isolated products as SLQ takes, and as many gradients as it has steps, one call each; matrix products."""
    land, v = problem.landscape, jax.tree.map(lambda x: x[0], problem.starts)
    product = prepare(jax.jit(lambda op, v: op.mv(v)), problem.hessian, v)
    gradient = prepare(jax.jit(jax.grad(partial(mean_loss, land.loss))), problem.params, land.batch)
    return {
        ISOLATED: _repeated(product, problem.products),
        GRADIENT: _repeated(gradient, problem.num_steps),
        LAYER: prepare(jax.jit(partial(_chain, problem.num_steps)), *layer(problem)),
    }


def layer(problem: Problem) -> tuple[jax.Array, jax.Array]:
    """Activations and a kernel as long as the second layer's, which keeps their size."""
    width = problem.options["widths"][0]
    draw = partial(jax.random.normal, dtype="float32")
    kernel = draw(jax.random.key(2), (width, width)) / np.sqrt(width)
    return draw(jax.random.key(3), (len(problem.landscape.batch[0]), width)), kernel


def _chain(count: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, count, lambda _, x: jnp.matmul(x, kernel, precision=PRECISION), x)


def flops(problem: Problem) -> dict[str, float]:
    """Flop in one unit of each program: a product, a gradient, a matrix product; see the docstring."""
    count = len(problem.landscape.batch[0])
    passes = [2.0 * count * problem.params[name]["kernel"].size for name in sorted(problem.params)]
    first, inner = passes[0], sum(passes[1:])
    linear = 2 * first + 6 * inner
    tensor = 4.0 * problem.params["Dense_0"]["kernel"].size * len(problem.params["Dense_1"]["bias"])  # read twice
    return {
        ISOLATED: linear + first + inner + sum(passes[2:]),
        GRADIENT: 2 * first + 3 * inner,
        LAYER: 2.0 * count * problem.options["widths"][0] ** 2,
        OURS: linear - 2 * passes[1] + tensor,
    }


def _repeated(program: Program, count: int) -> Program:
    def call():
        for _ in range(count - 1):
            jax.block_until_ready(program.call())
        return program.call()

    return program._replace(call=call)


def ours(problem: Problem) -> dict[str, Program]:
    """SLQ as it comes, and with the basis kept."""
    return {
        OURS: prepare(_slq(problem, problem.num_steps), problem.hessian, problem.key),
        KEPT: prepare(_slq(problem, problem.num_steps, "full"), problem.hessian, problem.key),
    }


def _slq(problem: Problem, num_steps: int, reorthogonalize: str = "none") -> Callable:
    options = {"num_probes": problem.num_probes, "reorthogonalize": reorthogonalize}
    return jax.jit(partial(hj.slq, num_steps=num_steps, **options))


def plain(problem: Problem) -> Program:
    """Lanczos as one writes it down, on flat params, from the same starts."""
    land, unravel = problem.landscape, ravel_pytree(problem.params)[1]

    def product(x, batch, v):
        loss = lambda x: jnp.mean(land.loss(unravel(x), batch))
        return jax.jvp(jax.grad(loss), (x,), (v,))[1]

    def rule(x, batch, v):
        def step(carry, _):
            v, before, beta = carry
            w = product(x, batch, v) - beta * before
            alpha = jnp.vdot(v, w)
            w = w - alpha * v
            beta = jnp.linalg.norm(w)
            return (w / beta, v, beta), (alpha, beta)

        alphas, betas = jax.lax.scan(step, (v, jnp.zeros_like(v), 0.0), length=problem.num_steps)[1]
        nodes, vectors = jnp.linalg.eigh(jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1))
        return nodes, vectors[0] ** 2

    def rules(params, batch, starts):
        x = ravel_pytree(params)[0]
        with jax.default_matmul_precision(PRECISION):
            return jax.lax.map(lambda v: rule(x, batch, ravel_pytree(v)[0]), starts)

    return prepare(jax.jit(rules), problem.params, land.batch, problem.starts)


def memory(problem: Problem) -> dict[str, int | None]:
    """Workspace of the compiled program at fewer and more steps."""
    steps = (problem.num_steps // 4, problem.num_steps, 4 * problem.num_steps)
    return {f"temp_{m}": prepare(_slq(problem, m), problem.hessian, problem.key).temp_bytes for m in steps}


def rows(problem: Problem, costs: dict[str, Cost], answers: dict[str, Any], peers: list[Peer]) -> list[dict[str, Any]]:
    """A row each, SLQ first."""
    layers = [name for name in costs if name.startswith(LAYER)]
    units = dict.fromkeys(costs, problem.products) | dict.fromkeys((GRADIENT, *layers), problem.num_steps)
    each = {name: cost.run_s / units[name] for name, cost in costs.items()}
    work = flops(problem)
    rates = {name: flop / each[name] for name, flop in (work | dict.fromkeys(layers, work[LAYER])).items()}
    wrong, found = errors(problem, answers, peers), []
    for name, cost in costs.items():
        more: dict[str, Any] = {"ms": 1e3 * each[name], "gradients": each[name] / each[GRADIENT]}
        if name in rates:
            more |= {"gflops": 1e-9 * rates[name], "of_peak": rates[name] / rates[LAYER]}
        if name not in (ISOLATED, GRADIENT, *layers):
            more["of_slq"] = cost.run_s / costs[OURS].run_s
        if name == OURS:
            more |= memory(problem) | {"rivals_on_torch": len(peers) - 1 if peers else "none: not run with --peers"}
        found.append(row(name, cost, **more, **wrong[name]))
    return sorted(found, key=lambda r: r["what"] != OURS)


def errors(problem: Problem, answers: dict[str, Any], peers: list[Peer]) -> dict[str, dict[str, Any]]:
    """By program: its error, what that is, and how far its trace is off; x64 is on in here alone."""
    wide = layer(problem)
    jax.config.update("jax_enable_x64", True)
    try:
        exact, trace = problem.float64(), exact_trace(problem)
        multiply = jax.jit(lambda op, v: op.mv(v))
        slope = jax.jit(jax.grad(partial(mean_loss, exact.loss)))(exact.params, exact.batch)
        first = jax.tree.map(lambda x: x[0], problem.starts)
        found = {
            ISOLATED: {"error": _distance(answers[ISOLATED], multiply(exact, first)), "error_is": VECTOR},
            GRADIENT: {"error": _distance(answers[GRADIENT], slope), "error_is": VECTOR},
            LAYER: {
                "error": _distance(answers[LAYER], _chain(problem.num_steps, *trees.cast(wide, "float64"))),
                "error_is": VECTOR,
            },
        }
        truth = _moments(problem, exact, multiply, problem.starts)
        for name in (OURS, KEPT, PLAIN):
            nodes, weights = answers[name][:2]
            found[name] = _rule_errors(nodes, weights, truth, trace)
        for peer in peers:
            found[peer.what] = _peer_errors(problem, answers[peer.what], peer, exact, multiply, trace)
        return found
    finally:
        jax.config.update("jax_enable_x64", False)


def _peer_errors(problem, answer, peer, exact, multiply, trace) -> dict[str, Any]:
    if peer.what.startswith(TORCH_LAYER):
        return {"error": None, "error_is": "not taken: of random numbers"}
    if "failed" in answer:
        return {"error": None, "error_is": f"no answer, it raised: {answer['failed']}"}
    starts = jax.vmap(partial(_from_torch, problem.params))(jnp.asarray(peer.starts, "float64"))
    truth = _moments(problem, exact, multiply, starts)
    return _rule_errors(answer["nodes"], answer["weights"], truth, trace)


def _from_torch(like: Any, flat: Any) -> Any:
    """A vector of PyTorch's order, [out, in] weight and bias by layer, as params."""
    found, at = {}, 0
    for name in sorted(like):
        rows, columns = like[name]["kernel"].shape
        kernel = flat[at : at + rows * columns].reshape(columns, rows).T
        at += (rows + 1) * columns
        found[name] = {"kernel": kernel, "bias": flat[at - columns : at]}
    return found


def _moments(problem: Problem, exact: hj.Hessian, multiply: Callable, starts: Any) -> np.ndarray:
    """v'Hv and v'HHv of each unit start, [probes, 2]."""
    found = []
    for k in range(problem.num_probes):
        v = jax.tree.map(lambda x, k=k: jnp.asarray(x[k], "float64"), starts)
        v = trees.scale(1 / trees.norm(v), v)
        w = multiply(exact, v)
        found.append([float(trees.dot(v, w)), float(trees.dot(w, w))])
    return np.asarray(found)


def _rule_errors(nodes: Any, weights: Any, truth: np.ndarray, trace: float) -> dict[str, Any]:
    nodes, weights = np.asarray(nodes, np.float64), np.asarray(weights, np.float64)
    found = np.stack([np.sum(weights * nodes**k, axis=1) for k in (1, 2)], axis=1)
    spread = np.std(found[:, 0], ddof=1) / np.sqrt(len(found))
    return {
        "error": float(np.max(np.abs(found / truth - 1))),
        "error_is": MOMENTS,
        "trace_error": abs(float(np.mean(found[:, 0])) / trace - 1),
        "trace_std_error": float(spread / trace),
    }


def exact_trace(problem: Problem) -> float:
    """tr H / P from the squares of 10 gradients a row: with A = R R' the loss's Hessian, tr J'AJ = ||J'R||^2."""
    land = hj.landscapes.get("digits-mlp", **problem.options, dtype="float64")
    model: Any = land.model  # this landscape has one
    params = trees.cast(problem.params, "float64")

    def one(x):
        logits, pull = jax.vjp(lambda p: model(p, x[None])[0], params)
        q = jax.nn.softmax(logits)
        root = jnp.diag(jnp.sqrt(q)) - jnp.outer(q, jnp.sqrt(q))
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.vmap(pull)(root.T)))

    traces = jax.jit(partial(jax.lax.map, one))(land.batch[0])
    return float(jnp.mean(traces)) / problem.hessian.size


def _distance(found: Any, exact: Any) -> float:
    pair = [np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(t)]) for t in (found, exact)]
    return float(np.linalg.norm(pair[0] - pair[1]) / np.linalg.norm(pair[1]))
