"""Keys: what Kafka partitions and compacts by, made from the key fields of a row and read back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.ways import needs_native

from headrace.contracts import fastavro_codec, key, wire
from headrace.contracts.arrow import from_frame
from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract, KeyEncoding
from headrace.contracts.key import KeyCodec, KeyInvalid, open_key_codec
from headrace.contracts.registry_memory import MemoryRegistry

ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
UUID_TEXT = {"type": "string", "logicalType": "uuid"}
UUID_FIXED = {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}
LOW, HIGH = str(uuid.UUID(int=10)), str(uuid.UUID(int=10)).upper()


@pytest.fixture(scope="module", params=["python", pytest.param("native", marks=needs_native)], autouse=True)
def each_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """All of it in Python, and again with the compiled writers."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setattr(fastavro_codec, "native", None)
            patch.setattr(key, "native", None)
        yield


def contract(fields: dict[str, Any], *key: str, encoding: KeyEncoding = KeyEncoding.AVRO) -> Contract:
    node = {
        "type": "record",
        "name": "Order",
        "namespace": "shop",
        "fields": [{"name": name, "type": each} for name, each in fields.items()],
    }
    return Contract("shop.orders", AvroSchema.parse(node), key=key, key_encoding=encoding)


def text_codec(node: Any) -> KeyCodec:
    return open_key_codec(contract({"k": node}, "k", encoding=KeyEncoding.STRING), MemoryRegistry())


def avro_codec(fields: dict[str, Any], *key: str) -> KeyCodec:
    return open_key_codec(contract(fields, *key), MemoryRegistry())


def keys_of(codec: KeyCodec, **columns: Any) -> list[bytes | None]:
    """The keys of a table in which no row fails."""
    encoded = codec.encode(pa.table(columns))
    assert not encoded.failed
    return list(encoded.values.to_pylist())


# --- Avro ----------------------------------------------------------------------------------------------------------


def test_avro_keys_are_framed_records_of_the_key_fields() -> None:
    """In the order of the key, under the subject `<topic>-key`; other columns do not matter."""
    registry = MemoryRegistry()
    codec = open_key_codec(contract({"a": "string", "b": "int", "c": "long"}, "c", "a"), registry)
    assert codec.fields == ("c", "a")
    assert codec.arrow_schema.names == ["c", "a"]
    table = pa.table({"b": [9, 9], "a": ["x", "yz"], "c": [1, 2]})
    encoded = codec.encode(table)
    registered = registry.latest("shop.orders-key")
    assert registered is not None
    assert registered.schema.fullname == "shop.OrderKey"
    assert encoded.values.to_pylist() == [
        wire.prefix(registered.id) + b"\x02\x02x",
        wire.prefix(registered.id) + b"\x04\x04yz",
    ]
    assert codec.decode(encoded.values).table.to_pylist() == [{"c": 1, "a": "x"}, {"c": 2, "a": "yz"}]


COLUMNS = {
    "string": st.sampled_from(["", "a", "b", "é"]),
    "int": st.integers(-2, 2),
    "boolean": st.booleans(),
    "bytes": st.sampled_from([b"", b"\0"]),
}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_repeated_keys_come_as_if_encoded_one_by_one(data: st.DataObject) -> None:
    """Each distinct key is worked on once, and nobody sees it: any columns, nullable or not, any repeats, bad rows
    among them."""
    kinds = data.draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=2))
    fields = {f"k{n}": ["null", kind] if data.draw(st.booleans()) else kind for n, kind in enumerate(kinds)}
    codec = avro_codec(fields, *fields)
    row = st.fixed_dictionaries(
        {name: st.one_of(st.none(), COLUMNS[kind]) for name, kind in zip(fields, kinds, strict=True)}
    )
    rows = data.draw(st.lists(row, min_size=1, max_size=12))
    arrow = [pa.field(name, codec.arrow_schema.field(name).type) for name in fields]
    table = pa.Table.from_pylist(rows, pa.schema(arrow))
    encoded = codec.encode(table)
    alone = [codec.encode(table.slice(at, 1)) for at in range(len(rows))]
    assert encoded.values.to_pylist() == [each.values[0].as_py() for each in alone]
    assert list(encoded.failed) == [bad._replace(row=at) for at, each in enumerate(alone) for bad in each.failed]
    decoded = codec.decode(encoded.values)
    failed = {each.row for each in encoded.failed}
    assert decoded.rows.tolist() == [at for at in range(len(rows)) if at not in failed]
    assert decoded.table.to_pylist() == [each for at, each in enumerate(rows) if at not in failed]
    assert not decoded.failed


