"""Data files of one flush.

Owns the files until a commit holds them.

- pyiceberg's `append` is not used: it projects rows so that a null list (or map) of records becomes an empty one. Rows
  are written here as they are, with pyiceberg's own writer and statistics.
- What is written and then not committed is removed, a half written file too.
- Memory holds `GROUP_BYTES` of rows that wait to be written, and what one chunk adds.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from itertools import chain

import pyarrow as pa
import structlog
from pyiceberg.io.pyarrow import ParquetFormatModel
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.schema import Schema
from pyiceberg.table import Table, TableProperties
from pyiceberg.typedef import Record

GROUP_BYTES = 32 * 1024 * 1024
"""Chunks are joined up to this size: a row group of each few rows would make files slow to read."""

_LOG = structlog.get_logger("headrace.egress.iceberg")


class NewFiles:
    """Files that no commit holds yet."""

    def __init__(self, table: Table) -> None:
        self.files: list[DataFile] = []
        self._table, self._places = table, list[str]()

    def write(self, schema: Schema, chunks: Iterable[pa.Table]) -> None:
        """Files of these rows, which have the columns of `schema` with its field ids; none without rows."""
        properties = self._table.metadata.properties
        asked = properties.get(TableProperties.WRITE_TARGET_FILE_SIZE_BYTES)
        bytes_max = int(asked or TableProperties.WRITE_TARGET_FILE_SIZE_BYTES_DEFAULT)
        joined = _joined(chunks, min(GROUP_BYTES, bytes_max))
        first = next(joined, None)
        while first is not None:
            self._write_file(schema, chain([first], joined), bytes_max)
            first = next(joined, None)

    def discard(self) -> None:
        """Remove them all: no commit holds them, for sure."""
        for place in self._places:
            try:
                self._table.io.delete(place)
            except (OSError, ValueError) as error:
                # Nothing refers to it; maintenance of the table removes what is left over.
                _LOG.warning("data file not removed", place=place, error=type(error).__name__)
        self.files, self._places = [], []

    def _write_file(self, schema: Schema, chunks: Iterator[pa.Table], bytes_max: int) -> None:
        """One file; the chunk with which it reaches `bytes_max` is its last."""
        place = self._table.location_provider().new_data_location(f"{uuid.uuid4()}.parquet")
        output = self._table.io.new_output(place)
        self._places.append(place)
        written = 0
        writer = ParquetFormatModel().create_writer(output, schema, self._table.metadata.properties)
        with writer:
            for rows in chunks:
                writer.write(rows)
                written += rows.nbytes
                if written >= bytes_max:
                    break
        self.files.append(
            DataFile.from_args(
                content=DataFileContent.DATA,
                file_path=place,
                file_format=FileFormat.PARQUET,
                partition=Record(),
                file_size_in_bytes=len(output),
                sort_order_id=None,
                spec_id=self._table.metadata.default_spec_id,
                equality_ids=None,
                key_metadata=None,
                **writer.result().to_serialized_dict(),
            )
        )


def _joined(chunks: Iterable[pa.Table], bytes_min: int) -> Iterator[pa.Table]:
    """The same rows in larger tables; empty ones are left out."""
    waiting: list[pa.Table] = []
    waiting_bytes = 0
    for chunk in chunks:
        if not chunk.num_rows:
            continue
        waiting.append(chunk)
        waiting_bytes += chunk.nbytes
        if waiting_bytes >= bytes_min:
            yield pa.concat_tables(waiting)
            waiting, waiting_bytes = [], 0
    if waiting:
        yield pa.concat_tables(waiting)
