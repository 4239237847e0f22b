"""Sweep: what it refuses, that JSON keeps it, and that its fingerprint tells configurations apart."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hessjax.config


def as_users_have_it():
    """The module without the suite's beartype, which would refuse wrong types before the module's own words."""
    spec = importlib.util.spec_from_file_location("config_without_beartype", hessjax.config.__file__)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


config_module = as_users_have_it()
STATUSES, Sweep, differences = config_module.STATUSES, config_module.Sweep, config_module.differences
FIELDS = [f.name for f in dataclasses.fields(Sweep)]

# field: values refused. What is wanted is in REFUSED_WORDS.
REFUSED = {
    "num_inits": (0, -1, 1.5, True, "8", None),
    "first_init": (-1, 3, 31, 1.0, 2**31),
    "num_steps": (-1, 2.0, None),
    "seed": (-1, 0.5, 2**32),
    "lane_width": (0, 1.0),
    "batch_size": (0, -3, 2.5, True),
    "chunk": (0, -1, 0.5),
    "lanczos_steps": (0, 2.0, None),
    "num_probes": (0, -1, True),
    "learning_rate": (0, -0.1, float("nan"), float("inf"), "fast", True),
    "tol": (-1e-9, float("nan"), "tight"),
    "schedule": ("cosin", None, 3),
    "spacing": ("even", ["loss"]),
    "measure": ("eigenvalues",),
    "dtype": ("bfloat16", float, "f4"),
    "options": ("widths=8", 3, None, {"f": object()}, {1: 2}),
    "optimizer_options": ([1], {"mask": len}),
    "times": (0, -2, True, 2.5, (), (0.5,), (3, 1), (1, 1), (-1, 2), (0, 301), 302),
}
WANTED = {
    **dict.fromkeys(("num_inits", "lane_width", "batch_size", "chunk", "lanczos_steps", "num_probes"), "at least 1"),
    **dict.fromkeys(("num_steps", "seed"), "at least 0|at most 4294967295"),
    "learning_rate": "finite number above 0",
    "first_init": "at least 0|multiple of lane_width=64|first_init \\+ num_inits",
    "tol": "finite number of at least 0",
    "schedule": "constant, cosine, linear",
    "spacing": "loss, log, linear",
    "measure": "spectrum, inertia, slq",
    "dtype": "float32, float64",
    "options": "mapping of names to numbers|key that is not a string",
    "optimizer_options": "mapping of names to numbers",
    "times": "at least 1|whole steps|increasing steps within|need at least 301 steps",
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in REFUSED.items() for v in values])
def test_a_value_out_of_range_is_refused_naming_field_value_and_what_is_wanted(field, value):
    with pytest.raises(ValueError, match=WANTED[field]) as caught:
        Sweep(**{field: value})
    said = str(caught.value)
    shown = 1 if isinstance(value, dict) and 1 in value else tuple(value) if isinstance(value, list) else value
    assert field in said
    assert repr(shown) in said or repr(value) in said
    assert "\n" not in said


def test_every_field_that_can_be_wrong_by_itself_is_in_the_table():
    assert sorted(REFUSED) == sorted(set(FIELDS) - {"landscape", "optimizer"})  # those two are names, looked up later


def test_a_landscape_object_takes_no_options():
    class Named:
        name = "mine"

    assert Sweep(landscape=Named()).to_dict()["landscape"] == "mine"
    with pytest.raises(ValueError, match="options are for named landscapes"):
        Sweep(landscape=Named(), options={"widths": (8,)})


OTHER = {
    "landscape": "quadratic",
    "options": {"widths": (4, 4)},
    "num_inits": 3,
    "first_init": 64,
    "seed": 1,
    "num_steps": 301,
    "optimizer": "sgd",
    "learning_rate": 0.5,
    "schedule": "cosine",
    "optimizer_options": {"b1": 0.5},
    "batch_size": 7,
    "times": (0, 5),
    "spacing": "log",
    "measure": "inertia",
    "lanczos_steps": 32,
    "num_probes": 4,
    "tol": 0.0,
    "dtype": "float64",
    "chunk": 9,
    "lane_width": 8,
}


@pytest.mark.parametrize("field", FIELDS)
def test_the_fingerprint_and_the_differences_notice_every_field(field):
    base, other = Sweep(), Sweep(**{field: OTHER[field]})
    assert base.fingerprint != other.fingerprint
    (line,) = differences(base.to_dict(), other.to_dict())
    assert line == f"{field}: {base.to_dict()[field]!r} there, {other.to_dict()[field]!r} asked for"


def test_differences_name_fields_that_only_one_side_has():
    assert differences({}, {"a": 1}) == ["a: None there, 1 asked for"]
    assert differences({"b": 2}, {}) == ["b: 2 there, None asked for"]
    assert differences({"a": [1, 2], "b": None}, {"b": None, "a": [1, 2]}) == []


plain_words = st.text('ab=,. 1["', max_size=5)
numbers = st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
values = st.recursive(numbers | plain_words, lambda x: st.lists(x, max_size=3).map(tuple), max_leaves=4)


@given(
    st.dictionaries(st.text("abc_", min_size=1, max_size=4), values, max_size=3),
    st.integers(1, 50),
    st.integers(0, 2**32 - 1),
    st.floats(1e-9, 10.0),
    st.one_of(st.integers(1, 101), st.sets(st.integers(0, 100), min_size=1).map(lambda s: tuple(sorted(s)))),
)
def test_json_keeps_a_configuration(options, num_inits, seed, rate, times):
    config = Sweep(options=options, num_inits=num_inits, seed=seed, learning_rate=rate, times=times, num_steps=100)
    back = Sweep.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert back.fingerprint == config.fingerprint
    assert back.to_dict() == config.to_dict()


def test_numpy_values_and_lists_are_the_plain_ones():
    plain = Sweep(options={"eigenvalues": (-1.0, 2.0)}, num_inits=3, times=(0, 2), learning_rate=1.0, num_steps=2)
    array = np.array([-1.0, 2.0])
    other = Sweep(
        options={"eigenvalues": array}, num_inits=np.int64(3), times=np.array([0, 2]), learning_rate=1, num_steps=2
    )
    assert other == plain
    assert other.fingerprint == plain.fingerprint
    array[0] = 7.0
    assert other == plain  # the caller's array is not the configuration's


def test_from_dict_refuses_what_is_no_configuration():
    with pytest.raises(ValueError, match=r"no field 'widths'. Known: batch_size, chunk"):
        Sweep.from_dict({"widths": 8, "seed": 0})
    for strange in ([], "seed", 3, None):
        with pytest.raises(ValueError, match="wanted a mapping of the fields of Sweep"):
            Sweep.from_dict(strange)


def test_the_fingerprint_is_the_same_in_every_process_and_config_imports_no_jax():
    config = Sweep(options={"widths": (8,), "activation": "relu"}, times=(0, 3, 9))
    swapped = Sweep(options={"activation": "relu", "widths": [8]}, times=[0, 3, 9])
    code = (
        "import sys, json, hessjax.config as c\n"
        "heavy = {'jax', 'jaxlib', 'numpy', 'flax', 'optax', 'tensorstore', 'xarray'} & set(sys.modules)\n"
        "print(c.Sweep.from_dict(json.loads(sys.argv[1])).fingerprint, sorted(heavy))"
    )
    command = [sys.executable, "-c", code, json.dumps(swapped.to_dict())]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.split(" ", 1) == [config.fingerprint, "[]\n"]
    assert len(config.fingerprint) == 12
    assert int(config.fingerprint, 16) >= 0


def test_the_first_status_is_the_good_one():
    assert STATUSES[0] == "ok"  # readers select rows by status == 0
    assert len(STATUSES) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("float32"), np.float32(0).dtype])
def test_a_dtype_may_be_numpys(dtype):
    assert Sweep(dtype=dtype) == Sweep(dtype="float32")
