"""How far behind a worker is: what is measured, what is bounded, and that asking never holds up the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.lag import ASK_INTERVAL_S, LagMeter
from headrace.engine.settings import TopicLag
from headrace.log.port import Log, LogUnavailable, RecordBatch, TopicPartition
from tests.engine.harness import wait_until

ORDERS_0, ORDERS_1 = TopicPartition("orders", 0), TopicPartition("orders", 1)
CUSTOMERS_0 = TopicPartition("customers", 0)
NOW_S = 1_800_000_000.0
TIMESTAMP_PRECISION_S = 0.001


@dataclass
class Ends:
    """A log that knows end offsets only. While `may_answer` is clear its answers wait."""

    ends: dict[TopicPartition, int] = field(default_factory=dict)
    may_answer: threading.Event = field(default_factory=threading.Event)
    fails: bool = False
    questions: int = 0
    closed: int = 0

    def __post_init__(self) -> None:
        self.may_answer.set()

    def admin(self) -> Ends:
        return self

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.questions += 1
        assert self.may_answer.wait(20)
        if self.fails:
            raise LogUnavailable("no broker")
        return {each: self.ends[each] for each in partitions if each in self.ends}

    def close(self) -> None:
        self.closed += 1


class Meter:
    """A meter whose clock stands still while an answer is on its way."""

    def __init__(self, log: Ends) -> None:
        self.log = log
        self.meter = LagMeter(cast(Log, log))
        self.now_s = NOW_S

    def lag(
        self, positions: Mapping[TopicPartition, int], *, after_s: float = ASK_INTERVAL_S
    ) -> Mapping[str, TopicLag]:
        """Ask `after_s` later, and wait until the answer is taken in."""
        self.now_s += after_s
        before = self.meter.lag

        def measured() -> bool:
            self.meter.measure(lambda: positions, self.now_s)
            return self.meter.lag is not before

        wait_until(measured, "an answer", 20)
        return self.meter.lag

    def read(self, partition: TopicPartition, *times_s: float) -> None:
        self.meter.note_read(batch(partition.topic, [(partition.partition, each) for each in times_s]))


def batch(topic: str, records: Sequence[tuple[int, float]]) -> RecordBatch:
    """Records of partition and time; nothing else of them counts."""
    count = len(records)
    nothing = pa.nulls(count, pa.large_binary())
    return RecordBatch(
        topic,
        partition=np.array([partition for partition, _ in records], np.int32),
        offset=np.arange(count, dtype=np.int64),
        timestamp_ms=np.array([round(time_s * 1000) for _, time_s in records], np.int64),
        key=nothing,
        value=nothing,
    )


def test_records_are_the_way_to_the_end_summed_by_topic() -> None:
    """Each topic's lag is the sum over its partitions; one that is past the end it asked for counts as none."""
    meter = Meter(Ends({ORDERS_0: 100, ORDERS_1: 50, CUSTOMERS_0: 7}))
    lag = meter.lag({ORDERS_0: 90, ORDERS_1: 45, CUSTOMERS_0: 8})
    assert {topic: each.records for topic, each in lag.items()} == {"orders": 15, "customers": 0}
    assert lag["customers"].seconds == 0.0


def test_seconds_are_the_age_of_the_last_record_read() -> None:
    """What is left was written after it. The last record of each partition in the batch counts, not the newest time."""
    meter = Meter(Ends({ORDERS_0: 10, ORDERS_1: 10}))
    meter.meter.note_read(batch("orders", [(0, NOW_S - 5), (1, NOW_S - 9), (0, NOW_S - 40), (1, NOW_S - 8)]))
    assert meter.lag({ORDERS_0: 2, ORDERS_1: 2}, after_s=0) == {"orders": TopicLag(16, 40.0)}
    meter.read(ORDERS_0, NOW_S - 3)
    assert meter.lag({ORDERS_0: 3, ORDERS_1: 2})["orders"].seconds == 8.0 + ASK_INTERVAL_S


def test_seconds_are_bounded_by_the_time_since_the_end_was_seen() -> None:
    """The first record after a quiet hour is as old as the last look at most, whatever was read before."""
    log = Ends({ORDERS_0: 10})
    meter = Meter(log)
    meter.read(ORDERS_0, NOW_S - 3600)
    assert meter.lag({ORDERS_0: 10}) == {"orders": TopicLag(0, 0.0)}
    log.ends[ORDERS_0] = 11
    assert meter.lag({ORDERS_0: 10}, after_s=4.0) == {"orders": TopicLag(1, 4.0)}


def test_nothing_read_yet_is_not_known() -> None:
    """A partition that has records and was never read nor seen at its end has no age, and so has its topic."""
    meter = Meter(Ends({ORDERS_0: 10, ORDERS_1: 10}))
    meter.read(ORDERS_0, NOW_S - 1)
    assert meter.lag({ORDERS_0: 5, ORDERS_1: 0}) == {"orders": TopicLag(15, None)}


def test_a_record_from_the_future_is_no_lag() -> None:
    """A producer's clock that is ahead gives 0, never less."""
    meter = Meter(Ends({ORDERS_0: 10}))
    meter.read(ORDERS_0, NOW_S + 1000)
    assert meter.lag({ORDERS_0: 5})["orders"].seconds == 0.0


def test_partitions_that_moved_away_are_forgotten() -> None:
    """When a partition comes back its old times no longer count."""
    meter = Meter(Ends({ORDERS_0: 10}))
    meter.read(ORDERS_0, NOW_S - 5)
    meter.lag({ORDERS_0: 10})
    meter.meter.forget([ORDERS_0, CUSTOMERS_0])
    assert meter.lag({ORDERS_0: 5}) == {"orders": TopicLag(5, None)}


