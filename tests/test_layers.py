"""The house: imports point down, the bans hold, files and functions stay small, names are what they say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hessjax

ROOT = Path(hessjax.__file__).parent
# A module imports only from strictly lower layers. `__init__` (lazy exports) and `__main__` are exempt.
DATA = [f"landscapes.{name}" for name in ("arccosine", "base", "data", "index_laws", "linear_points", "shares")]
HELPERS = [f"landscapes.{name}" for name in ("architectures", "files", "linear_derivatives", "relu_points")]
LANDSCAPES = [f"landscapes.{name}" for name in ("glass", "linear", "networks", "relu", "scalar", "surfaces", "teacher")]
FINDERS = [f"finders.{name}" for name in ("gradient_norm", "newton", "newton_mr", "saddle_free", "trust_region")]
LAYERS = [
    ["sizes"],
    ["arguments", "devices", "free_laws", "programs", "progress", "store", "stored", "taylor", "trees", *DATA],
    [
        "claims",
        "config",
        "descents",
        "householder",
        "jaxprs",
        *HELPERS,
        "quartics",
        "reduced",
        "rmt",
        "rows",
        "tridiagonals",
        "units",
        "uses",
    ],
    ["convolutions", "landscapes.tasks", "leading", "masks", "separation", "stacks", "ties", "transposes"],
    ["landscapes.building", "pushes", "rowsums", "signature", "switches", "times"],
    ["columns", "contractions", "forms", "kinks", "landscapes.sequences"],
    ["operators", "readings"],
    ["adapters", "checks", "directions", "distributed", "driving", "matrices", "objective", "projections", "taps"],
    ["curvature", "estimates", "krylov", *LANDSCAPES, "profiles", "structured", "train"],
    [
        "extremes",
        "gauss_newton",
        "landscapes.relu_starts",
        "landscapes.spurious",
        "modes",
        "negative",
        "quadrature",
        "sketches",
        "streamed",
    ],
    ["fisher", "functionals", "layerwise", "minres", "traces"],
    ["composition", "finders.curvatures", "preconditioners", "spectra", "subspaces"],
    ["assembly", "finders.base", "measures", "measuring"],
    [*FINDERS, "lanes", "pool", "tracking", "trajectories"],
    ["finders.methods"],
    ["certificates", "critical", "points", "portraits", "records", "single"],
    ["escapes", "identity", "runs", "starts"],
    ["working"],
    ["ensemble", "health", "merging", "profile_runs", "searches"],
    ["plans"],
    ["figures"],
    ["axes", "seen_panels", "tables"],
    ["found_panels", "panels", "profile_panels", "seen_views"],
    ["drawing", "found_views", "interactive", "pictures", "seen_pages", "views"],
    ["found_pages", "plot"],
    ["reporting"],
    ["flags", "process"],
    ["catalogue", "critical_command", "profile_command", "store_commands"],
    ["commands"],
    ["cli"],
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
EXEMPT = {"__init__", "__main__", "finders.__init__", "landscapes.__init__"}
FILES = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in sorted(ROOT.rglob("*.py"))}
MODULES = {name: f for name, f in FILES.items() if name not in EXEMPT}
# The only modules that may import the heavy or optional package named.
KEPT_IN = {
    "flax": {"adapters", "landscapes.architectures"},
    "sklearn": {"landscapes.data"},
    "tensorstore": {"store"},
    "tyro": {"catalogue", "cli", "commands", "critical_command", "flags", "store_commands"},
    "xarray": {"axes", "drawing", "ensemble", "figures", "found_pages", "found_panels", "found_views", "interactive"}
    | {"panels", "pictures", "plot", "profile_panels", "profile_runs", "reporting", "runs", "searches", "tables"},
    "zarr": {"runs"},
    "rich": {"progress"},
}


def imported(file):
    """Names of the modules a file imports, anywhere in it, with the hessjax prefix dropped from our own."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "hessjax":
                ours |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("hessjax."):
                inner = node.module.removeprefix("hessjax.")
                ours |= {inner} if inner in MODULES else {f"{inner}.{alias.name}" for alias in node.names}
            elif node.module:
                others.add(node.module)
    return ours, others


def test_every_module_has_a_layer():
    assert set(MODULES) == set(RANK)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_strictly_down(module):
    ours, _ = imported(MODULES[module])
    assert [name for name in ours if RANK[name] >= RANK[module]] == []


def test_the_checker_sees_an_import_that_points_up(tmp_path):
    bad = tmp_path / "trees.py"
    bad.write_text("def f():\n    from hessjax.curvature import Hessian\n")
    assert [name for name in imported(bad)[0] if RANK[name] >= RANK["trees"]] == ["curvature"]


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("landscapes.")])
def test_landscapes_know_nothing_of_curvature(module):
    ours, _ = imported(MODULES[module])
    # rmt is formulas that facts are made of: it imports no operator either.
    assert {name for name in ours if not name.startswith("landscapes.")} <= {"trees", "rows", "config", "rmt"}


