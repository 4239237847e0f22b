"""One network as a study: an init of a landscape, trained, and its spectrum, exact or estimated without a matrix.

The same inits and training as a sweep of the same configuration. With a mesh over the devices of many processes, each
process trains the init for itself, takes process 0's params, and has its share of the rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from hessjax import trees
from hessjax.assembly import dense, eigvalsh, inertia
from hessjax.checks import check_operator
from hessjax.config import Sweep
from hessjax.curvature import Hessian
from hessjax.distributed import from_first, gather, mean_over_rows, shard_params, shard_rows
from hessjax.landscapes.base import Landscape
from hessjax.lanes import Lanes, resolve
from hessjax.measuring import error_rate
from hessjax.objective import loss_form, mean_loss
from hessjax.operators import Operator
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


def exact(config: Sweep, *, init: int = 0, mesh: Mesh | None = None) -> dict[str, Any]:
    """One init's row after the last step: loss, gradient norm, eigenvalues, counts.

    The same init, training and measurement as row `init` of a sweep of this configuration, to rounding.

    Args:
      config: landscape, seed, training and tol.
      init: number of the init.
      mesh: of `distributed.mesh`, to spread the rows over; every process calls this and gets the row.

    Example:
      >>> row = exact(Sweep(landscape="quadratic", num_steps=0, times=1))
      >>> int(row["negative"]), int(row["zero"]), int(row["positive"])
      (2, 1, 3)
    """
    lanes = _lanes(config, init)
    if mesh is None:
        lanes.check()
        lanes.compile([config.num_steps])
        return {name: value[0, 0] for name, value in lanes.run(init).items()}
    facts, op, _ = _measured(lanes, init, mesh)
    matrix = dense(op)
    counts = inertia(matrix, tol=config.tol)._asdict()
    found = {"eigenvalues": eigvalsh(matrix), "trace": matrix.trace(), **counts}
    return facts | {name: x[()] for name, x in gather(found).items()}


def estimated(
    config: Sweep, *, init: int = 0, k: int = 10, num_steps: int = 64, num_probes: int = 8, mesh: Mesh | None = None
) -> tuple[dict[str, Any], Spectrum]:
    """One init's loss, gradient norm and error after the last step, and its spectrum from products alone.

    Args:
      config: landscape, seed, training and tol; as for `exact`.
      init: number of the init.
      k: outliers found exactly.
      num_steps: Lanczos steps per probe.
      num_probes: probes.
      mesh: as for `exact`.

    Raises:
      OperatorError: the loss is random, or its Hessian not symmetric or finite.

    Example:
      >>> facts, found = estimated(Sweep(landscape="quadratic", num_steps=0, times=1), k=1)
      >>> facts["num_params"], round(float(found.outliers.values[0]), 4)
      (6, 4.0)
    """
    facts, op, key = _measured(_lanes(config, init), init, mesh)
    return facts, gather(spectrum(op, key, k=k, tol=config.tol, num_steps=num_steps, num_probes=num_probes))


def _lanes(config: Sweep, init: int) -> Lanes:
    if init < 0:
        raise ValueError(f"init must be at least 0, got {init}.")
    one = dataclasses.replace(config, num_inits=init + 1, lane_width=1, measure="spectrum")
    return Lanes(one, resolve(one))


def _measured(lanes: Lanes, init: int, mesh: Mesh | None) -> tuple[dict[str, Any], Operator, Array]:
    """What is known of a trained init beside its curvature, its Hessian, checked, and a key for estimates of it."""
    config, land, params = lanes.config, lanes.landscape, lanes.params(init, lanes.config.num_steps)
    if mesh is not None:
        params = shard_params(from_first(params), mesh)
    over = _over(land, params, mesh)
    both = jax.jit(jax.value_and_grad(lambda p, some: mean_loss(land.loss, p, some)))
    loss, grad = over(lambda some: both(params, some))
    op = over(lambda some: Hessian(land.loss, params, some, chunk=config.chunk))
    checks, probes = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), init))
    check_operator(op, checks)
    facts = {"landscape": land.name, "num_params": op.size, "loss": float(loss), "grad_norm": float(trees.norm(grad))}
    if land.classifies:
        facts["error"] = float(over(lambda some: error_rate(dataclasses.replace(land, batch=some), params)))
    return facts, op, probes


def _over(land: Landscape, params: Any, mesh: Mesh | None) -> Callable:
    """What takes a mean over the landscape's rows, wherever they are."""
    if mesh is None or land.batch is None:
        return lambda make: make(land.batch)
    if loss_form(land.loss, params, land.batch) == "scalar":  # its rows may be coupled: all together or not at all
        return lambda make: make(shard_rows(land.batch, mesh))
    return lambda make: mean_over_rows(make, land.batch, mesh)
