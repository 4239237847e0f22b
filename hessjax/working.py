"""A worker on a store: takes units that nobody holds, computes ahead while rows are stored, stops in good order."""

from __future__ import annotations

import os
import random
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from hessjax.claims import Claims
from hessjax.progress import Progress, say
from hessjax.runs import log, units_of
from hessjax.store import Store

__all__ = ["Begin", "Rows", "write_units"]

POLL_SECONDS = 0.5, 4.0  # between two looks at what others hold: at first, and after a while

Rows = Mapping[str, np.ndarray]
Begin = Callable[[int, int], Callable[[], Rows]]


class _Part(NamedTuple):
    """Rows of a unit that are computed together."""

    unit: int
    ends: bool  # the unit
    rows: Callable[[], Rows]
    since: float


def write_units(
    store: Store,
    worker: tuple[int, int],
    begin: Begin,
    *,
    at_once: int,
    label: str,
    what: str,
    progress: bool,
    take_over: bool = False,
    **said: Any,
) -> None:
    """Writes the units of a worker that nobody else is at work on, until all are written, by whomever.

    Rows are stored while the next are computed. Interrupted, it stores what is computed and drops the rest.

    Args:
      store: where to.
      worker: (i, n): units i, i + n, i + 2n, ... only; several processes may have the same.
      begin: of a first and past-last row, at most `at_once`: begins to compute them; what it returns waits for them.
      at_once: rows.
      label: what is worked on.
      what: what a row is of, in the plural.
      progress: show how far it is.
      take_over: whether to go on with other workers' units.
      **said: what else goes into the log's first line.
    """
    run, began = f"{socket.gethostname()}-{os.getpid()}-{time.time():.3f}", time.perf_counter()
    elapsed = lambda: round(time.perf_counter() - began, 3)  # a wall clock may jump meanwhile
    write = lambda event, **said: log(store, event, run=run, worker=list(worker), elapsed=elapsed(), **said)
    todo = units_of(store, worker)
    if take_over:
        todo += [u for u in units_of(store, (0, 1)) if u % worker[1] != worker[0]]
    write("start", units=len(todo), **said)
    shown = Progress(store.rows_in(todo), label, before=store.num_done(), enabled=progress, what=what)
    with Claims(store.claims_path) as claims, ThreadPoolExecutor(1) as other, shown as bar:
        storing = _Storing(store, claims, write, other)
        parts = _parts(store, _claimed(store, todo, claims, storing, bar), begin, at_once)
        for unit, rows, seconds in _computed(_one_ahead(parts), bar):
            storing.put(unit, rows, seconds)
        storing.wait()
    write("end")


class _Storing:
    """One unit being stored, by another thread."""

    def __init__(self, store: Store, claims: Claims, write: Callable, other: ThreadPoolExecutor):
        self.store, self.claims, self.write, self.other = store, claims, write, other
        self.pending: Future | None = None

    def put(self, unit: int, rows: Rows, seconds: float) -> None:
        """Begins to store a unit when the one before is stored."""
        self.wait()
        self.pending = self.other.submit(self._store, unit, rows, seconds)

    def wait(self) -> None:
        """Until nothing is being stored; raises what storing raised."""
        if self.pending is not None:
            self.pending.result()

    def _store(self, unit: int, rows: Rows, seconds: float) -> None:
        try:
            self.store.write(unit, rows)
        finally:  # others wait for what is held
            self.claims.release(unit)
        self.write("unit", unit=unit, seconds=round(seconds, 3))


def _claimed(
    store: Store, units: Sequence[int], claims: Claims, storing: _Storing, bar: Progress
) -> Iterator[int | None]:
    """Units taken one by one, until all are written; None where others hold all that is left."""
    left, said, pause = deque(units), False, POLL_SECONDS[0]
    while left:
        done = store.done()
        for _ in range(len(left)):
            unit = left.popleft()
            mine = not done[unit] and claims.take(unit)
            if done[unit] or (mine and store.is_done(unit)):  # asked again with the lease in hand
                claims.release(unit)
                bar.advance(store.rows_in([unit]))
            elif mine:
                pause = POLL_SECONDS[0]
                yield unit
            else:
                left.append(unit)
        if left:
            yield None
            storing.wait()  # before waiting for others, who may wait for the unit that could not be stored
            if bar.enabled and not said:
                say(f"{bar.label}: others are at work on the last units, {len(left)} in all")
            said = True
            time.sleep(pause * random.uniform(0.5, 1.0))  # many that wait are not to ask at once
            pause = min(1.5 * pause, POLL_SECONDS[1])


def _parts(store: Store, units: Iterable[int | None], begin: Begin, at_once: int) -> Iterator[_Part | None]:
    """Parts of units as they are begun; None where there is none to begin now."""
    for unit in units:
        if unit is None:
            yield None
            continue
        start, stop = store.span(unit)
        for first in range(start, stop, at_once):
            end = min(first + at_once, stop)
            yield _Part(unit, end == stop, begin(first, end), time.perf_counter())


def _one_ahead(parts: Iterable[_Part | None]) -> Iterator[_Part]:
    """Each part when the one after it is begun, or at once where there is none."""
    before = None
    for part in parts:
        if before is not None:
            yield before
        before = part
    if before is not None:
        yield before


def _computed(parts: Iterable[_Part], bar: Progress) -> Iterator[tuple[int, Rows, float]]:
    """Each unit's number, rows, and the seconds that it added."""
    found, since, last = [], 0.0, 0.0
    for part in parts:
        since = since if found else max(last, part.since)
        found.append(part.rows())
        bar.advance(len(found[-1]["loss"]), loss=_median(found[-1]["loss"]) if bar.enabled else np.nan)
        if part.ends:
            last = time.perf_counter()
            yield part.unit, {name: np.concatenate([rows[name] for rows in found]) for name in found[0]}, last - since
            found = []


def _median(losses: np.ndarray) -> float:
    last = losses.reshape(len(losses), -1)[:, -1]
    finite = last[np.isfinite(last)]
    return float(np.median(finite)) if finite.size else np.nan
