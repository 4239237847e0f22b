"""The rivals on PyTorch, answered as answers.py has it.

usage: python torch_densities.py FOLDER NUM_STEPS NUM_PROBES, with FOLDER/problem.npz; needs the extra `bench`, no jax.
Each package is used as shipped, with all rows as one batch and all cores.
"""

import copy
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from answers import cores, opened, serve
from curvlinops import HessianLinearOperator
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from hessian_eigenthings.algorithms import spectral_density
from hessian_eigenthings.linalg import SingleDeviceBackend
from hessian_eigenthings.loss_fns.standard import supervised_loss
from hessian_eigenthings.operators import HessianOperator
from pyhessian import hessian
from torch import nn


def problem(folder):
    """The network with the given weights, and the data."""
    arrays, layers = np.load(folder / "problem.npz"), []
    for k in range(arrays["layers"]):
        kernel, bias = (torch.tensor(arrays[f"{name}{k}"]) for name in ("kernel", "bias"))
        layers += [nn.Linear(*kernel.shape), nn.ReLU()]
        layers[-2].weight.data, layers[-2].bias.data = kernel.T.contiguous(), bias
    return nn.Sequential(*layers[:-1]), torch.tensor(arrays["inputs"]), torch.tensor(arrays["targets"]).long()


def pyhessian(net, x, y, steps, probes):
    """PyHessian's density, a probe a call: release 0.1 raises after the last product of a probe."""
    curvature = hessian(net, nn.CrossEntropyLoss(), data=(x, y), cuda=False)

    def run():
        nodes, weights, failed = [], [], {}
        for _ in range(probes):
            try:
                found = curvature.density(iter=steps, n_v=1)
            except RuntimeError as error:
                failed = {"failed": str(error).partition(".")[0]}
            else:
                nodes, weights = nodes + found[0], weights + found[1]
        return {"nodes": nodes, "weights": weights, **failed}

    return run, None


def eigenthings(net, x, y, steps, probes):
    """hessian-eigenthings' density, with the full reorthogonalisation it always does."""
    curvature = HessianOperator(net, [(x, y)], supervised_loss(nn.CrossEntropyLoss()))

    def run():
        found = spectral_density(curvature, num_runs=probes, lanczos_steps=steps, seed=0)
        return {"nodes": found.raw_eigenvalues, "weights": found.raw_weights}

    draw = SingleDeviceBackend().rademacher_like
    seeds = [torch.Generator().manual_seed(run) for run in range(probes)]
    return run, torch.stack([draw(torch.empty(curvature.size), generator=seed) for seed in seeds])


def curvlinops(net, x, y, steps, probes):
    """Curvlinops' Lanczos without reorthogonalisation, what its densities are drawn from."""
    curvature = HessianLinearOperator(net, nn.CrossEntropyLoss(), list(net.parameters()), [(x, y)])

    def run():
        torch.manual_seed(0)
        pairs = [fast_lanczos(curvature, steps) for _ in range(probes)]
        return {"nodes": torch.stack([p[0] for p in pairs]), "weights": torch.stack([p[1][0] ** 2 for p in pairs])}

    torch.manual_seed(0)
    return run, torch.stack([torch.randn(curvature.shape[1]) for _ in range(probes)])


def matrix_product(net, x, y, steps, probes):
    """As many products of a layer's size, one after another: what PyTorch's processor time can do."""
    width = net[0].out_features
    kernel, rows = torch.randn(width, width) / width**0.5, torch.randn(len(x), width)

    def run():
        out = rows
        for _ in range(steps):
            out = out @ kernel
        return {"scale": out.std()}

    return run, None


RIVALS = {"pyhessian": pyhessian, "hessian-eigenthings": eigenthings, "curvlinops-for-pytorch": curvlinops}


def plain(value):
    """What JSON can hold, of lists, tensors and arrays."""
    return np.asarray(value).tolist() if not isinstance(value, str) else value


def main(folder, steps, probes):
    answers = opened()
    torch.set_num_threads(cores())
    net, x, y = problem(folder)
    runs = {}
    for name, make in (RIVALS | {"matrix product": matrix_product}).items():
        runs[name], starts = make(copy.deepcopy(net), x, y, steps, probes)
        if starts is not None:
            np.save(folder / f"{name}.npy", starts)
    loss = float(nn.CrossEntropyLoss()(net(x), y).detach())
    facts = {"loss": loss, "torch": torch.__version__, **{name: metadata.version(name) for name in RIVALS}}
    lists = lambda run: lambda: {key: plain(value) for key, value in run().items()}
    serve(answers, facts, {name: lists(run) for name, run in runs.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
