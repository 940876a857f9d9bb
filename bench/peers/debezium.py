"""Debezium's engine beside headrace's own capture: started on one database, stopped, and what it needs to be told.

Owns the properties of the engine and its process; `workers/debezium_worker.py` runs in it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from psycopg.conninfo import conninfo_to_dict

from bench.peers.installing import WORKERS, PeerMissing, jars_of, python_of
from headrace.ingress.cdc.mysql.connection import database_of, settings_of
from headrace.testing.kafka_jars import BrokerError, java_command

STOP_TIMEOUT_S = 30.0
MARIADB_CONNECTOR = "io.debezium.connector.mariadb.MariaDbConnector"
SERVER_ID = 85_744
"""Under which it reads the binary log, as a replica does."""
MARIADB_POM = WORKERS / "debezium" / "pom.xml"


def properties(url: str, tables: Sequence[str], name: str, **more: str) -> dict[str, str]:
    """Of an engine that captures these tables of a PostgreSQL database."""
    place = conninfo_to_dict(url)
    return {
        "name": name,
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
        "offset.flush.interval.ms": "1000",
        "database.hostname": str(place.get("host") or "127.0.0.1"),
        "database.port": str(place.get("port") or 5432),
        "database.user": str(place.get("user") or "postgres"),
        "database.password": str(place.get("password") or "none"),
        "database.dbname": str(place.get("dbname")),
        "topic.prefix": name,
        "slot.name": f"{name}_slot",
        "publication.name": f"{name}_publication",
        "publication.autocreate.mode": "filtered",
        "plugin.name": "pgoutput",
        "table.include.list": ",".join(f"public.{table}" for table in tables),
        "snapshot.mode": "initial",
        "status.update.interval.ms": "1000",
        **more,
    }


def mariadb_properties(url: str, tables: Sequence[str], name: str, **more: str) -> dict[str, str]:
    """Of an engine that captures these tables of a MariaDB database."""
    place, database = settings_of(url), database_of(url)
    return {
        "name": name,
        "connector.class": MARIADB_CONNECTOR,
        "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
        "offset.flush.interval.ms": "1000",
        "schema.history.internal": "io.debezium.relational.history.MemorySchemaHistory",
        "schema.history.internal.store.only.captured.tables.ddl": "true",
        "database.hostname": str(place["host"]),
        "database.port": str(place["port"]),
        "database.user": str(place["user"]),
        "database.password": str(place["password"]),
        "database.server.id": str(SERVER_ID),
        "database.include.list": database,
        "include.schema.changes": "false",
        "topic.prefix": name,
        "table.include.list": ",".join(f"{database}.{table}" for table in tables),
        "snapshot.mode": "initial",
        **more,
    }


def engine_python() -> Path:
    """The Python of the engine's virtualenv. Raises `PeerMissing`, also without Java."""
    try:
        java_command()
    except BrokerError as error:
        raise PeerMissing(str(error)) from error
    return python_of("debezium")


@contextmanager
def engine(
    given: Mapping[str, str], output: Path, *, counts_only: bool = False, errors: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The engine as a process of its own, while the context lasts."""
    # The package has no connector of MariaDB, and Maven Central none of the package's version: all jars are of one.
    jars = str(jars_of("debezium-mariadb", MARIADB_POM)) if given["connector.class"] == MARIADB_CONNECTOR else None
    config = {"properties": dict(given), "jars": jars, "output": str(output), "counts_only": counts_only}
    command = [str(engine_python()), str(WORKERS / "debezium_worker.py"), json.dumps(config)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
