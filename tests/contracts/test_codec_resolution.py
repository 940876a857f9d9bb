"""Records written with one schema and read with another: Avro's schema resolution, with fastavro as the oracle."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contracts.ways import WAYS, read_by

from headrace.contracts import wire
from headrace.contracts.avro import AvroSchema
from headrace.contracts.codec import Decoded
from headrace.contracts.compatibility import check
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.registry import CompatibilityMode
from headrace.contracts.registry_memory import MemoryRegistry


def field(name: str, node: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": node, **more}


def record(*fields: dict[str, Any], name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def enum(*symbols: str, name: str = "E", **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols), **more}


def logical(base: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": base, "logicalType": kind, **more}


def body(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(copy.deepcopy(schema), named_schemas={}), value)
    return out.getvalue()


def read(writer: Any, reader: Any, *values: Any) -> Decoded:
    """Values written with `writer`, decoded by a codec of `reader`; all ways of reading give the same."""
    registry = MemoryRegistry()
    registered = registry.register("writer", AvroSchema.parse(writer))
    framed = wire.frame(pa.array([body(writer, each) for each in values], pa.large_binary()), registered.id)
    found = []
    for way in WAYS:
        with read_by(way):
            found.append(open_codec(AvroSchema.parse(reader), registry, "t-value").decode(framed))
        found[-1].table.validate(full=True)
        assert found[-1].table.equals(found[0].table, check_metadata=True)
        assert found[-1].failed == found[0].failed
    return found[0]


def values_of(decoded: Decoded) -> list[Any]:
    """The only column of a batch in which nothing failed."""
    assert not decoded.failed
    assert decoded.table.num_columns == 1
    return list(decoded.table.column(0).to_pylist())


def one(writer: Any, reader: Any, *values: Any) -> list[Any]:
    """Values of one field of these types."""
    return values_of(read(record(field("f", writer)), record(field("f", reader)), *({"f": each} for each in values)))


def code_of(writer: Any, reader: Any, *values: Any) -> tuple[str, str]:
    """The code and message that every row fails with."""
    decoded = read(writer, reader, *values)
    assert decoded.table.num_rows == 0
    ((code, message),) = {(each.code, each.message) for each in decoded.failed}
    return code, message


# --- Types ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("writer", "reader", "given", "expected"),
    [
        ("int", "long", -7, -7),
        ("int", "float", 2**24 + 1, float(2**24)),
        ("int", "double", 2**31 - 1, float(2**31 - 1)),
        ("long", "float", 2**40, float(2**40)),
        ("long", "double", -(2**63), -float(2**63)),
        ("float", "double", 0.5, 0.5),
        ("string", "bytes", "é", "é".encode()),
        ("bytes", "string", "é".encode(), "é"),
        ("int", ["null", "long"], 1, 1),
        ("int", ["null", "string", "double"], 1, {"string": None, "double": 1.0}),
        ("string", ["bytes", "null"], "a", b"a"),
        (["null", "int"], ["int", "null"], None, None),
        (["null", "int"], ["null", "string", "long"], 3, {"string": None, "long": 3}),
        (["null", "int"], ["null", "string", "long"], None, None),
        (["int", "null"], "int", 4, 4),
        (["int", "string"], ["string", "int"], "a", {"string": "a", "int": None}),
        ({"type": "array", "items": "int"}, {"type": "array", "items": ["null", "long"]}, [1, 2], [1, 2]),
        ({"type": "map", "values": "int"}, {"type": "map", "values": "double"}, {"k": 1}, [("k", 1.0)]),
        (enum("A", "B"), enum("B", "C", "A"), "A", "A"),
        (enum("A", "B", "C"), enum("B", "X", default="X"), "C", "X"),
        (enum("A", name="a.E"), enum("A", name="b.E"), "A", "A"),
        (enum("A", name="Old"), enum("A", name="New", aliases=["Old"]), "A", "A"),
        ({"type": "fixed", "name": "F", "size": 1}, {"type": "fixed", "name": "n.F", "size": 1}, b"x", b"x"),
        (
            {"type": "fixed", "name": "F", "size": 1},
            {"type": "fixed", "name": "G", "size": 1, "aliases": ["F"]},
            b"x",
            b"x",
        ),
    ],
)
def test_types_that_resolve(writer: Any, reader: Any, given: Any, expected: Any) -> None:
    """Promotions, unions on either side, enums with other symbols or a default, names and aliases."""
    assert one(writer, reader, given) == [expected]


@pytest.mark.parametrize(
    ("writer", "reader", "value"),
    [
        ("long", "int", 1),
        ("double", "float", 0.5),
        ("double", "long", 1.0),
        ("string", "int", "1"),
        ("int", "string", 1),
        ("int", "boolean", 1),
        ({"type": "array", "items": "int"}, {"type": "map", "values": "int"}, []),
        ({"type": "array", "items": "string"}, {"type": "array", "items": "int"}, []),
        (enum("A", name="E"), enum("A", name="Other"), "A"),
        ({"type": "fixed", "name": "F", "size": 1}, {"type": "fixed", "name": "F", "size": 2}, b"x"),
        ({"type": "fixed", "name": "F", "size": 1}, "bytes", b"x"),
        (["int", "long"], ["string", "null"], 1),
        (record(field("x", "int"), name="In"), "int", {"x": 1}),
    ],
)
def test_types_that_do_not_resolve(writer: Any, reader: Any, value: Any) -> None:
    """Every row of such a writer fails with `decode.schema_resolution`, by the field's name; nothing is guessed."""
    code, message = code_of(record(field("f", writer)), record(field("f", reader)), {"f": value}, {"f": value})
    assert code == "decode.schema_resolution"
    assert "f" in message.split(":")[1]


