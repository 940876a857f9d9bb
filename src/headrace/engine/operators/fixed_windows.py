"""Windows of fixed size: which a row is in, and when they close.

Owns the arithmetic that all steps with tumbling, hopping or half-open windows share.

- A window is [start, start + size), its start a multiple of the advance from the epoch on, never before it. A row is
  in size / advance windows.
- A row is late for a window when end + grace is not after the stream time that counts for the row: that depends on the
  row and the window alone, so all rows of a window are known when it closes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.engine.state.arrays import Ints, Mask
from headrace.flow.values import Window, WindowKind


@dataclass(frozen=True, slots=True)
class FixedWindows:
    """The windows of one step."""

    size_ms: int
    advance_ms: int
    grace_ms: int

    @classmethod
    def of(cls, window: Window) -> FixedWindows:
        """The end of a sliding window is in it."""
        size_ms = window.size_ms + (window.kind is WindowKind.SLIDING)
        return cls(size_ms, window.advance_ms or size_ms, window.grace_ms)

    @property
    def hold_ms(self) -> int:
        """From a window's start until it closes."""
        return self.size_ms + self.grace_ms

    @property
    def per_row(self) -> int:
        """Windows that a row is in, about."""
        return 1 + self.size_ms // self.advance_ms

    def pairs(self, time_ms: Ints) -> tuple[Ints, Ints]:
        """Row and window start of every (row, window) pair, by row and start."""
        last = time_ms // self.advance_ms * self.advance_ms
        if self.advance_ms == self.size_ms:
            return np.arange(len(last), dtype=np.int64), last
        back = np.arange((self.size_ms - 1) // self.advance_ms, -1, -1, dtype=np.int64) * self.advance_ms
        starts = last[:, None] - back[None, :]
        inside = (starts >= 0) & (starts + self.size_ms > time_ms[:, None])
        rows, _ = np.nonzero(inside)
        return rows.astype(np.int64), starts[inside]

    def is_closed(self, starts: Ints, reached_ms: Ints | int) -> Mask:
        """Which of these windows are closed at a time."""
        closed: Mask = starts + self.hold_ms <= reached_ms
        return closed
