"""The record codec agrees with fastavro, byte for byte, on every type of Avro 1.12."""

from __future__ import annotations

import io
import json
import math
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contracts.ways import WAYS, decode_by, each_way, read_by

from headrace.contracts import wire
from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.codec import Decoded
from headrace.contracts.fastavro_codec import AvroCodec, open_codec
from headrace.contracts.registry_memory import MemoryRegistry

RANDOM = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

Shown = Callable[[Any], list[Any]]


def codec_of(schema: Any) -> AvroCodec:
    return open_codec(AvroSchema.parse(schema), MemoryRegistry(), "t-value")


def record(*fields: tuple[str, Any], name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": each, "type": node} for each, node in fields]}


def written(schema: Any, value: Any) -> bytes:
    """The body of a value as fastavro writes it."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema, named_schemas={}), value)
    return out.getvalue()


def framed(codec: AvroCodec, bodies: Sequence[bytes]) -> pa.LargeBinaryArray:
    """The bodies behind the id that the codec's own schema has."""
    registered = codec._registry.register(codec.subject, codec.schema)
    return wire.frame(pa.array(bodies, pa.large_binary()), registered.id)


def good(decoded: Decoded, count: int) -> pa.Table:
    """The table of a batch in which nothing failed."""
    assert not decoded.failed
    assert decoded.rows.tolist() == list(range(count))
    decoded.table.validate(full=True)
    return decoded.table


def round_trip(schema: Any, column: pa.Array) -> list[Any]:
    """A column named `f` through the codec, and back as Python values."""
    codec = codec_of(record(("f", schema)))
    encoded = codec.encode(pa.table({"f": column}))
    assert not encoded.failed
    return list(good(codec.decode(encoded.values), len(column)).column("f").to_pylist())


# --- Random schemas, fastavro as the oracle -----------------------------------------------------------------------


@RANDOM
@given(data=st.data())
def test_decodes_what_fastavro_wrote_and_encodes_the_same_bytes(
    data: st.DataObject, avro_records: st.SearchStrategy[Any], as_python: Shown
) -> None:
    """Values of random types come out as the columns should show them, by every way of reading; written again they
    are the bytes of fastavro."""
    avro_type = data.draw(avro_records)
    pairs = data.draw(st.lists(avro_type.values, min_size=1, max_size=5))
    codec = codec_of(avro_type.node)
    values = framed(codec, [written(avro_type.stripped, raw) for raw, _ in pairs])
    for way in WAYS:
        table = good(decode_by(way, codec, values), len(pairs))
        columns = [as_python(table.column(name)) for name in table.column_names]
        found = [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]
        assert found == [shown for _, shown in pairs]
    encoded = codec.encode(table)
    assert not encoded.failed
    assert encoded.values.equals(values)


@RANDOM
@given(data=st.data())
def test_no_garbage_breaks_a_batch(data: st.DataObject, avro_records: st.SearchStrategy[Any]) -> None:
    """Values cut, lengthened or changed at random fail alone with a stable code, or are values of the type; all
    ways of reading agree, and the good row beside them comes."""
    avro_type = data.draw(avro_records)
    raw, _ = data.draw(avro_type.values)
    body = written(avro_type.stripped, raw)
    bad = data.draw(st.lists(mutations(body), min_size=1, max_size=4))
    codec = codec_of(avro_type.node)
    values = framed(codec, [*bad, body])
    found = []
    for way in WAYS:
        decoded = decode_by(way, codec, values)
        decoded.table.validate(full=True)
        assert len(bad) in decoded.rows.tolist()
        assert sorted([*decoded.rows.tolist(), *(row for row, _, _ in decoded.failed)]) == list(range(len(values)))
        assert {each.code for each in decoded.failed} <= {
            "decode.truncated",
            "decode.trailing_bytes",
            "decode.invalid",
            "decode.invalid_utf8",
        }
        found.append(decoded)
    again = [codec.encode(each.table).values for each in found]
    for each, encoded in zip(found[1:], again[1:], strict=True):
        assert each.failed == found[0].failed
        assert each.rows.tolist() == found[0].rows.tolist()
        assert encoded.equals(again[0])


def mutations(body: bytes) -> st.SearchStrategy[bytes]:
    """A body with something wrong, perhaps."""
    places = st.integers(0, max(len(body) - 1, 0))
    changed = st.builds(lambda at, byte: body[:at] + bytes([byte]) + body[at + 1 :], places, st.integers(0, 255))
    cut = places.map(lambda at: body[:at])
    return st.one_of(cut, changed, st.binary(max_size=3).map(lambda more: body + more), st.binary(max_size=12))


# --- Each type by name ---------------------------------------------------------------------------------------------

NANOS = 1_700_000_000_123_456_789
SAMPLES: list[tuple[str, Any, list[Any], list[Any]]] = [
    # name, Avro type, values as fastavro takes them, values as the column shows them
    ("null", "null", [None, None], [None, None]),
    ("boolean", "boolean", [True, False], [True, False]),
    ("int", "int", [0, -(2**31), 2**31 - 1], [0, -(2**31), 2**31 - 1]),
    ("long", "long", [0, -(2**63), 2**63 - 1], [0, -(2**63), 2**63 - 1]),
    ("float", "float", [0.5, -0.0, math.inf], [0.5, -0.0, math.inf]),
    ("double", "double", [0.1, 5e-324, -math.inf], [0.1, 5e-324, -math.inf]),
    ("bytes", "bytes", [b"", b"\0\xff"], [b"", b"\0\xff"]),
    ("string", "string", ["", "größe ✓ \0 𝄞"], ["", "größe ✓ \0 𝄞"]),
    ("fixed", {"type": "fixed", "name": "F", "size": 3}, [b"abc"], [b"abc"]),
    ("enum", {"type": "enum", "name": "E", "symbols": ["A", "B"]}, ["B", "A"], ["B", "A"]),
    ("array", {"type": "array", "items": "int"}, [[], [1, 2]], [[], [1, 2]]),
    ("map", {"type": "map", "values": "int"}, [{}, {"b": 1, "a": 2}], [[], [("b", 1), ("a", 2)]]),
    ("record", record(("x", "int"), name="In"), [{"x": 1}], [{"x": 1}]),
    ("empty record", record(name="In"), [{}, {}], [{}, {}]),
    ("null first", ["null", "int"], [None, 1], [None, 1]),
    ("null last", ["int", "null"], [None, 1], [None, 1]),
    (
        "union",
        ["null", "int", "string"],
        [None, 1, "a"],
        [None, {"int": 1, "string": None}, {"int": None, "string": "a"}],
    ),
    (
        "decimal in bytes",
        {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2},
        [Decimal("0.00"), Decimal("-1.29"), Decimal("99999999.99")],
        [Decimal("0.00"), Decimal("-1.29"), Decimal("99999999.99")],
    ),
    (
        "decimal in fixed",
        {"type": "fixed", "name": "D", "size": 9, "logicalType": "decimal", "precision": 10, "scale": 2},
        [Decimal("-0.01"), Decimal("99999999.99")],
        [Decimal("-0.01"), Decimal("99999999.99")],
    ),
    (
        "decimal of 50 digits",
        {"type": "bytes", "logicalType": "decimal", "precision": 50, "scale": 1},
        [Decimal("-" + "9" * 49 + ".9")],
        [Decimal("-" + "9" * 49 + ".9")],
    ),
    (
        "decimal of 90 digits",
        {"type": "bytes", "logicalType": "decimal", "precision": 90, "scale": 1},
        [Decimal("-" + "9" * 89 + ".9")],
        ["-" + "9" * 89 + ".9"],
    ),
    (
        "uuid in text",
        {"type": "string", "logicalType": "uuid"},
        [uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)],
        [str(uuid.UUID(int=1)), str(uuid.UUID(int=2**128 - 1))],
    ),
    (
        "uuid in fixed",
        {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"},
        [uuid.UUID(int=1).bytes, uuid.UUID(int=2**128 - 1).bytes],
        [str(uuid.UUID(int=1)), str(uuid.UUID(int=2**128 - 1))],
    ),
    (
        "date",
        {"type": "int", "logicalType": "date"},
        [date(1970, 1, 1), date(1969, 12, 31), date(9999, 12, 31)],
        [date(1970, 1, 1), date(1969, 12, 31), date(9999, 12, 31)],
    ),
    (
        "time-millis",
        {"type": "int", "logicalType": "time-millis"},
        [time(0), time(23, 59, 59, 999_000)],
        [time(0), time(23, 59, 59, 999_000)],
    ),
    (
        "time-micros",
        {"type": "long", "logicalType": "time-micros"},
        [time(0), time(23, 59, 59, 999_999)],
        [time(0), time(23, 59, 59, 999_999)],
    ),
    *(
        (
            f"{prefix}timestamp-{unit}",
            {"type": "long", "logicalType": f"{prefix}timestamp-{unit}"},
            [datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=zone), datetime(2024, 2, 29, 1, 2, 3, 4000, zone)],
            [datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=zone), datetime(2024, 2, 29, 1, 2, 3, 4000, zone)],
        )
        for prefix, zone in (("", UTC), ("local-", None))
        for unit in ("millis", "micros")
    ),
    *(
        (
            f"{prefix}timestamp-nanos",
            {"type": "long", "logicalType": f"{prefix}timestamp-nanos"},
            [NANOS, -1],
            [NANOS, -1],
        )
        for prefix in ("", "local-")
    ),
    (
        "duration",
        {"type": "fixed", "name": "P", "size": 12, "logicalType": "duration"},
        [bytes(range(12)), b"\xff" * 12],
        [
            {"months": 0x03020100, "days": 0x07060504, "milliseconds": 0x0B0A0908},
            dict.fromkeys(("months", "days", "milliseconds"), 2**32 - 1),
        ],
    ),
]


