"""Copies of changelog partitions on this machine's disk.

Owns the files `<folder>/<pipeline>/<step>/<partition>.state`, so that a restart, or a hand-over between workers of one
machine, reads from the log only what came since.

- A file holds what the changelog partition holds since its last snapshot: the very messages, commit by commit.
- It is written after a commit, so it is never ahead of the log; it may be behind, and says how far it is: the number
  of the last commit, and an offset at or before everything that follows.
- It is a copy and nothing more: whatever is wrong with it, it is thrown away, and the log has everything.
- A commit that was not written whole (the process died) is cut off; every other damage is found by a checksum.
- One process at a time has a file (`flock`); another goes without one.

A file is a head and frames. Head: magic, format, CRC-32 of the identity, length of the identity; the identity as JSON.
Frame: CRC-32 of all that follows up to the messages, commit number, offset, whether the commit is complete, number of
messages, their bytes together; then kind and length of each message; then the messages, with checksums of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from headrace.engine.changelog import DELTA, SNAPSHOT_FIRST, SNAPSHOT_MORE
from headrace.engine.snapshots import StatePlace

MAGIC = b"HRST"
FORMAT = 1
HEAD = struct.Struct(">4sHII")
FRAME = struct.Struct(">IQqBIQ")
ENTRY = struct.Struct(">BI")
KINDS = (DELTA, SNAPSHOT_FIRST, SNAPSHOT_MORE)
_CRC_BYTES = 4

Message = tuple[bytes, bytes | memoryview]
"""Kind and value of a changelog message."""

log = structlog.get_logger("headrace.engine")


class FileDamaged(Exception):
    """A state file is not what was written. Never leaves this room: the file is thrown away."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a piece of a commit lies in a file."""

    commit: int
    offset: int
    """At or before everything in the changelog that follows this commit."""
    is_complete: bool
    """The last piece of its commit."""
    at: int
    """Of the list of its messages."""
    messages: int
    behind: int
    """Where the next frame begins."""


