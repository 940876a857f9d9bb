"""Publishing without an event loop: batches of records, each with its outcome.

Owns the producer and the encoders of one publisher. The asynchronous `Publisher` and `publish_file` are built on it.

- A batch is delivered when `deliver` returns: each record is durable, or its outcome is the error.
- One bad record fails alone; records of one topic keep their order.
- Used from one thread.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import structlog

from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.registry import RegistryUnavailable
from headrace.errors import Fault, HeadraceError
from headrace.ingress.encoder import Clock, Entry, Prepared, TopicEncoder, now_ms
from headrace.ingress.environment import Environment
from headrace.ingress.values import Form
from headrace.ingress.violations import NotPublishable, UnknownContract
from headrace.log.columns import take_outgoing
from headrace.log.partitioner import partition_for
from headrace.log.port import Log, Outgoing, Producer, RecordTooLarge, UnknownTopic

DELIVERY_TIMEOUT_S = 120.0
"""How long a batch waits for a registry or a log that cannot be reached; as long as a Kafka producer waits."""
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 5.0

_LOG = structlog.get_logger("headrace.ingress")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RecordMetadata:
    """Where a delivered record is."""

    topic: str
    partition: int | None
    """Where the key belongs; None for a record without key, whose partition the log chooses."""
    offset: int | None
    """None where the log does not tell it, as in a batch."""
    timestamp_ms: int


Outcome = RecordMetadata | HeadraceError


class BatchPublisher:
    """Publishes batches. Close it, or use it as a context manager."""

    def __init__(self, environment: Environment, *, name: str = "publisher", clock: Clock = now_ms) -> None:
        self.name, self.clock = name, clock
        self._environment = environment
        self._encoders: dict[tuple[str, Form], TopicEncoder] = {}
        self._producer: Producer | None = None
        self._partitions = PartitionCounts(environment.log)

    def __enter__(self) -> BatchPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent. The environment stays open."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def require(self, topic: str) -> Contract:
        """The contract of a topic that may be published. Raises `UnknownContract`, `NotPublishable`. Thread-safe."""
        contract = self._environment.contracts.get(topic)
        if contract is None:
            raise UnknownContract(topic, self._environment.contracts)
        if contract.kind is TopicKind.CHANGE:
            raise NotPublishable(
                f"topic {topic!r} holds changes of a database and is written by its ingress",
                cure="change the row in the database, or publish to a topic of kind event or table",
            )
        return contract

    def encoder(self, topic: str, form: Form = Form.PYTHON) -> TopicEncoder:
        """The encoder of a topic; kept. Raises `UnknownContract`, `NotPublishable`."""
        found = self._encoders.get((topic, form))
        if found is None:
            found = TopicEncoder(self.require(topic), self._environment.registry, form=form)
            self._encoders[topic, form] = found
        return found

    def publish(
        self, topic: str, rows: Sequence[Mapping[str, Any]], *, timestamp_ms: int | None = None
    ) -> list[Outcome]:
        """Deliver rows of one topic; what is wrong with a row is its outcome.

        Raises `UnknownContract`, `NotPublishable`.
        """
        self.require(topic)
        stamp = self.clock() if timestamp_ms is None else timestamp_ms
        return self.deliver([Entry(topic, row, stamp) for row in rows])

    def deliver(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Deliver entries of any topics; one outcome per entry."""
        outcomes: list[Outcome | None] = [None] * len(entries)
        for topic, indexes in _by_topic(entries).items():
            try:
                prepared = self.prepare(lambda topic=topic, indexes=indexes: self._prepare(topic, indexes, entries))  # type: ignore[misc]
                failed = self.produce(prepared)
            except HeadraceError as error:
                outcomes = _filled(outcomes, indexes, error)
                continue
            for row, violation in (*prepared.violations.items(), *failed.items()):
                outcomes[indexes[row]] = violation
            self._add_metadata(outcomes, indexes, prepared, failed)
        return self._flushed(outcomes)

    def prepare(self, encode: Callable[[], Prepared]) -> Prepared:
        """Run `encode`, again and again while the registry cannot be reached, up to `DELIVERY_TIMEOUT_S`."""
        deadline = time.monotonic() + DELIVERY_TIMEOUT_S
        for pause_s in backoff_s():
            try:
                return encode()
            except RegistryUnavailable as error:
                if time.monotonic() + pause_s > deadline:
                    raise
                _LOG.warning("registry unavailable, waiting", publisher=self.name, error=str(error), pause_s=pause_s)
                time.sleep(pause_s)
        raise AssertionError("backoff never ends")

    def produce(self, prepared: Prepared) -> dict[int, HeadraceError]:
        """Queue the records; `flush` makes them durable. Returns the input rows that the log refused."""
        refused = produce_fitting(self._open_producer(), prepared.outgoing)
        return {int(prepared.rows[position]): error for position, error in refused.items()}

    def flush(self) -> None:
        """Wait until everything produced is durable. After a raise the outcome of those records is unknown."""
        if self._producer is None:
            return
        try:
            self._producer.flush(DELIVERY_TIMEOUT_S)
        except HeadraceError as error:
            if error.fault is Fault.RETRY:
                # What it holds has failed for its senders; a fresh producer starts without it.
                self.close()
            raise

    def _prepare(self, topic: str, indexes: Sequence[int], entries: Sequence[Entry]) -> Prepared:
        return self.encoder(topic).encode_entries([entries[index] for index in indexes])

    def _flushed(self, outcomes: list[Outcome | None]) -> list[Outcome]:
        try:
            self.flush()
        except HeadraceError as error:
            outcomes = [error if isinstance(outcome, RecordMetadata) else outcome for outcome in outcomes]
        assert all(outcome is not None for outcome in outcomes)
        return [outcome for outcome in outcomes if outcome is not None]

    def _add_metadata(
        self, outcomes: list[Outcome | None], indexes: Sequence[int], prepared: Prepared, failed: Mapping[int, object]
    ) -> None:
        outgoing = prepared.outgoing
        count = self._partitions.of(outgoing.topic)
        partitions = None if outgoing.key is None else partition_for(outgoing.key, count).tolist()
        assert outgoing.timestamp_ms is not None
        for position, row in enumerate(prepared.rows.tolist()):
            if row not in failed:
                partition = None if partitions is None else partitions[position]
                stamp = int(outgoing.timestamp_ms[position])
                outcomes[indexes[row]] = RecordMetadata(outgoing.topic, partition, None, stamp)

    def _open_producer(self) -> Producer:
        if self._producer is None:
            self._producer = self._environment.log.producer()
        return self._producer


