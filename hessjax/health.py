"""How a store is: how far, how fast, who is at work on what, what failed, and whether what it holds can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hessjax.claims import Holder, holders
from hessjax.config import FINITE, STATUSES, Profile, Search, Sweep
from hessjax.critical import STATUSES as FOUND
from hessjax.records import PER_TIME
from hessjax.runs import printable, seconds_at_work
from hessjax.store import Store, StoreError
from hessjax.stored import fingerprint_of

__all__ = ["Damage", "StoreStatus", "store_status", "verify"]


class _Kind(NamedTuple):
    """What a store of a kind has: its rows, configuration, words of its statuses, arrays that cannot be missing."""

    name: str
    rows: str
    config: type[Sweep] | type[Search] | type[Profile]
    statuses: tuple[str, ...]
    arrays: frozenset[str]


SWEEP = _Kind("sweep", "init", Sweep, STATUSES, frozenset(PER_TIME))
SEARCH = _Kind("search", "start", Search, FOUND, frozenset(("loss", "status", "params")))
PROFILE = _Kind("profile", "y", Profile, FINITE, frozenset(("loss", "status")))

RECENT = 20  # units that the rate is taken of


class StoreStatus(NamedTuple):
    """A store's progress.

    Attributes:
      what: "sweep", "search" or "profile".
      landscape: its name.
      num_rows: inits, starts or rows of a plane in all.
      num_done: of those that are written.
      num_units: stored chunks in all.
      unit: rows of each.
      rate: rows a second over the last units, all workers together; None where there are too few.
      seconds_left: of the rows not done, at that rate.
      outcomes: how many finished rows have which status at the last time; of a search, at all methods.
      halved: how often a lane was halved because memory ran out.
      holders: who is at work on which unit.
    """

    what: str
    landscape: str
    num_rows: int
    num_done: int
    num_units: int
    unit: int
    rate: float | None
    seconds_left: float | None
    outcomes: dict[str, int]
    halved: int
    holders: tuple[Holder, ...]


def store_status(path: str | Path) -> StoreStatus:
    """How far the store of a sweep, a search or a profile is.

    Args:
      path: folder of the store.

    Raises:
      StoreError: there is no store there, or it cannot be read.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Sweep(landscape="quadratic", num_inits=3, num_steps=4, times=2)
      >>> found = hj.store_status(hj.sweep(config, tempfile.mkdtemp() + "/q.zarr", progress=False))
      >>> found.num_done, found.outcomes, found.holders
      (3, {'ok': 3}, ())
    """
    store = Store.open(path)
    events, done = store.events(), store.num_done()
    undone = set(np.flatnonzero(~store.done()).tolist())
    rate = _rate(store, events)
    left = None if rate is None else (store.num_rows - done) / rate
    config = store.attributes.get("config")
    return StoreStatus(
        _kind(store).name,
        printable(str(config.get("landscape") if isinstance(config, dict) else None)),
        store.num_rows,
        done,
        store.num_units,
        store.unit,
        rate,
        left,
        _outcomes(store),
        sum(e.get("event") == "halved" for e in events),
        tuple(h._replace(host=printable(h.host)) for h in holders(store.claims_path) if h.unit in undone),
    )


def _kind(store: Store) -> _Kind:
    known = {kind.name: kind for kind in (SWEEP, SEARCH, PROFILE)}
    said = store.attributes.get("kind", "sweep")
    kind = known.get(said) if isinstance(said, str) else None
    if kind is None or kind.rows != store.rows:
        raise StoreError(
            f"the store at {str(store.path)!r} calls itself {printable(repr(said))} and has rows of "
            f"{printable(repr(store.rows))}: it is no sweep, search or profile of this version's."
        )
    return kind


def _rate(store: Store, events: list[dict[str, Any]]) -> float | None:
    written = [e for e in events if e.get("event") == "unit" and isinstance(e.get("t"), int | float)]
    units = [e for e in written if isinstance(e.get("unit"), int) and 0 <= e["unit"] < store.num_units][-RECENT:]
    seconds = seconds_at_work(events, units[0]["t"], units[-1]["t"]) if units else 0.0
    rows = store.rows_in(e["unit"] for e in units[1:])
    return rows / seconds if seconds > 0 and rows else None


def _outcomes(store: Store) -> dict[str, int]:
    codes, kind = store.read("status")[store.done_rows()], _kind(store)
    found = Counter((codes[:, -1] if kind is SWEEP else codes).ravel().tolist())
    return {word: found[code] for code, word in enumerate(kind.statuses) if found[code]}


class Damage(NamedTuple):
    """Something wrong in a store: `unit` is None where it is not of one unit, and redoing one does not mend it."""

    unit: int | None
    array: str
    what: str


def verify(path: str | Path, *, redo: bool = False) -> list[Damage]:
    """Reads a whole store and says what in it cannot be: checksums, missing rows, numbers that contradict each other.

    Args:
      path: folder of the store of a sweep, a search or a profile, finished or not.
      redo: mark damaged units as not done, so that whoever resumes does them again.

    Returns:
      What is wrong; empty where nothing is.

    Raises:
      StoreError: there is no store there.

    Example:
      >>> import hessjax as hj, tempfile
      >>> config = hj.Sweep(landscape="quadratic", num_inits=3, num_steps=4, times=2)
      >>> hj.verify(hj.sweep(config, tempfile.mkdtemp() + "/q.zarr", progress=False))
      []
    """
    store = Store.open(path)
    found = list(_of_the_whole(store))
    if any(damage.unit is None for damage in found):
        return found  # what units are measured by is itself in doubt
    for unit in np.flatnonzero(store.done()).tolist():
        damaged = list(_of_a_unit(store, unit))
        if damaged and redo:
            store.forget(unit)
        found += damaged
    return found


def _of_the_whole(store: Store) -> Iterator[Damage]:
    try:
        config, kind = store.attributes.get("config"), _kind(store)
    except StoreError as error:
        yield Damage(None, "kind", _cause(error))
        return
    try:
        stored = kind.config.from_dict(config)
    except (ValueError, TypeError) as error:
        yield Damage(None, "config", f"is no configuration: {error}")
        return
    if fingerprint_of(dict(config or {})) != store.attributes.get("fingerprint"):
        yield Damage(None, "config", "is not the one that the store was made with")
    first = stored.first_init if isinstance(stored, Sweep) else 0
    numbers = {} if kind is PROFILE else {store.rows: first + np.arange(store.num_rows)}
    for name in (store.rows, *(("step",) if kind is SWEEP else ())):
        try:
            values = store.read(name)
        except StoreError as error:
            yield Damage(None, name, f"cannot be read: {_cause(error)}")
            continue
        if name in numbers and not np.array_equal(values, numbers[name]):
            yield Damage(None, name, "does not number the rows")
        if (name == "step" or kind is PROFILE) and (np.diff(values) <= 0).any():
            yield Damage(None, name, "does not increase")
    counted = {SWEEP.name: "num_inits", SEARCH.name: "num_starts", PROFILE.name: "resolution"}
    count = getattr(stored, counted[kind.name])
    if count != store.num_rows:
        yield Damage(None, "config", f"speaks of {count} rows, and there are {store.num_rows}")
    try:
        for name in sorted(kind.arrays - set(store.by_row)):
            yield Damage(None, name, "is missing")
    except StoreError as error:
        yield Damage(None, "arrays", f"cannot be read: {_cause(error)}")


def _of_a_unit(store: Store, unit: int) -> Iterator[Damage]:
    parts = {}
    for name in store.by_row:
        try:
            parts[name] = store.part(name, unit)
        except StoreError as error:
            yield Damage(unit, name, f"cannot be read: {_cause(error)}")
    status = parts.get("status")
    if status is None:
        return
    most = len(_kind(store).statuses)
    gone = [name for name, values in parts.items() if values.dtype.kind == "i" and (values == -1).any()]
    for name in ("status",) if "status" in gone else gone:  # -1 is what a chunk that is not there reads as
        yield Damage(unit, name, "rows are missing, though the unit is marked as done")
    if "status" in gone:
        return
    if not ((status >= 0) & (status < most)).all():
        yield Damage(unit, "status", f"is none of 0..{most - 1}")
        return
    about = {SWEEP.name: _contradictions, SEARCH.name: _lost, PROFILE.name: _holes}[_kind(store).name]
    yield from (Damage(unit, name, what) for name, what in about(parts, status == 0))


def _cause(error: StoreError) -> str:
    """What tensorstore met in a chunk, without its path and the places in its source."""
    text = str(error.__cause__ or error).splitlines()[0]
    return text.rpartition('": ')[2].partition(" [")[0].partition("; at byte")[0] or text


def _lost(parts: dict[str, np.ndarray], good: np.ndarray) -> Iterator[tuple[str, str]]:
    """What a search's critical points cannot be without."""
    for name in ("params", "loss", "grad_norm_sq", "eigenvalues"):
        values = parts.get(name)
        if values is not None and not np.isfinite(values[good]).all():
            yield name, "is not finite at points that are critical"


