"""Avro schemas as Polars schemas, and back; Arrow tables as frames, and back.

Owns the mapping between Avro types and Polars data types.

- `to_frame` gives a frame whose schema is exactly `to_polars` of the Avro schema.
- `from_polars` keeps the Avro type of a column from `like` while its Polars type still agrees.
- A Polars type that Avro cannot hold is refused, never approximated.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

import polars as pl
import pyarrow as pa
from polars.datatypes import DataTypeClass

from headrace.contracts.avro import AvroField, AvroSchema, AvroType
from headrace.contracts.binary.nested import list_array, list_parts, map_parts, null_mask, struct_array, struct_children
from headrace.contracts.codec import Columns
from headrace.contracts.shape import DECIMAL128_PRECISION_MAX, SHAPES_KEPT_MAX, Kind, Shape, record_shape
from headrace.contracts.type_unsupported import TypeUnsupported

DtypeLike = pl.DataType | DataTypeClass

_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]")
_SIMPLE: dict[Kind, pl.DataType] = {
    Kind.NULL: pl.Null(),
    Kind.BOOLEAN: pl.Boolean(),
    Kind.INT: pl.Int32(),
    Kind.LONG: pl.Int64(),
    Kind.FLOAT: pl.Float32(),
    Kind.DOUBLE: pl.Float64(),
    Kind.BYTES: pl.Binary(),
    Kind.STRING: pl.String(),
    Kind.FIXED: pl.Binary(),
    Kind.DECIMAL_TEXT: pl.String(),
    Kind.BIG_DECIMAL: pl.String(),
    Kind.UUID: pl.String(),
    Kind.DATE: pl.Date(),
    Kind.TIME: pl.Time(),
    Kind.DURATION: pl.Struct({"months": pl.UInt32, "days": pl.UInt32, "milliseconds": pl.UInt32}),
    Kind.JSON: pl.String(),
}
_AVRO_SIMPLE: dict[type[pl.DataType], AvroType] = {
    pl.Null: "null",
    pl.Boolean: "boolean",
    **dict.fromkeys((pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16), "int"),
    **dict.fromkeys((pl.Int64, pl.UInt32), "long"),
    pl.UInt64: {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 0},
    pl.Float32: "float",
    pl.Float64: "double",
    pl.Binary: "bytes",
    **dict.fromkeys((pl.String, pl.Categorical), "string"),
    pl.Date: {"type": "int", "logicalType": "date"},
    pl.Time: {"type": "long", "logicalType": "time-micros"},
}
_UNITS = {"ms": "millis", "us": "micros", "ns": "nanos"}
_POLARS_ENUM = b"_PL_ENUM_VALUES2"
"""Key of the Arrow field metadata by which Polars tells an enum's categories, each behind its length and a `;`."""


def to_polars(schema: AvroSchema) -> dict[str, pl.DataType]:
    """The columns of a record schema. Raises `NotARecord`."""
    return dict(_columns(schema))


@lru_cache(maxsize=SHAPES_KEPT_MAX)
def _columns(schema: AvroSchema) -> Mapping[str, pl.DataType]:
    return {child.name: _dtype(child.shape) for child in record_shape(schema).children}


def avro_to_dtype(avro_type: AvroType) -> pl.DataType:
    """The Polars type of an Avro type that can be parsed alone."""
    wrapped = AvroSchema.parse({"type": "record", "name": "_", "fields": [{"name": "_", "type": avro_type}]})
    return to_polars(wrapped)["_"]


def from_polars(
    schema: Mapping[str, DtypeLike], *, name: str, like: AvroSchema | None = None, nullable: bool = True
) -> AvroSchema:
    """The Avro record of these columns. Raises `TypeUnsupported`.

    A column that `like` has with an Avro type of this Polars type keeps that field whole, docs and defaults too.
    Other columns are nullable with default null, unless `nullable` is False.
    """
    if like is not None and like.fullname == name and list(to_polars(like).items()) == list(schema.items()):
        return like  # Whole, so that a record inside itself stays one.
    known = {each.name: each for each in like.fields} if like is not None else {}
    fields = []
    for column, dtype in schema.items():
        field = known.get(column)
        if field is None or not _agrees(field.type, dtype):
            field = _field(column, dtype, nullable=nullable, path=f"{name}_{column}")
        fields.append(field)
    return AvroSchema.record(name, fields)


def dtype_to_avro(dtype: DtypeLike, *, nullable: bool, path: str) -> AvroType:
    """The Avro type of a Polars type; named types in it are called after `path`. Raises `TypeUnsupported`.

    `nullable` counts for the type and for everything inside it.
    """
    namespace, dot, short = path.rpartition(".")
    path = namespace + dot + _NOT_IN_NAMES.sub("_", short)
    instance = dtype if isinstance(dtype, pl.DataType) else dtype()
    avro_type = _avro_type(instance, nullable=nullable, path=path)
    return ["null", avro_type] if nullable and avro_type != "null" else avro_type


