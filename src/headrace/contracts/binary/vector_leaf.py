"""Leaves of many records at once: primitives and logical types, from a lane to Arrow.

Owns `vector_leaf`: the reader of one scalar step, where there is one that works on columns.

- Gives the same arrays as `leaf` does from single values, and marks the records that `leaf` would refuse.
- Wide decimals, texts of decimals and changes of unit or scale have no such reader: they are read one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.binary.fit import halving_cast
from headrace.contracts.binary.lane import Lane
from headrace.contracts.binary.leaf import TIME_UNITS_PER_DAY, UUID_PATTERN, duration_array
from headrace.contracts.binary.ragged import Bytes
from headrace.contracts.binary.resolution import Enumeration, Scalar
from headrace.contracts.shape import DECIMAL128_PRECISION_MAX, Kind, Shape

ReadColumn = Callable[[Lane], pa.Array]
"""Reads one value from every record of the lane."""

_DECIMAL128_BYTES = 16
_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_UUID_HYPHENS = (8, 13, 18, 23)
_UUID_TEXT_LENGTH = 36
_OFFSET_MAX = 2**31 - 1


class NotVectorable(Exception):
    """This step is read one record at a time."""


def vector_leaf(step: Scalar, shape: Shape, arrow: pa.DataType) -> ReadColumn:
    """Raises `NotVectorable`."""
    if step.adapt not in (None, float, str.encode, bytes.decode):
        raise NotVectorable
    if shape.kind in (Kind.FLOAT, Kind.DOUBLE):
        return _numbers(step, arrow)
    if shape.kind in _INTEGER_KINDS:
        return _integers(step, shape, arrow)
    if shape.kind is Kind.BOOLEAN:
        return lambda lane: pa.array(lane.booleans())
    if shape.kind is Kind.NULL:
        return lambda lane: pa.nulls(len(lane))
    if step.wire == "fixed":
        return _fixed(step.size, shape, arrow)
    if shape.kind is Kind.DECIMAL and shape.precision <= DECIMAL128_PRECISION_MAX:
        return _decimals(shape, arrow)
    if shape.kind in (Kind.STRING, Kind.BYTES, Kind.UUID):
        return _texts(shape, is_text=step.wire == "string" or shape.kind is not Kind.BYTES)
    raise NotVectorable


def vector_enum(step: Enumeration, shape: Shape) -> ReadColumn:
    wanted = np.array([*step.indexes, 0], dtype=np.int32)
    symbols = pa.array(shape.symbols, pa.string())

    def read(lane: Lane) -> pa.Array:
        indexes = wanted[lane.indexes(len(step.indexes))]
        lane.fail(indexes < 0)
        return pa.DictionaryArray.from_arrays(pa.array(np.maximum(indexes, 0)), symbols)

    return read


def text_array(lane: Lane, *, is_text: bool) -> pa.Array:
    """Texts, or bytes, that lie in the records; records whose text is not UTF-8 are marked."""
    rows = lane.bytes_at(*lane.spans())
    if rows.offsets[-1] > _OFFSET_MAX:
        raise NotVectorable
    buffers = [None, pa.py_buffer(rows.offsets.astype(np.int32)), pa.py_buffer(rows.data)]
    array = pa.Array.from_buffers(pa.binary(), len(rows), buffers)
    if not is_text:
        return array
    texts = halving_cast(array, pa.string())
    if texts.null_count:
        lane.fail(np.asarray(texts.is_null()))
    return texts


def _texts(shape: Shape, *, is_text: bool) -> ReadColumn:
    def read(lane: Lane) -> pa.Array:
        array = text_array(lane, is_text=is_text)
        if shape.kind is Kind.UUID:
            lane.fail(~np.asarray(pc.fill_null(pc.match_substring_regex(array, f"^{UUID_PATTERN.pattern}$"), False)))
        return array.cast(pa.binary()) if shape.kind is Kind.BYTES and is_text else array

    return read


def _numbers(step: Scalar, arrow: pa.DataType) -> ReadColumn:
    dtype = np.float32 if arrow.equals(pa.float32()) else np.float64
    # Through Python's float first, as one value would go: a long to a double, then to a float.
    through = np.float64 if step.wire in ("int", "long") else np.float32
    if step.wire == "double":
        return lambda lane: pa.array(lane.doubles())
    if step.wire == "float":
        return lambda lane: pa.array(lane.floats().astype(dtype))
    read = Lane.ints if step.wire == "int" else Lane.longs
    return lambda lane: pa.array(read(lane).astype(through).astype(dtype))


def _integers(step: Scalar, shape: Shape, arrow: pa.DataType) -> ReadColumn:
    width = np.int32 if arrow.bit_width == 32 else np.int64
    read = Lane.ints if step.wire == "int" else Lane.longs

    def read_column(lane: Lane) -> pa.Array:
        values = read(lane)
        if shape.kind is Kind.TIME:
            wrong = (values < 0) | (values >= TIME_UNITS_PER_DAY[shape.unit])
            lane.fail(wrong)
            values = np.where(wrong, 0, values)
        return pa.array(values.astype(width, copy=False)).view(arrow)

    return read_column


def _fixed(size: int, shape: Shape, arrow: pa.DataType) -> ReadColumn:
    if shape.kind is Kind.FIXED and size:
        return lambda lane: _fixed_array(lane.rows_of(size), arrow)
    if shape.kind is Kind.UUID:
        return lambda lane: _uuid_texts(lane.rows_of(size))
    if shape.kind is Kind.DURATION:
        return lambda lane: duration_array(lane.rows_of(size).view("<u4"), None, arrow)
    if shape.kind is Kind.DECIMAL and shape.precision <= DECIMAL128_PRECISION_MAX:

        def read(lane: Lane) -> pa.Array:
            starts = lane.position
            lane.forward(size)
            starts = np.where(lane.ok, starts, 0)
            return _decimal_array(lane, starts, np.where(lane.ok, size, 0), shape, arrow)

        return read
    raise NotVectorable


def _fixed_array(rows: Bytes, arrow: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(arrow, len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])


def _uuid_texts(rows: Bytes) -> pa.Array:
    """The 36 characters of each row of 16 bytes."""
    text = np.full((len(rows), _UUID_TEXT_LENGTH), ord("-"), dtype=np.uint8)
    places = [at for at in range(_UUID_TEXT_LENGTH) if at not in _UUID_HYPHENS]
    text[:, places[0::2]] = _HEX_DIGITS[rows >> 4]
    text[:, places[1::2]] = _HEX_DIGITS[rows & 15]
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * _UUID_TEXT_LENGTH
    return pa.Array.from_buffers(pa.string(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(text.reshape(-1))])


def _decimals(shape: Shape, arrow: pa.DataType) -> ReadColumn:
    def read(lane: Lane) -> pa.Array:
        starts, sizes = lane.spans()
        return _decimal_array(lane, starts, sizes, shape, arrow)

    return read


def _decimal_array(
    lane: Lane, starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], shape: Shape, arrow: pa.DataType
) -> pa.Array:
    """Numbers of any size, big end first, as 128 bits; records with larger ones are marked."""
    data = lane.input.data
    sign = np.where(sizes > 0, (data[starts] >> 7) * 0xFF, 0).astype(np.uint8)[:, None]
    place = np.arange(_DECIMAL128_BYTES)
    from_end = np.maximum((starts + sizes - 1)[:, None] - place, 0)
    rows = np.where(place < sizes[:, None], data[from_end], sign)
    lane.fail((sizes > _DECIMAL128_BYTES) | _beyond(rows, 10**shape.precision))
    return pa.Array.from_buffers(arrow, len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])


def _beyond(rows: Bytes, bound: int) -> npt.NDArray[np.bool_]:
    """Where numbers of 128 bits, little end first, are not between -bound and bound."""
    halves = np.ascontiguousarray(rows).view("<u8")
    low, high = halves[:, 0], halves[:, 1].view(np.int64)
    return ~(_less(high, low, bound) & ~_less(high, low, 1 - bound))


def _less(high: npt.NDArray[np.int64], low: npt.NDArray[np.uint64], bound: int) -> npt.NDArray[np.bool_]:
    bound_high, bound_low = bound >> 64, np.uint64(bound & (2**64 - 1))
    return np.less(high, bound_high) | (np.equal(high, bound_high) & np.less(low, bound_low))


_INTEGER_KINDS = frozenset({Kind.INT, Kind.LONG, Kind.DATE, Kind.TIME, Kind.TIMESTAMP, Kind.LOCAL_TIMESTAMP})
