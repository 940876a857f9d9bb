"""Which schema wrote a value: five bytes in front of it, or a GUID in a header of the record."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts import wire
from headrace.contracts.avro import AvroSchema
from headrace.contracts.fastavro_codec import AvroCodec, open_codec
from headrace.contracts.registry_memory import MemoryRegistry

HEADERS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.large_binary())]))
SCHEMA = AvroSchema.parse({"type": "record", "name": "R", "fields": [{"name": "f", "type": "int"}]})
OTHER = AvroSchema.parse(
    {"type": "record", "name": "R", "fields": [{"name": "f", "type": ["null", "int"], "default": None}]}
)

Header = tuple[str, bytes | None]


def binary(*values: bytes | None) -> pa.LargeBinaryArray:
    return pa.array(values, pa.large_binary())


def headers(*rows: Sequence[Header] | None) -> pa.ListArray:
    return pa.array([None if row is None else [{"key": k, "value": v} for k, v in row] for row in rows], HEADERS)


def codec_of(registry: MemoryRegistry, framing: Any = "prefix", subject: str = "t-value") -> AvroCodec:
    return open_codec(SCHEMA, registry, subject, framing=framing)


# --- Five bytes ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.binary(max_size=12)), max_size=8), st.integers(0, wire.SCHEMA_ID_MAX))
def test_what_is_framed_comes_out_of_its_frame(bodies: list[bytes | None], schema_id: int) -> None:
    """Any bodies, nulls among them, with any id a registry gives."""
    framed = wire.frame(binary(*bodies), schema_id)
    assert [None if each is None else each[:1] + each[1:5] for each in framed.to_pylist()] == [
        None if each is None else b"\0" + schema_id.to_bytes(4, "big") for each in bodies
    ]
    ids, found = wire.unframe(framed)
    assert ids.tolist() == [wire.NO_VALUE if each is None else schema_id for each in bodies]
    assert found.to_pylist() == bodies


def test_values_without_frame_are_told() -> None:
    """No magic byte, too short, or an id beyond 31 bits; nothing of them is taken for a body."""
    values = binary(b"", b"\0\0\0\1", b"\1\0\0\0\1x", b"\0\xff\xff\xff\xffx", None, b"\0\0\0\0\7", b"\0\0\0\0\7x")
    ids, bodies = wire.unframe(values)
    assert ids.tolist() == [wire.NOT_FRAMED] * 4 + [wire.NO_VALUE, 7, 7]
    assert bodies.to_pylist() == [None] * 5 + [b"", b"x"]
    ids, bodies = wire.unframe(values.slice(5, 2))
    assert (ids.tolist(), bodies.to_pylist()) == ([7, 7], [b"", b"x"])


def test_the_prefix_is_confluents() -> None:
    """A zero byte and four of the id, big end first; of a GUID a one and its sixteen bytes in network order."""
    assert wire.prefix(0x01020304) == b"\x00\x01\x02\x03\x04"
    guid = uuid.UUID("89791762-2336-4186-9674-299b90a802e2")
    assert wire.guid_header(guid) == bytes.fromhex("01" + "89791762233641869674299b90a802e2")


def test_keep_nulls_what_is_not_good() -> None:
    """Rows that failed are null and their bytes are gone; slices and nulls stay what they were."""
    values = binary(b"no", b"a", None, b"bcd", b"e").slice(1)
    kept = wire.keep(values, pa.array([True, True, False, True]).to_numpy(zero_copy_only=False))
    assert kept.to_pylist() == [b"a", None, None, b"e"]
    assert b"bcd" not in kept.buffers()[2].to_pybytes()


# --- A GUID in a header --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subject", "name"), [("t-value", "__value_schema_id"), ("t-key", "__key_schema_id")])
def test_header_framing_writes_bare_bodies(subject: str, name: str) -> None:
    """The schema is registered, its GUID is the header, and what was written is read back by the header."""
    registry = MemoryRegistry()
    codec = codec_of(registry, "header", subject)
    encoded = codec.encode(pa.table({"f": [1, 2]}))
    assert encoded.values.to_pylist() == [b"\x02", b"\x04"]
    registered = registry.latest(subject)
    assert registered is not None
    assert codec.record_header() == (name, b"\x01" + registered.guid.bytes)
    decoded = codec_of(registry, "prefix", subject).decode(encoded.values, headers(*[[codec.record_header()]] * 2))
    assert decoded.table.to_pylist() == [{"f": 1}, {"f": 2}]
    assert codec_of(registry).record_header() is None


def test_both_framings_in_one_batch() -> None:
    """Producers change one after the other: each record is read by what it says itself, whoever wrote it."""
    registry = MemoryRegistry()
    old, new = codec_of(registry), codec_of(registry, "header")
    other = open_codec(OTHER, registry, "t-other", framing="header")
    framed, bare = (each.encode(pa.table({"f": [5]})).values[0].as_py() for each in (old, new))
    nullable = other.encode(pa.table({"f": [6]})).values[0].as_py()
    values = binary(framed, bare, None, nullable, bare)
    marks = headers(
        [("h", b"x")], [("h", b"x"), new.record_header()], [new.record_header()], [other.record_header()], None
    )
    decoded = old.decode(values, marks)
    assert decoded.table.to_pylist() == [{"f": 5}, {"f": 5}, {"f": 6}]
    assert decoded.rows.tolist() == [0, 1, 3]
    assert [(each.row, each.code) for each in decoded.failed] == [(4, "decode.framing")]


def test_the_last_header_counts_and_malformed_ones_do_not() -> None:
    """As in Kafka, where a later header replaces an earlier; one that is no GUID leaves the prefix in force."""
    registry = MemoryRegistry()
    codec = codec_of(registry, "header")
    values = codec.encode(pa.table({"f": [1]})).values
    name, good = codec.record_header() or ("", b"")
    unknown = wire.guid_header(uuid.UUID(int=9))
    for row, code in (
        ([(name, unknown), (name, good)], None),
        ([(name, good), (name, unknown)], "decode.unknown_schema_id"),
        ([(name, good[:-1])], "decode.framing"),
        ([(name, b"\x00" + good[1:])], "decode.framing"),
        ([(name, None)], "decode.framing"),
        ([("__key_schema_id", good)], "decode.framing"),
    ):
        decoded = codec.decode(values, headers(row))
        assert [each.code for each in decoded.failed] == ([code] if code else [])
        assert decoded.table.num_rows == (code is None)


def test_a_bare_body_that_starts_like_a_frame_is_read_by_its_header() -> None:
    """The header comes first: a body may well begin with a zero byte."""
    registry = MemoryRegistry()
    schema = AvroSchema.parse(
        {"type": "record", "name": "Five", "fields": [{"name": n, "type": "int"} for n in "abcde"]}
    )
    codec = open_codec(schema, registry, "t-value", framing="header")
    values = codec.encode(pa.table({name: [0] for name in "abcde"})).values
    assert values.to_pylist() == [b"\0" * 5]
    assert codec.decode(values, headers([codec.record_header()])).table.num_rows == 1


def test_sliced_headers_stay_with_their_records() -> None:
    """A batch cut from a longer one is read by its own records' headers."""
    registry = MemoryRegistry()
    codec = codec_of(registry, "header")
    values = codec.encode(pa.table({"f": list(range(10))})).values
    marks = headers(*([None] * 5 + [[codec.record_header()]] * 5))
    decoded = codec.decode(values.slice(4, 3), marks.slice(4, 3))
    assert decoded.table.to_pylist() == [{"f": 5}, {"f": 6}]
    assert [(each.row, each.code) for each in decoded.failed] == [(0, "decode.framing")]
