"""Every type of PostgreSQL: what its values become, from the snapshot and from the stream alike, or why not."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts.avro import AvroSchema
from headrace.contracts.shape import record_shape
from headrace.ingress.cdc.postgres.calendar import days_of
from headrace.ingress.cdc.postgres.literals import array_items, hstore_items, interval_parts, point_parts
from headrace.ingress.cdc.postgres.tables import infer_contract
from headrace.ingress.cdc.postgres.text_columns import (
    UNAVAILABLE,
    TextColumns,
    as_column,
    unavailable_text,
    unmapped,
    zero_text,
)
from headrace.ingress.cdc.postgres.types import Family, PgType, named_type
from headrace.ingress.values import Misfit
from tests.ingress.postgres.bank import Bank, contract_of

TIMESTAMP = {"type": "long", "logicalType": "timestamp-micros"}
LOCAL = {"type": "long", "logicalType": "local-timestamp-micros"}
INFINITY, MINUS_INFINITY = 9_223_372_036_825_200_000, -9_223_372_036_832_400_000

COLUMNS: dict[str, tuple[str, str, Any]] = {
    "flag": ("bool", "true", True),
    "small": ("int2", "-32768", -32768),
    "middle": ("int4", "2147483647", 2147483647),
    "large": ("int8", "-9223372036854775808", -(2**63)),
    "reference": ("oid", "4294967295", 2**32 - 1),
    "single": ("float4", "'-Infinity'", float("-inf")),
    "double_": ("float8", "1.7976931348623157e308", 1.7976931348623157e308),
    "exact": ("numeric(9,2)", "-1234567.89", Decimal("-1234567.89")),
    "wide": ("numeric(50,0)", "9" * 50, Decimal("9" * 50)),
    "unscaled": ("numeric", "1.10", "1.10"),
    "no_number": ("numeric", "'NaN'", "NaN"),
    "endless": ("numeric", "'-Infinity'", "-Infinity"),
    "cash": ("money", "'-1234.50'", Decimal("-1234.50")),
    "letters": ("text", "E'a\\\\b\"c\\n,\\t''ü'", "a\\b\"c\n,\t'ü"),
    "empty": ("text", "''", ""),
    "short": ("varchar(5)", "'abc'", "abc"),
    "padded": ("char(5)", "'abc'", "abc  "),
    "named": ("name", "'abc'", "abc"),
    "insensitive": ("citext", "'AbC'", "AbC"),
    "raw": ("bytea", "'\\x00ff'", b"\x00\xff"),
    "day": ("date", "'2024-02-29'", date(2024, 2, 29)),
    "hour": ("time", "'23:59:59.999999'", time(23, 59, 59, 999999)),
    "zoned": ("timetz", "'12:00:00.5+02'", "10:00:00.5Z"),
    "local_": ("timestamp", "'2024-01-02 03:04:05.6'", datetime(2024, 1, 2, 3, 4, 5, 600000)),  # noqa: DTZ001
    "moment": ("timestamptz", "'2024-01-02 03:04:05+02'", datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
    "span": ("interval", "'1 year 2 months 3 days 04:05:06.7'", "P1Y2M3DT4H5M6.7S"),
    "identity": ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "document": ("json", "'{\"a\": 1 }'", '{"a": 1 }'),
    "binary_document": ("jsonb", "'{\"a\": 1 }'", '{"a": 1}'),
    "markup": ("xml", "'<a/>'", "<a/>"),
    "address": ("inet", "'10.0.0.1/8'", "10.0.0.1/8"),
    "network": ("cidr", "'10.0.0.0/8'", "10.0.0.0/8"),
    "card": ("macaddr", "'08:00:2b:01:02:03'", "08:00:2b:01:02:03"),
    "card8": ("macaddr8", "'08:00:2b:01:02:03:04:05'", "08:00:2b:01:02:03:04:05"),
    "one_bit": ("bit", "B'1'", True),
    "bits": ("bit(10)", "B'1000000001'", "1000000001"),
    "more_bits": ("varbit", "B'101'", "101"),
    "feeling": ("mood", "'it''s ok'", "it's ok"),
    "numbers": ("int4[]", "'{1,NULL,3}'", [1, None, 3]),
    "words": ("text[]", "ARRAY['a,b', 'NULL', NULL, '\"', '']", ["a,b", "NULL", None, '"', ""]),
    "days": ("date[]", "'{2024-01-01}'", [date(2024, 1, 1)]),
    "pairs": ("hstore", "'a=>1, \"b c\"=>NULL'", [("a", "1"), ("b c", None)]),
    "span_of_numbers": ("int4range", "'[1,5)'", "[1,5)"),
    "spans": ("datemultirange", "'{[2024-01-01,2024-02-01)}'", "{[2024-01-01,2024-02-01)}"),
    "place": ("point", "'(1.5,-2)'", {"x": 1.5, "y": -2.0}),
    "area": ("box", "'(1,1),(0,0)'", "(1,1),(0,0)"),
    "search": ("tsvector", "'a b'", "'a' 'b'"),
    "path": ("ltree", "'a.b.c'", "a.b.c"),
    "positive": ("positive", "5", 5),
    "composed": ("twin", "ROW(1, 'x')::twin", "(1,x)"),
}
"""By column: its type, a value in SQL, and what the topic has."""
SETUP = (
    "CREATE EXTENSION hstore",
    "CREATE EXTENSION citext",
    "CREATE EXTENSION ltree",
    "CREATE TYPE mood AS ENUM ('it''s ok', 'happy')",
    "CREATE DOMAIN positive AS int4 CHECK (VALUE > 0)",
    "CREATE TYPE twin AS (number int, letter text)",
)


@pytest.fixture
def everything(tmp_path: Path, postgres_url: str) -> Any:
    bank = Bank(tmp_path, postgres_url, table=None)
    columns = ", ".join(f"{name} {declared}" for name, (declared, _, _) in COLUMNS.items())
    bank.execute(*SETUP, f"CREATE TABLE everything (id int4 PRIMARY KEY, {columns})")
    yield bank
    bank.close()


@pytest.mark.postgres
@pytest.mark.xdist_group("postgres")
def test_every_type_in_snapshot_and_stream(everything: Bank) -> None:
    """The contract is made from the table; a row of values and one of nulls come the same way on both roads."""
    bank = everything
    contract = infer_contract(bank.url, "everything")
    names, values = ", ".join(COLUMNS), ", ".join(value for _, value, _ in COLUMNS.values())
    bank.execute(f"INSERT INTO everything (id, {names}) VALUES (1, {values})", "INSERT INTO everything (id) VALUES (2)")
    bank.topic("everything")
    cdc = bank.cdc(contracts=[contract], tables={"everything": {"topic": "everything"}})
    bank.drain(cdc)
    bank.execute(f"INSERT INTO everything (id, {names}) VALUES (3, {values})", "INSERT INTO everything (id) VALUES (4)")
    bank.drain(cdc)
    assert cdc.counters.dead_letters == 0
    told = [
        each["after"] for each in bank.decoded("everything", contract.value_schema.project(["after"], name="Envelope"))
    ]
    assert [each.pop("id") for each in told] == [1, 2, 3, 4]
    assert told[0] == told[2]
    assert told[1] == told[3] == dict.fromkeys(COLUMNS)
    assert told[0] == {name: value for name, (_, _, value) in COLUMNS.items()}


@pytest.mark.postgres
@pytest.mark.xdist_group("postgres")
def test_a_value_that_does_not_fit_is_a_dead_letter(bank: Bank) -> None:
    """NaN in a numeric with a scale: the row goes to the dead letters with its texts, the others go on."""
    bank.execute("CREATE TABLE prices (id int PRIMARY KEY, price numeric(9,2))")
    contract = infer_contract(bank.url, "prices")
    bank.topic("prices")
    cdc = bank.cdc(contracts=[contract], tables={"prices": {"topic": "prices"}})
    bank.drain(cdc)
    bank.execute("INSERT INTO prices VALUES (1, 1.5), (2, 'NaN'), (3, 2.5)")
    bank.drain(cdc)
    assert [each["after"]["id"] for each in bank.decoded("prices", contract.value_schema)] == [1, 3]
    (letter,) = bank.records("bank.dlq")
    assert json.loads(letter.value or b"")["after"] == {"id": "2", "price": "NaN"}
    headers = dict(letter.headers)
    assert headers["headrace.error.code"] == b"ingress.contract_violation"
    assert b"price: is not a number" in (headers["headrace.error.message"] or b"")


@pytest.mark.postgres
@pytest.mark.xdist_group("postgres")
def test_extreme_values_in_snapshot_and_stream(bank: Bank) -> None:
    """Infinite times, NaN and numbers of any size come through where the contract can hold them, the same both ways;
    numbers of more digits than a column can have are text."""
    bank.execute(
        "CREATE TABLE extremes (id int PRIMARY KEY, huge numeric(200,10), free numeric, moment timestamptz, day date)"
    )
    contract = infer_contract(bank.url, "extremes")
    bank.topic("extremes")
    values = (
        f"{'9' * 190}.5, 'NaN', 'infinity', '-infinity'",
        "-1.5, 1e1000, '-infinity', 'infinity'",
        "NULL, -1e-1000, '294276-12-31 23:59:59+00', '5874897-12-31'",
    )
    for id_, each in enumerate(values, 1):
        bank.execute(f"INSERT INTO extremes VALUES ({id_}, {each})")
    cdc = bank.cdc(contracts=[contract], tables={"extremes": {"topic": "extremes"}})
    bank.drain(cdc)
    for id_, each in enumerate(values, 11):
        bank.execute(f"INSERT INTO extremes VALUES ({id_}, {each})")
    bank.drain(cdc)
    fields = {
        "huge": ["null", "string"],
        "free": ["null", "string"],
        "moment": ["null", "long"],
        "day": ["null", "int"],
    }
    plain = contract_of("extremes", ("id",), id="int", **fields)
    told = [each["after"] for each in bank.decoded("extremes", plain.value_schema)]
    assert [each.pop("id") for each in told] == [1, 2, 11, 12]
    assert told[:2] == told[2:]
    assert told[0] == {"huge": f"{'9' * 190}.5000000000", "free": "NaN", "moment": INFINITY, "day": -(2**31)}
    assert told[1] == {"huge": "-1.5000000000", "free": f"1{'0' * 1_000}", "moment": MINUS_INFINITY, "day": 2**31 - 1}
    letters = [dict(each.headers)["headrace.error.message"] or b"" for each in bank.records("bank.dlq")]
    assert [b"moment: is out of the range that us can count" in each for each in letters] == [True, True]


@pytest.mark.postgres
@pytest.mark.xdist_group("postgres")
def test_text_that_is_none(bank: Bank) -> None:
    """A database in SQL_ASCII may hold bytes that are no UTF-8, in keys too: such rows are dead letters, from snapshot
    and stream, also when the snapshot goes on after a restart behind such a key. The server itself refuses NUL."""
    name = f"{bank.database}_ascii"
    bank.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    url = psycopg.conninfo.make_conninfo(bank.url, dbname=name)
    contract = contract_of("words", ("word",), word="string", note=["null", "string"])
    bank.topic("words")
    tables = {"words": {"topic": "words"}}
    given = {"contracts": [contract], "database": url, "tables": tables, "batch_rows_max": 2}
    ascii_, bank.connection = bank.connection, psycopg.connect(url, autocommit=True, client_encoding="utf8")
    try:
        bank.execute("CREATE TABLE words (word text PRIMARY KEY, note text)")
        bank.execute("INSERT INTO words VALUES ('a', 'x'), (E'b\\xff', 'y'), ('c', E'\\xc3')")
        with pytest.raises(psycopg.Error):
            bank.execute("INSERT INTO words VALUES (E'\\x00', '')")
        cdc = bank.cdc(**given)
        while cdc.counters.dead_letters == 0:
            cdc.step()
        bank.kill(cdc)
        bank.execute("UPDATE words SET note = 'z' WHERE word = E'b\\xff'", "INSERT INTO words VALUES ('d', '')")
        cdc = bank.drain(bank.cdc(setup=False, **given))
        bank.kill(cdc)
        assert [each["after"]["word"] for each in bank.decoded("words", contract.value_schema)] == ["a", "d"]
        letters = [json.loads(each.value or b"") for each in bank.records("bank.dlq")]
        assert [(each["op"], each["after"]) for each in letters] == [
            ("r", {"word": "b\\xff", "note": "y"}),
            ("r", {"word": "c", "note": "\\xc3"}),
            ("u", {"word": "b\\xff", "note": "z"}),
        ]
        cdc.teardown()
    finally:
        bank.connection.close()
        bank.connection = ascii_
        bank.execute(f"DROP DATABASE {name} WITH (FORCE)")


UNAVAILABLE_UUID = "b68a35a7-17ad-35b3-af2a-ae46edb4545a"


def column(found: PgType, avro: Any, *texts: str | None) -> Any:
    """The numbers or values that texts become; a misfit is its reason."""
    schema = AvroSchema.parse({"type": "record", "name": "R", "fields": [{"name": "c", "type": ["null", avro]}]})
    given_texts = as_column([None if text is None else text.encode() for text in texts])
    built = TextColumns(schema, {"c": found}).from_values({"c": given_texts}, len(texts))
    values: list[Any] = [None] * len(texts)
    array = built.table.column("c").combine_chunks()
    if pa.types.is_temporal(array.type) and not pa.types.is_time(array.type):  # Beyond Python's range.
        array = array.cast(pa.int32() if pa.types.is_date(array.type) else pa.int64())
    for row, value in zip(built.rows.tolist(), array.to_pylist(), strict=True):
        values[row] = value
    for row, misfit in built.misfits.items():
        values[row] = misfit.reason
    return values


def test_infinities_and_times_before_christ() -> None:
    """Debezium's numbers for the infinities; the proleptic calendar for the rest; beside ordinary values."""
    stamps = ("infinity", "-infinity", "0044-03-15 12:00:00 BC", "294276-12-31 23:59:59.999999", None)
    expected = [INFINITY, MINUS_INFINITY, -63_517_780_800_000_000, 9_224_318_015_999_999_999, None]
    assert column(named_type("timestamp"), LOCAL, *stamps) == [
        *expected[:3],
        "is out of the range that us can count",
        None,
    ]
    zoned = ("infinity", "2024-01-01 00:00:00+00", "0001-01-01 00:00:00+00 BC")
    found = column(named_type("timestamptz"), TIMESTAMP, *zoned)
    assert found == [INFINITY, 1_704_067_200_000_000, -62_167_219_200_000_000]
    day = {"type": "int", "logicalType": "date"}
    assert column(named_type("date"), day, "infinity", "-infinity", "0001-12-31 BC", "10000-01-01") == [
        2**31 - 1,
        -(2**31),
        -719_163,
        2_932_897,
    ]
    assert column(named_type("timestamptz"), "string", "infinity", "2024-01-01 00:00:00.5+00") == [
        "infinity",
        "2024-01-01T00:00:00.5Z",
    ]


