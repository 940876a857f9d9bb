"""A target that is away for an hour, on a clock that the waits move: no test sleeps for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from headrace.egress.runner import EgressRunner
from headrace.egress.sdk import TargetUnavailable
from headrace.egress.status import EgressStatus
from headrace.engine.metrics import EngineMetrics
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import RebalanceListener, RecordBatch, TopicPartition
from headrace.testing.sink_harness import WORKSPACE, Stage, order, order_contract, wait_until
from headrace.workspace.health import Health
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus
from tests.egress.conftest import MakeConfig
from tests.egress.memory_target import MemoryConnector, Target

HOUR_S = 3_600.0
ROWS_MAX = 50
BEFORE, MEANWHILE = 30, 400


@dataclass
class Clock:
    """Stands still until somebody waits, and at `until_s` altogether."""

    now_s: float = 0.0
    until_s: float = math.inf

    def __call__(self) -> float:
        return self.now_s

    def wait(self, timeout_s: float) -> None:
        if self.now_s >= self.until_s:
            time.sleep(0.001)
        else:
            self.now_s += timeout_s


@dataclass
class Seen:
    """What the consumer was asked and told, and how the egress stood meanwhile."""

    polled_s: list[float] = field(default_factory=list)
    records: int = 0
    records_while_waiting: int = 0
    rebalances: list[tuple[str, int]] = field(default_factory=list)
    status: Callable[[], EgressStatus] | None = None
    statuses: list[tuple[float, EgressStatus]] = field(default_factory=list)


class PassingConsumer:
    """A consumer of whose waits the clock knows and nobody else."""

    def __init__(self, inner: Any, clock: Clock, seen: Seen) -> None:
        self._inner, self._clock, self._seen = inner, clock, seen
        self._is_paused = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._is_paused = True
        self._inner.pause(partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._is_paused = False
        self._inner.resume(partitions)

    def subscribe(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        def told(what: str, callback: Callable[[Sequence[TopicPartition]], None]) -> Any:
            def call(partitions: Sequence[TopicPartition]) -> None:
                self._seen.rebalances.append((what, len(partitions)))
                callback(partitions)

            return call

        self._inner.subscribe(
            topics,
            RebalanceListener(
                told("assigned", listener.assigned), told("revoked", listener.revoked), told("lost", listener.lost)
            ),
        )

    def poll(self, records_max: int, timeout_s: float) -> Sequence[RecordBatch]:
        seen = self._seen
        batches: Sequence[RecordBatch] = self._inner.poll(records_max, 0.0)
        seen.polled_s.append(self._clock.now_s)
        count = sum(map(len, batches))
        seen.records += count
        seen.records_while_waiting += count if self._is_paused else 0
        if not count:
            self._clock.wait(timeout_s)
        if seen.status is not None and len(seen.polled_s) % 50 == 0:
            seen.statuses.append((self._clock.now_s, seen.status()))
        return batches


class PassingLog:
    """An embedded log with such consumers."""

    def __init__(self, inner: EmbeddedLog, clock: Clock, seen: Seen) -> None:
        self._inner, self._clock, self._seen = inner, clock, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def consumer(self, **arguments: Any) -> Any:
        consumer = self._inner.consumer(**arguments)
        return PassingConsumer(consumer, self._clock, self._seen) if "group" in arguments else consumer


@dataclass
class Outage:
    """One run: some rows, then an hour without the target while more come, then the rest."""

    clock: Clock
    seen: Seen
    target: Target
    stage: Stage
    runner: EgressRunner
    attempts_s: list[float]
    began_s: float
    delivered_s: float


@contextmanager
def outage(folder: Path, make_config: MakeConfig, call: str) -> Iterator[Outage]:
    clock, seen, target = Clock(), Seen(), Target()
    attempts_s: list[float] = []
    flushed_s: list[float] = []
    away = threading.Event()
    stage = Stage(folder, order_contract(), log=PassingLog(EmbeddedLog(folder / "log.db"), clock, seen))  # type: ignore[arg-type]
    config = make_config(batch={"rows_max": ROWS_MAX, "age_max_ms": 20}, retry={}, breaker={})
    runner = EgressRunner(
        config, MemoryConnector(target), stage.contract, stage.log, stage.registry, WORKSPACE, clock=clock
    )
    began_s: list[float] = []

    def fault(now: str) -> None:
        if now == "flushed":
            flushed_s.append(clock.now_s)
        if now == call and away.is_set():
            began_s.append(clock.now_s)
            if clock.now_s - began_s[0] < HOUR_S:
                attempts_s.append(clock.now_s)
                raise TargetUnavailable("nobody answers")

    target.fault = fault
    try:
        with stage.running(runner):
            stage.publish([order(number) for number in range(BEFORE)])
            wait_until(lambda: len(target.rows) == BEFORE, "delivered")
            clock.until_s = clock.now_s + 200
            away.set()
            if call == "open":
                runner.pause()
                wait_until(lambda: runner.status().state == "paused", "paused")
                runner.resume()
            seen.records = seen.records_while_waiting = 0
            seen.status = runner.status
            for start in range(BEFORE, BEFORE + MEANWHILE, 100):
                stage.publish([order(number) for number in range(start, start + 100)])
            # Nobody waits so long for the rows to be published that the hour is over before.
            clock.until_s = math.inf
            wait_until(lambda: len(target.rows) == BEFORE + MEANWHILE, "everything", deadline_s=60)
            rebalances = list(seen.rebalances)
        seen.rebalances = rebalances
        yield Outage(clock, seen, target, stage, runner, attempts_s, began_s[0], flushed_s[-1])
    finally:
        stage.close()


@pytest.mark.parametrize("call", ["open", "flush"])
def test_a_target_that_is_away_for_an_hour(tmp_path: Path, make_config: MakeConfig, call: str) -> None:
    """Whether it cannot be opened or takes nothing: few attempts, nothing kept, the place in the group kept, the state
    told with its lag and the next attempt; then every row once and in order, and no dead letter."""
    with outage(tmp_path, make_config, call) as seen:
        # Ten quick ones, then one a minute.
        assert 10 + 55 <= len(seen.attempts_s) <= 10 + HOUR_S / 60
        assert sum(each - seen.began_s < 120 for each in seen.attempts_s) <= 12
        assert seen.seen.records <= (len(seen.attempts_s) + 1) * ROWS_MAX + MEANWHILE
        assert seen.seen.records_while_waiting == 0
        polled_s = [each for each in seen.seen.polled_s if each >= seen.began_s]
        assert max(after - before for before, after in pairwise(polled_s)) <= 0.11
        assert seen.seen.rebalances == [("assigned", 3)]
        _check_what_was_told(seen)
        assert seen.target.ids == list(range(BEFORE + MEANWHILE))
        assert seen.target.positions == seen.stage.ends()
        assert seen.stage.records(seen.runner.config.dead_letter_topic) == []
        assert seen.runner.counters.retries == len(seen.attempts_s)
        assert seen.delivered_s - seen.began_s < HOUR_S + 65
        assert seen.runner.status().breaker == "closed"


def test_a_process_that_starts_meanwhile_tells_the_lag(stage: Stage, make_config: MakeConfig) -> None:
    """The target was never open in this process: the group's offsets tell what is still to deliver."""
    target = Target()
    stage.publish([order(number) for number in range(BEFORE)])
    stage.deliver(MemoryConnector(target), make_config())
    stage.publish([order(number) for number in range(MEANWHILE)])

    def away(call: str) -> None:
        if call == "open":
            raise TargetUnavailable("nobody answers")

    target.fault = away
    runner = stage.runner(MemoryConnector(target), make_config())
    with stage.running(runner):
        wait_until(lambda: runner.status().lag_records is not None, "the lag is told")
        assert runner.status().lag_records == MEANWHILE


def _check_what_was_told(seen: Outage) -> None:
    waiting = [status for at_s, status in seen.seen.statuses if 300 < at_s - seen.began_s < HOUR_S - 10]
    assert len(waiting) > 500
    assert {status.state for status in waiting} == {"retrying"}
    (word,) = {status.error.code for status in waiting if status.error is not None}
    assert word == "egress.breaker_open"
    assert all("the next one in 60 s; the last: nobody answers" in str(status.error) for status in waiting)
    assert {status.breaker for status in waiting} <= {"open", "probing"}
    assert waiting[-1].lag_records == MEANWHILE


def test_the_worker_stays_up_meanwhile() -> None:
    """An egress that waits is neither stuck nor a reason not to be ready, however long."""
    now_s = [1_000.0]
    health = Health([], EngineMetrics(), clock=lambda: now_s[0])
    health.note(
        ComponentStatus(
            kind=ComponentKind.EGRESS,
            name="out",
            instance="host-0",
            environment="dev",
            state=ComponentState.RETRYING,
            started_at_ms=0,
            written_at_ms=1_000_000,
            error="egress.breaker_open",
        )
    )
    now_s[0] += HOUR_S
    assert health.stuck() == []
    assert health.readiness().is_ready
