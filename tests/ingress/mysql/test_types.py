"""Every type of MySQL and MariaDB: what its values become, from the snapshot and from the stream alike, or why not."""

from __future__ import annotations

import json
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.contracts.avro import AvroSchema
from headrace.contracts.shape import record_shape
from headrace.ingress.cdc.errors import SourceInvalid
from headrace.ingress.cdc.mysql import row_images
from headrace.ingress.cdc.mysql.binlog import BinlogStream
from headrace.ingress.cdc.mysql.cell_columns import CellColumns, unmapped
from headrace.ingress.cdc.mysql.charsets import Charsets
from headrace.ingress.cdc.mysql.connection import connect, rows
from headrace.ingress.cdc.mysql.json_text import json_text
from headrace.ingress.cdc.mysql.server import check_server
from headrace.ingress.cdc.mysql.table_map import table_name, table_shape
from headrace.ingress.cdc.mysql.tables import infer_contract, read_table
from headrace.ingress.cdc.mysql.types import declared_type
from headrace.ingress.cdc.table_columns import cells
from tests.ingress.mysql.till import Till
from tests.ingress.postgres.bank import contract_of

WKB = struct.pack("<BIdd", 1, 1, 1.5, -2.0)
COLUMNS: dict[str, tuple[str, str, Any]] = {
    "tiny": ("tinyint", "-128", -128),
    "flag": ("tinyint(1)", "1", 1),
    "tiny_u": ("tinyint unsigned", "255", 255),
    "small": ("smallint", "-32768", -32768),
    "small_u": ("smallint unsigned", "65535", 65535),
    "medium": ("mediumint", "-8388608", -8388608),
    "medium_u": ("mediumint unsigned", "16777215", 16777215),
    "middle": ("int", "-2147483648", -(2**31)),
    "middle_u": ("int unsigned zerofill", "4294967295", 2**32 - 1),
    "large": ("bigint", "-9223372036854775808", -(2**63)),
    "large_u": ("bigint unsigned", "18446744073709551615", Decimal(2**64 - 1)),
    "single": ("float", "0.1", struct.unpack("<f", struct.pack("<f", 0.1))[0]),
    "double_": ("double", "1.7976931348623157e308", 1.7976931348623157e308),
    "exact": ("decimal(12,3)", "-123456789.012", Decimal("-123456789.012")),
    "wide": ("decimal(65,30)", "-" + "9" * 35 + "." + "8" * 30, Decimal("-" + "9" * 35 + "." + "8" * 30)),
    "whole": ("decimal(20,0)", "0", Decimal(0)),
    "one_bit": ("bit(1)", "b'1'", True),
    "bits": ("bit(12)", "b'101000000001'", b"\x01\x0a"),
    "short": ("char(5)", "'abc'", "abc"),
    "letters": ("varchar(20)", "'a\\\\b\"c\\n,\\t''ü😀'", "a\\b\"c\n,\t'ü😀"),
    "nul": ("varchar(20)", "'a\\0b'", "a\0b"),
    "latin": ("varchar(300) CHARACTER SET latin1", "'\u20acé'", "€é"),
    "swedish": ("varchar(20) CHARACTER SET swe7", "'\u00e5'", "å"),
    "chinese": ("text CHARACTER SET gbk", "'\u4e2d\u6587'", "中文"),
    "wide_text": ("longtext CHARACTER SET utf16", "'\u4e2d😀'", "中😀"),
    "tiny_text": ("tinytext", "''", ""),
    "padded": ("binary(4)", "x'0102'", b"\x01\x02\0\0"),
    "raw": ("varbinary(300)", "x'00ff00'", b"\0\xff\0"),
    "large_raw": ("longblob", "x'00ff'", b"\0\xff"),
    "feeling": ("enum('it''s ok','happy')", "'it''s ok'", "it's ok"),
    "latin_feeling": ("enum('é','b') CHARACTER SET latin1", "'é'", "é"),
    "tastes": ("set('x','y','z')", "'z,x'", "x,z"),
    "no_tastes": ("set('x','y')", "''", ""),
    "document": ("json", '\'{"a": [1, "ü"]}\'', '{"a": [1, "ü"]}'),
    "day": ("date", "'2024-02-29'", date(2024, 2, 29)),
    "first_day": ("date", "'0001-01-01'", date(1, 1, 1)),
    "hour": ("time(6)", "'23:59:59.000001'", 86_399_000_001),
    "ago": ("time(3)", "'-00:00:00.5'", -500_000),
    "long_ago": ("time", "'-838:59:59'", -3_020_399_000_000),
    "local_": ("datetime", "'2024-01-02 03:04:05'", datetime(2024, 1, 2, 3, 4, 5)),  # noqa: DTZ001
    "local3": ("datetime(3)", "'2024-01-02 03:04:05.678'", datetime(2024, 1, 2, 3, 4, 5, 678000)),  # noqa: DTZ001
    "local6": ("datetime(6)", "'9999-12-31 23:59:59.999999'", datetime(9999, 12, 31, 23, 59, 59, 999999)),  # noqa: DTZ001
    "moment": ("timestamp NULL", "'2024-01-02 03:04:05'", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
    "moment5": ("timestamp(5) NULL", "'2024-01-02 03:04:05.12345'", datetime(2024, 1, 2, 3, 4, 5, 123450, tzinfo=UTC)),
    "vintage": ("year", "2024", 2024),
    "place": ("point", "ST_GeomFromText('POINT(1.5 -2)', 3857)", {"wkb": WKB, "srid": 3857}),
    "area": ("geometry", "ST_GeomFromText('POINT(1.5 -2)')", {"wkb": WKB, "srid": None}),
    "computed": ("int AS (small + 1) STORED", "DEFAULT", -32767),
}
"""By column: its type, a value in SQL, and what the topic has."""
MARIADB_COLUMNS: dict[str, tuple[str, str, Any]] = {
    "identity_": ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A00'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a00"),
    "address4": ("inet4", "'10.0.0.0'", "10.0.0.0"),
    "address6": ("inet6", "'::ffff:10.0.0.1'", "::ffff:10.0.0.1"),
}

pytestmark = [pytest.mark.mariadb, pytest.mark.xdist_group("mariadb")]


WITHOUT_MAPPING = "a type without mapping"


def without_mapping(till: Till) -> str:
    """Such a type, of this server."""
    return "text COMPRESSED" if till.is_mariadb else "vector(3)"


def columns_of(till: Till) -> dict[str, tuple[str, str, Any]]:
    return {**COLUMNS, **(MARIADB_COLUMNS if till.is_mariadb else {})}


@pytest.fixture
def bare(tmp_path: Path, mariadb_url: str) -> Any:
    till = Till(tmp_path, mariadb_url, table=None)
    yield till
    till.close()


def test_every_type_in_snapshot_and_stream(bare: Till) -> None:
    """The contract is made from the table; a row of values and one of nulls come the same way on both roads, whatever
    the zone of the session that wrote them."""
    columns = columns_of(bare)
    declared = ", ".join(f"{name} {kind}" for name, (kind, _, _) in columns.items())
    names, values = ", ".join(columns), ", ".join(value for _, value, _ in columns.values())
    bare.execute(f"CREATE TABLE everything (id int PRIMARY KEY, {declared}) CHARACTER SET utf8mb4")
    contract = infer_contract(bare.url, "everything")
    bare.execute(f"INSERT INTO everything (id, {names}) VALUES (1, {values})", "INSERT INTO everything (id) VALUES (2)")
    bare.topic("everything")
    cdc = bare.cdc(contracts=[contract], tables={"everything": {"topic": "everything"}})
    bare.drain(cdc)
    bare.execute(f"INSERT INTO everything (id, {names}) VALUES (3, {values})", "INSERT INTO everything (id) VALUES (4)")
    bare.drain(cdc)
    assert cdc.counters.dead_letters == 0
    told = [
        each["after"] for each in bare.decoded("everything", contract.value_schema.project(["after"], name="Envelope"))
    ]
    assert [each.pop("id") for each in told] == [1, 2, 3, 4]
    assert told[0] == {name: value for name, (_, _, value) in columns.items()}
    assert told[2] == told[0]
    assert told[1] == told[3] == dict.fromkeys(columns)


def test_other_types_of_a_contract(bare: Till) -> None:
    """A contract may choose another type for a column."""
    bare.execute(
        "CREATE TABLE choices (id int PRIMARY KEY, flag tinyint(1), big bigint unsigned, price decimal(9,2),"
        " bits bit(3), at datetime(3), moment timestamp(3) NULL, span time(3), mood enum('a','b'),"
        " code binary(2), place point, ratio float)"
    )
    fields: dict[str, Any] = {
        "flag": "boolean",
        "big": "long",
        "price": "double",
        "bits": "string",
        "at": {"type": "long", "logicalType": "timestamp-millis"},
        "moment": "string",
        "span": {"type": "int", "logicalType": "time-millis"},
        "mood": {"type": "enum", "name": "Mood", "symbols": ["a", "b"]},
        "code": {"type": "fixed", "name": "Code", "size": 2},
        "place": "bytes",
        "ratio": "string",
    }
    contract = contract_of("choices", ("id",), id="long", **fields)
    bare.topic("choices")
    values = (
        "1, 5, 1.5, b'101', '2024-01-01 00:00:00.5', '2024-01-01 00:00:00.25', '01:00:00.5', 'b', 'xy', POINT(1.5,-2),"
        " 0.1"
    )
    bare.execute(f"INSERT INTO choices VALUES (1, {values})")
    cdc = bare.drain(contracts=[contract], tables={"choices": {"topic": "choices"}})
    bare.execute(f"INSERT INTO choices VALUES (2, {values})")
    bare.drain(cdc)
    first, second = (each["after"] for each in bare.decoded("choices", contract.value_schema))
    assert {**first, "id": 2} == second
    assert first == {
        "id": 1,
        "flag": True,
        "big": 5,
        "price": 1.5,
        "bits": "101",
        "at": datetime(2024, 1, 1, 0, 0, 0, 500000, tzinfo=UTC),
        "moment": "2024-01-01T00:00:00.250Z",
        "span": first["span"],
        "mood": "b",
        "code": b"xy",
        "place": WKB,
        "ratio": "0.10000000149011612",
    }


def test_what_does_not_fit_is_a_dead_letter(bare: Till) -> None:
    """Zero dates where the contract takes no null, numbers beyond long, times beyond a day: each alone, the others go
    on, from snapshot and stream."""
    bare.execute(
        "CREATE TABLE odd (id int PRIMARY KEY, day date NOT NULL, maybe date, at timestamp NOT NULL DEFAULT 0,"
        " big bigint unsigned NOT NULL, span time NOT NULL)"
    )
    fields: dict[str, Any] = {
        "day": {"type": "int", "logicalType": "date"},
        "maybe": ["null", {"type": "int", "logicalType": "date"}],
        "at": ["null", {"type": "long", "logicalType": "timestamp-micros"}],
        "big": "long",
        "span": {"type": "long", "logicalType": "time-micros"},
    }
    contract = contract_of("odd", ("id",), id="int", **fields)
    bare.topic("odd")
    odd = (
        "('0000-00-00', '2024-01-01', now(), 1, '1:00')",
        "('2024-01-01', '2024-00-01', 0, 1, '1:00')",
        "('2024-01-01', '0000-00-00', now(), 18446744073709551615, '1:00')",
        "('2024-01-01', NULL, now(), 1, '-1:00')",
        "('2024-01-01', NULL, now(), 1, '24:00')",
    )
    for number, each in enumerate(odd):
        bare.execute(f"INSERT INTO odd VALUES ({number}, {each[1:]}")
    cdc = bare.drain(contracts=[contract], tables={"odd": {"topic": "odd"}})
    for number, each in enumerate(odd, 10):
        bare.execute(f"INSERT INTO odd VALUES ({number}, {each[1:]}")
    bare.drain(cdc)
    after = [each["after"] for each in bare.decoded("odd", contract.value_schema)]
    assert [(each["id"], each["maybe"], each["at"]) for each in after] == [(1, None, None), (11, None, None)]
    letters = bare.records("till.dlq")
    assert [json.loads(each.key or b"")["id"] for each in letters] == ["0", "2", "3", "4", "10", "12", "13", "14"]
    messages = [(dict(each.headers)["headrace.error.message"] or b"").decode() for each in letters[:4]]
    assert "day: is a zero date, and the contract takes no null" in messages[0]
    assert "big: " in messages[1]
    assert "span: is no time of a day" in messages[2]
    assert "span: is no time of a day" in messages[3]


@pytest.mark.parametrize(
    ("column", "avro", "message"),
    [
        (WITHOUT_MAPPING, "string", "which has no mapping"),
        ("datetime", "boolean", "is of type datetime, which boolean cannot hold"),
        ("int", "boolean", "is of type int, which boolean cannot hold"),
        ("blob", "string", "is of type blob, which string cannot hold"),
    ],
)
def test_types_that_a_contract_cannot_have(till: Till, column: str, avro: str, message: str) -> None:
    """Told before anything runs."""
    till.execute(
        f"ALTER TABLE accounts ADD COLUMN odd {without_mapping(till) if column == WITHOUT_MAPPING else column}"
    )
    contract = contract_of("accounts", ("id",), id="long", odd=["null", avro])
    with pytest.raises(SourceInvalid, match=message):
        till.cdc(contracts=[contract]).missing()


def test_a_column_without_mapping_may_be_left_out(till: Till) -> None:
    """The rows beside it are read, from the stream too."""
    till.execute(f"ALTER TABLE accounts ADD COLUMN odd {without_mapping(till)} AFTER id")
    till.insert((1, "Ann", 5))
    cdc = till.drain(new_columns="follow")
    long, short = ("repeat('x', 5000)", "'y'") if till.is_mariadb else ("string_to_vector('[1,2,3]')", "NULL")
    till.execute(f"INSERT INTO accounts VALUES (2, {long}, 'Bob', 1, 'n'), (3, {short}, 'Cy', 1, 'm')")
    till.drain(cdc)
    assert till.replica() == till.source()


VALUES: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "i": ("bigint", st.integers(-(2**63), 2**63 - 1)),
    "u": ("bigint unsigned", st.integers(0, 2**64 - 1)),
    "m": ("mediumint", st.integers(-(2**23), 2**23 - 1)),
    "f": ("float", st.floats(width=32, allow_nan=False, allow_infinity=False)),
    "d": ("double", st.floats(allow_nan=False, allow_infinity=False)),
    "n": ("decimal(30,11)", st.decimals(-(10**19) + 1, 10**19 - 1, places=11)),
    "n1": ("decimal(10,10)", st.decimals(Decimal("-0.9999999999"), Decimal("0.9999999999"), places=10)),
    "c": ("varchar(40)", st.text(st.characters(exclude_categories=["Cs"]), max_size=40)),
    "ch": (
        "char(20)",
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda text: text.rstrip(" ")),
    ),
    "l": ("varchar(40) CHARACTER SET latin1", st.binary(max_size=40).map(lambda data: data.decode("latin-1"))),
    "k": ("varchar(40) CHARACTER SET koi8r", st.text("абвЯ█ ez", max_size=40)),
    "b": ("binary(9)", st.binary(max_size=9)),
    "vb": ("varbinary(300)", st.binary(max_size=300)),
    "e": ("enum('a','b','c')", st.sampled_from(["a", "b", "c", None])),
    "s": ("set('a','b','c','d','e','f','g','h','i')", st.sets(st.sampled_from("abcdefghi")).map(",".join)),
    "dt": ("date", st.dates()),
    "t0": ("time", st.timedeltas(timedelta(hours=-838), timedelta(hours=838))),
    "t6": ("time(6)", st.timedeltas(timedelta(hours=-838), timedelta(hours=838))),
    "t3": ("time(3)", st.timedeltas(timedelta(seconds=-2), timedelta(seconds=2))),
    "dm": ("datetime(6)", st.datetimes()),
    "d1": ("datetime(1)", st.datetimes(datetime(1, 1, 2))),  # noqa: DTZ001
    "ts": ("timestamp(4) NULL", st.datetimes(datetime(1970, 1, 2), datetime(2038, 1, 18))),  # noqa: DTZ001
    "y": ("year", st.integers(1901, 2155)),
}


