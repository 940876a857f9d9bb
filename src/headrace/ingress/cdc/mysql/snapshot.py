"""Reading tables in chunks of key order, each chunk of one moment of the database.

Owns the connection whose transaction shows that moment, the queries of chunks, and the order of keys.

- A moment lasts for some chunks only: a transaction that stays open for long keeps the server from tidying up, and
  from changing the table.
- Keys are compared as the server orders them; whole numbers need no question.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from pymysql.connections import Connection

from headrace.errors import Where
from headrace.ingress.cdc.mysql.connection import connect, quoted, rows
from headrace.ingress.cdc.mysql.position import Key, Place
from headrace.ingress.cdc.mysql.server import Server, open_moment
from headrace.ingress.cdc.mysql.tables import Column, SourceTable
from headrace.ingress.cdc.mysql.types import Family
from headrace.ingress.cdc.table_columns import cells

MOMENT_S_MAX = 10.0
"""How long one moment is read."""
KEYS_PER_QUESTION = 1_000
KEY_ERRORS = "surrogateescape"
_CASTS = {
    Family.DATE: "DATE",
    Family.TIME: "TIME(6)",
    Family.DATETIME: "DATETIME(6)",
    Family.TIMESTAMP: "DATETIME(6)",
    Family.UUID: "UUID",
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a table."""

    columns: dict[str, pa.Array]
    count: int
    last: Key | None


class SnapshotMoment:
    """One moment of the database: (chunk)* close."""

    def __init__(self, database: str, server: Server, *, where: Where | None = None) -> None:
        self._connection = connect(database, raw=True, where=where)
        try:
            self.place: Place = open_moment(self._connection, server)
        except BaseException:
            self._connection.close()
            raise
        self._began_s = time.monotonic()

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self._began_s > MOMENT_S_MAX

    def close(self) -> None:
        self._connection.close()

    def chunk(self, table: SourceTable, names: Sequence[str], after: Key | None, rows_max: int) -> Chunk:
        """The next rows of a table. Raises `SourceUnavailable` where the table was altered since the moment."""
        found = rows(self._connection, chunk_query(table, names, after, rows_max))
        columns = list(zip(*found, strict=True)) if found else [()] * len(names)
        made = {name: cells(column) for name, column in zip(names, columns, strict=True)}
        last = tuple(key_text(found[-1][names.index(name)]) for name in table.key) if found else None
        return Chunk(made, len(found), last)


def key_text(cell: bytes) -> str:
    """A cell of a key."""
    return cell.decode(errors=KEY_ERRORS)


def chunk_query(table: SourceTable, names: Sequence[str], after: Key | None, rows_max: int) -> str:
    """The next rows in key order."""
    listed = ", ".join(_selected(table.types[name].name == "float", quoted(name)) for name in names)
    key = table.key_columns
    condition = f" WHERE {_behind(key, after)}" if after else ""
    order = ", ".join(quoted(each.name) for each in key)
    return f"SELECT {listed} FROM {table.quoted}{condition} ORDER BY {order} LIMIT {rows_max}"


def _selected(is_single: bool, name: str) -> str:
    # The server writes six digits of a float, and all of a double.
    return f"{name} + 0e0" if is_single else name


def _behind(key: Sequence[Column], after: Key) -> str:
    """Keys above `after`, in a form for which the server looks into the index."""
    (first, *others), (value, *rest) = key, after
    bound, name = literal(first, value.encode(errors=KEY_ERRORS)), quoted(first.name)
    if not others:
        return f"{name} > {bound}"
    return f"({name} >= {bound} AND ({name} > {bound} OR ({_behind(others, tuple(rest))})))"


def literal(column: Column, cell: bytes) -> str:
    """A cell as a constant of its column's type and order."""
    family, text = column.type.family, cell.decode(errors="replace")
    if column.type.labels:
        return str(_number_of(column, text))
    if family is Family.TEXT:
        constant = f"CONVERT(_utf8mb4 x'{cell.hex()}' USING {column.charset}) COLLATE {column.collation}"
        return f"({constant})"
    if family is Family.BYTES:
        return f"x'{cell.hex()}'" if cell else "''"
    if family is Family.BITS:
        return str(int.from_bytes(cell, "big"))
    if family in _CASTS:
        return f"CAST('{text}' AS {_CASTS[family]})"
    if family is Family.INET:
        return f"CAST('{text}' AS {column.type.name.upper()})"
    if family is Family.FLOAT and "e" not in text:
        return f"{text}e0"
    return text


def _number_of(column: Column, text: str) -> int:
    """What an enum or a set is ordered by."""
    labels = column.type.labels
    if column.type.name == "set":
        return sum(1 << labels.index(label) for label in text.split(",") if label)
    return labels.index(text) + 1 if text in labels else 0


def are_published(
    connection: Connection, table: SourceTable, after: Key, keys: Sequence[tuple[bytes, ...]]
) -> list[bool]:
    """Whether each key is one that the snapshot has come to: not above `after`."""
    columns = table.key_columns
    if all(each.type.family is Family.INT for each in columns):
        bound = tuple(map(int, after))
        return [tuple(map(int, key)) <= bound for key in keys]
    last = ", ".join(
        literal(column, value.encode(errors=KEY_ERRORS)) for column, value in zip(columns, after, strict=True)
    )
    found: list[bool] = []
    for start in range(0, len(keys), KEYS_PER_QUESTION):
        conditions = [
            f"({', '.join(literal(column, cell) for column, cell in zip(columns, key, strict=True))}) <= ({last})"
            for key in keys[start : start + KEYS_PER_QUESTION]
        ]
        (answers,) = rows(connection, f"SELECT {', '.join(conditions)}")
        found += [bool(int(each)) for each in answers]
    return found
