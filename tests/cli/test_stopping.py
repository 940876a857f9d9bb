"""Signals take effect whatever a process is doing."""

from __future__ import annotations

import os
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
