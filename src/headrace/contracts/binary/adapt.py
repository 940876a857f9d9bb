"""Making a writer's primitive the reader's: promotions, and logical types of another unit or scale.

Owns `adapter`: the function from one raw value to the other, chosen once per pair of types.

- Raw values are what the wire holds: int, float, bool, None, str of a string, bytes of bytes and fixed.
- A value that the reader's type cannot hold exactly raises `BadValue`; a pair with no sound conversion `CannotAdapt`.
- Messages never show a value: it may be a secret.
- One side without a logical type means the raw value, as the specification has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.contracts.avro import AvroType, logical_type

LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1

PROMOTIONS: dict[str, frozenset[str]] = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}
"""Reader types that take a writer's type of another name."""

_UNITS_PER_SECOND = {"millis": 10**3, "micros": 10**6, "nanos": 10**9}
_FAMILIES = ("local-timestamp", "timestamp", "time")


class CannotAdapt(Exception):
    """The two types mean different things. The text says which."""


class BadValue(Exception):
    """One value that cannot be read or written: it fails its row. `code` is the last part of the row's code."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


def adapter(writer: AvroType, reader: AvroType) -> Callable[[Any], Any] | None:
    """None where the raw value stays as it is. Raises `CannotAdapt`."""
    written, wanted = _base(writer), _base(reader)
    if written != wanted and wanted not in PROMOTIONS.get(written, ()):
        raise CannotAdapt(f"the writer has {written}, the reader {wanted}")
    if written == wanted == "fixed" and writer["size"] != reader["size"]:  # type: ignore[index, call-overload]
        raise CannotAdapt("the writer's fixed has another size than the reader's")
    logical = _logical_adapter(writer, reader)
    if logical is not None or written == wanted:
        return logical
    if written in ("int", "long") and wanted in ("float", "double"):
        return float
    if (written, wanted) == ("string", "bytes"):
        return str.encode
    if (written, wanted) == ("bytes", "string"):
        return bytes.decode
    return None


def _logical_adapter(writer: AvroType, reader: AvroType) -> Callable[[Any], Any] | None:
    written, wanted = logical_type(writer), logical_type(reader)
    if wanted == "decimal" and _base(writer) == "string":
        raise CannotAdapt("the writer has text, the reader a decimal in bytes")
    if written is None or wanted is None:
        return None
    assert isinstance(writer, dict)
    assert isinstance(reader, dict)
    if written == wanted:
        return _rescale(writer, reader) if written == "decimal" else None
    (family, unit), (wanted_family, wanted_unit) = _family(written), _family(wanted)
    if not family or family != wanted_family:
        raise CannotAdapt(f"the writer has {written}, the reader {wanted}")
    return _convert_unit(_UNITS_PER_SECOND[unit], _UNITS_PER_SECOND[wanted_unit], wanted)


@dataclass(frozen=True, slots=True)
class UnitChange:
    """A time of another unit: one of the two factors is 1."""

    multiply_by: int
    divide_by: int
    name: str
    """The reader's type, for messages."""

    def __call__(self, value: int) -> int:
        result, rest = divmod(value * self.multiply_by, self.divide_by)
        if rest:
            raise BadValue("schema_resolution", f"a time finer than {self.name}")
        if not LONG_MIN <= result <= LONG_MAX:
            raise BadValue("invalid", f"a time out of range as {self.name}")
        return result


def _convert_unit(have: int, want: int, name: str) -> UnitChange:
    return UnitChange(want // have, 1, name) if want > have else UnitChange(1, have // want, name)


def _rescale(writer: dict[str, Any], reader: dict[str, Any]) -> Callable[[bytes], bytes] | None:
    shift = reader.get("scale", 0) - writer.get("scale", 0)
    if shift == 0:
        return None
    factor: int = 10 ** abs(shift)
    size: int = reader["size"] if reader["type"] == "fixed" else 0

    def rescale(raw: bytes) -> bytes:
        value = int.from_bytes(raw, "big", signed=True)
        result, rest = (value * factor, 0) if shift > 0 else divmod(value, factor)
        if rest:
            raise BadValue("schema_resolution", "the decimal has more digits after the point than the reader's scale")
        try:
            return result.to_bytes(size or (result.bit_length() + 8) // 8, "big", signed=True)
        except OverflowError:
            raise BadValue("invalid", "the decimal does not fit the reader's fixed") from None

    return rescale


def _family(logical: str) -> tuple[str, str]:
    for family in _FAMILIES:
        unit = logical.removeprefix(f"{family}-")
        if unit != logical and unit in _UNITS_PER_SECOND:
            return family, unit
    return "", ""


def _base(node: AvroType) -> str:
    return node if isinstance(node, str) else str(node["type"])  # type: ignore[call-overload]