@each_way
@pytest.mark.parametrize(
    ("schema", "values", "shown"), [each[1:] for each in SAMPLES], ids=[each[0] for each in SAMPLES]
)
def test_each_type_against_fastavro(schema: Any, values: list[Any], shown: list[Any], way: str) -> None:
    """fastavro's own values of a type, logical ones as Python has them: read as the column should show, written
    again to the same bytes."""
    node = record(("f", schema))
    codec = codec_of(node)
    bodies = framed(codec, [written(node, {"f": value}) for value in values])
    table = good(decode_by(way, codec, bodies), len(values))
    assert table.schema.equals(codec.arrow_schema)
    assert plain(table.column("f")) == shown
    assert codec.encode(table).values.equals(bodies)
    nullable = record(("f", ["null", schema])) if schema != "null" and not isinstance(schema, list) else node
    codec = codec_of(nullable)
    bodies = framed(codec, [written(nullable, {"f": value}) for value in [None, *values, None]])
    table = good(decode_by(way, codec, bodies), len(values) + 2)
    assert plain(table.column("f")) == [None, *shown, None]
    assert codec.encode(table).values.equals(bodies)


def plain(column: pa.ChunkedArray) -> list[Any]:
    """Python values; nanoseconds, which Python's times do not have, as integers."""
    is_nanos = pa.types.is_timestamp(column.type) and column.type.unit == "ns"
    return list((column.cast(pa.int64()) if is_nanos else column).to_pylist())


