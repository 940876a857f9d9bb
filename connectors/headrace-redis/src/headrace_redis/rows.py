"""Rows as what Redis holds: keys, hashes, JSON texts, entries of a stream.

Owns the names of keys and the forms of values.

- Two rows have the same Redis key when their key columns are equal, and only then.
- A row that Redis cannot hold is refused; none is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.shape import Shape, record_shape
from headrace.egress.json_columns import json_rows, text_column
from headrace.egress.sdk import Contract, EgressBatch, Mode, Refused
from headrace_redis.options import Format
from headrace_redis.script import BYTES, Commands, argument, fields, joined

SEPARATOR = b":"
_ESCAPE = b"\\"
NULL = b"\\N"
"""Of a key column; a backslash of a value is always doubled, so this is no value."""
JSON_FIELD = "row"
"""Of a stream's entry in format `json`."""

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a batch."""

    commands: Commands
    kept: Indexes
    """Rows of the batch that `commands` writes."""
    refused: Sequence[Refused]


class RowWriter:
    """Rows of one egress."""

    def __init__(self, contract: Contract, mode: Mode, form: Format, under: str, *, value_bytes_max: int) -> None:
        self._contract, self._mode, self._form = contract, mode, form
        self._under, self._value_bytes_max = under.encode(), value_bytes_max
        self._shapes = {child.name: child.shape for child in record_shape(contract.schema).children}

    def prepare(self, batch: EgressBatch) -> Prepared:
        """The rows as commands; of several rows of a key the last."""
        keys = self._keys(batch)
        columns = self._columns(batch)
        lengths = [_lengths(each) for each in columns.values()]
        longest = np.maximum.reduce([_lengths(keys), *lengths])
        refused = self._refused(batch, longest, columns)
        kept = np.delete(np.arange(len(batch)), [each.row for each in refused])
        if self._mode is not Mode.APPEND:
            kept = kept[_last(keys.take(pa.array(kept)))]
        taken = pa.array(kept)
        chosen = {name: values.take(taken) for name, values in columns.items()}
        return Prepared(self._commands(keys.take(taken), chosen, batch.deletes()[kept]), kept, refused)

    def _keys(self, batch: EgressBatch) -> pa.Array:
        if self._mode is Mode.APPEND:
            return pa.array([self._under] * len(batch), BYTES)
        parts = [_key_part(batch, name, self._shapes[name], is_alone=len(batch.key) == 1) for name in batch.key]
        text = pc.binary_join_element_wise(*parts, pa.scalar(SEPARATOR, BYTES))
        return pc.binary_join_element_wise(pa.scalar(self._under, BYTES), text, pa.scalar(b"", BYTES))

    def _columns(self, batch: EgressBatch) -> dict[str, pa.Array]:
        """What stands in Redis, by field; null is no field."""
        if self._form is Format.JSON:
            return {JSON_FIELD: json_rows(batch.rows, self._contract.schema).cast(BYTES)}
        return {
            name: text_column(batch.rows.column(name), self._shapes[name]).cast(BYTES)
            for name in batch.rows.column_names
        }

    def _refused(
        self, batch: EgressBatch, longest: npt.NDArray[np.int64], columns: dict[str, pa.Array]
    ) -> list[Refused]:
        refused = [
            Refused(
                row, "redis.too_long", f"a key or value of {longest[row]:,} bytes; at most {self._value_bytes_max:,}"
            )
            for row in np.flatnonzero(longest > self._value_bytes_max).tolist()
        ]
        empty = np.ones(len(batch), dtype=bool) & ~batch.deletes() & (longest <= self._value_bytes_max)
        for values in columns.values():
            empty &= pc.is_null(values).to_numpy(zero_copy_only=False)
        return refused + [
            Refused(row, "redis.empty_row", "every column is null, and Redis has no hash or entry without a field")
            for row in np.flatnonzero(empty).tolist()
        ]

    def _commands(self, keys: pa.Array, columns: dict[str, pa.Array], deletes: npt.NDArray[np.bool_]) -> Commands:
        key = argument(keys)
        if self._form is Format.JSON and self._mode is not Mode.APPEND:
            written = joined(b"S", key, argument(columns[JSON_FIELD]))
            count = np.full(len(keys), 3)
        else:
            pairs, number = fields(columns)
            written = joined(b"X" if self._mode is Mode.APPEND else b"H", key, pairs)
            count = number.to_numpy() + 3
        if deletes.any():
            written = pc.if_else(pa.array(deletes), joined(b"D", key), written)
        return Commands(written, int(np.where(deletes, 2, count).sum()))


def _key_part(batch: EgressBatch, name: str, shape: Shape, *, is_alone: bool) -> pa.Array:
    text = text_column(batch.rows.column(name), shape).cast(BYTES)
    escaped = pc.replace_substring(text, _ESCAPE, _ESCAPE * 2)
    if not is_alone:
        escaped = pc.replace_substring(escaped, SEPARATOR, _ESCAPE + SEPARATOR)
    return pc.fill_null(escaped, NULL)


def _lengths(values: pa.Array) -> npt.NDArray[np.int64]:
    lengths: npt.NDArray[np.int64] = pc.fill_null(pc.binary_length(values), 0).to_numpy(zero_copy_only=False)
    return lengths


def _last(keys: pa.Array) -> Indexes:
    """The last row of each key, in the order of rows."""
    frame = pl.DataFrame({"key": pl.Series(keys)}).with_row_index("row")
    last: Indexes = frame.unique("key", keep="last", maintain_order=True)["row"].cast(pl.Int64).to_numpy()
    return last
