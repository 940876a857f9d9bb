"""Merging the inputs of a task."""

from __future__ import annotations

from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.input_queue import INDEX, OFFSET, Input, InputQueue
from headrace.engine.operator import PARTITION, SEQUENCE, TIME
from headrace.log.port import TopicPartition

STREAM, TABLE = "stream", "table"
HERE = {topic: TopicPartition(topic, 0) for topic in (STREAM, TABLE)}


def rows(times: list[int], start: int = 0, partition: int = 0) -> pl.DataFrame:
    """Rows of one partition with consecutive offsets."""
    return pl.DataFrame(
        {
            PARTITION: pl.Series([partition] * len(times), dtype=pl.Int32),
            TIME: pl.Series(times, dtype=pl.Int64),
            OFFSET: pl.Series(range(start, start + len(times)), dtype=pl.Int64),
            INDEX: pl.Series([0] * len(times), dtype=pl.Int64),
        }
    )


def queue(*, eager: bool = False, max_wait_ms: int = 1000) -> InputQueue:
    inputs = [Input(STREAM, is_table=False, is_eager=False), Input(TABLE, is_table=True, is_eager=eager)]
    return InputQueue(inputs, max_wait_ms=max_wait_ms)


def order(taken: dict[str, pl.DataFrame]) -> list[tuple[str, int]]:
    """Topic and offset of every row, in processing order."""
    found = [(row[SEQUENCE], topic, row[OFFSET]) for topic, frame in taken.items() for row in frame.to_dicts()]
    return [(topic, offset) for _, topic, offset in sorted(found)]


@settings(max_examples=200, deadline=None)
@given(
    stream=st.lists(st.integers(0, 20), max_size=12),
    table=st.lists(st.integers(0, 20), max_size=12),
    data=st.data(),
)
def test_the_merged_order_does_not_depend_on_how_rows_arrive(stream: list[int], table: list[int], data: Any) -> None:
    """Rows read in any pieces come out in the order of the running maxima of their times, tables first."""
    whole = queue()
    whole.add(STREAM, rows(stream), 0)
    whole.add(TABLE, rows(table), 0)
    expected = order(whole.take(HERE.values(), 0))
    pieces = queue()
    left = {STREAM: list(enumerate(stream)), TABLE: list(enumerate(table))}
    found: list[tuple[str, int]] = []
    while left[STREAM] or left[TABLE]:
        topic = data.draw(st.sampled_from([name for name in left if left[name]]))
        count = data.draw(st.integers(1, len(left[topic])))
        piece, left[topic] = left[topic][:count], left[topic][count:]
        pieces.add(topic, rows([time for _, time in piece], piece[0][0]), 0)
        # A partition is complete once everything of it was read.
        found += order(pieces.take([HERE[name] for name in left if not left[name]], 0))
    found += order(pieces.take(HERE.values(), 0))
    assert found == expected
    assert [offset for topic, offset in found if topic == STREAM] == list(range(len(stream)))


@settings(max_examples=200, deadline=None)
@given(
    stream=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), max_size=12),
    table=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), max_size=12),
    eager=st.booleans(),
)
def test_rows_of_several_partitions_come_in_the_order_of_each(
    stream: list[tuple[int, int]], table: list[tuple[int, int]], eager: bool
) -> None:
    """Whichever way rows of several partitions are numbered: numbers rise in each frame, are given once, and put the
    rows of each partition in the order of the running maxima of their times, tables first."""
    merged = queue(eager=eager)
    given = {STREAM: stream, TABLE: table}
    wanted: dict[int, list[tuple[int, int, str, int]]] = {0: [], 1: [], 2: []}
    for topic, pairs in given.items():
        reached = [0, 0, 0]
        for offset, (partition, time_ms) in enumerate(pairs):
            merged.add(topic, rows([time_ms], offset, partition), 0)
            reached[partition] = max(reached[partition], time_ms)
            merge_time = -1 if eager and topic == TABLE else reached[partition]
            wanted[partition].append((merge_time, int(topic == STREAM), topic, offset))
    taken = merged.take([TopicPartition(topic, n) for topic in given for n in range(3)], 0)
    found = sorted(
        (row[SEQUENCE], row[PARTITION], topic, row[OFFSET])
        for topic, frame in taken.items()
        for row in frame.to_dicts()
    )
    assert [number for number, *_ in found] == list(range(len(stream) + len(table)))
    assert all(frame[SEQUENCE].is_sorted() for frame in taken.values())
    for partition, expected in wanted.items():
        in_order = [(topic, offset) for _, _, topic, offset in sorted(expected)]
        assert [(topic, offset) for _, where, topic, offset in found if where == partition] == in_order


def test_a_stream_beside_tables_does_not_wait_for_itself() -> None:
    """Where the table has nothing left to say, the last rows of a batch go with the others: what the stream brings
    later goes behind them anyway. Whether the stream has more is not asked."""
    alone = queue(eager=True)
    alone.add(STREAM, pl.concat([rows([10, 20]), rows([30], partition=1)]), 0)
    ends = [TopicPartition(TABLE, 0), TopicPartition(TABLE, 1)]
    assert alone.holdups() == ends
    assert order(alone.take(ends, 0)) == [(STREAM, 0), (STREAM, 1), (STREAM, 0)]


