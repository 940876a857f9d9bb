"""Aggregate steps at work without an engine around them: plans, frames, batches, commits, restores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

from headrace.contracts.polars_types import dtype_to_avro
from headrace.engine import changelog
from headrace.engine.bulk_apply import BulkApply
from headrace.engine.changelog_arrow import WrittenFrames
from headrace.engine.operator import (
    DELETED,
    PARTITION,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    RowError,
    StateChange,
    StatefulOperator,
)
from headrace.engine.operators.aggregate import make_aggregate
from headrace.flow.aggregate_types import aggregate_type
from headrace.flow.steps import AggregateColumn, AggregateStep
from headrace.flow.values import Column, Emit, Window, WindowKind
from tests.engine.reference import Row

TIMESTAMP = {"type": "long", "logicalType": "timestamp-millis"}
OF_SNAPSHOT = 0
"""No commit has this number: it tells pieces of a snapshot in these drivers' logs."""
ROWS_AT_ONCE = 7
END = 10**9
"""Stream time after everything."""


def tumbling(size_ms: int, grace_ms: int = 0) -> Window:
    """A tumbling window."""
    return Window(kind=WindowKind.TUMBLING, size_ms=size_ms, advance_ms=size_ms, grace_ms=grace_ms)


def hopping(size_ms: int, advance_ms: int, grace_ms: int = 0) -> Window:
    """A hopping window."""
    return Window(kind=WindowKind.HOPPING, size_ms=size_ms, advance_ms=advance_ms, grace_ms=grace_ms)


def session(gap_ms: int, grace_ms: int = 0) -> Window:
    """A session window."""
    return Window(kind=WindowKind.SESSION, gap_ms=gap_ms, grace_ms=grace_ms)


def sliding(difference_ms: int, grace_ms: int = 0) -> Window:
    """A sliding window."""
    return Window(kind=WindowKind.SLIDING, size_ms=difference_ms, grace_ms=grace_ms)


def aggregate(
    name: str, function: str, column: str | None, columns: Mapping[str, pl.DataType], **options: Any
) -> AggregateColumn:
    """An aggregate column, typed as the flow types it."""
    avro = None if column is None else dtype_to_avro(columns[column], nullable=True, path=column)
    return AggregateColumn(
        name=name, function=function, column=column, options=options, type=aggregate_type(function, avro, options)
    )


def make_step(
    group: Sequence[str],
    window: Window | None,
    aggregates: Sequence[AggregateColumn],
    columns: Mapping[str, pl.DataType],
    emit: Emit = Emit.FINAL,
) -> AggregateStep:
    """A step over an input with these columns."""
    keys = [Column(name=name, type=dtype_to_avro(columns[name], nullable=True, path=name)) for name in group]
    bounds = [Column(name=name, type=TIMESTAMP) for name in ("window_start", "window_end")] if window else []
    made = [Column(name=each.name, type=each.type) for each in aggregates]
    return AggregateStep(
        name="totals",
        columns=(*keys, *bounds, *made),
        is_table=True,
        group=tuple(group),
        window=window,
        aggregates=tuple(aggregates),
        emit=emit,
        changelog="p.totals.changelog",
        fingerprint="f",
    )


