"""What one process of a job computes for test_distributed.py: `distributed_jobs.py FOLDER` keeps its results there.

The test process takes the same estimates of one device. A layout decides where numbers are, never what they are.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hessjax as hj
from hessjax import devices, distributed

KEY = 5


def problem(rows=8):
    """Params of 31 numbers, one leaf of which divides over no mesh, and a batch with a scalar that belongs to all."""
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(rows, 6)), "y": rng.normal(size=rows), "scale": np.float64(1.5)}
    return {"w": rng.normal(size=(6, 4)), "b": rng.normal(size=3), "v": rng.normal(size=4)}, batch


def loss(p, batch):
    out = jnp.tanh(batch["x"] @ p["w"]) @ p["v"] + jnp.sum(p["b"] ** 4)
    return batch["scale"] * (out - batch["y"]) ** 2


def top(op):
    found = hj.eigsh(op, jax.random.key(KEY), k=3, which="LM", rtol=1e-10)
    return {"values": found.values, "vectors": jax.tree.map(jnp.abs, found.vectors)}


ESTIMATES = {
    "slq": lambda op: hj.slq(op, jax.random.key(KEY), num_steps=8, num_probes=2),
    "trace": lambda op: hj.trace(op, jax.random.key(KEY), num_probes=6),
    "dense": hj.dense,
    "eigsh": top,
    "diagonal": lambda op: hj.diagonal(op, jax.random.key(KEY), num_probes=4),
}
MAIN = ("slq", "trace", "dense", "eigsh")
# By number of processes: layouts, each with devices that share one copy of the params, rows, and what is estimated.
LAYOUTS = {
    2: {"rows": (1, 8, tuple(ESTIMATES)), "params": (2, 8, MAIN), "uneven rows": (1, 9, ("dense",))},
    4: {"rows": (1, 8, ("slq", "dense")), "rows and params": (2, 8, ("trace", "dense", "eigsh"))},
}


def operator(params_share, rows):
    params, batch = problem(rows)
    mesh = distributed.mesh(params=params_share)
    params = distributed.shard_params(params, mesh)
    if rows % mesh.shape["rows"]:
        return distributed.mean_over_rows(lambda some: hj.Hessian(loss, params, some), batch, mesh)
    return hj.Hessian(loss, params, distributed.shard_rows(batch, mesh))


def leaves(found):
    return [np.asarray(x) for x in jax.tree.leaves(distributed.gather(found))]


def once():
    """What is told once for a job: own rows, checks, what is agreed on, and refusals."""
    first, mesh = jax.process_index() == 0, distributed.mesh()
    params, batch = problem()
    share = 8 // jax.process_count()
    mine = jax.tree.map(
        lambda x: x[jax.process_index() * share :][:share] if np.ndim(x) else x, {**batch, "keys": np.arange(8)}
    )
    rows = distributed.shard_rows(mine, mesh, local=True)
    op = hj.Hessian(loss, distributed.shard_params(params, mesh), {k: rows[k] for k in batch})
    yield "local rows", (rows["keys"], hj.dense(op))
    yield "keys", jax.random.key_data(distributed.shard_rows(jax.random.split(jax.random.key(0), 8), mesh))
    yield "check", np.bool_(hj.check_operator(op, jax.random.key(0)).ok)
    yield "memory", np.int64(devices.memory_available())
    yield "from_first", distributed.from_first(np.float64(first))
    for name, refused in {
        "other params": lambda: distributed.shard_params({"w": np.float64(first)}, mesh),
        "other numbers of rows": lambda: distributed.shard_rows(np.ones(4 + 2 * first), mesh, local=True),
        "rows of two processes": lambda: distributed.shard_rows(np.ones(4), distributed.mesh(params=2), local=True),
    }.items():
        try:
            refused()
        except ValueError as error:
            yield name, np.str_(error)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    distributed.start()
    results = {}
    for layout, (params_share, rows, names) in LAYOUTS[jax.process_count()].items():
        op = operator(params_share, rows)
        results |= {f"{layout}: {name}": leaves(ESTIMATES[name](op)) for name in names}
    if jax.process_count() == 2:
        results |= {name: leaves(found) for name, found in once()}
    flat = {f"{name}/{k}": x for name, found in results.items() for k, x in enumerate(found)}
    np.savez(Path(sys.argv[1]) / f"{jax.process_index()}.npz", **flat)