def test_values_that_do_not_fit_say_why() -> None:
    """One bad value spoils its row alone."""
    millis = {"type": "long", "logicalType": "timestamp-millis"}
    assert column(named_type("timestamptz"), millis, "2024-01-01 00:00:00.123+00", "2024-01-01 00:00:00.1234+00") == [
        1_704_067_200_123,
        "is finer than ms, the unit of the contract",
    ]
    times = {"type": "long", "logicalType": "time-micros"}
    assert column(named_type("time"), times, "24:00:00")[0] == "is 24:00:00, which is no time of day"
    assert column(named_type("int8"), "int", "1", "2147483648") == [1, "is out of the range of int"]
    small = {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1}
    assert (
        column(named_type("numeric"), small, "1.5", "1.55", "1000")[1:]
        == ["does not fit 3 digits, 1 after the point"] * 2
    )
    assert column(named_type("numeric"), "long", "7", "7.5")[1] == "is not a whole number, and long holds no other"
    labels = {"type": "enum", "name": "E", "symbols": ["a", "b"]}
    assert column(named_type("text"), labels, "a", "c") == ["a", "is not one of a, b"]
    numbers = {"type": "array", "items": "int"}
    array = PgType("_int4", Family.ARRAY, named_type("int4"))
    assert column(array, numbers, "{1,2}", "{1,NULL}", "{{1},{2}}", "[0:1]={5,6}") == [
        [1, 2],
        "is null, which the contract does not allow",
        "has another number of dimensions than the contract",
        [5, 6],
    ]
    assert column(array, {"type": "array", "items": numbers}, "{{1},{2}}", "{}") == [[[1], [2]], []]


