"""Records out of Kafka, as a group member or by hand.

Owns one consumer client (native or Python: `client`), the set of partitions it reads and the rows not yet handed out.

- A member reads a partition from where the group committed, or the beginning, or where `assigned` sought.
- No row of a partition is handed out after it was revoked, lost, reassigned or sought elsewhere, not even one
  that the very same call to the client had already fetched.
- What a callback raises is raised by `poll`, after the client's own bookkeeping is done; no row is lost by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from headrace.log.kafka.admin import kafka_offsets, offsets_of
from headrace.log.kafka.client import ConsumerClient, Piece, Trouble
from headrace.log.kafka.cluster import Cluster
from headrace.log.kafka.errors import MEMBER_STALE, is_passing, kafka_error, port_error, reading_error
from headrace.log.kafka.rows import Rows, places_of, without
from headrace.log.port import (
    Fenced,
    GroupMetadata,
    LogError,
    LogUnavailable,
    OffsetAndMetadata,
    OffsetOutOfRange,
    RebalanceCallback,
    RebalanceListener,
    RecordBatch,
    TopicPartition,
)

PLACE_WITHIN_S = 2.0
"""For one question about where the group stands. It is asked in a callback, and a member that does not come back from
one is taken for dead, and can then never be answered; so it is asked again by each poll."""

SILENT_AFTER_S = 15.0
"""Without a record or an end of a partition for this long a consumer asks whether anybody is there."""
ASK_INTERVAL_S = 5.0
ASK_TIMEOUT_S = 1.0
"""Within a poll, so shorter than anybody minds."""

Answer = TypeVar("Answer")

logger = structlog.get_logger("headrace.log.kafka")


class KafkaConsumer:
    """The port's `Consumer`."""

    def __init__(self, client: ConsumerClient, cluster: Cluster, *, group: str | None) -> None:
        self._cluster = cluster
        self._connection = cluster.connection
        self._group = group
        self._client = client
        self._is_closed = False
        self._listener: RebalanceListener | None = None
        self._assigned: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._incoming: dict[TopicPartition, int] = {}
        """Start positions of partitions whose `assigned` callback is running."""
        self._unplaced: list[TopicPartition] = []
        """Assigned, but their committed offsets could not be had yet."""
        self._unplaced_since_s: float | None = None
        self._began: dict[TopicPartition, int] = {}
        """What "the beginning" was when it was asked for."""
        self._moved: dict[TopicPartition, int | None] = {}
        """Partitions given up (None), and perhaps placed again, during the running call to the client."""
        self._next: dict[TopicPartition, int] = {}
        """Behind the last row handed out, or where reading started."""
        self._reached: dict[TopicPartition, int] = {}
        """Where the client met the end of a partition: behind trailing transaction markers too."""
        self._rows = Rows()
        self._failures: list[BaseException] = []
        self._heard_at_s = self._asked_at_s = time.monotonic()

    def subscribe(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        assert self._group is not None, "subscribe() needs a group"
        self._listener = listener
        self._client.subscribe(
            list(topics), on_assign=self._on_assigned, on_revoke=self._on_revoked, on_lost=self._on_lost
        )

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        assert self._listener is None, "assign() and subscribe() exclude each other"
        places = self._resolved(positions)
        self._client.assign([_kafka_place(*place) for place in places.items()])
        self._assigned = set(places)
        self._next, self._reached = dict(places), {}
        self._paused.clear()
        self._failures.clear()
        self._rows = Rows()

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._assigned | self._incoming.keys())

    def poll(self, records_max: int, timeout_s: float) -> Sequence[RecordBatch]:
        assert records_max > 0, "poll() for no records"
        if self._unplaced:
            self._place(self._unplaced)
        self._gather(records_max, 0.0 if self._rows or self._failures else timeout_s)
        if self._failures:
            # Rows gathered so far stay for the next poll.
            raise self._failures.pop(0)
        if not self._rows:
            self._listen()
        rows, self._rows = self._rows.split(records_max)
        batches = rows.batches()
        self._note_handed_out(batches)
        return batches

    def _listen(self) -> None:
        """After long silence, ask the broker something. A client that saw a cluster without brokers once may never
        connect again (librdkafka #5301), and says nothing. Raises `LogUnavailable`: make a new consumer."""
        now = time.monotonic()
        if now - max(self._heard_at_s, self._asked_at_s) < (
            SILENT_AFTER_S if self._asked_at_s <= self._heard_at_s else ASK_INTERVAL_S
        ):
            return
        self._asked_at_s = now
        try:
            if self._client.list_topics(timeout=ASK_TIMEOUT_S).brokers:
                self._heard_at_s = now
                return
            reason = "it knows of no broker"
        except KafkaException as raised:
            reason = kafka_error(raised).str()
        self._connection.tell(reason, action="reading")
        if now - self._heard_at_s > SILENT_AFTER_S + self._connection.unavailable_after_s:
            raise self._connection.unavailable("reading", reason)

    def _note_handed_out(self, batches: Sequence[RecordBatch]) -> None:
        for batch in batches:
            behind_last = np.zeros(int(batch.partition.max()) + 1, dtype=np.int64)
            # Rows of a partition are in offset order, and of several writes to one place the last stays.
            # Only the last rows of the runs that they come in are looked at.
            lasts = np.append(np.flatnonzero(batch.partition[1:] != batch.partition[:-1]), len(batch) - 1)
            behind_last[batch.partition[lasts]] = batch.offset[lasts] + 1
            for partition in np.flatnonzero(behind_last).tolist():
                self._next[TopicPartition(batch.topic, partition)] = int(behind_last[partition])

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        now = {partition: offset for partition, offset in positions.items() if partition not in self._incoming}
        assert now.keys() <= self._assigned, f"seek() in partitions not assigned: {now.keys() - self._assigned}"
        places = self._resolved(now)  # First, so that a broker that does not answer leaves everything as it was.
        self._incoming |= {each: offset for each, offset in positions.items() if each in self._incoming}
        self._forget(now)
        for partition, offset in places.items():
            self._moved[partition] = offset
            self._next[partition] = offset
            self._seek(partition, offset)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.update(partitions)
        self._client.pause([KafkaPartition(*each) for each in partitions if each in self._assigned])
        held = self._rows.places().intersection(partitions)
        if held:  # Kept by a poll that raised: they come again after `resume`.
            self.seek({each: self._next[each] for each in held})

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.difference_update(partitions)
        self._client.resume([KafkaPartition(*each) for each in partitions if each in self._assigned])

    def position(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        held = self._rows.places() if self._rows else frozenset()
        places = {each: self._position(each, held) for each in partitions}
        at_beginning = [each for each, offset in places.items() if offset == OFFSET_BEGINNING]
        return {**places, **self._cluster.beginning_offsets(at_beginning)} if at_beginning else places

    def _position(self, partition: TopicPartition, held: frozenset[TopicPartition]) -> int:
        if partition in self._incoming:
            return self._incoming[partition]
        assert partition in self._next, f"position() of {partition}, which is not assigned"
        behind_rows = self._next[partition]
        return behind_rows if partition in held else max(behind_rows, self._reached.get(partition, behind_rows))

    def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        return self._committed(partitions, within_s=self._connection.unavailable_after_s)

    def _committed(
        self, partitions: Sequence[TopicPartition], *, within_s: float
    ) -> Mapping[TopicPartition, OffsetAndMetadata]:
        assert self._group is not None, "committed() needs a group"
        action = f"asking for the committed offsets of group {self._group!r}"
        wanted = [KafkaPartition(*partition) for partition in partitions]
        timeout_s = min(within_s, self._connection.request_timeout_s())
        return self._ask(
            action, lambda: offsets_of(self._client.committed(wanted, timeout=timeout_s), action), within_s=within_s
        )

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        assert self._group is not None, "commit() needs a group"
        action = f"committing offsets of group {self._group!r}"
        wanted = kafka_offsets(offsets)

        def attempt() -> None:
            for partition in self._client.commit(wanted):
                if partition.error is not None:
                    raise KafkaException(partition.error)

        if wanted:
            self._ask(action, attempt)

    def group_metadata(self) -> GroupMetadata:
        assert self._group is not None, "group_metadata() needs a group"
        return self._client.consumer_group_metadata()

    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return self._cluster.beginning_offsets(partitions)

    def end_offsets(
        self, partitions: Sequence[TopicPartition], *, committed: bool = True
    ) -> Mapping[TopicPartition, int]:
        return self._cluster.end_offsets(partitions, committed=committed)

    def offsets_for_time(self, time_ms: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        return self._cluster.offsets_for_time(time_ms)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._failures.clear()
        self._client.close()
        self._assigned.clear()
        if self._failures:
            raise self._failures.pop(0)

    def _ask(self, action: str, call: Callable[[], Answer], *, within_s: float | None = None) -> Answer:
        """A question or commit of this group, again while its error passes."""
        try:
            return self._connection.repeat(action, call, within_s=within_s)
        except KafkaException as raised:
            error = kafka_error(raised)
            if error.code() in MEMBER_STALE:
                raise Fenced(f"{action}: {error.str()} ({error.name()})", cure="rejoin and rewind") from raised
            raise port_error(error, action=action) from raised

    def _gather(self, records_max: int, timeout_s: float) -> None:
        """Add rows until there are enough or no more at once; waits only for the first."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = 0.0 if self._rows else max(0.0, deadline - time.monotonic())
            piece = self._take(max(1, records_max - len(self._rows)), left_s)
            if self._failures or len(self._rows) >= records_max:
                return
            # Not yet a record: it was word of the end of a partition, or of partitions that come or go.
            is_waiting = not self._rows and (left_s > 0 or piece.troubles)
            if not is_waiting and not piece.may_have_more:
                return

    def _take(self, records_max: int, timeout_s: float) -> Piece:
        """One call to the client, with the callbacks it runs."""
        self._moved.clear()
        try:
            piece = self._client.take(records_max, timeout_s)
        except KafkaException as raised:
            raise reading_error(kafka_error(raised)) from raised
        if piece.batches or piece.troubles:
            self._heard_at_s = time.monotonic()
        batches, troubles = self._without_moved(piece) if self._moved else (piece.batches, piece.troubles)
        for trouble in troubles:
            self._judge(trouble)
        self._rows.extend(batches)
        return piece

    def _without_moved(self, piece: Piece) -> tuple[list[RecordBatch], list[Trouble]]:
        """Without rows that were fetched before their partition was moved in the same call: which of them came
        before and which after cannot be told, so all go and those still owned are read again."""
        came = {place for batch in piece.batches for place in places_of(batch)}
        came |= {TopicPartition(each.topic, each.partition) for each in piece.troubles if each.topic is not None}
        for partition in came & self._moved.keys():
            offset = self._moved[partition]
            if offset is not None:
                self._seek(partition, offset)
        batches = [without(batch, self._moved) for batch in piece.batches]
        return batches, [each for each in piece.troubles if (each.topic, each.partition) not in self._moved]

    def _judge(self, trouble: Trouble) -> None:
        """What an error among the records means."""
        error = trouble.error
        if error.code() == KafkaError._PARTITION_EOF:
            assert trouble.offset is not None
            self._reached[_place_of(trouble)] = trouble.offset
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._judge_position(_place_of(trouble), trouble.offset, error)
        elif error.code() == KafkaError._MAX_POLL_EXCEEDED:
            logger.warning("kafka_member_too_slow", group=self._group, reason=error.str())
        elif is_passing(error):
            self._connection.tell_of(error, action="reading")
        elif error.code() in MEMBER_STALE:
            logger.info("kafka_member_rejoins", group=self._group, reason=error.str())
        else:
            self._failures.append(reading_error(error, subject=f"topic {trouble.topic!r}"))

    def _judge_position(self, partition: TopicPartition, offset: int | None, error: KafkaError) -> None:
        """There is no record at a position."""
        began = self._began.get(partition)
        if began is not None and offset is not None and offset <= began:
            # Retention was faster than the first fetch; the beginning is elsewhere now.
            if offset == began:
                self._seek(partition, self._resolved({partition: OFFSET_BEGINNING})[partition])
            # Else it was sought since: the client may say the same once more, when a pause came in between.
            return
        where = f"the position in partition {partition.partition} of topic {partition.topic!r}"
        try:
            if self._listener is not None and self._is_overtaken(partition, offset):
                told = f"{where} was passed by another member, which has removed what lies before: {error.str()}"
                self._failures.append(Fenced(told, cure="rejoin and rewind"))
                return
        except LogError as unknown:
            self._failures.append(unknown)
            return
        self._failures.append(OffsetOutOfRange(f"{where} is gone: {error.str()}", partition=partition))

    def _is_overtaken(self, partition: TopicPartition, offset: int | None) -> bool:
        """Whether the group stands beyond `offset`: who owned the partition last heard nothing of its loss yet."""
        committed = self.committed([partition])
        return offset is not None and partition in committed and committed[partition].offset > offset

    def _on_assigned(self, _: object, partitions: list[KafkaPartition]) -> None:
        # With those of an earlier call that nobody could place yet.
        if not self._place([*self._unplaced, *_names(partitions)]):
            # The client wants the call in any case; the partitions are placed by a later poll.
            self._client.incremental_assign([])

    def _place(self, partitions: list[TopicPartition]) -> bool:
        """Start reading new partitions where the group stands, or where the listener wants."""
        assert self._listener is not None
        try:
            committed = self._committed(partitions, within_s=PLACE_WITHIN_S)
        except LogError as error:
            now = time.monotonic()
            self._unplaced, self._unplaced_since_s = partitions, self._unplaced_since_s or now
            is_over = now - self._unplaced_since_s >= self._connection.unavailable_after_s
            if is_over or not isinstance(error, LogUnavailable):
                self._failures.append(error)
            return False
        self._unplaced, self._unplaced_since_s = [], None
        self._incoming = {
            each: committed[each].offset if each in committed else OFFSET_BEGINNING for each in partitions
        }
        self._run(self._listener.assigned, partitions)
        wanted, self._incoming = self._incoming, {}
        try:
            places = self._resolved(wanted)
        except LogError:
            # The listener was told: go on. The client finds beginnings by itself, slowly.
            places = wanted
        self._client.incremental_assign([_kafka_place(*place) for place in places.items()])
        self._assigned |= places.keys()
        self._next |= places
        # Rows of a partition that is new to this call are all good; of one given up in it, nobody knows.
        self._moved |= {each: offset for each, offset in places.items() if each in self._moved}
        self._pause_again(places)
        return True

    def _resolved(self, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """`positions` with -2 replaced: the client needs 500 ms to find a beginning, we 3."""
        places = dict(positions)
        at_beginning = [each for each, offset in positions.items() if offset == OFFSET_BEGINNING]
        for each in positions:
            self._began.pop(each, None)
        if at_beginning:
            found = self._cluster.beginning_offsets(at_beginning)
            places |= found
            self._began |= found
        return places

    def _on_revoked(self, _: object, partitions: list[KafkaPartition]) -> None:
        assert self._listener is not None
        self._give_up(_names(partitions), self._listener.revoked)

    def _on_lost(self, _: object, partitions: list[KafkaPartition]) -> None:
        assert self._listener is not None
        self._give_up(_names(partitions), self._listener.lost)

    def _give_up(self, partitions: list[TopicPartition], callback: RebalanceCallback) -> None:
        self._unplaced = [each for each in self._unplaced if each not in partitions]
        self._unplaced_since_s = self._unplaced_since_s if self._unplaced else None
        owned = [each for each in partitions if each in self._assigned]
        if owned:
            self._run(callback, owned)
        self._forget(owned)
        self._moved |= dict.fromkeys(owned)
        self._assigned.difference_update(owned)
        self._paused.difference_update(owned)
        self._client.incremental_unassign([KafkaPartition(*each) for each in owned])

    def _run(self, callback: RebalanceCallback, partitions: Sequence[TopicPartition]) -> None:
        try:
            callback(partitions)
        except BaseException as error:  # noqa: BLE001 - kept for poll(), or the client would lose fetched messages
            self._failures.append(error)

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Nothing fetched from these partitions, records or errors, is handed out."""
        gone = frozenset(partitions)
        self._rows.drop(gone)
        for each in gone:
            self._next.pop(each, None)
            self._reached.pop(each, None)
        self._failures = [
            each for each in self._failures if not (isinstance(each, OffsetOutOfRange) and each.partition in gone)
        ]

    def _seek(self, partition: TopicPartition, offset: int) -> None:
        place = _kafka_place(partition, offset)
        try:
            self._client.seek(place)
        except KafkaException as raised:
            if kafka_error(raised).code() != KafkaError._STATE:
                raise
            # The partition is only just starting, or was stopped by a lost position.
            self._client.incremental_unassign([place])
            self._client.incremental_assign([place])
            self._pause_again([partition])

    def _pause_again(self, partitions: Iterable[TopicPartition]) -> None:
        paused = [KafkaPartition(*each) for each in partitions if each in self._paused]
        if paused:
            self._client.pause(paused)


def _place_of(trouble: Trouble) -> TopicPartition:
    assert trouble.topic is not None
    return TopicPartition(trouble.topic, trouble.partition)


def _names(partitions: Iterable[KafkaPartition]) -> list[TopicPartition]:
    return [TopicPartition(each.topic, each.partition) for each in partitions]


def _kafka_place(partition: TopicPartition, offset: int) -> KafkaPartition:
    return KafkaPartition(partition.topic, partition.partition, offset)
