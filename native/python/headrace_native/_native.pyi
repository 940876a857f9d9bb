"""Signatures of the compiled module."""

from collections.abc import Set as AbstractSet
from typing import Any, Protocol

API_VERSION: int

class Buffer:
    """Memory of the package, read-only. `pa.py_buffer` and `np.frombuffer` take it without a copy."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class HasColumns(Protocol):
    """A pyarrow table, a Polars frame, ..."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

class ColumnsRefused(ValueError):
    """Columns that only Python writes; the argument is the list of their names."""

class RecordWriter:
    """Writes tables as Avro records of one schema, described as `headrace.contracts.binary.native_writer` does it."""

    def __new__(cls, description: dict[str, Any], /) -> RecordWriter: ...
    def write(
        self, columns: HasColumns, prefix: bytes, written: AbstractSet[str]
    ) -> tuple[Buffer, Buffer, tuple[Buffer, Buffer] | None]:
        """Data and offsets of a row each, and where rows do not fit their validity bitmap and numbers.

        The columns named in `written` hold the bytes of their fields. Raises `ColumnsRefused`.
        """

class TextWriter:
    """Writes one column as its texts, without anything around them."""

    def __new__(cls, name: str, description: dict[str, Any], /) -> TextWriter: ...
    def write(self, columns: HasColumns) -> tuple[Buffer, Buffer, tuple[Buffer, Buffer] | None]:
        """As `RecordWriter.write` gives it. Raises `ColumnsRefused`, also where the column is missing."""
