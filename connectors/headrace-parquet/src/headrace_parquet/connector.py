"""Parquet files with deterministic names.

Owns the folder `<path>/<topic>/<partition>/`; a file is `<first offset>-<last offset>.parquet`.

- The name says which offsets a file covers, so the names are the positions: a file that is there has been delivered.
- A file appears whole: written under a temporary name, synced, linked to its name, its folder synced.
- Offsets of a partition are covered once; a file that would overlap another is not written.
- Offsets without a row (dead letters, rows left out) are covered by the file around them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from headrace.egress.sdk import (
    Capabilities,
    ConnectorConfig,
    Contract,
    EgressBatch,
    Mode,
    Options,
    PositionMoved,
    Refused,
    TargetInvalid,
    TargetUnavailable,
    arrow_schema,
)

OFFSET_DIGITS = 20
"""As many as a 64-bit offset has, so that names sort as numbers do."""
_NAME = re.compile(rf"(\d{{{OFFSET_DIGITS}}})-(\d{{{OFFSET_DIGITS}}})\.parquet")
_TEMPORARY = ".tmp"


class ParquetOptions(Options):
    """`options:` of an egress with connector `parquet`."""

    path: Path
    """Folder; made when it is missing."""
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = "zstd"
    row_group_rows: int = Field(default=100_000, ge=1)


class Covered(NamedTuple):
    """The offsets of one file, both included."""

    first: int
    last: int


class ParquetConnector:
    """A `Connector`."""

    capabilities = Capabilities(
        modes=frozenset({Mode.APPEND}), atomic_positions=True, creates_table=True, alters_table=True
    )
    options_model: ClassVar[type[Options]] = ParquetOptions

    def __init__(self) -> None:
        self._folder = Path()
        self._schema = pa.schema([])
        self._options: ParquetOptions | None = None
        self._next: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._staged: list[EgressBatch] = []

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Make the folders and read the positions off the names."""
        assert isinstance(config.options, ParquetOptions)
        self._options = config.options
        self._folder = config.options.path / config.topic
        self._schema = storable_schema(arrow_schema(contract))
        self._staged, self._pending, self._next = [], {}, {}
        with _translated(self._folder):
            for partition in partitions:
                folder = self._partition_folder(partition)
                folder.mkdir(parents=True, exist_ok=True)
                for left_over in folder.glob(f"*{_TEMPORARY}"):
                    left_over.unlink(missing_ok=True)
                covered = covered_offsets(folder)
                if covered:
                    self._next[partition] = covered[-1].last + 1
        return dict(self._next)

    def write(self, batch: EgressBatch, positions: Mapping[int, int]) -> Sequence[Refused]:
        """Keep the rows until the flush; Parquet takes every value that Arrow has."""
        self._staged.append(batch)
        self._pending.update(positions)
        return []

    def flush(self) -> None:
        """Write one file for each partition that has rows."""
        if self._staged:
            batch = EgressBatch.concat(self._staged)
            with _translated(self._folder):
                for partition in np.unique(batch.partition).tolist():
                    rows = np.flatnonzero(batch.partition == partition)
                    self._write_file(partition, batch.take(rows))
        self._staged, self._pending = [], {}

    def close(self) -> None:
        """Drop what is staged."""
        self._staged, self._pending = [], {}

    def _write_file(self, partition: int, batch: EgressBatch) -> None:
        assert self._options is not None
        folder = self._partition_folder(partition)
        first, last = self._next.get(partition, int(batch.offset[0])), self._pending[partition] - 1
        assert first <= int(batch.offset[0])
        assert int(batch.offset[-1]) <= last
        self._check_free(folder, Covered(first, last))
        name = f"{first:0{OFFSET_DIGITS}d}-{last:0{OFFSET_DIGITS}d}.parquet"
        temporary = folder / f"{name}.{os.getpid()}{_TEMPORARY}"
        table = batch.rows.cast(self._schema)
        try:
            _write_synced(table, temporary, self._options)
            # A link fails where a rename would replace what another process wrote.
            os.link(temporary, folder / name)
        except FileExistsError as error:
            raise _moved(folder, Covered(first, last)) from error
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(folder)
        self._next[partition] = last + 1

    def _check_free(self, folder: Path, wanted: Covered) -> None:
        if any(each.last >= wanted.first for each in covered_offsets(folder)):
            raise _moved(folder, wanted)

    def _partition_folder(self, partition: int) -> Path:
        return self._folder / str(partition)


def storable_schema(schema: pa.Schema) -> pa.Schema:
    """The same columns, optional at every depth: pyarrow's Parquet writer refuses a null record whose fields are
    required, though Arrow allows it. The contract's own schema stays in the metadata."""
    return pa.schema([_optional(each) for each in schema], metadata=schema.metadata)


def _optional(field: pa.Field) -> pa.Field:
    arrow = field.type
    if pa.types.is_struct(arrow):
        arrow = pa.struct([_optional(arrow.field(index)) for index in range(arrow.num_fields)])
    elif pa.types.is_list(arrow):
        arrow = pa.list_(_optional(arrow.value_field))
    elif pa.types.is_map(arrow):
        arrow = pa.map_(arrow.key_field, _optional(arrow.item_field))
    return field.with_type(arrow).with_nullable(True)


def _write_synced(table: pa.Table, path: Path, options: ParquetOptions) -> None:
    with path.open("wb") as file:
        try:
            pq.write_table(table, file, compression=options.compression, row_group_size=options.row_group_rows)
        except pa.ArrowNotImplementedError as error:
            raise TargetInvalid(f"{path.parent}: {error}", cure="leave the column out with `columns:`") from error
        file.flush()
        os.fsync(file.fileno())


def covered_offsets(folder: Path) -> list[Covered]:
    """The offsets of a partition's files, in order. Other files are none of ours."""
    found = (_NAME.fullmatch(each.name) for each in folder.iterdir())
    return sorted(Covered(int(match.group(1)), int(match.group(2))) for match in found if match is not None)


def _moved(folder: Path, wanted: Covered) -> PositionMoved:
    return PositionMoved(f"{folder}: offsets from {wanted.first} on were written by another process")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise TargetInvalid(f"{folder}: {error.strerror}", cure="give the egress a folder that it may write") from error
    except OSError as error:
        raise TargetUnavailable(f"{folder}: {error.strerror or error}") from error
