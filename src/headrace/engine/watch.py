"""Who looks on while a step works.

Owns the word that a step does not come back: a user's function that hangs, or a coroutine that blocks its loop.

A thread cannot be ended from outside without harm, so the step is named, in the log and in the worker's status, and
nothing else is done: the transaction stays open, nothing is lost, and the worker goes on when the call returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger("headrace.engine")

Working = tuple[str, float]
"""A step, and when it began by the monotonic clock."""


class Watch:
    """A thread that looks at what a worker does. `close` ends it."""

    def __init__(
        self, pipeline: str, after_s: float, working: Callable[[], Working | None], tell: Callable[[str], None]
    ) -> None:
        self._pipeline, self._after_s, self._working, self._tell = pipeline, after_s, working, tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name=f"{pipeline}-watch", daemon=True)
        self._thread.start()

    def _look_on(self) -> None:
        logged: Working | None = None
        while not self._over.wait(min(1.0, self._after_s / 2)):
            working = self._working()
            if working is None:
                continue
            step, since_s = working
            for_s = time.monotonic() - since_s
            if for_s < self._after_s:
                continue
            self._tell(f"step {step!r} has not returned for {for_s:.0f} s: a function in it hangs, or is very slow")
            if working != logged:
                logged = working
                log.warning("a step does not return", pipeline=self._pipeline, step=step, after_s=round(for_s))

    def close(self) -> None:
        self._over.set()
        self._thread.join(5)
