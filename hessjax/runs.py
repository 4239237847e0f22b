"""What every run into a store does: refuses another configuration's, logs, says what it ran on; and reading it back."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax import devices
from hessjax.records import landscape_differences
from hessjax.store import Store, StoreError
from hessjax.stored import differences

if TYPE_CHECKING:
    import xarray

__all__ = [
    "check_shares",
    "circumstances",
    "is_whole",
    "log",
    "opened",
    "printable",
    "refuse_another",
    "run_attrs",
    "seconds_at_work",
    "units_of",
]


KINDS = ("sweep", "search", "profile")
MAPPINGS = ("config", "landscape", "versions", "thresholds")  # attributes that are, where they are there

# Fields of configurations that are newer than some stores, and what those did.
ADDED = {"first_init": 0, "lanczos_steps": 64, "num_probes": 8}


def circumstances() -> dict[str, Any]:
    """Versions, device and time, as attributes of a store.

    Example:
      >>> sorted(circumstances())
      ['created', 'device', 'versions']
    """
    d = devices.describe()
    return {
        "versions": devices.versions(),
        "device": f"{d['num_devices']} x {d['device']} ({d['platform']}), {d['cores']} cores of {d['cpu']}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def refuse_another(store: Store, identity: dict[str, Any], kind: str = "sweep") -> None:
    """Refuses a store of another kind or configuration, or of another landscape of the same name.

    Raises:
      StoreError: the kind that it is of, or the fields that differ, are named.
    """
    old, new = store.attributes, identity
    if (holds := old.get("kind", "sweep")) in KINDS and holds != kind:
        raise StoreError(f"the store at {str(store.path)!r} holds a {holds}, not a {kind}; choose another path.")
    kept = {name: old[name] if isinstance(old.get(name), dict) else {} for name in ("config", "landscape")}
    kept["config"] = {name: x for name, x in ADDED.items() if name in new["config"]} | kept["config"]
    found = differences(kept["config"], new["config"])
    found += [f"landscape {line}" for line in landscape_differences(kept["landscape"], new["landscape"])]
    if found:
        raise StoreError(
            f"the store at {str(store.path)!r} was made by another configuration ({'; '.join(found)}); "
            "choose another path, or ask for what it was made with."
        )


def log(store: Store, event: str, **fields: Any) -> None:
    """One line of the store's log, with the time and the process."""
    at = datetime.datetime.now(datetime.UTC)
    store.log(event=event, at=at.isoformat(timespec="seconds"), pid=os.getpid(), **{"t": at.timestamp(), **fields})


def units_of(store: Store, worker: tuple[int, int]) -> list[int]:
    """The units that are this worker's and not written."""
    index, count = worker
    return [u for u in np.flatnonzero(~store.done()).tolist() if u % count == index]


def is_whole(x: Any) -> bool:
    """Whether it is a whole number, Python's or NumPy's.

    Example:
      >>> is_whole(np.int64(3)), is_whole(True), is_whole(3.0)
      (True, False, False)
    """
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def check_shares(unit: Any, worker: Any, what: str) -> None:
    """Refuses units and workers that there cannot be.

    Raises:
      ValueError: unit below 1, or worker not (i, n) with 0 <= i < n.
    """
    pair = isinstance(worker, tuple | list) and len(worker) == 2 and all(map(is_whole, worker))
    if not pair or not 0 <= worker[0] < worker[1]:
        raise ValueError(f"worker must be (i, n) with 0 <= i < n, got {worker!r}; they are whole numbers.")
    if unit is not None and (not is_whole(unit) or unit < 1):
        raise ValueError(f"unit must be at least 1 {what}, got {unit!r}; it is a whole number.")


