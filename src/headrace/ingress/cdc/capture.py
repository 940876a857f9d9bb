"""Capture by triggers: the change log inside the source database.

Owns the tables and triggers whose names begin with `_headrace_<ingress>_`, and nothing else in that database.

- Every committed change of a captured row has one number, `seq`, without gaps and in commit order: SQLite has one
  writer at a time, and the counter moves inside the writer's own transaction.
- Values are kept as SQLite has them, one untyped column per column and side: nothing is turned into text, so 64-bit
  integers, reals and blobs come out as they went in.
- An event shows the row as the table has it when the trigger runs, so that other triggers on the table, whatever
  their order, cannot leave an older row as the last word.
- `REPLACE` removes rows without a delete trigger (unless `recursive_triggers` is on); the rows in its way are noted
  before and, where they are gone afterwards, deleted in the change log too. Unique indexes on expressions are not seen.
- A changed primary key is a deletion and a creation.
- `generation` changes whenever triggers were made anew, since changes may have been missed before: the reader takes
  the table's snapshot again.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.ingress.cdc.table import BINARY, SourceTable, quoted, text

PREFIX = "_headrace_"
_NOW_MS = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"
_EVENTS = ("before_insert", "insert", "before_update", "update", "delete")


@dataclass(frozen=True, slots=True)
class Captured:
    """A table and which of its columns are captured."""

    table: SourceTable
    columns: tuple[str, ...]


class Capture:
    """The capture of one ingress: names, and the statements that make it."""

    def __init__(self, ingress: str, tables: Sequence[Captured]) -> None:
        self._prefix = f"{PREFIX}{ingress}_"
        self.tables: Mapping[str, Captured] = {each.table.name: each for each in tables}
        self.state = quoted(self._prefix + "state")
        self.catalogue = quoted(self._prefix + "tables")

    def changes(self, table: str) -> str:
        """The change log of a table, quoted."""
        return quoted(f"{self._prefix}changes_{table}")

    def install(self, connection: sqlite3.Connection) -> list[str]:
        """Make or mend everything in one transaction; returns the tables whose triggers were made anew."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._install_state(connection)
            renewed = [name for name in self.tables if not self._is_installed(connection, name)]
            for name in renewed:
                self._renew(connection, name)
            for name in self._recorded(connection).keys() - self.tables.keys():
                self._remove(connection, name)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return renewed

    def uninstall(self, connection: sqlite3.Connection) -> None:
        """Remove everything."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._exists(connection, self._prefix + "tables"):
                for name in self._recorded(connection):
                    self._remove(connection, name)
            connection.execute(f"DROP TABLE IF EXISTS {self.catalogue}")
            connection.execute(f"DROP TABLE IF EXISTS {self.state}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def missing(self, connection: sqlite3.Connection) -> list[str]:
        """Tables whose capture is not there or not today's."""
        if not self._exists(connection, self._prefix + "tables"):
            return list(self.tables)
        return [name for name in self.tables if not self._is_installed(connection, name)]

    def generations(self, connection: sqlite3.Connection) -> dict[str, str]:
        """The generation of each table."""
        return {name: generation for name, (generation, _) in self._recorded(connection).items()}

    def statements(self, name: str) -> dict[str, str]:
        """The triggers of a table, by name."""
        captured = self.tables[name]
        bodies = _Triggers(captured, self.state, self.changes(name), self._replaced(name)).all()
        return {f"{self._prefix}{name}_{event}": body for event, body in bodies.items()}

    def _replaced(self, table: str) -> str:
        return quoted(f"{self._prefix}replaced_{table}")

    def _install_state(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self.state} (last INTEGER NOT NULL, database_id TEXT NOT NULL)"
        )
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self.catalogue}"
            " (name TEXT PRIMARY KEY, generation TEXT NOT NULL, digest TEXT NOT NULL)"
        )
        if connection.execute(f"SELECT count(*) FROM {self.state}").fetchone()[0] == 0:
            connection.execute(f"INSERT INTO {self.state} VALUES (0, ?)", (secrets.token_hex(8),))

    def _is_installed(self, connection: sqlite3.Connection, name: str) -> bool:
        wanted = {trigger: _create(trigger, sql, name) for trigger, sql in self.statements(name).items()}
        there = dict(
            connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (name,))
        )
        recorded = self._recorded(connection).get(name)
        return (
            recorded is not None
            and recorded[1] == _digest(wanted)
            and all(there.get(trigger) == sql for trigger, sql in wanted.items())
            and self._exists(connection, f"{self._prefix}changes_{name}")
        )

    def _renew(self, connection: sqlite3.Connection, name: str) -> None:
        """Changes already logged stay; columns that are new get null in them."""
        self._drop_triggers(connection, name)
        columns = self.tables[name].columns
        wanted = [f"{side}:{column}" for side in ("before", "after") for column in columns]
        changes = self.changes(name)
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {changes}"
            " (seq INTEGER PRIMARY KEY, op TEXT NOT NULL, changed_at_ms INTEGER NOT NULL)"
        )
        there = {row[1] for row in connection.execute(f"PRAGMA table_xinfo({changes})")}
        for column in wanted:
            if column not in there:
                connection.execute(f"ALTER TABLE {changes} ADD COLUMN {quoted(column)}")
        replaced = self._replaced(name)
        connection.execute(f"DROP TABLE IF EXISTS {replaced}")
        connection.execute(f"CREATE TABLE {replaced} (cause TEXT NOT NULL, {_names(columns)})")
        triggers = {trigger: _create(trigger, sql, name) for trigger, sql in self.statements(name).items()}
        for sql in triggers.values():
            connection.execute(sql)
        connection.execute(
            f"INSERT OR REPLACE INTO {self.catalogue} VALUES (?, ?, ?)", (name, secrets.token_hex(8), _digest(triggers))
        )

    def _remove(self, connection: sqlite3.Connection, name: str) -> None:
        self._drop_triggers(connection, name)
        connection.execute(f"DROP TABLE IF EXISTS {self.changes(name)}")
        connection.execute(f"DROP TABLE IF EXISTS {self._replaced(name)}")
        connection.execute(f"DELETE FROM {self.catalogue} WHERE name = ?", (name,))

    def _drop_triggers(self, connection: sqlite3.Connection, name: str) -> None:
        for event in _EVENTS:
            connection.execute(f"DROP TRIGGER IF EXISTS {quoted(f'{self._prefix}{name}_{event}')}")

    def _recorded(self, connection: sqlite3.Connection) -> dict[str, tuple[str, str]]:
        rows = connection.execute(f"SELECT name, generation, digest FROM {self.catalogue}")
        return {name: (generation, digest) for name, generation, digest in rows}

    def _exists(self, connection: sqlite3.Connection, table: str) -> bool:
        found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,))
        return found.fetchone() is not None


