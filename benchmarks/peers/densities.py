"""Densities by the rivals on PyTorch: PyHessian, hessian-eigenthings and curvlinops; see torch_densities.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Program
from benchmarks.peers import Worker, on_torch, process

__all__ = ["LAYER", "Peer", "started"]

LAYER = "matrix product, torch"
NAMES = ("pyhessian", "hessian-eigenthings", "curvlinops-for-pytorch")


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
    python = on_torch()
    if python is None:
        yield []
        return
    arrays = {f"{name}{k}": layer[name] for k, layer in enumerate(layers) for name in ("kernel", "bias")}
    arrays |= {"layers": len(layers), "inputs": batch[0], "targets": batch[1]}
    with process(python, "torch_densities.py", arrays, num_steps, num_probes, loss=loss) as worker:
        rate = Peer(f"{LAYER} {worker.facts['torch']}", worker.program("matrix product"), None)
        yield [*(_peer(name, worker) for name in NAMES), rate]


def _peer(name: str, worker: Worker) -> Peer:
    what, starts = f"{name} {worker.facts[name]}, torch {worker.facts['torch']}", worker.folder / f"{name}.npy"
    return Peer(what, worker.program(name), np.load(starts) if starts.exists() else None)
