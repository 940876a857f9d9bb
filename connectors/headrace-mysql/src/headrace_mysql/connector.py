"""MySQL and MariaDB tables, exactly once.

Owns one session, one table and its rows in `_headrace_positions`.

1. The first `write` after a flush begins a transaction and looks whether the table is still what it was.
2. Each `write` is a few INSERTs of many rows, in keyed modes into a temporary table and from there into the table, all
   behind a savepoint: rows that the server refuses are found by halves and given back.
3. `flush` moves the positions and commits. Rows and positions are there together, or neither is.

- Not LOAD DATA LOCAL: the server then takes bad values and double keys for warnings.
- Locks of rows last from `write` to `flush`; a hanging process keeps them for `session.IDLE_TIMEOUT_S`.
- What happens to a commit whose answer is lost is told by the positions when the target is opened again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import ClassVar

import numpy as np
import polars as pl
import pymysql
from pymysql.connections import Connection

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
from headrace.egress.update_groups import update_groups
from headrace_mysql.options import MysqlOptions
from headrace_mysql.positions import Positions
from headrace_mysql.rights import DATABASE, Rights
from headrace_mysql.session import TableChanged, connect, message_of, refusal_code, rows, translated
from headrace_mysql.table import GROUP, STAGED, VERSION, Table
from headrace_mysql.types import quoted, sql_rows

CHANGES_MAX = 3
"""How often in a row a table may have changed; then it is no change but a table that does not fit."""
STATEMENT_BYTES = 2 * 1024 * 1024
"""Of one INSERT, or the server's `max_allowed_packet` where that is less."""
_HEAD_BYTES = 16 * 1024
"""Room for the statement around the rows."""
_SAVEPOINT = "headrace"


