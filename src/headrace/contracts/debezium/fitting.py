"""Connect's raw values as the values of a contract's columns.

Owns `fitting`: from a type that a record names (or none) and a column's shape, what makes one of the other.

- Nothing is rounded, cut or guessed: a value that the column does not hold exactly is a `Misfit`.
- Dates, times and timestamps become counts in the column's unit; PostgreSQL's infinities those that Debezium writes.
- Without a type a number of a time column is taken in the column's unit, since JSON says no other.
- An instant is never read as a local time. Debezium's timestamps without zone are read as either.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from headrace.contracts.debezium import times
from headrace.contracts.debezium.logical import MEANINGS, decimal_of, meaning
from headrace.contracts.debezium.problems import Unreadable
from headrace.contracts.debezium.types import ConnectType
from headrace.contracts.shape import Kind, Shape

Fit = Callable[[Any], Any]
Names = Mapping[str, ConnectType]

_NANOS = {"ms": 10**6, "us": 10**3, "ns": 1}
_COUNTS = {
    "io.debezium.time.Date": times.NANOS_PER_DAY,
    "org.apache.kafka.connect.data.Date": times.NANOS_PER_DAY,
    "avro.date": times.NANOS_PER_DAY,
    "io.debezium.time.Time": 10**6,
    "org.apache.kafka.connect.data.Time": 10**6,
    "io.debezium.time.MicroTime": 10**3,
    "io.debezium.time.NanoTime": 1,
    "io.debezium.time.Timestamp": 10**6,
    "org.apache.kafka.connect.data.Timestamp": 10**6,
    "io.debezium.time.MicroTimestamp": 10**3,
    "io.debezium.time.NanoTimestamp": 1,
    **{
        f"avro.{zone}timestamp-{unit}": n
        for zone in ("", "local-")
        for unit, n in (("millis", 10**6), ("micros", 10**3), ("nanos", 1))
    },
    "avro.time-millis": 10**6,
    "avro.time-micros": 10**3,
}
"""Nanoseconds of one unit of the types that are counts."""
_INFINITE_MICROS = {text: micros for micros, text in times.INFINITE_MICROS.items()}
_INFINITE_DAYS = {times.INFINITY: -2147472692, times.MINUS_INFINITY: -2147472691}
_FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?")


ENUM_SET = "io.debezium.data.EnumSet"
OBJECT_ID = "$oid"
"""How MongoDB's extended JSON marks an id; a column of text takes its digits."""


class Misfit(Exception):
    """A value that its column does not hold. The text begins with the column and shows no value."""


def fitting(of: ConnectType | None, shape: Shape, names: Names, path: str) -> Fit:
    """What makes a raw value of type `of` one of `shape`. It raises `Misfit`."""
    of = _plain_type(of, names)
    inner = _inner(of, shape, names, path)

    def fit(value: Any) -> Any:
        if value is None:
            if shape.is_nullable:
                return None
            raise Misfit(f"{path} is null")
        try:
            return inner(value)
        except Unreadable as error:
            raise Misfit(error.reason) from None
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, InvalidOperation):
            raise Misfit(f"{path} is no {shape.kind.name.lower().replace('_', ' ')}") from None

    return fit


def _plain_type(of: ConnectType | None, names: Names) -> ConnectType | None:
    """Without Avro's union of a type and null, and without references."""
    while of is not None and of.kind in ("union", "reference"):
        if of.kind == "reference":
            of = names[of.reference]
        elif of.null_branch >= 0:
            of = of.branches[1 - of.null_branch]
        else:
            return None
    return of


def _inner(of: ConnectType | None, shape: Shape, names: Names, path: str) -> Fit:
    match shape.kind:
        case Kind.RECORD:
            return _record(of, shape, names, path)
        case Kind.ARRAY:
            item = fitting(of.items if of else None, shape.children[0].shape, names, f"{path}[]")
            if of is not None and of.name == ENUM_SET:
                return lambda value: [item(each) for each in (_text(value).split(",") if value else [])]
            return lambda value: [item(each) for each in _checked(value, list)]
        case Kind.MAP:
            item = fitting(of.items if of else None, shape.children[0].shape, names, f"{path}{{}}")
            return lambda value: [(_text(key), item(each)) for key, each in _checked(value, dict).items()]
        case Kind.DATE:
            return _date(of, path)
        case Kind.TIME:
            return _time(of, shape)
        case Kind.TIMESTAMP | Kind.LOCAL_TIMESTAMP:
            return _timestamp(of, shape)
        case Kind.DECIMAL | Kind.DECIMAL_TEXT:
            return _decimal(of, shape)
    return _scalar(of, shape, names, path)


def _scalar(of: ConnectType | None, shape: Shape, names: Names, path: str) -> Fit:
    match shape.kind:
        case Kind.BOOLEAN:
            return lambda value: value if isinstance(value, bool) else bool((0, 1).index(value))
        case Kind.INT:
            return lambda value: _integer(_meant_number(value, of), 32)
        case Kind.LONG:
            return lambda value: _integer(_meant_number(value, of), 64)
        case Kind.FLOAT | Kind.DOUBLE:
            return lambda value: _float(_meant_number(value, of))
        case Kind.STRING | Kind.BIG_DECIMAL:
            return _string(of, names, path)
        case Kind.ENUM:
            symbols = frozenset(shape.symbols)
            fallback = shape.node.get("default") if isinstance(shape.node, dict) else None
            return lambda value: _symbol(_text(value), symbols, fallback)
        case Kind.UUID:
            return lambda value: str(uuid.UUID(bytes=value) if isinstance(value, bytes) else uuid.UUID(value))
        case Kind.BYTES | Kind.FIXED:
            return lambda value: _bytes(value, shape.size)
    return _refuse


