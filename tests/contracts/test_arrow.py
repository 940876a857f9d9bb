"""Avro schemas as Arrow and as Polars columns, and back, without loss: the types and the values in them."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import fastavro
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.contracts import wire
from headrace.contracts.arrow import (
    AVRO_SCHEMA_METADATA,
    TypeUnsupported,
    avro_to_dtype,
    dtype_to_avro,
    from_arrow,
    from_frame,
    from_polars,
    to_arrow,
    to_frame,
    to_polars,
)
from headrace.contracts.avro import AvroSchema
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.contracts.shape import NotARecord

RANDOM = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def schema_of(*fields: tuple[str, Any], name: str = "R") -> AvroSchema:
    return AvroSchema.parse(
        {"type": "record", "name": name, "fields": [{"name": each, "type": node} for each, node in fields]}
    )


def logical(base: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": base, "logicalType": kind, **more}


FIXED = {"type": "fixed", "name": "F", "size": 4}
ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
INNER = {"type": "record", "name": "In", "fields": [{"name": "x", "type": "int"}]}
DURATION = logical("fixed", "duration", name="P", size=12)
PARTS = ("months", "days", "milliseconds")

MAPPING: list[tuple[Any, pa.DataType, pl.DataType]] = [
    ("null", pa.null(), pl.Null()),
    ("boolean", pa.bool_(), pl.Boolean()),
    ("int", pa.int32(), pl.Int32()),
    ("long", pa.int64(), pl.Int64()),
    ("float", pa.float32(), pl.Float32()),
    ("double", pa.float64(), pl.Float64()),
    ("bytes", pa.binary(), pl.Binary()),
    ("string", pa.string(), pl.String()),
    (FIXED, pa.binary(4), pl.Binary()),
    (ENUM, pa.dictionary(pa.int32(), pa.string()), pl.Enum(["A", "B"])),
    (logical("bytes", "decimal", precision=38, scale=9), pa.decimal128(38, 9), pl.Decimal(38, 9)),
    (logical("fixed", "decimal", name="D", size=9, precision=20), pa.decimal128(20, 0), pl.Decimal(20, 0)),
    (logical("bytes", "decimal", precision=39, scale=9), pa.decimal256(39, 9), pl.String()),
    (logical("bytes", "decimal", precision=77, scale=9), pa.string(), pl.String()),
    (logical("bytes", "big-decimal"), pa.string(), pl.String()),
    (logical("string", "uuid"), pa.string(), pl.String()),
    (logical("fixed", "uuid", name="U", size=16), pa.string(), pl.String()),
    (logical("int", "date"), pa.date32(), pl.Date()),
    (logical("int", "time-millis"), pa.time32("ms"), pl.Time()),
    (logical("long", "time-micros"), pa.time64("us"), pl.Time()),
    (logical("long", "timestamp-millis"), pa.timestamp("ms", "UTC"), pl.Datetime("ms", "UTC")),
    (logical("long", "timestamp-micros"), pa.timestamp("us", "UTC"), pl.Datetime("us", "UTC")),
    (logical("long", "timestamp-nanos"), pa.timestamp("ns", "UTC"), pl.Datetime("ns", "UTC")),
    (logical("long", "local-timestamp-millis"), pa.timestamp("ms"), pl.Datetime("ms")),
    (logical("long", "local-timestamp-micros"), pa.timestamp("us"), pl.Datetime("us")),
    (logical("long", "local-timestamp-nanos"), pa.timestamp("ns"), pl.Datetime("ns")),
    (
        DURATION,
        pa.struct([pa.field(part, pa.uint32(), nullable=False) for part in PARTS]),
        pl.Struct(dict.fromkeys(PARTS, pl.UInt32())),
    ),
    (INNER, pa.struct([pa.field("x", pa.int32(), nullable=False)]), pl.Struct({"x": pl.Int32()})),
    ({"type": "array", "items": "int"}, pa.list_(pa.field("item", pa.int32(), nullable=False)), pl.List(pl.Int32())),
    (
        {"type": "array", "items": ["null", ENUM]},
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pl.List(pl.Enum(["A", "B"])),
    ),
    (
        {"type": "map", "values": "int"},
        pa.map_(pa.string(), pa.field("value", pa.int32(), nullable=False)),
        pl.List(pl.Struct({"key": pl.String(), "value": pl.Int32()})),
    ),
    (
        ["int", "n.F"],
        pa.struct([pa.field("int", pa.int32()), pa.field("n.F", pa.binary(4))]),
        pl.Struct({"int": pl.Int32(), "n.F": pl.Binary()}),
    ),
]
"""An Avro type, its Arrow type and its Polars type."""


@pytest.mark.parametrize(("node", "arrow", "dtype"), MAPPING, ids=[str(each[0]) for each in MAPPING])
def test_each_type_becomes_what_is_documented(node: Any, arrow: pa.DataType, dtype: pl.DataType) -> None:
    """In Arrow and Polars, required and nullable; and back to the very same Avro schema."""
    fields = [("n", {**FIXED, "name": "n.F"}), ("f", node)]  # For the union, whose branch is a full name.
    schema = schema_of(*fields)
    found = to_arrow(schema)
    assert found.field("f").type.equals(arrow)
    assert found.field("f").nullable == (node == "null")
    assert to_polars(schema)["f"] == dtype
    assert from_arrow(found) == schema
    if node == "null":
        return
    for branches in (["null", node], [node, "null"]) if not isinstance(node, list) else (["null", *node],):
        schema = schema_of(fields[0], ("f", branches))
        found = to_arrow(schema)
        assert found.field("f").type.equals(arrow)
        assert found.field("f").nullable
        assert to_polars(schema)["f"] == dtype
        assert from_arrow(found) == schema


def test_the_mapping_covers_every_logical_type() -> None:
    """Or the test above would prove less than it says."""
    from headrace.contracts.avro_logical import UNDERLYING

    assert {
        each[0]["logicalType"] for each in MAPPING if isinstance(each[0], dict) and "logicalType" in each[0]
    } == set(UNDERLYING)


def test_a_type_inside_itself_is_a_column_of_json() -> None:
    """The inner reference has no end as columns."""
    schema = schema_of(("next", ["null", "R"]), ("v", "int"))
    assert to_arrow(schema).field("next").type == pa.string()
    assert to_polars(schema) == {"next": pl.String(), "v": pl.Int32()}
    assert from_arrow(to_arrow(schema)) == schema


def test_only_records_have_columns() -> None:
    """Other types are refused by name."""
    for mapping in (to_arrow, to_polars):
        with pytest.raises(NotARecord, match="'array'"):
            mapping(AvroSchema.parse({"type": "array", "items": "int"}))


# --- Random schemas ------------------------------------------------------------------------------------------------


@RANDOM
@given(data=st.data())
def test_any_schema_survives_arrow(data: st.DataObject, avro_records: st.SearchStrategy[Any]) -> None:
    """By the metadata, through a file too; and without metadata there is always some schema of the same columns."""
    schema = AvroSchema.parse(data.draw(avro_records).node)
    arrow = to_arrow(schema)
    assert from_arrow(arrow) == schema
    stored = pa.ipc.read_schema(arrow.serialize())
    assert from_arrow(stored) == schema
    bare = from_arrow(arrow.remove_metadata(), name="Root")
    assert to_arrow(bare).names == arrow.names
    again = from_arrow(to_arrow(bare).remove_metadata(), name="Root")
    assert again == bare


@RANDOM
@given(data=st.data())
def test_any_values_survive_arrow_and_polars(data: st.DataObject, avro_records: st.SearchStrategy[Any]) -> None:
    """Avro to Arrow to a Polars frame of exactly the promised types, back to Arrow and to the same Avro bytes."""
    avro_type = data.draw(avro_records)
    pairs = data.draw(st.lists(avro_type.values, max_size=4))
    schema = AvroSchema.parse(avro_type.node)
    codec = open_codec(schema, MemoryRegistry(), "t-value", schema_id=1)
    codec._registry.register("t-value", schema)
    parsed = fastavro.parse_schema(avro_type.stripped, named_schemas={})
    bodies = []
    for raw, _ in pairs:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, raw)
        bodies.append(out.getvalue())
    values = wire.frame(pa.array(bodies, pa.large_binary()), 1)
    table = codec.decode(values).table
    assert table.num_rows == len(pairs)
    frame = to_frame(table, schema)
    assert dict(frame.schema) == to_polars(schema)
    back = codec.encode(from_frame(frame))
    assert not back.failed
    assert back.values.equals(values)


# --- Arrow without metadata ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrow", "node"),
    [
        (pa.int8(), "int"),
        (pa.uint16(), "int"),
        (pa.uint32(), "long"),
        (pa.uint64(), logical("bytes", "decimal", precision=20, scale=0)),
        (pa.float16(), "float"),
        (pa.large_string(), "string"),
        (pa.string_view(), "string"),
        (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.large_binary(), "bytes"),
        (pa.binary(3), {"type": "fixed", "name": "T_f", "size": 3}),
        (pa.decimal128(7, 2), logical("bytes", "decimal", precision=7, scale=2)),
        (pa.decimal256(50, 2), logical("bytes", "decimal", precision=50, scale=2)),
        (pa.time64("ns"), logical("long", "time-micros")),
        (pa.timestamp("us", "Europe/Berlin"), logical("long", "timestamp-micros")),
        (pa.timestamp("ns"), logical("long", "local-timestamp-nanos")),
        (pa.large_list(pa.int32()), {"type": "array", "items": ["null", "int"]}),
        (pa.list_(pa.field("item", pa.int32(), nullable=False), 3), {"type": "array", "items": "int"}),
        (pa.map_(pa.string(), pa.int64()), {"type": "map", "values": ["null", "long"]}),
        (
            pa.struct([pa.field("x", pa.int32(), nullable=False)]),
            {"type": "record", "name": "T_f", "fields": [{"name": "x", "type": "int"}]},
        ),
        (pa.null(), "null"),
    ],
)
def test_arrow_types_of_elsewhere(arrow: pa.DataType, node: Any) -> None:
    """Any table has an Avro schema, required and nullable, of the narrowest type that holds its values."""
    expected = AvroSchema.parse({"type": "record", "name": "T", "fields": [{"name": "f", "type": node}]})
    assert from_arrow(pa.schema([pa.field("f", arrow, nullable=node == "null")]), name="T") == expected
    if node != "null":
        found = from_arrow(pa.schema([pa.field("f", arrow)]), name="T")
        assert found.field("f").is_nullable
        assert found.field("f").has_default


@pytest.mark.parametrize(
    "arrow", [pa.month_day_nano_interval(), pa.duration("ms"), pa.decimal128(5, -2), pa.map_(pa.int32(), pa.int32())]
)
def test_types_that_avro_lacks_are_refused(arrow: pa.DataType) -> None:
    """By the column's path, never approximated; inside a struct too."""
    with pytest.raises(TypeUnsupported, match="T_f"):
        from_arrow(pa.schema([("f", arrow)]), name="T")
    with pytest.raises(TypeUnsupported, match="T_g_f"):
        from_arrow(pa.schema([("g", pa.struct([("f", arrow)]))]), name="T")


