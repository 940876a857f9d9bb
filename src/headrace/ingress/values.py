"""One value from outside to the value its Arrow column takes, exactly or not at all.

Owns the rules of conversion for each kind of Avro type and each form a value may come in.

- A value that would change (truncated, rounded, guessed) is a `Misfit`; only float32 rounds, as the type asks.
- A `Misfit` names the place inside the value and the types, never the value itself: it may be secret.
- Times become integers in the column's own unit, so no zone or precision is lost on the way.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any

import numpy as np

from headrace.contracts.shape import Child, Kind, Shape
from headrace.ingress.times import PER_SECOND, SECONDS_PER_DAY, date_days, datetime_units, time_units

Convert = Callable[[Any], Any]
"""Raises `Misfit`."""


class Form(enum.Enum):
    """Where a value comes from, and with it what it may look like."""

    PYTHON = "python"
    """Python objects of a service. A datetime without zone is refused for an instant."""
    JSON = "json"
    """Parsed JSON. Bytes are text with one character per byte, as in Avro's JSON; a time without zone is UTC."""
    HTTP = "http"
    """Parsed JSON of a service in another language. Bytes are base64; a time without zone is refused for an instant."""
    TEXT = "text"
    """A cell of CSV, not empty. Nested values are JSON."""
    SQLITE = "sqlite"
    """A value of SQLite: integer, real, text or blob. Booleans are 0 and 1; a time without zone is UTC."""


_PARSED = (Form.JSON, Form.HTTP)
"""Both parsed by `json_rows`."""


class Missing:
    """Stands for a field that a row does not have; null where it has no default."""


MISSING = Missing()
IS_MISSING = "is missing"
IS_NULL = "is null, which the contract does not allow"


class Misfit(ValueError):
    """A value that does not fit its type. `path` is the place inside the value, empty for the value itself."""

    def __init__(self, reason: str, path: str = "") -> None:
        self.reason, self.path = reason, path
        super().__init__(f"{path}: {reason}" if path else reason)

    def within(self, name: str) -> Misfit:
        """The same, seen from one level above."""
        joined = f"{name}{self.path}" if self.path.startswith("[") else f"{name}.{self.path}"
        return Misfit(self.reason, joined if self.path else name)


def converter(shape: Shape, form: Form) -> Convert:
    """What turns a value of `form` into a value of the column of `shape`."""
    convert = _from_text(shape, form) if form is Form.TEXT else _NESTED.get(shape.kind, _simple)(shape, form)

    def checked(value: Any) -> Any:
        if value is None or value is MISSING:
            if shape.is_nullable:
                return None
            raise Misfit(IS_MISSING if value is MISSING else IS_NULL)
        return convert(value.item() if isinstance(value, np.generic) else value)

    return checked


def type_text(shape: Shape) -> str:
    """The type's name for messages."""
    node = shape.node
    if isinstance(node, dict):
        return str(node.get("logicalType") or node.get("name") or node["type"])
    return node if isinstance(node, str) else " or ".join(child.name for child in shape.children)


def wrong_type(value: Any, shape: Shape) -> Misfit:
    """The misfit of a value that is of another type altogether."""
    return Misfit(f"is {type(value).__name__}, not {type_text(shape)}")


def _simple(shape: Shape, form: Form) -> Convert:
    make = _SIMPLE[shape.kind]
    return lambda value: make(value, shape, form)


def _from_text(shape: Shape, form: Form) -> Convert:
    """Cells of CSV: nested types are JSON, everything else has its own reading of text."""
    if shape.kind not in _NESTED and shape.kind is not Kind.DURATION:
        return _simple(shape, form)
    inner = _NESTED.get(shape.kind, _simple)(shape, Form.JSON)

    def parse(value: Any) -> Any:
        try:
            return inner(json.loads(value))
        except json.JSONDecodeError as error:
            raise Misfit(f"is not the JSON of {type_text(shape)}: {error.msg}") from error

    return parse


def _null(value: Any, shape: Shape, form: Form) -> Any:
    raise wrong_type(value, shape)


