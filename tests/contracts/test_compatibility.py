"""Compatibility verdicts: the rules one by one, their words, and agreement with another implementation."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.errors import AvroException
from avro.schema import parse as avro_parse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.contracts.avro import AvroSchema, SchemaInvalid
from headrace.contracts.compatibility import Direction, check, reader_differences
from headrace.contracts.compatibility_warnings import warnings
from headrace.contracts.registry import CompatibilityMode

PAIRS = 5_000
PRIMITIVE_NAMES = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"]


def record(*fields: Any, name: str = "R", **more: Any) -> AvroSchema:
    return AvroSchema.parse({"type": "record", "name": name, "fields": list(fields), **more})


def field(name: str, avro_type: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": avro_type, **more}


def codes(reader: Any, writer: Any) -> list[tuple[str, str]]:
    found = reader_differences(AvroSchema.parse(reader), AvroSchema.parse(writer))
    return [(each.code, each.path) for each in found]


@pytest.mark.parametrize("reader", PRIMITIVE_NAMES)
@pytest.mark.parametrize("writer", PRIMITIVE_NAMES)
def test_primitives_promote_as_the_specification_says(reader: str, writer: str) -> None:
    """Every pair of primitives: equal, promoted, or a type mismatch."""
    promoted = {
        *(("long", "int"), ("float", "int"), ("float", "long"), ("double", "int"), ("double", "long")),
        *(("double", "float"), ("bytes", "string"), ("string", "bytes")),
    }
    fits = reader == writer or (reader, writer) in promoted
    assert codes(reader, writer) == ([] if fits else [("type_mismatch", "")])


def test_a_new_field_needs_a_default() -> None:
    """A reader's field that the writer lacks is refused without a default and named by its path."""
    old = record(field("at", {"type": "record", "name": "Place", "fields": []}))
    new = record(field("at", {"type": "record", "name": "Place", "fields": [field("city", "string")]}))
    (reason,) = check(new, [old], CompatibilityMode.BACKWARD)
    assert (reason.code, reason.path) == ("reader_field_missing_default_value", "at.city")
    assert "no default" in reason.message
    assert reason.direction is Direction.BACKWARD
    assert reason.sentence("version 1") == f"version 1, field at.city: {reason.message}"
    assert check(new, [old], CompatibilityMode.FORWARD) == ()


def test_a_null_default_is_a_default() -> None:
    """`default: null` counts, though it looks like nothing."""
    assert codes(record(field("a", ["null", "int"], default=None)).definition, record().definition) == []


@pytest.mark.parametrize(
    ("reader", "writer", "fits"),
    [
        ({"name": "a.R"}, {"name": "b.R"}, True),
        ({"name": "a.R"}, {"name": "a.Q"}, False),
        ({"name": "a.R", "aliases": ["Q"]}, {"name": "a.Q"}, True),
        ({"name": "a.R", "aliases": ["Q"]}, {"name": "b.Q"}, False),
        ({"name": "a.R", "aliases": ["b.Q"]}, {"name": "b.Q"}, True),
        ({"name": "a.R"}, {"name": "a.Q", "aliases": ["R"]}, False),
    ],
)
@pytest.mark.parametrize(
    "body",
    [{"type": "record", "fields": []}, {"type": "enum", "symbols": ["A"]}, {"type": "fixed", "size": 2}],
    ids=lambda body: str(body["type"]),
)
def test_named_types_match_by_short_name_or_reader_alias(
    reader: dict[str, Any], writer: dict[str, Any], fits: bool, body: dict[str, Any]
) -> None:
    """Java's rule: the namespace does not count, an alias does, and only the reader's, in full."""
    assert codes({**body, **reader}, {**body, **writer}) == ([] if fits else [("name_mismatch", "")])


def test_enum_symbols_fixed_sizes_arrays_and_maps() -> None:
    """The rules of the other complex types, each with its path."""
    few = {"type": "enum", "name": "E", "symbols": ["A"]}
    many = {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}
    assert codes(few, many) == [("missing_enum_symbols", "")]
    assert codes(many, few) == []
    assert codes({**few, "default": "A"}, many) == []
    assert codes({"type": "fixed", "name": "F", "size": 3}, {"type": "fixed", "name": "F", "size": 4}) == [
        ("fixed_size_mismatch", "")
    ]
    nested = {"type": "map", "values": {"type": "array", "items": "int"}}
    wrong = {"type": "map", "values": {"type": "array", "items": "string"}}
    assert codes(record(field("m", nested)).definition, record(field("m", wrong)).definition) == [
        ("type_mismatch", "m{}[]")
    ]