def test_bytes_that_are_no_text() -> None:
    """A database in SQL_ASCII may send anything: that row is bad."""
    schema = AvroSchema.parse({"type": "record", "name": "R", "fields": [{"name": "c", "type": "string"}]})
    built = TextColumns(schema, {"c": named_type("text")}).from_values({"c": as_column([b"ok", b"\xff"])}, 2)
    assert built.table.to_pylist() == [{"c": "ok"}]
    assert built.misfits[1].reason == "is text that is not UTF-8"


def test_types_that_a_field_cannot_hold_are_told() -> None:
    """Before anything runs, with both types."""

    def why(found: PgType, avro: Any) -> str | None:
        shape = record_shape(AvroSchema.parse({"type": "record", "name": "R", "fields": [{"name": "c", "type": avro}]}))
        return unmapped(found, shape.children[0].shape)

    assert why(named_type("text"), "long") == "is of type text, which long cannot hold"
    assert why(named_type("timestamp"), "long") == "is of type timestamp, which long cannot hold"
    assert why(PgType("_text", Family.ARRAY, named_type("text")), {"type": "array", "items": "int"}) is not None
    assert why(named_type("point"), {"type": "record", "name": "P", "fields": [{"name": "x", "type": "double"}]})
    assert why(named_type("hstore", "public"), {"type": "map", "values": "long"}) is not None
    assert why(named_type("vector", "public"), {"type": "array", "items": "float"}) is None
    assert all(why(PgType("any", family), "string") is None for family in Family)


