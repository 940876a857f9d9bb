"""What a service writes into its outbox, without a database."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.ingress.columns import ColumnBuilder
from headrace.ingress.outbox import Outbox, OutboxConnection
from headrace.ingress.outbox_table import JsonRows, headers_of, headers_text
from headrace.ingress.values import Form
from headrace.ingress.violations import ContractViolation, NotPublishable, UnknownContract

EVERYTHING: dict[str, Any] = {
    "truth": ("boolean", True),
    "whole": ("int", -(2**31)),
    "long": ("long", 2**63 - 1),
    "single": ("float", 0.1),
    "double": ("double", -0.0),
    "infinite": ("double", float("-inf")),
    "text": ("string", "\0 ü \u2028 \U0001f600"),
    "blob": ("bytes", bytes(range(256))),
    "fixed": ({"type": "fixed", "name": "F", "size": 2}, b"\xff\0"),
    "label": ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B"),
    "money": (
        {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 2},
        Decimal("12345678901234567.89"),
    ),
    "huge": ({"type": "bytes", "logicalType": "decimal", "precision": 90, "scale": 1}, Decimal("1e80")),
    "id": ({"type": "string", "logicalType": "uuid"}, UUID(int=7)),
    "day": ({"type": "int", "logicalType": "date"}, date(1969, 7, 20)),
    "hour": ({"type": "long", "logicalType": "time-micros"}, time(23, 59, 59, 999_999)),
    "moment": ({"type": "long", "logicalType": "timestamp-micros"}, datetime(2013, 1, 1, 5, 15, 0, 1, tzinfo=UTC)),
    "fine": ({"type": "long", "logicalType": "timestamp-nanos"}, 1_234_567_890_123_456_789),
    "local": ({"type": "long", "logicalType": "local-timestamp-millis"}, datetime(2013, 1, 1, 5)),  # noqa: DTZ001
    "span": ({"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}, timedelta(days=3, seconds=1)),
    "list": ({"type": "array", "items": ["null", "long"]}, [1, None]),
    "map": ({"type": "map", "values": "bytes"}, {"b": b"\x80", "a": b""}),
    "record": (
        {"type": "record", "name": "R", "fields": [{"name": "at", "type": ["null", "bytes"], "default": None}]},
        {"at": b"\xfe"},
    ),
    "either": (["null", "long", "string", {"type": "map", "values": "long"}], {"map": {"string": 5}}),
    "other": (["long", "double"], 1.5),
    "nothing": (["null", "string"], None),
}


def test_rows_come_back_from_their_json() -> None:
    """A value of every type is the same column value after its way through the table."""
    fields = [{"name": name, "type": each} for name, (each, _) in EVERYTHING.items()]
    schema = AvroSchema.parse({"type": "record", "name": "Everything", "fields": fields})
    row = {name: value for name, (_, value) in EVERYTHING.items()}
    there = ColumnBuilder(schema, Form.PYTHON).from_rows([row])
    back = ColumnBuilder(schema, Form.JSON).from_rows([json.loads(JsonRows(schema).text(row))])
    assert (there.misfits, back.misfits) == ({}, {})
    assert back.table.equals(there.table)


def test_defaults_are_those_of_the_moment_of_writing() -> None:
    """A field that is not given has its default in the row already."""
    fields = [{"name": "a", "type": "long", "default": 3}, {"name": "b", "type": ["null", "long"], "default": None}]
    schema = AvroSchema.parse({"type": "record", "name": "R", "fields": fields})
    assert json.loads(JsonRows(schema).text({})) == {"a": 3, "b": None}


def test_headers_come_back() -> None:
    """Text, bytes that are no text, and none; what is none of it is refused."""
    given = {"traceparent": "00-ab", "raw": b"\xff\0", "text": b"plain"}
    assert dict(headers_of(headers_text(given))) == {"traceparent": b"00-ab", "raw": b"\xff\0", "text": b"plain"}
    assert headers_of(None) == []
    for wrong in ("[]", '{"a": 1}', '{"a": {"hex": "0"}}', "{"):
        with pytest.raises(ValueError, match=r"\w"):
            headers_of(wrong)


def contract(topic: str, kind: TopicKind = TopicKind.EVENT) -> Contract:
    schema = AvroSchema.parse({"type": "record", "name": "R", "fields": [{"name": "id", "type": "long"}]})
    return Contract(topic, schema, kind=kind, key=("id",))


def test_what_is_wrong_is_told_before_anything_is_written() -> None:
    """The topic, the row and the connection, in this order; a topic of changes is its ingress's."""
    outbox = Outbox(contracts={"a": contract("a"), "changes": contract("changes", TopicKind.CHANGE)})
    with pytest.raises(UnknownContract, match="did you mean 'changes'"):
        outbox.write(None, "change", {"id": 1})
    with pytest.raises(NotPublishable):
        outbox.write(None, "changes", {"id": 1})
    with pytest.raises(ContractViolation, match="field 'id' is str, not long"):
        outbox.write(None, "a", {"id": "one"})
    with pytest.raises(ContractViolation, match="only rows of a table can be deleted"):
        outbox.delete(None, "a", {"id": 1})
    with pytest.raises(OutboxConnection, match=r"builtins\.NoneType is no connection"):
        outbox.write(None, "a", {"id": 1})
