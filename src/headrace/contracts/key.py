"""Keys of records: the key fields of a row to the bytes Kafka partitions and compacts by, and back.

Owns `KeyCodec` and the string encoding of keys; Avro keys are framed records like any value.

- Equal keys have equal bytes, whatever batch they come in.
- Each distinct key of a batch is decoded once, and encoded once in Python; the compiled writer is done with all of
  them before the distinct ones are found.
- A null key is no key: decoding passes over it. Encoding gives a value or a failed row for every row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.arrow import arrow_type, to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.binary.fit import TypeMismatch, fit, halving_cast, is_text, plain
from headrace.contracts.binary.leaf import UUID_PATTERN
from headrace.contracts.binary.native_writer import NativeTextWriter
from headrace.contracts.binary.nested import without_views
from headrace.contracts.codec import Columns, Decoded, Encoded, FailedRow, RecordCodec
from headrace.contracts.contract import Contract, KeyEncoding, ValueFormat
from headrace.contracts.fastavro_codec import AvroCodec, open_codec
from headrace.contracts.polars_types import as_table
from headrace.contracts.registry import Registry
from headrace.contracts.shape import Child, Kind, record_shape
from headrace.errors import HeadraceError
from headrace.native import native

STRING_KEY_KINDS = frozenset({Kind.STRING, Kind.UUID, Kind.ENUM, Kind.INT, Kind.LONG})
"""What has one obvious text."""


class KeyInvalid(HeadraceError):
    """A contract whose key cannot be encoded as it says."""

    code = "contracts.key_invalid"


class KeyCodec:
    """Encodes and decodes the key of one topic. May be used from one thread at a time."""

    def __init__(self, fields: tuple[str, ...], codec: RecordCodec) -> None:
        self.fields = fields
        """The key's columns, in order."""
        self._codec = codec

    @property
    def arrow_schema(self) -> pa.Schema:
        """The columns that `decode` gives."""
        return self._codec.arrow_schema

    def are_those_of(self, keys: pa.LargeBinaryArray, table: pa.Table) -> bool:
        """Whether these are the keys of these rows, told by their bytes alone: False may mean that they do not tell."""
        return isinstance(self._codec, StringKeyCodec) and self._codec.are_texts_of(keys, table)

    def encode(self, columns: Columns) -> Encoded:
        """The keys of all rows. Extra columns are ignored. May raise what the registry raises."""
        if native is not None:
            return self._codec.encode(columns)
        table = as_table(columns, self.fields)
        codes, distinct = _distinct_rows(table.select([name for name in self.fields if name in table.column_names]))
        if codes is None:
            return self._codec.encode(table)
        encoded = self._codec.encode(distinct)
        values = encoded.values.take(pa.array(codes))
        return Encoded(values, _spread(encoded.failed, codes))

    def decode(self, keys: pa.LargeBinaryArray) -> Decoded:
        """The key fields of raw keys. May raise what the registry raises."""
        if isinstance(self._codec, AvroCodec) and self._codec.is_native:
            return self._codec.decode(keys)  # Faster than to tell which are the same.
        dictionary = keys.dictionary_encode()
        if len(dictionary.dictionary) == len(keys):
            return self._codec.decode(keys)
        decoded = self._codec.decode(dictionary.dictionary)
        codes = np.asarray(dictionary.indices.fill_null(-1)).astype(np.int64)
        place = np.full(len(dictionary.dictionary) + 1, -1, dtype=np.int64)  # One more, for the code -1 of nulls.
        place[decoded.rows] = np.arange(len(decoded.rows))
        found = place[codes]
        rows = np.flatnonzero(found >= 0).astype(np.int64)
        return Decoded(decoded.table.take(pa.array(found[rows])), rows, _spread(decoded.failed, codes))


