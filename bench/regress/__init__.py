"""The working tree against a revision, in one interleaved run. See docs/benchmarks.md."""
