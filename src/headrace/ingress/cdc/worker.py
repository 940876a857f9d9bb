"""Change data capture from any database: what runs.

Owns the loop that moves changes from a source into topics, and its counters.

- One step is one log transaction: records, tombstones, dead letters and the position, all or nothing.
- After anything that went wrong inside a transaction the producer is made anew and the position read back from the
  log, so that an unknown outcome is looked up, never guessed.
- A source is told that it may forget changes only after their transaction is committed.
- A process that was fenced by a newer one of the same ingress stops.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.yaml_model import place_of
from headrace.errors import Fault, HeadraceError
from headrace.ingress.batch_publisher import backoff_s
from headrace.ingress.cdc.changes import READ, TRUNCATE, Changes, P, Read, Source, SourceLog
from headrace.ingress.cdc.config import CdcConfig
from headrace.ingress.cdc.envelopes import DeadChange, EnvelopeEncoder, Envelopes
from headrace.ingress.cdc.errors import SourceInvalid
from headrace.ingress.cdc.position import claim, ensure_positions_topic, position_record, read_position
from headrace.log.columns import outgoing
from headrace.log.dead_letters import Reason
from headrace.log.port import Fenced, Log, Outgoing, Producer, RecordTooLarge, TopicExists, TopicSpec

_LOG = structlog.get_logger("headrace.ingress")

State = Literal["created", "running", "retrying", "stopped", "failed"]


@dataclass(slots=True)
class CdcCounters:
    """What this process did. Read from any thread."""

    changes: int = 0
    """Changes published, dead letters not among them."""
    snapshot_rows: int = 0
    dead_letters: int = 0
    transactions: int = 0
    pruned: int = 0
    prunes_put_off: int = 0
    """Prunings left for later because the database was busy."""
    retries: int = 0


@dataclass(frozen=True, slots=True)
class CdcStatus:
    """How an ingress stands."""

    name: str
    state: State
    sequence: int | None
    """Last change published; None before the first transaction."""
    lag_changes: int | None
    """Changes that the last step saw and left for the next; None before the first."""
    snapshots_open: tuple[str, ...]
    """Tables whose snapshot is under way."""
    counters: CdcCounters
    error: HeadraceError | None = None
    tables: Mapping[str, str] = field(default_factory=dict)
    """Topic by table."""
    source_log: SourceLog | None = None


class CdcWorker(ABC, Generic[P]):
    """One ingress. `setup` once (what `headrace apply` does), then `run`, or `step` by hand, on one thread."""

    def __init__(
        self, config: CdcConfig, log: Log, contracts: Mapping[str, Contract], *, workspace: str = "headrace"
    ) -> None:
        self.config, self.counters = config, CdcCounters()
        self._log, self._contracts = log, checked_contracts(config, contracts)
        self._id = f"{workspace}.{config.name}"
        self._transactional_id = f"{workspace}.ingress.{config.name}"
        self._encoders: Mapping[str, EnvelopeEncoder] = {}
        self._source: Source[P] | None = None
        self._producer: Producer | None = None
        self._position: P | None = None
        self._is_drained = False
        self._lag: int | None = None
        self._state: State = "created"
        self._error: HeadraceError | None = None

    @abstractmethod
    def missing(self) -> list[str]:
        """Tables for which `setup` would change the source; only looks. Raises `SourceInvalid`, `SourceUnavailable`."""

    @abstractmethod
    def setup_summary(self, missing: Sequence[str]) -> str:
        """What `setup` would make for these tables, in a few words."""

    @abstractmethod
    def setup(self) -> list[str]:
        """Make what the source lacks and the internal topics; returns the tables that it was made for.

        Raises `SourceInvalid`, `SourceUnavailable`. May be called again at any time.
        """

    @abstractmethod
    def teardown(self) -> None:
        """Remove everything of this ingress from the source database. Unread changes are lost."""

    @abstractmethod
    def open_source(self) -> Source[P]:
        """Connect to the source."""

    @abstractmethod
    def parse_position(self, text: bytes) -> P:
        """A position as the log keeps it."""

    @property
    def position(self) -> P | None:
        """The last committed position: this process's own, or read from the log before the first step."""
        if self._producer is None:
            ensure_positions_topic(self._log)
            return read_position(self._log, self._id, self.parse_position)
        return self._position

    def run(self, stop: threading.Event) -> None:
        """Move changes until `stop` is set. What can be retried is, with backoff; raises what cannot, and `Fenced`."""
        self._state = "running"
        try:
            while not stop.is_set():
                moved = self._retried_step(stop)
                if not moved and self._is_drained:
                    self.wait(stop)
            self._state = "stopped"
        except HeadraceError as error:
            self._state, self._error = "failed", error
            raise
        finally:
            self.close()

    def step(self) -> int:
        """Move what is there, up to one transaction; returns how many changes and snapshot rows were moved."""
        source = self._opened()
        if self._is_drained and not source.has_news():
            return 0
        self._is_drained = False
        found = source.read(self._position, self.config.batch_rows_max)
        if found.position != self._position:
            self._publish(found)
        self._is_drained, self._lag = found.is_drained, found.lag
        if self._position is not None:
            source.published(self._position)
        return len(found)

    def order_snapshots(self, orders: Mapping[str, str]) -> None:
        """Read these tables again beside the stream, each once for an order of that name; who cannot, does not.

        From any thread.
        """

    def snapshot_progress(self) -> Mapping[str, int]:
        """Tables whose rows are read just now, and how many were so far as far as it is known. From any thread."""
        position = self._position
        return {} if position is None else dict.fromkeys(position.open_snapshots, 0)

    def status(self) -> CdcStatus:
        """How it stood after the last step. From any thread."""
        position, source = self._position, self._source
        return CdcStatus(
            name=self.config.name,
            state=self._state,
            sequence=None if position is None else position.sequence,
            lag_changes=self._lag,
            snapshots_open=() if position is None else position.open_snapshots,
            counters=self.counters,
            error=self._error,
            tables={table: contract.topic for table, contract in self._contracts.items()},
            source_log=None if source is None else source.log,
        )

    def close(self) -> None:
        """Idempotent; `step` opens again."""
        self._drop_producer()
        if self._source is not None:
            self._source.close()
            self._source = None

    @property
    def is_drained(self) -> bool:
        """Whether the last `step` left nothing behind."""
        return self._is_drained

    def wait(self, stop: threading.Event) -> None:
        """Come back when there may be news, or after `poll_interval_ms`."""
        seconds = self.config.poll_interval_ms / 1_000
        if self._source is None:
            stop.wait(seconds)
        else:
            self._source.wait(stop, seconds)

    def _retried_step(self, stop: threading.Event) -> int:
        for pause_s in backoff_s():
            try:
                moved = self.step()
            except HeadraceError as error:
                if error.fault is not Fault.RETRY or isinstance(error, Fenced):
                    raise
                self._state, self._error = "retrying", error
                self.counters.retries += 1
                _LOG.warning("ingress waits", ingress=self.config.name, code=error.code, error=str(error))
                if stop.wait(pause_s):
                    return 0
            else:
                self._state, self._error = "running", None
                return moved
        raise AssertionError("backoff never ends")

    def _opened(self) -> Source[P]:
        if self._source is None:
            self._source = self.open_source()
            self._is_drained = False
        if self._producer is None:
            self._claim()
        return self._source

    def _claim(self) -> None:
        self.ensure_topics()
        producer = self._log.producer(transactional_id=self._transactional_id)
        try:
            self._position = claim(self._log, producer, self._id, self.parse_position)
        except BaseException:
            producer.close()
            raise
        self._producer, self._is_drained = producer, False

    def _publish(self, found: Read[P]) -> None:
        """One transaction."""
        assert self._producer is not None
        encoded = [(changes, envelopes) for changes in found.changes for envelopes in self.encode(changes)]
        producer = self._producer
        try:
            producer.begin()
            dead = [letter for changes, envelopes in encoded for letter in self._produce(producer, changes, envelopes)]
            if dead:
                producer.produce(_dead_letters(self.config.dead_letter_topic, dead))
            producer.produce(position_record(self._id, found.position))
            producer.commit()
        except BaseException:
            self._drop_producer()
            raise
        self._position = found.position
        self._count(found, len(dead))

    def encoder_of(self, changes: Changes) -> EnvelopeEncoder:
        """What encodes these changes."""
        return self._encoders[changes.table]

    def encode(self, changes: Changes) -> Sequence[Envelopes]:
        """The records of these changes; those of one topic in their order."""
        encoder = self.encoder_of(changes)
        if changes.operation[0] != TRUNCATE:
            return [encoder.encode(changes)]
        admin = self._log.admin()
        try:
            return [encoder.truncation(changes, admin.topics()[encoder.contract.topic].partitions)]
        finally:
            admin.close()

    def dead_change(self, changes: Changes, row: int, reason: Reason) -> DeadChange:
        """The dead letter of a change that is too large to be told."""
        return self.encoder_of(changes).dead_change(changes, row, reason, with_value=False)

    def _produce(self, producer: Producer, changes: Changes, envelopes: Envelopes) -> list[DeadChange]:
        """Queue the records of one table; a record that is too large becomes a dead letter without its columns."""
        dead, records, change = list(envelopes.dead), envelopes.outgoing, envelopes.change
        while len(records):
            try:
                producer.produce(records)
                break
            except RecordTooLarge as error:
                row = int(change[error.row])
                reason = Reason("encode", error.code, error.message)
                dead.append(self.dead_change(changes, row, reason))
                kept = np.delete(np.arange(len(records)), error.row)
                records, change = _taken(records, kept), change[kept]
        return dead

    def _count(self, found: Read[P], dead: int) -> None:
        snapshot = sum(operation == READ for changes in found.changes for operation in changes.operation)
        self.counters.transactions += 1
        self.counters.dead_letters += dead
        self.counters.snapshot_rows += snapshot
        self.counters.changes += len(found) - snapshot - dead

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def ensure_topics(self) -> None:
        """Make the topics of positions and dead letters where they are missing."""
        ensure_positions_topic(self._log)
        admin = self._log.admin()
        try:
            if self.config.dead_letter_topic not in admin.topics():
                admin.create_topics([TopicSpec(self.config.dead_letter_topic, partitions=1)])
        except TopicExists:
            return  # Another process was first.
        finally:
            admin.close()