def test_a_stream_beside_another_waits_for_rows_of_its_own_time() -> None:
    """Rows of one time of two streams are numbered together, whichever comes first."""
    inputs = [Input(name, is_table=False, is_eager=False) for name in (STREAM, TABLE)]
    both = InputQueue(inputs, max_wait_ms=1000)
    both.add(STREAM, rows([10]), 0)
    both.add(TABLE, rows([11]), 0)
    assert sorted(both.holdups()) == sorted(HERE.values())
    assert both.take([], 0) == {}
    assert order(both.take([HERE[STREAM]], 0)) == [(STREAM, 0)]


def test_rows_of_one_time_go_in_the_order_in_which_they_came() -> None:
    """Of two streams, where one ends at the time at which the other begins: who came first goes first there."""
    inputs = [Input(name, is_table=False, is_eager=False) for name in ("early", "late")]
    both = InputQueue(inputs, max_wait_ms=1000)
    both.add("late", rows([10, 12]), 0)
    both.add("early", rows([5, 10]), 0)
    found = order(both.take([TopicPartition(each.topic, 0) for each in inputs], 0))
    assert found == [("early", 0), ("late", 0), ("early", 1), ("late", 1)]


def test_a_stream_row_waits_for_a_table_that_may_still_say_something() -> None:
    """Without an answer from the table's partition the row stays; knowing its end lets it go."""
    waiting = queue()
    waiting.add(STREAM, rows([10]), 0)
    assert waiting.take([HERE[STREAM]], 0) == {}
    assert waiting.next_row(HERE[STREAM], behind=1) == (0, 0)
    assert order(waiting.take(HERE.values(), 1)) == [(STREAM, 0)]
    assert waiting.next_row(HERE[STREAM], behind=1) == (1, 0)


def test_a_table_that_had_no_turn_is_not_silent() -> None:
    """While polls come back full, records of the table may be there and unread: the row goes on waiting."""
    waiting = queue(max_wait_ms=100)
    waiting.add(STREAM, rows([10]), 0)
    waiting.note_more(90)
    assert waiting.take([HERE[STREAM]], 150) == {}
    assert order(waiting.take([HERE[STREAM]], 190)) == [(STREAM, 0)]


def test_a_silent_table_is_not_waited_for_longer_than_max_wait() -> None:
    """The wait is bounded by wall-clock time since the last row came."""
    waiting = queue(max_wait_ms=100)
    waiting.add(STREAM, rows([10]), 0)
    assert waiting.take([HERE[STREAM]], 99) == {}
    assert order(waiting.take([HERE[STREAM]], 100)) == [(STREAM, 0)]


def test_a_table_without_event_time_goes_before_the_stream() -> None:
    """Such a table is applied as it arrives, whatever its record times say."""
    waiting = queue(eager=True)
    waiting.add(STREAM, rows([10]), 0)
    waiting.add(TABLE, rows([1_000_000]), 0)
    assert order(waiting.take(HERE.values(), 0)) == [(TABLE, 0), (STREAM, 0)]


def test_one_input_alone_never_waits() -> None:
    """No partner, nothing to wait for."""
    alone = InputQueue([Input(STREAM, is_table=False, is_eager=False)], max_wait_ms=1000)
    alone.add(STREAM, rows([3, 1, 2]), 0)
    assert alone.holdups() == []
    assert order(alone.take([], 0)) == [(STREAM, 0), (STREAM, 1), (STREAM, 2)]


def test_forgotten_partitions_take_their_rows_along() -> None:
    """Rows of a partition that moved away are gone, others stay."""
    waiting = queue()
    waiting.add(STREAM, rows([1]), 0)
    waiting.add(STREAM, rows([1], partition=1), 0)
    waiting.forget([HERE[STREAM]])
    assert waiting.rows_waiting() == 1
    assert waiting.next_row(TopicPartition(STREAM, 1), behind=9) == (0, 0)


def test_the_input_that_is_behind_is_never_ahead() -> None:
    """With rows of both inputs waiting, only those that have come further are ahead, partition by partition: reading
    of the others goes on, or nobody would move."""
    inputs = queue()
    inputs.add(STREAM, pl.concat([rows([5, 50]), rows([50], partition=1)]), 0)
    inputs.add(TABLE, rows([10, 20]), 0)
    inputs.take([], 0)
    inputs.add(TABLE, rows([90], partition=2), 0)
    assert inputs.rows_waiting() == 3
    assert inputs.ahead() == {TopicPartition(STREAM, 0), TopicPartition(STREAM, 1), TopicPartition(TABLE, 2)}
    inputs.add(TABLE, rows([60], start=2), 0)
    assert inputs.ahead() == {TopicPartition(TABLE, 0), TopicPartition(STREAM, 1), TopicPartition(TABLE, 2)}