class PartitionCounts:
    """How many partitions topics have, asked of the log once."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._counts: Mapping[str, int] = {}

    def of(self, topic: str) -> int:
        """Raises `UnknownTopic`."""
        if topic not in self._counts:
            admin = self._log.admin()
            try:
                self._counts = {name: each.partitions for name, each in admin.topics().items()}
            finally:
                admin.close()
        if topic not in self._counts:
            raise UnknownTopic(f"topic {topic!r} does not exist", cure="create it with `headrace apply`")
        return self._counts[topic]


def produce_fitting(producer: Producer, outgoing: Outgoing) -> dict[int, HeadraceError]:
    """Queue the records that the log takes; returns those that are too large, by their position."""
    refused: dict[int, HeadraceError] = {}
    positions = np.arange(len(outgoing))
    while len(outgoing):
        try:
            producer.produce(outgoing)
            break
        except RecordTooLarge as error:
            refused[int(positions[error.row])] = error
            kept = np.delete(np.arange(len(outgoing)), error.row)
            outgoing, positions = take_outgoing(outgoing, kept), positions[kept]
    return refused


def backoff_s() -> Iterator[float]:
    """Pauses that double up to `BACKOFF_MAX_S`, each shortened by up to half at random so that waiters part."""
    pause = BACKOFF_FIRST_S
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * 2, BACKOFF_MAX_S)


def _by_topic(entries: Sequence[Entry]) -> dict[str, list[int]]:
    result: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        result.setdefault(entry.topic, []).append(index)
    return result


def _filled(outcomes: list[Outcome | None], indexes: Sequence[int], error: HeadraceError) -> list[Outcome | None]:
    for index in indexes:
        outcomes[index] = error
    return outcomes
