"""Signals take effect whatever a process is doing."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

from headrace.cli import stopping

WAITS = """
import threading
from headrace.cli.stopping import stop_on_signals
stop = stop_on_signals()
import polars
polars.DataFrame({"a": [1]}).lazy().filter(polars.col("a") > 0).collect()
waiter = threading.Thread(target=stop.wait)
waiter.start()
print("up", flush=True)
waiter.join()
print("drained", flush=True)
"""


HANGS_UP = """
import fcntl, sys, termios, threading
if sys.argv[1:] == ["terminal"]:
    fcntl.ioctl(0, termios.TIOCSCTTY)
from headrace.cli.stopping import stop_on_signals
hangup = threading.Event()
stop = stop_on_signals(hangup)
print("up", flush=True)
while not stop.wait(0.05):
    if hangup.is_set():
        hangup.clear()
        print("hung up", flush=True)
print("drained", flush=True)
"""

HANGS = """
import threading, time
from headrace.cli.stopping import leave_with_supervisor
leave_with_supervisor(threading.Event(), 0.2)
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", stopping.STOP_SIGNALS)
def test_a_signal_reaches_a_process_whose_main_thread_waits(number: signal.Signals) -> None:
    """A wait without end on the main thread, as for running components, with Polars at work in the process."""
    waiting = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "up\n"
    waiting.send_signal(number)
    out, _ = waiting.communicate(timeout=20)
    assert (waiting.returncode, out) == (0, "drained\n")


def test_the_end_of_the_supervisor_stops_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words on standard input do not, its end does."""
    reader, writer = os.pipe()
    monkeypatch.setattr(stopping, "STDIN", reader)
    stop = threading.Event()
    stopping.leave_with_supervisor(stop, drain_timeout_s=10_000)
    os.write(writer, b"still here\n")
    assert not stop.wait(0.2)
    os.close(writer)
    assert stop.wait(20)
    os.close(reader)


def test_a_hangup_is_told_and_stops_nothing() -> None:
    """SIGHUP without a terminal is a wish of an operator, each time anew."""
    command = [sys.executable, "-c", HANGS_UP]
    waiting = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "up\n"
    for _ in range(2):
        waiting.send_signal(signal.SIGHUP)
        assert waiting.stdout.readline() == "hung up\n"
    waiting.terminate()
    out, _ = waiting.communicate(timeout=20)
    assert (waiting.returncode, out) == (0, "drained\n")


def test_a_terminal_that_goes_away_stops() -> None:
    """Its SIGHUP is nobody's wish to go on: the process drains."""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", HANGS_UP, "terminal"]
    waiting = subprocess.Popen(command, stdin=slave, stdout=subprocess.PIPE, text=True, start_new_session=True)
    os.close(slave)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "up\n"
    os.close(master)
    out, _ = waiting.communicate(timeout=20)
    assert (waiting.returncode, out) == (0, "drained\n")


def test_a_worker_that_hangs_does_not_outlive_its_supervisor() -> None:
    """It does not drain when told to: it ends by force."""
    hanging = subprocess.Popen([sys.executable, "-c", HANGS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert hanging.stdin is not None
    assert hanging.stdout is not None
    assert hanging.stdout.readline() == "up\n"
    hanging.stdin.close()
    assert hanging.wait(20) == -signal.SIGKILL
    hanging.stdout.close()
