"""A bad row fails alone, with a reason that has a stable code; the rows around it come."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contracts.ways import decode_by, each_way

from headrace.contracts import wire
from headrace.contracts.avro import AvroSchema
from headrace.contracts.codec import Decoded, FailedRow
from headrace.contracts.fastavro_codec import AvroCodec, open_codec
from headrace.contracts.registry import RegistryUnavailable
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.contracts.shape import NotARecord

ROWS = 120
"""More than the fast path needs, so that one bad row is found among rows read side by side."""


def codec_of(*fields: tuple[str, Any]) -> AvroCodec:
    node = {"type": "record", "name": "R", "fields": [{"name": name, "type": each} for name, each in fields]}
    return open_codec(AvroSchema.parse(node), MemoryRegistry(), "t-value")


def logical(base: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": base, "logicalType": kind, **more}


def among_good(way: str, codec: AvroCodec, bad: bytes, good: bytes, *, at: int, count: int) -> Decoded:
    values: list[bytes] = [good] * count
    values[at] = bad
    return decode_by(way, codec, pa.array(values, pa.large_binary()))


# --- Decoding ------------------------------------------------------------------------------------------------------

TEXT = codec_of(("f", "string"), ("n", "int"))
GOOD = TEXT.encode(pa.table({"f": ["abc"], "n": [7]})).values[0].as_py()
PREFIX = GOOD[: wire.PREFIX_BYTES]

BAD_VALUES = [
    ("empty", b"", "decode.framing"),
    ("four bytes", GOOD[:4], "decode.framing"),
    ("wrong magic byte", b"\x01" + GOOD[1:], "decode.framing"),
    ("json", b'{"f": "abc", "n": 7}', "decode.framing"),
    ("an id that no registry gives", b"\x00\xff\xff\xff\xff" + GOOD[5:], "decode.framing"),
    ("unknown schema id", wire.prefix(4711) + GOOD[5:], "decode.unknown_schema_id"),
    ("no body", PREFIX, "decode.truncated"),
    ("cut in the text", GOOD[:8], "decode.truncated"),
    ("cut in the number", PREFIX + b"\x02a\x80", "decode.truncated"),
    ("a length beyond the end", PREFIX + b"\x7eabc", "decode.truncated"),
    ("a length below zero", PREFIX + b"\x7fabc", "decode.invalid"),
    ("a length of exabytes", PREFIX + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"abc", "decode.truncated"),
    ("trailing bytes", GOOD + b"\x00", "decode.trailing_bytes"),
    ("not utf-8", PREFIX + b"\x04\xc3\x28" + b"\x02", "decode.invalid_utf8"),
    ("a number of eleven bytes", PREFIX + b"\x02a" + b"\x80" * 10 + b"\x01", "decode.invalid"),
    ("an int beyond 32 bits", PREFIX + b"\x02a" + b"\x80\x80\x80\x80\x20", "decode.invalid"),
]


@each_way
@pytest.mark.parametrize("count", [3, ROWS])
@pytest.mark.parametrize(("bad", "code"), [each[1:] for each in BAD_VALUES], ids=[each[0] for each in BAD_VALUES])
def test_one_bad_value_fails_alone(bad: bytes, code: str, count: int, way: str) -> None:
    """Whatever is wrong with a value, its code says what, and every other row of the batch is there."""
    at = count // 2
    decoded = among_good(way, TEXT, bad, GOOD, at=at, count=count)
    assert [(each.row, each.code) for each in decoded.failed] == [(at, code)]
    assert decoded.rows.tolist() == [row for row in range(count) if row != at]
    assert decoded.table.to_pylist() == [{"f": "abc", "n": 7}] * (count - 1)


BAD_BODIES = [
    ("boolean", "boolean", b"\x02", b"\x01", "decode.invalid"),
    ("enum", {"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\x04", b"\x02", "decode.invalid"),
    ("enum below zero", {"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\x01", b"\x02", "decode.invalid"),
    ("branch", ["null", "int"], b"\x04", b"\x02\x02", "decode.invalid"),
    ("fixed", {"type": "fixed", "name": "F", "size": 3}, b"ab", b"abc", "decode.truncated"),
    ("double", "double", b"1234567", b"12345678", "decode.truncated"),
    ("float", "float", b"123", b"1234", "decode.truncated"),
    ("negative length", "bytes", b"\x01", b"\x00", "decode.invalid"),
    ("array without end", {"type": "array", "items": "int"}, b"\x02\x02", b"\x02\x02\x00", "decode.truncated"),
    ("array of billions", {"type": "array", "items": "int"}, b"\xfe\xff\xff\xff\x0f\x00", b"\x00", "decode.truncated"),
    ("nulls by billions", {"type": "array", "items": "null"}, b"\xfe\xff\xff\xff\x0f\x00", b"\x00", "decode.invalid"),
    ("map key", {"type": "map", "values": "int"}, b"\x02\x02\xff\x02\x00", b"\x00", "decode.invalid_utf8"),
    ("time of day", logical("int", "time-millis"), b"\x01", b"\x00", "decode.invalid"),
    ("time after midnight", logical("long", "time-micros"), b"\x80\x80\xbb\xdd\x83\x05", b"\x00", "decode.invalid"),
    ("decimal", logical("bytes", "decimal", precision=2, scale=0), b"\x02\x64", b"\x02\x63", "decode.invalid"),
    ("uuid", logical("string", "uuid"), b"\x02a", b"\x48" + str(uuid.UUID(int=0)).encode(), "decode.invalid"),
    ("big decimal", logical("bytes", "big-decimal"), b"\x02\x04", b"\x06\x02\x01\x00", "decode.invalid"),
]


@each_way
@pytest.mark.parametrize("count", [3, ROWS])
@pytest.mark.parametrize(
    ("node", "bad", "good", "code"), [each[1:] for each in BAD_BODIES], ids=[each[0] for each in BAD_BODIES]
)
def test_one_bad_body_fails_alone(node: Any, bad: bytes, good: bytes, code: str, count: int, way: str) -> None:
    """The same for what each type refuses, by both ways of reading: nothing is allocated for lengths that lie."""
    codec = codec_of(("f", node))
    prefix = wire.prefix(codec._registry.register("t-value", codec.schema).id)
    decoded = among_good(way, codec, prefix + bad, prefix + good, at=1, count=count)
    assert [(each.row, each.code) for each in decoded.failed] == [(1, code)]
    assert decoded.table.num_rows == count - 1
    decoded.table.validate(full=True)


@each_way
def test_many_different_failures_in_one_batch_keep_their_rows(way: str) -> None:
    """Each bad row has its own reason, ascending; the good ones keep their order."""
    values: list[bytes | None] = []
    expected: list[tuple[int, str]] = []
    numbers = []
    for turn in range(20):
        for _, bad, code in BAD_VALUES:
            expected.append((len(values), code))
            good = TEXT.encode(pa.table({"f": ["x" * turn], "n": [len(values)]})).values[0].as_py()
            values += [bad, good, None]
            numbers.append(expected[-1][0])
    decoded = decode_by(way, TEXT, pa.array(values, pa.large_binary()))
    assert [(each.row, each.code) for each in decoded.failed] == expected
    assert decoded.table.column("n").to_pylist() == numbers
    assert decoded.rows.tolist() == [row + 1 for row in numbers]


def test_messages_show_no_value() -> None:
    """A record may hold secrets; what is said about it does not."""
    codec = codec_of(("f", logical("string", "uuid")), ("g", "string"))
    prefix = wire.prefix(codec._registry.register("t-value", codec.schema).id)
    bad = [prefix + b"\x0ehunter2", prefix + b"\x0ehunter2\x00", prefix + b"\x0ehunter2hunter2"]
    for each in codec.decode(pa.array(bad, pa.large_binary())).failed:
        assert "hunter2" not in each.message
    encoded = codec.encode(pa.table({"f": ["hunter2"], "g": ["hunter2"]}))
    assert ["hunter2" in each.message for each in encoded.failed] == [False]


def test_a_registry_that_is_away_raises() -> None:
    """It is no fault of the rows: the same call is made again later, and then all of them come."""

    class Away(MemoryRegistry):
        is_away = True

        def by_id(self, schema_id: int) -> AvroSchema:
            if self.is_away:
                raise RegistryUnavailable("no answer")
            return super().by_id(schema_id)

    registry = Away()
    codec = open_codec(TEXT.schema, registry, "t-value")
    values = codec.encode(pa.table({"f": ["a"], "n": [1]})).values
    with pytest.raises(RegistryUnavailable):
        codec.decode(values)
    registry.is_away = False
    assert codec.decode(values).table.to_pylist() == [{"f": "a", "n": 1}]


def test_only_records_have_columns() -> None:
    """A codec of another type is refused when it is made, with the next step."""
    with pytest.raises(NotARecord, match="wrap the type"):
        open_codec(AvroSchema.parse("int"), MemoryRegistry(), "t-value")


def test_a_writer_that_is_no_record_fails_its_rows() -> None:
    """Somebody else's primitive in the topic is a bad row, not a crash."""
    registry = MemoryRegistry()
    registered = registry.register("other", AvroSchema.parse("string"))
    codec = open_codec(TEXT.schema, registry, "t-value")
    decoded = codec.decode(pa.array([wire.prefix(registered.id) + b"\x02a"], pa.large_binary()))
    assert [each.code for each in decoded.failed] == ["decode.schema_resolution"]
    assert "not a record" in decoded.failed[0].message


