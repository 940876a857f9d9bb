"""A source database in MariaDB or MySQL, its capture, and the topics it goes to."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

from headrace.contracts.contract import Contract
from headrace.ingress.cdc.config import MysqlCdcConfig
from headrace.ingress.cdc.mysql.cdc import MysqlCdc
from headrace.ingress.cdc.mysql.connection import connect, rows
from headrace.ingress.cdc.mysql.position import Place
from headrace.ingress.cdc.mysql.server import beginning, check_server
from headrace.log.port import Log
from headrace.testing.sink_harness import DEADLINE_S, Stage
from tests.ingress.postgres.bank import Bank, Row, account, accounts_contract

ACCOUNTS_TABLE = (
    "CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, cents bigint NOT NULL, note text) CHARACTER SET utf8mb4"
)


def numbers(count: int) -> str:
    """A table of one column `seq`, 1 to `count`, that MySQL has as well as MariaDB."""
    zeros = f"concat('[0', repeat(',0', {count - 1}), ']')"
    return f"json_table({zeros}, '$[*]' COLUMNS (seq FOR ORDINALITY)) AS numbers"


class Till(Stage):
    """One table, captured into one topic of one partition, so that the topic's order is the order of the changes."""

    def __init__(
        self,
        folder: Path,
        url: str,
        contract: Contract | None = None,
        table: str | None = ACCOUNTS_TABLE,
        *,
        log: Log | None = None,
    ) -> None:
        self.server = url
        self.database = f"headrace_{secrets.token_hex(6)}"
        # The topics of all tests share a broker.
        topic = "accounts" if log is None else f"{self.database}.accounts"
        super().__init__(folder, contract or accounts_contract(topic), partitions=1, log=log)
        connection = connect(url)
        rows(connection, f"CREATE DATABASE {self.database} CHARACTER SET utf8mb4")
        connection.close()
        self.url = f"{url}/{self.database}"
        self.connection = connect(self.url)
        rows(self.connection, f"USE {self.database}")
        if table:
            self.execute(table)
        self._open: list[MysqlCdc] = []

    def close(self) -> None:
        for cdc in self._open:
            cdc.close()
        rows(self.connection, f"DROP DATABASE {self.database}")
        self.connection.close()
        super().close()

    def execute(self, *statements: str) -> None:
        """Statements, each its own transaction."""
        for statement in statements:
            rows(self.connection, statement)

    def transaction(self, *statements: str) -> None:
        """Statements in one transaction."""
        self.execute("BEGIN", *statements, "COMMIT")

    def insert(self, *new: tuple[Any, ...]) -> None:
        self.execute("BEGIN")
        for row in new:
            rows(self.connection, "INSERT INTO accounts (id, owner, cents) VALUES (%s, %s, %s)", row)
        self.execute("COMMIT")

    def config(self, **more: Any) -> MysqlCdcConfig:
        values = {
            "name": "till",
            "database": self.url,
            "tables": {"accounts": {"topic": self.contract.topic}},
            "poll_interval_ms": 5,
            "heartbeat_interval_ms": 100,
            **more,
        }
        return MysqlCdcConfig.model_validate(values)

    def cdc(self, *, setup: bool = True, contracts: list[Contract] | None = None, **more: Any) -> MysqlCdc:
        """A new capture process, as far as the log and the database can tell."""
        given = {each.topic: each for each in contracts or [self.contract]}
        cdc = MysqlCdc(self.config(**more), self.log, self.registry, given, workspace=self.database)
        self._open.append(cdc)
        if setup:
            cdc.setup()
        return cdc

    def kill(self, cdc: MysqlCdc) -> None:
        """What is left when a process dies: nothing was tidied up."""
        cdc.close()

    @property
    def is_mariadb(self) -> bool:
        """Or else it is MySQL."""
        return check_server(self.connection).is_mariadb

    def end(self) -> Place:
        """Where the server's log ends now."""
        return beginning(self.connection, check_server(self.connection))[0]

    def drain(self, cdc: MysqlCdc | None = None, **more: Any) -> MysqlCdc:
        """Step until everything that committed so far is in the log."""
        cdc = cdc or self.cdc(**more)
        target, deadline = self.end(), time.monotonic() + DEADLINE_S
        while cdc.position is None or cdc.status().snapshots_open or cdc.position.place < target:
            cdc.step()
            assert time.monotonic() < deadline, f"at {cdc.status()}, {cdc.position}, not at {target}"
        return cdc

    def source(self) -> dict[Any, Row]:
        """The table by key."""
        return {row[0]: account(*row) for row in rows(self.connection, "SELECT id, owner, cents, note FROM accounts")}

    topic, changes, envelopes, told = Bank.topic, Bank.changes, Bank.envelopes, Bank.told
    told_keys, replica = Bank.told_keys, Bank.replica

    def places(self) -> list[tuple[str, int]]:
        """Place of every streamed change and its order in its transaction, in the topic's order."""
        return [
            (each["source"]["change_lsn"], each["transaction"]["total_order"])
            for each in self.envelopes()
            if each["op"] not in ("r", "t")
        ]
