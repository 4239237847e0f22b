"""Data sets read from local files, in the formats they are published in; nothing is downloaded, nothing unpickled.

Arrays are host NumPy: images float64, [rows, height, width, channels], classes int32.
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from hessjax.landscapes.data import checked_pair, spaced

__all__ = ["cifar10", "from_npz", "mnist", "read_cifar", "read_idx"]

Images = tuple[Float[np.ndarray, "rows height width channels"], Int[np.ndarray, " rows"]]
Rows = Float[np.ndarray, "rows ..."] | Int[np.ndarray, "rows ..."]
MNIST = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CIFAR = {"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)}
RECORD = 1 + 3 * 32 * 32  # bytes of one CIFAR-10 image with its class


def from_npz(*, path: str, rows: int | None = None) -> tuple[Rows, Rows]:
    """Arrays x and y of a NumPy archive, as `numpy.savez(path, x=x, y=y)` writes it.

    Args:
      path: of the .npz file.
      rows: how many, evenly spaced through the file; None for all.

    Returns:
      The arrays as `data.checked_pair` has them.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not an archive, arrays missing, pickled or unfit for a task; rows out of range.

    Example:
      >>> import tempfile
      >>> path = tempfile.mkdtemp() + "/pairs.npz"
      >>> np.savez(path, x=np.ones((3, 2)), y=np.array([0, 1, 1]))
      >>> [a.dtype.name for a in from_npz(path=path)]
      ['float64', 'int32']
    """
    x, y = checked_pair(*_arrays(path), str(path))
    keep = spaced(len(x), rows)
    return x[keep], y[keep]


def _arrays(path: Any) -> tuple[np.ndarray, np.ndarray]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {str(path)!r}; wanted a NumPy archive with arrays x and y.")
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("one array, not an archive")
        with found as archive:
            missing = [name for name in ("x", "y") if name not in archive]
            if missing:
                raise ValueError(f"no array {missing[0]!r}")
            return archive["x"], archive["y"]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{path}: {reason}; wanted numpy.savez(path, x=..., y=...) of plain numbers.") from error


def mnist(*, folder: str, split: str = "train", rows: int | None = 1024, pool: int = 1) -> Images:
    """MNIST, or any set in its four files (Fashion-MNIST, KMNIST): 28x28 images of ten classes.

    Args:
      folder: with the idx files of the split, as published, packed (.gz) or not.
      split: "train" or "test".
      rows: images, evenly spaced through the split; None for all.
      pool: side of the averaged square of pixels, a divisor of 28.

    Returns:
      Images in one channel, standardised: mean 0 and variance 1 over all pixels of the rows kept; and the classes.

    Raises:
      FileNotFoundError: names the files wanted.
      ValueError: an option out of range, or a file that is not what its name says.

    Example:
      >>> mnist(folder="nowhere")
      Traceback (most recent call last):
      FileNotFoundError: folder 'nowhere' lacks train-images-idx3-ubyte, train-labels-idx1-ubyte; each may end in .gz.

    References: LeCun, Cortes & Burges, the MNIST database; the idx format is described there.
    """
    names = _files_of(MNIST, split)
    found = [[p for p in (Path(folder) / name, Path(folder) / f"{name}.gz") if p.is_file()] for name in names]
    _check_found(folder, [name for name, files in zip(names, found) if not files], "; each may end in .gz")
    images, classes = (read_idx(files[0]) for files in found)
    if images.ndim != 3 or classes.shape != images.shape[:1]:
        raise ValueError(f"{folder}: images {images.shape} and labels {classes.shape} do not belong together.")
    return _standardised(images[..., None], classes, rows, pool)


def cifar10(*, folder: str, split: str = "train", rows: int | None = 1024, pool: int = 1) -> Images:
    """CIFAR-10 in its binary version: 32x32 images in three channels, of ten classes.

    Args:
      folder: with data_batch_1.bin to data_batch_5.bin (train) or test_batch.bin (test); the version of pickles
        ("for Python") is not read, as pickles run code.
      split: "train" or "test".
      rows: as for `mnist`.
      pool: side of the averaged square of pixels, a divisor of 32.

    Returns:
      Images, standardised: each channel has mean 0 and variance 1 over the rows kept; and the classes.

    Raises:
      FileNotFoundError: names the files wanted.
      ValueError: an option out of range, or a file that is not what its name says.

    Example:
      >>> cifar10(folder="nowhere", split="test")
      Traceback (most recent call last):
      FileNotFoundError: folder 'nowhere' lacks test_batch.bin.

    References: Krizhevsky (2009), Learning multiple layers of features from tiny images; the binary version's page.
    """
    names = _files_of(CIFAR, split)
    _check_found(folder, [name for name in names if not (Path(folder) / name).is_file()])
    parts = [read_cifar(Path(folder) / name) for name in names]
    images, classes = (np.concatenate(arrays) for arrays in zip(*parts))
    return _standardised(images, classes, rows, pool)


def read_idx(path: Path) -> UInt8[np.ndarray, "*axes"]:
    """One idx file of bytes, packed (.gz) or not: two zeros, type 8, the number of axes, big-endian sizes, the bytes.

    Raises:
      ValueError: not such a file, or cut short.
    """
    raw = _unpacked(Path(path))
    if raw[:3] != b"\0\0\x08" or len(raw) < 4 or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path}: not an idx file of bytes; it starts with {raw[:4].hex() or 'nothing'}.")
    sizes = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if values.size != math.prod(sizes):
        raise ValueError(f"{path}: {values.size} bytes of data, wanted {math.prod(sizes)} for sizes {sizes}.")
    return values.reshape(sizes)


def read_cifar(path: Path) -> tuple[UInt8[np.ndarray, "rows 32 32 3"], UInt8[np.ndarray, " rows"]]:
    """One file of CIFAR-10's binary version: records of a class and the red, green and blue planes, row by row.

    Raises:
      ValueError: no whole number of records, or a class above 9.
    """
    raw = np.fromfile(path, np.uint8)
    if raw.size == 0 or raw.size % RECORD:
        raise ValueError(f"{path}: {raw.size} bytes, wanted a whole number of records of {RECORD}.")
    records = raw.reshape(-1, RECORD)
    if records[:, 0].max() > 9:
        raise ValueError(f"{path}: class {records[:, 0].max()}, wanted 0..9; is this CIFAR-10's binary version?")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: {error}.") from error


def _files_of(files: dict[str, tuple[str, ...]], split: str) -> tuple[str, ...]:
    if split not in files:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
    return files[split]


def _check_found(folder: Any, missing: list[str], more: str = "") -> None:
    if missing:
        raise FileNotFoundError(f"folder {str(folder)!r} lacks {', '.join(missing)}{more}.")


def _standardised(images: np.ndarray, classes: np.ndarray, rows: int | None, pool: int) -> Images:
    count, height, width, channels = images.shape
    if isinstance(pool, bool) or not isinstance(pool, int) or pool < 1 or height % pool or width % pool:
        raise ValueError(f"pool must be a divisor of {height} and {width}, got {pool!r}.")
    keep = spaced(count, rows)
    blocks = images[keep].reshape(len(keep), height // pool, pool, width // pool, pool, channels)
    x = blocks.mean(axis=(2, 4), dtype=np.float64)
    deviation = x.std(axis=(0, 1, 2))
    x = (x - x.mean(axis=(0, 1, 2))) / np.where(deviation > 0, deviation, 1.0)
    return x, classes[keep].astype(np.int32)
