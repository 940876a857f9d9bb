"""Values of Debezium's topics as columns of a contract.

Owns `DebeziumCodec`: the `RecordCodec` of a topic whose contract says `format: debezium-json` or `debezium-avro`.

- It gives the columns that the envelopes of headrace's own capture give, so that every reader reads both.
- Envelopes and unwrapped rows are both read. An unwrapped row is an update, or a deletion where it says so.
- What the row after the change does not fit is a failed row. A row before the change that does not fit is left out.
- Avro is read by columns where Avro's own rules make the contract's types of Connect's; else, as JSON, by the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.codec import Columns, Decoded, Encoded, FailedRow
from headrace.contracts.debezium import unwrapped
from headrace.contracts.debezium.extended_json import read_document
from headrace.contracts.debezium.json_texts import JsonTexts
from headrace.contracts.debezium.kinds import Kind, kind_of
from headrace.contracts.debezium.payloads import NOTHING, Payload
from headrace.contracts.debezium.problems import INVALID_AVRO, INVALID_JSON, INVALID_VALUE, UNKNOWN_SCHEMA, Unreadable
from headrace.contracts.debezium.row_columns import RowColumns
from headrace.contracts.envelope import envelope_schema

ReadPayload = Callable[[bytes], Payload]

CODES = {
    INVALID_JSON: "decode.invalid_json",
    INVALID_AVRO: "decode.invalid",
    INVALID_VALUE: "decode.invalid",
    UNKNOWN_SCHEMA: "decode.unknown_schema_id",
}
"""How a failed row says it; all else is a change that cannot be read."""
_UNREADABLE = "decode.unreadable_change"
_NOT_A_CHANGE = "decode.not_a_change"
_SIDES = ("before", "after")


class _Envelope(NamedTuple):
    """An envelope whose sides are no columns yet."""

    row: int
    operation: str
    before: Payload | None
    after: Payload | None
    block: Mapping[str, Any]
    """All of the envelope; empty for an unwrapped row."""


class EnvelopeColumns:
    """Makes columns of payloads, whatever they were encoded as."""

    def __init__(self, row: AvroSchema, topic: str) -> None:
        self.arrow_schema = to_arrow(envelope_schema(row))
        self._rows, self._topic = RowColumns(row), topic

    def decode(self, values: Sequence[bytes | None], read: ReadPayload) -> Decoded:
        """The columns of values; null ones are passed over."""
        failed: list[FailedRow] = []
        envelopes: list[_Envelope] = []
        for at, value in enumerate(values):
            if value is None:
                continue
            try:
                envelopes.append(self._envelope(at, read(value)))
            except Unreadable as error:
                code = error.code if error.code.startswith("decode.") else CODES.get(error.code, _UNREADABLE)
                failed.append(FailedRow(at, code, error.reason))
        after, misfits = self._rows.structs([each.after for each in envelopes])
        failed += [FailedRow(envelopes[at].row, "decode.invalid", reason) for at, reason in misfits.items()]
        before, _ = self._rows.structs([each.before for each in envelopes])
        good = np.array([at for at in range(len(envelopes)) if at not in misfits], dtype=np.int64)
        table = self._table(envelopes, before, after).take(pa.array(good))
        rows = np.array([each.row for each in envelopes], dtype=np.int64)[good]
        return Decoded(table, rows, sorted(failed))

    def _envelope(self, at: int, value: Payload) -> _Envelope:
        kind = kind_of(self._topic, NOTHING, value)
        if kind is Kind.ENVELOPE:
            operation = value.value.get("op")
            if not isinstance(operation, str):
                raise Unreadable(_UNREADABLE, "an envelope with no operation")
            before, after = (self._side(value, side) for side in _SIDES)
            return _Envelope(at, operation, before, None if operation == "d" else after, value.value)
        if kind is not Kind.ROW:
            raise Unreadable(_NOT_A_CHANGE, f"a {kind.value} is no change")
        operation, is_deletion = unwrapped.told_operation(value.value)
        row = value
        return _Envelope(at, operation, row if is_deletion else None, None if is_deletion else row, {})

    def _side(self, envelope: Payload, name: str) -> Payload | None:
        value = envelope.value.get(name)
        if isinstance(value, str):  # MongoDB's connector writes documents as text.
            value = read_document(value, name)
            return Payload(value) if isinstance(value, dict) else None
        return envelope.field(name) if isinstance(value, dict) else None

    def _table(self, envelopes: Sequence[_Envelope], before: pa.StructArray, after: pa.StructArray) -> pa.Table:
        schema = self.arrow_schema
        known: dict[str, pa.Array] = {
            "before": before,
            "after": after,
            "op": pa.array([each.operation for each in envelopes], pa.string()),
        }
        for name in ("source", "transaction"):
            blocks = [each.block.get(name) for each in envelopes]
            known[name] = _blocks(blocks, schema.field(name))
        for name in ("ts_ms", "ts_us", "ts_ns"):
            counts = [_count(each.block.get(name)) for each in envelopes]
            known[name] = pa.array(counts, schema.field(name).type)
        return pa.Table.from_arrays([known[each.name] for each in schema], schema=schema)


def _blocks(blocks: Sequence[Any], field: pa.Field) -> pa.Array:
    """`source` or `transaction`: what the records say, of the fields that headrace knows."""
    found = [each if isinstance(each, dict) else {} for each in blocks]
    columns = [_block_column([each.get(part.name) for each in found], part) for part in field.type]
    missing = np.array([field.nullable and not isinstance(each, dict) for each in blocks], dtype=np.bool_)
    return pa.StructArray.from_arrays(columns, fields=list(field.type), mask=pa.array(missing))


def _block_column(values: Sequence[Any], field: pa.Field) -> pa.Array:
    if pa.types.is_integer(field.type):
        return pa.array([_count(each, None if field.nullable else 0) for each in values], field.type)
    return pa.array([_word(each, None if field.nullable else "") for each in values], field.type)


def _word(value: Any, otherwise: str | None) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else otherwise


def _count(value: Any, otherwise: int | None = None) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if is_count else otherwise


class DebeziumJsonCodec:
    """See `RecordCodec`. It only reads: Debezium writes these topics."""

    def __init__(self, row: AvroSchema, topic: str) -> None:
        self._columns, self._texts = EnvelopeColumns(row, topic), JsonTexts()
        self.arrow_schema = self._columns.arrow_schema

    def decode(self, values: pa.LargeBinaryArray, headers: pa.ListArray | None = None) -> Decoded:
        """See `RecordCodec.decode`."""
        return self._columns.decode(values.to_pylist(), self._texts.read)

    def encode(self, columns: Columns) -> Encoded:
        """Every row fails."""
        return read_only(columns)


def read_only(columns: Columns) -> Encoded:
    """What encoding for a topic of Debezium's comes to."""
    failed = [
        FailedRow(row, "encode.read_only", "the topic is Debezium's: nothing else writes it")
        for row in range(len(columns))
    ]
    return Encoded(pa.nulls(len(columns), pa.large_binary()), failed)
