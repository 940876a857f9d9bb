"""Records into Kafka, alone or in transactions.

Owns one producer client (native or Python: `client`) and the state of its transaction.

- A call's rows are checked before any is queued: topic, partition and size.
- Passing errors repeat the same step; a commit that was sent is asked for again, never sent anew.
- An abortable error leaves only `abort`; a fatal one leaves only `close`, and so does a call that never came back.
- Once a commit was sent, an error that does not say "aborted" leaves its outcome open (`CommitUnknown`).
- `flush` comes before the offsets are sent, so that no offset outruns its records.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import structlog
from confluent_kafka import KafkaError, KafkaException

from headrace.log.columns import binary_sizes, header_sizes
from headrace.log.kafka.admin import kafka_offsets
from headrace.log.kafka.bounded_calls import BoundedCalls, CallLost
from headrace.log.kafka.client import Clients, Feed, ProducerClient
from headrace.log.kafka.cluster import Cluster, TopicFacts
from headrace.log.kafka.errors import (
    DENIED,
    PRODUCER_FENCED,
    LogDenied,
    is_fatal,
    is_passing,
    kafka_error,
    port_error,
)
from headrace.log.kafka.settings import BATCH_BYTES, ClientSettings, producer_settings
from headrace.log.port import (
    CommitUnknown,
    Fenced,
    GroupMetadata,
    Int64Column,
    LogError,
    LogUnavailable,
    OffsetAndMetadata,
    Outgoing,
    ProducerBroken,
    RecordTooLarge,
    TopicPartition,
    TransactionAborted,
    UnknownTopic,
)

RECORD_OVERHEAD_BYTES = 97
"""What Kafka adds to a record that is alone in its batch: 61 for the batch, up to 36 for the record."""

FACTS_FRESH_S = 5.0
"""A record is refused for its size only by a limit read this recently: it may have been raised."""

PARTITION_NEWS_TIMEOUT_S = 30.0
"""How long a new partition may be unknown to the broker that the client asks."""

RIGHTS_ASKED_AFTER_S = 10.0
"""How long records may stay unsent before the rights to write them are looked at: of a right that lacks in a
transaction librdkafka tells nobody. It keeps the records, or drops all of them."""

QUEUE_FULL_POLL_S = 0.02
FLUSH_LOOK_MIN_S, FLUSH_LOOK_MAX_S, FLUSH_LOOK_GROWTH = 0.001, 0.1, 1.1
"""How soon a flush that waits looks again whether all is stored. librdkafka by itself looks every ten milliseconds:
records that are stored wake nobody, since only failures are reported."""
LOST_AFTER_S = 5.0
"""Beyond its own timeout a call that has not come back never will."""
CLOSE_FLUSH_S = 10.0
"""How long `close` waits for records that nobody flushed."""

logger = structlog.get_logger("headrace.log.kafka")


class Phase(enum.Enum):
    """Where the transaction stands."""

    NONE = "none"
    OPEN = "open"
    DOOMED = "doomed"
    """Only `abort` is left."""
    COMMITTING = "committing"
    """The commit was sent; its outcome is asked for until it is known."""


class KafkaProducer:
    """The port's `Producer`."""

    def __init__(
        self,
        common: ClientSettings,
        user: Mapping[str, str],
        cluster: Cluster,
        clients: Clients,
        *,
        transactional_id: str | None,
        transaction_timeout_ms: int,
    ) -> None:
        self._cluster = cluster
        self._connection = cluster.connection
        self._transactional_id = transactional_id
        self._phase = Phase.NONE
        self._has_offsets = False
        """Whether the transaction under way moves a group."""
        self._topics: set[str] = set()
        """Those that the transaction under way writes to."""
        self._broken: LogError | None = None
        self._is_deaf = False
        """Whether the last question got no answer for as long as there is patience."""
        self._failures = 0
        self._first_failure: tuple[KafkaError, str] | None = None
        settings = producer_settings(
            common,
            user,
            transactional_id=transactional_id,
            transaction_timeout_ms=transaction_timeout_ms,
        )
        client = clients.producer(settings, self._on_failure)
        self._client: ProducerClient | None = client
        """None once it is closed, or lost in a call that does not come back."""
        self._bounded = BoundedCalls(abandoned=lambda: _free(client, is_broken=True))
        if transactional_id is not None:
            self._step("starting transactions", lambda: self._open().init_transactions(self._timeout_s()))

    def begin(self) -> None:
        self._raise_if_broken()
        assert self._transactional_id is not None, "begin() needs a transactional id"
        assert self._phase is Phase.NONE, f"begin() in phase {self._phase.value}"
        self._step("beginning a transaction", self._open().begin_transaction)
        self._phase = Phase.OPEN
        self._topics.clear()

    def produce(self, records: Outgoing) -> None:
        self._raise_if_broken()
        if self._transactional_id is not None:
            assert self._phase in (Phase.OPEN, Phase.DOOMED), f"produce() in phase {self._phase.value}"
        rows = len(records)
        if rows == 0:
            return
        facts = self._check_partitions(records)
        if self._transactional_id is not None:
            self._topics.add(records.topic)
        sizes = _record_sizes(records)
        facts = self._check_sizes(records.topic, sizes, facts)
        is_any_batch_good = facts.record_bytes_max > BATCH_BYTES
        feed = self._open().feed(records, may_group=is_any_batch_good)
        if is_any_batch_good:
            self._enqueue(records.topic, feed, 0, rows)
        else:
            self._enqueue_in_small_batches(records.topic, feed, sizes, facts.record_bytes_max)
        self._poll(0)

    def flush(self, timeout_s: float = 30.0) -> None:
        self._raise_if_broken()
        at_first_s = min(timeout_s, RIGHTS_ASKED_AFTER_S)
        left = self._flush_for(at_first_s)
        if left:
            # Whoever closes now waits for nothing more.
            self._is_deaf = True
            self._raise_if_forbidden()
            left = self._flush_for(timeout_s - at_first_s)
            self._is_deaf = bool(left)
        if left:
            raise LogUnavailable(
                f"{left} records are not stored by Kafka at {self._connection.bootstrap_servers} after {timeout_s:g} s",
                cure="check the brokers; flush() may be called again and waits for the same records",
            )

    def _flush_for(self, timeout_s: float) -> int:
        """How many records are left after so long."""
        deadline_s = time.monotonic() + timeout_s
        look_s = FLUSH_LOOK_MIN_S
        try:
            while (left := self._open().flush(min(look_s, timeout_s))) and time.monotonic() < deadline_s:
                look_s = min(look_s * FLUSH_LOOK_GROWTH, FLUSH_LOOK_MAX_S, max(0.0, deadline_s - time.monotonic()))
        except KafkaException as raised:
            self._raise_from(raised, action="flushing")
        self._raise_failures()
        return left

    def _raise_if_forbidden(self) -> None:
        """Records of a transaction are never sent when one of its topics may not be written."""
        try:
            forbidden = self._cluster.unwritable(self._topics)
        except LogUnavailable:
            return  # Then that is what is wrong, and the records are waited for.
        if forbidden:
            raise LogDenied(
                f"the user of {self._connection.bootstrap_servers} may not write to topic {forbidden[0]!r}",
                cure="grant it the operation WRITE on the topic (kafka-acls --add --operation Write --topic ...)",
            )

    def commit(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata] | None = None,
        group: GroupMetadata | None = None,
    ) -> None:
        self._raise_if_broken()
        assert (offsets is None) == (group is None), "offsets and group come together"
        self._has_offsets = offsets is not None
        if self._phase is not Phase.COMMITTING:
            assert self._phase in (Phase.OPEN, Phase.DOOMED), f"commit() in phase {self._phase.value}"
            self._raise_if_doomed()
            if offsets:
                # While records are on their way: behind them these two requests would be the longest part of a commit.
                positions = kafka_offsets(offsets)
                self._step("sending offsets to the transaction", lambda: self._send_offsets(positions, group))
            self.flush(self._connection.unavailable_after_s)
            self._phase = Phase.COMMITTING
        self._step("committing the transaction", lambda: self._open().commit_transaction(self._timeout_s()))
        self._phase = Phase.NONE

    def _send_offsets(self, positions: list[Any], group: GroupMetadata | None) -> None:
        send, timeout_s = self._open().send_offsets_to_transaction, self._timeout_s()
        try:
            self._bounded.make(lambda: send(positions, group, timeout_s), within_s=timeout_s + LOST_AFTER_S)
        except CallLost:
            self._client = None
            self._broken = ProducerBroken(
                f"producer {self._transactional_id!r} did not come back from sending offsets within "
                f"{timeout_s + LOST_AFTER_S:g} s",
                cure="make a new producer and rewind",
            )
            raise self._broken from None

    def abort(self) -> None:
        self._raise_if_broken()
        assert self._phase is not Phase.NONE, "abort() without a transaction"
        self._step("aborting the transaction", lambda: self._open().abort_transaction(self._timeout_s()))
        self._phase = Phase.NONE
        # The aborted records reported themselves as purged.
        self._forget_failures()

    def close(self) -> None:
        if self._client is None:
            return
        try:
            self._leave()
        finally:
            client, self._client = self._client, None
            self._bounded.close()
            _free(client, is_broken=self._broken is not None)

    def _leave(self) -> None:
        """Abort what is open, or wait for what is queued; trouble is told, not raised."""
        if self._broken is not None or self._is_deaf:
            return
        try:
            if self._phase is not Phase.NONE:
                self.abort()
            elif self._transactional_id is None:
                self.flush(CLOSE_FLUSH_S)
        except LogError as error:
            logger.warning("kafka_producer_closed_in_trouble", code=error.code, reason=str(error))

    def _open(self) -> ProducerClient:
        assert self._client is not None, "the producer is closed"
        return self._client

    def _timeout_s(self) -> float:
        return self._connection.request_timeout_s()

    def _poll(self, timeout_s: float) -> None:
        """Hear of failures."""
        try:
            self._open().poll(timeout_s)
        except KafkaException as raised:
            self._raise_from(raised, action="producing")

    def _enqueue(self, topic: str, feed: Feed, start: int, stop: int) -> None:
        """Hand rows to the client, waiting while its queue is full."""
        done, news_deadline = start, time.monotonic() + PARTITION_NEWS_TIMEOUT_S
        while True:
            done, error = feed.queue(done, stop)
            if error is None:
                return
            if error.code() == KafkaError._QUEUE_FULL:
                self._poll(QUEUE_FULL_POLL_S)
                continue
            if error.code() != KafkaError._UNKNOWN_PARTITION or time.monotonic() > news_deadline:
                self._raise_refusal(error, topic, done - start)
            # The partition is there (checked), but new, and this client has not heard of it.
            self._step("learning of new partitions", lambda: self._learn(topic))

    def _learn(self, topic: str) -> None:
        self._open().list_topics(topic, timeout=self._timeout_s())

    def _enqueue_in_small_batches(self, topic: str, feed: Feed, sizes: Int64Column, limit: int) -> None:
        """For a topic whose limit is below the client's batch size: the client would build refused batches."""
        self.flush(self._connection.unavailable_after_s)
        start, batch_bytes = 0, 0
        for row, size in enumerate(sizes.tolist()):
            if batch_bytes + size > limit and row > start:
                self._enqueue(topic, feed, start, row)
                self.flush(self._connection.unavailable_after_s)
                start, batch_bytes = row, 0
            batch_bytes += size
        self._enqueue(topic, feed, start, len(sizes))

    def _check_partitions(self, records: Outgoing) -> TopicFacts:
        topic = records.topic
        facts = self._cluster.facts(topic)
        if records.partition is None:
            return facts
        lowest, highest = int(records.partition.min()), int(records.partition.max())
        if highest >= facts.partitions:
            # It may have grown.
            self._cluster.forget(topic)
            facts = self._cluster.facts(topic)
        if lowest < 0 or highest >= facts.partitions:
            wrong = lowest if lowest < 0 else highest
            raise UnknownTopic(f"topic {topic!r} has no partition {wrong}: it has {facts.partitions}")
        return facts

    def _check_sizes(self, topic: str, sizes: Int64Column, facts: TopicFacts) -> TopicFacts:
        if sizes.max() <= facts.record_bytes_max:
            return facts
        if time.monotonic() - facts.read_at > FACTS_FRESH_S:
            self._cluster.forget(topic)
            facts = self._cluster.facts(topic)
        too_large = np.flatnonzero(sizes > facts.record_bytes_max)
        if len(too_large):
            row = int(too_large[0])
            raise RecordTooLarge(
                f"row {row} for topic {topic!r} takes {int(sizes[row])} bytes; "
                f"the topic's max.message.bytes is {facts.record_bytes_max}",
                row=row,
            )
        return facts

    def _raise_refusal(self, error: KafkaError, topic: str, queued: int) -> None:
        """The client refused a row on its own; librdkafka would still commit the others, so doom them."""
        self._break_if_fatal(error)
        self._cluster.forget(topic)
        if self._transactional_id is not None:
            self._phase = Phase.DOOMED
            if error.code() == KafkaError._STATE:
                # The transaction has failed already; the client knew it before we were told why.
                self._poll(0)
                self._raise_if_doomed()
        action = f"producing to topic {topic!r} (after {queued} rows of this call)"
        raise port_error(error, action=action, subject=f"topic {topic!r}")

    def _on_failure(self, error: KafkaError, topic: str, records: int) -> None:
        self._failures += records
        if self._first_failure is None:
            self._first_failure = error, topic

    def _forget_failures(self) -> None:
        self._failures, self._first_failure = 0, None

    def _raise_failures(self) -> None:
        """What went wrong with records since the last time; in a transaction it stays wrong until the abort."""
        if self._first_failure is None:
            return
        error, topic = self._first_failure
        self._cluster.forget(topic)
        action = f"storing {self._failures} records, the first for topic {topic!r}"
        self._break_if_fatal(error)
        if self._transactional_id is not None:
            if error.code() == KafkaError._MSG_TIMED_OUT:
                # Nobody took them for as long as a transaction may last. A client that saw a cluster without brokers
                # once may never find them again (librdkafka #5301): a new one does.
                self._broken = ProducerBroken(f"{action}: {error.str()}", cure="make a new producer and rewind")
                raise self._broken
            self._phase = Phase.DOOMED
            self._raise_if_doomed()
        self._forget_failures()
        if is_passing(error) or error.code() == KafkaError._MSG_TIMED_OUT:
            raise self._connection.unavailable(action, error.str())
        raise port_error(error, action=action, subject=f"topic {topic!r}")

    def _raise_if_doomed(self) -> None:
        """What the broker does not allow is told as that: the same transaction again would be refused again."""
        if self._phase is Phase.DOOMED:
            reason = ""
            if self._first_failure is not None:
                error, topic = self._first_failure
                if error.code() in DENIED:
                    raise port_error(error, action=f"storing records for topic {topic!r}")
                if error.code() == KafkaError._PURGE_QUEUE:
                    self._raise_if_forbidden()
                reason = f": {self._failures} records failed, the first for topic {topic!r}: {error.str()}"
            raise TransactionAborted(f"the transaction of {self._transactional_id!r} cannot be committed{reason}")

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise type(self._broken)(self._broken.message, cure=self._broken.cure)

    def _break_if_fatal(self, error: KafkaError) -> None:
        if error.code() in PRODUCER_FENCED:
            self._broken = Fenced(
                f"producer {self._transactional_id!r} was replaced by a newer one, or its transaction stayed open "
                f"longer than its timeout ({error.str()})",
                cure="make a new producer and rewind",
            )
        elif is_fatal(error):
            self._broken = ProducerBroken(
                f"producer {self._transactional_id!r} cannot go on: {error.str()} ({error.name()})",
                cure="make a new producer and rewind",
            )
        self._raise_if_broken()

    def _attempt(self, call: Callable[[], None]) -> None:
        """One call. Why it reaches nobody a client tells only who polls it; the call's own error stays what it is."""
        try:
            call()
        except KafkaException:
            with contextlib.suppress(KafkaException):
                self._open().poll(0)
            raise

    def _raise_from(self, raised: KafkaException, *, action: str) -> NoReturn:
        """What a call raised that is no step of a transaction: only word of the client's own end."""
        error = kafka_error(raised)
        self._break_if_fatal(error)
        raise port_error(error, action=action) from raised

    def _step(self, action: str, call: Callable[[], None]) -> None:
        """One call of the transaction, again while its error passes, or the port's error for what happened."""
        action = f"{action} of {self._transactional_id!r}"
        self._is_deaf = False
        try:
            self._connection.repeat(action, lambda: self._attempt(call))
        except LogUnavailable:
            self._is_deaf = True
            raise
        except KafkaException as raised:
            error = kafka_error(raised)
            if self._phase is Phase.COMMITTING and self._has_offsets and not error.txn_requires_abort():
                # Fenced is no answer either: whoever took the id over may have found the commit decided. Without
                # offsets nobody rewinds by it.
                self._broken = CommitUnknown(
                    f"{action}: nobody says what became of it: {error.str()} ({error.name()})",
                    cure="make a new producer, and go on from the committed offsets",
                )
                raise self._broken from raised
            self._break_if_fatal(error)
            if error.txn_requires_abort():
                self._phase = Phase.DOOMED
                raise TransactionAborted(f"{action}: {error.str()} ({error.name()})") from raised
            if self._phase is Phase.NONE:
                raise port_error(error, action=action) from raised
            # librdkafka: what neither passes nor can be aborted is to be treated as fatal.
            self._broken = ProducerBroken(f"{action}: {error.str()} ({error.name()})", cure="make a new producer")
            raise self._broken from raised


def _free(client: ProducerClient, *, is_broken: bool) -> None:
    """Drop what is queued and close."""
    client.purge()
    try:
        client.close()
    except KafkaException as raised:
        # Of a broken producer only the news that it is broken.
        logger.info("kafka_producer_closed", broken=is_broken, reason=kafka_error(raised).str())


def _record_sizes(records: Outgoing) -> Int64Column:
    """Bytes of each row on the wire, uncompressed and rounded up."""
    sizes = binary_sizes(records.value) + RECORD_OVERHEAD_BYTES
    if records.key is not None:
        sizes += binary_sizes(records.key)
    if records.headers is not None:
        sizes += header_sizes(records.headers, len(records))
    return sizes
