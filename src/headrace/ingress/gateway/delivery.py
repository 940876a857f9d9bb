"""Batches of requests into the log, each record once.

Owns the producer of one process, and the way from prepared records to answers.

- One transaction holds the records of many requests, their answers by key, and a mark. A request is answered only
  after its commit.
- After anything that went wrong the producer is made anew and the mark looked up, so that an unknown outcome is known
  before anything is tried again.
- What nobody waits for any more is not published, unless it is in the log already.
- Used on one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import structlog

from headrace.errors import Fault, HeadraceError
from headrace.ingress.batch_publisher import PartitionCounts, backoff_s, produce_fitting
from headrace.ingress.gateway.answers import (
    Accepted,
    Answer,
    Outcome,
    Refused,
    answer_of,
    event_of_kept,
    is_same,
    kept_event,
)
from headrace.ingress.gateway.errors import KeyInFlight, KeyReused, OutcomeUnknown
from headrace.ingress.gateway.key_log import InFlight, KeyLog, Verdict
from headrace.ingress.gateway.preparing import EventKey, Pending, Reply, TopicBatch
from headrace.log.columns import take_outgoing
from headrace.log.partitioner import partition_for
from headrace.log.port import Log, Producer, RecordTooLarge

_LOG = structlog.get_logger("headrace.ingress")

_REUSED = "came before under the same `source` and `id` with other data"
_IN_FLIGHT = "is being published by another request; repeat it in a moment"


@dataclass(slots=True)
class Counters:
    """What this process did. Read from any thread."""

    transactions: int = 0
    records: int = 0
    retries: int = 0
    repeats: int = 0
    """Requests and events that had their answer already."""


@dataclass(slots=True)
class _Round:
    """One try to publish a batch."""

    replies: dict[Pending, Reply] = field(default_factory=dict)
    """Of requests that publish nothing."""
    kept: dict[bytes, bytes] = field(default_factory=dict)
    """Answers to remember."""
    repeats: list[tuple[TopicBatch, int, EventKey]] = field(default_factory=list)
    """Events that are in this batch before."""
    rows: int = 0


class Delivery:
    """Publishes batches. `deliver` returns what each request is told."""

    def __init__(self, log: Log, keys: KeyLog, give_up: threading.Event) -> None:
        self._log, self.keys, self._give_up = log, keys, give_up
        self._producer: Producer | None = None
        self._partitions = PartitionCounts(log)
        self._transactions = 0
        self.counters = Counters()
        self.error: HeadraceError | None = None
        """What keeps it from publishing now."""

    def open(self) -> None:
        """Fence the former process and read the keys; does nothing when open."""
        if self._producer is None:
            self._producer = self.keys.open()

    def close(self) -> None:
        """Idempotent."""
        self._drop()
        self.keys.close()

    def deliver(self, batches: Sequence[TopicBatch]) -> dict[Pending, Reply]:
        """Publish; each request has its reply afterwards."""
        mark: bytes | None = None
        last = _Round()
        for pause_s in backoff_s():
            try:
                self.open()
                if mark is not None and self.keys.is_last(mark):
                    break
                mark = self._next_mark()
                last = _Round()
                self._publish(batches, mark, last)
                break
            except HeadraceError as error:
                self._drop()
                if error.fault is not Fault.RETRY:
                    return self._refused(batches, error)
                self.counters.retries += 1
                self.error = error
                _LOG.warning("gateway waits", code=error.code, error=str(error))
                if self._give_up.wait(pause_s):
                    cure = "repeat it, best with the same Idempotency-Key"
                    unknown = OutcomeUnknown("the gateway ends, and the log does not answer", cure=cure)
                    return {request: unknown for batch in batches for request in batch.requests}
        self.error = None
        self.counters.records += last.rows
        requests = [request for batch in batches for request in batch.requests]
        return {request: last.replies.get(request) or _answer(request) for request in requests}

    def _next_mark(self) -> bytes:
        self._transactions += 1
        return self.keys.mark(self._transactions)

    def _refused(self, batches: Sequence[TopicBatch], error: HeadraceError) -> dict[Pending, Reply]:
        """What a person must mend concerns one topic, most often: the others go without it."""
        if len(batches) > 1:
            return {request: reply for batch in batches for request, reply in self.deliver([batch]).items()}
        _LOG.error("gateway cannot publish", code=error.code, error=str(error))
        return {request: error for batch in batches for request in batch.requests}

    def _publish(self, batches: Sequence[TopicBatch], mark: bytes, this: _Round) -> None:
        verdicts = self.keys.settle(_keys(batches))
        writes = [(batch, self._rows_to_write(batch, verdicts, this)) for batch in batches]
        if not any(len(rows) for _, rows in writes):
            return
        assert self._producer is not None
        self._producer.begin()
        for batch, rows in writes:
            if len(rows):
                self._produce(self._producer, batch, rows, this)
        for batch, row, event in this.repeats:
            self._tell(batch, row, self._known_event(event, this.kept.get(event.key, InFlight.HERE)))
        self._keep_answers(batches, this)
        self._producer.produce(self.keys.answer_records(this.kept, mark))
        self._producer.commit()
        self.keys.committed(this.kept)
        self.counters.transactions += 1

    def _rows_to_write(
        self, batch: TopicBatch, verdicts: Mapping[bytes, Verdict], this: _Round
    ) -> npt.NDArray[np.int64]:
        """Records that are not in the log yet, and whose senders wait."""
        dropped = self._settled_requests(batch, verdicts, this)
        rows = np.arange(len(batch.owner))
        if dropped:
            rows = rows[~np.isin(batch.owner, dropped)]
        if not batch.event_keys:
            return rows
        return np.array([row for row in rows.tolist() if self._is_new_event(batch, row, verdicts, this)], np.int64)

    def _settled_requests(self, batch: TopicBatch, verdicts: Mapping[bytes, Verdict], this: _Round) -> list[int]:
        """Requests that publish nothing."""
        dropped, seen = [], set()
        for number, request in enumerate(batch.requests):
            if request.is_gone():
                this.replies[request] = OutcomeUnknown("nobody waits for the answer")
                dropped.append(number)
            elif request.key is not None:
                verdict = InFlight.HERE if request.key in seen else verdicts.get(request.key)
                seen.add(request.key)
                if verdict is not None:
                    this.replies[request] = self._known(request, verdict)
                    dropped.append(number)
        return dropped

    def _known(self, request: Pending, verdict: bytes | InFlight) -> Reply:
        if isinstance(verdict, InFlight):
            return KeyInFlight("a request with this Idempotency-Key has no answer yet", cure="repeat it in a moment")
        if not is_same(verdict, request.fingerprint):
            return KeyReused("this Idempotency-Key came before with another request", cure="give each request its own")
        self.counters.repeats += 1
        return Answer.of_kept(verdict)

    def _is_new_event(self, batch: TopicBatch, row: int, verdicts: Mapping[bytes, Verdict], this: _Round) -> bool:
        event = batch.event_keys[row]
        if event is None:
            return True
        verdict = verdicts[event.key]
        if verdict is not None:
            self._tell(batch, row, self._known_event(event, verdict))
        elif event.key in this.kept:
            this.repeats.append((batch, row, event))
        else:
            this.kept[event.key] = b""  # Until it is known where the record is.
            return True
        return False

    def _known_event(self, event: EventKey, verdict: bytes | InFlight) -> Outcome:
        if isinstance(verdict, InFlight):
            return Refused(KeyInFlight.code, "", _IN_FLIGHT)
        if not is_same(verdict, event.fingerprint):
            return Refused(KeyReused.code, "", _REUSED)
        self.counters.repeats += 1
        return event_of_kept(verdict)

    def _produce(self, producer: Producer, batch: TopicBatch, rows: npt.NDArray[np.int64], this: _Round) -> None:
        outgoing = take_outgoing(batch.outgoing, rows)
        refused = produce_fitting(producer, outgoing)
        partitions = None
        if outgoing.key is not None:
            partitions = partition_for(outgoing.key, self._partitions.of(outgoing.topic)).tolist()
        assert outgoing.timestamp_ms is not None
        stamps = outgoing.timestamp_ms.tolist()
        for position, row in enumerate(rows.tolist()):
            error = refused.get(position)
            partition = None if partitions is None else partitions[position]
            outcome = _too_large(error) if error is not None else Accepted(partition, stamps[position])
            self._tell(batch, row, outcome)
            event = batch.event_keys[row] if batch.event_keys else None
            if event is None:
                continue
            if isinstance(outcome, Accepted):
                this.kept[event.key] = kept_event(outcome, event.fingerprint)
            else:
                this.kept.pop(event.key, None)
        this.rows += len(rows) - len(refused)

    def _tell(self, batch: TopicBatch, row: int, outcome: Outcome) -> None:
        batch.requests[batch.owner[row]].outcomes[batch.number[row]] = outcome

    def _keep_answers(self, batches: Sequence[TopicBatch], this: _Round) -> None:
        for batch in batches:
            for request in batch.requests:
                if request.key is not None and request not in this.replies and _is_published(request):
                    this.kept[request.key] = _answer(request).kept(request.fingerprint)

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        self._partitions = PartitionCounts(self._log)
        if producer is not None:
            producer.close()


def _keys(batches: Sequence[TopicBatch]) -> set[bytes]:
    """Of requests and events with something to publish."""
    found = {event.key for batch in batches for event in batch.event_keys if event is not None}
    for batch in batches:
        owners = set(batch.owner.tolist())
        found |= {
            request.key
            for number, request in enumerate(batch.requests)
            if request.key is not None and number in owners and not request.is_gone()
        }
    return found


def _is_published(request: Pending) -> bool:
    return any(isinstance(outcome, Accepted) for outcome in request.outcomes)


def _answer(request: Pending) -> Answer:
    outcomes = [outcome for outcome in request.outcomes if outcome is not None]
    assert len(outcomes) == len(request.outcomes)
    return answer_of(request.contract.topic, outcomes)


def _too_large(error: HeadraceError) -> Refused:
    assert isinstance(error, RecordTooLarge)
    return Refused(error.code, "", "is larger than the topic takes")
