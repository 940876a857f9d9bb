"""JSON to Connect's raw values.

Owns strict parsing of JSON texts, and the check of a payload against the type beside it.

- Whole numbers keep every digit; other numbers are `Decimal` until their type is known.
- What the standard does not allow (NaN as a bare word, a name twice in one object) is refused, not guessed at.
- Without a type a value stays what JSON says it is.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from headrace.contracts.debezium.problems import INVALID_JSON, INVALID_VALUE, Unreadable
from headrace.contracts.debezium.types import INTEGERS, ConnectType

_FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises `Unreadable`."""
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError:
        raise Unreadable(INVALID_JSON, "text that is not UTF-8") from None
    except _Refused as error:
        raise Unreadable(INVALID_JSON, str(error)) from None
    except RecursionError:
        raise Unreadable(INVALID_JSON, "nested too deep") from None
    except json.JSONDecodeError as error:
        raise Unreadable(INVALID_JSON, f"{error.msg} at character {error.pos}") from None
    except (ValueError, InvalidOperation):
        raise Unreadable(INVALID_JSON, "a number with too many digits") from None


class _Refused(Exception):
    pass


def _constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("a name stands twice in an object")
    return found


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_constant, object_pairs_hook=_object)


def untyped(value: Any) -> Any:
    """A JSON value of which no schema says more: a number that a float holds exactly becomes one."""
    if isinstance(value, Decimal):
        near = float(value)
        return near if Decimal(repr(near)) == value else value
    if isinstance(value, dict):
        return {name: untyped(each) for name, each in value.items()}
    if isinstance(value, list):
        return [untyped(each) for each in value]
    return value


def typed(value: Any, of: ConnectType, path: str = "") -> Any:
    """A payload checked against its type, as Connect's raw value. Raises `Unreadable`."""
    if value is None:
        if of.optional:
            return None
        if of.default is not None:
            return typed(of.default, replace(of, default=None), path)
        raise _wrong(path, "is null, which its schema does not allow")
    kind = of.kind
    if kind == "struct":
        return _struct(value, of, path)
    if kind == "array":
        if not isinstance(value, list):
            raise _wrong(path, "is no array")
        assert of.items is not None
        return [typed(each, of.items, f"{path}[]") for each in value]
    if kind == "map":
        return _map(value, of, path)
    return _scalar(value, of, path)


def _struct(value: Any, of: ConnectType, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, "is no object")
    if unknown := value.keys() - {each.name for each in of.fields}:
        raise _wrong(_join(path, min(unknown)), "is not in the schema")
    return {each.name: typed(value.get(each.name), each.type, _join(path, each.name)) for each in of.fields}


def _map(value: Any, of: ConnectType, path: str) -> Any:
    assert of.items is not None
    assert of.keys is not None
    if isinstance(value, dict):
        return {name: typed(each, of.items, f"{path}{{}}") for name, each in value.items()}
    pairs = value if isinstance(value, list) else None
    if pairs is None or not all(isinstance(each, list) and len(each) == 2 for each in pairs):
        raise _wrong(path, "is no map")
    # Keys that are no text stand as pairs.
    return [{"key": typed(k, of.keys, f"{path}{{}}"), "value": typed(v, of.items, f"{path}{{}}")} for k, v in pairs]


def _scalar(value: Any, of: ConnectType, path: str) -> Any:
    match of.kind:
        case "boolean" if isinstance(value, bool):
            return value
        case "string" if isinstance(value, str):
            return value
        case "bytes":
            return _bytes(value, of, path)
        case "float" | "double":
            if isinstance(value, str) and value in _FLOATS:
                return _FLOATS[value]
            if isinstance(value, int | Decimal) and not isinstance(value, bool):
                return _float(value, path)
        case "int8" | "int16" | "int32" | "int64" if isinstance(value, int) and not isinstance(value, bool):
            bits = INTEGERS[of.kind]
            if -(1 << bits - 1) <= value < 1 << bits - 1:
                return value
            raise _wrong(path, f"is a number beyond {of.kind}")
    raise _wrong(path, f"is no {of.kind}")


def _float(value: int | Decimal, path: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _wrong(path, "is a number beyond double") from None


def _bytes(value: Any, of: ConnectType, path: str) -> Any:
    if isinstance(value, int | Decimal) and not isinstance(value, bool) and of.name.endswith(".Decimal"):
        return Decimal(value)  # Connect's `decimal.format=NUMERIC`.
    if not isinstance(value, str):
        raise _wrong(path, "is no text of base64")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise _wrong(path, "is no text of base64") from None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _wrong(path: str, what: str) -> Unreadable:
    return Unreadable(INVALID_VALUE, f"{path or 'the payload'} {what}")
