"""Worker processes of one machine: started, started again when they crash, drained together.

Owns the processes of `headrace run --workers N`. Knows nothing of what they do.

- A worker that ends with 0 is done, with `EXIT_REFUSED` needs a person: neither starts again. Everything else is a
  crash: the worker starts again after a wait that doubles up to `BACKOFF_MAX_S` and falls back once it has run
  `HEALTHY_AFTER_S`.
- `stop` drains: SIGTERM to all, and SIGKILL to those that are still there after `drain_timeout_s`.
- `replace_all` replaces the workers one at a time, each when the last one is ready. A replacement that does not get
  ready ends the round, so that a broken change stays in one process.
- Where a first worker must speak before the others, they start once it did. One that is refused before its word ends
  all, and what was wrong it has said itself.
- A worker whose supervisor died sees the end of its standard input and drains by itself.
- One exit status: 0 when every worker's last run ended with 0, else 1.
"""

from __future__ import annotations

import math
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
HEALTHY_AFTER_S = 60.0
DRAIN_TIMEOUT_S = 30.0
"""Longer than a transaction may take, shorter than the patience of most process managers."""
READY_TIMEOUT_S = 300.0
"""How long a replacement may restore state and catch up before a round is given up."""
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
    leave_by_s: float | None = None
    """It was asked to leave for a replacement, and is killed then."""


IsReady = Callable[[int], bool]
"""Whether the process of this id does its work. Must not block."""


@dataclass(slots=True)
class _Round:
    """A replacement of all workers, one at a time."""

    is_ready: IsReady
    waiting: list[_Worker]
    current: _Worker | None = None
    ready_by_s: float = 0.0


class First(Protocol):
    """How the first worker starts, and when the others may."""

    @property
    def command(self) -> Sequence[str]: ...

    @property
    def descriptors(self) -> Sequence[int]:
        """It inherits them."""

    def spoke(self) -> Sequence[str] | None:
        """The command of every worker that starts from now on; None as long as none may. Must not block."""


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
    ready_timeout_s: float = READY_TIMEOUT_S
    first: First | None = None
    """None: all start at once."""
    restarts: int = field(default=0, init=False)
    _fleet: list[_Worker] = field(default_factory=list, init=False)
    _asked: IsReady | None = field(default=None, init=False)
    _round: _Round | None = field(default=None, init=False)

    def replace_all(self, is_ready: IsReady) -> None:
        """Begin a round of replacements; one under way begins anew. Any thread may call."""
        self._asked = is_ready

    def run(self) -> int:
        """Blocks; returns the exit status."""
        fleet = self._fleet = [_Worker(number) for number in range(self.workers if self.first is None else 1)]
        try:
            while not self.stop.is_set() and not all(worker.is_over for worker in fleet):
                for worker in fleet:
                    self._look_after(worker)
                self._listen()
                self._go_round(fleet)
                self.stop.wait(LOOK_INTERVAL_S)
        finally:
            self._drain(fleet)
        return 0 if all(worker.exit_code == 0 for worker in fleet) else 1

    def _listen(self) -> None:
        """Let the others start once the first worker has spoken."""
        if self.first is None or (command := self.first.spoke()) is None:
            return
        self.command, self.first = command, None
        if (process := self._fleet[0].process) is not None:
            _log.info("worker_started", worker=0, pid=process.pid)
        self._fleet.extend(_Worker(number) for number in range(1, self.workers))

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
        elif worker.leave_by_s is not None and self.clock() >= worker.leave_by_s:
            worker.process.kill()
            worker.leave_by_s = math.inf
            _log.error("worker_killed", worker=worker.number, after_s=self.drain_timeout_s)

    def _start(self, worker: _Worker) -> None:
        try:
            # The open pipe is the worker's sign that its supervisor lives.
            worker.process = self._process()
        except OSError as error:
            # Too little memory, or too many processes: that may pass.
            self._start_later(worker, error=str(error))
            return
        worker.started_at_s = self.clock()
        if self.first is None:
            _log.info("worker_started", worker=worker.number, pid=worker.process.pid)

    def _process(self) -> subprocess.Popen[bytes]:
        command = self.command if self.first is None else self.first.command
        inherited = () if self.first is None else self.first.descriptors
        return subprocess.Popen(list(command), stdin=subprocess.PIPE, cwd=self.folder, pass_fds=inherited)

    def _ended(self, worker: _Worker, code: int) -> None:
        # Its last word may be its first.
        self._listen()
        pid = _forget_process(worker)
        worker.exit_code = code
        if worker.leave_by_s is not None:
            worker.leave_by_s, worker.start_at_s = None, self.clock()
            _log.info("worker_left", worker=worker.number, pid=pid, exit_code=code)
            return
        if code in (0, EXIT_REFUSED):
            worker.is_over = True
            if self.first is None:
                _log.info("worker_ended", worker=worker.number, pid=pid, exit_code=code)
            return
        healthy = self.clock() - worker.started_at_s >= HEALTHY_AFTER_S
        worker.crashes = 0 if healthy else worker.crashes
        self._start_later(worker, pid=pid, cause=_cause(code))

    def _start_later(self, worker: _Worker, **about: object) -> None:
        worker.crashes += 1
        wait_s = min(self.backoff_first_s * 2 ** (worker.crashes - 1), BACKOFF_MAX_S)
        worker.start_at_s = self.clock() + wait_s
        self.restarts += 1
        _log.warning("worker_crashed", worker=worker.number, restart_in_s=wait_s, **about)

    def _go_round(self, fleet: Sequence[_Worker]) -> None:
        """One look at the round of replacements, if there is one."""
        if self._asked is not None:
            under_way = self._round.current if self._round is not None else None
            self._round = _Round(self._asked, [each for each in fleet if not each.is_over], under_way)
            self._asked = None
            _log.info("replacing_workers", workers=len(self._round.waiting))
        if self._round is None:
            return
        current = self._round.current
        if current is None or self._is_replaced(self._round, current):
            self._replace_next(self._round)

    def _is_replaced(self, this: _Round, worker: _Worker) -> bool:
        """Whether the new process of a worker is ready. Ends the round when it will not be."""
        if worker.process is not None and worker.leave_by_s is None and this.is_ready(worker.process.pid):
            _log.info("worker_replaced", worker=worker.number, pid=worker.process.pid)
            this.current = None
            return True
        if worker.is_over or self.clock() >= this.ready_by_s:
            left = [each.number for each in this.waiting]
            _log.error("replacement_not_ready", worker=worker.number, not_replaced=left)
            self._round = None
        return False

    def _replace_next(self, this: _Round) -> None:
        this.waiting = [each for each in this.waiting if not each.is_over]
        if not this.waiting:
            _log.info("workers_replaced")
            self._round = None
            return
        worker = this.current = this.waiting.pop(0)
        this.ready_by_s = self.clock() + self.drain_timeout_s + self.ready_timeout_s
        if worker.process is not None:
            worker.process.send_signal(signal.SIGTERM)
            worker.leave_by_s = self.clock() + self.drain_timeout_s
        # Without a process it is about to start anyway.

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
            if worker.exit_code == -signal.SIGTERM and worker.crashes == 0:
                # It had only begun to start: there was nothing to drain yet.
                worker.exit_code = 0
            pid = _forget_process(worker)
            if self.first is None:
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
