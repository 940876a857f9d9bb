"""Worker processes: restarts, draining and the one exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from headrace.workspace.supervisor import Supervisor

DRAINS = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
(folder / f"up-{os.getpid()}").touch()
while not stopping:
    time.sleep(0.01)
(folder / f"drained-{os.getpid()}").touch()
"""

STUBBORN = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(pathlib.Path(sys.argv[1]) / f"up-{os.getpid()}").touch()
time.sleep(60)
"""

SUPERVISES = '''
import sys, threading
from headrace.workspace.supervisor import Supervisor
child = """import pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "up-1").touch()
sys.stdin.read()
(folder / "left").touch()
"""
Supervisor([sys.executable, "-c", child, sys.argv[1]], 1, threading.Event()).run()
'''


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def up(folder: Path) -> set[int]:
    return {int(path.name.removeprefix("up-")) for path in folder.glob("up-*")}


class Running:
    """A supervisor on a thread of the test."""

    def __init__(self, script: str, folder: Path, workers: int, **options: float) -> None:
        self.stop = threading.Event()
        command = [sys.executable, "-c", script, str(folder)]
        self.supervisor = Supervisor(command, workers, self.stop, backoff_first_s=0.01, **options)  # type: ignore[arg-type]
        self.status: int | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.status = self.supervisor.run()

    def end(self) -> int | None:
        self.stop.set()
        return self.wait()

    def wait(self) -> int | None:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.status


def test_stop_drains_all(tmp_path: Path) -> None:
    """Setting `stop` lets every worker drain, and the status is 0."""
    running = Running(DRAINS, tmp_path, 2)
    until(lambda: len(up(tmp_path)) == 2)
    assert running.end() == 0
    assert len(list(tmp_path.glob("drained-*"))) == 2


def test_killed_worker_starts_again(tmp_path: Path) -> None:
    """A worker killed by SIGKILL is replaced while the other one runs on; the end is still clean."""
    running = Running(DRAINS, tmp_path, 2)
    until(lambda: len(up(tmp_path)) == 2)
    victim, other = sorted(up(tmp_path))
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(up(tmp_path)) == 3)
    assert running.end() == 0
    assert running.supervisor.restarts == 1
    assert (tmp_path / f"drained-{other}").exists()
    assert not (tmp_path / f"drained-{victim}").exists()


def test_crashing_worker_waits_longer_each_time(tmp_path: Path) -> None:
    """A worker that always crashes starts again and again with growing waits, and the status is 1."""
    script = "import pathlib, sys, time; (pathlib.Path(sys.argv[1]) / f'up-{time.monotonic_ns()}').touch(); sys.exit(3)"
    running = Running(script, tmp_path, 1)
    until(lambda: len(up(tmp_path)) >= 4)
    assert running.end() == 1
    assert running.supervisor.restarts >= 3


def test_refusing_worker_is_not_started_again(tmp_path: Path) -> None:
    """Exit code 1 means that a person is needed: one start, status 1; exit code 0 is a clean end."""
    script = "import os, pathlib, sys; (pathlib.Path(sys.argv[1]) / f'up-{os.getpid()}').touch(); sys.exit(%d)"
    refused = Running(script % 1, tmp_path, 1)
    assert refused.wait() == 1
    assert len(up(tmp_path)) == 1
    assert Running(script % 0, tmp_path, 1).wait() == 0


def test_stubborn_worker_is_killed(tmp_path: Path) -> None:
    """A worker that does not drain in time is killed, and the status says so."""
    running = Running(STUBBORN, tmp_path, 1, drain_timeout_s=0.2)
    until(lambda: len(up(tmp_path)) == 1)
    assert running.end() == 1


def test_workers_notice_a_killed_supervisor(tmp_path: Path) -> None:
    """A worker's standard input ends when its supervisor is killed, so it can leave by itself."""
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISES, str(tmp_path)])
    until(lambda: bool(up(tmp_path)))
    supervisor.kill()
    supervisor.wait()
    until(lambda: (tmp_path / "left").exists())


