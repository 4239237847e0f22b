"""Sizes in bytes: how they are spelt, and what is free on a disk."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

__all__ = ["free_bytes", "spell_bytes"]


def spell_bytes(size: int | float) -> str:
    """A size in words.

    Example:
      >>> spell_bytes(3 * 2**20)
      '3 MiB'
    """
    power, unit = max((p, u) for p, u in ((0, "bytes"), (10, "KiB"), (20, "MiB"), (30, "GiB")) if size >= 2**p or not p)
    return f"{size / 2**power:,.4g} {unit}"


def free_bytes(path: str | Path) -> int | float:
    """Bytes free where `path` is or will be; inf where the file system does not say."""
    folder = Path(path).resolve()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder if folder.is_dir() else os.fspath(folder.parent))
    return usage.free if usage.total else math.inf
