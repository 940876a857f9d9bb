"""From raw records of a source topic to rows.

Owns decoding by contract, the event time of each row, and the reasons why a record is no row.

- Columns that nobody reads are passed over, and so is what may be wrong inside them.
- Every record becomes a row, a deletion (tables), or a `BadRecord`; none is left out silently.
- A record without a key is a row of an event topic if the row's key columns are null too, else it is bad.
- Rows keep the order of the batch.
- Nothing here depends on the wall clock: an absurd event time is judged against the record's own timestamp.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from headrace.contracts.codec import Decoded, RecordCodec
from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.key import KeyCodec, open_key_codec
from headrace.contracts.polars_types import to_frame
from headrace.contracts.registry import Registry
from headrace.contracts.topic_codec import open_topic_codec
from headrace.engine.operator import DELETED, PARTITION, SOURCE, TIME
from headrace.engine.row_picks import frame_of
from headrace.log.port import RecordBatch

ROW = "__row"
"""Index of a row in its record batch; only inside this module."""
TOPICS_KEPT_MAX = 4096
"""Names of topics that a process reads."""
TIME_MAX_MS = 2**62
"""Behind every time."""
Number = TypeVar("Number", np.int32, np.int64)
RECORD_TIME = "$timestamp"
"""`time:` of a contract that means the record's own timestamp."""


class BadRecord(NamedTuple):
    """A record that is no row. `row` is its index in the batch."""

    row: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Rows:
    """What a batch of records held: a frame with contract columns, `PARTITION`, `TIME` and `SOURCE`
    (tables: `DELETED` too), and the records that are none."""

    frame: pl.DataFrame
    offset: npt.NDArray[np.int64]
    """Of the record that each row came in."""
    bad: Sequence[BadRecord]


