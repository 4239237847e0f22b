"""Rivals in a process of their own, those on PyTorch in an environment too: `python3 run.py bench --peers` makes it.

Beside jax in one process their threads would fight for the cores. This one waits while others run, so that
`harness.compare` has all of them take turns. The packages are those of the extra `bench`; see torch_*.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Program

__all__ = ["Worker", "on_torch", "process"]

HERE = Path(__file__).parent
# This process has a device a core and held BLAS to one thread; another may have what it takes by itself.
CLEARED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS")


def on_torch() -> str | None:
    """The interpreter of the rivals' environment; None where run.py was not told `--peers`."""
    return os.environ.get("HESSJAX_PEERS")


@contextlib.contextmanager
def process(
    python: str, script: str, arrays: dict[str, Any], *args: int, loss: float | None = None
) -> Iterator[Worker]:
    """A process that has read the arrays.

    Args:
      python: the interpreter.
      script: a file of this folder, called with a folder that has problem.npz, and with `args`.
      arrays: what problem.npz is to have.
      args: more arguments.
      loss: what it must say the loss is, so that all have the same problem.

    Raises:
      RuntimeError: it ended, or has another loss.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "problem.npz", **arrays)
        worker = Worker([python, "-W", "ignore", str(HERE / script), folder, *map(str, args)], Path(folder))
        try:
            worker.facts = worker.answer()
            if loss is not None and abs(worker.facts["loss"] - loss) > 1e-5 * abs(loss):
                raise RuntimeError(f"the rivals' loss is {worker.facts['loss']}, not {loss}: another problem.")
            yield worker
        finally:
            worker.end()


class Worker:
    """A process that answers each line it is sent by a line of JSON.

    `busy_s` is the processor time it has taken, `facts` its first answer, `folder` where its problem is.
    """

    def __init__(self, command: list[str], folder: Path = HERE):
        kept = {name: value for name, value in os.environ.items() if name not in CLEARED}
        self.process = subprocess.Popen(
            command, env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.busy_s, self.folder, self.facts = 0.0, folder, {}

    def program(self, line: str) -> Program:
        """What asks for `line`, ready to be timed."""
        return Program(lambda: self.ask(line), busy=lambda: self.busy_s)

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
        """Lets it end by itself, as processes of its own end with it; after ten seconds it is ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
