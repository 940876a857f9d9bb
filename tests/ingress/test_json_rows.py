"""JSON text to values: every digit, and a reason for what is none."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headrace.contracts.avro import AvroSchema
from headrace.ingress.file_chunks import file_chunks
from headrace.ingress.json_rows import JsonReader, Unreadable


def schema(kind: Any) -> AvroSchema:
    return AvroSchema.parse({"type": "record", "name": "One", "fields": [{"name": "v", "type": kind}]})


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}


def test_numbers_are_decimal_only_where_digits_could_be_lost() -> None:
    """A contract with decimals at any depth, or a number beyond a double; else they are as quick as ever."""
    text = b'{"v": 12345678901234567890123456789.123456789}'
    nested = {"type": "array", "items": {"type": "record", "name": "R", "fields": [{"name": "d", "type": DECIMAL}]}}
    assert JsonReader(schema(DECIMAL)).row(text) == {"v": Decimal("12345678901234567890123456789.123456789")}
    assert JsonReader(schema(nested)).must_be_exact(b"1.5")
    assert type(JsonReader(schema("double")).value(b"1.5")) is float
    assert JsonReader(schema("double")).value(b"1e309") == Decimal("1e309")
    assert JsonReader(schema("double")).value(b"9" * 309 + b".5") == Decimal("9" * 309 + ".5")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "is not JSON"),
        (b"NaN", "NaN is no number of JSON"),
        (b'{"v": -Infinity}', "-Infinity is no number of JSON"),
        (b'"\xff"', "is not UTF-8 text"),
        (b"1" * 5_000, "a number is too long"),
        (b"1e9999999999999999999", "a number is too long"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
    ],
)
def test_what_is_no_record_says_why(text: bytes, reason: str) -> None:
    """Whatever it is; nothing raises, and nothing of a value is repeated."""
    found = JsonReader(schema("double")).row(text)
    assert isinstance(found, Unreadable)
    assert reason in found.reason


def test_files_of_json_lines_keep_every_digit(tmp_path: Path) -> None:
    """They are read by the same rules."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"v": 12345678901234567890123456789.123456789}\n{"v": NaN}\n')
    [chunk] = file_chunks(path, schema(DECIMAL), "jsonl")
    assert chunk.columns.table["v"].to_pylist() == [Decimal("12345678901234567890123456789.123456789")]
    [(line, reason)] = chunk.unreadable
    assert (line, "NaN" in reason) == (2, True)