@pytest.mark.parametrize(
    ("found", "avro", "value"),
    [
        (named_type("text"), "string", UNAVAILABLE),
        (named_type("jsonb"), "string", UNAVAILABLE),
        (named_type("bytea"), "bytes", UNAVAILABLE.encode()),
        (PgType("_text", Family.ARRAY, named_type("text")), {"type": "array", "items": "string"}, [UNAVAILABLE]),
        (
            PgType("_int4", Family.ARRAY, named_type("int4")),
            {"type": "array", "items": "int"},
            list(UNAVAILABLE.encode()),
        ),
        (
            PgType("_uuid", Family.ARRAY, named_type("uuid")),
            {"type": "array", "items": {"type": "string", "logicalType": "uuid"}},
            [UNAVAILABLE_UUID],
        ),
        (named_type("hstore", "x"), {"type": "map", "values": "string"}, [(UNAVAILABLE, UNAVAILABLE)]),
    ],
)
def test_placeholders_are_debeziums(found: PgType, avro: Any, value: Any) -> None:
    """In the type's own form, so that a reader of Debezium's topics knows them."""
    schema = AvroSchema.parse({"type": "record", "name": "R", "fields": [{"name": "c", "type": avro}]})
    text = unavailable_text(found, record_shape(schema).children[0].shape)
    assert text is not None
    assert column(found, avro, text.decode()) == [value]