def _refuse(value: Any) -> Any:
    raise ValueError("a column that no value of Debezium is read as")


def _record(of: ConnectType | None, shape: Shape, names: Names, path: str) -> Fit:
    fields = [
        (child.name, fitting(of.field(child.name) if of else None, child.shape, names, f"{path}.{child.name}"))
        for child in shape.children
    ]
    return lambda value: {name: fit(_checked(value, dict).get(name)) for name, fit in fields}


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(kind.__name__)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    if not value.isascii():
        value.encode()  # Half of a surrogate pair is no text that could be written.
    return value


def _string(of: ConnectType | None, names: Names, path: str) -> Fit:
    """Text, and what has one text: numbers that JSON has no type for, and times."""
    if of is None:
        return lambda value: _text(value[OBJECT_ID] if isinstance(value, dict) and len(value) == 1 else value)
    if of.kind in ("string", "enum") and (of.name not in MEANINGS or of.name == ENUM_SET):
        return _text

    def convert(value: Any) -> str:
        meant = meaning(value, of, path, names)
        return _text(f"{meant:f}" if isinstance(meant, Decimal) else meant)

    return convert


def _symbol(text: str, symbols: frozenset[str], fallback: Any) -> str:
    if text in symbols:
        return text
    if isinstance(fallback, str):
        return fallback
    raise ValueError("symbol")


def _meant_number(value: Any, of: ConnectType | None) -> Any:
    if of is not None and of.kind in ("bytes", "struct") and of.name in MEANINGS:
        return MEANINGS[of.name](value, of)
    return value


def _integer(value: Any, bits: int) -> int:
    if isinstance(value, Decimal) and value == value.to_integral_value():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("number")
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError("range")
    return value


def _float(value: Any) -> float:
    if isinstance(value, str):
        return _FLOATS[value]
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise TypeError("number")
    return float(value)


def _bytes(value: Any, size: int) -> bytes:
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except ValueError:
            raise ValueError("base64") from None
    if not isinstance(value, bytes) or (size and len(value) != size):
        raise TypeError("bytes")
    return value


def _decimal(of: ConnectType | None, shape: Shape) -> Fit:
    is_text = shape.kind is Kind.DECIMAL_TEXT
    known = MEANINGS.get(of.name) if of is not None else None
    quantum = Decimal((0, (1,), -shape.scale))
    bound = Decimal((0, (1,), shape.precision - shape.scale))

    def convert(value: Any) -> Any:
        if known is not None:
            value = known(value, of)  # type: ignore[arg-type]
        elif isinstance(value, str):
            # Text in base64 is refused, even where its letters are all digits of no text that a decimal has.
            if not _NUMBER.fullmatch(value):
                raise ValueError("number")
            value = Decimal(value)
        elif isinstance(value, float):
            value = Decimal(repr(value))
        elif isinstance(value, bytes):
            value = decimal_of(value, shape.scale)
        elif isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise TypeError("number")
        exact = Decimal(value)
        if not exact.is_finite() or abs(exact) >= bound:
            raise ValueError("digits")
        scaled = _scaled(exact, quantum, shape.precision)
        return f"{scaled:f}" if is_text else scaled

    return convert


def _scaled(value: Decimal, quantum: Decimal, precision: int) -> Decimal:
    scaled = value.quantize(quantum, context=Context(prec=precision + 2))
    if scaled != value:
        raise ValueError("digits would be lost")
    return scaled


# --- times


def _date(of: ConnectType | None, path: str) -> Fit:
    nanos_each = _COUNTS.get(of.name, times.NANOS_PER_DAY) if of is not None else times.NANOS_PER_DAY

    def convert(value: Any) -> int:
        if isinstance(value, str):
            days = times.date_days(value)
        else:
            days = _exactly(_integer(value, 64) * nanos_each, times.NANOS_PER_DAY)
        return _integer(_INFINITE_DAYS[days] if isinstance(days, str) else days, 32)

    return convert


def _time(of: ConnectType | None, shape: Shape) -> Fit:
    unit = _NANOS[shape.unit]
    own = _COUNTS.get(of.name, unit) if of is not None else unit
    if of is not None and of.name == "io.debezium.time.ZonedTime":
        return _refuse

    def convert(value: Any) -> int:
        nanos = times.time_nanos(value) if isinstance(value, str) else _integer(value, 64) * own
        if nanos is None or not 0 <= nanos < times.NANOS_PER_DAY:
            raise ValueError("no time of day")
        return _exactly(nanos, unit)

    return convert


def _timestamp(of: ConnectType | None, shape: Shape) -> Fit:
    unit = _NANOS[shape.unit]
    name = of.name if of is not None else ""
    own = _COUNTS.get(name, unit)
    is_local = shape.kind is Kind.LOCAL_TIMESTAMP
    is_instant = name == "io.debezium.time.ZonedTimestamp" or name.startswith("avro.timestamp")
    if is_local and is_instant:
        return _refuse
    # Debezium writes a zone behind times that have none.
    is_iso = name == "io.debezium.time.IsoTimestamp"

    def text(value: str) -> int | str | None:
        found = None if is_iso else times.instant_nanos(value)
        if found is not None and is_local and value[-1] not in "Zy":
            return None
        return times.local_nanos(value) if found is None and not is_instant else found

    def convert(value: Any) -> int:
        found = text(value) if isinstance(value, str) else _integer(value, 64) * own
        if isinstance(found, str):
            found = _INFINITE_MICROS[found] * 1000
        if found is None:
            raise ValueError("no timestamp")
        return _integer(_exactly(found, unit), 64)

    return convert


def _exactly(nanos: int, unit: int) -> int:
    count, rest = divmod(nanos, unit)
    if rest:
        raise ValueError("digits would be lost")
    return count
