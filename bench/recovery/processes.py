"""Starting, hearing and ending worker processes.

- What is started here is ended here, also when a measurement fails.
- Waiting is for an event or a condition, never for a time; every wait has an end.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from bench.recovery.worker import WorkerOrder, memory_mb

EVENT_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.02

Event = dict[str, Any]


class WorkerProcess:
    """A worker in a process of its own."""

    def __init__(self, order: WorkerOrder) -> None:
        self.order = order
        self.events: list[Event] = []
        self.started_at = time.time()
        command = [sys.executable, "-m", "bench.recovery.worker", order.text()]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def rss_mb(self) -> float:
        return memory_mb("VmRSS", self.pid)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def named(self, event: str) -> list[Event]:
        """The events of a name so far."""
        return [each for each in self.events if each["event"] == event]

    def wait_for(self, done: Callable[[WorkerProcess], bool]) -> None:
        """Until its events say so."""
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        with self._changed:
            while not done(self):
                assert self._process.poll() is None, f"worker {self.order.instance} ended with {self._process.poll()}"
                assert time.monotonic() < deadline, f"worker {self.order.instance} does not get there: {self.events}"
                self._changed.wait(0.2)

    def wait_restored(self, partitions: int) -> list[Event]:
        """Until so many partitions are here; the events that brought them."""
        self.wait_for(lambda worker: _partitions(worker.named("restored")) >= partitions)
        return self.named("restored")

    def kill(self) -> float:
        """kill -9; when."""
        at = time.time()
        self._process.kill()
        self._process.wait()
        return at

    def stop(self) -> None:
        """SIGTERM, and wait until it has drained. Idempotent."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            finally:
                self._process.kill()
                self._process.wait()
        self._reader.join(STOP_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._process.poll() is None:
            self.kill()
        self.stop()


def _partitions(events: list[Event]) -> int:
    return len({partition for event in events for partition in event["partitions"]})


def until(done: Callable[[], bool], what: str, timeout_s: float = EVENT_TIMEOUT_S) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"{what} does not come to pass"
        time.sleep(POLL_S)
