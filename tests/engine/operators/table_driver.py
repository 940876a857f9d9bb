"""Runs a table operator between commits, with the log of its changes, and cuts its input at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

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
    StateChange,
    StatefulOperator,
)
from tests.engine.operators.aggregate_driver import OF_SNAPSHOT, ROWS_AT_ONCE, Context

MESSAGE_BYTES = 2_000


class Driver:
    """An operator between commits."""

    def __init__(self, make: Callable[[], StatefulOperator]) -> None:
        self._make = make
        self.context = Context()
        self.log: list[tuple[int, bytes]] = []
        self.operator = make()

    def process(self, *inputs: pl.DataFrame) -> pl.DataFrame:
        """Rows in; what came out at once."""
        return self.operator.process(list(inputs), self.context)

    def commit(self) -> pl.DataFrame:
        """Flush, write the changelog, commit; what was flushed."""
        flushed = self.operator.flush(self.context)
        first, changes = self.operator.changes(), self.operator.changes()
        assert [(each.store, each.meta) for each in first] == [(each.store, each.meta) for each in changes]
        for before, after in zip(first, changes, strict=True):
            assert_frame_equal(before.frame, after.frame)
        self._write(changes)
        self.operator.commit()
        return flushed

    def rollback(self) -> None:
        """Undo everything since the last commit."""
        self.operator.rollback()

    def restore(self) -> None:
        """Go on with a new operator, rebuilt from the log."""
        self.operator = self._make()
        self._apply({partition for partition, _ in self.log})

    def move(self, partition: int) -> None:
        """A partition goes away and comes back, rebuilt from the log; the others stay."""
        self.operator.forget(partition)
        assert not self.operator.keys_count().get(partition, 0), "nothing is left of it"
        self._apply({partition})

    def restore_from_snapshots(self, partitions: Iterable[int], rows_max: int = 2) -> None:
        """Go on with a new operator, rebuilt from whole states."""
        pieces = [piece for p in partitions for piece in self.operator.snapshot(p, rows_max)]
        self.log = []
        self._write(pieces, OF_SNAPSHOT)
        self.restore()

    def keys(self) -> int:
        """Live keys of all stores and partitions."""
        return sum(self.operator.keys_count().values())

    def _write(self, changes: Iterable[StateChange], commit: int = 1) -> None:
        for change in changes:
            messages = changelog.encode(change, "f", commit=commit, bytes_max=MESSAGE_BYTES)
            self.log.extend((change.partition, message) for message in messages)

    def _apply(self, partitions: set[int]) -> None:
        readers = {partition: changelog.ChangelogReader(partition) for partition in partitions}
        bulk = BulkApply(self.operator, rows_max=ROWS_AT_ONCE)
        for partition, message in self.log:
            found = readers[partition].read(message) if partition in readers else None
            if found is not None:
                bulk.add(found.change, is_snapshot=found.commit == OF_SNAPSHOT)
        bulk.flush()
        self.operator.commit()


@dataclass(frozen=True)
class Change:
    """A change of one of two tables, in arrival order. `values` is None for a deletion."""

    side: int
    partition: int
    key: Any
    values: tuple[Any, ...] | None
    time_ms: int

    @property
    def stream_time_ms(self) -> int:
        """Any number that tells rows apart."""
        return 1_000 + self.time_ms


def frame_of(changes: Sequence[tuple[int, Change]], key: str, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Numbered changes of one side as an operator gets them."""
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for _, change in changes:
        row = dict(zip((name for name in columns if name != key), change.values or (), strict=False))
        for name in columns:
            values[name].append(change.key if name == key else row.get(name))
    system = {
        PARTITION: [c.partition for _, c in changes],
        TIME: [c.time_ms for _, c in changes],
        STREAM_TIME: [c.stream_time_ms for _, c in changes],
        SEQUENCE: [n for n, _ in changes],
        SOURCE: [None] * len(changes),
    }
    data = [pl.Series(name, values[name], dtype) for name, dtype in columns.items()]
    data += [pl.Series(name, system[name], dtype) for name, dtype in SYSTEM_COLUMNS.items()]
    return pl.DataFrame([*data, pl.Series(DELETED, [c.values is None for _, c in changes], pl.Boolean)])


def plain_rows(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Output rows without sequence and source."""
    assert frame[SEQUENCE].is_sorted()
    return frame.drop(SEQUENCE, SOURCE).rows()


def last_per_key(rows: Iterable[tuple[Any, ...]], key: Callable[[tuple[Any, ...]], Any]) -> list[tuple[Any, ...]]:
    """The last row of each key, in order of last rows."""
    last: dict[Any, tuple[Any, ...]] = {}
    for row in rows:
        last.pop(key(row), None)
        last[key(row)] = row
    return list(last.values())


ENDS = st.sampled_from(["", "", "commit", "commit", "restore", "snapshot", "move", "undo"])
"""What happens after a piece of the input."""
PIECES = st.lists(st.tuples(st.integers(0, 12), ENDS), max_size=12)


def played(driver: Driver, length: int, pieces: Sequence[tuple[int, str]]) -> Iterator[tuple[int, int, str]]:
    """Runs of the input (first, last, what the test does after it): `process` or `commit`. A run that was undone
    comes again. Restarts happen in between."""
    at = committed = 0
    for size, end in [*pieces, (length, "commit")]:
        until = min(at + size, length)
        yield at, until, "commit" if end not in ("", "undo") else "process"
        at = until
        if end == "undo":
            driver.rollback()
            at = committed
        elif end:
            committed = at
        if end == "restore":
            driver.restore()
        elif end == "snapshot":
            driver.restore_from_snapshots([0, 1])
        elif end == "move":
            driver.move(1)
    if committed < length:
        yield committed, length, "commit"
