"""Rows of one topic to the records that its contract asks for.

Owns the checks that a service's record passes before it enters the log: fields, key, event time, encoding.

- A row becomes one record or one violation; the records keep the order of the rows.
- An absurd event time is judged against the record's own timestamp, so a replay agrees.
- May be used from one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.codec import Encoded, RecordCodec
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.key import KeyCodec, open_key_codec
from headrace.contracts.registry import Registry
from headrace.ingress.columns import ColumnBuilder, Columns, null_rows
from headrace.ingress.values import IS_MISSING, IS_NULL, Form, Misfit
from headrace.ingress.violations import ContractViolation, EventTimeInvalid, KeyMissing
from headrace.log.columns import HeaderRow, concat_binary, concat_headers, headers_column
from headrace.log.port import Int64Column, Outgoing

RECORD_TIME = "$timestamp"
"""`time:` of a contract that means the record's own timestamp."""
_MS_PER_DAY = 86_400_000

Violations = dict[int, ContractViolation]


@dataclass(frozen=True, slots=True)
class Entry:
    """One record to publish."""

    topic: str
    row: Mapping[str, Any]
    """All fields, or for a deletion those of the key."""
    timestamp_ms: int
    headers: HeaderRow | None = None
    is_deletion: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of some rows of one topic."""

    outgoing: Outgoing
    rows: npt.NDArray[np.int64]
    """Input row of each record, ascending."""
    violations: Mapping[int, ContractViolation]


class TopicEncoder:
    """Encodes rows of one topic.

    A registry that cannot be reached raises `RegistryUnavailable`; the same call may be made again.
    """

    def __init__(self, contract: Contract, registry: Registry, *, form: Form = Form.PYTHON) -> None:
        assert contract.kind is not TopicKind.CHANGE
        self.contract = contract
        self.columns = ColumnBuilder(contract.schema, form)
        self._values: RecordCodec = open_codec(contract.schema, registry, f"{contract.topic}-value")
        self._keys: KeyCodec | None = open_key_codec(contract, registry) if contract.key else None
        key_schema = contract.key_schema
        self._key_columns = None if key_schema is None else ColumnBuilder(key_schema, form)

    def encode_entries(self, entries: Sequence[Entry]) -> Prepared:
        """Records of these entries, deletions among them."""
        deletions = [index for index, entry in enumerate(entries) if entry.is_deletion]
        if not deletions:
            return self._encode_rows(entries, range(len(entries)))
        rest = [index for index, entry in enumerate(entries) if not entry.is_deletion]
        kept, gone = self._encode_rows(entries, rest), self._encode_deletions(entries, deletions)
        if not len(gone.rows):
            return Prepared(kept.outgoing, kept.rows, {**kept.violations, **gone.violations})
        return _merged(kept, gone)

    def encode_columns(
        self, columns: Columns, timestamp_ms: Int64Column, headers: Sequence[HeaderRow | None] | None = None
    ) -> Prepared:
        """Records of columns; `timestamp_ms` and `headers` have one element per input row."""
        table, rows = columns.table, columns.rows
        violations: Violations = {row: self._misfit_violation(misfit) for row, misfit in columns.misfits.items()}
        self._check_key(table, rows, violations)
        self._check_time(table, rows, timestamp_ms[rows], violations)
        values = self._values.encode(table)
        keys = None if self._keys is None else self._keys.encode(table)
        for encoded in (values, keys):
            self._add_failed(encoded, rows, violations)
        good = np.array([row not in violations for row in rows.tolist()], dtype=bool) if violations else None
        taken = _Taken(good)
        kept = rows if good is None else rows[good]
        outgoing = Outgoing(
            topic=self.contract.topic,
            value=taken.of(values.values),
            key=None if keys is None else taken.of(keys.values),
            timestamp_ms=timestamp_ms[kept],
            headers=None if headers is None else headers_column([headers[row] for row in kept.tolist()]),
        )
        return Prepared(outgoing, kept, violations)

    def _encode_rows(self, entries: Sequence[Entry], indexes: Sequence[int]) -> Prepared:
        chosen = [entries[index] for index in indexes]
        columns = self.columns.from_rows([entry.row for entry in chosen])
        prepared = self.encode_columns(columns, _timestamps(chosen), [entry.headers for entry in chosen])
        return _renumbered(prepared, indexes)

    def _encode_deletions(self, entries: Sequence[Entry], indexes: Sequence[int]) -> Prepared:
        chosen = [entries[index] for index in indexes]
        if self.contract.kind is not TopicKind.TABLE or self._keys is None or self._key_columns is None:
            refused = self._violation("", f"is of kind {self.contract.kind.value}: only rows of a table can be deleted")
            return _renumbered(_nothing(self.contract.topic, dict.fromkeys(range(len(chosen)), refused)), indexes)
        columns = self._key_columns.from_rows([entry.row for entry in chosen])
        violations: Violations = {
            row: KeyMissing(topic=self.contract.topic, field=misfit.path, reason=misfit.reason)
            for row, misfit in columns.misfits.items()
        }
        self._check_key(columns.table, columns.rows, violations)
        keys = self._keys.encode(columns.table)
        self._add_failed(keys, columns.rows, violations)
        good = np.array([row not in violations for row in columns.rows.tolist()], dtype=bool)
        kept = columns.rows[good]
        outgoing = Outgoing(
            topic=self.contract.topic,
            value=pa.nulls(len(kept), pa.large_binary()),
            key=_Taken(good).of(keys.values),
            timestamp_ms=_timestamps(chosen)[kept],
            headers=headers_column([chosen[row].headers for row in kept.tolist()]),
        )
        return _renumbered(Prepared(outgoing, kept, violations), indexes)

    def _check_key(self, table: pa.Table, rows: npt.NDArray[np.int64], violations: Violations) -> None:
        for name in self.contract.key:
            for index in null_rows(table.column(name)).tolist():
                missing = KeyMissing(topic=self.contract.topic, field=name, reason="is null; it is a key")
                violations.setdefault(int(rows[index]), missing)

    def _check_time(
        self, table: pa.Table, rows: npt.NDArray[np.int64], timestamp_ms: Int64Column, violations: Violations
    ) -> None:
        name = self.contract.time
        if name is None or name == RECORD_TIME:
            return
        column = table.column(name).combine_chunks()
        for index in null_rows(column).tolist():
            violations.setdefault(int(rows[index]), self._invalid_time("is null; it is the event time"))
        time_ms = epoch_ms(column)
        ahead = timestamp_ms + self.contract.time_ahead_max_ms
        for index in np.flatnonzero((time_ms < 0) | (time_ms > ahead)).tolist():
            reason = f"is the event time and says {_time_text(int(time_ms[index]))}"
            violations.setdefault(int(rows[index]), self._invalid_time(reason))

    def _invalid_time(self, reason: str) -> EventTimeInvalid:
        cure = "check the unit and the clock; the contract's time_ahead_max allows more"
        return EventTimeInvalid(topic=self.contract.topic, field=str(self.contract.time), reason=reason, cure=cure)

    def _add_failed(self, encoded: Encoded | None, rows: npt.NDArray[np.int64], violations: Violations) -> None:
        for failed in () if encoded is None else encoded.failed:
            row = int(rows[failed.row])
            violations.setdefault(row, self._violation("", f"{failed.message} ({failed.code})"))

    def _misfit_violation(self, misfit: Misfit) -> ContractViolation:
        if misfit.reason in (IS_MISSING, IS_NULL):
            if misfit.path in self.contract.key:
                return KeyMissing(topic=self.contract.topic, field=misfit.path, reason=f"{misfit.reason}; it is a key")
            if misfit.path == self.contract.time:
                return self._invalid_time(f"{misfit.reason}; it is the event time")
        return self._violation(misfit.path, misfit.reason)

    def _violation(self, field: str, reason: str) -> ContractViolation:
        return ContractViolation(topic=self.contract.topic, field=field, reason=reason)


class _Taken:
    """The good rows of a column; all where there is no mask."""

    def __init__(self, good: npt.NDArray[np.bool_] | None) -> None:
        self._mask = None if good is None or good.all() else pa.array(good)

    def of(self, column: pa.Array) -> pa.Array:
        return column if self._mask is None else column.filter(self._mask)


def epoch_ms(column: pa.Array) -> npt.NDArray[np.int64]:
    """Milliseconds since the epoch of a time column, rounded down; 0 for null."""
    if pa.types.is_timestamp(column.type):
        return _int64(column) // {"ms": 1, "us": 1_000, "ns": 1_000_000}[column.type.unit]
    if pa.types.is_date32(column.type):
        return _int64(column.cast(pa.int32())) * _MS_PER_DAY
    return _int64(column)


def _int64(column: pa.Array) -> npt.NDArray[np.int64]:
    numbers: npt.NDArray[np.int64] = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    return numbers


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


Clock = Callable[[], int]


def _timestamps(entries: Sequence[Entry]) -> Int64Column:
    return np.fromiter((entry.timestamp_ms for entry in entries), dtype=np.int64, count=len(entries))


def _time_text(time_ms: int) -> str:
    seconds = time_ms // 1_000
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms since 1970"


def _nothing(topic: str, violations: Violations) -> Prepared:
    return Prepared(Outgoing(topic, pa.array([], pa.large_binary())), np.empty(0, np.int64), violations)


def _renumbered(prepared: Prepared, indexes: Sequence[int]) -> Prepared:
    """The same with rows counted in the caller's numbering."""
    if isinstance(indexes, range):
        return prepared
    numbers = np.asarray(indexes, dtype=np.int64)
    violations = {indexes[row]: error for row, error in prepared.violations.items()}
    return Prepared(prepared.outgoing, numbers[prepared.rows], violations)


def _merged(left: Prepared, right: Prepared) -> Prepared:
    """Both in row order. Every record of a topic with deletions has a key and a timestamp."""
    parts = (left.outgoing, right.outgoing)
    rows = np.concatenate([left.rows, right.rows])
    order = np.argsort(rows, kind="stable")
    index = pa.array(order)
    headers = concat_headers([part.headers for part in parts], [len(part) for part in parts])
    outgoing = Outgoing(
        topic=left.outgoing.topic,
        value=concat_binary([part.value for part in parts]).take(index),
        key=concat_binary([part.key for part in parts if part.key is not None]).take(index),
        timestamp_ms=np.concatenate([part.timestamp_ms for part in parts if part.timestamp_ms is not None])[order],
        headers=None if headers is None else headers.take(index),
    )
    assert outgoing.key is not None
    assert len(outgoing.key) == len(outgoing)
    return Prepared(outgoing, rows[order], {**left.violations, **right.violations})
