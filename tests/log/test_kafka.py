"""The log over a real Kafka broker: the conformance suite, and what only Kafka has."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import cast

import numpy as np
import pytest

from headrace.log.columns import batch_records, binary_column, outgoing
from headrace.log.kafka import KafkaLog
from headrace.log.kafka.client import Piece
from headrace.log.kafka.consumer import KafkaConsumer
from headrace.log.partitioner import partition_for
from headrace.log.port import (
    Fenced,
    LogError,
    OffsetAndMetadata,
    ProducerBroken,
    RebalanceListener,
    RecordTooLarge,
    TopicPartition,
    TransactionAborted,
)
from headrace.testing.log_conformance import LogConformance
from headrace.testing.log_conformance.probe import (
    Member,
    beginning,
    drain,
    in_order,
    is_quiet,
    join,
    make_topic,
    numbered,
    read,
    settle,
    unique,
    values_of,
    wait_for,
    write,
)

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

HOLDER = """
import sys
from headrace.log.columns import outgoing
from headrace.log.kafka import KafkaLog
from headrace.log.port import Fenced
bootstrap, topic, transactional_id = sys.argv[1:]
producer = KafkaLog(bootstrap).producer(transactional_id=transactional_id)
producer.begin()
producer.produce(outgoing(topic, [b"from the first process"]))
producer.flush()
print("open", flush=True)
sys.stdin.readline()
try:
    producer.commit()
except Fenced:
    print("fenced", flush=True)
