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

# Kafka: topic, partition, offset, text of a committed offset; and an error's code.
_Place = tuple[str, int, int, str | None]
_Answer = tuple[str, int, int, str | None, int]
_Bytes = tuple[Any, Any, Any, int]
_News = tuple[
    list[tuple[str, list[tuple[str, int]]]],
    list[tuple[int, str, bool]],
    list[tuple[int, str, str, str]],
    str | None,
    int,
    tuple[int, int, str] | None,
]

def open_librdkafka(path: str, version: int) -> None: ...

class KafkaConsumer:
    """One consumer of librdkafka."""

    def __new__(cls, settings: list[tuple[str, str]]) -> KafkaConsumer: ...
    def fetch(
        self, records_max: int, timeout_ms: int, bytes_max: int
    ) -> tuple[list[tuple[Any, ...]], list[tuple[int, str, str | None, int, int]], bool]: ...
    def news(self) -> _News: ...
    def subscribe(self, topics: list[str]) -> None: ...
    def assign(self, places: list[_Place]) -> None: ...
    def incremental_assign(self, places: list[_Place]) -> None: ...
    def incremental_unassign(self, places: list[_Place]) -> None: ...
    def assignment(self) -> list[tuple[str, int]]: ...
    def pause(self, places: list[_Place]) -> None: ...
    def resume(self, places: list[_Place]) -> None: ...
    def seek(self, topic: str, partition: int, offset: int) -> None: ...
    def committed(self, places: list[_Place], timeout_ms: int) -> list[_Answer]: ...
    def commit(self, places: list[_Place]) -> list[_Answer]: ...
    def group_metadata(self) -> bytes: ...
    def brokers(self, topic: str | None, timeout_ms: int) -> int: ...
    def begin_close(self) -> bool: ...
    def is_closed(self, wait_ms: int) -> bool: ...
    def free(self) -> None: ...

class KafkaProducer:
    """One producer of librdkafka."""

    def __new__(cls, settings: list[tuple[str, str]]) -> KafkaProducer: ...
    def produce(
        self,
        topic: str,
        rows: int,
        start: int,
        stop: int,
        value: _Bytes,
        key: _Bytes | None,
        partition: Any,
        timestamp: Any,
        headers: tuple[Any, _Bytes, _Bytes] | None,
        order: Any,
        may_repartition: bool,
    ) -> tuple[int, int, str]: ...
    def partitions(self, topic: str, timeout_ms: int) -> int: ...
    def has_news(self) -> bool: ...
    def news(self) -> _News: ...
    def init_transactions(self, timeout_ms: int) -> None: ...
    def begin_transaction(self) -> None: ...
    def commit_transaction(self, timeout_ms: int) -> None: ...
    def abort_transaction(self, timeout_ms: int) -> None: ...
    def send_offsets(self, places: list[_Place], group: bytes, timeout_ms: int) -> None: ...
    def flush(self, timeout_ms: int) -> int: ...
    def poll(self, timeout_ms: int) -> int: ...
    def purge(self) -> None: ...
    def brokers(self, topic: str | None, timeout_ms: int) -> int: ...
    def free(self) -> None: ...

class AvroReader:
    """Reads framed Avro records into columns. `contracts/binary/native_steps.py` describes columns and steps."""

    def __new__(cls, columns: list[tuple[Any, ...]], offset_max: int) -> AvroReader: ...
    def learn(self, record: tuple[Any, ...], named: list[tuple[Any, ...]], schema_id: int | None = None) -> int:
        """Know a writer's schema by its steps, under an id where it has one. Its number among the writers."""

    def forget(self) -> None:
        """Know no writer any more; numbers are not given again."""

    def read(
        self,
        data: Any,
        offsets: Any,
        first: int,
        count: int,
        validity: Any = None,
        numbers: Any = None,
    ) -> AvroBatch:
        """Read the values `first` to `first + count` of an Arrow column: `data[offsets[i]:offsets[i + 1]]`.

        `validity` is its bitmap. `numbers` (32 bits each) names the writer of each value that has no prefix; -1 is for
        those that have one, less for those to leave.
        """

class AvroBatch:
    """What came of a batch."""

    @property
    def address(self) -> int:
        """Where the struct of Arrow's C data interface lies; whoever imports it moves the columns out."""

    @property
    def rows(self) -> Buffer | None:
        """The input's row of each row read, 64 bits each; None where all were."""

    @property
    def left_rows(self) -> Buffer | None:
        """Rows that were not read and are not null, 64 bits each."""

    @property
    def left_ids(self) -> Buffer | None:
        """The schema id of each row that is left; -1 where it has none."""

    @property
    def is_full(self) -> bool:
        """Whether a record was left because the columns have no room for it."""
