"""The launch files of examples/: of sound syntax, and run as their schedulers would run them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from stored_rows import rows

import hessjax as hj
from hessjax.store import Store

ROOT = Path(hj.__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
# As Slurm does: its own words come first, and every task is a process that knows its number.
SRUN = """echo "$1" >> "$SAID"; while [ "${1#-}" != "$1" ]; do shift; done
for k in $(seq 0 $((${EMULATED_TASKS:-1} - 1))); do SLURM_PROCID=$k SLURM_LOCALID=$k "$@" & tasks="$tasks $!"; done
for task in $tasks; do wait "$task" || exit; done"""
SMALL = {"landscape": "quadratic", "num_inits": 10, "num_steps": 3, "times": 2, "lane_width": 2}

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples come with a clone, not with the package")


@pytest.fixture
def machine(tmp_path):
    """What a node has: `hessjax` and `srun` on its path, a configuration, nothing of another scheduler's variables."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, line in (("hessjax", f'exec "{sys.executable}" -m hessjax "$@"'), ("srun", SRUN)):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    (tmp_path / "sweep.json").write_text(json.dumps(SMALL))
    env = {name: x for name, x in os.environ.items() if not name.startswith(("SLURM_", "JOB_COMPLETION"))}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    return env | cache | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                          "SAID": str(tmp_path / "said")}  # fmt: skip


def run(words, env, **how):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, env=env, timeout=180, **how)
    assert done.returncode == 0, done.stderr
    return done


def whole(folder):
    """The rows of one process."""
    return rows(hj.sweep(hj.Sweep(**SMALL), folder / "whole.zarr", progress=False))


@pytest.mark.parametrize("script", sorted(p.name for p in EXAMPLES.glob("*.sh")))
def test_scripts_are_of_sound_syntax_and_ask_slurm_for_what_it_knows(script):
    text = (EXAMPLES / script).read_text()
    subprocess.run(["bash", "-n", str(EXAMPLES / script)], check=True)
    asked = [line.split()[1].partition("=")[0] for line in text.splitlines() if line.startswith("#SBATCH")]
    known = {"job-name", "array", "cpus-per-task", "mem", "time", "signal", "requeue", "nodes", "ntasks-per-node"}
    assert {word.removeprefix("--") for word in asked} <= known
    assert text.splitlines()[1].startswith("#SBATCH")  # after the first command Slurm reads no more of them


def test_a_slurm_array_shares_a_store_and_does_what_a_lost_task_left(machine, tmp_path):
    """Tasks 0 and 2 of three; task 1 never starts."""
    store = tmp_path / "a.zarr"
    for task in (0, 2):
        slurm = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "0"}
        slurm |= {"SLURM_CPUS_PER_TASK": "4"}
        run(["bash", EXAMPLES / "slurm_array.sh", tmp_path / "sweep.json", store], machine | slurm)
    assert rows(store) == whole(tmp_path)
    starts = [e["worker"] for e in Store.open(store).events() if e["event"] == "start"]
    assert starts[0] == [0, 3]
    assert (tmp_path / "said").read_text().splitlines() == ["--cpus-per-task=4"] * 2


def test_a_slurm_step_of_two_processes_reports_one_models_spectrum(machine, tmp_path):
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    slurm |= {"SLURM_STEP_NUM_NODES": "1", "EMULATED_TASKS": "2"}
    words = ["--options", "widths=3", "rows=60", "--lanczos-steps", "6", "--num-probes", "2", "--outliers", "0"]
    done = run(["bash", EXAMPLES / "slurm_distributed.sh", tmp_path / "r.html", *words], machine | slurm)
    assert done.stdout.count("parameters") == 1  # one process prints
    assert (tmp_path / "r.html").stat().st_size > 1000


def test_the_kubernetes_job_is_one_that_runs(machine, tmp_path):
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((EXAMPLES / "kubernetes_job.yaml").read_text())
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    pod = job["spec"]["template"]["spec"]
    [worker] = pod["containers"]
    assert {m["name"] for m in worker["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert [e["value"] for e in worker["env"]] == [str(job["spec"]["completions"])]
    mounts = {"/config/": f"{tmp_path}/", "/data/": f"{tmp_path}/"}
    words = [*worker["command"], *worker["args"]]
    for there, here in mounts.items():
        words = [word.replace(there, here) for word in words]
    env = {e["name"]: e["value"] for e in worker["env"]} | {"JOB_COMPLETION_INDEX": "7"}
    run(words, machine | env)
    assert rows(tmp_path / "sweep.zarr") == whole(tmp_path)
    assert Store.open(tmp_path / "sweep.zarr").events()[0]["worker"] == [7, 8]


@pytest.mark.usefixtures("process_of_a_command")
def test_submitit_submits_a_worker_for_each_share(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("submitit_sweep", EXAMPLES / "submitit_sweep.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    submitted, small = [], hj.Sweep(**SMALL)

    class AutoExecutor:
        def __init__(self, folder):
            self.folder = folder

        def update_parameters(self, **given):
            assert {"timeout_min", "cpus_per_task", "mem_gb"} <= set(given)

        def map_array(self, function, *columns):
            submitted.extend(zip(*columns, strict=True))
            return [SimpleNamespace(result=lambda row=row: function(*row)) for row in submitted]

    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=AutoExecutor))
    monkeypatch.setattr(hj, "Sweep", lambda **_: small)
    store = str(tmp_path / "a.zarr")
    module.main(store)
    assert submitted == [(i, 8, store) for i in range(8)]
    assert f"{store} is done" in capsys.readouterr().out
    monkeypatch.undo()
    assert rows(store) == whole(tmp_path)


def test_the_configuration_is_one(tmp_path):
    config = hj.Sweep.from_dict(json.loads((EXAMPLES / "sweep.json").read_text()))
    assert config.num_inits == 4096