def test_metadata_counts_only_while_it_describes_the_columns() -> None:
    """A table that was renamed, cast or cut is described by its columns again."""
    schema = schema_of(("a", logical("string", "uuid")), ("b", "int"), name="n.Row")
    arrow = to_arrow(schema)
    assert arrow.metadata[AVRO_SCHEMA_METADATA].decode() == schema.text
    assert from_arrow(arrow) == schema
    for changed in (
        arrow.remove(1),
        arrow.set(1, pa.field("b", pa.int64(), nullable=False)),
        arrow.set(1, pa.field("b", pa.int32())),
        arrow.set(1, pa.field("c", pa.int32(), nullable=False)),
        arrow.append(pa.field("d", pa.int32())),
    ):
        found = from_arrow(changed, name="T")
        assert found.fullname == "T"
        assert [field.name for field in found.fields] == changed.names


# --- Polars --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "node"),
    [
        (pl.Int8(), "int"),
        (pl.UInt16(), "int"),
        (pl.UInt32(), "long"),
        (pl.UInt64(), logical("bytes", "decimal", precision=20, scale=0)),
        (pl.Int128(), logical("bytes", "decimal", precision=38, scale=0)),
        (pl.Float32(), "float"),
        (pl.Categorical(), "string"),
        (pl.String, "string"),
        (pl.Enum(["A", "B"]), {"type": "enum", "name": "T", "symbols": ["A", "B"]}),
        (pl.Enum(["not a name"]), "string"),
        (pl.Decimal(9, 2), logical("bytes", "decimal", precision=9, scale=2)),
        (pl.Date(), logical("int", "date")),
        (pl.Time(), logical("long", "time-micros")),
        (pl.Datetime("ns"), logical("long", "local-timestamp-nanos")),
        (pl.Datetime("ms", "Europe/Berlin"), logical("long", "timestamp-millis")),
        (pl.Array(pl.Int32(), 3), {"type": "array", "items": "int"}),
        (
            pl.Struct({"x": pl.Int32()}),
            {"type": "record", "name": "T", "fields": [{"name": "x", "type": "int"}]},
        ),
    ],
)
def test_polars_types_become_avro(dtype: Any, node: Any) -> None:
    """Each in the Avro type that holds all its values."""
    assert dtype_to_avro(dtype, nullable=False, path="T") == node
    assert dtype_to_avro(dtype, nullable=True, path="T")[0] == "null"


