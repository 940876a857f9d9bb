"""A server of ours as a process of this machine: ports and locks for it, whether it lives, its end with its owner.

Owns nothing that runs. A process id alone says little, for they are used again: a server is known by its directory,
which stands in its command line.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_S = 0.05
PROGRAM_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/opt/homebrew/bin")
"""Where packages put the programs of servers; some of them are seldom on the PATH of a user."""


def find_program(name: str) -> Path | None:
    """Where this program is, if it is installed."""
    for folder in PROGRAM_FOLDERS:
        if os.access(Path(folder) / name, os.X_OK):
            return Path(folder) / name
    found = shutil.which(name)
    return None if found is None else Path(found)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses at this moment."""
    with_ports = [socket.socket() for _ in range(count)]
    try:
        for one in with_ports:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in with_ports]
    finally:
        for one in with_ports:
            one.close()


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system frees it when the holder dies."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def guard(pid: int, owner_pid: int, kind: signal.Signals, *, whole_group: bool) -> None:
    """A small process that sends `kind` to the server or its group when the owner is gone; it ends with the server."""
    target = f"-{pid}" if whole_group else str(pid)
    script = 'while kill -0 "$1" && kill -0 "$2"; do sleep 0.5; done 2>/dev/null; kill -s "$3" -- "$4" 2>/dev/null'
    subprocess.Popen(
        ["sh", "-c", script, "sh", str(owner_pid), str(pid), kind.name.removeprefix("SIG"), target],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def is_alive(pid: int, home: Path) -> bool:
    """Whether `pid` is the server of `home`."""
    with suppress(ChildProcessError):  # Ours and ended: do not mistake the zombie for a server.
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    return str(home) in _command_line(pid)


def has_ended(pid: int, home: Path, timeout_s: float) -> bool:
    """Whether the server of `home` ends within this time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not is_alive(pid, home):
            with suppress(ChildProcessError):  # A child of ours must not stay behind as a zombie.
                os.waitpid(pid, 0)
            return True
        time.sleep(POLL_S)
    return False


def _command_line(pid: int) -> str:
    """Of a running process; empty for one that ended."""
    if Path("/proc/self").exists():
        with suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
        return ""
    return subprocess.run(
        ["ps", "-ww", "-p", str(pid), "-o", "args="], capture_output=True, text=True, check=False
    ).stdout
