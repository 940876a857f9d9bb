"""Who looks on while a worker works.

Owns the word that a worker's thread does not come back: from a step (a user's function that hangs, or a coroutine that
blocks its loop), or from anything else, such as a call to a log that does not answer.

A thread cannot be ended from outside without harm, so it is named, in the log and in the worker's status, and nothing
else is done: the transaction stays open, nothing is lost, and the worker goes on when the call returns.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.get_logger("headrace.engine")

SILENT_AFTER_S = 5.0
"""Without a report for this long a worker's thread is busy with something that says nothing: half of what makes a
status stale."""

Working = tuple[str, float]
"""A step, and when it began by the monotonic clock."""


class Reports(Protocol):
    """What a worker says about itself."""

    reported_s: float
    """When it last did, by the monotonic clock."""

    def tell_busy(self) -> None: ...

    def tell_stuck(self, message: str) -> None: ...


class Watch:
    """A thread that looks at what a worker does. `close` ends it."""

    def __init__(self, stuck_after_s: float, working: Callable[[], Working | None], reports: Reports) -> None:
        self._stuck_after_s, self._working, self._reports = stuck_after_s, working, reports
        self._logged: Working | float | None = None
        """What was told in the log already: a step, or the last word before a silence."""
        self._over = threading.Event()
        told = contextvars.copy_context()
        self._thread = threading.Thread(target=told.run, args=(self._look_on,), name="watch", daemon=True)
        self._thread.start()

    def _look_on(self) -> None:
        while not self._over.wait(min(1.0, self._stuck_after_s / 2)):
            working, now_s = self._working(), time.monotonic()
            reported_s = self._reports.reported_s
            if working is not None:
                self._look_at_step(working, now_s)
            elif now_s - reported_s >= SILENT_AFTER_S:
                self._tell_silence(reported_s, now_s)

    def _look_at_step(self, working: Working, now_s: float) -> None:
        step, since_s = working
        for_s = now_s - since_s
        if for_s < self._stuck_after_s:
            if now_s - self._reports.reported_s >= SILENT_AFTER_S:
                self._reports.tell_busy()
            return
        self._reports.tell_stuck(
            f"step {step!r} has not returned for {for_s:.0f} s: a function in it hangs, or is very slow"
        )
        if working != self._logged:
            self._logged = working
            log.warning("step_does_not_return", step=step, after_s=round(for_s))

    def _tell_silence(self, reported_s: float, now_s: float) -> None:
        for_s = now_s - reported_s
        self._reports.tell_stuck(f"the worker's thread has not come back for {for_s:.0f} s from a call to the log")
        if reported_s != self._logged:
            self._logged = reported_s
            log.warning("worker_silent", after_s=round(for_s))

    def close(self) -> None:
        self._over.set()
        self._thread.join(5)
