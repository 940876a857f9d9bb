"""Latency of J1 at a fixed rate, far below what any system can do.

- It is from the moment an order is handed to its producer to the moment a read-committed consumer has the row that
  follows.
- The system is up, and has written something, before the orders begin; the first eight seconds of them do not count.
- The first runs of each delivery warm the broker and do not count: it is a JVM, and one that was started a moment ago
  has delays of seconds while it compiles.
- It is right when every paid order of the time came out, each once.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from bench.peers import data, pacing
from bench.peers.jobs import Job
from bench.peers.processes import SystemProcess
from bench.peers.rows import Row
from bench.peers.systems import Order, System
from bench.peers.throughput import new_order, started
from bench.peers.topics import Topics

RATE = 5_000
WARM_UP_S = 8.0
READY_TIMEOUT_S = 90.0
TRAILING_S = 15.0
LINGER_MS = 5
"""Kafka Streams waits 100 ms by itself, which is most of its latency; 5 is librdkafka's own."""
PRIMERS = 20
PRIME_S = 0.5
FLUSH_TIMEOUT_S = 10.0
BROKER_WARM_UP_RUNS = 1
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Latency:
    """What all runs share."""

    topics: Topics
    seconds: float
    commit_interval_ms: int
    _warm: set[str] = field(default_factory=set)
    """Deliveries in which the broker was busy before."""

    def prepare(self, job: Job, keys: int, system: System) -> None:
        """Nothing: orders come while it runs."""

    def runs(self, job: Job, keys: int, system: System, number: int) -> Iterator[Row]:
        """One for each commit interval."""
        intervals_ms = job.commit_intervals_ms or (self.commit_interval_ms,)
        if job.delivery not in self._warm:
            self._warm.add(job.delivery)
            for _ in range(BROKER_WARM_UP_RUNS):
                self._run(job, keys, system, number, intervals_ms[0])
        for interval_ms in intervals_ms:
            yield self._run(job, keys, system, number, interval_ms)

    def _run(self, job: Job, keys: int, system: System, number: int, interval_ms: int) -> Row:
        rate_records = int(RATE * self.seconds)
        with new_order(self.topics, job, keys, rate_records, interval_ms, own_input=True) as order:
            self.topics.make(order.inputs[0])
            order = replace(order, linger_ms=LINGER_MS, ends=False)
            start = system.start(order)
            with started(start, order) as process, contextlib.closing(_Reader(order)) as reader:
                row = Row(job.name, keys, system.name, number, rate_records, delivery=job.delivery)
                row = replace(row, commit_interval_ms=interval_ms)
                if not _is_ready(order, process, reader, self.topics.schema_id("order")):
                    return replace(row, error=f"no output within {READY_TIMEOUT_S:.0f} s: {process.tail()}")
                return self._measured(row, order, process, reader, copies=system.copies)

    def _measured(self, row: Row, order: Order, process: SystemProcess, reader: _Reader, *, copies: bool) -> Row:
        schema_id = str(self.topics.schema_id("order"))
        where = [order.bootstrap, order.inputs[0], schema_id, str(RATE), str(WARM_UP_S + self.seconds)]
        command = [sys.executable, "-m", "bench.peers.pacing", *where]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pacer:
            reader.clear()
            began = time.perf_counter()
            while not reader.seen:
                reader.poll()
                if pacer.poll() is not None or time.perf_counter() - began > READY_TIMEOUT_S:
                    pacer.kill()
                    return replace(row, error=f"no output: {process.tail()}")
            reader.poll_for(WARM_UP_S)
            before_cpu, before, skipped = process.cpu_seconds(), time.perf_counter(), len(reader.seen)
            reader.poll_for(self.seconds)
            cpu_seconds, seconds = process.cpu_seconds() - before_cpu, time.perf_counter() - before
            delays_ms = np.array(reader.delays_ms[skipped:])
            sent = json.loads(pacer.communicate(timeout=READY_TIMEOUT_S)[0])
        wanted = sent["sent"] if copies else sent["paid"]
        reader.poll_until(wanted, TRAILING_S)
        unique = len(set(reader.seen))
        error = "" if len(reader.seen) == unique == wanted else f"{len(reader.seen)} rows, {unique} orders of {wanted}"
        low, high = np.percentile(delays_ms, [50, 99]).tolist() if len(delays_ms) else (None, None)
        return replace(
            row,
            seconds=round(seconds, 3),
            cpu_seconds=round(cpu_seconds, 3),
            records_per_cpu_second=round(RATE * seconds / cpu_seconds) if cpu_seconds > 0 else None,
            records_per_second=RATE,
            peak_rss_mb=round(process.peak_rss_mb(), 1),
            output_rows=len(reader.seen),
            latency_p50_ms=low and round(low, 2),
            latency_p99_ms=high and round(high, 2),
            correct=not error,
            load=round(os.getloadavg()[0], 2),
            error=error,
        )


class _Reader:
    """Rows as they become visible, and how long each took."""

    def __init__(self, order: Order) -> None:
        self.seen: list[int] = []
        """Of each row, the moment its order was made."""
        self.delays_ms: list[float] = []
        self._primed: set[int] = set()
        settings = {"group.id": "bench-reader", "isolation.level": "read_committed", "enable.auto.commit": False}
        self._consumer = Consumer({"bootstrap.servers": order.bootstrap, **settings})
        self._consumer.assign([TopicPartition(order.output, number, 0) for number in range(order.partitions)])

    def prime(self, moment_ns: int) -> None:
        """Leave this order out."""
        self._primed.add(moment_ns)

    def poll(self) -> bool:
        """Whether a row came."""
        message = self._consumer.poll(POLL_S)
        if message is None or message.error():
            return False
        now_ns, moment_ns = time.time_ns(), pacing.moment_of(message.value())
        if moment_ns not in self._primed:
            self.seen.append(moment_ns)
            self.delays_ms.append((now_ns - moment_ns) / 1e6)
        return True

    def poll_for(self, seconds: float) -> None:
        """All that comes."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.poll()

    def poll_until(self, rows: int, seconds: float) -> None:
        """So many, if they come in time; and whether more come."""
        end = time.perf_counter() + seconds
        while len(self.seen) < rows and time.perf_counter() < end:
            self.poll()
        self.poll_for(5 * POLL_S)

    def clear(self) -> None:
        self.seen.clear()
        self.delays_ms.clear()

    def close(self) -> None:
        self._consumer.close()


def _is_ready(order: Order, process: SystemProcess, reader: _Reader, schema_id: int) -> bool:
    """Send orders until one comes out, and wait for the others; False when nothing comes."""
    producer = pacing.producer_of(order.bootstrap)
    sent_at, came_at = 0.0, None
    while time.perf_counter() - process.started < READY_TIMEOUT_S and not process.has_ended():
        now = time.perf_counter()
        if reader.poll():
            came_at = now
        elif came_at is None and now - sent_at > PRIME_S:
            for customer in range(PRIMERS):
                moment_ns = time.time_ns()
                key, value = pacing.order_bytes(schema_id, moment_ns, customer, data.PAID)
                reader.prime(moment_ns)
                producer.produce(order.inputs[0], value, key)
            producer.flush(FLUSH_TIMEOUT_S)
            sent_at = now
        elif came_at is not None and now - came_at > PRIME_S:
            return True  # What was sent before is out: nothing came for a while.
    return False