class MysqlConnector:
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
    options_model: ClassVar[type[Options]] = MysqlOptions

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._table: Table | None = None
        self._positions: Positions | None = None
        self._held: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._is_begun = False
        self._packet_bytes = STATEMENT_BYTES
        self._changes = 0

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Make or alter the table and read the positions."""
        table, connection = self._set_up(config, contract), self._connected(config)
        assert self._positions is not None
        with self._watched():
            self._packet_bytes = rows(connection, "SELECT @@max_allowed_packet")[0][0]
            table.fit(connection)
            self._positions.create(connection)
            held = self._positions.held(connection)
            if table.key:
                rows(connection, table.staging())
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
            batch, code="mysql.truncate", refuses_stale=table.version is not None
        )
        codes: dict[int, str] = {}

        def attempt(start: int, stop: int) -> None:
            rows(connection, f"SAVEPOINT {_SAVEPOINT}")
            try:
                self._apply(connection, table, batch.take(np.arange(start, stop)))
            except (_RowRefused, pymysql.MySQLError) as error:
                code = error.code if isinstance(error, _RowRefused) else refusal_code(error)
                if code is None:
                    raise
                codes[start] = code
                rows(connection, f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
                raise _RowRefused(message_of(error), code) from error

        with self._watched():
            self._begin(connection, table)
            found = isolate(len(batch), attempt, refuses=(_RowRefused,), code="mysql.value")
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
            connection.commit()
        self._is_begun = False
        self._held.update(self._pending)
        self._pending, self._changes = {}, 0

    def close(self) -> None:
        """End the session, and with it what is not committed."""
        connection, self._connection, self._pending = self._connection, None, {}
        if connection is not None:
            with suppress(pymysql.MySQLError, OSError):
                connection.close()

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """Whether the session begins, the user has the rights, and the table fits or can be made to."""
        table, connection = self._set_up(config, contract), self._connected(config)
        assert self._positions is not None
        try:
            with self._watched():
                rights = Rights(connection)
                wanted = [*table.rights(connection), *self._positions.rights(connection)]
                missing = [f"{table.config.egress}: {each}" for each in _missing(rights, wanted)]
                # Of a table that the user may not see the catalog shows nothing.
                if not missing:
                    table.check_fit(connection)
        finally:
            self.close()
        return missing

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The statements of one flush of these rows."""
        table = self._set_up(config, contract)
        if not table.key:
            return [f"INSERT INTO {table.name} ({table.column_list}) VALUES ... -- {len(batch)} rows"]
        _, batch, _ = without_truncations(batch, code="mysql.truncate", refuses_stale=bool(table.version))
        truncated, batch = batch.since_truncate(refuses_stale=table.version is not None)
        return [
            *([] if truncated is None else [table.truncation(truncated)]),
            f"INSERT INTO {STAGED} ({table.column_list}, {GROUP}, {VERSION}) VALUES ... -- {len(batch)} rows",
            *table.merge(update_groups(batch)[1]),
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
        """A flush without rows."""
        self._set_up(config, contract)
        connection = self._connected(config)
        assert self._positions is not None
        try:
            with translated():
                self._positions.create(connection)
                connection.begin()
                self._positions.move(connection, before, after)
                connection.commit()
        finally:
            self.close()

    def _set_up(self, config: ConnectorConfig, contract: Contract) -> Table:
        options = config.options
        assert isinstance(options, MysqlOptions)
        self._pending, self._is_begun = {}, False
        self._positions = Positions(config)
        name = options.table or table_of(config.topic)
        key = () if config.mode is Mode.APPEND else contract.key
        version = options.version_column if key else None
        self._table = Table(name, contract, config, key, version, creates=options.create)
        check_version_column(version, contract, config.egress)
        return self._table

    def _connected(self, config: ConnectorConfig) -> Connection:
        assert isinstance(config.options, MysqlOptions)
        self._connection = connect(config.options.database, lock_timeout_s=config.options.lock_timeout_s)
        return self._connection

    def _opened(self) -> tuple[Connection, Table]:
        assert self._connection is not None, "open comes first"
        assert self._table is not None
        return self._connection, self._table

    def _begin(self, connection: Connection, table: Table) -> None:
        """Begin the transaction that the next flush commits, unless it is there."""
        if not self._is_begun:
            connection.begin()
            self._is_begun = True
            table.check_unchanged(connection)

    def _apply(self, connection: Connection, table: Table, batch: EgressBatch) -> None:
        if not table.key:
            self._insert(connection, f"{table.name} ({table.column_list})", sql_rows(batch, table.contract))
            return
        refuses_stale = table.version is not None
        truncated, batch = batch.since_truncate(refuses_stale=refuses_stale)
        if truncated is not None:
            rows(connection, table.truncation(truncated))
        # Each key once: the order of rows in one statement is the server's.
        batch = batch.latest(refuses_stale=refuses_stale)
        groups, left = update_groups(batch)
        literals = sql_rows(batch, table.contract, [pl.Series(GROUP, groups), pl.Series(VERSION, batch.version)])
        self._insert(connection, f"{STAGED} ({table.column_list}, {GROUP}, {VERSION})", literals)
        for statement in table.merge(left):
            rows(connection, statement)
        rows(connection, f"DELETE FROM {STAGED}")

    def _insert(self, connection: Connection, into: str, literals: pl.Series) -> None:
        """As many rows in each statement as it has room for."""
        if not len(literals):
            return
        sizes = literals.str.len_bytes().to_numpy().astype(np.int64) + 1
        if sizes.max() > self._packet_bytes - _HEAD_BYTES:
            message = f"the row has {sizes.max():,} bytes, `max_allowed_packet` is {self._packet_bytes:,}"
            raise _RowRefused(message, "mysql.value")
        room = min(STATEMENT_BYTES, self._packet_bytes) - _HEAD_BYTES
        ends, start = np.cumsum(sizes), 0
        while start < len(literals):
            before = int(ends[start - 1]) if start else 0
            # At least one: a row that is larger than the usual statement has one of its own.
            stop = max(start + 1, int(np.searchsorted(ends, before + room, side="right")))
            connection.query(f"INSERT INTO {into} VALUES {literals[start:stop].str.join(',').item()}")
            start = stop

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


def _missing(rights: Rights, wanted: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """What to say of each table to which the user lacks a right."""
    for table, names in wanted:
        if lacking := rights.missing(table, names):
            place = "the database" if table == DATABASE else f"table {quoted(table)}"
            yield f"the user has no right to {', '.join(lacking)} on {place}; GRANT it, or name another user"


class _RowRefused(Exception):
    """The server refuses one of these rows."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code