def to_frame(rows: Sequence[Row], columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Rows as the operator gets them."""
    data = [pl.Series(name, [row.values[name] for row in rows], dtype, strict=True) for name, dtype in columns.items()]
    system = {
        PARTITION: [row.partition for row in rows],
        TIME: [row.time_ms for row in rows],
        STREAM_TIME: [row.stream_time_ms for row in rows],
        SEQUENCE: list(range(len(rows))),
        SOURCE: [None] * len(rows),
    }
    return pl.DataFrame([*data, *(pl.Series(name, values, SYSTEM_COLUMNS[name]) for name, values in system.items())])


@dataclass
class Context:
    """Collects what an operator tells its task."""

    closing: dict[int, int] = field(default_factory=dict)
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
        """Never looked at."""
        return 0


class Driver:
    """An operator between commits, with the log of its changes."""

    def __init__(
        self, step: AggregateStep, columns: Mapping[str, pl.DataType], functions: Mapping[str, Any] | None = None
    ) -> None:
        self.step, self.columns, self.functions = step, dict(columns), dict(functions or {})
        self.context = Context()
        self.log: list[tuple[int, bytes]] = []
        self.operator = self._fresh()

    def _fresh(self) -> StatefulOperator:
        return make_aggregate(self.step, self.columns, self.functions)

    def batch(self, rows: Sequence[Row], closing: Mapping[int, int] | None = None) -> pl.DataFrame:
        """Process rows and close what is due; what came out."""
        out = []
        if rows:
            out.append(self.operator.process([to_frame(rows, self.columns)], self.context))
        self.context.closing = dict(closing or {})
        out.append(self.operator.advance(self.context))
        return pl.concat(out)

    def close_idle(self, partitions: Sequence[int]) -> pl.DataFrame:
        """Close partitions as idle."""
        return self.operator.close_idle(partitions, self.context)

    def commit(self) -> pl.DataFrame:
        """Flush, write the changelog, commit; what was flushed."""
        flushed = self.operator.flush(self.context)
        first, changes = self.operator.changes(), self.operator.changes()
        assert [each.meta for each in first] == [each.meta for each in changes], "changes() is idempotent"
        for before, after in zip(first, changes, strict=True):
            assert_frame_equal(before.frame, after.frame)
        self._write(changes)
        self.operator.commit()
        return flushed

    def _write(self, changes: Sequence[StateChange], commit: int = 1) -> None:
        frames = WrittenFrames()
        for change in changes:
            messages = changelog.encode(change, "f", commit=commit, bytes_max=2_000, frames=frames)
            self.log.extend((change.partition, message) for message in messages)

    def restore(self) -> None:
        """Go on with a new operator, rebuilt from the log."""
        self.operator = self._fresh()
        self._apply({partition for partition, _ in self.log})

    def move(self, partition: int) -> None:
        """A partition goes away and comes back, rebuilt from the log; the others stay."""
        self.operator.forget(partition)
        assert not self.operator.keys_count().get(partition, 0), "nothing is left of it"
        self._apply({partition})

    def _apply(self, partitions: Iterable[int]) -> None:
        readers = {partition: changelog.ChangelogReader(partition) for partition in partitions}
        bulk = BulkApply(self.operator, rows_max=ROWS_AT_ONCE)
        for partition, message in self.log:
            found = readers[partition].read(message) if partition in readers else None
            if found is not None:
                bulk.add(found.change, is_snapshot=found.commit == OF_SNAPSHOT)
        bulk.flush()
        self.operator.commit()

    def restore_from_snapshots(self, partitions: Sequence[int], rows_max: int = 2) -> None:
        """Go on with a new operator, rebuilt from whole states."""
        pieces = [piece for p in partitions for piece in self.operator.snapshot(p, rows_max)]
        self.log = []
        self._write(pieces, OF_SNAPSHOT)
        self.restore()

    def state(self, partitions: Sequence[int]) -> list[tuple[Any, ...]]:
        """The whole state as comparable rows. Identities of stored rows are names: an abort uses some up."""
        pieces = [piece for p in partitions for piece in self.operator.snapshot(p, 1000)]
        frames = [piece.frame.drop("__identity", strict=False) for piece in pieces]
        return sorted((comparable(row) for frame in frames for row in frame.iter_rows()), key=repr)


def comparable(value: Any) -> Any:
    """A value whose equality is equality of bits, zeros and NaNs aside."""
    if isinstance(value, tuple | list):
        return tuple(comparable(each) for each in value)
    if isinstance(value, dict):
        return tuple((name, comparable(each)) for name, each in value.items())
    if isinstance(value, float):
        return "nan" if math.isnan(value) else (value + 0.0).hex()
    return value


def result_rows(frame: pl.DataFrame, *, deleted: bool = False) -> list[tuple[Any, ...]]:
    """Output rows without sequence and source, as comparable tuples."""
    wanted = frame.filter(pl.col(DELETED) == deleted).drop(SEQUENCE, SOURCE, DELETED)
    plain = wanted.with_columns(pl.col(pl.Datetime).dt.timestamp("ms"))
    return [comparable(row) for row in plain.iter_rows()]
