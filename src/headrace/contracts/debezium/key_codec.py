"""Keys of Debezium's JSON topics as key columns.

Owns `DebeziumJsonKeyCodec`: the `RecordCodec` behind the `KeyCodec` of such a topic.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from headrace.contracts.arrow import to_arrow
from headrace.contracts.avro import AvroSchema
from headrace.contracts.codec import Columns, Decoded, Encoded, FailedRow
from headrace.contracts.debezium.extended_json import read_document
from headrace.contracts.debezium.json_texts import JsonTexts
from headrace.contracts.debezium.payloads import Payload
from headrace.contracts.debezium.problems import Unreadable
from headrace.contracts.debezium.row_columns import RowColumns
from headrace.contracts.debezium.value_codec import CODES, read_only

DOCUMENT_ID = "_id"
"""The key of MongoDB's documents. Its connector calls it `id` in the record's key, and writes it as text."""


class DebeziumJsonKeyCodec:
    """See `RecordCodec`. It only reads: Debezium writes these topics."""

    def __init__(self, key: AvroSchema) -> None:
        self.arrow_schema = to_arrow(key)
        self._columns, self._texts = RowColumns(key), JsonTexts()

    def decode(self, values: pa.LargeBinaryArray, headers: pa.ListArray | None = None) -> Decoded:
        """See `RecordCodec.decode`."""
        failed: list[FailedRow] = []
        rows: list[int] = []
        keys: list[Payload] = []
        for at, value in enumerate(values.to_pylist()):
            if value is None:
                continue
            try:
                found = self._key(value)
            except Unreadable as error:
                failed.append(FailedRow(at, CODES.get(error.code, "decode.invalid"), error.reason))
                continue
            rows.append(at)
            keys.append(found)
        structs, misfits = self._columns.structs(keys)
        failed += [FailedRow(rows[at], "decode.invalid", reason) for at, reason in misfits.items()]
        good = [at for at in range(len(rows)) if at not in misfits]
        table = pa.Table.from_arrays(structs.take(pa.array(good, pa.int64())).flatten(), schema=self.arrow_schema)
        return Decoded(table, np.array(rows, dtype=np.int64)[good], sorted(failed))

    def _key(self, value: bytes) -> Payload:
        """A key's columns; a transformation may have left the one of them alone."""
        found = self._texts.read(value)
        names = self.arrow_schema.names
        if isinstance(found.value, dict):
            text = found.value.get("id")
            if names == [DOCUMENT_ID] and isinstance(text, str):
                return Payload({DOCUMENT_ID: read_document(text, "key.id")})
            return found
        if len(names) != 1 or found.value is None:
            raise Unreadable("decode.invalid", "a key that is no object")
        return Payload({names[0]: found.value})

    def encode(self, columns: Columns) -> Encoded:
        """Every row fails."""
        return read_only(columns)