@pytest.fixture
def drawn(bare: Till) -> Any:
    declared = ", ".join(f"{name} {kind}" for name, (kind, _) in VALUES.items())
    bare.execute(
        f"CREATE TABLE drawn (id int PRIMARY KEY, {declared}) CHARACTER SET utf8mb4", "SET time_zone = '+00:00'"
    )
    return bare


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.fixed_dictionaries({name: each for name, (_, each) in VALUES.items()}), min_size=1, max_size=12)
)
def test_the_log_says_what_select_says(drawn: Till, values: list[dict[str, Any]]) -> None:
    """Any values: the cells read from the binary log are those of SELECT, byte for byte but for the digits of floats,
    whose numbers are equal."""
    place = drawn.end()
    drawn.execute("BEGIN", "DELETE FROM drawn")
    marks = ", ".join(["%s"] * (len(VALUES) + 1))
    for number, row in enumerate(values):
        rows(drawn.connection, f"INSERT INTO drawn VALUES ({marks})", (number, *(row[name] for name in VALUES)))
    drawn.execute("COMMIT")
    raw = connect(drawn.url, raw=True)
    names = ", ".join("f + 0e0" if name == "f" else name for name in VALUES)
    rows(raw, f"USE {drawn.database}")
    selected = [dict(zip(VALUES, row, strict=True)) for row in rows(raw, f"SELECT {names} FROM drawn ORDER BY id")]
    raw.close()
    logged = [dict(zip(VALUES, row[1:], strict=True)) for row in logged_rows(drawn, place)[-len(values) :]]
    for row in (*selected, *logged):
        row["f"], row["d"] = float(row["f"]), float(row["d"])
    assert logged == selected


