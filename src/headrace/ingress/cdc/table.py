"""A table of the source database, as far as capture needs to know it.

Owns `SourceTable`, read from SQLite's own catalogue, and the quoting of names.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.contracts.contract import Contract
from headrace.ingress.cdc.config import ServerCdcConfig
from headrace.ingress.cdc.errors import SourceInvalid

BINARY = "BINARY"
_HIDDEN_COLUMN = 1
"""`hidden` of a virtual table's hidden column in `table_xinfo`; 2 and 3 are generated columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `key_position` counts from 1; 0 for columns outside the primary key."""

    name: str
    declared: str
    is_nullable: bool
    key_position: int


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table with a primary key."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    """Primary key columns, in their order."""
    key_collations: tuple[str, ...]
    unique: tuple[tuple[tuple[str, str], ...], ...]
    """Other unique indexes: (column, collation) each. Those on expressions are not there."""

    @property
    def nullable_key(self) -> tuple[str, ...]:
        """Key columns that SQLite lets be null, as it does where they are not declared NOT NULL."""
        return tuple(column.name for column in self.columns if column.name in self.key and column.is_nullable)


def read_table(connection: sqlite3.Connection, name: str) -> SourceTable:
    """The table `name`. Raises `SourceInvalid`."""
    kind = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    if kind is None or kind[0] != "table":
        found = "no such table" if kind is None else f"it is a {kind[0]}"
        raise SourceInvalid(f"table {name!r}: {found}", cure="name a table of the database")
    rows = connection.execute(f"PRAGMA table_xinfo({quoted(name)})").fetchall()
    without_rowid = any(row[1] == name and row[4] for row in connection.execute("PRAGMA table_list"))
    columns = tuple(
        Column(column, declared, _is_nullable(rows, row, without_rowid), key_position)
        for row in rows
        for _, column, declared, _, _, key_position, hidden in (row,)
        if hidden != _HIDDEN_COLUMN
    )
    key = tuple(each.name for each in sorted(columns, key=lambda each: each.key_position) if each.key_position)
    if not key:
        raise SourceInvalid(f"table {name!r} has no primary key", cure="give it one: changes are keyed by it")
    collations, unique = _indexes(connection, name, key)
    return SourceTable(name, columns, key, collations, unique)


def check_key(table: str, key: Sequence[str], contract: Contract) -> None:
    """Raises `SourceInvalid` where the contract's key is not the table's primary key `key`."""
    if set(contract.key) != set(key):
        raise SourceInvalid(
            f"the key of {contract.topic!r} is {list(contract.key)}, the primary key of {table!r} is {list(key)}",
            where=contract.where,
            cure="make the contract's key the table's primary key",
        )


def check_contract(table: SourceTable, contract: Contract) -> None:
    """Raises `SourceInvalid` where the contract asks for what the table does not have."""
    names = {column.name for column in table.columns}
    missing = [field.name for field in contract.schema.fields if field.name not in names]
    if missing:
        raise SourceInvalid(
            f"table {table.name!r} has no column {missing[0]!r}, which the contract of {contract.topic!r} asks for",
            where=contract.where,
            cure="add the column to the table, or take the field out of the contract",
        )
    check_key(table.name, table.key, contract)


def check_truncates(config: ServerCdcConfig, contracts: Mapping[str, Contract]) -> None:
    """Raises `SourceInvalid` where a TRUNCATE is to be written to a topic that cannot take it."""
    compacted = [each for each in contracts.values() if each.retention_ms is not None]
    if config.truncates == "write" and compacted:
        raise SourceInvalid(
            f"topic {compacted[0].topic!r} is compacted since its contract has a retention, and takes no record"
            " without key, which a TRUNCATE is",
            where=compacted[0].where,
            cure="take `retention` out of the contract, or write `truncates: skip` or `truncates: stop`",
        )


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text literal."""
    return "'" + value.replace("'", "''") + "'"


def _is_nullable(rows: list[tuple[object, ...]], row: tuple[object, ...], without_rowid: bool) -> bool:
    _, _, declared, not_null, _, key_position, _ = row
    if not_null or (key_position and without_rowid):
        return False
    is_rowid = key_position and str(declared).upper() == "INTEGER" and sum(1 for each in rows if each[5]) == 1
    return not is_rowid


def _indexes(
    connection: sqlite3.Connection, name: str, key: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[tuple[tuple[str, str], ...], ...]]:
    collations = dict.fromkeys(key, BINARY)
    unique = []
    for _, index, is_unique, origin, _ in connection.execute(f"PRAGMA index_list({quoted(name)})").fetchall():
        parts = connection.execute(f"PRAGMA index_xinfo({quoted(index)})").fetchall()
        columns = tuple((column, str(collation)) for _, _, column, _, collation, is_key in parts if is_key)
        if origin == "pk":
            collations.update((column, collation) for column, collation in columns if column in collations)
        elif is_unique and all(column is not None for column, _ in columns):
            unique.append(columns)
    return tuple(collations[column] for column in key), tuple(unique)
