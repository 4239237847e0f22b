"""The command line: finds the command that was asked for, runs it, and answers mistakes in one line.

Bad input is one line on standard error and exit code 2; a bug is a traceback and exit code 1.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tyro

from hessjax.commands import COMMANDS, sweep_command
from hessjax.config import Sweep
from hessjax.flags import UsageError, one_line, sweep_words

__all__ = ["entry", "main"]

INTERRUPTED = 130, 143  # exit codes: by Ctrl-C, by SIGTERM


def _parse(args: Sequence[str]) -> Any:
    """The command asked for. tyro explains mistakes in a box of lines; here they become one."""
    commands: dict[str, Any] = dict(COMMANDS)
    files = [after for word, after in itertools.pairwise(args) if word == "--config"]
    files += [word.removeprefix("--config=") for word in args if word.startswith("--config=")]
    if files and args[0] == "sweep":
        commands["sweep"] = _with_defaults(Path(files[-1]))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                commands, prog="hessjax", description="Hessian spectra of loss surfaces.", args=list(args)
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            sys.stdout.flush()  # a reader that is gone is met here, where it is expected
            raise
        raise UsageError(one_line(said.getvalue())) from None


def _with_defaults(file: Path) -> Any:
    try:
        stored = sweep_words(Sweep.from_dict(json.loads(file.read_text())))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"--config {file}: {error}") from error
    return sweep_command(**stored)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it some time before SIGKILL: ends in good order like Ctrl-C."""


def _terminate(*_: object) -> None:
    raise _Terminated


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where signals are not ours to handle
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 for bad input, 130 or 143 where it was interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    with _terminable():
        return _run(args)


def entry() -> NoReturn:
    """What the `hessjax` command calls: `main`, and a process that ends at once where it was interrupted."""
    code = main()
    sys.stdout.flush()
    if code in INTERRUPTED:  # else the device's work on what is begun, and dropped, would be waited for
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(args: Sequence[str]) -> int:
    try:
        command = _parse(args or ["--help"])
        command.run()
        sys.stdout.flush()
    except BrokenPipeError:  # `hessjax list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UsageError as error:
        return _refuse(str(error))
    except (ValueError, TypeError, ImportError, OSError) as error:
        if not _ours(error):
            raise
        return _refuse(str(error))
    except KeyboardInterrupt as stop:
        print("interrupted: finished units are kept; run the same command again to resume.", file=sys.stderr)
        return INTERRUPTED[isinstance(stop, _Terminated)]
    return 0


def _refuse(message: str) -> int:
    print(f"hessjax: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _ours(error: BaseException) -> bool:
    """Whether hessjax itself raised this, which means bad input; what jax or NumPy raise under it is a bug."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").split(".")[0] == "hessjax"
