"""What makes a process stop: signals, and the end of its supervisor.

Owns the handlers of SIGTERM, SIGINT and SIGHUP and the watch over standard input.

- They only set an event; who waits for it drains.
- SIGHUP means something to who asks for it, and nothing to others; a terminal that went away stops a supervisor.
- A worker that does not drain after its supervisor died ends by force.
- The signal takes effect whatever the main thread is doing, blocking waits included.
"""

from __future__ import annotations

import os
import signal
import threading
import time

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STDIN = 0


def stop_on_signals(
    hangup: threading.Event | None = None, *, stop: threading.Event | None = None, with_polars: bool = True
) -> threading.Event:
    """An event, `stop` if given, that SIGTERM and SIGINT set; SIGHUP sets `hangup`. Called once, on the main thread.

    `with_polars` is for processes that use it, sooner or later.
    """
    if with_polars:
        # When first imported it puts a handler of its own before ours: it would break off running queries, and it
        # makes the system restart interrupted waits, so that no handler of Python runs while the main thread waits.
        import polars  # noqa: F401

    stop = stop or threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    has_terminal = _has_terminal()

    def wait() -> None:
        while (number := os.read(reader, 1)[0]) not in STOP_SIGNALS:
            if number == signal.SIGHUP and hangup is not None:
                if has_terminal and not _has_terminal():
                    break
                hangup.set()
        stop.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    # The interpreter's own C handler writes each signal's number there at once, without waiting for the main thread.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (*STOP_SIGNALS, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return stop


def _has_terminal() -> bool:
    """Whether standard input is a terminal that is still there."""
    try:
        os.tcgetpgrp(STDIN)
    except OSError:
        return False
    return True


def leave_with_supervisor(stop: threading.Event, drain_timeout_s: float) -> None:
    """Set `stop` when standard input ends: the supervisor holds its other side for as long as it lives.

    Who hangs is killed, as the supervisor would have done.
    """

    def wait() -> None:
        # Below Python's buffers: a thread that waits inside them would break the interpreter's shutdown.
        while os.read(STDIN, 1024):
            pass
        stop.set()
        time.sleep(drain_timeout_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="supervisor-watch", daemon=True).start()
