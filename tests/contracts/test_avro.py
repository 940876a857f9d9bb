"""Avro schemas as values: what is one, what it means, when two are the same."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import fastavro
import fastavro.schema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.contracts.avro import AvroField, AvroSchema, SchemaInvalid
from headrace.contracts.avro_logical import decimal_precision_max, logical_type
from headrace.contracts.avro_parse import SCHEMA_DEPTH_MAX
from headrace.errors import Where

RANDOM = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def record(*fields: dict[str, Any], name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, node: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": node, **more}


ORDER = record(
    field("id", {"type": "string", "logicalType": "uuid"}, doc="who", tags=["pii"]),
    field("card", ["null", record(field("number", "string"), name="Card")], default=None),
    field("status", {"type": "enum", "name": "shop.types.Status", "symbols": ["OPEN", "PAID"], "default": "OPEN"}),
    field("was", "shop.types.Status", aliases=["before"], order="ignore"),
    field("old_card", ["null", "Card"], default=None),
    name="Order",
    namespace="shop",
    doc="An order.",
)

# --- Against fastavro ----------------------------------------------------------------------------------------------


@RANDOM
@given(data=st.data())
def test_random_schemas_have_fastavros_canonical_form_and_fingerprint(
    data: st.DataObject, avro_records: st.SearchStrategy[Any]
) -> None:
    """Parsing Canonical Form and CRC-64-AVRO; the text loses nothing."""
    node = data.draw(avro_records).node
    schema = AvroSchema.parse(node)
    canonical = fastavro.schema.to_parsing_canonical_form(copy.deepcopy(node))
    assert schema.canonical == canonical
    fingerprint = fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")
    assert schema.rabin_fingerprint.to_bytes(8, "little").hex() == fingerprint
    assert json.loads(schema.text) == node
    assert AvroSchema.parse(schema.text) == schema
    assert AvroSchema.parse(schema.text).fingerprint == schema.fingerprint
    assert pickle.loads(pickle.dumps(schema)) == schema


def test_the_canonical_form_of_namespaces() -> None:
    """Names in full, no docs, defaults, aliases and logical types: of the specification's rules each one."""
    assert AvroSchema.parse(ORDER).canonical == fastavro.schema.to_parsing_canonical_form(copy.deepcopy(ORDER))
    assert AvroSchema.parse({"type": "long"}).canonical == '"long"'
    assert AvroSchema.parse("long").canonical == '"long"'


# --- What is a schema ----------------------------------------------------------------------------------------------

ENUM = {"type": "enum", "name": "E", "symbols": ["A"]}
INVALID: list[tuple[str, Any, str]] = [
    # name, definition, path to the mistake
    ("unknown type", record(field("f", "strng")), "R.f"),
    ("no type", record({"name": "f"}), "R.f"),
    ("type of a number", record(field("f", 3)), "R.f"),
    ("array without items", record(field("f", {"type": "array"})), "R.f"),
    ("map without values", record(field("f", {"type": "map"})), "R.f"),
    ("bad item", record(field("f", {"type": "array", "items": "x"})), "R.f.items"),
    ("union in a union", record(field("f", ["null", ["int"]])), "R.f[1]"),
    ("branch twice", record(field("f", ["int", "string", "int"])), "R.f[2]"),
    (
        "array twice",
        record(field("f", [{"type": "array", "items": "int"}, {"type": "array", "items": "long"}])),
        "R.f[1]",
    ),
    ("name twice", record(field("f", ENUM), field("g", {**ENUM, "symbols": ["B"]})), "R.g"),
    ("name with a dash", record(field("f", {**ENUM, "name": "a-b"})), "R.f"),
    ("field with a dash", record(field("a-b", "int")), "R.fields[0]"),
    ("field twice", record(field("f", "int"), field("f", "int")), "R"),
    ("name of a type", record(field("f", {**ENUM, "name": "int"})), "R.f"),
    ("symbol twice", record(field("f", {**ENUM, "symbols": ["A", "A"]})), "R.f"),
    ("bad symbol", record(field("f", {**ENUM, "symbols": ["A", "b c"]})), "R.f.symbols[1]"),
    ("enum's default", record(field("f", {**ENUM, "default": "B"})), "R.f"),
    ("fixed without size", record(field("f", {"type": "fixed", "name": "F"})), "R.f"),
    ("negative size", record(field("f", {"type": "fixed", "name": "F", "size": -1})), "R.f"),
    ("record without fields", {"type": "record", "name": "R"}, "R"),
    ("record without name", {"type": "record", "fields": []}, ""),
    ("bad order", record(field("f", "int", order="up")), "R.f"),
    ("default of another type", record(field("f", "int", default="1")), "R.f"),
    ("default beyond an int", record(field("f", "int", default=2**31)), "R.f"),
    ("default of a record", record(field("f", record(field("x", "int"), name="In"), default={})), "R.f"),
    ("default of an enum", record(field("f", ENUM, default="B")), "R.f"),
    ("default of a fixed", record(field("f", {"type": "fixed", "name": "F", "size": 2}, default="a")), "R.f"),
    ("default of an item", record(field("f", {"type": "array", "items": "int"}, default=[1, "a"])), "R.f"),
    ("default of no branch", record(field("f", ["null", "int"], default="a")), "R.f"),
    ("used before it is defined", record(field("f", "E"), field("g", ENUM)), "R.f"),
]


