"""Change data capture from PostgreSQL.

Owns what `CdcWorker` leaves to a database: publication and slot, and the dialect of the envelopes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.contracts.yaml_model import place_of
from headrace.ingress.cdc.changes import Changes
from headrace.ingress.cdc.config import PostgresCdcConfig
from headrace.ingress.cdc.envelopes import DeadChange, EnvelopeEncoder, Envelopes
from headrace.ingress.cdc.postgres import publication
from headrace.ingress.cdc.postgres.connection import Connection, connect, place
from headrace.ingress.cdc.postgres.outbox import check_table, create_table, has_table, outbox_topics
from headrace.ingress.cdc.postgres.outbox_encoder import OutboxEncoder
from headrace.ingress.cdc.postgres.position import PostgresPosition
from headrace.ingress.cdc.postgres.rows import PostgresChanges, PostgresDialect
from headrace.ingress.cdc.postgres.source import PostgresSource
from headrace.ingress.cdc.postgres.tables import SourceTable, check_contract, read_table, type_catalogue
from headrace.ingress.cdc.table import check_truncates
from headrace.ingress.cdc.worker import CdcWorker
from headrace.log.dead_letters import Reason
from headrace.log.port import Log


class PostgresCdc(CdcWorker[PostgresPosition]):
    """One ingress from a PostgreSQL database."""

    config: PostgresCdcConfig

    def __init__(
        self,
        config: PostgresCdcConfig,
        log: Log,
        registry: Registry,
        contracts: Mapping[str, Contract],
        *,
        workspace: str = "headrace",
    ) -> None:
        super().__init__(config, log, contracts, workspace=workspace)
        self.name = publication.object_name(workspace, config.name)
        """Of publication and slot."""
        self._where = place_of(config.where, "database")
        check_truncates(config, self._contracts)
        database = place(config.connection_string()).rpartition("/")[2]
        self._registry, self._database = registry, database
        self._orders: dict[str, str] = {}
        self._outbox_encoder: OutboxEncoder | None = None
        if config.outbox is not None:
            topics = outbox_topics(config, contracts)
            self._outbox_encoder = OutboxEncoder(config.outbox.table, topics, registry, ingress=config.name)
        self._encoders = {table: self._encoder(table, contract) for table, contract in self._contracts.items()}
        self._followed: dict[str, tuple[Contract, EnvelopeEncoder]] = {}

    def missing(self) -> list[str]:
        connection = self._connect()
        try:
            tables = self._tables(connection)
            made = [table for table in self._captured if table not in tables]
            return [*made, *publication.unpublished(connection, self.name, tables)]
        finally:
            connection.close()

    def setup_summary(self, missing: Sequence[str]) -> str:
        outbox = self.config.outbox
        table = f"table {outbox.table} where it is missing, " if outbox and outbox.table in missing else ""
        return f"{table}publication {self.name} with {', '.join(missing)} in {place(self.config.connection_string())}"

    def setup(self) -> list[str]:
        connection = self._connect()
        try:
            publication.check_server(connection, unlimited_wal=self.config.unlimited_wal, where=self._where)
            if self.config.outbox is not None:
                create_table(connection, self.config.outbox.table)
            added = publication.publish(connection, self.name, self._tables(connection))
        finally:
            connection.close()
        self.ensure_topics()
        return added

    def teardown(self) -> None:
        connection = self._connect()
        try:
            publication.unpublish(connection, self.name)
        finally:
            connection.close()

    def open_source(self) -> PostgresSource:
        return PostgresSource(self.config, self._captured, self.name, orders=self._orders, where=self._where)

    def order_snapshots(self, orders: Mapping[str, str]) -> None:
        self._orders.update(orders)

    def snapshot_progress(self) -> Mapping[str, int]:
        position = self._position
        if position is None:
            return {}
        again = position.resnapshots
        return {name: again[name].rows if name in again else 0 for name in position.open_snapshots}

    def parse_position(self, text: bytes) -> PostgresPosition:
        return PostgresPosition.from_json(text)

    @property
    def _captured(self) -> dict[str, Contract]:
        """What is read: tables, and the outbox as if it were one."""
        outbox = self._outbox_encoder
        return self._contracts if outbox is None else {**self._contracts, outbox.contract.topic: outbox.contract}

    def encode(self, changes: Changes) -> Sequence[Envelopes]:
        outbox = self._outbox_encoder
        if outbox is not None and changes.table == outbox.contract.topic:
            return outbox.encode(changes)
        return super().encode(changes)

    def dead_change(self, changes: Changes, row: int, reason: Reason) -> DeadChange:
        outbox = self._outbox_encoder
        if outbox is not None and changes.table == outbox.contract.topic:
            return outbox.dead_change(changes, row, reason, with_value=False)
        return super().dead_change(changes, row, reason)

    def encoder_of(self, changes: Changes) -> EnvelopeEncoder:
        """That of the contract file, or of the file with the columns that are followed: a schema version of its own."""
        assert isinstance(changes, PostgresChanges)
        contract, table = changes.contract, changes.table
        if contract is None or contract == self._contracts[table]:
            return self._encoders[table]
        known = self._followed.get(table)
        if known is None or known[0] != contract:
            known = self._followed[table] = contract, self._encoder(table, contract)
        return known[1]

    def _encoder(self, table: str, contract: Contract) -> EnvelopeEncoder:
        dialect = PostgresDialect(contract, table)
        return EnvelopeEncoder(
            contract, self._registry, ingress=self.config.name, database=self._database, dialect=dialect
        )

    def _connect(self) -> Connection:
        return connect(self.config.connection_string(), where=self._where)

    def _tables(self, connection: Connection) -> dict[str, SourceTable]:
        publication.check_server(connection, unlimited_wal=self.config.unlimited_wal, where=self._where)
        types = type_catalogue(connection)
        tables = {}
        for name, contract in self._captured.items():
            if name not in self._contracts and not has_table(connection, name):
                continue  # `setup` makes the outbox.
            tables[name] = read_table(connection, types, name, where=place_of(self.config.where, "tables", name))
            check_contract(tables[name], contract)
        outbox = self.config.outbox
        if outbox is not None and outbox.table in tables:
            check_table(connection, tables[outbox.table], outbox, where=place_of(self.config.where, "outbox"))
        return tables
