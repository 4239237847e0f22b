"""Runs benchmarks and records them: `python -m benchmarks [NAME...]`, by default all; `--list` names the claims.

With HESSJAX_SMOKE=1 the problems are tiny and nothing is recorded.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent


def claims() -> dict[str, str]:
    """Name and first line of every claim; no module is imported, so jax starts only where something runs."""
    files = sorted(p for p in HERE.glob("*.py") if p.stem != "harness" and not p.stem.startswith("_"))
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in files}
    return {name: (doc or "").partition("\n")[0] for name, doc in docs.items()}


def main(args: Sequence[str] | None = None) -> int:
    """Runs the claims asked for; exit code 2 for a name that is none."""
    known = claims()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="claims to run; by default all of them")
    parser.add_argument("--list", action="store_true", help="name the claims and run none")
    given = parser.parse_args(args)
    if given.list:
        print("\n".join(f"{name:16s}{claim}" for name, claim in known.items()))
        return 0
    for name in given.names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            print(f"benchmarks: no claim {name!r}{hint} Known: {', '.join(known)}.", file=sys.stderr)
            return 2

    from hessjax.commands import own_process

    own_process()  # before jax starts: one CPU device a core, one BLAS thread
    from benchmarks import harness

    for name in given.names or known:
        print(f"== {name}\n{known[name]}", flush=True)
        rows = importlib.import_module(f"benchmarks.{name}").run()
        print(harness.table(rows))
        if os.environ.get("HESSJAX_SMOKE"):
            print("HESSJAX_SMOKE is set: a tiny problem, not recorded")
        else:
            print(f"recorded {harness.record(name, claim=known[name], rows=rows).relative_to(HERE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
