"""The record codec port: raw log values to Arrow columns and back, a batch at a time.

Owns the value types and protocols that `fastavro_codec` (and later a compiled codec) implement.

- A bad row never spoils its batch: it is reported with its index, a stable code and a reason.
- Decoding keeps the order of the input; `rows` maps each decoded row to its input row.
- A codec is made for one reader schema; writer schemas are found by the id in front of each value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Columns: TypeAlias = pa.Table | pl.DataFrame
"""What is encoded. A frame is taken as it is where the compiled package is used, and costs less than its table."""


class FailedRow(NamedTuple):
    """A row that could not be decoded or encoded."""

    row: int
    """Index in the batch given."""
    code: str
    """Stable, `decode.*` or `encode.*`: `decode.framing`, `decode.unknown_schema_id`, `decode.truncated`, ..."""
    message: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came out of a batch of raw values."""

    table: pa.Table
    """One row per good value, in input order, with the Arrow schema of the reader schema."""
    rows: npt.NDArray[np.int64]
    """Input index of each row of `table`, ascending."""
    failed: Sequence[FailedRow]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What came out of a table."""

    values: pa.LargeBinaryArray
    """One framed value per row of the table given; null where the row failed."""
    failed: Sequence[FailedRow]


class RecordCodec(Protocol):
    """Decodes and encodes values of one schema. May be used from one thread at a time.

    A registry that cannot be reached raises `RegistryUnavailable` (retry the same call); all else is a failed row.
    """

    arrow_schema: pa.Schema

    def decode(self, values: pa.LargeBinaryArray, headers: pa.ListArray | None = None) -> Decoded:
        """Decode; null values are skipped (they are in neither `rows` nor `failed`)."""

    def encode(self, columns: Columns) -> Encoded:
        """Encode by column name. Extra columns are ignored; a missing column takes the field's default, and
        without one every row fails. A value that does not fit its type fails its row, never changes silently."""
