"""Rows of one table as the stream or a snapshot gives them, on their way to `Changes`.

Owns `MysqlChanges`, the gathering of rows into columns, and what MySQL adds to an envelope.

- A changed primary key is a deletion and a creation.
- Both rows of a change are whole: the server writes them under `binlog_row_image=FULL`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from headrace.contracts.contract import Contract
from headrace.contracts.shape import record_shape
from headrace.ingress.cdc.changes import CREATE, DELETE, READ, TRUNCATE, UPDATE, Changes
from headrace.ingress.cdc.envelopes import Builder
from headrace.ingress.cdc.mysql.cell_columns import CellColumns
from headrace.ingress.cdc.mysql.position import Place
from headrace.ingress.cdc.mysql.row_images import Row
from headrace.ingress.cdc.mysql.types import MysqlType
from headrace.ingress.cdc.table_columns import cells

Types = tuple[tuple[str, MysqlType], ...]
"""Columns in the order in which rows have them."""
BUILDERS_KEPT_MAX = 16
"""Of one table: shapes of it that are used at the same time."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one change was made."""

    place: Place
    """Where its event begins."""
    row: int
    at_s: int
    server_id: int
    gtid: str | None
    transaction: str
    thread: int | None
    total_order: int
    table_order: int

    @property
    def sequence(self) -> int:
        return self.place.number << 40 | self.place.offset


@dataclass(frozen=True, slots=True)
class MysqlChanges(Changes):
    """Changes with the types of their columns. `origins` is empty for a snapshot, read at `snapshot_place`."""

    types: Types = field(default=(), kw_only=True)
    contract: Contract | None = field(default=None, kw_only=True)
    """With the columns that are followed; None: as the file says."""
    origins: Sequence[Origin] = field(default=(), kw_only=True)
    snapshot_place: Place | None = field(default=None, kw_only=True)


def snapshot_changes(
    table: str,
    types: Types,
    columns: Mapping[str, pa.Array],
    count: int,
    *,
    place: Place,
    now_ms: int,
    contract: Contract,
) -> MysqlChanges:
    """Rows of a snapshot."""
    nothing = pa.nulls(count, pa.binary())
    return MysqlChanges(
        table,
        [READ] * count,
        [place.number << 40 | place.offset] * count,
        [now_ms] * count,
        dict.fromkeys(columns, nothing),
        columns,
        types=types,
        contract=contract,
        snapshot_place=place,
    )


def truncation(table: str, origin: Origin) -> MysqlChanges:
    """A table that was emptied."""
    return MysqlChanges(table, [TRUNCATE], [origin.sequence], [origin.at_s * 1_000], {}, {}, origins=[origin])


