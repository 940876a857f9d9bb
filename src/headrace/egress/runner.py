"""The egress runner: a topic's records into one target.

Owns the consumer, the batching, retries, dead letters and positions of one egress, or of one of its tasks (`tasks`); a
connector is the target's part.

One delivery, in this order:
1. records are read, decoded and staged in the connector, up to the bounds of count, bytes and age;
2. dead letters are made durable (first, so that no record is lost between them and the target);
3. the connector flushes rows, with the positions where the target can;
4. the group's offsets are committed.

- A crash between 2 and 3 repeats dead letters; between 3 and 4 rows, unless the target holds the positions.
- After any error nothing staged is kept: the connector is opened again and reading goes on from where it says, or
  from the group's offsets.
- Rows of one partition reach the connector in offset order.
- While waiting to retry the group is still served, so a slow target costs no rebalance.
- While waiting, or paused, nothing is kept of what was read, and the target is closed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.decoder import Decoder
from headrace.egress.errors import BreakerOpen, GaveUp, TargetAhead, TargetUnavailable
from headrace.egress.pace import Breaker, RateLimit
from headrace.egress.replay_input import WithReplays
from headrace.egress.sdk import Connector
from headrace.egress.staging import Staged, next_offsets
from headrace.egress.status import EgressCounters, EgressStatus, State
from headrace.egress.target import Target
from headrace.egress.view import View
from headrace.errors import Fault, HeadraceError
from headrace.log.port import (
    BEGINNING,
    Consumer,
    Fenced,
    Log,
    LogError,
    OffsetAndMetadata,
    Producer,
    RebalanceListener,
    RecordBatch,
    TopicExists,
    TopicPartition,
    TopicSpec,
)

POLL_MAX_S = 0.1
"""Longest wait for records: how soon a stop, a pause or an age bound is noticed."""
JOIN_POLL_S = 0.03
"""The same before there are partitions: no record ends that wait, since new partitions are paused until the target
says where they go on."""
LAG_INTERVAL_S = 1.0

_LOG = structlog.get_logger("headrace.egress")


class EgressRunner:
    """One egress. `run` on one thread; `pause`, `resume` and `status` from any."""

    def __init__(
        self,
        config: EgressConfig,
        connector: Connector,
        contract: Contract,
        log: Log,
        registry: Registry,
        workspace: str,
        paused: threading.Event | None = None,
        replay_news: threading.Event | None = None,
        rate: RateLimit | None = None,
        task: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`task`: which one of several that share the group, the rate and the pause; None for the only one."""
        self.config, self.counters = config, EgressCounters()
        self._log, self._group, self._clock = log, config.group(workspace), clock
        self._client_id = f"headrace-egress-{config.name}" + ("" if task is None else f"-{task}")
        view = View(config, contract)
        self._decoder = Decoder(config, contract, registry, view, connector.capabilities)
        self.target = Target(config.connector, connector, connector_config(config, connector), view.contract)
        self._staged = self._nothing_staged()
        self._paused = paused or threading.Event()
        self._replay_news = replay_news or threading.Event()
        """Set from any thread when dead letters are replayed: there may be a topic to read that was not there."""
        self._reads_replays = False
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._positions: dict[int, int] = {}
        self._breaker = Breaker(config.retry, config.breaker)
        self._rate = rate or RateLimit(config.rows_per_second_max, clock)
        self._asked_s = 0.0
        """How long the target asked to be left alone."""
        self._standing: tuple[State, HeadraceError | None] = ("created", None)
        """State and the error behind it, replaced together."""
        self._lag: int | None = None
        self._lag_at_s = -LAG_INTERVAL_S

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set, then flush what is staged. Raises what cannot be retried."""
        try:
            self._ensure_dead_letter_topic()
            while not stop.is_set():
                try:
                    self._deliver(stop)
                except HeadraceError as error:
                    self._failed(error)
                    self._wait(stop)
            self._finish()
            self._standing = ("stopped", None)
        except HeadraceError as error:
            self._standing = ("failed", error)
            raise
        finally:
            self._close()

    def pause(self) -> None:
        """Deliver what is staged, then nothing until `resume`. The group membership stays."""
        self._paused.set()

    def resume(self) -> None:
        self._paused.clear()

    def status(self) -> EgressStatus:
        """How it stands."""
        state, error = self._standing
        return EgressStatus(
            name=self.config.name,
            topic=self.config.topic,
            connector=self.config.connector,
            state=state,
            delivery=self.target.capabilities.delivery,
            positions=dict(self._positions),
            lag_records=self._lag,
            counters=self.counters,
            error=error,
            breaker=self._breaker.state,
        )

    def _deliver(self, stop: threading.Event) -> None:
        """Read, stage and flush until `stop`, or an error."""
        consumer = self._connected()
        while not stop.is_set():
            if self._paused.is_set():
                self._stay_paused(consumer, stop)
                continue
            if self._replay_news.is_set() and self._joins_anew():
                return
            allowed = self._rate.allowed(max(1, self._staged.room()))
            batches = consumer.poll(allowed, self._poll_s(consumer)) if allowed else self._served(consumer)
            if not self.target.is_open:
                # Whatever came was not read from where the target stands.
                self._open(consumer)
                continue
            for batch in batches:
                decoded = self._decoder.decode(batch)
                started_s = self._clock()
                refused = self.target.write(decoded.batch, next_offsets(batch))
                self.counters.write_s += self._clock() - started_s
                self._staged.add(batch, decoded, refused, started_s)
                self._rate.took(len(batch))
            if self._is_due():
                self._flush(consumer)
            self._measure_lag(consumer)
            if not self._breaker.failures or not self._staged.positions:
                # What failed before may fail again until it is flushed.
                self._standing = ("running", None)

    def _open(self, consumer: Consumer) -> None:
        """Open the target for the assigned partitions and read on from where it, or the group, stands."""
        assigned = consumer.assignment()
        if not assigned:
            return
        self._staged = self._nothing_staged()
        self._decoder.restart(self._topic_partitions() if self.config.truncate == "apply" else None)
        held = self.target.open(sorted(each.partition for each in assigned))
        if self.target.capabilities.atomic_positions:
            starts = {each: held.get(each.partition, BEGINNING) for each in assigned}
            self._check_ahead(consumer, starts)
        else:
            committed = consumer.committed(sorted(assigned))
            starts = {each: committed[each].offset if each in committed else BEGINNING for each in assigned}
        consumer.seek(starts)
        consumer.resume(sorted(assigned))
        self._positions = {each.partition: offset for each, offset in starts.items() if offset >= 0}

    def _check_ahead(self, consumer: Consumer, starts: Mapping[TopicPartition, int]) -> None:
        ends = consumer.end_offsets(sorted(starts))
        for partition, offset in sorted(starts.items()):
            if offset > ends[partition]:
                raise TargetAhead(
                    f"egress {self.config.name!r}: the target holds {partition.topic} partition {partition.partition}"
                    f" up to offset {offset}, the topic ends at {ends[partition]}",
                    where=self.config.where,
                    cure="the topic was made anew: empty the target, or give the egress a new name and target",
                )

    def _flush(self, consumer: Consumer) -> None:
        staged = self._staged
        if not staged.positions:
            return
        self._write_dead_letters(staged)
        started_s = self._clock()
        self.target.flush()
        self._count(staged, self._clock() - started_s)
        self._staged = self._nothing_staged()
        self._positions.update(staged.positions)
        self._commit(consumer, staged.positions)

    def _write_dead_letters(self, staged: Staged) -> None:
        if not staged.dead:
            return
        if self._producer is None:
            self._producer = self._log.producer()
        for letters in staged.dead:
            self._producer.produce(letters)
        self._producer.flush()

    def _commit(self, consumer: Consumer, positions: Mapping[int, int]) -> None:
        offsets = {
            TopicPartition(self.config.topic, partition): OffsetAndMetadata(offset)
            for partition, offset in positions.items()
        }
        try:
            consumer.commit(offsets)
        except Fenced as error:
            # The rows are in the target. The next poll tells which partitions are lost; their new owner reads from
            # the target's positions, or repeats this delivery.
            _LOG.warning("offsets not committed", egress=self.config.name, error=str(error))

    def _count(self, staged: Staged, flush_s: float) -> None:
        counters = self.counters
        counters.records += staged.records
        counters.rows_written += staged.rows
        counters.rows_deleted += staged.deletions
        counters.rows_filtered += staged.filtered
        counters.deletions_skipped += staged.skipped
        counters.truncates += staged.truncates
        counters.truncates_skipped += staged.truncates_skipped
        counters.dead_letters.update(staged.reasons)
        counters.bytes_written += staged.bytes
        counters.flushes += 1
        counters.flush_s += flush_s
        self._breaker.succeeded()

    def _failed(self, error: HeadraceError) -> None:
        """Forget what is staged; raises what no retry mends."""
        self._staged = self._nothing_staged()
        self._close_target()
        if error.fault is not Fault.RETRY:
            raise error
        if isinstance(error, LogError):
            self._close_producer()
        if isinstance(error, Fenced):
            self._close_consumer()
        self._breaker.failed()
        self._asked_s = error.retry_after_s if isinstance(error, TargetUnavailable) else 0.0
        self.counters.retries += 1
        failures, attempts = self._breaker.failures, self.config.retry.attempts_max
        if attempts is not None and failures >= attempts:
            message = f"egress {self.config.name!r}: {failures} attempts failed, the last: {error.message}"
            raise GaveUp(message, where=self.config.where, cure=error.cure) from error
        if self._breaker.state == "open":
            message = (
                f"egress {self.config.name!r}: {failures} attempts failed in a row, the next one in"
                f" {self._breaker.pause_s():g} s; the last: {error.message}"
            )
            error = BreakerOpen(message, where=self.config.where, cure=error.cure)
        self._standing = ("retrying", error)
        _LOG.warning("egress waits", egress=self.config.name, code=error.code, error=str(error), failed=failures)

    def _wait(self, stop: threading.Event) -> None:
        """Sit out the pause before the next attempt, serving the group meanwhile."""
        self._sit_out(self._clock() + max(self._breaker.pause_s(), self._asked_s), stop)
        self._breaker.probe()

    def _sit_out(self, deadline_s: float, stop: threading.Event) -> None:
        while not stop.is_set() and (left_s := deadline_s - self._clock()) > 0:
            if self._consumer is None:
                stop.wait(left_s)
                return
            try:
                self._consumer.pause(sorted(self._consumer.assignment()))
                self._consumer.poll(1, min(left_s, POLL_MAX_S))
                self._measure_lag(self._consumer)
            except HeadraceError as error:
                _LOG.warning("consumer dropped", egress=self.config.name, error=str(error))
                self._close_consumer()

    def _stay_paused(self, consumer: Consumer, stop: threading.Event) -> None:
        self._flush(consumer)
        # Whoever else wants the target may have it, and its positions may be moved. It is opened again to go on: the
        # assignment may be another one then, and polling forgot nothing that was not delivered.
        self._close_target()
        self._standing = ("paused", None)
        while self._paused.is_set() and not stop.is_set():
            consumer.pause(sorted(consumer.assignment()))
            consumer.poll(1, POLL_MAX_S)
            self._measure_lag(consumer)

    def _connected(self) -> Consumer:
        if self._consumer is None:
            self._reads_replays = self._has_replays()
            client = self._log.consumer(group=self._group, client_id=self._client_id)
            replays = self.config.replay_topic if self._reads_replays else None
            self._consumer = WithReplays(client, self.config.topic, replays)
            listener = RebalanceListener(assigned=self._gained, revoked=self._revoked, lost=self._lost)
            self._consumer.subscribe([self.config.topic], listener)
        return self._consumer

    def _has_replays(self) -> bool:
        admin = self._log.admin()
        try:
            return self.config.replay_topic in admin.topics()
        finally:
            admin.close()

    def _joins_anew(self) -> bool:
        """Leave the group to join it for the replays too, which are read from then on; False when they are already."""
        self._replay_news.clear()
        if self._reads_replays or not self._has_replays():
            return False
        self._finish()
        self._close_target()
        self._close_consumer()
        return True

    def _gained(self, partitions: Sequence[TopicPartition]) -> None:
        """New partitions: the target is opened again for all of them, after the poll; nothing is read before."""
        if partitions:
            assert self._consumer is not None
            self._consumer.pause(partitions)
            self._finish()
            self._close_target()

    def _revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Deliver what is staged while the partitions are still ours."""
        if partitions:
            self._finish()
            self._close_target()
            self._forget(partitions)

    def _lost(self, partitions: Sequence[TopicPartition]) -> None:
        if partitions:
            self._staged = self._nothing_staged()
            self._close_target()
            self._forget(partitions)

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        for each in partitions:
            self._positions.pop(each.partition, None)

    def _finish(self) -> None:
        """Flush once; what fails here is delivered by whoever reads on, since its positions do not move."""
        if self._consumer is None or not self.target.is_open:
            return
        try:
            self._flush(self._consumer)
        except HeadraceError as error:
            _LOG.warning("last flush failed", egress=self.config.name, code=error.code, error=str(error))
            self._staged = self._nothing_staged()
            self._close_target()

    def _is_due(self) -> bool:
        left_s = self._staged.age_left_s(self._clock())
        return left_s is not None and (left_s <= 0 or self._staged.room() == 0)

    def _poll_s(self, consumer: Consumer) -> float:
        if not self.target.is_open:
            return 0.0 if consumer.assignment() else JOIN_POLL_S
        left_s = self._staged.age_left_s(self._clock())
        return POLL_MAX_S if left_s is None else max(0.0, min(left_s, POLL_MAX_S))

    def _served(self, consumer: Consumer) -> Sequence[RecordBatch]:
        """Wait for what the rate allows, serving the group; what comes all the same is delivered."""
        partitions = sorted(consumer.assignment())
        consumer.pause(partitions)
        left_s = min(self._rate.wait_s(), self._poll_s(consumer))
        batches = consumer.poll(1, left_s)
        if self.target.is_open:
            consumer.resume(partitions)
        return batches

    def _measure_lag(self, consumer: Consumer) -> None:
        now_s, assigned = self._clock(), sorted(consumer.assignment())
        if now_s - self._lag_at_s < LAG_INTERVAL_S or not assigned:
            return
        self._lag_at_s = now_s
        ends, starts = consumer.end_offsets(assigned), consumer.beginning_offsets(assigned)
        # What the target holds is not known before it was open once; then the group is near enough.
        untold = [each for each in assigned if each.partition not in self._positions]
        committed = {} if self.target.is_open else consumer.committed(untold)
        stands = {each: committed[each].offset if each in committed else starts[each] for each in untold}
        stands |= {each: self._positions[each.partition] for each in assigned if each not in stands}
        self._lag = sum(max(0, end - stands[each]) for each, end in ends.items())

    def _nothing_staged(self) -> Staged:
        return Staged(self.config.batch, egress=self.config.name, dead_letter_topic=self.config.dead_letter_topic)

    def _close_target(self) -> None:
        try:
            self.target.close()
        except HeadraceError as error:
            _LOG.warning("target did not close", egress=self.config.name, code=error.code, error=str(error))

    def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _close_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def _close(self) -> None:
        self._close_consumer()
        self._close_target()
        self._close_producer()

    def _topic_partitions(self) -> int:
        admin = self._log.admin()
        try:
            description = admin.topics().get(self.config.topic)
            return description.partitions if description is not None else 0
        finally:
            admin.close()

    def _ensure_dead_letter_topic(self) -> None:
        admin = self._log.admin()
        try:
            if self.config.dead_letter_topic not in admin.topics():
                admin.create_topics([TopicSpec(self.config.dead_letter_topic, partitions=1)])
        except TopicExists:
            return  # Another process was first.
        finally:
            admin.close()