def _boolean(value: Any, shape: Shape, form: Form) -> bool:
    if isinstance(value, bool):
        return value
    if form is Form.SQLITE and type(value) is int and value in (0, 1):
        return value == 1
    if form is Form.TEXT and value.lower() in _BOOLEAN_TEXTS:
        return _BOOLEAN_TEXTS[value.lower()]
    raise Misfit("is not true or false") if form is Form.TEXT else wrong_type(value, shape)


_BOOLEAN_TEXTS = {"true": True, "1": True, "false": False, "0": False}
_RANGES = {Kind.INT: 2**31, Kind.LONG: 2**63}
_WHOLE_DIGITS_MAX = 40
"""Far more than a long has: no number of a thousand digits is written out to learn that."""
_EXPONENT_MAX = 9_999
"""As in text: written out, a larger one would fill memory."""
_EXACT_IN_DOUBLE = 2**53
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT64_MAX = int(np.finfo(np.float64).max)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_NOT_FINITE = {"nan": math.nan, "infinity": math.inf, "-infinity": -math.inf, "inf": math.inf, "-inf": -math.inf}


def _integer(value: Any, shape: Shape, form: Form) -> int:
    if form is Form.TEXT:
        value = _whole(_decimal_text(value), shape)
    elif isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_IN_DOUBLE:
        value = int(value)
    elif isinstance(value, Decimal) and form in _PARSED:
        value = _whole(value, shape)
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(value, shape)
    limit = _RANGES[shape.kind]
    if not -limit <= value < limit:
        raise Misfit(f"is out of the range of {type_text(shape)}")
    return int(value)


def _is_whole(value: float | Decimal) -> bool:
    return not (isinstance(value, Decimal) and value.adjusted() >= _WHOLE_DIGITS_MAX) and value == int(value)


def _whole(value: Decimal, shape: Shape) -> int:
    if value.is_finite() and value.adjusted() < _WHOLE_DIGITS_MAX and value == value.to_integral_value():
        return int(value)
    raise Misfit(f"is not a whole number, and {type_text(shape)} holds no other")


def _decimal_text(text: str) -> Decimal:
    if not isinstance(text, str) or not _NUMBER.fullmatch(text.strip()):
        raise Misfit("is not a number")
    return Decimal(text.strip())


