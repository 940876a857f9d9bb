"""A fleet in trouble: it ends in time with one status, a bad worker leaves the others alone, and nothing is left over.

Real processes; each folder is one fleet's, and a process is found by the folder in its command line.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_supervisor import DRAINS, STUBBORN, Running, pids, until, up

DRAIN_TIMEOUT_S = 1.5
END_MAX_S = 10.0
"""For the processes' own ends, on a busy machine."""

ONE_STUBBORN = f"""
import os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
try:
    os.mkdir(folder / "first")
    script = {STUBBORN!r}
except FileExistsError:
    script = {DRAINS!r}
exec(script)
"""

ONE_CRASHES = f"""
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
good = folder / "good"
try:
    os.mkdir(good)
except FileExistsError:
    (folder / f"crash-{{time.monotonic_ns()}}").touch()
    sys.exit(3)
exec({DRAINS!r})
"""

SUPERVISOR = """
import sys, threading
from headrace.workspace.supervisor import Supervisor
script, folder, workers = sys.argv[1:]
Supervisor([sys.executable, "-c", script, folder], int(workers), threading.Event()).run()
"""

HANGS_IN_ITS_DRAIN = """
import os, pathlib, sys, threading, time
from headrace.cli.stopping import leave_with_supervisor
stop = threading.Event()
leave_with_supervisor(stop, drain_timeout_s=0.5)
(pathlib.Path(sys.argv[1]) / f"up-{os.getpid()}").touch()
stop.wait()
(pathlib.Path(sys.argv[1]) / f"hangs-{os.getpid()}").touch()
while True:
    time.sleep(60)
"""


def alive(folder: Path) -> list[int]:
    """Processes that still name this folder, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose processes are gone at the end of the test, whatever happened in it."""
    yield tmp_path
    left = alive(tmp_path)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, "processes are left over"


def test_one_that_hangs_costs_the_others_nothing(folder: Path) -> None:
    """Of three workers one ignores SIGTERM: the others drain at once, it is killed in time, and the status says so."""
    running = Running(ONE_STUBBORN, folder, 3, drain_timeout_s=DRAIN_TIMEOUT_S)
    until(lambda: len(up(folder)) == 3)
    began_s = time.monotonic()
    running.stop.set()
    until(lambda: len(pids(folder, "drained")) == 2)
    assert running.wait() == 1
    assert DRAIN_TIMEOUT_S <= time.monotonic() - began_s < DRAIN_TIMEOUT_S + END_MAX_S
    assert not alive(folder)


def test_many_that_hang_end_together(folder: Path) -> None:
    """The stated time is that of the whole fleet, not of each worker after the other."""
    running = Running(STUBBORN, folder, 4, drain_timeout_s=DRAIN_TIMEOUT_S)
    until(lambda: len(up(folder)) == 4)
    began_s = time.monotonic()
    assert running.end() == 1
    assert time.monotonic() - began_s < 2 * DRAIN_TIMEOUT_S + 1
    assert not alive(folder)


def test_one_that_is_stopped_is_ended_all_the_same(folder: Path) -> None:
    """A worker under SIGSTOP takes no SIGTERM; it is killed when the time is over."""
    running = Running(DRAINS, folder, 2, drain_timeout_s=DRAIN_TIMEOUT_S)
    until(lambda: len(up(folder)) == 2)
    os.kill(pids(folder)[0], signal.SIGSTOP)
    assert running.end() == 1
    assert len(pids(folder, "drained")) == 1


def test_one_that_crashes_again_and_again_leaves_the_other_alone(folder: Path) -> None:
    """The other one runs on as the same process; the end is in time, and the status tells of the crash."""
    running = Running(ONE_CRASHES, folder, 2)
    until(lambda: len(list(folder.glob("crash-*"))) >= 5)
    (good,) = up(folder)
    assert alive(folder)
    began_s = time.monotonic()
    assert running.end() == 1
    assert time.monotonic() - began_s < END_MAX_S
    assert pids(folder, "drained") == [good]


def test_waits_of_a_crash_loop_grow(folder: Path) -> None:
    """Each wait is at least twice the last one's nominal length, so a broken worker costs little."""
    running = Running(ONE_CRASHES, folder, 2)
    until(lambda: len(list(folder.glob("crash-*"))) >= 6)
    running.end()
    crashes = sorted(int(path.name.removeprefix("crash-")) for path in folder.glob("crash-*"))
    waits_s = [(later - earlier) / 1e9 for earlier, later in itertools.pairwise(crashes)]
    for number, wait_s in enumerate(waits_s):
        assert wait_s >= 0.01 * 2**number


def test_a_stop_does_not_wait_for_a_restart(folder: Path) -> None:
    """A worker that waits to be started again is not started any more."""
    running = Running("import sys; sys.exit(3)", folder, 1)
    running.supervisor.backoff_first_s = 1_000.0
    until(lambda: running.supervisor.restarts >= 1)
    began_s = time.monotonic()
    assert running.end() == 1
    assert time.monotonic() - began_s < END_MAX_S


def supervised(script: str, folder: Path, workers: int) -> subprocess.Popen[bytes]:
    """A supervisor in a process of its own, with all its workers up."""
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, script, str(folder), str(workers)])
    until(lambda: len(up(folder)) == workers)
    return process


def test_workers_that_hang_after_their_supervisor_died_end_by_force(folder: Path) -> None:
    """Nobody is there to kill them: they do it themselves when the time of a drain is over."""
    supervisor = supervised(HANGS_IN_ITS_DRAIN, folder, 2)
    supervisor.kill()
    supervisor.wait()
    until(lambda: len(pids(folder, "hangs")) == 2)
    until(lambda: not alive(folder))
