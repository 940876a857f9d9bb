"""Changelog messages: state changes as Arrow.

Owns the format of changelog topics and the rule when a partition writes its state whole.

- A change is one `StateChange` of one partition: an Arrow IPC stream (LZ4) with the small numbers of the partition in
  the schema metadata, and there what its columns stand for (`changelog_columns`).
- A change is cut into as many messages as it needs, each `HEADER` and a piece of the stream. So a list that grew for
  days fits into a topic whose records are of the broker's default size.
- A message's key tells delta (`d`) or snapshot (`s`). A snapshot is a run of changes inside one transaction, all
  messages of the first marked `first`; what lies before it is not needed any more and is dropped from the log.
- Every message carries a checksum of what it holds. Damage is found (`ChangelogUnreadable`), never restored.
- Every message carries the number of its commit; a partition's commits count up from 1 without a gap, whoever writes
  them. So a copy of a part of the log tells exactly where it ends, and a hole is seen.
- Every change says what its state means (the plan's fingerprint of the step), so that no step takes another's state.
- Applying the changes of a partition in order rebuilds its state exactly.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import polars as pl
import pyarrow as pa

from headrace.engine.arrow_memory import system_allocator
from headrace.engine.changelog_arrow import WrittenFrame, WrittenFrames
from headrace.engine.changelog_columns import unpacked
from headrace.engine.operator import StateChange
from headrace.errors import HeadraceError

META = b"headrace.meta"
SNAPSHOT_FIRST = b"s0"
SNAPSHOT_MORE = b"s1"
DELTA = b"d"
SNAPSHOT_ROWS_PER_CHANGE_MAX = 32_768
MESSAGE_BYTES_MAX = 900_000
"""Below the default `max.message.bytes` of a broker, key and record overhead included."""
DELTA_ROWS_PER_SNAPSHOT_MIN = 100_000
"""No snapshot before this many delta rows: small states would be written again and again."""
DELTA_ROWS_PER_STATE_ROW = 3
"""A snapshot is due when the deltas since the last one hold this many rows per live row: the log stays within
a constant factor of the state, and snapshots cost a third of a write per row changed."""

MAGIC = b"HRC4"
HEADER = struct.Struct(">4sIIIQ")
"""Magic, CRC-32 of all that follows it, number of the piece, pieces of the change, number of the commit. 24 bytes keep
Arrow aligned."""
# Threads cost more than they save at this size.
_WRITING = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_CHECKED = struct.Struct(">IIQ")
_CHECKED_FROM = HEADER.size - _CHECKED.size


class ChangelogUnreadable(HeadraceError):
    """A changelog message is damaged, incomplete or of another format."""

    code = "engine.changelog_unreadable"


def snapshot_is_due(*, delta_rows: int, state_rows: int) -> bool:
    """Whether a partition should write its state whole with this commit."""
    return delta_rows >= max(DELTA_ROWS_PER_SNAPSHOT_MIN, DELTA_ROWS_PER_STATE_ROW * state_rows)


def encode(
    change: StateChange,
    fingerprint: str,
    *,
    commit: int = 1,
    bytes_max: int = MESSAGE_BYTES_MAX,
    frames: WrittenFrames | None = None,
) -> list[bytes]:
    """The messages of a change, at least one. `fingerprint` says what the state means, `commit` which commit of the
    partition it belongs to; `frames` are kept while changes are encoded that may be cut from one frame."""
    stream = memoryview(_to_stream(change, {"store": change.store, "fingerprint": fingerprint}, frames))
    room = bytes_max - HEADER.size
    pieces = [stream[at : at + room] for at in range(0, len(stream), room)]
    return [_framed(piece, number, len(pieces), commit) for number, piece in enumerate(pieces)]


def _to_stream(change: StateChange, more: Mapping[str, object], frames: WrittenFrames | None) -> pa.Buffer:
    if frames is None or change.whole is None:
        written, first = WrittenFrame.of(change.frame), 0
    else:
        written, first = frames.of(change.whole), change.first
    rows = change.frame.height
    meta = json.dumps({"state": dict(change.meta), "columns": written.description, "rows": rows, **more})
    batch = written.run(first, rows, {META: meta.encode()})
    with system_allocator():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=_WRITING) as writer:
            writer.write_batch(batch)
        return sink.getvalue()


def _framed(piece: memoryview, number: int, pieces: int, commit: int) -> bytes:
    place = _CHECKED.pack(number, pieces, commit)
    checksum = zlib.crc32(piece, zlib.crc32(place))
    return b"".join((MAGIC, checksum.to_bytes(4, "big"), place, piece))


@dataclass(frozen=True, slots=True)
class Piece:
    """A message whose checksum is right."""

    number: int
    pieces: int
    commit: int
    body: memoryview

    @classmethod
    def of(cls, value: bytes | memoryview | pa.Buffer) -> Self:
        """Raises `ChangelogUnreadable`."""
        view = memoryview(value)
        if len(view) < HEADER.size:
            raise ChangelogUnreadable(f"{len(view)} bytes are no changelog message")
        magic, checksum, number, pieces, commit = HEADER.unpack_from(view)
        if magic != MAGIC:
            raise ChangelogUnreadable(f"a changelog message begins with {magic!r}, not with {MAGIC!r}")
        if zlib.crc32(view[_CHECKED_FROM:]) != checksum:
            raise ChangelogUnreadable("the checksum of a changelog message is wrong")
        return cls(number, pieces, commit, view[HEADER.size :])


@dataclass(frozen=True, slots=True)
class ChangelogMessage:
    """A decoded change."""

    change: StateChange
    fingerprint: str
    commit: int


def commit_of(value: bytes | memoryview | pa.Buffer) -> int:
    """The commit that a message belongs to. Raises `ChangelogUnreadable`, but does not look at its content."""
    view = memoryview(value)
    if len(view) < HEADER.size or view[: len(MAGIC)] != MAGIC:
        raise ChangelogUnreadable(f"{len(view)} bytes are no changelog message of format {MAGIC!r}")
    return int(HEADER.unpack_from(view)[-1])


class ChangelogReader:
    """Puts the messages of one changelog partition together again, in their order.

    A change that was begun and not finished (a writer that died outside of a transaction) is left out, when another
    one begins.
    """

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._pieces: list[memoryview] = []

    def read(self, value: bytes | memoryview | pa.Buffer) -> ChangelogMessage | None:
        """The change that this message completes, if it does. Raises `ChangelogUnreadable`."""
        piece = Piece.of(value)
        if piece.number == 0:
            self._pieces = []
        if piece.number != len(self._pieces):
            raise ChangelogUnreadable(
                f"piece {piece.number} of {piece.pieces} of a change follows on {len(self._pieces)} pieces"
            )
        self._pieces.append(piece.body)
        if len(self._pieces) < piece.pieces:
            return None
        stream = pa.py_buffer(self._pieces[0] if piece.pieces == 1 else b"".join(self._pieces))
        self._pieces = []
        return _from_stream(self._partition, stream, piece.commit)


def _from_stream(partition: int, stream: pa.Buffer, commit: int) -> ChangelogMessage:
    try:
        with pa.ipc.open_stream(stream) as reader:
            table = reader.read_all()
        meta = json.loads((table.schema.metadata or {})[META])
        state, store, fingerprint = meta["state"], meta["store"], meta["fingerprint"]
        written = pl.from_arrow(table)
        assert isinstance(written, pl.DataFrame), "a table becomes a frame"
        frame = unpacked(written, meta["columns"], meta["rows"])
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        raise ChangelogUnreadable(f"a changelog message holds no state change ({error})") from error
    return ChangelogMessage(StateChange(partition, frame, state, store), fingerprint, commit)
