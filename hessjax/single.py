"""One network as a study: an init of a landscape, trained, and its spectrum, exact or estimated without a matrix.

The same inits and training as a sweep of the same configuration.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from hessjax import trees
from hessjax.checks import check_operator
from hessjax.config import Sweep
from hessjax.curvature import Hessian
from hessjax.lanes import Lanes, resolve
from hessjax.measuring import error_rate
from hessjax.objective import mean_loss
from hessjax.spectra import Spectrum, spectrum

__all__ = ["EXACT", "estimated", "exact", "num_params"]

EXACT = 3000  # parameters up to which a command not told otherwise assembles the matrix: seconds, not minutes


def num_params(config: Sweep) -> int:
    """P of a configuration's landscape; nothing is compiled.

    Example:
      >>> num_params(Sweep(landscape="quadratic", num_steps=0, times=1))
      6
    """
    return trees.size(jax.eval_shape(resolve(config).init, jax.random.key(0)))


def exact(config: Sweep, *, init: int = 0) -> dict[str, Any]:
    """One init's row after the last step: loss, gradient norm, eigenvalues, counts.

    The same init, training and measurement as row `init` of a sweep of this configuration, to rounding.

    Example:
      >>> row = exact(Sweep(landscape="quadratic", num_steps=0, times=1))
      >>> int(row["negative"]), int(row["zero"]), int(row["positive"])
      (2, 1, 3)
    """
    if init < 0:
        raise ValueError(f"init must be at least 0, got {init}.")
    one = dataclasses.replace(config, num_inits=init + 1, lane_width=1, measure="spectrum")
    lanes = Lanes(one, resolve(one))
    lanes.check()
    lanes.compile([config.num_steps])
    return {name: value[0, 0] for name, value in lanes.run(init).items()}


def estimated(
    config: Sweep, *, init: int = 0, k: int = 10, num_steps: int = 64, num_probes: int = 8
) -> tuple[dict[str, Any], Spectrum]:
    """One init's loss, gradient norm and error after the last step, and its spectrum from products alone.

    Args:
      config: landscape, seed, training and tol; as for `exact`.
      init: number of the init.
      k: outliers found exactly.
      num_steps: Lanczos steps per probe.
      num_probes: probes.

    Raises:
      OperatorError: the loss is random, or its Hessian not symmetric or finite.

    Example:
      >>> facts, found = estimated(Sweep(landscape="quadratic", num_steps=0, times=1), k=1)
      >>> facts["num_params"], round(float(found.outliers.values[0]), 4)
      (6, 4.0)
    """
    if init < 0:
        raise ValueError(f"init must be at least 0, got {init}.")
    one = dataclasses.replace(config, num_inits=init + 1, lane_width=1, measure="spectrum")
    lanes = Lanes(one, resolve(one))
    land, params = lanes.landscape, lanes.params(init, config.num_steps)
    loss, grad = jax.jit(jax.value_and_grad(lambda p: mean_loss(land.loss, p, land.batch)))(params)
    op = Hessian(land.loss, params, land.batch, chunk=config.chunk)
    checks, probes = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), init))
    check_operator(op, checks)
    found = spectrum(op, probes, k=k, tol=config.tol, num_steps=num_steps, num_probes=num_probes)
    facts = {"landscape": land.name, "num_params": op.size, "loss": float(loss), "grad_norm": float(trees.norm(grad))}
    if land.classifies:
        facts["error"] = float(error_rate(land, params))
    return facts, jax.tree.map(np.asarray, found)
