"""JSON to a contract's types: what is written is what was sent, read back by fastavro, which knows nothing of us."""

from __future__ import annotations

import base64
import io
import json
import math
import struct
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.ingress.encoder import TopicEncoder
from headrace.ingress.gateway.bodies import Body, Media, read_rows
from headrace.ingress.json_rows import JsonReader
from headrace.ingress.values import Form

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Pair = tuple[str, Any]
"""A value's JSON, and what fastavro must give."""


def logical(base: Any, name: str, **more: Any) -> dict[str, Any]:
    return {"type": base, "logicalType": name, **more}


def jsoned(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Pair]:
    return strategy.map(lambda value: (json.dumps(value), value))


@st.composite
def decimals(draw: st.DrawFn, precision: int, scale: int) -> Pair:
    """As text, or as a number with every digit."""
    digits = draw(st.integers(-(10**precision) + 1, 10**precision - 1))
    value = Decimal((int(digits < 0), tuple(map(int, str(abs(digits)))), -scale))  # No context rounds here.
    text = format(value, "f")
    return (json.dumps(text) if draw(st.booleans()) else text), value


@st.composite
def instants(draw: st.DrawFn) -> Pair:
    """RFC 3339 with any offset, or the number of the unit."""
    moment = EPOCH + timedelta(microseconds=draw(st.integers(-(10**15), 4 * 10**15)))
    zone = timezone(timedelta(minutes=draw(st.integers(-14 * 60, 14 * 60))))
    text = json.dumps(moment.astimezone(zone).isoformat().replace("+00:00", "Z"))
    count = str((moment - EPOCH) // timedelta(microseconds=1))
    return draw(st.sampled_from([text, count])), moment


def doubles() -> st.SearchStrategy[Pair]:
    finite = jsoned(st.floats(allow_nan=False, allow_infinity=False))
    whole = st.integers(-(2**53), 2**53).map(lambda value: (str(value), float(value)))
    return st.one_of(finite, whole, st.sampled_from([('"NaN"', math.nan), ('"-Infinity"', -math.inf)]))


def floats32() -> st.SearchStrategy[Pair]:
    return st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda value: (repr(value), value))


KINDS: dict[str, tuple[Any, st.SearchStrategy[Pair]]] = {
    "boolean": ("boolean", jsoned(st.booleans())),
    "int": ("int", jsoned(st.integers(-(2**31), 2**31 - 1))),
    "long": ("long", jsoned(st.integers(-(2**63), 2**63 - 1))),
    "float": ("float", floats32()),
    "double": ("double", doubles()),
    "string": ("string", jsoned(st.text())),
    "bytes": ("bytes", st.binary(max_size=40).map(lambda each: (json.dumps(base64.b64encode(each).decode()), each))),
    "fixed": (
        {"type": "fixed", "name": "F", "size": 5},
        st.binary(min_size=5, max_size=5).map(lambda each: (json.dumps(base64.b64encode(each).decode()), each)),
    ),
    "enum": ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, jsoned(st.sampled_from("AB"))),
    "decimal": (logical("bytes", "decimal", precision=38, scale=9), decimals(38, 9)),
    "money": (logical("bytes", "decimal", precision=9, scale=2), decimals(9, 2)),
    "uuid": (logical("string", "uuid"), st.uuids().map(lambda value: (json.dumps(str(value)), value))),
    "date": (logical("int", "date"), st.dates().map(lambda value: (json.dumps(value.isoformat()), value))),
    "time": (logical("long", "time-micros"), st.times().map(lambda value: (json.dumps(value.isoformat()), value))),
    "instant": (logical("long", "timestamp-micros"), instants()),
    "local": (
        logical("long", "local-timestamp-micros"),
        st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).map(  # noqa: DTZ001 - a local time has no zone
            lambda value: (json.dumps(value.isoformat()), value)
        ),
    ),
    "nothing": (["null", "long"], st.just(("null", None))),
    "optional": (["null", "string"], jsoned(st.text(min_size=1))),
    "list": ({"type": "array", "items": "double"}, st.lists(doubles(), max_size=4).map(lambda each: _list(each))),
    "map": (
        {"type": "map", "values": "long"},
        jsoned(st.dictionaries(st.text(max_size=5), st.integers(-(2**63), 2**63 - 1), max_size=4)),
    ),
    "union": (["null", "long", "string"], jsoned(st.one_of(st.none(), st.integers(-9, 9), st.text()))),
    "row": (
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "boolean"}]},
        jsoned(st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.booleans()})),
    ),
}
SCHEMA = AvroSchema.parse(
    {"type": "record", "name": "All", "fields": [{"name": name, "type": kind} for name, (kind, _) in KINDS.items()]}
)
ENCODER = TopicEncoder(Contract("all", SCHEMA), MemoryRegistry(), form=Form.HTTP)


