"""Local workers: processes of their own on one store, each with its share of the cores.

A process is the unit because XLA's thread pools and BLAS settings are a process's own. Workers share nothing but the
store, so one that dies loses no finished unit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

from hessjax.config import Sweep
from hessjax.landscapes.base import BUILT_IN
from hessjax.progress import Progress, say
from hessjax.store import Store, StoreError

__all__ = ["check_shareable", "run_workers"]

POLL_SECONDS = 0.5
GRACE_SECONDS = 15.0  # a worker in a long compilation does not see a signal


def check_shareable(config: Sweep, workers: int) -> None:
    """Refuses a landscape that other processes cannot make, and devices they cannot share.

    Raises:
      ValueError: the landscape is an object, or a factory, of this process; or jax runs on an accelerator, whose
        memory this process holds.
    """
    if (platform := jax.default_backend()) != "cpu":
        raise ValueError(
            f"workers={workers} are processes that share CPU cores; on {platform} one process drives every local "
            "device: use workers=1, or one --worker I/N a host."
        )
    if not isinstance(config.landscape, str) or (config.landscape not in BUILT_IN and ":" not in config.landscape):
        raise ValueError(
            f"workers={workers} needs a landscape other processes can make: a built-in name or package.module:factory; "
            f"{config.landscape_name!r} lives in this process. Use workers=1, or put its factory in a module."
        )


def run_workers(config: Sweep, store: Store, *, workers: int, memory: int | None, progress: bool) -> None:
    """Finishes the units of a store with `workers` processes; what one that dies leaves, the others take over.

    Raises:
      StoreError: units are left, because workers failed; the message has the first's last line and how to resume.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "config.json"
        file.write_text(json.dumps(config.to_dict()))
        logs = [Path(scratch) / f"worker-{i}.log" for i in range(workers)]
        running = [_start(file, store.path, i, workers, memory, logs[i]) for i in range(workers)]
        try:
            _watch(running, store, config, progress)
        finally:
            _end(running)
        failed = [i for i, process in enumerate(running) if process.returncode != 0]
        if not failed:
            return
        last = (logs[failed[0]].read_text().strip().splitlines() or ["no output"])[-1]
        said = f"worker {failed[0]} of {workers} ended with exit code {running[failed[0]].returncode}: {last}"
        if not store.done().all():
            raise StoreError(f"{said} Finished units are kept; run the same again to resume.")
        say(f"{said} The others did its units.")


def _end(running: list[subprocess.Popen]) -> None:
    """Ends workers in good order: they store what they have computed; those that take too long are killed."""
    for process in running:
        process.terminate() if process.poll() is None else None
    for process in running:
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(file: Path, path: Path, index: int, count: int, memory: int | None, log: Path) -> subprocess.Popen:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cores // count)
    flags = f"--xla_force_host_platform_device_count={share}"
    if share == 1:  # one core each: without this every worker's one device would run a thread per core
        flags += " --xla_cpu_multi_thread_eigen=false"
    # The last of two equal flags counts, so the user's others are kept and this one is ours.
    env = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(), "OPENBLAS_NUM_THREADS": "1"}
    # What this process set after it began: another x64 draws other inits, and the user's modules must be found.
    env |= {"JAX_ENABLE_X64": str(int(jax.config.read("jax_enable_x64"))), "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "hessjax", "sweep", "--config", str(file), "--output", str(path)]
    command += [*(["--memory", str(memory // count)] if memory else []), "--take-over", "--worker", f"{index}/{count}"]
    with open(log, "w") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env)


def _watch(running: list[subprocess.Popen], store: Store, config: Sweep, progress: bool) -> None:
    begun = store.num_done()
    with Progress(store.num_rows - begun, config.landscape_name, before=begun, enabled=progress) as bar:
        while any(process.poll() is None for process in running):
            time.sleep(POLL_SECONDS)
            bar.advance(store.num_done() - begun - bar.done)
        bar.advance(store.num_done() - begun - bar.done)
