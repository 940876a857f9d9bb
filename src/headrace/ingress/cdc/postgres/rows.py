"""Rows of one table as the stream or a snapshot gives them, on their way to `Changes`.

Owns `PostgresChanges`, the gathering of single messages into columns, and what PostgreSQL adds to an envelope.

- A changed primary key is a deletion and a creation.
- A large value that an update did not touch is taken from the row before it where the server sends that whole; else it
  is Debezium's placeholder; where the contract's type has none, the change is a dead letter.
- The row before a deletion has its key; other columns are null, or zero where the contract takes no null, as
  Debezium's are, unless the table has REPLICA IDENTITY FULL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from headrace.contracts.contract import Contract
from headrace.contracts.shape import Shape, record_shape
from headrace.ingress.cdc.changes import CREATE, DELETE, READ, TRUNCATE, UPDATE, Changes
from headrace.ingress.cdc.envelopes import Builder
from headrace.ingress.cdc.postgres.messages import Row, Unchanged, Value, lsn_text
from headrace.ingress.cdc.postgres.tables import split_name
from headrace.ingress.cdc.postgres.text_columns import TextColumns, as_column, unavailable_text, zero_text
from headrace.ingress.cdc.postgres.types import PgType
from headrace.log.dead_letters import Reason

Types = tuple[tuple[str, PgType], ...]
"""Columns in the order in which rows have them."""
BUILDERS_KEPT_MAX = 16
"""Of one table: shapes of it that are used at the same time."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one change was made."""

    lsn: int
    xid: int
    commit_lsn: int
    committed_at_us: int
    previous_lsn: int
    """Where the transaction before it ended."""
    total_order: int
    table_order: int


@dataclass(frozen=True, slots=True)
class PostgresChanges(Changes):
    """Changes with the types of their columns. `origins` is empty for a snapshot, read at `snapshot_lsn`."""

    types: Types = field(default=(), kw_only=True)
    contract: Contract | None = field(default=None, kw_only=True)
    """With the columns that are followed; None: as the file says."""
    origins: Sequence[Origin] = field(default=(), kw_only=True)
    snapshot_lsn: int = field(default=0, kw_only=True)


def snapshot_changes(
    table: str,
    types: Types,
    columns: Mapping[str, pa.Array],
    count: int,
    *,
    lsn: int,
    now_ms: int,
    contract: Contract,
    is_incremental: bool = False,
) -> PostgresChanges:
    """Rows of a snapshot, or of one beside the stream."""
    nothing = pa.nulls(count, pa.binary())
    return PostgresChanges(
        table,
        [READ] * count,
        [lsn] * count,
        [now_ms] * count,
        dict.fromkeys(columns, nothing),
        columns,
        types=types,
        contract=contract,
        snapshot_lsn=lsn,
        snapshot=["incremental" if is_incremental else "true"] * count,
    )


