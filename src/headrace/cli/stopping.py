"""What makes a process stop: signals, and the end of its supervisor.

Owns the handlers of SIGTERM and SIGINT and the watch over standard input.

- Both only set an event; who waits for it drains.
- The signal takes effect whatever the main thread is doing, blocking waits included.
"""

from __future__ import annotations

import os
import signal
import threading

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STDIN = 0


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set. Called once, on the main thread."""
    # Polars, when first imported, puts a handler of its own before ours: it would break off running queries, and it
    # makes the system restart interrupted waits, so that no handler of Python runs while the main thread waits.
    import polars  # noqa: F401

    stop = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def wait() -> None:
        while os.read(reader, 1)[0] not in STOP_SIGNALS:
            pass
        stop.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    # The interpreter's own C handler writes each signal's number there at once, without waiting for the main thread.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    return stop


def leave_with_supervisor(stop: threading.Event) -> None:
    """Set `stop` when standard input ends: the supervisor holds its other side for as long as it lives."""

    def wait() -> None:
        # Below Python's buffers: a thread that waits inside them would break the interpreter's shutdown.
        while os.read(STDIN, 1024):
            pass
        stop.set()

    threading.Thread(target=wait, name="supervisor-watch", daemon=True).start()
