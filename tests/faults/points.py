"""Fault points between a test and its worker processes: files in one folder.

Owns the folder's form. `arm` and `Armed` are the test's side; `take` and `note` the worker's.

- `armed/<point>.<number>` waits to be taken. Taking renames it, so one process gets it, and only once.
- `taken/<point>.<number>.<pid>` was taken by that process.
- `events.jsonl` holds what workers noted, one JSON object a line.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "HEADRACE_FAULT_POINTS"
TRANSACTION_TIMEOUT_VARIABLE = "HEADRACE_FAULT_TRANSACTION_TIMEOUT_MS"
POLL_INTERVAL_VARIABLE = "HEADRACE_FAULT_POLL_INTERVAL_MS"
"""`max.poll.interval.ms` of group members. As a setting of all clients it is refused: others have long sessions."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Armed:
    """A point that some worker will take."""

    folder: Path
    name: str

    def taken_by(self) -> int | None:
        """The process that took it; None before."""
        found = list((self.folder / "taken").glob(f"{self.name}.*"))
        return int(found[0].suffix[1:]) if found else None

    def wait(self, timeout_s: float = 30.0) -> int:
        """The process that took it."""
        deadline_s = time.monotonic() + timeout_s
        while (pid := self.taken_by()) is None:
            assert time.monotonic() < deadline_s, f"no worker reached {self.name} within {timeout_s} s"
            time.sleep(0.02)
        return pid

    def withdraw(self) -> bool:
        """Whether nobody had taken it."""
        try:
            (self.folder / "armed" / self.name).unlink()
        except FileNotFoundError:
            return False
        return True


def arm(folder: Path, point: str, **arguments: Any) -> Armed:
    """Let the next worker that reaches `point` do what it says."""
    for name in ("armed", "taken"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    name = f"{point}.{next(_numbers)}"
    beside = folder / name
    beside.write_text(json.dumps(arguments))
    beside.rename(folder / "armed" / name)
    return Armed(folder, name)


def events(folder: Path) -> list[dict[str, Any]]:
    """What workers noted so far."""
    path = folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def take(point: str) -> dict[str, Any] | None:
    """The arguments of an armed point, if there is one for this process."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    if not (folder / "armed").exists():
        return None
    for path in (folder / "armed").glob(f"{point}.*"):
        to = folder / "taken" / f"{path.name}.{os.getpid()}"
        try:
            path.rename(to)
        except FileNotFoundError:
            continue
        arguments: dict[str, Any] = json.loads(to.read_text())
        note("taken", point=point)
        return arguments
    return None


def note(event: str, **facts: Any) -> None:
    """Leave a line for the test."""
    line = json.dumps({"event": event, "pid": os.getpid(), "at": time.time(), **facts}) + "\n"
    with (Path(os.environ[FOLDER_VARIABLE]) / "events.jsonl").open("a") as file:
        file.write(line)
