"""Benchmarks of hessjax: one file a claim, its records in results/. Run them with `python3 run.py bench`."""