def pids(folder: Path, what: str = "up") -> list[int]:
    """In the order of their coming."""
    found = sorted(folder.glob(f"{what}-*"), key=lambda path: path.stat().st_mtime_ns)
    return [int(path.name.removeprefix(f"{what}-")) for path in found]


def test_a_round_replaces_one_at_a_time(tmp_path: Path) -> None:
    """Each worker drains and comes back under a new process; the next one leaves only when it is ready."""
    running = Running(DRAINS, tmp_path, 3)
    until(lambda: len(up(tmp_path)) == 3)
    before, ready = set(pids(tmp_path)), set[int]()
    running.supervisor.replace_all(lambda pid: pid in ready)
    for done in range(3):
        until(lambda count=4 + done: len(up(tmp_path)) == count)  # type: ignore[misc]
        # While the newest is not ready no other one has been asked to leave.
        assert len(pids(tmp_path, "drained")) == done + 1
        ready.add(pids(tmp_path)[-1])
    until(lambda: running.supervisor._round is None)
    assert set(pids(tmp_path, "drained")) == before
    assert running.end() == 0
    assert running.supervisor.restarts == 0


def test_a_replacement_that_does_not_get_ready_ends_the_round(tmp_path: Path) -> None:
    """A broken change stays in one process: the others run on as they are."""
    running = Running(DRAINS, tmp_path, 3, ready_timeout_s=0.2, drain_timeout_s=0.2)
    until(lambda: len(up(tmp_path)) == 3)
    running.supervisor.replace_all(lambda pid: False)
    until(lambda: len(up(tmp_path)) == 4)
    until(lambda: running.supervisor._round is None)
    assert len(pids(tmp_path, "drained")) == 1
    running.end()


def test_a_round_kills_who_does_not_leave(tmp_path: Path) -> None:
    """The bound of draining holds for a replacement too; the round goes on, and the end is clean."""
    until_second = "(pathlib.Path(sys.argv[1]) / 'second').exists() or signal.signal("
    stubborn_once = STUBBORN.replace("signal.signal(", until_second)
    running = Running(stubborn_once, tmp_path, 1, drain_timeout_s=0.3)
    until(lambda: len(up(tmp_path)) == 1)
    (tmp_path / "second").touch()
    (first,) = up(tmp_path)
    running.supervisor.replace_all(lambda pid: pid != first)
    until(lambda: len(up(tmp_path)) == 2)
    until(lambda: running.supervisor._round is None)
    running.end()


def test_a_crash_of_another_one_is_mended_during_a_round(tmp_path: Path) -> None:
    """Looking after the fleet does not stop while a replacement gets ready."""
    running, ready = Running(DRAINS, tmp_path, 2), threading.Event()
    until(lambda: len(up(tmp_path)) == 2)
    running.supervisor.replace_all(lambda pid: ready.is_set() and pid in up(tmp_path))
    until(lambda: len(pids(tmp_path, "drained")) == 1)
    until(lambda: len(up(tmp_path)) == 3)
    (other,) = set(pids(tmp_path)[:2]) - set(pids(tmp_path, "drained"))
    os.kill(other, signal.SIGKILL)
    until(lambda: len(up(tmp_path)) == 4)
    ready.set()
    until(lambda: running.supervisor._round is None)
    assert running.end() == 0


def test_a_stop_while_workers_start_is_clean(tmp_path: Path) -> None:
    """A worker that SIGTERM meets before it listens had nothing in hand: that is no failure."""
    starting = (
        "import pathlib, sys, os, time; (pathlib.Path(sys.argv[1]) / f'up-{os.getpid()}').touch(); time.sleep(60)"
    )
    running = Running(starting, tmp_path, 1)
    until(lambda: len(up(tmp_path)) == 1)
    assert running.end() == 0