class _Triggers:
    """The five triggers of one table."""

    def __init__(self, captured: Captured, state: str, changes: str, replaced: str) -> None:
        self._table, self._columns = captured.table, captured.columns
        self._state, self._changes, self._replaced = state, changes, replaced
        self._source = quoted(captured.table.name)
        self._before = _names([f"before:{column}" for column in captured.columns])
        self._after = _names([f"after:{column}" for column in captured.columns])
        self._count = f"UPDATE {state} SET last = max(last, (SELECT coalesce(max(seq), 0) FROM {changes}));"

    def all(self) -> dict[str, str]:
        """Text after `CREATE TRIGGER <name> `, by event."""
        return {
            "before_insert": f"BEFORE INSERT ON {self._source} BEGIN {self._note('insert')} END",
            "insert": f"AFTER INSERT ON {self._source} BEGIN {self._inserted()} END",
            "before_update": f"BEFORE UPDATE ON {self._source} BEGIN {self._note('update')} END",
            "update": f"AFTER UPDATE ON {self._source} BEGIN {self._updated()} END",
            "delete": f"AFTER DELETE ON {self._source} BEGIN {self._deleted()} END",
        }

    def _note(self, cause: str) -> str:
        """Note the rows that stand where the new row wants to be."""
        key = [
            (column, collation) for column, collation in zip(self._table.key, self._table.key_collations, strict=True)
        ]
        conflicts = " OR ".join(
            "(" + " AND ".join(f"t.{quoted(c)} = NEW.{quoted(c)} COLLATE {collation}" for c, collation in index) + ")"
            for index in (key, *self._table.unique)
        )
        itself = f" AND NOT ({self._same_key('t', 'OLD')})" if cause == "update" else ""
        return (
            f"DELETE FROM {self._replaced} WHERE cause = {text(cause)};"
            f" INSERT INTO {self._replaced} SELECT {text(cause)}, {_names(self._columns, 't')}"
            f" FROM {self._source} t WHERE ({conflicts}){itself};"
        )

    def _gone(self, cause: str) -> str:
        """Delete in the change log what the new row replaced under another key."""
        return (
            f"INSERT INTO {self._changes} (seq, op, changed_at_ms, {self._before})"
            f" SELECT (SELECT last FROM {self._state}) + row_number() OVER (ORDER BY r.rowid), 'd', {_NOW_MS},"
            f" {_names(self._columns, 'r')} FROM {self._replaced} r"
            f" WHERE r.cause = {text(cause)} AND NOT ({self._same_key('r', 'NEW')})"
            f" AND NOT EXISTS (SELECT 1 FROM {self._source} t WHERE {self._same_key('t', 'r')});"
            f" {self._count}"
        )

    def _inserted(self) -> str:
        """A creation; an update where the row replaced one of its own key."""
        return (
            f"{self._gone('insert')}"
            f" INSERT INTO {self._changes} (seq, op, changed_at_ms, {self._before}, {self._after})"
            f" SELECT s.last + 1, CASE WHEN r.cause IS NULL THEN 'c' ELSE 'u' END, {_NOW_MS},"
            f" {_names(self._columns, 'r')}, {_names(self._columns, 't')} FROM {self._state} s"
            f" JOIN {self._source} t ON {self._same_key('t', 'NEW')}"
            f" LEFT JOIN {self._replaced} r ON r.cause = 'insert' AND {self._same_key('r', 'NEW')};"
            f" {self._count} DELETE FROM {self._replaced} WHERE cause = 'insert';"
        )

    def _updated(self) -> str:
        same = self._same_key("NEW", "OLD")
        return (
            f"{self._gone('update')}"
            f" INSERT INTO {self._changes} (seq, op, changed_at_ms, {self._before}, {self._after})"
            f" SELECT s.last + 1, 'u', {_NOW_MS}, {_names(self._columns, 'OLD')}, {_names(self._columns, 't')}"
            f" FROM {self._state} s JOIN {self._source} t ON {self._same_key('t', 'NEW')} WHERE {same};"
            f" {self._count}"
            f" INSERT INTO {self._changes} (seq, op, changed_at_ms, {self._before})"
            f" SELECT last + 1, 'd', {_NOW_MS}, {_names(self._columns, 'OLD')} FROM {self._state} WHERE NOT ({same});"
            f" {self._count}"
            f" INSERT INTO {self._changes} (seq, op, changed_at_ms, {self._after})"
            f" SELECT s.last + 1, 'c', {_NOW_MS}, {_names(self._columns, 't')}"
            f" FROM {self._state} s JOIN {self._source} t ON {self._same_key('t', 'NEW')} WHERE NOT ({same});"
            f" {self._count} DELETE FROM {self._replaced} WHERE cause = 'update';"
        )

    def _deleted(self) -> str:
        return (
            f"INSERT INTO {self._changes} (seq, op, changed_at_ms, {self._before})"
            f" SELECT last + 1, 'd', {_NOW_MS}, {_names(self._columns, 'OLD')} FROM {self._state};"
            f" {self._count} DELETE FROM {self._replaced} WHERE {self._same_key(self._replaced, 'OLD')};"
        )

    def _same_key(self, left: str, right: str) -> str:
        """Equal byte for byte: rows whose keys differ only by case have different message keys."""
        parts = []
        for column, collation in zip(self._table.key, self._table.key_collations, strict=True):
            binary = "" if collation == BINARY else f" COLLATE {BINARY}"
            parts.append(f"{left}.{quoted(column)}{binary} IS {right}.{quoted(column)}")
        return " AND ".join(parts)


def _create(trigger: str, body: str, table: str) -> str:
    return f"CREATE TRIGGER {quoted(trigger)} {body}"


def _names(columns: Sequence[str], qualifier: str = "") -> str:
    prefix = f"{qualifier}." if qualifier else ""
    return ", ".join(prefix + quoted(column) for column in columns)


def _digest(triggers: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{name} {sql}" for name, sql in sorted(triggers.items())).encode()).hexdigest()
