"""Buffered stream-table join against a record-at-a-time reference."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.operator import DELETED, PARTITION, SEQUENCE, SOURCE, STREAM_TIME, SYSTEM_COLUMNS, TIME
from headrace.engine.operators.buffered_table_join import BufferedTableJoin
from headrace.flow.steps import BufferedTableJoinStep
from headrace.flow.values import Column
from tests.engine.operators.table_driver import PIECES, Driver, played

How = Literal["inner", "left"]
STREAM = {"v": pl.Int64(), "k": pl.String()}
TABLE = {"id": pl.String(), "value": pl.Int64()}
GRACE_MS, HISTORY_MS = 10, 1_000


@dataclass(frozen=True)
class Event:
    """One input record in arrival order."""

    side: str
    partition: int
    key: str | None
    value: int | None
    time_ms: int


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["stream", "stream", "table", "other"]),
        st.sampled_from([0, 0, 1]),
        st.sampled_from(["a", "a", "b", None]),
        st.one_of(st.none(), st.integers(0, 9)),
        st.sampled_from([0, 1, 2, 5, 9, 25, -1, -5, -10]),
    ),
    min_size=5,
    max_size=40,
)


def stepped(steps: list[tuple[str, int, str | None, int | None, int]]) -> list[Event]:
    """Events whose time goes forward, with some disorder. Those of `other` streams only move the task's time."""
    events, now_ms = [], 20
    for side, partition, key, value, step_ms in steps:
        now_ms = max(0, now_ms + step_ms)
        events.append(Event(side, partition, "a" if side == "table" and key is None else key, value, now_ms))
    return events


EVENTS = STEPS.map(stepped)


def make_join(how: How, grace_ms: int = GRACE_MS) -> BufferedTableJoin:
    """The operator."""
    step = BufferedTableJoinStep(
        name="join",
        inputs=("stream", "table"),
        columns=tuple(Column(name=n, type="string") for n in ("v", "k", "found")),
        on=(("k", "id"),),
        how=how,
        renames={"value": "found"},
        grace_ms=grace_ms,
        max_wait_ms=0,
        changelog="p.join.changelog",
        fingerprint="f",
    )
    return BufferedTableJoin(step, STREAM, TABLE, history_ms=HISTORY_MS)


Output = tuple[Any, ...]
"""(partition, k, v, found, time, stream time, offset of the source)."""