DOCUMENTS = (
    "null",
    "true",
    "[]",
    "{}",
    '""',
    "-0.0",
    "1e300",
    "18446744073709551615",
    "-9223372036854775808",
    "123456789012345678901234567890",
    "0.1",
    '{"b": 1, "a": {"": [null, false, -1, 32768, 2147483648]}, "ü😀": "\\u0001\\n\\"\\\\/"}',
    "[" + ", ".join(f'"{number:040d}"' for number in range(2_000)) + "]",
    '{"long": "' + "x" * 70_000 + '"}',
    '["' + "x" * 70_000 + '", 100000, 3000000000, -7]',
)
COMPUTED_DOCUMENTS = (
    "json_array(cast(1.50 AS decimal(5,2)), date '2024-02-29', time '-01:02:03', timestamp '2024-01-02 03:04:05.5')",
    "json_array(cast(x'01ff' AS binary), time '838:59:59', date '0000-00-00', cast(-0.05 AS decimal(9,3)))",
    "json_object('at', cast('2024-01-02 03:04:05.678901' AS datetime(6)), 'n', cast(0 AS decimal(3,1)))",
)
"""Values that JSON's text does not have, of MySQL alone."""


def test_documents_come_as_select_shows_them(bare: Till) -> None:
    """MySQL logs a form of its own, MariaDB text: each becomes the text of SELECT."""
    computed = () if bare.is_mariadb else COMPUTED_DOCUMENTS
    bare.execute("CREATE TABLE drawn (id int PRIMARY KEY, doc json)", "SET time_zone = '+00:00'")
    place = bare.end()
    for number, document in enumerate(DOCUMENTS):
        rows(bare.connection, "INSERT INTO drawn VALUES (%s, %s)", (number, document))
    for number, document in enumerate(computed, len(DOCUMENTS)):
        bare.execute(f"INSERT INTO drawn VALUES ({number}, {document})")
    selected = [text for (text,) in rows(bare.connection, "SELECT doc FROM drawn ORDER BY id")]
    assert [(cell or b"").decode() for _, cell in logged_rows(bare, place)] == selected


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (
            "02040037000f10000f19000f23000f2d00f6070b0280000001320a080000000000bab2190b080000007defffffff0c0820a107053144b219",
            '[1.50, "2024-02-29", "-01:02:03.000000", "2024-01-02 03:04:05.500000"]',
        ),
        (
            "02060038000f160005ffff071a00091e000b26000f2e000f0201ff409c0000005ed0b2000000000080e03779c34143f6080c037fffffffffcd",
            '["base64:type15:Af8=", -1, 40000, 3000000000, 1e16, -0.050]',
        ),
        (
            "0002002c0012000100130001000014000228006162020014001200000012000200040100040000c3bc00000400",
            '{"a": {"": true, "ü": null}, "b": []}',
        ),
        ("03010000000d00000007a0860100", "[100000]"),
    ],
)
def test_documents_that_mysql_wrote(written: str, text: str) -> None:
    """As MySQL 9.7 wrote them and shows them: dates, times, decimals and bytes, small and large numbers, order."""
    assert json_text(bytes.fromhex(written)).decode() == text