def checked_contracts(config: CdcConfig, contracts: Mapping[str, Contract]) -> dict[str, Contract]:
    """The contract of each table. Raises `SourceInvalid`."""
    chosen: dict[str, Contract] = {}
    for name, table in config.tables.items():
        contract = contracts.get(table.topic)
        where = place_of(config.where, "tables", name)
        if contract is None:
            cure = f"add contracts/{table.topic}.yaml; `headrace plan` shows one made from the table"
            raise SourceInvalid(f"topic {table.topic!r} has no contract", where=where, cure=cure)
        if contract.kind is not TopicKind.CHANGE:
            message = f"topic {table.topic!r} is of kind {contract.kind.value}, and an ingress writes changes"
            raise SourceInvalid(message, where=contract.where or where, cure="set `kind: change`")
        if any(other.topic == table.topic for other in chosen.values()):
            message = f"two tables write to topic {table.topic!r}"
            raise SourceInvalid(message, where=where, cure="give each table its topic")
        chosen[name] = contract
    return chosen


def _dead_letters(topic: str, dead: Sequence[DeadChange]) -> Outgoing:
    return outgoing(
        topic,
        [letter.value for letter in dead],
        keys=[letter.key for letter in dead],
        timestamps_ms=[letter.timestamp_ms for letter in dead],
        headers=[letter.headers for letter in dead],
    )


def _taken(records: Outgoing, rows: npt.NDArray[np.int64]) -> Outgoing:
    index = pa.array(rows)
    assert records.timestamp_ms is not None
    return replace(
        records,
        value=records.value.take(index),
        key=None if records.key is None else records.key.take(index),
        timestamp_ms=records.timestamp_ms[rows],
        headers=None if records.headers is None else records.headers.take(index),
    )
