"""An outbox in PostgreSQL: what is asked of its table, where its reading begins, and how it stays small.

Owns the making and checking of the table, and the removal of rows that were published.

- Rows are read like those of a captured table: those that were there first, then inserts from the stream. Updates,
  deletions and truncations of rows are nobody's event.
- Rows that were there first are read in the order of their numbers as one moment saw them, however often the reading is
  begun anew: a row that commits later comes from the stream, behind all of them.
- A row is removed once the log has everything that the moment knows in which the row is seen: what that is follows from
  the row's own transaction, so that a restart forgets nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.yaml_model import place_of
from headrace.errors import Where
from headrace.ingress.cdc.config import OutboxConfig, PostgresCdcConfig
from headrace.ingress.cdc.errors import SourceInvalid, SourceUnavailable
from headrace.ingress.cdc.postgres.connection import Connection, translated
from headrace.ingress.cdc.postgres.position import Moment, PostgresPosition, Range
from headrace.ingress.cdc.postgres.tables import SourceTable, literal, quoted, split_name
from headrace.ingress.outbox_table import KEY, TRANSACTION, quoted_name, table_statement

_LOG = structlog.get_logger("headrace.ingress")

PRUNE_ROWS_MAX = 10_000
"""Removed in one statement: it holds its locks for a moment only."""


def outbox_topics(config: PostgresCdcConfig, contracts: Mapping[str, Contract]) -> dict[str, Contract]:
    """The contract of each topic that may be written. Raises `SourceInvalid`."""
    if config.outbox is None:
        return {}
    where = place_of(config.where, "outbox", "topics")
    chosen = {}
    for topic in config.outbox.topics:
        contract = contracts.get(topic)
        if contract is None:
            cure = f"add contracts/{topic}.yaml, or take the topic out"
            raise SourceInvalid(f"topic {topic!r} has no contract", where=where, cure=cure)
        if contract.kind is TopicKind.CHANGE:
            message = f"topic {topic!r} is of kind change, and an outbox holds events and rows"
            raise SourceInvalid(message, where=where, cure="capture the table itself, under `tables`")
        chosen[topic] = contract
    return chosen


def has_table(connection: Connection, table: str) -> bool:
    """Whether there is something of this name."""
    with translated():
        row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (".".join(_quoted_parts(table)),)).fetchone()
    return row is not None and bool(row[0])


def create_table(connection: Connection, table: str) -> None:
    """Make it where it is missing."""
    with translated():
        connection.execute(table_statement(quoted_name(table)).encode())


def check_table(
    connection: Connection, table: SourceTable, config: OutboxConfig, *, where: Where | None = None
) -> None:
    """Raises `SourceInvalid`."""
    if TRANSACTION not in {each.name for each in table.columns}:
        raise SourceInvalid(
            f"table {table.name!r} is no outbox: it has no column {TRANSACTION!r}",
            where=where,
            cure="make it with the statement of docs/ingress.md, or under another name",
        )
    with translated(where):
        row = connection.execute("SELECT has_table_privilege(%s::oid, 'DELETE')", (table.oid,)).fetchone()
    if config.prune_interval_ms and (row is None or not row[0]):
        raise SourceInvalid(
            f"the user may not delete from {table.name!r}, and published rows are removed",
            where=where,
            cure=f"GRANT SELECT, DELETE ON {table.quoted} TO ..., or write `prune_interval_ms: 0`",
        )


def backlog(connection: Connection, snapshot: str, lsn: int) -> tuple[Range, ...]:
    """The rows that the exported snapshot of the slot's beginning at `lsn` sees."""
    with translated():
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            connection.execute(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}".encode())
            row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
        finally:
            connection.execute("COMMIT")
    assert row is not None
    return (Range(moment=Moment(row[0], lsn)),)


def seen_at(moment: Moment) -> str:
    """The condition of rows that a moment sees."""
    return f"pg_visible_in_snapshot({quoted(TRANSACTION)}, {literal(moment.text)}::pg_snapshot)"


class OutboxPruner:
    """Removes published rows. Used from one thread."""

    def __init__(self, config: OutboxConfig, ingress: str) -> None:
        self._interval_s, self._ingress = config.prune_interval_ms / 1_000, ingress
        self._table = quoted_name(config.table)
        self._next_s = 0.0
        self._mark: Moment | None = None
        """What it sees is published once the log has reached its place."""
        self._has_rows = True
        """Some may be left from before."""

    def noticed(self) -> None:
        """Rows were read."""
        self._has_rows = True

    def published(self, connection: Connection, position: PostgresPosition) -> None:
        """Everything up to `position` is in the log."""
        now_s = time.monotonic()
        if not self._interval_s or now_s < self._next_s or position.open_snapshots:
            return
        self._next_s = now_s + self._interval_s
        try:
            if self._mark is not None and self._mark.lsn <= position.lsn:
                self._remove(connection, self._mark)
            if self._mark is None and self._has_rows:
                self._has_rows = False
                self._mark = _now(connection)
        except SourceUnavailable as error:
            # Removing can wait: the position keeps these rows from being read again.
            _LOG.info("pruning put off", ingress=self._ingress, error=str(error))

    def _remove(self, connection: Connection, mark: Moment) -> None:
        key = quoted(KEY)
        chosen = f"SELECT {key} FROM {self._table} WHERE {seen_at(mark)} ORDER BY {key} LIMIT {PRUNE_ROWS_MAX}"
        with translated():
            removed = connection.execute(
                f"DELETE FROM {self._table} WHERE {key} IN ({chosen} FOR UPDATE SKIP LOCKED)".encode()
            ).rowcount
        if removed < PRUNE_ROWS_MAX:
            self._mark = None


def _now(connection: Connection) -> Moment:
    with translated():
        row = connection.execute(
            "SELECT pg_current_snapshot()::text, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
        ).fetchone()
    assert row is not None
    return Moment(row[0], row[1])


def _quoted_parts(table: str) -> tuple[str, str]:
    schema, name = split_name(table)
    return quoted(schema), quoted(name)
