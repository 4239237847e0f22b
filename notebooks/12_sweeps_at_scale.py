# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sweeps that are killed, shared and merged
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/12_sweeps_at_scale.ipynb)
#
# Many initialisations take hours, and machines are taken away. Here a sweep is planned, run by two workers of which
# one is killed, and checked: the numbers are those of one undisturbed process, bit for bit. Then parts that were run
# apart are merged, and one model is laid out over several devices. It needs a CPU and about two minutes.

# %%
try:
    import hessjax as hj
except ImportError:
    # %pip install -q "hessjax[all] @ git+https://github.com/hessjax/hessjax"
    import hessjax as hj

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

# %matplotlib inline

SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
INITS, STEPS = (24, 20) if SMOKE else (768, 1000)
FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## What would it take?
#
# Programs are compiled and one lane is timed; nothing is stored. On the command line: `hessjax sweep --plan`.

# %%
config = hj.Sweep(
    landscape="mlp",
    options={"task": "clusters", "shape": 4, "widths": 6},
    num_inits=INITS,
    num_steps=STEPS,
    times=4,
    lane_width=8,
    spacing="linear",
)
plan = hj.plan_sweep(config)
print(f"{plan.num_params} parameters, {plan.num_units} units of {plan.unit} inits")
print(f"about {plan.seconds:.0f} s and {plan.memory / 2**30:.2f} GiB; {plan.disk / 2**20:.1f} MiB on disk")

# %% [markdown]
# ## Two workers, one of them killed
#
# Workers are processes that run the same command on the same store. None is told of the other: each takes a unit that
# nobody holds. When both are at work the first is killed, as a preempted machine is.

# %%
(FOLDER / "sweep.json").write_text(json.dumps(config.to_dict()))
store = FOLDER / "sweep.zarr"


def run(output, *words):
    command = [sys.executable, "-m", "hessjax", "sweep", "--config", str(FOLDER / "sweep.json"), "--no-progress"]
    return subprocess.Popen([*command, "--output", str(output), *words], stdout=subprocess.DEVNULL)


def units(pid):
    """What the log beside the store tells of one worker."""
    log = FOLDER / "sweep.zarr.events.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("}\n")]
    return [e for e in events if e["event"] == "unit" and e["pid"] == pid]


workers = [run(store), run(store)]
while workers[0].poll() is None and not (units(workers[0].pid) and units(workers[1].pid)):
    time.sleep(0.05)
workers[0].kill()
workers[0].wait()
status = hj.store_status(store)
print(f"{status.num_done} of {status.num_rows} inits are done; held: {[(h.unit, h.alive) for h in status.holders]}")

# %% [markdown]
# The dead worker's lease says that its process is gone, so the other takes its unit over. When it is done nothing is
# missing, nothing is there twice, and every chunk's checksum is right.

# %%
workers[1].wait()
print(f"{hj.store_status(store).num_done} of {INITS} inits are done; damage: {hj.verify(store)}")

run(FOLDER / "alone.zarr").wait()
one, other = hj.open_sweep(store).load(), hj.open_sweep(FOLDER / "alone.zarr").load()
same = [np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f") for name in one.data_vars]
print(f"{sum(same)} of {len(same)} arrays are those of one undisturbed process, bit for bit")
assert all(same)

# %% [markdown]
# Who did what, and when: one bar for each unit.

# %%
events = [units(process.pid) for process in workers]
begin = min(e["t"] - e["seconds"] for some in events for e in some)
fig, ax = plt.subplots(figsize=(8, 2.2), layout="constrained")
for row, colour in enumerate(("#b5482f", "#3b6ea8")):
    ends, seconds = (np.array([e[name] for e in events[row]]) for name in ("t", "seconds"))
    ax.barh(row, seconds, left=ends - begin - seconds, height=0.6, color=colour, edgecolor="white")
ax.annotate(
    "killed",
    (max((e["t"] for e in events[0]), default=begin) - begin, 0),
    (6, 0),
    textcoords="offset points",
    va="center",
    color="#b5482f",
)
ax.set(yticks=[0, 1], yticklabels=["worker 0", "worker 1"], xlabel="seconds since the first began to compute")
ax.invert_yaxis()
ax.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## Parts that were run apart
#
# On machines without a common disk each runs other inits: the same sweep with another `first_init`. Merged, they are
# the whole.

# %%
half = INITS // 2 // config.lane_width * config.lane_width
parts = [FOLDER / "first.zarr", FOLDER / "second.zarr"]
run(parts[0], "--num-inits", str(half)).wait()
run(parts[1], "--first-init", str(half), "--num-inits", str(INITS - half)).wait()
merged = hj.open_sweep(hj.merge(parts, FOLDER / "merged.zarr", progress=False)).load()
same = [np.array_equal(merged[name], other[name], equal_nan=merged[name].dtype.kind == "f") for name in other.data_vars]
print(f"{sum(same)} of {len(same)} arrays are the same")
assert all(same)

# %% [markdown]
# ## One model over several devices
#
# For a model too large for one machine every process runs the same script and begins with `hj.distributed.start()`;
# where rows and params lie decides where the work is done. With one process it is this one's devices:

# %%
x = jax.random.normal(jax.random.key(0), (512, 8))
y = jnp.sign(x[:, 0] * x[:, 1])
params = {"in": jax.random.normal(jax.random.key(1), (8, 16)), "out": jax.random.normal(jax.random.key(2), (16,))}


def loss(p, batch):
    return jnp.logaddexp(0.0, -batch["y"] * (jnp.tanh(batch["x"] @ p["in"]) @ p["out"]))


devices = hj.distributed.mesh()
rows = hj.distributed.shard_rows({"x": x, "y": y}, devices)
H = hj.Hessian(loss, hj.distributed.shard_params(params, devices), rows)
ends = hj.distributed.gather(hj.eigsh(H, jax.random.key(3), k=4, which="BE"))
print(f"spread over {devices.size}: {ends.values.round(4)}")
whole = hj.eigsh(hj.Hessian(loss, params, {"x": x, "y": y}), jax.random.key(3), k=4, which="BE")
print(f"on one device: {np.asarray(whole.values).round(4)}")
