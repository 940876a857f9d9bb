"""From Arrow arrays to Avro bytes, for everything that holds no other values.

Owns `write_leaf`: the bytes of a column without nulls, and which of its values do not fit their type.

- A value that does not fit gets bytes all the same, so that columns stay equally long; its row is thrown away later.
- Whole columns at a time, except the types whose values are texts of another notation.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.binary.adapt import BadValue
from headrace.contracts.binary.fit import TypeMismatch, fit, is_text, plain
from headrace.contracts.binary.json_value import json_bytes
from headrace.contracts.binary.leaf import DECIMAL_DIGITS_MAX, TIME_UNITS_PER_DAY, UUID_PATTERN
from headrace.contracts.binary.nested import Mask, offsets_of
from headrace.contracts.binary.ragged import Bytes, Ragged, fixed_width
from headrace.contracts.shape import DECIMAL128_PRECISION_MAX, Kind, Shape

Names = Mapping[str, dict[str, Any]]

SCALE_BOUND = 2**31
"""A big decimal's scale is an int."""


class Leaves(NamedTuple):
    """Bytes of a column: rows of the parts side by side. `bad` marks values that do not fit, None when all do."""

    parts: list[Ragged]
    bad: Mask | None
    reason: str = ""


def varints(values: npt.NDArray[np.int64]) -> Ragged:
    """Zig-zag numbers of variable length."""
    codes = ((values << 1) ^ (values >> 63)).view(np.uint64)
    largest = int(codes.max()) if len(codes) else 0
    width = max(1, -(-largest.bit_length() // 7))
    if width == 1:
        return fixed_width(codes.astype(np.uint8)[:, None])
    matrix = np.empty((len(codes), width), dtype=np.uint8)
    sizes = np.ones(len(codes), dtype=np.int64)
    for byte in range(width):
        shifted = codes >> np.uint64(7 * byte)
        matrix[:, byte] = (shifted & np.uint64(0x7F)) | np.uint64(0x80)
        if byte:
            sizes += shifted > 0
    matrix[np.arange(len(codes)), sizes - 1] &= 0x7F
    if (sizes == width).all():
        return fixed_width(matrix)
    return Ragged(matrix[np.arange(width) < sizes[:, None]], offsets_of(sizes))


def write_binary(array: pa.Array) -> list[Ragged]:
    """Lengths and bytes of text or binary without nulls."""
    rows = binary_rows(array)
    return [varints(rows.lengths), rows]


def binary_rows(array: pa.Array) -> Ragged:
    """The bytes of text or binary without nulls."""
    if array.type in (pa.string_view(), pa.binary_view()):
        array = array.cast(pa.large_binary())
    width = np.int64 if array.type in (pa.large_string(), pa.large_binary()) else np.int32
    _, offsets_buffer, data_buffer = array.buffers()
    if len(array) == 0:
        return Ragged(np.zeros(0, dtype=np.uint8), np.zeros(1, dtype=np.int64))
    offsets = np.frombuffer(offsets_buffer, dtype=width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer else np.zeros(0, dtype=np.uint8)
    return Ragged(data[offsets[0] : offsets[-1]], offsets - offsets[0])


def write_leaf(array: pa.Array, shape: Shape, arrow: pa.DataType, names: Names) -> Leaves:
    """The bytes of a column without nulls. Raises `TypeMismatch`."""
    if shape.kind is Kind.ENUM:
        return _enum(array, shape)
    if shape.kind is Kind.DURATION:
        return _duration(array)
    if shape.kind is Kind.DECIMAL and not pa.types.is_decimal(plain(array).type) and _is_text_decimal(array, shape):
        return _texts(fit(array, _AS_TEXT, pa.string()), _decimal_of_text(shape), "no decimal of its precision")
    fitted = fit(array, shape, arrow)
    bad = _nulls(fitted)
    if bad is not None:
        fitted = _fill(fitted, arrow)
    written = _writers(shape, names)(fitted)
    return written if bad is None else Leaves(written.parts, bad | _mask(written), f"no {_shown(shape)}")


def _writers(shape: Shape, names: Names) -> Callable[[pa.Array], Leaves]:
    if shape.kind in _INTEGER_TYPES:
        return lambda array: _integers(array, shape)
    if shape.kind is Kind.DECIMAL:
        return lambda array: _decimal(array, shape)
    if shape.kind is Kind.UUID:
        return lambda array: _uuid(array, shape)
    if shape.kind is Kind.DECIMAL_TEXT:
        return lambda array: _texts(array, _decimal_of_text(shape), "no decimal of its precision")
    if shape.kind is Kind.BIG_DECIMAL:
        return lambda array: _texts(array, _big_decimal_of_text, "no decimal")
    if shape.kind is Kind.JSON:
        return lambda array: _texts(array, lambda text: json_bytes(shape.node, text, names), "no Avro JSON of its type")
    return _SIMPLE_WRITERS[shape.kind]


def _integers(array: pa.Array, shape: Shape) -> Leaves:
    values = np.asarray(array.view(_INTEGER_TYPES[shape.kind](shape))).astype(np.int64)
    parts = [varints(values)]
    if shape.kind is not Kind.TIME:
        return Leaves(parts, None)
    bad = (values < 0) | (values >= TIME_UNITS_PER_DAY[shape.unit])
    return Leaves(parts, bad if bad.any() else None, "no time of day")


def _boolean(array: pa.Array) -> Leaves:
    return Leaves([fixed_width(np.asarray(array.cast(pa.uint8()))[:, None])], None)


def _float(array: pa.Array) -> Leaves:
    values = np.ascontiguousarray(np.asarray(array))
    return Leaves([fixed_width(values.view(np.uint8).reshape(len(values), values.itemsize))], None)


def _binary(array: pa.Array) -> Leaves:
    return Leaves(write_binary(array), None)


def _fixed(array: pa.Array) -> Leaves:
    return Leaves([fixed_width(_fixed_rows(array))], None)


def _fixed_rows(array: pa.Array) -> Bytes:
    """Bytes of a fixed-width array, one row each."""
    width: int = array.type.bit_width // 8
    if len(array) == 0 or width == 0:
        return np.zeros((len(array), width), dtype=np.uint8)
    rows: Bytes = np.frombuffer(array.buffers()[1], dtype=np.uint8)[: (array.offset + len(array)) * width]
    return rows.reshape(-1, width)[array.offset :]


def _enum(array: pa.Array, shape: Shape) -> Leaves:
    symbols = pa.array(shape.symbols, pa.string())
    if pa.types.is_dictionary(array.type):
        codes = _symbol_codes(array.dictionary, symbols).take(array.indices)
    else:
        codes = _symbol_codes(array, symbols)
    bad = _nulls(codes)
    values = np.asarray(codes.fill_null(0)).astype(np.int64)
    return Leaves([varints(values)], bad, "no symbol of its enum")


def _symbol_codes(texts: pa.Array, symbols: pa.Array) -> pa.Array:
    return pc.index_in(fit(texts, _AS_TEXT, pa.string()), value_set=symbols, skip_nulls=True)


def _duration(array: pa.Array) -> Leaves:
    names = ("months", "days", "milliseconds")
    if not pa.types.is_struct(array.type) or any(array.type.get_field_index(name) < 0 for name in names):
        raise TypeMismatch(str(array.type))
    columns = [fit(plain(array.field(name)), _AS_NUMBER, pa.uint32()) for name in names]
    bad = np.logical_or.reduce([np.asarray(column.is_null()) for column in columns])
    rows = np.stack([np.asarray(column.fill_null(0)) for column in columns], axis=1).astype("<u4")
    return Leaves([fixed_width(rows.view(np.uint8).reshape(-1, 12))], bad if bad.any() else None, "no duration")


def _decimal(array: pa.Array, shape: Shape) -> Leaves:
    """Two's complement, big end first: padded to a fixed, or in as few bytes as hold it."""
    rows = np.ascontiguousarray(_fixed_rows(array)[:, ::-1])
    width = rows.shape[1]
    if shape.size >= width:
        sign = (np.repeat(rows[:, :1] >> 7, shape.size - width, axis=1) * 0xFF).astype(np.uint8)
        return Leaves([fixed_width(np.hstack([sign, rows]))], None)
    if shape.size:  # The precision fits the size, so what is cut off is sign only.
        return Leaves([fixed_width(rows[:, width - shape.size :])], None)
    sign = ((rows[:, :1] >> 7) * 0xFF).astype(np.uint8)
    is_spare = (rows[:, :-1] == sign) & ((rows[:, 1:] >> 7) == (rows[:, :1] >> 7))
    spare = np.cumprod(is_spare, axis=1).sum(axis=1)
    lengths = (width - spare).astype(np.int64)
    return Leaves([varints(lengths), Ragged(rows[np.arange(width) >= spare[:, None]], offsets_of(lengths))], None)


def _uuid(array: pa.Array, shape: Shape) -> Leaves:
    good = np.asarray(pc.match_substring_regex(array, f"^{UUID_PATTERN.pattern}$"))
    bad = None if good.all() else ~good
    if not shape.size:
        return Leaves(write_binary(array), bad, "no UUID")
    if bad is not None:
        array = pc.if_else(pa.array(good), array, pa.scalar(str(uuid.UUID(int=0))))
    text = "".join(array.to_pylist()).replace("-", "")
    return Leaves([fixed_width(np.frombuffer(bytes.fromhex(text), dtype=np.uint8).reshape(-1, 16))], bad, "no UUID")


def _texts(array: pa.Array, encode: Callable[[str], bytes], reason: str) -> Leaves:
    bodies: list[bytes] = []
    bad = np.zeros(len(array), dtype=np.bool_)
    messages: set[str] = set()
    for row, text in enumerate(array.to_pylist()):
        try:
            bodies.append(encode(text))
        except BadValue as error:
            bodies.append(b"")
            bad[row] = True
            messages.add(error.message)
    if len(messages) == 1:  # A column gives one reason for all its values.
        reason = f"{reason}: {messages.pop()}"
    lengths = np.array([len(body) for body in bodies], dtype=np.int64)
    rows = Ragged(np.frombuffer(b"".join(bodies), dtype=np.uint8), offsets_of(lengths))
    return Leaves([rows], bad if bad.any() else None, reason)


def _decimal_of_text(shape: Shape) -> Callable[[str], bytes]:
    def encode(text: str) -> bytes:
        unscaled = _unscaled(text, shape.scale, shape.precision)
        if not shape.size:
            return _sized(_twos_complement(unscaled))
        return unscaled.to_bytes(shape.size, "big", signed=True)

    return encode


def _big_decimal_of_text(text: str) -> bytes:
    value = _parsed(text)
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "only finite decimals are parsed"
    if not -SCALE_BOUND < exponent <= SCALE_BOUND:
        raise BadValue("out_of_range", "a scale beyond 32 bits")
    unscaled = int("".join(map(str, digits))) * (-1 if sign else 1)
    scale = varints(np.array([-exponent], dtype=np.int64)).data.tobytes()
    return _sized(_sized(_twos_complement(unscaled)) + scale)


def _unscaled(text: str, scale: int, precision: int) -> int:
    sign, digits, exponent = _parsed(text).as_tuple()
    assert isinstance(exponent, int), "only finite decimals are parsed"
    shift = exponent + scale
    if len(digits) + shift > min(precision, DECIMAL_DIGITS_MAX) and any(digits):
        raise BadValue("out_of_range", "more digits than its precision")
    if shift < 0 and any(digits[shift:]):
        raise BadValue("out_of_range", "more digits after the point than its scale")
    if not any(digits):
        return 0
    number = int("".join(map(str, digits)))
    unscaled: int = number * 10**shift if shift >= 0 else number // 10**-shift
    return -unscaled if sign else unscaled


def _parsed(text: str) -> Decimal:
    try:
        value = Decimal(text) if len(text) <= 2 * DECIMAL_DIGITS_MAX else Decimal("NaN")
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or len(value.as_tuple().digits) > DECIMAL_DIGITS_MAX:
        raise BadValue("invalid", "not a decimal")
    return value


def _twos_complement(value: int) -> bytes:
    bits = (value if value >= 0 else ~value).bit_length()
    return value.to_bytes(bits // 8 + 1, "big", signed=True)


def _sized(body: bytes) -> bytes:
    return varints(np.array([len(body)], dtype=np.int64)).data.tobytes() + body


def _is_text_decimal(array: pa.Array, shape: Shape) -> bool:
    """Polars has no decimals of more than 38 digits: there they are text."""
    return shape.precision > DECIMAL128_PRECISION_MAX and is_text(plain(array).type)


def _nulls(array: pa.Array) -> Mask | None:
    return np.asarray(array.is_null()) if array.null_count else None


def _mask(leaves: Leaves) -> Mask:
    return np.zeros(1, dtype=np.bool_) if leaves.bad is None else leaves.bad


def _fill(array: pa.Array, arrow: pa.DataType) -> pa.Array:
    """Something encodable in place of values that do not fit."""
    return pc.if_else(array.is_valid(), array, pa.scalar(_zero(arrow), arrow))


def _zero(arrow: pa.DataType) -> Any:
    if pa.types.is_fixed_size_binary(arrow):
        return bytes(arrow.byte_width)
    if pa.types.is_binary(arrow):
        return b""
    return "" if pa.types.is_string(arrow) else 0


def _shown(shape: Shape) -> str:
    return shape.kind.name.lower().replace("_", " ")


_AS_TEXT = Shape(Kind.STRING, "string")
_AS_NUMBER = Shape(Kind.LONG, "long")
_INTEGER_TYPES: dict[Kind, Callable[[Shape], pa.DataType]] = {
    Kind.INT: lambda shape: pa.int32(),
    Kind.LONG: lambda shape: pa.int64(),
    Kind.DATE: lambda shape: pa.int32(),
    Kind.TIME: lambda shape: pa.int32() if shape.unit == "ms" else pa.int64(),
    Kind.TIMESTAMP: lambda shape: pa.int64(),
    Kind.LOCAL_TIMESTAMP: lambda shape: pa.int64(),
}
_SIMPLE_WRITERS: dict[Kind, Callable[[pa.Array], Leaves]] = {
    Kind.BOOLEAN: _boolean,
    Kind.FLOAT: _float,
    Kind.DOUBLE: _float,
    Kind.BYTES: _binary,
    Kind.STRING: _binary,
    Kind.FIXED: _fixed,
}
