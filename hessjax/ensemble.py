"""The main job: init -> train -> spectrum -> row, for thousands of inits, into a store that survives interruption.

Inits run in lanes: `lane_width` of them in one compiled program, spread over the local devices without any
communication. A unit of the store is one or more lanes. Everything random is folded from the init's number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from hessjax import devices, records, runs
from hessjax.columns import COLUMNS
from hessjax.config import Sweep, check_is
from hessjax.lanes import Lanes, Way, resolve
from hessjax.pool import check_shareable, run_workers
from hessjax.progress import say
from hessjax.store import Spec, Store
from hessjax.working import Begin, Rows, write_units

if TYPE_CHECKING:
    import xarray

__all__ = ["compiled", "open_sweep", "rows_of", "sweep", "unit_of"]

UNITS, UNIT_BYTES = 32, 2**22  # units that there are at least, where there are lanes enough; and a unit's bytes at most


def sweep(
    config: Sweep,
    path: str | Path,
    *,
    unit: int | None = None,
    memory: str | int | None = None,
    workers: int = 1,
    worker: tuple[int, int] = (0, 1),
    take_over: bool = False,
    progress: bool = True,
) -> Path:
    """Runs a sweep into the store at `path`, or resumes the one begun there.

    Args:
      config: what to run; a store made by another configuration is refused.
      path: folder of the store; made if absent.
      unit: inits per stored chunk, rounded up to whole lanes; None: one lane, and more where there are many small
        ones. Fixed when the store is made.
      memory: bound on the measuring program's workspace, e.g. "4GiB"; None: half of what is available.
      workers: local processes working on the store together; above 1 the landscape must be named.
      worker: (i, n): this process does the units i, i + n, i + 2n, ... only. Whoever runs the same configuration on
        the same store shares its units; one that another is at work on is left to it, unless that one is dead.
      take_over: when this worker's units are done, go on with those of others that nobody is at work on.
      progress: show inits done, rate and time left (plain lines without a terminal).

    Returns:
      The path. Read it with `open_sweep`.

    Raises:
      StoreError: a store of another configuration (the fields that differ are named), or a path that is a file,
        read-only or full.
      ValueError: unknown landscape, optimiser or option; a loss or batch of the wrong shape.
      OperatorError: the loss is random, or its Hessian is not symmetric or finite at the first init.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Sweep(landscape="quadratic", num_inits=3, num_steps=4, times=2)
      >>> path = hj.sweep(config, tempfile.mkdtemp() + "/q.zarr", progress=False)
      >>> hj.open_sweep(path)["negative"].values.tolist()
      [[2, 2], [2, 2], [2, 2]]
    """
    check_is(Sweep, config)
    runs.check_shares(unit, worker, "init")
    if not runs.is_whole(workers) or workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers!r}; it is a whole number.")
    if workers > 1 and worker[1] > 1:
        raise ValueError(f"give workers= (local processes) or worker= (this process's share), not both: {worker}.")
    if workers > 1:
        check_shareable(config, workers)
    if Store.is_anything_at(path):  # what is no store is refused before anything is compiled
        Store.open(path)
    bound = None if memory is None else devices.parse_bytes(memory)
    lanes = Lanes(config, resolve(config), bound)
    store = _open_or_create(lanes, Path(path), unit, progress)
    if not runs.units_of(store, (0, 1) if take_over else worker):
        if progress:
            done = f"{store.num_done()}/{store.num_rows} inits are done"
            say(f"{config.landscape_name}: nothing left to do here, {done}")
        return store.path
    if workers > 1:
        run_workers(config, store, workers=workers, memory=lanes.memory, progress=progress)
        return store.path
    compiled(lanes, store.read("step").tolist(), store)
    if (others := _other_devices(store)) and progress:
        bits = "alike to rounding, not to the bit"
        say(f"{config.landscape_name}: begun on {others} devices, going on with {jax.local_device_count()}: {bits}")
    if lanes.way != (wanted := _recorded_way(store)):
        say(
            f"{config.landscape_name}: memory does not suffice for {wanted}; measured as {lanes.way}, equal to rounding"
        )
        runs.log(store, "way", **lanes.way._asdict())
    begin = rows_of(lanes, store)
    shown: dict[str, Any] = {"label": config.landscape_name, "what": "inits", "progress": progress}
    facts = {"compile_s": lanes.compile_s, "device": devices.describe(), "take_over": take_over}
    write_units(store, worker, begin, at_once=lanes.width, **shown, **facts)
    return store.path


def rows_of(lanes: Lanes, store: Store) -> Begin:
    """How `write_units` gets the rows of a sweep: from lanes, which are halved each time that memory runs out."""
    return _Inits(lanes, store).begin


class _Inits:
    """Rows of a sweep from its lanes, which are halved each time that memory runs out."""

    def __init__(self, lanes: Lanes, store: Store):
        self.lanes, self.full, self.store = lanes, lanes.width, store
        self.named = store.has("lane_width")  # older stores keep no width

    def begin(self, start: int, stop: int) -> Callable[[], Rows]:
        """Begins rows start..stop-1, at most one lane of full width; what is returned waits for them."""
        lanes = self.lanes
        if lanes.width < self.full:  # nothing ahead of time where memory ran out before
            return partial(self._rows, start, stop)
        try:
            begun = [lanes.begin(start)]
        except jax.errors.JaxRuntimeError as error:
            return partial(self._again, lanes, start, stop, _out_of_memory(error))
        return partial(self._waited, lanes, begun, start, stop)

    def _waited(self, lanes: Lanes, begun: list, start: int, stop: int) -> Rows:
        try:
            return self._kept(lanes, lanes.wait(begun.pop()), stop - start)
        except jax.errors.JaxRuntimeError as error:
            said = _out_of_memory(error)
        return self._again(lanes, start, stop, said)

    def _rows(self, start: int, stop: int) -> Rows:
        """Rows start..stop-1, lane by lane."""
        lanes, parts = self.lanes, []
        try:
            for first in range(start, stop, lanes.width):
                parts.append(self._kept(lanes, lanes.run(first), stop - first))
        except jax.errors.JaxRuntimeError as error:
            said, parts = _out_of_memory(error), []
        if not parts:
            return self._again(lanes, start, stop, said)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _again(self, lanes: Lanes, start: int, stop: int, said: str) -> Rows:
        """Rows that memory did not suffice for, in lanes of half the width; what was begun before halves no more."""
        if self.lanes is lanes:
            self.lanes = lanes.narrowed()
            say(f"{lanes.config.landscape_name}: out of memory, going on with {self.lanes.width} inits at a time")
            runs.log(self.store, "halved", lane_width=self.lanes.width, reason=said.splitlines()[0])
        return self._rows(start, stop)

    def _kept(self, lanes: Lanes, rows: Rows, most: int) -> Rows:
        """At most so many of a lane's rows, each with the lane's width."""
        width = {"lane_width": np.full(lanes.width, lanes.width, np.int32)} if self.named else {}
        return {name: value[:most] for name, value in {**rows, **width}.items()}


def _out_of_memory(error: Exception) -> str:
    """What an error says that is one of memory; any other is raised. The error itself holds on to arrays."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    return str(error)


