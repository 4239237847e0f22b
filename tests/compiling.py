"""XLA's flags for programs compiled once and run once, as those of tests: 2.5 times as fast, for slower programs."""

from importlib.metadata import version

QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if tuple(int(part) for part in version("jaxlib").split(".")[:2]) < (0, 11):  # later ones know no other way
    QUICKLY += " --xla_cpu_use_fusion_emitters=false"
