"""The transaction of a worker: outputs, repartition rows, changelog, dead letters and positions, all or none.

Owns the producer and the order of a commit:

1. operators flush, and what they give runs through the steps;
2. outputs and repartition rows with marks, then dead letters, then changelogs are produced;
3. positions are committed with the group metadata captured when the transaction began;
4. operators learn that their changes are durable; changelogs are cut before a finished snapshot.

Every transaction commits positions, unchanged ones too: without them a fenced worker's transaction would pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from headrace.engine.changelog_writer import ChangelogWriter
from headrace.engine.checkpoint import Checkpoint
from headrace.engine.dead_letters import DeadLetters
from headrace.engine.outbox import Outbox
from headrace.engine.repartition import Marks
from headrace.engine.subtopology import SubtopologyRunner
from headrace.engine.table_copies import TableCopies
from headrace.flow.plan import Delivery
from headrace.log.port import Admin, Consumer, GroupMetadata, Log, LogUnavailable, Producer, TopicPartition

PURGE_INTERVAL_S = 30.0
"""How often processed rows are removed from repartition topics; they are of no use to anybody once committed."""

log = structlog.get_logger("headrace.engine")


class Committer:
    """Writes one pipeline's transactions in one process. One thread."""

    def __init__(
        self,
        *,
        log: Log,
        consumer: Consumer,
        admin: Admin,
        outbox: Outbox,
        dead_letters: DeadLetters,
        delivery: Delivery,
        transactional_id: str,
        changelogs: ChangelogWriter,
        tables: TableCopies,
    ) -> None:
        self._log, self._consumer, self._admin = log, consumer, admin
        self._outbox, self._dead_letters = outbox, dead_letters
        self._delivery, self._transactional_id = delivery, transactional_id
        self._changelogs, self._tables = changelogs, tables
        self._purged_at_s = time.monotonic()
        self._producer: Producer | None = None
        self._group: GroupMetadata | None = None
        self.is_open = False

    def start(self) -> None:
        """Connect, and end a transaction that this worker's last run left open. Raises `LogUnavailable`.

        A client that is made for its first record makes that wait for its connections, now and then for a second: it
        looks again for what it did not know yet at fixed times.
        """
        _ = self.producer

    @property
    def producer(self) -> Producer:
        if self._producer is None:
            exactly_once = self._delivery is Delivery.EXACTLY_ONCE
            self._producer = self._log.producer(transactional_id=self._transactional_id if exactly_once else None)
        return self._producer

    def begin(self) -> None:
        """Open the transaction, if none is open."""
        if self.is_open:
            return
        if self._delivery is Delivery.EXACTLY_ONCE:
            self.producer.begin()
            # A question to the client's own thread, which rows that leave at once would wait for.
            self._group = self._consumer.group_metadata()
        self.is_open = True

    def send_early(self) -> None:
        """Hand collected rows to the producer before the commit: then they are on their way, and not in memory."""
        self._outbox.send(self.producer, {})

    def commit(
        self,
        runners: Sequence[SubtopologyRunner],
        marks: Callable[[], Mapping[str, Marks]],
        checkpoints: Callable[[], Mapping[TopicPartition, Checkpoint]],
    ) -> Mapping[TopicPartition, Checkpoint]:
        """Write everything and commit; returns the checkpoints that are durable now.

        Raises `TransactionAborted`, `Fenced`, `ProducerBroken`: nothing was committed; call `abort`.
        """
        assert self.is_open
        for runner in runners:
            runner.run({}, self._outbox.emit, flush=True)
        self._outbox.send(self.producer, marks())
        for outgoing in self._changelogs.messages(runners):
            self.producer.produce(outgoing)
        self._dead_letters.send(self.producer)
        self._tables.collect(runners)
        durable = checkpoints()
        self._commit_positions(durable)
        self.is_open = False
        for runner in runners:
            runner.commit()
        self._tables.committed(durable)
        self._drop_records(self._changelogs.committed())
        return durable

    def purge(self, durable: Mapping[TopicPartition, Checkpoint], topics: Iterable[str]) -> None:
        """Now and then, remove committed rows from these repartition topics."""
        if time.monotonic() - self._purged_at_s < PURGE_INTERVAL_S:
            return
        self._purged_at_s = time.monotonic()
        wanted = set(topics)
        self._drop_records({here: kept.offset for here, kept in durable.items() if here.topic in wanted})

    def _drop_records(self, before: Mapping[TopicPartition, int]) -> None:
        if not before:
            return
        try:
            self._admin.delete_records(before)
        except LogUnavailable as error:
            # Only space is at stake; the next cut removes these too.
            log.warning("records_not_removed", reason=str(error))

    def _commit_positions(self, durable: Mapping[TopicPartition, Checkpoint]) -> None:
        offsets = {here: checkpoint.to_commit(here) for here, checkpoint in durable.items()}
        if self._delivery is Delivery.EXACTLY_ONCE:
            assert self._group is not None
            self.producer.commit(offsets, self._group)
        else:
            self.producer.flush()
            self._consumer.commit(offsets)

    def abort(self, runners: Sequence[SubtopologyRunner], *, new_producer: bool) -> None:
        """Undo the open transaction here and in the log."""
        self._outbox.discard()
        self._dead_letters.discard()
        self._changelogs.aborted()
        for runner in runners:
            runner.rollback()
        self.is_open = False
        if new_producer:
            # Whoever replaced the old one, or took partitions over meanwhile, may have written.
            self._changelogs.doubt()
            self.drop_producer()
        elif self._delivery is Delivery.EXACTLY_ONCE:
            self.producer.abort()

    def forsake(self) -> None:
        """Leave an open transaction to its end, and ask no client. Its commit may be under way: what becomes of it is
        for the log to say."""
        if self.is_open:
            self._changelogs.doubt()
        self._outbox.discard()
        self._dead_letters.discard()
        self._changelogs.aborted()
        self.is_open = False

    def drop_producer(self) -> None:
        """The next use makes a new one."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def close(self) -> None:
        """Free the producer and the copies on disk."""
        self.drop_producer()
        self._changelogs.close()
        self._tables.close()
