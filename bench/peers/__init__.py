"""headrace and its peers, measured side by side on one broker. See docs/benchmarks.md."""
