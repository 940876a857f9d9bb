"""The columns of a step: Avro type, Polars type, lineage.

Owns how columns are made and changed.

- A frame's column always has exactly the Polars type of its Avro type.
- A column that is only passed on keeps its Avro type, docs, tags and unit.
- A computed column may be null unless it is proven not to be.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import polars as pl

from headrace.contracts.arrow import TypeUnsupported, avro_to_dtype, dtype_to_avro
from headrace.contracts.avro import AvroSchema, SchemaInvalid
from headrace.contracts.contract import Contract
from headrace.contracts.contract_errors import ContractInvalid, Problems
from headrace.contracts.field_forms import FieldForms
from headrace.contracts.yaml_source import YamlMap
from headrace.errors import Where
from headrace.flow.errors import TypeClash, UnknownColumn
from headrace.flow.values import AvroType, Column, Derivation, Place, SourceField

TIMESTAMP_MILLIS: AvroType = {"type": "long", "logicalType": "timestamp-millis"}

_STRENGTH = {Derivation.COPIED: 0, Derivation.COMPUTED: 1, Derivation.AGGREGATED: 2}


def columns_of(contract: Contract) -> tuple[Column, ...]:
    """The columns of a topic's rows."""
    return tuple(
        Column(
            name=field.name,
            type=field.type,
            lineage=(SourceField(topic=contract.topic, field=field.name),),
            doc=field.doc,
            tags=tuple(contract.tags.get(field.name, ())),
            unit=contract.units.get(field.name, ""),
        )
        for field in contract.schema.fields
    )


def dtype_of(column: Column) -> pl.DataType:
    """The Polars type of a column."""
    return _dtype(json.dumps(column.type))


@lru_cache(maxsize=4096)
def _dtype(text: str) -> pl.DataType:
    return avro_to_dtype(json.loads(text))


def schema_of(columns: Iterable[Column]) -> dict[str, pl.DataType]:
    """The Polars schema of a step's frames, without system columns."""
    return {column.name: dtype_of(column) for column in columns}


def by_name(columns: Iterable[Column]) -> dict[str, Column]:
    return {column.name: column for column in columns}


def require(names: Iterable[str], columns: Sequence[Column], place: Place, *, of: str = "") -> list[Column]:
    """The columns of these names; refuses one that is not there."""
    known = by_name(columns)
    for name in names:
        if name not in known:
            raise UnknownColumn(name, known, place=place, of=of)
    return [known[name] for name in names]


def is_nullable(avro: AvroType) -> bool:
    return avro == "null" or (isinstance(avro, list) and "null" in avro)


def nullable(avro: AvroType) -> AvroType:
    """The type with null added."""
    if is_nullable(avro):
        return avro
    return ["null", *avro] if isinstance(avro, list) else ["null", avro]


def not_null(avro: AvroType) -> AvroType:
    """The type without null."""
    if not isinstance(avro, list):
        return avro
    branches = [branch for branch in avro if branch != "null"]
    return branches[0] if len(branches) == 1 else branches


def combined_lineage(columns: Iterable[Column]) -> tuple[SourceField, ...]:
    """All source columns of these columns, sorted."""
    return sorted_fields(field for column in columns for field in column.lineage)


def sorted_fields(fields: Iterable[SourceField]) -> tuple[SourceField, ...]:
    return tuple(sorted(set(fields), key=lambda field: (field.topic, field.field)))


def stronger(first: Derivation, second: Derivation) -> Derivation:
    return max(first, second, key=_STRENGTH.__getitem__)


def computed(
    name: str,
    dtype: pl.DataType,
    roots: Sequence[Column],
    *,
    may_be_null: bool,
    place: Place,
    derivation: Derivation = Derivation.COMPUTED,
) -> Column:
    """A column made from `roots` by an expression or function of this Polars type."""
    avro = avro_type(name, dtype, roots, may_be_null=may_be_null, place=place)
    for root in roots:
        derivation = stronger(derivation, root.derivation)
    return Column(name=name, type=avro, lineage=combined_lineage(roots), derivation=derivation)


def avro_type(name: str, dtype: pl.DataType, roots: Sequence[Column], *, may_be_null: bool, place: Place) -> AvroType:
    """The Avro type of a computed column. An enum keeps the name that its source column gives it."""
    _refuse_unusable(name, dtype, place)
    if isinstance(dtype, pl.Enum):
        same = next((root.type for root in roots if dtype_of(root) == dtype), None)
        if same is not None:
            return nullable(same) if may_be_null else not_null(same)
    try:
        avro = dtype_to_avro(dtype, nullable=True, path=name)
    except TypeUnsupported as error:
        raise TypeClash(
            f"column {name!r} has type {dtype}, which no Avro type holds", place=place, cure=_cast_cure(dtype)
        ) from error
    # What lies inside a list or struct may be null even where the whole is not.
    return avro if may_be_null else not_null(avro)


def _refuse_unusable(name: str, dtype: pl.DataType, place: Place) -> None:
    if dtype == pl.Null:
        raise TypeClash(
            f"the type of column {name!r} cannot be told", place=place, cure="say it, as in lit(None).cast(pl.String)"
        )
    if isinstance(dtype, pl.Datetime) and dtype.time_zone not in (None, "UTC"):
        # An Avro timestamp has no zone: the next step would read UTC hours where the user sees local ones.
        raise TypeClash(
            f"column {name!r} is in time zone {dtype.time_zone}, which no Avro type holds",
            place=place,
            cure="take its parts in the same expression, or keep local time by .dt.replace_time_zone(None)",
        )


def _cast_cure(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.Duration):
        return "use .dt.total_milliseconds() or another total"
    return "cast it to a type that Avro has"


def declared_column(name: str, declared: Any, *, place: Place, lineage: tuple[SourceField, ...]) -> Column:
    """A column of a user function's `schema=`: a Polars or Python type (may be null), or an Avro type as JSON."""
    return Column(
        name=name, type=declared_type(name, declared, place=place), lineage=lineage, derivation=Derivation.COMPUTED
    )


def declared_type(name: str, declared: Any, *, place: Place) -> AvroType:
    """The Avro type a user means: an Avro type, a contract's short form (`double?`), a Polars or a Python type."""
    if isinstance(declared, str | Mapping | list):
        return _avro_as_written(name, declared, place)
    dtype = _polars_as_written(name, declared, place)
    return avro_type(name, dtype, (), may_be_null=True, place=place)


def _polars_as_written(name: str, declared: Any, place: Place) -> pl.DataType:
    try:
        return pl.Schema({name: declared})[name]
    except (TypeError, ValueError) as error:
        raise TypeClash(
            f"the type of column {name!r} is {declared!r}, which is no type",
            place=place,
            cure="give a Polars type such as pl.Int64, or an Avro type such as 'long' or 'double?'",
        ) from error


def _avro_as_written(name: str, declared: Any, place: Place) -> AvroType:
    try:
        if isinstance(declared, str):
            return _short_form(name, declared, Where(place.file, place.line))
        return (
            AvroSchema.parse({"type": "record", "name": "_", "fields": [{"name": name, "type": declared}]})
            .fields[0]
            .type
        )
    except (SchemaInvalid, ContractInvalid) as error:
        raise TypeClash(f"column {name!r}: {error.message}", place=place, cure=error.cure) from error


def _short_form(name: str, text: str, where: Where) -> AvroType:
    """A type as contract files write it: `decimal(12,2)?`."""
    problems = Problems()
    (field,) = FieldForms(problems, namespace="").fields(YamlMap({name: text}, {name: where}, where))
    problems.raise_if_any()
    return field["type"]
