"""What a command sets for its whole process, and how it shows what it found; a library call does neither."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["is_first_process", "own_process", "print_rows", "save_figure"]


def own_process(dtype: str = "float32", *, distributed: bool = False) -> None:
    """Sets what belongs to a whole process, before jax starts: one CPU device a core, one BLAS thread, x64 if asked.

    One device a core keeps every core on its own inits; BLAS threads on top of that would fight over the cores. One of
    several processes has a single device, whose products use all cores: before jax 0.12 collectives of more may hang.

    Raises:
      ValueError: distributed, and the other processes are not found.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = 1 if distributed else cores
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={cores}".strip()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import jax

    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if distributed:
        from hessjax.distributed import start

        start()


def is_first_process() -> bool:
    """Whether this process is the one of its job that prints and writes.

    Example:
      >>> is_first_process()
      True
    """
    import jax

    return jax.process_index() == 0


def print_rows(rows: Mapping[str, Any]) -> None:
    """A line for each name and value.

    Example:
      >>> print_rows({"parameters": 6})
      parameters    6
    """
    for name, value in rows.items():
        print(f"{name:14s}{value}")


def save_figure(drawn: Any, path: Path) -> None:
    """Writes a figure, or the one that axes are on, and says where.

    Raises:
      ValueError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        getattr(drawn, "figure", drawn).savefig(path, dpi=150, bbox_inches="tight")
    except (OSError, ValueError) as error:  # no permission, a file for a folder, or a suffix matplotlib does not know
        raise ValueError(f"--output {path}: {error}") from error
    print(f"figure        {path}")
