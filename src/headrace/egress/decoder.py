"""From raw records to the rows of a target.

Owns what a record means in each mode, and the reasons why a record is no row.

- Every record becomes a row, a deletion, a truncation, something left out on purpose (counted), or a dead letter.
- Rows keep the order of the records.
- Deletions are by the record's key, never by a row before the change: databases do not always fill that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from headrace.contracts.codec import RecordCodec
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.debezium.unavailable import UnavailableValues
from headrace.contracts.debezium.unavailable_columns import unavailable_rows
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.key import KeyCodec, open_key_codec
from headrace.contracts.registry import Registry
from headrace.contracts.topic_codec import open_topic_codec
from headrace.egress.config import EgressConfig
from headrace.egress.key_columns import key_columns
from headrace.egress.sdk import Capabilities, EgressBatch, Mode, Operation
from headrace.egress.versions import Versions
from headrace.egress.view import View, source_contract
from headrace.log.dead_letters import Reason
from headrace.log.port import Int64Column, RecordBatch

Indexes = npt.NDArray[np.int64]
_NONE: Indexes = np.empty(0, dtype=np.int64)
Masks = Mapping[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """What became of a batch of records."""

    batch: EgressBatch
    record: Indexes
    """The record that each row comes from, as an index in the record batch."""
    bad: dict[int, Reason]
    """Records that are no row."""
    filtered: int
    """Rows that the filter left out."""
    skipped: int
    """Deletions that the mode leaves out."""
    truncates_skipped: int = 0


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows under way: all columns of the topic, the record of each, and records that delete and that truncate."""

    table: pa.Table
    record: Indexes
    deleted: Indexes
    truncates: Indexes
    unavailable: Masks = field(default_factory=dict)
    """By the topic's column: rows whose value the source did not tell, null in `table`."""

    def take(self, rows: Indexes) -> _Rows:
        """These rows; deletions and truncations stay."""
        if len(rows) == self.table.num_rows:
            return self
        untold = {name: mask[rows] for name, mask in self.unavailable.items()}
        return replace(self, table=self.table.take(pa.array(rows)), record=self.record[rows], unavailable=untold)


