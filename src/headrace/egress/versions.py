"""Where rows stand in their source, as one number.

Owns `Versions`: the version of each record of an egress, by which a target knows a stale write.

- A change has the position in the log of its database: PostgreSQL's `lsn`, the binary log's file number and offset of
  MySQL and MariaDB with the row in its event, SQLite's number. Of one key these rise, as the database locked its row.
- A change without one (a tombstone, a row without a `source`) has that of the record of the same key right before it,
  else the highest of its partition so far: a deletion must not lose against the row that it deletes.
- Any other record has its offset, a replayed dead letter that of the record that it was. Replays come in no order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.codec import Decoded
from headrace.egress.replay_input import REPLAYS_FROM
from headrace.log.columns import batch_records, take_batch
from headrace.log.port import Int64Column, RecordBatch
from headrace.log.replays import Replay

FILE_BITS = 40
"""Of an offset in a file of MySQL's binary log: a thousand times its largest file."""
_FILES_MAX = 2 ** (63 - FILE_BITS)


class _Before(NamedTuple):
    """What is known of a partition when a batch begins."""

    key: bytes | None
    """Of its last record."""
    version: int | None
    """Of its last record."""
    highest: int


class Versions:
    """Versions of one egress's records, batch after batch. `restart` when reading goes on elsewhere."""

    def __init__(self) -> None:
        self._before: dict[int, _Before] = {}

    def restart(self) -> None:
        """Forget what came before."""
        self._before.clear()

    def of_records(self, records: RecordBatch) -> Int64Column:
        """Versions of records whose topic says nothing of a source."""
        replayed = np.flatnonzero(records.partition >= REPLAYS_FROM)
        if not len(replayed):
            return records.offset
        versions = records.offset.copy()
        for row, record in zip(replayed.tolist(), batch_records(take_batch(records, replayed)), strict=True):
            replay = Replay.of_headers(record.headers)
            source = replay.source if replay is not None else None
            versions[row] = source[1] if source is not None else record.offset
        return versions

    def of_changes(self, records: RecordBatch, decoded: Decoded) -> Int64Column:
        """Versions of the records of a `change` topic, whose envelopes are `decoded`."""
        stated = pl.select(pl.repeat(None, len(records), dtype=pl.Int64)).to_series()
        if decoded.table.num_rows:
            stated = stated.scatter(decoded.rows, source_versions(decoded.table.column("source")))
        frame = pl.DataFrame(
            {
                "partition": records.partition,
                "key": pl.Series(pl.from_arrow(records.key)),
                "version": stated,
                "otherwise": self.of_records(records),
            }
        )
        is_replay = pl.col("partition") >= REPLAYS_FROM
        frame = frame.with_columns(pl.when(~is_replay).then(pl.col("version")).alias("highest"))
        known = self._known(frame)
        versions = pl.concat([known, frame]).select(
            pl.coalesce(
                pl.col("version"),
                pl.col("version").forward_fill().over("partition", "key"),
                pl.col("highest").cum_max().forward_fill().over("partition"),
                pl.col("otherwise"),
            ).alias("found"),
        )["found"][len(known) :]
        self._remember(frame)
        found: Int64Column = versions.to_numpy()
        return found

    def _known(self, frame: pl.DataFrame) -> pl.DataFrame:
        """A row in front for each partition of which something is known."""
        rows = [
            (partition, before.key, before.version, 0, before.highest) for partition, before in self._before.items()
        ]
        return pl.DataFrame(rows, schema=frame.schema, orient="row")

    def _remember(self, frame: pl.DataFrame) -> None:
        last = (
            frame.filter(pl.col("partition") < REPLAYS_FROM)
            .group_by("partition")
            .agg(pl.col("key").last(), pl.col("version").last(), pl.col("highest").max())
        )
        for partition, key, version, highest in last.iter_rows():
            before = self._before.get(partition)
            highs = [each for each in (highest, before.highest if before else None) if each is not None]
            if highs:
                self._before[partition] = _Before(key, version, max(highs))


def source_versions(source: pa.ChunkedArray | pa.StructArray) -> pl.Series:
    """Positions in the logs of their databases, null where a source block has none that is one number."""
    blocks = source.combine_chunks() if isinstance(source, pa.ChunkedArray) else source
    names = ("lsn", "sequence", "file", "pos", "row")
    frame = pl.DataFrame({name: pl.Series(pl.from_arrow(pc.struct_field(blocks, name))) for name in names})
    number = pl.col("file").str.extract(r"\.(\d+)$").cast(pl.Int64, strict=False)
    binary_log = pl.when(number < _FILES_MAX).then(number * 2**FILE_BITS + pl.col("pos") + pl.col("row").fill_null(0))
    sequence = pl.col("sequence").str.extract(r"(\d+)\D*$").cast(pl.Int64, strict=False)
    return frame.select(pl.coalesce(pl.col("lsn"), binary_log, sequence)).to_series()
