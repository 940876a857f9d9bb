"""The forms in which a line may give a record to `normalise.py`."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import fastavro
import pytest

from tests.cdc.normalise import normalised

KEY_SCHEMA = {"type": "record", "name": "Key", "namespace": "s.public.t", "fields": [{"name": "id", "type": "int"}]}
ROW_SCHEMA = {
    "type": "record",
    "name": "Value",
    "namespace": "s.public.t",
    "fields": [
        {"name": "id", "type": "int"},
        {"name": "d", "type": ["null", {"type": "int", "connect.name": "io.debezium.time.Date"}], "default": None},
    ],
}
SOURCE_SCHEMA = {
    "type": "record",
    "name": "Source",
    "namespace": "io.debezium.connector.postgresql",
    "fields": [{"name": name, "type": "string"} for name in ("connector", "name", "schema", "table", "sequence")],
}
ENVELOPE_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Envelope",
    "namespace": "s.public.t",
    "fields": [
        {"name": "before", "type": ["null", ROW_SCHEMA], "default": None},
        {"name": "after", "type": ["null", "Value"], "default": None},
        {"name": "source", "type": SOURCE_SCHEMA},
        {"name": "op", "type": "string"},
    ],
}
SOURCE = {"connector": "postgresql", "name": "s", "schema": "public", "table": "t", "sequence": '["1","2"]'}
ENVELOPE = {"before": None, "after": {"id": 1, "d": 19782}, "source": SOURCE, "op": "c"}


def avro(schema: dict[str, Any], value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema, named_schemas={}), value)
    return out.getvalue()


KEY, VALUE = avro(KEY_SCHEMA, {"id": 1}), avro(ENVELOPE_SCHEMA, ENVELOPE)


def framed(number: int, data: bytes) -> bytes:
    return b"\0" + number.to_bytes(4, "big") + data


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def out(*lines: Any) -> list[dict[str, Any]]:
    return list(normalised("\n".join(json.dumps(line) for line in lines).encode()))


SCHEMAS = {"schemas": {"1": KEY_SCHEMA, "2": ENVELOPE_SCHEMA}}
BOTH = {"key_schema": KEY_SCHEMA, "value_schema": ENVELOPE_SCHEMA}


@pytest.mark.parametrize(
    "lines",
    [
        [{**BOTH, "key": text64(KEY), "value": text64(VALUE)}],
        [{**BOTH, "key": KEY.hex(), "value": VALUE.hex()}],
        [{**BOTH, "key": text64(framed(7, KEY)), "value": framed(8, VALUE).hex()}],
        [
            {
                "key_schema": json.dumps(KEY_SCHEMA),
                "value_schema": json.dumps(ENVELOPE_SCHEMA),
                "key": KEY.hex(),
                "value": VALUE.hex(),
            }
        ],
        [{"schema": {"key": KEY_SCHEMA, "value": ENVELOPE_SCHEMA}, "key": KEY.hex(), "value": text64(VALUE)}],
        [{"schemas": {"key": KEY_SCHEMA, "value": ENVELOPE_SCHEMA}, "key": KEY.hex(), "value": text64(VALUE)}],
        [SCHEMAS, {"key": text64(framed(1, KEY)), "value": text64(framed(2, VALUE))}],
        [{**SCHEMAS, "key": framed(1, KEY).hex(), "value": framed(2, VALUE).hex()}],
        [
            {
                "key": {"schema": KEY_SCHEMA, "payload": KEY.hex()},
                "value": {"schema": ENVELOPE_SCHEMA, "bytes": text64(VALUE)},
            }
        ],
        [{"key": {"id": 1}, "value": text64(framed(2, VALUE)), **SCHEMAS}],
    ],
)
def test_avro_in_every_form(lines: list[dict[str, Any]]) -> None:
    """Base64 and hexadecimal digits, framed or bare, with the schema beside, inside, or named by its id."""
    (found,) = out(*({"topic": "s.public.t", **line} if "value" in line else line for line in lines))
    assert (found["kind"], found["key"], found["after"]) == ("change", {"id": 1}, {"id": 1, "d": "2024-02-29"})
    assert (found["table"], found["position"]["order"]) == ("public.t", [1, 2, -1])


@pytest.mark.parametrize("value", [ENVELOPE, json.dumps(ENVELOPE), text64(json.dumps(ENVELOPE).encode())])
@pytest.mark.parametrize("key", [{"id": 1}, '{"id": 1}', {"schema": None, "payload": {"id": 1}}])
def test_json_in_every_form(key: Any, value: Any) -> None:
    """The JSON itself, its text, its bytes in base64."""
    (found,) = out({"topic": "t", "key": key, "value": value})
    assert (found["kind"], found["key"], found["after"]) == ("change", {"id": 1}, {"id": 1, "d": 19782})


@pytest.mark.parametrize(
    "headers",
    [
        {"__debezium.oldkey": {"id": 9}},
        {"__debezium.oldkey": '{"id": 9}'},
        [["__debezium.oldkey", '{"id": 9}']],
        [{"key": "__debezium.oldkey", "value": '{"schema": null, "payload": {"id": 9}}'}],
        [{"__debezium.oldkey": {"id": 9}}],
    ],
)
def test_headers_in_every_form(headers: Any) -> None:
    """An object, pairs, objects; values as JSON or as text."""
    (found,) = out({"topic": "t", "key": {"id": 1}, "value": ENVELOPE, "headers": headers})
    assert found["moved_from"] == {"id": 9}


def test_a_connect_schema_beside_a_bare_payload() -> None:
    """As the converter would have put it around the payload."""
    schema = {"type": "struct", "name": "s.t.Key", "fields": [{"type": "int32", "field": "id"}]}
    first, second = out(
        {"topic": "t", "key": {"id": 1}, "value": ENVELOPE, "key_schema": schema},
        {"topic": "t", "key": {"id": "1"}, "value": ENVELOPE, "key_schema": schema},
    )
    assert first["key"] == {"id": 1}
    assert second["code"] == "cdc.invalid_key"


def test_a_deletion_before_the_first_row_of_its_topic() -> None:
    """The file is read twice: what a topic holds is known at its first line."""
    found = out(
        {"topic": "t", "key": {"id": 1}, "value": None},
        {"topic": "t", "key": {"id": 2}, "value": {"id": 2, "__op": "c"}},
    )
    assert [each["operation"] for each in found] == ["d", "c"]
