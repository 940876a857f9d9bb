"""Prometheus metrics of the pipelines of a process.

Owns their names, which are stable, and how they follow from what workers report. `docs/operating.md` lists them.

- Values are read from the latest `WorkerStatus` when somebody asks; nothing is counted per record for a metric. Only
  two histograms are observed, once per commit and once per batch.
- Units are seconds, records, rows and bytes.
- Labels are names from the plan and codes from the code, so their number is finite; `SERIES_PER_PIPELINE_MAX` bounds it
  in any case. No label holds a partition, an offset, a key or a value.
- Counters count since the worker started; Prometheus knows what to do when they begin again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headrace.engine.settings import WorkerStatus

SERIES_PER_PIPELINE_MAX = 500
"""Series of one metric and pipeline; what comes later is summed up under `OTHER`."""
OTHER = "other"
COMMIT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)
"""From a local log to the longest that a transaction may take."""
BATCH_BUCKETS_ROWS = (1, 10, 100, 300, 1_000, 3_000, 10_000)
"""Up to `BATCH_RECORDS_MAX`."""

Family = CounterMetricFamily | GaugeMetricFamily

_NUMBERS: tuple[tuple[type[Family], str, str, Callable[[WorkerStatus], float | None]], ...] = (
    (
        CounterMetricFamily,
        "headrace_records_in",
        "Records read; those read again after an aborted transaction count again.",
        lambda status: status.records_in,
    ),
    (
        CounterMetricFamily,
        "headrace_rows_out",
        "Records written to derived topics; those of aborted transactions count too.",
        lambda status: status.rows_out,
    ),
    (
        CounterMetricFamily,
        "headrace_records_restored",
        "Records read from changelogs and tables to rebuild state.",
        lambda status: status.records_restored,
    ),
    (CounterMetricFamily, "headrace_commits", "Transactions committed.", lambda status: status.commits),
    (
        CounterMetricFamily,
        "headrace_aborts",
        "Transactions aborted and done again.",
        lambda status: status.aborts,
    ),
    (GaugeMetricFamily, "headrace_tasks", "Tasks that run in this process.", lambda status: len(status.tasks)),
    (
        GaugeMetricFamily,
        "headrace_state_keys",
        "Live keys (key and window) in aggregates.",
        lambda status: status.state_keys,
    ),
    (
        GaugeMetricFamily,
        "headrace_state_bytes",
        "Memory that the state of all steps takes, about.",
        lambda status: status.state_bytes,
    ),
    (
        GaugeMetricFamily,
        "headrace_stream_time_seconds",
        "Smallest stream time of this process's source partitions, since 1970.",
        lambda status: None if status.stream_time_ms is None else status.stream_time_ms / 1000,
    ),
)

_COUNTS: tuple[tuple[str, str, tuple[str, ...], Callable[[WorkerStatus], Mapping[str, int]]], ...] = (
    (
        "headrace_rows_dropped",
        "Rows left out by rule.",
        ("step", "reason"),
        lambda status: status.dropped,
    ),
    (
        "headrace_dead_letters",
        "Records sent to the dead-letter topic; those of aborted transactions count too.",
        ("step", "stage", "code"),
        lambda status: status.dead_letters,
    ),
)


class EngineMetrics(Collector):
    """Metrics of all pipelines of a process. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._latest: dict[str, WorkerStatus] = {}
        self._commit_seconds = Histogram(
            "headrace_commit_seconds",
            "Time of a commit, from the flush of the operators to the log's word.",
            ["pipeline"],
            buckets=COMMIT_BUCKETS_S,
            registry=None,
        )
        self._batch_rows = Histogram(
            "headrace_batch_rows",
            "Rows that went through the steps in one pass.",
            ["pipeline"],
            buckets=BATCH_BUCKETS_ROWS,
            registry=None,
        )

    def note(self, status: WorkerStatus) -> None:
        """This is how a worker is now."""
        self._latest[status.pipeline] = status

    def observe_commit(self, pipeline: str, seconds: float) -> None:
        """A commit succeeded."""
        self._commit_seconds.labels(pipeline).observe(seconds)

    def observe_batch(self, pipeline: str, rows: int) -> None:
        """A pass through the steps is done."""
        self._batch_rows.labels(pipeline).observe(rows)

    def collect(self) -> Iterator[Metric]:
        """All families, with whatever samples there are."""
        statuses = list(self._latest.values())
        for make, name, told, value_of in _NUMBERS:
            family = make(name, told, labels=["pipeline"])
            for status in statuses:
                value = value_of(status)
                if value is not None:
                    family.add_metric([status.pipeline], value)
            yield family
        for name, told, labels, counts_of in _COUNTS:
            counter = CounterMetricFamily(name, told, labels=["pipeline", *labels])
            for status in statuses:
                for values, count in bounded(counts_of(status), len(labels)).items():
                    counter.add_metric([status.pipeline, *values], count)
            yield counter
        yield self._delays(statuses)
        yield from _lags(statuses)
        yield from self._commit_seconds.collect()
        yield from self._batch_rows.collect()

    def _delays(self, statuses: list[WorkerStatus]) -> Metric:
        told = "Wall clock less stream time."
        family = GaugeMetricFamily("headrace_stream_time_delay_seconds", told, labels=["pipeline"])
        for status in statuses:
            if status.stream_time_ms is not None:
                family.add_metric([status.pipeline], self._clock() - status.stream_time_ms / 1000)
        return family


def _lags(statuses: list[WorkerStatus]) -> Iterator[Metric]:
    labels = ["pipeline", "topic"]
    records = GaugeMetricFamily("headrace_lag_records", "Records still to process.", labels=labels)
    seconds = GaugeMetricFamily("headrace_lag_seconds", "Age of the oldest record still to process.", labels=labels)
    for status in statuses:
        for topic, lag in status.lag.items():
            records.add_metric([status.pipeline, topic], lag.records)
            if lag.seconds is not None:
                seconds.add_metric([status.pipeline, topic], lag.seconds)
    yield records
    yield seconds


def bounded(counts: Mapping[str, int], parts: int) -> dict[tuple[str, ...], int]:
    """Counts by the parts of their `a:b:c` names; the first `SERIES_PER_PIPELINE_MAX` of them, the rest as one."""
    found: dict[tuple[str, ...], int] = {}
    for name, count in counts.items():
        # A step's name may hold a colon, a code never does.
        values = tuple(name.rsplit(":", parts - 1))
        assert len(values) == parts
        if len(found) >= SERIES_PER_PIPELINE_MAX:
            values = (OTHER,) * parts
        found[values] = found.get(values, 0) + count
    return found
