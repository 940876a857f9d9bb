"""PostgreSQL tables, exactly once.

Owns one session, one table and its rows in `_headrace_positions`.

1. The first `write` after a flush begins a transaction and looks whether the table is still what it was.
2. Each `write` is one COPY, in keyed modes into a temporary table and from there into the table, all in a savepoint:
   rows that the server refuses are found by halves and given back.
3. `flush` moves the positions and commits. Rows and positions are there together, or neither is.

- Locks of rows last from `write` to `flush`; a hanging process keeps them for `session.IDLE_TIMEOUT_S`.
- What happens to a commit whose answer is lost is told by the positions when the target is opened again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import ClassVar

import numpy as np
import polars as pl
import psycopg
from psycopg.pq import TransactionStatus

from headrace.egress.sdk import (
    Capabilities,
    ConnectorConfig,
    Contract,
    EgressBatch,
    Mode,
    Options,
    Refused,
    TargetInvalid,
    isolate,
)
from headrace.egress.sql_tables import check_kept, check_version_column, table_of, without_truncations
from headrace.egress.update_groups import DELETED, update_groups
from headrace_postgres.options import PostgresOptions
from headrace_postgres.positions import Positions
from headrace_postgres.session import Connection, TableChanged, connect, first_line, is_of_row, refusal_code, translated
from headrace_postgres.table import GROUP, STAGED, VERSION, Table
from headrace_postgres.types import csv_rows

CHANGES_MAX = 3
"""How often in a row a table may have changed; then it is no change but a table that does not fit."""
_OPENING = 7_233_210_401
"""Key of the lock under which tables are made and altered, in one process at a time."""


class PostgresConnector:
    """A `Connector`."""

    capabilities = Capabilities(
        modes=frozenset({Mode.APPEND, Mode.UPSERT, Mode.REPLICATE}),
        atomic_positions=True,
        creates_table=True,
        alters_table=True,
        partial_update=True,
        truncate=True,
        refuses_stale=True,
        parallel=True,
    )
    options_model: ClassVar[type[Options]] = PostgresOptions

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._table: Table | None = None
        self._positions: Positions | None = None
        self._held: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._changes = 0

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Make or alter the table and read the positions."""
        table, connection = self._set_up(config, contract), self._connected(config)
        with self._watched():
            with connection.transaction():
                held = self._make(connection, table)
            if table.key:
                connection.execute(table.staging())
        check_kept(self._held, held, partitions, config.egress)
        self._held = {each: held[each] for each in partitions if each in held}
        return dict(self._held)

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Write the rows in the transaction that the next flush commits."""
        self._pending.update(positions)
        if not len(batch):
            return []
        connection, table = self._opened()
        refused, batch, original = without_truncations(
            batch, code="postgres.truncate", refuses_stale=table.version is not None
        )
        codes: dict[int, str] = {}

        def attempt(start: int, stop: int) -> None:
            try:
                with connection.transaction():
                    self._apply(connection, table, batch.take(np.arange(start, stop)))
            except psycopg.Error as error:
                if not is_of_row(error):
                    raise
                codes[start] = refusal_code(error)
                raise _RowRefused(first_line(error)) from error

        with self._watched():
            self._begin(connection, table)
            found = isolate(len(batch), attempt, refuses=(_RowRefused,), code="postgres.value")
        return [*refused, *(Refused(int(original[row]), codes[row], message) for row, _, message in found)]

    def flush(self) -> None:
        """Positions into the transaction, and commit."""
        if not self._pending:
            return
        connection, table = self._opened()
        assert self._positions is not None
        with self._watched():
            self._begin(connection, table)
            self._positions.move(connection, self._held, self._pending)
            connection.execute("COMMIT")
        self._held.update(self._pending)
        self._pending, self._changes = {}, 0

    def close(self) -> None:
        """End the session, and with it what is not committed."""
        connection, self._connection, self._pending = self._connection, None, {}
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """Whether the session begins, and table and positions can be made, fit and be written, in a transaction that is
        rolled back."""
        table, connection = self._set_up(config, contract), self._connected(config)
        try:
            with self._watched(), connection.transaction(force_rollback=True):
                self._make(connection, table)
                return _missing_rights(connection, table, self._positions)
        finally:
            self.close()

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The statements of one flush of these rows."""
        table = self._set_up(config, contract)
        if not table.key:
            return [f"COPY {table.name} ({table.column_list}) FROM STDIN (FORMAT csv) -- {len(batch)} rows"]
        _, batch, _ = without_truncations(batch, code="postgres.truncate", refuses_stale=bool(table.version))
        truncated, batch = batch.since_truncate(refuses_stale=table.version is not None)
        groups, left = update_groups(batch)
        return [
            *([] if truncated is None else [table.truncation(truncated)]),
            f"COPY {STAGED} FROM STDIN (FORMAT csv) -- {len(batch)} rows",
            *([table.deletion()] if (groups == DELETED).any() else []),
            *(table.upsert(group, names) for group, names in enumerate(left) if (groups == group).any()),
        ]

    def positions(self, config: ConnectorConfig, contract: Contract) -> Mapping[int, int]:
        """Of the table, where there is one."""
        self._set_up(config, contract)
        connection = self._connected(config)
        assert self._positions is not None
        try:
            with translated():
                return self._positions.held(connection) if self._positions.exist(connection) else {}
        finally:
            self.close()

    def rewind(
        self, config: ConnectorConfig, contract: Contract, before: Mapping[int, int], after: Mapping[int, int]
    ) -> None:
        """A flush without rows; what the egress makes when it opens is made before, so it may never have run."""
        table, connection = self._set_up(config, contract), self._connected(config)
        assert self._positions is not None
        try:
            with translated(), connection.transaction():
                self._make(connection, table)
                self._positions.move(connection, before, after)
        finally:
            self.close()

    def _set_up(self, config: ConnectorConfig, contract: Contract) -> Table:
        options = config.options
        assert isinstance(options, PostgresOptions)
        self._pending = {}
        self._positions = Positions(config, options.schema_name)
        name = options.table or table_of(config.topic)
        key = () if config.mode is Mode.APPEND else contract.key
        version = options.version_column if key else None
        self._table = Table(options.schema_name, name, contract, config, key, version, creates=options.create)
        check_version_column(version, contract, config.egress)
        return self._table

    def _connected(self, config: ConnectorConfig) -> Connection:
        assert isinstance(config.options, PostgresOptions)
        self._connection = connect(config.options.database, lock_timeout_s=config.options.lock_timeout_s)
        return self._connection

    def _make(self, connection: Connection, table: Table) -> Mapping[int, int]:
        """All that the target needs; returns the positions that it holds."""
        assert self._positions is not None
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_OPENING])
        table.fit(connection)
        self._positions.create(connection)
        return self._positions.held(connection)

    def _opened(self) -> tuple[Connection, Table]:
        assert self._connection is not None, "open comes first"
        assert self._table is not None
        return self._connection, self._table

    def _begin(self, connection: Connection, table: Table) -> None:
        """Begin the transaction that the next flush commits, unless it is there."""
        if connection.info.transaction_status is TransactionStatus.IDLE:
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            # A constraint that waits for the commit would tell of no row.
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            table.check_unchanged(connection)

    def _apply(self, connection: Connection, table: Table, batch: EgressBatch) -> None:
        if not table.key:
            _copy(connection, f"{table.name} ({table.column_list})", csv_rows(batch, table.contract))
            return
        refuses_stale = table.version is not None
        truncated, batch = batch.since_truncate(refuses_stale=refuses_stale)
        if truncated is not None:
            connection.execute(table.truncation(truncated))
        # Each key once: one statement cannot change a row twice.
        batch = batch.latest(refuses_stale=refuses_stale)
        groups, left = update_groups(batch)
        more = [pl.Series(GROUP, groups), pl.Series(VERSION, batch.version)]
        _copy(connection, STAGED, csv_rows(batch, table.contract, more))
        if (groups == DELETED).any():
            connection.execute(table.deletion())
        for group, names in enumerate(left):
            if (groups == group).any():
                connection.execute(table.upsert(group, names))
        connection.execute(f"TRUNCATE {STAGED}")

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Errors named, and a table that seems to change each time taken for one that does not fit."""
        try:
            with translated():
                yield
        except TableChanged as error:
            self._changes += 1
            if self._changes > CHANGES_MAX:
                raise TargetInvalid(error.message, cure="make the table fit the contract") from error
            raise


def _missing_rights(connection: Connection, table: Table, positions: Positions | None) -> Sequence[str]:
    """What to say of each table to which the user lacks a right."""
    assert positions is not None
    # `LOCK TABLE` asks for more than INSERT before PostgreSQL 16.
    written = ["SELECT", "INSERT", "UPDATE", *(["DELETE"] if table.key else [])]
    found = []
    for name, wanted in ((table.name, written), (positions.table, ["SELECT", "INSERT", "UPDATE"])):
        told = connection.execute(
            "SELECT name FROM unnest(%s::text[]) name WHERE NOT has_table_privilege(%s, name)", [wanted, name]
        )
        if lacking := [row[0] for row in told.fetchall()]:
            found.append(f"the user has no right to {', '.join(lacking)} on {name}; GRANT it, or name another user")
    temporary = "SELECT has_database_privilege(current_database(), 'TEMPORARY')"
    if table.key and connection.execute(temporary).fetchone() != (True,):
        found.append("the user has no right to TEMPORARY on the database; GRANT it, or name another user")
    return [f"{table.config.egress}: {each}" for each in found]


class _RowRefused(Exception):
    """The server refuses one of these rows."""


def _copy(connection: Connection, into: str, rows: bytes) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {into} FROM STDIN (FORMAT csv)") as copy:
        copy.write(rows)
