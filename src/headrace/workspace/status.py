"""Status files: what each running component of a workspace last said about itself.

Owns `.headrace/status/<kind>.<name>.<instance>.json`, one file per component and instance.

- A file is replaced whole (written beside, then renamed), so a reader never sees half of one.
- A file that was not renewed for `STALE_AFTER_MS` belongs to a process that died; its state reads `lost`.
- Counters count since the component started; rates are per second over the time between two writes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.errors import Where
from headrace.workspace.errors import StatusInvalid
from headrace.workspace.place import LOCAL_FOLDER

STATUS_FORMAT = 1
WRITE_INTERVAL_S = 1.0
STALE_AFTER_MS = 10_000
"""Ten missed writes: more than a long pause of the machine, less than an operator's patience."""


class ComponentKind(StrEnum):
    """What runs."""

    PIPELINE = "pipeline"
    INGRESS = "ingress"
    EGRESS = "egress"


class ComponentState(StrEnum):
    """How it is."""

    STARTING = "starting"
    RESTORING = "restoring"
    """It rebuilds its state from the log."""
    RUNNING = "running"
    WAITING = "waiting"
    """The log or the registry does not answer."""
    STANDBY = "standby"
    """Another process runs it; this one takes over when that one ends."""
    PAUSED = "paused"
    """An operator paused it."""
    RETRYING = "retrying"
    """It failed and starts again after a wait."""
    STOPPED = "stopped"
    FAILED = "failed"
    """It failed and needs a person."""
    LOST = "lost"
    """Its process died without a word."""


class TopicLag(BaseModel):
    """How far a component is behind the end of a topic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    records: int
    seconds: float | None = None
    """Age of the oldest record not yet processed; None where it is not known."""


class SourceLogStatus(BaseModel):
    """What a database keeps of its own log for an ingress."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    behind_bytes: int
    kept_bytes: int
    safe_bytes: int | None = None
    behind_seconds: float | None = None


class ComponentStatus(BaseModel):
    """One component in one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = STATUS_FORMAT
    kind: ComponentKind
    name: str
    instance: str
    environment: str
    pid: int = Field(default_factory=os.getpid)
    state: ComponentState
    started_at_ms: int
    written_at_ms: int = Field(default_factory=lambda: time.time_ns() // 1_000_000)
    records_in: int = 0
    records_out: int = 0
    records_per_second: float = 0.0
    """Of `records_in`."""
    dead_letters: int = 0
    dropped: Mapping[str, int] = Field(default_factory=dict)
    """Rows left out by rule, by reason (`late`, `null_key`, ...)."""
    tasks: tuple[str, ...] = ()
    """What this instance works on now; a pipeline's tasks read `<subtopology>_<partition>`."""
    stream_time_ms: int | None = None
    """Smallest stream time of its partitions; None before the first record."""
    keys: int = 0
    """Live keys in state."""
    state_bytes: int = 0
    error: str | None = None
    """The last error, in one paragraph."""
    records_restored: int = 0
    """Read to rebuild state."""
    restore_records_done: int | None = None
    """Of the restore under way; None without one."""
    restore_records: int | None = None
    """To read in all, those done among them."""
    is_stuck: bool = False
    """Whether its thread does not come back."""
    lag: Mapping[str, TopicLag] = Field(default_factory=dict)
    """By topic, over the partitions of this process; empty while it is not known."""
    source_log: SourceLogStatus | None = None
    """Of an ingress from a database that keeps one for it."""
    snapshots: Mapping[str, int] = Field(default_factory=dict)
    """Of an ingress: tables whose rows are read just now, and how many were so far."""


def status_path(root: Path, kind: ComponentKind, name: str, instance: str) -> Path:
    """Where the file of a component and instance is."""
    return root / LOCAL_FOLDER / "status" / f"{kind.value}.{name}.{instance}.json"


def write_status(root: Path, status: ComponentStatus) -> None:
    """Replace the component's file."""
    path = status_path(root, status.kind, status.name, status.instance)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of this thread alone: the one that watches a worker writes too.
    beside = path.with_suffix(f".{status.pid}.{threading.get_ident()}.tmp")
    beside.write_text(status.model_dump_json(), encoding="utf-8")
    beside.replace(path)


def read_statuses(root: Path, *, now_ms: int | None = None) -> list[ComponentStatus]:
    """All status files, by kind, name and instance; those of processes that died read `lost`."""
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    folder = root / LOCAL_FOLDER / "status"
    return [_aged(_read(path), now) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> ComponentStatus:
    try:
        return ComponentStatus.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise StatusInvalid(
            f"not a status file: {problem['msg']}", where=Where(str(path)), cure="remove the file; it is written anew"
        ) from error


def _aged(status: ComponentStatus, now_ms: int) -> ComponentStatus:
    ended = status.state in (ComponentState.STOPPED, ComponentState.FAILED)
    if ended or now_ms - status.written_at_ms <= STALE_AFTER_MS:
        return status
    return status.model_copy(update={"state": ComponentState.LOST, "records_per_second": 0.0})
