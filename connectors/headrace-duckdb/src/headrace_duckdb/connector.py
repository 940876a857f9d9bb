"""DuckDB tables, exactly once.

Owns one table and its rows in `_headrace_positions`; shares the database file with whoever else uses it.

- Rows and positions are one DuckDB transaction: after a crash both are there, or neither.
- A flush finds the positions where this process left them, or another process delivers the same partition and it stops.
- DuckDB lets one process write and then nobody else read. So the file is open only while it is used: to open costs some
  milliseconds for each flush, and between flushes others may look in. `keep_open` trades that for speed.
- A file that another process holds is waited for, up to `FILE_WAIT_S`, then the egress tries again later: so several
  processes may write one file in turn, each for the time of one flush.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import Field

from headrace.egress.drift import DriftStep, plan_drift
from headrace.egress.local_folder import folder_problems
from headrace.egress.sdk import (
    Capabilities,
    ConnectorConfig,
    Contract,
    EgressBatch,
    Mode,
    Options,
    PositionMoved,
    Refused,
    TargetInvalid,
    TargetUnavailable,
    arrow_schema,
    isolate,
)
from headrace_duckdb.types import ColumnType, column_types, quoted, storable, storable_schema, widens

POSITIONS_TABLE = "_headrace_positions"
FILE_WAIT_S = 5.0
"""Longer than a flush of another process takes, short enough to stay in the consumer group."""
FILE_POLL_S = 0.02
_DELETE = "__delete"
_UNTOLD = "__untold_"
"""Columns of the staged rows; contracts may not use names that begin so."""


class DuckDbOptions(Options):
    """`options:` of an egress with connector `duckdb`."""

    path: Path
    """The database file; made when it is missing."""
    table: str | None = Field(default=None, min_length=1)
    """Default: the topic with `_` for every dot and dash."""
    schema_name: str = Field(default="main", alias="schema", min_length=1)
    keep_open: bool = False
    """Hold the file open between flushes: faster, but no other process can read it meanwhile."""


class DuckDbConnector:
    """A `Connector`."""

    capabilities = Capabilities(
        modes=frozenset({Mode.APPEND, Mode.UPSERT, Mode.REPLICATE}),
        atomic_positions=True,
        creates_table=True,
        alters_table=True,
        partial_update=True,
        truncate=True,
    )
    options_model: ClassVar[type[Options]] = DuckDbOptions

    def __init__(self) -> None:
        self._database: _Database | None = None
        self._config: ConnectorConfig | None = None
        self._table = ""
        self._positions_table = ""
        self._schema = pa.schema([])
        self._positions: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._staged: list[EgressBatch] = []
        self._is_constrained = False

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Make or alter the table and read the positions."""
        self._set_up(config, contract)
        assert isinstance(config.options, DuckDbOptions)
        assert self._database is not None
        with self._database.transaction() as connection:
            self._make_schema(connection, config.options)
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._positions_table} (egress VARCHAR NOT NULL,"
                " topic VARCHAR NOT NULL, partition INTEGER NOT NULL, next_offset BIGINT NOT NULL,"
                " updated_at TIMESTAMPTZ DEFAULT now(), PRIMARY KEY (egress, topic, partition))"
            )
            self._fit_table(connection, contract)
            self._is_constrained = _is_constrained(connection, config.options.schema_name, _table_name(config))
            held = self._held(connection)
        self._positions = {partition: held[partition] for partition in partitions if partition in held}
        return dict(self._positions)

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Keep the rows until the flush. Where the table has constraints the rows are tried in a transaction that is
        rolled back, since DuckDB fails a whole batch for one row."""
        refused = self._try(batch) if self._is_constrained and len(batch) else []
        if refused:
            kept = np.delete(np.arange(len(batch)), [each.row for each in refused])
            batch = batch.take(kept)
        self._staged.append(batch)
        self._pending.update(positions)
        return refused

    def flush(self) -> None:
        """Rows and positions in one transaction."""
        if not self._pending:
            return
        assert self._database is not None
        with self._database.transaction() as connection:
            self._check_positions(connection)
            self._apply(connection, self._staged)
            self._move_positions(connection)
        self._positions.update(self._pending)
        self._staged, self._pending = [], {}

    def close(self) -> None:
        """Drop what is staged and let the file go."""
        self._staged, self._pending = [], {}
        if self._database is not None:
            self._database.close()
            self._database = None

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """Whether the file opens and the table fits, in a transaction that is rolled back."""
        assert isinstance(config.options, DuckDbOptions)
        if not config.options.path.exists():
            return folder_problems(config.options.path.parent)
        self._set_up(config, contract)
        assert self._database is not None
        try:
            with self._database.transaction(keep=False) as connection:
                self._make_schema(connection, config.options)
                self._fit_table(connection, contract)
        finally:
            self.close()
        return []

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The statements of one flush of these rows."""
        self._set_up(config, contract)
        if config.mode is Mode.APPEND:
            return [f"INSERT INTO {self._table} BY NAME SELECT * FROM staged -- {len(batch)} rows"]
        truncated, left = batch.since_truncate()
        emptied = [] if truncated is None else [f"DELETE FROM {self._table}"]
        latest = left.latest()
        return [*emptied, f"{self._merge(latest)} -- {len(latest)} rows"] if len(latest) else emptied

    def _set_up(self, config: ConnectorConfig, contract: Contract) -> None:
        """Everything that needs no file."""
        assert isinstance(config.options, DuckDbOptions)
        options = config.options
        self._config, self._staged, self._pending = config, [], {}
        self._database = _Database(options.path, keep_open=options.keep_open)
        self._table = f"{quoted(options.schema_name)}.{quoted(_table_name(config))}"
        self._positions_table = f"{quoted(options.schema_name)}.{quoted(POSITIONS_TABLE)}"
        self._schema = storable_schema(arrow_schema(contract))

    def _make_schema(self, connection: duckdb.DuckDBPyConnection, options: DuckDbOptions) -> None:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(options.schema_name)}")

    def _fit_table(self, connection: duckdb.DuckDBPyConnection, contract: Contract) -> None:
        """Create the table, or alter it to fit the contract."""
        assert self._config is not None
        connection.register("staged", self._schema.empty_table())
        connection.execute(f"CREATE TABLE IF NOT EXISTS {self._table} AS SELECT * FROM staged")
        wanted = column_types(connection, "SELECT * FROM staged")
        existing = column_types(connection, f"SELECT * FROM {self._table}")
        steps = plan_drift(
            contract,
            {name: each.arrow for name, each in wanted.items()},
            {name: each.arrow for name, each in existing.items()},
            self._config.drift,
            target=f"{self._config.egress}: table {self._table}",
            widens=widens,
        )
        for step in steps:
            connection.execute(f"ALTER TABLE {self._table} {_alteration(step, wanted)}")

    def _held(self, connection: duckdb.DuckDBPyConnection) -> dict[int, int]:
        assert self._config is not None
        rows = connection.execute(
            f"SELECT partition, next_offset FROM {self._positions_table} WHERE egress = ? AND topic = ?",
            [self._config.egress, self._config.topic],
        ).fetchall()
        return {int(partition): int(offset) for partition, offset in rows}

    def _check_positions(self, connection: duckdb.DuckDBPyConnection) -> None:
        held = self._held(connection)
        for partition in self._pending:
            if held.get(partition) != self._positions.get(partition):
                raise PositionMoved(
                    f"{self._table}: partition {partition} is at {held.get(partition)}, this process left it at"
                    f" {self._positions.get(partition)}",
                    cure="run this egress in one place",
                )

    def _move_positions(self, connection: duckdb.DuckDBPyConnection) -> None:
        assert self._config is not None
        for partition, offset in self._pending.items():
            connection.execute(
                f"INSERT INTO {self._positions_table} (egress, topic, partition, next_offset) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset, updated_at = now()",
                [self._config.egress, self._config.topic, partition, offset],
            )

    def _apply(self, connection: duckdb.DuckDBPyConnection, batches: Sequence[EgressBatch]) -> None:
        assert self._config is not None
        batches = [batch for batch in batches if len(batch)]
        if not batches:
            return
        batch = EgressBatch.concat(batches)
        if self._config.mode is Mode.APPEND:
            connection.register("staged", storable(batch.rows))
            connection.execute(f"INSERT INTO {self._table} BY NAME SELECT * FROM staged")
            return
        truncated, batch = batch.since_truncate()
        if truncated is not None:
            connection.execute(f"DELETE FROM {self._table}")
        # A merge must meet each key once.
        batch = batch.latest()
        staged = storable(batch.rows).append_column(_DELETE, pa.array(batch.deletes()))
        for name, mask in batch.unavailable.items():
            staged = staged.append_column(_UNTOLD + name, pa.array(mask))
        connection.register("staged", staged)
        connection.execute(self._merge(batch))

    def _merge(self, batch: EgressBatch) -> str:
        """Null keys are equal to each other, as they are in the topic."""
        columns = [quoted(each.name) for each in self._schema]
        on = " AND ".join(f"t.{quoted(name)} IS NOT DISTINCT FROM s.{quoted(name)}" for name in batch.key)
        update = ", ".join(
            f"{quoted(each.name)} = {_new_value(each.name, batch)}"
            for each in self._schema
            if each.name not in batch.key
        )
        matched = f" WHEN MATCHED THEN UPDATE SET {update}" if update else ""
        return (
            f"MERGE INTO {self._table} t USING staged s ON {on}"
            f" WHEN MATCHED AND s.{_DELETE} THEN DELETE{matched}"
            f" WHEN NOT MATCHED AND NOT s.{_DELETE} THEN INSERT ({', '.join(columns)})"
            f" VALUES ({', '.join(f's.{column}' for column in columns)})"
        )

    def _try(self, batch: EgressBatch) -> list[Refused]:
        """Rows that the table's constraints refuse, given what is staged."""
        assert self._database is not None
        database, accepted = self._database, list(self._staged)

        def attempt(start: int, stop: int) -> None:
            part = batch.take(np.arange(start, stop))
            with database.transaction(keep=False) as connection:
                self._apply(connection, [*accepted, part])
            accepted.append(part)

        refuses = (duckdb.ConstraintException, duckdb.ConversionException)
        return isolate(len(batch), attempt, refuses=refuses, code="duckdb.constraint")


