"""Idempotency keys in memory: which are claimed, and what was answered.

Owns the rules by which claims and answers of the log become one state. Every process that read as far has the same.

- The first claim of a key holds it; another one counts only if it names the one that it takes over.
- An answer ends a claim. It is remembered for `kept_ms`, as long as memory lasts: the oldest go first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

ENTRY_BYTES = 350
"""About what a key takes in memory beside its answer."""

_LOG = structlog.get_logger("headrace.ingress")


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody publishes what came with a key, or died over it."""

    offset: int
    by: str
    """Transactional id of its producer."""
    life: str
    """Of the process: another one of the same id has another."""
    time_ms: int


Held = Claim | bytes
"""A claim, or the answer as it is kept."""


class KeyIndex:
    """Used on one thread; numbers may be read on any."""

    def __init__(self, kept_ms: int, bytes_max: int, clock_ms: Callable[[], int]) -> None:
        self._kept_ms, self._bytes_max, self._clock_ms = kept_ms, bytes_max, clock_ms
        self._held: dict[bytes, tuple[int, Held]] = {}
        self._ages: deque[tuple[int, bytes, int]] = deque()
        self._warned_s = 0.0
        self.bytes = 0
        self.forgotten_early = 0
        """Keys that memory did not last for."""

    def __len__(self) -> int:
        return len(self._held)

    def oldest_ms(self) -> int | None:
        """Since when keys are remembered; None without any."""
        try:
            return self._ages[0][0]
        except IndexError:
            return None

    def get(self, key: bytes) -> Held | None:
        """What is known of a key."""
        found = self._held.get(key)
        return None if found is None or found[0] < self._clock_ms() - self._kept_ms else found[1]

    def claim(self, key: bytes, claim: Claim, takes: int | None) -> None:
        """A claim of the log, in its order. `takes` is the offset of the claim that it takes over."""
        known = self.get(key)
        if isinstance(known, bytes) or (isinstance(known, Claim) and takes != known.offset):
            return
        self._put(key, claim.time_ms, claim, ENTRY_BYTES)

    def answer(self, key: bytes, kept: bytes, time_ms: int) -> None:
        """An answer of the log, or one that this process just wrote there."""
        self._put(key, time_ms, kept, ENTRY_BYTES + len(kept))

    def forget(self) -> None:
        """Let go what is too old or too much."""
        before_ms = self._clock_ms() - self._kept_ms
        while self._ages and (self._ages[0][0] < before_ms or self.bytes > self._bytes_max):
            time_ms, key, size = self._ages.popleft()
            self.bytes -= size
            found = self._held.get(key)
            if found is not None and found[0] == time_ms:
                del self._held[key]
                if time_ms >= before_ms:
                    self._forgot_early()

    def _put(self, key: bytes, time_ms: int, held: Held, size: int) -> None:
        self._held[key] = (time_ms, held)
        self._ages.append((time_ms, key, size))
        self.bytes += size

    def _forgot_early(self) -> None:
        self.forgotten_early += 1
        now_s = time.monotonic()
        if now_s - self._warned_s > 60:
            self._warned_s = now_s
            _LOG.warning("idempotency_keys_forgotten_early", keys=self.forgotten_early, raise_limit="keys_mb_max")
