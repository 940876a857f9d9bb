"""What a worker says of itself: truthful states, restore progress, and what commits and aborts add to the metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from headrace.engine import watch
from headrace.engine.checkpoint import Checkpoint
from headrace.engine.lag import LagMeter
from headrace.engine.metrics import EngineMetrics
from headrace.engine.reporter import SPARE_AFTER_S, Reporter
from headrace.engine.settings import RestoreProgress, TopicLag, WorkerStatus
from headrace.engine.watch import Watch, Working
from headrace.log.port import Fenced, Log, TopicPartition, TransactionAborted
from tests.engine.harness import wait_until
from tests.engine.test_arrivals import batch

NOW_S = 1_800_000_000.0
ORDERS_0 = TopicPartition("orders", 0)


@dataclass
class Told:
    """A reporter whose clock is moved by hand, and everything that it said."""

    now_s: float = NOW_S
    statuses: list[WorkerStatus] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics = EngineMetrics(clock=lambda: self.now_s)
        self.lag = LagMeter(cast(Log, None))
        self.reporter = Reporter(
            "totals",
            "host-0",
            dropped=Counter(),
            lag=self.lag,
            metrics=self.metrics,
            on_status=self.statuses.append,
            clock=lambda: self.now_s,
        )

    @property
    def states(self) -> list[str]:
        return [each.state for each in self.statuses]

    def value(self, name: str, **labels: str) -> float | None:
        registry = CollectorRegistry()
        registry.register(self.metrics)
        return registry.get_sample_value(name, {"pipeline": "totals", **labels})


@pytest.fixture
def told() -> Told:
    return Told()


def test_it_runs_once_it_has_partitions(told: Told) -> None:
    """A member of the group that has no partitions yet is starting: nobody may take it for ready."""
    told.reporter.report(force=True)
    told.reporter.joined()
    told.now_s += SPARE_AFTER_S / 2
    told.reporter.look_for_partitions()
    assert set(told.states) == {"starting"}
    told.reporter.gained()
    assert told.states[-1] == "running"


def test_a_member_that_gets_none_runs_after_a_while(told: Told) -> None:
    """One more worker than partitions is no fault."""
    told.reporter.report(force=True)
    told.reporter.joined()
    told.now_s += SPARE_AFTER_S
    told.reporter.look_for_partitions()
    assert told.states[-1] == "running"
    told.reporter.joined()
    assert told.states[-1] == "starting"


def test_waiting_ends_in_what_was_before(told: Told) -> None:
    """A registry that answers again in the middle of a restore does not end the restore."""
    told.reporter.joined()
    told.reporter.on_way(0, 100)
    told.reporter.wait_for("no registry")
    told.reporter.wait_for(None)
    assert told.states[-3:] == ["restoring", "waiting", "restoring"]
    told.reporter.gained()
    told.reporter.wait_for("no broker")
    told.reporter.wait_for(None)
    assert told.states[-3:] == ["running", "waiting", "running"]


def test_restore_progress_adds_up_and_ends(told: Told) -> None:
    """Distances of several tasks are one; what is read twice does not go beyond the whole; afterwards there is none."""
    told.reporter.on_way(0, 100)
    told.reporter.on_way(40, 0)
    told.reporter.on_way(0, 50)
    assert told.reporter.status().restore == RestoreProgress(40, 150)
    told.reporter.restored("totals.window.changelog", 7)
    told.reporter.on_way(200, 0)
    assert told.reporter.status().restore == RestoreProgress(150, 150)
    assert told.reporter.status().records_restored == 7
    told.reporter.gained()
    assert told.reporter.status().restore is None


def test_nothing_to_restore_is_no_restore(told: Told) -> None:
    """Empty changelogs do not make a worker restoring."""
    told.reporter.joined()
    told.reporter.on_way(0, 0)
    assert told.reporter.state == "starting"


def test_the_lag_is_not_known_after_partitions_came(told: Told) -> None:
    """What was measured of others is forgotten at once."""
    told.lag.lag = {"orders": TopicLag(0, 0.0)}
    told.reporter.gained()
    assert told.reporter.status().lag == {}


def test_a_commit_tells_how_old_its_records_are(told: Told) -> None:
    """Records before the committed position, by topic; the others with the commit that passes them."""
    times_ms = [int((NOW_S - age_s) * 1000) for age_s in (0.9, 0.09, 0.04)]
    told.lag.note_read(batch([(0, offset, time_ms) for offset, time_ms in enumerate(times_ms)]))
    told.reporter.committed({ORDERS_0: Checkpoint(2)}, 0.01)
    age = "headrace_end_to_end_seconds"
    assert told.value(f"{age}_count", topic="orders") == 2
    assert told.value(f"{age}_bucket", topic="orders", le="0.1") == 1
    assert told.value(f"{age}_sum", topic="orders") == pytest.approx(0.99)
    told.reporter.committed({ORDERS_0: Checkpoint(3)}, 0.01)
    assert told.value(f"{age}_bucket", topic="orders", le="0.05") == 1
    assert told.value("headrace_commit_seconds_count") == 2
    assert told.reporter.status().commits == 2


def test_an_abort_is_counted_by_its_cause_and_measured_once(told: Told) -> None:
    """Fencing is one of them; records of an aborted transaction are measured when they are committed."""
    record = batch([(0, 0, int(NOW_S * 1000) - 50)])
    told.lag.note_read(record)
    told.reporter.aborted(TransactionAborted("again"), new_producer=False)
    told.reporter.aborted(Fenced("another one"), new_producer=True)
    told.reporter.aborted(None, new_producer=True)
    told.lag.note_read(record)
    told.reporter.committed({ORDERS_0: Checkpoint(1)}, 0.01)
    assert told.value("headrace_end_to_end_seconds_count", topic="orders") == 1
    status = told.reporter.status()
    assert (status.aborts, status.fenced, status.clients_anew["producer"]) == (3, 1, 2)


@contextmanager
def watched(told: Told, working: Working | None = None, stuck_after_s: float = 30.0) -> Iterator[None]:
    """Somebody looks on; the reporter has said something once."""
    told.reporter.report(force=True)
    look = Watch(stuck_after_s, lambda: working, told.reporter)
    try:
        yield
    finally:
        look.close()


def test_a_thread_that_does_not_come_back_is_told(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a step, and silent: as when a call to the log hangs."""
    monkeypatch.setattr(watch, "SILENT_AFTER_S", 0.1)
    with watched(told, stuck_after_s=0.1):
        wait_until(lambda: told.statuses[-1].is_stuck, "a word about it", 20)
    assert "has not come back" in told.statuses[-1].message


def test_a_step_at_work_is_no_silence(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status is renewed as it was, so that nobody takes the process for dead."""
    monkeypatch.setattr(watch, "SILENT_AFTER_S", 0.1)
    with watched(told, ("window", time.monotonic())):
        wait_until(lambda: len(told.statuses) > 1, "a renewed status", 20)
    assert (told.statuses[-1].state, told.statuses[-1].is_stuck) == ("starting", False)


def test_waiting_with_a_reason_is_no_silence(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tries of a call a worker says nothing for seconds; its reason stands."""
    monkeypatch.setattr(watch, "SILENT_AFTER_S", 0.1)
    told.reporter.wait_for("no broker")
    with watched(told, stuck_after_s=0.1):
        count = len(told.statuses)
        wait_until(lambda: len(told.statuses) > count, "a renewed status", 20)
    assert (told.statuses[-1].message, told.statuses[-1].is_stuck) == ("no broker", False)
