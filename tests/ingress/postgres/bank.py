"""A source database in PostgreSQL, its capture, and the topics it goes to."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.key import open_key_codec
from headrace.ingress.cdc.config import PostgresCdcConfig
from headrace.ingress.cdc.postgres.cdc import PostgresCdc
from headrace.ingress.cdc.postgres.publication import find_slot
from headrace.log.columns import Record, binary_column
from headrace.log.port import Log, TopicSpec
from headrace.testing.sink_harness import DEADLINE_S, Stage

Row = dict[str, Any]
ACCOUNTS_TABLE = "CREATE TABLE accounts (id int8 PRIMARY KEY, owner text, cents int8 NOT NULL, note text)"


def contract_of(topic: str, key: tuple[str, ...], **fields: Any) -> Contract:
    listed = [
        {"name": name, "type": each, **({"default": None} if isinstance(each, list) else {})}
        for name, each in fields.items()
    ]
    schema = AvroSchema.parse({"type": "record", "name": topic.rpartition(".")[2].capitalize(), "fields": listed})
    return Contract(topic, schema, kind=TopicKind.CHANGE, key=key)


def accounts_contract(topic: str = "accounts") -> Contract:
    nullable = ["null", "string"]
    return contract_of(topic, ("id",), id="long", owner=nullable, cents="long", note=nullable)


def orders_contract(topic: str = "orders", *more: Any, kind: TopicKind = TopicKind.EVENT) -> Contract:
    """Of events that go through an outbox."""
    fields = [{"name": "order_id", "type": "string"}, {"name": "step", "type": "long"}, *more]
    schema = AvroSchema.parse({"type": "record", "name": "Order", "fields": fields})
    return Contract(topic, schema, kind=kind, key=("order_id",))


def account(number: int, owner: str | None, cents: int, note: str | None = None) -> Row:
    return {"id": number, "owner": owner, "cents": cents, "note": note}


class Bank(Stage):
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
        self._server = url
        self.database = f"headrace_{secrets.token_hex(6)}"
        # The topics of all tests share a broker.
        topic = "accounts" if log is None else f"{self.database}.accounts"
        super().__init__(folder, contract or accounts_contract(topic), partitions=1, log=log)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))
        self.url = psycopg.conninfo.make_conninfo(url, dbname=self.database)
        self.connection = psycopg.connect(self.url, autocommit=True)
        if table:
            self.connection.execute(table.encode())
        self._open: list[PostgresCdc] = []

    def close(self) -> None:
        for cdc in self._open:
            cdc.close()
        self.connection.close()
        with psycopg.connect(self._server, autocommit=True) as connection:
            self._drop_slots(connection)
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.database)))
        super().close()

    def _drop_slots(self, connection: psycopg.Connection[Any]) -> None:
        query = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"
        deadline = time.monotonic() + DEADLINE_S
        while rows := connection.execute(query, (self.database,)).fetchall():
            for slot, pid in rows:
                if pid is None:
                    connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
                else:
                    connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            assert time.monotonic() < deadline

    def execute(self, *statements: str) -> None:
        """Statements, each its own transaction."""
        for statement in statements:
            self.connection.execute(statement.encode())

    def transaction(self, *statements: str) -> None:
        """Statements in one transaction."""
        with self.connection.transaction():
            self.execute(*statements)

    def insert(self, *rows: tuple[Any, ...]) -> None:
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO accounts (id, owner, cents) VALUES (%s, %s, %s)", rows)

    def config(self, **more: Any) -> PostgresCdcConfig:
        values = {
            "name": "bank",
            "database": self.url,
            "tables": {"accounts": {"topic": self.contract.topic}},
            "poll_interval_ms": 5,
            "heartbeat_interval_ms": 200,
            "snapshot_workers": 1,
            **more,
        }
        return PostgresCdcConfig.model_validate(values)

    def cdc(self, *, setup: bool = True, contracts: list[Contract] | None = None, **more: Any) -> PostgresCdc:
        """A new capture process, as far as the log and the database can tell."""
        given = {each.topic: each for each in contracts or [self.contract]}
        # The databases of all tests share a server, and slots are the server's.
        cdc = PostgresCdc(self.config(**more), self.log, self.registry, given, workspace=self.database)
        self._open.append(cdc)
        if setup:
            cdc.setup()
        return cdc

    def topic(self, name: str) -> None:
        admin = self.log.admin()
        admin.create_topics([TopicSpec(name, 1)])
        admin.close()

    def kill(self, cdc: PostgresCdc) -> None:
        """What is left when a process dies: the server lets go of its slot, and nothing else was tidied up."""
        cdc.close()
        self.free()

    def free(self) -> None:
        """Wait until nobody reads the slot."""
        deadline = time.monotonic() + DEADLINE_S
        while (slot := self.slot()) is not None and slot.active_pid is not None:
            assert time.monotonic() < deadline, "the slot stays in use"
            time.sleep(0.01)

    def slot(self, name: str = "bank") -> Any:
        return find_slot(self.connection, f"headrace_{self.database.replace('-', '_')}_{name}")

    def drain(self, cdc: PostgresCdc | None = None, **more: Any) -> PostgresCdc:
        """Step until everything that committed so far is in the log."""
        cdc = cdc or self.cdc(**more)
        query = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
        (target,) = self.connection.execute(query).fetchone() or (0,)
        deadline = time.monotonic() + DEADLINE_S
        while cdc.position is None or cdc.status().snapshots_open or (cdc.status().sequence or 0) < target:
            cdc.step()
            assert time.monotonic() < deadline, f"at {cdc.status()}, not at {target}"
        return cdc

    def source(self) -> dict[Any, Row]:
        """The table by key."""
        rows = self.connection.execute("SELECT id, owner, cents, note FROM accounts")
        return {row[0]: account(*row) for row in rows}

    def changes(self) -> list[Record]:
        return self.records(self.contract.topic)

    def envelopes(self) -> list[Row]:
        """Everything in the topic in its order, tombstones left out."""
        return self.decoded(self.contract.topic, self.contract.value_schema)

    def told(self) -> list[tuple[str, Row | None, Row | None]]:
        """Operation, before and after of each envelope."""
        return [(each["op"], each["before"], each["after"]) for each in self.envelopes()]

    def told_keys(self) -> list[Row | None]:
        """The key of each record, tombstones too."""
        codec = open_key_codec(self.contract, self.registry)
        keys = [record.key for record in self.changes()]
        return [None if key is None else codec.decode(binary_column([key])).table.to_pylist()[0] for key in keys]

    def replica(self) -> dict[Any, Row]:
        """What a reader of the topic makes of it."""
        rows: dict[Any, Row] = {}
        (key,) = self.contract.key
        for operation, before, after in self.told():
            if operation == "t":
                rows.clear()
            elif operation == "d":
                assert before is not None
                rows.pop(before[key], None)
            else:
                assert after is not None
                rows[after[key]] = after
        return rows

    def places(self) -> list[tuple[int, int]]:
        """Transaction and place in it of every streamed change, in the topic's order."""
        found = []
        for each in self.envelopes():
            if each["op"] != "r":
                lsn, order = each["source"]["change_lsn"].split("/")
                found.append((int(lsn, 16), int(order)))
        return found
