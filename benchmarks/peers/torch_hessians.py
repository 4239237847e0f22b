"""Hessians by torch.func: a line of standard input names a way, which then runs; a line of JSON is its answer.

usage: python torch_hessians.py FOLDER, with FOLDER/problem.npz; needs torch of the extra `bench`, never jax.
A way goes from params to counts of negative and positive eigenvalues, an init after another or 8 in one `vmap`,
with all cores.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.func import hessian, vmap


def mean_loss(x, y, flat):
    """Half the squared error of a tanh net with as many units as inputs and outputs, without biases."""
    width = x.shape[1]
    v, w = flat.reshape(2, width, width)
    return ((torch.tanh(x @ v) @ w - y) ** 2).sum(1).mean() / 2


def counts(matrix, tol):
    """Eigenvalues below and above tol times the largest absolute row sum."""
    edge = tol * matrix.abs().sum(-1).amax(-1)
    values = torch.linalg.eigvalsh(matrix)
    return (values < -edge[..., None]).sum(-1), (values > edge[..., None]).sum(-1)


def main(folder):
    answers = os.fdopen(os.dup(1), "w")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())

    def answer(found):
        json.dump({**found, "busy_s": time.process_time()}, answers)
        print(file=answers, flush=True)

    arrays = {name: torch.tensor(x) for name, x in np.load(folder / "problem.npz").items()}
    params, tol = arrays["params"], float(arrays["tol"])
    matrix = hessian(partial(mean_loss, arrays["x"], arrays["y"]))
    ways = {
        "one by one": lambda: [counts(matrix(p), tol) for p in params],
        "8 at a time": lambda: [counts(vmap(matrix)(some), tol) for some in params.split(8)],
    }
    loss = float(mean_loss(arrays["x"], arrays["y"], params[0]))
    answer({"loss": loss, "torch": torch.__version__})
    for line in sys.stdin:
        found = ways[line.strip()]()
        answer(
            {
                name: torch.cat([torch.atleast_1d(f[k]) for f in found]).tolist()
                for k, name in enumerate(("negative", "positive"))
            }
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