def _real(value: Any, shape: Shape, form: Form) -> float:
    if isinstance(value, str) and form in (Form.TEXT, *_PARSED):
        value = _real_of_text(value, shape, form)
    elif isinstance(value, Decimal) and form in _PARSED:
        value = float(value)
        if not math.isfinite(value):
            raise Misfit(f"is out of the range of {type_text(shape)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(value, shape)
    if isinstance(value, int) and not _is_exact(value):
        raise Misfit(f"is a whole number that {type_text(shape)} cannot hold exactly")
    if shape.kind is Kind.FLOAT and math.isfinite(value) and abs(value) > _FLOAT32_MAX:
        raise Misfit("is out of the range of float")
    return float(value)


def _is_exact(value: int) -> bool:
    return abs(value) <= _EXACT_IN_DOUBLE or (abs(value) <= _FLOAT64_MAX and int(float(value)) == value)


def _real_of_text(text: str, shape: Shape, form: Form) -> float:
    known = _NOT_FINITE.get(text.strip().lower())
    if known is not None:
        return known
    if form in _PARSED:
        raise wrong_type(text, shape)
    return float(_decimal_text(text))


def _bytes(value: Any, shape: Shape, form: Form) -> bytes:
    if isinstance(value, str) and form is Form.HTTP:
        value = _base64(value)
    elif isinstance(value, str) and form in (Form.TEXT, Form.JSON):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError as error:
            raise Misfit("is text with characters above U+00FF, which stand for no byte") from error
    if not isinstance(value, bytes | bytearray | memoryview):
        raise wrong_type(value, shape)
    if shape.kind is Kind.FIXED and len(value) != shape.size:
        raise Misfit(f"has {len(value)} bytes, not {shape.size}")
    return bytes(value)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Misfit("is not base64") from error


def _string(value: Any, shape: Shape, form: Form) -> str:
    if not isinstance(value, str):
        raise wrong_type(value, shape)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Misfit("is text with a lone surrogate, which UTF-8 cannot hold") from error
    return str(value)


def _enum(value: Any, shape: Shape, form: Form) -> str:
    if not isinstance(value, str):
        raise wrong_type(value, shape)
    if value not in shape.symbols:
        raise Misfit(f"is not one of {', '.join(shape.symbols)}")
    return str(value)


def _decimal(value: Any, shape: Shape, form: Form) -> Any:
    number = _as_decimal(value, shape)
    if shape.kind is Kind.BIG_DECIMAL:
        return format(number, "f")
    context = Context(prec=shape.precision, traps=[Inexact, InvalidOperation, Overflow])
    try:
        exact = number.quantize(Decimal(1).scaleb(-shape.scale), context=context)
    except (Inexact, InvalidOperation, Overflow) as error:
        raise Misfit(f"does not fit {shape.precision} digits, {shape.scale} after the point") from error
    return format(exact, "f") if shape.kind is Kind.DECIMAL_TEXT else exact


def _as_decimal(value: Any, shape: Shape) -> Decimal:
    if isinstance(value, str):
        value = _decimal_text(value)
    elif isinstance(value, float):
        value = Decimal(repr(value))
    elif isinstance(value, int) and not isinstance(value, bool):
        value = Decimal(value)
    if not isinstance(value, Decimal):
        raise wrong_type(value, shape)
    if not value.is_finite():
        raise Misfit("is not a finite number")
    if abs(value.adjusted()) > _EXPONENT_MAX:
        raise Misfit("has an exponent that no number of use has")
    return value


def _uuid(value: Any, shape: Shape, form: Form) -> str:
    if isinstance(value, str):
        try:
            value = uuid.UUID(value)
        except ValueError as error:
            raise Misfit("is not the text of a UUID") from error
    if not isinstance(value, uuid.UUID):
        raise wrong_type(value, shape)
    return str(value)


def _temporal(value: Any, shape: Shape, form: Form) -> int:
    """An integer is taken as Avro's own: days, or units since midnight or the epoch."""
    if form is Form.TEXT and re.fullmatch(r"-?\d+", value.strip(), re.ASCII):
        value = int(value)
    elif form in _PARSED and isinstance(value, float | Decimal) and _is_whole(value):
        value = int(value)  # JSON knows no whole numbers: 1.0 is 1.
    if isinstance(value, int) and not isinstance(value, bool):
        lowest, highest = _temporal_range(shape)
        if not lowest <= value < highest:
            raise Misfit(f"is out of the range of {type_text(shape)}")
        return value
    try:
        return _temporal_units(value, shape, form)
    except ValueError as error:
        raise Misfit(str(error)) from error


def _temporal_range(shape: Shape) -> tuple[int, int]:
    if shape.kind is Kind.TIME:
        return 0, SECONDS_PER_DAY * PER_SECOND[shape.unit]
    bits = 31 if shape.kind is Kind.DATE else 63
    return -(2**bits), 2**bits


def _temporal_units(value: Any, shape: Shape, form: Form) -> int:
    if shape.kind is Kind.DATE and (isinstance(value, str) or type(value) is date):
        return date_days(value)
    if shape.kind is Kind.TIME and isinstance(value, str | time):
        return time_units(value, shape.unit)
    if shape.kind in (Kind.TIMESTAMP, Kind.LOCAL_TIMESTAMP) and isinstance(value, str | datetime):
        is_instant = shape.kind is Kind.TIMESTAMP
        return datetime_units(value, shape.unit, is_instant=is_instant, assume_utc=form not in (Form.PYTHON, Form.HTTP))
    raise wrong_type(value, shape)


_DURATION_PARTS = ("months", "days", "milliseconds")


def _duration(value: Any, shape: Shape, form: Form) -> dict[str, int]:
    if isinstance(value, timedelta):
        if value.microseconds % 1000 or value < timedelta(0):
            raise Misfit("is a time span that is negative or finer than milliseconds")
        value = {"days": value.days, "milliseconds": value.seconds * 1000 + value.microseconds // 1000}
    if not isinstance(value, Mapping) or not set(value) <= set(_DURATION_PARTS):
        raise wrong_type(value, shape)
    parts = {name: value.get(name, 0) for name in _DURATION_PARTS}
    if not all(isinstance(part, int) and 0 <= part < 2**32 for part in parts.values()):
        raise Misfit("has a part that is not a whole number of 32 bits")
    return parts


def _json(value: Any, shape: Shape, form: Form) -> str:
    """A value inside a value of its own type travels as JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except TypeError as error:
        raise Misfit(f"is no JSON: {error}") from error


def _record(shape: Shape, form: Form) -> Convert:
    names = [child.name for child in shape.children]
    known = frozenset(names)
    converters = [_child(child, form, child.name) for child in shape.children]
    defaults = field_defaults(shape)

    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise wrong_type(value, shape)
        unknown = value.keys() - known
        if unknown:
            raise Misfit("is not in the contract", str(sorted(map(str, unknown))[0]))
        return {
            name: defaults[name] if name in defaults and name not in value else each(value.get(name, MISSING))
            for name, each in zip(names, converters, strict=True)
        }

    return convert


def field_defaults(shape: Shape) -> dict[str, Any]:
    """What a field takes when a record does not have it, as column values; fields without a default are absent."""
    assert shape.kind is Kind.RECORD
    assert isinstance(shape.node, dict)
    fields = shape.node["fields"]
    return {
        child.name: converter(child.shape, Form.JSON)(fields[child.index]["default"])
        for child in shape.children
        if "default" in fields[child.index]
    }


def _child(child: Child, form: Form, name: str) -> Convert:
    inner = converter(child.shape, form)

    def convert(value: Any) -> Any:
        try:
            return inner(value)
        except Misfit as misfit:
            raise misfit.within(name) from misfit

    return convert


def _array(shape: Shape, form: Form) -> Convert:
    inner = converter(shape.children[0].shape, form)

    def convert(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise wrong_type(value, shape)
        result = []
        for index, item in enumerate(value):
            try:
                result.append(inner(item))
            except Misfit as misfit:
                raise misfit.within(f"[{index}]") from misfit
        return result

    return convert


def _map(shape: Shape, form: Form) -> Convert:
    inner = converter(shape.children[0].shape, form)

    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise wrong_type(value, shape)
        result = []
        for key, item in value.items():
            if not isinstance(key, str):
                raise Misfit(f"has a key that is {type(key).__name__}, not string")
            try:
                result.append((key, inner(item)))
            except Misfit as misfit:
                raise misfit.within(f"[{key!r}]") from misfit
        return result

    return convert


def _union(shape: Shape, form: Form) -> Convert:
    """The branch that is named, as in Avro's JSON (`{"string": ...}`), else the first that takes the value."""
    branches = {child.name: converter(child.shape, form) for child in shape.children}

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in branches:
            name, inner = next(iter(value.items()))
            return {name: branches[name](inner)}
        for name, convert_branch in branches.items():
            try:
                return {name: convert_branch(value)}
            except Misfit:
                continue
        raise wrong_type(value, shape)

    return convert


_SIMPLE: dict[Kind, Callable[[Any, Shape, Form], Any]] = {
    Kind.NULL: _null,
    Kind.BOOLEAN: _boolean,
    Kind.INT: _integer,
    Kind.LONG: _integer,
    Kind.FLOAT: _real,
    Kind.DOUBLE: _real,
    Kind.BYTES: _bytes,
    Kind.STRING: _string,
    Kind.FIXED: _bytes,
    Kind.ENUM: _enum,
    Kind.DECIMAL: _decimal,
    Kind.DECIMAL_TEXT: _decimal,
    Kind.BIG_DECIMAL: _decimal,
    Kind.UUID: _uuid,
    Kind.DATE: _temporal,
    Kind.TIME: _temporal,
    Kind.TIMESTAMP: _temporal,
    Kind.LOCAL_TIMESTAMP: _temporal,
    Kind.DURATION: _duration,
    Kind.JSON: _json,
}
_NESTED: dict[Kind, Callable[[Shape, Form], Convert]] = {
    Kind.RECORD: _record,
    Kind.ARRAY: _array,
    Kind.MAP: _map,
    Kind.UNION: _union,
}
