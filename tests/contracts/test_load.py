"""Contract files: what they may say, and how their mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import EVENT_TIME_AHEAD_MAX_MS, Contract, KeyEncoding, TopicKind
from headrace.contracts.load import ContractInvalid, ContractsInvalid, load_contract, load_contracts
from headrace.contracts.record_name import nested_namespace, record_name
from headrace.contracts.registry import CompatibilityMode
from headrace.contracts.yaml_source import YamlInvalid

DEPARTED = """\
topic: flights.departed
owner: flight-ops
description: One event per departure from a New York airport.
kind: event                 # event | table (latest per key) | change (Debezium envelope)
key: [carrier, flight, scheduled_at]
time: scheduled_at          # event time; default: the record's timestamp
compatibility: backward
retention: 7d
fields:
  carrier:      {type: string, doc: IATA airline code}
  flight:       int
  scheduled_at: timestamp-millis
  tailnum:      {type: "string?", tags: [asset-id]}
  dep_delay:    {type: "double?", unit: minutes}
"""


def load(folder: Path, text: str, name: str = "c.yaml") -> Contract:
    path = folder / name
    path.write_text(dedent(text), encoding="utf-8")
    return load_contract(path)


def load_fields(folder: Path, fields: str) -> Contract:
    """A contract with these lines under `fields:`, which begin on line 3."""
    body = "".join(f"  {line}\n" for line in dedent(fields).strip("\n").split("\n"))
    return load(folder, f"topic: a.orders\nfields:\n{body}")


def avro_of(folder: Path, form: str) -> Any:
    """The Avro field of one field form."""
    definition = load_fields(folder, f"x: {form}").schema.definition
    assert isinstance(definition, dict)
    (made,) = definition["fields"]
    return {key: value for key, value in made.items() if key != "name"}


def problems(folder: Path, text: str) -> list[str]:
    """Each problem without the folder's name."""
    with pytest.raises(ContractInvalid) as caught:
        load(folder, text)
    return [str(each).replace(f"{folder}/", "") for each in caught.value.problems]


def field_problems(folder: Path, fields: str) -> list[str]:
    with pytest.raises(ContractInvalid) as caught:
        load_fields(folder, fields)
    return [str(each).replace(f"{folder}/", "") for each in caught.value.problems]


