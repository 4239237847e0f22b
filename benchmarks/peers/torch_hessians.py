"""Hessians by torch.func, answered as answers.py has it.

usage: python torch_hessians.py FOLDER, with FOLDER/problem.npz; needs torch of the extra `bench`, never jax.
A way goes from params to counts of negative and positive eigenvalues: an init after another or 8 in one `vmap`, with
all cores; or an init after another in each of as many processes as there are cores, with one thread each.
"""

import contextlib
import ctypes
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from answers import cores, opened, serve
from torch.func import hessian, vmap

COUNTS = ("negative", "positive")


def mean_loss(x, y, flat):
    """Half the squared error of a tanh net with as many units as inputs and outputs, without biases."""
    width = x.shape[1]
    v, w = flat.reshape(2, width, width)
    return ((torch.tanh(x @ v) @ w - y) ** 2).sum(1).mean() / 2


def counts(tol, matrix):
    """Eigenvalues below and above tol times the largest absolute row sum."""
    edge = tol * matrix.abs().sum(-1).amax(-1)
    values = torch.linalg.eigvalsh(matrix)
    return (values < -edge[..., None]).sum(-1), (values > edge[..., None]).sum(-1)


def one_by_one(problem, params):
    """Counts of each init, as lists."""
    matrix = hessian(partial(mean_loss, problem["x"], problem["y"]))
    found = [counts(problem["tol"], matrix(p)) for p in params]
    return {name: [int(one[k]) for one in found] for k, name in enumerate(COUNTS)}


def together(problem, params):
    """The same, 8 inits in a `vmap`."""
    matrix = vmap(hessian(partial(mean_loss, problem["x"], problem["y"])))
    found = [counts(problem["tol"], matrix(some)) for some in params.split(8)]
    return {name: torch.cat([one[k] for one in found]).tolist() for k, name in enumerate(COUNTS)}


def alone(problem, params):
    """`one_by_one`, and the process that did it with the processor time it has taken so far."""
    return one_by_one(problem, params), (os.getpid(), time.process_time())


def keep_memory():
    """Has glibc give no memory back between inits: pages taken anew cost torch more than half of its time."""
    with contextlib.suppress(OSError, AttributeError):
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**30)):  # no mmap, no trimming, a GiB at a time
            ctypes.CDLL(None).mallopt(option, value)


def start_alone():
    """What a process of one core does first."""
    keep_memory()
    torch.set_num_threads(1)


def main(folder):
    keep_memory()
    answers, busy = opened(), {}
    problem = {name: torch.tensor(x) for name, x in np.load(folder / "problem.npz").items()}
    params = problem.pop("params")

    with ProcessPoolExecutor(cores(), initializer=start_alone) as pool:

        def spread():
            parts = list(pool.map(partial(alone, problem), params.tensor_split(cores())))
            busy.update(part[1] for part in parts)
            return {name: [count for part in parts for count in part[0][name]] for name in COUNTS}

        ways = {
            "one by one": partial(one_by_one, problem, params),
            "8 at a time": partial(together, problem, params),
            "a process a core": spread,
        }
        spread()  # its processes start here, before threads do
        torch.set_num_threads(cores())
        facts = {"loss": float(mean_loss(problem["x"], problem["y"], params[0])), "torch": torch.__version__}
        serve(answers, facts, ways, lambda: time.process_time() + sum(busy.values()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
