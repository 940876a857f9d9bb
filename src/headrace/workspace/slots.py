"""File locks of a workspace on one machine: worker slots, and components that run only once.

Owns `.headrace/slots/` and `.headrace/locks/`.

- A lock is the operating system's (`flock`): it ends with its process, however that dies. A file left behind
  locks nothing.
- A slot number is the lowest free one, so a restarted worker takes its old name and with it its state on disk and
  its transactional id.
- Locks hold between processes of one machine; between machines Kafka's fencing does the same work.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from headrace.workspace.errors import WorkspaceBusy
from headrace.workspace.place import LOCAL_FOLDER

SLOTS_MAX = 1024
"""Workers of one workspace on one machine; far above what one machine can run."""


class FileLock:
    """A held lock. Closing it, or the end of the process, gives it back."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Slot(FileLock):
    """A worker's place on this machine."""

    def __init__(self, lock_path: Path, descriptor: int, number: int) -> None:
        super().__init__(lock_path, descriptor)
        self.number = number
        self.name = f"{_hostname()}-{number}"
        """The instance name: stable over restarts."""


def take_slot(root: Path) -> Slot:
    """Take the lowest free slot of the workspace at `root`; raises `WorkspaceBusy` when all are taken."""
    folder = root / LOCAL_FOLDER / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SLOTS_MAX):
        path = folder / f"{number}.lock"
        descriptor = _try_lock(path)
        if descriptor is not None:
            return Slot(path, descriptor, number)
    raise WorkspaceBusy(f"all {SLOTS_MAX} slots in {folder} are taken", cure="stop workers that are not needed")


def try_lock(root: Path, name: str) -> FileLock | None:
    """The lock `name` of the workspace, or None while another process holds it."""
    folder = root / LOCAL_FOLDER / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.lock"
    descriptor = _try_lock(path)
    return None if descriptor is None else FileLock(path, descriptor)


def _try_lock(path: Path) -> int | None:
    # O_CLOEXEC is Python's default: a child never inherits the lock.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _hostname() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname()) or "host"
