"""What the rows of a flush do to the data files of the table.

Owns copy-on-write: files that hold a key of the batch are written anew without its rows, files of the batch beside.

- A row that is deleted or updated leaves its file; the row that it became is in a new one. Both are in one snapshot.
- Rows that stay are copied as they are in their file, with its own columns and field ids: nothing is converted.
- What is rewritten is joined with the new rows where the columns are the same, so that files do not become ever more.
- The table is not written here: `commits` makes a snapshot of it, or removes the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from pyiceberg.exceptions import ValidationError
from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException, pyarrow_to_schema, schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from headrace.egress.sdk import EgressBatch, Mode, TargetInvalid
from headrace_iceberg.data_file import NewFiles
from headrace_iceberg.held_files import HeldFile, Keys, data_files, held_files, held_values, other_rows
from headrace_iceberg.types import storable_type

_PLACE = "__place"


class Change(NamedTuple):
    """The rows of one flush."""

    is_keyed: bool
    truncates: bool
    """All rows that are in the table go first."""
    batch: EgressBatch | None
    """In the table's column types, in a keyed mode each key once. None without rows."""


def change_of(staged: Sequence[EgressBatch], mode: Mode, columns: pa.Schema) -> Change:
    """What the staged rows come to. `columns`: those of the contract, in the table's types."""
    batches = [batch for batch in staged if len(batch)]
    is_keyed = mode is not Mode.APPEND
    if not batches:
        return Change(is_keyed, truncates=False, batch=None)
    truncated, batch = EgressBatch.concat(batches).since_truncate()
    # First the types, then the latest rows: keys are the same where the table's are.
    batch = replace(batch, rows=_in_columns(batch.rows, columns))
    return Change(is_keyed, truncated is not None, batch.latest() if is_keyed and len(batch) else batch)


def write_change(table: Table, change: Change, new: NewFiles, place: str) -> list[DataFile]:
    """Write the files of a change, and return those that it takes away."""
    schema = table.schema()
    columns = schema_to_pyarrow(schema)
    removed = data_files(table, place) if change.truncates else []
    batch = change.batch
    if batch is None or not len(batch):
        return removed
    held: list[HeldFile] = []
    if change.is_keyed and not change.truncates:
        keys = Keys(batch.rows, [schema.find_field(name) for name in batch.key])
        held = held_files(table, keys, place)
        removed = [each.file for each in held]
        batch = _told(table, batch, keys, held, place)
    written = batch.rows.filter(pa.array(~batch.deletes()))
    parts: dict[bytes, _Part] = {_identity(columns): _Part(schema, [iter([_with_ids(written, columns)])])}
    for each in held:
        known = parts.get(_identity(each.columns))
        if known is None:
            known = parts[_identity(each.columns)] = _Part(_file_schema(each.columns, place), [])
        known.rows.append(other_rows(table, each, place))
    for part in parts.values():
        new.write(part.schema, chain.from_iterable(part.rows))
    return removed


class _Part(NamedTuple):
    """Rows of the same columns, which go into the same files."""

    schema: Schema
    rows: list[Iterator[pa.Table]]


def _identity(columns: pa.Schema) -> bytes:
    """Field ids included, at every depth, which Arrow's own comparison leaves out: a column of the name and type of one
    that was dropped is another one."""
    identity: bytes = columns.remove_metadata().serialize().to_pybytes()
    return identity


def _in_columns(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    storable = pa.schema([pa.field(each.name, storable_type(each.type)) for each in rows.schema])
    return rows.cast(storable).cast(columns)


def _with_ids(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """The columns of the table; those that the contract has not are null."""
    arrays = [
        rows.column(each.name).cast(each.type) if each.name in rows.column_names else pa.nulls(rows.num_rows, each.type)
        for each in columns
    ]
    return pa.Table.from_arrays(arrays, schema=columns)


def _told(table: Table, batch: EgressBatch, keys: Keys, held: Sequence[HeldFile], place: str) -> EgressBatch:
    """The batch with the values that its source did not tell, as the table has them; null where it has no such row."""
    if not batch.unavailable or not held:
        return batch
    fields = [*keys.fields, *(table.schema().find_field(name) for name in batch.unavailable)]
    columns = pa.schema([batch.rows.schema.field(each.name).with_nullable(True) for each in fields])
    values = held_values(table, held, fields, columns, place)
    places = _places(keys, values)
    rows = batch.rows
    for name, mask in batch.unavailable.items():
        column = _filled(rows.column(name), values[name], mask, places)
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
    return replace(batch, rows=rows, unavailable={})


def _places(keys: Keys, values: pa.Table) -> npt.NDArray[np.int64]:
    """Where the row of each key is, -1 where it is not."""
    there = pl.DataFrame(values.select(keys.names)).with_row_index(_PLACE).unique(subset=keys.names, keep="any")
    found = keys.frame.join(there, on=keys.names, how="left", nulls_equal=True, maintain_order="left")[_PLACE]
    places: npt.NDArray[np.int64] = found.cast(pl.Int64).fill_null(-1).to_numpy()
    return places


def _filled(
    told: pa.ChunkedArray, held: pa.ChunkedArray, mask: npt.NDArray[np.bool_], places: npt.NDArray[np.int64]
) -> pa.ChunkedArray:
    """`told`, and where `mask` says so what is held at that place."""
    taken = np.where(mask & (places >= 0), len(told) + places, np.arange(len(told)))
    return pa.chunked_array([*told.chunks, *held.chunks], told.type).take(pa.array(taken))


def _file_schema(columns: pa.Schema, place: str) -> Schema:
    """Of a file that is older than the table's columns, or another engine's."""
    try:
        return pyarrow_to_schema(columns)
    except (UnsupportedPyArrowTypeException, ValidationError, TypeError, ValueError) as error:
        cure = "rewrite its files with the engine that wrote them"
        raise TargetInvalid(f"{place}: a data file cannot be written anew: {error}", cure=cure) from error
