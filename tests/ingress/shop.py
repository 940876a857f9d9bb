"""A log with the topics of a small shop, for tests of publishing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, KeyEncoding, TopicKind
from headrace.contracts.key import open_key_codec
from headrace.ingress.environment import GivenEnvironment
from headrace.log.columns import Record, binary_column
from headrace.log.port import TopicSpec
from headrace.testing.sink_harness import Stage

NOW_MS = 1_700_000_000_000


def record(name: str, /, **fields: Any) -> AvroSchema:
    listed = [
        {"name": field, **(kind if isinstance(kind, dict) and "default" in kind else {"type": kind})}
        for field, kind in fields.items()
    ]
    return AvroSchema.parse({"type": "record", "name": name, "fields": listed})


MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
ORDERS = Contract(
    "orders",
    record(
        "Order",
        id="string",
        amount="double",
        note={"type": ["null", "string"], "default": None},
        pieces={"type": "int", "default": 1},
        placed_at=MILLIS,
    ),
    key=("id",),
    key_encoding=KeyEncoding.STRING,
    time="placed_at",
)
CUSTOMERS = Contract("customers", record("Customer", id="long", name="string"), kind=TopicKind.TABLE, key=("id",))
CLICKS = Contract("clicks", record("Click", page="string"))
ITEMS = Contract("items", record("Item", id="long"), kind=TopicKind.CHANGE, key=("id",))
CONTRACTS = {each.topic: each for each in (ORDERS, CUSTOMERS, CLICKS, ITEMS)}


def order(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"o-{number}", "amount": float(number), "placed_at": NOW_MS, **more}


class Shop(Stage):
    """The log, its topics, and what is in them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ORDERS)
        admin = self.log.admin()
        admin.create_topics([TopicSpec(topic, 2) for topic in CONTRACTS if topic != ORDERS.topic])
        admin.close()
        self.environment = GivenEnvironment(self.log, self.registry, CONTRACTS)

    def rows(self, topic: str) -> list[dict[str, Any]]:
        """Values of a topic, by partition and offset."""
        return self.decoded(topic, CONTRACTS[topic].schema)

    def key_of(self, topic: str, found: Record) -> Any:
        """A record's key, decoded."""
        codec = open_key_codec(CONTRACTS[topic], self.registry)
        (row,) = codec.decode(binary_column([found.key])).table.to_pylist()
        return row
