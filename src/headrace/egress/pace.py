"""How fast an egress goes: the rate that its file allows, and the pauses after failures.

Owns the token bucket and the circuit breaker.

- In any span of T seconds at most `rate * (T + BURST_S)` records are read, and never fewer than one at a time. Tasks
  that share a rate may each take the burst at once; they pay it back.
- After `failures_max` failures in a row the breaker is open: no attempt for `open_ms`, then one. If that fails too it
  is open again, if it succeeds it is closed.
- Nothing sleeps here: who asks is told how long to wait, and serves its group meanwhile.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Literal

from headrace.egress.config import BreakerLimits, RetryLimits

BURST_S = 0.1
"""What may go at once after a time of nothing: little enough that a target does not notice."""

BreakerState = Literal["closed", "open", "probing"]


class RateLimit:
    """A token bucket; `rate` None is without limit. Any thread may ask: the tasks of an egress share one."""

    def __init__(self, rate: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._size = max(1.0, (rate or 0) * BURST_S)
        self._tokens, self._at_s = self._size, clock()
        self._lock = threading.Lock()

    def allowed(self, wanted: int) -> int:
        """How many of these records may be read now."""
        if self._rate is None:
            return wanted
        with self._lock:
            now_s = self._clock()
            self._tokens = min(self._size, self._tokens + (now_s - self._at_s) * self._rate)
            self._at_s = now_s
            return min(wanted, int(self._tokens))

    def took(self, records: int) -> None:
        """So many were read; more than allowed are paid back before there are others."""
        with self._lock:
            self._tokens -= records

    def wait_s(self) -> float:
        """How long until a record is allowed."""
        return 0.0 if self._rate is None else max(0.0, (1.0 - self._tokens) / self._rate)


class Breaker:
    """Counts failures in a row and says how long to wait after them."""

    def __init__(self, retry: RetryLimits, limits: BreakerLimits) -> None:
        self._retry, self._limits = retry, limits
        self.failures = 0
        self.state: BreakerState = "closed"

    def failed(self) -> None:
        self.failures += 1
        if self.failures >= self._limits.failures_max:
            self.state = "open"

    def succeeded(self) -> None:
        self.failures = 0
        self.state = "closed"

    def pause_s(self) -> float:
        """From the last failure to the next attempt."""
        if self.state == "open":
            return self._limits.open_ms / 1_000
        return pause_s(self._retry, self.failures)

    def probe(self) -> None:
        """The pause is over; what comes now decides."""
        if self.state == "open":
            self.state = "probing"


def pause_s(retry: RetryLimits, failures: int) -> float:
    """How long to wait after so many failures in a row."""
    # Past 32 doublings the pause is at its most anyway.
    longest_ms = min(retry.max_ms, retry.first_ms << min(failures - 1, 32))
    return longest_ms * random.uniform(0.5, 1.0) / 1_000