def test_samples_cover_every_logical_type() -> None:
    """Or the test above would prove less than it says; a big decimal is unknown to fastavro."""
    from headrace.contracts.avro_logical import UNDERLYING

    found = {each[1].get("logicalType") for each in SAMPLES if isinstance(each[1], dict)}
    assert found - {None} | {"big-decimal"} == set(UNDERLYING)


@each_way
@pytest.mark.parametrize(
    ("text", "unscaled", "scale"),
    [("12.34", "04d2", 2), ("-1", "ff", 0), ("0.001", "01", 3), ("1E+3", "01", -3), ("1" + "0" * 60, None, 0)],
)
def test_big_decimals_carry_their_own_scale(text: str, unscaled: str | None, scale: int, way: str) -> None:
    """As Java writes them: the unscaled number as bytes, then the scale, all inside bytes."""
    schema = record(("f", {"type": "bytes", "logicalType": "big-decimal"}))
    number = bytes.fromhex(unscaled) if unscaled else (10**60).to_bytes(26, "big", signed=True)
    inner = written("bytes", number) + written("int", scale)
    codec = codec_of(schema)
    values = framed(codec, [written("bytes", inner)])
    assert good(decode_by(way, codec, values), 1).column("f").to_pylist() == [text]
    assert codec.encode(pa.table({"f": [text]})).values.equals(values)


@pytest.mark.usefixtures("each_writer")
def test_decimals_take_as_few_bytes_as_in_java() -> None:
    """`BigInteger.toByteArray`: -128 is one byte (fastavro writes two), 128 needs two; both forms are read."""
    codec = codec_of(record(("f", {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2})))
    values = framed(codec, [b"\x02\x80", b"\x04\x00\x80"])
    table = pa.table({"f": [Decimal("-1.28"), Decimal("1.28")]})
    assert codec.encode(table).values.equals(values)
    assert codec.decode(values).table.equals(codec.decode(framed(codec, [b"\x04\xff\x80", b"\x06\0\0\x80"])).table)