def test_unions_of_either_side() -> None:
    """A reader must read every branch that may be written."""
    assert codes(["null", "string"], "string") == []
    assert codes(["null", "string"], ["null"]) == []
    assert codes("string", ["null", "string"]) == [("type_mismatch", "")]
    assert codes(["null", "string"], ["null", "int"]) == [("missing_union_branch", "")]
    assert codes("int", []) == []
    assert codes([], "int") == [("missing_union_branch", "")]


def test_a_refusal_inside_a_union_names_what_is_wrong_inside() -> None:
    """Nullable records are everywhere; "the union lacks a record" would help nobody."""
    inner_old = {"type": "record", "name": "Place", "fields": []}
    inner_new = {"type": "record", "name": "Place", "fields": [field("city", "string")]}
    new, old = record(field("at", ["null", inner_new])), record(field("at", ["null", inner_old]))
    (reason,) = check(new, [old], CompatibilityMode.BACKWARD)
    assert (reason.code, reason.path) == ("reader_field_missing_default_value", "at.city")


def test_a_renamed_field_is_found_by_the_readers_alias() -> None:
    """The alias works where the reader has it, and only there."""
    new, old = record(field("b", "int", aliases=["a"])), record(field("a", "int"))
    assert check(new, [old], CompatibilityMode.BACKWARD) == ()
    assert [each.path for each in check(new, [old], CompatibilityMode.FORWARD)] == ["a"]


def test_recursive_schemas_end() -> None:
    """A list node that holds itself is compared once; a difference inside is reported once."""
    node = {"type": "record", "name": "N", "fields": [field("v", "int"), field("next", ["null", "N"])]}
    wider = {"type": "record", "name": "N", "fields": [field("v", "long"), field("next", ["null", "N"])]}
    assert codes(wider, node) == []
    assert codes(node, wider) == [("type_mismatch", "v")]


def test_every_reason_is_reported() -> None:
    """One check tells all differences, not only the first."""
    new = record(field("a", "int"), field("b", "string"), field("c", "boolean"))
    old = record(field("a", "string"), field("b", "int"))
    assert [each.path for each in check(new, [old], CompatibilityMode.BACKWARD)] == ["a", "b", "c"]


BASE = record(field("a", "int"))
ADDED = record(field("a", "int"), field("b", "int", default=0))
REQUIRED = record(field("a", "int"), field("b", "int"))
MODES = {
    CompatibilityMode.NONE: [],
    CompatibilityMode.BACKWARD: [],
    CompatibilityMode.BACKWARD_TRANSITIVE: [(0, Direction.BACKWARD)],
    CompatibilityMode.FORWARD: [],
    CompatibilityMode.FORWARD_TRANSITIVE: [],
    CompatibilityMode.FULL: [],
    CompatibilityMode.FULL_TRANSITIVE: [(0, Direction.BACKWARD)],
}


@pytest.mark.parametrize("mode", CompatibilityMode)
def test_transitive_modes_look_at_every_version(mode: CompatibilityMode) -> None:
    """`b` comes with a default and then loses it: only the oldest version shows the break."""
    found = check(REQUIRED, [BASE, ADDED], mode)
    assert [(each.against, each.direction) for each in found] == MODES[mode]


@pytest.mark.parametrize("mode", CompatibilityMode)
def test_the_first_version_of_a_subject_is_always_welcome(mode: CompatibilityMode) -> None:
    """Nothing older, nothing to break."""
    assert check(BASE, [], mode) == ()


def test_direction_follows_the_mode() -> None:
    """Narrowing a type breaks old readers one way, widening the other."""
    narrow, wide = record(field("a", "int")), record(field("a", "long"))
    assert check(wide, [narrow], CompatibilityMode.BACKWARD) == ()
    assert [each.direction for each in check(wide, [narrow], CompatibilityMode.FULL)] == [Direction.FORWARD]
    assert [each.direction for each in check(narrow, [wide], CompatibilityMode.FULL)] == [Direction.BACKWARD]


def test_a_changed_logical_type_is_warned_of_but_not_refused() -> None:
    """Java reads microseconds as milliseconds without a word; the verdict agrees, the warning speaks."""
    millis, micros = ({"type": "long", "logicalType": f"timestamp-{unit}"} for unit in ("millis", "micros"))
    cents, mills = ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": scale} for scale in (2, 3))
    old = record(field("at", ["null", millis]), field("price", cents), field("same", cents))
    new = record(field("at", ["null", micros]), field("price", mills), field("same", cents))
    assert check(new, [old], CompatibilityMode.FULL) == ()
    found = {each.path: each for each in warnings(new, old)}
    assert {path: each.code for path, each in found.items()} == {
        "at": "logical_type_changed",
        "price": "decimal_scale_changed",
    }
    assert "timestamp-millis" in found["at"].message
    assert "factor of 10" in found["price"].message


