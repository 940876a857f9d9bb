"""Patience with the world: the same call again, with backoff, until it answers or the worker stops.

Owns the backoff. Only errors whose fault is RETRY are tried again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

import structlog

from headrace.errors import Fault, HeadraceError

T = TypeVar("T")

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
JITTER = 0.2
"""Share of the backoff that is random, so that a fleet does not knock in step."""

log = structlog.get_logger("headrace.engine")


class Stopped(Exception):
    """The worker was asked to stop while it waited."""


class Patience:
    """Repeats calls. `waiting` is told why while it waits, and None when the world answers again."""

    def __init__(self, stop: threading.Event, waiting: Callable[[str | None], None]) -> None:
        self._stop, self._waiting = stop, waiting
        self._random = random.Random()

    def call(self, attempt: Callable[[], T]) -> T:
        """The result of `attempt`. Raises its error when that is no RETRY, and `Stopped`."""
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                result = attempt()
            except HeadraceError as error:
                if error.fault is not Fault.RETRY:
                    raise
                self._waiting(str(error))
                log.warning("waiting", code=error.code, reason=str(error), backoff_s=round(backoff_s, 2))
                self.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
            else:
                if backoff_s != BACKOFF_FIRST_S:
                    self._waiting(None)
                return result

    def sleep(self, seconds: float) -> None:
        """Wait, with jitter; raises `Stopped` at once when the worker is asked to stop."""
        if self._stop.wait(seconds * (1 + JITTER * self._random.random())):
            raise Stopped
