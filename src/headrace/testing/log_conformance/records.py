"""Conformance: what is produced is what is consumed, column by column."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

from headrace.log.columns import batch_records, binary_column, outgoing
from headrace.log.port import Consumer, Log, Outgoing, RecordBatch, RecordTooLarge, TopicPartition, UnknownTopic
from headrace.testing.log_conformance.probe import (
    DEADLINE_S,
    beginning,
    in_order,
    is_quiet,
    make_topic,
    numbered,
    read,
    unique,
    values_of,
    write,
)

MURMUR2_OF_JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""From the tests of Kafka's Java client."""

RECORD_LIMIT_BYTES = 1_048_588
"""Kafka's default for `max.message.bytes`."""


class RecordsConformance:
    """Producing and reading back."""

    def test_every_column_round_trips(self, log: Log) -> None:
        """Null and empty keys and values, header order and repeats, timestamps and partitions come back as sent."""
        topic = make_topic(log, 3)
        keys = [b"k", None, b"", b"\x00\xff"]
        values = [b"v", None, b"", b"\xff\x00"]
        headers = [[("a", b"1"), ("b", None), ("a", b"2")], [], None, [("é", b"")]]
        times = [1_700_000_000_123, 5, 1_600_000_000_000, 1_700_000_000_001]
        write(log, outgoing(topic, values, keys=keys, partitions=[0, 1, 2, 0], timestamps_ms=times, headers=headers))
        got = sorted(read(log, topic, 4, partitions=3), key=lambda record: (record.partition, record.offset))
        assert [record.partition for record in got] == [0, 0, 1, 2]
        assert [record.offset for record in got] == [0, 1, 0, 0]
        assert [record.key for record in got] == [b"k", b"\x00\xff", None, b""]
        assert [record.value for record in got] == [b"v", b"\xff\x00", None, b""]
        assert [record.timestamp_ms for record in got] == [times[0], times[3], times[1], times[2]]
        assert [record.headers for record in got] == [
            (("a", b"1"), ("b", None), ("a", b"2")),
            (("é", b""),),
            (),
            (),
        ]

    def test_columns_have_the_types_of_the_port(self, log: Log) -> None:
        """A batch holds int32, int64 and large binary columns, and no header column where no record has headers."""
        topic = make_topic(log)
        write(log, outgoing(topic, [b"a", None]))
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic))
            batch = _first_batch(consumer)
        columns = (batch.partition, batch.offset, batch.timestamp_ms)
        assert [str(column.dtype) for column in columns] == ["int32", "int64", "int64"]
        assert (batch.key.type, batch.value.type) == (pa.large_binary(), pa.large_binary())
        assert isinstance(batch.value, pa.LargeBinaryArray)
        assert batch.headers is None

    def test_default_partition_is_the_one_java_chooses(self, log: Log) -> None:
        """Without a partition, murmur2 of the key decides, so that other clients' records join ours."""
        topic = make_topic(log, 7)
        keys = list(MURMUR2_OF_JAVA)
        write(log, outgoing(topic, numbered(len(keys)), keys=keys))
        got = read(log, topic, len(keys), partitions=7)
        chosen = {record.key: record.partition for record in got}
        assert chosen == {key: (code & 0x7FFFFFFF) % 7 for key, code in MURMUR2_OF_JAVA.items()}

    def test_records_without_key_go_somewhere(self, log: Log) -> None:
        """A null key takes any partition; no record is lost."""
        topic = make_topic(log, 3)
        write(log, outgoing(topic, numbered(100)))
        got = read(log, topic, 100, partitions=3)
        assert in_order(values_of(got)) == sorted(numbered(100))

    def test_missing_timestamp_is_the_current_time(self, log: Log) -> None:
        """No timestamp column, and `NO_TIMESTAMP` in a row, both mean now."""
        topic = make_topic(log)
        before = time.time_ns() // 1_000_000
        write(log, outgoing(topic, [b"a"]), outgoing(topic, [b"b", b"c"], timestamps_ms=[-1, 17]))
        after = time.time_ns() // 1_000_000
        times = [record.timestamp_ms for record in read(log, topic, 3)]
        assert before <= times[0] <= after
        assert before <= times[1] <= after
        assert times[2] == 17

    def test_order_within_a_partition_holds(self, log: Log) -> None:
        """Many small writes are read back in the order written, whatever the size of the polls."""
        topic = make_topic(log, 2)
        with closing(log.producer()) as producer:
            for number in range(0, 60, 3):
                values = [f"{value}".encode() for value in range(number, number + 3)]
                producer.produce(outgoing(topic, values, partitions=[value % 2 for value in range(number, number + 3)]))
                producer.flush()
        for records_max in (1, 7, 1000):
            got = read(log, topic, 60, partitions=2, records_max=records_max)
            for partition in (0, 1):
                mine = [record for record in got if record.partition == partition]
                assert values_of(mine) == [f"{value}".encode() for value in range(partition, 60, 2)]
                assert [record.offset for record in mine] == list(range(30))

    def test_big_batches_arrive_whole(self, log: Log) -> None:
        """Fifty thousand records over four partitions arrive once each, with contiguous offsets."""
        topic, count = make_topic(log, 4), 50_000
        values = [b"%08d" % number + b"x" * 92 for number in range(count)]
        write(log, outgoing(topic, values, keys=[value[:8] for value in values]))
        got = read(log, topic, count, partitions=4)
        assert in_order(values_of(got)) == values
        for partition in range(4):
            mine = [record for record in got if record.partition == partition]
            assert [record.offset for record in mine] == list(range(len(mine)))
            assert values_of(mine) == in_order(values_of(mine))

    def test_poll_returns_no_more_than_asked(self, log: Log) -> None:
        """`records_max` bounds one poll over all topics and partitions."""
        topics = [make_topic(log, 2) for _ in range(2)]
        for topic in topics:
            write(log, outgoing(topic, numbered(50), partitions=[0, 1] * 25))
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topics[0], 2) | beginning(topics[1], 2))
            total, deadline = 0, time.monotonic() + DEADLINE_S
            while total < 100 and time.monotonic() < deadline:
                batches = consumer.poll(11, 0.2)
                assert len({batch.topic for batch in batches}) == len(batches)
                assert sum(map(len, batches)) <= 11
                total += sum(map(len, batches))
            assert total == 100
            assert is_quiet(consumer)

    def test_empty_poll_waits_out_its_time(self, log: Log) -> None:
        """Without records a poll returns nothing, after its timeout and not before."""
        topic = make_topic(log)
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic))
            started = time.monotonic()
            assert not consumer.poll(10, 0.3)
            assert 0.25 <= time.monotonic() - started < DEADLINE_S
            assert not consumer.poll(10, 0.0)

    def test_poll_wakes_for_a_new_record(self, log: Log) -> None:
        """A waiting poll returns when a record is written, long before its timeout."""
        topic = make_topic(log)
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic))
            assert not consumer.poll(10, 0.1)
            writer = threading.Timer(0.2, write, args=(log, outgoing(topic, [b"late"])))
            writer.start()
            started = time.monotonic()
            batches = consumer.poll(10, DEADLINE_S)
            writer.join()
            assert time.monotonic() - started < DEADLINE_S / 2
            assert [values_of(batch_records(batch)) for batch in batches] == [[b"late"]]

    def test_sliced_columns_are_written_as_cut(self, log: Log) -> None:
        """Arrow columns cut from longer ones carry only their own rows, nulls included."""
        topic = make_topic(log)
        values = binary_column([b"no", b"", None, b"yes", b"no"]).slice(1, 3)
        keys = binary_column([b"no", None, b"k", b"", b"no"]).slice(1, 3)
        headers = outgoing(topic, [b""] * 4, headers=[[("no", b"")], [("h", b"1")], [], [("h", b"3")]]).headers
        assert headers is not None
        partition = np.zeros(3, dtype=np.int32)
        write(log, Outgoing(topic, values, key=keys, partition=partition, headers=headers.slice(1, 3)))
        got = read(log, topic, 3)
        assert values_of(got) == [b"", None, b"yes"]
        assert [record.key for record in got] == [None, b"k", b""]
        assert [record.headers for record in got] == [(("h", b"1"),), (), (("h", b"3"),)]

    def test_producing_nothing_is_fine(self, log: Log) -> None:
        """A call without rows and a flush without records do nothing."""
        topic = make_topic(log)
        with closing(log.producer()) as producer:
            producer.flush()
            producer.produce(outgoing(topic, []))
            producer.flush()
        with closing(log.admin()) as admin:
            assert admin.end_offsets([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): 0}

    def test_record_too_large_names_its_row(self, log: Log) -> None:
        """A record above the limit is refused by row, no row of its call is written, and the producer lives on."""
        topic = make_topic(log)
        with closing(log.producer()) as producer:
            with pytest.raises(RecordTooLarge) as caught:
                producer.produce(outgoing(topic, [b"a", b"b", b"x" * (RECORD_LIMIT_BYTES + 1), b"x" * 3_000_000]))
            assert caught.value.row == 2
            producer.produce(outgoing(topic, [b"good", b"y" * 900_000]))
            producer.flush()
        assert values_of(read(log, topic, 2)) == [b"good", b"y" * 900_000]

    def test_topic_setting_lowers_the_record_limit(self, log: Log) -> None:
        """`max.message.bytes` of the topic is what counts."""
        topic = make_topic(log, config={"max.message.bytes": "2000"})
        with closing(log.producer()) as producer:
            with pytest.raises(RecordTooLarge) as caught:
                producer.produce(outgoing(topic, [b"x" * 1000, b"x" * 2001]))
            assert caught.value.row == 1
            producer.produce(outgoing(topic, [b"fine"]))
            producer.flush()
        assert values_of(read(log, topic, 1)) == [b"fine"]

    def test_unknown_topic_and_partition_are_refused(self, log: Log) -> None:
        """Producing where nothing exists raises, and creates no topic."""
        topic, nowhere = make_topic(log, 2), unique("nowhere")
        with closing(log.producer()) as producer:
            with pytest.raises(UnknownTopic, match=nowhere):
                producer.produce(outgoing(nowhere, [b"a"]))
            with pytest.raises(UnknownTopic, match=topic):
                producer.produce(outgoing(topic, [b"a"], partitions=2))
        with closing(log.admin()) as admin:
            assert nowhere not in admin.topics()

    def test_closing_is_idempotent(self, log: Log) -> None:
        """Producers, consumers and admins may be closed twice."""
        for each in (log.producer(), log.producer(transactional_id=unique("id")), log.consumer(), log.admin()):
            each.close()
            each.close()


def _first_batch(consumer: Consumer) -> RecordBatch:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        batches = consumer.poll(100, 0.2)
        if batches:
            return batches[0]
    raise TimeoutError("no batch came")
