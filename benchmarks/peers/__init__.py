"""Rivals on PyTorch, in a process and an environment of their own: `python3 run.py bench --peers` makes it.

Beside jax in one process their threads would fight for the cores. This one waits while others run, so that
`harness.compare` has all of them take turns. The packages are those of the extra `bench`; see worker.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Program

__all__ = ["Peer", "started"]

WORKER = Path(__file__).with_name("worker.py")
LAYER = "matrix product, torch"
NAMES = ("pyhessian", "hessian-eigenthings", "curvlinops-for-pytorch")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # this process held them to one; PyTorch may have all cores


class Peer(NamedTuple):
    """A rival: its name with versions, what runs it, and the starts of its probes, flat in PyTorch's order, if known.

    The program's answer has `nodes` and `weights`, a row per probe, or says why not in `failed`; that of `LAYER`, which
    is no rival but their yardstick, has neither.
    """

    what: str
    program: Program
    starts: np.ndarray | None


@contextlib.contextmanager
def started(
    layers: list[dict[str, Any]], batch: tuple[Any, Any], *, loss: float, num_steps: int, num_probes: int
) -> Iterator[list[Peer]]:
    """The rivals, ready to run on a ReLU network, then num_steps of PyTorch's products of its width; none where run.py
    was not told `--peers`.

    Args:
      layers: `kernel` and `bias` of each layer.
      batch: inputs and integer targets.
      loss: what the mean loss must be there, so that all have the same problem.
      num_steps: Lanczos steps per probe.
      num_probes: probes.

    Raises:
      RuntimeError: the rivals' process ended, or its network has another loss.
    """
    python = os.environ.get("HESSJAX_PEERS")
    if not python:
        yield []
        return
    with tempfile.TemporaryDirectory() as folder:
        arrays = {f"{name}{k}": layer[name] for k, layer in enumerate(layers) for name in ("kernel", "bias")}
        np.savez(Path(folder) / "problem.npz", layers=len(layers), inputs=batch[0], targets=batch[1], **arrays)
        worker = Worker([python, "-W", "ignore", str(WORKER), folder, str(num_steps), str(num_probes)])
        try:
            facts = worker.answer()
            if abs(facts["loss"] - loss) > 1e-5 * abs(loss):
                raise RuntimeError(f"the rivals' network has loss {facts['loss']}, not {loss}: another problem.")
            rate = Peer(f"{LAYER} {facts['torch']}", _program("matrix product", worker), None)
            yield [*(_peer(name, facts, worker, Path(folder) / f"{name}.npy") for name in NAMES), rate]
        finally:
            worker.end()


def _peer(name: str, facts: dict[str, Any], worker: Worker, starts: Path) -> Peer:
    what = f"{name} {facts[name]}, torch {facts['torch']}"
    return Peer(what, _program(name, worker), np.load(starts) if starts.exists() else None)


def _program(name: str, worker: Worker) -> Program:
    return Program(lambda: worker.ask(name), busy=lambda: worker.busy_s)


class Worker:
    """A process that answers each line it is sent by a line of JSON; `busy_s` is the processor time it has taken."""

    def __init__(self, command: list[str]):
        kept = {name: value for name, value in os.environ.items() if name not in THREADS}
        self.process = subprocess.Popen(command, env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.busy_s = 0.0

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the rivals' process ended; what it said is above.")
        found = json.loads(line)
        self.busy_s = found.pop("busy_s")
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