# --- Encoding ------------------------------------------------------------------------------------------------------

ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
INNER = {"type": "record", "name": "In", "fields": [{"name": "x", "type": "int"}]}
LINKED = {"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}
CENTS = logical("bytes", "decimal", precision=4, scale=2)
WIDE = logical("bytes", "decimal", precision=50, scale=2)
TEXT_DECIMAL = logical("bytes", "decimal", precision=80, scale=2)
MILLIS = logical("long", "timestamp-millis")
DURATION = logical("fixed", "duration", name="P", size=12)
OUT = "encode.out_of_range"

REFUSED: list[tuple[str, Any, pa.Array, str, str]] = [
    # name, Avro type, column of a good, a bad and a good value, code, place in the message
    ("null", "string", pa.array(["a", None, "b"]), "encode.null", "f:"),
    ("null of a dictionary", "string", pa.array(["a", None, "b"]).dictionary_encode(), "encode.null", "f:"),
    ("null record", INNER, pa.array([{"x": 1}, None, {"x": 1}]), "encode.null", "f:"),
    ("null in a record", INNER, pa.array([{"x": 1}, {"x": None}, {"x": 1}]), "encode.null", "f.x:"),
    ("null item", {"type": "array", "items": "int"}, pa.array([[], [1, None], [2]]), "encode.null", "f[]:"),
    (
        "null value of a map",
        {"type": "map", "values": "int"},
        pa.array([[], [("k", None)], [("k", 1)]], pa.map_(pa.string(), pa.int32())),
        "encode.null",
        "f{}:",
    ),
    ("value of null", "null", pa.array([None, 1, None]), "encode.type", "f:"),
    ("int", "int", pa.array([1, 2**31, 2]), OUT, "f:"),
    ("int of a double", "int", pa.array([1.0, 1.5, 2.0]), OUT, "f:"),
    ("long", "long", pa.array([1, 2**63, 2], pa.uint64()), OUT, "f:"),
    ("long of a decimal", "long", pa.array([Decimal("1.0"), Decimal("0.5"), Decimal("2.0")]), OUT, "f:"),
    ("double of a long", "double", pa.array([1, 2**53 + 1, 2]), OUT, "f:"),
    ("float", "float", pa.array([0.5, 0.1, float("nan")]), OUT, "f:"),
    ("item of an array", {"type": "array", "items": "int"}, pa.array([[], [1, 2**31], [2]]), OUT, "f[]:"),
    ("enum", ENUM, pa.array(["A", "C", "B"]), OUT, "f:"),
    ("enum of a dictionary", ENUM, pa.array(["A", "C", "B"]).dictionary_encode(), OUT, "f:"),
    ("nullable enum", ["null", ENUM], pa.array([None, "C", "B"]), OUT, "f:"),
    ("fixed", {"type": "fixed", "name": "F", "size": 2}, pa.array([b"ab", b"abc", b"cd"]), OUT, "f:"),
    ("uuid", logical("string", "uuid"), pa.array([str(uuid.UUID(int=1)), "x", str(uuid.UUID(int=2))]), OUT, "f:"),
    (
        "uuid in fixed",
        logical("fixed", "uuid", name="U", size=16),
        pa.array([str(uuid.UUID(int=1)), "x", str(uuid.UUID(int=2))]),
        OUT,
        "f:",
    ),
    ("decimal too large", CENTS, pa.array([Decimal("99.99"), Decimal("100.00"), Decimal("-99.99")]), OUT, "f:"),
    ("decimal too fine", CENTS, pa.array([Decimal("0.010"), Decimal("0.001"), Decimal("1.000")]), OUT, "f:"),
    ("decimal of an int", CENTS, pa.array([99, 100, -99]), OUT, "f:"),
    ("wide decimal of text", WIDE, pa.array(["1.5", "1.005", "-9"]), OUT, "f:"),
    ("decimal text", TEXT_DECIMAL, pa.array(["1.5", "abc", "-9.99"]), OUT, "f:"),
    ("decimal text too large", TEXT_DECIMAL, pa.array(["1.5", "9" * 79, "0"]), OUT, "f:"),
    ("decimal infinity", TEXT_DECIMAL, pa.array(["1.5", "Infinity", "0"]), OUT, "f:"),
    ("big decimal", logical("bytes", "big-decimal"), pa.array(["1.5", "NaN", "1E+9"]), OUT, "f:"),
    ("big decimal's scale", logical("bytes", "big-decimal"), pa.array(["1.5", "1E-3000000000", "0"]), OUT, "f:"),
    ("time of day", logical("int", "time-millis"), pa.array([0, 86_400_000, 1], pa.time32("ms")), OUT, "f:"),
    ("time too fine", logical("int", "time-millis"), pa.array([0, 1, 1000], pa.time64("us")), OUT, "f:"),
    ("instant too fine", MILLIS, pa.array([0, 1, 1000], pa.timestamp("us", "UTC")), OUT, "f:"),
    (
        "instant too far",
        logical("long", "timestamp-nanos"),
        pa.array([0, 2**62, 1], pa.timestamp("s", "UTC")),
        OUT,
        "f:",
    ),
    ("day with hours", logical("int", "date"), pa.array([0, 1, 86_400_000], pa.date64()), OUT, "f:"),
    (
        "duration",
        DURATION,
        pa.array([{"months": months, "days": 0, "milliseconds": 0} for months in (0, -1, 1)]),
        OUT,
        "f:",
    ),
    ("json", LINKED, pa.array([{"next": None}, {"next": "{"}, {"next": '{"next":null}'}]), OUT, "f.next:"),
    ("json of another type", LINKED, pa.array([{"next": None}, {"next": "3"}, {"next": None}]), OUT, "f.next:"),
    (
        "union of two",
        ["int", "string"],
        pa.array([{"int": 1}, {"int": 1, "string": "a"}, {"string": "b"}]),
        "encode.union",
        "f:",
    ),
    ("union of none", ["int", "string"], pa.array([{"int": 1}, {}, {"string": "b"}]), "encode.union", "f:"),
    ("null union", ["int", "string"], pa.array([{"int": 1}, None, {"string": "b"}]), "encode.null", "f:"),
    ("branch of a union", ["int", ENUM], pa.array([{"int": 1}, {"E": "C"}, {"E": "B"}]), OUT, "f.E:"),
]


@pytest.mark.usefixtures("each_writer")
@pytest.mark.parametrize(
    ("node", "column", "code", "place"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED]
)
def test_a_value_that_does_not_fit_fails_its_row(node: Any, column: pa.Array, code: str, place: str) -> None:
    """Never a changed value: the row has a code and the path of the field, its value is null, the others are
    written as if it were not there."""
    codec = codec_of(("f", node))
    encoded = codec.encode(pa.table({"f": column}))
    assert [(each.row, each.code) for each in encoded.failed] == [(1, code)]
    assert encoded.failed[0].message.startswith(place)
    assert encoded.values.is_valid().to_pylist() == [True, False, True]
    alone = codec.encode(pa.table({"f": column.take(pa.array([0, 2]))}))
    assert not alone.failed
    assert encoded.values.drop_null().equals(alone.values)
    decoded = codec.decode(encoded.values)
    assert (decoded.rows.tolist(), list(decoded.failed)) == ([0, 2], [])


@pytest.mark.usefixtures("each_writer")
@pytest.mark.parametrize(
    ("node", "column"),
    [
        ("string", pa.array([1, 2])),
        ("string", pa.array([b"a", b"b"])),
        ("bytes", pa.array(["a", "b"])),
        ("int", pa.array(["1", "2"])),
        ("boolean", pa.array([1, 0])),
        (CENTS, pa.array([1.5, 2.5])),
        (CENTS, pa.array(["1.5", "2"])),
        (MILLIS, pa.array([1, 2])),
        (MILLIS, pa.array([1, 2], pa.timestamp("ms"))),
        (logical("long", "local-timestamp-millis"), pa.array([1, 2], pa.timestamp("ms", "UTC"))),
        ({"type": "array", "items": "int"}, pa.array([1, 2])),
        ({"type": "map", "values": "int"}, pa.array([[1], [2]])),
        (INNER, pa.array([1, 2])),
        (["int", "string"], pa.array([1, 2])),
    ],
)
def test_a_column_of_another_meaning_fails_every_row(node: Any, column: pa.Array) -> None:
    """What could only be guessed (text as a number, an instant from a time without zone) is refused by name."""
    encoded = codec_of(("f", node)).encode(pa.table({"f": column}))
    assert [(each.row, each.code) for each in encoded.failed] == [(0, "encode.type"), (1, "encode.type")]
    assert str(column.type) in encoded.failed[0].message
    assert encoded.values.null_count == 2


@pytest.mark.usefixtures("each_writer")
def test_missing_and_extra_columns() -> None:
    """Extra columns are ignored; a missing one takes its default, and without one fails every row by name."""
    node = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": ["null", "int"], "default": None}],
    }
    codec = open_codec(AvroSchema.parse(node), MemoryRegistry(), "t-value")
    table = pa.table({"z": ["x", "y"], "a": [1, 2]})
    assert codec.decode(codec.encode(table).values).table.to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": None}]
    encoded = codec.encode(table.select(["z"]))
    assert [(each.row, each.code) for each in encoded.failed] == [
        (0, "encode.missing_column"),
        (1, "encode.missing_column"),
    ]
    assert encoded.failed[0].message.startswith("a:")
    nullable = codec_of(("a", ["null", "int"]))
    assert [each.code for each in nullable.encode(table.select(["z"])).failed] == ["encode.missing_column"] * 2