def test_only_values_of_a_lost_branch_fail() -> None:
    """A reader with fewer branches or symbols reads the rows that it can."""
    writer = record(field("f", ["null", "int", "string"]), field("e", enum("A", "B")))
    reader = record(field("f", ["null", "int"]), field("e", enum("B")))
    rows = [{"f": 1, "e": "B"}, {"f": "a", "e": "B"}, {"f": None, "e": "A"}, {"f": None, "e": "B"}]
    decoded = read(writer, reader, *rows)
    assert decoded.table.to_pylist() == [{"f": 1, "e": "B"}, {"f": None, "e": "B"}]
    assert decoded.rows.tolist() == [0, 3]
    assert [(each.row, each.code) for each in decoded.failed] == [
        (1, "decode.schema_resolution"),
        (2, "decode.schema_resolution"),
    ]
    assert "no 'A'" in decoded.failed[1].message


def test_a_nullable_writer_of_a_required_field_fails_its_nulls() -> None:
    """The values are read, a null fails its row alone."""
    writer, reader = record(field("f", ["null", "int"])), record(field("f", "int"))
    decoded = read(writer, reader, {"f": 1}, {"f": None}, {"f": 3})
    assert decoded.table.to_pylist() == [{"f": 1}, {"f": 3}]
    assert [(each.row, each.code) for each in decoded.failed] == [(1, "decode.schema_resolution")]


# --- Logical types -------------------------------------------------------------------------------------------------

MILLIS, MICROS, NANOS = (logical("long", f"timestamp-{unit}") for unit in ("millis", "micros", "nanos"))
CENTS = logical("bytes", "decimal", precision=9, scale=2)


