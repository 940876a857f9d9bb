"""What the machine of a worker does to it: a clock that jumps, a disk without room, memory that runs out.

Owns the worker's side, called by `tests.faults.child` before anything of headrace is imported (`install_clock`,
`limit_files`) and after (`install`).

- The clock is off by the seconds in the points' file `clock`, from the moment that the file changes.
- `FILE_BYTES_VARIABLE` bounds the size of every file that the worker writes, as a disk without room does. What it says
  goes through a process without that bound.
- The point `out_of_memory` takes all memory away for a while, in the middle of a batch.
- The points `kill_in_restore` and `slow_restore` act while state is read from a changelog.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.faults.points import FOLDER_VARIABLE, take

FILE_BYTES_VARIABLE = "HEADRACE_FAULT_FILE_BYTES"
CLOCK_FILE = "clock"
CLOCK_LOOK_S = 0.05
ROOM_BYTES = 1_000_000
"""What is left when memory is short: too little for any batch."""
HELD_MAX = 500
"""Pieces of that size, more than a worker keeps for later."""
PAGE_BYTES = resource.getpagesize()
RESTORE_CLIENT = "headrace-restore"


def install_clock() -> None:
    """`time.time` and `time.time_ns` are off by what the file says."""
    path = Path(os.environ[FOLDER_VARIABLE]) / CLOCK_FILE
    true_time, true_time_ns = time.time, time.time_ns
    offset_s = 0.0

    def look() -> None:
        nonlocal offset_s
        while True:
            if path.exists():
                offset_s = float(path.read_text() or offset_s)
            time.sleep(CLOCK_LOOK_S)

    time.time = lambda: true_time() + offset_s
    time.time_ns = lambda: true_time_ns() + int(offset_s * 1e9)
    threading.Thread(target=look, name="clock", daemon=True).start()


def limit_files() -> None:
    """No file grows beyond the bound, if there is one. Python ignores the signal and gets an error instead."""
    bytes_max = os.environ.get(FILE_BYTES_VARIABLE)
    if bytes_max:
        output = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        assert output.stdin is not None
        for descriptor in (1, 2):
            os.dup2(output.stdin.fileno(), descriptor)
        output.stdin.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(bytes_max), int(bytes_max)))


def install() -> None:
    """Wrap what the points need."""
    from headrace.engine.subtopology import SubtopologyRunner
    from headrace.log.kafka.log import KafkaLog
    from tests.faults.child import wrap

    wrap(SubtopologyRunner, "run", _short_of_memory)
    wrap(KafkaLog, "consumer", _restoring)


def _short_of_memory(
    original: Callable[..., Any], runner: Any, rows: Mapping[str, Any], *arguments: Any, **options: Any
) -> Any:
    short = take("out_of_memory") if rows else None
    if short is None:
        return original(runner, rows, *arguments, **options)
    lift = threading.Timer(short["seconds"], _set_memory, [resource.RLIM_INFINITY])
    lift.start()  # Now: a thread needs memory too.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _set_memory(pages * PAGE_BYTES + ROOM_BYTES)
    answer = original(runner, rows, *arguments, **options)
    # There was enough by chance, or of memory kept for later, or it took so long that there is enough again: the engine
    # must bear this as well. Only so much is taken that the machine itself stays well.
    held = [bytearray(ROOM_BYTES) for _ in range(HELD_MAX)]
    del held, answer
    raise MemoryError


def _set_memory(bytes_max: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (bytes_max, resource.RLIM_INFINITY))


def _restoring(original: Callable[..., Any], log: Any, **options: Any) -> Any:
    consumer = original(log, **options)
    if options.get("client_id") == RESTORE_CLIENT:
        poll = consumer.poll

        def polled(*arguments: Any) -> Any:
            if (slow := take("slow_restore")) is not None:
                time.sleep(slow["seconds"])
            if take("kill_in_restore") is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            return poll(*arguments)

        consumer.poll = polled
    return consumer
