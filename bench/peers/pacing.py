"""Orders at a steady rate: `python -m bench.peers.pacing BOOTSTRAP TOPIC SCHEMA_ID RATE SECONDS`.

Runs in a process of its own, so that a busy reader does not make it late.

- The id of an order is the moment it was handed to the producer, in nanoseconds: latency is told by any output that
  keeps the id.
- The last line on standard output is a JSON object: how many were sent, how many of them are paid, how late the latest
  was.
"""

from __future__ import annotations

import json
import struct
import sys
import time

import numpy as np
from confluent_kafka import Producer

from bench.peers import data

PAUSE_S = 0.001
ID_CHARACTERS = 36
KEYS = 1_000
KEPT = 100_000
"""Statuses and customers are repeated after so many."""

LINGER_MS = 1


def order_bytes(schema_id: int, moment_ns: int, customer: int, status: int) -> tuple[bytes, bytes]:
    """Key and value of an order made at this moment."""
    key = data.customer_id(customer).encode()
    value = (
        b"\0"
        + schema_id.to_bytes(4, "big")
        + data.varint(ID_CHARACTERS)
        + b"%036d" % moment_ns
        + data.varint(len(key))
        + key
        + data.varint(moment_ns // 1_000_000)
        + struct.pack("<d", 12.5)
        + data.varint(2)
        + data.varint(status)
        + b"\0"
    )
    return key, value


def moment_of(value: bytes) -> int:
    """The nanoseconds in an id, of an order or of what follows from it: the first column of both."""
    return int(value[6 : 6 + ID_CHARACTERS])


def producer_of(bootstrap: str) -> Producer:
    """A producer that waits for nothing."""
    return Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": LINGER_MS, "partitioner": "murmur2_random", "acks": 1}
    )


def main(bootstrap: str, topic: str, schema_id: int, rate: int, seconds: float) -> None:
    random = np.random.default_rng(3)
    statuses = random.choice(len(data.STATUSES), KEPT, p=data.STATUS_SHARES).tolist()
    customers = random.integers(0, KEYS, KEPT).tolist()
    producer = producer_of(bootstrap)
    producer.list_topics(topic, timeout=10)
    total, sent, paid, behind_ms = int(rate * seconds), 0, 0, 0.0
    started = time.perf_counter()
    while sent < total:
        due = min(total, int((time.perf_counter() - started) * rate))
        behind_ms = max(behind_ms, (due - sent) / rate * 1000)
        while sent < due:
            status = statuses[sent % KEPT]
            key, value = order_bytes(schema_id, time.time_ns(), customers[sent % KEPT], status)
            producer.produce(topic, value, key)
            paid += status == data.PAID
            sent += 1
        producer.poll(0)
        time.sleep(PAUSE_S)
    producer.flush(10)
    print(json.dumps({"sent": sent, "paid": paid, "behind_ms": round(behind_ms, 1)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
