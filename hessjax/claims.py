"""Leases on the units of a store: who is at work on what, so that workers share a store without being told how.

A lease is a file that one process alone can make, and that grows by a byte every few seconds while its holder lives.
No clock is compared with another: a lease is dead where its process is known to be gone (on the same machine), or
where it has not grown for `PATIENCE` seconds of whoever watches it. Leases only save work. A unit that two
processes do is written twice with the same rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hessjax.store import StoreError

__all__ = ["Claims", "Holder", "holders"]

BEAT, PATIENCE = 2.0, 60.0  # seconds; network file systems may show a file's new length many seconds later
HEAD = 4096  # bytes at most of what a holder says of itself


class Holder(NamedTuple):
    """Who holds a unit: `alive` is False where that process is gone, None where it cannot be told from here."""

    unit: int
    host: str
    pid: int
    beats: int
    alive: bool | None


class _Lease(NamedTuple):
    """What a lease's file is: a line that says whose it is, and how long it has grown."""

    head: bytes
    size: int


class Claims:
    """What this process holds of a store's units. A context manager: all is let go at its end.

    Args:
      folder: where the leases are; made when the first is taken.
      beat: seconds between two signs of life.
      patience: seconds without one after which a lease is taken for dead.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp()) / "claims"
      >>> with Claims(folder) as mine, Claims(folder) as theirs:
      ...     mine.take(0), theirs.take(0), theirs.take(1)
      (True, False, True)
    """

    def __init__(self, folder: Path, *, beat: float | int = BEAT, patience: float | int = PATIENCE):
        self.folder, self.beat, self.patience = folder, beat, patience
        self._held: dict[int, int] = {}  # file descriptors
        self._seen: dict[Path, tuple[_Lease, float]] = {}  # a lease as it was when it last changed, and when that was
        said = {**_this_process(), "token": secrets.token_hex(4)}
        self._head = json.dumps(said).encode() + b"\n"
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for unit in list(self._held):
            self.release(unit)
        for path in self.folder.glob("*.lease"):
            with contextlib.suppress(OSError):
                head = _read(path).head
                # A signal may have come between a file and its being held; and the killed leave theirs on done units.
                if head == self._head or _alive(head) is False:
                    path.unlink()
        with contextlib.suppress(OSError):  # others' are still there
            self.folder.rmdir()

    def take(self, unit: int) -> bool:
        """Whether the unit is now this process's: nobody held it, or who did is dead.

        Raises:
          StoreError: no lease can be made there.
        """
        path = self.folder / f"{unit}.lease"
        if self.folder.is_symlink():  # it came with somebody else's store
            raise StoreError(f"leases in {str(self.folder)!r} are not made: it is a link that leads elsewhere.")
        try:
            descriptor = self._make(path)
            if descriptor is None and self._is_dead(path):
                path.unlink(missing_ok=True)
                descriptor = self._make(path)
        except OSError as error:
            raise StoreError(f"leases in {str(self.folder)!r} cannot be made: {error.strerror}.") from error
        if descriptor is None:
            return False
        with self._lock:
            self._held[unit] = descriptor
        if self._beating is None:
            self._beating = threading.Thread(target=self._beat, daemon=True)
            self._beating.start()
        return True

    def release(self, unit: int) -> None:
        """Lets a unit go."""
        with self._lock:
            descriptor = self._held.pop(unit, None)
        if descriptor is None:
            return
        path = self.folder / f"{unit}.lease"
        with contextlib.suppress(OSError):  # it may be another's by now: one that took this process for dead
            try:
                mine = os.fstat(descriptor)
            finally:
                os.close(descriptor)  # before it is taken away: Windows has no files without a name
            if os.path.samestat(mine, os.stat(path, follow_symlinks=False)):
                path.unlink()

    def _make(self, path: Path) -> int | None:
        """A new lease's descriptor, or None: there is one."""
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)
            except FileExistsError:
                return None
            except FileNotFoundError:
                self.folder.mkdir(exist_ok=True)  # also where another took the empty folder away in between
                continue
            try:
                _written(descriptor, self._head)
            except OSError:  # a full disk: a lease that says nothing would keep others waiting
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
            return descriptor
        return None

    def _is_dead(self, path: Path) -> bool:
        try:
            lease = _read(path)
        except FileNotFoundError:
            return False  # let go in between: to be had at the next try
        except OSError:  # another user's, or nothing of ours: alive for as long as it grows
            try:
                lease = _Lease(b"", os.lstat(path).st_size)
            except OSError:
                return False
        if _alive(lease.head) is False:
            return True
        now, (before, since) = time.monotonic(), self._seen.get(path, (None, 0.0))
        if lease != before:
            self._seen[path] = (lease, now)
            return False
        return now - since > self.patience

    def _beat(self) -> None:
        while not self._ended.wait(self.beat):
            copies = []
            with self._lock, contextlib.suppress(OSError):  # no more files may be open: some beat, the others next time
                for descriptor in self._held.values():
                    copies.append(os.dup(descriptor))
            for descriptor in copies:  # outside, as a slow file system must not keep units from being taken and let go
                with contextlib.suppress(OSError):  # a full disk: others may do the unit too
                    _written(descriptor, b".")
                os.close(descriptor)


def holders(folder: Path) -> Iterator[Holder]:
    """Whoever holds a unit, by unit; leases that cannot be read are left out.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp()) / "claims"
      >>> with Claims(folder) as mine:
      ...     mine.take(3), [(h.unit, h.pid == os.getpid(), h.alive) for h in holders(folder)]
      (True, [(3, True, True)])
    """
    found = [f for f in folder.glob("*.lease") if f.stem.isdecimal()]
    for file in sorted(found, key=lambda f: int(f.stem)):
        with contextlib.suppress(OSError):  # let go in between, or a link
            lease = _read(file)
            said, beats = _said(lease.head), lease.size - len(lease.head)
            if said is not None:
                yield Holder(int(file.stem), said["host"], said["pid"], beats, _alive(lease.head))


def _written(descriptor: int, text: bytes) -> None:
    """Writes at once: a network file system may keep what is written for as long as a file is open."""
    os.write(descriptor, text)
    os.fsync(descriptor)


def _read(path: Path) -> _Lease:
    # Opened, not only looked at: on a network file system that asks the server anew. Pipes would keep one waiting.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags), "rb") as f:
        if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
            raise OSError(f"{path} is no file.")
        return _Lease(f.readline(HEAD), os.fstat(f.fileno()).st_size)


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "born": _born(os.getpid())}


def _said(head: bytes) -> dict[str, Any] | None:
    """What a lease says of its holder; None where that is nothing of ours."""
    try:
        said = json.loads(head)
        return {"machine": said["machine"], "born": said["born"], "host": str(said["host"]), "pid": int(said["pid"])}
    except (ValueError, TypeError, KeyError, RecursionError, ArithmeticError):
        return None


def _alive(head: bytes) -> bool | None:
    """Whether the process that a lease names runs; None where it is on another machine, or not said."""
    said = _said(head)
    if said is None or said["machine"] is None or said["machine"] != _machine():
        return None
    return said["born"] is not None and _born(said["pid"]) == said["born"]


def _machine() -> str | None:
    """This boot of this machine, and which processes it sees; None where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """When a process began, which tells it from a later one of the same number; None: there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # a zombie does no more work