@pytest.mark.parametrize("dtype", [pl.Duration("ms"), pl.Object()])
def test_polars_types_that_avro_lacks_are_refused(dtype: pl.DataType) -> None:
    """By the column's path and the type's name."""
    with pytest.raises(TypeUnsupported, match="T_f"):
        from_polars({"f": dtype}, name="T")
    with pytest.raises(TypeUnsupported, match="T_f_x"):
        from_polars({"f": pl.Struct({"x": dtype})}, name="T")


def test_from_polars_keeps_what_like_says() -> None:
    """Columns that still have the Polars type of a field keep it whole; the others are made new, nullable."""
    like = AvroSchema.parse(
        {
            "type": "record",
            "name": "Row",
            "fields": [
                {"name": "id", "type": logical("string", "uuid"), "doc": "who", "unit": "none"},
                {"name": "n", "type": "int", "default": 3},
                {"name": "gone", "type": "int"},
            ],
        }
    )
    found = from_polars({"id": pl.String(), "n": pl.Int64(), "more": pl.Float64()}, name="Next", like=like)
    assert found.fullname == "Next"
    assert found.field("id") == like.field("id")
    assert found.field("n").type == ["null", "long"]
    assert found.field("more").type == ["null", "double"]
    assert found.field("more").has_default
    required = from_polars({"n": pl.Int64()}, name="Next", nullable=False)
    assert required.field("n").type == "long"
    assert from_polars(to_polars(like), name="Row", like=like) is like


