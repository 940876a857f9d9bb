"""The databases of the capture benchmark: a server, a database of a run's own, and how each system captures it.

- `at_us` says when a row was committed, by its envelope. The log of MariaDB counts seconds: there it is when the row's
  statement began, which its column `seen_at` tells.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime
from typing import Any, Protocol

import psycopg

from bench.capture_table import TABLE, MariadbTable, PostgresTable, Table
from bench.peers import debezium
from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.ingress.cdc.config import MysqlCdcConfig, PostgresCdcConfig
from headrace.ingress.cdc.mysql.cdc import MysqlCdc
from headrace.ingress.cdc.mysql.connection import connect, database_of, rows
from headrace.ingress.cdc.postgres.cdc import PostgresCdc
from headrace.log.port import Log
from headrace.testing import mariadb_service, postgres_service
from headrace.testing.database_server import DatabaseServer
from headrace.testing.mariadb import MARIADB
from headrace.testing.postgres import POSTGRES

DROP_TIMEOUT_S = 600.0

Contracts = Mapping[str, Contract]


class Session(Protocol):
    """A connection that commits each statement."""

    def execute(self, statement: str, /) -> None: ...


class Database(Protocol):
    """What the benchmark asks of a kind of database."""

    table: Table
    server: DatabaseServer
    url_variable: str

    def made(self, server: str, name: str) -> AbstractContextManager[str]:
        """While the context lasts, a new database on a server: its URL."""

    def session(self, url: str) -> AbstractContextManager[Session]: ...

    def is_streaming(self, url: str) -> bool:
        """Whether its log is being read."""

    def properties(self, url: str, name: str) -> dict[str, str]:
        """Of Debezium's engine."""

    def capture(
        self, config: Mapping[str, Any], log: Log, registry: Registry, contracts: Contracts, workspace: str
    ) -> PostgresCdc | MysqlCdc:
        """headrace's capture."""

    def at_us(self, source: Mapping[str, Any], after: Mapping[str, Any]) -> float: ...


class _PostgresSession:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: str, /) -> None:
        self._connection.execute(statement.encode())


class Postgres:
    table, server, url_variable = PostgresTable(), POSTGRES, postgres_service.URL_VARIABLE

    @contextmanager
    def made(self, server: str, name: str) -> Iterator[str]:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
            yield psycopg.conninfo.make_conninfo(server, dbname=name)
            connection.execute(
                b"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s", (name,)
            )
            deadline = time.monotonic() + DROP_TIMEOUT_S
            query = b"SELECT slot_name FROM pg_replication_slots WHERE database = %s"
            while slots := connection.execute(query, (name,)).fetchall():
                for (slot,) in slots:
                    try:
                        connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
                    except psycopg.errors.ObjectInUse:
                        time.sleep(0.1)
                assert time.monotonic() < deadline
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    @contextmanager
    def session(self, url: str) -> Iterator[Session]:
        with psycopg.connect(url, autocommit=True) as connection:
            yield _PostgresSession(connection)

    def is_streaming(self, url: str) -> bool:
        query = b"""SELECT active FROM pg_replication_slots
                    WHERE database = current_database() AND confirmed_flush_lsn IS NOT NULL"""
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall() == [(True,)]

    def properties(self, url: str, name: str) -> dict[str, str]:
        return debezium.properties(url, [TABLE], name)

    def capture(
        self, config: Mapping[str, Any], log: Log, registry: Registry, contracts: Contracts, workspace: str
    ) -> PostgresCdc:
        return PostgresCdc(PostgresCdcConfig.model_validate(config), log, registry, contracts, workspace=workspace)

    def at_us(self, source: Mapping[str, Any], after: Mapping[str, Any]) -> float:
        return float(source["ts_us"])


class _MariadbSession:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, statement: str, /) -> None:
        rows(self._connection, statement)


class Mariadb:
    table, server, url_variable = MariadbTable(), MARIADB, mariadb_service.URL_VARIABLE

    @contextmanager
    def made(self, server: str, name: str) -> Iterator[str]:
        with closing(connect(server)) as connection:
            rows(connection, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
            yield f"{server}/{name}"
            rows(connection, f"DROP DATABASE {name}")

    @contextmanager
    def session(self, url: str) -> Iterator[Session]:
        with closing(connect(url)) as connection:
            rows(connection, f"USE {database_of(url)}")
            yield _MariadbSession(connection)

    def is_streaming(self, url: str) -> bool:
        with closing(connect(url)) as connection:
            query = "SELECT count(*) FROM information_schema.processlist WHERE command = 'Binlog Dump'"
            return rows(connection, query)[0][0] > 0

    def properties(self, url: str, name: str) -> dict[str, str]:
        return debezium.mariadb_properties(url, [TABLE], name)

    def capture(
        self, config: Mapping[str, Any], log: Log, registry: Registry, contracts: Contracts, workspace: str
    ) -> MysqlCdc:
        return MysqlCdc(MysqlCdcConfig.model_validate(config), log, registry, contracts, workspace=workspace)

    def at_us(self, source: Mapping[str, Any], after: Mapping[str, Any]) -> float:
        at = after["seen_at"]
        return (at if isinstance(at, datetime) else datetime.fromisoformat(at)).timestamp() * 1e6


DATABASES: Mapping[str, Database] = {"postgres": Postgres(), "mariadb": Mariadb()}


def new_name() -> str:
    """Of a database, which nobody else has."""
    return f"bench_{secrets.token_hex(4)}"
