"""The table in which a service leaves its events: what writes to it and what reads from it agree here.

Owns names, columns and the statement that makes the table, and the forms of row and headers in it.

- `payload` is the row as JSON, in the form that `Form.JSON` takes back exactly: whole numbers of their unit for times,
  one character per byte, text for decimals and what is not finite, `{branch: value}` for unions.
- All that a program in another language must fill is `topic` and `payload`; everything else has a default.
- `transaction_id` is the transaction that wrote the row: with it, what was published is known without being noted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.shape import Kind, Shape, record_shape
from headrace.ingress.values import Form, converter, field_defaults
from headrace.log.columns import HeaderRow

DEFAULT_TABLE = "headrace_outbox"
EVENT_ID_HEADER = "headrace.event.id"
"""Header of every published event: the id that `Outbox.write` returned."""
KEY, TRANSACTION = "number", "transaction_id"
WRITTEN = ("event_id", "topic", "payload", "headers", "timestamp_ms", "is_deletion", "schema")
"""Columns that a writer fills, in the order of its parameters."""

_COLUMNS = """
  number         bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic          text    NOT NULL,
  payload        json    NOT NULL,
  headers        json,
  event_id       uuid    NOT NULL DEFAULT gen_random_uuid(),
  timestamp_ms   bigint  NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
  is_deletion    boolean NOT NULL DEFAULT false,
  schema         text,
  transaction_id xid8    NOT NULL DEFAULT pg_current_xact_id()
"""
_FIELDS: Mapping[str, Any] = {
    "number": "long",
    "topic": "string",
    "payload": "string",
    "headers": ["null", "string"],
    "event_id": "string",
    "timestamp_ms": "long",
    "is_deletion": "boolean",
    "schema": ["null", "string"],
}


def table_statement(quoted_table: str) -> str:
    """The statement that makes the table where it is missing."""
    return f"CREATE TABLE IF NOT EXISTS {quoted_table} ({_COLUMNS})"


def quoted_name(table: str) -> str:
    """`schema.table` or `table` as identifiers."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in table.split(".", 1))


def outbox_contract(table: str) -> Contract:
    """The columns that are read, as if they were captured."""
    fields = [{"name": name, "type": each} for name, each in _FIELDS.items()]
    schema = AvroSchema.parse({"type": "record", "name": "OutboxRow", "fields": fields})
    return Contract(table, schema, kind=TopicKind.CHANGE, key=(KEY,), description="Rows of an outbox.")


class JsonRows:
    """Rows of one schema as JSON. They must fit it."""

    def __init__(self, schema: AvroSchema) -> None:
        shape = record_shape(schema)
        self._children = shape.children
        self._convert = {each.name: converter(each.shape, Form.PYTHON) for each in shape.children}
        self._plain = {each.name: _plain(each.shape) for each in shape.children}
        self._defaults = field_defaults(shape)

    def text(self, row: Mapping[str, Any]) -> str:
        """Every field of the row, defaults filled in: they are those of the moment of writing."""
        return _dumped({each.name: self._plain[each.name](self._value(each.name, row)) for each in self._children})

    def key_text(self, key: Mapping[str, Any]) -> str:
        """Some fields alone."""
        return _dumped({name: self._plain[name](self._convert[name](value)) for name, value in key.items()})

    def _value(self, name: str, row: Mapping[str, Any]) -> Any:
        if name not in row:
            return self._defaults.get(name)
        return self._convert[name](row[name])


def headers_text(headers: Mapping[str, str | bytes]) -> str:
    """Headers as JSON: text, or `{"hex": ...}` for bytes that are none."""
    return _dumped({name: _header(value) for name, value in headers.items()})


def headers_of(text: str | None) -> HeaderRow:
    """What `headers_text` or another program wrote. Raises `ValueError`."""
    found = {} if text is None else json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("headers are no JSON object")
    return [(name, _header_bytes(name, value)) for name, value in found.items()]


def _header(value: str | bytes) -> Any:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def _header_bytes(name: str, value: Any) -> bytes | None:
    if value is None or isinstance(value, str):
        return None if value is None else value.encode()
    if isinstance(value, dict) and list(value) == ["hex"] and isinstance(value["hex"], str):
        return bytes.fromhex(value["hex"])
    raise ValueError(f"header {name!r} is neither text nor {{'hex': ...}}")


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


Plain = Callable[[Any], Any]


def _plain(shape: Shape) -> Plain:
    """What turns a value of a column of `shape` into JSON."""
    inner = _PLAIN.get(shape.kind, _same)(shape)
    return lambda value: None if value is None else inner(value)


def _same(shape: Shape) -> Plain:
    return lambda value: value


def _bytes(shape: Shape) -> Plain:
    return lambda value: value.decode("latin-1")


def _real(shape: Shape) -> Plain:
    return lambda value: value if math.isfinite(value) else _not_finite(value)


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decimal(shape: Shape) -> Plain:
    return lambda value: format(value, "f") if isinstance(value, Decimal) else str(value)


def _record(shape: Shape) -> Plain:
    inner = {each.name: _plain(each.shape) for each in shape.children}
    return lambda value: {name: each(value[name]) for name, each in inner.items()}


def _array(shape: Shape) -> Plain:
    inner = _plain(shape.children[0].shape)
    return lambda value: [inner(item) for item in value]


def _map(shape: Shape) -> Plain:
    inner = _plain(shape.children[0].shape)

    def plain(value: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        return {key: inner(item) for key, item in value}

    return plain


def _union(shape: Shape) -> Plain:
    inner = {each.name: _plain(each.shape) for each in shape.children}
    return lambda value: {name: inner[name](item) for name, item in value.items()}


_PLAIN: Mapping[Kind, Callable[[Shape], Plain]] = {
    Kind.BYTES: _bytes,
    Kind.FIXED: _bytes,
    Kind.FLOAT: _real,
    Kind.DOUBLE: _real,
    Kind.DECIMAL: _decimal,
    Kind.DECIMAL_TEXT: _decimal,
    Kind.BIG_DECIMAL: _decimal,
    Kind.RECORD: _record,
    Kind.ARRAY: _array,
    Kind.MAP: _map,
    Kind.UNION: _union,
}
