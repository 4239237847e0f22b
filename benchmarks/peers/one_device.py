"""Stacks as one who sets nothing has them: one device, and as many BLAS threads as BLAS takes by itself.

usage: python one_device.py FOLDER, with FOLDER/problem.npz; a line of standard input names a way, a line of JSON is
its answer.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hessjax as hj


def main(folder: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    arrays = np.load(folder / "problem.npz")
    stack = jnp.asarray(arrays["stack"])
    ways = {
        "counts": jax.jit(partial(hj.inertia, tol=float(arrays["tol"]))).lower(stack).compile(),
        "jnp.linalg.eigvalsh": jax.jit(jnp.linalg.eigvalsh).lower(stack).compile(),
    }

    def answer(**found: float) -> None:
        print(json.dumps({**found, "busy_s": time.process_time()}), file=answers, flush=True)

    answer(devices=jax.device_count())
    for line in sys.stdin:
        jax.block_until_ready(ways[line.strip()](stack))
        answer()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