def test_an_alias_beside_its_own_field_is_warned_of() -> None:
    """Java's readers fail on it, the verdict takes the field of the same name."""
    old = record(field("a", "int"), field("b", "int"))
    new = record(field("b", "int", aliases=["a"]))
    assert check(new, [old], CompatibilityMode.BACKWARD) == ()
    assert [each.code for each in warnings(new, old)] == ["ambiguous_alias"]


def test_an_alias_that_another_field_is_called_is_a_warning() -> None:
    """Two fields of the new schema claim one old field; who has its name gets it, and a person should know."""
    old = record(field("a", "int"))
    new = record(field("b", "int", aliases=["a"], default=0), field("a", "int"))
    assert [(each.code, each.path) for each in warnings(new, old)] == [("ambiguous_alias", "b")]


# --- Agreement with the `avro` package, which ports Java's checker -----------------------------------------------


class Maker:
    """Random schemas and small random changes to them; not every one is valid."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.named: list[str] = []

    def schema(self) -> Any:
        self.named = []
        return self.type(3) if self.random.random() < 0.2 else self.record(3)

    def type(self, depth: int) -> Any:
        roll = self.random.random()
        if depth == 0 or roll < 0.45:
            return self.leaf()
        if roll < 0.55:
            return {"type": "array", "items": self.type(depth - 1)}
        if roll < 0.62:
            return {"type": "map", "values": self.type(depth - 1)}
        if roll < 0.8:
            return self.union(depth - 1)
        return self.record(depth - 1)

    def leaf(self) -> Any:
        roll = self.random.random()
        if roll < 0.15 and self.named:
            return self.random.choice(self.named)
        if roll < 0.3:
            symbols = self.random.sample(["A", "B", "C", "D"], self.random.randint(1, 4))
            made: dict[str, Any] = {"type": "enum", **self.name(), "symbols": symbols}
            if self.random.random() < 0.3:
                made["default"] = self.random.choice(symbols)
            return made
        if roll < 0.4:
            return {"type": "fixed", **self.name(), "size": self.random.randint(1, 3)}
        return self.random.choice(PRIMITIVE_NAMES)

    def union(self, depth: int) -> list[Any]:
        return [self.type(depth) for _ in range(self.random.randint(1, 4))]

    def record(self, depth: int) -> Any:
        made = {"type": "record", **self.name()}
        made["fields"] = [self.field(name, depth) for name in self.random.sample("abcdef", self.random.randint(0, 4))]
        return made

    def field(self, name: str, depth: int) -> dict[str, Any]:
        made = {"name": name, "type": self.type(depth)}
        if self.random.random() < 0.2:
            made["aliases"] = self.random.sample("abcdef", self.random.randint(1, 2))
        return self.with_default(made)

    def with_default(self, made: dict[str, Any]) -> dict[str, Any]:
        defaults = {"null": None, "boolean": True, "int": 1, "long": 2, "float": 1.5, "double": 2.5}
        defaults |= {"bytes": "x", "string": "y"}
        made.pop("default", None)
        first = made["type"][0] if isinstance(made["type"], list) and made["type"] else made["type"]
        if isinstance(first, str) and first in defaults and self.random.random() < 0.5:
            made["default"] = defaults[first]
        return made

    def name(self) -> dict[str, Any]:
        short = self.random.choice(["P", "Q", "S", "T", "U", "V"])
        made: dict[str, Any] = {"name": short}
        space = self.random.choice([None, None, "x", "y.z"])
        if space:
            made["namespace"] = space
        if self.random.random() < 0.3:
            made["aliases"] = [self.random.choice(["P", "Q", "x.S", "y.z.T", "x.U", "V"])]
        self.named.append(f"{space}.{short}" if space else short)
        return made

    def changed(self, schema: Any) -> Any:
        """A copy with none to three small changes."""
        schema = [copy.deepcopy(schema)]  # In a list, so that the root has a place too.
        for _ in range(self.random.choice([0, 1, 1, 2, 3])):
            self.change(schema)
        return schema[0]

    def change(self, root: list[Any]) -> None:
        holder, key = self.random.choice(list(places(root)))
        node = holder[key]
        if isinstance(node, dict) and node.get("type") in ("record", "enum", "fixed") and self.random.random() < 0.8:
            self.change_named(node)
        elif isinstance(node, list) and self.random.random() < 0.6:
            if node and self.random.random() < 0.5:
                node.pop(self.random.randrange(len(node)))
            else:
                node.insert(self.random.randint(0, len(node)), self.random.choice(PRIMITIVE_NAMES))
        elif self.random.random() < 0.4:
            holder[key] = self.random.choice([["null", node], [node], {"type": "array", "items": node}])
        else:
            holder[key] = self.leaf()
        if "name" in holder if isinstance(holder, dict) else False:
            self.with_default(holder)

    def change_named(self, node: dict[str, Any]) -> None:
        roll = self.random.random()
        if roll < 0.3:
            old = f"{node['namespace']}.{node['name']}" if "namespace" in node else node["name"]
            node["name"] = self.random.choice(["P", "Q", "S", "W"])
            if self.random.random() < 0.6:
                node["aliases"] = [self.random.choice([old, old.rpartition(".")[2]])]
        elif roll < 0.4:
            node["namespace"] = self.random.choice(["x", "y.z", "w"])
        elif node["type"] == "enum":
            node["symbols"] = self.random.sample(["A", "B", "C", "D", "E"], self.random.randint(1, 5))
            node.pop("default", None)
            if self.random.random() < 0.3:
                node["default"] = node["symbols"][0]
        elif node["type"] == "fixed":
            node["size"] = self.random.randint(1, 3)
        else:
            self.change_fields(node["fields"])

    def change_fields(self, fields: list[dict[str, Any]]) -> None:
        roll = self.random.random()
        if not fields or roll < 0.4:
            fields.append(self.with_default({"name": self.random.choice("abcdefg"), "type": self.leaf()}))
        elif roll < 0.7:
            fields.pop(self.random.randrange(len(fields)))
        else:
            renamed = self.random.choice(fields)
            if self.random.random() < 0.6:
                renamed["aliases"] = [renamed["name"]]
            renamed["name"] = self.random.choice("abcdefg")


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) in the schema's JSON where a type stands."""
    for index in range(len(node)):
        yield node, index
        yield from inner_places(node[index])


