"""Both writers, the compiled one and the one in Python, give the same bytes, the same failed rows, the same words."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contracts.any_table import any_table
from tests.contracts.test_codec import SAMPLES, record
from tests.contracts.test_codec_failures import REFUSED
from tests.contracts.ways import needs_native

from headrace.contracts import fastavro_codec
from headrace.contracts.avro import AvroSchema
from headrace.contracts.binary.column_writer import ColumnWriter
from headrace.contracts.binary.native_writer import NativeWriter, RecordWriter, open_writer
from headrace.contracts.codec import Columns, Encoded
from headrace.contracts.contract import Contract, KeyEncoding
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.key import StringKeyCodec
from headrace.contracts.polars_types import from_frame
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.native import native

PREFIX = b"\0\0\0\0\x07"
STRING = AvroSchema.parse(record(("f", "string")))
NULLABLE = AvroSchema.parse(record(("f", ["null", "string"])))
MAP = AvroSchema.parse(record(("f", {"type": "map", "values": "int"})))


@pytest.fixture(params=["python", pytest.param("native", marks=needs_native)])
def open_way(request: pytest.FixtureRequest) -> Any:
    """Makes a writer of either kind."""
    return lambda schema: open_writer(native if request.param == "native" else None, schema)


def body(schema: AvroSchema, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema.definition, named_schemas={}), value)
    return out.getvalue()


def bodies(writer: RecordWriter, columns: Columns) -> list[bytes | None]:
    return list(writer.encode(columns, b"").values.to_pylist())


def same(schema: AvroSchema, table: pa.Table, columns: Columns | None = None) -> Encoded:
    """What both writers give; `columns` is the table in another form, for the compiled one."""
    assert native is not None
    expected = ColumnWriter(schema).encode(table, PREFIX)
    found = NativeWriter(native, schema).encode(table if columns is None else columns, PREFIX)
    found.values.validate(full=True)
    assert list(found.failed) == list(expected.failed)
    assert found.values.equals(expected.values)
    return found


# --- One against the other -----------------------------------------------------------------------------------------


@needs_native
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_random_tables_of_random_schemas(data: st.DataObject, avro_records: st.SearchStrategy[Any]) -> None:
    """Whatever types the columns have, whatever does not fit in them; also as a Polars frame, where it takes them."""
    schema = AvroSchema.parse(data.draw(avro_records).node)
    table = any_table(schema, data.draw(st.integers(0, 2**32)))
    same(schema, table)
    if "decimal256" in str(table.schema):  # Polars panics at them.
        return
    try:
        frame = pl.DataFrame(pl.from_arrow(table))
        again = from_frame(frame)
    except (pl.exceptions.PolarsError, pa.ArrowException, ValueError, TypeError):
        return
    same(schema, again, frame)


TEXT_TYPES = [
    "string",
    "int",
    "long",
    {"type": "enum", "name": "E", "symbols": ["A", "B", "a"]},
    {"type": "string", "logicalType": "uuid"},
    {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"},
]


@needs_native
@pytest.mark.parametrize("node", TEXT_TYPES, ids=["string", "int", "long", "enum", "uuid", "uuid in fixed"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), is_nullable=st.booleans())
def test_random_keys_as_text(node: Any, seed: int, is_nullable: bool) -> None:
    """Texts of keys from columns of any type: those that Python gives, and its failures."""
    schema = AvroSchema.parse(record(("f", ["null", node] if is_nullable else node)))
    contract = Contract("t", schema, key=("f",), key_encoding=KeyEncoding.STRING)
    codec = StringKeyCodec(schema, contract)
    assert codec._native is not None
    table = any_table(schema, seed)
    expected, found = codec._encode_in_python(table), codec.encode(table)
    assert list(found.failed) == list(expected.failed)
    assert found.values.equals(expected.values)


@needs_native
@pytest.mark.parametrize(("node", "column"), [each[1:3] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_each_value_that_does_not_fit(node: Any, column: pa.Array) -> None:
    """Every kind of misfit, alone and beside a column with misfits of its own."""
    schema = AvroSchema.parse(record(("f", node), ("g", "int")))
    assert len(same(schema, pa.table({"f": column, "g": pa.array([1, 2, 3])})).failed) == 1
    assert len(same(schema, pa.table({"f": column, "g": pa.array([1, 2, 2**31])})).failed) == 2
    assert len(same(schema, pa.table({"f": column})).failed) == 3


@needs_native
@pytest.mark.parametrize(("node", "values"), [each[1:3] for each in SAMPLES], ids=[each[0] for each in SAMPLES])
@pytest.mark.parametrize("framing", ["prefix", "header"])
def test_each_type(node: Any, values: list[Any], framing: Any) -> None:
    """The columns that decoding gives, in both framings; the bytes are those of fastavro."""
    schema = AvroSchema.parse(record(("f", node)))
    codec = open_codec(schema, MemoryRegistry(), "t-value", schema_id=7)
    given = [PREFIX + body(schema, {"f": value}) for value in values]
    table = codec.decode(pa.array(given, pa.large_binary())).table if codec._register().id == 7 else None
    if table is None:  # The id that this registry gives.
        given = [b"\0" + codec._register().id.to_bytes(4, "big") + each[5:] for each in given]
        table = codec.decode(pa.array(given, pa.large_binary())).table
    same(schema, table)
    out = open_codec(schema, MemoryRegistry(), "t-value", framing=framing)
    found = out.encode(table).values.to_pylist()
    assert [each[5 if framing == "prefix" else 0 :] for each in found] == [each[5:] for each in given]


@needs_native
def test_columns_that_only_python_writes_stand_between_the_others() -> None:
    """Texts of another notation, at the top and deep inside: their bytes take their place, their misfits fail."""
    big = {"type": "bytes", "logicalType": "big-decimal"}
    inner = {"type": "array", "items": {"type": "record", "name": "In", "fields": [{"name": "x", "type": big}]}}
    schema = AvroSchema.parse(record(("a", "int"), ("b", big), ("c", "string"), ("d", inner)))
    items = [[{"x": "1.5"}], [], [{"x": "1"}, {"x": "?"}], [{"x": "2"}]]
    columns = {"d": items, "a": [1, 2, 3, None], "b": ["1", "NaN", "1E+3", "2"], "c": ["x", "y", "z", "w"]}
    assert [each.row for each in same(schema, pa.table(columns)).failed] == [1, 2, 3]
    frame = pl.DataFrame(columns)
    assert [each.row for each in same(schema, from_frame(frame), frame).failed] == [1, 2, 3]


def test_a_null_record_whose_fields_take_no_nulls(open_way: Any) -> None:
    """As decoding gives it, beside a part that only Python writes: no column without views is made another."""
    wide = {"type": "map", "values": {"type": "bytes", "logicalType": "decimal", "precision": 80, "scale": 0}}
    inner = {"type": "record", "name": "In", "fields": [{"name": "x", "type": "boolean"}]}
    schema = AvroSchema.parse(record(("f", [inner, wide, "null"])))
    codec = open_codec(schema, MemoryRegistry(), "t-value")
    prefix = b"\0" + codec._register().id.to_bytes(4, "big")
    values = [prefix + body(schema, {"f": value}) for value in (None, {"x": True})]
    table = codec.decode(pa.array(values, pa.large_binary())).table
    assert open_way(schema).encode(table, prefix).values.to_pylist() == values


@needs_native
def test_a_column_that_polars_cannot_hand_over() -> None:
    """Polars has 128-bit integers of its own, which no table has: the frame goes the way of a table."""
    schema = AvroSchema.parse(record(("f", {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 0})))
    frame = pl.DataFrame({"f": pl.Series([1, -(10**29)], dtype=pl.Int128)})
    assert not same(schema, from_frame(frame), frame).failed


@needs_native
def test_the_codec_uses_the_compiled_writer_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests of the codec would run on one way only."""
    codec = open_codec(STRING, MemoryRegistry(), "t-value")
    assert isinstance(codec._writer, NativeWriter)
    monkeypatch.setattr(fastavro_codec, "native", None)
    assert isinstance(open_codec(STRING, MemoryRegistry(), "t-value")._writer, ColumnWriter)