def test_equal_keys_have_equal_bytes_whatever_their_column() -> None:
    """Texts as plain, large, view, dictionary or Polars columns; a dictionary may even hold a text twice."""
    codec = avro_codec({"k": "string"}, "k")
    expected = keys_of(codec, k=pa.array(["a", "b", "a"]))
    twice = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), pa.array(["a", "b", "a"]))
    for column in (
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"], pa.string_view()),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        twice,
        pa.chunked_array([["a"], [], ["b", "a"]]),
        from_frame(pl.DataFrame({"k": pl.Series(["a", "b", "a"], dtype=pl.Categorical)})).column("k"),
    ):
        assert keys_of(codec, k=column) == expected
    enums = avro_codec({"k": ["null", ENUM]}, "k")
    series = pl.Series(["B", None, "A", "B"], dtype=pl.Enum(["A", "B"]))
    assert keys_of(enums, k=from_frame(pl.DataFrame({"k": series})).column("k")) == keys_of(
        enums, k=["B", None, "A", "B"]
    )


@pytest.mark.parametrize("repeats", [1, 50])
def test_bad_keys_fail_alone(repeats: int) -> None:
    """Each with its own row and reason, null keys passed over, whether keys repeat or not."""
    codec = avro_codec({"k": "string"}, "k")
    good = keys_of(codec, k=["x"])[0]
    decoded = codec.decode(pa.array([b"\x01", good, None, b"", good] * repeats, pa.large_binary()))
    assert [(each.row % 5, each.code) for each in decoded.failed] == [
        (0, "decode.framing"),
        (3, "decode.framing"),
    ] * repeats
    assert decoded.rows.tolist() == [5 * turn + row for turn in range(repeats) for row in (1, 4)]
    assert decoded.table.column("k").to_pylist() == ["x", "x"] * repeats


def test_a_missing_key_column_fails_every_row() -> None:
    """By name, one reason a row, in both encodings."""
    for codec in (
        avro_codec({"k": "string", "v": "int"}, "k", "v"),
        avro_codec({"k": "string"}, "k"),
        text_codec("string"),
    ):
        encoded = codec.encode(pa.table({"z": [1, 2]}))
        assert [(each.row, each.code) for each in encoded.failed] == [
            (0, "encode.missing_column"),
            (1, "encode.missing_column"),
        ]
        assert "k" in encoded.failed[0].message
        assert encoded.values.null_count == 2


# --- Text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "column", "expected"),
    [
        ("string", ["a", "", "größe", "a"], ["a", "", "größe", "a"]),
        (["null", "string"], ["a"], ["a"]),
        (UUID_TEXT, [LOW, HIGH], [LOW, HIGH]),
        (UUID_FIXED, [LOW, HIGH], [LOW, LOW]),
        (ENUM, ["B", "A", "B"], ["B", "A", "B"]),
        (ENUM, pa.array(["B", "A", "B"]).dictionary_encode(), ["B", "A", "B"]),
        ("long", [1, -5, 2**63 - 1], [1, -5, 2**63 - 1]),
        ("int", pa.array([1, 0], pa.int64()), [1, 0]),
    ],
)
def test_text_keys_are_the_bytes_of_the_text(node: Any, column: Any, expected: list[Any]) -> None:
    """As Kafka's StringSerializer writes them, no schema id in front; and back to the field's own type."""
    codec = text_codec(node)
    keys = keys_of(codec, k=column)
    assert keys == [str(each).encode() for each in expected]
    decoded = codec.decode(pa.array(keys, pa.large_binary()))
    assert decoded.table.schema.equals(codec.arrow_schema)
    assert decoded.table.column("k").to_pylist() == expected
    assert not decoded.failed


@pytest.mark.parametrize(
    ("node", "column", "code"),
    [
        ("string", ["a", None, "b"], "encode.null"),
        (["null", "string"], ["a", None, "b"], "encode.null"),
        (ENUM, ["A", "C", "B"], "encode.out_of_range"),
        (ENUM, ["A", None, "B"], "encode.null"),
        (UUID_TEXT, [LOW, "x", HIGH], "encode.out_of_range"),
        (UUID_FIXED, [LOW, LOW + "0", HIGH], "encode.out_of_range"),
        ("int", [1, 2**31, 2], "encode.out_of_range"),
        ("int", [1, None, 2], "encode.null"),
    ],
)
def test_a_value_that_is_no_text_key_fails_its_row(node: Any, column: list[Any], code: str) -> None:
    """A null key would delete or scatter rows, so it is refused even where the field may be null."""
    encoded = text_codec(node).encode(pa.table({"k": column}))
    assert [(each.row, each.code) for each in encoded.failed] == [(1, code)]
    assert encoded.values.is_valid().to_pylist() == [True, False, True]