def test_units_and_scales_are_converted() -> None:
    """A later time or decimal of another unit or scale means the same; what would lose digits fails its row."""
    moment = datetime(2024, 1, 1, 0, 0, 0, 1000, UTC)
    assert one(MILLIS, MICROS, moment) == [moment]
    assert one(MICROS, MILLIS, moment) == [moment]
    assert one(CENTS, CENTS | {"scale": 3}, Decimal("1.25")) == [Decimal("1.250")]
    decoded = read(
        record(field("f", MICROS)), record(field("f", MILLIS)), {"f": moment}, {"f": moment.replace(microsecond=1)}
    )
    assert (decoded.rows.tolist(), [each.code for each in decoded.failed]) == ([0], ["decode.schema_resolution"])
    decoded = read(
        record(field("f", CENTS)),
        record(field("f", CENTS | {"scale": 1})),
        {"f": Decimal("1.25")},
        {"f": Decimal("1.20")},
    )
    assert (decoded.rows.tolist(), [each.code for each in decoded.failed]) == ([1], ["decode.schema_resolution"])
    far = record(field("f", MILLIS)), record(field("f", NANOS))
    assert code_of(*far, {"f": 2**62}) == ("decode.invalid", "a time out of range as timestamp-nanos")


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (MILLIS, logical("long", "local-timestamp-millis")),
        (MILLIS, logical("long", "time-micros")),
        (logical("int", "date"), logical("int", "time-millis")),
        ("string", CENTS),
    ],
)
def test_logical_types_that_mean_something_else_do_not_resolve(writer: Any, reader: Any) -> None:
    """A time of day is no instant, an instant no local time: the rows fail, none is reinterpreted."""
    value = "1" if writer == "string" else 0
    code, _ = code_of(record(field("f", writer)), record(field("f", reader)), {"f": value})
    assert code == "decode.schema_resolution"


def test_a_side_without_logical_type_means_the_raw_value() -> None:
    """As the specification has it, in both directions; a value that the logical type does not have fails."""
    assert one(logical("int", "date"), "int", 19_000) == [19_000]
    assert one("long", MILLIS, 1000) == [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]
    assert one("int", MILLIS, 1000) == [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]
    decoded = read(record(field("f", "string")), record(field("f", logical("string", "uuid"))), {"f": "no uuid"})
    assert [each.code for each in decoded.failed] == ["decode.invalid"]
    decoded = read(record(field("f", "int")), record(field("f", logical("int", "time-millis"))), {"f": -1})
    assert [each.code for each in decoded.failed] == ["decode.invalid"]


# --- Fields --------------------------------------------------------------------------------------------------------


def test_fields_by_name_in_any_order() -> None:
    """Fields are found by name; what the reader does not know is passed over, in nested records too."""
    inner = record(field("p", "string"), field("q", "int"), name="In")
    writer = record(
        field("a", "int"), field("gone", {"type": "map", "values": "string"}), field("in", inner), field("b", "string")
    )
    reader = record(field("b", "string"), field("in", record(field("q", "long"), name="In")), field("a", "long"))
    row = {"a": 1, "gone": {"k": "v"}, "in": {"p": "x", "q": 2}, "b": "z"}
    assert read(writer, reader, row).table.to_pylist() == [{"b": "z", "in": {"q": 2}, "a": 1}]


