"""Random tables for a schema: what fits, what does not, and everything Arrow has to keep it in.

Owns `any_table`. Every column has its nulls, slices, offsets, chunks and dictionaries drawn from one seed.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.contracts.avro import AvroSchema
from headrace.contracts.binary.nested import without_views
from headrace.contracts.shape import Child, Kind, Shape, record_shape

ROWS_MAX = 12
EDGES = [0, 1, -1, 63, 64, -64, -65, 8191, 8192, *(sign * (2**bits + at) for bits in (31, 53, 63) for at in (-1, 0, 1)
         for sign in (1, -1))]  # fmt: skip
INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [0.0, -0.0, 1.0, 1.5, 0.1, -3.0, 2.0**31, 2.0**53, 2.0**63, -(2.0**63), 1e300, math.inf, -math.inf, math.nan]
UNITS = ["s", "ms", "us", "ns"]
TEXTS = ["", "a", "A", "B", "C", "größe", "x" * 13, "y" * 200, "1.5", "-9", "1E+3", "{}", "null"]


def any_table(schema: AvroSchema, seed: int) -> pa.Table:
    """Mostly columns of the right types with values that mostly fit; in any order, some missing, some in excess."""
    return _Tables(Random(seed)).table(record_shape(schema))


class _Tables:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.nulls = random.choice([0.0, 0.0, 0.3, 0.9])
        self.wrong = random.choice([0.0, 0.0, 0.0, 0.05, 0.3])
        self.has_views = random.random() < 0.5

    def table(self, shape: Shape) -> pa.Table:
        length = self.random.choice([0, 1, 2, ROWS_MAX])
        children = [child for child in shape.children if not self._rarely()]
        self.random.shuffle(children)
        columns = {child.name: self._chunked(self.column(child.shape, length)) for child in children}
        if self._rarely():
            columns["extra"] = self._chunked(pa.nulls(length))
        if not columns:
            columns["extra"] = self._chunked(pa.nulls(length))
        return pa.table(columns)

    def column(self, shape: Shape, length: int) -> pa.Array:
        """An array cut out of a longer one, so that offsets are everywhere."""
        before, behind = self.random.choice([(0, 0), (0, 0), (3, 1), (9, 0)])
        if self._rarely():
            return pa.nulls(length, self.random.choice([pa.int32() if self.has_views else pa.null(), pa.string()]))
        if self.random.random() < self.wrong / 2:
            shape = Shape(self.random.choice([Kind.INT, Kind.STRING, Kind.BYTES, Kind.DOUBLE, Kind.DATE]), "")
        array = self._array(shape, before + length + behind)
        return array.slice(before, length)

    def _chunked(self, array: pa.Array) -> pa.ChunkedArray:
        if not self._often():
            return pa.chunked_array([array])
        cut = self.random.randint(0, len(array))
        return pa.chunked_array([array.slice(0, cut), array.slice(cut)])

    def _array(self, shape: Shape, length: int) -> pa.Array:
        nested = {
            Kind.RECORD: self._struct,
            Kind.ARRAY: self._list,
            Kind.MAP: self._map,
            Kind.UNION: self._union,
            Kind.DURATION: self._duration,
        }
        if shape.kind in nested:
            return nested[shape.kind](shape, length)
        values = [None if self._is_null(shape) else self._value(shape) for _ in range(length)]
        return self._leaf(shape, values)

    def _is_null(self, shape: Shape) -> bool:
        return self.random.random() < (self.nulls if shape.is_nullable else self.wrong)

    # --- Values ----------------------------------------------------------------------------------------------------

    def _value(self, shape: Shape) -> Any:
        return _VALUES.get(shape.kind, lambda tables, _: tables.random.choice(TEXTS))(self, shape)

    def _leaf(self, shape: Shape, values: list[Any]) -> pa.Array:
        types = _TYPES.get(shape.kind, lambda _: [pa.string(), pa.large_string(), pa.string_view()])(shape)
        # Beside views there is nothing without bytes: pyarrow 26 casts slices of such nested columns to broken ones.
        types = [each for each in types if (each not in _NO_BYTES if self.has_views else each not in _VIEWS)]
        array = self._kept(values, self.random.choice(types) if self._often() else types[0])
        is_text = pa.types.is_string(array.type) or pa.types.is_binary(array.type)
        if is_text and (self._often() or (shape.kind is Kind.ENUM and self._often())):
            return self._dictionary(array)
        return array

    def _kept(self, values: list[Any], arrow: pa.DataType) -> pa.Array:
        """The values that this type takes; the others are null."""
        try:
            return pa.array(values, arrow)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, ValueError):
            return pa.array([self._alone(value, arrow) for value in values], arrow)

    def _alone(self, value: Any, arrow: pa.DataType) -> Any:
        try:
            pa.array([value], arrow)
            return value
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, ValueError):
            return None

    def _dictionary(self, array: pa.Array) -> pa.Array:
        made = array.dictionary_encode()
        entries, indices = made.dictionary, made.indices
        if self._rarely():  # An entry that is null, or stands twice.
            more = pa.array([None, array[0].as_py() if len(array) else None], array.type)
            entries = pa.concat_arrays([entries, more])
            picked = [self.random.choice([each, len(entries) - 1]) for each in indices.to_pylist()]
            indices = pa.array(picked, pa.int32())
        index_type = self.random.choice([pa.int8(), pa.uint8(), pa.int32(), pa.uint32(), pa.int64()])
        return pa.DictionaryArray.from_arrays(indices.cast(index_type), entries)

    # --- Nested ----------------------------------------------------------------------------------------------------

    def _mask(self, shape: Shape, length: int) -> pa.Array | None:
        nulls = [self._is_null(shape) for _ in range(length)]
        return pa.array(nulls, pa.bool_()) if any(nulls) else None

    def _struct_of(self, shape: Shape, columns: dict[str, pa.Array], length: int) -> pa.Array:
        mask = self._mask(shape, length)
        if not columns:
            columns = {"extra": pa.nulls(length, pa.int32())}
        names, arrays = list(columns), list(columns.values())
        return pa.StructArray.from_arrays(arrays, names=names, mask=mask)

    def _struct(self, shape: Shape, length: int) -> pa.Array:
        children = [child for child in shape.children if not self._rarely()]
        return self._struct_of(shape, {child.name: self.column(child.shape, length) for child in children}, length)

    def _union(self, shape: Shape, length: int) -> pa.Array:
        children = [child for child in shape.children if not self._rarely()]
        chosen = np.array([self.random.randrange(len(shape.children)) for _ in range(length)], dtype=np.int64)
        columns = {child.name: self._branch(child, chosen) for child in children}
        return self._struct_of(shape, columns, length)

    def _branch(self, child: Child, chosen: Any) -> pa.Array:
        position = [child.index, child.index - 1][child.index > 0 and self._often()]
        values = self.column(child.shape, len(chosen))
        wanted = [row if chosen[row] == position or self.random.random() < self.wrong else None
                  for row in range(len(chosen))]  # fmt: skip
        table = without_views(pa.table({"values": values})).take(pa.array(wanted, pa.int64()))
        return table.column(0).combine_chunks()

    def _duration(self, shape: Shape, length: int) -> pa.Array:
        part = Shape(Kind.INT, "int")
        kinds = [pa.uint32(), pa.int64(), pa.int32(), pa.float64()]
        columns = {}
        for name in ("months", "days", "milliseconds"):
            values = [None if self._is_null(part) else self.random.choice([0, 1, 2**31 - 1]) for _ in range(length)]
            if self.random.random() < self.wrong:
                values = [-1] * length
            columns[name] = self._kept(values, self.random.choice(kinds))
        return self._struct_of(shape, columns, length)

    def _offsets(self, length: int) -> list[int]:
        lengths = [self.random.choice([0, 0, 1, 2, 5]) for _ in range(length)]
        return np.cumsum([self.random.choice([0, 0, 2]), *lengths]).tolist()

    def _list(self, shape: Shape, length: int) -> pa.Array:
        item = shape.children[0].shape
        if self._rarely():
            items = self.column(item, 2 * length)
            return pa.FixedSizeListArray.from_arrays(items, 2, mask=self._mask(shape, length))
        offsets = self._offsets(length)
        return self._list_of(shape, offsets, self.column(item, offsets[-1] + self.random.choice([0, 3])))

    def _list_of(self, shape: Shape, offsets: list[int], items: pa.Array) -> pa.Array:
        mask = self._mask(shape, len(offsets) - 1)
        kind, width = self.random.choice([(pa.ListArray, pa.int32()), (pa.LargeListArray, pa.int64())])
        return kind.from_arrays(pa.array(offsets, width), items, mask=mask)

    def _map(self, shape: Shape, length: int) -> pa.Array:
        offsets = self._offsets(length)
        count = offsets[-1] + self.random.choice([0, 2])
        keys = self.column(Shape(Kind.STRING, "string"), count)
        values = self.column(shape.children[0].shape, count)
        if self._often() or keys.null_count or pa.types.is_null(keys.type):
            entries = Shape(Kind.RECORD, "", null_index=0 if self._rarely() else None)
            return self._list_of(shape, offsets, self._struct_of(entries, {"key": keys, "value": values}, count))
        made = pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, values)
        mask = self._mask(shape, length)
        if mask is None:
            return made
        kept = [None if null else row for row, null in enumerate(mask.to_pylist())]
        return without_views(pa.table({"made": made})).take(pa.array(kept, pa.int64())).column(0).combine_chunks()

    def _rarely(self) -> bool:
        return self.random.random() < 0.04

    def _often(self) -> bool:
        return self.random.random() < 0.3


_VIEWS = [pa.string_view(), pa.binary_view()]
_NO_BYTES = [pa.null(), pa.binary(0)]

Value = Callable[[_Tables, Shape], Any]


def _integer(tables: _Tables, shape: Shape) -> int:
    small = tables.random.choice([0, 1, -1, 100, -100, 300, 70_000, 2**31 - 1, -(2**31)])
    if shape.kind is Kind.LONG and tables._often():
        small = tables.random.choice([2**40, -(2**40), 2**53, 2**55 - 1, 2**55, 2**56, 2**63 - 1, -(2**63)])
    return tables.random.choice(EDGES) if tables.random.random() < tables.wrong else small


def _decimal(tables: _Tables, shape: Shape) -> Decimal:
    digits = tables.random.randint(1, shape.precision)
    if tables.random.random() < tables.wrong:
        digits += tables.random.choice([0, 1, 2])
    return Decimal(tables.random.choice([-1, 1]) * tables.random.randrange(10**digits)).scaleb(-shape.scale)


def _bytes(tables: _Tables, shape: Shape) -> bytes:
    size = shape.size if shape.kind is Kind.FIXED else tables.random.choice([0, 1, 12, 13, 300])
    return tables.random.randbytes(size + (tables.random.random() < tables.wrong))


def _uuid(tables: _Tables, shape: Shape) -> str:
    if tables.random.random() < tables.wrong:
        return tables.random.choice(["x", "", "-" * 36, str(uuid.UUID(int=7))[:-1] + "g", uuid.UUID(int=7).hex])
    text = str(uuid.UUID(int=tables.random.getrandbits(128)))
    return text.upper() if tables._often() else text


def _symbol(tables: _Tables, shape: Shape) -> str:
    return tables.random.choice(["", "Z", "a"] if tables.random.random() < tables.wrong else list(shape.symbols))


def _time(tables: _Tables, shape: Shape) -> int:
    """In whichever unit it is kept."""
    if tables.random.random() < tables.wrong:
        return tables.random.choice([-1, 86_400_000_000_000, 1, 86_400])
    return tables.random.choice([0, 1_000_000, 3_000_000, 86_000_000])


def _timestamp(tables: _Tables, shape: Shape) -> int:
    return tables.random.choice([0, 10**9, -(10**9), 1_700_000_000_000, 1, 2**62])


def _json(tables: _Tables, shape: Shape) -> str:
    return tables.random.choice(TEXTS)


_VALUES: dict[Kind, Value] = {
    Kind.BOOLEAN: lambda tables, shape: tables.random.random() < 0.5,
    Kind.INT: _integer,
    Kind.LONG: _integer,
    Kind.FLOAT: lambda tables, shape: tables.random.choice([0.0, 1.0, 0.5, -0.0, math.nan, *FLOATS]),
    Kind.DOUBLE: lambda tables, shape: tables.random.choice(FLOATS),
    Kind.DECIMAL: _decimal,
    Kind.DECIMAL_TEXT: lambda tables, shape: str(_decimal(tables, shape)),
    Kind.BIG_DECIMAL: lambda tables, shape: tables.random.choice(["1.5", "1E+9", "NaN", "0"]),
    Kind.BYTES: _bytes,
    Kind.FIXED: _bytes,
    Kind.UUID: _uuid,
    Kind.ENUM: _symbol,
    Kind.DATE: lambda tables, shape: tables.random.choice([0, 1, -1, 20_000]),
    Kind.TIME: _time,
    Kind.TIMESTAMP: _timestamp,
    Kind.LOCAL_TIMESTAMP: _timestamp,
}


def _number_types(shape: Shape) -> list[pa.DataType]:
    own = {Kind.INT: pa.int32(), Kind.LONG: pa.int64(), Kind.FLOAT: pa.float32(), Kind.DOUBLE: pa.float64()}
    return [own[shape.kind], *INTEGERS, pa.float32(), pa.float64(), pa.decimal128(20, 1)]


def _decimal_types(shape: Shape) -> list[pa.DataType]:
    precision, scale = shape.precision, shape.scale
    own = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    more = [pa.int32(), pa.uint64(), pa.decimal128(38, min(scale, 38)), pa.decimal128(38, 5), pa.decimal256(76, 6)]
    return [own, *more, *([pa.string()] if precision > 38 else [])]


_TYPES: dict[Kind, Callable[[Shape], list[pa.DataType]]] = {
    Kind.NULL: lambda shape: [pa.null(), pa.int32()],
    Kind.BOOLEAN: lambda shape: [pa.bool_()],
    Kind.INT: _number_types,
    Kind.LONG: _number_types,
    Kind.FLOAT: _number_types,
    Kind.DOUBLE: _number_types,
    Kind.DECIMAL: _decimal_types,
    Kind.BYTES: lambda shape: [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(12)],
    Kind.FIXED: lambda shape: [pa.binary(shape.size), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)],
    Kind.DATE: lambda shape: [pa.date32(), pa.date64()],
    Kind.TIME: lambda shape: [
        pa.time32("ms") if shape.unit == "ms" else pa.time64("us"),
        pa.time32("s"),
        pa.time32("ms"),
        pa.time64("us"),
        pa.time64("ns"),
    ],
    Kind.TIMESTAMP: lambda shape: [pa.timestamp(shape.unit, "UTC"), *(pa.timestamp(unit, "+01:00") for unit in UNITS)],
    Kind.LOCAL_TIMESTAMP: lambda shape: [pa.timestamp(shape.unit), *(pa.timestamp(unit) for unit in UNITS)],
}
