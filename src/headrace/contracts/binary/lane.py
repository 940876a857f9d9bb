"""Reading the same thing from many records at once.

Owns `Lane`: a position in each of many records, and the primitives read at all of them together.

- A record in which something is wrong is marked (`ok` is False) and its position stays at its end: reading goes on for
  the others, and what is read for it means nothing.
- No reason is kept: the records marked are few, and are read again one by one to name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.contracts.binary.ragged import Bytes, Ragged, gather

PADDING_BYTES = 16
"""Zeros behind the data, so that whole words can be read at its very end."""

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_STOP_BITS = np.uint64(0x8080808080808080)
_SEVEN_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_ONE = np.uint64(1)


@dataclass(slots=True)
class Input:
    """The bytes of a batch. `words[i]` is the eight bytes from `i`, the first one lowest."""

    data: Bytes
    words: Words


def open_input(data: Bytes) -> Input:
    """The bytes with their padding."""
    padded = np.concatenate([data, np.zeros(PADDING_BYTES, dtype=np.uint8)])
    words: Words = np.ndarray(shape=(len(padded) - 7,), dtype="<u8", buffer=padded, strides=(1,))
    return Input(padded, words)


class Lane:
    """A position in each of many records."""

    __slots__ = ("end", "input", "ok", "position")

    def __init__(self, source: Input, position: Integers, end: Integers, ok: npt.NDArray[np.bool_]) -> None:
        self.input, self.position, self.end, self.ok = source, position, end, ok

    def __len__(self) -> int:
        return len(self.position)

    def part(self, rows: Integers) -> Lane:
        """A lane of some of the records; give it back with `rejoin`."""
        return Lane(self.input, self.position[rows], self.end[rows], self.ok[rows])

    def rejoin(self, part: Lane, rows: Integers) -> None:
        self.position[rows] = part.position
        self.ok[rows] = part.ok

    def fail(self, wrong: npt.NDArray[np.bool_]) -> None:
        """Mark records in which something is wrong."""
        if wrong.any():
            self.ok &= ~wrong
            np.copyto(self.position, self.end, where=wrong)

    def forward(self, sizes: Any) -> None:
        """Pass over bytes; a record that does not have them is marked."""
        self.position = self.position + sizes
        self.fail(self.position > self.end)

    def longs(self) -> Integers:
        words = self.input.words[self.position]
        small = words & np.uint64(0xFF)
        if not (small & np.uint64(0x80)).any():
            self.forward(1)
            return _zigzag(small)
        values, sizes = self._varints(words)
        self.forward(sizes)
        return _zigzag(values)

    def ints(self) -> npt.NDArray[np.int32]:
        values = self.longs()
        narrow = values.astype(np.int32)
        self.fail(narrow != values)
        return narrow

    def _varints(self, words: Words) -> tuple[Words, Integers]:
        """Values of seven bits a byte, and their sizes: the groups of eight bytes are moved together in three steps."""
        stops = ~words & _STOP_BITS
        first = stops & (~stops + _ONE)
        used = (first << _ONE) - _ONE  # All ones where no stop bit is.
        values = words & used & _SEVEN_BITS
        values = (values & np.uint64(0x007F007F007F007F)) | ((values & np.uint64(0x7F007F007F007F00)) >> _ONE)
        values = (values & np.uint64(0x00003FFF00003FFF)) | ((values & np.uint64(0x3FFF00003FFF0000)) >> np.uint64(2))
        values = (values & np.uint64(0x0FFFFFFF)) | ((values & np.uint64(0x0FFFFFFF00000000)) >> np.uint64(4))
        sizes = (np.bitwise_count(used) >> 3).astype(np.int64)
        long = np.flatnonzero(stops == 0)
        if len(long):
            values[long], sizes[long] = self._long_varints(values[long], self.position[long], long)
        return values, sizes

    def _long_varints(self, values: Words, position: Integers, rows: Integers) -> tuple[Words, Integers]:
        ninth = self.input.data[position + 8].astype(np.uint64)
        tenth = self.input.data[position + 9].astype(np.uint64)
        has_tenth = ninth >= 128
        values = values | ((ninth & np.uint64(0x7F)) << np.uint64(56))
        values = np.where(has_tenth, values | (tenth << np.uint64(63)), values)
        wrong = np.zeros(len(self), dtype=np.bool_)
        wrong[rows] = has_tenth & (tenth > 1)
        self.fail(wrong)
        return values, np.where(has_tenth, 10, 9).astype(np.int64)

    def indexes(self, count: int) -> Integers:
        """Symbols or branches of `count`; 0 where it is wrong."""
        values = self.longs()
        wrong = (values < 0) | (values >= count)
        self.fail(wrong)
        return np.where(wrong | ~self.ok, 0, values)

    def booleans(self) -> npt.NDArray[np.bool_]:
        values: Bytes = self.input.data[self.position]
        self.forward(1)
        self.fail(values > 1)
        return np.equal(values, 1)

    def floats(self) -> npt.NDArray[np.float32]:
        values = self.input.words[self.position].astype(np.uint32).view(np.float32)
        self.forward(4)
        return values

    def doubles(self) -> npt.NDArray[np.float64]:
        values = self.input.words[self.position].view(np.float64)
        self.forward(8)
        return values

    def rows_of(self, size: int) -> Bytes:
        """Fixed of `size` bytes, as a matrix."""
        wrong = self.end - self.position < size
        self.fail(wrong)
        places = np.where(wrong, 0, self.position)[:, None] + np.arange(size)
        rows: Bytes = self.input.data[np.minimum(places, len(self.input.data) - 1)]
        self.forward(np.where(wrong, 0, size))
        return rows

    def spans(self) -> tuple[Integers, Integers]:
        """Starts and sizes of texts or bytes; a size is 0 where it is wrong."""
        sizes = self.longs()
        wrong = (sizes < 0) | (sizes > self.end - self.position) | ~self.ok
        self.fail(wrong)
        sizes = np.where(wrong, 0, sizes)
        starts = self.position
        self.forward(sizes)
        return starts, sizes

    def bytes_at(self, starts: Integers, sizes: Integers) -> Ragged:
        return gather(self.input.data, starts, starts + sizes)


def _zigzag(codes: Words) -> Integers:
    return ((codes >> _ONE) ^ (~(codes & _ONE) + _ONE)).view(np.int64)
