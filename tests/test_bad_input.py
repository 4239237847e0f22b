"""Bad input to every public call: one line that names the argument, what was got, and what to write instead.

The command line's table is test_cli.py's; here a call's own words are tested, without the suite's type checks.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessjax as hj
from hessjax import cli

pytestmark = pytest.mark.usefixtures("untyped", "process_of_a_command")

KEY = jax.random.key(0)
P, B = {"w": jnp.ones((3, 2))}, {"x": jnp.ones((6, 3)), "y": jnp.ones((6, 2))}
PAIR = (B["x"], B["y"])


def loss(p, b):
    return jnp.sum((b["x"] @ p["w"] - b["y"]) ** 2, -1)


def model(p, x):
    return x @ p["w"]


def of_outputs(z, y):
    return jnp.sum((z - y) ** 2, -1)


def quartic(x):
    return jnp.sum(x**4)


def H():
    return hj.Hessian(loss, P, B)


def M():
    return hj.Matrix(jnp.diag(jnp.arange(4.0)))


def Q():
    return hj.slq(M(), KEY, num_steps=3, num_probes=2)


def pairs(size):
    return hj.Eigenpairs(jnp.ones(1), jnp.ones((1, size)), jnp.zeros(1), jnp.ones(1, bool), jnp.int32(0))


def found():
    return hj.find_critical_points(quartic, jnp.ones((2, 3)), max_steps=1)


WHOLE = {"w": jnp.arange(3)}
INTEGER = r"leaf 'w' is int32, wanted a real floating array\. Partition it off"
ASYMMETRIC = jnp.array([[0.0, 1.0], [2.0, 0.0]])
BOWL = {"landscape": "bowl", "num_starts": 1, "starts": "random", "dtype": "float32"}

# "public name: what is wrong": (call of a folder, what is said)
BAD = {
    "Hessian: integers": (lambda t: hj.Hessian(loss, WHOLE, B), INTEGER),
    "Hessian: no function": (lambda t: hj.Hessian(3, P, B), r"loss is int, wanted a function loss\(params, batch\)"),
    "Hessian: chunk": (
        lambda t: hj.Hessian(loss, P, B, chunk=0),
        "chunk must be a whole number of rows, at least 1.*got 0",
    ),
    "Hessian: empty": (
        lambda t: hj.Hessian(loss, {}, B).mv({}),
        "params is an empty tree.*pass a pytree of float arrays",
    ),
    "Hessian: scalar and chunk": (
        lambda t: hj.Hessian(lambda p, b: jnp.sum(p["w"]), P, B, chunk=2).mv(P),
        r"chunk=2 needs a per-example loss.*return the \[N\] losses",
    ),
    "Hessian: shape": (
        lambda t: hj.Hessian(lambda p, b: b["x"], P, B).mv(P),
        r"\(6, 3\), wanted a scalar or .* \(6,\)",
    ),
    "Hessian: rows": (
        lambda t: hj.Hessian(loss, P, {"x": jnp.ones((6, 3)), "y": jnp.ones((5, 2))}, chunk=2).mv(P),
        r"batch leaves disagree on the number of rows: .*\(5, 2\)",
    ),
    "GaussNewton: no pair": (
        lambda t: hj.GaussNewton(model, of_outputs, P, B["x"]),
        r"wanted a pair \(inputs, targets\)",
    ),
    "Residual: integers": (lambda t: hj.Residual(model, of_outputs, WHOLE, PAIR), INTEGER),
    "Fisher: kind": (
        lambda t: hj.Fisher(model, of_outputs, P, PAIR, kind="exakt"),
        "kind is 'exakt', wanted one of 'exact'",
    ),
    "Fisher: no key": (
        lambda t: hj.Fisher(model, of_outputs, P, PAIR, kind="sampled", likelihood="gaussian"),
        r"needs a key; write key=jax\.random\.key\(0\)",
    ),
    "Streamed: a generator": (lambda t: hj.Streamed(loss, P, (b for b in [B])), "generator.*only once.*pass a list"),
    "Streamed: nothing": (lambda t: hj.dense(hj.Streamed(loss, P, [])), "batches is empty"),
    "Matrix: not square": (lambda t: hj.Matrix(jnp.ones((2, 3))), r"shape \(2, 3\), wanted \[n, n\]"),
    "Matrix: not symmetric": (
        lambda t: hj.Matrix(ASYMMETRIC),
        r"not symmetric: .* = 1; write \(a \+ a\.T\) / 2 if meant",
    ),
    "restrict: no match": (lambda t: hj.restrict(H(), "*/kernel"), r"no leaf matches '\*/kernel'; the paths are w"),
    "shift: an array": (
        lambda t: hj.shift(M(), jnp.ones(3)),
        r"shift needs a real scalar, got .*for A \+ B write a \+ b",
    ),
    "deflate: other size": (lambda t: hj.deflate(M(), pairs(3)), r"eigenvector has shape \(3,\), wanted \(4,\)"),
    "check_operator: no key": (lambda t: hj.check_operator(H(), None), r"key is NoneType.*write jax\.random\.key\(0\)"),
    "dense: a word": (lambda t: hj.dense("matrix"), r"op is str, wanted an operator such as hj\.Hessian"),
    "explain: an array": (lambda t: hj.explain(jnp.ones(3)), "wanted an operator such as"),
    "eigvalsh: not symmetric": (lambda t: hj.eigvalsh(ASYMMETRIC), "not symmetric"),
    "eigh: not square": (lambda t: hj.eigh(jnp.ones((2, 3))), r"shape \(2, 3\), wanted \[\.\.\., n, n\]"),
    "inertia: tol": (lambda t: hj.inertia(M(), tol=-1.0), r"tol must be at least 0, got -1\.0; it is relative to"),
    "lanczos: no steps": (lambda t: hj.lanczos(M(), KEY, num_steps=0), "num_steps must be .* at least 1; got 0"),
    "lanczos: word": (
        lambda t: hj.lanczos(M(), KEY, num_steps=2, reorthogonalize="half"),
        '"full" or "none", got \'half\'',
    ),
    "slq: a number for a key": (lambda t: hj.slq(M(), 0), r"key is int, wanted a key .*write jax\.random\.key\(0\)"),
    "slq: many keys": (
        lambda t: hj.slq(M(), jax.random.split(KEY)),
        r"key has shape \(2,\), wanted one key; take key\[0\]",
    ),
    "slq: no probes": (lambda t: hj.slq(M(), KEY, num_probes=0), "num_probes must be .* at least 1; got 0"),
    "kpm: moments": (lambda t: hj.kpm(M(), KEY, num_moments=0), "num_moments must be .* at least 2; got 0"),
    "density: width": (lambda t: hj.density(Q(), jnp.ones(2), width=0.0), r"width must be above 0.*got 0\.0"),
    "density: grid": (
        lambda t: hj.density(Q(), jnp.ones((2, 2)), width=9.0),
        r"grid has shape \(2, 2\), wanted .* one dim",
    ),
    "cdf: an operator": (lambda t: hj.cdf(M(), jnp.ones(1)), r"quadrature is Matrix, wanted what hj\.slq\(op, key\)"),
    "cdf: one number": (lambda t: hj.cdf(Q(), 0.5), r"x has shape \(\), wanted values of lambda in one dimension"),
    "spectral_function: f": (lambda t: hj.spectral_function(Q(), 3), "f is int, wanted a function of eigenvalues"),
    "logdet: shift": (lambda t: hj.logdet(M(), KEY, shift="1"), "shift must be a real number, got '1'"),
    "negative_fraction: tol": (
        lambda t: hj.negative_fraction(M(), KEY, tol=-1e-3),
        r"tol must be at least 0, got -0\.001",
    ),
    "eigsh: no k": (lambda t: hj.eigsh(M(), KEY, k=0), "k must be a whole number, at least 1; got 0"),
    "eigsh: k": (lambda t: hj.eigsh(M(), KEY, k=9), "k must be at most 4, the dimension .*; got 9"),
    "eigsh: which": (lambda t: hj.eigsh(M(), KEY, k=1, which="SM"), "which must be one of LA, SA, LM, BE; got 'SM'"),
    "spectrum: k": (lambda t: hj.spectrum(M(), KEY, k=-1), "k must be a whole number, at least 0; got -1"),
    "trace: method": (lambda t: hj.trace(M(), KEY, method="hutch"), "one of xtrace, hutch.*; got 'hutch'"),
    "diagonal: probes": (lambda t: hj.diagonal(M(), KEY, num_probes=0), "num_probes must be .*; got 0"),
    "frobenius_norm: probes": (lambda t: hj.frobenius_norm(M(), KEY, num_probes=0), "num_probes must be .*; got 0"),
    "minres_qlp: shape": (lambda t: hj.minres_qlp(M(), jnp.ones(3)), r"b has shape \(3,\), wanted \(4,\)"),
    "find_critical_points: method": (
        lambda t: hj.find_critical_points(quartic, jnp.ones((2, 3)), method="newtn"),
        "unknown method 'newtn'; did you mean 'newton'",
    ),
    "find_critical_points: starts": (lambda t: hj.find_critical_points(quartic, 3), "starts is int.*, wanted a real"),
    "classify_point: tol": (lambda t: hj.classify_point(quartic, jnp.ones(3), tol=-1), "tol must be .*, got -1"),
    "certify_point: lipschitz": (
        lambda t: hj.certify_point(quartic, jnp.ones(3), lipschitz=-1.0),
        r"lipschitz must be a finite number from 0 up, got -1\.0",
    ),
    "distinct: rtol": (lambda t: hj.distinct(found(), rtol=-1), "rtol must be a number from 0 up, got -1"),
    "escape: vector loss": (
        lambda t: hj.escape(lambda x: x, jnp.ones(3)),
        r"shape \(3,\), wanted a scalar; take its mean",
    ),
    "Landscape: no function": (
        lambda t: hj.Landscape("a", 3, quartic),
        "landscape 'a': init is int, wanted a function",
    ),
    "landscapes: name": (lambda t: hj.landscapes.get("digit-mlp"), "did you mean 'digits-mlp'"),
    "landscapes: option": (lambda t: hj.landscapes.get("quadratic", eigenvalue=3), "did you mean 'eigenvalues'"),
    "landscapes: taken": (lambda t: hj.landscapes.register("quadratic", found), "'quadratic' is registered already"),
    "rmt: sigma": (lambda t: hj.rmt.semicircle(-1.0), r"sigma must be finite and at least 0, got -1\.0"),
    "starts: none": (lambda t: hj.starts.at_random(hj.landscapes.get("bowl"), KEY, 0), "num_starts must be .*; got 0"),
    "kinks: no function": (lambda t: hj.kinks.kinks(3, P), r"loss is int, wanted a function loss\(params, batch\)"),
    "adapters: no module": (lambda t: hj.adapters.linen(3, None), r"module is int, wanted a flax\.linen\.Module"),
    "distributed: a process there is not": (
        lambda t: hj.distributed.start("localhost:1", num_processes=2, process_id=2),
        "process_id must be from 0 to num_processes - 1; got 2 of 2",
    ),
    "distributed: params": (
        lambda t: hj.distributed.mesh(params=3),
        "params must divide the number of devices, 8; got 3",
    ),
    "plot: a word": (lambda t: hj.plot.spectrum("a"), "'a'"),
    "Sweep: dtype": (lambda t: hj.Sweep(dtype="bfloat16"), "dtype must be one of float32, float64; got 'bfloat16'"),
    "Sweep: first init": (lambda t: hj.Sweep(first_init=5), "first_init must be a multiple of lane_width=64; got 5"),
    "Search: methods": (lambda t: hj.Search(methods=("newtn",)), r"methods must be one or more of .*got \('newtn',\)"),
    "sweep: no configuration": (lambda t: hj.sweep({"num_inits": 3}, t), r"config is dict, wanted hj\.Sweep\(\.\.\.\)"),
    "sweep: a search": (lambda t: hj.sweep(hj.Search(), t), r"config is Search, wanted hj\.Sweep\(\.\.\.\)"),
    "sweep: worker": (lambda t: hj.sweep(hj.Sweep(), t, worker=(2, 2)), r"worker must be \(i, n\) .*, got \(2, 2\)"),
    "sweep: no worker": (lambda t: hj.sweep(hj.Sweep(), t, worker=None), r"worker must be \(i, n\) .*, got None"),
    "sweep: one number": (lambda t: hj.sweep(hj.Sweep(), t, worker=(0,)), r"worker must be \(i, n\) .*, got \(0,\)"),
    "sweep: half a worker": (lambda t: hj.sweep(hj.Sweep(), t, worker=(0.5, 1)), r"worker must be .*, got \(0\.5, 1\)"),
    "sweep: unit": (lambda t: hj.sweep(hj.Sweep(), t, unit=2.5), r"unit must be at least 1 init, got 2\.5"),
    "sweep: words": (lambda t: hj.sweep(hj.Sweep(), t, workers="2"), "workers must be at least 1, got '2'"),
    "Sweep: rate": (lambda t: hj.Sweep(learning_rate=10**400), "learning_rate must be a finite number above 0"),
    "merge: output": (lambda t: hj.merge([t / "a"], 3), "path is int, wanted the folder of a store"),
    "sweep: memory": (lambda t: hj.sweep(hj.Sweep(), t / "a", memory="plenty"), "such as '4GiB' .*got 'plenty'"),
    "sweep: path": (lambda t: hj.sweep(hj.Sweep(), 3), "path is int, wanted the folder of a store"),
    "sweep: float64": (
        lambda t: hj.sweep(hj.Sweep(dtype="float64"), t / "a"),
        r'jax\.config\.update\("jax_enable_x64", True\)',
    ),
    "search: no configuration": (lambda t: hj.search("bowl", t), r"config is str, wanted hj\.Search\(\.\.\.\)"),
    "search: unit": (lambda t: hj.search(hj.Search(**BOWL), t / "a", unit=0), "unit must be at least 1 start, got 0"),
    "Profile: no optimizers": (lambda t: hj.Profile(optimizers=()), r"optimizers must be one or more names.*got \(\)"),
    "Profile: twice": (lambda t: hj.Profile(optimizers=("sgd", "sgd")), "optimizers must differ"),
    "Profile: plane": (lambda t: hj.Profile(plane="flat"), "plane must be one of trajectories, solutions, .*'flat'"),
    "Profile: two ends": (
        lambda t: hj.Profile(optimizers=("sgd", "adam"), plane="solutions"),
        "three ends of training; got 2 optimizers and num_inits=1: give more of either",
    ),
    "Profile: extent": (lambda t: hj.Profile(extent=0.0), "extent must be a finite number above 0; got 0"),
    "Profile: resolution": (lambda t: hj.Profile(resolution=1), "resolution must be a whole number, at least 2; got 1"),
    "Profile: times": (lambda t: hj.Profile(num_steps=3), "times=41 measurements need at least 40 steps"),
    "profile: no configuration": (
        lambda t: hj.profile(hj.Sweep(), t),
        r"config is Sweep, wanted hj\.Profile\(\.\.\.\)",
    ),
    "profile: an optimizer": (
        lambda t: hj.profile(hj.Profile(landscape="bowl", optimizers=("sdg",)), t / "a"),
        "optimizers: 'sdg' is none of sgd, .*nor a switch between them like adam\\+sgd@100",
    ),
    "profile: a late switch": (
        lambda t: hj.profile(hj.Profile(landscape="bowl", optimizers=("adam+sgd@999",)), t / "a"),
        r"switches at steps \[0, 999\], wanted 0 first, ascending, below 300",
    ),
    "profile: unit": (lambda t: hj.profile(hj.Profile(), t, unit=0), "unit must be at least 1 row of the plane, got 0"),
    "open_profile: nothing there": (lambda t: hj.open_profile(t / "a"), "no store at '.*a'"),
    "plan_sweep: no configuration": (lambda t: hj.plan_sweep(3), r"config is int, wanted hj\.Sweep\(\.\.\.\)"),
    "open_sweep: nothing there": (lambda t: hj.open_sweep(t / "a"), "no store at '.*a'"),
    "open_sweep: a number": (lambda t: hj.open_sweep(3), "path is int, wanted the folder of a store"),
    "open_search: a folder": (lambda t: hj.open_search(t), "is a folder but no store"),
    "store_status: nothing there": (lambda t: hj.store_status(t / "a"), "no store at '.*a'"),
    "verify: nothing there": (lambda t: hj.verify(t / "a"), "no store at '.*a'"),
    "merge: nothing": (lambda t: hj.merge([], t / "a"), r"stores must be a sequence of one or more folders, got \[\]"),
    "compare_optimizers: none": (
        lambda t: hj.compare_optimizers(hj.landscapes.get("bowl"), {}, KEY, num_steps=1),
        "optimizers are {}, wanted at least one, by name: sgd, momentum",
    ),
    "compare_optimizers: no landscape": (
        lambda t: hj.compare_optimizers("bowl", ["sgd"], KEY, num_steps=1),
        r"land is str, wanted a Landscape, such as hj\.landscapes\.get\(name\)",
    ),
    "measures: which": (lambda t: hj.measures.extremes(quartic, KEY, which="top"), "which must be one of LA, SA"),
    "modes: rise": (lambda t: hj.modes.widths(quartic, jnp.ones(2), jnp.eye(2), rise=0), "rise must be above 0, got 0"),
    "profiles: ts": (lambda t: hj.profiles.line(quartic, jnp.ones(2), jnp.ones(2), "all"), "ts must be a line of num"),
    "profiles: integers": (lambda t: hj.profiles.line(quartic, WHOLE, WHOLE, [0]), "a leaf 'w' is int32"),
    "track: every": (lambda t: hj.track(jnp.sum, 0), "every must be a whole number, at least 1; got 0"),
    "track: measure": (lambda t: hj.track(3, 1), "measure is int, wanted a function of params, or init and update"),
    "tracked: nothing": (lambda t: hj.tracked(()), r"no hj\.track in this optimizer's state"),
    "tracking: share": (
        lambda t: hj.tracking.cost(jnp.sum, None, quartic, jnp.ones(2), share=2),
        "share must be between 0 and 1, got 2",
    ),
    "report: nothing there": (lambda t: hj.report(t / "a", t / "r.html"), "no store at '.*a'"),
    "report: a number": (lambda t: hj.report(3, t / "r.html"), "report wants a sweep's path or .*, got int"),
}


def ours(error):
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals["__name__"].split(".")[0] == "hessjax"


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line_of_our_own(case, tmp_path):
    call, words = BAD[case]
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        call(tmp_path)
    assert ours(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_every_public_call_is_in_the_table():
    named = {case.partition(":")[0] for case in BAD}
    results = {
        name for name in hj.__all__ if inspect.isclass(getattr(hj, name)) and issubclass(getattr(hj, name), tuple)
    }
    rest = {"KINDS", "STATUSES", "Operator", "OperatorError", "StoreError", "Spectrum"}
    assert set(hj.__all__) - results - rest - named == set()
    assert named <= set(hj.__all__)
    assert len(BAD) >= 40


COMMANDS = {
    "demo": ["demo", "--num-inits", "0"],
    "sweep": ["sweep", "--unit", "0", "--landscape", "quadratic"],
    "sweep, taken over from nobody": ["sweep", "--take-over", "--worker", "3/2"],
    "sweep, planned": ["sweep", "--plan", "--landscape", "quadratc"],
    "spectrum": ["spectrum", "--landscape", "quadratic", "--init", "-1"],
    "spectrum, of no cluster": ["spectrum", "--distributed", "--landscape", "quadratic"],
    "critical": ["critical", "--methods", "newtn"],
    "profile": ["profile", "--optimizers", "sdg"],
    "critical from nothing": ["critical", "--from", "absent.zarr"],
    "report": ["report", "absent.zarr"],
    "status": ["status", "absent.zarr"],
    "status of a file": ["status", "file"],
    "verify": ["verify", "absent.zarr"],
    "verify a folder": ["verify", "."],
    "merge": ["merge", "absent.zarr"],
    "merge nothing": ["merge"],
    "list": ["list", "digit-mlp"],
    "show": ["show", "digit-mlp"],
    "doctor": ["doctor", "--yaml"],
    "a command there is not": ["spectra"],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_every_command_answers_bad_input_in_one_line_and_exit_code_2(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a store")
    assert cli.main(COMMANDS[case]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("hessjax: ")
    assert said.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_every_command_is_in_the_table():
    from hessjax.commands import COMMANDS as KNOWN

    assert set(KNOWN) <= {words[0] for words in COMMANDS.values()}


def test_older_keys_and_traced_ones_are_keys():
    old = hj.slq(M(), jax.random.PRNGKey(0), num_steps=3, num_probes=2)
    assert np.array_equal(old.nodes, Q().nodes)
    many = jax.vmap(lambda key: hj.slq(M(), key, num_steps=3, num_probes=2).nodes)(jax.random.split(KEY, 2))
    assert many.shape == (2, 2, 3)