# --- Both ways, form by form ---------------------------------------------------------------------------------------


def test_slices_chunks_and_frames(open_way: Any) -> None:
    """Rows are the same wherever they lie in memory: sliced at odd places, in chunks that do not agree, in a frame."""
    schema = AvroSchema.parse(record(("f", ["null", "string"]), ("g", "int")))
    texts = [None if n % 3 == 0 else f"text {n}" * (n % 4) for n in range(40)]
    expected = [body(schema, {"f": text, "g": n}) for n, text in enumerate(texts)]
    table = pa.table({"f": texts, "g": pa.array(range(40), pa.int32())})
    for start in range(18):
        assert bodies(open_way(schema), table.slice(start, 17)) == expected[start : start + 17]
    f, g = table.column("f"), table.column("g")
    chunked = pa.table(
        {
            "f": pa.chunked_array([f.chunk(0)[:3], f.chunk(0)[3:]]),
            "g": pa.chunked_array([g.chunk(0)[:9], g.chunk(0)[9:]]),
        }
    )
    assert bodies(open_way(schema), chunked) == expected
    frame = pl.DataFrame(pl.from_arrow(table))
    assert bodies(open_way(schema), frame) == expected
    assert bodies(open_way(schema), frame.slice(5, 11)) == expected[5:16]
    assert bodies(open_way(schema), pl.concat([frame, frame], rechunk=False)) == expected * 2


