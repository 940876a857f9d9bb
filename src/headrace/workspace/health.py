"""How the components of one process are: ready or not, and their metrics.

Owns the latest status of each component, and what `/ready` and `/metrics` say.

- A process is ready when every pipeline in it runs, has spoken within `STALE_AFTER_MS` and is behind by less than
  `lag_seconds_max` on every topic. Ingress and egress are told and do not count: nobody waits for this process's.
- A pipeline that starts, restores, waits for the log, is paused or stopped does not run. One whose lag is not known,
  as that of partitions that came a moment ago, is not ready.
- A component is stuck when its thread does not come back from a step or a call, or it should speak and is silent.
- Metrics of pipelines are the engine's (`headrace.engine.metrics`); those of ingress and egress are here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headrace.engine.metrics import EngineMetrics
from headrace.workspace.runtime import Component
from headrace.workspace.status import STALE_AFTER_MS, ComponentKind, ComponentState, ComponentStatus

READY_LAG_SECONDS_MAX = 30.0
"""A process that is behind by more is still catching up: long for a commit interval, short for a restart."""

SPEAKING = frozenset(
    {
        ComponentState.RESTORING,
        ComponentState.RUNNING,
        ComponentState.WAITING,
        ComponentState.PAUSED,
        ComponentState.STANDBY,
    }
)
"""States in which a component says something every second."""

SOURCE_LOG = {
    "behind_bytes": ("headrace_source_log_behind_bytes", "Of the database's log: written, and not yet published."),
    "kept_bytes": ("headrace_source_log_kept_bytes", "Of the database's log: kept on its disk for the ingress."),
    "safe_bytes": (
        "headrace_source_log_safe_bytes",
        "That the database may write until it gives the ingress up; absent without a limit.",
    ),
    "behind_seconds": (
        "headrace_source_log_behind_seconds",
        "Age of the last commit that was published while others wait; 0 when none does.",
    ),
}
"""Metrics of what databases keep for an ingress, by field of the status: name and meaning."""

Key = tuple[ComponentKind, str]


@dataclass(frozen=True, slots=True)
class Readiness:
    """The answer of `/ready`."""

    reasons: Sequence[str]
    """Why the process is not ready; none when it is."""
    components: Sequence[dict[str, Any]]

    @property
    def is_ready(self) -> bool:
        return not self.reasons


class Health(Collector):
    """What the components of this process last said. Thread-safe."""

    def __init__(
        self,
        components: Sequence[Component],
        metrics: EngineMetrics,
        *,
        lag_seconds_max: float = READY_LAG_SECONDS_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock, self._lag_seconds_max = clock, lag_seconds_max
        self._latest: dict[Key, ComponentStatus | None] = {(each.kind, each.name): None for each in components}
        self.registry = CollectorRegistry()
        """Everything that `/metrics` shows."""
        self.registry.register(metrics)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def note(self, status: ComponentStatus) -> None:
        """This is how a component is now."""
        self._latest[status.kind, status.name] = status

    def readiness(self) -> Readiness:
        """Whether this process does its work, and why not."""
        reasons = [reason for key, status in self._all() for reason in self._reasons(key, status)]
        return Readiness(reasons, [_as_json(key, status) for key, status in self._all()])

    def stuck(self) -> list[str]:
        """Whose thread does not come back, in words."""
        found = []
        for (kind, name), status in self._all():
            if status is None:
                continue
            if status.is_stuck:
                found.append(f"{kind.value} {name!r}: {status.error}")
            elif status.state in SPEAKING and (silent_ms := self._silent_ms(status)) > STALE_AFTER_MS:
                found.append(f"{kind.value} {name!r} has said nothing for {silent_ms // 1000} s")
        return found

    def _silent_ms(self, status: ComponentStatus) -> int:
        return int(self._clock() * 1000) - status.written_at_ms

    def _all(self) -> list[tuple[Key, ComponentStatus | None]]:
        return list(self._latest.items())

    def _reasons(self, key: Key, status: ComponentStatus | None) -> Iterator[str]:
        kind, name = key
        if kind is not ComponentKind.PIPELINE:
            return
        if status is None:
            yield f"pipeline {name!r} has not started"
            return
        if status.state is not ComponentState.RUNNING:
            yield f"pipeline {name!r} is {status.state.value}" + (f": {status.error}" if status.error else "")
            return
        silent_ms = self._silent_ms(status)
        if silent_ms > STALE_AFTER_MS:
            yield f"pipeline {name!r} has said nothing for {silent_ms // 1000} s"
        if status.tasks and not status.lag:
            yield f"pipeline {name!r}: its lag is not known"
        for topic, lag in status.lag.items():
            if lag.seconds is None:
                yield f"pipeline {name!r} has read nothing yet of topic {topic!r}, {lag.records} records behind"
            elif lag.seconds > self._lag_seconds_max:
                yield (
                    f"pipeline {name!r} is {lag.seconds:.0f} s behind on topic {topic!r}, more than"
                    f" {self._lag_seconds_max:g} s"
                )

    def collect(self) -> Iterator[Metric]:
        """States of all components, counters of ingress and egress."""
        states = GaugeMetricFamily(
            "headrace_component_state", "1 for the state that the component is in.", labels=["kind", "name", "state"]
        )
        labels = ["kind", "name"]
        records_in = CounterMetricFamily("headrace_connection_records_in", "Changes or records read.", labels=labels)
        records_out = CounterMetricFamily(
            "headrace_connection_records_out", "Records published, or rows written to the target.", labels=labels
        )
        letters = CounterMetricFamily(
            "headrace_connection_dead_letters", "Records sent to the dead-letter topic.", labels=labels
        )
        lags = GaugeMetricFamily(
            "headrace_connection_lag_records", "Records still to deliver.", labels=[*labels, "topic"]
        )
        logs = {field: GaugeMetricFamily(name, told, labels=labels) for field, (name, told) in SOURCE_LOG.items()}
        rows = GaugeMetricFamily(
            "headrace_snapshot_rows", "Rows read so far of a snapshot under way.", labels=[*labels, "table"]
        )
        for (kind, name), status in self._all():
            if status is None:
                continue
            for state in ComponentState:
                states.add_metric([kind.value, name, state.value], float(state is status.state))
            if kind is ComponentKind.PIPELINE:
                continue
            records_in.add_metric([kind.value, name], status.records_in)
            records_out.add_metric([kind.value, name], status.records_out)
            letters.add_metric([kind.value, name], status.dead_letters)
            for topic, lag in status.lag.items():
                lags.add_metric([kind.value, name, topic], lag.records)
            for table, count in status.snapshots.items():
                rows.add_metric([kind.value, name, table], count)
            for field, family in logs.items():
                value = None if status.source_log is None else getattr(status.source_log, field)
                if value is not None:
                    family.add_metric([kind.value, name], value)
        yield from (states, records_in, records_out, letters, lags, rows, *logs.values())


def _as_json(key: Key, status: ComponentStatus | None) -> dict[str, Any]:
    kind, name = key
    lag = {} if status is None else status.lag
    return {
        "kind": kind.value,
        "name": name,
        "state": "not started" if status is None else status.state.value,
        "error": None if status is None else status.error,
        "lag": {topic: each.model_dump() for topic, each in lag.items()},
    }
