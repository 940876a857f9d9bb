"""Keyed operators at work without an engine around them: rows cut anywhere, commits, aborts, restarts, moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from headrace.contracts.polars_types import dtype_to_avro
from headrace.engine import changelog
from headrace.engine.bulk_apply import BulkApply
from headrace.engine.operator import (
    DELETED,
    PARTITION,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    RowError,
    StatefulOperator,
)
from headrace.flow.values import Column
from tests.engine.operators.aggregate_driver import OF_SNAPSHOT, ROWS_AT_ONCE
from tests.engine.reference import Row

END_MS = 10**9
"""Stream time after everything."""
ACTIONS = ("go on", "commit", "restart", "restart from snapshot", "move", "rollback")


def columns_of(schema: Mapping[str, pl.DataType]) -> tuple[Column, ...]:
    """Nullable plan columns of these types."""
    return tuple(Column(name=n, type=dtype_to_avro(dtype, nullable=True, path=n)) for n, dtype in schema.items())


@dataclass
class Context:
    """Collects what an operator tells its task."""

    closing: dict[int, int] = field(default_factory=dict)
    now: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    dead: list[tuple[dict[str, Any], RowError]] = field(default_factory=list)

    def dead_letter(self, frame: pl.DataFrame, errors: Sequence[RowError], *, input_index: int | None = 0) -> None:
        """Keep the rows and why."""
        self.dead.extend((frame.row(error.row, named=True), error) for error in errors)

    def count_dropped(self, reason: str, count: int) -> None:
        """Count."""
        if count:
            self.dropped[reason] += count

    def closing_time_ms(self) -> Mapping[int, int]:
        """As set by the test."""
        return self.closing

    def now_ms(self) -> int:
        """As set by the test."""
        return self.now


def to_frame(rows: Sequence[Row], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Rows as an operator gets them; the offset in `SOURCE` is the row's place in this frame."""
    data = [pl.Series(name, [row.values[name] for row in rows], dtype, strict=True) for name, dtype in schema.items()]
    system = {
        PARTITION: [row.partition for row in rows],
        TIME: [row.time_ms for row in rows],
        STREAM_TIME: [row.stream_time_ms for row in rows],
        SEQUENCE: list(range(len(rows))),
        SOURCE: [{"topic": "t", "partition": row.partition, "offset": n} for n, row in enumerate(rows)],
    }
    return pl.DataFrame([*data, *(pl.Series(name, values, SYSTEM_COLUMNS[name]) for name, values in system.items())])


class KeyedDriver:
    """An operator between commits, with the log of its changes."""

    def __init__(self, make: Callable[[], StatefulOperator], schema: Mapping[str, pl.DataType]) -> None:
        self._make, self.schema = make, dict(schema)
        self.context = Context()
        self.log: list[tuple[int, bytes]] = []
        self.operator = make()

    def batch(self, rows: Sequence[Row], closing: Mapping[int, int] | None = None) -> pl.DataFrame:
        """Process rows and what closing time brings; what came out."""
        out = []
        self.context.closing = dict(closing or {})
        if rows:
            out.append(self.operator.process([to_frame(rows, self.schema)], self.context))
        out.append(self.operator.advance(self.context))
        return pl.concat(out)

    def commit(self) -> pl.DataFrame:
        """Flush, write the changelog, commit; what was flushed."""
        flushed = self.operator.flush(self.context)
        first, changes = self.operator.changes(), self.operator.changes()
        for before, after in zip(first, changes, strict=True):
            assert (before.meta, before.store) == (after.meta, after.store), "changes() is idempotent"
            assert_frame_equal(before.frame, after.frame)
        for change in changes:
            self.log.extend((change.partition, each) for each in changelog.encode(change, "f", bytes_max=2_000))
        self.operator.commit()
        return flushed

    def rollback(self) -> None:
        """Abort."""
        self.operator.rollback()

    def restore(self) -> None:
        """Go on with a new operator, rebuilt from the log."""
        self.operator = self._make()
        self._apply({partition for partition, _ in self.log})

    def restore_from_snapshots(self, rows_max: int = 2) -> None:
        """Go on with a new operator, rebuilt from whole states."""
        partitions = {partition for partition, _ in self.log}
        pieces = [piece for p in sorted(partitions) for piece in self.operator.snapshot(p, rows_max)]
        self.log = [
            (each.partition, message) for each in pieces for message in changelog.encode(each, "f", commit=OF_SNAPSHOT)
        ]
        self.restore()

    def move(self, partition: int) -> None:
        """A partition goes away and comes back, rebuilt from the log; the others stay."""
        self.operator.forget(partition)
        assert not self.operator.keys_count().get(partition, 0), "nothing is left of it"
        self._apply({partition})

    def _apply(self, partitions: set[int]) -> None:
        readers = {partition: changelog.ChangelogReader(partition) for partition in partitions}
        bulk = BulkApply(self.operator, rows_max=ROWS_AT_ONCE)
        for partition, message in self.log:
            found = readers[partition].read(message) if partition in readers else None
            if found is not None:
                bulk.add(found.change, is_snapshot=found.commit == OF_SNAPSHOT)
        bulk.flush()
        self.operator.commit()


