"""When staged rows are flushed: the bounds of count, bytes and age; pauses, stops and the rate."""

from __future__ import annotations

import time

from headrace.egress.sdk import Mode
from headrace.testing.sink_harness import PARTITIONS, Stage, order, wait_until
from tests.egress.conftest import MakeConfig
from tests.egress.memory_target import MemoryConnector, Target

LONG_MS = 3_600_000


def test_no_flush_holds_more_rows_than_allowed(stage: Stage, make_config: MakeConfig) -> None:
    """`rows_max`: a backlog goes in flushes of about that size, none above it."""
    target = Target()
    stage.publish([order(number) for number in range(300)])
    stage.deliver(MemoryConnector(target), make_config(batch={"rows_max": 40, "age_max_ms": 50}))
    sizes = [len(flush) for flush in target.flushes]
    assert max(sizes) <= 40
    assert sum(sizes) == 300
    assert len(sizes) <= 300 / 40 * 3


def test_bytes_flush_before_rows_and_age_do(stage: Stage, make_config: MakeConfig) -> None:
    """`bytes_max`: large rows are flushed although neither count nor age is reached."""
    target = Target()
    runner = stage.runner(MemoryConnector(target), make_config(batch={"bytes_max": 100_000, "age_max_ms": LONG_MS}))
    with stage.running(runner):
        stage.publish([{"id": number, "customer": "c" * 60_000, "amount": None} for number in range(6)])
        wait_until(lambda: len(target.rows) >= 4, "flushed")


def test_rows_wait_no_longer_than_their_age(stage: Stage, make_config: MakeConfig) -> None:
    """`age_max_ms`: a single row goes without company, and not before its time."""
    target = Target()
    runner = stage.runner(MemoryConnector(target), make_config(batch={"age_max_ms": 300}))
    with stage.running(runner):
        stage.publish([order(1)])
        wait_until(lambda: target.ids == [1], "flushed")
    assert target.times("flush")[0] - target.times("write")[0] >= 0.3


def test_a_stop_flushes_what_is_staged(stage: Stage, make_config: MakeConfig) -> None:
    """Rows below every bound stay staged, and go when the egress stops: its successor has nothing to repeat."""
    target = Target()
    runner = stage.runner(MemoryConnector(target), make_config(batch={"age_max_ms": LONG_MS}))
    with stage.running(runner):
        stage.publish([order(number) for number in range(10)])
        wait_until(lambda: target.times("write") != [], "staged")
        assert target.flushes == []
        assert runner.status().positions == {}
    assert target.ids == sorted(row["id"] for flush in target.flushes for row in flush)
    assert target.positions
    assert runner.status().state == "stopped"


def test_pause_delivers_what_is_staged_and_then_nothing(stage: Stage, make_config: MakeConfig) -> None:
    """`pause` flushes first; while paused nothing is written; `resume` goes on without a gap or a double."""
    target = Target()
    runner = stage.runner(MemoryConnector(target), make_config(batch={"age_max_ms": 100}))
    with stage.running(runner):
        stage.publish([order(number) for number in range(10)])
        wait_until(lambda: target.ids == list(range(10)), "delivered")
        runner.pause()
        wait_until(lambda: runner.status().state == "paused", "paused")
        stage.publish([order(number) for number in range(10, 20)])
        written = len(target.times("write"))
        probe = time.monotonic() + 0.4
        wait_until(lambda: time.monotonic() > probe, "twice as long as a poll waits")
        assert len(target.times("write")) == written
        runner.resume()
        wait_until(lambda: stage.is_delivered(runner), "delivered")
    assert target.ids == list(range(20))


def test_the_rate_is_not_exceeded(stage: Stage, make_config: MakeConfig) -> None:
    """`rows_per_second_max: 100`: 60 rows take longer than half a second."""
    target = Target()
    stage.publish([order(number) for number in range(60)])
    began = time.monotonic()
    stage.deliver(MemoryConnector(target), make_config(rows_per_second_max=100, batch={"rows_max": 10}))
    assert time.monotonic() - began >= 0.5
    assert target.ids == list(range(60))


def test_status_counts_what_happened(stage: Stage, make_config: MakeConfig) -> None:
    """Rows, deletions, filtered rows, flushes, positions, and a lag that falls to nothing."""
    target = Target()
    stage.publish([order(number) for number in range(30)])
    stage.delete([{"id": 3}, {"id": 4}])
    runner = stage.runner(MemoryConnector(target), make_config(Mode.REPLICATE, filter="amount < 20"))
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        wait_until(lambda: runner.status().lag_records == 0, "lag measured")
        status = runner.status()
    counters = status.counters
    assert (counters.records, counters.rows_written, counters.rows_filtered) == (32, 20, 10)
    assert counters.rows_deleted == 12, "the two deletions, and the ten rows that the filter keeps out"
    assert counters.flushes >= 1
    assert (status.name, status.topic, status.connector, len(status.positions)) == (
        "out",
        "orders",
        "memory",
        PARTITIONS,
    )
