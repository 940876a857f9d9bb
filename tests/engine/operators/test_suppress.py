"""Bounded suppression against a record-at-a-time reference: any cut, restart, abort and move."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.engine.operator import (
    DELETED,
    PARTITION,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    StateChange,
)
from headrace.engine.operators.suppress import Suppress
from headrace.flow.steps import SuppressStep
from headrace.flow.values import Column
from tests.engine.operators.aggregate_driver import Context

COLUMNS: dict[str, pl.DataType] = {"key": pl.String(), "value": pl.Int64()}
SCHEMA = {**COLUMNS, **SYSTEM_COLUMNS, DELETED: pl.Boolean()}


@dataclass(frozen=True)
class Change:
    """A row of the table; no value: it is deleted."""

    partition: int
    key: str | None
    time_ms: int
    value: int | None


@dataclass
class Reference:
    """The rule, as it reads."""

    limit_ms: int | None
    rows_max: int | None
    held: dict[int, dict[Any, tuple[int, Change]]] = field(default_factory=dict)
    stream_time: dict[int, int] = field(default_factory=dict)

    def add(self, change: Change) -> list[Change]:
        """Put a change in; those that go out."""
        held = self.held.setdefault(change.partition, {})
        since = held[change.key][0] if change.key in held else change.time_ms
        held[change.key] = since, change
        reached = max(change.time_ms, self.stream_time.get(change.partition, change.time_ms))
        self.stream_time[change.partition] = reached
        out = []
        while held:
            oldest = min(held, key=lambda key: (held[key][0], key is not None, key or ""))
            is_due = self.limit_ms is not None and held[oldest][0] <= reached - self.limit_ms
            if not is_due and (self.rows_max is None or len(held) <= self.rows_max):
                break
            out.append(held.pop(oldest)[1])
        return out


def make_step(limit_ms: int | None, rows_max: int | None) -> SuppressStep:
    """A step over a table by key."""
    columns = (Column(name="key", type=["null", "string"]), Column(name="value", type=["null", "long"]))
    return SuppressStep(
        name="suppress",
        columns=columns,
        is_table=True,
        key=("key",),
        changelog="p.suppress.changelog",
        fingerprint="f",
        limit_ms=limit_ms,
        rows_max=rows_max,
    )


def frame_of(changes: Sequence[Change]) -> pl.DataFrame:
    """Rows as the operator gets them."""
    return pl.DataFrame(
        {
            "key": [each.key for each in changes],
            "value": [each.value for each in changes],
            PARTITION: [each.partition for each in changes],
            TIME: [each.time_ms for each in changes],
            STREAM_TIME: [10_000 + number for number in range(len(changes))],
            SEQUENCE: list(range(len(changes))),
            SOURCE: [None] * len(changes),
            DELETED: [each.value is None for each in changes],
        },
        SCHEMA,
    )


def changes_of(frame: pl.DataFrame) -> list[Change]:
    """Output rows."""
    assert dict(frame.schema) == SCHEMA
    assert (frame[DELETED] == frame["value"].is_null()).all()
    return [Change(*row) for row in frame.select(PARTITION, "key", TIME, "value").iter_rows()]


class Driver:
    """The operator with the log of its changes."""

    def __init__(self, limit_ms: int | None, rows_max: int | None) -> None:
        self.step = make_step(limit_ms, rows_max)
        self.context, self.log = Context(), list[StateChange]()
        self.operator = Suppress(self.step, COLUMNS)

    def batch(self, changes: Sequence[Change]) -> list[Change]:
        """What goes out."""
        return changes_of(self.operator.process([frame_of(changes)], self.context))

    def commit(self) -> None:
        """Write the changelog."""
        self.log.extend(self.operator.changes())
        self.operator.commit()

    def restore(self) -> None:
        """A new operator from the log."""
        self.operator = Suppress(self.step, COLUMNS)
        for change in self.log:
            self.operator.apply(change)
        self.operator.commit()

    def move(self, partition: int) -> None:
        """A partition goes and comes back."""
        self.operator.forget(partition)
        assert partition not in self.operator.keys_count()
        for change in self.log:
            if change.partition == partition:
                self.operator.apply(change)
        self.operator.commit()

    def snapshot(self) -> None:
        """The log is what the state is now, nothing else."""
        self.log = [piece for partition in (0, 1) for piece in self.operator.snapshot(partition, 2)]
        self.restore()


CHANGES = st.lists(
    st.builds(
        Change,
        st.sampled_from([0, 0, 1]),
        st.sampled_from([None, "a", "b", "c", "d", "e"]),
        st.integers(0, 40),
        st.one_of(st.none(), st.integers(0, 99)),
    ),
    max_size=30,
)
BOUNDS = st.sampled_from([(5, None), (0, None), (20, None), (None, 1), (None, 3), (8, 2), (15, 4)])
EVENTS = st.dictionaries(
    st.integers(0, 30), st.sampled_from(["cut", "commit", "restore", "snapshot", "move", "abort"]), max_size=8
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=CHANGES, bounds=BOUNDS, events=EVENTS)
def test_what_goes_out_equals_the_reference(
    changes: list[Change], bounds: tuple[int | None, int | None], events: dict[int, str]
) -> None:
    """Row for row and in order in each partition, whatever happens between the rows."""
    driver, reference = Driver(*bounds), Reference(*bounds)
    wanted = [out for change in changes for out in reference.add(change)]
    made: list[Change] = []
    pending: list[Change] = []
    committed = done = 0
    for at in [*sorted(events), len(changes)]:
        if at > len(changes):
            continue
        pending += driver.batch(changes[done:at])
        done = at
        kind = events.get(at, "commit") if at < len(changes) else "commit"
        if kind == "abort":
            driver.operator.rollback()
            pending = driver.batch(changes[committed:done])
            continue
        if kind == "cut":
            continue
        driver.commit()
        made, pending, committed = made + pending, [], done
        {"restore": driver.restore, "snapshot": driver.snapshot, "move": lambda: driver.move(1)}.get(kind, list)()
    for partition in (0, 1):
        assert [c for c in made if c.partition == partition] == [c for c in wanted if c.partition == partition]
    held = {partition: len(keys) for partition, keys in reference.held.items() if keys}
    assert driver.operator.keys_count() == held


def change(key: str, time_ms: int, value: int | None = 1) -> Change:
    """In partition 0."""
    return Change(0, key, time_ms, value)


def test_a_row_goes_out_with_the_time_it_was_first_held_at() -> None:
    """A later row of the key takes its place and not its time; one that comes with the limit still counts."""
    driver = Driver(10, None)
    assert driver.batch([change("a", 0, 1), change("a", 9, 2)]) == []
    assert driver.batch([change("a", 10, 3)]) == [change("a", 10, 3)]
    assert driver.batch([change("a", 11, 4), change("b", 20, 5)]) == []
    assert driver.batch([change("b", 21, 6)]) == [change("a", 11, 4)]


def test_a_key_may_go_out_many_times_in_one_batch() -> None:
    """With the value as it was each time."""
    driver = Driver(10, None)
    rows = [change("a", time_ms, time_ms) for time_ms in (0, 4, 10, 12, 30, 31, 45)]
    assert driver.batch(rows) == [change("a", 10, 10), change("a", 30, 30), change("a", 45, 45)]


def test_the_oldest_goes_out_when_there_are_too_many() -> None:
    """By the time it was first held, then by key; deletions are rows, too."""
    driver = Driver(None, 2)
    assert driver.batch([change("b", 5), change("c", 5), change("b", 7, None)]) == []
    assert driver.batch([change("a", 6)]) == [change("b", 7, None)]
    assert driver.batch([change("d", 1)]) == [change("d", 1)]


def test_rows_go_out_in_the_stream_time_of_what_drove_them_out() -> None:
    """And with their own event time."""
    driver = Driver(10, None)
    out = driver.operator.process([frame_of([change("a", 0), change("b", 3), change("c", 12)])], driver.context)
    assert out.select("key", TIME, STREAM_TIME, SEQUENCE).rows() == [("a", 0, 10_002, 2)]
    assert driver.operator.output_closing_ms({0: 7}) == {0: 7}


@pytest.mark.parametrize("bounds", [(1_000, None), (None, 5_000), (1_000, 5_000)])
def test_a_hundred_thousand_rows(bounds: tuple[int | None, int | None]) -> None:
    """In seconds, and what has gone out leaves no memory behind."""
    generator = np.random.default_rng(7)
    count = 100_000
    time_ms = np.sort(generator.integers(0, 100_000, count))
    keys = [f"key-{n}" for n in (generator.integers(0, 20_000, count) + time_ms).tolist()]
    data = {
        "key": keys,
        "value": generator.integers(0, 9, count),
        PARTITION: pl.Series(np.zeros(count), dtype=pl.Int32),
        TIME: time_ms,
        STREAM_TIME: time_ms,
        SEQUENCE: np.arange(count),
        SOURCE: pl.Series([None] * count, dtype=SYSTEM_COLUMNS[SOURCE]),
        DELETED: np.zeros(count, np.bool_),
    }
    rows, driver, out, sizes = pl.DataFrame(data, SCHEMA), Driver(*bounds), 0, []
    began = time.perf_counter()
    for piece in rows.iter_slices(5_000):
        out += driver.operator.process([piece], driver.context).height
        driver.operator.commit()
        sizes.append(driver.operator.state_bytes())
    took = time.perf_counter() - began
    assert took < 10, f"{took:.1f} s"
    assert out > 50_000
    assert sizes[-1] < 3 * max(sizes[:8])
