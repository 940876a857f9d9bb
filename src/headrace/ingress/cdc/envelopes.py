"""Changes of a table to the records of its topic.

Owns the building of Debezium-compatible envelopes, their keys and tombstones, and the reasons why a change has none.

- A change becomes one envelope (a deletion: an envelope and a tombstone) or one dead letter; the order stays.
- What must fit the contract is the key and the row after the change. A row before the change that does not fit is left
  out (`before` null): it was reported when it was written.
- The record's timestamp is the time of the change in the database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.contracts.codec import RecordCodec
from headrace.contracts.contract import Contract
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.key import KeyCodec, open_key_codec
from headrace.contracts.registry import Registry
from headrace.ingress.cdc.reader import DELETE, READ, Changes
from headrace.ingress.columns import ColumnBuilder, null_rows
from headrace.ingress.values import Form
from headrace.log.columns import HeaderRow
from headrace.log.dead_letters import Reason, error_headers
from headrace.log.port import Int64Column, Outgoing

CONNECTOR = "sqlite"
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


class EnvelopeEncoder:
    """Encodes the changes of one table. Raises `RegistryUnavailable`; the same call may be made again."""

    def __init__(self, contract: Contract, registry: Registry, *, ingress: str, database: str) -> None:
        assert contract.key_schema is not None
        self.contract, self._ingress, self._database = contract, ingress, database
        self._rows = ColumnBuilder(contract.schema, Form.SQLITE)
        self._keys = ColumnBuilder(contract.key_schema, Form.SQLITE)
        self._values: RecordCodec = open_codec(contract.value_schema, registry, f"{contract.topic}-value")
        self._key_codec: KeyCodec = open_key_codec(contract, registry)

    def encode(self, changes: Changes) -> Envelopes:
        """The records of these changes."""
        bad: dict[int, Reason] = {}
        deletions = np.array([operation == DELETE for operation in changes.operation], dtype=bool)
        keys = self._key_table(changes, deletions, bad)
        after = self._side(changes.after, np.flatnonzero(~deletions), len(changes), bad)
        has_before = np.array([operation in ("u", DELETE) for operation in changes.operation], dtype=bool)
        before = self._side(changes.before, np.flatnonzero(has_before), len(changes), None)
        values = self._values.encode(self._envelopes(changes, before, after))
        encoded_keys = self._key_codec.encode(keys)
        for encoded, part in ((values, "value"), (encoded_keys, "key")):
            for failed in encoded.failed:
                bad.setdefault(failed.row, Reason("encode", failed.code, f"{part}: {failed.message}"))
        outgoing, change = self._records(changes, values.values, encoded_keys.values, deletions, bad)
        return Envelopes(outgoing, change, [self.dead_change(changes, row, bad[row]) for row in sorted(bad)])

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

    def _key_table(self, changes: Changes, deletions: npt.NDArray[np.bool_], bad: dict[int, Reason]) -> pa.Table:
        """Keys of all changes; null in every column where there is none."""
        gone = deletions.tolist()
        columns = {
            name: [
                old if is_gone else new
                for old, new, is_gone in zip(changes.before[name], changes.after[name], gone, strict=True)
            ]
            for name in self.contract.key
        }
        built = self._keys.from_values(columns, len(changes))
        for row, misfit in built.misfits.items():
            bad[row] = Reason("encode", "ingress.contract_violation", f"key: {misfit}")
        for name in self.contract.key:
            for index in null_rows(built.table.column(name)).tolist():
                bad.setdefault(int(built.rows[index]), Reason("encode", "ingress.key_missing", f"{name} is null"))
        return built.table.take(_scattered(built.rows, len(changes)))

    def _side(
        self, side: Mapping[str, Sequence[Any]], rows: Indexes, length: int, bad: dict[int, Reason] | None
    ) -> pa.StructArray:
        """Rows of one side as structs; null where there is none, or it does not fit."""
        chosen = {name: [values[row] for row in rows] for name, values in side.items()}
        built = self._rows.from_values(chosen, len(rows))
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
        """The `source` block; fields that SQLite knows nothing of are null."""
        count = len(changes)
        changed_at_ms = np.asarray(changes.changed_at_ms, dtype=np.int64)
        texts = {"version": _VERSION, "connector": CONNECTOR, "name": self._ingress, "db": self._database}
        known = {
            **{name: pa.array([value] * count, pa.string()) for name, value in texts.items()},
            "ts_ms": pa.array(changed_at_ms),
            "ts_us": pa.array(changed_at_ms * 1_000),
            "ts_ns": pa.array(changed_at_ms * 1_000_000),
            "snapshot": pa.array(["true" if op == READ else "false" for op in changes.operation], pa.string()),
            "sequence": pa.array([str(number) for number in changes.sequence], pa.string()),
            "change_lsn": pa.array([f"{number:020d}" for number in changes.sequence], pa.string()),
            "table": pa.array([changes.table] * count, pa.string()),
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
    return {"blob": value.hex()} if isinstance(value, bytes) else value