DEFAULTS: list[tuple[Any, Any, Any]] = [
    # type, default in JSON, value in the column
    ("null", None, None),
    ("boolean", True, True),
    ("int", -3, -3),
    ("long", 2**40, 2**40),
    ("float", 1, 1.0),
    ("double", 0.1, 0.1),
    ("bytes", "\u00ff\u0000", b"\xff\0"),
    ("string", "é", "é"),
    ({"type": "fixed", "name": "F", "size": 2}, "a\u00ff", b"a\xff"),
    (enum("A", "B"), "B", "B"),
    ({"type": "array", "items": "int"}, [1, 2], [1, 2]),
    ({"type": "map", "values": ["null", "int"]}, {"k": None}, [("k", None)]),
    (["null", "int"], None, None),
    (["int", "null"], 5, 5),
    (["null", "int", "string"], "a", {"int": None, "string": "a"}),
    (record(field("x", "int"), field("y", "string", default="d"), name="In"), {"x": 1}, {"x": 1, "y": "d"}),
    (logical("int", "date"), 0, date(1970, 1, 1)),
    (MILLIS, 1000, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
    (CENTS, "\u0000\u00ff", Decimal("2.55")),
    (logical("string", "uuid"), "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000001"),
    (
        logical("fixed", "duration", name="P", size=12),
        "\u0001" + "\0" * 11,
        {"months": 1, "days": 0, "milliseconds": 0},
    ),
]


@pytest.mark.parametrize(("node", "default", "expected"), DEFAULTS)
def test_a_field_that_the_writer_lacks_takes_its_default(node: Any, default: Any, expected: Any) -> None:
    """For every type; the same default is written for a column that a table lacks."""
    reader = record(field("f", node, default=default))
    assert values_of(read(record(field("other", "int")), reader, {"other": 1}, {"other": 2})) == [expected, expected]
    codec = open_codec(AvroSchema.parse(reader), MemoryRegistry(), "t-value")
    encoded = codec.encode(pa.table({"other": [1, 2]}))
    assert not encoded.failed
    assert values_of(codec.decode(encoded.values)) == [expected, expected]


def test_a_field_without_default_that_the_writer_lacks_does_not_resolve() -> None:
    """Named in the message; a column that is not asked for is not missed."""
    writer, reader = record(field("a", "int")), record(field("a", "int"), field("b", "int"))
    code, message = code_of(writer, reader, {"a": 1})
    assert (code, "b: the writer does not have it" in message) == ("decode.schema_resolution", True)
    registry = MemoryRegistry()
    registered = registry.register("writer", AvroSchema.parse(writer))
    codec = open_codec(AvroSchema.parse(reader), registry, "t-value", columns=["a"])
    assert codec.decode(
        wire.frame(pa.array([body(writer, {"a": 1})], pa.large_binary()), registered.id)
    ).table.to_pylist() == [{"a": 1}]


@pytest.mark.parametrize("order", list(itertools.permutations(["old", "new", "older"])))
def test_the_own_name_wins_over_aliases_in_any_order(order: tuple[str, ...]) -> None:
    """A writer with a field and also its former names gives the field of the very name, as `schema check` says."""
    writer = record(*(field(name, "string") for name in order))
    reader = record(field("new", "string", aliases=["old", "older"]))
    assert values_of(read(writer, reader, {name: name for name in order})) == ["new"]


@pytest.mark.parametrize("order", [["old", "older"], ["older", "old"]])
def test_of_several_aliases_the_first_counts(order: list[str]) -> None:
    """The order is the reader's, not the writer's, as in the compatibility check."""
    writer = record(*(field(name, "string") for name in order))
    reader = record(field("new", "string", aliases=["old", "older"]))
    assert values_of(read(writer, reader, {name: name for name in order})) == ["old"]


@pytest.mark.parametrize("names", [["new", "old"], ["old", "new"]])
def test_a_field_is_nobodys_alias_where_it_has_its_own_place(names: list[str]) -> None:
    """A reader with the old field and a new one aliased to it gives the old its value and the new its default."""
    own = {"old": field("old", "int"), "new": field("new", "int", aliases=["old"], default=-1)}
    decoded = read(record(field("old", "int")), record(*(own[name] for name in names)), {"old": 7})
    assert decoded.table.to_pylist() == [{name: {"old": 7, "new": -1}[name] for name in names}]


def test_aliases_of_fields_types_and_nested_records() -> None:
    """Renamed at every level at once; a record outside a union may have any name, as in Java."""
    old = record(
        field("a", record(field("x", "int"), name="n.Old")),
        field("e", {"type": "array", "items": enum("A", name="OldE")}),
    )
    new = record(
        field("b", record(field("y", "int", aliases=["x"]), name="m.New"), aliases=["a"]),
        field("e", {"type": "array", "items": enum("A", name="NewE", aliases=["OldE"])}),
        name="Other",
    )
    assert read(old, new, {"a": {"x": 1}, "e": ["A"]}).table.to_pylist() == [{"b": {"y": 1}, "e": ["A"]}]


def test_records_in_unions_are_told_apart_by_name() -> None:
    """Two records of one shape go to the branch of their name, or of its alias, wherever it stands."""
    a, b = (record(field("x", "int"), name=name) for name in ("A", "B"))
    reader = record(field("f", ["null", record(field("x", "int"), name="C", aliases=["B"]), a]))
    writer = record(field("f", [a, b]))
    decoded = read(writer, reader, {"f": ("A", {"x": 1})}, {"f": ("B", {"x": 2})})
    assert decoded.table.column("f").to_pylist() == [{"C": None, "A": {"x": 1}}, {"C": {"x": 2}, "A": None}]


def test_recursive_types_evolve_below_too() -> None:
    """New fields get their defaults, renamed and dropped ones follow, in the JSON of each inner value."""
    writer = record(field("v", "int"), field("gone", "string"), field("next", ["null", "R"]), name="R")
    reader = record(
        field("next", ["null", "R"]), field("value", "long", aliases=["v"]), field("more", "int", default=9), name="R"
    )
    value = {"v": 1, "gone": "x", "next": {"v": 2, "gone": "y", "next": {"v": 3, "gone": "", "next": None}}}
    decoded = read(writer, reader, value)
    assert not decoded.failed
    (row,) = decoded.table.to_pylist()
    assert (row["value"], row["more"]) == (1, 9)
    assert row["next"] == '{"next":{"R":{"next":null,"value":3,"more":9}},"value":2,"more":9}'


def test_several_writers_in_one_batch_keep_the_order() -> None:
    """Rows of three versions, one of them unreadable and one of a schema that nobody knows, interleaved."""
    registry = MemoryRegistry()
    first, second = record(field("a", "int")), record(field("b", "string"), field("a", "long"))
    other = record(field("z", "int"))
    ids = {}
    for name, schema in (("first", first), ("second", second), ("other", other)):
        ids[name] = registry.register(name, AvroSchema.parse(schema)).id

    def value(name: str, schema: Any, row: Any) -> bytes:
        return wire.prefix(ids[name]) + body(schema, row)

    rows = [
        value("second", second, {"b": "x", "a": 0}),
        value("first", first, {"a": 1}),
        value("other", other, {"z": 2}),
        wire.prefix(12345) + b"\x02",
        value("first", first, {"a": 4}),
        value("second", second, {"b": "", "a": 5}),
    ]
    for way in WAYS:
        with read_by(way):
            codec = open_codec(AvroSchema.parse(record(field("a", "long"))), registry, "t-value")
            decoded = codec.decode(pa.array(rows * 20, pa.large_binary()))
        assert decoded.table.column("a").to_pylist() == [0, 1, 4, 5] * 20
        assert decoded.rows.tolist() == [6 * turn + row for turn in range(20) for row in (0, 1, 4, 5)]
        assert [(each.row % 6, each.code) for each in decoded.failed] == [
            (2, "decode.schema_resolution"),
            (3, "decode.unknown_schema_id"),
        ] * 20


def test_a_schema_registered_later_is_found_by_the_next_batch() -> None:
    """An unknown id fails its rows now, not for ever."""
    registry = MemoryRegistry()
    schema = AvroSchema.parse(record(field("a", "int")))
    codec = open_codec(schema, registry, "t-value")
    values = pa.array([wire.prefix(1) + b"\x02"], pa.large_binary())
    assert [each.code for each in codec.decode(values).failed] == ["decode.unknown_schema_id"]
    assert registry.register("t-value", schema).id == 1
    assert codec.decode(values).table.to_pylist() == [{"a": 1}]


# --- Random changes ------------------------------------------------------------------------------------------------

PROMOTED = {"int": ["long", "float", "double"], "long": ["float", "double"], "float": ["double"], "string": ["bytes"]}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**20), 2**20),
    "long": st.integers(-(2**20), 2**20),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "string": st.text("aé✓", max_size=5),
    "bytes": st.binary(max_size=5),
    "boolean": st.booleans(),
}

