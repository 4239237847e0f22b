"""Devices: sizes in words, meshes that divide a lane, and facts and advice as plain values."""

import json
import types

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessjax import devices
from hessjax.devices import advice, describe, lane_mesh, memory_available, parse_bytes, versions


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1), (4096, 4096), ("1B", 1), ("2kB", 2000), ("2KiB", 2048), ("1.5 MiB", 3 * 2**19), (" 4gib ", 2**32),
        ("512MB", 512 * 10**6), ("0.5GB", 5 * 10**8),
    ],
)  # fmt: skip
def test_a_size_is_a_number_with_or_without_a_unit(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", 0, -1, "lots", "4TiB", "4 G B", "1e9", "GiB", "0GiB", "4G", "-4GiB", "nan"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="memory must be a positive size such as '4GiB' or '512MB', got") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@given(st.integers(1, 100))
def test_a_lane_keeps_no_device_longer_than_it_must_and_holds_none_idle(width):
    mesh, devices_here = lane_mesh(width), len(jax.local_devices())
    share = -(-width // mesh.size)
    assert mesh.axis_names == ("lane",)
    assert share == -(-width // devices_here)  # as short as with all of them
    assert share * (mesh.size - 1) < width  # the last one has an init of its own
    assert len(set(mesh.devices.flat)) == mesh.size


def test_memory_is_what_the_device_or_the_host_has_left(monkeypatch):
    assert 2**20 < memory_available() < 2**50
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 100, "bytes_in_use": 30})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert memory_available() == 70


def test_facts_are_plain_values():
    facts = describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["platform"] == "cpu"
    assert facts["num_devices"] == len(jax.local_devices())
    assert facts["cores"] >= 1
    assert facts["x64"] is bool(jax.config.read("jax_enable_x64"))
    found = versions()
    assert found["jax"] == jax.__version__
    assert {"python", "hessjax", "numpy", "tensorstore"} <= set(found)
    assert all(isinstance(v, str) for v in found.values())


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"num_devices": 1, "cores": 4}, "1 CPU device(s) for 4 cores"),
        ({"num_devices": 4, "blas_threads": None}, "OPENBLAS_NUM_THREADS=1"),
        ({"platform": "tpu", "device": "TPU v5", "x64": True}, "float64 is emulated on TPUs"),
        ({}, "nothing to warn about"),
    ],
)
def test_advice_names_what_is_slow_and_what_to_do(monkeypatch, facts, words):
    plain = {"platform": "cpu", "device": "cpu", "num_devices": 1, "cores": 1, "blas_threads": "1", "x64": False}
    monkeypatch.setattr(devices, "describe", lambda: plain | facts)
    monkeypatch.setattr(devices, "_installed", lambda name: True)
    monkeypatch.setattr(devices.os.path, "exists", lambda path: False)
    (line,) = advice()
    assert words in line


def test_advice_names_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(devices, "_installed", lambda name: name != "zarr")
    assert any("not installed: zarr; pip install 'hessjax[all]'" in line for line in advice())
