"""Housekeeping that writers do beside their commits: merging, retention, and what deleted topics left.

- It never changes what a reader sees, but for retention, which only drops whole old segments from a partition's start.
- Every step is a transaction of its own with a bounded amount of work, and follows a commit that is already safe.
- A step that fails changes nothing and is done again later by whoever writes next; it never fails a commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing

from headrace.log.embedded.compaction import Compaction
from headrace.log.embedded.segments import (
    Stored,
    concat_columns,
    decode,
    newest,
    read_data,
    remove,
    replace_segments,
    stored,
)
from headrace.log.embedded.storage import Storage
from headrace.log.embedded.topics import Topic, all_topics
from headrace.log.port import LogError

MERGE_APPENDS = 32
"""A partition's small segments are looked at whenever so many were appended."""
MERGE_SEGMENTS_MIN = 16
SMALL_BYTES = 16 * 1024
"""Segments below this are merged: reading one costs about as much as reading this many bytes."""
MERGE_SEGMENTS_MAX = 256

ROUND_INTERVAL_MS = 30_000
"""How often, over all processes, the ages of all topics are looked at."""
REMOVED_SEGMENTS_MAX = 256
"""Segments dropped in one transaction, at most 256 MiB or so."""
STAGED_MS_MAX = 15 * 60 * 1000
"""Staged records of a transaction that nobody ended are dropped after this long, as Kafka ends old transactions."""


class Maintenance:
    """The housekeeping of one storage. Belongs to its thread."""

    def __init__(self, storage: Storage, clock: Callable[[], int]) -> None:
        self._storage, self._clock = storage, clock
        self._compaction = Compaction(storage, clock)
        self._round_ms = 0
        self.failures: list[LogError] = []
        """The last failed steps, for whoever asks why the file grows."""

    def after_commit(self, appends: Mapping[tuple[int, int], int]) -> None:
        """Small work where it is due. `appends` counts the appends ever made to each partition just written."""
        try:
            due = [place for place, count in appends.items() if count % MERGE_APPENDS == 0]
            for topic_id, partition in due:
                self.merge(topic_id, partition)
            if self._clock() - self._round_ms >= ROUND_INTERVAL_MS:
                self._round()
        except LogError as error:
            self.failures = [*self.failures[-9:], error]

    def run(self) -> None:
        """All that can be done now, however long it takes."""
        for topic in self._topics():
            for partition in range(topic.partitions):
                self.merge(topic.topic_id, partition)
                while topic.is_compacted and self._compaction.step(topic, partition, forced=True):
                    pass
                while self.retain(topic, partition):
                    pass
        self.purge()
        self._drop_old_stages()

    def merge(self, topic_id: int, partition: int) -> None:
        """Make one segment of the small ones at the end of a partition."""
        with self._storage.write() as connection:
            small = _small_tail(connection, topic_id, partition)
            if len(small) < MERGE_SEGMENTS_MIN:
                return
            where = f"topic {topic_id}[{partition}]"
            columns = concat_columns([decode(read_data(connection, segment), where) for segment in small])
            replace_segments(connection, topic_id, partition, small, columns)

    def retain(self, topic: Topic, partition: int) -> bool:
        """Drop segments that are too old or too many; whether there may be more."""
        with self._storage.snapshot() as connection:
            if not _expired(connection, topic, partition, self._clock()):
                return False
        with self._storage.write() as connection:
            old = _expired(connection, topic, partition, self._clock())
            if not old:
                return False
            connection.execute(
                "UPDATE partitions SET start_offset = max(start_offset, ?) WHERE topic_id = ? AND partition = ?",
                (old[-1].last_offset + 1, topic.topic_id, partition),
            )
            remove(connection, topic.topic_id, partition, old)
        return len(old) == REMOVED_SEGMENTS_MAX

    def purge(self) -> None:
        """Free what deleted topics held."""
        for (topic_id,) in self._storage.rows("SELECT topic_id FROM deleted_topics"):
            while self._purge_some(topic_id):
                pass

    def _round(self) -> None:
        """Look at every topic, unless another process did so lately."""
        now_ms = self._clock()
        self._round_ms = now_ms
        with self._storage.write() as connection:
            taken = connection.execute(
                "UPDATE counters SET value = ? WHERE name = 'retention_ms' AND abs(? - value) >= ?",
                (now_ms, now_ms, ROUND_INTERVAL_MS),
            ).rowcount
        if not taken:
            return
        for topic in self._topics():
            for partition in range(topic.partitions):
                self.retain(topic, partition)
                if topic.is_compacted:
                    self._compaction.step(topic, partition)
        self.purge()
        self._drop_old_stages()

    def _topics(self) -> list[Topic]:
        with self._storage.snapshot() as connection:
            return all_topics(connection)

    def _purge_some(self, topic_id: int) -> bool:
        with self._storage.write() as connection:
            rows = connection.execute(
                "SELECT partition, last_offset, blob_id FROM segments WHERE topic_id = ? LIMIT ?",
                (topic_id, REMOVED_SEGMENTS_MAX),
            ).fetchall()
            connection.executemany("DELETE FROM blobs WHERE blob_id = ?", [row[2:] for row in rows])
            connection.executemany(
                "DELETE FROM segments WHERE topic_id = ? AND partition = ? AND last_offset = ?",
                [(topic_id, *row[:2]) for row in rows],
            )
            if not rows:
                connection.execute("DELETE FROM deleted_topics WHERE topic_id = ?", (topic_id,))
        return bool(rows)

    def _drop_old_stages(self) -> None:
        before_ms = self._clock() - STAGED_MS_MAX
        if not self._storage.row("SELECT 1 FROM staged WHERE staged_ms < ? LIMIT 1", (before_ms,)):
            return
        with self._storage.write() as connection:
            connection.execute(
                "DELETE FROM blobs WHERE blob_id IN (SELECT blob_id FROM staged WHERE staged_ms < ?)", (before_ms,)
            )
            connection.execute("DELETE FROM staged WHERE staged_ms < ?", (before_ms,))


def _small_tail(connection: sqlite3.Connection, topic_id: int, partition: int) -> list[Stored]:
    """The small segments that end a partition, in order."""
    small: list[Stored] = []
    with closing(newest(connection, topic_id, partition)) as segments:
        for segment in segments:
            if segment.size >= SMALL_BYTES or len(small) == MERGE_SEGMENTS_MAX:
                break
            small.append(segment)
    return small[::-1]


def _expired(connection: sqlite3.Connection, topic: Topic, partition: int, now_ms: int) -> list[Stored]:
    """Segments at the start of a partition that may go: whole ones only.

    Age counts from the later of a record's own time and the time it was written, so that old events published
    today live as long as any other.
    """
    if not topic.is_deleted_by_age:
        return []
    age_ms, size_bytes = int(topic.setting("retention.ms")), int(topic.setting("retention.bytes"))
    sql = "SELECT coalesce(sum(bytes), 0) FROM segments WHERE topic_id = ? AND partition = ?"
    left = connection.execute(sql, (topic.topic_id, partition)).fetchone()[0] if size_bytes >= 0 else 0
    old: list[Stored] = []
    with closing(stored(connection, topic.topic_id, partition)) as segments:
        for segment in segments:
            left -= segment.size
            is_old = age_ms >= 0 and max(segment.max_timestamp_ms, segment.appended_ms) < now_ms - age_ms
            is_surplus = size_bytes >= 0 and left >= size_bytes
            if not (is_old or is_surplus) or len(old) == REMOVED_SEGMENTS_MAX:
                break
            old.append(segment)
    return old
