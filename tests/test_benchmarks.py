"""The claims at toy size, and the process that rivals run in. No time is asserted, no rival is installed."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import convolutions, edge, index_law, kills, large, peers, planes, slq, spurious, sweeps, tracking
from benchmarks.peers import densities

ROOT = Path(__file__).resolve().parent.parent

ECHO = """
import itertools, json, sys
for line in itertools.chain([""], sys.stdin):
    print(json.dumps({"said": line.strip(), "busy_s": 2.5}), flush=True)
    if line.strip() == "die":
        break
"""


@pytest.fixture
def worker():
    found = peers.Worker([sys.executable, "-c", ECHO])
    yield found
    found.end()
    assert found.process.poll() is not None


def test_a_rivals_process_answers_line_by_line_and_says_what_time_it_took(worker):
    assert worker.answer() == {"said": ""}
    assert worker.ask("pyhessian") == {"said": "pyhessian"}
    assert worker.busy_s == 2.5


def test_a_rivals_process_that_ends_is_an_error_and_not_a_wait(worker):
    worker.answer()
    worker.ask("die")
    with pytest.raises((RuntimeError, BrokenPipeError)):
        worker.ask("pyhessian")


def test_without_an_environment_of_their_own_there_are_no_rivals(monkeypatch):
    monkeypatch.delenv("HESSJAX_PEERS", raising=False)
    with densities.started([], (None, None), loss=1.0, num_steps=1, num_probes=1) as found:
        assert found == []


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setenv("HESSJAX_SMOKE", "1")
    monkeypatch.delenv("HESSJAX_PEERS", raising=False)


def test_every_way_to_a_gauss_rule_has_the_moments_of_its_probes(toy):
    rows = {row["what"]: row for row in slq.run()}
    assert next(iter(rows)) == "hj.slq"
    assert max(row["error"] for row in rows.values()) < 1e-4
    assert rows["hj.slq"]["rivals_on_torch"] == "none: not run with --peers"


def test_products_of_convolutions_in_loops_are_float64s(toy):
    rows = {row["what"]: row for row in convolutions.run()}
    assert next(iter(rows)) == "hj.slq"
    assert max(row["error"] for row in rows.values()) < 1e-4


def test_no_certified_count_of_many_toy_matrices_is_wrong(toy):
    """As a command, because whether it is a toy is read where it starts."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "counts"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    head = next(row for row in rows if row[:1] == ["what"])
    last = next(row for row in rows if row[:2] == ["wrong", "counts"])
    assert dict(zip(reversed(head), reversed(last), strict=False))["wrong"] == "0"
    assert {"path,", "path"} <= {row[0] for row in rows if row}


def test_descents_side_by_side_end_where_they_end_alone(toy):
    rows = spurious.run()
    assert [row["error"] for row in rows[:2]] == [0.0, 0.0]
    assert rows[2]["bad"] == 0  # none is known for three units


def test_a_fit_of_the_index_law_finds_the_curve_it_is_given():
    energy = np.linspace(0.08, 0.5, 9)
    eps_c, coefficient, rest = index_law.fitted(energy, 0.05 * ((energy - 0.06) / 0.06) ** 1.5)
    assert (eps_c, coefficient) == pytest.approx((0.06, 0.05), rel=0.02)
    assert rest < 1e-4
    assert index_law.fitted(energy, np.sin(40 * energy))[2] > 0.5


def test_the_search_for_critical_points_reports_what_it_left(toy):
    (row,) = index_law.run()
    assert row["critical"] == 0
    assert len(row["energies"]) == 4


def test_a_vector_in_pytorchs_order_is_params_again():
    like = {"Dense_0": {"kernel": np.arange(6.0).reshape(3, 2), "bias": np.arange(2.0)}}
    flat = np.concatenate([like["Dense_0"]["kernel"].T.ravel(), like["Dense_0"]["bias"]])
    found = slq._from_torch(like, flat)
    assert all(np.array_equal(found["Dense_0"][name], like["Dense_0"][name]) for name in ("kernel", "bias"))


