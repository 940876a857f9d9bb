"""The floor: records copied as they are by confluent-kafka, commits and flushes in between, until SIGTERM.

With transactions when the job is exactly once. What no engine over this client can beat.
"""

from __future__ import annotations

import os
import signal
import time

from confluent_kafka import Consumer, Producer

RECORDS_MAX = 1_000
"""Of one `consume`: larger ones cost more for each message."""
POLL_S = 0.02

bootstrap, group, output = (os.environ[f"BENCH_{name}"] for name in ("BOOTSTRAP", "GROUP", "OUTPUT"))
interval_s = int(os.environ["BENCH_COMMIT_INTERVAL_MS"]) / 1000
exactly_once = os.environ["BENCH_DELIVERY"] == "exactly_once"


def main() -> None:
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            # By default a consumer stops fetching for a second once 100,000 records wait.
            "fetch.queue.backoff.ms": 10,
        }
    )
    settings = {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "acks": "all"}
    settings["linger.ms"] = os.environ.get("BENCH_LINGER_MS", "5")
    producer = Producer({**settings, **({"transactional.id": group} if exactly_once else {})})
    if exactly_once:
        producer.init_transactions()
    consumer.subscribe(os.environ["BENCH_INPUTS"].split(","))
    dirty, committed_at = False, time.monotonic()
    while not stopping:
        messages = consumer.consume(RECORDS_MAX, POLL_S)
        if messages and exactly_once and not dirty:
            producer.begin_transaction()
        for message in messages:
            assert not message.error(), message.error()
            while True:
                try:
                    producer.produce(output, message.value(), message.key())
                    break
                except BufferError:
                    producer.poll(0.01)
        producer.poll(0)
        dirty = dirty or bool(messages)
        if dirty and time.monotonic() - committed_at >= interval_s:
            producer.flush()
            if exactly_once:
                producer.send_offsets_to_transaction(
                    consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
                )
                producer.commit_transaction()
            else:
                consumer.commit(asynchronous=False)
            dirty, committed_at = False, time.monotonic()
    consumer.close()


if __name__ == "__main__":
    main()