def test_a_slice_of_maps_has_its_own_entries(open_way: Any) -> None:
    """Offsets of a map need not begin at 0, nor end where its entries do."""
    maps = pa.array([[("a", 1)], [("b", 2), ("c", 3)], [], [("d", 4)]], pa.map_(pa.string(), pa.int32()))
    expected = [body(MAP, {"f": dict(each)}) for each in maps.to_pylist()]
    for start in range(4):
        for length in range(5 - start):
            found = bodies(open_way(MAP), pa.table({"f": maps.slice(start, length)}))
            assert found == expected[start : start + length]


@pytest.mark.parametrize("keys", [pa.nulls(2), pa.array([None, "k"]), pa.array([1, 2])], ids=["null", "one", "numbers"])
def test_a_map_without_text_as_keys_fails_its_row(open_way: Any, keys: pa.Array) -> None:
    """Null keys and keys of another type are misfits like any other, even where no key is there at all."""
    entries = pa.StructArray.from_arrays([keys, pa.array([1, 2], pa.int32())], names=["key", "value"])
    table = pa.table({"f": pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), entries)})
    encoded = open_way(MAP).encode(table, b"")
    assert [each.row for each in encoded.failed] == [0]
    assert encoded.values.to_pylist() == [None]


@pytest.mark.parametrize("view", [pa.string_view(), pa.large_string(), pa.string()])
def test_texts_of_every_length_in_every_form(open_way: Any, view: pa.DataType) -> None:
    """Views keep short texts in themselves and long ones elsewhere; nulls among them own nothing."""
    texts = [None, *("ö" * n for n in range(20)), "x" * 100_000, None, ""]
    expected = [body(NULLABLE, {"f": text}) for text in texts]
    column = pa.array(texts, view)
    assert bodies(open_way(NULLABLE), pa.table({"f": column})) == expected
    assert bodies(open_way(NULLABLE), pa.table({"f": column.slice(3, 19)})) == expected[3:22]


def test_a_null_in_a_dictionary_is_a_null(open_way: Any) -> None:
    """Whether the index is null or the entry it points to."""
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2], pa.int8()), pa.array(["a", None, "a"]))
    expected = [body(NULLABLE, {"f": text}) for text in ("a", None, None, "a")]
    assert bodies(open_way(NULLABLE), pa.table({"f": column})) == expected
    assert bodies(open_way(NULLABLE), pa.table({"f": column.slice(1, 1)})) == expected[1:2]
    assert [each.row for each in open_way(STRING).encode(pa.table({"f": column}), b"").failed] == [1, 2]


def test_no_rows_and_no_columns(open_way: Any) -> None:
    """An empty table has no values; a record without fields is its prefix, as often as there are rows."""
    empty = open_way(STRING).encode(pa.table({"f": pa.array([], pa.string())}), PREFIX)
    assert (len(empty.values), empty.failed) == (0, [])
    assert len(open_way(STRING).encode(pa.table({"f": pa.chunked_array([], pa.string())}), PREFIX).values) == 0
    nothing = AvroSchema.parse(record())
    assert open_way(nothing).encode(pa.table({"z": [1, 2]}), PREFIX).values.to_pylist() == [PREFIX, PREFIX]


