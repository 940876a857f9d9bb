"""Reading a source database: changes in commit order, and the snapshot in chunks.

Owns the connection to the source and what is read in one go.

- One `read` is one read transaction: its changes and its chunk of the snapshot belong to the same moment.
- The chunk is the state after all changes of the same `read`. So a change of a row that the snapshot has not come to
  is left out: the row's state comes with a later chunk, or the row is gone by then. No row is missed, none comes twice,
  a crash goes on from the committed key, and no read transaction outlives one chunk.
- Keys are ordered byte by byte, whatever the table's collation.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.errors import Where
from headrace.ingress.cdc.capture import Capture, Captured
from headrace.ingress.cdc.changes import READ, Changes, Read
from headrace.ingress.cdc.errors import CaptureMissing, PositionLost, SourceInvalid, SourceUnavailable
from headrace.ingress.cdc.position import KeyValue, Position, TableProgress
from headrace.ingress.cdc.table import BINARY, quoted

BUSY_TIMEOUT_S = 5.0
"""How long the reader waits for a writer of the source before it tries again later."""
PRUNE_ROWS_MAX = 20_000
"""Rows removed in one write transaction: longer ones would hold up the application."""


class SourceReader:
    """Reads one database. Used from one thread."""

    def __init__(self, database: Path, capture: Capture, *, where: Where | None = None) -> None:
        self._capture, self._where = capture, where
        self._database = database
        self.connection = connect(database, where=where)
        self._verified_version = -1
        self._seen_version = -1

    def close(self) -> None:
        self.connection.close()

    def has_news(self) -> bool:
        """Whether the database changed since the last call; cheap."""
        with _translated(self._database):
            version = int(self.connection.execute("PRAGMA data_version").fetchone()[0])
        changed = version != self._seen_version
        self._seen_version = version
        return changed

    def read(self, position: Position | None, rows_max: int) -> Read[Position]:
        """Up to `rows_max` changes of each table after `position`, then, when all are read, a chunk of the snapshot.

        Raises `CaptureMissing`, `PositionLost`, `SourceUnavailable`.
        """
        with _translated(self._database), self._read_transaction():
            self._verify()
            start = self._start(position)
            last = self._last()
            changes, upper = self._changes(start, last, rows_max)
            moved = replace(start, sequence=upper)
            chunks: list[Changes] = []
            if upper == last:
                moved = self._add_chunk(moved, chunks, rows_max)
        rest = any(not each.is_done for each in moved.tables.values())
        return Read([*changes, *chunks], moved, lag=last - upper, is_drained=upper == last and not rest)

    def prune(self, position: Position) -> int:
        """Forget changes up to `position`, a bounded number of them; returns how many. Raises `SourceUnavailable`."""
        removed = 0
        with _translated(self._database):
            for name in self._capture.tables:
                changes = self._capture.changes(name)
                removed += self.connection.execute(
                    f"DELETE FROM {changes} WHERE seq IN"
                    f" (SELECT seq FROM {changes} WHERE seq <= ? ORDER BY seq LIMIT {PRUNE_ROWS_MAX})",
                    (position.sequence,),
                ).rowcount
        return removed

    @contextmanager
    def _read_transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK")

    def _verify(self) -> None:
        """Look at the triggers again whenever anything in the catalogue changed."""
        version = self.connection.execute("PRAGMA schema_version").fetchone()[0]
        if version == self._verified_version:
            return
        missing = self._capture.missing(self.connection)
        if missing:
            raise CaptureMissing(
                f"{self._database}: the triggers of table {missing[0]!r} are missing or out of date",
                where=self._where,
                cure="run `headrace apply`: it makes them anew, and the table's snapshot is taken again",
            )
        self._verified_version = version

    def _last(self) -> int:
        return int(self.connection.execute(f"SELECT last FROM {self._capture.state}").fetchone()[0])

    def _start(self, position: Position | None) -> Position:
        last, database_id = self.connection.execute(f"SELECT last, database_id FROM {self._capture.state}").fetchone()
        generations = self._capture.generations(self.connection)
        if position is None:
            fresh = {name: TableProgress(generations[name]) for name in self._capture.tables}
            return Position(database_id, last, fresh)
        if position.database_id != database_id or position.sequence > last:
            raise PositionLost(
                f"{self._database}: the log says that changes up to {position.sequence} were read, the database has "
                f"{last}: it is another database, or an older copy",
                where=self._where,
                cure="restore the right database, or give the ingress a new name: it then begins with a snapshot",
            )
        return replace(
            position, tables={name: _progress(position, name, generations[name]) for name in self._capture.tables}
        )

    def _changes(self, start: Position, last: int, rows_max: int) -> tuple[list[Changes], int]:
        found: list[tuple[Captured, list[tuple[Any, ...]]]] = []
        upper = last
        for name, captured in self._capture.tables.items():
            rows = self._change_rows(captured, start.tables[name], start.sequence, rows_max)
            found.append((captured, rows))
            if len(rows) == rows_max:
                upper = min(upper, rows[-1][0])
        kept = [(captured, [row for row in rows if row[0] <= upper]) for captured, rows in found]
        return [_changes_of(captured, rows) for captured, rows in kept if rows], upper

    def _change_rows(
        self, captured: Captured, progress: TableProgress, sequence: int, rows_max: int
    ) -> list[tuple[Any, ...]]:
        where, values = _published(captured, progress)
        if where is None:
            return []
        columns = ", ".join(quoted(f"{side}:{column}") for side in ("before", "after") for column in captured.columns)
        return self.connection.execute(
            f"SELECT seq, op, changed_at_ms, {columns} FROM {self._capture.changes(captured.table.name)}"
            f" WHERE seq > ?{where} ORDER BY seq LIMIT ?",
            (sequence, *values, rows_max),
        ).fetchall()

    def _add_chunk(self, position: Position, chunks: list[Changes], rows_max: int) -> Position:
        """The next rows of the first table whose snapshot is not done."""
        name = next((name for name, each in position.tables.items() if not each.is_done), None)
        if name is None:
            return position
        captured, progress = self._capture.tables[name], position.tables[name]
        rows = self._snapshot_rows(captured, progress, rows_max)
        unkeyed = self._unkeyed_rows(captured) if progress.after is None else []
        now_ms = self._now_ms()
        if rows or unkeyed:
            chunks.append(_snapshot_of(captured, [*unkeyed, *rows], position.sequence, now_ms))
        after = _key_of(captured, rows[-1]) if rows else progress.after
        return position.with_table(name, replace(progress, after=after, is_done=len(rows) < rows_max))

    def _snapshot_rows(self, captured: Captured, progress: TableProgress, rows_max: int) -> list[tuple[Any, ...]]:
        keys = _key_expressions(captured)
        present = [f"{quoted(column)} IS NOT NULL" for column in captured.table.nullable_key]
        marks, values = _bound(progress.after or ())
        after = [] if progress.after is None else [f"({', '.join(keys)}) > ({marks})"]
        where = " AND ".join([*present, *after]) or "1"
        return self.connection.execute(
            f"SELECT {_names(captured.columns)} FROM {quoted(captured.table.name)}"
            f" WHERE {where} ORDER BY {', '.join(keys)} LIMIT ?",
            (*values, rows_max),
        ).fetchall()

    def _unkeyed_rows(self, captured: Captured) -> list[tuple[Any, ...]]:
        """Rows with a null in their key, which SQLite allows: they cannot be ordered and become dead letters."""
        if not captured.table.nullable_key:
            return []
        where = " OR ".join(f"{quoted(column)} IS NULL" for column in captured.table.nullable_key)
        return self.connection.execute(
            f"SELECT {_names(captured.columns)} FROM {quoted(captured.table.name)} WHERE {where}"
        ).fetchall()

    def _now_ms(self) -> int:
        now = "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"
        return int(self.connection.execute(now).fetchone()[0])


def connect(database: Path, *, where: Where | None = None) -> sqlite3.Connection:
    """Open a database that is there. Raises `SourceInvalid`, `SourceUnavailable`."""
    if not database.is_file():
        raise SourceInvalid(f"no database at {database}", where=where, cure="name the file of the SQLite database")
    with _translated(database):
        connection = sqlite3.connect(
            f"{database.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S
        )
        # SQLite does not check its text: what is not UTF-8 must reach the contract's check instead of ending the read.
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def _translated(database: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise SourceUnavailable(f"{database}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise SourceInvalid(f"{database}: {error}", cure="check that the file is an intact SQLite database") from error


def _progress(position: Position, name: str, generation: str) -> TableProgress:
    known = position.tables.get(name)
    if known is None:
        return TableProgress(generation)
    return known if known.generation == generation else TableProgress(generation, is_repeated=True)


def _published(captured: Captured, progress: TableProgress) -> tuple[str | None, Sequence[KeyValue]]:
    """Condition for changes of rows that the snapshot has published; None where it has published none."""
    if progress.is_done or progress.is_repeated:
        return "", ()
    if progress.after is None:
        return None, ()
    keys = [
        f"CASE op WHEN 'd' THEN {quoted('before:' + column)} ELSE {quoted('after:' + column)} END"
        for column in captured.table.key
    ]
    marks, values = _bound(progress.after)
    return f" AND ({', '.join(keys)}) <= ({marks})", values


def _bound(key: Sequence[KeyValue]) -> tuple[str, Sequence[KeyValue]]:
    """Placeholders and values of a key. Text that is not UTF-8 goes in as its bytes."""
    marks, values = [], []
    for value in key:
        encoded = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else b""
        is_broken = isinstance(value, str) and not value.isascii() and encoded.decode("utf-8", "replace") != value
        marks.append("CAST(? AS TEXT)" if is_broken else "?")
        values.append(encoded if is_broken else value)
    return ", ".join(marks), values


def _changes_of(captured: Captured, rows: Sequence[tuple[Any, ...]]) -> Changes:
    sequence, operation, changed_at_ms, *sides = zip(*rows, strict=True)
    width = len(captured.columns)
    before = dict(zip(captured.columns, sides[:width], strict=True))
    after = dict(zip(captured.columns, sides[width:], strict=True))
    return Changes(captured.table.name, operation, sequence, changed_at_ms, before, after)


def _snapshot_of(captured: Captured, rows: Sequence[tuple[Any, ...]], sequence: int, now_ms: int) -> Changes:
    count = len(rows)
    after = dict(zip(captured.columns, zip(*rows, strict=True), strict=True))
    before = {column: [None] * count for column in captured.columns}
    return Changes(captured.table.name, [READ] * count, [sequence] * count, [now_ms] * count, before, after)


def _key_of(captured: Captured, row: tuple[Any, ...]) -> tuple[KeyValue, ...]:
    values = dict(zip(captured.columns, row, strict=True))
    return tuple(values[column] for column in captured.table.key)


def _key_expressions(captured: Captured) -> list[str]:
    pairs = zip(captured.table.key, captured.table.key_collations, strict=True)
    return [quoted(column) + ("" if collation == BINARY else f" COLLATE {BINARY}") for column, collation in pairs]


def _names(columns: Sequence[str]) -> str:
    return ", ".join(quoted(column) for column in columns)
