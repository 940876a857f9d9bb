"""Values from outside: exactly the contract's value, or a misfit; never rounded, cut or guessed."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts.avro import AvroSchema
from headrace.ingress.columns import ColumnBuilder, Columns
from headrace.ingress.values import Form

DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
SUIT = {"type": "enum", "name": "Suit", "symbols": ["SPADES", "HEARTS"]}
INNER = {
    "type": "record",
    "name": "Inner",
    "fields": [{"name": "x", "type": "int"}, {"name": "y", "type": "string", "default": "none"}],
}
SPAN = {"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"}


def logical(avro_type: str, name: str) -> dict[str, str]:
    return {"type": avro_type, "logicalType": name}


def columns(avro_type: Any, values: list[Any], form: Form = Form.PYTHON) -> Columns:
    schema = AvroSchema.parse({"type": "record", "name": "Row", "fields": [{"name": "v", "type": avro_type}]})
    return ColumnBuilder(schema, form).from_rows([{"v": value} for value in values])


def taken(avro_type: Any, value: Any, form: Form = Form.PYTHON) -> Any:
    found = columns(avro_type, [value], form)
    assert not found.misfits, found.misfits
    (result,) = found.table.column("v").to_pylist()
    return result


def misfit(avro_type: Any, value: Any, form: Form = Form.PYTHON) -> str:
    found = columns(avro_type, [value], form)
    assert found.table.num_rows == 0
    return str(found.misfits[0])


AT = datetime(2013, 1, 1, 5, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("avro_type", "value", "form", "expected"),
    [
        ("int", 7.0, Form.PYTHON, 7),
        ("int", " 7e2 ", Form.TEXT, 700),
        ("double", 3, Form.PYTHON, 3.0),
        ("double", "Infinity", Form.JSON, math.inf),
        ("double", "1e3", Form.TEXT, 1000.0),
        ("float", 0.1, Form.PYTHON, pytest.approx(0.1)),
        ("boolean", "TRUE", Form.TEXT, True),
        ("boolean", 0, Form.SQLITE, False),
        ("bytes", "\u00ff\u0000", Form.JSON, b"\xff\x00"),
        ("bytes", bytearray(b"ab"), Form.PYTHON, b"ab"),
        (SUIT, "HEARTS", Form.PYTHON, "HEARTS"),
        (DECIMAL, "12.5", Form.JSON, Decimal("12.50")),
        (DECIMAL, 0.1, Form.PYTHON, Decimal("0.10")),
        (logical("string", "uuid"), "{" + "12345678" * 4 + "}", Form.TEXT, str(UUID("12345678" * 4))),
        (logical("int", "date"), "1969-12-31", Form.JSON, date(1969, 12, 31)),
        (logical("int", "time-millis"), "23:59:59.999", Form.TEXT, time(23, 59, 59, 999000)),
        (logical("long", "timestamp-millis"), "2013-01-01T05:15:00Z", Form.JSON, AT),
        (logical("long", "timestamp-millis"), "2013-01-01 05:15", Form.SQLITE, AT),
        (logical("long", "timestamp-millis"), "2013-01-01T00:15:00-05:00", Form.JSON, AT),
        (logical("long", "local-timestamp-micros"), AT.replace(tzinfo=None), Form.PYTHON, AT.replace(tzinfo=None)),
        (SPAN, timedelta(days=2, milliseconds=5), Form.PYTHON, {"months": 0, "days": 2, "milliseconds": 5}),
        ({"type": "array", "items": "int"}, "[1, 2]", Form.TEXT, [1, 2]),
        ({"type": "map", "values": "int"}, {"a": 1}, Form.PYTHON, [("a", 1)]),
        (INNER, {"x": 1}, Form.PYTHON, {"x": 1, "y": "none"}),
        (["null", "long", "string"], "a", Form.PYTHON, {"long": None, "string": "a"}),
        (["null", "long", "string"], {"long": 5}, Form.JSON, {"long": 5, "string": None}),
    ],
)  # fmt: skip
def test_values_that_fit(avro_type: Any, value: Any, form: Form, expected: Any) -> None:
    """Each form's own way to write a value of each type."""
    assert taken(avro_type, value, form) == expected


