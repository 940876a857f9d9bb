"""The compiled reader gives what the readers in Python give, and no bytes make it slow, large or wrong."""

from __future__ import annotations

import itertools
import resource
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contracts.conftest import shown
from tests.contracts.test_codec import framed, mutations, record
from tests.contracts.test_codec_resolution import body, changed_records, field
from tests.contracts.ways import decode_by, needs_native

from headrace.contracts import fastavro_codec, wire, writer_schemas
from headrace.contracts.avro import AvroSchema
from headrace.contracts.binary import native_reader
from headrace.contracts.binary.native_steps import Columns
from headrace.contracts.codec import Decoded
from headrace.contracts.fastavro_codec import AvroCodec, open_codec
from headrace.contracts.registry_memory import MemoryRegistry
from headrace.contracts.shape import record_shape
from headrace.native import native

pytestmark = needs_native

RANDOM = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SECONDS_MAX = 5
MEBIBYTES_MAX = 100


def codec_of(node: Any, registry: MemoryRegistry | None = None) -> AvroCodec:
    return open_codec(AvroSchema.parse(node), registry or MemoryRegistry(), "t-value")


def left_by(codec: AvroCodec, values: pa.LargeBinaryArray) -> list[int]:
    """The rows that the compiled reader leaves to Python; its writers are known after a first batch."""
    codec.decode(values)
    assert codec._native is not None
    return codec._native.read(values, None).left.tolist()


def same(found: Decoded, expected: Decoded) -> None:
    """Equal in all that a batch tells. Not-a-number equals itself here, and dates are of any year."""
    found.table.validate(full=True)
    assert found.table.schema.equals(expected.table.schema, check_metadata=True)
    for column, wanted in zip(found.table.columns, expected.table.columns, strict=True):
        assert column.equals(wanted) or repr(shown(column)) == repr(shown(wanted))
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.failed == expected.failed


# --- Against the readers in Python ---------------------------------------------------------------------------------


@RANDOM
@given(data=st.data())
def test_changed_schemas_and_garbage_read_as_in_python(data: st.DataObject) -> None:
    """Random writers and readers, good records among ones with bytes changed, cut or added: the same rows come, with
    the same values, and the others fail for the same reasons; the compiled reader leaves just those."""
    counter = itertools.count()
    writer, reader, values = data.draw(changed_records(lambda: f"T{next(counter)}"))
    reader["fields"].append(field("always", "string", default=""))  # A table without columns has no rows to compare.
    bodies = [body(writer, data.draw(values)) for _ in range(3)]
    bodies[1:1] = data.draw(st.lists(mutations(bodies[0]), max_size=4))
    registry = MemoryRegistry()
    registered = registry.register("writer", AvroSchema.parse(writer))
    framed_values = wire.frame(pa.array(bodies, pa.large_binary()), registered.id)
    codec = codec_of(reader, registry)
    found = codec.decode(framed_values)
    same(found, decode_by("one_by_one", codec, framed_values))
    assert left_by(codec, framed_values) == [each.row for each in found.failed]


@RANDOM
@given(data=st.data())
def test_every_type_and_garbage_read_as_in_python(data: st.DataObject, avro_records: st.SearchStrategy[Any]) -> None:
    """The same for records of every type, read by their own schema."""
    avro_type = data.draw(avro_records)
    bodies = [body(avro_type.stripped, data.draw(avro_type.values)[0]) for _ in range(3)]
    bodies[1:1] = data.draw(st.lists(mutations(bodies[0]), max_size=4))
    codec = codec_of(avro_type.node)
    values = framed(codec, bodies)
    same(codec.decode(values), decode_by("one_by_one", codec, values))


WIDE = {"type": "fixed", "name": "W", "size": 40, "logicalType": "decimal", "precision": 70, "scale": 3}
EVERYTHING = record(
    ("a", ["null", "int"]),
    ("b", "long"),
    ("c", ["string", "null"]),
    ("d", "bytes"),
    ("e", {"type": "array", "items": ["null", record(("x", "double"), ("y", ["null", "float"]), name="In")]}),
    ("f", {"type": "map", "values": {"type": "array", "items": "boolean"}}),
    ("g", ["null", "int", "string", {"type": "enum", "name": "E", "symbols": ["A", "B"]}]),
    ("h", {"type": "fixed", "name": "P", "size": 12, "logicalType": "duration"}),
    ("i", ["null", {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}]),
    ("j", {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}),
    (
        "k",
        [
            "null",
            {
                "type": "record",
                "name": "N",
                "fields": [{"name": "z", "type": {"type": "enum", "name": "F", "symbols": ["X"]}}],
            },
        ],
    ),
    ("l", {"type": "string", "logicalType": "uuid"}),
    ("m", {"type": "long", "logicalType": "time-micros"}),
)
EVERY_VALUE = {
    "a": -300,
    "b": 2**62,
    "c": "größe ✓ and more than eight",
    "d": b"\xff\x00",
    "e": [None, ("In", {"x": 0.5, "y": None}), ("In", {"x": -0.0, "y": 1.5})],
    "f": {"k": [True, False], "": []},
    "g": ("E", "B"),
    "h": bytes(range(12)),
    "i": uuid.UUID(int=5).bytes,
    "j": b"\xff\x00",
    "k": ("N", {"z": "X"}),
    "l": str(uuid.UUID(int=2**127)),
    "m": 86_399_999_999,
}


