"""How a process of its own answers: a line of standard input names a way, which runs; a line of JSON is its answer.

Standard library alone, as those processes have other environments.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def opened() -> Any:
    """Where answers go; what a package prints from here on is none."""
    found = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return found


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(
    answers: Any,
    facts: Mapping[str, Any],
    ways: Mapping[str, Callable[[], Mapping[str, Any]]],
    clock: Callable[[], float] = time.process_time,
) -> None:
    """Answers `facts`, then line by line; `busy_s`: processor time of the ways that have run, none between them."""
    busy = 0.0

    def answer(found: Mapping[str, Any]) -> None:
        print(json.dumps({**found, "busy_s": busy}), file=answers, flush=True)

    answer(facts)
    for line in sys.stdin:
        began = clock()
        found = ways[line.strip()]()
        busy += clock() - began
        answer(found)
