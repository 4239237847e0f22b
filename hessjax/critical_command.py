"""The command that searches for critical points: its flags, and what it prints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from hessjax.config import Search
from hessjax.flags import UsageError, config_args, config_fields, parse_worker, to_config
from hessjax.process import own_process

__all__ = ["CriticalCommand"]


@dataclasses.dataclass
class _Extras:
    """Finds critical points of one landscape from many starts, says what they are, and stores them."""

    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    output: Path = Path("critical.zarr")
    unit: int | None = None
    worker: str | None = None
    take_over: bool = False
    report: bool = False
    progress: bool = True

    def run(self) -> None:
        config = to_config(Search, self)
        own_process(config.dtype)
        if self.from_ is not None:
            config = self._of_a_sweep(config)
        from hessjax.searches import open_search, search

        shared = {"worker": parse_worker(self.worker), "take_over": self.take_over}
        path = search(config, self.output, unit=self.unit, progress=self.progress, **shared)
        print(f"store   {path}")
        _print(open_search(path))
        if self.report:
            from hessjax.reporting import report

            written = report(path, path.resolve().with_name(f"{path.resolve().stem}-report.html"))
            print(f"report  {written}")

    def _of_a_sweep(self, config: Search) -> Search:
        from hessjax.starts import sweep_at

        _, sweep = sweep_at(self.from_ or "", config.landscape_name)
        given = (config.landscape_name, config.options)
        usual = (Search.__dataclass_fields__["landscape"].default, {})
        if given not in (usual, (sweep.landscape_name, sweep.options)):
            raise UsageError(f"--from {self.from_} says the landscape ({sweep.landscape_name}); leave it out.")
        of_it: dict[str, Any] = {"landscape": sweep.landscape, "options": sweep.options}
        return dataclasses.replace(config, starts="sweep", sweep=str(self.from_), **of_it)


def _print(ds: Any) -> None:
    """A line for each method."""
    from hessjax.found_panels import summary

    for row in summary(ds):
        total = sum(row[word] for word in ("critical", "gradient-flat", "unfinished", "diverged"))
        said = ", ".join(f"{row[word]} {word}" for word in ("critical", "gradient-flat", "unfinished", "diverged"))
        if not row["critical"] or "index 0" not in row:
            print(f"{row['method']:14s} {total} starts: {said}")
            continue
        more = f"; of the critical {row['index 0']} have index 0"
        more += f" ({row['above the bound']} of them above the lower bound)" if "above the bound" in row else ""
        more += f", {row['known']} are known points" if "known" in row else ""
        print(f"{row['method']:14s} {total} starts: {said}{more}")


def _command() -> Any:
    fields = [f for f in config_fields(Search) if f[0] != "sweep"]
    made = dataclasses.make_dataclass("CriticalCommand", fields, bases=(_Extras,))
    made.__doc__ = f"""Finds critical points of one landscape from many starts, says what they are, and stores them.

The same command on the same output resumes; another configuration is refused.

Args:
{config_args(Search)}
  from_: store of a sweep to start from: its landscape, at points uniform in its losses.
  output: folder of the store.
  unit: starts per stored chunk.
  worker: this process's share I/N of the units; by default from a Slurm array or Kubernetes indexed job.
  take_over: when that share is done, go on with units of others that nobody is at work on.
  report: write the HTML report at the end.
  progress: show starts done, rate and time left.
"""
    made.sweep = None  # spelled --from
    return made


CriticalCommand: Any = _command()
