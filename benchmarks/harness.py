"""Times programs against each other in one process, and keeps the numbers beside the machine they came from.

Compiling is timed apart; every run is waited for; rivals take turns, so a neighbour's load falls on all of them.
Knows no claim: what is timed, and how wrong it is, are the claim's own (benchmarks/<claim>.py).
"""

from __future__ import annotations

import datetime
import json
import math
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from hessjax import devices

__all__ = ["Cost", "Program", "compare", "environment", "measure", "once", "prepare", "record", "row", "table"]

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 7
SETTLE_S = 0.3  # that long threads of another process may still spin for more work, and take a core from what runs next


class Program(NamedTuple):
    """Something ready to run: its call without arguments, and what making it took."""

    call: Callable[[], Any]
    compile_s: float | None = None  # None: a host function, compiled by nobody
    temp_bytes: int | None = None
    busy: Callable[[], float] | None = None  # processor seconds so far of another process that runs it, else this one's


class Cost(NamedTuple):
    """What a program takes. `ratio`: its time over the first program's of the same round, median and quartiles.

    `spread` is the interquartile range over the median. `cores` is the processor time over the wall time of all its
    runs: below what the program can use, it waited for a neighbour.
    """

    run_s: float
    run_min_s: float
    spread: float
    ratio: float
    ratio_low: float
    ratio_high: float
    cores: float
    rounds: int
    compile_s: float | None
    temp_bytes: int | None


def prepare(f: Callable | Program, *args: Any) -> Program:
    """A jitted function is compiled for `args`, seconds and workspace noted; any other callable runs on the host."""
    if isinstance(f, Program):
        return f
    if not hasattr(f, "lower"):
        return Program(lambda: f(*args))
    began = time.perf_counter()
    compiled = f.lower(*args).compile()  # pyright: ignore[reportFunctionMemberAccess]
    seconds = time.perf_counter() - began
    analysis = compiled.memory_analysis()
    return Program(lambda: compiled(*args), seconds, None if analysis is None else int(analysis.temp_size_in_bytes))


def compare(
    functions: Mapping[str, Callable | Program], args: Sequence[Any] = (), *, rounds: int = ROUNDS
) -> dict[str, Cost]:
    """Runs A, B, C, A, B, C, ... after one run each that is not counted; the first one is what ratios refer to.

    Args:
      functions: jitted or host functions of `args`, or what `prepare` made.
      args: the same for all.
      rounds: timed runs of each, at least 1.

    Raises:
      ValueError: no functions, or no rounds.

    Example:
      >>> costs = compare({"ours": lambda x: x, "theirs": lambda x: x}, [1.0], rounds=3)
      >>> costs["ours"].ratio, costs["theirs"].rounds
      (1.0, 3)
    """
    if not functions or rounds < 1:
        raise ValueError(f"compare wants at least one function and one round, got {len(functions)} and {rounds}.")
    programs = {name: prepare(f, *args) for name, f in functions.items()}
    for program in programs.values():
        jax.block_until_ready(program.call())
    wall, busy = {name: [] for name in programs}, dict.fromkeys(programs, 0.0)
    pause = SETTLE_S if any(program.busy for program in programs.values()) else 0.0
    for _ in range(rounds):
        for name, program in programs.items():
            clock = program.busy or time.process_time
            time.sleep(pause)
            cpu, began = clock(), time.perf_counter()
            jax.block_until_ready(program.call())
            wall[name].append(time.perf_counter() - began)
            busy[name] += clock() - cpu
    first = wall[next(iter(programs))]
    return {name: _cost(program, wall[name], first, busy[name]) for name, program in programs.items()}


def measure(f: Callable | Program, *args: Any, rounds: int = ROUNDS) -> Cost:
    """What one program takes on its own; see `compare`."""
    return compare({"": f}, args, rounds=rounds)[""]


def once(wall_s: float, *, cores: float = math.nan, compile_s: float | None = None) -> Cost:
    """What something took that ran a single time, too long or too changed by it to be run again.

    Example:
      >>> once(2.0).run_s
      2.0
    """
    return Cost(wall_s, wall_s, 0.0, 1.0, 1.0, 1.0, cores, 1, compile_s, None)


def _cost(program: Program, wall: Sequence[float], first: Sequence[float], busy: float) -> Cost:
    low, median, high = _quartiles(wall)
    ratio_low, ratio, ratio_high = _quartiles([a / max(b, 1e-9) for a, b in zip(wall, first, strict=True)])
    return Cost(
        run_s=median,
        run_min_s=min(wall),
        spread=(high - low) / max(median, 1e-9),
        ratio=ratio,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        cores=busy / max(sum(wall), 1e-9),
        rounds=len(wall),
        compile_s=program.compile_s,
        temp_bytes=program.temp_bytes,
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def row(what: str, cost: Cost, *, error: float | None, error_is: str, **numbers: Any) -> dict[str, Any]:
    """One row of a record; a time without its error, and without what that error is, cannot be written."""
    return {"what": what, **numbers, "error": error, "error_is": error_is, **cost._asdict()}


def record(name: str, *, claim: str, rows: Sequence[Mapping[str, Any]], folder: Path | None = None) -> Path:
    """Writes <folder>/<device>/<name>.json, and this claim's entry of environment.json beside it.

    The environment is kept by claim, because claims are recorded at different times. Numbers keep four digits.
    """
    facts = environment()
    place = (folder or RESULTS) / re.sub(r"[^a-z0-9]+", "-", facts["machine"].lower()).strip("-")
    place.mkdir(parents=True, exist_ok=True)
    lines = ",\n  ".join(_json(r) for r in rows)
    path = place / f"{name}.json"
    path.write_text(f'{{\n "name": {_json(name)},\n "claim": {_json(claim)},\n "rows": [\n  {lines}\n ]\n}}\n')
    beside = place / "environment.json"
    known = json.loads(beside.read_text()) if beside.is_file() else {}
    known[name] = facts
    beside.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return path


def _json(value: Any) -> str:
    return json.dumps(_short(value), ensure_ascii=False, allow_nan=False)


def _short(value: Any) -> Any:
    """Plain JSON values; floats to four digits, what is not finite to null."""
    if isinstance(value, Mapping):
        return {key: _short(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_short(x) for x in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def environment() -> dict[str, Any]:
    """Versions, processor, devices, threads, revision and date; nothing that names a host, a user or a path."""
    found = {key: value for key, value in devices.describe().items() if key not in ("host", "memory_gib")}
    name = found["cpu"] if found["platform"] == "cpu" else found["device"]
    found["machine"] = f"{found['platform']} {name} x{found['cores' if found['platform'] == 'cpu' else 'num_devices']}"
    revision = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(revision, cwd=RESULTS.parent, capture_output=True, text=True, timeout=10)
        found["revision"] = done.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        found["revision"] = None
    return {**found, "versions": devices.versions(), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as aligned columns for a terminal, without the columns that no row fills and the longer words."""
    filled = (name for r in rows for name, value in r.items() if value is not None and name != "error_is")
    names = list(dict.fromkeys(filled))
    cells = [names, *([_cell(r.get(name)) for name in names] for r in rows)]
    width = [max(len(line[k]) for line in cells) for k in range(len(names))]
    align = lambda line: "  ".join(x.ljust(w) if k == 0 else x.rjust(w) for k, (x, w) in enumerate(zip(line, width)))
    return "\n".join(align(line).rstrip() for line in cells)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