def test_nested_names_are_names() -> None:
    """Columns of any name give types of valid names, each its own."""
    dtype = pl.Struct({"x": pl.Enum(["A"]), "y": pl.List(pl.Struct({"x": pl.Enum(["B"])}))})
    found = from_polars({"a": dtype, "b": dtype}, name="n.T")
    assert AvroSchema.parse(found.text) == found
    assert to_polars(found) == {"a": dtype, "b": dtype}


def test_avro_to_dtype_takes_a_type_alone() -> None:
    """As `dtype_to_avro` gives it."""
    assert avro_to_dtype(["null", ENUM]) == pl.Enum(["A", "B"])
    assert avro_to_dtype(dtype_to_avro(pl.List(pl.Date()), nullable=True, path="T")) == pl.List(pl.Date())


def test_values_in_a_frame_are_pythons() -> None:
    """What a user's expression sees: texts, times and decimals as such, pairs of a map, parts of a duration."""
    schema = schema_of(
        ("e", ENUM),
        ("d", logical("bytes", "decimal", precision=5, scale=2)),
        ("wide", logical("bytes", "decimal", precision=50, scale=2)),
        ("t", logical("int", "time-millis")),
        ("day", logical("int", "date")),
        ("at", logical("long", "timestamp-millis")),
        ("m", {"type": "map", "values": ENUM["name"]}),
        ("p", DURATION),
        ("u", ["null", "int", "string"]),
    )
    row = {
        "e": "B",
        "d": Decimal("1.25"),
        "wide": Decimal("-7.50"),
        "t": time(1, 2, 3, 4000),
        "day": date(2024, 2, 29),
        "at": datetime(2024, 1, 1, tzinfo=UTC),
        "m": [("k", "A")],
        "p": {"months": 1, "days": 2, "milliseconds": 3},
        "u": {"int": None, "string": "x"},
    }
    table = pa.Table.from_pylist([row, {**row, "u": None, "m": []}], to_arrow(schema))
    frame = to_frame(table, schema)
    assert frame.row(0, named=True) == {**row, "wide": "-7.50", "m": [{"key": "k", "value": "A"}]}
    assert frame.row(1, named=True)["u"] is None
    some = to_frame(table.select(["d", "e"]), schema)
    assert dict(some.schema) == {"d": pl.Decimal(5, 2), "e": pl.Enum(["A", "B"])}


def test_enums_become_frames_by_their_symbols_whatever_the_dictionary() -> None:
    """In the order of the schema or another, in several chunks, with nulls or without rows: the same values of the
    same type. A symbol that the schema does not have is refused, not lost."""
    schema = AvroSchema.parse(
        {
            "type": "record",
            "name": "R",
            "fields": [{"name": "e", "type": ["null", {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}]}],
        }
    )

    def column(symbols: list[str], indexes: list[int | None]) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(indexes, pa.int32()), pa.array(symbols, pa.string()))

    own, other = column(["A", "B", "C"], [2, None, 0]), column(["C", "A"], [0, None, 1])
    for chunks in ([own], [other], [own, other], [own, own], [own.slice(0, 0)], [column(["A", "B", "C"], [None] * 3)]):
        table = pa.table({"e": pa.chunked_array(chunks)})
        frame = to_frame(table, schema)
        assert dict(frame.schema) == to_polars(schema)
        assert frame["e"].to_list() == table.column("e").to_pylist()
    with pytest.raises(pl.exceptions.InvalidOperationError):
        to_frame(pa.table({"e": column(["A", "Z"], [0, 1])}), schema)
