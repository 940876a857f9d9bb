"""`headrace.testing.memory_log`: what the driver rests on."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.log.columns import batch_records, outgoing
from headrace.log.partitioner import partition_for
from headrace.log.port import (
    OffsetAndMetadata,
    RebalanceListener,
    TopicExists,
    TopicPartition,
    TopicSpec,
    TransactionAborted,
    UnknownTopic,
)
from headrace.testing.memory_log import MemoryLog

A0, A1 = TopicPartition("a", 0), TopicPartition("a", 1)


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog(lambda: 42)
    made.admin().create_topics([TopicSpec("a", 2), TopicSpec("b", 1)])
    return made


def values(log: MemoryLog, **positions: int) -> list[bytes | None]:
    consumer = log.consumer()
    consumer.assign({A0: -2, A1: -2})
    return [record.value for batch in consumer.poll(1000, 0.0) for record in batch_records(batch)]


def test_a_transaction_is_seen_whole_or_never(log: MemoryLog) -> None:
    """With its offsets; a refused commit leaves nothing."""
    producer, consumer = log.producer(transactional_id="t"), log.consumer(group="g")
    producer.begin()
    producer.produce(outgoing("a", [b"1"]))
    assert values(log) == []
    producer.commit({A0: OffsetAndMetadata(3, "text")}, consumer.group_metadata())
    assert values(log) == [b"1"]
    assert consumer.committed([A0, A1]) == {A0: OffsetAndMetadata(3, "text")}
    producer.begin()
    producer.produce(outgoing("a", [b"2"]))
    log.commits_to_refuse = 1
    with pytest.raises(TransactionAborted):
        producer.commit()
    producer.abort()
    assert values(log) == [b"1"]


def test_records_come_in_the_order_of_their_arrival(log: MemoryLog) -> None:
    """Over the partitions of a topic, with keys where murmur2 puts them."""
    keys = [b"k%d" % n for n in range(20)]
    for key in keys[:10]:
        log.store(outgoing("a", [key], keys=[key]))
    log.store(outgoing("a", keys[10:], keys=keys[10:]))
    assert values(log) == keys
    consumer = log.consumer()
    consumer.assign({A1: -2})
    (batch,) = consumer.poll(1000, 0.0)
    expected = partition_for(outgoing("a", keys).value, 2)
    assert batch.key.to_pylist() == [key for key, where in zip(keys, expected.tolist(), strict=True) if where == 1]
    assert batch.offset.tolist() == list(range(len(batch)))
    assert set(batch.timestamp_ms.tolist()) == {42}
    arrivals = log.arrivals(A1, batch.offset)
    assert arrivals.tolist() == np.flatnonzero(expected == 1).tolist()


def test_polls_are_bounded_and_go_on(log: MemoryLog) -> None:
    """By the records asked for; seeking reads again; what is paused waits."""
    log.store(outgoing("a", [b"%d" % n for n in range(5)], timestamps_ms=range(5)))
    consumer = log.consumer()
    consumer.assign({A0: 1})
    assert [batch.value.to_pylist() for batch in consumer.poll(2, 0.0)] == [[b"1", b"2"]]
    assert consumer.position([A0]) == {A0: 3}
    consumer.pause([A0])
    assert consumer.poll(9, 0.0) == []
    consumer.resume([A0])
    consumer.seek({A0: 4})
    assert [batch.value.to_pylist() for batch in consumer.poll(9, 0.0)] == [[b"4"]]
    assert consumer.offsets_for_time({A0: 3}) == {A0: 3}
    assert consumer.offsets_for_time({A0: 9}) == {A0: 5}


def test_truncated_records_are_gone(log: MemoryLog) -> None:
    """Reading goes on behind them, offsets stay."""
    for n in range(6):
        log.store(outgoing("a", [b"%d" % n]))
    log.admin().delete_records({A0: 4})
    assert values(log) == [b"4", b"5"]
    assert log.consumer().beginning_offsets([A0]) == {A0: 4}
    assert log.admin().end_offsets([A0]) == {A0: 6}
    assert log.arrivals(A0, np.array([4, 5])).tolist() == [4, 5]


def test_a_group_has_one_member(log: MemoryLog) -> None:
    """It gets everything, from its committed offsets on."""
    log.store(outgoing("a", [b"0", b"1"]))
    log.admin().alter_group_offsets("g", {A0: OffsetAndMetadata(1)})
    gained: list[TopicPartition] = []
    consumer = log.consumer(group="g")
    consumer.subscribe(["a"], RebalanceListener(gained.extend, gained.extend, gained.extend))
    assert [batch.value.to_pylist() for batch in consumer.poll(9, 0.0)] == [[b"1"]]
    assert gained == [A0, A1]
    assert consumer.assignment() == {A0, A1}


def test_topics_are_made_and_dropped(log: MemoryLog) -> None:
    """Unknown ones are errors."""
    admin = log.admin()
    with pytest.raises(TopicExists):
        admin.create_topics([TopicSpec("a")])
    admin.add_partitions("b", 3)
    admin.alter_config("b", {"retention.ms": "1"})
    assert (admin.topics()["b"].partitions, admin.topics()["b"].config) == (3, {"retention.ms": "1"})
    admin.delete_topics(["b"])
    for call in (lambda: admin.delete_topics(["b"]), lambda: log.store(outgoing("b", [b""]))):
        with pytest.raises(UnknownTopic):
            call()
    with pytest.raises(UnknownTopic):
        log.store(outgoing("a", [b""], partitions=7))
