"""A resumable store of rows: Zarr v3 written with tensorstore, one chunk per unit, `done` flipped last.

Knows no science: arrays whose first dimension is rows, written a unit at a time. A unit's write is idempotent and
each chunk replaces its file atomically, so a unit may be computed twice but is never torn or lost. What is read back
is data only: JSON and numbers.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from hessjax.sizes import free_bytes, spell_bytes

__all__ = ["Spec", "Store", "StoreError"]

FORMAT = "hessjax-store-1"
CODECS = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": 1}},
    {"name": "crc32c"},
]


class StoreError(ValueError):
    """A store that cannot be made, opened or written; the message names the path and the way out."""


@dataclass(frozen=True)
class Spec:
    """One array: its dimensions' names, shape, dtype, and attributes such as units and long_name.

    An array whose first dimension is `rows` is written by unit; any other is written whole when the store is made.
    `fill` is what reads where nothing was written; None: NaN, False or 0, as the dtype has it.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    attrs: Mapping[str, Any]
    values: Any = None
    fill: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array before compression."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Store:
    """An open store. `rows` is the name of the unit dimension, `unit` its rows per chunk."""

    path: Path
    attributes: Mapping[str, Any]
    rows: str
    num_rows: int
    unit: int

    @classmethod
    def create(
        cls, path: str | Path, arrays: Mapping[str, Spec], attributes: Mapping[str, Any], *, rows: str, unit: int
    ) -> Store:
        """Makes a store at `path`, or opens the one another writer made there first.

        Everything is written beside `path` and renamed into place, so a store is either absent or whole.

        Raises:
          StoreError: the path is a file, cannot be written, or holds something else; or the disk has less room
            than the arrays may come to take.
        """
        path = Path(path)
        (num_rows,) = {spec.shape[0] for spec in arrays.values() if spec.dims[0] == rows and spec.values is None}
        units = -(-num_rows // unit)
        layout = {"format": FORMAT, "rows": rows, "num_rows": num_rows, "unit": unit}
        done = Spec(("unit",), (units,), "uint8", {"long_name": "unit written"})
        with _explain(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_room(path, sum(spec.nbytes for spec in arrays.values()))
            building = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            try:
                building.chmod(0o755)
                for name, spec in {**arrays, "done": done}.items():
                    _make_array(building / name, spec, unit if spec.dims[0] == rows else 1, rows)
                group = {"zarr_format": 3, "node_type": "group", "attributes": {**attributes, "hessjax_store": layout}}
                (building / "zarr.json").write_text(json.dumps(group, indent=1))
                if not path.exists():  # the log of a store deleted here before is not this one's
                    _log_path(path).unlink(missing_ok=True)
                building.rename(path)
            except BaseException as error:
                shutil.rmtree(building, ignore_errors=True)
                if getattr(error, "errno", None) not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        return cls.open(path)

    @staticmethod
    def check_path(path: str | Path) -> None:
        """Makes the folder that a store is to lie in; a StoreError where that cannot be, before work is done for it."""
        with _explain(Path(path)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=Path(path).parent).close()

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Opens an existing store.

        Raises:
          StoreError: there is none, or it is not one of ours.
        """
        path = _path(path)
        with _explain(path):
            if not path.exists():
                raise StoreError(f"no store at {str(path)!r}.")
            if not path.is_dir():
                raise StoreError(f"{str(path)!r} is a file, wanted the folder of a store; choose another path.")
            if not (path / "zarr.json").is_file():
                raise StoreError(f"{str(path)!r} is a folder but no store: it has no zarr.json; choose another path.")
            try:
                attributes = json.loads((path / "zarr.json").read_text())["attributes"]
                layout = attributes["hessjax_store"]
                known = layout["format"] == FORMAT
                store = cls(path, attributes, str(layout["rows"]), int(layout["num_rows"]), int(layout["unit"]))
            except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
                raise StoreError(f"{str(path)!r} is not a hessjax store: zarr.json, {error!r}.") from error
            if not known:
                raise StoreError(f"{str(path)!r} has format {layout['format']!r}, wanted {FORMAT!r}.")
            if min(store.num_rows, store.unit) < 1 or store._array("done").shape != (store.num_units,):
                raise StoreError(f"{str(path)!r} is not a hessjax store: its parts disagree on the number of units.")
        return store

    @staticmethod
    def is_anything_at(path: str | Path) -> bool:
        """Whether the path is taken, by a store or by something else.

        Raises:
          StoreError: the file system does not say.
        """
        with _explain(_path(path)):
            return Path(path).exists()

    @property
    def log_path(self) -> Path:
        """NAME.events.jsonl, beside the store: inside it would be a stranger in the Zarr hierarchy."""
        return _log_path(self.path)

    @property
    def claims_path(self) -> Path:
        """NAME.claims, beside the store: who is at work on which unit."""
        return _log_path(self.path).with_name(f"{self.path.resolve().name}.claims")

    @property
    def num_units(self) -> int:
        """How many units the rows make; the last may be short."""
        return -(-self.num_rows // self.unit)

    def span(self, unit: int) -> tuple[int, int]:
        """First row and past-last row of a unit."""
        return unit * self.unit, min((unit + 1) * self.unit, self.num_rows)

    def done(self) -> np.ndarray:
        """Which units are written, [num_units] bool."""
        with _explain(self.path):
            return self._array("done").read().result().astype(bool)

    def rows_in(self, units: Iterable[int]) -> int:
        """How many rows so many units have."""
        return sum(stop - start for start, stop in map(self.span, units))

    def num_done(self) -> int:
        """How many rows are written."""
        return int(self.done_rows().sum())

    def done_rows(self) -> np.ndarray:
        """Which rows are written, [num_rows] bool."""
        return np.repeat(self.done(), self.unit)[: self.num_rows]

    def read(self, name: str) -> np.ndarray:
        """A whole array."""
        with _explain(self.path):
            return self._array(name).read().result()

    def write(self, unit: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes every array's rows of one unit, and only then marks it done.

        Raises:
          StoreError: a write failed; the unit stays not done.
        """
        start, stop = self.span(unit)
        with _explain(self.path):
            self._check_inside(values, unit)
            begin = lambda name: self._array(name)[start:stop].write(values[name])
            for name, write in {name: begin(name) for name in values}.items():
                try:
                    write.result()
                except (OSError, ValueError, RuntimeError):
                    if stop - start == self.unit:
                        raise
                    # Of a short unit the chunk is read before it is written, and this one may be torn.
                    self._chunk(name, unit).unlink(missing_ok=True)
                    begin(name).result()
            self._mark(unit, 1)

    def forget(self, unit: int) -> None:
        """Marks a unit as not written, so that whoever resumes writes it again.

        Raises:
          StoreError: the mark cannot be written.
        """
        with _explain(self.path):
            self._mark(unit, 0)

    def _mark(self, unit: int, done: int) -> None:
        self._check_inside(["done"], unit)
        self._array("done")[unit].write(np.uint8(done)).result()

    def is_done(self, unit: int) -> bool:
        """Whether one unit is written."""
        with _explain(self.path):
            return bool(self._array("done")[unit].read().result())

    def part(self, name: str, unit: int) -> np.ndarray:
        """One unit's rows of an array.

        Raises:
          StoreError: its chunk is torn or cannot be read.
        """
        start, stop = self.span(unit)
        with _explain(self.path):
            return self._array(name)[start:stop].read().result()

    @cached_property
    def by_row(self) -> tuple[str, ...]:
        """Names of the arrays that are written by unit."""
        names = sorted(f.parent.name for f in self.path.glob("*/zarr.json") if f.parent.name not in ("done", self.rows))
        with _explain(self.path):
            return tuple(name for name in names if self._array(name).domain.labels[:1] == (self.rows,))

    def has(self, name: str) -> bool:
        """Whether there is an array of that name."""
        return (self.path / name / "zarr.json").is_file()

    def spec(self, name: str) -> Spec:
        """What an array is, without its values."""
        with _explain(self.path):
            array = self._array(name)
            made = array.spec(retain_context=False).to_json()["metadata"]
        fill, attrs = made.get("fill_value"), made.get("attributes", {})
        return Spec(tuple(array.domain.labels), tuple(array.shape), array.dtype.name, attrs, fill=fill)

    def log(self, **event: Any) -> None:
        """Appends one line to the log beside the store, in one write: on a local disk lines do not mix."""
        with _explain(self.log_path), open(self.log_path, "a", opener=_itself) as f:
            f.write(json.dumps(event) + "\n")

    def events(self) -> list[dict[str, Any]]:
        """The event lines so far; a torn last line, and what is none of ours, are left out."""
        found = []
        for line in self.log_path.read_text(errors="replace").splitlines() if self.log_path.is_file() else ():
            with contextlib.suppress(ValueError, RecursionError):
                found.append(json.loads(line))
        return [event for event in found if isinstance(event, dict)]

    @cached_property
    def _opened(self) -> dict[str, ts.TensorStore]:
        return {}

    def _array(self, name: str) -> ts.TensorStore:
        if name not in self._opened:  # what is read is read again, what it is is not
            self._opened[name] = ts.open({"driver": "zarr3", "kvstore": _kvstore(self.path / name)}, open=True).result()
        return self._opened[name]

    def _check_inside(self, names: Iterable[str], unit: int) -> None:
        """Refuses to write through what leads out of the store: somebody else made it.

        That is a link among its folders; or chunks of other sizes or names than ours, which could lie elsewhere.
        """
        home = self.path.resolve()
        for name in names:
            if not self._is_ours(name):
                raise StoreError(f"store {str(self.path)!r}: {name!r} is not laid out as a store's, not written to.")
            if not self._chunk(name, unit).parent.resolve().is_relative_to(home):
                raise StoreError(f"store {str(self.path)!r}: {name!r} is a link that leads out of it, not written to.")

    def _chunk(self, name: str, unit: int) -> Path:
        """The file of an array's chunk: c/7/0/0 where it has three dimensions."""
        return self.path.joinpath(name, "c", str(unit), *["0"] * (self._array(name).rank - 1))

    def _is_ours(self, name: str) -> bool:
        if name not in self._trusted:
            array = self._array(name)
            made = array.spec(retain_context=False).to_json()["metadata"]
            chunk = [1 if name == "done" else self.unit, *(max(size, 1) for size in array.shape[1:])]
            keys = {"name": "default", **made.get("chunk_key_encoding", {})}
            slash = keys.get("configuration", {}).get("separator", "/") == "/"
            if made["chunk_grid"]["configuration"]["chunk_shape"] != chunk or keys["name"] != "default" or not slash:
                return False
            self._trusted.add(name)
        return True

    @cached_property
    def _trusted(self) -> set[str]:
        return set()


def _path(given: Any) -> Path:
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f"path is {type(given).__name__}, wanted the folder of a store, as a string or a path.")
    return Path(given)


def _log_path(path: Path) -> Path:
    return path.resolve().with_name(f"{path.resolve().name}.events.jsonl")


def _itself(path: str, flags: int) -> int:
    """Opens a file and no link to one: a log that comes with somebody else's store writes nowhere else."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _kvstore(path: Path) -> dict[str, str]:
    return {"driver": "file", "path": f"{path.resolve()}/"}


def _make_array(path: Path, spec: Spec, first_chunk: int, rows: str) -> None:
    usual = "NaN" if np.issubdtype(np.dtype(spec.dtype), np.floating) else np.zeros((), spec.dtype).item()
    chunk = [first_chunk, *spec.shape[1:]] if spec.dims[0] in (rows, "unit") else list(spec.shape)
    array = ts.open(
        {
            "driver": "zarr3",
            "kvstore": _kvstore(path),
            "metadata": {
                "shape": list(spec.shape),
                "data_type": spec.dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(c, 1) for c in chunk]}},
                "codecs": CODECS,
                "fill_value": usual if spec.fill is None else spec.fill,
                "dimension_names": list(spec.dims),
                "attributes": dict(spec.attrs),
            },
        },
        create=True,
    ).result()
    if spec.values is not None:
        array.write(np.asarray(spec.values, spec.dtype)).result()


class _explain:
    """Turns what the file system refuses into one line that names the path."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if isinstance(error, StoreError) or not isinstance(error, OSError | ValueError | RuntimeError):
            return False
        text = str(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "part of that path is a file; choose another"
        elif isinstance(error, PermissionError) or "permission denied" in text.lower():
            reason = "no permission to write there; choose another path"
        elif getattr(error, "errno", None) == errno.EROFS or "read-only file system" in text.lower():
            reason = "the file system is read-only; choose another path"
        elif getattr(error, "errno", None) == errno.ENOSPC or _full(text.lower()):
            reason = "the disk is full; free some space and run the same again: finished units are kept"
        elif isinstance(error, FileNotFoundError):
            reason = f"there is no {str(error.filename)!r}, nor can it be made; choose another path"
        else:
            reason = text.splitlines()[0] if text else kind.__name__
        raise StoreError(f"store {str(self.path)!r}: {reason}.") from error


def _full(text: str) -> bool:
    return "no space left" in text or "quota exceeded" in text or "file too large" in text


def _check_room(path: Path, wanted: int) -> None:
    free = free_bytes(path)
    if wanted > free:
        raise StoreError(
            f"store {str(path)!r} may come to take {spell_bytes(wanted)}, and {spell_bytes(free)} are free there; "
            "choose another path, or store less."
        )
