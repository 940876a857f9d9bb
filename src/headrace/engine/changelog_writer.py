"""What a worker writes to its changelogs, and what it knows of them.

Owns the commit numbers of each changelog partition, when a partition is written whole, and the copies on local disk.

- A commit's messages are made before it and counted after it: an aborted one leaves no trace here.
- A finished snapshot makes what lies before it superfluous: the log is cut there, the local copy begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import structlog

from headrace.engine import changelog
from headrace.engine.changelog_arrow import WrittenFrames
from headrace.engine.local_state import Message, StateFile
from headrace.engine.operator import StateChange, StatefulOperator
from headrace.engine.snapshot_uploads import SnapshotUploads
from headrace.engine.subtopology import SubtopologyRunner
from headrace.flow.values import StatefulStep
from headrace.log.port import Admin, Consumer, LogUnavailable, Outgoing, TopicPartition

OFFSET_INTERVAL_S = 5.0
"""How old the offset may be that a local copy goes on from: so much of the log is passed over at a restart."""


log = structlog.get_logger("headrace.engine")


@dataclass(slots=True)
class Written:
    """One changelog partition that this process writes."""

    commit: int = 0
    """The number of the last commit; 0: there was none."""
    delta_rows: int = 0
    """Rows of deltas since the last snapshot."""
    offset: int = 0
    """At or before everything that is still to be written."""
    copy: StateFile | None = None


@dataclass(slots=True)
class _Pending:
    """What one partition gets with the commit under way."""

    here: TopicPartition
    delta_rows: int
    messages: list[Message] = field(default_factory=list)
    cut_before: int | None = None
    """Where the log is cut when its snapshot is committed."""


Place = tuple[str, int]
"""Step and partition."""


class ChangelogWriter:
    """Of one pipeline in one process."""

    def __init__(self, consumer: Consumer, admin: Admin, uploads: SnapshotUploads | None = None) -> None:
        self._consumer, self._admin, self._uploads = consumer, admin, uploads
        self._written: dict[Place, Written] = {}
        self._pending: dict[Place, _Pending] = {}
        self._asked_at_s = 0.0
        self._is_in_doubt = False
        """Whether the log may hold a commit that is not counted here."""

    def restored(self, step: str, partition: int, written: Written) -> None:
        """The state of a partition is here, as of `written`."""
        self._written[step, partition] = written

    def written(self, step: str, partition: int) -> Written:
        """What is known of a partition."""
        return self._written[step, partition]

    def forget(self, steps: Sequence[StatefulStep], partitions: Sequence[int], *, are_lost: bool) -> None:
        """Partitions moved away; their copies are for the next owner. Where nobody else can have written yet (not
        `are_lost`), a copy says that it has everything."""
        copied: dict[TopicPartition, Written] = {}
        for step in steps:
            for partition in partitions:
                written = self._written.pop((step.name, partition), None)
                self._pending.pop((step.name, partition), None)
                if written is not None and written.copy is not None:
                    copied[TopicPartition(step.changelog, partition)] = written
        if not are_lost:
            self._seal({here: written for here, written in copied.items() if written.commit})
        for written in copied.values():
            if written.copy is not None:
                self._leave(written.copy)

    def _leave(self, copy: StateFile) -> None:
        if self._uploads is not None:
            self._uploads.forget(copy.place)
        copy.close()

    def doubt(self) -> None:
        """The log may hold commits that are not counted here: copies cannot say that they have everything."""
        self._is_in_doubt = True

    def _seal(self, copied: Mapping[TopicPartition, Written]) -> None:
        if self._is_in_doubt:
            return
        for here, end in self._ends(list(copied)).items():
            written = copied[here]
            if written.copy is not None and written.copy.commit == written.commit and written.copy.offset < end:
                written.copy.append(written.commit, end, [])

    def _ends(self, here: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where the log ends; nothing when it does not say: an older offset is right too."""
        if not here:
            return {}
        try:
            return self._consumer.end_offsets(here, committed=False)
        except LogUnavailable as error:
            log.warning("changelog_offsets_not_known", code=error.code, reason=str(error))
            return {}

    def messages(self, runners: Sequence[SubtopologyRunner]) -> list[Outgoing]:
        """The changes since the last commit, as records."""
        self._pending = {}
        for runner in runners:
            for step in runner.steps:
                if isinstance(step, StatefulStep):
                    self._collect(step, runner.stateful[step.name])
        if self._pending:
            self._look_at_offsets()
        return [_outgoing(pending) for pending in self._pending.values()]

    def _collect(self, step: StatefulStep, operator: StatefulOperator) -> None:
        keys = operator.keys_count()
        changes: dict[int, list[StateChange]] = {}
        frames = WrittenFrames()
        for change in operator.changes():
            changes.setdefault(change.partition, []).append(change)
        for partition, found in changes.items():
            written = self._written[step.name, partition]
            rows = written.delta_rows + sum(change.frame.height for change in found)
            pending = _Pending(TopicPartition(step.changelog, partition), rows)
            self._pending[step.name, partition] = pending
            commit = written.commit + 1
            if not changelog.snapshot_is_due(delta_rows=rows, state_rows=keys.get(partition, 0)):
                for change in found:
                    pending.messages += _encoded(step, changelog.DELTA, change, commit, frames)
                continue
            pending.cut_before = written.offset = self._admin.end_offsets([pending.here])[pending.here]
            pending.delta_rows = 0
            kind = changelog.SNAPSHOT_FIRST
            for piece in operator.snapshot(partition, changelog.SNAPSHOT_ROWS_PER_CHANGE_MAX):
                pending.messages += _encoded(step, kind, piece, commit)
                kind = changelog.SNAPSHOT_MORE

    def _look_at_offsets(self) -> None:
        """Where the log ends now and then, before this commit's messages: all later ones lie behind it."""
        now = time.monotonic()
        if now - self._asked_at_s < OFFSET_INTERVAL_S:
            return
        self._asked_at_s = now
        places = {pending.here: self._written[place] for place, pending in self._pending.items()}
        copied = [here for here, written in places.items() if written.copy is not None]
        for here, end in self._ends(copied).items():
            places[here].offset = end

    def committed(self) -> dict[TopicPartition, int]:
        """The messages are durable. Returns where changelogs may be cut."""
        cuts: dict[TopicPartition, int] = {}
        for place, pending in self._pending.items():
            written = self._written[place]
            written.commit += 1
            written.delta_rows = pending.delta_rows
            if pending.cut_before is not None:
                cuts[pending.here] = pending.cut_before
            if written.copy is not None:
                anew = pending.cut_before is not None
                written.copy.append(written.commit, written.offset, pending.messages, anew=anew)
                self._offer(written.copy)
        self._pending = {}
        return cuts

    def _offer(self, copy: StateFile) -> None:
        """Let the copy be copied elsewhere, now and then."""
        uploads = self._uploads
        if uploads is not None and copy.length_bytes and uploads.is_due(copy.place, copy.commit):
            uploads.offer(copy.place, copy.path, copy.length_bytes, copy.commit)

    def aborted(self) -> None:
        """Nothing of it came into being."""
        self._pending = {}

    def close(self) -> None:
        """Leave all copies to their next owners."""
        for written in self._written.values():
            if written.copy is not None:
                written.copy.close()
        self._written = {}
        if self._uploads is not None:
            self._uploads.close()


def _encoded(
    step: StatefulStep, kind: bytes, change: StateChange, commit: int, frames: WrittenFrames | None = None
) -> list[Message]:
    return [(kind, value) for value in changelog.encode(change, step.fingerprint, commit=commit, frames=frames)]


def _outgoing(pending: _Pending) -> Outgoing:
    keys, values = [kind for kind, _ in pending.messages], [value for _, value in pending.messages]
    return Outgoing(
        pending.here.topic,
        pa.array(values, pa.large_binary()),
        key=pa.array(keys, pa.large_binary()),
        partition=np.full(len(values), pending.here.partition, np.int32),
    )
