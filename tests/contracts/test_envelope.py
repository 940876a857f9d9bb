"""The Debezium envelope on the wire of a `kind: change` topic."""

from __future__ import annotations

import io
from typing import Any

import avro.schema
import fastavro
import pyarrow as pa
import pytest

from headrace.contracts import wire
from headrace.contracts.avro import AvroSchema
from headrace.contracts.compatibility import check
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.envelope import envelope_schema
from headrace.contracts.fastavro_codec import AvroCodec, open_codec
from headrace.contracts.registry import CompatibilityMode
from headrace.contracts.registry_memory import MemoryRegistry

ROW: dict[str, Any] = {
    "type": "record",
    "name": "Customer",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "name", "type": ["null", "string"], "default": None},
        {"name": "tier", "type": {"type": "enum", "name": "Tier", "symbols": ["GOLD", "TIN"]}},
    ],
}
SOURCE = {
    "version": "1",
    "connector": "sqlite",
    "name": "shop",
    "ts_ms": 5,
    "snapshot": "false",
    "db": "main",
    "sequence": None,
    "ts_us": None,
    "ts_ns": None,
    "schema": None,
    "table": "customers",
    "change_lsn": "7",
    "txId": None,
    "lsn": None,
    "xmin": None,
    "server_id": None,
    "gtid": None,
    "file": None,
    "pos": None,
    "row": None,
    "thread": None,
}


def contract(kind: TopicKind = TopicKind.CHANGE) -> Contract:
    return Contract("shop.customers", AvroSchema.parse(ROW), kind=kind, key=("id",))


def codec() -> AvroCodec:
    return open_codec(contract().value_schema, MemoryRegistry(), "shop.customers-value")


def envelope(op: str, before: Any, after: Any, **more: Any) -> dict[str, Any]:
    times = {"ts_ms": 1, "ts_us": 1000, "ts_ns": 1_000_000}
    return {"before": before, "after": after, "source": SOURCE, "transaction": None, "op": op, **times, **more}


def test_only_change_topics_wrap_their_rows() -> None:
    """The contract's schema is the row for every kind; on the wire of a change topic is its envelope."""
    assert contract(TopicKind.TABLE).value_schema == contract().schema
    schema = contract().value_schema
    assert schema.fullname == "shop.Envelope"
    assert [field.name for field in schema.fields] == [
        "before",
        "after",
        "source",
        "transaction",
        "op",
        "ts_ms",
        "ts_us",
        "ts_ns",
    ]
    for name in ("before", "after"):
        null, row = schema.field(name).type
        assert (null, row["name"] if isinstance(row, dict) else row) == ("null", "shop.Customer")
    assert contract().key_schema == contract(TopicKind.TABLE).key_schema


def test_the_row_is_defined_once_and_shared_by_both_sides() -> None:
    """A schema that names a record twice is no Avro schema, to anybody."""
    schema = contract().value_schema
    fastavro.parse_schema(schema.definition, named_schemas={})
    assert schema.text.count('"Tier"') + schema.text.count('"shop.Tier"') == 1


ROWS = [
    envelope("r", None, {"id": 1, "name": "a", "tier": "GOLD"}),
    envelope("c", None, {"id": 2, "name": None, "tier": "TIN"}),
    envelope("u", {"id": 2, "name": None, "tier": "TIN"}, {"id": 2, "name": "b", "tier": "TIN"}),
    envelope("d", {"id": 1, "name": "a", "tier": "GOLD"}, None),
    envelope("t", None, None, ts_ms=None, ts_us=None, ts_ns=None),
    envelope(
        "c",
        None,
        {"id": 3, "name": "", "tier": "TIN"},
        transaction={"id": "t", "total_order": 1, "data_collection_order": 2},
    ),
]


@pytest.mark.parametrize("repeats", [1, 20])
def test_every_operation_round_trips(repeats: int) -> None:
    """Snapshot, create, update, delete and truncate, against fastavro, by both ways of reading."""
    rows = ROWS * repeats
    found = codec()
    table = pa.Table.from_pylist(rows, found.arrow_schema)
    encoded = found.encode(table)
    assert not encoded.failed
    parsed = fastavro.parse_schema(found.schema.definition, named_schemas={})
    bodies = [each[wire.PREFIX_BYTES :] for each in encoded.values.to_pylist()]
    assert [fastavro.schemaless_reader(io.BytesIO(each), parsed) for each in bodies] == rows
    assert found.decode(encoded.values).table.to_pylist() == rows