@pytest.mark.usefixtures("each_writer")
def test_an_unknown_or_invalid_logical_type_leaves_the_type_below() -> None:
    """As the specification has it: a decimal without precision is bytes, a duration of 11 bytes a fixed."""
    schema = record(
        ("a", {"type": "bytes", "logicalType": "decimal"}),
        ("b", {"type": "fixed", "name": "P", "size": 11, "logicalType": "duration"}),
        ("c", {"type": "int", "logicalType": "timestamp-millis"}),
        ("d", {"type": "string", "logicalType": "colour"}),
    )
    row = {"a": b"\x01", "b": bytes(11), "c": 5, "d": "red"}
    codec = codec_of(schema)
    assert codec.arrow_schema.types == [pa.binary(), pa.binary(11), pa.int32(), pa.string()]
    assert codec.decode(codec.encode(pa.Table.from_pylist([row], codec.arrow_schema)).values).table.to_pylist() == [row]


# --- What random schemas do not have -------------------------------------------------------------------------------


LINKED = record(("value", "int"), ("next", ["null", "R"]))
TREE = record(("name", "string"), ("children", {"type": "array", "items": "R"}), ("by", {"type": "map", "values": "R"}))
MUTUAL = record(("b", ["null", record(("a", ["null", "R"]), ("x", "long"), name="B")]))


@each_way
@pytest.mark.parametrize(
    ("schema", "value", "shown"),
    [
        (LINKED, {"value": 1, "next": None}, {"value": 1, "next": None}),
        (
            LINKED,
            {"value": 1, "next": {"value": 2, "next": {"value": 3, "next": None}}},
            {"value": 1, "next": {"value": 2, "next": {"R": {"value": 3, "next": None}}}},
        ),
        (
            TREE,
            {"name": "é", "children": [{"name": "b", "children": [], "by": {}}], "by": {}},
            {"name": "é", "children": [{"name": "b", "children": [], "by": {}}], "by": []},
        ),
        (
            TREE,
            {"name": "", "children": [], "by": {"k": {"name": "b", "children": [], "by": {}}}},
            {"name": "", "children": [], "by": [("k", {"name": "b", "children": [], "by": {}})]},
        ),
        (
            MUTUAL,
            {"b": {"a": {"b": {"a": None, "x": 2}}, "x": 1}},
            {"b": {"a": {"b": {"B": {"a": None, "x": 2}}}, "x": 1}},
        ),
    ],
)
def test_a_type_inside_itself_is_avro_json_below(schema: Any, value: Any, shown: Any, way: str) -> None:
    """The outer value is columns, what lies below a reference to itself is Avro's JSON encoding; nothing is lost."""
    codec = codec_of(schema)
    values = framed(codec, [written(schema, value)])
    table = good(decode_by(way, codec, values), 1)
    assert parsed(table.to_pylist()[0]) == shown
    assert codec.encode(table).values.equals(values)