class LocalState:
    """The state files of one machine and environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, place: StatePlace, fingerprint: str) -> StateFile | None:
        """The file of one partition, there or not; None when another process has it, or there is no room for it."""
        path = self._folder / place.pipeline / place.step / f"{place.partition}.state"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            log.warning("state_copy_unavailable", place=str(place), reason=str(error))
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            log.warning("state_copy_unavailable", place=str(place), reason="another process has the file")
            return None
        identity = {"changelog": f"{place.pipeline}.{place.step}", "partition": place.partition}
        identity |= {"topic_id": place.topic_id, "fingerprint": fingerprint}
        return StateFile(path, place, json.dumps(identity, sort_keys=True).encode(), lock)


class StateFile:
    """The copy of one partition, held until `close`."""

    def __init__(self, path: Path, place: StatePlace, identity: bytes, lock: int) -> None:
        self.path, self.place = path, place
        self._head = HEAD.pack(MAGIC, FORMAT, zlib.crc32(identity), len(identity)) + identity
        self._lock: int | None = lock
        self._file: int | None = None
        self._end = 0
        """Behind the last complete commit, and pieces of the next one."""
        self._complete_end = 0
        self._is_given_up = False
        self.commit = self.offset = 0
        """Of the last complete commit."""
        self.reload()

    def reload(self) -> None:
        """Look at what is there, as after another file was put in its place."""
        self._shut()
        self._end = self._complete_end = self.commit = self.offset = 0
        if self._is_given_up or not self.path.exists():
            return
        try:
            for frame in self.frames():
                self._end = frame.behind
                if frame.is_complete:
                    self._complete_end, self.commit, self.offset = frame.behind, frame.commit, frame.offset
        except (FileDamaged, OSError) as error:
            self.discard(str(error))
            return
        self._cut()

    @property
    def length_bytes(self) -> int:
        """Of all complete commits, and the head."""
        return self._complete_end

    def frames(self) -> Iterator[Frame]:
        """Everything written whole, in order. Raises `FileDamaged`."""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(self._head)) != self._head:
                raise FileDamaged("it is of another topic, step or format, or its head is damaged")
            at = len(self._head)
            while at + FRAME.size <= size:
                frame = _frame(file.fileno(), at, size)
                if frame is None:
                    return
                yield frame
                at = frame.behind

    def commits(self) -> Iterator[tuple[int, list[Message]]]:
        """Number and messages of each frame. Raises `FileDamaged`; the messages carry their own checksums."""
        if not self.commit:
            return
        with self.path.open("rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for frame in self.frames():
            if frame.behind > self._complete_end:
                return
            yield frame.commit, list(_messages(mapped, frame))

    def append(
        self, commit: int, offset: int, messages: Sequence[Message], *, is_complete: bool = True, anew: bool = False
    ) -> None:
        """Write a commit, or a piece of one. `anew`: it begins a snapshot, so what was there is not needed any more.
        Never raises: without room the copy is given up."""
        if self._is_given_up:
            return
        try:
            if anew:
                self._begin()
            self._write(commit, offset, messages, is_complete=is_complete)
        except OSError as error:
            self._is_given_up = True
            self.discard(f"it cannot be written: {error.strerror or error}")

    def _begin(self) -> None:
        """A new file beside the old one, which goes with the first complete commit of the new."""
        self._shut()
        self._file = os.open(self._beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._end = _write_all(self._file, [self._head])
        self._complete_end = 0

    @property
    def _beside(self) -> Path:
        return self.path.with_suffix(".new")

    def _write(self, commit: int, offset: int, messages: Sequence[Message], *, is_complete: bool) -> None:
        if self._file is None:
            self._open()
        assert self._file is not None
        entries = b"".join(ENTRY.pack(KINDS.index(kind), len(value)) for kind, value in messages)
        total = sum(len(value) for _, value in messages)
        head = FRAME.pack(0, commit, offset, is_complete, len(messages), total)[_CRC_BYTES:]
        checksum = zlib.crc32(entries, zlib.crc32(head)).to_bytes(_CRC_BYTES, "big")
        self._end += _write_all(self._file, [checksum, head, entries, *(value for _, value in messages)])
        if is_complete:
            if self._beside.exists():
                self._beside.replace(self.path)
            self._complete_end, self.commit, self.offset = self._end, commit, offset

    def _open(self) -> None:
        """Go on behind the last complete commit."""
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        if not self._complete_end:
            os.ftruncate(self._file, 0)
            self._end = _write_all(self._file, [self._head])
        else:
            self._end = self._complete_end
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)

    def _cut(self) -> None:
        """Take off what follows the last complete commit."""
        with contextlib.suppress(FileNotFoundError):
            self._beside.unlink()
        size = self.path.stat().st_size
        if not self._complete_end:
            self.path.unlink()
        elif self._complete_end < size:
            log.info("state_copy_cut", place=str(self.place), bytes=size - self._complete_end)
            os.truncate(self.path, self._complete_end)

    def discard(self, reason: str) -> None:
        """Throw away what is there; the next commits begin a new file."""
        log.warning("state_copy_discarded", place=str(self.place), reason=reason)
        self._shut()
        self._end = self._complete_end = self.commit = self.offset = 0
        for path in (self.path, self._beside):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _shut(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def close(self) -> None:
        """Leave the file to the next owner. Idempotent."""
        self._shut()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _frame(file: int, at: int, size: int) -> Frame | None:
    """The frame at a position; None when the file ends inside it. Raises `FileDamaged`."""
    checksum, commit, offset, is_complete, messages, total = FRAME.unpack(os.pread(file, FRAME.size, at))
    entries_at = at + FRAME.size
    behind = entries_at + messages * ENTRY.size + total
    if behind > size:
        return None
    head = os.pread(file, FRAME.size + messages * ENTRY.size, at)[_CRC_BYTES:]
    if zlib.crc32(head) != checksum:
        raise FileDamaged(f"the checksum at byte {at} is wrong")
    return Frame(commit, offset, bool(is_complete), entries_at, messages, behind)


def _messages(mapped: memoryview, frame: Frame) -> Iterator[Message]:
    at = frame.at + frame.messages * ENTRY.size
    for number in range(frame.messages):
        kind, length = ENTRY.unpack_from(mapped, frame.at + number * ENTRY.size)
        yield KINDS[kind], mapped[at : at + length]
        at += length


def _write_all(file: int, pieces: Sequence[bytes | memoryview]) -> int:
    """Everything, or `OSError`; the number of bytes."""
    written = 0
    for piece in pieces:
        left = memoryview(piece)
        while left:
            count = os.write(file, left)
            written += count
            left = left[count:]
    return written