def inner_places(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, list):
        yield from places(node)
    elif isinstance(node, dict):
        for key in ("items", "values"):
            if key in node:
                yield node, key
                yield from inner_places(node[key])
        for member in node.get("fields", ()):
            yield member, "type"
            yield from inner_places(member["type"])


def qualified(node: Any, namespace: str = "") -> Any:
    """The schema with short type aliases in full, which the `avro` package forgets to do."""
    if isinstance(node, list):
        return [qualified(each, namespace) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") not in ("record", "enum", "fixed"):
        inner = {key: qualified(node[key], namespace) for key in ("items", "values") if key in node}
        return {**node, **inner}
    own = node["name"].rpartition(".")[0] or node.get("namespace", namespace)
    made = dict(node)
    if "aliases" in node:
        made["aliases"] = [each if "." in each or not own else f"{own}.{each}" for each in node["aliases"]]
    if "fields" in node:
        made["fields"] = [{**each, "type": qualified(each["type"], own)} for each in node["fields"]]
    return made


def parsed(definition: Any) -> tuple[AvroSchema, Any] | None:
    """The schema in both implementations, None unless both take it as valid."""
    try:
        return AvroSchema.parse(definition), avro_parse(json.dumps(qualified(definition)))
    except (SchemaInvalid, AvroException):
        return None


def pairs(seed: int) -> Iterator[tuple[AvroSchema, Any, AvroSchema, Any]]:
    """Endless (reader, its twin in the other package, writer, its twin)."""
    maker = Maker(random.Random(seed))
    while True:
        base = maker.schema()
        reader, writer = parsed(maker.changed(base)), parsed(maker.changed(base))
        if reader and writer:
            yield (*reader, *writer)


def assert_agrees(reader: AvroSchema, other_reader: Any, writer: AvroSchema, other_writer: Any) -> bool:
    verdict = ReaderWriterCompatibilityChecker().get_compatibility(other_reader, other_writer)
    theirs = verdict.compatibility is SchemaCompatibilityType.compatible
    ours = reader_differences(reader, writer)
    assert (not ours) == theirs, f"reader {reader.text}\nwriter {writer.text}\nours {ours}\ntheirs {verdict.messages}"
    return theirs


def test_verdicts_equal_those_of_the_avro_package_on_5000_pairs() -> None:
    """Related random schemas, so that both verdicts are common, recursion, aliases and unions included."""
    source = pairs(seed=2013)
    verdicts = Counter(assert_agrees(*next(source)) for _ in range(PAIRS))
    assert min(verdicts.values()) > PAIRS // 5
    assert len(verdicts) == 2


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(min_value=0, max_value=2**32))
def test_verdicts_equal_those_of_the_avro_package_on_any_seed(seed: int) -> None:
    """As above with seeds that change from run to run."""
    assert_agrees(*next(pairs(seed)))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(min_value=0, max_value=2**32))
def test_a_schema_reads_itself(seed: int) -> None:
    """Whatever the schema, it is compatible with itself in the strictest mode."""
    schema = next(pairs(seed))[0]
    assert check(schema, [schema, schema], CompatibilityMode.FULL_TRANSITIVE) == ()
