"""DuckDB tables, exactly once.

Owns one table and its rows in `_headrace_positions`; shares the database file with whoever else uses it.

- Rows and positions are one DuckDB transaction: after a crash both are there, or neither.
- A flush finds the positions where this process left them, or another process delivers the same partition and it stops.
- A flush finds the table's columns as they were opened, or it is opened again and compared with the contract.
- A table that is made has no rows, so its positions begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import duckdb
import numpy as np
from pydantic import Field

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
    isolate,
)
from headrace_duckdb.database_file import DatabaseFile
from headrace_duckdb.table import Table
from headrace_duckdb.types import quoted

POSITIONS_TABLE = "_headrace_positions"


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
        self._database: DatabaseFile | None = None
        self._config: ConnectorConfig | None = None
        self._table: Table | None = None
        self._positions_table = ""
        self._positions: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._staged: list[EgressBatch] = []
        self._is_constrained = False

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Make or alter the table and read the positions."""
        database, table = self._set_up(config, contract)
        with database.transaction() as connection:
            self._make_ready(connection, table, config)
            self._is_constrained = table.is_constrained(connection)
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
        database, table = self._set_up(config, contract)
        try:
            with database.transaction(keep=False) as connection:
                self._make_ready(connection, table, config)
        finally:
            self.close()
        return []

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The statements of one flush of these rows."""
        _, table = self._set_up(config, contract)
        return table.explain(batch, config.mode)

    def positions(self, config: ConnectorConfig, contract: Contract) -> Mapping[int, int]:
        """As `open` would find them, in a transaction that is rolled back."""
        assert isinstance(config.options, DuckDbOptions)
        if not config.options.path.exists():
            return {}
        database, table = self._set_up(config, contract)
        try:
            with database.transaction(keep=False) as connection:
                self._make_ready(connection, table, config)
                return self._held(connection)
        finally:
            self.close()

    def rewind(
        self, config: ConnectorConfig, contract: Contract, before: Mapping[int, int], after: Mapping[int, int]
    ) -> None:
        """A flush without rows."""
        database, table = self._set_up(config, contract)
        self._positions, self._pending = dict(before), dict(after)
        try:
            with database.transaction() as connection:
                self._make_ready(connection, table, config)
                self._check_positions(connection)
                self._move_positions(connection)
        finally:
            self.close()

    def _set_up(self, config: ConnectorConfig, contract: Contract) -> tuple[DatabaseFile, Table]:
        """Everything that needs no file."""
        options = config.options
        assert isinstance(options, DuckDbOptions)
        self._config, self._staged, self._pending = config, [], {}
        self._database = DatabaseFile(options.path, keep_open=options.keep_open)
        name = options.table or config.topic.replace(".", "_").replace("-", "_")
        self._table = Table(options.schema_name, name, contract)
        self._positions_table = f"{quoted(options.schema_name)}.{quoted(POSITIONS_TABLE)}"
        return self._database, self._table

    def _make_ready(self, connection: duckdb.DuckDBPyConnection, table: Table, config: ConnectorConfig) -> None:
        """Schema, positions and a table that fits. One that had to be made has no rows, and so no positions."""
        assert isinstance(config.options, DuckDbOptions)
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(config.options.schema_name)}")
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._positions_table} (egress VARCHAR NOT NULL,"
            " topic VARCHAR NOT NULL, partition INTEGER NOT NULL, next_offset BIGINT NOT NULL,"
            " updated_at TIMESTAMPTZ DEFAULT now(), PRIMARY KEY (egress, topic, partition))"
        )
        if table.fit(connection, config.drift, f"{config.egress}: table {table.text}"):
            connection.execute(
                f"DELETE FROM {self._positions_table} WHERE egress = ? AND topic = ?", [config.egress, config.topic]
            )

    def _held(self, connection: duckdb.DuckDBPyConnection) -> dict[int, int]:
        assert self._config is not None
        rows = connection.execute(
            f"SELECT partition, next_offset FROM {self._positions_table} WHERE egress = ? AND topic = ?",
            [self._config.egress, self._config.topic],
        ).fetchall()
        return {int(partition): int(offset) for partition, offset in rows}

    def _check_positions(self, connection: duckdb.DuckDBPyConnection) -> None:
        assert self._table is not None
        held = self._held(connection)
        for partition in self._pending:
            if held.get(partition) != self._positions.get(partition):
                raise PositionMoved(
                    f"{self._table.text}: partition {partition} is at {held.get(partition)}, this process left it at"
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
        assert self._table is not None
        assert self._config is not None
        self._table.check_columns(connection)
        self._table.apply(connection, batches, self._config.mode)

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