def test_a_record_that_waits_is_as_old_as_itself() -> None:
    """Records that were read and wait for another input: the next one to process counts, not the last one read."""
    meter = Meter(Ends({ORDERS_0: 3}))
    meter.meter.note_read(batch("orders", [(0, NOW_S - 90), (0, NOW_S - 60), (0, NOW_S - 5)]))
    assert meter.lag({ORDERS_0: 0}, after_s=0) == {"orders": TopicLag(3, 90.0)}
    assert meter.lag({ORDERS_0: 1}, after_s=10) == {"orders": TopicLag(2, 70.0)}


def test_partitions_that_came_make_the_lag_unknown_until_it_is_theirs_too() -> None:
    """A rebalance: what was known of the old partitions says nothing of a backlog in the new ones."""
    log = Ends({ORDERS_0: 10, ORDERS_1: 5_000})
    meter = Meter(log)
    assert meter.lag({ORDERS_0: 10}) == {"orders": TopicLag(0, 0.0)}
    meter.meter.ask_again()
    assert meter.meter.lag == {}
    assert meter.lag({ORDERS_0: 10, ORDERS_1: 0}, after_s=0)["orders"].records == 5_000


def test_partitions_that_came_while_the_question_was_on_its_way() -> None:
    """The answer lacks them: nothing is known, and the next question follows at once."""
    log = Ends({ORDERS_0: 10, ORDERS_1: 5_000})
    meter = LagMeter(cast(Log, log))
    log.may_answer.clear()
    meter.measure(lambda: {ORDERS_0: 10}, NOW_S)
    log.may_answer.set()

    def looked() -> bool:
        meter.measure(lambda: {ORDERS_0: 10, ORDERS_1: 0}, NOW_S)
        assert meter.lag in ({}, {"orders": TopicLag(5_000, None)})
        return bool(meter.lag)

    wait_until(looked, "an answer", 20)
    assert log.questions == 2


def test_without_partitions_there_is_no_lag_and_no_question() -> None:
    """A worker without tasks does not ask."""
    log = Ends()
    assert Meter(log).lag({}) == {}
    assert log.questions == 0


def test_one_question_an_interval() -> None:
    """However often the worker passes, the log is asked once per interval, and each connection is closed."""
    log = Ends({ORDERS_0: 10})
    meter = Meter(log)
    meter.lag({ORDERS_0: 1})
    for step in range(10):
        meter.meter.measure(lambda: {ORDERS_0: 1}, meter.now_s + step * ASK_INTERVAL_S / 10)
    assert (log.questions, log.closed) == (1, 1)


def test_a_slow_log_holds_nothing_up() -> None:
    """While an answer is due, passes return at once, ask nothing more and keep the lag that is known."""
    log = Ends({ORDERS_0: 10})
    meter = Meter(log)
    known = meter.lag({ORDERS_0: 1})
    log.may_answer.clear()
    began_s = time.monotonic()
    for _ in range(50):
        meter.now_s += ASK_INTERVAL_S
        meter.meter.measure(lambda: {ORDERS_0: 2}, meter.now_s)
    assert time.monotonic() - began_s < 5
    assert log.questions == 2
    assert meter.meter.lag is known
    log.may_answer.set()
    assert meter.lag({ORDERS_0: 2}) == {"orders": TopicLag(8, None)}


def test_a_failed_question_leaves_nothing_known() -> None:
    """After an error the lag is empty, not the old one; the next question is asked all the same."""
    log = Ends({ORDERS_0: 10})
    meter = Meter(log)
    assert meter.lag({ORDERS_0: 1})
    log.fails = True
    assert meter.lag({ORDERS_0: 1}) == {}
    log.fails = False
    assert meter.lag({ORDERS_0: 1})["orders"].records == 9
    assert log.closed == log.questions == 3


def test_close_waits_for_an_open_question() -> None:
    """No thread of the meter is left when an answer comes; without a question `close` does nothing."""
    log = Ends({ORDERS_0: 10})
    log.may_answer.clear()
    meter = LagMeter(cast(Log, log))
    meter.close()
    meter.measure(lambda: {ORDERS_0: 1}, NOW_S)
    log.may_answer.set()
    with closing(meter):
        pass
    assert not any(thread.name == "lag" for thread in threading.enumerate())


@dataclass
class Partition:
    """A partition that is written and read while time passes."""

    written_s: list[float] = field(default_factory=list)
    position: int = 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 3)),
        st.tuples(st.just("read"), st.integers(1, 3)),
        st.tuples(st.just("pass"), st.floats(0.1, 100)),
        st.tuples(st.just("measure"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_seconds_never_tell_less_than_the_oldest_record_is_old(steps: Sequence[tuple[str, Any]]) -> None:
    """Records stamped when they are written, in any order of writing, reading and looking."""
    log, partition = Ends(), Partition()
    meter = Meter(log)
    for what, value in [*steps, ("measure", 0)]:
        match what:
            case "write":
                partition.written_s += [meter.now_s] * value
            case "read":
                read = partition.written_s[partition.position : partition.position + value]
                partition.position += len(read)
                if read:
                    meter.read(ORDERS_0, *read)
            case "pass":
                meter.now_s += value
            case "measure":
                log.ends = {ORDERS_0: len(partition.written_s)}
                lag = meter.lag({ORDERS_0: partition.position})["orders"]
                left = partition.written_s[partition.position :]
                assert lag.records == len(left)
                if not left:
                    assert lag.seconds == 0.0
                elif lag.seconds is not None:
                    assert lag.seconds >= meter.now_s - left[0] - TIMESTAMP_PRECISION_S