_LOCKS: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
"""One for each file that this process has written; there are as many as its egresses name."""


class _Database:
    """The file, open only while it is used unless it is kept."""

    def __init__(self, path: Path, *, keep_open: bool) -> None:
        self._path, self._keep_open = path, keep_open
        self._lock = _LOCKS[path.resolve()]
        self._connection: duckdb.DuckDBPyConnection | None = None

    @contextmanager
    def transaction(self, *, keep: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
        """A transaction, committed at the end where `keep` says so, rolled back after a raise."""
        with self._turn(), self._translated():
            connection = self._opened()
            try:
                connection.begin()
                try:
                    yield connection
                except BaseException:
                    connection.rollback()
                    raise
                if keep:
                    connection.commit()
                else:
                    connection.rollback()
            finally:
                if not self._keep_open:
                    self.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Other egresses of this process wait: DuckDB shares one database among the connections of a process, and one
        that is opened while another is closed finds it half gone."""
        if self._keep_open:
            yield
            return
        if not self._lock.acquire(timeout=FILE_WAIT_S):
            raise TargetUnavailable(f"{self._path}: another egress of this process uses it")
        try:
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        """Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _opened(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._waited_for()
        return self._connection

    def _waited_for(self) -> duckdb.DuckDBPyConnection:
        """Open the file, once no other process holds it."""
        deadline_s = time.monotonic() + FILE_WAIT_S
        while True:
            try:
                return duckdb.connect(str(self._path))
            except duckdb.IOException as error:
                if not _is_locked(error) or time.monotonic() > deadline_s:
                    raise
                time.sleep(FILE_POLL_S)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except duckdb.ConnectionException as error:
            raise self._unavailable(error, "close the other connection of this process") from error
        except (duckdb.IOException, duckdb.TransactionException) as error:
            if "not a valid DuckDB database" in str(error):
                cure = "name another file, or move this one away"
                raise TargetInvalid(f"{self._path}: {error}", cure=cure) from error
            cure = "close the program that holds it; headrace tries again" if _is_locked(error) else ""
            raise self._unavailable(error, cure) from error
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise TargetInvalid(f"{self._path}: {error}", cure="make the table fit the contract") from error
        except OSError as error:
            raise TargetUnavailable(f"{self._path}: {error.strerror or error}") from error

    def _unavailable(self, error: Exception, cure: str) -> TargetUnavailable:
        return TargetUnavailable(f"{self._path}: {error}", cure=cure)


def _table_name(config: ConnectorConfig) -> str:
    assert isinstance(config.options, DuckDbOptions)
    return config.options.table or config.topic.replace(".", "_").replace("-", "_")


def _new_value(column: str, batch: EgressBatch) -> str:
    """What a row that is there gets: nothing new where the source did not tell."""
    if column not in batch.unavailable:
        return f"s.{quoted(column)}"
    return f"CASE WHEN s.{quoted(_UNTOLD + column)} THEN t.{quoted(column)} ELSE s.{quoted(column)} END"


def _is_locked(error: duckdb.Error) -> bool:
    return "could not set lock" in str(error).lower()


def _is_constrained(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> bool:
    """Whether a row can be refused that has the right columns."""
    found = connection.execute(
        "SELECT (SELECT count(*) FROM duckdb_constraints() WHERE schema_name = $1 AND table_name = $2)"
        " + (SELECT count(*) FROM duckdb_indexes() WHERE schema_name = $1 AND table_name = $2 AND is_unique)",
        [schema, table],
    ).fetchone()
    return found is not None and found[0] > 0


def _alteration(step: DriftStep[pa.DataType], wanted: Mapping[str, ColumnType]) -> str:
    column = quoted(step.column)
    if step.kind == "rename":
        return f"RENAME COLUMN {quoted(step.former)} TO {column}"
    if step.kind == "widen":
        return f"ALTER COLUMN {column} TYPE {wanted[step.column].text}"
    if step.kind == "add":
        return f"ADD COLUMN {column} {wanted[step.column].text}"
    return f"DROP COLUMN {column}"
