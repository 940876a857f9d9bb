"""The way in: a producer that writes records and offsets in one SQLite transaction.

- A transaction's records wait in memory. Beyond `HELD_BYTES_MAX` they are staged in the file, where nobody sees them.
- A commit is one SQLite transaction: it checks the producer's epoch and the group's ownership, gives the records their
  offsets, writes the group's offsets. Readers see all of it or nothing; there is no read of uncommitted records.
- Each commit counts up `producers.commits`. If the file fails in the middle of a commit, that counter tells what
  happened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

from headrace.log.embedded.errors import InvalidUse, LogFileCorrupt, LogFileFailed
from headrace.log.embedded.maintenance import STAGED_MS_MAX, Maintenance
from headrace.log.embedded.offsets import as_membership, check_membership, check_offsets, store_offsets
from headrace.log.embedded.outbox import Outbox
from headrace.log.embedded.segments import Encoded, append, append_blobs, insert_blob
from headrace.log.embedded.storage import Storage
from headrace.log.embedded.topics import Catalog, Topic
from headrace.log.port import (
    Fenced,
    GroupMetadata,
    OffsetAndMetadata,
    Outgoing,
    ProducerBroken,
    TopicPartition,
    TransactionAborted,
    UnknownTopic,
)

HELD_BYTES_MAX = 64 * 1024 * 1024
"""What a producer holds in memory before it writes (or, inside a transaction, stages) on its own."""

Blobs = list[tuple[Topic, int, list[Encoded]]]


class EmbeddedProducer:
    """A producer on one file. Belongs to one thread."""

    def __init__(
        self, storage: Storage, maintenance: Maintenance, clock: Callable[[], int], transactional_id: str | None
    ) -> None:
        self._storage, self._maintenance, self._clock = storage, maintenance, clock
        self._catalog = Catalog(storage)
        self._transactional_id = transactional_id
        self._outbox = Outbox()
        self._ready: Blobs = []
        """Encoded records of a write that did not come about; it may be tried again."""
        self._epoch = 0
        self._staged = 0
        self._open = False
        self._closed = False
        if transactional_id is not None:
            self._epoch = self._take_over(transactional_id)

    def begin(self) -> None:
        self._require(transactional=True)
        if self._open:
            raise InvalidUse(f"producer {self._transactional_id!r}: begin inside a transaction")
        with self._storage.snapshot() as connection:
            self._check_epoch(connection)
        self._open = True

    def produce(self, records: Outgoing) -> None:
        self._require(transactional=None)
        if self._transactional_id is not None and not self._open:
            raise InvalidUse(f"producer {self._transactional_id!r}: produce outside a transaction")
        if self._outbox.held_bytes > HELD_BYTES_MAX:
            # Before these records are held: if it fails, the caller may produce them again.
            if self._transactional_id is None:
                self.flush()
            else:
                self._stage(self._transactional_id)
        self._outbox.add(records, self._catalog.get(records.topic), self._clock())

    def flush(self, timeout_s: float = 30.0) -> None:
        self._require(transactional=None)
        if self._transactional_id is None and (self._outbox or self._ready):
            self._write(None, None)

    def commit(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata] | None = None,
        group: GroupMetadata | None = None,
    ) -> None:
        self._require(transactional=True)
        if not self._open:
            raise InvalidUse(f"producer {self._transactional_id!r}: commit outside a transaction")
        if (offsets is None) != (group is None):
            raise InvalidUse("offsets and group metadata come together")
        check_offsets(offsets or {})
        try:
            self._write(offsets, group)
        except Fenced:
            self._drop()
            raise
        self._open, self._staged = False, 0

    def abort(self) -> None:
        self._require(transactional=True)
        self._drop()

    def close(self) -> None:
        if self._closed:
            return
        try:
            if self._open:
                self._drop()
        except Fenced:
            # The producer that took over has dropped this one's transaction already.
            self._staged = 0
        finally:
            self._closed = True
            self._storage.close()

    def _require(self, *, transactional: bool | None) -> None:
        if self._closed:
            raise InvalidUse("the producer is closed")
        if transactional and self._transactional_id is None:
            raise InvalidUse("a producer without transactional id has no transactions")

    def _take_over(self, transactional_id: str) -> int:
        """A higher epoch fences every older producer of this id and ends its transaction."""
        with self._storage.write() as connection:
            row = connection.execute(
                "INSERT INTO producers VALUES (?, 1, 0) ON CONFLICT DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                (transactional_id,),
            ).fetchone()
            drop_staged(connection, transactional_id)
        return int(row[0])

    def _check_epoch(self, connection: sqlite3.Connection) -> None:
        sql = "SELECT epoch FROM producers WHERE transactional_id = ?"
        row = connection.execute(sql, (self._transactional_id,)).fetchone()
        if row is None or row[0] != self._epoch:
            raise Fenced(f"a newer producer took over transactional id {self._transactional_id!r}")

    def _stage(self, transactional_id: str) -> None:
        """Move what is held into the file, invisible until commit."""
        self._ready += self._outbox.take()
        blobs = [(topic, partition, blob) for topic, partition, each in self._ready for blob in each]
        now_ms = self._clock()
        with self._storage.write() as connection:
            self._check_epoch(connection)
            for sequence, (topic, partition, blob) in enumerate(blobs, start=self._staged + 1):
                _stage_blob(connection, transactional_id, sequence, topic.topic_id, partition, blob, now_ms)
        self._staged += len(blobs)
        self._ready = []

    def _write(self, offsets: Mapping[TopicPartition, OffsetAndMetadata] | None, group: GroupMetadata | None) -> None:
        self._ready += self._outbox.take()
        before = self._commits()
        try:
            appends = self._write_once(offsets, group)
        except (LogFileFailed, LogFileCorrupt) as error:
            if not self._is_committed(before, error):
                raise
            appends = {}
        self._ready = []
        self._maintenance.after_commit(appends)

    def _write_once(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata] | None, group: GroupMetadata | None
    ) -> dict[tuple[int, int], int]:
        now_ms = self._clock()
        appends: dict[tuple[int, int], int] = {}
        with self._storage.write() as connection:
            if self._transactional_id is not None:
                self._check_epoch(connection)
                self._count_commit(connection)
            if offsets is not None and group is not None:
                _commit_offsets(connection, offsets, group)
            if self._staged:
                appends |= self._append_staged(connection, now_ms)
            for topic, partition, blobs in self._ready:
                count = append(connection, topic.topic_id, partition, blobs, now_ms)
                if count is None:
                    raise self._topic_gone(topic)
                appends[topic.topic_id, partition] = count
        return appends

    def _append_staged(self, connection: sqlite3.Connection, now_ms: int) -> dict[tuple[int, int], int]:
        rows = connection.execute(
            "SELECT topic_id, partition, records, bytes, max_timestamp_ms, layout, checksum, blob_id FROM staged"
            " WHERE transactional_id = ? ORDER BY sequence",
            (self._transactional_id,),
        ).fetchall()
        if len(rows) != self._staged:
            raise TransactionAborted(
                f"producer {self._transactional_id!r}: the transaction was open for more than {STAGED_MS_MAX} ms"
            )
        appends: dict[tuple[int, int], int] = {}
        for topic_id, partition, records, size, max_timestamp_ms, layout, checksum, blob_id in rows:
            blob = Encoded(records, max_timestamp_ms, layout, checksum, size, None)
            count = append_blobs(connection, topic_id, partition, [(blob_id, blob)], now_ms)
            if count is None:
                raise TransactionAborted("a topic of the transaction was deleted")
            appends[topic_id, partition] = count
        connection.execute("DELETE FROM staged WHERE transactional_id = ?", (self._transactional_id,))
        return appends

    def _topic_gone(self, topic: Topic) -> Exception:
        if self._transactional_id is not None:
            return TransactionAborted(f"topic {topic.name!r} was deleted during the transaction")
        self._ready = [each for each in self._ready if each[0].topic_id != topic.topic_id]
        return UnknownTopic(f"topic {topic.name!r} was deleted before its records were written")

    def _count_commit(self, connection: sqlite3.Connection) -> None:
        sql = "UPDATE producers SET commits = commits + 1 WHERE transactional_id = ?"
        connection.execute(sql, (self._transactional_id,))

    def _commits(self) -> int:
        if self._transactional_id is None:
            return 0
        sql = "SELECT commits FROM producers WHERE transactional_id = ?"
        row = self._storage.row(sql, (self._transactional_id,))
        return 0 if row is None else int(row[0])

    def _is_committed(self, before: int, error: LogFileFailed | LogFileCorrupt) -> bool:
        """Ask the file whether a commit that failed half-way came about."""
        if self._transactional_id is None:
            return False
        self._storage.disconnect()
        try:
            return self._commits() > before
        except (LogFileFailed, LogFileCorrupt) as unreadable:
            raise ProducerBroken(
                f"producer {self._transactional_id!r}: the outcome of a commit is unknown: {error.message}",
                cure="repair the file, then make a new producer",
            ) from unreadable

    def _drop(self) -> None:
        self._outbox.clear()
        self._ready = []
        staged, self._staged, self._open = self._staged, 0, False
        if staged:
            with self._storage.write() as connection:
                self._check_epoch(connection)
                drop_staged(connection, str(self._transactional_id))


def _stage_blob(
    connection: sqlite3.Connection,
    transactional_id: str,
    sequence: int,
    topic_id: int,
    partition: int,
    blob: Encoded,
    now_ms: int,
) -> None:
    connection.execute(
        "INSERT INTO staged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            transactional_id,
            sequence,
            topic_id,
            partition,
            blob.records,
            blob.size,
            blob.max_timestamp_ms,
            blob.layout,
            blob.checksum,
            insert_blob(connection, blob),
            now_ms,
        ),
    )


def _commit_offsets(
    connection: sqlite3.Connection, offsets: Mapping[TopicPartition, OffsetAndMetadata], group: GroupMetadata
) -> None:
    membership = as_membership(group)
    try:
        check_membership(connection, membership, offsets)
        store_offsets(connection, membership.group, offsets)
    except UnknownTopic as error:
        raise TransactionAborted(f"offsets cannot be committed: {error.message}") from error


def drop_staged(connection: sqlite3.Connection, transactional_id: str) -> None:
    """Forget an open transaction, inside the caller's transaction."""
    connection.execute(
        "DELETE FROM blobs WHERE blob_id IN (SELECT blob_id FROM staged WHERE transactional_id = ?)",
        (transactional_id,),
    )
    connection.execute("DELETE FROM staged WHERE transactional_id = ?", (transactional_id,))
