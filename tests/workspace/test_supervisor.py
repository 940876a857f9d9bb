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
