"""Parquet files with deterministic names.

Owns the rows between two flushes; `folder` and `bucket` own the files.

- Each flush writes one file for each partition with rows. A file that is there has been delivered: the files are the
  positions.
- Offsets of a partition are covered once; a file that would overlap another is not written.
- Offsets without a row (dead letters, rows left out) are covered by the file after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa

from headrace.egress.explained import ROWS_MAX, left_out, shown
from headrace.egress.sdk import (
    Capabilities,
    ConnectorConfig,
    Contract,
    EgressBatch,
    Mode,
    Options,
    Refused,
    arrow_schema,
)
from headrace_parquet.bucket import Bucket
from headrace_parquet.files import Covered, Files, storable_schema, write_parquet
from headrace_parquet.folder import Folder
from headrace_parquet.options import ParquetOptions


class ParquetConnector:
    """A `Connector`."""

    capabilities = Capabilities(
        modes=frozenset({Mode.APPEND}), atomic_positions=True, creates_table=True, alters_table=True, parallel=True
    )
    options_model: ClassVar[type[Options]] = ParquetOptions

    def __init__(self) -> None:
        self._files: Files | None = None
        self._schema = pa.schema([])
        self._next: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._staged: list[EgressBatch] = []

    def open(self, config: ConnectorConfig, contract: Contract, partitions: Sequence[int]) -> Mapping[int, int]:
        """Find where the files end."""
        self._files = self._set_up(config, contract)
        self._next = self._files.open(partitions)
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
            for partition in np.unique(batch.partition).tolist():
                rows = np.flatnonzero(batch.partition == partition)
                self._add(partition, batch.take(rows))
        self._staged, self._pending = [], {}

    def close(self) -> None:
        """Drop what is staged."""
        self._staged, self._pending = [], {}

    def check(self, config: ConnectorConfig, contract: Contract) -> Sequence[str]:
        """Whether Parquet has the columns' types, and the place can be listed; of a folder also, whether it can be
        written."""
        return self._set_up(config, contract).problems()

    def explain(self, config: ConnectorConfig, contract: Contract, batch: EgressBatch) -> Sequence[str]:
        """The files of one flush of these rows; where the first offset of a name lies, only the place itself tells."""
        options = config.options
        assert isinstance(options, ParquetOptions)
        topic = f"{options.path.rstrip('/')}/{config.topic}"
        partitions = np.unique(batch.partition).tolist()
        lines = []
        for partition in partitions[:ROWS_MAX]:
            offsets = batch.offset[batch.partition == partition]
            told = f"{len(offsets):,} rows of {batch.rows.num_columns:,} columns, {options.compression}"
            covers = f"offsets {offsets[0]} to {offsets[-1]}, from where the newest file ends"
            lines.append(shown(f"write {topic}/{partition}/*.parquet -- {told}; {covers}"))
        return [*lines, *left_out(len(partitions) - len(lines), "files")]

    def _set_up(self, config: ConnectorConfig, contract: Contract) -> Files:
        """Everything that does not ask the place. Raises `TargetInvalid` for a column that Parquet cannot hold."""
        options = config.options
        assert isinstance(options, ParquetOptions)
        self._staged, self._pending = [], {}
        self._schema = storable_schema(arrow_schema(contract))
        write_parquet(self._schema.empty_table(), Covered(0, 0), pa.MockOutputStream(), options)
        return Bucket(options, config.topic) if options.is_s3 else Folder(options, config.topic)

    def _add(self, partition: int, batch: EgressBatch) -> None:
        assert self._files is not None
        covered = Covered(self._next.get(partition, 0), self._pending[partition] - 1)
        assert covered.first <= int(batch.offset[0])
        assert int(batch.offset[-1]) <= covered.last
        self._files.add(partition, covered, batch.rows.cast(self._schema))
        self._next[partition] = covered.last + 1
