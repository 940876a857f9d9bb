"""`headrace` with fault points, for tests: `python -m tests.faults.child run|worker ...` takes the same arguments.

Owns the wrapping of the engine's and the client's calls; production code knows nothing of it.

- `run` is `headrace run`, whose workers are this module's `worker`.
- A fault point is armed by a file in the folder `HEADRACE_FAULT_POINTS` (see `tests.faults.points`). The first worker
  that reaches it takes it, and does what it says, once.
- What a test wants to know of a worker's inside goes to the folder's `events.jsonl`.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.faults import child_machine
from tests.faults.points import POLL_INTERVAL_VARIABLE, TRANSACTION_TIMEOUT_VARIABLE, note, take


class _Here(threading.local):
    """What the pipeline of this thread is at."""

    in_transaction = False


_here = _Here()


def kill() -> None:
    """kill -9 of this process, here and now."""
    os.kill(os.getpid(), signal.SIGKILL)


def stand_still() -> None:
    """SIGSTOP; whoever armed the point sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Put `around(original, *arguments)` in place of a function; a mistyped name fails here."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        return around(original, *arguments, **options)

    setattr(owner, name, wrapped)


def run_pass(
    original: Callable[..., Any], runner: Any, rows: Mapping[str, Any], *arguments: Any, **options: Any
) -> Any:
    """One pass over rows of a batch: what happens in the middle of it."""
    if not rows:
        return original(runner, rows, *arguments, **options)
    if (slow := take("slow_batch")) is not None:
        time.sleep(slow["seconds"])
    if take("term_in_batch") is not None:
        os.kill(os.getpid(), signal.SIGTERM)
    answer = original(runner, rows, *arguments, **options)
    if take("kill_in_batch") is not None:
        kill()
    return answer


class FaultyProducer:
    """Points around the calls of a transaction, in a subclass of either client."""

    @staticmethod
    def of(client: type) -> type:
        class Client(client):  # type: ignore[misc]
            def begin_transaction(self) -> None:
                super().begin_transaction()
                _here.in_transaction = True
                if (slow := take("slow_transaction")) is not None:
                    time.sleep(slow["seconds"])

            def send_offsets_to_transaction(self, *arguments: Any) -> None:
                # Everything is produced and flushed by now.
                if take("kill_before_offsets") is not None:
                    kill()
                if take("stop_before_offsets") is not None:
                    stand_still()
                super().send_offsets_to_transaction(*arguments)

            def commit_transaction(self, *arguments: Any) -> None:
                if take("kill_before_commit") is not None:
                    kill()
                if take("stop_before_commit") is not None:
                    stand_still()
                if take("late_reply") is not None:
                    # The request goes out, the answer is not waited for: the client raises that it may be asked again.
                    super().commit_transaction(0.0)
                    return
                super().commit_transaction(*arguments)
                _here.in_transaction = False
                if take("kill_after_commit") is not None:
                    kill()

            def abort_transaction(self, *arguments: Any) -> None:
                super().abort_transaction(*arguments)
                _here.in_transaction = False

        return Client


def install() -> None:
    """Wrap what fault points need. SIGUSR1 prints where every thread is."""
    faulthandler.register(signal.SIGUSR1)
    from headrace.engine import worker
    from headrace.engine.subtopology import SubtopologyRunner
    from headrace.log.kafka import choice, log, settings

    wrap(SubtopologyRunner, "run", run_pass)
    choice.NativeProducer = FaultyProducer.of(choice.NativeProducer)  # type: ignore[misc]
    choice.PythonProducer = FaultyProducer.of(choice.PythonProducer)  # type: ignore[misc]
    worker.RebalanceListener = _told(worker.RebalanceListener)  # type: ignore[misc]
    timeout_ms = os.environ.get(TRANSACTION_TIMEOUT_VARIABLE)
    if timeout_ms:
        log.KafkaLog.__init__.__kwdefaults__["transaction_timeout_ms"] = int(timeout_ms)
    interval_ms = os.environ.get(POLL_INTERVAL_VARIABLE)
    if interval_ms:
        settings.PROMISED_MEMBER = {**settings.PROMISED_MEMBER, "max.poll.interval.ms": int(interval_ms)}  # type: ignore[misc]


def _told(listener: Callable[..., Any]) -> Callable[..., Any]:
    """Rebalance callbacks that leave a note."""

    def telling(event: str, call: Callable[[Any], None]) -> Callable[[Any], None]:
        def called(partitions: Any) -> None:
            note(event, partitions=len(partitions), in_transaction=_here.in_transaction)
            call(partitions)

        return called

    def make(assigned: Any, revoked: Any, lost: Any) -> Any:
        return listener(telling("assigned", assigned), telling("revoked", revoked), telling("lost", lost))

    return make


def supervise() -> None:
    """Make `headrace run` start workers of this module, and not wait ever longer for those that tests kill."""
    from headrace.cli.worker import WorkerWords
    from headrace.workspace import supervisor

    command = WorkerWords.command

    def ours(words: WorkerWords) -> list[str]:
        parts = ["tests.faults.child" if part == "headrace.cli" else part for part in command(words)]
        assert "tests.faults.child" in parts
        return parts

    WorkerWords.command = ours  # type: ignore[method-assign]
    supervisor.HEALTHY_AFTER_S = 1.0  # type: ignore[misc]


def main() -> None:
    is_supervisor = sys.argv[1] == "run"
    if not is_supervisor:
        child_machine.limit_files()
        child_machine.install_clock()
    from headrace.cli.main import main as headrace

    if is_supervisor:
        supervise()
    else:
        install()
        child_machine.install()
    headrace()


if __name__ == "__main__":
    main()
