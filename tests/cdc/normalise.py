"""Records of Debezium topics, as lines of JSON, to normalised changes, as lines of JSON.

    python tests/cdc/normalise.py FILE

Owns the form of the lines that go in and come out; what a record means is `headrace.contracts.debezium`.

A line is an object with `topic`, `key`, `value` and `headers`; further names are passed over. `key` and `value` are

- null, or left out: the record has none;
- an object (or number, list, truth value): the JSON itself, bare or as Connect's `schema` and `payload`;
- a text of JSON: the same;
- a text of Avro bytes in base64 or hexadecimal digits. Its schema is `key_schema` or `value_schema` of the line (an
  Avro schema as JSON or as text; the bytes may have Confluent's five bytes in front or not), or found by the id in
  those five bytes among `schemas`: an object of Avro schemas by id, of the line or of a line of its own before it.
  `schema` of the line may hold both schemas, as `key` and `value`;
- an object of `schema` (an Avro schema) and `payload`, `bytes` or `avro` (the bytes in base64 or hexadecimal digits);
- for keys any other text: the key is that text.

`key_schema` and `value_schema` may also be a schema of Connect, for a payload that stands bare. `headers` is an
object, or a list of pairs, or of objects of `key` and `value`; a value is text (JSON or not), null or JSON.

One line comes out for each line that has something on it, in their order; the exit code is 0 whatever they hold:

- `kind` is `change`, `message` (operation `m`), `not_a_change` or `unreadable`; the last two have `code` and `reason`.
- Bytes are base64, decimals are texts, times are ISO 8601 texts (UTC instants end in `Z`).
- A file is read twice: first to learn which topics hold unwrapped rows, where a null value is a deletion.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from headrace.contracts.debezium.avro_values import PREFIX_BYTES, schema_id
from headrace.contracts.debezium.change import Change, NotAChange, Operation, SourceTable, plain
from headrace.contracts.debezium.json_values import parse_json, typed, untyped
from headrace.contracts.debezium.payloads import NOTHING, Payload, avro_payload, json_payload
from headrace.contracts.debezium.problems import (
    INVALID_AVRO,
    INVALID_JSON,
    INVALID_KEY,
    INVALID_VALUE,
    UNKNOWN_SCHEMA,
    Unreadable,
)
from headrace.contracts.debezium.reading import ChangeReader, DebeziumRecord
from headrace.contracts.debezium.types import WriterType, avro_type, json_type

INVALID_LINE = "cdc.invalid_line"
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
PARTS = {"key", "value"}
_BYTE_NAMES = ("payload", "bytes", "avro")


@dataclass
class Line:
    """A line of the file: its number and what it holds, or why that cannot be said."""

    number: int
    record: DebeziumRecord | None = None
    problem: NotAChange | None = None
    topic: Any = None


@dataclass
class Schemas:
    """The Avro schemas that lines have named by id so far."""

    by_id: dict[int, Any] = field(default_factory=dict)
    _parsed: dict[int, WriterType] = field(default_factory=dict)

    def add(self, given: Any) -> None:
        if not isinstance(given, dict) or not all(re.fullmatch(r"\d{1,10}", name) for name in given):
            raise Unreadable(INVALID_LINE, "'schemas' is no object of schemas by id")
        for name, schema in given.items():
            self.by_id[int(name)] = schema
            self._parsed.pop(int(name), None)

    def writer(self, number: int) -> WriterType:
        if number not in self.by_id:
            raise Unreadable(UNKNOWN_SCHEMA, f"no line names a schema of id {number}")
        if number not in self._parsed:
            self._parsed[number] = avro_type(self.by_id[number])
        return self._parsed[number]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__)
        return 2
    data = Path(arguments[0]).read_bytes()
    for shown in normalised(data):
        print(json.dumps(shown))
    return 0


def normalised(data: bytes) -> Iterator[dict[str, Any]]:
    """What comes out for the lines of a file."""
    lines = list(read_lines(data))
    reader = ChangeReader()
    for line in lines:
        if line.record is not None:
            reader.read(line.record)  # Learns the forms of the topics.
    for line in lines:
        found = line.problem if line.record is None else reader.read(line.record)
        assert found is not None
        head = {"line": line.number, "topic": line.record.topic if line.record else line.topic}
        yield {**head, **shown(found)}


# --- in


def read_lines(data: bytes) -> Iterator[Line]:
    """The lines of a file that hold a record, or should."""
    schemas = Schemas()
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        line = Line(number)
        try:
            line.record = _record(raw, schemas, line)
        except Unreadable as error:
            line.problem = NotAChange(error.code, error.reason, True)
        if line.record is not None or line.problem is not None:
            yield line


def _record(raw: bytes, schemas: Schemas, line: Line) -> DebeziumRecord | None:
    try:
        given = parse_json(raw)
    except Unreadable as error:
        raise Unreadable(INVALID_LINE, f"the line is not JSON: {error.reason}") from None
    if not isinstance(given, dict):
        raise Unreadable(INVALID_LINE, "the line is no object")
    if "schemas" in given and not (isinstance(given["schemas"], dict) and given["schemas"].keys() <= PARTS):
        schemas.add(given["schemas"])
        if not given.keys() & {"topic", "key", "value"}:
            return None
    topic = line.topic = given.get("topic", "")
    if not isinstance(topic, str):
        raise Unreadable(INVALID_LINE, "'topic' is no text")
    if "value" not in given and "key" not in given:
        raise Unreadable(INVALID_LINE, "the line has neither 'key' nor 'value'")
    try:
        key = _part(given, "key", schemas)
    except Unreadable as error:
        raise Unreadable(INVALID_KEY if error.code == INVALID_VALUE else error.code, f"key: {error.reason}") from None
    value = _part(given, "value", schemas)
    return DebeziumRecord(topic, key, value, _headers(given.get("headers")))


def _part(given: Mapping[str, Any], part: str, schemas: Schemas) -> Payload:
    """The key or the value of a line."""
    stated = given.get(part)
    if stated is None:
        return NOTHING
    schema = _schema_of(given, part)
    if isinstance(schema, str):
        schema = _schema_text(schema)
    if _is_avro_pair(stated):
        schema, stated = stated["schema"], next(stated[name] for name in _BYTE_NAMES if name in stated)
    if schema is not None:
        return _with_schema(stated, schema, part)
    if not isinstance(stated, str):
        return json_payload(stated)
    return _text(stated, part, schemas)


def _schema_of(given: Mapping[str, Any], part: str) -> Any:
    """What a line says of the schema of its key or value."""
    own = [given[name] for name in (f"{part}_schema", f"{part}Schema") if given.get(name) is not None]
    for name in ("schema", "schemas"):
        both = given.get(name)
        if isinstance(both, dict) and both.get(part) is not None and both.keys() <= PARTS:
            own.append(both[part])
    return own[0] if own else None


def _schema_text(text: str) -> Any:
    try:
        return parse_json(text)
    except Unreadable:
        return text  # A primitive's name.


def _is_avro_pair(stated: Any) -> bool:
    if not isinstance(stated, dict) or not isinstance(stated.get("schema"), dict | str | list):
        return False
    others = stated.keys() - {"schema"}
    name = next(iter(others), "")
    is_avro = not isinstance(stated["schema"], dict) or not _is_connect(stated["schema"])
    return is_avro and len(others) == 1 and name in _BYTE_NAMES and isinstance(stated[name], str)


def _is_connect(schema: Any) -> bool:
    """Whether a schema is one of Connect, not of Avro; they differ in the names of their types."""
    if not isinstance(schema, dict):
        return False
    kinds = {"struct", "int8", "int16", "int32", "int64", "float32", "float64"}
    return schema.get("type") in kinds or "field" in schema or "optional" in schema


def _with_schema(stated: Any, schema: Any, part: str) -> Payload:
    if _is_connect(schema):
        of = json_type(schema)
        value = parse_json(stated) if isinstance(stated, str) and of.kind in ("struct", "map", "array") else stated
        return Payload(typed(value, of), of)
    writer = avro_type(schema)
    readings = _readings(stated) if isinstance(stated, str) else []
    problem = Unreadable(INVALID_AVRO, f"the {part} is no text of base64 or hexadecimal digits")
    # With Confluent's frame in front, or without: a value ends with its last byte in one of the two ways only.
    framed = [data[PREFIX_BYTES:] for data in readings if _is_framed(data)]
    for at, body in enumerate([*framed, *readings]):
        try:
            return avro_payload(body, writer)
        except Unreadable as error:
            problem = error if at == 0 else problem
    raise problem


def _text(stated: str, part: str, schemas: Schemas) -> Payload:
    """A text: framed Avro of a schema that is known, JSON, or of a key just that text."""
    readings = _readings(stated)
    framed = [data for data in readings if _is_framed(data)]
    for data in framed:
        if schema_id(data) in schemas.by_id:
            return avro_payload(data[PREFIX_BYTES:], schemas.writer(schema_id(data)))
    try:
        parsed = parse_json(stated)
    except Unreadable as error:
        problem = error
    else:
        return json_payload(parsed)
    if stated.lstrip()[:1] in ("{", "["):
        raise problem
    for data in readings:
        if data.lstrip()[:1] in (b"{", b"["):
            return json_payload(parse_json(data))
    if part == "key":
        return Payload(stated)
    if framed:
        raise Unreadable(UNKNOWN_SCHEMA, f"no line names a schema of id {schema_id(framed[-1])}")
    raise Unreadable(INVALID_JSON, f"the value is neither JSON nor framed Avro: {problem.reason}")


def _is_framed(data: bytes) -> bool:
    return data[:1] == b"\0" and len(data) >= PREFIX_BYTES


def _readings(text: str) -> list[bytes]:
    """The bytes that a text may stand for: what looks like hexadecimal digits may be base64 all the same."""
    text = text.strip()
    found = []
    if _HEX.fullmatch(text.removeprefix("0x")):
        found.append(bytes.fromhex(text.removeprefix("0x")))
    with contextlib.suppress(binascii.Error, ValueError):
        found.append(base64.b64decode(text, validate=True))
    return found


def _headers(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, dict):
        return {name: _header(value) for name, value in given.items()}
    if not isinstance(given, list):
        raise Unreadable(INVALID_LINE, "'headers' is neither an object nor a list")
    found = {}
    for each in given:
        match each:
            case [str(name), value]:
                found[name] = _header(value)
            case {"key": str(name), "value": value} | {"name": str(name), "value": value}:
                found[name] = _header(value)
            case dict() if len(each) == 1:
                found.update({name: _header(value) for name, value in each.items()})
            case _:
                raise Unreadable(INVALID_LINE, "a header that is no pair")
    return found


def _header(value: Any) -> Any:
    """A header as it stands; what is JSON already is read here."""
    if isinstance(value, dict | list):
        try:
            return json_payload(value).meant("header")
        except Unreadable:
            return untyped(value)
    return value


# --- out


def shown(found: Change | NotAChange) -> dict[str, Any]:
    """A change, or why there is none, as JSON."""
    if isinstance(found, NotAChange):
        kind = "unreadable" if found.is_broken else "not_a_change"
        detail = {"detail": plain(found.detail)} if found.detail else {}
        return {"kind": kind, "code": found.code, "reason": found.reason, **detail}
    position = found.position
    is_message = found.operation is Operation.MESSAGE
    more: dict[str, Any] = {}
    if not found.is_operation_known:
        more["operation_known"] = False
    for name, value in (("moved_to", found.moved_to), ("moved_from", found.moved_from)):
        if value is not None:
            more[name] = plain(value)
    if found.patch is not None:
        truncated = [{"field": name, "size": size} for name, size in found.patch.truncated]
        updated, removed = plain(found.patch.updated), list(found.patch.removed)
        more["patch"] = {"updated": updated, "removed": removed, "truncated": truncated}
    if found.message is not None:
        more["message"] = {"prefix": found.message.prefix, "content": plain(found.message.content)}
    return {
        "kind": "message" if is_message else "change",
        "operation": found.operation.value,
        "table": found.table.text or None,
        "key": plain(found.key),
        "before": plain(found.before),
        "after": plain(found.after),
        "unchanged": list(found.unchanged),
        "position": {"source": position.source, "order": list(position.order), **plain(position.fields)},
        "transaction": _transaction(found),
        "snapshot": found.snapshot,
        "time_ms": found.time_ms,
        "source": _source(found.table),
        **more,
    }


def _transaction(change: Change) -> dict[str, Any] | None:
    if change.transaction is None:
        return None
    found = change.transaction
    return {"id": found.id, "total_order": found.total_order, "data_collection_order": found.table_order}


def _source(table: SourceTable) -> dict[str, Any]:
    parts = ("connector", "server", "database", "schema", "name")
    return {part: getattr(table, part) or None for part in parts}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