def test_the_contract_of_the_design(tmp_path: Path) -> None:
    """Every key arrives, and the schema is the Avro that one would write by hand."""
    contract = load(tmp_path, DEPARTED)
    assert contract.topic == "flights.departed"
    assert contract.owner == "flight-ops"
    assert contract.kind is TopicKind.EVENT
    assert contract.key == ("carrier", "flight", "scheduled_at")
    assert (contract.time, contract.time_ahead_max_ms) == ("scheduled_at", EVENT_TIME_AHEAD_MAX_MS)
    assert contract.compatibility is CompatibilityMode.BACKWARD
    assert contract.retention_ms == 7 * 86_400_000
    assert contract.partitions is None
    assert contract.tags == {"tailnum": ("asset-id",)}
    assert contract.units == {"dep_delay": "minutes"}
    assert str(contract.where) == f"{tmp_path}/c.yaml:1"
    assert contract.schema == AvroSchema.parse(
        {
            "type": "record",
            "name": "Departed",
            "namespace": "flights",
            "doc": "One event per departure from a New York airport.",
            "fields": [
                {"name": "carrier", "type": "string", "doc": "IATA airline code"},
                {"name": "flight", "type": "int"},
                {"name": "scheduled_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
                {"name": "tailnum", "type": ["null", "string"], "default": None},
                {"name": "dep_delay", "type": ["null", "double"], "default": None},
            ],
        }
    )
    assert contract.key_schema is not None
    assert contract.key_schema.fullname == "flights.DepartedKey"


def test_the_least_contract(tmp_path: Path) -> None:
    """A topic and a field are enough."""
    contract = load(tmp_path, "topic: t\nfields: {a: int}")
    assert contract == Contract(topic="t", schema=contract.schema, where=contract.where)
    assert contract.retention_ms is None


def test_all_other_keys(tmp_path: Path) -> None:
    """Time with a bound, a text key, for ever, partitions, tags and units beside the fields."""
    contract = load(
        tmp_path,
        """\
        topic: planes
        kind: table
        key: tailnum
        key_encoding: string
        time: {field: at, ahead_max: 1h}
        compatibility: FULL-transitive
        retention: forever
        partitions: 12
        fields: {tailnum: string, at: "timestamp-micros?", weight: {type: double, tags: heavy}}
        tags: {tailnum: asset-id, weight: [big]}
        units: {weight: kg}
        """,
    )
    assert contract.kind is TopicKind.TABLE
    assert contract.key == ("tailnum",)
    assert contract.key_encoding is KeyEncoding.STRING
    assert (contract.time, contract.time_ahead_max_ms) == ("at", 3_600_000)
    assert contract.compatibility is CompatibilityMode.FULL_TRANSITIVE
    assert (contract.retention_ms, contract.partitions) == (None, 12)
    assert contract.tags == {"tailnum": ("asset-id",), "weight": ("heavy", "big")}
    assert contract.units == {"weight": "kg"}


@pytest.mark.parametrize("primitive", ["boolean", "int", "long", "float", "double", "bytes", "string"])
def test_primitives(tmp_path: Path, primitive: str) -> None:
    """By their Avro names, nullable with a question mark."""
    assert avro_of(tmp_path, primitive) == {"type": primitive}
    assert avro_of(tmp_path, f"{primitive}?") == {"type": ["null", primitive], "default": None}


@pytest.mark.parametrize(
    ("form", "made"),
    [
        ("null", {"type": "null"}),
        ("date", {"type": {"type": "int", "logicalType": "date"}}),
        ("time-millis", {"type": {"type": "int", "logicalType": "time-millis"}}),
        ("time-micros", {"type": {"type": "long", "logicalType": "time-micros"}}),
        ("timestamp-nanos", {"type": {"type": "long", "logicalType": "timestamp-nanos"}}),
        ("local-timestamp-micros", {"type": {"type": "long", "logicalType": "local-timestamp-micros"}}),
        ("uuid", {"type": {"type": "string", "logicalType": "uuid"}}),
        (
            "{type: uuid, size: 16}",
            {"type": {"type": "fixed", "name": "a.orders.X", "size": 16, "logicalType": "uuid"}},
        ),
        ("decimal(12,2)", {"type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}}),
        ("decimal(5)", {"type": {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 0}}),
        (
            '{type: "decimal(5,1)", size: 4, name: Price}',
            {
                "type": {
                    "type": "fixed",
                    "name": "a.orders.Price",
                    "size": 4,
                    "logicalType": "decimal",
                    "precision": 5,
                    "scale": 1,
                }
            },
        ),
        ("duration", {"type": {"type": "fixed", "name": "a.orders.X", "size": 12, "logicalType": "duration"}}),
        ("fixed(4)", {"type": {"type": "fixed", "name": "a.orders.X", "size": 4}}),
        ("{type: fixed, size: 4}", {"type": {"type": "fixed", "name": "a.orders.X", "size": 4}}),
        ("array<int>", {"type": {"type": "array", "items": "int"}}),
        ("list<string?>?", {"type": ["null", {"type": "array", "items": ["null", "string"]}], "default": None}),
        (
            "map<array<date>>",
            {"type": {"type": "map", "values": {"type": "array", "items": {"type": "int", "logicalType": "date"}}}},
        ),
        ("{type: array, items: long}", {"type": {"type": "array", "items": "long"}}),
        (
            "{type: map, values: {type: enum, symbols: [A]}}",
            {"type": {"type": "map", "values": {"type": "enum", "name": "a.orders.X", "symbols": ["A"]}}},
        ),
        (
            "{type: enum, symbols: [A, B], fallback: A, default: B}",
            {"type": {"type": "enum", "name": "a.orders.X", "symbols": ["A", "B"], "default": "A"}, "default": "B"},
        ),
        ("{symbols: [A], name: other.Kind}", {"type": {"type": "enum", "name": "other.Kind", "symbols": ["A"]}}),
        (
            "{fields: {lat: double, lon: double}}",
            {
                "type": {
                    "type": "record",
                    "name": "a.orders.X",
                    "fields": [{"name": "lat", "type": "double"}, {"name": "lon", "type": "double"}],
                }
            },
        ),
        (
            "{type: array<record>, fields: {n: int}}",
            {
                "type": {
                    "type": "array",
                    "items": {"type": "record", "name": "a.orders.X", "fields": [{"name": "n", "type": "int"}]},
                }
            },
        ),
        (
            "{avro: [null, {type: array, items: null}, long], default: null, doc: odd}",
            {"type": ["null", {"type": "array", "items": "null"}, "long"], "default": None, "doc": "odd"},
        ),
        ("{avro: {type: long, logicalType: mine}}", {"type": {"type": "long", "logicalType": "mine"}}),
        ("{type: int, aliases: [y], doc: why}", {"type": "int", "aliases": ["y"], "doc": "why"}),
        ('{type: "int?", default: 7}', {"type": ["int", "null"], "default": 7}),
        ("{type: map<int>, default: {a: 1}}", {"type": {"type": "map", "values": "int"}, "default": {"a": 1}}),
    ],
)
def test_field_forms(tmp_path: Path, form: str, made: dict[str, Any]) -> None:
    """Each form as the Avro it stands for."""
    assert avro_of(tmp_path, form) == made


@pytest.mark.parametrize(
    ("number", "text"),
    [("12.50", "\x04\xe2"), ("0", "\x00"), ("-0.01", "\xff"), ('"1.28"', "\x00\x80"), ("-1.28", "\x80")],
)
def test_a_decimals_default_is_its_number(tmp_path: Path, number: str, text: str) -> None:
    """Avro writes it as bytes; the digits' own text would be another number altogether."""
    assert avro_of(tmp_path, f'{{type: "decimal(12,2)", default: {number}}}')["default"] == text


def test_types_can_be_named_again(tmp_path: Path) -> None:
    """An earlier type of the file, nested names, and the record itself."""
    contract = load_fields(
        tmp_path,
        """
        status: {symbols: [OPEN, DONE]}
        before: Status?
        ship: {fields: {geo: {fields: {lat: double}}}}
        bill: {type: Geo}
        children: array<Orders>
        """,
    )
    assert list(contract.schema.names) == ["a.Orders", "a.orders.Status", "a.orders.Ship", "a.orders.ship.Geo"]
    assert contract.schema.is_recursive
    assert contract.schema.field("bill").type == contract.schema.field("ship").type["fields"][0]["type"]  # type: ignore[index,call-overload]


def test_tags_of_nested_fields_have_paths(tmp_path: Path) -> None:
    """A policy must reach them too."""
    contract = load_fields(
        tmp_path, "who: {fields: {mail: {type: string, tags: [pii]}, age: {type: int, unit: years}}}"
    )
    assert contract.tags == {"who.mail": ("pii",)}
    assert contract.units == {"who.age": "years"}


def test_a_schema_file(tmp_path: Path) -> None:
    """The record is taken as it is; its own `tags` and `unit` count."""
    definition = {
        "type": "record",
        "name": "shop.Order",
        "fields": [
            {"name": "id", "type": "string", "tags": ["pii"]},
            {"name": "amount", "type": "double", "unit": "EUR"},
        ],
    }
    (tmp_path / "avro").mkdir()
    (tmp_path / "avro" / "orders.avsc").write_text(json.dumps(definition))
    contract = load(tmp_path, "topic: orders\nschema: avro/orders.avsc\nkey: id\ntags: {amount: [money]}\n")
    assert contract.schema == AvroSchema.parse(definition)
    assert contract.tags == {"id": ("pii",), "amount": ("money",)}
    assert contract.units == {"amount": "EUR"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner: me\nfields: {a: int}", ["c.yaml:1: no 'topic'; add the topic's name, such as topic: orders.placed"]),
        (
            "topic: a b\nfields: {a: int}",
            ["c.yaml:1: topic 'a b' is not a topic's name; use up to 249 letters, digits, '.', '_' and '-'"],
        ),
        ("topic: _schemas\nfields: {a: int}", ["c.yaml:1: topic '_schemas' is reserved; choose another name"]),
        (
            "topic: t",
            ["c.yaml:1: no 'fields' and no 'schema'; add the fields, or the path of an .avsc file as 'schema'"],
        ),
        ("topic: t\nfields: {a: int}\nschema: x.avsc", ["c.yaml:3: both 'fields' and 'schema'; keep one"]),
        ("topic: t\nfields: {}", ["c.yaml:2: the record has no fields; add at least one"]),
        (
            "topic: t\nfields: [a]",
            ["c.yaml:2: 'fields' is not a mapping of names to types; write lines such as amount: double"],
        ),
        ("topic: t\nretenton: 7d\nfields: {a: int}", ["c.yaml:2: unknown key 'retenton'; did you mean 'retention'?"]),
        ("topic: t\nkind: evnt\nfields: {a: int}", ["c.yaml:2: 'kind' is 'evnt'; did you mean 'event'?"]),
        ("topic: t\nkind: 7\nfields: {a: int}", ["c.yaml:2: 'kind' is 7; use one of event, table, change"]),
        (
            "topic: t\nkind: table\nfields: {a: int}",
            ["c.yaml:2: a topic of kind table needs a 'key'; name the fields that identify a row"],
        ),
        ("topic: t\nowner: [a]\nfields: {a: int}", ["c.yaml:2: 'owner' is not a text; quote it"]),
        (
            "topic: t\nretention: 7\nfields: {a: int}",
            ["c.yaml:2: 7 is not a duration; write a number and a unit: 500ms, 10s, 5m, 1h30m, 7d or 'forever'"],
        ),
        (
            "topic: t\nretention: 0s\nfields: {a: int}",
            ["c.yaml:2: a retention of nothing would lose every record; use 'forever' to keep all"],
        ),
        ("topic: t\npartitions: 0\nfields: {a: int}", ["c.yaml:2: 'partitions' is 0, not a number from 1 to 100000"]),
        (
            "topic: t\npartitions: yes\nfields: {a: int}",
            ["c.yaml:2: 'partitions' is 'yes', not a number from 1 to 100000"],
        ),
        (
            "topic: t\nkey: [a, b]\nfields: {a: int, bb: int}",
            ["c.yaml:2: 'key' names 'b', which is not a field; did you mean 'bb'?"],
        ),
        (
            "topic: t\nkey: a\nfields: {a: double}",
            [
                "c.yaml:2: key field 'a' is of type double, which cannot be a key; use text, "
                "whole numbers, times, decimals, enums or bytes"
            ],
        ),
        (
            "topic: t\nkey: {a: 1}\nfields: {a: int}",
            ["c.yaml:2: 'key' is not a field or a list of fields; write key: order_id or key: [a, b]"],
        ),
        ("topic: t\nkey: [a, a]\nfields: {a: int}", ["c.yaml:2: key field 'a' stands twice"]),
        (
            "topic: t\nkey: a\nkey_encoding: string\nfields: {a: int}",
            ["c.yaml:3: key_encoding 'string' needs a text key, 'a' is none; use avro"],
        ),
        (
            "topic: t\nkey: [a, b]\nkey_encoding: string\nfields: {a: string, b: string}",
            ["c.yaml:3: key_encoding 'string' needs exactly one key field; use avro for several"],
        ),
        (
            "topic: t\ntime: at\nfields: {x: int}",
            ["c.yaml:2: 'time' names 'at', which is not a field; the fields are x"],
        ),
        (
            "topic: t\ntime: a\nfields: {a: string}",
            [
                "c.yaml:2: time field 'a' is of type string; use a timestamp, a date, or a long "
                "with milliseconds since 1970"
            ],
        ),
        (
            "topic: t\ntime: a\nfields: {a: time-millis}",
            [
                "c.yaml:2: time field 'a' is of type time-millis; use a timestamp, a date, or a "
                "long with milliseconds since 1970"
            ],
        ),
        (
            "topic: t\ntime:\n  field: a\n  ahead_mx: 1d\nfields: {a: date}",
            ["c.yaml:4: unknown key 'ahead_mx' in 'time'; did you mean 'ahead_max'?"],
        ),
        (
            "topic: t\ntime: {ahead_max: 1d}\nfields: {a: date}",
            ["c.yaml:2: 'time' has no 'field'; name the field with the event time"],
        ),
        (
            "topic: t\ntags: {b: x}\nfields: {a: int}",
            ["c.yaml:2: 'tags' names 'b', which is not a field; the fields are a"],
        ),
        ("topic: t\nunits: {a: [x]}\nfields: {a: int}", ["c.yaml:2: 'units' of 'a' is ['x'], not text"]),
        (
            "topic: t\nfields:\n  __a: int",
            ["c.yaml:3: field '__a' begins with '__', which is kept for the engine; choose another name"],
        ),
        (
            "topic: t\nschema: none.avsc",
            ["c.yaml:2: schema 'none.avsc' cannot be read: No such file or directory; the path starts at this file"],
        ),
    ],
)
def test_mistakes_are_told_with_their_line_and_cure(tmp_path: Path, text: str, expected: list[str]) -> None:
    """The whole message, as a user reads it."""
    assert problems(tmp_path, text) == expected


TYPES = (
    "array, boolean, bytes, date, decimal, double, duration, enum, fixed, float, int, list, local-timestamp-micros, "
    "local-timestamp-millis, local-timestamp-nanos, long, map, null, record, string, time-micros, time-millis, "
    "timestamp-micros, timestamp-millis, timestamp-nanos, uuid"
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("a: strng", ["c.yaml:3: field 'a': unknown type 'strng'; did you mean 'string'?"]),
        ("a: Int64", ["c.yaml:3: field 'a': unknown type 'Int64'; did you mean 'long'?"]),
        ("a: qqqq", [f"c.yaml:3: field 'a': unknown type 'qqqq'; use one of {TYPES}"]),
        (
            "a: int\nb: {typ: int}",
            [
                "c.yaml:4: field 'b' has no 'type'; add one, such as type: string",
                "c.yaml:4: field 'b': unknown key 'typ'; did you mean 'type'?",
            ],
        ),
        ("a: {type: int, symbols: [A]}", ["c.yaml:3: field 'a': 'symbols' means nothing for this type; remove it"]),
        ("a: {type: int, avro: long}", ["c.yaml:3: field 'a' has both 'type' and 'avro'; keep one"]),
        ("a: decimal", ["c.yaml:3: field 'a': wrong numbers after 'decimal'; write decimal(precision,scale)"]),
        (
            "a: decimal(2,3)",
            [
                "c.yaml:3: field 'a': decimal(2,3) has no room for its digits; write "
                "decimal(precision,scale) with scale at most precision"
            ],
        ),
        (
            "a: {type: decimal(12,2)}",
            ["c.yaml:3: field 'a': 'decimal(12' is not a type: ')' is missing; quote it: \"decimal(12,2)\""],
        ),
        (
            'a: {type: "decimal(12,2)", size: 4}',
            ["c.yaml:3: field 'a': 4 bytes always hold 9 digits, not 12; leave 'size' out or make it larger"],
        ),
        ('a: {type: "decimal(4,2)", default: 1.234}', ["c.yaml:3: field 'a': default 1.234 does not fit decimal(4,2)"]),
        ('a: {type: "decimal(4,2)", default: 123.4}', ["c.yaml:3: field 'a': default 123.4 does not fit decimal(4,2)"]),
        ('a: {type: "decimal(4,2)", default: much}', ["c.yaml:3: field 'a': default 'much' is not a number"]),
        ('a: {type: "decimal(4,2)", default: .inf}', ["c.yaml:3: field 'a': default inf is not a number"]),
        (
            "a: map<string, int>",
            [
                "c.yaml:3: field 'a': 'map<string, int>' is not a type: one type belongs between "
                "< and > (the keys of a map are "
                'always strings); write a type such as string, "long?", array<int> or "decimal(12,2)"'
            ],
        ),
        ("a: array", ["c.yaml:3: field 'a': what does the array hold?; write array<string>, or a form under 'items'"]),
        ("a: int<long>", ["c.yaml:3: field 'a': 'int' takes no type in < >"]),
        (
            "a: [int, string]",
            ["c.yaml:3: field 'a': a type is a text such as string, not a list; write raw Avro under 'avro'"],
        ),
        ("a: 7", ["c.yaml:3: field 'a': a type is a text such as string, not 7"]),
        ("a: {type: record}", ["c.yaml:3: field 'a': a record needs 'fields', a mapping"]),
        ("a: {type: enum}", ["c.yaml:3: field 'a': an enum needs 'symbols', a list"]),
        ("a: {type: enum, symbols: [1]}", ["c.yaml:3: field 'a': 'symbols' is a list, not a list of texts"]),
        (
            "a: int\nb:\n  fields:\n    c: int\n    d: {type: int, default: x}",
            ['c.yaml:7: Orders.b.d: default "x" is not an int; change the default or the type'],
        ),
        ("a: {type: enum, symbols: [A, A]}", ["c.yaml:3: Orders.a: symbol 'A' stands twice"]),
        (
            "a: int\na-b: int",
            ["c.yaml:4: 'a-b' cannot be the name of a field; use letters, digits and '_', not starting with a digit"],
        ),
        ("a: {avro: [int, int]}", ["c.yaml:3: Orders.a[1]: the union holds 'int' twice"]),
    ],
)
def test_mistakes_in_fields(tmp_path: Path, fields: str, expected: list[str]) -> None:
    """The fields begin on line 3."""
    assert field_problems(tmp_path, fields) == expected


def test_all_problems_of_a_file_are_told(tmp_path: Path) -> None:
    """Three mistakes, three lines, one error."""
    text = "topic: t\nkind: evnt\nretention: x\nkey: b\nfields: {a: int}"
    with pytest.raises(ContractsInvalid) as caught:
        load(tmp_path, text)
    assert [each.where.line for each in caught.value.problems if each.where] == [2, 4, 3]
    assert str(caught.value).count("\n") == 2
    assert caught.value.code == "contracts.invalid"


def test_a_broken_schema_file_is_named_itself(tmp_path: Path) -> None:
    """With the line inside it where the JSON breaks."""
    (tmp_path / "o.avsc").write_text('{"type": "record",\n "name": }')
    assert problems(tmp_path, "topic: t\nschema: o.avsc")[0].startswith("o.avsc:2: not JSON")
    (tmp_path / "o.avsc").write_text('{"type": "record", "name": "R", "fields": [{"name": "a", "type": "nope"}]}')
    assert problems(tmp_path, "topic: t\nschema: o.avsc")[0].startswith("o.avsc: R.a: unknown type 'nope'")
    (tmp_path / "o.avsc").write_text('"string"')
    assert "a topic's rows need a record" in problems(tmp_path, "topic: t\nschema: o.avsc")[0]


def test_a_folder_of_contracts(tmp_path: Path) -> None:
    """By topic; other files are left alone, a missing folder has none."""
    (tmp_path / "a.yaml").write_text("topic: a\nfields: {x: int}")
    (tmp_path / "b.yml").write_text("topic: b\nfields: {x: int}")
    (tmp_path / "README.md").write_text("hello")
    assert list(load_contracts(tmp_path)) == ["a", "b"]
    assert load_contracts(tmp_path / "none") == {}


def test_a_topic_has_one_contract(tmp_path: Path) -> None:
    """The error names both files."""
    (tmp_path / "a.yaml").write_text("topic: a\nfields: {x: int}")
    (tmp_path / "b.yaml").write_text("# again\ntopic: a\nfields: {x: int}")
    with pytest.raises(ContractInvalid) as caught:
        load_contracts(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/b.yaml:2: topic 'a' has a contract in {tmp_path}/a.yaml:1 already; keep one of them"
    )


def test_all_problems_of_a_folder_are_told(tmp_path: Path) -> None:
    """Broken YAML in one file, two mistakes in another."""
    (tmp_path / "a.yaml").write_text("topic: [")
    (tmp_path / "b.yaml").write_text("topic: b\nkind: x\nfields: {x: nope}")
    with pytest.raises(ContractsInvalid) as caught:
        load_contracts(tmp_path)
    assert [type(each) for each in caught.value.problems] == [YamlInvalid, ContractInvalid, ContractInvalid]


@pytest.mark.parametrize(
    ("topic", "name", "namespace"),
    [
        ("flights.departed", "flights.Departed", "flights.departed"),
        ("carrier.delays.hourly", "carrier.delays.Hourly", "carrier.delays.hourly"),
        ("planes", "Planes", "planes"),
        ("order-events", "OrderEvents", "order_events"),
        ("shop-eu.order_placed-v2", "shop_eu.OrderPlacedV2", "shop_eu.order_placed_v2"),
        ("2024.7", "_2024._7", "_2024._7"),
        ("a..b.", "a.B", "a.b"),
        ("-", "Record", "_"),
    ],
)
def test_names_of_records(topic: str, name: str, namespace: str) -> None:
    """A valid Avro name for every topic name."""
    assert (record_name(topic), nested_namespace(topic)) == (name, namespace)
    AvroSchema.parse({"type": "record", "name": name, "fields": []})
