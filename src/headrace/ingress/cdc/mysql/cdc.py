"""Change data capture from MySQL and MariaDB.

Owns what `CdcWorker` leaves to a database: checks alone, since nothing is made in the database, and the dialect of the
envelopes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.contracts.yaml_model import place_of
from headrace.ingress.cdc.changes import Changes
from headrace.ingress.cdc.config import MysqlCdcConfig
from headrace.ingress.cdc.envelopes import EnvelopeEncoder
from headrace.ingress.cdc.mysql.connection import connect, database_of, place
from headrace.ingress.cdc.mysql.position import MysqlPosition
from headrace.ingress.cdc.mysql.rows import MysqlChanges, MysqlDialect
from headrace.ingress.cdc.mysql.server import check_rights, check_server
from headrace.ingress.cdc.mysql.source import MysqlSource
from headrace.ingress.cdc.mysql.tables import check_contract, read_table, split_name
from headrace.ingress.cdc.table import check_truncates
from headrace.ingress.cdc.worker import CdcWorker
from headrace.log.port import Log


class MysqlCdc(CdcWorker[MysqlPosition]):
    """One ingress from a MySQL or MariaDB database."""

    config: MysqlCdcConfig

    def __init__(
        self,
        config: MysqlCdcConfig,
        log: Log,
        registry: Registry,
        contracts: Mapping[str, Contract],
        *,
        workspace: str = "headrace",
    ) -> None:
        super().__init__(config, log, contracts, workspace=workspace)
        self._where = place_of(config.where, "database")
        self._workspace = workspace
        check_truncates(config, self._contracts)
        self._registry, self._database = registry, database_of(config.connection_string())
        self._encoders = {table: self._encoder(table, contract) for table, contract in self._contracts.items()}
        self._followed: dict[str, tuple[Contract, EnvelopeEncoder]] = {}

    def missing(self) -> list[str]:
        """Nothing that could be made; raises what is wrong."""
        connection = connect(self.config.connection_string(), where=self._where)
        try:
            server = check_server(connection, where=self._where)
            check_rights(connection, server, where=self._where)
            for name, contract in self._contracts.items():
                where = place_of(self.config.where, "tables", name)
                check_contract(read_table(connection, name, self._database, where=where), contract)
        finally:
            connection.close()
        return []

    def setup_summary(self, missing: Sequence[str]) -> str:
        return f"nothing in {place(self.config.connection_string())}"

    def setup(self) -> list[str]:
        found = self.missing()
        self.ensure_topics()
        return found

    def teardown(self) -> None:
        """Nothing was made."""

    def open_source(self) -> MysqlSource:
        return MysqlSource(self.config, self._contracts, self._workspace, where=self._where)

    def parse_position(self, text: bytes) -> MysqlPosition:
        return MysqlPosition.from_json(text)

    def encoder_of(self, changes: Changes) -> EnvelopeEncoder:
        """That of the contract file, or of the file with the columns that are followed: a schema version of its own."""
        assert isinstance(changes, MysqlChanges)
        contract, table = changes.contract, changes.table
        if contract is None or contract == self._contracts[table]:
            return self._encoders[table]
        known = self._followed.get(table)
        if known is None or known[0] != contract:
            known = self._followed[table] = contract, self._encoder(table, contract)
        return known[1]

    def _encoder(self, table: str, contract: Contract) -> EnvelopeEncoder:
        schema, name = split_name(table, self._database)
        dialect = MysqlDialect(contract, name)
        return EnvelopeEncoder(contract, self._registry, ingress=self.config.name, database=schema, dialect=dialect)
