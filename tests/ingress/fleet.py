"""A source database, its capture, and the topic it goes to."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.key import open_key_codec
from headrace.ingress.cdc.config import SqliteCdcConfig
from headrace.ingress.cdc.sqlite import SqliteCdc
from headrace.log.columns import Record, binary_column
from headrace.log.port import TopicSpec
from headrace.testing.sink_harness import Stage

PLANES_TABLE = "CREATE TABLE planes (tailnum TEXT PRIMARY KEY NOT NULL, maker TEXT, seats INTEGER NOT NULL UNIQUE)"
Row = dict[str, Any]


def planes_contract() -> Contract:
    fields = [
        {"name": "tailnum", "type": "string"},
        {"name": "maker", "type": ["null", "string"], "default": None},
        {"name": "seats", "type": "long"},
    ]
    schema = AvroSchema.parse({"type": "record", "name": "Plane", "fields": fields})
    return Contract("planes", schema, kind=TopicKind.CHANGE, key=("tailnum",))


def plane(tailnum: str, maker: str | None, seats: int) -> Row:
    return {"tailnum": tailnum, "maker": maker, "seats": seats}


AIRLINES = Contract(
    "airlines",
    AvroSchema.parse(
        {
            "type": "record",
            "name": "Airline",
            "fields": [{"name": "code", "type": "string"}, {"name": "name", "type": "string"}],
        }
    ),
    kind=TopicKind.CHANGE,
    key=("code",),
)


class Fleet(Stage):
    """One table, captured into one topic of one partition, so that the topic's order is the order of the changes."""

    def __init__(self, folder: Path, contract: Contract | None = None, table: str = PLANES_TABLE) -> None:
        super().__init__(folder, contract or planes_contract(), partitions=1)
        self.database = folder / "fleet.db"
        self.connection = sqlite3.connect(self.database, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute(table)
        self._open: list[SqliteCdc] = []

    def close(self) -> None:
        for cdc in self._open:
            cdc.close()
        self.connection.close()
        super().close()

    def execute(self, *statements: str) -> None:
        """Statements, each its own transaction."""
        for statement in statements:
            self.connection.execute(statement)

    def insert(self, *rows: tuple[str, str | None, int]) -> None:
        self.connection.executemany("INSERT INTO planes VALUES (?, ?, ?)", rows)

    def config(self, **more: Any) -> SqliteCdcConfig:
        values = {
            "name": "fleet",
            "database": self.database,
            "tables": {"planes": {"topic": self.contract.topic}},
            "poll_interval_ms": 5,
            "prune_interval_ms": 0,
            **more,
        }
        return SqliteCdcConfig.model_validate(values)

    def cdc(self, *, setup: bool = True, **more: Any) -> SqliteCdc:
        """A new capture process, as far as the log and the database can tell."""
        cdc = SqliteCdc(self.config(**more), self.log, self.registry, {self.contract.topic: self.contract})
        self._open.append(cdc)
        if setup:
            cdc.setup()
        return cdc

    def with_airlines(self) -> SqliteCdc:
        """A capture of the tables `planes` and `airlines`; makes the topic of the second."""
        admin = self.log.admin()
        admin.create_topics([TopicSpec(AIRLINES.topic, 1)])
        admin.close()
        config = self.config(tables={"planes": {"topic": "planes"}, "airlines": {"topic": "airlines"}})
        cdc = SqliteCdc(config, self.log, self.registry, {"planes": self.contract, "airlines": AIRLINES})
        self._open.append(cdc)
        return cdc

    def drain(self, cdc: SqliteCdc | None = None, **more: Any) -> SqliteCdc:
        """Step until the source has nothing more."""
        cdc = cdc or self.cdc(**more)
        while cdc.step() or cdc.status().snapshots_open or cdc.status().lag_changes:
            pass
        return cdc

    def source(self) -> dict[str, Row]:
        """The table by key."""
        rows = self.connection.execute("SELECT tailnum, maker, seats FROM planes")
        return {row[0]: plane(*row) for row in rows}

    def changes(self) -> list[Record]:
        return self.records(self.contract.topic)

    def envelopes(self) -> list[Row]:
        """Everything in the topic in its order, tombstones left out."""
        return self.decoded(self.contract.topic, self.contract.value_schema)

    def told(self) -> list[tuple[str, Row | None, Row | None]]:
        """Operation, before and after of each envelope."""
        return [(each["op"], each["before"], each["after"]) for each in self.envelopes()]

    def keys(self) -> list[Row]:
        """The key of each record, tombstones too."""
        codec = open_key_codec(self.contract, self.registry)
        rows: list[Row] = codec.decode(binary_column([record.key for record in self.changes()])).table.to_pylist()
        return rows

    def replica(self, key: str = "tailnum") -> dict[Any, Row]:
        """What a reader of the topic makes of it; checks each change against what the reader has."""
        rows: dict[Any, Row] = {}
        for operation, before, after in self.told():
            if operation == "d":
                assert before is not None
                assert rows.pop(before[key], before) == before
            else:
                assert after is not None
                assert (before is None) == (operation != "u")
                if before is not None and after[key] in rows:
                    assert rows[after[key]] == before
                rows[after[key]] = after
        return rows

    def sequences(self) -> list[int]:
        """Numbers of the changes, snapshot rows left out."""
        return [int(each["source"]["sequence"]) for each in self.envelopes() if each["op"] != "r"]


def only(values: Sequence[Any]) -> Any:
    (value,) = values
    return value