@pytest.mark.parametrize(("definition", "path"), [each[1:] for each in INVALID], ids=[each[0] for each in INVALID])
def test_mistakes_name_their_path(definition: Any, path: str) -> None:
    """Each is refused with the path to it, and with the file and line where they are known."""
    with pytest.raises(SchemaInvalid) as caught:
        AvroSchema.parse(definition, where=Where("orders.avsc", 3))
    assert caught.value.path == path
    assert str(caught.value).startswith("orders.avsc:3: ")
    assert caught.value.code == "contracts.schema_invalid"


def test_text_that_is_no_json_names_its_line() -> None:
    """The line is that of the file, and a constant that JSON lacks is no number."""
    with pytest.raises(SchemaInvalid, match=r"o\.avsc:2: not JSON"):
        AvroSchema.parse('{"type":\n oops}', where=Where("o.avsc"))
    with pytest.raises(SchemaInvalid, match="NaN is not a JSON number"):
        AvroSchema.parse('{"type": "record", "name": "R", "fields": [{"name": "f", "type": "double", "default": NaN}]}')


def test_deep_nesting_is_refused_not_a_crash() -> None:
    """A schema beyond the limit, in JSON or in text; one just below is fine."""

    def nested(depth: int) -> Any:
        node: Any = "int"
        for _ in range(depth):
            node = {"type": "array", "items": node}
        return node

    AvroSchema.parse(nested(SCHEMA_DEPTH_MAX))
    for definition in (nested(SCHEMA_DEPTH_MAX + 1), "[" * 100_000):
        with pytest.raises(SchemaInvalid):
            AvroSchema.parse(definition)


# --- When two are the same -----------------------------------------------------------------------------------------


def test_ways_of_writing_a_schema_do_not_count() -> None:
    """White space, order of keys, names in full or in a namespace, primitives as objects."""
    schema = AvroSchema.parse(ORDER)
    named = {**{key: ORDER[key] for key in reversed(ORDER)}, "name": "shop.Order"}
    del named["namespace"]
    assert AvroSchema.parse(json.dumps(named, indent=3)) == schema
    assert hash(AvroSchema.parse(named)) == hash(schema)
    assert AvroSchema.parse(record(field("f", {"type": "int"}))) == AvroSchema.parse(record(field("f", "int")))


def test_everything_said_counts() -> None:
    """A doc, default, alias, logical type, attribute or the order of fields makes another schema."""
    plain = AvroSchema.parse(record(field("f", "int"), field("g", "int")))
    others = [
        record(field("f", "int", doc="d"), field("g", "int")),
        record(field("f", "int", default=0), field("g", "int")),
        record(field("f", "int", aliases=["h"]), field("g", "int")),
        record(field("f", {"type": "int", "logicalType": "date"}), field("g", "int")),
        record(field("f", "int", tags=["x"]), field("g", "int")),
        record(field("g", "int"), field("f", "int")),
        record(field("f", "int"), field("g", "int"), namespace="n"),
    ]
    schemas = [plain, *map(AvroSchema.parse, others)]
    assert len(set(schemas)) == len(schemas) == len({each.fingerprint for each in schemas})
    assert plain != "a text"


# --- What it knows -------------------------------------------------------------------------------------------------


