"""The commands about landscapes: what there is, and what one of them looks like."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from hessjax.flags import key_values, spell
from hessjax.process import own_process, save_figure

if TYPE_CHECKING:
    from hessjax.portraits import Portrait, Shown

__all__ = ["List", "Show"]


@dataclasses.dataclass
class List:
    """Names the landscapes, each with its options and their defaults; with names, also what their options mean.

    Args:
      names: none for all; or names of `hessjax list`, or package.module:factory.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()

    def run(self) -> None:
        from hessjax.landscapes import base

        shown = {name: base.options(name) for name in self.names or base.names()}
        width = max(map(len, shown)) + 1
        for name, known in shown.items():
            given = {k: v for k, v in known.items() if k}
            words = [f"{k}=..." if v is inspect.Parameter.empty else f"{k}={spell(v)}" for k, v in given.items()]
            print(f"{name:{width}s}{base.describe(name)}")
            print(" " * width + " ".join(words))
            manual = base.manual(name).removeprefix(base.describe(name)).strip()
            if self.names and manual:
                print(textwrap.indent(manual, "  "))


@dataclasses.dataclass
class Show:
    """Shows a landscape: its facts, what is measured at its points, and a picture of it.

    Without known critical points, an init is measured. Counts are of the exact Hessian, up to 2000 parameters.

    Args:
      name: a name of `hessjax list`, or package.module:factory.
      options: KEY=VALUE words for the landscape, e.g. depth=3.
      seed: of the init.
      dtype: of params and data; float64 tells small eigenvalues from rounding.
      tol: zero is |eigenvalue| <= tol times the largest absolute row sum; by default 1e-8 in float64, 1e-5 in float32.
      resolution: points a side of the picture's plane.
      extent: half the side of that plane; by default what its points suggest.
      output: PNG file of the picture; by default NAME.png.
    """

    name: tyro.conf.Positional[str]
    options: tuple[str, ...] = ()
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float64"
    tol: float | None = None
    resolution: int = 81
    extent: float | None = None
    output: Path | None = None

    def run(self) -> None:
        from hessjax.landscapes import base

        base.options(self.name)  # an unknown name is answered before jax starts
        own_process(self.dtype)
        import jax

        from hessjax import plot
        from hessjax.portraits import portrait

        given = key_values("options", self.options)
        if {"dtype", None} & set(base.options(self.name)):
            given = {"dtype": self.dtype} | given
        land = base.get(self.name, **given)
        sizes = {"resolution": self.resolution, "extent": self.extent, "tol": self.tol}
        if sys.stderr.isatty():
            print(f"measuring {land.name} (of a large net, compiling takes a minute)", file=sys.stderr, flush=True)
        found = portrait(land, jax.random.key(self.seed), **sizes)
        print("\n".join(_rows(found)))
        save_figure(plot.portrait(found), self.output or Path(f"{self.name.rpartition(':')[2]}.png"))


def _rows(found: Portrait) -> list[str]:
    """What is printed: name and notes, then a line for every point."""
    rows = [f"{'landscape':14s}{found.name}", f"{'parameters':14s}{found.size}"]
    rows += [f"{'note' if k == 0 else '':14s}{note}" for k, note in enumerate(found.notes)]
    if found.num_points:
        shown = f", {len(found.points)} shown" if len(found.points) < found.num_points else ""
        rows.append(f"{'critical':14s}{found.num_points} known{shown}")
    width = max(len(point.name) for point in found.points) + 2
    rows.append(f"{'':14s}{'point':{width}s}{'loss':>12s}{'|gradient|':>12s}  counts -/0/+  extremes              kind")
    return rows + [f"{'':14s}{point.name:{width}s}{_row(point)}" for point in found.points]


def _row(point: Shown) -> str:
    counts = "too large" if point.negative is None else f"{point.negative}/{point.zero}/{point.positive}"
    ends = f"{point.eigenvalues[0]:.4g} to {point.eigenvalues[-1]:.4g}"
    row = f"{point.loss:12.6g}{point.grad_norm:12.3g}  {counts:14s}{ends:22s}{point.kind}"
    return (row + "".join(f" ({doubt})" for doubt in _doubts(point))).rstrip()


def _doubts(point: Shown) -> list[str]:
    """Where what is measured is not what the facts say."""
    if point.said is None:
        return []
    loss, index, nullity = point.said
    size, found = max(1.0, abs(loss), float(abs(point.eigenvalues).max(initial=0.0))), []
    if abs(point.loss - loss) > 1e-4 * size:
        found.append(f"the facts say loss {loss:g}")
    if point.grad_norm > 1e-4 * size:
        found.append("not critical: see its gradient")
    if point.negative is not None and (index, nullity) != (point.negative, point.zero):
        found.append(f"the facts say index {index}, nullity {nullity}: see --tol and --dtype")
    return found
