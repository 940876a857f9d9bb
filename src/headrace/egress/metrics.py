"""Prometheus metrics of the egress of a process.

Owns their names, which are stable; `docs/connectors.md` lists them.

- One collector for all of them: a metric is told once, with a sample for each egress.
- Values are read from the runners' status when somebody asks; nothing is counted for a metric alone.
- Labels are the egress, its connector, and words from the code. No label holds a partition, a key or a value.
- Counters count since the egress started in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headrace.egress.status import Breaker, EgressCounters, EgressStatus

_LABELS = ("name", "connector")
_COUNTERS: tuple[tuple[str, str, Callable[[EgressCounters], float]], ...] = (
    ("headrace_egress_records", "Records delivered or left out by rule.", lambda counters: counters.records),
    ("headrace_egress_bytes", "Bytes of delivered columns in memory.", lambda counters: counters.bytes_written),
    ("headrace_egress_flushes", "Flushes that succeeded.", lambda counters: counters.flushes),
    ("headrace_egress_flush_seconds", "Time in flushes that succeeded.", lambda counters: counters.flush_s),
    ("headrace_egress_write_seconds", "Time of staging rows in the connector.", lambda counters: counters.write_s),
    ("headrace_egress_retries", "Attempts that failed and are made again.", lambda counters: counters.retries),
)
_OUTCOMES: tuple[tuple[str, Callable[[EgressCounters], int]], ...] = (
    ("written", lambda counters: counters.rows_written),
    ("deleted", lambda counters: counters.rows_deleted),
    ("filtered", lambda counters: counters.rows_filtered),
    ("deletion_skipped", lambda counters: counters.deletions_skipped),
    ("truncated", lambda counters: counters.truncates),
    ("truncate_skipped", lambda counters: counters.truncates_skipped),
)
BREAKER_STATES = get_args(Breaker)


class EgressMetrics(Collector):
    """Of every egress that `statuses` tells of."""

    def __init__(self, statuses: Callable[[], Sequence[EgressStatus]]) -> None:
        self._statuses = statuses

    def collect(self) -> Iterator[Metric]:
        statuses = [(each, (each.name, each.connector)) for each in self._statuses()]
        for name, help_text, value in _COUNTERS:
            family = CounterMetricFamily(name, help_text, labels=_LABELS)
            for status, of in statuses:
                family.add_metric(of, value(status.counters))
            yield family
        rows = CounterMetricFamily("headrace_egress_rows", "Rows by what became of them.", labels=(*_LABELS, "outcome"))
        dead = CounterMetricFamily(
            "headrace_egress_dead_letters", "Records sent to the dead letters.", labels=(*_LABELS, "stage", "code")
        )
        lag = GaugeMetricFamily("headrace_egress_lag_records", "Records still to deliver.", labels=_LABELS)
        breaker = GaugeMetricFamily(
            "headrace_egress_breaker", "1 for the state of the circuit breaker.", labels=(*_LABELS, "state")
        )
        for status, of in statuses:
            for outcome, count in _OUTCOMES:
                rows.add_metric((*of, outcome), count(status.counters))
            # A copy: the egress's own thread may add a reason meanwhile.
            for (stage, code), letters in dict(status.counters.dead_letters).items():
                dead.add_metric((*of, stage, code), letters)
            if status.lag_records is not None:
                lag.add_metric(of, status.lag_records)
            for state in BREAKER_STATES:
                breaker.add_metric((*of, state), float(status.breaker == state))
        yield from (rows, dead, lag, breaker)