def opened(path: str | Path, kind: str, names: Mapping[str, str] | None = None) -> xarray.Dataset:
    """A store's arrays, finished or not, with `done` for each row and what the log tells as attributes.

    Args:
      path: folder of the store.
      kind: "sweep", "search" or "profile".
      names: dimension -> the field of the configuration that names what lies along it.

    Raises:
      StoreError: there is no store there, or one of another kind; its configuration names other things than it holds,
        or its attributes are not what a store has.
      ImportError: xarray or zarr is not installed; the message has the command.
    """
    try:
        import xarray
        import zarr.storage
    except ImportError as error:
        raise ImportError("reading a store needs xarray and zarr; pip install 'hessjax[io]'.") from error
    store = Store.open(path)
    found = store.attributes.get("kind", "sweep")
    if found != kind:
        way = f"; read it with hj.open_{found}" if found in KINDS else ""
        raise StoreError(f"the store at {str(store.path)!r} is of a {printable(str(found))}, wanted a {kind}{way}.")
    _check_attributes(store)
    # As a store, not a path: zarr reads a path as a URL, and a per cent sign or a hash in it as an escape.
    ds = xarray.open_zarr(zarr.storage.LocalStore(store.path, read_only=True), consolidated=False, chunks=None)
    done = store.done_rows()
    ds = ds.drop_vars("done").assign_coords(done=(store.rows, done, {"long_name": "row computed"}))
    ds.attrs.pop("hessjax_store", None)
    for dim, field in (names or {}).items():
        config = ds.attrs.get("config")
        words = config.get(field) if isinstance(config, dict) else None
        if not isinstance(words, list) or len(words) != ds.sizes.get(dim):
            raise StoreError(f"the store at {str(store.path)!r} does not name its {field}: {printable(repr(words))}.")
        ds = ds.assign_coords({dim: [str(word) for word in words]})
    return ds.assign_attrs(run_attrs(store.events()), num_done=int(done.sum()))


def printable(text: str) -> str:
    """Without what a terminal would obey: a store may be anybody's.

    Example:
      >>> printable("a" + chr(27) + "[2Jb")
      'a?[2Jb'
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def _check_attributes(store: Store) -> None:
    """Refuses attributes of other types than are written, which reports would fall over."""
    attributes = store.attributes
    landscape = attributes.get("landscape", {})
    inside = landscape if isinstance(landscape, dict) else {}
    wrong = {name: value for name in MAPPINGS if not isinstance(value := attributes.get(name, {}), dict)}
    count, notes = inside.get("num_params", 1), inside.get("notes", [])
    wrong |= {} if is_whole(count) and count > 0 else {"landscape.num_params": count}
    wrong |= {} if isinstance(notes, list) else {"landscape.notes": notes}
    for name, value in wrong.items():
        said = printable(repr(value)[:60])
        raise StoreError(f"the store at {str(store.path)!r} is damaged: its {name} is {said}; see hessjax verify.")


def seconds_at_work(events: list[dict[str, Any]], since: float | int = -np.inf, until: float | int = np.inf) -> float:
    """Seconds, between two times, while any worker was at work. A run without an "end" lasts to its last unit.

    Example:
      >>> seconds_at_work([{"run": run, "t": t} for run, t in (("a", 1.0), ("a", 3.0), ("b", 4.0), ("b", 5.0))])
      3.0
    """
    spans: dict[Any, list[float]] = {}
    for e in events:
        run = e.get("run")
        if isinstance(e.get("t"), int | float) and isinstance(run, str | None):
            first, last = spans.setdefault(run, [e["t"], e["t"]])
            now = first + e["elapsed"] if isinstance(e.get("elapsed"), int | float) else e["t"]
            spans[run] = [min(first, now), max(last, now)]
    wall, reached = 0.0, since
    for first, last in sorted(spans.values()):
        last = min(last, until)
        wall, reached = wall + max(0.0, last - max(first, reached)), max(reached, last)
    return float(wall)


def run_attrs(events: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds from the log: `wall_s` while any worker was at work, `compile_s` and `unit_s` added over workers."""

    def total(kind: str, name: str) -> float:
        return float(sum(e[name] for e in events if e.get("event") == kind and isinstance(e.get(name), int | float)))

    return {
        "wall_s": seconds_at_work(events),
        "compile_s": total("start", "compile_s"),
        "unit_s": total("unit", "seconds"),
    }
