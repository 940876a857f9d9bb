"""Changes of a table to the records of its topic.

Owns the building of Debezium-compatible envelopes, their keys and tombstones, and the reasons why a change has none.

- A change becomes one envelope (a deletion: an envelope and a tombstone) or one dead letter; the order stays.
- What must fit the contract is the key and the row after the change. A row before the change that does not fit is left
  out (`before` null): it was reported when it was written.
- Both halves of a changed key have Debezium's headers, which name the key on the other side.
- The record's timestamp is the time of the change in the database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.codec import RecordCodec
from headrace.contracts.contract import Contract
from headrace.contracts.debezium.unwrapped import NEW_KEY_HEADER, OLD_KEY_HEADER
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.key import KeyCodec, open_key_codec
from headrace.contracts.registry import Registry
from headrace.ingress.cdc.changes import DELETE, READ, TRUNCATE, UPDATE, Cells, Changes
from headrace.ingress.columns import ColumnBuilder, Columns, null_rows
from headrace.ingress.values import Form
from headrace.log.columns import HeaderRow, headers_column
from headrace.log.dead_letters import Reason, error_headers
from headrace.log.port import Int64Column, Outgoing

_VERSION = "1"
"""Of the meaning of `source`; raised when a field changes its meaning."""

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DeadChange:
    """A change that the contract does not take, as a dead letter."""

    key: bytes
    value: bytes
    timestamp_ms: int
    headers: HeaderRow


@dataclass(frozen=True, slots=True)
class Envelopes:
    """What became of some changes."""

    outgoing: Outgoing
    change: Indexes
    """The change that each record comes from."""
    dead: Sequence[DeadChange]


class Builder(Protocol):
    """Builds columns of one record schema from a source's values."""

    def from_values(self, columns: Mapping[str, Any], length: int) -> Columns: ...


class Dialect(Protocol):
    """What envelopes of one kind of database have of their own. One belongs to one table."""

    connector: str

    def builders(self, changes: Changes) -> tuple[Builder, Builder]:
        """Of rows, and of keys."""

    def source(self, changes: Changes) -> Mapping[str, pa.Array]:
        """Fields of the `source` block beside those that are known of every database."""

    def transaction(self, changes: Changes) -> pa.Array | None:
        """The `transaction` block, for databases that tell."""


class SqliteDialect:
    """SQLite knows numbers of changes."""

    connector = "sqlite"

    def __init__(self, contract: Contract) -> None:
        assert contract.key_schema is not None
        self._builders = ColumnBuilder(contract.schema, Form.SQLITE), ColumnBuilder(contract.key_schema, Form.SQLITE)

    def builders(self, changes: Changes) -> tuple[Builder, Builder]:
        return self._builders

    def source(self, changes: Changes) -> Mapping[str, pa.Array]:
        return {
            "sequence": pa.array([str(number) for number in changes.sequence], pa.string()),
            "change_lsn": pa.array([f"{number:020d}" for number in changes.sequence], pa.string()),
            "table": pa.array([changes.table] * len(changes), pa.string()),
        }

    def transaction(self, changes: Changes) -> pa.Array | None:
        return None