def _open_or_create(lanes: Lanes, path: Path, unit: int | None, progress: bool) -> Store:
    """The store of this configuration at `path`: the one there, compared, or a new one with its steps decided."""
    identity = {"config": lanes.config.to_dict(), "landscape": lanes.identity()}
    if not Store.is_anything_at(path):
        Store.check_path(path)  # before compiling, not after it
        lanes.check()
        if progress:
            say(f"{lanes.config.landscape_name}: placing the times and compiling")
        steps = lanes.steps()
        lanes.compile(steps)  # what does not fit in memory is refused before there is a store
        attributes = {
            **identity,
            **lanes.way._asdict(),  # decides the last bits, so whoever resumes begins with the same
            "title": f"{lanes.config.landscape_name}: Hessian spectra of {lanes.config.num_inits} inits",
            "fingerprint": lanes.config.fingerprint,
            "precision": records.precision_line(lanes.config),
            **runs.circumstances(),
        }
        arrays = records.arrays(lanes, steps=steps)
        Store.create(path, arrays, attributes, rows="init", unit=unit_of(lanes, arrays, unit))
    store = Store.open(path)
    runs.refuse_another(store, identity)
    return store


def _other_devices(store: Store) -> int | None:
    """How many devices a store's rows were computed on, if they were not as many as here."""
    for event in store.events():
        known = event.get("device") if event.get("event") == "start" else None
        count = known.get("num_devices") if isinstance(known, dict) else None
        if isinstance(count, int) and count != jax.local_device_count():
            return count
    return None


def compiled(lanes: Lanes, steps: list[int], store: Store | None) -> None:
    """Compiles lanes, for a store that is begun in the way that it recorded."""
    lanes.compile(steps, None if store is None else _recorded_way(store))


def unit_of(lanes: Lanes, arrays: Mapping[str, Spec], asked: int | None) -> int:
    """Inits of a unit, whole lanes; unless asked for, as many as write few files without losing much at a kill."""
    if asked is not None:
        return -(-asked // lanes.width) * lanes.width
    inits = lanes.config.num_inits
    row_bytes = sum(spec.nbytes for spec in arrays.values() if spec.dims[0] == "init") / inits
    fitting = min(UNIT_BYTES, lanes.memory) // (row_bytes * lanes.width)
    return lanes.width * int(max(1, min(fitting, inits // lanes.width // UNITS)))


def _recorded_way(store: Store) -> Way:
    """How the store's rows are measured; older stores have no pieces, and one init at a time."""
    before = {"columns": COLUMNS, "pieces": False, "together": 1}
    return Way(**{name: store.attributes.get(name) or default for name, default in before.items()})


def open_sweep(path: str | Path) -> xarray.Dataset:
    """The rows of a sweep's store, finished or not, as an xarray.Dataset.

    Dimensions init, time, eigenvalue; coordinates init, step (time) and done (init): rows not done yet hold NaN,
    counts and status -1. Attributes: config, landscape, versions, device, precision, wall_s, compile_s, num_done.
    Each variable has long_name and units. Arrays are read when used.

    Args:
      path: folder of the store.

    Raises:
      StoreError: there is no store there, or one of another kind.
      ImportError: xarray or zarr is not installed; the message has the command.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Sweep(landscape="quadratic", num_inits=2, num_steps=1, times=2)
      >>> ds = hj.open_sweep(hj.sweep(config, tempfile.mkdtemp() + "/q.zarr", progress=False))
      >>> dict(ds.sizes)["eigenvalue"], ds.attrs["num_done"]
      (6, 2)
    """
    ds = runs.opened(path, "sweep").set_coords(["init", "step"])
    return ds.assign_attrs(num_inits=ds.sizes["init"])