Values = st.SearchStrategy[Any]


@st.composite
def changed_types(draw: st.DrawFn, name: Callable[[], str], depth: int = 2) -> tuple[Any, Any, Values]:
    """A writer's type, a reader's that resolves from it, and values of the writer's."""
    kind = draw(st.sampled_from([*VALUES, "enum", *(["array", "map", "record", "nullable"] if depth else [])]))
    if kind in VALUES:
        reader = draw(st.sampled_from([kind, *PROMOTED.get(kind, [])]))
        nullable = draw(st.booleans())
        return kind, ["null", reader] if nullable else reader, VALUES[kind]
    if kind == "enum":
        symbols = draw(st.lists(st.sampled_from("ABCD"), min_size=1, unique=True))
        more = draw(st.permutations([*symbols, "X"]))
        named = name()
        return enum(*symbols, name=named), enum(*more, name=named), st.sampled_from(symbols)
    writer, reader, values = draw(changed_types(name, depth - 1).filter(lambda t: not isinstance(t[0], list)))
    if kind == "array":
        return {"type": "array", "items": writer}, {"type": "array", "items": reader}, st.lists(values, max_size=3)
    if kind == "map":
        pairs = st.dictionaries(st.text("abc", max_size=3), values, max_size=3)
        return {"type": "map", "values": writer}, {"type": "map", "values": reader}, pairs
    if kind == "nullable":
        branch = reader[1] if isinstance(reader, list) else reader
        return ["null", writer], [branch, "null"], st.one_of(st.none(), values)
    return draw(changed_records(name, depth - 1))