def test_an_envelope_of_debezium_is_read() -> None:
    """Other names for the records, a source of another database with fields of its own, an enum of snapshot kinds,
    a field that we do not have: the row, the operation and the times come."""
    value = {**ROW, "name": "Value", "namespace": "pg.public.customers"}
    source = {
        "type": "record",
        "name": "Source",
        "namespace": "io.debezium.connector.postgresql",
        "fields": [
            {"name": "version", "type": "string"},
            {"name": "connector", "type": "string"},
            {"name": "name", "type": "string"},
            {"name": "ts_ms", "type": "long"},
            {
                "name": "snapshot",
                "type": [{"type": "string", "connect.parameters": {"allowed": "true,last"}}, "null"],
                "default": "false",
            },
            {"name": "db", "type": "string"},
            {"name": "sequence", "type": ["null", "string"], "default": None},
            {"name": "schema", "type": "string"},
            {"name": "table", "type": "string"},
            {"name": "txId", "type": ["null", "long"], "default": None},
            {"name": "lsn", "type": ["null", "long"], "default": None},
        ],
    }
    block = {
        "type": "record",
        "name": "block",
        "namespace": "event",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "total_order", "type": "long"},
            {"name": "data_collection_order", "type": "long"},
        ],
    }
    writer = {
        "type": "record",
        "name": "Envelope",
        "namespace": "pg.public.customers",
        "fields": [
            {"name": "before", "type": ["null", value], "default": None},
            {"name": "after", "type": ["null", "Value"], "default": None},
            {"name": "source", "type": source},
            {"name": "transaction", "type": ["null", block], "default": None},
            {"name": "op", "type": "string"},
            {"name": "ts_ms", "type": ["null", "long"], "default": None},
        ],
    }
    given = {
        "before": None,
        "after": {"id": 1, "name": "a", "tier": "GOLD"},
        "source": {
            "version": "2.7",
            "connector": "postgresql",
            "name": "pg",
            "ts_ms": 3,
            "snapshot": "last",
            "db": "shop",
        }
        | {"sequence": '["1","2"]', "schema": "public", "table": "customers", "txId": 9, "lsn": 10},
        "transaction": None,
        "op": "r",
        "ts_ms": 4,
    }
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(writer, named_schemas={}), given)
    registry = MemoryRegistry()
    registered = registry.register("debezium", AvroSchema.parse(writer))
    decoded = open_codec(contract().value_schema, registry, "t-value").decode(
        wire.frame(pa.array([out.getvalue()], pa.large_binary()), registered.id)
    )
    assert not decoded.failed
    (row,) = decoded.table.to_pylist()
    assert (row["op"], row["before"], row["after"]) == ("r", None, given["after"])
    assert (row["ts_ms"], row["ts_us"], row["ts_ns"]) == (4, None, None)
    assert (row["source"]["snapshot"], row["source"]["schema"], row["source"]["change_lsn"]) == ("last", "public", None)


def test_a_compatible_row_has_a_compatible_envelope() -> None:
    """The registry compares envelopes: a new field with a default passes, one without does not."""
    old = contract().value_schema
    for default, verdict in (({"default": 0}, True), ({}, False)):
        row = {**ROW, "fields": [*ROW["fields"], {"name": "age", "type": "int", **default}]}
        new = envelope_schema(AvroSchema.parse(row))
        assert (check(new, [old], CompatibilityMode.BACKWARD) == ()) is verdict


@pytest.mark.parametrize(
    ("namespace", "fullname"), [("", "Envelope"), ("shop", "shop.Envelope"), ("a.b", "a.b.Envelope")]
)
def test_every_parser_reads_the_envelope(namespace: str, fullname: str) -> None:
    """The second mention of the row finds the first by anybody's rules, in a namespace or in none."""
    schema = envelope_schema(AvroSchema.parse({**ROW, "namespace": namespace}))
    assert schema.fullname == fullname
    assert AvroSchema.parse(schema.text) == schema
    fastavro.parse_schema(schema.definition, named_schemas={})
    assert avro.schema.parse(schema.text).type == "record"


def test_rows_that_bring_names_of_the_envelope() -> None:
    """A row called Envelope, Source or block, holding types of such names, still fits inside."""
    for name in ("shop.Envelope", "Envelope", "headrace.cdc.Source", "event.block"):
        row = AvroSchema.parse({"type": "record", "name": name, "fields": [{"name": "id", "type": "int"}]})
        found = open_codec(envelope_schema(row), MemoryRegistry(), "t-value")
        table = pa.Table.from_pylist([envelope("c", None, {"id": 1})], found.arrow_schema)
        assert found.decode(found.encode(table).values).table.column("after").to_pylist() == [{"id": 1}]
