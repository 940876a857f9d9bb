"""Prometheus metrics of the pipelines of a process.

Owns their names, which are stable, and how they follow from what workers report. `docs/operating.md` lists them.

- Values are read from the latest `WorkerStatus` when somebody asks; nothing is counted per record for a metric.
  Histograms are observed once per commit and once per batch, in columns.
- Units are seconds, records, rows and bytes.
- Labels are names from the plan and codes from the code, so their number is finite; `SERIES_PER_PIPELINE_MAX` bounds it
  in any case. No label holds a partition, an offset, a key or a value.
- What `headrace_step_rows` tells of dropped rows and dead letters is the sum of what the counters with reason and code
  tell.
- Counters count since the worker started; Prometheus knows what to do when they begin again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headrace.engine.histograms import ColumnHistograms
from headrace.engine.settings import WorkerStatus

SERIES_PER_PIPELINE_MAX = 500
"""Series of one metric and pipeline; what comes later is summed up under `OTHER`."""
OTHER = "other"
COMMIT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)
"""From a local log to the longest that a transaction may take."""
BATCH_BUCKETS_ROWS = (1, 10, 100, 300, 1_000, 3_000, 10_000, 20_000, 40_000, 80_000)
"""Up to `BATCH_RECORDS_MAX`."""

BATCH_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From a few rows to a step that is named for being stuck."""
END_TO_END_BUCKETS_S = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0),
)
"""Fine around commit intervals of 20 to 100 ms, coarse for backlogs."""

Family = CounterMetricFamily | GaugeMetricFamily
Named = Mapping[tuple[str, ...], int]
"""Numbers by the values of their labels."""

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
    (
        CounterMetricFamily,
        "headrace_state_loaded_bytes",
        "Bytes of state read from copies on local disk.",
        lambda status: status.state_bytes_loaded,
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
        CounterMetricFamily,
        "headrace_fenced",
        "Aborts because another worker took over.",
        lambda status: status.fenced,
    ),
    (
        GaugeMetricFamily,
        "headrace_rows_waiting",
        "Rows that were read and wait for another input.",
        lambda status: status.rows_waiting,
    ),
    (
        GaugeMetricFamily,
        "headrace_partitions_paused",
        "Partitions not read for now.",
        lambda status: status.partitions_paused,
    ),
    (
        GaugeMetricFamily,
        "headrace_restoring",
        "1 while state is restored.",
        lambda status: float(status.state == "restoring"),
    ),
    (
        GaugeMetricFamily,
        "headrace_restore_records",
        "Records that the restore under way has to read in all.",
        lambda status: None if status.restore is None else status.restore.records_to_do,
    ),
    (
        GaugeMetricFamily,
        "headrace_restore_records_done",
        "Records that the restore under way has read.",
        lambda status: None if status.restore is None else status.restore.records_done,
    ),
    (
        GaugeMetricFamily,
        "headrace_stream_time_seconds",
        "Smallest stream time of this process's source partitions, since 1970.",
        lambda status: None if status.stream_time_ms is None else status.stream_time_ms / 1000,
    ),
)

_NAMED: tuple[tuple[type[Family], str, str, tuple[str, ...], Callable[[WorkerStatus], Named]], ...] = (
    (
        CounterMetricFamily,
        "headrace_step_rows",
        "Rows of each step by what became of them.",
        ("step", "outcome"),
        lambda status: step_rows(status),
    ),
    (
        CounterMetricFamily,
        "headrace_rows_dropped",
        "Rows left out by rule.",
        ("step", "reason"),
        lambda status: split(status.dropped, 2),
    ),
    (
        CounterMetricFamily,
        "headrace_dead_letters",
        "Records sent to the dead-letter topic; those of aborted transactions count too.",
        ("step", "stage", "code"),
        lambda status: split(status.dead_letters, 3),
    ),
    (
        CounterMetricFamily,
        "headrace_snapshots",
        "Copies of state sent to the object store.",
        ("outcome",),
        lambda status: {(outcome,): count for outcome, count in status.snapshots.items()},
    ),
    (
        CounterMetricFamily,
        "headrace_rebalances",
        "How often partitions came or went.",
        ("change",),
        lambda status: {(change,): count for change, count in status.rebalances.items()},
    ),
    (
        CounterMetricFamily,
        "headrace_clients_anew",
        "How often a client of the log was made again.",
        ("client",),
        lambda status: {(client,): count for client, count in status.clients_anew.items()},
    ),
    (
        GaugeMetricFamily,
        "headrace_state_keys",
        "Live keys (key and window) in a step's state.",
        ("step",),
        lambda status: {(step,): count for step, count in status.step_state_keys.items()},
    ),
    (
        GaugeMetricFamily,
        "headrace_state_bytes",
        "Memory that a step's state takes, about.",
        ("step",),
        lambda status: {(step,): count for step, count in status.step_state_bytes.items()},
    ),
)