def to_frame(table: pa.Table, schema: AvroSchema) -> pl.DataFrame:
    """The table as a frame of exactly the types `to_polars(schema)` gives; nothing is copied where types agree."""
    dtypes, foreign, enums = _columns(schema), _foreign(schema), _enums(schema)
    plain = {
        name: _Enum(name, column, enums[name]) if name in enums else column.chunk(0)
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name not in foreign and column.num_chunks == 1 and _is_plain(column.type)
    }
    others = [name for name in table.column_names if name not in plain]
    frame = _through_tables(table.select(others), foreign, enums) if others or not plain else None
    # Column by column: whole tables, and casts of frames, go through more hands, which a batch of one row feels.
    columns = [
        pl.Series(name, plain[name]) if name in plain or frame is None else frame.get_column(name)
        for name in table.column_names
    ]
    if not columns:
        return pl.DataFrame()
    first, *others = [each if each.dtype == dtypes[each.name] else each.cast(dtypes[each.name]) for each in columns]
    return first.to_frame().hstack(others)


class _Enum:
    """A column of an enum, of one chunk, as Polars takes it over with what its field tells."""

    def __init__(self, name: str, column: pa.ChunkedArray, symbols: tuple[str, ...]) -> None:
        self._array, self._field = column.chunk(0), _polars_field(name, column, symbols)

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        _, array = self._array.__arrow_c_array__()
        return self._field.__arrow_c_schema__(), array


@lru_cache(maxsize=SHAPES_KEPT_MAX)
def _is_plain(kind: pa.DataType) -> bool:
    """Whether Polars has these values as they are, whatever is told about the column."""
    types = pa.types
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    is_enum = types.is_dictionary(kind) and kind.value_type == pa.string()
    return is_number or is_enum or types.is_timestamp(kind) or kind in (pa.string(), pa.large_string(), pa.binary())


def _through_tables(
    table: pa.Table, foreign: Mapping[str, Shape], enums: Mapping[str, tuple[str, ...]]
) -> pl.DataFrame:
    names = table.column_names
    if not (foreign.keys() | enums.keys()).isdisjoint(names):
        columns = [
            _polars_ready(table.column(name), foreign[name]) if name in foreign else table.column(name)
            for name in names
        ]
        fields = [_polars_field(name, each, enums.get(name)) for name, each in zip(names, columns, strict=True)]
        table = pa.Table.from_arrays(columns, schema=pa.schema(fields))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame), "a table becomes a frame"
    return frame


def from_frame(frame: pl.DataFrame) -> pa.Table:
    """The frame as a table of standard Arrow types, ready for a codec."""
    if any(isinstance(dtype, pl.Int128) for dtype in frame.dtypes):
        frame = frame.cast({pl.Int128: pl.Decimal(38, 0)})
    return frame.to_arrow()


def as_table(columns: Columns, names: Collection[str]) -> pa.Table:
    """The columns as a table; of a frame only those of these names, where it has any."""
    if not isinstance(columns, pl.DataFrame):
        return columns
    wanted = [name for name in columns.columns if name in names]
    return from_frame(columns[wanted] if wanted else columns)


def _dtype(shape: Shape) -> pl.DataType:
    if shape.kind in _SIMPLE:
        return _SIMPLE[shape.kind]
    if shape.kind is Kind.ENUM:
        return pl.Enum(list(shape.symbols))
    if shape.kind is Kind.DECIMAL:
        if shape.precision > DECIMAL128_PRECISION_MAX:
            return pl.String()
        return pl.Decimal(shape.precision, shape.scale)
    if shape.kind in (Kind.TIMESTAMP, Kind.LOCAL_TIMESTAMP):
        return pl.Datetime(shape.unit, "UTC" if shape.kind is Kind.TIMESTAMP else None)  # type: ignore[arg-type]
    inner = [(child.name, _dtype(child.shape)) for child in shape.children]
    if shape.kind is Kind.ARRAY:
        return pl.List(inner[0][1])
    if shape.kind is Kind.MAP:
        return pl.List(pl.Struct({"key": pl.String, "value": inner[0][1]}))
    return pl.Struct(dict(inner))


def _agrees(avro_type: AvroType, dtype: DtypeLike) -> bool:
    return bool(avro_to_dtype(avro_type) == dtype)


def _field(column: str, dtype: DtypeLike, *, nullable: bool, path: str) -> AvroField:
    avro_type = dtype_to_avro(dtype, nullable=nullable, path=path)
    is_null = avro_type == "null" or isinstance(avro_type, list)
    return AvroField(column, avro_type, has_default=is_null, default=None)


def _avro_type(dtype: pl.DataType, *, nullable: bool, path: str) -> AvroType:
    simple = _AVRO_SIMPLE.get(type(dtype))
    if simple is not None:
        return simple
    if isinstance(dtype, pl.Enum):
        return _avro_enum(dtype.categories.to_list(), path)
    if isinstance(dtype, pl.Int128):
        return {"type": "bytes", "logicalType": "decimal", "precision": DECIMAL128_PRECISION_MAX, "scale": 0}
    if isinstance(dtype, pl.Decimal):
        precision = dtype.precision or DECIMAL128_PRECISION_MAX
        return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": dtype.scale}
    if isinstance(dtype, pl.Datetime):
        prefix = "local-timestamp" if dtype.time_zone is None else "timestamp"
        return {"type": "long", "logicalType": f"{prefix}-{_UNITS[dtype.time_unit]}"}
    return _avro_nested(dtype, nullable=nullable, path=path)