@dataclass
class Reference:
    """One record at a time, plainly."""

    how: How
    reached: dict[int, int] = field(default_factory=dict)
    waiting: list[tuple[Event, int, int]] = field(default_factory=list)
    """With stream time and place of arrival."""
    versions: dict[tuple[int, str | None], list[tuple[int, int, int | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    dropped: int = 0

    def take(self, number: int, event: Event) -> list[Output]:
        """What comes out by this record."""
        if event.side == "table":
            self.versions[event.partition, event.key].append((event.time_ms, number, event.value))
            return []
        now_ms = max(event.time_ms, self.reached.get(event.partition, event.time_ms))
        self.reached[event.partition] = now_ms
        if event.side == "other":
            return []
        out: list[tuple[Event, int, int]] = []
        if event.key is None and self.how == "inner":
            self.dropped += 1
        elif event.time_ms < now_ms - GRACE_MS:
            out.append((event, now_ms, number))
        else:
            self.waiting.append((event, now_ms, number))
        here = [each for each in self.waiting if each[0].partition == event.partition]
        due = [each for each in here if each[0].time_ms <= now_ms - GRACE_MS]
        self.waiting = [each for each in self.waiting if each not in due]
        # Polars puts null first.
        out += sorted(due, key=lambda each: (each[0].time_ms, each[0].key is not None, each[0].key or "", each[2]))
        return [row for each in out for row in self.joined(*each)]

    def joined(self, event: Event, stream_time_ms: int, number: int) -> list[Output]:
        versions = [each for each in self.versions[event.partition, event.key] if each[0] <= event.time_ms]
        found = max(versions, key=lambda each: each[:2])[2] if versions and event.key is not None else None
        if found is None and self.how == "inner":
            return []
        stream_time_ms = max(event.time_ms, stream_time_ms - GRACE_MS)
        return [(event.partition, event.key, event.value, found, event.time_ms, stream_time_ms, number)]


def frames(numbered: Sequence[tuple[int, Event]], reached: dict[int, int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both inputs of one call; `reached` is moved. A record's offset is its number."""
    stream, table = [], []
    for number, event in numbered:
        if event.side == "table":
            table.append((number, event, event.time_ms))
            continue
        reached[event.partition] = max(event.time_ms, reached.get(event.partition, event.time_ms))
        if event.side == "stream":
            stream.append((number, event, reached[event.partition]))
    return _frame(stream, STREAM, "k", "v"), _frame(table, TABLE, "id", "value").with_columns(
        pl.Series(DELETED, [event.value is None for _, event, _ in table], pl.Boolean)
    )


def _frame(rows: list[tuple[int, Event, int]], types: dict[str, Any], key: str, value: str) -> pl.DataFrame:
    columns = {
        key: [event.key for _, event, _ in rows],
        value: [event.value for _, event, _ in rows],
        PARTITION: [event.partition for _, event, _ in rows],
        TIME: [event.time_ms for _, event, _ in rows],
        STREAM_TIME: [stream_time_ms for _, _, stream_time_ms in rows],
        SEQUENCE: [number for number, _, _ in rows],
        SOURCE: [{"topic": "t", "partition": event.partition, "offset": number} for number, event, _ in rows],
    }
    schema = {**types, **SYSTEM_COLUMNS}
    return pl.DataFrame([pl.Series(name, columns[name], dtype) for name, dtype in schema.items()])


def outputs(frame: pl.DataFrame) -> list[Output]:
    """What came out."""
    assert frame[SEQUENCE].is_sorted()
    offset = pl.col(SOURCE).struct.field("offset")
    return frame.select(PARTITION, "k", "v", "found", TIME, STREAM_TIME, offset).rows()


class JoinDriver(Driver):
    """A driver whose table comes back from its topic."""

    def __init__(self, how: How) -> None:
        super().__init__(lambda: make_join(how))
        self.table_rows: list[pl.DataFrame] = []
        self.uncommitted: list[pl.DataFrame] = []

    def process(self, *inputs: pl.DataFrame) -> pl.DataFrame:
        self.uncommitted.append(inputs[1])
        return super().process(*inputs)

    def commit(self) -> pl.DataFrame:
        self.table_rows, self.uncommitted = [*self.table_rows, *self.uncommitted], []
        return super().commit()

    def rollback(self) -> None:
        self.uncommitted = []
        super().rollback()

    def restore(self) -> None:
        super().restore()
        self._load(None)

    def move(self, partition: int) -> None:
        self.operator.forget_table([partition])  # type: ignore[attr-defined]
        super().move(partition)
        self._load(partition)

    def _load(self, partition: int | None) -> None:
        for frame in self.table_rows:
            rows = frame if partition is None else frame.filter(pl.col(PARTITION) == partition)
            self.operator.load_table(rows)  # type: ignore[attr-defined]
        self.operator.commit()


@settings(max_examples=80, deadline=None)
@given(events=EVENTS, how=st.sampled_from(["inner", "left"]), pieces=PIECES)
def test_any_cut_restart_and_rollback_give_the_record_at_a_time_answer(
    events: list[Event], how: How, pieces: list[tuple[int, str]]
) -> None:
    """The same rows in the same order, whatever the pieces; each carries its source record."""
    reference = Reference(how)
    expected = [row for number, event in enumerate(events) for row in reference.take(number, event)]
    driver = JoinDriver(how)
    committed: list[Output] = []
    waiting: list[Output] = []
    done = 0
    reached_before: dict[int, dict[int, int]] = {0: {}}
    for first, last, what in played(driver, len(events), pieces):
        if first < done:
            waiting = []
        reached = dict(reached_before[first])
        numbered = list(enumerate(events))[first:last]
        waiting += outputs(driver.process(*frames(numbered, reached)))
        reached_before[last], done = reached, last
        if what == "commit":
            driver.commit()
            committed, waiting = committed + waiting, []
    found = committed + waiting
    for partition in (0, 1):
        assert [row for row in found if row[0] == partition] == [row for row in expected if row[0] == partition]
    assert driver.operator.keys_count() == {
        p: count for p in (0, 1) if (count := sum(each[0].partition == p for each in reference.waiting))
    }


def test_null_keys_of_an_inner_join_are_counted_and_kept() -> None:
    """As dead letters, when they come."""
    driver = JoinDriver("inner")
    driver.process(*frames([(0, Event("stream", 0, None, 1, 5))], {}))
    assert driver.context.dropped == {"null_key": 1}
    assert [(row["v"], error.code) for row, error in driver.context.dead] == [(1, "process.null_key")]


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, sizes=st.lists(st.integers(1, 4), min_size=5, max_size=12))
def test_output_keeps_its_promise_of_time(events: list[Event], sizes: list[int]) -> None:
    """No row comes out with a smaller stream time than was promised before it, also when the task's time is ahead."""
    driver = JoinDriver("left")
    reached: dict[int, int] = {}
    promised: dict[int, int] = {}
    at = 0
    for size in [*sizes, len(events)]:
        numbered = list(enumerate(events))[at : at + size]
        at += size
        frame = driver.process(*frames(numbered, reached))
        for partition, *_, time_ms, stream_time_ms, _ in outputs(frame):
            assert stream_time_ms >= max(time_ms, promised.get(partition, stream_time_ms))
        after = driver.operator.output_closing_ms(reached)
        assert all(after[partition] >= time_ms for partition, time_ms in promised.items())
        promised = dict(after)


def test_stream_time_is_kept_over_a_restart() -> None:
    """Rows of a slower origin are too old to wait, before and after: time does not go back."""
    driver = JoinDriver("left")
    stream, table = frames([(0, Event("stream", 0, "a", 1, 100))], {})
    assert not driver.process(stream, table).height
    driver.commit()
    driver.restore()
    late, table = frames([(1, Event("stream", 0, "a", 2, 89)), (2, Event("stream", 0, "b", 3, 90))], {})
    assert driver.process(late, table)["v"].to_list() == [2, 3]
    assert driver.keys() == 1


def test_a_row_at_the_edge_of_the_grace_goes_in_its_place() -> None:
    """It is not late, so it comes by time; a late one comes first."""
    driver = JoinDriver("left")
    events = [Event("stream", 0, "a", value, time_ms) for value, time_ms in ((1, 90), (2, 99), (3, 89), (4, 100))]
    events += [Event("stream", 0, "a", value, time_ms) for value, time_ms in ((5, 109), (6, 98), (7, 99))]
    found = []
    reached: dict[int, int] = {}
    for number, event in enumerate(events):
        found.append(driver.process(*frames([(number, event)], reached))["v"].to_list())
    assert found == [[], [], [3], [1], [2], [6], [7]]
    events = [Event("stream", 1, "a", 1, 90), Event("other", 1, "a", 0, 100), Event("stream", 1, "a", 2, 90)]
    assert driver.process(*frames(list(enumerate(events)), {}))["v"].to_list() == [1, 2]


def test_nothing_is_promised_beyond_rows_that_wait() -> None:
    """The task's time may be far ahead of this stream's: what waits has its own. With none it counts."""
    driver = JoinDriver("left")
    driver.process(*frames([(0, Event("stream", 0, "a", 1, 20)), (1, Event("other", 0, "a", 0, 100))], {}))
    assert driver.operator.output_closing_ms({0: 100, 1: 100}) == {0: 10, 1: 90}
    reached = {0: 100}
    assert driver.process(*frames([(2, Event("stream", 0, "b", 2, 89))], reached)).height == 2
    assert driver.operator.output_closing_ms({0: 100}) == {0: 90}


def test_a_row_sees_table_rows_that_came_while_it_waited() -> None:
    """A late version is seen; one that comes after the row was let go is not."""
    driver = JoinDriver("left")
    events = [
        Event("table", 0, "a", 1, 0),
        Event("stream", 0, "a", 7, 20),
        Event("table", 0, "a", 2, 15),
        Event("stream", 0, "b", 8, 30),
        Event("table", 0, "a", 3, 16),
    ]
    found = driver.process(*frames(list(enumerate(events)), {}))
    assert found.select("v", "found").rows() == [(7, 2)]


def test_rows_that_were_let_go_are_freed() -> None:
    """The buffer holds what is within the grace, and no more."""
    driver = JoinDriver("left")
    reached: dict[int, int] = {}
    for number in range(200):
        driver.process(*frames([(number, Event("stream", 0, "a", number, number))], reached))
        driver.commit()
    assert driver.keys() == GRACE_MS


def test_a_hundred_thousand_rows_take_under_two_seconds() -> None:
    """Waiting and looking up are column operations."""
    count = 100_000
    random = np.random.default_rng(5)
    times = np.sort(random.integers(0, 100_000, count))
    keys = pl.Series(random.integers(0, 1_000, count)).cast(pl.String)
    join = make_join("left", grace_ms=500)
    context = Driver(lambda: join).context
    nobody = pl.Series(SOURCE, [None], SYSTEM_COLUMNS[SOURCE]).new_from_index(0, 10_000)
    rows = 0
    started = time.process_time()
    for first in range(0, count, 10_000):
        piece = slice(first, first + 10_000)
        stream = pl.DataFrame(
            {
                "v": times[piece],
                "k": keys[piece],
                PARTITION: pl.zeros(10_000, pl.Int32, eager=True),
                TIME: times[piece],
                STREAM_TIME: times[piece],
                SEQUENCE: np.arange(10_000),
                SOURCE: nobody,
            }
        )
        empty = pl.DataFrame(schema={**TABLE, **SYSTEM_COLUMNS, DELETED: pl.Boolean})
        rows += join.process([stream, empty], context).height
        join.changes()
        join.commit()
    assert time.process_time() - started < 2.0
    assert count - rows == join.keys_count()[0] < 1_000