@pytest.mark.parametrize(
    ("node", "bad", "good", "code"),
    [
        ("string", b"\xff", b"", "decode.invalid_utf8"),
        (ENUM, b"C", b"A", "decode.invalid"),
        (ENUM, b"", b"A", "decode.invalid"),
        (UUID_TEXT, b"no uuid", LOW.encode(), "decode.invalid"),
        (UUID_FIXED, LOW.encode() + b"\n", HIGH.encode(), "decode.invalid"),
        ("int", b"007", b"7", "decode.invalid"),
        ("int", b"2147483648", b"-2147483648", "decode.invalid"),
        ("long", b" 1", b"0", "decode.invalid"),
        ("long", b"-0", b"0", "decode.invalid"),
    ],
)
def test_a_bad_text_key_fails_alone(node: Any, bad: bytes, good: bytes, code: str) -> None:
    """Also such texts of a number as would make one key of two."""
    decoded = text_codec(node).decode(pa.array([good, bad, None, good], pa.large_binary()))
    assert [(each.row, each.code) for each in decoded.failed] == [(1, code)]
    assert decoded.rows.tolist() == [0, 3]


def test_keys_that_are_the_texts_of_their_rows_are_told_by_their_bytes() -> None:
    """Slices too; one byte, one end, a null or another type than text is enough for a no."""
    codec = text_codec("string")
    texts = ["", "a", "", "bc", "é"]
    keys = pa.array([text.encode() for text in texts], pa.large_binary())
    table = pa.table({"k": pa.array(texts, pa.string())})
    assert codec.are_those_of(keys, table)
    assert codec.are_those_of(keys.slice(1, 3), table.slice(1, 3))
    assert codec.are_those_of(keys.slice(0, 0), table.slice(0, 0))
    assert codec.are_those_of(keys.slice(0, 1), table.slice(2, 1))  # Both empty.
    assert not codec.are_those_of(keys.slice(1, 3), table.slice(2, 3))
    assert not codec.are_those_of(keys.slice(0, 4), table)
    for other in (["", "a", "b", "c", "é"], ["", "b", "", "bc", "é"], ["", "a", "", "bc", None]):
        assert not codec.are_those_of(keys, pa.table({"k": pa.array(other, pa.string())}))
    assert not codec.are_those_of(pa.array([b"", None], pa.large_binary()), table.slice(0, 2))
    assert not codec.are_those_of(keys, pa.table({"other": pa.array(texts, pa.string())}))
    assert not codec.are_those_of(keys, pa.table({"k": pa.array(texts, pa.large_string())}))


def test_keys_of_other_codecs_do_not_tell_by_their_bytes() -> None:
    """A number has many texts, and an Avro key has a schema before it."""
    numbers = pa.array([b"1"], pa.large_binary())
    assert not text_codec("int").are_those_of(numbers, pa.table({"k": pa.array(["1"], pa.string())}))
    assert not avro_codec({"k": "string"}, "k").are_those_of(numbers, pa.table({"k": pa.array(["1"], pa.string())}))


def test_no_rows_and_only_nulls() -> None:
    """Both encodings give tables of no rows with their columns."""
    for codec in (text_codec("string"), text_codec(ENUM), avro_codec({"k": ENUM}, "k")):
        assert codec.encode(codec.arrow_schema.empty_table()).values.to_pylist() == []
        for keys in (pa.array([], pa.large_binary()), pa.nulls(3, pa.large_binary())):
            decoded = codec.decode(keys)
            assert decoded.table.schema.equals(codec.arrow_schema)
            assert (decoded.table.num_rows, decoded.rows.tolist(), list(decoded.failed)) == (0, [], [])


def test_a_column_of_another_meaning_fails_every_row() -> None:
    """A number is no text, in any encoding."""
    for codec in (text_codec("string"), avro_codec({"k": "string"}, "k"), text_codec(ENUM)):
        encoded = codec.encode(pa.table({"k": [1, 1]}))
        assert [(each.row, each.code) for each in encoded.failed] == [(0, "encode.type"), (1, "encode.type")]
    assert {each.code for each in text_codec("int").encode(pa.table({"k": ["1"]})).failed} == {"encode.type"}


@pytest.mark.parametrize(
    ("fields", "key", "encoding"),
    [
        ({"k": "string"}, (), KeyEncoding.AVRO),
        ({"k": "string", "l": "string"}, ("k", "l"), KeyEncoding.STRING),
        ({"k": "bytes"}, ("k",), KeyEncoding.STRING),
        ({"k": {"type": "int", "logicalType": "date"}}, ("k",), KeyEncoding.STRING),
    ],
)
def test_keys_that_cannot_be_encoded_so_are_refused(
    fields: dict[str, Any], key: tuple[str, ...], encoding: KeyEncoding
) -> None:
    """When the codec is made, by topic and with the next step: no key, several text fields, what has no one text."""
    with pytest.raises(KeyInvalid, match=r"shop\.orders"):
        open_key_codec(contract(fields, *key, encoding=encoding), MemoryRegistry())
