"""Text of JSON to rows, exactly.

Owns how JSON is read wherever records come in as JSON: files of JSON lines and the gateway.

- No digit is lost: where a contract has decimals, or a number is beyond a double, numbers with a fraction stay decimal.
- `NaN` and `Infinity` are no JSON and are refused; as texts they are values of a double.
- Whatever the text is, reading it gives a value or a reason; it never raises.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

from headrace.contracts.avro import AvroSchema
from headrace.contracts.shape import Kind, record_shape

_DECIMALS = frozenset({Kind.DECIMAL, Kind.DECIMAL_TEXT, Kind.BIG_DECIMAL})
_HUGE = re.compile(rb"(?:^|[:,\[\s])-?(?:[0-9]+(?:\.[0-9]+)?[eE]\+?0*[1-9][0-9]|[0-9]{16,}\.)")
"""A number with a fraction or exponent that a double may not hold: a whole one would change, or become infinite."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A text that is no JSON, and why."""

    reason: str


class JsonReader:
    """Reads JSON for records of one schema. Thread-safe."""

    def __init__(self, schema: AvroSchema) -> None:
        self._always_exact = any(shape.kind in _DECIMALS for shape in record_shape(schema).walk())
        self._quick = json.JSONDecoder(parse_constant=_refuse)
        self._exact = json.JSONDecoder(parse_constant=_refuse, parse_float=Decimal)

    def must_be_exact(self, text: bytes) -> bool:
        """Whether numbers of `text`, or of any part of it, must stay decimal."""
        return self._always_exact or _HUGE.search(text) is not None

    def value(self, text: bytes, *, exact: bool | None = None) -> Any:
        """The value, or `Unreadable`. `exact` is what `must_be_exact` said of a whole that this is a part of."""
        if exact is None:
            exact = self.must_be_exact(text)
        try:
            return (self._exact if exact else self._quick).decode(text.decode())
        except UnicodeDecodeError:
            return Unreadable("is not UTF-8 text")
        except (ValueError, ArithmeticError, RecursionError) as error:
            # Of a number with thousands of digits Python says how to allow them; that is not for the sender.
            is_told = isinstance(error, json.JSONDecodeError | _NotJson | RecursionError)
            return Unreadable(f"is not JSON: {error}" if is_told else "is not JSON: a number is too long")

    def row(self, text: bytes, *, exact: bool | None = None) -> dict[str, Any] | Unreadable:
        """One record."""
        return as_row(self.value(text, exact=exact))


def as_row(value: Any) -> dict[str, Any] | Unreadable:
    """A value that is to be a record."""
    return value if isinstance(value, dict | Unreadable) else Unreadable("is not a JSON object")


class _NotJson(ValueError):
    """A literal that Python reads and JSON does not have."""


def _refuse(literal: str) -> NoReturn:
    raise _NotJson(f"{literal} is no number of JSON")