def parsed(value: Any) -> Any:
    """The value with its JSON texts read."""
    if isinstance(value, dict):
        return {key: parsed(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(parsed, value))
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


def test_recursion_beyond_the_limit_fails_its_row() -> None:
    """A list of 150 links is refused by name, one of 90 comes whole."""
    codec = codec_of(LINKED)
    short, long = ({"value": 0, "next": None} for _ in range(2))
    for _ in range(90):
        short = {"value": 0, "next": short}
    for _ in range(150):
        long = {"value": 0, "next": long}
    decoded = codec.decode(framed(codec, [written(LINKED, long), written(LINKED, short)]))
    assert [(each.row, each.code) for each in decoded.failed] == [(0, "decode.invalid")]
    assert "nested deeper" in decoded.failed[0].message
    assert decoded.rows.tolist() == [1]
    assert codec.encode(decoded.table).values[0].as_py()[wire.PREFIX_BYTES :] == written(LINKED, short)


@each_way
def test_arrays_in_several_blocks_with_sizes(way: str) -> None:
    """Blocks as Java's blocking encoder writes them, a negative count with the bytes of the block, are read."""
    codec = codec_of(record(("f", {"type": "array", "items": "int"}), ("g", {"type": "map", "values": "int"})))
    block = bytes([0x03, 0x04, 0x02, 0x04, 0x02, 0x06, 0x00])  # -2 items in 2 bytes: 1, 2; 1 item: 3; the end.
    pairs = bytes([0x01, 0x06, 0x02, 0x61, 0x02, 0x00])  # -1 pair in 3 bytes: a = 1; the end.
    table = good(decode_by(way, codec, framed(codec, [block + pairs])), 1)
    assert table.to_pylist() == [{"f": [1, 2, 3], "g": [("a", 1)]}]


@each_way
def test_long_arrays(way: str) -> None:
    """Arrays and maps of any length come whole, beside short ones."""
    schema = record(("f", {"type": "array", "items": "string"}), ("g", {"type": "map", "values": "long"}))
    some = [
        {"f": [str(n) for n in range(count)], "g": {str(n): n for n in range(count)}} for count in (0, 63, 64, 65, 3000)
    ]
    codec = codec_of(schema)
    values = framed(codec, [written(schema, each) for each in some])
    table = good(decode_by(way, codec, values), len(some))
    assert [{"f": row["f"], "g": dict(row["g"])} for row in table.to_pylist()] == some
    assert codec.encode(table).values.equals(values)


def test_columns_decodes_some_fields_in_the_order_asked() -> None:
    """Others are passed over, unread: text that is not UTF-8 among them is nobody's business."""
    schema = AvroSchema.parse(
        record(("a", "int"), ("b", "string"), ("c", {"type": "array", "items": "int"}), ("d", "long"))
    )
    registry = MemoryRegistry()
    whole = open_codec(schema, registry, "t-value")
    values = framed(whole, [b"\x02" + b"\x02\xff" + b"\x02\x06\x00" + b"\x08"] * 60)
    for way in WAYS:
        with read_by(way):
            codec = open_codec(schema, registry, "t-value", columns=["d", "a"])
            assert good(codec.decode(values), 60).to_pylist() == [{"d": 4, "a": 1}] * 60
    assert {each.code for each in whole.decode(values).failed} == {"decode.invalid_utf8"}


def test_columns_in_a_set_keep_the_order_of_the_schema() -> None:
    """A plan knows which columns it reads, not in which order; none at all still tells how many rows there are."""
    schema = AvroSchema.parse(record(("a", "int"), ("b", "string"), ("c", "long"), ("d", "long")))
    registry = MemoryRegistry()
    values = framed(open_codec(schema, registry, "t-value"), [b"\x02" + b"\x02b" + b"\x06" + b"\x08"] * 60)
    for wanted in (frozenset("dca"), frozenset("b"), frozenset("abcd")):
        expected = {"a": 1, "b": "b", "c": 3, "d": 4}
        for way in WAYS:
            with read_by(way):
                codec = open_codec(schema, registry, "t-value", columns=wanted)
                rows = good(codec.decode(values), 60).to_pylist()
            assert rows == [{name: expected[name] for name in sorted(wanted)}] * 60
    decoded = open_codec(schema, registry, "t-value", columns=frozenset()).decode(values)
    assert (decoded.table.num_columns, decoded.rows.tolist()) == (0, list(range(60)))


def test_empty_and_null_batches() -> None:
    """No values, and only null ones, give a table of no rows with all columns; nothing fails."""
    codec = codec_of(record(("a", "int"), ("b", ["null", TREE | {"name": "T", "fields": TREE["fields"][:1]}])))
    for values in (pa.array([], pa.large_binary()), pa.nulls(3, pa.large_binary()), pa.nulls(100, pa.large_binary())):
        decoded = codec.decode(values)
        assert decoded.table.schema.equals(codec.arrow_schema)
        assert (decoded.table.num_rows, decoded.rows.tolist(), list(decoded.failed)) == (0, [], [])
    encoded = codec.encode(codec.arrow_schema.empty_table())
    assert encoded.values.equals(pa.array([], pa.large_binary()))


def test_null_values_are_passed_over() -> None:
    """Tombstones are in neither the rows nor the failures, and the others keep their index."""
    codec = codec_of(record(("f", "int")))
    values = codec.encode(pa.table({"f": [1, 2]})).values
    mixed = pa.concat_arrays([pa.nulls(1, pa.large_binary()), values, pa.nulls(2, pa.large_binary())])
    decoded = codec.decode(mixed)
    assert decoded.table.to_pylist() == [{"f": 1}, {"f": 2}]
    assert decoded.rows.tolist() == [1, 2]
    assert not decoded.failed


@pytest.mark.usefixtures("each_writer")
def test_slices_and_chunks() -> None:
    """Columns cut from longer ones, and tables in chunks, are read and written as what they show."""
    schema = record(("f", ["null", "string"]), ("g", {"type": "array", "items": "int"}))
    codec = codec_of(schema)
    rows = [{"f": None if n % 3 else str(n), "g": list(range(n % 4))} for n in range(200)]
    table = pa.Table.from_pylist(rows, codec.arrow_schema)
    values = codec.encode(table).values
    assert values.slice(7, 100).equals(codec.encode(table.slice(7, 100)).values)
    assert good(codec.decode(values.slice(7, 100)), 100).to_pylist() == rows[7:107]
    chunked = pa.concat_tables([table.slice(0, 3), table.slice(3, 0), table.slice(3)])
    assert codec.encode(chunked).values.equals(values)


@pytest.mark.usefixtures("each_writer")
def test_registers_its_schema_with_the_first_encode() -> None:
    """Not before; a given id is used as it is."""
    registry, schema = MemoryRegistry(), AvroSchema.parse(record(("f", "int")))
    codec = open_codec(schema, registry, "t-value")
    codec.decode(pa.nulls(1, pa.large_binary()))
    assert registry.latest("t-value") is None
    prefix = codec.encode(pa.table({"f": [1]})).values[0].as_py()[: wire.PREFIX_BYTES]
    registered = registry.latest("t-value")
    assert registered is not None
    assert prefix == wire.prefix(registered.id)
    given = open_codec(schema, MemoryRegistry(), "t-value", schema_id=77)
    assert given.encode(pa.table({"f": [1]})).values[0].as_py() == wire.prefix(77) + b"\x02"


@pytest.mark.usefixtures("each_writer")
def test_arrow_types_other_than_the_fields_own() -> None:
    """Columns are cast where no value changes: wider or narrower numbers, large or view texts, dictionaries, other
    units of time."""
    assert round_trip("int", pa.array([1, -5], pa.int64())) == [1, -5]
    assert round_trip("int", pa.array([1.0], pa.float64())) == [1]
    assert round_trip("long", pa.array([1, 2], pa.uint8())) == [1, 2]
    assert round_trip("double", pa.array([1, 2], pa.int32())) == [1.0, 2.0]
    assert round_trip("float", pa.array([0.5], pa.float64())) == [0.5]
    for text in (pa.string(), pa.large_string(), pa.string_view()):
        assert round_trip("string", pa.array(["a", "é"], text)) == ["a", "é"]
    assert round_trip("string", pa.array(["a", "b", "a"]).dictionary_encode()) == ["a", "b", "a"]
    assert round_trip("bytes", pa.array([b"ab"], pa.binary(2))) == [b"ab"]
    assert round_trip({"type": "fixed", "name": "F", "size": 2}, pa.array([b"ab"])) == [b"ab"]
    assert round_trip({"type": "enum", "name": "E", "symbols": ["A", "B"]}, pa.array(["B"])) == ["B"]
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
    assert round_trip(decimal, pa.array([7], pa.int64())) == [Decimal("7.00")]
    assert round_trip(decimal, pa.array([Decimal("1.5")], pa.decimal256(40, 1))) == [Decimal("1.50")]
    instant = {"type": "long", "logicalType": "timestamp-millis"}
    column = pa.array([1_000_000], pa.timestamp("us", "Europe/Berlin"))
    assert round_trip(instant, column) == [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]
    assert round_trip({"type": "array", "items": "int"}, pa.array([[1]], pa.large_list(pa.int64()))) == [[1]]
    pairs = pa.array([[{"key": "k", "value": 1}]], pa.list_(pa.struct({"key": pa.string(), "value": pa.int32()})))
    assert round_trip({"type": "map", "values": "int"}, pairs) == [[("k", 1)]]


def test_arrow_schema_is_the_mapping_of_the_schema() -> None:
    """What `decode` gives has the types that the Arrow mapping promises, metadata too."""
    codec = codec_of(record(("f", "int")))
    assert codec.arrow_schema.equals(to_arrow(codec.schema), check_metadata=True)
