"""What this process runs on: devices, memory, versions, and how inits are spread over local devices.

jax is imported inside the functions, so that the command line can read versions without starting a backend.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import zlib
from importlib import metadata
from typing import Any

__all__ = [
    "advice",
    "agree_on_memory",
    "batch_bytes",
    "cache_bytes",
    "describe",
    "lane_mesh",
    "measuring_bytes",
    "memory_available",
    "parse_bytes",
    "versions",
]

PACKAGES = ("hessjax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "tensorstore")
OPTIONAL = ("matplotlib", "plotly", "xarray", "zarr", "scikit-learn")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def versions() -> dict[str, str]:
    """Installed versions of Python and of the packages that decide a result.

    Example:
      >>> "jax" in versions()
      True
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


AGREED: list[int] = []  # bytes, once the processes of a job have agreed


def memory_available() -> int:
    """Bytes this process may still take on the default device: the device's own limit, else the host's.

    Where processes work on one model, what they agreed on: programs are planned by it, and must be the same in all.
    """
    return AGREED[0] if AGREED else _own_memory()


def agree_on_memory() -> None:
    """Has all processes of a job plan for the memory of the one that has least; each must call it.

    Processes of one host share its memory. With a single process there is nothing to agree on.

    Example:
      >>> agree_on_memory()
      >>> memory_available() > 0
      True
    """
    import jax

    if jax.process_count() == 1 or AGREED:
        return
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    host = zlib.crc32(socket.gethostname().encode())
    found = process_allgather(np.array([min(_own_memory() >> 20, 2**32 - 1), host], np.uint32))  # MiB, in 32 bits
    sharing = np.sum(found[:, 1:] == found[:, 1], axis=1) if jax.default_backend() == "cpu" else 1
    AGREED.append(max(1, int(np.min(found[:, 0] // sharing)) << 20))


def _own_memory() -> int:
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return _host_memory()


def _host_memory() -> int:
    limits = []
    try:
        with open("/proc/meminfo") as f:
            limits += [int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable")]
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            limits += [int(text) - int(used.read()) for text in [limit.read().strip()] if text.isdigit()]
        with open("/sys/fs/cgroup/memory.stat") as f:  # the page cache counts as used, and is given back when needed
            cached = sum(int(line.split()[1]) for line in f if line.startswith(("inactive_file ", "active_file ")))
        limits[1:] = [limit + cached for limit in limits[1:]]
    except OSError:
        pass  # not Linux, or no cgroup limit
    if limits:
        return max(min(limits), 1)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**62


def cache_bytes() -> int:
    """The second-level cache of one core of the host; 1 MiB where the system does not tell.

    Example:
      >>> cache_bytes() >= 2**17
      True
    """
    try:
        with open("/sys/devices/system/cpu/cpu0/cache/index2/size") as size:
            return parse_bytes(size.read().strip() + "iB")
    except (OSError, ValueError):
        return 2**20


def measuring_bytes(num_devices: int) -> int:
    """What measuring may take on so many devices if nobody says otherwise: half of what is available.

    Example:
      >>> 0 < measuring_bytes(1) <= memory_available()
      True
    """
    import jax

    own = 1 if jax.default_backend() == "cpu" else num_devices  # CPU devices share the host's memory
    return memory_available() // 2 * own


def batch_bytes(memory: int, num_devices: int) -> int:
    """What a batch may take on one of them: half the cache of a CPU's core; elsewhere its share of `memory`.

    Measured on a CPU: 8 inits of 58 parameters at a time take .63 of the time of one at a time, 8 of 226 or 512 1.02 to
    1.05.

    Example:
      >>> batch_bytes(2**30, num_devices=2) <= 2**29
      True
    """
    import jax

    share = memory // num_devices
    return min(share, cache_bytes() // 2) if jax.default_backend() == "cpu" else share


def parse_bytes(text: str | int) -> int:
    """A memory size: bytes, or a string with a unit.

    Raises:
      ValueError: not a positive size.

    Example:
      >>> parse_bytes("4GiB")
      4294967296
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", str(text).upper())
    if match and match[2] in UNITS and float(match[1]) > 0:
        return int(float(match[1]) * UNITS[match[2]])
    raise ValueError(f"memory must be a positive size such as '4GiB' or '512MB', got {text!r}.")


def describe() -> dict[str, Any]:
    """The device, its count, host, cores, x64 and thread settings, as plain values."""
    import jax

    local = jax.local_devices()
    return {
        "platform": local[0].platform,
        "device": local[0].device_kind,
        "num_devices": len(local),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory_available() / 2**30, 1),
        "x64": bool(jax.config.read("jax_enable_x64")),
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS"),
        "host": socket.gethostname(),
    }


def _cpu_name() -> str:
    """The processor's name; of one without a number, as virtual machines have them, also its family and model."""
    try:
        with open("/proc/cpuinfo") as f:
            pairs = (line.partition(":") for line in f)
            facts = {name.strip(): value.strip() for name, _, value in pairs}
    except OSError:
        facts = {}
    name = facts.get("model name") or platform.processor() or platform.machine()
    if any(c.isdigit() for c in name) or not {"cpu family", "model"} <= facts.keys():
        return name
    return f"{name} family {facts['cpu family']} model {facts['model']}"


def lane_mesh(width: int, most: int | None = None) -> Any:
    """A one-axis mesh "lane" over the fewest local devices that give none more of `width` inits than it must have.

    `most` is how many devices there may be; None: all.
    """
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    local = jax.local_devices()[:most]
    share = -(-width // len(local))
    count = -(-width // share)
    return Mesh(np.array(local[:count]), ("lane",), axis_types=(AxisType.Auto,))


def advice() -> list[str]:
    """What will be slow, wrong or missing here, and what to do about it; one line each."""
    import jax

    facts, found = describe(), []
    if facts["platform"] == "cpu":
        if facts["num_devices"] < facts["cores"]:
            found.append(
                f"{facts['num_devices']} CPU device(s) for {facts['cores']} cores: sweeps use one device a core; set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={facts['cores']} before importing jax."
            )
        if facts["num_devices"] > 1 and facts["blas_threads"] != "1":
            found.append(
                "BLAS threads are not held to one: eigenvalues on several devices fight over cores; set "
                "OPENBLAS_NUM_THREADS=1 before importing jax."
            )
        if os.path.exists("/proc/driver/nvidia/version"):
            found.append("an NVIDIA driver is present but jax runs on the CPU; pip install 'jax[cuda12]'.")
    elif facts["x64"] and "TPU" in facts["device"]:
        found.append("float64 is emulated on TPUs: expect it to be many times slower than float32.")
    missing = [name for name in OPTIONAL if not _installed(name)]
    if missing:
        found.append(f"not installed: {', '.join(missing)}; pip install 'hessjax[all]' for plots, reading and data.")
    if jax.__version_info__ < (0, 7, 2):
        found.append(f"jax {jax.__version__} is older than the oldest supported, 0.7.2.")
    return found or ["nothing to warn about"]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
