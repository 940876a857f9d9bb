"""MongoDB's extended JSON to values.

Owns the reading of documents, which Debezium's MongoDB connector writes as text.

- Numbers become numbers, dates become instants (`times`), plain binary becomes bytes.
- What JSON and the other databases have no type for keeps its form: `{"$oid": ...}`, `{"$timestamp": ...}`.
"""

from __future__ import annotations

import base64
import re
from decimal import Decimal
from typing import Any

from headrace.contracts.debezium import times
from headrace.contracts.debezium.json_values import parse_json, untyped
from headrace.contracts.debezium.problems import INVALID_VALUE, Unreadable

_FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_INTEGER = re.compile(r"-?\d{1,19}")
_GENERIC_BINARY = "00"


def read_document(text: str, path: str) -> Any:
    """The value of a text in extended JSON. Raises `Unreadable`."""
    try:
        value = parse_json(text)
    except Unreadable as error:
        raise Unreadable(INVALID_VALUE, f"{path} is no JSON: {error.reason}") from None
    return from_extended(value, path)


def from_extended(value: Any, path: str) -> Any:
    """A parsed value in extended JSON, of its first or second version."""
    if isinstance(value, list):
        return [from_extended(each, f"{path}[]") for each in value]
    if not isinstance(value, dict):
        return untyped(value)
    if value and next(iter(value)).startswith("$"):
        try:
            return _special(value)
        except (ValueError, TypeError, ArithmeticError, KeyError, AttributeError):
            raise Unreadable(INVALID_VALUE, f"{path} is no value of extended JSON") from None
    return {name: from_extended(each, f"{path}.{name}") for name, each in value.items()}


def _special(value: dict[str, Any]) -> Any:
    match value:
        case {"$numberLong": number} | {"$numberInt": number}:
            if not _INTEGER.fullmatch(number):
                raise ValueError("no whole number")
            return int(number)
        case {"$numberDouble": number}:
            return _FLOATS[number] if number in _FLOATS else float(number)
        case {"$numberDecimal": number}:
            return _FLOATS[number] if number in _FLOATS else Decimal(number)
        case {"$date": moment}:
            return _instant(moment)
        case {"$binary": str(text), "$type": kind}:
            return _binary(text, str(kind))
        case {"$binary": {"base64": str(text), "subType": kind}}:
            return _binary(text, str(kind))
        case {"$uuid": str(text)}:
            return text.lower()
    return untyped(value)


def _instant(moment: Any) -> str:
    if isinstance(moment, dict):
        moment = int(moment["$numberLong"])
    nanos = times.instant_nanos(moment) if isinstance(moment, str) else int(moment) * 10**6
    if not isinstance(nanos, int):
        raise ValueError("no instant")
    return times.timestamp_text(nanos, "Z")


def _binary(text: str, kind: str) -> Any:
    data = base64.b64decode(text, validate=True)
    return data if kind.zfill(2) == _GENERIC_BINARY else {"$binary": {"base64": text, "subType": kind.zfill(2)}}
