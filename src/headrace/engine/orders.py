"""What other threads want of a worker.

Owns the way from a thread that serves people to the thread that owns a pipeline.

- A question is answered on the worker's thread between two transactions: it sees committed state, and nothing else.
- Questions wait in a bounded queue; one that finds no room is refused at once.
- A paused worker has committed what it did, reads nothing, stays in its group and keeps its state.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.errors import Fault, HeadraceError

if TYPE_CHECKING:
    from headrace.engine.assembly import Assembly

Answer = TypeVar("Answer")

QUESTIONS_MAX = 256
"""Waiting for one worker; more are asked than it can answer between commits."""


class WorkerBusy(HeadraceError):
    """A worker is asked more than it can answer, or does not run."""

    code = "engine.worker_busy"
    fault = Fault.RETRY


class Orders:
    """Of one pipeline in one process; thread-safe."""

    def __init__(self) -> None:
        self._paused = threading.Event()
        self._questions: deque[tuple[Callable[[Assembly], Any], Future[Any]]] = deque()
        self._lock = threading.Lock()
        self._is_open = False

    # For other threads

    def pause(self) -> None:
        """Idempotent; the worker stands still within a commit interval."""
        self._paused.set()

    def resume(self) -> None:
        """Idempotent."""
        self._paused.clear()

    @property
    def is_paused(self) -> bool:
        """Whether the worker should stand still."""
        return self._paused.is_set()

    def ask(self, call: Callable[[Assembly], Answer]) -> Future[Answer]:
        """`call` on the worker's thread, its result or error in the future. Raises `WorkerBusy`."""
        future: Future[Answer] = Future()
        with self._lock:
            if not self._is_open:
                raise WorkerBusy("the pipeline does not run in this process", cure="ask again in a moment")
            if len(self._questions) >= QUESTIONS_MAX:
                raise WorkerBusy(f"{QUESTIONS_MAX} questions wait for the worker", cure="ask again, less often")
            self._questions.append((call, future))
        return future

    # For the worker

    def open(self) -> None:
        """From now on questions are answered."""
        with self._lock:
            self._is_open = True

    def answer(self, parts: Assembly, *, in_doubt: bool = False) -> None:
        """Answer everything that waits. No transaction may be open. `in_doubt`: the worker may have lost its partitions
        without knowing, so everybody is refused."""
        while self._questions:
            call, future = self._questions.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            if in_doubt:
                future.set_exception(WorkerBusy("the log was silent for long", cure="ask again in some seconds"))
                continue
            try:
                result = call(parts)
            except Exception as error:  # noqa: BLE001 - it is the asker's, who gets it
                future.set_exception(error)
            else:
                future.set_result(result)

    def close(self) -> None:
        """Nobody answers any more; who waits is told."""
        with self._lock:
            self._is_open = False
            left, self._questions = self._questions, deque()
        for _, future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(WorkerBusy("the pipeline stopped", cure="ask again in a moment"))