def test_a_document_that_cannot_be_read_stops() -> None:
    """Cut short, or of a type that nobody knows."""
    for written in (b"\x02\x05\x00", b"\x0f\xf6", b"\x63\x00"):
        with pytest.raises(SourceInvalid, match="cannot be read"):
            json_text(written)


def test_a_vector_beside_text_is_read_over() -> None:
    """As MySQL 9.7 wrote it: it has a set of characters, which the text behind it does not take."""
    shape_of = (
        "85100000000001000178000176000303f20f030450000601010003043ffc"
        "ff000d0103040d026964036f6464056f776e65720801000c01e0"
    )
    written = "8510000000001100020003ff00010000000c0000000000803f000000400000404003416e6e020200000003426f62"

    def answer(query: str) -> list[tuple[Any, ...]]:
        return [(255, "utf8mb4"), (63, "binary")]

    shape = table_shape(bytes.fromhex(shape_of), Charsets(answer), {}, is_mariadb=False)
    assert [(name, kind.name) for name, kind in shape.types] == [("id", "int"), ("odd", "vector"), ("owner", "varchar")]
    body = bytes.fromhex(written)
    found = row_images.rows_of(body, 8 + int.from_bytes(body[8:10], "little"), shape.readers, is_update=False)
    assert [(row[0], row[2]) for row, _ in found] == [(b"1", b"Ann"), (b"2", b"Bob")]