class Decoder:
    """Decodes the records of one egress. A registry that cannot be reached raises `RegistryUnavailable`."""

    def __init__(
        self, config: EgressConfig, contract: Contract, registry: Registry, view: View, capabilities: Capabilities
    ) -> None:
        self._mode, self._contract, self._view = config.mode, contract, view
        self._truncate, self._capabilities = config.truncate, capabilities
        self._unwraps = contract.kind is TopicKind.CHANGE and config.mode is not Mode.APPEND
        self._values: RecordCodec = (
            open_topic_codec(contract, registry)
            if contract.kind is TopicKind.CHANGE
            else open_codec(source_contract(config, contract).schema, registry, f"{contract.topic}-value")
        )
        self._keys: KeyCodec | None = open_key_codec(contract, registry) if contract.key else None
        self._versions = Versions()
        self._unavailable = UnavailableValues()
        self._partitions: int | None = None

    def restart(self, partitions: int | None) -> None:
        """Reading goes on elsewhere, in a topic of so many partitions; None where truncations are not applied."""
        self._partitions = partitions
        self._versions.restart()

    def decode(self, records: RecordBatch) -> DecodedRows:
        """Rows of a batch of records."""
        bad: dict[int, Reason] = {}
        decoded = self._values.decode(records.value, records.headers)
        for failed in decoded.failed:
            bad[failed.row] = Reason("decode", failed.code, failed.message)
        tombstones = _nulls(records.value)
        if self._contract.kind is TopicKind.EVENT:
            for row in tombstones.tolist():
                bad[row] = Reason("decode", "decode.null_value", "an event has no value")
            tombstones = _NONE
        rows = _Rows(decoded.table, decoded.rows, tombstones, _NONE)
        if self._contract.kind is TopicKind.CHANGE:
            versions = self._versions.of_changes(records, decoded)
        else:
            versions = self._versions.of_records(records)
        if self._unwraps:
            rows = self._unwrapped(rows, bad)
        skipped, truncates_skipped = 0, 0
        if self._mode is not Mode.REPLICATE:
            skipped, rows = len(rows.deleted), replace(rows, deleted=_NONE)
        if self._truncate == "skip":
            truncates_skipped, rows = len(rows.truncates), replace(rows, truncates=_NONE)
        if self._mode is not Mode.APPEND:
            rows = self._with_matching_keys(rows, records, bad)
        finished = self._finished(rows, records, versions, bad)
        return replace(finished, skipped=skipped, truncates_skipped=truncates_skipped)

    def _unwrapped(self, rows: _Rows, bad: dict[int, Reason]) -> _Rows:
        """Rows after the change, deletions and truncations, from envelopes."""
        operations = rows.table.column("op").cast(pa.string()).to_numpy(zero_copy_only=False)
        after = rows.table.column("after").combine_chunks()
        has_after = after.is_valid().to_numpy(zero_copy_only=False)
        writes = np.isin(operations, ["c", "u", "r"]) & has_after
        deletes, truncates = operations == "d", operations == "t"
        for index in np.flatnonzero(~writes & ~deletes & ~truncates).tolist():
            message = f"operation {operations[index]!r} gives no row"
            bad[int(rows.record[index])] = Reason("decode", "decode.unreadable_change", message)
        taken = after.take(pa.array(np.flatnonzero(writes)))
        table = pa.Table.from_arrays(taken.flatten(), names=[each.name for each in taken.type])
        deleted = np.union1d(rows.deleted, rows.record[deletes])
        made = _Rows(table, rows.record[writes], deleted, self._allowed_truncates(rows.record[truncates], bad))
        return self._without_stand_ins(made, bad)

    def _allowed_truncates(self, records: Indexes, bad: dict[int, Reason]) -> Indexes:
        """Truncations that the policy leaves out or the target can follow; the others are dead letters."""
        if not len(records) or self._truncate == "skip":
            return records
        reason = None
        if self._truncate == "refuse":
            reason = Reason("deliver", "egress.truncate_refused", "the source table was emptied; `truncate` is refuse")
        elif self._partitions != 1 and not self._capabilities.refuses_stale:
            message = (
                f"the source table was emptied; the topic has {self._partitions} partitions, and the target does not"
                " know which of its rows are older"
            )
            reason = Reason("deliver", "egress.truncate_unsupported", message)
        if reason is None:
            return records
        bad.update(dict.fromkeys(records.tolist(), reason))
        return _NONE

    def _without_stand_ins(self, rows: _Rows, bad: dict[int, Reason]) -> _Rows:
        """Null in place of values that the source did not tell: no target may take a stand-in for data. Where the
        target cannot leave a column as it is, or the row cannot be judged without it, the row is a dead letter."""
        needed = {*self._view.key_sources, *self._view.filter_sources}
        untold: dict[str, npt.NDArray[np.bool_]] = {}
        wrong = np.zeros(rows.table.num_rows, dtype=bool)
        table = rows.table
        for index, name in enumerate(table.column_names):
            if name not in self._view.sources:
                continue
            found = unavailable_rows(table.column(index), self._unavailable)
            if not found.any():
                continue
            if name in needed or not self._capabilities.partial_update:
                for row in np.flatnonzero(found & ~wrong).tolist():
                    message = f"column {name!r} was not changed and its value is not in the log of the database"
                    bad[int(rows.record[row])] = Reason("deliver", "egress.unavailable_value", message)
                wrong |= found
            untold[name] = found
            told = pa.array(np.arange(len(found)), mask=found)
            field = table.schema.field(index).with_nullable(True)
            table = table.set_column(index, field, table.column(index).take(told))
        return replace(rows, table=table, unavailable=untold).take(np.flatnonzero(~wrong))

    def _with_matching_keys(self, rows: _Rows, records: RecordBatch, bad: dict[int, Reason]) -> _Rows:
        """Leave out rows whose record key is missing or is not that of the row: they would hit another row."""
        assert self._keys is not None, "the view refuses keyed modes without a key"
        keys = records.key.take(pa.array(rows.record))
        decoded = self._keys.decode(keys)
        for failed in decoded.failed:
            bad[int(rows.record[failed.row])] = Reason("decode", failed.code, f"key: {failed.message}")
        for index in _nulls(keys).tolist():
            bad[int(rows.record[index])] = Reason("decode", "decode.null_key", "the record has no key")
        theirs = rows.table.take(pa.array(decoded.rows))
        equal = _equal(decoded.table, theirs, self._contract.key)
        for index in decoded.rows[~equal].tolist():
            message = "the record's key differs from the key columns of its value"
            bad[int(rows.record[index])] = Reason("decode", "decode.key_mismatch", message)
        return rows.take(decoded.rows[equal])

    def _deletions(self, deleted: Indexes, records: RecordBatch, bad: dict[int, Reason]) -> tuple[pa.Table, Indexes]:
        """Rows that have only their key, for these records."""
        assert self._keys is not None
        if not len(deleted):
            return self._view.nothing(0), deleted
        keys = records.key.take(pa.array(deleted))
        decoded = self._keys.decode(keys)
        for failed in decoded.failed:
            bad[int(deleted[failed.row])] = Reason("decode", failed.code, f"key: {failed.message}")
        for index in _nulls(keys).tolist():
            bad[int(deleted[index])] = Reason("decode", "decode.null_key", "a deletion has no key")
        return self._view.keys_only(decoded.table), deleted[decoded.rows]

    def _finished(
        self, rows: _Rows, records: RecordBatch, versions: Int64Column, bad: dict[int, Reason]
    ) -> DecodedRows:
        passes = self._view.passes(rows.table)
        filtered = int((~passes).sum())
        deleted = rows.deleted
        if self._mode is Mode.REPLICATE and filtered:
            # A row that no longer passes must not stay in the target.
            deleted = np.union1d(deleted, rows.record[~passes])
        rows = rows.take(np.flatnonzero(passes))
        table, record = self._view.rows(rows.table), rows.record
        operation = np.full(len(record), Operation.UPSERT, dtype=np.int8)
        unavailable = self._view.renamed(rows.unavailable)
        if len(deleted) or len(rows.truncates):
            keys, gone = self._deletions(deleted, records, bad)
            nothing = self._view.nothing(len(rows.truncates))
            more = np.repeat([Operation.DELETE, Operation.TRUNCATE], [len(gone), len(rows.truncates)])
            record = np.concatenate([record, gone, rows.truncates])
            order = np.argsort(record, kind="stable")
            table = pa.concat_tables([table, keys, nothing]).take(pa.array(order))
            operation = np.concatenate([operation, more]).astype(np.int8)[order]
            told = np.zeros(len(more), dtype=bool)
            unavailable = {name: np.concatenate([mask, told])[order] for name, mask in unavailable.items()}
            record = record[order]
        batch = EgressBatch(
            rows=table,
            key=self._view.contract.key,
            operation=operation,
            partition=records.partition[record],
            offset=records.offset[record],
            timestamp_ms=records.timestamp_ms[record],
            version=versions[record],
            unavailable={name: mask for name, mask in unavailable.items() if mask.any()},
        )
        return DecodedRows(batch, record, bad, filtered, skipped=0)


def _nulls(column: pa.LargeBinaryArray) -> Indexes:
    if not column.null_count:
        return _NONE
    return np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).astype(np.int64)


def _equal(left: pa.Table, right: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which rows are equal in these columns; null equals null."""
    if not left.num_rows:
        return np.empty(0, dtype=bool)
    ours, theirs = key_columns(left, columns), key_columns(right, columns)
    equal = [ours[name].eq_missing(theirs[name].cast(ours.schema[name])) for name in columns]
    result: npt.NDArray[np.bool_] = pl.select(pl.all_horizontal(equal)).to_series().to_numpy()
    return result
