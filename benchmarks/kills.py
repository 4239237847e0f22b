"""Claim: of 100 workers killed at random moments, two at a time on one store, none loses, tears or doubles a unit: every store ends bit for bit as an uninterrupted run.

Two processes of `hessjax sweep` on one store, told nothing of each other. A random time after one of them has taken a
unit, one that holds one (or, where it has just let go, either) gets SIGKILL and is started again, until 100 have been
killed; a store that is finished meanwhile is compared and a new one begun. At each kill the store is read whole
(`hj.verify`): checksums, missing rows, numbers that contradict each other.

Error: arrays of finished stores that differ in any bit from those of one uninterrupted process. `damaged` are units
that a store said were done and that were not sound, at any kill; `unfinished` kills left leases, mostly of units that
were not done; `again` are units whose log tells of more than one process, which costs time and nothing else.

No rival: plain scripts that save after each batch have no second worker, and PyHessian's and the others' results are lost.
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import hessjax as hj
from benchmarks.harness import once, row
from hessjax.claims import holders
from hessjax.store import Store

NET = "task=clusters shape=4 classes=4 rows_per_class=16 widths=6"
SWEEP = f"--landscape mlp --options {NET} --num-inits 384 --num-steps 3000 --times 4 --lane-width 8 --spacing linear"
SMOKE = (
    "--landscape quadratic --num-inits 16 --num-steps 3000000 --times 2 --lane-width 1 --spacing linear --optimizer sgd"
)
LONGEST = 1.0  # seconds before a kill, several units long


def run() -> list[dict[str, Any]]:
    """One row: what 100 kills did."""
    kills = 3 if os.environ.get("HESSJAX_SMOKE") else 100
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "whole.zarr"
        _wait(_start(reference, Path(folder)))
        began = time.perf_counter()
        found = killed(reference, Path(folder), kills, seed=0)
        wall = time.perf_counter() - began
    differing = found.pop("differing")
    return [
        row(
            f"{kills} kills",
            once(wall),
            error=differing,
            error_is="arrays that differ from an uninterrupted run",
            **found,
        )
    ]


def killed(reference: Path, folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Counts of what became of stores while so many of their workers were killed."""
    draw, count, stores, differing = random.Random(seed), Counter(), 0, 0
    while count["kills"] < kills:
        path = folder / f"{stores}.zarr"
        workers = [_start(path, folder) for _ in range(2)]
        try:
            while count["kills"] < kills and any(process.poll() is None for process in workers):
                while not _at_work(path, workers) and any(process.poll() is None for process in workers):
                    time.sleep(0.01)
                time.sleep(draw.uniform(0.0, LONGEST))
                k = draw.choice(_at_work(path, workers) or [0, 1])
                if workers[k].poll() is not None:
                    continue
                workers[k].kill()
                workers[k].wait()
                count.update(kills=1, **_seen(path))
                workers[k] = _start(path, folder)
            for process in workers:
                _wait(process)
        finally:
            for process in workers:
                process.kill()
                process.wait()
        stores, differing = stores + 1, differing + _differing(path, reference)
        written = Counter(e["unit"] for e in Store.open(path).events() if e["event"] == "unit")
        count.update(units=Store.open(path).num_units, again=sum(written.values()) - len(written))
    return {**count, "stores": stores, "differing": differing}


def _at_work(path: Path, workers: list[subprocess.Popen]) -> list[int]:
    """Those that hold a unit, and are not still starting."""
    held = {h.pid for h in holders(Store.open(path).claims_path)} if Store.is_anything_at(path) else set()
    return [k for k, process in enumerate(workers) if process.pid in held]


def _seen(path: Path) -> dict[str, int]:
    """What a kill left: whether the dead held a unit, and what is not sound."""
    dead = sum(holder.alive is False for holder in holders(Store.open(path).claims_path))
    return {"unfinished": min(dead, 1), "damaged": len(hj.verify(path))}


def _differing(path: Path, reference: Path) -> int:
    one, other = Store.open(path), Store.open(reference)
    names = (*other.by_row, "init", "step", "done")
    return sum(one.read(name).tobytes() != other.read(name).tobytes() for name in names)


def _start(path: Path, folder: Path) -> subprocess.Popen:
    words = (SMOKE if os.environ.get("HESSJAX_SMOKE") else SWEEP).split()
    command = [sys.executable, "-m", "hessjax", "sweep", *words, "--output", str(path), "--no-progress"]
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1", "OPENBLAS_NUM_THREADS": "1"}
    with open(folder / "said.txt", "a") as said:
        return subprocess.Popen(command, env=env, stdout=said, stderr=said)


def _wait(process: subprocess.Popen) -> None:
    if process.wait(600) != 0:
        raise RuntimeError(f"a worker that nobody killed ended with exit code {process.returncode}")
