"""Change data capture from SQLite.

Owns what `CdcWorker` leaves to a database: triggers, and the removal of published changes.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence

import structlog

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.contracts.yaml_model import place_of
from headrace.ingress.cdc.capture import Capture, Captured
from headrace.ingress.cdc.changes import Read
from headrace.ingress.cdc.config import SqliteCdcConfig
from headrace.ingress.cdc.envelopes import EnvelopeEncoder
from headrace.ingress.cdc.errors import SourceUnavailable
from headrace.ingress.cdc.position import Position
from headrace.ingress.cdc.reader import SourceReader, connect
from headrace.ingress.cdc.table import check_contract, read_table
from headrace.ingress.cdc.worker import CdcCounters, CdcWorker
from headrace.log.port import Log

_LOG = structlog.get_logger("headrace.ingress")


class SqliteCdc(CdcWorker[Position]):
    """One ingress from a SQLite database."""

    config: SqliteCdcConfig

    def __init__(
        self,
        config: SqliteCdcConfig,
        log: Log,
        registry: Registry,
        contracts: Mapping[str, Contract],
        *,
        workspace: str = "headrace",
    ) -> None:
        super().__init__(config, log, contracts, workspace=workspace)
        self._encoders = {
            table: EnvelopeEncoder(contract, registry, ingress=config.name, database=config.database.stem)
            for table, contract in self._contracts.items()
        }
        self._where = place_of(config.where, "database")

    def missing(self) -> list[str]:
        connection = connect(self.config.database, where=self._where)
        try:
            return self._capture(connection).missing(connection)
        except sqlite3.OperationalError as error:
            raise SourceUnavailable(f"{self.config.database}: {error}") from error
        finally:
            connection.close()

    def setup_summary(self, missing: Sequence[str]) -> str:
        return f"triggers and change log for {', '.join(missing)} in {self.config.database.name}"

    def setup(self) -> list[str]:
        connection = connect(self.config.database, where=self._where)
        try:
            renewed = self._capture(connection).install(connection)
        except sqlite3.OperationalError as error:
            raise SourceUnavailable(f"{self.config.database}: {error}") from error
        finally:
            connection.close()
        self.ensure_topics()
        return renewed

    def teardown(self) -> None:
        connection = connect(self.config.database, where=self._where)
        try:
            self._capture(connection).uninstall(connection)
        finally:
            connection.close()

    def open_source(self) -> SqliteSource:
        connection = connect(self.config.database, where=self._where)
        try:
            capture = self._capture(connection)
        finally:
            connection.close()
        reader = SourceReader(self.config.database, capture, where=self._where)
        return SqliteSource(reader, self.config, self.counters)

    def parse_position(self, text: bytes) -> Position:
        return Position.from_json(text)

    def _capture(self, connection: sqlite3.Connection) -> Capture:
        tables = []
        for name, contract in self._contracts.items():
            table = read_table(connection, name)
            check_contract(table, contract)
            tables.append(Captured(table, tuple(each.name for each in contract.schema.fields)))
        return Capture(self.config.name, tables)


class SqliteSource:
    """The reader of a SQLite database, which forgets published changes now and then."""

    def __init__(self, reader: SourceReader, config: SqliteCdcConfig, counters: CdcCounters) -> None:
        self._reader, self._config, self._counters = reader, config, counters
        self._pruned_at = 0.0

    @property
    def log(self) -> None:
        return None

    def has_news(self) -> bool:
        return self._reader.has_news()

    def read(self, position: Position | None, rows_max: int) -> Read[Position]:
        return self._reader.read(position, rows_max)

    def wait(self, stop: threading.Event, seconds: float) -> None:
        stop.wait(seconds)

    def published(self, position: Position) -> None:
        now = time.monotonic()
        if (now - self._pruned_at) * 1_000 < self._config.prune_interval_ms:
            return
        self._pruned_at = now
        try:
            self._counters.pruned += self._reader.prune(position)
        except SourceUnavailable as error:
            # Removing can wait; the position keeps these changes from being read again.
            self._counters.prunes_put_off += 1
            _LOG.info("pruning put off", ingress=self._config.name, error=str(error))

    def close(self) -> None:
        self._reader.close()