def truncation(table: str, origin: Origin) -> PostgresChanges:
    """A table that was emptied."""
    return PostgresChanges(table, [TRUNCATE], [origin.lsn], [origin.committed_at_us // 1_000], {}, {}, origins=[origin])


class RowBuffer:
    """Changes of one table, of one shape, in their order."""

    def __init__(self, table: str, types: Types, contract: Contract) -> None:
        self.table, self.types, self._contract = table, types, contract
        self._names = tuple(name for name, _ in types)
        self._key = [self._names.index(name) for name in contract.key]
        shapes = {child.name: child.shape for child in record_shape(contract.schema).children}
        self._captured = [(at, name, found, shapes[name]) for at, (name, found) in enumerate(types) if name in shapes]
        self._zeros = tuple(zero_text(found, shapes[name]) if name in shapes else None for name, found in types)
        self._operations: list[str] = []
        self._old: list[Row | None] = []
        self._new: list[Row | None] = []
        self._origins: list[Origin] = []
        self._moved: list[bool] = []
        """By change: whether it is a deletion whose row goes on under another key."""
        self.has_unchanged = False

    def __len__(self) -> int:
        return len(self._operations)

    def keys(self, rows: Sequence[int]) -> list[tuple[bytes, ...]]:
        """Key texts of these changes."""
        found = []
        for index in rows:
            row = self._old[index] if self._operations[index] == DELETE else self._new[index]
            assert row is not None
            found.append(tuple(value if isinstance(value, bytes) else b"" for value in (row[at] for at in self._key)))
        return found

    def drop(self, rows: frozenset[int]) -> None:
        """Leave out these changes."""
        kept = [index for index in range(len(self)) if index not in rows]
        self._operations = [self._operations[index] for index in kept]
        self._old = [self._old[index] for index in kept]
        self._new = [self._new[index] for index in kept]
        self._origins = [self._origins[index] for index in kept]
        self._moved = [self._moved[index] for index in kept]

    def insert(self, new: Row, origin: Origin) -> None:
        self._add(CREATE, None, new, origin)

    def delete(self, old: Row, is_key_only: bool, origin: Origin) -> None:
        self._add(DELETE, self._filled(old) if is_key_only else old, None, origin)

    def is_moved(self, new: Row, old: Row | None) -> bool:
        """Whether an update gave the row another key."""
        return old is not None and not all(old[at] == new[at] or isinstance(new[at], Unchanged) for at in self._key)

    def update(self, new: Row, old: Row | None, is_key_only: bool, origin: Origin, again: Origin) -> None:
        """One change, or two when the key is another one: `again` is the place of the second."""
        if old is not None and not is_key_only:
            new = tuple(
                before if isinstance(value, Unchanged) else value for value, before in zip(new, old, strict=True)
            )
        elif any(isinstance(value, Unchanged) for value in new):
            self.has_unchanged = True
        if old is None or not self.is_moved(new, old):
            self._add(UPDATE, None if is_key_only else old, new, origin)
            return
        self.delete(old, is_key_only, origin)
        self._moved[-1] = True
        self._add(CREATE, None, new, again)

    def changes(self) -> PostgresChanges:
        """Everything so far as columns."""
        nulls: Row = (None,) * len(self._names)
        old = [nulls if row is None else row for row in self._old]
        new = [nulls if row is None else row for row in self._new]
        bad: dict[int, Reason] = {}
        before, after = {}, {}
        for at, name, found, shape in self._captured:
            before[name] = as_column([row[at] for row in old])
            values = [row[at] for row in new]
            after[name] = as_column(
                _with_placeholders(values, name, found, shape, bad) if self.has_unchanged else values
            )
        return PostgresChanges(
            self.table,
            self._operations,
            [each.lsn for each in self._origins],
            [each.committed_at_us // 1_000 for each in self._origins],
            before,
            after,
            bad=bad,
            has_before=[row is not None for row in self._old],
            moved=self._moves(),
            types=self.types,
            contract=self._contract,
            origins=self._origins,
        )

    def _add(self, operation: str, old: Row | None, new: Row | None, origin: Origin) -> None:
        self._operations.append(operation)
        self._old.append(old)
        self._new.append(new)
        self._origins.append(origin)
        self._moved.append(False)

    def _moves(self) -> list[int]:
        """A snapshot may show one of the halves of a changed key already: then the other stands alone."""
        lsns = [each.lsn for each in self._origins]
        return [
            index
            for index, is_moved in enumerate(self._moved[:-1])
            if is_moved and self._operations[index + 1] == CREATE and lsns[index] == lsns[index + 1]
        ]

    def _filled(self, old: Row) -> Row:
        return tuple(zero if value is None else value for value, zero in zip(old, self._zeros, strict=True))


def _with_placeholders(
    values: Sequence[Value], name: str, found: PgType, shape: Shape, bad: dict[int, Reason]
) -> list[Value]:
    placeholder = unavailable_text(found, shape)
    result: list[Value] = []
    for row, value in enumerate(values):
        if isinstance(value, Unchanged):
            if placeholder is None:
                message = f"{name}: was not changed, and its type has no placeholder; set REPLICA IDENTITY FULL"
                bad.setdefault(row, Reason("encode", "ingress.unavailable_value", message))
            result.append(placeholder)
        else:
            result.append(value)
    return result


class PostgresDialect:
    """What envelopes of one PostgreSQL table have of their own."""

    connector = "postgresql"

    def __init__(self, contract: Contract, table: str) -> None:
        assert contract.key_schema is not None
        self._row_schema, self._key_schema = contract.schema, contract.key_schema
        self._schema, self._table = split_name(table)
        self._builders: dict[Types, tuple[Builder, Builder]] = {}

    def builders(self, changes: Changes) -> tuple[Builder, Builder]:
        assert isinstance(changes, PostgresChanges)
        found = self._builders.get(changes.types)
        if found is None:
            if len(self._builders) >= BUILDERS_KEPT_MAX:
                self._builders.clear()
            types = dict(changes.types)
            found = TextColumns(self._row_schema, types), TextColumns(self._key_schema, types)
            self._builders[changes.types] = found
        return found

    def source(self, changes: Changes) -> Mapping[str, pa.Array]:
        assert isinstance(changes, PostgresChanges)
        count, origins = len(changes), changes.origins
        known: dict[str, pa.Array] = {
            "schema": pa.array([self._schema] * count, pa.string()),
            "table": pa.array([self._table] * count, pa.string()),
        }
        if not origins:
            lsn = changes.snapshot_lsn
            return {
                **known,
                "lsn": pa.array([lsn] * count, pa.int64()),
                "sequence": pa.array([f'[null,"{lsn}"]'] * count, pa.string()),
            }
        at_us = np.array([each.committed_at_us for each in origins], dtype=np.int64)
        return {
            **known,
            "ts_us": pa.array(at_us),
            "ts_ns": pa.array(at_us * 1_000),
            "txId": pa.array([each.xid for each in origins], pa.int64()),
            "lsn": pa.array([each.lsn for each in origins], pa.int64()),
            "sequence": pa.array([f'["{each.previous_lsn}","{each.lsn}"]' for each in origins], pa.string()),
            "change_lsn": pa.array(
                [f"{each.commit_lsn:016X}/{each.total_order:012d}" for each in origins], pa.string()
            ),
        }

    def transaction(self, changes: Changes) -> pa.Array | None:
        assert isinstance(changes, PostgresChanges)
        if not changes.origins:
            return None
        return pa.StructArray.from_arrays(
            [
                pa.array([f"{each.xid}:{lsn_text(each.commit_lsn)}" for each in changes.origins], pa.string()),
                pa.array([each.total_order for each in changes.origins], pa.int64()),
                pa.array([each.table_order for each in changes.origins], pa.int64()),
            ],
            fields=[
                pa.field("id", pa.string(), nullable=False),
                pa.field("total_order", pa.int64(), nullable=False),
                pa.field("data_collection_order", pa.int64(), nullable=False),
            ],
        )
