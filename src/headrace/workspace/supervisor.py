"""Worker processes of one machine: started, started again when they crash, drained together.

Owns the processes of `headrace run --workers N`. Knows nothing of what they do.

- A worker that ends with 0 is done, with `EXIT_REFUSED` needs a person: neither starts again. Everything else is a
  crash: the worker starts again after a wait that doubles up to `BACKOFF_MAX_S` and falls back once it has run
  `HEALTHY_AFTER_S`.
- `stop` drains: SIGTERM to all, and SIGKILL to those that are still there after `drain_timeout_s`.
- A worker whose supervisor died sees the end of its standard input and drains by itself.
- One exit status: 0 when every worker's last run ended with 0, else 1.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
HEALTHY_AFTER_S = 60.0
DRAIN_TIMEOUT_S = 30.0
"""Longer than a transaction may take, shorter than the patience of most process managers."""
LOOK_INTERVAL_S = 0.1

EXIT_REFUSED = 1
"""A worker's own word that starting it again would change nothing."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Worker:
    """One place in the fleet, through all its restarts."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started_at_s: float = 0.0
    start_at_s: float = 0.0
    """When the next start is due, while there is no process."""
    crashes: int = 0
    """In a row."""
    exit_code: int | None = None
    """Of the last run; None before it ended."""
    is_over: bool = False


@dataclass(slots=True)
class Supervisor:
    """Runs `workers` processes of `command` until all are over or `stop` is set."""

    command: Sequence[str]
    workers: int
    stop: threading.Event
    folder: Path | None = None
    """Where the workers run; None: here."""
    drain_timeout_s: float = DRAIN_TIMEOUT_S
    backoff_first_s: float = BACKOFF_FIRST_S
    clock: Callable[[], float] = time.monotonic
    restarts: int = field(default=0, init=False)

    def run(self) -> int:
        """Blocks; returns the exit status."""
        fleet = [_Worker(number) for number in range(self.workers)]
        try:
            while not self.stop.is_set() and not all(worker.is_over for worker in fleet):
                for worker in fleet:
                    self._look_after(worker)
                self.stop.wait(LOOK_INTERVAL_S)
        finally:
            self._drain(fleet)
        return 0 if all(worker.exit_code == 0 for worker in fleet) else 1

    def _look_after(self, worker: _Worker) -> None:
        if worker.is_over:
            return
        if worker.process is None:
            if self.clock() >= worker.start_at_s:
                self._start(worker)
            return
        code = worker.process.poll()
        if code is not None:
            self._ended(worker, code)

    def _start(self, worker: _Worker) -> None:
        # The open pipe is the worker's sign that its supervisor lives.
        worker.process = subprocess.Popen(list(self.command), stdin=subprocess.PIPE, cwd=self.folder)
        worker.started_at_s = self.clock()
        _log.info("worker_started", worker=worker.number, pid=worker.process.pid)

    def _ended(self, worker: _Worker, code: int) -> None:
        pid = _forget_process(worker)
        worker.exit_code = code
        if code in (0, EXIT_REFUSED):
            worker.is_over = True
            _log.info("worker_ended", worker=worker.number, pid=pid, exit_code=code)
            return
        healthy = self.clock() - worker.started_at_s >= HEALTHY_AFTER_S
        worker.crashes = 1 if healthy else worker.crashes + 1
        wait_s = min(self.backoff_first_s * 2 ** (worker.crashes - 1), BACKOFF_MAX_S)
        worker.start_at_s = self.clock() + wait_s
        self.restarts += 1
        _log.warning("worker_crashed", worker=worker.number, pid=pid, cause=_cause(code), restart_in_s=wait_s)

    def _drain(self, fleet: Sequence[_Worker]) -> None:
        running = [worker for worker in fleet if worker.process is not None]
        for worker in running:
            assert worker.process is not None
            worker.process.send_signal(signal.SIGTERM)
        deadline_s = self.clock() + self.drain_timeout_s
        for worker in running:
            assert worker.process is not None
            try:
                worker.exit_code = worker.process.wait(max(deadline_s - self.clock(), 0.0))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.exit_code = worker.process.wait()
                _log.error("worker_killed", worker=worker.number, after_s=self.drain_timeout_s)
            pid = _forget_process(worker)
            _log.info("worker_ended", worker=worker.number, pid=pid, exit_code=worker.exit_code)


def _forget_process(worker: _Worker) -> int:
    process, worker.process = worker.process, None
    assert process is not None
    if process.stdin is not None:
        process.stdin.close()
    return process.pid


def _cause(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
