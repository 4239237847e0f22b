"""Stores of parts of one sweep put together: of other inits, or of units done by workers without a common disk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hessjax import runs
from hessjax.config import Sweep
from hessjax.progress import Progress, say
from hessjax.records import landscape_differences
from hessjax.store import Spec, Store, StoreError
from hessjax.stored import differences

__all__ = ["merge"]

WAY = ("columns", "pieces", "together")  # how rows are measured, which decides their last bits


def merge(stores: Sequence[str | Path], output: str | Path, *, progress: bool = True) -> Path:
    """Puts the stores of one sweep's parts together: every finished row, in the order of its number.

    Parts differ in `first_init` and `num_inits` alone, or in which of the same units are finished. What no part has
    stays undone, and `sweep` on the result goes on with it. Interrupted, the same call goes on.

    Args:
      stores: folders of the parts' stores.
      output: folder of the new one.
      progress: show how far it is.

    Returns:
      The path of the new store.

    Raises:
      StoreError: a path without a store; parts of other configurations, landscapes or steps; rows that two parts have,
        and that differ; a part that is torn; an output that holds something else.
      ValueError: no parts, or one that ends within a lane before the last.

    Example:
      >>> import hessjax as hj, tempfile
      >>> folder, same = tempfile.mkdtemp(), {"landscape": "quadratic", "num_steps": 1, "times": 2, "lane_width": 2}
      >>> a = hj.sweep(hj.Sweep(num_inits=2, **same), folder + "/a.zarr", progress=False)
      >>> b = hj.sweep(hj.Sweep(num_inits=3, first_init=2, **same), folder + "/b.zarr", progress=False)
      >>> hj.open_sweep(hj.merge([a, b], folder + "/both.zarr", progress=False))["init"].values.tolist()
      [0, 1, 2, 3, 4]
    """
    if isinstance(stores, str | Path) or not stores:
        raise ValueError(f"stores must be a sequence of one or more folders, got {stores!r}.")
    taken = Store.is_anything_at(output)
    parts = [_Part(Store.open(path)) for path in stores]
    for part in parts[1:]:
        _refuse_another(parts[0], part)
    first, stop = min(part.first for part in parts), max(part.stop for part in parts)
    unit = _unit(parts, first, stop)
    config = {**parts[0].config.to_dict(), "first_init": first, "num_inits": stop - first}
    landscape = dict(parts[0].store.attributes["landscape"])
    output = Path(output)
    if not taken:
        Store.create(output, _arrays(parts[0], first, stop), _attributes(parts, config), rows="init", unit=unit)
    merged = Store.open(output)
    runs.refuse_another(merged, {"config": config, "landscape": landscape})
    if merged.unit != unit:
        raise StoreError(f"the store at {str(output)!r} has units of {merged.unit} rows, these parts make {unit}.")
    ways = {tuple(part.store.attributes.get(name) for name in WAY) for part in parts}
    if progress and len(ways) > 1:
        say(
            f"the parts were measured in {len(ways)} ways, as their machines allowed: alike to rounding, not to the bit"
        )
    covered = sorted((part.first, part.stop) for part in parts)
    holes = [f"{a} to {b - 1}" for (_, a), (b, _) in itertools.pairwise(_joined(covered))]
    if progress and holes:
        say(f"no part has inits {', '.join(holes)}: they are left to do")
    _copy(parts, merged, first, progress)
    return output


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ascending ranges, those that touch as one."""
    found = [ranges[0]]
    for start, stop in ranges[1:]:
        if start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found


class _Part:
    """A store that is a part of a study."""

    def __init__(self, store: Store):
        if (kind := store.attributes.get("kind")) in ("search", "profile"):
            raise StoreError(f"{str(store.path)!r} is of a {kind}; sweeps are what can be merged.")
        try:
            self.config = Sweep.from_dict(store.attributes["config"])
            _ = store.attributes["landscape"]["probe"]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{str(store.path)!r} is not the store of a sweep: {error!r}.") from error
        self.store, self.first = store, self.config.first_init
        self.stop = self.first + store.num_rows
        self.done = store.done()
        self.named = repr(str(store.path))

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray] | None:
        """Rows of inits start..stop-1, which lie in one unit; None where that is not done or not here."""
        if not self.first <= start < stop <= self.stop:
            return None
        unit = (start - self.first) // self.store.unit
        if not self.done[unit]:
            return None
        begins = self.first + self.store.span(unit)[0]
        cut = slice(start - begins, stop - begins)
        return {name: self.store.part(name, unit)[cut] for name in self.store.by_row}


