"""How old records are when they are committed: held once, let go once, bounded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine import arrivals
from headrace.engine.arrivals import Arrivals, ages_s
from headrace.log.port import RecordBatch, TopicPartition

ORDERS_0, ORDERS_1, ORDERS_7 = (TopicPartition("orders", number) for number in (0, 1, 7))


def batch(records: Sequence[tuple[int, int, int]], topic: str = "orders") -> RecordBatch:
    """Records of partition, offset and time."""
    nothing = pa.nulls(len(records), pa.large_binary())
    return RecordBatch(
        topic,
        partition=np.array([partition for partition, _, _ in records], np.int32),
        offset=np.array([offset for _, offset, _ in records], np.int64),
        timestamp_ms=np.array([time_ms for _, _, time_ms in records], np.int64),
        key=nothing,
        value=nothing,
    )


def committed(held: Arrivals, **positions: int) -> list[int]:
    """Timestamps of what a commit at these offsets, by partition, lets go."""
    here = {TopicPartition("orders", int(name[1:])): offset for name, offset in positions.items()}
    return sorted(held.committed(here).get("orders", np.array([], np.int64)).tolist())


def test_a_commit_lets_go_of_what_lies_before_it() -> None:
    """Each record once, by its partition's offset, however batches and commits are cut."""
    held = Arrivals()
    held.note(batch([(0, 5, 50), (7, 0, 70), (0, 6, 60), (7, 1, 71)]))
    held.note(batch([(0, 9, 90)]))
    assert held.records == 5
    assert committed(held, p0=6, p7=0) == [50]
    assert committed(held, p0=10, p7=1) == [60, 70, 90]
    assert committed(held, p0=10, p7=1) == []
    assert held.records == 1


def test_topics_are_apart() -> None:
    """Timestamps come by topic."""
    held = Arrivals()
    held.note(batch([(0, 0, 10)]))
    held.note(batch([(0, 0, 20)], "customers"))
    found = held.committed({ORDERS_0: 1, TopicPartition("customers", 0): 1})
    assert {topic: times.tolist() for topic, times in found.items()} == {"orders": [10], "customers": [20]}


def test_records_read_again_count_once() -> None:
    """After a rebalance a partition may be read again from its commit while its rows still wait."""
    held = Arrivals()
    held.note(batch([(0, 0, 10), (0, 1, 11)]))
    held.note(batch([(0, 1, 11), (0, 2, 12)]))
    assert committed(held, p0=3) == [10, 11, 12]
    held.note(batch([(0, 2, 12), (0, 3, 13)]))
    assert committed(held, p0=4) == [13]


def test_after_an_abort_everything_is_read_again() -> None:
    """What was held is forgotten, what comes again is held again."""
    held = Arrivals()
    held.note(batch([(0, 0, 10), (1, 0, 11)]))
    held.rewind()
    assert held.records == 0
    held.note(batch([(0, 0, 10)]))
    assert committed(held, p0=1, p1=1) == [10]


def test_partitions_that_moved_away_are_forgotten() -> None:
    """Their records are another worker's; when they come back their offsets may be the same."""
    held = Arrivals()
    held.note(batch([(0, 0, 10), (1, 0, 11)]))
    held.forget([ORDERS_0])
    assert held.records == 1
    assert held.written_ms(ORDERS_0, 0) is None
    held.note(batch([(0, 0, 12)]))
    assert committed(held, p0=1, p1=1) == [11, 12]


def test_the_next_record_to_process_tells_its_time() -> None:
    """The first at or behind the position, in whichever batch it came; without one the last that was read."""
    held = Arrivals()
    assert held.written_ms(ORDERS_0, 0) is None
    held.note(batch([(0, 0, 10), (0, 4, 14)]))
    held.note(batch([(0, 5, 15)]))
    assert [held.written_ms(ORDERS_0, position) for position in (0, 1, 4, 5, 6)] == [10, 14, 14, 15, 15]
    assert held.written_ms(ORDERS_1, 0) is None


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound records are not measured; the last one's time is known all the same."""
    monkeypatch.setattr(arrivals, "RECORDS_HELD_MAX", 3)
    held = Arrivals()
    held.note(batch([(0, 0, 10), (0, 1, 11)]))
    held.note(batch([(0, 2, 12), (0, 3, 13)]))
    assert held.records == 2
    assert held.written_ms(ORDERS_0, 2) == 13
    assert committed(held, p0=4) == [10, 11]
    held.note(batch([(0, 4, 14)]))
    assert committed(held, p0=5) == [14]


def test_ages_are_never_negative() -> None:
    """A producer's clock that is ahead gives 0."""
    assert ages_s(np.array([1_000, 9_000], np.int64), 3.0).tolist() == [2.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), max_size=8))
def test_every_record_is_told_exactly_once(steps: Sequence[tuple[int, int]]) -> None:
    """Whatever is read before whichever commits: each record's time comes out of the commit that passes it."""
    held, read, done = Arrivals(), 0, 0
    for count, behind in steps:
        held.note(batch([(0, offset, 1_000 + offset) for offset in range(read, read + count)]))
        read += count
        position = max(read - behind, done)
        assert committed(held, p0=position) == [1_000 + offset for offset in range(done, position)]
        assert held.records == read - position
        done = position
