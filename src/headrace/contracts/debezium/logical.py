"""Connect's raw values to the values of a `Change`.

Owns what each named type of Debezium and Connect means: `MEANINGS`, by name.

- Values are null, bool, int, float, str, bytes, `Decimal`, lists and dictionaries. Dates and times are the texts of
  `times`, so that two ways to write one moment are one value.
- A name that is not known leaves its raw value: nothing is lost where Debezium learns a new type.
- A value that its type cannot have is told by its path (`Unreadable`), never shown.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from headrace.contracts.debezium import times
from headrace.contracts.debezium.problems import INVALID_VALUE, Unreadable
from headrace.contracts.debezium.types import ConnectType

Meaning = Callable[[Any, ConnectType], Any]

_BITS_WITHOUT_LENGTH = 2**31 - 1
_SCALE_MAX = 100_000
_EMPTY: Mapping[str, ConnectType] = {}


def meaning(value: Any, of: ConnectType, path: str = "", names: Mapping[str, ConnectType] = _EMPTY) -> Any:
    """A raw value as its type means it. Raises `Unreadable`."""
    if value is None:
        return None
    if of.kind == "reference":
        return meaning(value, names[of.reference], path, names)
    if of.kind == "union":
        return meaning(value, branch_of(value, of), path, names)
    known = MEANINGS.get(of.name)
    if known is not None:
        return _applied(known, value, of, path)
    if of.kind == "struct":
        return {
            each.name: meaning(value.get(each.name), each.type, _join(path, each.name), names) for each in of.fields
        }
    if of.kind == "array":
        assert of.items is not None
        return [meaning(each, of.items, f"{path}[]", names) for each in value]
    if of.kind == "map":
        assert of.items is not None
        if isinstance(value, list):
            return value
        return {name: meaning(each, of.items, f"{path}{{}}", names) for name, each in value.items()}
    return value


def branch_of(value: Any, union: ConnectType) -> ConnectType:
    """The branch of a union that a raw value belongs to; of several the first."""
    for branch in union.branches:
        if branch.kind != "null" and isinstance(value, _PYTHON_TYPES.get(branch.kind, object)):
            return branch
    return ConnectType("null")


_PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    "boolean": bool,
    "int8": int,
    "int16": int,
    "int32": int,
    "int64": int,
    "float": float,
    "double": float,
    "string": str,
    "enum": str,
    "bytes": (bytes, Decimal),
    "fixed": bytes,
    "struct": dict,
    "map": dict,
    "array": list,
}


def _applied(known: Meaning, value: Any, of: ConnectType, path: str) -> Any:
    try:
        return known(value, of)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, OverflowError):
        # Whatever a conversion stumbles over, the value is not one of the type that its schema names.
        raise Unreadable(INVALID_VALUE, f"{path or 'the value'} is no {of.name.rpartition('.')[2]}") from None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# --- numbers


def decimal_of(raw: bytes, scale: int) -> Decimal:
    """An unscaled number in two's complement, big end first."""
    if abs(scale) > _SCALE_MAX:
        raise ValueError("a scale beyond all bounds")
    unscaled = int.from_bytes(raw, "big", signed=True)
    sign, digits = (1 if unscaled < 0 else 0), tuple(int(digit) for digit in str(abs(unscaled)))
    return Decimal((sign, digits, -scale))


def _decimal(value: Any, of: ConnectType) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return decimal_of(value, int(of.parameters["scale"]))


def _variable_scale(value: Any, of: ConnectType) -> Decimal:
    return decimal_of(value["value"], value["scale"])


# --- times


def _count(value: Any) -> int:
    """A schema may give the name of a count to any type."""
    if not isinstance(value, int):
        raise TypeError("no count")
    return value


def _days(value: Any, of: ConnectType) -> str:
    value = _count(value)
    return times.INFINITE_DAYS.get(value) or times.date_text(value)


