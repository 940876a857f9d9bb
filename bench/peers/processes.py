"""A system at work: its processes, their processor time and memory, and how they end.

- Processor time and memory are those of the process that was started and of all below it, by `/proc`: nothing of the
  broker or of the harness is in them.
- Of processes that ended, what their parent says of them counts on.
- A system that is left behind is killed with its whole group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
CPU_CLOCK_SCHED = 2
"""Linux: the kind of a process's own clock that the scheduler keeps, in nanoseconds."""
STOP_TIMEOUT_S = 40.0
LOG_TAIL_CHARACTERS = 1_500


class SystemProcess:
    """One system, from its start."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        self.log = log
        self.output = log.with_suffix(".out")
        with log.open("wb") as errors, self.output.open("wb") as output:
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._ended: tuple[float, float, int] | None = None

    def has_ended(self) -> bool:
        """Whether the process that was started is gone."""
        if self._ended is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self._ended = (usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, code)
                self._process.returncode = code
        return self._ended is not None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    def cpu_seconds(self) -> float:
        """Of all its processes so far."""
        return self._ended[0] if self._ended else sum(cpu_seconds_of(pid) for pid in tree(self.pid))

    def peak_rss_mb(self) -> float:
        """The most memory that each of its processes held, together."""
        return self._ended[1] if self._ended else sum(_peak_kb(pid) for pid in tree(self.pid)) / 1024

    def tail(self) -> str:
        """The end of what it complained about."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:].strip()

    def stop(self) -> None:
        """SIGTERM, then time to drain, then SIGKILL to the whole group. Idempotent."""
        if not self.has_ended():
            self._signal(signal.SIGTERM, group=False)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while not self.has_ended() and time.monotonic() < deadline:
                time.sleep(0.02)
        self._signal(signal.SIGKILL, group=True)
        while not self.has_ended():
            time.sleep(0.02)

    def _signal(self, which: signal.Signals, *, group: bool) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, which) if group else os.kill(self.pid, which)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))


def cpu_seconds_of(pid: int) -> float:
    """Of one process, and of its children that ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        reaped = (int(fields[13]) + int(fields[14])) / TICKS_PER_SECOND
        # The same as the fields before, finer than their ticks of ten milliseconds.
        return time.clock_gettime((~pid << 3) | CPU_CLOCK_SCHED) + reaped
    except (FileNotFoundError, ProcessLookupError, OSError):
        return 0.0


def _peak_kb(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
