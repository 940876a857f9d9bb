"""Operators whose state is a few stores.

Owns what all of them do alike: changelog, commit, undo, moves, counting, and small numbers per partition (`meta`) that
belong to the state.

- Numbers of a partition travel with every change of its first store, so that stores and numbers are of one moment.
- A partition whose numbers alone changed writes a change without rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

import polars as pl

from headrace.engine.operator import OperatorContext, StateChange


class Store(Protocol):
    """State of one operator by partition (`KeyedRows`, `TimedRows`)."""

    def changes(self) -> Sequence[tuple[int, pl.DataFrame]]: ...
    def snapshot(self, partition: int, rows_max: int) -> Iterator[pl.DataFrame]: ...
    def apply(self, partition: int, frame: pl.DataFrame) -> None: ...
    def forget(self, partition: int) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def counts(self) -> Mapping[int, int]: ...
    @property
    def row_key(self) -> Sequence[str] | None: ...
    @property
    def bytes(self) -> int: ...


class StoreOperator:
    """Base of operators over named stores. `empty` is their output without rows."""

    speaks_at_flush: ClassVar[bool] = False

    def __init__(self, stores: Mapping[str, Store], empty: pl.DataFrame) -> None:
        self._stores = dict(stores)
        self._empty = empty
        self._meta: dict[int, dict[str, int]] = {}
        self._meta_committed: dict[int, dict[str, int]] = {}

    # Numbers of a partition

    def _number(self, partition: int, name: str, default: int) -> int:
        return self._meta.get(partition, {}).get(name, default)

    def _set_number(self, partition: int, name: str, value: int) -> None:
        self._meta.setdefault(partition, {})[name] = value

    # Emission: what most of them do

    def flush(self, context: OperatorContext) -> pl.DataFrame:
        """Nothing waits for a commit."""
        return self._empty

    def advance(self, context: OperatorContext) -> pl.DataFrame:
        """Nothing waits for time."""
        return self._empty

    def close_idle(self, partitions: Sequence[int], context: OperatorContext) -> pl.DataFrame:
        """Nothing closes."""
        return self._empty

    def output_closing_ms(self, closing_ms: Mapping[int, int]) -> Mapping[int, int]:
        """Rows come out with the stream time they came in with."""
        return closing_ms

    # Changelog

    def changes(self) -> Sequence[StateChange]:
        """Changes since the last commit."""
        found: list[StateChange] = []
        told: set[int] = set()
        for name, store in self._stores.items():
            for partition, frame in store.changes():
                found.append(StateChange(partition, frame, dict(self._meta.get(partition, {})), name))
                told.add(partition)
        first = next(iter(self._stores))
        for partition, numbers in self._meta.items():
            if partition not in told and numbers != self._meta_committed.get(partition, {}):
                found.append(StateChange(partition, pl.DataFrame(), dict(numbers), first))
        return found

    def snapshot(self, partition: int, rows_max: int) -> Iterator[StateChange]:
        """The state of a partition in pieces."""
        for name, store in self._stores.items():
            for frame in store.snapshot(partition, rows_max):
                yield StateChange(partition, frame, dict(self._meta.get(partition, {})), name)

    def row_key(self, store: str) -> Sequence[str] | None:
        """The key of keyed rows."""
        return self._stores[store].row_key

    def apply(self, change: StateChange) -> None:
        """Restore one message."""
        if change.frame.height:
            self._stores[change.store].apply(change.partition, change.frame)
        if change.meta:
            self._meta[change.partition] = dict(change.meta)
            self._meta_committed[change.partition] = dict(change.meta)

    # Commit, undo, moves

    def commit(self) -> None:
        """The changes since the last commit are durable."""
        for store in self._stores.values():
            store.commit()
        self._meta_committed = {partition: dict(numbers) for partition, numbers in self._meta.items()}

    def rollback(self) -> None:
        """Back to the last commit."""
        for store in self._stores.values():
            store.rollback()
        self._meta = {partition: dict(numbers) for partition, numbers in self._meta_committed.items()}

    def forget(self, partition: int) -> None:
        """Drop a partition."""
        for store in self._stores.values():
            store.forget(partition)
        self._meta.pop(partition, None)
        self._meta_committed.pop(partition, None)

    def keys_count(self) -> Mapping[int, int]:
        """Rows of all stores per partition."""
        total: dict[int, int] = {}
        for store in self._stores.values():
            for partition, count in store.counts().items():
                total[partition] = total.get(partition, 0) + count
        return total

    def state_bytes(self) -> int:
        """Memory held, about."""
        return sum(store.bytes for store in self._stores.values())
