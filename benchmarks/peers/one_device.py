"""Stacks as one who sets nothing has them: one device, and as many BLAS threads as BLAS takes by itself.

usage: python one_device.py FOLDER, with FOLDER/problem.npz; answers as answers.py has it. "write" leaves the counts in
FOLDER/counts.npz and the eigenvalues in FOLDER/values.npy.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from answers import opened, serve

import hessjax as hj


def main(folder: Path) -> None:
    answers, arrays = opened(), np.load(folder / "problem.npz")
    stack = jnp.asarray(arrays["stack"])
    counts = jax.jit(partial(hj.inertia, tol=float(arrays["tol"]))).lower(stack).compile()
    values = jax.jit(jnp.linalg.eigvalsh).lower(stack).compile()

    def run(f):
        jax.block_until_ready(f(stack))
        return {}

    def write():
        np.savez(folder / "counts.npz", **counts(stack)._asdict())
        np.save(folder / "values.npy", values(stack))
        return {}

    ways = {"counts": partial(run, counts), "jnp.linalg.eigvalsh": partial(run, values), "write": write}
    serve(answers, {"devices": jax.device_count()}, ways)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
