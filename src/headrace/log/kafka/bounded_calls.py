"""Calls into a client that may never come back, given up after a while.

Owns one thread per client, begun with its first call.

- librdkafka's `send_offsets_to_transaction` passes its own timeout over while the group's coordinator is away, and may
  wait for ever (https://github.com/confluentinc/librdkafka/issues/5456, and 5511).
- A call that was given up goes on by itself. Nobody else may use the client from then on; once the call comes back
  the client is handed to `abandoned`, which frees it.
- Calls are made one at a time, in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue

THREAD_NAME = "kafka-bounded-calls"


class CallLost(Exception):
    """The call did not come back in time."""


class BoundedCalls:
    """Makes calls on a thread of its own. Used from one thread."""

    def __init__(self, abandoned: Callable[[], None]) -> None:
        self._abandoned = abandoned
        self._calls: SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.is_lost = False

    def make(self, call: Callable[[], None], *, within_s: float) -> None:
        """Raises what the call raises, or `CallLost`; no call may follow that."""
        assert not self.is_lost, "a call after one that was lost"
        if self._thread is None:
            # A thread that hangs must not keep the process from its end.
            self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            self._thread.start()
        future: Future[None] = Future()
        self._calls.put((call, future))
        if not wait([future], within_s).done:
            self.is_lost = True
            self.close()
            raise CallLost
        future.result()

    def close(self) -> None:
        """The thread ends once its last call has; idempotent."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread = None

    def _run(self) -> None:
        while (given := self._calls.get()) is not None:
            call, future = given
            try:
                call()
            # Raised where the call was asked for.
            except BaseException as error:  # noqa: BLE001
                future.set_exception(error)
            else:
                future.set_result(None)
        if self.is_lost:
            self._abandoned()