def open_key_codec(contract: Contract, registry: Registry) -> KeyCodec:
    """The codec of a contract's key. Raises `KeyInvalid` for a keyless topic or a key that has no text."""
    schema = contract.key_schema
    if schema is None:
        raise KeyInvalid(
            f"topic {contract.topic!r} has no key", where=contract.where, cure="name its key fields under `key:`"
        )
    if contract.format is ValueFormat.DEBEZIUM_JSON:
        # Debezium's modules are loaded with the first contract of its.
        from headrace.contracts.debezium.key_codec import DebeziumJsonKeyCodec

        return KeyCodec(contract.key, DebeziumJsonKeyCodec(schema))
    if contract.key_encoding is KeyEncoding.AVRO:
        return KeyCodec(contract.key, open_codec(schema, registry, f"{contract.topic}-key"))
    return KeyCodec(contract.key, StringKeyCodec(schema, contract))


class StringKeyCodec:
    """A `RecordCodec` of one field written as its UTF-8 text."""

    def __init__(self, schema: AvroSchema, contract: Contract) -> None:
        self.arrow_schema = to_arrow(schema)
        children = record_shape(schema).children
        if len(children) != 1 or children[0].shape.kind not in STRING_KEY_KINDS:
            raise KeyInvalid(
                f"topic {contract.topic!r}: a string key is one field of text, enum or whole number,"
                f" not {list(contract.key)}",
                where=contract.where,
                cure="use one such field, or the key encoding `avro`",
            )
        self._child: Child = children[0]
        self._native = NativeTextWriter(native, self._child, schema.names, self._encode_in_python) if native else None

    def are_texts_of(self, keys: pa.LargeBinaryArray, table: pa.Table) -> bool:
        """Whether the keys are the texts of their column, byte for byte. Texts are UTF-8, so such keys are too."""
        if self._child.shape.kind is not Kind.STRING or keys.null_count or self._child.name not in table.column_names:
            return False
        column = table.column(self._child.name)
        is_plain = column.num_chunks == 1 and column.type == pa.string() and not column.null_count
        return is_plain and _have_same_bytes(keys, column.chunk(0))

    def encode(self, columns: Columns) -> Encoded:
        """See `RecordCodec.encode`."""
        return self._encode_in_python(columns) if self._native is None else self._native.encode(columns)

    def _encode_in_python(self, columns: Columns) -> Encoded:
        name = self._child.name
        table = without_views(as_table(columns, {name}))
        if name not in table.column_names:
            return self._all_failed(table, "encode.missing_column", f"{name}: there is no such column")
        given = column = plain(table.column(name).combine_chunks())
        kind = self._child.shape.kind
        try:
            if kind in (Kind.INT, Kind.LONG):
                column = fit(column, self._child.shape, arrow_type(self._child.shape))
            elif not is_text(column.type) and not pa.types.is_null(column.type):
                raise TypeMismatch(str(column.type))
        except TypeMismatch as error:
            return self._all_failed(table, "encode.type", f"{name}: a column of {error}; cast it")
        texts = self._checked(column.cast(pa.large_string()))
        missing, bad = np.asarray(given.is_null()), np.asarray(texts.is_null())
        failed = [FailedRow(row, "encode.null", f"{name}: null; a key takes none") for row in _rows(missing)]
        failed += [FailedRow(row, "encode.out_of_range", f"{name}: no {_shown(kind)}") for row in _rows(bad & ~missing)]
        return Encoded(texts.cast(pa.large_binary()), sorted(failed))

    def _checked(self, texts: pa.Array) -> pa.Array:
        """The texts, null where the field's type does not have them."""
        shape = self._child.shape
        if shape.kind is Kind.ENUM:
            good = pc.is_in(texts, value_set=pa.array(shape.symbols, pa.large_string()), skip_nulls=True)
        elif shape.kind is Kind.UUID:
            good = pc.match_substring_regex(texts, f"^{UUID_PATTERN.pattern}$")
            if shape.size:  # Sixteen bytes have one text; of a text the letters' case is part of the value.
                texts = pc.utf8_lower(texts)
        else:
            return texts
        return pc.if_else(good, texts, pa.scalar(None, pa.large_string()))

    def decode(self, values: pa.LargeBinaryArray, headers: pa.ListArray | None = None) -> Decoded:
        """See `RecordCodec.decode`; `headers` mean nothing to a text."""
        present = np.flatnonzero(np.asarray(values.is_valid()))
        given = values.take(pa.array(present))
        texts = halving_cast(given, pa.string())
        column = self._parsed(texts)
        good = np.asarray(column.is_valid())
        failed = [
            FailedRow(int(present[at]), *self._reason(texts[int(at)].is_valid)) for at in np.flatnonzero(~good).tolist()
        ]
        table = pa.Table.from_arrays([column.filter(pa.array(good))], schema=self.arrow_schema)
        return Decoded(table, present[good].astype(np.int64), failed)

    def _reason(self, is_text: bool) -> tuple[str, str]:
        if not is_text:
            return "decode.invalid_utf8", "a string key that is not UTF-8"
        return "decode.invalid", f"a string key that is no {_shown(self._child.shape.kind)}"

    def _parsed(self, texts: pa.Array) -> pa.Array:
        """The texts as the field's type, null where they are none of it."""
        shape = self._child.shape
        if shape.kind in (Kind.INT, Kind.LONG):
            plain_number = pc.match_substring_regex(texts, "^(0|-?[1-9][0-9]*)$")
            return halving_cast(pc.if_else(plain_number, texts, pa.scalar(None, pa.string())), arrow_type(shape))
        if shape.kind is Kind.ENUM:
            symbols = pa.array(shape.symbols, pa.string())
            indices = pc.index_in(texts, value_set=symbols, skip_nulls=True)
            return pa.DictionaryArray.from_arrays(indices, symbols)
        return self._checked(texts.cast(pa.large_string())).cast(pa.string())

    def _all_failed(self, table: pa.Table, code: str, message: str) -> Encoded:
        failed = [FailedRow(row, code, message) for row in range(table.num_rows)]
        return Encoded(pa.nulls(table.num_rows, pa.large_binary()), failed)


