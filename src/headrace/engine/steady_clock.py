"""The clock of a worker.

Owns what the time is in one process: the machine's time when the worker started, and the seconds since.

- It never goes back and never jumps, whatever happens to the machine's clock: a commit that is due in 100 ms is due in
  100 ms, and nobody is idle before their time.
- So after a jump of the machine's clock (not when it is slewed) ages and delays are told wrong by the jump, until the
  worker starts again. No result depends on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since 1970."""


def steady_clock(machine: Clock = time.time, monotonic: Clock = time.monotonic) -> Clock:
    """A clock that begins with the machine's time of now."""
    began_s, at_s = machine(), monotonic()
    return lambda: began_s + (monotonic() - at_s)
