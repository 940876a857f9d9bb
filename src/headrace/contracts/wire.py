"""The wire format of Confluent's registry: which schema wrote a value.

Owns the five bytes in front of a value (0x00 and a big-endian id) and the record header with a schema's GUID.

- Everything works on whole columns; nothing here looks at a body.
- A value is framed when it starts with the magic byte and has room for an id; else it is reported as unframed.
- Null values stay null.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.contracts.binary.ragged import gather

MAGIC = 0
"""First byte of a framed value."""
PREFIX_BYTES = 5
"""Magic byte and schema id."""
SCHEMA_ID_MAX = 2**31 - 1

GUID_MAGIC = 1
"""First byte of a header with a GUID."""
GUID_HEADER_BYTES = 17
VALUE_GUID_HEADER = "__value_schema_id"
KEY_GUID_HEADER = "__key_schema_id"

NOT_FRAMED = -1
"""In place of an id: no magic byte, too short, or an id that no registry gives."""
NO_VALUE = -2
"""In place of an id: the value is null."""


@dataclass(frozen=True, slots=True)
class Column:
    """A binary column as its bytes: row `i` is `data[starts[i]:ends[i]]`. `valid` is False for nulls."""

    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    valid: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts)

    def bytes_of(self, row: int) -> bytes:
        return self.data[self.starts[row] : self.ends[row]].tobytes()


def open_column(values: pa.LargeBinaryArray) -> Column:
    """The bytes under a column; nothing is copied."""
    length = len(values)
    _, offsets_buffer, data_buffer = values.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[values.offset : values.offset + length + 1]
    if len(offsets) == 0:  # Arrow may leave out the offsets of an empty array.
        offsets = np.zeros(1, dtype=np.int64)
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer else np.zeros(0, dtype=np.uint8)
    valid = np.ones(length, dtype=np.bool_)
    if values.null_count:
        valid = np.asarray(values.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
    return Column(data, offsets[:-1], offsets[1:], valid)


def schema_ids(column: Column) -> npt.NDArray[np.int64]:
    """The schema id of each value, `NOT_FRAMED` or `NO_VALUE`."""
    framed = column.valid & (column.ends - column.starts >= PREFIX_BYTES)
    ids = np.where(column.valid, NOT_FRAMED, NO_VALUE).astype(np.int64)
    starts = column.starts[framed]
    if len(starts):
        prefix = column.data[starts[:, None] + np.arange(PREFIX_BYTES)]
        found = prefix[:, 1:].copy().view(">u4").ravel().astype(np.int64)
        good = (prefix[:, 0] == MAGIC) & (found <= SCHEMA_ID_MAX)
        ids[framed] = np.where(good, found, NOT_FRAMED)
    return ids


def prefix(schema_id: int) -> bytes:
    """The bytes in front of a value of this schema."""
    assert 0 <= schema_id <= SCHEMA_ID_MAX, "a registry gives ids of 31 bits"
    return bytes([MAGIC]) + schema_id.to_bytes(PREFIX_BYTES - 1, "big")


def frame(bodies: pa.LargeBinaryArray, schema_id: int) -> pa.LargeBinaryArray:
    """The bodies with their prefix."""
    return pc.binary_join_element_wise(
        pa.scalar(prefix(schema_id), pa.large_binary()), bodies, pa.scalar(b"", pa.large_binary())
    )


def unframe(values: pa.LargeBinaryArray) -> tuple[npt.NDArray[np.int64], pa.LargeBinaryArray]:
    """The ids, as `schema_ids` gives them, and the bodies; null where no frame is."""
    column = open_column(values)
    ids = schema_ids(column)
    framed = ids >= 0
    starts = np.where(framed, column.starts + PREFIX_BYTES, column.starts)
    bodies = gather(column.data, starts, np.where(framed, column.ends, starts))
    return ids, bodies.to_binary(nulls=~framed)


def keep(values: pa.LargeBinaryArray, good: npt.NDArray[np.bool_]) -> pa.LargeBinaryArray:
    """The values, null where they are not good; their bytes are gone too."""
    column = open_column(values)
    ends = np.where(good, column.ends, column.starts)
    return gather(column.data, column.starts, ends).to_binary(nulls=~(good & column.valid))


def guid_header(guid: uuid.UUID) -> bytes:
    """The header's value that names a schema."""
    return bytes([GUID_MAGIC]) + guid.bytes


@dataclass(frozen=True, slots=True)
class Guids:
    """Schemas named in headers. `index[i]` points into `guids`, or is -1 where record `i` names none."""

    guids: tuple[uuid.UUID, ...]
    index: npt.NDArray[np.int64]


def header_guids(headers: pa.ListArray | None, name: str, length: int) -> Guids:
    """The GUID in each record's header `name`; the last one counts. Malformed ones count as none."""
    index = np.full(length, -1, dtype=np.int64)
    if headers is None or len(headers) == 0:
        return Guids((), index)
    entries = headers.flatten()
    wanted = pc.fill_null(pc.equal(entries.field("key"), name), False)
    if not pc.any(wanted).as_py():
        return Guids((), index)
    parents = np.asarray(pc.filter(pc.list_parent_indices(headers), wanted), dtype=np.int64)
    found = pc.filter(entries.field("value"), wanted).dictionary_encode()
    texts: list[bytes | None] = found.dictionary.to_pylist()
    known = [_guid(text) for text in texts]
    guids = tuple(each for each in known if each is not None)
    position = {guid: at for at, guid in enumerate(guids)}
    codes = np.array([position[each] if each is not None else -1 for each in known] + [-1], dtype=np.int64)
    index[parents] = codes[np.asarray(found.indices.fill_null(len(known)), dtype=np.int64)]
    return Guids(guids, index)


def _guid(header: bytes | None) -> uuid.UUID | None:
    if header is None or len(header) != GUID_HEADER_BYTES or header[0] != GUID_MAGIC:
        return None
    return uuid.UUID(bytes=header[1:])
