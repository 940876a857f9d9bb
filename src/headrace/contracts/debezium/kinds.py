"""What a record of a Debezium topic is about.

Owns `Kind` and the marks by which each is known: the name of its schema, else its shape.
"""

from __future__ import annotations

import enum
from typing import Any

from headrace.contracts.debezium.payloads import Payload


class Kind(enum.Enum):
    """Of a record with a value."""

    ENVELOPE = "envelope"
    ROW = "row"
    """An object that is none of the others: perhaps a row without its envelope."""
    HEARTBEAT = "heartbeat"
    TRANSACTION = "transaction"
    SCHEMA_CHANGE = "schema change"
    SIGNAL = "signal"
    NOTIFICATION = "notification"
    UNKNOWN = "unknown"


HEARTBEAT_TOPICS = "__debezium-heartbeat"
_NAMES = (
    (".Heartbeat", Kind.HEARTBEAT),
    (".TransactionMetadataValue", Kind.TRANSACTION),
    (".SchemaChangeValue", Kind.SCHEMA_CHANGE),
    (".NotificationValue", Kind.NOTIFICATION),
    (".Notification", Kind.NOTIFICATION),
    (".Envelope", Kind.ENVELOPE),
)
_MARKS = ("BEGIN", "END")
_SIDES = frozenset({"before", "after", "source", "updateDescription", "patch", "message"})


def kind_of(topic: str, key: Payload, value: Payload) -> Kind:
    """What a record with a value is."""
    block = value.value
    if not isinstance(block, dict):
        return Kind.UNKNOWN
    name = f".{value.type.name}" if value.type is not None else ""
    for end, kind in _NAMES:
        if name.endswith(end):
            return kind
    return _by_shape(topic, key.value, block)


def _by_shape(topic: str, key: Any, block: dict[str, Any]) -> Kind:
    keys = block.keys()
    if "ddl" in keys and keys & {"tableChanges", "databaseName", "source"}:
        return Kind.SCHEMA_CHANGE
    if ("op" in keys and keys & _SIDES) or {"before", "after", "source"} <= keys:
        return Kind.ENVELOPE
    if {"status", "id", "event_count"} <= keys and block["status"] in _MARKS:
        return Kind.TRANSACTION
    if {"status", "id"} == keys - {"ts_ms", "event_count", "data_collections"} and block["status"] in _MARKS:
        return Kind.TRANSACTION
    server = isinstance(key, dict) and key.keys() == {"serverName"}
    if keys == {"ts_ms"} and (server or topic.startswith(HEARTBEAT_TOPICS)):
        return Kind.HEARTBEAT
    if {"aggregate_type", "type", "additional_data"} <= keys:
        return Kind.NOTIFICATION
    if keys - {"id"} == {"type", "data"} and not isinstance(key, dict):
        return Kind.SIGNAL
    return Kind.ROW
