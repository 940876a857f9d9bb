"""From rows to records of a derived topic.

Owns encoding by the derived contract.

- Every row becomes a record, a tombstone (deleted rows of tables), or a `RowError` of stage `encode`.
- An event whose text key is null becomes a record without a key.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.contract import Contract, KeyEncoding, TopicKind
from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.key import open_key_codec
from headrace.contracts.registry import Registry
from headrace.engine.operator import DELETED, TIME, RowError
from headrace.engine.row_picks import columns_of
from headrace.log.port import Outgoing


class SinkWriter:
    """Encodes frames for one topic. Not thread-safe."""

    def __init__(self, contract: Contract, registry: Registry) -> None:
        self.contract = contract
        self._values = open_codec(contract.value_schema, registry, f"{contract.topic}-value")
        self._keys = open_key_codec(contract, registry) if contract.key else None
        # A null has no text; the record is written without a key. Avro has a key for it, and a table needs one.
        is_text = contract.key_encoding is KeyEncoding.STRING
        self._takes_null_keys = is_text and contract.kind is TopicKind.EVENT
        self._columns = [field.name for field in contract.schema.fields]

    def encode(self, frame: pl.DataFrame) -> tuple[Outgoing, Sequence[RowError]]:
        """Records of the rows that fit, in order, and the rows that do not."""
        rows = columns_of(frame, self._columns)
        deleted = frame[DELETED].to_numpy() if DELETED in frame.columns else np.zeros(frame.height, bool)
        errors: list[RowError] = []
        values = self._encoded_values(rows, deleted, errors)
        keys = None
        if self._keys is not None:
            encoded = self._keys.encode(rows)
            failed = [each for each in encoded.failed if not (self._takes_null_keys and each.code == "encode.null")]
            errors.extend(RowError(row, code, f"key: {message}") for row, code, message in failed)
            keys = encoded.values
        good = np.ones(frame.height, bool)
        good[[error.row for error in errors]] = False
        times = frame[TIME].to_numpy()
        if errors:
            mask = pa.array(good)
            values, times = values.filter(mask), times[good]
            keys = keys.filter(mask) if keys is not None else None
        return Outgoing(self.contract.topic, values, key=keys, timestamp_ms=times), errors

    def _encoded_values(self, rows: pl.DataFrame, deleted: np.ndarray, errors: list[RowError]) -> pa.LargeBinaryArray:
        if not deleted.any():
            encoded = self._values.encode(rows)
            errors.extend(RowError(*failed) for failed in encoded.failed)
            return encoded.values
        kept = np.flatnonzero(~deleted)
        encoded = self._values.encode(rows[kept])
        errors.extend(RowError(int(kept[row]), code, message) for row, code, message in encoded.failed)
        position = np.full(len(deleted), -1, np.int64)
        position[kept] = np.arange(len(kept))
        return pc.take(encoded.values, pa.array(position, mask=deleted))