def plainly(node: Any) -> Any:
    """The schema without logical types, for fastavro to write raw values."""
    if isinstance(node, dict):
        return {key: plainly(each) for key, each in node.items() if key not in ("logicalType", "precision", "scale")}
    return [plainly(each) for each in node] if isinstance(node, list) else node


def test_a_record_cut_at_each_byte() -> None:
    """All cuts of one record in one batch, good ones between them: each fails as in Python, none leaves a trace."""
    whole = body(plainly(EVERYTHING), EVERY_VALUE)
    codec = codec_of(EVERYTHING)
    cuts = [each for end in range(len(whole)) for each in (whole[:end], whole)]
    values = framed(codec, cuts)
    found = codec.decode(values)
    assert found.rows.tolist() == list(range(1, 2 * len(whole), 2))
    assert {each.code for each in found.failed} == {"decode.truncated"}
    same(found, decode_by("one_by_one", codec, values))
    assert left_by(codec, values) == list(range(0, 2 * len(whole), 2))


def test_a_record_with_each_byte_changed() -> None:
    """Every byte of a record as every value that bytes often have: rows and reasons as in Python."""
    whole = body(plainly(EVERYTHING), EVERY_VALUE)
    codec = codec_of(EVERYTHING)
    changed = [
        whole[:at] + bytes([byte]) + whole[at + 1 :]
        for at in range(len(whole))
        for byte in (0, 1, 2, 3, 0x7F, 0x80, 0xC3, 0xFF)
    ]
    values = framed(codec, changed)
    same(codec.decode(values), decode_by("one_by_one", codec, values))


