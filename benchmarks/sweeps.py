"""Claim: 10,000 inits of a 4-6-4 tanh net, 200 training steps and the whole spectrum at 20 times, are stored in under 60 s and 4 GiB on 2 cores; time per init is flat from 1,000 to 100,000 inits (100 take .12 s more: nothing overlaps the first lane, and 2 s of compiling for several Hessians at a time are not worth it), memory from 100; the store's work is under 2 % of the run.

P = 58 parameters with biases, 64 rows of Gaussian clusters, Adam, float32, lanes of 64 inits over one device a core. Two
numbers first, for one init: 200 gradients and 20 Hessians of 64 rows are 200 x .1 + 20 x 1.7 MFLOP (P^2 a row, and 58
tangents through 10 units), 20 tridiagonal forms of 58 rows 20 x .26 MFLOP: 60 MFLOP, under 1 ms at a tenth of the rate
of matrix products, which matrices this small see; and 5 KB stored of 20 x (58 + 12) numbers.

Rows: `inits N` and `devices N` and `workers N` are commands in processes of their own, from start to end; `ms_per_init` is
of the seconds that units took (importing and compiling are apart, `compile_s`), `peak_bytes` the process's largest resident
set (of workers, the largest of one). Error of `devices` and `workers`: largest |loss at step 0 - that of one device| in units
of eps |loss|. `lane` are 9984 inits in this process, `stored` the same through the store as a sweep does, while the next are
computed, `store` the store's work on the same rows alone; `ratio` of all is to `lane`. Rival: the same training, one Hessian after another as `eigvalsh(jax.hessian)`, spread
over the same devices, stored nowhere (`plain JAX`). Their error: largest |eigenvalue - float64's| / largest |eigenvalue|.
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.harness import Program, compare, once, row
from hessjax import records
from hessjax.config import Sweep
from hessjax.ensemble import rows_of, unit_of
from hessjax.lanes import Lanes, resolve
from hessjax.objective import mean_loss
from hessjax.runs import run_attrs
from hessjax.store import Store
from hessjax.working import Begin, write_units

NET = {"task": "clusters", "shape": 4, "classes": 4, "rows_per_class": 16, "widths": 6}
LOSS = "largest |loss at step 0 - that of one device| / (eps |loss|)"
SPECTRUM = "largest |eigenvalue - float64's| / largest |eigenvalue|"


def run() -> list[dict[str, Any]]:
    """Rows: numbers of inits, of devices, of workers; a lane, the same stored, and plain JAX."""
    smoke = bool(os.environ.get("HESSJAX_SMOKE"))
    many, few = ((20, 80), 80) if smoke else ((100, 1000, 10_000, 100_000), 2000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = [_command(f"inits {count}", config(count, smoke), folder, None) for count in many]
        one = folder / "devices 1.zarr"
        for count in (1, 2) if smoke else (1, 2, 4, 8):
            found.append(_command(f"devices {count}", config(few, smoke), folder, one, devices=count))
        for count in (2,) if smoke else (1, 2, 4):
            found.append(_command(f"workers {count}", config(few, smoke), folder, one, workers=count))
        found += _in_process(config(64 if smoke else 9984, smoke), folder)
    return found


def config(num_inits: int, smoke: bool) -> Sweep:
    """The sweep of the claim."""
    size: dict[str, Any] = {"num_steps": 10, "times": 2} if smoke else {"num_steps": 200, "times": 20}
    return Sweep(landscape="mlp", options=NET, num_inits=num_inits, spacing="linear", **size)


def _command(
    what: str, sweep: Sweep, folder: Path, one: Path | None, *, devices: int | None = None, workers: int | None = None
) -> dict[str, Any]:
    """A row: the command in a process of its own."""
    file, path = folder / f"{what}.json", folder / f"{what}.zarr"
    file.write_text(json.dumps(sweep.to_dict()))
    command = [sys.executable, "-m", "hessjax", "sweep", "--config", str(file), "--output", str(path), "--no-progress"]
    command += [] if workers is None else ["--workers", str(workers)]
    forced = {} if devices is None else {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **forced}, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall, process.returncode = time.perf_counter() - began, os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{what}: exit code {process.returncode}")
    store = Store.open(path)
    said = run_attrs(store.events())
    error = None if one is None else _apart(store.read("loss")[:, 0], Store.open(one).read("loss")[:, 0])
    cores = (used.ru_utime + used.ru_stime) / wall
    cost = once(wall, cores=cores, compile_s=said["compile_s"])
    per = 1e3 * said["wall_s"] / sweep.num_inits
    return row(
        what, cost, error=error, error_is=LOSS, ms_per_init=per, peak_bytes=used.ru_maxrss * 1024, units=store.num_units
    )


def _apart(losses: np.ndarray, others: np.ndarray) -> float:
    return float((np.abs(losses - others) / (np.finfo(losses.dtype).eps * np.abs(others))).max())


def _in_process(sweep: Sweep, folder: Path) -> list[dict[str, Any]]:
    """Rows of a lane computed, computed and stored, and in plain JAX."""
    lanes = Lanes(sweep, resolve(sweep))
    lanes.compile(lanes.steps())
    count, made = sweep.num_inits // lanes.width, iter(range(1000))
    arrays, kept = records.arrays(lanes, steps=lanes.times), {}

    def alone() -> None:
        begun = lanes.begin(0)
        for k in range(1, count + 1):
            ahead = lanes.begin(k * lanes.width % sweep.num_inits) if k < count else None
            lanes.wait(begun)
            begun = ahead or begun

    def through(begin: Callable[[Store], Begin]) -> None:
        store = Store.create(folder / f"s{next(made)}.zarr", arrays, {}, rows="init", unit=unit_of(lanes, arrays, None))
        write_units(store, (0, 1), begin(store), at_once=lanes.width, label="", what="", progress=False)

    def keeping(store: Store) -> Begin:
        begin = rows_of(lanes, store)
        for start in range(0, sweep.num_inits, lanes.width):
            kept[start] = begin(start, start + lanes.width)()
        return computed(store)

    computed = lambda _: lambda start, _: lambda: kept[start]
    through(keeping)
    rival = _plain(lanes)
    calls = {
        "lane": Program(alone, lanes.compile_s),
        "stored": Program(lambda: through(partial(rows_of, lanes)), lanes.compile_s),
        "store": Program(lambda: through(computed)),
        "plain JAX": Program(lambda: [rival(k * lanes.width) for k in range(count)]),
    }
    costs = compare(calls, rounds=2 if sweep.num_steps == 10 else 5)
    ours, theirs = lanes.run(0)["eigenvalues"][:, -1], np.asarray(rival(0))
    truth = _truth(lanes)
    errors = {"lane": ours, "stored": ours, "plain JAX": theirs}
    apart = lambda values: None if values is None else float(np.abs(values - truth).max() / np.abs(truth).max())
    per = lambda cost: 1e3 * cost.run_s / sweep.num_inits
    return [
        row(name, cost, error=apart(errors.get(name)), error_is=SPECTRUM, ms_per_init=per(cost))
        for name, cost in costs.items()
    ]


def _plain(lanes: Lanes) -> Any:
    """A lane as one would write it: the same training, every Hessian's eigenvalues; it returns the last."""
    land = lanes.landscape

    def spectrum(params: Any) -> jax.Array:
        flat, unravel = ravel_pytree(params)
        return jnp.linalg.eigvalsh(jax.hessian(lambda w: mean_loss(land.loss, unravel(w), land.batch))(flat))

    measured = jax.jit(lanes._sharded(partial(jax.lax.map, spectrum), False))

    def lane(first: int) -> jax.Array:
        inits = lanes.numbers(first)
        state, now, values = lanes.start(inits), 0, []
        for step in lanes.times:
            state = lanes.train(state, inits, now, step) if step > now else state
            values.append(measured(state.params))
            now = step
        return jax.block_until_ready(values)[-1]

    return lane


def _truth(lanes: Lanes) -> np.ndarray:
    """float64 spectra at the float32 params that the first lane ends at."""
    inits = lanes.numbers(0)
    state, now = lanes.start(inits), 0
    for step in lanes.times[1:]:
        state, now = lanes.train(state, inits, now, step), step
    params = jax.tree.map(np.asarray, state.params)
    batch = jax.tree.map(np.asarray, lanes.landscape.batch)
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        wide = lambda tree: jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64 if x.dtype.kind == "f" else x.dtype), tree
        )
        batch, found = wide(batch), []
        for k in range(lanes.width):
            flat, unravel = ravel_pytree(wide(jax.tree.map(lambda x, k=k: x[k], params)))
            hessian = jax.hessian(lambda w, u=unravel: mean_loss(lanes.landscape.loss, u(w), batch))(flat)
            found.append(np.linalg.eigvalsh(np.asarray(hessian)))
        return np.stack(found)
    finally:
        jax.config.update("jax_enable_x64", before)
