"""The floor of the native client: columns of records copied as they are through headrace's log port, until SIGTERM.

Commits and flushes in between; with transactions when the job is exactly once. No engine, no codec.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence

import numpy as np

from headrace.log.kafka import KafkaLog
from headrace.log.port import OffsetAndMetadata, Outgoing, RebalanceListener, TopicPartition

RECORDS_MAX = 10_000
POLL_S = 0.02

bootstrap, group, output = (os.environ[f"BENCH_{name}"] for name in ("BOOTSTRAP", "GROUP", "OUTPUT"))
interval_s = int(os.environ["BENCH_COMMIT_INTERVAL_MS"]) / 1000
exactly_once = os.environ["BENCH_DELIVERY"] == "exactly_once"


def ignore(_: Sequence[TopicPartition]) -> None:
    """One worker alone: nothing is to be done when partitions come or go."""


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    log = KafkaLog(bootstrap)
    consumer = log.consumer(group=group)
    producer = log.producer(transactional_id=group if exactly_once else None)
    consumer.subscribe(os.environ["BENCH_INPUTS"].split(","), RebalanceListener(ignore, ignore, ignore))
    positions: dict[TopicPartition, OffsetAndMetadata] = {}
    metadata, committed_at = None, time.monotonic()
    while not stop.is_set():
        for batch in consumer.poll(RECORDS_MAX, POLL_S):
            if exactly_once and not positions:
                producer.begin()
                metadata = consumer.group_metadata()
            producer.produce(Outgoing(output, batch.value, batch.key, batch.partition, batch.timestamp_ms))
            for partition in np.unique(batch.partition).tolist():
                last = int(batch.offset[batch.partition == partition][-1])
                positions[TopicPartition(batch.topic, partition)] = OffsetAndMetadata(last + 1)
        if positions and time.monotonic() - committed_at >= interval_s:
            producer.flush()
            if exactly_once:
                producer.commit(positions, metadata)
            else:
                consumer.commit(positions)
            positions, committed_at = {}, time.monotonic()
    consumer.close()
    producer.close()
    log.close()


if __name__ == "__main__":
    main()
