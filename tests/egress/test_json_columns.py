"""Columns become the JSON that the gateway reads: each row as it was, whatever its types."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.contracts.avro import AvroSchema
from headrace.contracts.shape import record_shape
from headrace.egress.json_columns import json_column, json_rows, text_column
from headrace.ingress.columns import ColumnBuilder
from headrace.ingress.values import Form
from headrace.testing.sink_types import comparable, every_type_contract, every_type_rows


def columns(schema: AvroSchema, rows: list[dict[str, Any]], form: Form = Form.PYTHON) -> pa.Table:
    found = ColumnBuilder(schema, form).from_rows(rows)
    assert not found.misfits
    return found.table


def one_column(avro_type: Any, values: list[Any]) -> list[str]:
    schema = AvroSchema.parse({"type": "record", "name": "R", "fields": [{"name": "v", "type": ["null", avro_type]}]})
    table = columns(schema, [{"v": value} for value in values])
    return json_column(table.column("v"), record_shape(schema).children[0].shape).to_pylist()


def read_back(texts: pa.Array, schema: AvroSchema) -> list[dict[str, Any]]:
    return comparable(columns(schema, [json.loads(text) for text in texts.to_pylist()], Form.HTTP))


@pytest.mark.parametrize("cut", ["whole", "sliced", "in pieces", "reversed"])
def test_every_type_comes_back(cut: str) -> None:
    """Each Avro type at its edges, and nulls: the gateway's reading of the text is the row."""
    schema = every_type_contract("t").schema
    table = columns(schema, every_type_rows())
    if cut == "sliced":
        table = pa.concat_tables([table, table]).combine_chunks().slice(2, 4)
    elif cut == "in pieces":
        table = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3)])
    elif cut == "reversed":
        table = table.take(pa.array([3, 2, 1, 0]))
    assert read_back(json_rows(table, schema), schema) == comparable(table)


def test_no_row_is_no_text() -> None:
    """An empty batch has columns too."""
    schema = every_type_contract("t").schema
    assert json_rows(columns(schema, every_type_rows()).slice(0, 0), schema).to_pylist() == []


def test_columns_may_be_chosen() -> None:
    """Some columns in another order."""
    schema = every_type_contract("t").schema
    texts = json_rows(columns(schema, every_type_rows()[1:2]), schema, ["an_int", "id"]).to_pylist()
    assert texts == ['{"an_int":2147483647,"id":1}']


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_is_json(values: list[str | None]) -> None:
    """Quotes, control characters, NUL and characters outside of the first plane."""
    assert [json.loads(text) for text in one_column("string", values)] == values


@given(st.lists(st.none() | st.floats()))
def test_any_double_keeps_its_value(values: list[float | None]) -> None:
    """The text of a double is that double, minus zero too; what JSON has no number for is text."""
    for text, value in zip(one_column("double", values), values, strict=True):
        if value is None or math.isfinite(value):
            assert repr(float(text) if text != "null" else None) == repr(value)
        else:
            assert json.loads(text) == {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


@given(st.lists(st.none() | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-9, 9))))
def test_any_map_is_an_object(values: list[dict[str, int] | None]) -> None:
    """Empty maps, nulls between maps, keys with quotes."""
    assert [json.loads(text) for text in one_column({"type": "map", "values": "long"}, values)] == values


def test_decimals_have_no_exponent() -> None:
    """Small ones neither."""
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}
    texts = one_column(decimal, [Decimal("0.000000001"), Decimal("-1.5"), Decimal(0), None])
    assert texts == ['"0.000000001"', '"-1.500000000"', '"0.000000000"', "null"]


@pytest.mark.parametrize(
    ("avro_type", "per_day"),
    [
        ({"type": "int", "logicalType": "date"}, 1),
        ({"type": "long", "logicalType": "timestamp-millis"}, 86_400_000),
        ({"type": "long", "logicalType": "timestamp-micros"}, 86_400_000_000),
        ({"type": "long", "logicalType": "local-timestamp-micros"}, 86_400_000_000),
    ],
)
def test_years_beyond_9999_are_numbers(avro_type: Any, per_day: int) -> None:
    """The last and first day of ISO's years are text, the ones beyond are Avro's own number: none fails."""
    first, last = -719_162 * per_day, (2_932_897 * per_day) - 1
    inside = one_column(avro_type, [first, last])
    assert [text[1:11] for text in inside] == ["0001-01-01", "9999-12-31"]
    assert one_column(avro_type, [first - 1, last + 1, None]) == [str(first - 1), str(last + 1), "null"]


def test_text_has_no_quotes() -> None:
    """What a target of texts takes: texts, numbers and times bare, bytes raw, nested values as JSON, null as null."""
    schema = every_type_contract("t").schema
    shapes = {child.name: child.shape for child in record_shape(schema).children}
    table = columns(schema, every_type_rows())
    found = {name: text_column(table.column(name), shapes[name]).to_pylist() for name in table.column_names}
    assert found["a_string"][0] == "grün \U0001f6e9 'quoted' \"twice\""
    assert found["a_fixed"] == [b"\x00\x01\x02\xff", None, None, None]
    assert found["a_double"] == ["0.1", "Infinity", "NaN", None]
    assert found["an_enum"][:2] == ["HEARTS", None]
    assert found["a_date"][0] == "1969-12-31"
    assert found["a_decimal"][0] == "12345678901234567890123456789.123456789"
    assert found["an_array"][:2] == ["[1,null,3]", "[]"]
    assert found["a_long"][:2] == ["9223372036854775807", "-9223372036854775808"]
    assert found["a_duration"][0] == '{"months":1,"days":2,"milliseconds":3}'
