"""Keys in addresses: typed by the contract, nothing rounded, every refusal with its reason."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contracts.polars_types import avro_to_dtype
from headrace.flow.values import Column
from headrace.workspace.json_values import as_json
from headrace.workspace.table_errors import QuestionInvalid
from headrace.workspace.table_keys import (
    KeyColumn,
    key_columns,
    key_frame,
    key_of_text,
    key_of_values,
    window_start_ms,
)

MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
NANOS = {"type": "long", "logicalType": "timestamp-nanos"}
LOCAL = {"type": "long", "logicalType": "local-timestamp-millis"}
DATE = {"type": "int", "logicalType": "date"}
TIME = {"type": "long", "logicalType": "time-micros"}
UUID = {"type": "string", "logicalType": "uuid"}
SIXTEEN = {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
ENUM = {"type": "enum", "name": "Size", "symbols": ["small", "big"]}
SOME_UUID = "123E4567-e89b-12d3-a456-426614174000"


def columns(**types: Any) -> tuple[KeyColumn, ...]:
    """Key columns whose rows are held under names of their own."""
    made = [Column(name=name, type=type_) for name, type_ in types.items()]
    dtypes = {name: avro_to_dtype(type_) for name, type_ in types.items()}
    return key_columns(list(types), made, [f"held_{name}" for name in types], dtypes)


def read(type_: Any, text: str) -> Any:
    """The value in the frame that a worker is asked with."""
    (column,) = key = columns(it=type_)
    series = key_frame(key, key_of_text(key, text)).to_series()
    assert (series.name, series.dtype) == ("held_it", column.dtype)
    return series.item()


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("string", "a/b c%", "a/b c%"),
        ("string", '{"a": 1}', '{"a": 1}'),
        (["null", "string"], "null", "null"),
        ("int", "-7", -7),
        ("long", "+9223372036854775807", 2**63 - 1),
        ("boolean", "true", True),
        (UUID, SOME_UUID, SOME_UUID),
        (SIXTEEN, SOME_UUID, SOME_UUID.lower()),
        (ENUM, "big", "big"),
        (DECIMAL, "12.5", Decimal("12.50")),
        (DECIMAL, "-9999.99", Decimal("-9999.99")),
        ("bytes", "abc", b"abc"),
        ("bytes", "base64:AAE=", b"\x00\x01"),
        (DATE, "1969-12-31", date(1969, 12, 31)),
        (TIME, "12:30:00.000001", time(12, 30, 0, 1)),
        (MILLIS, "2026-01-31T12:30:00Z", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        (MILLIS, "2026-01-31T13:30:00.250+01:00", datetime(2026, 1, 31, 12, 30, 0, 250_000, tzinfo=UTC)),
        (MILLIS, "1969-12-31T23:59:59.999", datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
        (LOCAL, "2026-01-31T12:30:00", datetime.fromisoformat("2026-01-31T12:30:00")),
    ],
)
def test_text_becomes_a_value_of_the_column(type_: Any, text: str, value: Any) -> None:
    """As written for people, of the type in which the rows are held."""
    assert read(type_, text) == value


@pytest.mark.parametrize(
    ("type_", "text", "reason"),
    [
        ("int", "2147483648", "does not fit into 32 bits"),
        ("long", "9223372036854775808", "does not fit into 64 bits"),
        ("long", "1.0", "no whole number"),
        ("long", " 1", "no whole number"),
        ("long", "١", "no whole number"),
        ("boolean", "yes", "neither true nor false"),
        (UUID, "123e4567", "not the form"),
        (ENUM, "medium", "none of small, big"),
        (DECIMAL, "12.505", "does not fit 6 digits"),
        (DECIMAL, "12345.00", "does not fit 6 digits"),
        (DECIMAL, "Infinity", "no number"),
        (DECIMAL, "1e99999", "cannot be read|does not fit|InvalidOperation"),
        ("bytes", "base64:?", "no base64"),
        (DATE, "31.1.2026", "isoformat"),
        (MILLIS, "yesterday", "isoformat"),
        (MILLIS, "2026-01-31T12:30:00.0001Z", "finer than ms"),
        (LOCAL, "2026-01-31T12:30:00Z", "no zone"),
        (TIME, "25:00", "hour"),
    ],
)
def test_what_is_no_value_is_refused(type_: Any, text: str, reason: str) -> None:
    """Never rounded, cut or wrapped; the error names column and reason."""
    with pytest.raises(QuestionInvalid, match=f"(?s)^it: .*({reason})"):
        read(type_, text)


FIRST, LAST = datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("2200-01-01")
MOMENTS = st.datetimes(FIRST, LAST, timezones=st.just(UTC))
VALUES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "string": ("string", st.text(st.characters(exclude_categories=("Cs",)))),
    "long": ("long", st.integers(-(2**63), 2**63 - 1)),
    "decimal": (DECIMAL, st.decimals(-9999, 9999, places=2)),
    "date": (DATE, st.dates()),
    "time": (TIME, st.times()),
    "micros": (MICROS, MOMENTS),
    "nanos": (NANOS, MOMENTS),
    "millis": (MILLIS, MOMENTS.map(lambda each: each.replace(microsecond=each.microsecond // 1000 * 1000))),
}


@pytest.mark.parametrize("kind", sorted(VALUES))
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_key_that_was_shown_can_be_asked(kind: str, data: st.DataObject) -> None:
    """What an answer shows of a key column finds the same key again."""
    type_, values = VALUES[kind]
    value = data.draw(values)
    assert read(type_, str(as_json(value))) == value


def test_the_finest_moment_is_kept() -> None:
    """Nanoseconds are not cut by way of anything coarser."""
    key = columns(at=NANOS)
    frame = key_frame(key, key_of_text(key, "2026-01-31T12:30:00.123456789Z"))
    assert frame["held_at"].cast(pl.Int64).item() % 10**9 == 123_456_789


def test_keys_of_several_columns() -> None:
    """By parameters or as a JSON object, in which values have their own types and may be null."""
    key = columns(who=["null", "string"], product="long", price=DECIMAL)
    expected = {"who": "ann", "product": 7, "price": Decimal("1.10")}
    assert key_of_values(key, {"who": "ann", "product": "7", "price": "1.1"}) == expected
    assert key_of_text(key, '{"product": 7, "who": "ann", "price": 1.10}') == expected
    nobody = key_of_text(key, json.dumps({"who": None, "product": 7, "price": "1.1"}))
    assert key_frame(key, nobody)["held_who"].to_list() == [None]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ann", "no key of 2 columns"),
        ("[1, 2]", "no JSON object"),
        ('{"who": "ann"}', "lacks column product"),
        ('{"who": "ann", "product": 1, "size": 2}', "no column size"),
        ('{"who": "ann", "product": [1]}', "product"),
    ],
)
def test_a_key_has_all_its_columns(text: str, reason: str) -> None:
    """None missing, none too many; the cure shows how to ask."""
    with pytest.raises(QuestionInvalid, match=reason):
        key_of_text(columns(who="string", product="long"), text)


def test_starts_of_windows() -> None:
    """A moment, in milliseconds."""
    assert window_start_ms("1970-01-01T00:00:01.5Z") == 1_500
    assert window_start_ms("1970-01-01T00:00:01") == timedelta(seconds=1) // timedelta(milliseconds=1)
    for text in ("1500", "", "1970-01-01T00:00:00.0001Z"):
        with pytest.raises(QuestionInvalid, match="window_start"):
            window_start_ms(text)
