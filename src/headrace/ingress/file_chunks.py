"""Files of rows as chunks of columns: JSON lines, CSV, Parquet.

Owns the reading of the three formats; `files` publishes what is read.

- A file is read a chunk at a time; its size does not matter.
- Every row knows its line (Parquet: its row number), counted from 1 as editors do.
- A row that cannot be read is reported and the rest of its file is read on.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.contracts.avro import AvroSchema
from headrace.errors import Where
from headrace.ingress.columns import ColumnBuilder, Columns
from headrace.ingress.json_rows import JsonReader, Unreadable
from headrace.ingress.values import Form
from headrace.ingress.violations import IngressError

CHUNK_ROWS = 10_000
CELL_BYTES_MAX = 16 * 1024 * 1024
"""Longest cell of a CSV file; a missing closing quote ends here instead of in memory."""


class FileUnreadable(IngressError):
    """A file that is not what its name says, or that has a column the contract does not have."""

    code: ClassVar[str] = "ingress.file_unreadable"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a file."""

    columns: Columns
    lines: Sequence[int]
    """Line of each input row of `columns`."""
    bytes_done: int
    unreadable: Sequence[tuple[int, str]] = field(default_factory=tuple)
    """Lines that are no row at all, and why."""


def file_chunks(path: Path, schema: AvroSchema, file_format: str) -> Iterator[Chunk]:
    """The file in chunks. `file_format` is `jsonl`, `csv` or `parquet`. Raises `FileUnreadable`."""
    try:
        yield from _READERS[file_format](path, schema)
    except OSError as error:
        raise FileUnreadable(f"{path}: {error.strerror or error}", where=Where(str(path))) from error


def format_of(path: Path) -> str:
    """The format that the file's name says. Raises `FileUnreadable`."""
    known = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
    found = known.get(path.suffix.lower())
    if found is None:
        cure = "name the format: jsonl, csv or parquet"
        raise FileUnreadable(f"the ending {path.suffix!r} tells no format", where=Where(str(path)), cure=cure)
    return found


def _jsonl_chunks(path: Path, schema: AvroSchema) -> Iterator[Chunk]:
    builder, reader = ColumnBuilder(schema, Form.JSON), JsonReader(schema)
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    unreadable: list[tuple[int, str]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            parsed = reader.row(line)
            if isinstance(parsed, Unreadable):
                unreadable.append((number, parsed.reason))
            else:
                rows.append(parsed)
                lines.append(number)
            if len(rows) + len(unreadable) >= CHUNK_ROWS:
                yield Chunk(builder.from_rows(rows), lines, file.tell(), unreadable)
                rows, lines, unreadable = [], [], []
        if rows or unreadable:
            yield Chunk(builder.from_rows(rows), lines, file.tell(), unreadable)


def _csv_chunks(path: Path, schema: AvroSchema) -> Iterator[Chunk]:
    builder = ColumnBuilder(schema, Form.TEXT)
    empty_texts = frozenset(each.name for each in schema.fields if each.type == "string")
    csv.field_size_limit(CELL_BYTES_MAX)
    # Undecodable bytes become lone surrogates, which no string column takes: their row alone is bad.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        names = _csv_names(path, reader, builder)
        rows: list[list[str]] = []
        lines: list[int] = []
        unreadable: list[tuple[int, str]] = []
        for line, row in _csv_rows(path, reader):
            if len(row) == len(names):
                rows.append(row)
                lines.append(line)
            else:
                unreadable.append((line, f"has {len(row)} cells, the header has {len(names)}"))
            if len(rows) + len(unreadable) >= CHUNK_ROWS:
                yield Chunk(_csv_columns(builder, names, rows, empty_texts), lines, _position(file), unreadable)
                rows, lines, unreadable = [], [], []
        if rows or unreadable:
            yield Chunk(_csv_columns(builder, names, rows, empty_texts), lines, _position(file), unreadable)


def _position(file: Any) -> int:
    return int(os.lseek(file.fileno(), 0, os.SEEK_CUR))


def _csv_names(path: Path, reader: Any, builder: ColumnBuilder) -> list[str]:
    names: list[str] = next((row for _, row in _csv_rows(path, reader)), [])
    _check_names(path, names, builder)
    return names


def _csv_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line they begin on; empty lines are skipped."""
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise FileUnreadable(f"not CSV: {error}", where=Where(str(path), line), cure="mend this line") from error
        if row:
            yield line, row


def _csv_columns(
    builder: ColumnBuilder, names: Sequence[str], rows: Sequence[Sequence[str]], empty_texts: frozenset[str]
) -> Columns:
    """An empty cell is null, or empty text where the contract has text without null."""
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    columns = {
        name: values if name in empty_texts else [value or None for value in values]
        for name, values in zip(names, cells, strict=True)
    }
    return builder.from_values(columns, len(rows))


def _parquet_chunks(path: Path, schema: AvroSchema) -> Iterator[Chunk]:
    builder = ColumnBuilder(schema, Form.JSON)
    size = path.stat().st_size
    try:
        with pq.ParquetFile(path) as file:
            _check_names(path, file.schema_arrow.names, builder)
            rows_done, rows_total = 0, max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=CHUNK_ROWS):
                columns = builder.from_table(pa.Table.from_batches([batch]))
                lines = range(rows_done + 1, rows_done + batch.num_rows + 1)
                rows_done += batch.num_rows
                yield Chunk(columns, lines, size * rows_done // rows_total)
    except pa.ArrowException as error:
        raise FileUnreadable(f"not readable as Parquet: {error}", where=Where(str(path))) from error


def _check_names(path: Path, names: Sequence[str], builder: ColumnBuilder) -> None:
    unknown = builder.unknown_columns(names)
    if unknown:
        cure = "remove or rename the column, or add it to the contract"
        raise FileUnreadable(f"column {unknown[0]!r} is not in the contract", where=Where(str(path), 1), cure=cure)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FileUnreadable(f"column {twice!r} is there twice", where=Where(str(path), 1), cure="rename one of them")


_READERS = {"jsonl": _jsonl_chunks, "csv": _csv_chunks, "parquet": _parquet_chunks}