@pytest.mark.parametrize("family", list(Family))
def test_zeros_are_values_of_their_type(family: Family) -> None:
    """What stands for columns that a deletion does not tell can be read back as that type."""
    found = PgType("t", family, named_type("int4") if family is Family.ARRAY else None)
    schema = AvroSchema.parse({"type": "record", "name": "R", "fields": [{"name": "c", "type": "string"}]})
    text = zero_text(found, record_shape(schema).children[0].shape)
    assert text is not None
    assert TextColumns(schema, {"c": found}).from_values({"c": as_column([text])}, 1).misfits == {}


QUOTED = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)


def literal_of(items: list[Any]) -> str:
    """As PostgreSQL writes an array, with quotes around everything."""
    parts = []
    for item in items:
        if item is None:
            parts.append("NULL")
        elif isinstance(item, list):
            parts.append(literal_of(item))
        else:
            parts.append('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return "{" + ",".join(parts) + "}"


@settings(deadline=None)
@given(
    st.recursive(
        st.lists(st.none() | QUOTED, max_size=3), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=5
    )
)
def test_arrays_come_back(items: list[Any]) -> None:
    """Whatever their items are."""
    assert array_items(literal_of(items)) == items


@settings(deadline=None)
@given(st.dictionaries(QUOTED, st.none() | QUOTED, max_size=4))
def test_hstores_come_back(items: dict[str, str | None]) -> None:
    """Whatever their keys and values are."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = ", ".join(f"{quoted(key)}=>{'NULL' if value is None else quoted(value)}" for key, value in items.items())
    assert hstore_items(text) == items


READERS = [array_items, hstore_items, interval_parts, point_parts, days_of]


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(READERS), st.text('{}[]",=>NUL\\\\(1)PTMD-:', max_size=12))
def test_texts_of_any_kind_are_read_or_refused(read: Any, text: str) -> None:
    """Nothing but `Misfit` comes out of a text that is none of the type."""
    with suppress(Misfit):
        read(text)


@settings(deadline=None)
@given(st.dates())
def test_days_are_those_of_the_calendar(day: date) -> None:
    """Where Python has one."""
    assert days_of(day.isoformat().rjust(10, "0")) == day.toordinal() - date(1970, 1, 1).toordinal()


def test_intervals() -> None:
    """Parts, and Debezium's sum."""
    parts = interval_parts("P1Y2M-3DT4H-5M-6.7S")
    assert (parts.months, parts.days, parts.microseconds) == (14, -3, 4 * 3_600_000_000 - 300_000_000 - 6_700_000)
    assert interval_parts("PT0S").total_us == 0
    assert column(named_type("interval"), "long", "P1M")[0] == round(365.25 / 12 * 86_400_000_000)
    fixed = {"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}
    assert column(named_type("interval"), fixed, "P1M2DT0.5S", "P-1D") == [
        {"months": 1, "days": 2, "milliseconds": 500},
        "is a time span that is negative, finer than milliseconds or too long for duration",
    ]
