"""What a sweep will take, before it is run: programs are compiled and timed on one lane, and nothing is stored."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from hessjax import devices, records, runs
from hessjax.config import Sweep, check_is
from hessjax.ensemble import compiled, unit_of
from hessjax.lanes import PILOT, Lanes, resolve
from hessjax.store import Store
from hessjax.times import needs_pilot

__all__ = ["SweepPlan", "plan_sweep"]

ENOUGH = 0.5  # seconds of training that say how long a step takes


class SweepPlan(NamedTuple):
    """What a sweep comes to on this machine.

    Attributes:
      num_params: P.
      num_inits: in all.
      inits_left: of those, not in the store yet.
      lane_width: inits computed together.
      unit: inits of a stored chunk.
      num_units: stored chunks.
      num_devices: local devices that a lane is spread over.
      seconds: of everything that is left, by one process that has all of this machine; compiling among it.
      compile_s: seconds of compiling.
      training_s: seconds of training, of what is left, and of the pilot that places the times where there is no store.
      measuring_s: seconds of measuring, of what is left.
      memory: bytes at the peak, measured on one lane: it does not grow with num_inits.
      disk: bytes of all arrays before compression, which is seldom worth much for spectra.
      files: how many.
    """

    num_params: int
    num_inits: int
    inits_left: int
    lane_width: int
    unit: int
    num_units: int
    num_devices: int
    seconds: float
    compile_s: float
    training_s: float
    measuring_s: float
    memory: int
    disk: int
    files: int


def plan_sweep(
    config: Sweep, path: str | Path | None = None, *, unit: int | None = None, memory: str | int | None = None
) -> SweepPlan:
    """Predicts time, memory, units and bytes of a sweep from one lane's, without storing anything.

    Args:
      config: the sweep.
      path: its store, where it is begun: what is left is predicted.
      unit: as `sweep` takes it.
      memory: as `sweep` takes it.

    Raises:
      StoreError: the store at `path` is of another configuration, or is none.
      ValueError: as `sweep`.

    Example:
      >>> import hessjax as hj
      >>> plan = hj.plan_sweep(hj.Sweep(landscape="quadratic", num_inits=100, num_steps=4, times=2))
      >>> plan.num_params, plan.inits_left, plan.num_units
      (6, 100, 2)
    """
    check_is(Sweep, config)
    runs.check_shares(unit, (0, 1), "init")
    lanes = Lanes(config, resolve(config), None if memory is None else devices.parse_bytes(memory))
    store = None
    if path is not None and Store.is_anything_at(path):
        store = Store.open(path)
        runs.refuse_another(store, {"config": config.to_dict(), "landscape": lanes.identity()})
    count = len(config.times) if isinstance(config.times, tuple) else config.times
    # Which steps they are does not decide what it takes, and placing them is a training of its own.
    steps = list(range(count)) if store is None else store.read("step").tolist()
    compiled(lanes, steps, store)
    arrays = records.arrays(lanes, steps=steps)
    size = store.unit if store is not None else unit_of(lanes, arrays, unit)
    left = config.num_inits - (0 if store is None else store.num_done())
    start_s, step_s, measure_s = _timed(lanes)
    lanes_left = -(-left // lanes.width)
    lanes_piloted = -(-PILOT // lanes.width) if store is None and needs_pilot(config) else 0
    last = config.times[-1] if isinstance(config.times, tuple) else config.num_steps  # a sweep trains no further
    training = lanes_left * (start_s + step_s * last) + lanes_piloted * (start_s + step_s * config.num_steps)
    measuring = lanes_left * measure_s * count
    num_units = -(-config.num_inits // size)
    return SweepPlan(
        num_params=lanes.num_params,
        num_inits=config.num_inits,
        inits_left=left,
        lane_width=lanes.width,
        unit=size,
        num_units=num_units,
        num_devices=lanes.mesh.size,
        seconds=lanes.compile_s + training + measuring,
        compile_s=lanes.compile_s,
        training_s=training,
        measuring_s=measuring,
        memory=_peak_bytes(),
        disk=sum(spec.nbytes for spec in arrays.values()),
        files=num_units * sum(spec.dims[0] == "init" for spec in arrays.values()),
    )


def _timed(lanes: Lanes) -> tuple[float, float, float]:
    """Seconds of a lane's start, of a training step and of a measurement."""
    inits = lanes.numbers(0)
    start = lambda: lanes.start(inits)
    start_s = _seconds(start)
    trained = lambda steps: _seconds(lambda: lanes.train(start(), inits, 0, steps))
    steps, seconds, most = 0, 0.0, lanes.config.num_steps
    while steps < most and seconds < ENOUGH:
        steps = min(max(8, 4 * steps), most)
        seconds = trained(steps)
    state = start()
    return start_s, max(0.0, seconds - start_s) / max(steps, 1), _seconds(lambda: lanes.measured(state, inits))


def _seconds(call: Callable[[], Any]) -> float:
    """Of the better of two calls."""
    found = []
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - began)
    return min(found)


def _peak_bytes() -> int:
    """The most that this process, or its accelerator, has held."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"]) * jax.local_device_count()
    try:
        import resource
    except ImportError:  # Windows does not say
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