def test_wide_decimals() -> None:
    """Of up to 76 digits: signs are extended, bounds hold; a fixed longer than 256 bits is left to Python."""
    node = {"type": "bytes", "logicalType": "decimal", "precision": 70, "scale": 3}
    codec = codec_of(record(("f", node)))
    numbers = [0, -1, 10**70 - 1, 1 - 10**70, 10**70, -(10**70), 2**255 - 1, 2**300]
    raw = [each.to_bytes((each.bit_length() + 8) // 8, "big", signed=True) for each in numbers]
    raw += [b"", b"\xff" * 40, b"\x00" * 50 + b"\x07"]
    values = framed(codec, [body(record(("f", "bytes")), {"f": each}) for each in raw])
    same(codec.decode(values), decode_by("one_by_one", codec, values))
    codec = codec_of(record(("f", WIDE)))
    values = framed(codec, [each.to_bytes(40, "big", signed=True) for each in numbers])
    same(codec.decode(values), decode_by("one_by_one", codec, values))


def test_what_is_passed_over_is_not_looked_at() -> None:
    """Every type as a field that the reader does not have, recursive ones too; sized blocks are jumped over."""
    linked = {"type": "record", "name": "L", "fields": [field("v", "string"), field("next", ["null", "L"])]}
    writer = record(*((each["name"], each["type"]) for each in EVERYTHING["fields"]), ("gone", linked), ("kept", "int"))
    reader = record(("kept", "long"))
    some: Any = None
    for depth in range(30):
        some = ("L", {"v": str(depth), "next": some})
    registry = MemoryRegistry()
    registered = registry.register("writer", AvroSchema.parse(writer))
    bodies = [body(plainly(writer), EVERY_VALUE | {"gone": some[1], "kept": number}) for number in range(3)]
    codec = codec_of(reader, registry)
    values = wire.frame(pa.array(bodies, pa.large_binary()), registered.id)
    assert codec.decode(values).table.to_pylist() == [{"kept": 0}, {"kept": 1}, {"kept": 2}]
    assert left_by(codec, values) == []
    cuts = wire.frame(pa.array([bodies[2][:end] for end in range(len(bodies[2]))], pa.large_binary()), registered.id)
    same(codec.decode(cuts), decode_by("one_by_one", codec, cuts))


def test_nulls_slices_and_mixed_writers_keep_their_rows() -> None:
    """Tombstones, two writers, one that is unknown and one that only Python reads, in a slice of a longer column."""
    linked = record(("a", "int"), ("next", ["null", "R"]))
    registry = MemoryRegistry()
    plain, more, recursive = (
        registry.register(name, AvroSchema.parse(node)).id
        for name, node in (
            ("plain", record(("a", "int"))),
            ("more", record(("x", "string"), ("a", "long"))),
            ("recursive", linked),
        )
    )
    turn = [
        wire.prefix(plain) + b"\x02",
        None,
        wire.prefix(more) + b"\x02x" + b"\x04",
        wire.prefix(recursive) + b"\x06\x00",
        wire.prefix(999) + b"\x02",
        wire.prefix(plain),
    ]
    reader = record(("a", "long"), ("next", ["null", "R"]))
    reader["fields"][1]["default"] = None
    codec = codec_of(reader, registry)
    values = pa.array(turn * 40, pa.large_binary()).slice(6, 198)
    found = codec.decode(values)
    same(found, decode_by("one_by_one", codec, values))
    assert len(found.rows) == 99
    assert len(found.failed) == 66


def test_writers_named_by_headers() -> None:
    """Headers and prefixes in one batch: each record is read by the schema that it names."""
    registry = MemoryRegistry()
    first = registry.register("first", AvroSchema.parse(record(("a", "int"))))
    second = registry.register("second", AvroSchema.parse(record(("x", "string"), ("a", "long"))))
    codec = codec_of(record(("a", "long")), registry)
    values = pa.array([b"\x02", wire.prefix(second.id) + b"\x00\x04", b"\x02x\x06", b"\x08", b"\x02"] * 30)
    heads: list[list[tuple[str, bytes]]] = [
        [(wire.VALUE_GUID_HEADER, wire.guid_header(first.guid))],
        [],
        [(wire.VALUE_GUID_HEADER, wire.guid_header(second.guid))],
        [(wire.VALUE_GUID_HEADER, wire.guid_header(uuid.UUID(int=7)))],
        [(wire.VALUE_GUID_HEADER, wire.guid_header(second.guid))],
    ]
    kind = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
    headers = pa.array([[{"key": key, "value": value} for key, value in each] for each in heads * 30], kind)
    found = codec.decode(values.cast(pa.large_binary()), headers)
    assert found.table.column("a").to_pylist() == [1, 2, 3] * 30
    assert [(each.row % 5, each.code) for each in found.failed] == [
        (3, "decode.unknown_schema_id"),
        (4, "decode.truncated"),
    ] * 30


# --- Hostile records -----------------------------------------------------------------------------------------------


def long(value: int) -> bytes:
    return body("long", value)


ITEMS = {"type": "array", "items": "int"}
NULLS = {"type": "array", "items": "null"}
EMPTIES = {"type": "array", "items": record(name="None")}
HOSTILE: list[tuple[str, Any, bytes]] = [
    ("array of 2^60", ITEMS, long(2**60) + b"\x02" * 50),
    ("array of as many as there are", ITEMS, long(-(2**63)) + b"\x00"),
    ("array of -2^60 in 2^60 bytes", ITEMS, long(-(2**60)) + long(2**60)),
    ("block of less than no bytes", ITEMS, long(-1) + long(-(2**62)) + b"\x02\x00"),
    ("nulls by 2^31", NULLS, long(2**31 - 1) + b"\x00"),
    ("nulls by 2^63", NULLS, long(2**63 - 1) + b"\x00"),
    ("nulls in a thousand blocks", NULLS, long(60_000) * 1000 + b"\x00"),
    ("empty records by 2^31", EMPTIES, long(2**31 - 1) + b"\x00"),
    ("nulls in many arrays", {"type": "array", "items": NULLS}, long(4000) + (long(60_000) + b"\x00") * 4000 + b"\x00"),
    ("map of 2^60", {"type": "map", "values": "int"}, long(2**60) + b"\x00\x02" * 20),
    ("text of 2^40", "string", long(2**40) + b"abc"),
    ("text of -2^40", "string", long(-(2**40)) + b"abc"),
    ("bytes of 2^63", "bytes", long(2**63 - 1) + b"abc"),
    ("decimal of 2^40", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 0}, long(2**40)),
    ("branch 2^62", ["null", "int"], long(2**62)),
    ("symbol -2^62", {"type": "enum", "name": "E", "symbols": ["A"]}, long(-(2**62))),
]


@pytest.mark.parametrize("passed_over", [False, True])
@pytest.mark.parametrize(("node", "bad"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE])
def test_lengths_that_lie_cost_nothing(node: Any, bad: bytes, passed_over: bool) -> None:
    """A hundred such records, read or passed over: no time, no memory, and the records around them come."""
    registry = MemoryRegistry()
    registered = registry.register("writer", AvroSchema.parse(record(("a", "int"), ("f", node))))
    codec = codec_of(record(("a", "int")) if passed_over else record(("a", "int"), ("f", node)), registry)
    codec.decode(wire.frame(pa.array([b""], pa.large_binary()), registered.id))
    good = body(record(("a", "int"), ("f", plainly(node))), {"a": 7, "f": EMPTY[type_of(node)]})
    values = wire.frame(pa.array([good, *[b"\x02" + bad] * 100, good], pa.large_binary()), registered.id)
    assert codec._native is not None
    peak, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = codec._native.read(values, None)
    assert time.process_time() - begin < SECONDS_MAX
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024 < MEBIBYTES_MAX
    assert (found.rows.tolist(), found.left.tolist()) == ([0, 101], list(range(1, 101)))
    assert found.batch.column("a").to_pylist() == [7, 7]


def type_of(node: Any) -> str:
    return "union" if isinstance(node, list) else node if isinstance(node, str) else str(node["type"])


EMPTY: dict[str, Any] = {"array": [], "map": {}, "string": "", "bytes": b"", "union": None, "enum": "A"}


def test_recursion_is_bounded_where_it_is_passed_over() -> None:
    """A list of a hundred thousand links that nobody wants is refused, without the stack growing with it."""
    linked = record(("next", ["null", "L"]), name="L")
    registry = MemoryRegistry()
    registered = registry.register("writer", AvroSchema.parse(record(("l", linked))))
    codec = codec_of(record() | {"fields": [field("a", "int", default=1)]}, registry)
    bodies = [b"\x02" * links + b"\x00" for links in (90, 100_000)]
    values = wire.frame(pa.array(bodies, pa.large_binary()), registered.id)
    found = codec.decode(values)
    same(found, decode_by("one_by_one", codec, values))
    assert (found.rows.tolist(), [each.code for each in found.failed]) == ([0], ["decode.invalid"])


def test_a_schema_of_many_levels() -> None:
    """Arrays in arrays; Arrow hands over sixty levels by its pointer, and columns of more are read in Python."""
    for levels, is_native in ((50, True), (100, False)):
        node: Any = "int"
        for _ in range(levels):
            node = {"type": "array", "items": node}
        codec = codec_of(record(("f", node)))
        whole = b"\x02" * levels + b"\x06" + b"\x00" * levels
        values = framed(codec, [whole, whole[:-1], b"\x00"])
        found = codec.decode(values)
        assert (codec._native is not None) == is_native
        assert found.rows.tolist() == [0, 2]
        same(found, decode_by("one_by_one", codec, values))


# --- Limits and mistakes -------------------------------------------------------------------------------------------


def test_columns_that_grow_beyond_their_offsets_are_read_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's offsets end somewhere; here after 100 bytes of text, or 100 items."""
    monkeypatch.setattr(native_reader, "OFFSET_MAX", 100)
    for node, value in (
        ("string", "0123456789"),
        (ITEMS, list(range(10))),
        ({"type": "map", "values": "int"}, {"k": 1}),
    ):
        codec = codec_of(record(("f", node)))
        values = framed(codec, [body(record(("f", node)), {"f": value})] * 120)
        found = codec.decode(values)
        assert found.table.num_rows == 120
        same(found, decode_by("one_by_one", codec, values))


def test_an_unknown_schema_is_asked_for_once_a_batch() -> None:
    """However many rows and readers there are."""
    asked = []

    class Asked(MemoryRegistry):
        def by_id(self, schema_id: int) -> AvroSchema:
            asked.append(schema_id)
            return super().by_id(schema_id)

    codec = codec_of(record(("f", "int")), Asked())
    values = pa.array([wire.prefix(7) + b"\x02"] * 10, pa.large_binary())
    for _ in range(2):
        assert {each.code for each in codec.decode(values).failed} == {"decode.unknown_schema_id"}
    assert asked == [7, 7]


def test_more_writers_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch and each row finds its own writer again, however often they are forgotten, by id and by GUID."""
    monkeypatch.setattr(writer_schemas, "WRITERS_MAX", 3)
    registry = MemoryRegistry()
    versions = [registry.register(f"w{n}", AvroSchema.parse(record(("a", "int"), (f"x{n}", "int")))) for n in range(8)]
    codec = codec_of(record(("a", "int")), registry)
    values = pa.array([wire.prefix(each.id) + b"\x0e\x00" for each in versions] * 3, pa.large_binary())
    kind = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
    heads = [[{"key": wire.VALUE_GUID_HEADER, "value": wire.guid_header(each.guid)}] for each in versions] * 3
    bare = pa.array([b"\x0e\x00"] * 24, pa.large_binary())
    for _ in range(3):
        assert codec.decode(values).table.column("a").to_pylist() == [7] * 24
        assert codec.decode(bare, pa.array(heads, kind)).table.column("a").to_pylist() == [7] * 24


def test_the_package_is_left_out_where_it_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the codec is the one in Python."""
    monkeypatch.setattr(fastavro_codec, "native", None)
    assert codec_of(record(("f", "int")))._native is None


def reader_of(node: Any) -> tuple[Any, list[Any]]:
    assert native is not None
    columns = Columns(record_shape(AvroSchema.parse(node))).described
    return native.AvroReader(columns, 2**31 - 1), columns


def test_columns_whose_offsets_lie_are_refused() -> None:
    """A mistake of ours reads no memory that is not there."""
    reader, _ = reader_of(record(("f", "int")))
    reader.learn(("record", 0, [("int", 1)]), [], 1)
    data = wire.prefix(1) + b"\x02"
    offsets = np.array([0, 6, 2**40, -5, 3], dtype=np.int64)
    found = reader.read(data, offsets, 0, 4)
    assert np.frombuffer(found.left_rows, np.int64).tolist() == [1, 2, 3]
    for first, count in ((0, 5), (4, 1), (2**63, 2**63), (1, 2**62)):
        with pytest.raises((ValueError, OverflowError)):
            reader.read(data, offsets, first, count)
    with pytest.raises(ValueError, match="ends before"):
        reader.read(data, offsets, 0, 4, b"")
    with pytest.raises(ValueError, match="ends before"):
        reader.read(data, offsets, 0, 4, None, np.zeros(3, dtype=np.int32))
    with pytest.raises(ValueError, match="aligned"):
        reader.read(data, b"12345", 0, 1)
    with pytest.raises(ValueError, match="contiguous"):
        reader.read(data, offsets[::2], 0, 1)


WRONG_STEPS: list[Callable[[], Any]] = [
    lambda: ("int",),
    lambda: ("int", 9),
    lambda: ("nothing", 1),
    lambda: ("record", 0, [("int", 2)]),
    lambda: ("record", 0, [("long", 1)]),
    lambda: ("record", 0, [("enum", 1, [0])]),
    lambda: ("record", 0, [("copy", 1, 8)]),
    lambda: ("record", 0, [("skip", ("forward", -1))]),
    lambda: ("record", 0, [("integer", 1, True, False, 1, 0, 0)]),
]


@pytest.mark.parametrize("steps", WRONG_STEPS)
def test_steps_that_make_no_sense_are_refused(steps: Callable[[], Any]) -> None:
    """When they are taught, not when a record comes."""
    reader, _ = reader_of(record(("f", "int"), ("s", "string")))
    with pytest.raises((ValueError, IndexError, OverflowError, TypeError)):
        reader.learn(steps(), [], 1)


def test_steps_that_leave_a_column_out_are_found_out() -> None:
    """Columns of unequal length never become a table."""
    reader, _ = reader_of(record(("f", "int"), ("s", "string")))
    reader.learn(("record", 0, [("int", 1)]), [], 1)
    with pytest.raises(RuntimeError, match="do not fill column 2"):
        reader.read(wire.prefix(1) + b"\x02", np.array([0, 6], dtype=np.int64), 0, 1)


@pytest.mark.parametrize(
    "columns",
    [[], [("bits", False)], [("struct", False, [0])], [("struct", False, [2]), ("bits", False)], [("odd", False)]],
)
def test_columns_that_make_no_sense_are_refused(columns: list[Any]) -> None:
    """They are a tree below the record."""
    assert native is not None
    with pytest.raises(ValueError, match="no sense"):
        native.AvroReader(columns, 100)


def test_a_batch_lives_longer_than_its_reader() -> None:
    """Columns own their memory: neither the reader nor the batch is needed, and slices outlive their table."""
    codec = codec_of(EVERYTHING)
    values = framed(codec, [body(plainly(EVERYTHING), EVERY_VALUE)] * 50)
    table = codec.decode(values).table
    expected = table.slice(40, 3).to_pylist()
    column = table.slice(40, 3)
    del codec, values, table
    assert column.to_pylist() == expected
