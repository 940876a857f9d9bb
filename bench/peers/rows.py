"""One measured run, as it is written to the file of results.

- The first fields are fixed; others may be added. What was not measured is null.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One job by one system in one round."""

    job: str
    keys: int
    system: str
    round: int
    records: int
    """Of the input, of both streams where there are two. For RESTORE, keys that came back."""
    seconds: float | None = None
    """From the worker having its partitions to the last record committed."""
    cpu_seconds: float | None = None
    """Of the system's processes in that time."""
    records_per_cpu_second: int | None = None
    records_per_cpu_second_warm: int | None = None
    """From the moment half of the records are committed."""
    peak_rss_mb: float | None = None
    first_output_seconds: float | None = None
    """From the start of the process."""
    output_rows: int | None = None
    correct: bool = False
    records_per_second: int | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    delivery: str = ""
    commit_interval_ms: int | None = None
    start_cpu_seconds: float | None = None
    """Before the worker had its partitions."""
    state_bytes_per_key: float | None = None
    variant: str = ""
    """Which of several measurements of one job; a query of NEXMARK."""
    load: float = 0.0
    """Processes that ran or waited for a processor in the minute before."""
    error: str = ""
    """Why it is not correct."""