@pytest.mark.usefixtures("each_writer")
def test_a_row_that_fails_twice_is_told_once() -> None:
    """The first reason found is kept, and the columns of other rows are not disturbed."""
    codec = codec_of(("a", "int"), ("b", "string"))
    encoded = codec.encode(pa.table({"a": [1, None, 2**31, 4], "b": ["x", None, "y", None]}))
    assert [(each.row, each.code) for each in encoded.failed] == [(1, "encode.null"), (2, OUT), (3, "encode.null")]
    assert [each.message.split(":")[0] for each in encoded.failed] == ["a", "a", "b"]
    assert codec.decode(encoded.values).table.to_pylist() == [{"a": 1, "b": "x"}]


@pytest.mark.usefixtures("each_writer")
def test_bad_rows_among_many() -> None:
    """Every hundredth row of ten thousand fails; the bytes of the others are those of a batch without them."""
    codec = codec_of(("f", CENTS), ("s", ["null", "string"]))
    count = 10_000
    bad = np.arange(0, count, 100)
    numbers = [Decimal(10**6) if row % 100 == 0 else Decimal(row % 9999) / 100 for row in range(count)]
    table = pa.table(
        {"f": pa.array(numbers, pa.decimal128(12, 2)), "s": [str(row) if row % 3 else None for row in range(count)]}
    )
    encoded = codec.encode(table)
    assert [each.row for each in encoded.failed] == bad.tolist()
    good = np.setdiff1d(np.arange(count), bad)
    assert encoded.values.drop_null().equals(codec.encode(table.take(pa.array(good))).values)


@pytest.mark.usefixtures("each_writer")
def test_failed_rows_are_sorted_and_plain() -> None:
    """`FailedRow`s are tuples of an int and two texts, ready for a dead letter."""
    failed: Sequence[FailedRow] = codec_of(("f", "int")).encode(pa.table({"f": ["x", "y"]})).failed
    assert [type(part) for each in failed for part in each] == [int, str, str] * 2
    assert list(failed) == sorted(failed)