def _holes(parts: dict[str, np.ndarray], good: np.ndarray) -> Iterator[tuple[str, str]]:
    """What rows of a plane that are finite cannot be."""
    for name, values in parts.items():
        if values.dtype.kind == "f" and not np.isfinite(values[good]).all():
            yield name, "is not finite in rows whose status is finite"


def _contradictions(parts: dict[str, np.ndarray], good: np.ndarray) -> Iterator[tuple[str, str]]:
    """What cannot be among a sweep's arrays where a row's status is "ok"; arrays that cannot be read are left out."""
    for name, values in parts.items():
        if name in ("count_error", "trace_error"):  # NaN of one probe
            continue
        if values.dtype.kind == "f" and not np.isfinite(values[good]).all():
            yield name, "is not finite in rows whose status is ok"
    values, threshold, counts = parts.get("eigenvalues"), parts.get("threshold"), {"negative", "zero", "positive"}
    if counts <= set(parts) and len(np.unique(sum(parts[name][good] for name in counts))) > 1:
        yield "negative", "does not make the number of parameters with zero and positive"
    if values is None or threshold is None:
        return
    values, bound = values[good], threshold[good][:, None]
    if (np.diff(values, axis=-1) < 0).any():
        yield "eigenvalues", "do not ascend"
    counted = {"negative": values < -bound, "zero": np.abs(values) <= bound, "positive": values > bound}
    for name, where in counted.items():
        if name in parts and not np.array_equal(parts[name][good], where.sum(-1)):
            yield name, "is not the count of the eigenvalues"