class RowBuffer:
    """Changes of one table, of one shape, in their order."""

    def __init__(self, table: str, types: Types, contract: Contract) -> None:
        self.table, self.types, self._contract = table, types, contract
        names = [name for name, _ in types]
        wanted = {child.name for child in record_shape(contract.schema).children}
        self._key = [names.index(name) for name in contract.key]
        self._captured = [(at, name) for at, name in enumerate(names) if name in wanted]
        self._nothing: Row = (None,) * len(names)
        self._operations: list[str] = []
        self._old: list[Row] = []
        self._new: list[Row] = []
        self._origins: list[Origin] = []
        self._moved: set[int] = set()
        """Deletions whose row goes on under another key."""

    def __len__(self) -> int:
        return len(self._operations)

    def key_of(self, row: Row) -> tuple[bytes, ...]:
        return tuple(row[at] or b"" for at in self._key)

    def keys(self) -> list[tuple[bytes, ...]]:
        """Of all changes."""
        pairs = zip(self._operations, self._old, self._new, strict=True)
        return [self.key_of(old if operation == DELETE else new) for operation, old, new in pairs]

    def insert(self, new: Row, origin: Origin) -> None:
        self._add(CREATE, self._nothing, new, origin)

    def delete(self, old: Row, origin: Origin) -> None:
        self._add(DELETE, old, self._nothing, origin)

    def update(self, old: Row, new: Row, origin: Origin, again: Origin | None) -> None:
        """One change, or two when the key is another one: `again` is the place of the second."""
        if again is None:
            self._add(UPDATE, old, new, origin)
            return
        self._moved.add(len(self))
        self.delete(old, origin)
        self.insert(new, again)

    def changes(self, kept: Sequence[bool] | None) -> MysqlChanges | None:
        """Everything so far as columns, without changes that are not `kept`; None when nothing is left."""
        operations, old, new, origins = self._operations, self._old, self._new, self._origins
        moved = sorted(self._moved)
        if kept is not None:
            rows = [index for index, is_kept in enumerate(kept) if is_kept]
            if not rows:
                return None
            behind = {at: index for index, at in enumerate(rows)}
            # A snapshot may have come to one of the halves of a changed key alone: then that stands alone.
            moved = [behind[at] for at in moved if kept[at] and kept[at + 1]]
            operations, origins = [operations[at] for at in rows], [origins[at] for at in rows]
            old, new = [old[at] for at in rows], [new[at] for at in rows]
        return MysqlChanges(
            self.table,
            operations,
            [each.sequence for each in origins],
            [each.at_s * 1_000 for each in origins],
            {name: cells([row[at] for row in old]) for at, name in self._captured},
            {name: cells([row[at] for row in new]) for at, name in self._captured},
            moved=moved,
            types=self.types,
            contract=self._contract,
            origins=origins,
        )

    def _add(self, operation: str, old: Row, new: Row, origin: Origin) -> None:
        self._operations.append(operation)
        self._old.append(old)
        self._new.append(new)
        self._origins.append(origin)


class MysqlDialect:
    """What envelopes of one MySQL table have of their own."""

    connector = "mysql"

    def __init__(self, contract: Contract, table: str) -> None:
        assert contract.key_schema is not None
        self._table = table
        self._row_schema, self._key_schema = contract.schema, contract.key_schema
        self._builders: dict[Types, tuple[Builder, Builder]] = {}

    def builders(self, changes: Changes) -> tuple[Builder, Builder]:
        assert isinstance(changes, MysqlChanges)
        found = self._builders.get(changes.types)
        if found is None:
            if len(self._builders) >= BUILDERS_KEPT_MAX:
                self._builders.clear()
            types = dict(changes.types)
            found = CellColumns(self._row_schema, types), CellColumns(self._key_schema, types)
            self._builders[changes.types] = found
        return found

    def source(self, changes: Changes) -> Mapping[str, pa.Array]:
        assert isinstance(changes, MysqlChanges)
        count, origins = len(changes), changes.origins
        table = pa.array([self._table] * count, pa.string())
        if not origins:
            place = changes.snapshot_place
            assert place is not None
            return {
                "table": table,
                "file": pa.array([place.file] * count, pa.string()),
                "pos": pa.array(np.full(count, place.offset)),
                "row": pa.array(np.zeros(count, dtype=np.int32)),
                "server_id": pa.array(np.zeros(count, dtype=np.int64)),
            }
        return {
            "table": table,
            "server_id": pa.array([each.server_id for each in origins], pa.int64()),
            "gtid": pa.array([each.gtid for each in origins], pa.string()),
            "file": pa.array([each.place.file for each in origins], pa.string()),
            "pos": pa.array([each.place.offset for each in origins], pa.int64()),
            "row": pa.array([each.row for each in origins], pa.int32()),
            "thread": pa.array([each.thread for each in origins], pa.int64()),
            "change_lsn": pa.array(
                [f"{each.place.number:010d}/{each.place.offset:015d}/{each.row:07d}" for each in origins], pa.string()
            ),
        }

    def transaction(self, changes: Changes) -> pa.Array | None:
        assert isinstance(changes, MysqlChanges)
        if not changes.origins:
            return None
        return pa.StructArray.from_arrays(
            [
                pa.array([each.transaction for each in changes.origins], pa.string()),
                pa.array([each.total_order for each in changes.origins], pa.int64()),
                pa.array([each.table_order for each in changes.origins], pa.int64()),
            ],
            fields=[
                pa.field("id", pa.string(), nullable=False),
                pa.field("total_order", pa.int64(), nullable=False),
                pa.field("data_collection_order", pa.int64(), nullable=False),
            ],
        )
