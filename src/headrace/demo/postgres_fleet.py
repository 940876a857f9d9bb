"""The fleet team's database in the demo's second form: PostgreSQL, changed while the flights run.

Owns a database of its own on a server, and its end. Knows nothing of headrace but the slot that holds its log.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

from headrace.demo.source_files import REGISTER_BEGIN, Change, read_airlines, read_planes

TABLES: LiteralString = """
CREATE TABLE planes (
  tailnum text PRIMARY KEY, year bigint, manufacturer text, model text, engines bigint, seats bigint,
  valid_from timestamptz NOT NULL
);
CREATE TABLE airlines (carrier text PRIMARY KEY, name text, valid_from timestamptz NOT NULL);
"""
DROP_TIMEOUT_S = 20.0
_SLOTS: LiteralString = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"


@dataclass(frozen=True, slots=True)
class PostgresFleet:
    """The register of aircraft."""

    url: str

    def create(self) -> None:
        """The register as it is when the year begins."""
        planes = ((*row, REGISTER_BEGIN) for row in read_planes().iter_rows())
        airlines = ((*row, REGISTER_BEGIN) for row in read_airlines().iter_rows())
        with psycopg.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.execute(TABLES)
            cursor.executemany("INSERT INTO planes VALUES (%s, %s, %s, %s, %s, %s, %s)", planes)
            cursor.executemany("INSERT INTO airlines VALUES (%s, %s, %s)", airlines)

    def enter(self, change: Change) -> None:
        """One transaction of the fleet team."""
        with psycopg.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "UPDATE planes SET manufacturer = %s, valid_from = %s WHERE tailnum = %s",
                [(maker, change.valid_from, tail) for tail, maker in change.makers.items()],
            )


@contextmanager
def fleet_database(server_url: str) -> Iterator[PostgresFleet]:
    """A database of the demo's own on this server; it goes with the block, and so does what reads its log."""
    name = f"fleet_{secrets.token_hex(4)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        fleet = PostgresFleet(psycopg.conninfo.make_conninfo(server_url, dbname=name))
        fleet.create()
        yield fleet
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            _drop_slots(connection, name)
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _drop_slots(connection: psycopg.Connection, database: str) -> None:
    deadline = time.monotonic() + DROP_TIMEOUT_S
    while slots := connection.execute(_SLOTS, (database,)).fetchall():
        for slot, reader in slots:
            if reader is None:
                connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
            else:
                connection.execute("SELECT pg_terminate_backend(%s)", (reader,))
        if time.monotonic() > deadline:
            return  # The server says then why the database cannot go.
        time.sleep(0.1)
