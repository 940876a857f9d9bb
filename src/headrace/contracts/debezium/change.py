"""A change of a row, whoever captured it.

Owns `Change` and its parts: the one model that headrace's own capture and Debezium's connectors come to.

- A change says which row (`key`), what became of it (`operation`, `after`), and where in its source that stands
  (`position`). It is frozen.
- `after` holds the columns that are known. Columns that the database did not log because they did not change are in
  `unchanged` and not in `after`: whoever applies the change leaves them as they are.
- `before` is what the connector says, which for PostgreSQL without full replica identity is the key and nothing else
  that could be relied on. Delete by `key`.
"""

from __future__ import annotations

import base64
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from headrace.contracts.debezium.positions import SourcePosition

Value = Any
"""None, bool, int, float, str, bytes, Decimal, a list or a dictionary of these; times are texts (see `times`)."""

Row = Mapping[str, Value]


class Operation(enum.Enum):
    """What became of the row; the letters are Debezium's."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"
    """Read by a snapshot."""
    TRUNCATE = "t"
    """All rows of the table are gone."""
    MESSAGE = "m"
    """No row: a message that a program wrote into the database's log."""


@dataclass(frozen=True, slots=True)
class SourceTable:
    """The table that changed."""

    connector: str
    server: str
    """The name that the capture was given, the first part of Debezium's topics."""
    database: str = ""
    schema: str = ""
    """Empty for databases without schemas, such as MySQL and MongoDB."""
    name: str = ""

    @property
    def text(self) -> str:
        """As its database calls it: `schema.table`, or `database.table` where there are no schemas; empty for none."""
        return ".".join(part for part in (self.schema or self.database, self.name) if part) if self.name else ""


@dataclass(frozen=True, slots=True)
class SourceTransaction:
    """The transaction that a change was part of, where the connector tells."""

    id: str
    total_order: int | None = None
    """Of the change among all of its transaction, from 1."""
    table_order: int | None = None
    """Of the change among those of its table."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a program wrote into the database's log."""

    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class DocumentPatch:
    """What an update did to a document whose whole is not known (MongoDB)."""

    updated: Row
    removed: tuple[str, ...] = ()
    truncated: tuple[tuple[str, int], ...] = ()
    """Arrays and the sizes that they were cut to."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one row, of a table (truncate), or of none (message)."""

    operation: Operation
    table: SourceTable
    key: Value
    """The key columns; None for a table without a key and for a truncate."""
    before: Row | None
    after: Row | None
    position: SourcePosition
    unchanged: tuple[str, ...] = ()
    """Columns that did not change and whose value is not known; in the order of the row."""
    is_operation_known: bool = True
    """False for an unwrapped row that does not say what happened: it was created, updated or read."""
    transaction: SourceTransaction | None = None
    time_ms: int | None = None
    """When the database made the change."""
    snapshot: str = "false"
    """Debezium's word: false, first, true, last, incremental and others."""
    moved_to: Value = None
    """Of the deletion that a changed key begins with: the new key."""
    moved_from: Value = None
    """Of the creation that a changed key ends with: the old key."""
    message: Message | None = None
    patch: DocumentPatch | None = None


@dataclass(frozen=True, slots=True)
class NotAChange:
    """A record that is no change: of another kind, or broken."""

    code: str
    """Stable, `cdc.*`."""
    reason: str
    is_broken: bool
    """False for what stands in these topics by right: tombstones, heartbeats, transaction marks and the like."""
    detail: Row | None = None
    """What a transaction mark, schema change or signal says."""


def plain(value: Value) -> Any:
    """A value as JSON says it: bytes as base64, decimals and what is no number as text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
