"""Eight Slurm workers on one store, started from Python: `pip install submitit`, then run this file.

Each does its share and then what others left undone; run it again to go on after whatever happened.
"""

from __future__ import annotations

import sys
from pathlib import Path

WORKERS = 8


def work(index: int, workers: int, store: str) -> str:
    """One worker's share, in a process of its own: what belongs to a process is set before jax starts."""
    from hessjax.process import own_process

    own_process()
    import hessjax as hj

    config = hj.Sweep(landscape="digits-mlp", num_inits=4096, num_steps=300, times=8)
    return str(hj.sweep(config, store, worker=(index, workers), take_over=True, progress=False))


def main(store: str = "sweep.zarr") -> None:
    """Submits the workers and waits for them."""
    import submitit

    executor = submitit.AutoExecutor(folder=Path(store).with_suffix(".submitit"))
    executor.update_parameters(timeout_min=240, cpus_per_task=4, mem_gb=8, slurm_array_parallelism=WORKERS)
    jobs = executor.map_array(work, range(WORKERS), [WORKERS] * WORKERS, [store] * WORKERS)
    print(jobs[0].result(), "is done" if all(job.result() for job in jobs) else "")


if __name__ == "__main__":
    main(*sys.argv[1:])
