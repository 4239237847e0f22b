"""The suite's process: 8 virtual CPU devices, one BLAS thread, types checked, compiled programs cached on disk.

Most of its time is compiling, so XLA compiles quickly instead of well; HESSJAX_TEST_XLA=default has it as users do.
HESSJAX_TEST_QUICK=K/N asks whether other versions of the dependencies do, when the whole suite has passed with the
pinned ones: the Kth part of N of the tests runs, by name, of a parametrised one the first and the last case, and every
example. What a version breaks is seldom met in one test alone.
"""

import gc
import os
import tempfile
import zlib
from pathlib import Path

from compiling import QUICKLY

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] += "" if os.environ.get("HESSJAX_TEST_XLA") == "default" else f" {QUICKLY}"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest
from hypothesis import settings
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

CACHE = Path(os.environ.get("HESSJAX_TEST_CACHE", Path(tempfile.gettempdir()) / f"hessjax-xla-{os.getuid()}"))
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
gc.set_threshold(50_000, 20, 100)  # traces are many objects that live: looking through them took an eighth of the time

# Shapes and dtypes in signatures are checked by beartype here, and cost nothing in use.
install_import_hook("hessjax", "beartype.beartype")

settings.register_profile("hessjax", derandomize=True, deadline=None, max_examples=25, database=None)
settings.load_profile("hessjax")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    part, parts = map(int, os.environ.get("HESSJAX_TEST_QUICK", "1/1").split("/"))
    if parts == 1:
        return
    cases = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    mine = lambda name: zlib.crc32(name.encode()) % parts == part % parts
    chosen = lambda name, group: isinstance(group[0], pytest.DoctestItem) or mine(name)
    kept = {group[k] for name, group in cases.items() if chosen(name, group) for k in (0, -1)}
    left = [item for item in items if item not in kept]
    items[:] = [item for item in items if item in kept]
    config.hook.pytest_deselected(items=left)


MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Compiled programs are mapped into memory, each a few times, and Linux ends a process that has 65,530 maps."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def own_draws(request):
    """A test's numbers do not depend on which tests ran before it in its process."""
    generator = getattr(getattr(request, "module", None), "RNG", None)
    if generator is not None:
        generator.bit_generator.state = np.random.default_rng(1).bit_generator.state  # not what modules draw from


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Each floating dtype in turn, x64 switched to match and put back."""
    with x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def float64():
    """x64 on for one test."""
    with x64(True):
        yield "float64"


@pytest.fixture
def untyped():
    """The signatures unchecked, as a user has them: for tests of the package's own answers to bad input."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture
def process_of_a_command(monkeypatch):
    """A command owns its process and sets threads and x64; here it is given this one for a while."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    for name in [n for n in os.environ if n.startswith(("SLURM_", "JOB_COMPLETION"))]:
        monkeypatch.delenv(name)
    before = jax.config.read("jax_enable_x64")
    yield
    jax.config.update("jax_enable_x64", before)


class x64:
    """`with x64(True):` on every supported jax, whose own context manager moved between versions."""

    def __init__(self, on):
        self.on = on

    def __enter__(self):
        self.before = jax.config.read("jax_enable_x64")
        jax.config.update("jax_enable_x64", self.on)

    def __exit__(self, *_):
        jax.config.update("jax_enable_x64", self.before)