def test_the_decoder_agrees_with_forward_derivatives_and_is_causal(toy):
    rows = large.run()
    assert max(row["error"] for row in rows) < 1e-5
    assert rows[0]["finite"]
    assert rows[0]["square_error"] < 1e-4


def test_a_decoder_over_the_limit_fails(toy, monkeypatch):
    monkeypatch.setattr(large, "LIMIT", 0.01)
    with pytest.raises(MemoryError, match=r"more than 0\.01"):
        large.run()


def test_the_decoder_has_as_many_parameters_as_it_claims():
    import jax

    from hessjax import trees

    assert trees.size(jax.eval_shape(lambda k: large.init(k, large.Shape()), jax.random.key(0))) == 124_439_808


def test_killed_workers_lose_tear_and_double_nothing(toy):
    [row] = kills.run()
    assert (row["kills"], row["damaged"], row["error"]) == (3, 0, 0)
    assert row["units"] == 16 * row["stores"]


def test_a_lane_alone_stored_and_in_plain_jax_is_as_exact(toy):
    rows = {row["what"]: row for row in sweeps._in_process(sweeps.config(64, smoke=True), Path(tempfile.mkdtemp()))}
    assert set(rows) == {"lane", "stored", "store", "plain JAX"}
    assert rows["store"]["error"] is None  # it computes nothing
    assert max(rows[what]["error"] for what in ("lane", "stored", "plain JAX")) < 1e-5


def test_a_command_of_a_claim_says_what_it_took(toy, tmp_path):
    row = sweeps._command("workers 2", sweeps.config(80, smoke=True), tmp_path, None, workers=2)
    assert row["units"] == 2
    assert row["peak_bytes"] > 2**20
    assert row["ms_per_init"] > 0


def test_every_way_to_a_plane_has_the_losses_of_numpy_and_float64(toy):
    rows = {row["what"]: row for row in planes.run()}
    ways = {"plane", "one device", "a call a point", "weights overwritten"}
    assert set(rows) == ways | {"a row a call"} | {f"wide: {way}" for way in ways}
    assert max(row["error"] for row in rows.values()) < 1e-5
    assert rows["plane"]["points"] == 81


def test_a_plane_of_other_losses_is_seen_as_wrong(toy):
    problem = planes.problem(5, "tanh", (4, 4), 64, num_steps=5)
    losses = planes._plane(problem).ravel()
    assert planes._error(problem, problem.grid, losses) < 1e-5
    assert planes._error(problem, problem.grid, losses[::-1]) > 1e-2


def test_what_is_tracked_while_training_is_the_largest_eigenvalue_and_leaves_training_as_it_was(toy):
    rows = {row["what"].partition(": ")[2]: row for row in tracking.run()}
    assert next(iter(rows)) == "untracked"
    ours = rows["hj.track, every 10"]
    assert max(ours["error"], rows["hj.eigsh, every 10"]["error"]) < 1e-3
    assert ours["loss_apart"] < 1e-4
    assert 9 <= ours["products"] < rows["hj.eigsh, every 10"]["products"]
    assert 0 < ours["predicted"] < 1


def test_curvature_tracked_to_the_end_is_float64s_with_and_without_a_preconditioner(toy):
    rows = {row["what"]: row for row in edge.run()}
    assert set(rows) == {"gradient descent, step 0.1", "adam, step 0.001"}
    assert max(row["error"] for row in rows.values()) < 1e-3
    assert rows["gradient descent, step 0.1"]["threshold"] == 20.0
    assert rows["adam, step 0.001"]["threshold"] == pytest.approx(38_000)


def test_a_threshold_is_passed_where_a_value_first_lies_above_it():
    found = edge.passing(np.array([1.0, 4.0, 11.0, 9.8, 10.2, 14.0]), 10.0, every=20)
    assert (found["passed_at"], found["near"], found["largest"]) == (40, 0.5, 14.0)
    assert found["median"] == pytest.approx(1.06)
    below = edge.passing(np.array([1.0, 4.0]), 10.0, every=20)
    assert (below["passed_at"], below["median"], below["near"]) == (None, None, None)
