"""Rows on their way to a target.

Owns `EgressBatch` and what several rows of one key come to.

- All columns are equally long, and rows of one partition are in offset order.
- What many rows of a key come to is what the target would hold after one row at a time.
- Whole columns at a time: no loop over rows.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from headrace.egress.key_columns import key_columns
from headrace.log.port import Int32Column, Int64Column

_ROW, _LIFE, _IS_DELETE, _VERSION, _SOURCE = "__row", "__life", "__delete", "__version", "__source"
"""Columns beside the key's; contracts may not use names that begin so."""


class Operation(enum.IntEnum):
    """What one row of a batch asks for."""

    UPSERT = 0
    """Write the row; in mode append, add it."""
    DELETE = 1
    """Remove the row with these key columns; its other columns are null. Only in mode replicate."""
    TRUNCATE = 2
    """Remove the rows that came before; all columns are null. Only in mode replicate, and only for connectors with
    `truncate`. See `EgressBatch.since_truncate`."""


@dataclass(frozen=True, slots=True)
class EgressBatch:
    """Rows for the target, as equally long columns. May be empty: then only positions move."""

    rows: pa.Table
    """With the columns of `arrow_schema(contract)`. In a deletion only the key columns have values, in a truncation
    none."""
    key: tuple[str, ...]
    """Columns of `rows` that identify a row; empty in mode append for topics without key."""
    operation: npt.NDArray[np.int8]
    partition: Int32Column
    offset: Int64Column
    timestamp_ms: Int64Column
    version: Int64Column
    """Where the row stands in its source, rising for each key; equal for what happened at one place. A target with
    `refuses_stale` keeps it beside the row, and leaves a row alone that has a higher one. The position of a change in
    the log of its database (a tombstone has that of the deletion before it), for all other records their offset; for a
    replayed dead letter that of the record that it was."""
    unavailable: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """Column to the rows whose value the source did not tell: they are null here and leave the target's column as it
    is; where the target has no such row the column becomes null. Columns without such rows are absent. Always empty
    without `partial_update`; never a key column."""

    def __len__(self) -> int:
        return len(self.operation)

    def take(self, rows: npt.NDArray[np.int64]) -> EgressBatch:
        """These rows, in this order."""
        unavailable = {name: mask[rows] for name, mask in self.unavailable.items()}
        return EgressBatch(
            rows=self.rows.take(pa.array(rows)),
            key=self.key,
            operation=self.operation[rows],
            partition=self.partition[rows],
            offset=self.offset[rows],
            timestamp_ms=self.timestamp_ms[rows],
            version=self.version[rows],
            unavailable={name: mask for name, mask in unavailable.items() if mask.any()},
        )

    def latest(self, *, refuses_stale: bool = False) -> EgressBatch:
        """What the rows of each key come to, each key once, in the order of their last rows.

        That is the key's last row, with the newest value of each column that is not unavailable. `refuses_stale`: a
        row older than one of its key before it does not count. A batch with truncations is split before.
        """
        assert not (self.operation == Operation.TRUNCATE).any(), "use since_truncate first"
        return _latest(self, refuses_stale=refuses_stale)

    def since_truncate(self, *, refuses_stale: bool = False) -> tuple[int | None, EgressBatch]:
        """The version of the newest truncation, None without one, and the rows that are left to write after it.

        Where there was one the target first removes all its rows, with `refuses_stale` those of a lower version:
        partitions come unordered, so rows of another may be newer than the truncation. The runner sees to it that a
        connector without `refuses_stale` gets truncations of topics with one partition only.
        """
        truncates = np.flatnonzero(self.operation == Operation.TRUNCATE)
        if not len(truncates):
            return None, self
        version = int(self.version[truncates].max())
        rows = np.arange(len(self))
        kept = self.operation != Operation.TRUNCATE
        kept &= self.version >= version if refuses_stale else rows > truncates[-1]
        return version, self.take(rows[kept])

    def deletes(self) -> npt.NDArray[np.bool_]:
        """Which rows are deletions."""
        deletes: npt.NDArray[np.bool_] = self.operation == Operation.DELETE
        return deletes

    @staticmethod
    def concat(batches: Sequence[EgressBatch]) -> EgressBatch:
        """Batches of one egress joined in this order; at least one is given."""
        if len(batches) == 1:
            return batches[0]
        untold = dict.fromkeys(name for batch in batches for name in batch.unavailable)
        return EgressBatch(
            rows=pa.concat_tables([batch.rows for batch in batches]).unify_dictionaries(),
            key=batches[0].key,
            operation=np.concatenate([batch.operation for batch in batches]),
            partition=np.concatenate([batch.partition for batch in batches]),
            offset=np.concatenate([batch.offset for batch in batches]),
            timestamp_ms=np.concatenate([batch.timestamp_ms for batch in batches]),
            version=np.concatenate([batch.version for batch in batches]),
            unavailable={
                name: np.concatenate([batch.unavailable.get(name, np.zeros(len(batch), bool)) for batch in batches])
                for name in untold
            },
        )


def _latest(batch: EgressBatch, *, refuses_stale: bool) -> EgressBatch:
    key = list(batch.key)
    keys = key_columns(batch.rows, key).with_row_index(_ROW)
    if keys.n_unique(subset=key) == len(keys):
        return batch
    if refuses_stale:
        is_fresh = pl.col(_VERSION) >= pl.col(_VERSION).cum_max().over(key)
        keys = keys.with_columns(pl.Series(_VERSION, batch.version)).filter(is_fresh)
    last = keys.unique(subset=key, keep="last", maintain_order=True)[_ROW].cast(pl.Int64).to_numpy()
    taken = batch.take(last)
    return taken if not batch.unavailable else _completed(batch, keys, last, taken)


def _completed(batch: EgressBatch, keys: pl.DataFrame, last: npt.NDArray[np.int64], taken: EgressBatch) -> EgressBatch:
    """`taken`, the rows `last` of the batch, with what earlier rows of the same keys tell.

    A deletion ends what is known of a key: a value from before it is not that of the row after it, and what that row
    does not tell is null, as it is in the deletion, not what the target held.
    """
    keys = keys.with_columns(pl.Series(_IS_DELETE, batch.deletes()).gather(keys[_ROW]))
    lives = keys.with_columns(pl.col(_IS_DELETE).cast(pl.Int64).cum_sum().over(list(batch.key)).alias(_LIFE))
    rows, unavailable = taken.rows, {}
    for name, mask in batch.unavailable.items():
        tells = ~pl.Series(mask).gather(lives[_ROW])
        source = pl.when(tells).then(pl.col(_ROW).cast(pl.Int64)).otherwise(None)
        newest = lives.with_columns(source.alias(_SOURCE)).with_columns(
            pl.col(_SOURCE).forward_fill().over([*batch.key, _LIFE])
        )
        found = newest.join(pl.DataFrame({_ROW: last.astype(np.uint32)}), on=_ROW, maintain_order="right")
        column = batch.rows.column(name).take(found[_SOURCE].to_arrow())
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
        untold = found[_SOURCE].is_null().to_numpy()
        if untold.any():
            unavailable[name] = untold
    return replace(taken, rows=rows, unavailable=unavailable)
