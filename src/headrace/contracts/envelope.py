"""The Debezium envelope: what stands on the wire of a `kind: change` topic.

Owns `envelope_schema`: the Avro schema of the envelope around a row, as Debezium's connectors register it.

- Fields, order of fields and defaults follow Debezium, so that its readers take headrace's records and the reverse.
- What a particular database adds to `source` is null elsewhere.
"""

from __future__ import annotations

from typing import Any

from headrace.contracts.avro import AvroSchema
from headrace.contracts.avro_field import AvroField

ENVELOPE_NAME = "Envelope"


def _optional(name: str, avro_type: Any, doc: str = "") -> dict[str, Any]:
    return {"name": name, "type": ["null", avro_type], "default": None, **({"doc": doc} if doc else {})}


SOURCE_SCHEMA = AvroSchema.parse(
    {
        "type": "record",
        "name": "Source",
        "namespace": "headrace.cdc",
        "doc": "Where a change comes from.",
        "fields": [
            {"name": "version", "type": "string"},
            {"name": "connector", "type": "string"},
            {"name": "name", "type": "string"},
            {"name": "ts_ms", "type": "long", "doc": "When the database made the change."},
            {"name": "snapshot", "type": ["string", "null"], "default": "false"},
            {"name": "db", "type": "string"},
            _optional("sequence", "string"),
            _optional("ts_us", "long"),
            _optional("ts_ns", "long"),
            _optional("schema", "string"),
            {"name": "table", "type": "string"},
            _optional("change_lsn", "string", "Position of the change in the source's log, ordered as text."),
            _optional("txId", "long"),
            _optional("lsn", "long"),
            _optional("xmin", "long"),
            _optional("server_id", "long"),
            _optional("gtid", "string"),
            _optional("file", "string"),
            _optional("pos", "long"),
            _optional("row", "int"),
            _optional("thread", "long"),
        ],
    }
)

TRANSACTION_SCHEMA = AvroSchema.parse(
    {
        "type": "record",
        "name": "block",
        "namespace": "event",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "total_order", "type": "long"},
            {"name": "data_collection_order", "type": "long"},
        ],
    }
)


def envelope_schema(row: AvroSchema) -> AvroSchema:
    """The envelope around `row`, in the row's namespace; in none where the row has none.

    From inside a namespace a name without one cannot be referred to: Java falls back to it, other parsers do not.
    """
    nullable_row = ["null", row.definition]
    fields = [
        AvroField("before", nullable_row, has_default=True),
        AvroField("after", nullable_row, has_default=True),
        AvroField("source", SOURCE_SCHEMA.definition),
        AvroField("transaction", ["null", TRANSACTION_SCHEMA.definition], has_default=True),
        AvroField("op", "string", doc="c, u, d, r (snapshot) or t (truncate)."),
        *(AvroField(name, ["null", "long"], has_default=True) for name in ("ts_ms", "ts_us", "ts_ns")),
    ]
    return AvroSchema.record(f"{row.namespace}.{ENVELOPE_NAME}" if row.namespace else ENVELOPE_NAME, fields)
