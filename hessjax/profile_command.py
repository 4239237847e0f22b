"""The command that looks at the surface around training: its flags, and what it prints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hessjax.config import Profile
from hessjax.flags import config_args, config_fields, parse_worker, to_config
from hessjax.process import own_process

__all__ = ["ProfileCommand"]


@dataclasses.dataclass
class _Extras:
    """Trains by several optimisers, and stores lines and a plane of the loss around the trajectories."""

    output: Path = Path("profile.zarr")
    unit: int | None = None
    worker: str | None = None
    take_over: bool = False
    report: bool = False
    progress: bool = True

    def run(self) -> None:
        config = to_config(Profile, self)
        own_process(config.dtype)
        from hessjax.profile_runs import open_profile, profile

        shared = {"worker": parse_worker(self.worker), "take_over": self.take_over}
        path = profile(config, self.output, unit=self.unit, progress=self.progress, **shared)
        print(f"store   {path}")
        _print(open_profile(path))
        if self.report:
            from hessjax.reporting import report

            written = report(path, path.resolve().with_name(f"{path.resolve().stem}-report.html"))
            print(f"report  {written}")


def _print(ds: Any) -> None:
    """A line for each optimiser."""
    from hessjax.profile_panels import table
    from hessjax.tables import number

    for row in table(ds):
        limit = f" (stable to {number(row['threshold'])})" if row["threshold"] is not None else ""
        print(
            f"{row['optimizer']:14s} loss {number(row['loss'])}, gradient {number(row['gradient norm'])}, "
            f"sharpness {number(row['sharpness'])}{limit}, {row['negative']:.1%} negative, "
            f"{number(row['distance from start'])} from the start"
        )


def _command() -> Any:
    made = dataclasses.make_dataclass("ProfileCommand", config_fields(Profile), bases=(_Extras,))
    made.__doc__ = f"""Trains by several optimisers, and stores lines and a plane of the loss around the trajectories.

The same command on the same output resumes; another configuration is refused.

Args:
{config_args(Profile)}
  output: folder of the store.
  unit: rows of the plane per stored chunk.
  worker: this process's share I/N of the units; by default from a Slurm array or Kubernetes indexed job.
  take_over: when that share is done, go on with units of others that nobody is at work on.
  report: write the HTML report at the end.
  progress: show rows of the plane done, rate and time left.
"""
    return made


ProfileCommand: Any = _command()
