"""Change data capture from SQLite: what runs.

Owns the loop that moves changes from a source database into topics, and its counters.

- One step is one log transaction: records, tombstones, dead letters and the position, all or nothing.
- After anything that went wrong inside a transaction the producer is made anew and the position read back from the
  log, so that an unknown outcome is looked up, never guessed.
- Changes are removed from the source only after their transaction is committed.
- A process that was fenced by a newer one of the same ingress stops.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.registry import Registry
from headrace.contracts.yaml_model import place_of
from headrace.errors import Fault, HeadraceError
from headrace.ingress.batch_publisher import backoff_s
from headrace.ingress.cdc.capture import Capture, Captured
from headrace.ingress.cdc.config import SqliteCdcConfig
from headrace.ingress.cdc.envelopes import DeadChange, EnvelopeEncoder, Envelopes
from headrace.ingress.cdc.errors import SourceInvalid, SourceUnavailable
from headrace.ingress.cdc.position import Position, claim, ensure_positions_topic, position_record, read_position
from headrace.ingress.cdc.reader import READ, Changes, Read, SourceReader, connect
from headrace.ingress.cdc.table import check_contract, read_table
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


class SqliteCdc:
    """One ingress. `setup` once (what `headrace apply` does), then `run`, or `step` by hand, on one thread."""

    def __init__(
        self,
        config: SqliteCdcConfig,
        log: Log,
        registry: Registry,
        contracts: Mapping[str, Contract],
        *,
        workspace: str = "headrace",
    ) -> None:
        self.config, self.counters = config, CdcCounters()
        self._log, self._contracts = log, _checked_contracts(config, contracts)
        self._id = f"{workspace}.{config.name}"
        self._transactional_id = f"{workspace}.ingress.{config.name}"
        self._encoders = {
            table: EnvelopeEncoder(contract, registry, ingress=config.name, database=config.database.stem)
            for table, contract in self._contracts.items()
        }
        self._where = place_of(config.where, "database")
        self._reader: SourceReader | None = None
        self._producer: Producer | None = None
        self._position: Position | None = None
        self._is_drained = False
        self._lag: int | None = None
        self._pruned_at = 0.0
        self._state: State = "created"
        self._error: HeadraceError | None = None

    @property
    def position(self) -> Position | None:
        """The last committed position: this process's own, or read from the log before the first step."""
        if self._producer is None:
            ensure_positions_topic(self._log)
            return read_position(self._log, self._id)
        return self._position

    def missing(self) -> list[str]:
        """Tables whose triggers `setup` would make; only looks. Raises `SourceInvalid`, `SourceUnavailable`."""
        connection = connect(self.config.database, where=self._where)
        try:
            return self._capture(connection).missing(connection)
        except sqlite3.OperationalError as error:
            raise SourceUnavailable(f"{self.config.database}: {error}") from error
        finally:
            connection.close()

    def setup(self) -> list[str]:
        """Make the triggers and the internal topics where they are missing; returns the tables that (again) get a
        snapshot. Raises `SourceInvalid`, `SourceUnavailable`. May be called again at any time."""
        connection = connect(self.config.database, where=self._where)
        try:
            renewed = self._capture(connection).install(connection)
        except sqlite3.OperationalError as error:
            raise SourceUnavailable(f"{self.config.database}: {error}") from error
        finally:
            connection.close()
        ensure_positions_topic(self._log)
        self._ensure_dead_letter_topic()
        return renewed

    def teardown(self) -> None:
        """Remove everything from the source database. Unread changes are lost."""
        connection = connect(self.config.database, where=self._where)
        try:
            self._capture(connection).uninstall(connection)
        finally:
            connection.close()

    def run(self, stop: threading.Event) -> None:
        """Move changes until `stop` is set. What can be retried is, with backoff; raises what cannot, and `Fenced`."""
        self._state = "running"
        try:
            while not stop.is_set():
                moved = self._retried_step(stop)
                if not moved and self._is_drained:
                    stop.wait(self.config.poll_interval_ms / 1_000)
            self._state = "stopped"
        except HeadraceError as error:
            self._state, self._error = "failed", error
            raise
        finally:
            self.close()

    def step(self) -> int:
        """Move what is there, up to one transaction; returns how many changes and snapshot rows were moved."""
        reader = self._opened()
        if self._is_drained and not reader.has_news():
            return 0
        self._is_drained = False
        found = reader.read(self._position, self.config.batch_rows_max)
        if found.position != self._position:
            self._publish(found)
        self._is_drained, self._lag = found.is_drained, found.lag
        self._prune(reader)
        return len(found)

    def status(self) -> CdcStatus:
        """How it stood after the last step. From any thread."""
        position = self._position
        tables = {} if position is None else position.tables
        return CdcStatus(
            name=self.config.name,
            state=self._state,
            sequence=None if position is None else position.sequence,
            lag_changes=self._lag,
            snapshots_open=tuple(name for name, each in tables.items() if not each.is_done),
            counters=self.counters,
            error=self._error,
            tables={table: contract.topic for table, contract in self._contracts.items()},
        )

    def close(self) -> None:
        """Idempotent; `step` opens again."""
        self._drop_producer()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

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

    def _opened(self) -> SourceReader:
        if self._reader is None:
            connection = connect(self.config.database, where=self._where)
            try:
                capture = self._capture(connection)
            finally:
                connection.close()
            self._reader = SourceReader(self.config.database, capture, where=self._where)
            self._is_drained = False
        if self._producer is None:
            self._claim()
        return self._reader

    def _claim(self) -> None:
        ensure_positions_topic(self._log)
        self._ensure_dead_letter_topic()
        producer = self._log.producer(transactional_id=self._transactional_id)
        try:
            self._position = claim(self._log, producer, self._id)
        except BaseException:
            producer.close()
            raise
        self._producer, self._is_drained = producer, False

    def _capture(self, connection: sqlite3.Connection) -> Capture:
        tables = []
        for name, contract in self._contracts.items():
            table = read_table(connection, name)
            check_contract(table, contract)
            tables.append(Captured(table, tuple(each.name for each in contract.schema.fields)))
        return Capture(self.config.name, tables)

    def _publish(self, found: Read) -> None:
        """One transaction."""
        assert self._producer is not None
        encoded = [(changes, self._encoders[changes.table].encode(changes)) for changes in found.changes]
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
                encoder = self._encoders[changes.table]
                dead.append(encoder.dead_change(changes, row, reason, with_value=False))
                kept = np.delete(np.arange(len(records)), error.row)
                records, change = _taken(records, kept), change[kept]
        return dead

    def _count(self, found: Read, dead: int) -> None:
        snapshot = sum(operation == READ for changes in found.changes for operation in changes.operation)
        self.counters.transactions += 1
        self.counters.dead_letters += dead
        self.counters.snapshot_rows += snapshot
        self.counters.changes += len(found) - snapshot - dead

    def _prune(self, reader: SourceReader) -> None:
        now = time.monotonic()
        if self._position is None or (now - self._pruned_at) * 1_000 < self.config.prune_interval_ms:
            return
        self._pruned_at = now
        try:
            self.counters.pruned += reader.prune(self._position)
        except SourceUnavailable as error:
            # Removing can wait; the position keeps these changes from being read again.
            self.counters.prunes_put_off += 1
            _LOG.info("pruning put off", ingress=self.config.name, error=str(error))

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def _ensure_dead_letter_topic(self) -> None:
        admin = self._log.admin()
        try:
            if self.config.dead_letter_topic not in admin.topics():
                admin.create_topics([TopicSpec(self.config.dead_letter_topic, partitions=1)])
        except TopicExists:
            return  # Another process was first.
        finally:
            admin.close()


def _checked_contracts(config: SqliteCdcConfig, contracts: Mapping[str, Contract]) -> dict[str, Contract]:
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
    assert records.key is not None
    assert records.timestamp_ms is not None
    return replace(
        records,
        value=records.value.take(index),
        key=records.key.take(index),
        timestamp_ms=records.timestamp_ms[rows],
    )