def _list(pairs: list[Pair]) -> Pair:
    return "[" + ",".join(text for text, _ in pairs) + "]", [value for _, value in pairs]


def encode(texts: list[str], encoder: TopicEncoder = ENCODER, media: Media = Media.NDJSON) -> tuple[list[Any], Any]:
    """What fastavro reads, and the violations."""
    schema = encoder.contract.schema
    rows = read_rows(Body(media, "\n".join(texts).encode()), JsonReader(schema), 10_000)
    assert not rows.unreadable, rows.unreadable
    stamps = np.full(len(rows.rows), 1, dtype=np.int64)
    prepared = encoder.encode_columns(encoder.columns.from_rows(rows.rows), stamps)
    values = [io.BytesIO(value[5:]) for value in prepared.outgoing.value.to_pylist()]
    return [fastavro.schemaless_reader(value, schema.definition) for value in values], prepared.violations


def same(left: Any, right: Any) -> bool:
    """Equal, NaN to NaN and zeros with their signs."""
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack(">d", left) == struct.pack(">d", right) or (math.isnan(left) and math.isnan(right))
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.fixed_dictionaries({name: pairs for name, (_, pairs) in KINDS.items()}), min_size=1, max_size=4))
def test_every_type_is_written_as_it_was_sent(rows: list[dict[str, Pair]]) -> None:
    """Whatever stands beside it in the batch; numbers lose no digit."""
    texts = ["{" + ",".join(f"{json.dumps(name)}:{text}" for name, (text, _) in row.items()) + "}" for row in rows]
    written, violations = encode(texts)
    assert not violations, violations
    for row, found in zip(rows, written, strict=True):
        for name, (text, value) in row.items():
            assert same(found[name], value), (name, text, found[name], value)


def one(kind: Any) -> TopicEncoder:
    schema = AvroSchema.parse({"type": "record", "name": "One", "fields": [{"name": "v", "type": kind}]})
    return TopicEncoder(Contract("one", schema), MemoryRegistry(), form=Form.HTTP)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int", "1.5"),
        ("int", "2147483648"),
        ("int", '"1"'),
        ("long", "9223372036854775808"),
        ("long", "true"),
        ("double", "1e999"),
        ("double", "9007199254740993"),
        ("double", '"1.5"'),
        ("float", "1e39"),
        ("string", "1"),
        ("string", '"\\ud800"'),
        ("bytes", '"ä"'),
        ("bytes", '"AQI"'),
        ({"type": "fixed", "name": "F", "size": 2}, '"AQID"'),
        (logical("bytes", "decimal", precision=4, scale=2), "1.234"),
        (logical("bytes", "decimal", precision=4, scale=2), "100"),
        (logical("bytes", "decimal", precision=4, scale=2), "1e400"),
        (logical("long", "timestamp-millis"), '"2013-01-01T05:15:00"'),
        (logical("long", "timestamp-millis"), '"2013-01-01T05:15:00.0001Z"'),
        (logical("long", "timestamp-millis"), "1.5"),
        (logical("long", "timestamp-millis"), "1e999999999"),
        (logical("bytes", "big-decimal"), "1e999999999"),
        ("long", "1e999999999"),
        ("long", "9007199254740993.5"),
        (logical("int", "date"), '"2013-02-30"'),
        (logical("string", "uuid"), '"x"'),
        ({"type": "array", "items": "int"}, "{}"),
        ("null", "0"),
    ],
)
def test_what_would_change_is_refused(kind: Any, text: str) -> None:
    """Rounded, cut, out of range, guessed: the field is named, the value is not."""
    written, violations = encode([f'{{"v":{text}}}'], one(kind))
    assert not written
    [violation] = violations.values()
    assert violation.field == "v"
    assert len(text) < 4 or text.strip('"') not in violation.reason


@pytest.mark.parametrize("text", ["7", "7.0", "0.7e1", "70e-1"])
def test_whole_numbers_may_be_written_with_a_fraction(text: str) -> None:
    """JSON knows no other numbers; those of more digits than a double has are whole, too."""
    for kind in ("int", "long", logical("long", "time-micros"), logical("bytes", "decimal", precision=9, scale=2)):
        [row], violations = encode([f'{{"v":{text}}}'], one(kind))
        assert not violations
        assert row["v"] in (7, time(0, 0, 0, 7))
    [row], _ = encode(['{"v": 9007199254740993.0}'], one("long"))
    assert row["v"] == 9007199254740993


def test_decimals_keep_digits_that_a_double_has_not() -> None:
    """A number of 38 digits as a JSON number, in every form of body, beside doubles that need none of it."""
    number = "12345678901234567890123456789.123456789"
    kind = logical("bytes", "decimal", precision=38, scale=9)
    for media in (Media.NDJSON, Media.JSON):
        [row], violations = encode([f'{{"v":{number}}}'], one(kind), media)
        assert not violations
        assert row["v"] == Decimal(number)
