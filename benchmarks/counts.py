"""Claim: counts of negative, zero and positive eigenvalues take at most half of eigvalsh's time from 64 rows on, none that is certified is wrong, and an init to its counts takes at most 0.2 of plain JAX's.

Stacks, float32, of Gaussian orthogonal matrices: (n, how many) = (512, 64), (64, 1024), (16, 16384), (4, 65536). Two
numbers for one of n = 512: 4/3 n^3 = 179 MFLOP to tridiagonal form, of which a half are products with a vector, that read the trailing
triangle at every column: n^3/6 numbers, 90 MB out of a second-level cache that the matrix fills. A count is one pass of
n steps. Elimination needs n^3/3 at each of four thresholds, so as much, before any pivoting; at the two outer ones if no
eigenvalue lies between, and in float64, as pivots are small. Tried so (a core of an Intel model 167, two shifts): 256
matrices of 64 rows side by side in 9 ms, where counts take 13 and LAPACK 50, of 48 rows in 3.5, 9 and 33, but compiled
in 3.5 s instead of .8; of 512 rows its 90 MFLOP are products of 448 x 64 x 64 at 36 GFLOP/s, 2.5 ms, and about 1.5 for
panels, where counts take 5.1. Eight times LAPACK at 64 rows, and four at 512 everywhere, are beyond either.

Rivals: `jnp.linalg.eigvalsh`, one after another on one device a core; NumPy's, of the stack (one call, so on
one core). `jnp.linalg.eigvalsh` of a stack on several CPU devices is left out: it can hang.
"Nothing set": counts and `jnp.linalg.eigvalsh` of the stack in a process with one device and BLAS threads as it comes.
The path: `net` of the claim `assembly`, from keys to counts; plain is `eigvalsh(jax.hessian)`, an init after another on
one device a core; with `run.py bench --peers` also torch.func's `hessian` and torch's `eigvalsh`, from params on: one
by one and 8 in a `vmap` with all cores, and one by one in a process a core.

Errors: certified counts that differ from those of float64's eigenvalues of the same matrices; of the path, from those of
`jax.hessian` in float64 at the same params, of the rivals all counts. `wrong` is over 1e5
matrices of 2 to 48 rows: random, integer, of low rank, with zero clusters, saddle-point, graded.
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import hessjax as hj
from benchmarks.assembly import SMOKE, WIDTH, Problem, in_float64, net, placed, plain_hessian, spread
from benchmarks.harness import Program, compare, prepare, row
from benchmarks.peers import on_torch, process

STACKS = ((8, 4),) if SMOKE else ((512, 64), (64, 1024), (16, 16384), (4, 65536))
MATRICES = 60 if SMOKE else 100_000
TOL = 1e-5
PATH = min(WIDTH, 16)  # inits of a run: of more, torch has taken three times as long for each
WRONG = "certified counts unlike float64's / certified counts"


def run() -> list[dict[str, Any]]:
    """A row for each stack and way, then the path, then the wrong counts."""
    found = []
    for n, count in STACKS:
        stack = jax.random.normal(jax.random.key(n), (count, n, n))
        stack = placed(stack + jnp.swapaxes(stack, 1, 2), count)
        host = np.asarray(stack)
        one_by_one = spread(lambda a: jax.lax.map(jnp.linalg.eigvalsh, a), count)
        programs = {
            "counts": prepare(spread(partial(hj.inertia, tol=TOL), count), stack),
            "eigenvalues": prepare(spread(hj.eigvalsh, count), stack),
            "jax eigvalsh": prepare(one_by_one, stack),
            "numpy eigvalsh": Program(partial(np.linalg.eigvalsh, host)),
        }
        with process(sys.executable, "one_device.py", {"stack": host, "tol": TOL}) as worker:
            alone = {f"{way}, nothing set": worker.program(way) for way in ("counts", "jnp.linalg.eigvalsh")}
            costs = compare(programs | alone, rounds=2 if SMOKE else 7)
            worker.ask("write")
            counted = hj.Inertia(**np.load(worker.folder / "counts.npz"))
            answers = {
                "counts, nothing set": counted,
                "jnp.linalg.eigvalsh, nothing set": np.load(worker.folder / "values.npy"),
            }
        answers |= {name: program.call() for name, program in programs.items()}
        exact = np.linalg.eigvalsh(host.astype("float64"))
        for name, cost in costs.items():
            more: dict[str, Any] = {"size": n, "ms": 1e3 * cost.run_s / count}
            if name.startswith("counts"):
                wrong, certified = checked(answers[name], exact)
                kept = {"error": wrong / max(certified, 1), "error_is": WRONG}
                more["certified"] = certified / count
            else:
                far = np.abs(np.asarray(answers[name], "float64") - exact).max(1) / np.abs(exact).max(1)
                what = "largest |eigenvalue - float64's| / largest |eigenvalue|"
                kept = {"error": float(far.max()), "error_is": what}
            found.append(row(f"{n} x {count}: {name}", cost, **more, **kept))
    return [*found, *path(), many()]


def checked(found: Any, exact: np.ndarray) -> tuple[int, int]:
    """How many certified counts differ from those of exact eigenvalues, and how many are certified."""
    edge = np.asarray(found.threshold, "float64")[:, None]
    differ = (found.negative != (exact < -edge).sum(1)) | (found.positive != (exact > edge).sum(1))
    ok = np.asarray(found.certified)
    return int(np.sum(differ & ok)), int(np.sum(ok))


def path() -> list[dict[str, Any]]:
    """From keys to counts, of an init: the library and what one writes without it."""
    problem, keys = net(), jax.random.split(jax.random.key(1), PATH)
    keys = placed(keys, PATH)

    def ours(key):
        return hj.inertia(hj.Hessian(problem.loss, problem.init(key), problem.batch), tol=TOL)

    def plain(key):
        matrix = plain_hessian(problem, problem.init(key))
        edge = TOL * jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
        values = jnp.linalg.eigvalsh(matrix)
        return jnp.sum(values < -edge), jnp.sum(values > edge)

    ways = {
        "path": spread(lambda k: jax.lax.map(ours, k), PATH),
        "path, plain": spread(lambda k: jax.lax.map(plain, k), PATH),
    }
    programs = {name: prepare(f, keys) for name, f in ways.items()}
    with path_on_torch(problem, keys) as rivals:
        programs |= rivals
        costs = compare(programs, rounds=2 if SMOKE else 7)
        found, plain_counts, *torch_counts = (program.call() for program in programs.values())
    matrices = in_float64(problem, jax.vmap(problem.init)(keys))
    exact, edge = np.linalg.eigvalsh(matrices), TOL * np.abs(matrices).sum(2).max(1)[:, None]
    counts = np.stack([(exact < -edge).sum(1), (exact > edge).sum(1)])
    wrong, certified = checked(found, exact)
    others = [plain_counts, *((x["negative"], x["positive"]) for x in torch_counts)]
    errors = [wrong / max(certified, 1), *(float(np.mean((np.stack(x) != counts).any(0))) for x in others)]
    kinds = [WRONG, *["counts unlike float64's / counts"] * len(others)]
    rows = zip(costs.items(), errors, kinds, strict=True)
    return [row(name, c, ms=1e3 * c.run_s / PATH, error=error, error_is=kind) for (name, c), error, kind in rows]


@contextlib.contextmanager
def path_on_torch(problem: Problem, keys: Any) -> Iterator[dict[str, Program]]:
    """The path by torch.func from the same params on, in a process of its own; none without `--peers`."""
    python = on_torch()
    if python is None:
        yield {}
        return
    params = jax.vmap(lambda key: ravel_pytree(problem.init(key))[0])(keys)
    arrays = {"x": problem.batch[0], "y": problem.batch[1], "params": params, "tol": TOL}
    loss = float(jnp.mean(problem.loss(problem.init(keys[0]), problem.batch)))
    with process(python, "torch_hessians.py", arrays, loss=loss) as worker:
        name = f"path, torch.func {worker.facts['torch']}"
        yield {f"{name}, {way}": worker.program(way) for way in ("one by one", "8 at a time", "a process a core")}


def many() -> dict[str, Any]:
    """Counts of very many matrices, degenerate ones among them, all checked against float64."""
    rng, wrong, certified, cost, total = np.random.default_rng(0), 0, 0, None, 0
    sizes = (2, 3, 5, 8, 16, 24, 32, 48)
    for n in sizes:
        stack = np.concatenate([kind(rng, MATRICES // len(sizes) // len(KINDS) + 1, n) for kind in KINDS])
        stack = stack.astype("float32")
        stack = np.tril(stack) + np.swapaxes(np.tril(stack, -1), 1, 2)  # rounded first, so that it is exactly symmetric
        program = prepare(jax.jit(partial(hj.inertia, tol=TOL)), stack)
        bad, sure = checked(program.call(), np.linalg.eigvalsh(stack.astype("float64")))
        wrong, certified, total = wrong + bad, certified + sure, total + len(stack)
        cost = compare({"": program}, rounds=1)[""]
    assert cost is not None
    more = {"matrices": total, "certified": certified / total, "wrong": wrong}
    return row("wrong counts (time: of the largest)", cost, **more, error=wrong / certified, error_is=WRONG)


def _symmetric(a: np.ndarray) -> np.ndarray:
    return (a + np.swapaxes(a, 1, 2)) / 2


def _random(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    return _symmetric(rng.standard_normal((count, n, n)))


def _integer(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    return np.round(2 * _random(rng, count, n))  # many of them singular, with eigenvalues that coincide


def _low_rank(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    factor = rng.standard_normal((count, n, max(1, n // 4)))
    return np.einsum("lik,k,ljk->lij", factor, np.where(np.arange(factor.shape[2]) % 2, -1.0, 1.0), factor)


def _cluster(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    q = np.linalg.qr(rng.standard_normal((count, n, n)))[0]
    return np.einsum("lik,k,ljk->lij", q, np.repeat([0.0, -1.0, 1.0], [n - 2 * (n // 3), n // 3, n // 3]), q)


def _saddle_point(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    a = np.zeros((count, n, n))
    a[:, : n // 2, n // 2 :] = rng.standard_normal((count, n // 2, n - n // 2))
    return a + np.swapaxes(a, 1, 2)


def _graded(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    scale = 10.0 ** np.linspace(0, -6, n)
    return _random(rng, count, n) * np.outer(scale, scale)


KINDS = (_random, _integer, _low_rank, _cluster, _saddle_point, _graded)
