"""Plans: sizes are exact, nothing is stored, and the predicted time is of the order of the real one."""

import json
import math

import landscape_module_for_tests  # noqa: F401
import pytest

from hessjax import StoreError, Sweep, cli, plans, sweep
from hessjax.plans import plan_sweep
from hessjax.store import Store

pytestmark = pytest.mark.usefixtures("process_of_a_command")

CONFIG = Sweep(landscape="landscape_module_for_tests:clouds", num_inits=40, num_steps=30, times=3, lane_width=4)


def test_units_files_and_bytes_are_those_of_the_store(tmp_path):
    plan = plan_sweep(CONFIG, unit=8)
    assert (plan.num_params, plan.num_inits, plan.inits_left, plan.lane_width) == (3, 40, 40, 4)
    store = Store.open(sweep(CONFIG, tmp_path / "a.zarr", unit=8, progress=False))
    assert (plan.unit, plan.num_units) == (store.unit, store.num_units)
    assert plan.files == store.num_units * (len(store.by_row) + 1)  # and the numbers of the inits
    arrays = [store.read(name) for name in (*store.by_row, "init", "step")]
    assert plan.disk == sum(a.nbytes for a in arrays)
    assert plan.seconds == pytest.approx(plan.compile_s + plan.training_s + plan.measuring_s)
    assert plan.memory > 2**20


def test_of_a_store_that_is_begun_what_is_left_is_predicted_in_its_units(tmp_path):
    path = sweep(CONFIG, tmp_path / "a.zarr", unit=8, worker=(0, 5), progress=False)
    before = Store.open(path).done().tolist()
    plan = plan_sweep(CONFIG, path, unit=40)
    assert (plan.inits_left, plan.unit, plan.num_units) == (32, 8, 5)
    assert Store.open(path).done().tolist() == before


def test_a_long_sweep_is_predicted_from_a_few_of_its_steps(tmp_path, monkeypatch):
    """A thousandth of the steps are run; what is left is arithmetic, and is what the clock says of the same program."""
    now, per_step = [0.0], 1e-3

    class Lanes(plans.Lanes):
        def train(self, state, inits, now_step, step):
            now[0] += per_step * (step - now_step)
            return super().train(state, inits, now_step, min(step, 2))

        def measured(self, state, inits):
            now[0] += 0.25
            return super().measured(state, inits)

    monkeypatch.setattr(plans, "Lanes", Lanes)
    monkeypatch.setattr(plans.time, "perf_counter", lambda: now[0])
    config = Sweep(**{**CONFIG.to_dict(), "num_steps": 1_000_000})
    plan = plan_sweep(config)
    assert plan.training_s == pytest.approx((10 + 8) * 1000.0)  # and the 32 inits of the pilot, 4 at a time
    given = Sweep(**{**config.to_dict(), "times": (0, 1, 1_000_000)})
    assert plan_sweep(given).training_s == pytest.approx(10 * 1000.0)
    assert plan.measuring_s == pytest.approx(10 * 3 * 0.25)
    early = Sweep(**{**config.to_dict(), "times": (0, 10)})  # a sweep trains no further than it measures
    assert plan_sweep(early).training_s < 1.0
    assert now[0] < 10


def test_no_steps_and_no_more_than_asked(tmp_path):
    plan = plan_sweep(Sweep(landscape="quadratic", num_inits=3, num_steps=0, times=1))
    assert plan.training_s >= 0
    assert plan.measuring_s > 0
    assert math.isfinite(plan.seconds)


def test_a_store_of_another_sweep_is_refused(tmp_path):
    path = sweep(CONFIG, tmp_path / "a.zarr", worker=(0, 5), progress=False)
    with pytest.raises(StoreError, match="seed: 0 there, 1 asked for"):
        plan_sweep(Sweep(**{**CONFIG.to_dict(), "seed": 1}), path)
    with pytest.raises(ValueError, match="unit must be at least 1"):
        plan_sweep(CONFIG, unit=0)


def test_the_command_prints_a_plan_and_makes_nothing(tmp_path, capsys):
    words = ["sweep", "--landscape", "quadratic", "--num-inits", "100", "--num-steps", "4", "--times", "2"]
    assert cli.main([*words, "--output", str(tmp_path / "q.zarr"), "--plan"]) == 0
    said = capsys.readouterr().out
    for line in (
        "parameters    6",
        "inits         100 to do of 100, 50 at a time",
        "units         2 of 50 inits",
        "time ",
        "disk ",
    ):
        assert line in said
    assert list(tmp_path.iterdir()) == []


def test_the_default_unit_is_a_lane_and_more_where_there_are_many_small_ones(tmp_path):
    assert plan_sweep(CONFIG).unit == 4
    many = Sweep(**{**CONFIG.to_dict(), "num_inits": 4000})  # a thousand lanes of a few kilobytes
    plan = plan_sweep(many)
    assert (plan.unit % 4, plan.num_units >= 32, plan.num_units < 50) == (0, True, True)
    assert json.dumps(plan._asdict())
