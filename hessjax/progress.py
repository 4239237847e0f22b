"""Progress of a long host loop: a bar on a terminal, plain lines elsewhere, nothing when disabled.

Written to standard error, so that standard output stays what a command answers.
"""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["Progress", "say"]

LINE_SECONDS = 5.0  # between plain lines


class Progress:
    """Counts inits, or what `what` says; shows done, rate and time left. A context manager.

    `total` are to do now; `before` were done by earlier runs and are only shown.

    Example:
      >>> with Progress(2, "demo", enabled=False) as bar:
      ...     bar.advance(2)
      >>> bar.done
      2
    """

    def __init__(self, total: int, label: str, *, before: int = 0, enabled: bool = True, what: str = "inits"):
        self.total, self.label, self.before, self.enabled, self.what = total, label, before, enabled, what
        self.done, self.began, self.last_line = 0, time.perf_counter(), time.perf_counter()
        self.bar: Any = None

    def __enter__(self) -> Progress:
        self.began = self.last_line = time.perf_counter()
        if self.enabled and sys.stderr.isatty():
            self.bar = _rich_bar(self.what)
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.before + self.total, completed=self.before, note="")
        elif self.enabled:
            resumed = f", {self.before} were done before" if self.before else ""
            say(f"{self.label}: {self.total} {self.what} to do{resumed}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, count: int, **notes: float) -> None:
        """Counts so many more as done; notes are shown beside."""
        self.done += count
        note = " ".join(f"{name} {value:.4g}" for name, value in notes.items())
        if self.bar is not None:
            self.bar.update(self.task, advance=count, note=note)
            return
        finished = count > 0 and self.done == self.total
        if self.enabled and (finished or time.perf_counter() - self.last_line > LINE_SECONDS):
            self.last_line = time.perf_counter()
            rate = self.done / max(self.last_line - self.began, 1e-9)
            left = f"{(self.total - self.done) / rate:.0f} s left" if self.done else "time left unknown"
            so_far = f"{self.before + self.done}/{self.before + self.total} {self.what}"
            words = [f"{self.label}: {so_far}", f"{rate:.1f}/s", left, *([note] if note else [])]
            say(", ".join(words))


def say(text: str) -> None:
    """One line on standard error, at once."""
    print(text, file=sys.stderr, flush=True)


def _rich_bar(what: str) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Rate(TextColumn):
        def render(self, task):
            from rich.text import Text

            return Text(f"{task.speed:.1f} {what}/s" if task.speed else "")

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(stderr=True),
    )  # fmt: skip
