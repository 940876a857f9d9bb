"""Kafka's frames on one connection, as far as a proxy needs to know them.

Owns the bytes of frames that are not whole yet, and which requests for metadata wait for their answer.

- Requests pass as they are. Answers pass frame by frame; an answer to a metadata request may lose its brokers.
- Formats: https://kafka.apache.org/protocol, Metadata versions 0 to 13.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

METADATA_KEY = 3
FLEXIBLE_FROM = 9
"""Versions from here on have compact lengths and tagged fields."""
THROTTLED_FROM = 3
RACKS_FROM = 1


@dataclass(slots=True)
class Frames:
    """Both directions of one connection."""

    _requests: bytearray = field(default_factory=bytearray)
    _answers: bytearray = field(default_factory=bytearray)
    _versions: dict[int, int] = field(default_factory=dict)
    """Of metadata requests by correlation id."""

    def request(self, piece: bytes) -> None:
        """Note what is asked."""
        self._requests += piece
        for frame in _whole(self._requests):
            key, version, correlation = struct.unpack_from(">hhi", frame)
            if key == METADATA_KEY:
                self._versions[correlation] = version

    def answer(self, piece: bytes, *, hides_brokers: bool) -> tuple[bytes, int]:
        """The frames that are whole now, and how many of them lost their brokers."""
        self._answers += piece
        given, hidden = bytearray(), 0
        for frame in _whole(self._answers):
            version = self._versions.pop(struct.unpack_from(">i", frame)[0], None)
            if version is not None and hides_brokers:
                frame, hidden = without_brokers(frame, version), hidden + 1
            given += struct.pack(">i", len(frame)) + frame
        return bytes(given), hidden


def _whole(buffer: bytearray) -> list[bytes]:
    """Take the whole frames out of a buffer."""
    frames = []
    while len(buffer) >= 4 and len(buffer) >= 4 + (length := struct.unpack_from(">i", buffer)[0]):
        frames.append(bytes(buffer[4 : 4 + length]))
        del buffer[: 4 + length]
    return frames


def without_brokers(frame: bytes, version: int) -> bytes:
    """A metadata answer with an empty list of brokers."""
    is_flexible = version >= FLEXIBLE_FROM
    begin = 4 + (1 if is_flexible else 0) + (4 if version >= THROTTLED_FROM else 0)
    at = begin
    count, at = _length(frame, at, is_flexible, wide=True)
    for _ in range(count):
        at += 4  # The node's id.
        at = _past_text(frame, at, is_flexible)
        at += 4  # The port.
        if version >= RACKS_FROM:
            at = _past_text(frame, at, is_flexible)
        if is_flexible:
            tags, at = _varint(frame, at)
            assert not tags, "a broker with tagged fields"
    return frame[:begin] + (b"\x01" if is_flexible else b"\0\0\0\0") + frame[at:]


def _past_text(frame: bytes, at: int, is_flexible: bool) -> int:
    length, at = _length(frame, at, is_flexible, wide=False)
    return at + max(length, 0)


def _length(frame: bytes, at: int, is_flexible: bool, *, wide: bool) -> tuple[int, int]:
    """Of an array (wide) or a text; -1 for null."""
    if is_flexible:
        length, at = _varint(frame, at)
        return length - 1, at
    return (
        (struct.unpack_from(">i", frame, at)[0], at + 4) if wide else (struct.unpack_from(">h", frame, at)[0], at + 2)
    )


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = frame[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