def _refuse_another(one: _Part, other: _Part) -> None:
    ranges = ("first_init", "num_inits")
    plain = [{name: x for name, x in part.config.to_dict().items() if name not in ranges} for part in (one, other)]
    found = differences(*plain)
    old, new = (part.store.attributes for part in (one, other))
    found += [f"landscape {line}" for line in landscape_differences(old["landscape"], new["landscape"])]
    if not np.array_equal(one.store.read("step"), other.store.read("step")):
        found.append("the measured steps: give both the same, as times=(0, 10, ...)")
    if one.store.by_row != other.store.by_row:
        found.append("the arrays")
    if found:
        raise StoreError(f"{one.named} and {other.named} are not of one sweep ({'; '.join(found)}).")


def _unit(parts: Sequence[_Part], first: int, stop: int) -> int:
    """The largest unit that lies within a unit of every part."""
    width = parts[0].config.lane_width
    for part in parts:
        if part.stop % width and part.stop != stop:
            raise ValueError(
                f"{part.named} ends at init {part.stop}, within a lane of {width}, and is not the last part: rows "
                "after it would be computed beside others than in one sweep. Let all but the last end with a lane."
            )
    whole = [size for part in parts for size in (part.store.unit, part.first - first, part.stop - first)]
    return math.gcd(*(size for size in whole if size % width == 0)) or stop - first


def _arrays(part: _Part, first: int, stop: int) -> dict[str, Spec]:
    found = {"init": Spec(("init",), (stop - first,), "int64", {"long_name": "init number"}, np.arange(first, stop))}
    step = part.store.spec("step")
    found["step"] = Spec(step.dims, step.shape, step.dtype, step.attrs, part.store.read("step"))
    for name in part.store.by_row:
        spec = part.store.spec(name)
        found[name] = Spec(spec.dims, (stop - first, *spec.shape[1:]), spec.dtype, spec.attrs, fill=spec.fill)
    return found


def _attributes(parts: Sequence[_Part], config: dict[str, Any]) -> dict[str, Any]:
    made = Sweep.from_dict(config)
    kept = {name: x for name, x in parts[0].store.attributes.items() if name != "hessjax_store"}
    said = ("versions", "device", "created", *WAY)
    about = lambda part: {name: part.store.attributes.get(name) for name in said}
    ranges = [{"first_init": part.first, "num_inits": part.stop - part.first, **about(part)} for part in parts]
    title = f"{made.landscape_name}: Hessian spectra of {made.num_inits} inits"
    return {**kept, "config": config, "title": title, "fingerprint": made.fingerprint, "parts": ranges}


def _copy(parts: Sequence[_Part], merged: Store, first: int, progress: bool) -> None:
    left = np.flatnonzero(~merged.done()).tolist()
    with Progress(merged.rows_in(left), "merging", before=merged.num_done(), enabled=progress) as bar:
        for unit in left:
            start, stop = (first + row for row in merged.span(unit))
            rows = _agreed([(part.named, part.rows(start, stop)) for part in parts], start, stop)
            if rows is not None:
                merged.write(unit, rows)
            bar.advance(stop - start)
    known = {e.get("run") for e in merged.events()}
    for event in (e for part in parts for e in _seconds(part.store) if e.get("run") not in known):
        merged.log(**event)
    runs.log(merged, "merged", parts=[part.store.path.name for part in parts])


def _agreed(
    found: list[tuple[str, dict[str, np.ndarray] | None]], start: int, stop: int
) -> dict[str, np.ndarray] | None:
    """The rows of whichever parts have them, which must be the same in all."""
    have = [(named, rows) for named, rows in found if rows is not None]
    for named, rows in have[1:]:
        differ = [name for name, x in rows.items() if x.tobytes() != have[0][1][name].tobytes()]
        if differ:
            raise StoreError(
                f"{have[0][0]} and {named} both have inits {start} to {stop - 1}, and not the same {differ[0]}; "
                "leave one of them out."
            )
    return have[0][1] if have else None


def _seconds(store: Store) -> Iterator[dict[str, Any]]:
    """What a part's log says of seconds: its units have other numbers in the whole."""
    return ({name: x for name, x in e.items() if name != "unit"} for e in store.events())