@dataclass
class Played:
    """What committed transactions brought."""

    rows: list[dict[str, Any]]
    dropped: Counter[str]
    dead: list[tuple[dict[str, Any], RowError]]


def play(driver: KeyedDriver, rows: Sequence[Row], cuts: Sequence[tuple[int, str]]) -> Played:
    """Give all rows to the operator, a few at a time, and do something after each piece."""
    frames: list[pl.DataFrame] = []
    open_frames: list[pl.DataFrame] = []
    at = committed = 0
    told = driver.context

    def go(until: int) -> None:
        nonlocal at
        open_frames.append(driver.batch(rows[at:until], closing_times(rows, until)))
        at = until

    def commit() -> None:
        nonlocal committed
        frames.extend([*open_frames, driver.commit()])
        open_frames.clear()
        committed = at
        settled.update(dropped=Counter(told.dropped), dead=list(told.dead))

    settled: dict[str, Any] = {"dropped": Counter(), "dead": []}
    for length, action in cuts:
        go(min(at + length, len(rows)))
        match action:
            case "commit":
                commit()
            case "restart":
                commit()
                driver.restore()
            case "restart from snapshot":
                commit()
                driver.restore_from_snapshots()
            case "move":
                commit()
                driver.move(0)
            case "rollback":
                driver.rollback()
                open_frames.clear()
                at = committed
                told.dropped, told.dead = Counter(settled["dropped"]), list(settled["dead"])
    go(len(rows))
    open_frames.append(driver.batch([], {0: END_MS, 1: END_MS}))
    commit()
    found = [row for frame in frames for row in frame.drop(SEQUENCE, SOURCE).iter_rows(named=True)]
    return Played(found, told.dropped, told.dead)


def closing_times(rows: Sequence[Row], until: int) -> dict[int, int]:
    """The most that can be promised after so many rows, of partitions that have any to come."""
    closing: dict[int, int] = {}
    for row in rows[until:]:
        closing[row.partition] = min(row.stream_time_ms, closing.get(row.partition, END_MS))
    return closing


def final_table(rows: Sequence[Mapping[str, Any]], key: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What a table's rows leave standing."""
    table: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        name = tuple(row[column] for column in key)
        if row[DELETED]:
            table.pop(name, None)
        else:
            table[name] = dict(row)
    return table


def cuts() -> st.SearchStrategy[list[tuple[int, str]]]:
    """Pieces of the input, and what happens after each."""
    return st.lists(st.tuples(st.integers(0, 8), st.sampled_from(ACTIONS)), max_size=8)


def timed_rows(
    values: st.SearchStrategy[dict[str, Any]], *, rows_max: int = 30, time_max_ms: int = 60
) -> st.SearchStrategy[list[Row]]:
    """Rows of two partitions; stream times are those of a source, or of two origins that lie interleaved."""
    row = st.tuples(st.integers(0, 1), st.integers(0, time_max_ms), st.integers(0, 1), values)

    def with_stream_time(parts: tuple[list[tuple[int, int, int, dict[str, Any]]], bool]) -> list[Row]:
        drawn, has_origins = parts
        reached: dict[tuple[int, int], int] = {}
        rows = []
        for partition, time_ms, origin, each in drawn:
            clock = (partition, origin if has_origins else 0)
            reached[clock] = max(time_ms, reached.get(clock, 0))
            rows.append(Row(partition, time_ms, reached[clock], each))
        return rows

    return st.tuples(st.lists(row, max_size=rows_max), st.booleans()).map(with_stream_time)
