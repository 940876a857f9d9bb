"""Readiness and metrics of one process, by what its components say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from headrace.engine.metrics import EngineMetrics
from headrace.workspace.health import READY_LAG_SECONDS_MAX, Health
from headrace.workspace.runtime import Report
from headrace.workspace.status import (
    STALE_AFTER_MS,
    ComponentKind,
    ComponentState,
    ComponentStatus,
    SourceLogStatus,
    TopicLag,
)

NOW_S = 1_800_000_000.0


@dataclass
class Named:
    """A component of which only kind and name matter."""

    name: str
    kind: ComponentKind = ComponentKind.PIPELINE
    runs_once: bool = False

    def run(self, stop: Any, report: Report) -> None:
        raise AssertionError("nothing runs here")


TOTALS = Named("totals")
PLANES = Named("planes", ComponentKind.INGRESS)
DELAYS = Named("delays", ComponentKind.EGRESS)


def health(*components: Named) -> Health:
    return Health(components, EngineMetrics(), clock=lambda: NOW_S)


def status(component: Named = TOTALS, **changes: Any) -> ComponentStatus:
    values: dict[str, Any] = {
        "kind": component.kind,
        "name": component.name,
        "instance": "host-0",
        "environment": "dev",
        "state": ComponentState.RUNNING,
        "started_at_ms": 0,
        "written_at_ms": int(NOW_S * 1000) - 500,
        "tasks": ("0_0",),
        "lag": {"orders": TopicLag(records=0, seconds=0.0)},
        "snapshots": {"planes": 1},
    }
    return ComponentStatus.model_validate(values | changes)


def test_ready_when_every_pipeline_runs_and_is_near() -> None:
    """Not before each has spoken; then the answer tells all components."""
    found = health(TOTALS, Named("best"))
    assert not found.readiness().is_ready
    found.note(status())
    assert list(found.readiness().reasons) == ["pipeline 'best' has not started"]
    found.note(status(Named("best")))
    readiness = found.readiness()
    assert readiness.is_ready
    assert [each["name"] for each in readiness.components] == ["totals", "best"]
    assert readiness.components[0]["lag"] == {"orders": {"records": 0, "seconds": 0.0}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": ComponentState.RESTORING}, "pipeline 'totals' is restoring"),
        ({"state": ComponentState.STARTING, "tasks": (), "lag": {}}, "pipeline 'totals' is starting"),
        ({"state": ComponentState.PAUSED}, "pipeline 'totals' is paused"),
        ({"state": ComponentState.STOPPED}, "pipeline 'totals' is stopped"),
        ({"state": ComponentState.WAITING, "error": "no broker"}, "pipeline 'totals' is waiting: no broker"),
        ({"state": ComponentState.FAILED, "error": "no topic"}, "pipeline 'totals' is failed: no topic"),
        ({"written_at_ms": int(NOW_S * 1000) - STALE_AFTER_MS - 1000}, "pipeline 'totals' has said nothing for 11 s"),
        ({"lag": {}}, "pipeline 'totals': its lag is not known"),
        (
            {"lag": {"orders": {"records": 9, "seconds": None}}},
            "pipeline 'totals' has read nothing yet of topic 'orders', 9 records behind",
        ),
        (
            {"lag": {"orders": {"records": 9, "seconds": READY_LAG_SECONDS_MAX + 1}}},
            "pipeline 'totals' is 31 s behind on topic 'orders', more than 30 s",
        ),
    ],
)
def test_each_reason_not_to_be_ready(changes: dict[str, Any], reason: str) -> None:
    """In words, and gone as soon as the component is well again."""
    found = health(TOTALS)
    found.note(status(**changes))
    assert list(found.readiness().reasons) == [reason]
    found.note(status())
    assert found.readiness().is_ready


def test_a_worker_without_tasks_is_ready() -> None:
    """More workers than partitions: the spare ones have no lag to know."""
    found = health(TOTALS)
    found.note(status(tasks=(), lag={}))
    assert found.readiness().is_ready


def test_a_thread_that_does_not_come_back_is_told() -> None:
    """By its own watch, or by its silence; components that rest, or failed, are silent for good reason."""
    silent_ms = int(NOW_S * 1000) - STALE_AFTER_MS - 1000
    found = health(TOTALS, PLANES, DELAYS)
    found.note(status())
    found.note(status(DELAYS, state=ComponentState.FAILED, written_at_ms=silent_ms))
    assert found.stuck() == []
    found.note(status(state=ComponentState.WAITING, is_stuck=True, error="step 'map' has not returned for 40 s"))
    found.note(status(PLANES, written_at_ms=silent_ms))
    assert found.stuck() == [
        "pipeline 'totals': step 'map' has not returned for 40 s",
        "ingress 'planes' has said nothing for 11 s",
    ]


def test_ingress_and_egress_do_not_count() -> None:
    """One that failed is told in the body, and the process is ready all the same."""
    found = health(TOTALS, PLANES, DELAYS)
    found.note(status())
    found.note(status(DELAYS, state=ComponentState.FAILED, error="disk full"))
    readiness = found.readiness()
    assert readiness.is_ready
    by_name = {each["name"]: each for each in readiness.components}
    assert (by_name["delays"]["state"], by_name["delays"]["error"]) == ("failed", "disk full")
    assert by_name["planes"]["state"] == "not started"


def test_metrics_of_connections() -> None:
    """Counters of ingress and egress, lag by topic, what databases keep, and exactly one state of each component."""
    found = health(TOTALS, PLANES, DELAYS)
    found.note(status())
    log = SourceLogStatus(behind_bytes=10, kept_bytes=20, behind_seconds=1.5)
    more = {"source_log": log, "snapshots": {"planes": 7}}
    found.note(status(PLANES, records_in=12, records_out=11, dead_letters=1, **more))
    found.note(status(DELAYS, records_in=5, lag={"orders": TopicLag(records=3)}))

    def value(metric: str, /, **labels: str) -> float | None:
        return found.registry.get_sample_value(metric, labels)

    planes = {"kind": "ingress", "name": "planes"}
    assert value("headrace_connection_records_in_total", **planes) == 12
    assert value("headrace_connection_records_out_total", **planes) == 11
    assert value("headrace_connection_dead_letters_total", **planes) == 1
    assert value("headrace_source_log_behind_bytes", **planes) == 10
    assert value("headrace_source_log_kept_bytes", **planes) == 20
    assert value("headrace_source_log_safe_bytes", **planes) is None
    assert value("headrace_source_log_behind_seconds", **planes) == 1.5
    assert value("headrace_snapshot_rows", **planes, table="planes") == 7
    assert value("headrace_source_log_kept_bytes", kind="egress", name="delays") is None
    assert value("headrace_connection_lag_records", kind="egress", name="delays", topic="orders") == 3
    assert value("headrace_connection_records_in_total", kind="pipeline", name="totals") is None
    assert value("headrace_component_state", kind="pipeline", name="totals", state="running") == 1
    states = [value("headrace_component_state", **planes, state=each.value) for each in ComponentState]
    assert sorted(each or 0.0 for each in states) == [0.0] * (len(ComponentState) - 1) + [1.0]