class TopicReader:
    """Reads records of one topic by its contract. Not thread-safe."""

    def __init__(self, contract: Contract, registry: Registry, *, columns: Set[str] | None = None) -> None:
        """`columns`: those of an event topic that anybody reads; only they, the key's and the event time's are
        decoded."""
        assert columns is None or contract.kind is TopicKind.EVENT, "tables are read whole"
        self.contract = contract
        self._is_table = contract.kind is not TopicKind.EVENT
        self._is_change = contract.kind is TopicKind.CHANGE
        wanted = None if columns is None else columns_to_decode(contract, columns)
        self._values: RecordCodec = open_topic_codec(contract, registry, columns=wanted)
        self._keys: KeyCodec | None = open_key_codec(contract, registry) if contract.key else None
        self._key_schema, self._value_schema = contract.key_schema, contract.value_schema
        self._columns = [field.name for field in contract.schema.fields]

    def read(self, batch: RecordBatch) -> Rows:
        """Rows of a batch. Raises `RegistryUnavailable`; the same call may be made again."""
        decoded = self._values.decode(batch.value, batch.headers)
        bad = [BadRecord(*failed) for failed in decoded.failed]
        frame = to_frame(decoded.table, self._value_schema).hstack([pl.Series(ROW, decoded.rows)])
        frame = self._unwrap(frame, bad) if self._is_change else self._plain(frame)
        if self._is_table:
            frame = self._with_deletions(frame, batch, bad)
        else:
            bad.extend(BadRecord(int(r), "decode.null_value", "an event has no value") for r in _null_rows(batch.value))
        frame = self._checked_keys(frame, batch, bad, decoded)
        frame = self._with_time(frame, batch, bad)
        rows = frame[ROW].to_numpy()
        if (rows[1:] < rows[:-1]).any():
            frame = frame.sort(ROW)
            rows = frame[ROW].to_numpy()
        return Rows(_located(frame, rows, batch), _of(batch.offset, rows), sorted(bad))

    def _plain(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.hstack([pl.Series(DELETED, np.zeros(frame.height, np.bool_))]) if self._is_table else frame

    def _unwrap(self, frame: pl.DataFrame, bad: list[BadRecord]) -> pl.DataFrame:
        """Rows after the change from Debezium envelopes; deletions carry nulls."""
        op = pl.col("op").cast(pl.String)
        known = op.is_in(["c", "u", "r", "d"]) & (pl.col("after").is_not_null() | (op == "d"))
        for row, kind in frame.filter(~known).select(ROW, op).iter_rows():
            bad.append(_not_a_row(row, kind))
        kept = frame.filter(known)
        return kept.select(
            *(pl.col("after").struct.field(name).alias(name) for name in self._columns),
            pl.col(ROW),
            (op == "d").alias(DELETED),
        )

    def _with_deletions(self, frame: pl.DataFrame, batch: RecordBatch, bad: list[BadRecord]) -> pl.DataFrame:
        """Null values delete their key; all deletions take their key columns from the record's key."""
        tombstones = _null_rows(batch.value)
        if len(tombstones):
            empty = pl.DataFrame({ROW: tombstones, DELETED: np.ones(len(tombstones), bool)})
            frame = pl.concat([frame, empty], how="diagonal")
        if not frame[DELETED].any():
            return frame
        gone = frame.filter(DELETED)[ROW].to_numpy()
        assert self._keys is not None, "the contract loader refuses tables without a key"
        decoded = self._keys.decode(batch.key.take(pa.array(gone)))
        keys = self._key_frame(decoded).with_columns(pl.Series(ROW, gone[decoded.rows]))
        bad.extend(BadRecord(int(gone[failed.row]), failed.code, f"key: {failed.message}") for failed in decoded.failed)
        unkeyed = gone[_null_rows(batch.key.take(pa.array(gone)))]
        bad.extend(BadRecord(int(row), "decode.null_key", "a deletion has no key") for row in unkeyed)
        deletions = keys.with_columns(pl.lit(value=True).alias(DELETED))
        kept = frame.filter(~pl.col(DELETED))
        return pl.concat([kept, deletions.cast({n: kept.schema[n] for n in self.contract.key})], how="diagonal")

    def _checked_keys(
        self, frame: pl.DataFrame, batch: RecordBatch, bad: list[BadRecord], values: Decoded
    ) -> pl.DataFrame:
        """Leave out rows whose record key does not fit the contract or the row."""
        if self._keys is None or not frame.height:
            return frame
        rows = frame[ROW].to_numpy()
        # Deletions of a table are behind its rows here.
        as_they_came = len(rows) == len(batch) and bool((rows[1:] > rows[:-1]).all())
        is_plain = as_they_came and len(batch) == values.table.num_rows and not self._is_change
        if is_plain and self._keys.are_those_of(batch.key, values.table):
            return frame
        keys = batch.key if as_they_came else batch.key.take(pa.array(rows))
        decoded = self._keys.decode(keys)
        if is_plain and len(decoded.rows) == len(batch) and _say_the_same(decoded.table, values.table):
            return frame
        wrong = {int(rows[failed.row]): (failed.code, failed.message) for failed in decoded.failed}
        unkeyed = self._unkeyed(frame, _null_rows(keys))
        wrong.update((int(rows[row]), ("decode.null_key", "the record has no key")) for row in unkeyed)
        matching = self._key_frame(decoded)
        theirs = (frame if len(decoded.rows) == frame.height else frame[decoded.rows])[list(self.contract.key)]
        for index in np.flatnonzero(~_equal_rows(matching, theirs)).tolist():
            row = int(rows[decoded.rows[index]])
            wrong[row] = ("decode.key_mismatch", "the record's key differs from the key columns of its value")
        if not wrong:
            return frame
        bad.extend(BadRecord(row, code, f"key: {message}") for row, (code, message) in wrong.items())
        return frame.filter(~pl.col(ROW).is_in(list(wrong)))

    def _unkeyed(self, frame: pl.DataFrame, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Those of the rows without a record key that should have one: an event whose key columns are all null is an
        event with a null key, and each step says what becomes of it."""
        if self._is_table or not len(rows):
            return rows
        some = pl.any_horizontal(pl.col(self.contract.key).is_not_null())
        keyed: npt.NDArray[np.bool_] = frame[rows].select(some).to_series().to_numpy()
        return rows[keyed]

    def _key_frame(self, decoded: Decoded) -> pl.DataFrame:
        assert self._key_schema is not None
        return to_frame(decoded.table, self._key_schema)

    def _with_time(self, frame: pl.DataFrame, batch: RecordBatch, bad: list[BadRecord]) -> pl.DataFrame:
        recorded = batch.timestamp_ms[frame[ROW].to_numpy()] if frame.height else np.empty(0, np.int64)
        column = self.contract.time
        if column is None or column == RECORD_TIME:
            return self._with_record_time(frame, recorded, bad)
        time_ms = _epoch_ms(frame[column]).alias(TIME)
        if self._is_table and frame[DELETED].any():
            # A deletion carries no columns: its time is the record's.
            stamp = pl.Series(TIME, recorded, dtype=pl.Int64)
            time_ms = frame.select(pl.when(DELETED).then(stamp).otherwise(time_ms).alias(TIME)).to_series()
        timed = frame.hstack([time_ms])
        # Of a record without a timestamp nothing says what would be absurd.
        ahead_ms = np.where(recorded < 0, TIME_MAX_MS, recorded + self.contract.time_ahead_max_ms)
        if not time_ms.null_count():
            times = time_ms.to_numpy()
            if not ((times < 0) | (times > ahead_ms)).any():
                return timed
        ahead = pl.Series(ahead_ms)
        reason = (
            pl.when(pl.col(TIME).is_null())
            .then(pl.lit("null_event_time"))
            .when((pl.col(TIME) < 0) | (pl.col(TIME) > ahead))
            .then(pl.lit("absurd_event_time"))
        )
        wrong = timed.select(ROW, TIME, reason.alias("reason")).filter(pl.col("reason").is_not_null())
        if not wrong.height:
            return timed
        for row, value, code in wrong.iter_rows():
            bad.append(BadRecord(row, f"decode.{code}", f"{column} is {value} ms"))
        return timed.filter(~pl.col(ROW).is_in(wrong[ROW].to_list()))

    def _with_record_time(
        self, frame: pl.DataFrame, recorded: npt.NDArray[np.int64], bad: list[BadRecord]
    ) -> pl.DataFrame:
        """Event time is the record's timestamp. One without (-1) is a dead letter where the contract counts on it."""
        timed = frame.hstack([pl.Series(TIME, np.maximum(recorded, 0))])
        none = recorded < 0
        if not none.any() or not self.contract.record_time:
            return timed
        rows = frame[ROW].to_numpy()[none].tolist()
        bad.extend(BadRecord(row, "decode.null_event_time", "the record has no timestamp") for row in rows)
        return timed.filter(pl.Series(~none))


def columns_to_decode(contract: Contract, columns: Set[str]) -> tuple[str, ...]:
    """Of an event topic: these, and those that its reader looks at; at least one, for it tells how many rows come."""
    own = {*contract.key, *([contract.time] if contract.time not in (None, RECORD_TIME) else [])}
    wanted = own | columns
    names = [field.name for field in contract.schema.fields]
    return tuple(name for name in names if name in wanted) or tuple(names[:1])


def epoch_ms(frame: pl.DataFrame, column: str) -> pl.Expr:
    """Milliseconds since the epoch of a temporal or integer column."""
    dtype = frame.schema[column]
    if isinstance(dtype, pl.Datetime):
        return pl.col(column).dt.epoch("ms")
    if dtype == pl.Date:
        return pl.col(column).cast(pl.Int64) * 86_400_000
    return pl.col(column).cast(pl.Int64)


def _epoch_ms(values: pl.Series) -> pl.Series:
    if values.dtype == pl.Datetime("ms", "UTC"):
        return values.cast(pl.Int64)
    frame = values.to_frame()
    return frame.select(epoch_ms(frame, values.name)).to_series()


def _not_a_row(row: int, operation: str | None) -> BadRecord:
    """Why an envelope is neither a row nor a deletion."""
    if operation == "t":
        told = "the source table was emptied; rows of it that came before stay here until they are deleted by key"
        return BadRecord(row, "decode.truncate_unsupported", told)
    return BadRecord(row, "decode.unreadable_change", f"operation {operation!r} has no row after it")


def _null_rows(column: pa.LargeBinaryArray) -> npt.NDArray[np.int64]:
    if not column.null_count:
        return np.empty(0, np.int64)
    return np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).astype(np.int64)


def _equal_rows(left: pl.DataFrame, right: pl.DataFrame) -> npt.NDArray[np.bool_]:
    if not left.height:
        return np.empty(0, bool)
    if left.equals(right):
        return np.ones(left.height, bool)
    equal = [left[name].eq_missing(right[name].cast(left.schema[name])) for name in left.columns]
    return pl.select(pl.all_horizontal(equal)).to_series().to_numpy()


def _located(frame: pl.DataFrame, rows: npt.NDArray[np.int64], batch: RecordBatch) -> pl.DataFrame:
    """Replace the row index by partition and source position."""
    partition = pl.Series(PARTITION, _of(batch.partition, rows))
    offset = pl.Series("offset", _of(batch.offset, rows))
    topic = _topic(batch.topic).new_from_index(0, len(rows))
    source = frame_of([topic, partition.alias("partition"), offset]).to_struct(SOURCE)
    frame.drop_in_place(ROW)
    return frame.hstack([partition, source])


@lru_cache(maxsize=TOPICS_KEPT_MAX)
def _topic(name: str) -> pl.Series:
    return pl.Series("topic", [name])


def _of(column: npt.NDArray[Number], rows: npt.NDArray[np.int64]) -> npt.NDArray[Number]:
    """The values at these rows, which ascend; mostly they are all."""
    return column if len(rows) == len(column) else column[rows]


def _say_the_same(keys: pa.Table, values: pa.Table) -> bool:
    """Whether these records say in their keys what they say in their values. False may also mean: not in one form."""
    return set(keys.column_names) <= set(values.column_names) and all(
        values.column(name).equals(keys.column(name)) for name in keys.column_names
    )
