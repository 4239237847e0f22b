"""The commands that look after stores: how far one is, whether it is sound, and parts put together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro

from hessjax.flags import UsageError
from hessjax.process import own_process, print_rows

__all__ = ["Merge", "Status", "Verify", "print_plan"]

SHOWN = 20  # lines of damage


@dataclasses.dataclass
class Status:
    """Says how far a store is: rows done, rate, time left, failures, and who is at work on what.

    Args:
      store: folder of the store of a sweep, a search or a profile.
      json: print it as JSON.
    """

    store: tyro.conf.Positional[Path]
    json: bool = False

    def run(self) -> None:
        own_process()
        from hessjax.health import store_status

        found = store_status(self.store)
        if self.json:
            print(json.dumps({**found._asdict(), "holders": [h._asdict() for h in found.holders]}, indent=1))
            return
        unit = {"search": "starts", "profile": "rows of the plane"}.get(found.what, "inits")
        rows = {
            found.what: f"{found.landscape}, {found.num_rows} {unit} in {found.num_units} units of {found.unit}",
            "done": f"{found.num_done} ({found.num_done / found.num_rows:.1%})",
        }
        if found.rate is not None and found.num_done < found.num_rows:
            rows["rate"] = f"{found.rate:.3g} {unit} a second lately, {found.seconds_left:.0f} s left at that rate"
        rows["outcomes"] = ", ".join(f"{count} {word}" for word, count in found.outcomes.items()) or "none yet"
        if found.halved:
            rows["memory"] = f"ran out: a lane was halved, {found.halved} in all (see lane_width in the store)"
        print_rows(rows)
        alive = {True: "alive", False: "dead: whoever comes next takes its unit over", None: "on another machine"}
        for holder in found.holders:
            print(f"unit {holder.unit:<9d}{holder.host}, process {holder.pid}, {alive[holder.alive]}")


@dataclasses.dataclass
class Verify:
    """Reads a whole store and says what in it cannot be: torn chunks, missing rows, numbers that contradict each other.

    Args:
      store: folder of the store of a sweep, a search or a profile.
      redo: mark damaged units as not done; the command that made the store does them again.
    """

    store: tyro.conf.Positional[Path]
    redo: bool = False

    def run(self) -> None:
        own_process()
        from hessjax.health import verify
        from hessjax.store import Store

        found = verify(self.store, redo=self.redo)
        for damage in found[:SHOWN]:
            where = "the store" if damage.unit is None else f"unit {damage.unit}"
            print(f"{where}: {damage.array} {damage.what}")
        if len(found) > SHOWN:
            print(f"and {len(found) - SHOWN} more")
        units = {damage.unit for damage in found}
        if not found:
            store = Store.open(self.store)
            done = int(store.done().sum())
            word = "sound" if done == store.num_units else "sound, not complete"
            print(f"{word}: {done} of {store.num_units} units are done, and nothing in them is wrong")
        elif None in units:
            raise UsageError(f"the store {str(self.store)!r} is damaged as a whole; it has to be made again.")
        elif self.redo:
            print(f"marked as not done: {_counted(units)}; run the command that made the store again")
        else:
            raise UsageError(f"{_counted(units)} damaged; add --redo to have what is damaged done again.")


@dataclasses.dataclass
class Merge:
    """Puts stores of parts of one sweep together: other inits (--first-init), or other units of the same.

    Args:
      stores: folders of the parts' stores.
      output: folder of the new store.
      progress: show how far it is.
    """

    stores: tyro.conf.Positional[tuple[Path, ...]]
    output: Path = Path("merged.zarr")
    progress: bool = True

    def run(self) -> None:
        own_process()
        from hessjax.health import store_status
        from hessjax.merging import merge

        if not self.stores:
            raise UsageError("merge takes the folders of one or more stores.")
        path = merge(self.stores, self.output, progress=self.progress)
        found = store_status(path)
        print(f"store   {path}")
        print(f"done    {found.num_done} of {found.num_rows} inits")


def _counted(units: set[Any]) -> str:
    return f"{len(units)} unit{'s' * (len(units) != 1)}"


def print_plan(plan: Any) -> None:
    """A plan in words."""
    from hessjax.sizes import spell_bytes

    devices = f"{plan.num_devices} device{'s' * (plan.num_devices > 1)}"
    rows = {
        "parameters": plan.num_params,
        "inits": f"{plan.inits_left} to do of {plan.num_inits}, {plan.lane_width} at a time on {devices}",
        "units": f"{plan.num_units} of {plan.unit} inits",
        "time": f"about {plan.seconds:.3g} s: {plan.training_s:.3g} s training, {plan.measuring_s:.3g} s measuring, "
        f"{plan.compile_s:.3g} s compiling",
        "memory": f"{spell_bytes(plan.memory)} at the peak, measured on one lane; it does not grow with the inits",
        "disk": f"at most {spell_bytes(plan.disk)} in {plan.files} files",
    }
    print_rows(rows)