producer.close()
"""


class RestoreFailed(Exception):
    """Raised by a callback of a test."""


class Hurried(Member):
    """A member that polls for few records at a time, so that rebalances meet a backlog."""

    def poll(self, timeout_s: float = 0.01) -> None:
        for batch in self.consumer.poll(50, timeout_s):
            for record in batch_records(batch):
                partition = TopicPartition(batch.topic, record.partition)
                self.records.setdefault(partition, []).append(record)
                self.next_offset[partition] = record.offset + 1


class TestKafkaLog(LogConformance):
    """Everything that is asked of any log."""

    @pytest.fixture
    def log(self, kafka_log: KafkaLog) -> KafkaLog:
        return kafka_log


@pytest.fixture
def other_log(kafka_bootstrap: str) -> Iterator[KafkaLog]:
    """A log of somebody else: what it changes, `kafka_log` must find out."""
    with closing(KafkaLog(kafka_bootstrap)) as log:
        yield log


@pytest.fixture
def holder(kafka_bootstrap: str, kafka_log: KafkaLog) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Another process with an open transaction: the process, its topic and its transactional id."""
    topic, transactional_id = make_topic(kafka_log), unique("id")
    command = [sys.executable, "-c", HOLDER, kafka_bootstrap, topic, transactional_id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process, topic, transactional_id
        process.kill()


def test_a_second_process_fences_the_first(kafka_log: KafkaLog, holder: tuple[subprocess.Popen[str], str, str]) -> None:
    """Of two processes with one transactional id the older is told that it is fenced, and its records never show."""
    process, topic, transactional_id = holder
    with closing(kafka_log.producer(transactional_id=transactional_id)) as producer:
        output, _ = process.communicate("go on\n", timeout=30)
        assert "fenced" in output.splitlines()
        producer.begin()
        producer.produce(outgoing(topic, [b"from the second process"]))
        producer.commit()
    assert values_of(read(kafka_log, topic, 1)) == [b"from the second process"]


def test_a_producer_that_hears_of_its_fencing_while_it_produces(
    kafka_log: KafkaLog, holder: tuple[subprocess.Popen[str], str, str]
) -> None:
    """The client learns it in the background, and `produce` is the first call to say so: as a broken producer."""
    _, topic, _ = holder
    transactional_id = unique("id")

    def produce_on() -> None:
        for _ in range(1000):
            first.produce(outgoing(topic, [b"late"]))
            time.sleep(0.01)

    with closing(kafka_log.producer(transactional_id=transactional_id)) as first:
        first.begin()
        with closing(kafka_log.producer(transactional_id=transactional_id)), pytest.raises((Fenced, ProducerBroken)):
            produce_on()


def test_a_killed_process_does_not_hold_up_its_successor(
    kafka_log: KafkaLog, holder: tuple[subprocess.Popen[str], str, str]
) -> None:
    """After kill -9 in an open transaction, the next producer of that id starts and commits at once."""
    process, topic, transactional_id = holder
    process.kill()
    process.wait()
    with closing(kafka_log.producer(transactional_id=transactional_id)) as producer:
        producer.begin()
        producer.produce(outgoing(topic, [b"of the successor"]))
        producer.commit()
    assert values_of(read(kafka_log, topic, 1)) == [b"of the successor"]


def test_metadata_captured_before_a_rebalance_commits_nothing(kafka_log: KafkaLog) -> None:
    """A partition that was another member's meanwhile cannot be committed with metadata from before, although its
    owner is the same again; after the abort, fresh metadata commits."""
    source, target, group = make_topic(kafka_log, 2), make_topic(kafka_log), unique("group")
    partitions = [TopicPartition(source, 0), TopicPartition(source, 1)]
    first = join(kafka_log, group, [source], 2)
    stale = first.metadata()
    second = Member(kafka_log, group, [source])
    settle([first, second], lambda: len(first.owned) == len(second.owned) == 1, "both own one partition")
    second.close()
    settle([first], lambda: len(first.owned) == 2, "the first owns both again")
    with closing(kafka_log.producer(transactional_id=unique("id"))) as producer:
        producer.begin()
        producer.produce(outgoing(target, [b"stale"]))
        with pytest.raises(TransactionAborted):
            producer.commit(dict.fromkeys(partitions, OffsetAndMetadata(1)), stale)
        producer.abort()
        assert first.consumer.committed(partitions) == {}
        producer.begin()
        producer.produce(outgoing(target, [b"fresh"]))
        producer.commit(dict.fromkeys(partitions, OffsetAndMetadata(2)), first.metadata())
    assert first.consumer.committed(partitions) == dict.fromkeys(partitions, OffsetAndMetadata(2))
    first.close()
    assert values_of(read(kafka_log, target, 1)) == [b"fresh"]


def test_members_that_come_and_go_amid_a_backlog_split_it_exactly(kafka_log: KafkaLog) -> None:
    """Positions handed over in `revoked` while more records are already fetched: none is read twice, none is lost."""
    topic, group, count = make_topic(kafka_log, 6), unique("group"), 9000
    values = [b"%06d" % number for number in range(count)]
    write(kafka_log, outgoing(topic, values, partitions=[number % 6 for number in range(count)]))
    everyone = [Hurried(kafka_log, group, [topic], commit_on_revoke=True)]
    working = list(everyone)
    for step in range(4):
        goal = _total(everyone) + 900
        settle(working, lambda goal=goal: _total(everyone) >= goal, "some more was read")
        if step % 2 == 0:
            working.append(Hurried(kafka_log, group, [topic], commit_on_revoke=True))
            everyone.append(working[-1])
            settle(working, lambda: bool(working[-1].owned), "the new member has its share")
        else:
            working.pop(0).close()
    settle(working, lambda: _total(everyone) >= count, "everything was read")
    for member in working:
        member.close()
    assert in_order(value for member in everyone for value in member.values()) == values


def test_default_partitions_equal_our_partitioner(kafka_log: KafkaLog) -> None:
    """librdkafka's murmur2_random and `headrace.log.partitioner` choose alike, for keys of many lengths."""
    topic, rng = make_topic(kafka_log, 11), random.Random(7)
    keys = [rng.randbytes(length) for length in range(1, 300)]
    write(kafka_log, outgoing(topic, numbered(len(keys)), keys=keys))
    chosen = {record.key: record.partition for record in read(kafka_log, topic, len(keys), partitions=11)}
    expected = partition_for(binary_column(keys), 11)
    assert [chosen[key] for key in keys] == expected.tolist()


def test_a_full_queue_is_waited_for(kafka_bootstrap: str) -> None:
    """With room for ten records in the client's queue, a thousand with all columns arrive once, in order."""
    config = {"queue.buffering.max.messages": "10"}
    with closing(KafkaLog(kafka_bootstrap, producer_config=config)) as log:
        topic, count = make_topic(log, 2), 1000
        records = outgoing(
            topic,
            numbered(count),
            keys=numbered(count, "k"),
            partitions=[number % 2 for number in range(count)],
            timestamps_ms=list(range(1, count + 1)),
            headers=[[("n", b"%d" % number)] if number % 3 else None for number in range(count)],
        )
        write(log, records)
        got = sorted(read(log, topic, count, partitions=2), key=lambda record: record.timestamp_ms)
        assert [record.timestamp_ms for record in got] == list(range(1, count + 1))
        assert values_of(got) == numbered(count)
        assert [record.key for record in got] == numbered(count, "k")
        assert [record.partition for record in got] == [number % 2 for number in range(count)]
        assert [record.headers for record in got[:4]] == [(), (("n", b"1"),), (("n", b"2"),), ()]
        assert all(np.diff([record.offset for record in got if record.partition == 0]) == 1)


def test_topics_with_a_small_limit_take_many_records(kafka_log: KafkaLog) -> None:
    """The broker refuses batches above the limit; ours stay below it, however many records are produced."""
    topic = make_topic(kafka_log, config={"max.message.bytes": "2000"})
    values = [b"%04d" % number + random.Random(number).randbytes(500) for number in range(60)]
    write(kafka_log, outgoing(topic, values), outgoing(topic, [b"last"]))
    assert values_of(read(kafka_log, topic, 61)) == [*values, b"last"]


def test_a_limit_lowered_meanwhile_aborts_the_transaction(kafka_log: KafkaLog, other_log: KafkaLog) -> None:
    """The broker refuses what we still believed in: nothing of the transaction shows; the next try names the row."""
    topic = make_topic(kafka_log)
    big = outgoing(topic, [b"small", random.Random(1).randbytes(5000)])
    with closing(other_log.admin()) as admin, closing(kafka_log.producer(transactional_id=unique("id"))) as producer:
        producer.begin()
        producer.produce(outgoing(topic, [b"first"]))
        producer.commit()
        admin.alter_config(topic, {"max.message.bytes": "1000"})
        producer.begin()
        producer.produce(big)
        with pytest.raises(TransactionAborted, match=topic):
            producer.commit()
        producer.abort()
        # The first transaction after such an abort may fail once more.
        for _ in range(3):
            try:
                producer.begin()
                with pytest.raises(RecordTooLarge) as caught:
                    producer.produce(big)
                assert caught.value.row == 1
                producer.produce(outgoing(topic, [b"after"]))
                producer.commit()
                break
            except TransactionAborted:
                producer.abort()
    assert values_of(read(kafka_log, topic, 2)) == [b"first", b"after"]


def test_a_raised_limit_is_noticed(kafka_log: KafkaLog, other_log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is not refused by a limit that was raised since it was read."""
    monkeypatch.setattr("headrace.log.kafka.producer.FACTS_FRESH_S", 0.0)
    topic = make_topic(kafka_log, config={"max.message.bytes": "1000"})
    with closing(other_log.admin()) as admin, closing(kafka_log.producer()) as producer:
        producer.produce(outgoing(topic, [b"x"]))
        admin.alter_config(topic, {"max.message.bytes": "10000"})
        producer.produce(outgoing(topic, [b"y" * 5000]))
        producer.flush()
    assert values_of(read(kafka_log, topic, 2)) == [b"x", b"y" * 5000]


def test_failed_records_surface_on_flush(kafka_log: KafkaLog, other_log: KafkaLog) -> None:
    """Without a transaction, what the broker refused is raised by `flush`, once, with the topic's name."""
    topic = make_topic(kafka_log)
    with closing(other_log.admin()) as admin, closing(kafka_log.producer()) as producer:
        producer.produce(outgoing(topic, [b"x"]))
        producer.flush()
        admin.alter_config(topic, {"max.message.bytes": "1000"})
        producer.produce(outgoing(topic, [random.Random(1).randbytes(5000)]))
        with pytest.raises(LogError, match=topic):
            producer.flush()
        producer.produce(outgoing(topic, [b"z"]))
        producer.flush()
    assert values_of(read(kafka_log, topic, 2)) == [b"x", b"z"]


def test_the_beginning_may_move_before_the_first_fetch(kafka_log: KafkaLog) -> None:
    """Retention between finding the beginning and reading there is no lost position: the new beginning is read."""
    topic = make_topic(kafka_log)
    write(kafka_log, outgoing(topic, numbered(10)))
    with closing(kafka_log.consumer()) as consumer, closing(kafka_log.admin()) as admin:
        consumer.assign({TopicPartition(topic, 0): 10})
        consumer.pause([TopicPartition(topic, 0)])
        consumer.seek(beginning(topic))
        admin.delete_records({TopicPartition(topic, 0): 4})
        consumer.resume([TopicPartition(topic, 0)])
        assert values_of(drain(consumer, 6)[topic]) == numbered(10)[4:]


def test_word_of_a_beginning_that_moved_may_come_twice(kafka_log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said of the position before is not said of the new one."""
    topic = make_topic(kafka_log)
    write(kafka_log, outgoing(topic, numbered(10)))
    with closing(kafka_log.consumer()) as consumer, closing(kafka_log.admin()) as admin:
        client = cast(KafkaConsumer, consumer)._client

        def twice(records_max: int, timeout_s: float) -> Piece:
            piece = take(records_max, timeout_s)
            return piece._replace(troubles=[each for each in piece.troubles for _ in range(2)])

        take = client.take
        monkeypatch.setattr(client, "take", twice)
        consumer.assign({TopicPartition(topic, 0): 10})
        consumer.pause([TopicPartition(topic, 0)])
        consumer.seek(beginning(topic))
        admin.delete_records({TopicPartition(topic, 0): 4})
        consumer.resume([TopicPartition(topic, 0)])
        assert values_of(drain(consumer, 6)[topic]) == numbered(10)[4:]


def test_pause_inside_assigned_holds(kafka_log: KafkaLog) -> None:
    """A partition paused in the callback that brings it gives nothing until it is resumed."""
    topic, group = make_topic(kafka_log), unique("group")
    write(kafka_log, outgoing(topic, numbered(3)))
    with closing(kafka_log.consumer(group=group)) as consumer:
        consumer.subscribe([topic], RebalanceListener(consumer.pause, _ignore, _ignore))
        wait_for(lambda: consumer.poll(10, 0.1) or consumer.assignment(), "the partition is owned")
        assert is_quiet(consumer)
        consumer.resume(list(consumer.assignment()))
        assert values_of(drain(consumer, 3)[topic]) == numbered(3)


def test_what_a_callback_raises_comes_out_of_poll_and_costs_no_record(kafka_log: KafkaLog) -> None:
    """The error of `assigned` reaches the caller of `poll`; the partitions are read as if nothing had happened."""
    topic, group = make_topic(kafka_log), unique("group")
    write(kafka_log, outgoing(topic, numbered(5)))

    def fail(_: Sequence[TopicPartition]) -> None:
        raise RestoreFailed

    with closing(kafka_log.consumer(group=group)) as consumer:
        consumer.subscribe([topic], RebalanceListener(fail, _ignore, _ignore))
        with pytest.raises(RestoreFailed):
            wait_for(lambda: consumer.poll(10, 0.1), "the callback ran")
        assert values_of(drain(consumer, 5)[topic]) == numbered(5)


def _total(members: Sequence[Member]) -> int:
    return sum(len(records) for member in members for records in member.records.values())


def _ignore(_: Sequence[TopicPartition]) -> None:
    """A callback without interest."""
