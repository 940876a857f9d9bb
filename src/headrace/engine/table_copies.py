"""Copies of looked-up tables on this machine's disk.

Owns the files `<folder>/<pipeline>/table.<subtopology>.<topic>/<partition>.state`, so that a restart reads of a table's
topic only what came since. The files are those of `local_state`; a commit in them is some rows of the table, its offset
is where the topic goes on.

- A file holds the rows up to a committed position of its task. One that is ahead of the position (somebody set it
  back), or that the topic has passed, is thrown away.
- A topic forgets deletions after a while (`delete.retention.ms`); a file that is older than half of that is thrown
  away, for it may hold keys that are gone.
- A file that grew beyond `GROWTH` times its size after loading is given up until the next restart, which reads the
  compacted topic.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace.contracts.contract import Contract
from headrace.engine import changelog
from headrace.engine.changelog import ChangelogReader, ChangelogUnreadable
from headrace.engine.checkpoint import Checkpoint
from headrace.engine.local_state import FileDamaged, LocalState, Message, StateFile
from headrace.engine.operator import PARTITION, StateChange
from headrace.engine.snapshots import StatePlace
from headrace.engine.subtopology import SubtopologyRunner
from headrace.log.port import TopicDescription, TopicPartition

GROWTH = 4
BYTES_MIN = 64_000_000
"""A file below this may grow."""
DELETE_RETENTION_MS = 86_400_000
"""Kafka's default."""

Place = tuple[int, TopicPartition]
"""Subtopology, and partition of the table's topic."""


@dataclass(slots=True)
class _Copy:
    """One file, and what it gets with the commit under way."""

    file: StateFile
    fingerprint: str
    bytes_max: int = BYTES_MIN
    pending: list[Message] = field(default_factory=list)


class TableCopies:
    """Of one pipeline in one process. Without a folder there are none."""

    def __init__(
        self,
        pipeline: str,
        environment: str,
        local: LocalState | None,
        topics: Callable[[], Mapping[str, TopicDescription]],
        fingerprints: Mapping[str, str],
    ) -> None:
        self._pipeline, self._environment, self._local = pipeline, environment, local
        self._topics, self._fingerprints = topics, fingerprints
        self._copies: dict[Place, _Copy] = {}

    # Restore

    def load(
        self, runner: SubtopologyRunner, here: TopicPartition, *, begin: int, target: int
    ) -> tuple[int | None, int]:
        """Give the runner what the disk has of a partition that begins at `begin` and is restored up to `target`.

        Returns from where the topic goes on, None for its beginning, and the bytes read.
        """
        copy = self._open(runner.index, here)
        if copy is None or not self._is_usable(copy, here, begin, target):
            return None, 0
        frames: list[pl.DataFrame] = []
        reader = ChangelogReader(here.partition)
        try:
            for _, messages in copy.file.commits():
                found = [reader.read(value) for _, value in messages]
                frames += [message.change.frame for message in found if message is not None]
        except (ChangelogUnreadable, FileDamaged, OSError) as error:
            copy.file.discard(str(error))
            return None, 0
        if frames:
            runner.load_table(here.topic, pl.concat(frames))
        copy.bytes_max = max(BYTES_MIN, GROWTH * copy.file.length_bytes)
        return copy.file.offset, copy.file.length_bytes

    def _open(self, subtopology: int, here: TopicPartition) -> _Copy | None:
        if self._local is None:
            return None
        topic_id = self._topics()[here.topic].topic_id
        step = f"table.{subtopology}.{here.topic}"
        fingerprint = self._fingerprints[here.topic]
        place = StatePlace(self._environment, self._pipeline, step, here.partition, topic_id)
        file = self._local.open(place, fingerprint)
        if file is None:
            return None
        self._copies[subtopology, here] = copy = _Copy(file, fingerprint)
        return copy

    def _is_usable(self, copy: _Copy, here: TopicPartition, begin: int, target: int) -> bool:
        file = copy.file
        if not file.commit:
            return False
        retention_ms = int(self._topics()[here.topic].config.get("delete.retention.ms", DELETE_RETENTION_MS))
        age_ms = (time.time() - file.path.stat().st_mtime) * 1000
        if not begin <= file.offset <= target:
            file.discard(f"it goes on at offset {file.offset}, outside of what there is, {begin} to {target}")
        elif age_ms > retention_ms / 2:
            file.discard("it is too old: deletions since may be gone from the topic")
        return bool(file.commit)

    def add(self, runner: SubtopologyRunner, topic: str, frame: pl.DataFrame) -> None:
        """Rows of a table that are part of the commit, or restore, under way."""
        frame = frame.select(runner.table_columns(topic))
        for partition in frame[PARTITION].unique().to_list():
            copy = self._copies.get((runner.index, TopicPartition(topic, partition)))
            if copy is not None:
                rows = frame.filter(pl.col(PARTITION) == partition)
                change = StateChange(partition, rows, {})
                values = changelog.encode(change, copy.fingerprint, commit=copy.file.commit + 1)
                copy.pending += [(changelog.DELTA, value) for value in values]

    def restored(self, runner: SubtopologyRunner, here: TopicPartition, offset: int) -> None:
        """The table is complete up to here."""
        copy = self._copies.get((runner.index, here))
        if copy is not None:
            self._write(copy, offset)

    # Commit and moves

    def collect(self, runners: Sequence[SubtopologyRunner]) -> None:
        """Take the rows since the last commit."""
        if not self._copies:
            return
        for copy in self._copies.values():
            copy.pending = []
        for runner in runners:
            for topic, frames in runner.table_rows.items():
                columns = runner.table_columns(topic)
                self.add(runner, topic, pl.concat(frame.select(columns) for frame in frames))

    def committed(self, durable: Mapping[TopicPartition, Checkpoint]) -> None:
        """They are behind committed positions."""
        for (subtopology, here), copy in list(self._copies.items()):
            if copy.pending and here in durable:
                self._write(copy, durable[here].of(subtopology).offset)
                if copy.file.length_bytes > copy.bytes_max:
                    copy.file.discard(f"it outgrew {copy.bytes_max} bytes; the topic is compacted")
                    copy.file.close()
                    del self._copies[subtopology, here]

    def forget(self, runner: SubtopologyRunner, kept: Mapping[TopicPartition, Checkpoint], *, are_lost: bool) -> None:
        """Partitions moved away, with these last positions."""
        for here, checkpoint in kept.items():
            copy = self._copies.pop((runner.index, here), None)
            if copy is not None:
                if not are_lost and copy.file.commit:
                    copy.pending = []
                    self._write(copy, checkpoint.of(runner.index).offset)
                copy.file.close()

    def close(self) -> None:
        """Leave all files to their next owners."""
        for copy in self._copies.values():
            copy.file.close()
        self._copies = {}

    def _write(self, copy: _Copy, offset: int) -> None:
        copy.file.append(copy.file.commit + 1, offset, copy.pending)
        copy.pending = []


def table_fingerprint(contract: Contract) -> str:
    """What rows of a table depend on, beside the topic."""
    meaning = (contract.schema.text, contract.kind.value, contract.key, contract.time, contract.record_time)
    return hashlib.sha256(repr(meaning).encode()).hexdigest()