@pytest.mark.parametrize(
    ("avro_type", "value", "form", "reason"),
    [
        ("int", 2**31, Form.PYTHON, "out of the range of int"),
        ("int", 1.5, Form.PYTHON, "is float, not int"),
        ("int", True, Form.PYTHON, "is bool, not int"),
        ("int", "1.5", Form.TEXT, "not a whole number"),
        ("int", "7", Form.JSON, "is str, not int"),
        ("double", 2**53 + 1, Form.PYTHON, "cannot hold exactly"),
        ("float", 1e39, Form.PYTHON, "out of the range of float"),
        ("boolean", 1, Form.JSON, "is int, not boolean"),
        ("bytes", "\u0100", Form.JSON, "no byte"),
        ("string", "\udc00", Form.PYTHON, "lone surrogate"),
        (SUIT, "CLUBS", Form.PYTHON, "is not one of SPADES, HEARTS"),
        ({"type": "fixed", "name": "F", "size": 2}, b"abc", Form.PYTHON, "has 3 bytes, not 2"),
        (DECIMAL, "1.005", Form.PYTHON, "does not fit 6 digits, 2 after the point"),
        (DECIMAL, 10**6, Form.PYTHON, "does not fit"),
        (DECIMAL, Decimal("NaN"), Form.PYTHON, "finite"),
        (logical("string", "uuid"), "123", Form.JSON, "UUID"),
        (logical("int", "date"), AT, Form.PYTHON, "is datetime, not date"),
        (logical("int", "date"), "01.02.2013", Form.TEXT, "ISO date"),
        (logical("int", "time-millis"), "10:00:00.0001", Form.JSON, "finer than ms"),
        (logical("int", "time-millis"), 86_400_000, Form.PYTHON, "out of the range"),
        (logical("long", "timestamp-millis"), AT.replace(tzinfo=None), Form.PYTHON, "without zone"),
        (logical("long", "timestamp-millis"), "2013-01-01T00:00:00.0000001Z", Form.JSON, "finer than ms"),
        (logical("long", "timestamp-nanos"), "2500-01-01T00:00:00Z", Form.JSON, "out of the range that ns can count"),
        (logical("long", "local-timestamp-millis"), AT, Form.PYTHON, "asks for a local time"),
        (SPAN, timedelta(microseconds=1), Form.PYTHON, "finer than milliseconds"),
        ({"type": "array", "items": "int"}, [1, "x"], Form.PYTHON, "v[1]: is str, not int"),
        ({"type": "map", "values": "int"}, {"a": None}, Form.PYTHON, "v['a']: is null"),
        ({"type": "map", "values": "int"}, {1: 1}, Form.PYTHON, "has a key that is int"),
        (INNER, {"x": "a"}, Form.PYTHON, "v.x: is str, not int"),
        (INNER, {"z": 1}, Form.PYTHON, "v.z: is not in the contract"),
        ({"type": "array", "items": INNER}, [{}], Form.PYTHON, "v[0].x: is missing"),
        (["null", "long", "string"], 1.5, Form.PYTHON, "is float, not long or string"),
        ({"type": "array", "items": "int"}, "[1", Form.TEXT, "is not the JSON of"),
    ],
)
def test_values_that_do_not(avro_type: Any, value: Any, form: Form, reason: str) -> None:
    """The misfit names the place and the reason."""
    assert reason in misfit(avro_type, value, form)


SECRET = "4111-1111-1111-1111"


@pytest.mark.parametrize("avro_type", ["int", "double", "boolean", SUIT, DECIMAL, logical("string", "uuid"), INNER])
def test_a_misfit_never_tells_the_value(avro_type: Any) -> None:
    """It may be secret, and messages go to logs."""
    for form in Form:
        assert SECRET not in misfit(avro_type, SECRET, form)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.one_of(st.none(), st.integers(-(2**65), 2**65), st.floats(), st.booleans(), st.text())))
def test_no_value_changes_on_its_way(values: list[Any]) -> None:
    """Whatever is given for a nullable long: the same number, or a misfit, and no row is both or neither."""
    found = columns(["null", "long"], values)
    rows = found.rows.tolist()
    assert sorted([*rows, *found.misfits]) == list(range(len(values)))
    for row, value in zip(rows, found.table.column("v").to_pylist(), strict=True):
        assert value == values[row]
        assert type(value) is not bool
        assert not isinstance(values[row], bool | str)


def test_tables_of_other_types_are_taken_when_every_value_is_kept() -> None:
    """Arrow columns of near types are cast; values that would change fall out one by one."""
    schema = AvroSchema.parse(
        {"type": "record", "name": "R", "fields": [{"name": "n", "type": "int"}, {"name": "s", "type": "string"}]}
    )
    builder = ColumnBuilder(schema, Form.JSON)
    given_table = pa.table({"n": pa.array([1.0, 2.5, 3.0]), "s": pa.array(["a", "b", "c"]).dictionary_encode()})
    found = builder.from_table(given_table)
    assert found.table.to_pydict() == {"n": [1, 3], "s": ["a", "c"]}
    assert list(found.misfits) == [1]
    narrow = builder.from_table(pa.table({"n": pa.array([1, 2**40], pa.int64()), "s": ["a", "b"]}))
    assert narrow.rows.tolist() == [0]
