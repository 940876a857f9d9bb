"""Stream-stream joins one record at a time, plainly, and frames for the operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from headrace.engine.operator import PARTITION, SEQUENCE, SOURCE, STREAM_TIME, SYSTEM_COLUMNS, TIME
from headrace.engine.operators.stream_join import StreamJoin
from headrace.flow.steps import StreamJoinStep
from headrace.flow.values import Column

How = Literal["inner", "left", "outer"]
LEFT = {"k": pl.String(), "n": pl.Int64(), "v": pl.Int64(), "tags": pl.List(pl.String())}
RIGHT = {"v": pl.Int64(), "ref": pl.String(), "m": pl.Int64()}
COLUMNS = (
    Column(name="k", type=["null", "string"]),
    Column(name="n", type=["null", "long"]),
    Column(name="v", type=["null", "long"]),
    Column(name="tags", type=["null", {"type": "array", "items": "string"}]),
    Column(name="v_right", type=["null", "long"]),
)
"""Joined on (k, n) = (ref, m); the right column v becomes v_right."""


@dataclass(frozen=True)
class Bounds:
    """The window of a join."""

    before_ms: int
    after_ms: int
    grace_ms: int


@dataclass(frozen=True)
class Event:
    """One input record in arrival order. `stream_time_ms` is told by the task."""

    side: str
    partition: int
    key: tuple[str | None, int | None]
    value: int
    time_ms: int
    stream_time_ms: int = 0

    def bound(self, bounds: Bounds) -> int:
        """It comes out alone when time is beyond this, and is late when its own is."""
        return self.time_ms + (bounds.after_ms if self.side == "left" else bounds.before_ms) + bounds.grace_ms


Output = tuple[Any, ...]
"""(partition, k, n, left v, right v, time, stream time)."""


def make_join(how: How, bounds: Bounds, late: Literal["count", "dead_letter"] = "count") -> StreamJoin:
    """The operator."""
    step = StreamJoinStep(
        name="join",
        inputs=("l", "r"),
        columns=COLUMNS,
        on=(("k", "ref"), ("n", "m")),
        how=how,
        before_ms=bounds.before_ms,
        after_ms=bounds.after_ms,
        grace_ms=bounds.grace_ms,
        late=late,
        renames={"v": "v_right"},
        changelog="p.join.changelog",
        fingerprint="f",
    )
    return StreamJoin(step, LEFT, RIGHT)


def frames(events: Sequence[Event]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both inputs of one call."""
    numbered = list(enumerate(events))
    return _frame([each for each in numbered if each[1].side == "left"], LEFT, ("k", "n")), _frame(
        [each for each in numbered if each[1].side == "right"], RIGHT, ("ref", "m")
    )


def _frame(rows: list[tuple[int, Event]], types: dict[str, Any], names: tuple[str, str]) -> pl.DataFrame:
    values = {
        names[0]: [event.key[0] for _, event in rows],
        names[1]: [event.key[1] for _, event in rows],
        "v": [event.value for _, event in rows],
        "tags": [["x"] * (event.value % 3) for _, event in rows],
        PARTITION: [event.partition for _, event in rows],
        TIME: [event.time_ms for _, event in rows],
        STREAM_TIME: [event.stream_time_ms for _, event in rows],
        SEQUENCE: [number for number, _ in rows],
        SOURCE: [{"topic": event.side, "partition": event.partition, "offset": number} for number, event in rows],
    }
    schema = {**types, **SYSTEM_COLUMNS}
    return pl.DataFrame([pl.Series(name, values[name], dtype) for name, dtype in schema.items()])


def outputs(frame: pl.DataFrame) -> list[Output]:
    """What came out, checked for what holds of every output."""
    assert frame[SEQUENCE].is_sorted()
    assert frame[SOURCE].null_count() == frame.height
    tags, values = frame["tags"].to_list(), frame["v"].to_list()
    assert tags == [None if value is None else ["x"] * (value % 3) for value in values]
    return frame.select(PARTITION, "k", "n", "v", "v_right", TIME, STREAM_TIME).rows()


@dataclass
class Reference:
    """The rules, one record at a time. Stream time is the running maximum of each partition's records."""

    how: How
    bounds: Bounds
    reached: dict[int, int] = field(default_factory=dict)
    held: dict[int, list[Event]] = field(default_factory=lambda: defaultdict(list))
    open: list[Event] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def delay_ms(self) -> int:
        """How far results may lie behind."""
        bounds = self.bounds
        return 0 if self.how == "inner" else max(bounds.before_ms, bounds.after_ms) + bounds.grace_ms

    def take(self, event: Event) -> list[Output]:
        """What comes out by this record."""
        now_ms = event.stream_time_ms
        assert now_ms >= self.reached.get(event.partition, -(10**9)), "a partition's time moves forward"
        self.reached[event.partition] = now_ms
        out = self.unmatched(event.partition, now_ms)
        if None in event.key:
            return out + self.unkeyed(event)
        if now_ms > event.bound(self.bounds):
            self.dropped["late"] += 1
            return out
        partners = [other for other in self.held[event.partition] if self.matches(event, other)]
        out += [self.pair(event, other) for other in sorted(partners, key=lambda each: each.time_ms)]
        for other in partners:
            if now_ms <= other.bound(self.bounds):
                self.open = [each for each in self.open if each is not other]
        self.held[event.partition].append(event)
        in_time = any(other.stream_time_ms <= event.bound(self.bounds) for other in partners)
        if self.comes_out_alone(event) and not in_time:
            self.open.append(event)
        return out

    def comes_out_alone(self, event: Event) -> bool:
        return self.how == "outer" or (self.how == "left" and event.side == "left")

    def matches(self, event: Event, other: Event) -> bool:
        if event.side == other.side or event.key != other.key:
            return False
        left, right = (event, other) if event.side == "left" else (other, event)
        return left.time_ms - self.bounds.before_ms <= right.time_ms <= left.time_ms + self.bounds.after_ms

    def pair(self, event: Event, other: Event) -> Output:
        left, right = (event, other) if event.side == "left" else (other, event)
        time_ms = max(left.time_ms, right.time_ms)
        reached = max(left.stream_time_ms, right.stream_time_ms)
        stream_time_ms = max(time_ms, reached - self.delay_ms)
        return (event.partition, *event.key, left.value, right.value, time_ms, stream_time_ms)

    def alone(self, event: Event, stream_time_ms: int) -> Output:
        values = (event.value, None) if event.side == "left" else (None, event.value)
        return (event.partition, *event.key, *values, event.time_ms, stream_time_ms)

    def unkeyed(self, event: Event) -> list[Output]:
        if not self.comes_out_alone(event):
            self.dropped["null_key"] += 1
            return []
        return [self.alone(event, max(event.time_ms, event.stream_time_ms - self.delay_ms))]

    def unmatched(self, partition: int, now_ms: int) -> list[Output]:
        """Rows whose bound has passed."""
        passed = [e for e in self.open if e.partition == partition and e.bound(self.bounds) < now_ms]
        self.open = [event for event in self.open if event not in passed]
        passed.sort(key=lambda e: (e.time_ms, e.side == "left", e.key))
        return [self.alone(event, event.time_ms) for event in passed]


def with_stream_times(events: Sequence[Event]) -> list[Event]:
    """The events with the running maximum of their partition's times."""
    reached: dict[int, int] = {}
    timed = []
    for event in events:
        reached[event.partition] = max(event.time_ms, reached.get(event.partition, event.time_ms))
        timed.append(
            Event(event.side, event.partition, event.key, event.value, event.time_ms, reached[event.partition])
        )
    return timed
