"""What a table's data files hold of given keys.

Owns the look into files that are there: which have one of the keys, in which rows.

- Statistics first: a file whose smallest and largest key are known is opened only where a key of the batch is between.
  Of a file that is opened the key columns are read, then all columns of those with a hit alone.
- Keys are compared by a join, null equal to null, never by a filter of as many terms as there are keys.
- Columns are found by field id: a file may be older than the table's names and types.
- Memory holds one row group.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.conversions import from_bytes
from pyiceberg.io.pyarrow import PYARROW_PARQUET_FIELD_ID_KEY
from pyiceberg.manifest import DataFile, FileFormat
from pyiceberg.table import Table
from pyiceberg.types import (
    DateType,
    IntegerType,
    LongType,
    NestedField,
    PrimitiveType,
    StringType,
    TimestampType,
    TimestamptzType,
)

from headrace.egress.sdk import TargetInvalid

_WITH_ORDER = (IntegerType, LongType, DateType, TimestampType, TimestamptzType, StringType)
"""Types whose bounds in a file's statistics compare as their values here do."""
_ROW = "__row"


class HeldFile(NamedTuple):
    """A data file with some of the keys."""

    file: DataFile
    columns: pa.Schema
    """Its own, with field ids."""
    hits: Sequence[npt.NDArray[np.bool_]]
    """Of each row group, the rows with one of the keys."""


class Keys:
    """The keys of a batch, each once, in the table's types."""

    def __init__(self, rows: pa.Table, fields: Sequence[NestedField]) -> None:
        self.fields, self.names = fields, [each.name for each in fields]
        self.columns = pa.schema([rows.schema.field(name).with_nullable(True) for name in self.names])
        self.frame = pl.DataFrame(rows.select(self.names))
        self._sorted: tuple[NestedField, list[Any]] | None = None
        for each in fields:
            if isinstance(each.field_type, _WITH_ORDER) and not self.frame[each.name].null_count():
                self._sorted = each, self.frame[each.name].to_physical().unique().sort().to_list()
                break

    def may_be_in(self, file: DataFile) -> bool:
        """As far as the file's statistics tell."""
        if self._sorted is None:
            return True
        field, values = self._sorted
        assert isinstance(field.field_type, PrimitiveType)
        lower = (file.lower_bounds or {}).get(field.field_id)
        upper = (file.upper_bounds or {}).get(field.field_id)
        if lower is None or upper is None:
            return True
        place = bisect_left(values, from_bytes(field.field_type, lower))
        return place < len(values) and bool(values[place] <= from_bytes(field.field_type, upper))

    def of_rows(self, rows: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Which rows have one of them."""
        found = rows.with_row_index(_ROW).join(self.frame, on=self.names, how="semi", nulls_equal=True)[_ROW]
        hits = np.zeros(len(rows), dtype=bool)
        hits[found.to_numpy()] = True
        return hits


def data_files(table: Table, place: str) -> list[DataFile]:
    """The data files of the current snapshot, however rows of them are deleted."""
    return [each.file for each in _planned(table, place)]


def held_files(table: Table, keys: Keys, place: str) -> list[HeldFile]:
    """Those with one of the keys. Raises `TargetInvalid` for one that cannot be rewritten."""
    found = []
    for task in _planned(table, place):
        if not keys.may_be_in(task.file):
            continue
        if task.delete_files:
            told = "has files of deleted rows, which are not read here"
            raise _unfit(
                place, task.file, told, "compact the table, and set its `write.delete.mode` to `copy-on-write`"
            )
        with _opened(table, task.file, place) as parquet:
            columns = parquet.schema_arrow.remove_metadata()
            groups = range(parquet.num_row_groups)
            hits = [keys.of_rows(pl.DataFrame(_read(parquet, each, keys.fields, keys.columns))) for each in groups]
        if any(each.any() for each in hits):
            found.append(HeldFile(task.file, columns, hits))
    return found


def other_rows(table: Table, held: HeldFile, place: str) -> Iterator[pa.Table]:
    """The rows with none of the keys, as they are in the file; one table for each row group."""
    if all(each.all() for each in held.hits):
        return
    with _opened(table, held.file, place) as parquet:
        for group, hits in enumerate(held.hits):
            if not hits.all():
                rows = parquet.read_row_group(group).replace_schema_metadata(None)
                yield rows.filter(pa.array(~hits)) if hits.any() else rows


def held_values(
    table: Table, found: Sequence[HeldFile], fields: Sequence[NestedField], columns: pa.Schema, place: str
) -> pa.Table:
    """These columns of the rows with one of the keys, as `columns` has them."""
    parts = [columns.empty_table()]
    for held in found:
        with _opened(table, held.file, place) as parquet:
            for group, hits in enumerate(held.hits):
                if hits.any():
                    parts.append(_read(parquet, group, fields, columns).filter(pa.array(hits)))
    return pa.concat_tables(parts)


def _planned(table: Table, place: str) -> list[Any]:
    try:
        return list(table.scan().plan_files())
    except (NotImplementedError, ValueError) as error:
        cure = "compact the table with the engine that wrote them"
        raise TargetInvalid(f"{place}: its deleted rows cannot be read: {error}", cure=cure) from error


@contextmanager
def _opened(table: Table, file: DataFile, place: str) -> Iterator[pq.ParquetFile]:
    if file.file_format is not FileFormat.PARQUET:
        raise _unfit(place, file, f"is {file.file_format.value}", "rewrite its files as Parquet")
    with closing(table.io.new_input(file.file_path).open()) as stream, closing(pq.ParquetFile(stream)) as parquet:
        if not all(PYARROW_PARQUET_FIELD_ID_KEY in (each.metadata or {}) for each in parquet.schema_arrow):
            raise _unfit(place, file, "has no field ids", "rewrite it with the engine that added it")
        yield parquet


def _read(parquet: pq.ParquetFile, group: int, fields: Sequence[NestedField], columns: pa.Schema) -> pa.Table:
    """These columns of a row group; a column that the file is older than is null."""
    names = {int(each.metadata[PYARROW_PARQUET_FIELD_ID_KEY]): each.name for each in parquet.schema_arrow}
    there = [names[each.field_id] for each in fields if each.field_id in names]
    rows = parquet.read_row_group(group, columns=there)
    count = parquet.metadata.row_group(group).num_rows
    arrays = [
        rows.column(names[each.field_id]).cast(columns.field(each.name).type)
        if each.field_id in names
        else pa.nulls(count, columns.field(each.name).type)
        for each in fields
    ]
    return pa.Table.from_arrays(arrays, schema=columns)


def _unfit(place: str, file: DataFile, told: str, cure: str) -> TargetInvalid:
    return TargetInvalid(f"{place}: data file {file.file_path} {told}", cure=cure)