def test_a_record_and_its_fields() -> None:
    """Names, namespace, docs; of a field its type that can stand alone, default, aliases, other attributes."""
    schema = AvroSchema.parse(ORDER)
    assert (schema.type, schema.fullname, schema.name, schema.namespace) == ("record", "shop.Order", "Order", "shop")
    assert (schema.doc, schema.is_recursive) == ("An order.", False)
    assert [each.name for each in schema.fields] == ["id", "card", "status", "was", "old_card"]
    assert list(schema.names) == ["shop.Order", "shop.Card", "shop.types.Status"]
    was = schema.field("was")
    assert (was.aliases, was.order, was.has_default, was.is_nullable) == (("before",), "ignore", False, False)
    assert was.type == {"type": "enum", "name": "shop.types.Status", "symbols": ["OPEN", "PAID"], "default": "OPEN"}
    assert (schema.field("id").doc, schema.field("id").attributes) == ("who", {"tags": ["pii"]})
    assert (schema.field("card").has_default, schema.field("card").is_nullable) == (True, True)
    with pytest.raises(KeyError):
        schema.field("gone")
    for each in schema.fields:
        AvroSchema.parse(record(each.definition))


def test_recursion_is_known() -> None:
    """Direct or through others; using a type twice is none."""
    linked = record(field("next", ["null", "R"]))
    mutual = record(field("a", record(field("b", {"type": "array", "items": "R"}), name="A")))
    assert AvroSchema.parse(linked).is_recursive
    assert AvroSchema.parse(mutual).is_recursive
    assert not AvroSchema.parse(record(field("f", ENUM), field("g", "E"))).is_recursive


def test_project_takes_fields_in_the_order_asked() -> None:
    """With a new name in the same namespace, or with its own; each type is defined where it is first used."""
    schema = AvroSchema.parse(ORDER)
    key = schema.project(["old_card", "id"], name="OrderKey")
    assert key.fullname == "shop.OrderKey"
    assert [each.name for each in key.fields] == ["old_card", "id"]
    assert key.field("old_card") == schema.field("old_card")
    own = schema.project(["was"])
    assert (own.fullname, own.field("was").type) == ("shop.Order", schema.field("was").type)
    with pytest.raises(KeyError):
        schema.project(["gone"])
    linked = AvroSchema.parse(record(field("next", ["null", "R"]), field("v", "int")))
    assert linked.project(["next"]).is_recursive


def test_a_record_of_fields_of_several_schemas() -> None:
    """Types of one name that differ are told apart, equal ones are shared; the result is a schema to everybody."""
    left = AvroSchema.parse(record(field("f", {**ENUM, "name": "m.E", "symbols": ["A"]})))
    right = AvroSchema.parse(
        record(
            field("g", {**ENUM, "name": "m.E", "symbols": ["B"]}), field("h", record(field("e", "m.E"), name="m.R2"))
        )
    )
    both = AvroSchema.record("n.Both", [*left.fields, *right.fields, AvroField("again", left.field("f").type)])
    fastavro.parse_schema(both.definition, named_schemas={})
    symbols = {each.name: each.type["symbols"] for each in both.fields if each.name in ("f", "g", "again")}  # type: ignore[index,call-overload]
    assert symbols == {"f": ["A"], "g": ["B"], "again": ["A"]}
    assert both.field("f").type == both.field("again").type


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 5}, None),
        ({"type": "bytes", "logicalType": "decimal", "precision": 0}, None),
        ({"type": "bytes", "logicalType": "decimal", "precision": True}, None),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4}, "decimal"),
        ({"type": "fixed", "size": 2, "logicalType": "decimal", "precision": 4}, "decimal"),
        ({"type": "fixed", "size": 2, "logicalType": "decimal", "precision": 5}, None),
        ({"type": "fixed", "size": 15, "logicalType": "uuid"}, None),
        ({"type": "fixed", "size": 12, "logicalType": "duration"}, "duration"),
        ({"type": "int", "logicalType": "timestamp-millis"}, None),
        ({"type": "string", "logicalType": ["uuid"]}, None),
        ("string", None),
        (["null"], None),
    ],
)
def test_annotations_that_do_not_count(node: Any, expected: str | None) -> None:
    """An unknown or invalid logical type is ignored, as the specification asks."""
    assert logical_type(node) == expected


def test_digits_that_a_fixed_holds() -> None:
    """Always, whatever the digits are: one byte holds 99 but not 999."""
    assert [decimal_precision_max(size) for size in range(10)] == [0, 2, 4, 6, 9, 11, 14, 16, 18, 21]