class EngineMetrics(Collector):
    """Metrics of all pipelines of a process. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._latest: dict[str, WorkerStatus] = {}
        self._commit_seconds = ColumnHistograms(
            "headrace_commit_seconds",
            "Time of a commit, from the flush of the operators to the log's word.",
            ["pipeline"],
            COMMIT_BUCKETS_S,
        )
        self._batch_seconds = ColumnHistograms(
            "headrace_batch_seconds", "Time of one pass through the steps.", ["pipeline"], BATCH_BUCKETS_S
        )
        self._batch_rows = ColumnHistograms(
            "headrace_batch_rows",
            "Rows that went through the steps in one pass.",
            ["pipeline"],
            BATCH_BUCKETS_ROWS,
        )
        self._end_to_end_seconds = ColumnHistograms(
            "headrace_end_to_end_seconds",
            "Age of records when the commit makes their effects visible.",
            ["pipeline", "topic"],
            END_TO_END_BUCKETS_S,
        )

    def note(self, status: WorkerStatus) -> None:
        """This is how a worker is now."""
        self._latest[status.pipeline] = status

    def observe_commit(self, pipeline: str, seconds: float) -> None:
        """A commit succeeded."""
        self._commit_seconds.add_one((pipeline,), seconds)

    def observe_batch(self, pipeline: str, rows: int, seconds: float) -> None:
        """A pass through the steps is done."""
        self._batch_rows.add_one((pipeline,), rows)
        self._batch_seconds.add_one((pipeline,), seconds)

    def observe_end_to_end(self, pipeline: str, topic: str, seconds: npt.NDArray[np.float64]) -> None:
        """Effects of records of these ages are visible now."""
        self._end_to_end_seconds.add((pipeline, topic), seconds)

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
        for make, name, told, labels, numbers_of in _NAMED:
            family = make(name, told, labels=["pipeline", *labels])
            for status in statuses:
                for values, count in bounded(numbers_of(status)).items():
                    family.add_metric([status.pipeline, *values], count)
            yield family
        yield self._delays(statuses)
        yield from _lags(statuses)
        yield self._commit_seconds.family()
        yield self._batch_seconds.family()
        yield self._batch_rows.family()
        yield self._end_to_end_seconds.family()

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


def step_rows(status: WorkerStatus) -> Named:
    """By step and outcome: `in`, `out`, `dropped`, `dead_letter`."""
    found = Counter[tuple[str, ...]]()
    found.update(status.step_rows)
    for (step, _), count in split(status.dropped, 2).items():
        found[step, "dropped"] += count
    for (step, _, _), count in split(status.dead_letters, 3).items():
        found[step, "dead_letter"] += count
    return found


def split(counts: Mapping[str, int], parts: int) -> Named:
    """Counts by the parts of their `a:b:c` names. A step's name may hold a colon, a code never does."""
    found = {tuple(name.rsplit(":", parts - 1)): count for name, count in counts.items()}
    assert all(len(values) == parts for values in found)
    return found


def bounded(numbers: Named) -> Named:
    """The first `SERIES_PER_PIPELINE_MAX` of them, the rest as one."""
    if len(numbers) <= SERIES_PER_PIPELINE_MAX:
        return numbers
    every = list(numbers.items())
    found = dict(every[:SERIES_PER_PIPELINE_MAX])
    others = (OTHER,) * len(every[0][0])
    found[others] = found.get(others, 0) + sum(count for _, count in every[SERIES_PER_PIPELINE_MAX:])
    return found