def logged_rows(till: Till, place: Any) -> list[row_images.Row]:
    """The rows that were inserted from a place of the log on."""
    server, end = check_server(till.connection), till.end()
    charsets = Charsets(lambda query: rows(till.connection, query))
    declared = read_table(till.connection, "drawn", till.database).types
    stream = BinlogStream(till.url, 4242, place, "", is_mariadb=server.is_mariadb, has_checksums=server.has_checksums)
    shapes, found = {}, []
    try:
        while True:
            event = stream.receive()
            if event is None:
                stream.wait(1.0)
                continue
            if event.kind == 19:
                number, *_ = table_name(event.body)
                shapes[number] = table_shape(event.body, charsets, declared, is_mariadb=server.is_mariadb)
            elif event.kind in (23, 30):
                at = 8 if event.kind == 23 else 8 + int.from_bytes(event.body[8:10], "little")
                readers = shapes[int.from_bytes(event.body[:6], "little")].readers
                found += [row for row, _ in row_images.rows_of(event.body, at, readers, is_update=False)]
            if event.end >= end.offset and stream.file == end.file:
                return found
    finally:
        stream.close()


@pytest.mark.parametrize(
    ("declared", "avro", "cell", "value"),
    [
        ("varchar(5)", "string", b"\xff", "is text that is not UTF-8"),
        (
            "decimal(9,2)",
            {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2},
            b"12345.67",
            "digits",
        ),
        ("decimal(9,2)", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 1}, b"1.25", ""),
        ("date", {"type": "int", "logicalType": "date"}, b"2023-02-30", "is a day that its month does not have"),
        ("tinyint", "boolean", b"2", "is not 0 or 1"),
        ("enum('a')", {"type": "enum", "name": "E", "symbols": ["b"]}, b"a", ""),
        ("bit(64)", "long", b"\xff" * 8, "is out of the range of long"),
    ],
)
def test_cells_that_do_not_fit(declared: str, avro: Any, cell: bytes, value: str) -> None:
    """Each alone, with its column; the row beside it is there."""
    schema = AvroSchema.parse(
        {
            "type": "record",
            "name": "R",
            "fields": [{"name": "id", "type": "int"}, {"name": "v", "type": ["null", avro]}],
        }
    )
    found = declared_type(declared)
    assert unmapped(found, record_shape(schema).children[1].shape) is None
    built = CellColumns(schema, {"id": declared_type("int"), "v": found}).from_values(
        {"id": cells([b"1", b"2"]), "v": cells([cell, None])}, 2
    )
    assert built.table.column("id").to_pylist() == [2]
    assert value in str(built.misfits[0])
    assert str(built.misfits[0]).startswith("v: ")
