"""Reading whole batches with the compiled reader, where it is there.

Owns the compiled reader of one codec and the writers that it was taught.

- It gives what `column_reader` gives, for the records in which nothing is wrong; the others are told as left.
- A writer whose steps it cannot execute is not learned; its rows are left too.
- Rows come in the order of the batch, whoever wrote them.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.contracts.binary.native_steps import Columns, NotNative, Program
from headrace.contracts.binary.resolution import Record
from headrace.contracts.shape import Shape

HAS_PREFIX = -1
"""In place of a writer's number: the value begins with a schema id."""
NO_NUMBER = -2
"""In place of a writer's number: not taught, leave the row."""
OFFSET_MAX = 2**31 - 1
"""Bytes of text, or items, in one column; Arrow's offsets have 32 bits."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NativeBatch:
    """What was read of a batch."""

    batch: pa.RecordBatch
    rows: Integers
    """The input's row of each row of `batch`."""
    left: Integers
    """Rows that were not read, nulls aside."""
    left_ids: Integers
    """Their schema ids, `wire.NOT_FRAMED` where they have none."""
    is_full: bool
    """Whether a row was left because a column has no room for it."""


def open_native_reader(native: ModuleType | None, shape: Shape, schema: pa.Schema) -> NativeReader | None:
    """The reader into columns of `shape`, described by `schema`; None where it is not there, or not made for them."""
    if native is None:
        return None
    try:
        return NativeReader(native, Columns(shape), schema)
    except NotNative:
        return None


class NativeReader:
    """Reads batches into columns. Make one with `open_native_reader`."""

    def __init__(self, native: ModuleType, columns: Columns, schema: pa.Schema) -> None:
        self._columns = columns
        self._schema = schema
        self._reader = native.AvroReader(self._columns.described, OFFSET_MAX)
        self.taught = 0
        """Writers taught so far; more of them may read more of a batch."""

    def learn(self, steps: Record, schema_id: int | None) -> int:
        """The number of a writer, `NO_NUMBER` where it cannot be read here; found by its id where it has one."""
        try:
            program = Program(steps, self._columns)
        except NotNative:
            return NO_NUMBER
        self.taught += 1
        number: int = self._reader.learn(program.record, program.named, schema_id)
        return number

    def forget(self) -> None:
        """Forget all writers; their numbers are not given again."""
        self._reader.forget()

    def read(self, values: pa.LargeBinaryArray, numbers: npt.NDArray[np.int32] | None) -> NativeBatch:
        """Read a column of values. `numbers` says who wrote each of them; without it all have a prefix."""
        validity, offsets, data = values.buffers()
        if not values.null_count:
            validity = None
        found = self._reader.read(data or b"", offsets or b"", values.offset, len(values), validity, numbers)
        # The whole batch by one pointer: array by array costs some microseconds for each column.
        batch = pa.RecordBatch._import_from_c(found.address, self._schema)
        rows = np.arange(batch.num_rows, dtype=np.int64) if found.rows is None else np.frombuffer(found.rows, np.int64)
        if found.left_rows is None:
            return NativeBatch(batch, rows, _NONE, _NONE, found.is_full)
        left, ids = np.frombuffer(found.left_rows, np.int64), np.frombuffer(found.left_ids, np.int64)
        return NativeBatch(batch, rows, left, ids, found.is_full)


_NONE = np.zeros(0, dtype=np.int64)