class EnvelopeEncoder:
    """Encodes the changes of one table. Raises `RegistryUnavailable`; the same call may be made again."""

    def __init__(
        self, contract: Contract, registry: Registry, *, ingress: str, database: str, dialect: Dialect | None = None
    ) -> None:
        self.contract, self._ingress, self._database = contract, ingress, database
        self._dialect: Dialect = dialect or SqliteDialect(contract)
        self._values: RecordCodec = open_codec(contract.value_schema, registry, f"{contract.topic}-value")
        self._key_codec: KeyCodec = open_key_codec(contract, registry)

    def encode(self, changes: Changes) -> Envelopes:
        """The records of these changes."""
        bad: dict[int, Reason] = dict(changes.bad)
        rows, key_rows = self._dialect.builders(changes)
        deletions = np.array([operation == DELETE for operation in changes.operation], dtype=bool)
        keys = self._key_table(key_rows, changes, deletions, bad)
        after = self._side(rows, changes.after, np.flatnonzero(~deletions), len(changes), bad)
        told = changes.has_before or [operation in (UPDATE, DELETE) for operation in changes.operation]
        has_before = np.array(told, dtype=bool)
        before = self._side(rows, changes.before, np.flatnonzero(has_before), len(changes), None)
        values = self._values.encode(self._envelopes(changes, before, after))
        encoded_keys = self._key_codec.encode(keys)
        for encoded, part in ((values, "value"), (encoded_keys, "key")):
            for failed in encoded.failed:
                bad.setdefault(failed.row, Reason("encode", failed.code, f"{part}: {failed.message}"))
        outgoing, change = self._records(changes, values.values, encoded_keys.values, deletions, bad)
        if changes.moved:
            outgoing = replace(outgoing, headers=_moved_headers(changes, keys, change, bad))
        return Envelopes(outgoing, change, [self.dead_change(changes, row, bad[row]) for row in sorted(bad)])

    def truncation(self, changes: Changes, partitions: int) -> Envelopes:
        """The records of one truncation: one without key in every partition, so that each of them is in order."""
        assert list(changes.operation) == [TRUNCATE]
        schema = self._values.arrow_schema
        nothing = [pa.nulls(1, schema.field(side).type) for side in ("before", "after")]
        value = self._values.encode(self._envelopes(changes, *nothing)).values
        outgoing = Outgoing(
            topic=self.contract.topic,
            value=value.take(pa.array([0] * partitions)),
            partition=np.arange(partitions, dtype=np.int32),
            timestamp_ms=np.full(partitions, changes.changed_at_ms[0], dtype=np.int64),
        )
        return Envelopes(outgoing, np.zeros(partitions, dtype=np.int64), ())

    def dead_change(self, changes: Changes, row: int, reason: Reason, *, with_value: bool = True) -> DeadChange:
        """The dead letter of one change: its columns as JSON."""
        sides = {
            name: {column: _plain(values[row]) for column, values in side.items()}
            for name, side in (("before", changes.before), ("after", changes.after))
        }
        side = sides["before" if changes.operation[row] == DELETE else "after"]
        key = {column: side[column] for column in self.contract.key}
        head = {"table": changes.table, "op": changes.operation[row], "sequence": changes.sequence[row]}
        headers = error_headers(
            reason,
            pipeline=self._ingress,
            step=changes.table,
            place={
                "topic": self.contract.topic,
                "offset": changes.sequence[row],
                "time": changes.changed_at_ms[row],
                "original": "false",
            },
        )
        value = json.dumps({**head, **sides}) if with_value else json.dumps(head)
        return DeadChange(json.dumps(key).encode(), value.encode(), changes.changed_at_ms[row], headers)

    def _key_table(
        self, builder: Builder, changes: Changes, deletions: npt.NDArray[np.bool_], bad: dict[int, Reason]
    ) -> pa.Table:
        """Keys of all changes; null in every column where there is none."""
        columns = {name: _either(deletions, changes.before[name], changes.after[name]) for name in self.contract.key}
        built = builder.from_values(columns, len(changes))
        for row, misfit in built.misfits.items():
            bad[row] = Reason("encode", "ingress.contract_violation", f"key: {misfit}")
        for name in self.contract.key:
            for index in null_rows(built.table.column(name)).tolist():
                bad.setdefault(int(built.rows[index]), Reason("encode", "ingress.key_missing", f"{name} is null"))
        return built.table.take(_scattered(built.rows, len(changes)))

    def _side(
        self, builder: Builder, side: Mapping[str, Cells], rows: Indexes, length: int, bad: dict[int, Reason] | None
    ) -> pa.StructArray:
        """Rows of one side as structs; null where there is none, or it does not fit."""
        chosen = {name: _chosen(values, rows) for name, values in side.items()}
        built = builder.from_values(chosen, len(rows))
        if bad is not None:
            for index, misfit in built.misfits.items():
                bad.setdefault(int(rows[index]), Reason("encode", "ingress.contract_violation", str(misfit)))
        index = _scattered(rows[built.rows], length)
        taken = built.table.take(index)
        return pa.StructArray.from_arrays(
            [column.combine_chunks() for column in taken.columns], fields=list(taken.schema), mask=index.is_null()
        )

    def _envelopes(self, changes: Changes, before: pa.StructArray, after: pa.StructArray) -> pa.Table:
        count = len(changes)
        now_ns = time.time_ns()
        known = {
            "before": before,
            "after": after,
            "transaction": self._dialect.transaction(changes),
            "op": pa.array(changes.operation, pa.string()),
            "ts_ms": pa.array(np.full(count, now_ns // 1_000_000)),
            "ts_us": pa.array(np.full(count, now_ns // 1_000)),
            "ts_ns": pa.array(np.full(count, now_ns)),
        }
        schema = self._values.arrow_schema
        arrays = [
            self._source(changes, field.type) if field.name == "source" else _typed(known.get(field.name), field, count)
            for field in schema
        ]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _source(self, changes: Changes, struct: pa.StructType) -> pa.StructArray:
        """The `source` block; fields that the database knows nothing of are null."""
        count = len(changes)
        changed_at_ms = np.asarray(changes.changed_at_ms, dtype=np.int64)
        texts = {"version": _VERSION, "connector": self._dialect.connector, "name": self._ingress, "db": self._database}
        known = {
            **{name: pa.array([value] * count, pa.string()) for name, value in texts.items()},
            "ts_ms": pa.array(changed_at_ms),
            "ts_us": pa.array(changed_at_ms * 1_000),
            "ts_ns": pa.array(changed_at_ms * 1_000_000),
            "snapshot": pa.array(
                changes.snapshot or ["true" if op == READ else "false" for op in changes.operation], pa.string()
            ),
            **self._dialect.source(changes),
        }
        fields = [struct.field(index) for index in range(struct.num_fields)]
        return pa.StructArray.from_arrays(
            [_typed(known.get(field.name), field, count) for field in fields], fields=fields
        )

    def _records(
        self,
        changes: Changes,
        values: pa.LargeBinaryArray,
        keys: pa.LargeBinaryArray,
        deletions: npt.NDArray[np.bool_],
        bad: Mapping[int, Reason],
    ) -> tuple[Outgoing, Indexes]:
        """Envelopes and tombstones in order."""
        copies = np.where(deletions, 2, 1)
        copies[list(bad)] = 0
        change = np.repeat(np.arange(len(changes), dtype=np.int64), copies)
        is_tombstone = np.concatenate([[False], change[1:] == change[:-1]]) if len(change) else np.empty(0, bool)
        stamps: Int64Column = np.asarray(changes.changed_at_ms, dtype=np.int64)[change]
        outgoing = Outgoing(
            topic=self.contract.topic,
            value=values.take(pa.array(change, mask=is_tombstone)),
            key=keys.take(pa.array(change)),
            timestamp_ms=stamps,
        )
        return outgoing, change


def _moved_headers(changes: Changes, keys: pa.Table, change: Indexes, bad: Mapping[int, Reason]) -> pa.ListArray | None:
    """Debezium's headers of both halves of a changed key: each names the key of the other as JSON.

    A tombstone has those of its deletion.
    """
    headers: dict[int, HeaderRow] = {}
    for deletion in changes.moved:
        creation = deletion + 1
        if deletion in bad or creation in bad:
            continue
        for half, name, other in ((deletion, NEW_KEY_HEADER, creation), (creation, OLD_KEY_HEADER, deletion)):
            (key,) = keys.slice(other, 1).to_pylist()
            headers[half] = ((name, json.dumps(key, default=str, separators=(",", ":")).encode()),)
    return headers_column([headers.get(index) for index in change.tolist()])


def _chosen(values: Cells, rows: Indexes) -> Cells:
    """These rows of a column."""
    if isinstance(values, pa.Array):
        return values if len(rows) == len(values) else values.take(pa.array(rows))
    return [values[row] for row in rows]


def _either(is_first: npt.NDArray[np.bool_], first: Cells, second: Cells) -> Cells:
    """From each row of two columns the one that is asked for."""
    if isinstance(first, pa.Array):
        return second if not is_first.any() else pc.if_else(pa.array(is_first), first, second)
    return [one if chosen else other for one, other, chosen in zip(first, second, is_first.tolist(), strict=True)]


def _scattered(rows: Indexes, length: int) -> pa.Int64Array:
    """Where each of `length` rows finds itself in a shorter column that holds `rows`; null where it does not."""
    index = np.full(length, -1, dtype=np.int64)
    index[rows] = np.arange(len(rows))
    return pa.array(index, mask=index < 0)


def _typed(array: pa.Array | None, field: pa.Field, count: int) -> pa.Array:
    return (
        pa.nulls(count, field.type) if array is None else array if array.type == field.type else array.cast(field.type)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, pa.Scalar):  # A database's own text.
        return None if not value.is_valid else value.as_py().decode(errors="backslashreplace")
    return {"blob": value.hex()} if isinstance(value, bytes) else value