def _have_same_bytes(keys: pa.LargeBinaryArray, texts: pa.StringArray) -> bool:
    """Whether two columns without nulls hold the same; compared as the blocks of memory that they are."""
    count = len(keys)
    if count != len(texts) or not count:
        return count == len(texts)
    _, key_ends, key_data = keys.buffers()
    _, text_ends, text_data = texts.buffers()
    of_keys = np.frombuffer(key_ends, np.int64, count + 1, keys.offset * 8)
    of_texts = np.frombuffer(text_ends, np.int32, count + 1, texts.offset * 4)
    (key_start, key_end), (text_start, text_end) = of_keys[[0, -1]].tolist(), of_texts[[0, -1]].tolist()
    if key_end - key_start != text_end - text_start or not (of_keys - of_texts == key_start - text_start).all():
        return False
    size = key_end - key_start
    return not size or bool(key_data.slice(key_start, size).equals(text_data.slice(text_start, size)))


def _rows(marked: npt.NDArray[np.bool_]) -> list[int]:
    return [int(row) for row in np.flatnonzero(marked)]


def _shown(kind: Kind) -> str:
    return {Kind.UUID: "UUID", Kind.ENUM: "symbol of its enum"}.get(kind, kind.name.lower())


def _distinct_rows(table: pa.Table) -> tuple[npt.NDArray[np.int64] | None, pa.Table]:
    """The distinct rows, and for each row which of them it is; None where that would cost more than it saves."""
    if table.num_columns != 1:
        return None, table
    try:
        # A dictionary that is there already may hold a text twice, and its nulls have no code.
        column = plain(table.column(0).combine_chunks()).dictionary_encode(null_encoding="encode")
    except pa.ArrowNotImplementedError:
        return None, table
    codes = np.asarray(column.indices).astype(np.int64)
    return codes, pa.Table.from_arrays([column.dictionary], names=table.column_names)


def _spread(failed: Sequence[FailedRow], codes: npt.NDArray[np.int64]) -> list[FailedRow]:
    """The failures of distinct keys as failures of rows."""
    if not failed:
        return []
    reasons = {each.row: each for each in failed}
    rows = np.flatnonzero(np.isin(codes, list(reasons)))
    return [reasons[int(codes[row])]._replace(row=int(row)) for row in rows]
