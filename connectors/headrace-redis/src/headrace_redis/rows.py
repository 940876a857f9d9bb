"""Rows as what Redis holds: keys, hashes, JSON texts, entries of a stream.

Owns the names of keys and the forms of values.

- Two rows have the same Redis key when their key columns are equal, and only then.
- A row that Redis cannot hold is refused; none is cut.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.shape import Shape, record_shape
from headrace.egress.json_columns import json_rows, text_column
from headrace.egress.sdk import Contract, EgressBatch, Mode, Refused
from headrace_redis.options import Format, RedisOptions
from headrace_redis.script import BYTES, Commands, argument, fields, joined, names

SEPARATOR = b":"
_ESCAPE = b"\\"
NULL = b"\\N"
"""Of a key column; a backslash of a value is always doubled, so this is no value."""
JSON_FIELD = "row"
"""Of a stream's entry in format `json`."""

_LENGTH_MAX = 2**62

Indexes = npt.NDArray[np.int64]
Masks = Mapping[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a batch."""

    commands: Commands
    refused: Sequence[Refused]


class RowWriter:
    """Rows of one egress."""

    def __init__(self, contract: Contract, mode: Mode, options: RedisOptions, under: str) -> None:
        self._contract, self._mode, self._form = contract, mode, options.format
        self._under, self._value_bytes_max = under.encode(), options.value_bytes_max
        self._version = options.version_field
        self._shapes = {child.name: child.shape for child in record_shape(contract.schema).children}

    def bound(self, value_bytes_max: int | None) -> None:
        """The server takes no longer value than this."""
        if value_bytes_max is not None:
            self._value_bytes_max = min(self._value_bytes_max, value_bytes_max)

    def prepare(self, batch: EgressBatch) -> Prepared:
        """The rows as commands; of several rows of a key what they come to."""
        keys, columns = self._keys(batch), self._columns(batch)
        lengths = [_lengths(each) for each in columns.values()]
        longest = np.maximum.reduce([_lengths(keys), *lengths])
        refused = self._refused(batch, longest, columns)
        kept = np.delete(np.arange(len(batch)), [each.row for each in refused])
        if self._mode is not Mode.APPEND and (batch.unavailable or self._version is not None):
            taken = batch.take(kept)
            latest = taken.latest(refuses_stale=self._version is not None)
            if latest is not taken:
                return Prepared(self._commands(self._keys(latest), self._columns(latest), latest), refused)
        elif self._mode is not Mode.APPEND:
            kept = kept[_last(keys.take(pa.array(kept)))]
        if len(kept) < len(batch):
            rows = pa.array(kept)
            keys, batch = keys.take(rows), batch.take(kept)
            columns = {name: values.take(rows) for name, values in columns.items()}
        return Prepared(self._commands(keys, columns, batch), refused)

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

    def _commands(self, keys: pa.Array, columns: dict[str, pa.Array], batch: EgressBatch) -> Commands:
        key, count = argument(keys), np.full(len(keys), 2)
        version = None
        if self._version is not None:
            version = pa.array(np.maximum(batch.version, 0)).cast(pa.large_string()).cast(BYTES)
            key, count = joined(key, argument(version)), count + 1
        written, more = self._written(key, columns, version)
        if batch.unavailable:
            patches, of_patches = self._patches(key, columns, version, batch.unavailable)
            untold = np.logical_or.reduce(list(batch.unavailable.values()))
            written, more = pc.if_else(pa.array(untold), patches, written), np.where(untold, of_patches, more)
        deletes = batch.deletes()
        if deletes.any():
            written = pc.if_else(pa.array(deletes), joined(b"D", key), written)
        return Commands(written, int((count + np.where(deletes, 0, more)).sum()))

    def _written(
        self, key: pa.Array, columns: dict[str, pa.Array], version: pa.Array | None
    ) -> tuple[pa.Array, Indexes]:
        """Whole rows, and how many arguments each has beside its key."""
        if self._mode is Mode.APPEND:
            pairs, number = fields(columns)
            return joined(b"X", key, pairs), number.to_numpy() + 1
        if self._form is Format.JSON:
            return joined(b"S", key, argument(self._text(columns, version))), np.ones(len(key), np.int64)
        pairs, number = fields(self._fields(columns, version))
        return joined(b"H", key, pairs), number.to_numpy() + 1

    def _patches(
        self, key: pa.Array, columns: dict[str, pa.Array], version: pa.Array | None, untold: Masks
    ) -> tuple[pa.Array, Indexes]:
        """Rows that leave columns as they are, in the same way."""
        if self._form is Format.JSON:
            left, number = names({_json_name(name): pa.array(mask) for name, mask in untold.items()})
            return joined(b"M", key, argument(self._text(columns, version)), left), number.to_numpy() + 2
        told = {name: ~untold[name] if name in untold else True for name in columns}
        is_gone = {
            name.encode(): pa.array(values.is_null().to_numpy(zero_copy_only=False) & told[name])
            for name, values in columns.items()
        }
        gone, gone_number = names(is_gone)
        pairs, number = fields(self._fields(columns, version))
        return joined(b"P", key, gone, pairs), number.to_numpy() + gone_number.to_numpy() + 2

    def _fields(self, columns: dict[str, pa.Array], version: pa.Array | None) -> dict[str, pa.Array]:
        return columns if version is None or self._version is None else {**columns, self._version: version}

    def _text(self, columns: dict[str, pa.Array], version: pa.Array | None) -> pa.Array:
        """The JSON of each row, its version behind all other members."""
        text = columns[JSON_FIELD]
        if version is None:
            return text
        member = pa.scalar(f',"{self._version}":'.encode(), BYTES)
        # Without its last brace.
        begin = pc.binary_replace_slice(text, -1, _LENGTH_MAX, b"")
        return pc.binary_join_element_wise(begin, member, version, pa.scalar(b"}", BYTES), pa.scalar(b"", BYTES))


def _json_name(name: str) -> bytes:
    """As `json_rows` writes it."""
    return json.dumps(name, ensure_ascii=False).encode()


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