def _avro_nested(dtype: pl.DataType, *, nullable: bool, path: str) -> AvroType:
    if isinstance(dtype, (pl.List, pl.Array)):
        return {"type": "array", "items": dtype_to_avro(dtype.inner, nullable=nullable, path=path)}
    if isinstance(dtype, pl.Struct):
        fields = [
            _field(each.name, each.dtype, nullable=nullable, path=f"{path}_{each.name}").definition
            for each in dtype.fields
        ]
        return {"type": "record", "name": path, "fields": fields}
    raise TypeUnsupported(path, str(dtype))


def _avro_enum(symbols: list[str], path: str) -> AvroType:
    # A symbol must be an Avro name; a text that is none stays text.
    if symbols and all(_AVRO_NAME.match(symbol) for symbol in symbols):
        return {"type": "enum", "name": path, "symbols": symbols}
    return "string"


@lru_cache(maxsize=SHAPES_KEPT_MAX)
def _foreign(schema: AvroSchema) -> Mapping[str, Shape]:
    """The columns that Polars cannot take as they are."""
    shapes = {child.name: child.shape for child in record_shape(schema).children}
    return {
        name: shape
        for name, shape in shapes.items()
        if shape.kind is not Kind.ENUM and any(_is_foreign(each) for each in shape.walk())
    }


def _polars_ready(column: pa.ChunkedArray, shape: Shape) -> pa.ChunkedArray:
    return pa.chunked_array(
        [_ready(chunk, shape) for chunk in column.chunks] or [_ready(column.combine_chunks(), shape)]
    )


@lru_cache(maxsize=SHAPES_KEPT_MAX)
def _enums(schema: AvroSchema) -> Mapping[str, tuple[str, ...]]:
    """The columns that are enums, with their symbols."""
    shapes = record_shape(schema).children
    return {child.name: child.shape.symbols for child in shapes if child.shape.kind is Kind.ENUM}


def _polars_field(name: str, column: pa.ChunkedArray, symbols: tuple[str, ...] | None) -> pa.Field:
    """The field of a column. Where an enum's dictionary is its symbols, Polars is told so as it tells others: to cast
    from its own categories would cost more than all other columns. Without, the cast refuses other symbols."""
    metadata = None
    if symbols is not None and pa.types.is_dictionary(column.type):
        dictionary, metadata = _enum_metadata(symbols)
        if not all(chunk.dictionary.equals(dictionary) for chunk in column.chunks):
            metadata = None
    return pa.field(name, column.type, metadata=metadata)


@lru_cache(maxsize=SHAPES_KEPT_MAX)
def _enum_metadata(symbols: tuple[str, ...]) -> tuple[pa.Array, dict[bytes, bytes]]:
    texts = [symbol.encode() for symbol in symbols]
    return pa.array(symbols, pa.string()), {_POLARS_ENUM: b"".join(b"%d;%s" % (len(text), text) for text in texts)}


def _is_foreign(shape: Shape) -> bool:
    is_wide = shape.kind is Kind.DECIMAL and shape.precision > DECIMAL128_PRECISION_MAX
    is_empty = shape.kind is Kind.FIXED and shape.size == 0
    return is_wide or is_empty or shape.kind in (Kind.ENUM, Kind.MAP)


def _ready(array: pa.Array, shape: Shape) -> pa.Array:
    """The array without what Polars lacks: enums below a struct (its cast skips them), decimals of 256 bits,
    maps, fixed of no bytes."""
    if shape.kind is Kind.FIXED and _is_foreign(shape):
        return pa.array(array.to_pylist(), pa.large_binary())  # Arrow has no such cast for fixed of no bytes.
    if shape.kind is Kind.ENUM or shape.kind is Kind.DECIMAL:
        return array.cast(pa.large_string()) if _is_foreign(shape) else array
    if shape.kind is Kind.ARRAY:
        offsets, items = list_parts(array)
        ready = _ready(items, shape.children[0].shape)
        return list_array(offsets, ready, pa.list_(ready.type), null_mask(array))
    if shape.kind is Kind.MAP:
        offsets, keys, values = map_parts(array)
        entries = pa.StructArray.from_arrays([keys, _ready(values, shape.children[0].shape)], names=["key", "value"])
        return list_array(offsets, entries, pa.list_(entries.type), null_mask(array))
    if shape.kind not in (Kind.RECORD, Kind.UNION):
        return array
    children = [_ready(inner, child.shape) for inner, child in zip(struct_children(array), shape.children, strict=True)]
    struct = pa.struct([pa.field(child.name, each.type) for child, each in zip(shape.children, children, strict=True)])
    return struct_array(children, struct, len(array), null_mask(array))
