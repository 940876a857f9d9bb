"""From raw records to the rows of a target.

Owns what a record means in each mode, and the reasons why a record is no row.

- Every record becomes a row, a deletion, a row left out on purpose (counted), or a dead letter.
- Rows keep the order of the records.
- Deletions are by the record's key, never by a row before the change: databases do not always fill that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.codec import RecordCodec
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.key import KeyCodec, open_key_codec
from headrace.contracts.registry import Registry
from headrace.contracts.topic_codec import open_topic_codec
from headrace.egress.config import EgressConfig
from headrace.egress.sdk import EgressBatch, Mode, Operation
from headrace.egress.view import View, source_contract
from headrace.log.dead_letters import Reason
from headrace.log.port import RecordBatch

UNAVAILABLE = "__debezium_unavailable_value"
"""What Debezium writes for a large column that an update did not touch and the database did not log."""

Indexes = npt.NDArray[np.int64]


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


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows under way: all columns of the topic, the record of each, and records to delete."""

    table: pa.Table
    record: Indexes
    deleted: Indexes


class Decoder:
    """Decodes the records of one egress. A registry that cannot be reached raises `RegistryUnavailable`."""

    def __init__(self, config: EgressConfig, contract: Contract, registry: Registry, view: View) -> None:
        self._mode, self._contract, self._view = config.mode, contract, view
        self._unwraps = contract.kind is TopicKind.CHANGE and config.mode is not Mode.APPEND
        self._values: RecordCodec = (
            open_topic_codec(contract, registry)
            if contract.kind is TopicKind.CHANGE
            else open_codec(source_contract(config, contract).schema, registry, f"{contract.topic}-value")
        )
        self._keys: KeyCodec | None = open_key_codec(contract, registry) if contract.key else None

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
            tombstones = np.empty(0, dtype=np.int64)
        rows = _Rows(decoded.table, decoded.rows, tombstones)
        if self._unwraps:
            rows = self._unwrapped(rows, bad)
        skipped = 0
        if self._mode is not Mode.REPLICATE:
            skipped, rows = len(rows.deleted), _Rows(rows.table, rows.record, np.empty(0, dtype=np.int64))
        if self._mode is not Mode.APPEND:
            rows = self._with_matching_keys(rows, records, bad)
        return self._finished(rows, records, bad, skipped)

    def _unwrapped(self, rows: _Rows, bad: dict[int, Reason]) -> _Rows:
        """Rows after the change, and deletions, from envelopes."""
        operations = rows.table.column("op").cast(pa.string()).to_numpy(zero_copy_only=False)
        after = rows.table.column("after").combine_chunks()
        has_after = after.is_valid().to_numpy(zero_copy_only=False)
        writes = np.isin(operations, ["c", "u", "r"]) & has_after
        deletes = operations == "d"
        for index in np.flatnonzero(~writes & ~deletes).tolist():
            operation = operations[index]
            code = "egress.truncate_unsupported" if operation == "t" else "decode.unreadable_change"
            bad[int(rows.record[index])] = Reason("decode", code, f"operation {operation!r} gives no row")
        kept = pa.array(np.flatnonzero(writes))
        taken = after.take(kept)
        table = pa.Table.from_arrays(taken.flatten(), names=[each.name for each in taken.type])
        record = rows.record[writes]
        table, record = _without_unavailable(table, record, bad)
        return _Rows(table, record, np.union1d(rows.deleted, rows.record[deletes]))

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
        good = decoded.rows[equal]
        table = rows.table if len(good) == rows.table.num_rows else rows.table.take(pa.array(good))
        return _Rows(table, rows.record[good], rows.deleted)

    def _deletions(self, deleted: Indexes, records: RecordBatch, bad: dict[int, Reason]) -> tuple[pa.Table, Indexes]:
        """Rows that have only their key, for these records."""
        assert self._keys is not None
        keys = records.key.take(pa.array(deleted))
        decoded = self._keys.decode(keys)
        for failed in decoded.failed:
            bad[int(deleted[failed.row])] = Reason("decode", failed.code, f"key: {failed.message}")
        for index in _nulls(keys).tolist():
            bad[int(deleted[index])] = Reason("decode", "decode.null_key", "a deletion has no key")
        return self._view.keys_only(decoded.table), deleted[decoded.rows]

    def _finished(self, rows: _Rows, records: RecordBatch, bad: dict[int, Reason], skipped: int) -> DecodedRows:
        passes = self._view.passes(rows.table)
        filtered = int((~passes).sum())
        deleted = rows.deleted
        if self._mode is Mode.REPLICATE and filtered:
            # A row that no longer passes must not stay in the target.
            deleted = np.union1d(deleted, rows.record[~passes])
        kept = np.flatnonzero(passes)
        table = self._view.rows(rows.table if not filtered else rows.table.take(pa.array(kept)))
        record = rows.record[kept]
        operation = np.full(len(record), Operation.UPSERT, dtype=np.int8)
        if len(deleted):
            keys, gone = self._deletions(deleted, records, bad)
            order = np.argsort(np.concatenate([record, gone]), kind="stable")
            table = pa.concat_tables([table, keys]).take(pa.array(order))
            operation = np.concatenate([operation, np.full(len(gone), Operation.DELETE, dtype=np.int8)])[order]
            record = np.concatenate([record, gone])[order]
        batch = EgressBatch(
            rows=table,
            key=self._view.contract.key,
            operation=operation,
            partition=records.partition[record],
            offset=records.offset[record],
            timestamp_ms=records.timestamp_ms[record],
        )
        return DecodedRows(batch, record, bad, filtered, skipped)


def _without_unavailable(table: pa.Table, record: Indexes, bad: dict[int, Reason]) -> tuple[pa.Table, Indexes]:
    """Leave out rows with a value that the source did not give: no target may take the placeholder for data."""
    wrong = np.zeros(table.num_rows, dtype=bool)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            placeholder = UNAVAILABLE if pa.types.is_string(column.type) else UNAVAILABLE.encode()
            found = pc.fill_null(pc.equal(column, pa.scalar(placeholder, column.type)), False).to_numpy()
            for index in np.flatnonzero(found & ~wrong).tolist():
                message = f"column {name!r} was not changed and its value is not in the log of the database"
                bad[int(record[index])] = Reason("deliver", "egress.unavailable_value", message)
            wrong |= found
    if not wrong.any():
        return table, record
    kept = np.flatnonzero(~wrong)
    return table.take(pa.array(kept)), record[kept]


def _nulls(column: pa.LargeBinaryArray) -> Indexes:
    if not column.null_count:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).astype(np.int64)


def _equal(left: pa.Table, right: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which rows are equal in these columns; null equals null."""
    if not left.num_rows:
        return np.empty(0, dtype=bool)
    ours, theirs = pl.DataFrame(left.select(list(columns))), pl.DataFrame(right.select(list(columns)))
    equal = [ours[name].eq_missing(theirs[name].cast(ours.schema[name])) for name in columns]
    result: npt.NDArray[np.bool_] = pl.select(pl.all_horizontal(equal)).to_series().to_numpy()
    return result
