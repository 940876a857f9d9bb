"""Making a column of any Arrow type one of the type its Avro field asks for, value by value.

Owns `fit`: the cast before encoding, which never changes a value.

- Input has no nulls; a null in the output is a value that does not fit.
- A type that could only fit by guessing (text to number, an instant from a time without zone) raises `TypeMismatch`.
- A cast that fails somewhere is halved until the values at fault stand alone; the others are cast as columns.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.shape import DECIMAL128_PRECISION_MAX, Kind, Shape

TypeTest = Callable[[pa.DataType], bool]


class TypeMismatch(Exception):
    """A column of a type that means something else. The text says what is there."""


def plain(array: pa.Array) -> pa.Array:
    """The array without dictionary or extension around its values."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def fit(array: pa.Array, shape: Shape, target: pa.DataType) -> pa.Array:
    """The array as `target`, null where a value does not fit. Raises `TypeMismatch`."""
    array = plain(array)
    if array.type.equals(target):
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), target)
    if not any(is_source(array.type) for is_source in _SOURCES[shape.kind]):
        raise TypeMismatch(str(array.type))
    if shape.kind is Kind.FLOAT:
        return _fit_float(array)
    if shape.kind is Kind.DECIMAL and pa.types.is_integer(array.type):
        array = array.cast(pa.decimal128(DECIMAL128_PRECISION_MAX, 0))
    return halving_cast(array, target)


def halving_cast(array: pa.Array, target: pa.DataType) -> pa.Array:
    """The array as `target`, null where a value does not fit. Raises `TypeMismatch` for types Arrow cannot cast."""
    try:
        return array.cast(target, safe=True)
    except pa.ArrowNotImplementedError:
        raise TypeMismatch(str(array.type)) from None
    except pa.ArrowInvalid:
        if len(array) == 1:
            return pa.nulls(1, target)
    half = len(array) // 2
    return pa.concat_arrays([halving_cast(array.slice(0, half), target), halving_cast(array.slice(half), target)])


def _fit_float(array: pa.Array) -> pa.Array:
    """Arrow's safe cast lets doubles lose digits, so the way back must give the same number."""
    array = halving_cast(array, pa.float64())
    narrow = array.cast(pa.float32(), safe=False)
    back = narrow.cast(pa.float64())
    same = pc.or_(pc.equal(back, array), pc.and_(pc.is_nan(back), pc.is_nan(array)))
    return pc.if_else(same, narrow, pa.scalar(None, pa.float32()))


def is_text(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_string(arrow) or pa.types.is_large_string(arrow) or pa.types.is_string_view(arrow))


def _is_bytes(arrow: pa.DataType) -> bool:
    types = pa.types
    is_plain = types.is_binary(arrow) or types.is_large_binary(arrow) or types.is_binary_view(arrow)
    return bool(is_plain or types.is_fixed_size_binary(arrow))


def _is_instant(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(arrow) and arrow.tz is not None)


def _is_local(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(arrow) and arrow.tz is None)


_NUMBERS: tuple[TypeTest, ...] = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_SOURCES: dict[Kind, tuple[TypeTest, ...]] = {
    Kind.BOOLEAN: (pa.types.is_boolean,),
    Kind.INT: _NUMBERS,
    Kind.LONG: _NUMBERS,
    Kind.FLOAT: (pa.types.is_integer, pa.types.is_floating),
    Kind.DOUBLE: (pa.types.is_integer, pa.types.is_floating),
    Kind.BYTES: (_is_bytes,),
    Kind.FIXED: (_is_bytes,),
    Kind.STRING: (is_text,),
    Kind.ENUM: (is_text,),
    Kind.JSON: (is_text,),
    Kind.UUID: (is_text,),
    Kind.DECIMAL_TEXT: (is_text,),
    Kind.BIG_DECIMAL: (is_text,),
    Kind.DECIMAL: (pa.types.is_decimal, pa.types.is_integer),
    Kind.DATE: (pa.types.is_date,),
    Kind.TIME: (pa.types.is_time,),
    Kind.TIMESTAMP: (_is_instant,),
    Kind.LOCAL_TIMESTAMP: (_is_local,),
}