def _time(nanos_per_unit: int) -> Meaning:
    def convert(value: Any, of: ConnectType) -> str:
        nanos = _count(value) * nanos_per_unit
        # MySQL's TIME is a span of up to 838 hours.
        return times.time_text(nanos) or times.duration_text(nanos // 1000)

    return convert


def _timestamp(nanos_per_unit: int, infinite: Mapping[int, str], zone: str = "") -> Meaning:
    def convert(value: Any, of: ConnectType) -> str:
        return infinite.get(_count(value)) or times.timestamp_text(value * nanos_per_unit, zone)

    return convert


def _text_of(read: Callable[[str], int | str | None], write: Callable[[int], str | None]) -> Meaning:
    def convert(value: Any, of: ConnectType) -> str:
        found = read(value)
        text = found if isinstance(found, str) or found is None else write(found)
        if text is None:
            raise ValueError("no time")
        return text

    return convert


def _zoned_time(value: Any, of: ConnectType) -> str:
    text = times.zoned_time_text(value)
    if text is None:
        raise ValueError("no time of day")
    return text


# --- texts and bytes


def _bits(value: Any, of: ConnectType) -> str:
    """Bits as digits, highest first. Debezium writes them in bytes, the lowest first."""
    length = int(of.parameters.get("length", 0))
    number = int.from_bytes(value, "little")
    digits = f"{number:b}" if number else ""
    if 0 < length < _BITS_WITHOUT_LENGTH:
        if len(digits) > length:
            raise ValueError("more bits than the column has")
        return digits.zfill(length)
    return digits or "0"


def _enum_set(value: Any, of: ConnectType) -> list[str]:
    return value.split(",") if value else []


def _uuid(value: Any, of: ConnectType) -> str:
    return str(uuid.UUID(bytes=value) if isinstance(value, bytes) else uuid.UUID(value))


def _sparse_vector(value: Any, of: ConnectType) -> dict[str, Any]:
    vector = value["vector"]
    pairs = ((each["key"], each["value"]) for each in vector) if isinstance(vector, list) else vector.items()
    return {"dimensions": value["dimensions"], "vector": {str(at): number for at, number in pairs}}


MILLIS, MICROS = 10**6, 10**3

_LOCAL = _text_of(times.local_nanos, times.timestamp_text)
_INSTANT = _text_of(times.instant_nanos, lambda nanos: times.timestamp_text(nanos, "Z"))
_ISO_DATE = _text_of(times.date_days, times.date_text)
_ISO_TIME = _text_of(times.time_nanos, times.time_text)

MEANINGS: Mapping[str, Meaning] = {
    "io.debezium.time.Date": _days,
    "io.debezium.time.Time": _time(MILLIS),
    "io.debezium.time.MicroTime": _time(MICROS),
    "io.debezium.time.NanoTime": _time(1),
    "io.debezium.time.Timestamp": _timestamp(MILLIS, times.INFINITE_MILLIS),
    "io.debezium.time.MicroTimestamp": _timestamp(MICROS, times.INFINITE_MICROS),
    "io.debezium.time.NanoTimestamp": _timestamp(1, times.INFINITE_NANOS),
    "io.debezium.time.ZonedTimestamp": _INSTANT,
    "io.debezium.time.ZonedTime": _zoned_time,
    "io.debezium.time.IsoDate": _ISO_DATE,
    "io.debezium.time.IsoTime": _ISO_TIME,
    "io.debezium.time.IsoTimestamp": _LOCAL,
    "io.debezium.time.MicroDuration": lambda value, of: times.duration_text(_count(value)),
    "io.debezium.time.NanoDuration": lambda value, of: times.duration_text(_count(value) // 1000),
    "io.debezium.data.Bits": _bits,
    "io.debezium.data.EnumSet": _enum_set,
    "io.debezium.data.Uuid": _uuid,
    "io.debezium.data.VariableScaleDecimal": _variable_scale,
    "io.debezium.data.SparseDoubleVector": _sparse_vector,
    "io.debezium.data.SparseVector": _sparse_vector,
    "org.apache.kafka.connect.data.Decimal": _decimal,
    "org.apache.kafka.connect.data.Date": _days,
    "org.apache.kafka.connect.data.Time": _time(MILLIS),
    "org.apache.kafka.connect.data.Timestamp": _timestamp(MILLIS, times.INFINITE_MILLIS),
    "avro.decimal": _decimal,
    "avro.uuid": _uuid,
    "avro.date": _days,
    "avro.time-millis": _time(MILLIS),
    "avro.time-micros": _time(MICROS),
    "avro.timestamp-millis": _timestamp(MILLIS, times.INFINITE_MILLIS, "Z"),
    "avro.timestamp-micros": _timestamp(MICROS, times.INFINITE_MICROS, "Z"),
    "avro.timestamp-nanos": _timestamp(1, times.INFINITE_NANOS, "Z"),
    "avro.local-timestamp-millis": _timestamp(MILLIS, times.INFINITE_MILLIS),
    "avro.local-timestamp-micros": _timestamp(MICROS, times.INFINITE_MICROS),
    "avro.local-timestamp-nanos": _timestamp(1, times.INFINITE_NANOS),
}
"""Types that are not what their raw value says. `io.debezium.data.Json`, `Xml`, `Enum`, `Tsvector`, `Ltree`, `Year`,
`Interval`, the vectors and the geometries are: texts, numbers, lists of numbers and structs with `wkb` and `srid`."""