CURVATURES = ["curvature", "gauss_newton", "fisher", "streamed"]


@pytest.mark.parametrize("module", ["operators", "projections", "checks", *CURVATURES, "assembly", "stacks"])
def test_spectral_modules_know_nothing_of_landscapes(module):
    ours, _ = imported(MODULES[module])
    assert [name for name in ours if name.startswith("landscapes")] == []


ESTIMATORS = ["driving", "krylov", "estimates", "quadrature", "functionals", "negative", "sketches", "traces"]
ESTIMATORS += ["extremes", "minres", "spectra"]


@pytest.mark.parametrize("module", ESTIMATORS)
def test_estimators_run_on_a_bare_matrix(module):
    ours, _ = imported(MODULES[module])
    assert ours & {"curvature", "gauss_newton", "fisher", "streamed", "rows", "objective", "landscapes.base"} == set()


@pytest.mark.parametrize("package", KEPT_IN)
def test_heavy_and_optional_packages_stay_in_their_places(package):
    users = {m for m, f in MODULES.items() if any(o.split(".")[0] == package for o in imported(f)[1])}
    assert users <= KEPT_IN[package]


def test_no_module_bears_the_name_of_a_public_function():
    namespaces = {"landscapes", "plot", "profiles", "rmt", "adapters", "distributed", "kinks", "starts"}
    namespaces |= {"measures", "modes", "tracking"}
    assert {m.split(".")[0] for m in MODULES} & (set(hessjax.__all__) - namespaces) == set()
    assert "utils" not in {m.split(".")[-1] for m in MODULES}


@pytest.mark.parametrize("module", FILES)
def test_files_and_functions_are_small(module):
    text = FILES[module].read_text()
    assert text.count("\n") < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False)
            lines = node.end_lineno - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
            assert lines < 60, f"{node.name} has {lines} lines"


def public(module):
    tree = ast.parse(MODULES[module].read_text())
    names = {n for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
             for n in ast.literal_eval(node.value)}  # fmt: skip
    return tree, names


@pytest.mark.parametrize("module", MODULES)
def test_modules_say_what_they_are_and_what_is_public(module):
    tree, names = public(module)
    assert ast.get_docstring(tree), "no module docstring"
    assert names, "no __all__"
    assert names == {n for n in names if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", n)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize(
    "name",
    [n for n in hessjax.__all__ if n not in ("KINDS", "STATUSES", "kinks", "landscapes", "plot", "rmt", "starts")],
)
def test_every_public_name_has_an_example_that_runs(name):
    doc = getattr(hessjax, name).__doc__ or ""
    if isinstance(getattr(hessjax, name), type) and issubclass(getattr(hessjax, name), Exception | tuple):
        assert doc
    else:
        assert ">>> " in doc


def in_fresh_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_or_the_command_line_imports_no_jax():
    heavy = ("jax", "flax", "scipy")
    code = f"import sys, hessjax, hessjax.cli, hessjax.commands; print(any(m in sys.modules for m in {heavy}))"
    assert in_fresh_python(code) == "False"


def test_the_core_runs_with_optional_packages_absent():
    code = """
import sys
for name in ("matplotlib", "plotly", "xarray", "zarr", "pandas", "sklearn", "tyro", "rich", "IPython"):
    sys.modules[name] = None
import jax, jax.numpy as jnp, tempfile, hessjax as hj
h = hj.Hessian(lambda p: jnp.sum(p**4), jnp.ones(2))
config = hj.Sweep(landscape="quadratic", num_inits=2, num_steps=1, times=2)
path = hj.sweep(config, tempfile.mkdtemp() + "/s", progress=False)
try:
    hj.open_sweep(path)
except ImportError as error:
    print(hj.eigvalsh(h).tolist(), "hessjax[io]" in str(error))
"""
    assert in_fresh_python(code) == "[12.0, 12.0] True"


def test_what_is_listed_is_what_is_loaded():
    assert sorted(hessjax.__all__) == sorted([*hessjax._EXPORTS, *hessjax._MODULES])
    for name in hessjax.__all__:
        assert getattr(hessjax, name) is not None


def test_unknown_names_are_attribute_errors_and_dir_lists_the_exports():
    assert set(hessjax.__all__) <= set(dir(hessjax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hessjax.nothing


def test_version_is_that_of_the_distribution():
    from importlib import metadata

    assert metadata.version("hessjax") == hessjax.__version__
