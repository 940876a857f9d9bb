"""Avro logical types: which annotations count.

Owns the rules of the Avro 1.12 specification for `logicalType`.

- An unknown or invalid annotation is ignored: the underlying type stays, as the specification asks.
- Nothing here raises on a user's schema.
"""

from __future__ import annotations

from typing import Any, TypeGuard

UNDERLYING: dict[str, tuple[str, ...]] = {
    "decimal": ("bytes", "fixed"),
    "big-decimal": ("bytes",),
    "uuid": ("string", "fixed"),
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "timestamp-nanos": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
    "local-timestamp-nanos": ("long",),
    "duration": ("fixed",),
}
"""Types that each logical type may annotate."""

UUID_SIZE_BYTES = 16
DURATION_SIZE_BYTES = 12


def logical_type(avro_type: Any) -> str | None:
    """The logical type of a type's JSON, or None where there is none that counts."""
    if not isinstance(avro_type, dict):
        return None
    logical = avro_type.get("logicalType")
    base = avro_type.get("type")
    if not isinstance(logical, str) or base not in UNDERLYING.get(logical, ()):
        return None
    if logical == "decimal" and not _decimal_is_valid(avro_type):
        return None
    if base == "fixed":
        size = {"uuid": UUID_SIZE_BYTES, "duration": DURATION_SIZE_BYTES}.get(logical)
        if size is not None and avro_type.get("size") != size:
            return None
    return logical


def decimal_precision_max(size_bytes: int) -> int:
    """Most decimal digits that a two's-complement number of `size_bytes` always holds."""
    return len(str(2 ** (8 * size_bytes - 1) - 1)) - 1 if size_bytes else 0


def _decimal_is_valid(avro_type: dict[str, Any]) -> bool:
    precision = avro_type.get("precision")
    scale = avro_type.get("scale", 0)
    if not _is_integer(precision) or not _is_integer(scale):
        return False
    if precision < 1 or not 0 <= scale <= precision:
        return False
    if avro_type.get("type") == "fixed":
        size = avro_type.get("size")
        return _is_integer(size) and precision <= decimal_precision_max(size)
    return True


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
