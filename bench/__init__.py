"""Benchmarks. `python -m bench` lists them; each prints a table, or JSON lines with `--json`."""