def test_long_numbers_at_every_size(open_way: Any) -> None:
    """One to ten bytes, at both sides of each step."""
    schema = AvroSchema.parse(record(("f", "long")))
    steps = [2 ** (7 * size - 1) for size in range(1, 10)]
    values = [0, *(sign * step + at for step in steps for sign in (1, -1) for at in (-1, 0, 1)), 2**63 - 1, -(2**63)]
    expected = [body(schema, {"f": value}) for value in values]
    assert bodies(open_way(schema), pa.table({"f": pa.array(values, pa.int64())})) == expected


def test_fastavro_reads_what_was_written(open_way: Any) -> None:
    """The whole of a batch, with nested values."""
    inner = {"type": "record", "name": "In", "fields": [{"name": "x", "type": "int"}, {"name": "y", "type": "string"}]}
    schema = AvroSchema.parse(record(("a", {"type": "array", "items": inner}), ("m", {"type": "map", "values": "In"})))
    rows = [
        {"a": [{"x": n, "y": str(n)}] * (n % 3), "m": {f"k{key}": {"x": key, "y": "v"} for key in range(n % 4)}}
        for n in range(50)
    ]
    maps = pa.array(
        [list(row["m"].items()) for row in rows], pa.map_(pa.string(), pa.struct({"x": pa.int32(), "y": pa.string()}))
    )
    table = pa.table({"a": [row["a"] for row in rows], "m": maps})
    parsed = fastavro.parse_schema(schema.definition, named_schemas={})
    found = [
        fastavro.schemaless_reader(io.BytesIO(each or b""), parsed, None) for each in bodies(open_way(schema), table)
    ]
    assert found == rows


# --- What no table of ours holds -----------------------------------------------------------------------------------


def broken(arrow: pa.DataType, length: int, *buffers: Any) -> pa.Table:
    """A table whose offsets lead elsewhere; only its first and last ones are checked before."""
    made = [None if each is None else pa.py_buffer(np.array(each).tobytes()) for each in buffers]
    return pa.table({"f": pa.Array.from_buffers(arrow, length, made)})


BROKEN = {  # Made in the test only: pyarrow itself follows them, to show an argument of a test that fails.
    "offsets": lambda: broken(pa.string(), 3, None, np.array([0, 900, 1, 3], np.int32), np.zeros(3, np.uint8)),
    "large offsets": lambda: broken(
        pa.large_string(), 3, None, np.array([0, -5, 2**62, 3], np.int64), np.zeros(3, np.uint8)
    ),
    "view of no buffer": lambda: broken(pa.string_view(), 1, None, np.array([50, 0, 7, 2**30], np.int32)),
    "view of negative size": lambda: broken(pa.string_view(), 1, None, np.array([-1, 0, 0, 0], np.int32)),
}


@needs_native
@pytest.mark.parametrize("name", BROKEN)
def test_offsets_that_lead_elsewhere_are_not_followed(name: str) -> None:
    """The row is told to be bad; nothing outside of the column is read, and nothing panics."""
    assert native is not None
    writer = native.RecordWriter(_description(STRING))
    table = BROKEN[name]()
    _, offsets, failed = writer.write(table, PREFIX, frozenset())
    assert failed is not None
    assert len(np.frombuffer(failed[1], np.int64)) >= 1
    assert np.frombuffer(offsets, np.int64)[-1] <= len(PREFIX) * table.num_rows + 9


@needs_native
def test_the_compiled_writer_takes_only_columns() -> None:
    """Wrong arguments are errors of Python, by name."""
    assert native is not None
    writer = native.RecordWriter(_description(STRING))
    with pytest.raises(AttributeError, match="__arrow_c_stream__"):
        writer.write([1, 2], PREFIX, frozenset())
    with pytest.raises(ValueError, match="none of rows"):
        writer.write(pa.chunked_array([[1, 2]]), PREFIX, frozenset())
    with pytest.raises(native.ColumnsRefused, match="f"):
        writer.write(pa.table({"f": [1]}), PREFIX, frozenset())
    with pytest.raises(ValueError, match="only a record"):
        native.RecordWriter(_description(STRING)["members"][0]["node"])


def _description(schema: AvroSchema) -> dict[str, Any]:
    from headrace.contracts.binary.native_writer import described
    from headrace.contracts.shape import record_shape

    return described(record_shape(schema), schema.names)
