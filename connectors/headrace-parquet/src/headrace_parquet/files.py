"""What the connector asks of a place for Parquet files, and what a file is.

Owns the names of files, their columns and their bytes.

- A partition's files are a chain: each begins where the one before it ends, the first at offset 0.
- The file itself tells its last offset, in the metadata of its footer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.egress.sdk import PositionMoved, TargetInvalid
from headrace_parquet.options import ParquetOptions

OFFSET_DIGITS = 20
"""As many as a 64-bit offset has, so that names sort as numbers do."""
LAST_OFFSET_METADATA = b"headrace.last_offset"


class Covered(NamedTuple):
    """The offsets of one file, both included."""

    first: int
    last: int


class Files(Protocol):
    """Where the files of one topic are. One thread."""

    def open(self, partitions: Sequence[int]) -> dict[int, int]:
        """Make the place ready and return the next offset of each partition that has files."""

    def problems(self) -> list[str]:
        """What can be told to stand in the way without writing. May raise as `open` does."""

    def add(self, partition: int, covered: Covered, table: pa.Table) -> None:
        """Write one file, whole and for good. Raises `PositionMoved` where another process went on from there."""


def storable_schema(schema: pa.Schema) -> pa.Schema:
    """The same columns, optional at every depth: pyarrow's Parquet writer refuses a null record whose fields are
    required, though Arrow allows it. The contract's own schema stays in the metadata."""
    return pa.schema([_optional(each) for each in schema], metadata=schema.metadata)


def write_parquet(table: pa.Table, covered: Covered, to: IO[bytes] | pa.NativeFile, options: ParquetOptions) -> None:
    """Raises `TargetInvalid` for a column that Parquet cannot hold."""
    metadata = {**(table.schema.metadata or {}), LAST_OFFSET_METADATA: str(covered.last).encode()}
    try:
        pq.write_table(
            table.replace_schema_metadata(metadata),
            to,
            compression=options.compression,
            row_group_size=options.row_group_rows,
        )
    except pa.ArrowNotImplementedError as error:
        raise TargetInvalid(f"{options.path}: {error}", cure="leave the column out with `columns:`") from error


def moved(place: str, first: int) -> PositionMoved:
    """The error for offsets that are there already."""
    return PositionMoved(
        f"{place}: offsets from {first} on were written by another process", cure="run this egress in one place"
    )


def _optional(field: pa.Field) -> pa.Field:
    arrow = field.type
    if pa.types.is_struct(arrow):
        arrow = pa.struct([_optional(arrow.field(index)) for index in range(arrow.num_fields)])
    elif pa.types.is_list(arrow):
        arrow = pa.list_(_optional(arrow.value_field))
    elif pa.types.is_map(arrow):
        arrow = pa.map_(arrow.key_field, _optional(arrow.item_field))
    return field.with_type(arrow).with_nullable(True)
