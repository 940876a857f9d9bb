"""What resets of a pipeline did, and how far they came.

Owns `.headrace/resets/<environment>/<pipeline>/<time>/`: one folder a reset, with its journal (`reset.json`) and the
copies of what it takes away.

- A journal is replaced whole and made durable before the step that it tells of begins; so after a crash it tells what
  is left to do.
- It carries a checksum of its own, and one of every copy: damage is found before anything is changed.
- Of finished resets the newest `KEPT_MAX` stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.errors import Where
from headrace.log.port import OffsetAndMetadata, TopicPartition, TopicSpec
from headrace.workspace.control import DesiredState
from headrace.workspace.errors import WorkspaceError
from headrace.workspace.place import LOCAL_FOLDER

JOURNAL_FORMAT = 1
JOURNAL_FILE = "reset.json"
KEPT_MAX = 5
"""A copy may be as large as the state; more than a few are of no use to anybody."""


class ResetUnreadable(WorkspaceError):
    """What a reset kept is damaged, so it can be neither finished nor undone from there."""

    code = "workspace.reset_unreadable"


class Phase(StrEnum):
    """How far a reset is."""

    STOPPING = "stopping"
    """Nothing was changed yet."""
    CHANGING = "changing"
    """Everything is copied; changes are under way."""
    RESUMING = "resuming"
    """All changes are made; the pipeline is to go on."""
    DONE = "done"
    UNDOING = "undoing"
    """What was copied is being put back."""
    UNDONE = "undone"


OVER = frozenset({Phase.DONE, Phase.UNDONE})


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Position(_Value):
    """A committed offset with its text."""

    topic: str
    partition: int
    offset: int
    metadata: str = ""

    @classmethod
    def of(cls, here: TopicPartition, committed: OffsetAndMetadata) -> Position:
        return cls(topic=here.topic, partition=here.partition, offset=committed.offset, metadata=committed.metadata)

    @property
    def here(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)

    @property
    def committed(self) -> OffsetAndMetadata:
        return OffsetAndMetadata(self.offset, self.metadata)


class Topic(_Value):
    """A topic to be made anew."""

    name: str
    partitions: int
    config: Mapping[str, str]

    def spec(self, replication_factor: int) -> TopicSpec:
        return TopicSpec(self.name, self.partitions, replication_factor, self.config)


class Copy(_Value):
    """The records of a topic in a file."""

    topic: Topic
    file: str
    sha256: str
    records: int
    bytes: int


class Journal(_Value):
    """One reset."""

    format: int = JOURNAL_FORMAT
    pipeline: str
    environment: str
    group: str
    made_at_ms: int = Field(default_factory=lambda: time.time_ns() // 1_000_000)
    phase: Phase = Phase.STOPPING
    target: str
    """`beginning`, `time ...`, `offset ...` or `step ...`."""
    before: DesiredState
    """What was wanted of the pipeline, and is again when all is done."""
    remade: tuple[Topic, ...]
    emptied: tuple[str, ...]
    deleted: tuple[str, ...]
    positions: tuple[Position, ...] | None
    """Those of the group afterwards, all others are forgotten; None: they stay as they are."""
    positions_before: tuple[Position, ...] = ()
    copies: tuple[Copy, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.phase in OVER


def resets_folder(root: Path, environment: str, pipeline: str) -> Path:
    """Where the resets of a pipeline are kept."""
    return root / LOCAL_FOLDER / "resets" / environment / pipeline


def new_folder(root: Path, environment: str, pipeline: str) -> Path:
    """A folder for a reset that begins now."""
    parent = resets_folder(root, environment, pipeline)
    while True:
        folder = parent / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder


def write_journal(folder: Path, journal: Journal) -> None:
    """Replace the journal; durable when this returns."""
    value = journal.model_dump(mode="json")
    text = json.dumps({"sha256": _checksum(value), "reset": value}, indent=1)
    beside = folder / f"{JOURNAL_FILE}.tmp"
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / JOURNAL_FILE)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_journal(folder: Path) -> Journal:
    """Raises `ResetUnreadable`."""
    path = folder / JOURNAL_FILE
    try:
        raw = json.loads(path.read_bytes())
        journal = Journal.model_validate(raw["reset"])
        if raw["sha256"] != _checksum(raw["reset"]):
            raise ValueError("its checksum is wrong")
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ResetUnreadable(
            f"not the journal of a reset: {error}",
            where=Where(str(path)),
            cure=f"remove {folder}; if a reset was under way, run it again with `--take-over`",
        ) from error
    return journal


def journals(root: Path, environment: str, pipeline: str) -> list[tuple[Path, Journal]]:
    """The resets of a pipeline with their folders, oldest first. Raises `ResetUnreadable`."""
    parent = resets_folder(root, environment, pipeline)
    # A folder without a journal was never begun.
    return [(folder, read_journal(folder)) for folder in sorted(parent.glob("*")) if (folder / JOURNAL_FILE).is_file()]


def unfinished(root: Path, environment: str, pipeline: str) -> tuple[Path, Journal] | None:
    """The reset that broke off, if one did."""
    left = [(folder, journal) for folder, journal in journals(root, environment, pipeline) if not journal.is_over]
    return left[-1] if left else None


def forget(folder: Path) -> None:
    """Remove a reset and what it copied. The journal goes first, so that half a folder is no reset."""
    (folder / JOURNAL_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder)


def prune(root: Path, environment: str, pipeline: str) -> None:
    """Keep the newest finished resets only."""
    over = [folder for folder, journal in journals(root, environment, pipeline) if journal.is_over]
    for folder in over[:-KEPT_MAX]:
        forget(folder)


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