@st.composite
def changed_records(draw: st.DrawFn, name: Callable[[], str], depth: int = 2) -> tuple[Any, Any, Values]:
    """Fields kept, dropped, renamed, added and put in another order."""
    writers, readers, values = [], [], {}
    for number in range(draw(st.integers(1, 4))):
        writer, reader, each = draw(changed_types(name, depth))
        writers.append(field(f"f{number}", writer))
        values[f"f{number}"] = each
        fate = draw(st.sampled_from(["kept", "kept", "dropped", "renamed"]))
        if fate == "kept":
            readers.append(field(f"f{number}", reader))
        elif fate == "renamed":
            readers.append(field(f"g{number}", reader, aliases=["no", f"f{number}"]))
    if draw(st.booleans()):
        readers.append(field("added", ["null", "int"], default=None))
        readers.append(field("more", {"type": "array", "items": "string"}, default=["d"]))
    named = name()
    return (
        record(*writers, name=named),
        record(*draw(st.permutations(readers)), name=named),
        st.fixed_dictionaries(values),
    )


def as_shown(node: Any, value: Any) -> Any:
    """A value that fastavro read, as the column shows it."""
    if isinstance(node, list):
        return None if value is None else as_shown(next(each for each in node if each != "null"), value)
    if isinstance(node, str):
        return value
    if node["type"] == "array":
        return [as_shown(node["items"], each) for each in value]
    if node["type"] == "map":
        return [(key, as_shown(node["values"], each)) for key, each in value.items()]
    if node["type"] == "record":
        return {each["name"]: as_shown(each["type"], value[each["name"]]) for each in node["fields"]}
    return value


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_changes_read_as_fastavro_reads_them(data: st.DataObject) -> None:
    """Whatever was kept, dropped, renamed, added, promoted or reordered, at any depth; and no such change is called
    incompatible."""
    counter = itertools.count()
    writer, reader, values = data.draw(changed_records(lambda: f"T{next(counter)}"))
    reader["fields"].append(field("always", "string", default=""))  # A table without columns has no rows to compare.
    rows = data.draw(st.lists(values, min_size=1, max_size=4))
    decoded = read(writer, reader, *rows)
    assert not decoded.failed
    parsed = [fastavro.parse_schema(copy.deepcopy(each), named_schemas={}) for each in (writer, reader)]
    expected = [fastavro.schemaless_reader(io.BytesIO(body(writer, row)), *parsed) for row in rows]
    table = decoded.table
    assert [table.slice(at, 1).to_pylist()[0] for at in range(table.num_rows)] == [
        as_shown(reader, each) for each in expected
    ]
    assert check(AvroSchema.parse(reader), [AvroSchema.parse(writer)], CompatibilityMode.BACKWARD) == ()
