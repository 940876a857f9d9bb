"""The native client and confluent-kafka's beside each other: what one writes the other reads."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Literal

import numpy as np
import pytest

from headrace.log.columns import Record, outgoing
from headrace.log.kafka import KafkaLog, native_consumer
from headrace.log.kafka.choice import why_not_native
from headrace.log.partitioner import partition_for
from headrace.log.port import OffsetAndMetadata, Outgoing, TopicPartition
from headrace.testing.log_conformance.probe import (
    beginning,
    drain,
    in_order,
    join,
    make_topic,
    numbered,
    read,
    unique,
    values_of,
    write,
)

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.xdist_group("kafka"),
    pytest.mark.skipif(bool(why_not_native()), reason=f"the native Kafka client: {why_not_native()}"),
]

Kinds = tuple[Literal["native", "python"], Literal["native", "python"]]
BOTH_WAYS: list[Kinds] = [("native", "python"), ("python", "native")]


@pytest.fixture
def native_log(kafka_bootstrap: str) -> Iterator[KafkaLog]:
    with closing(KafkaLog(kafka_bootstrap, client="native")) as log:
        yield log


@pytest.fixture(params=BOTH_WAYS, ids=lambda kinds: f"{kinds[0]} to {kinds[1]}")
def logs(kafka_bootstrap: str, request: pytest.FixtureRequest) -> Iterator[tuple[KafkaLog, KafkaLog]]:
    """Who writes, and who reads."""
    writes, reads = request.param
    with (
        closing(KafkaLog(kafka_bootstrap, client=writes)) as writer,
        closing(KafkaLog(kafka_bootstrap, client=reads)) as reader,
    ):
        yield writer, reader


@pytest.mark.parametrize("kind", ["native", "python"])
def test_a_flush_ends_when_the_records_are_stored(kafka_bootstrap: str, kind: Literal["native", "python"]) -> None:
    """Not at the next of the moments, ten milliseconds apart, at which librdkafka looks."""
    with closing(KafkaLog(kafka_bootstrap, client=kind)) as log, closing(log.producer()) as producer:
        topic, took_s = make_topic(log), []
        for _ in range(30):
            producer.produce(outgoing(topic, [b"row"]))
            began_s = time.perf_counter()
            producer.flush()
            took_s.append(time.perf_counter() - began_s)
    assert min(took_s) < 0.009


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("kinds", BOTH_WAYS, ids=lambda kinds: f"{kinds[0]} to {kinds[1]}")
def test_every_compression_is_read_by_the_other_client(kafka_bootstrap: str, kinds: Kinds, codec: str) -> None:
    """Keys and values of many sizes come back byte by byte."""
    rng = random.Random(codec)
    values = [rng.randbytes(rng.randrange(200)) + b"x" * rng.randrange(2000) for _ in range(500)]
    with (
        closing(KafkaLog(kafka_bootstrap, client=kinds[0], producer_config={"compression.type": codec})) as writer,
        closing(KafkaLog(kafka_bootstrap, client=kinds[1])) as reader,
    ):
        topic = make_topic(writer)
        write(writer, outgoing(topic, values, keys=numbered(500)))
        got = read(reader, topic, 500)
    assert values_of(got) == values
    assert [record.key for record in got] == numbered(500)


def test_headers_nulls_and_empties_survive_between_the_clients(logs: tuple[KafkaLog, KafkaLog]) -> None:
    """Null and empty stay different in keys, values and headers; order and repeats of headers stay; times too."""
    writer, reader = logs
    topic = make_topic(writer)
    rows: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]] | None]] = [
        (b"v", b"k", None),
        (None, b"", [("a", None), ("b", b""), ("a", b"1"), ("größe", b"\x00\xff")]),
        (b"", None, []),
        (None, None, [("", b"no name")]),
        (b"last", b"k", None),
    ]
    values, keys, headers = zip(*rows, strict=True)
    times = [1, 1_700_000_000_000, 2, 3, 4]
    write(writer, outgoing(topic, values, keys=keys, timestamps_ms=times, headers=headers))
    expected = [(value, key, time_ms, tuple(row or ())) for (value, key, row), time_ms in zip(rows, times, strict=True)]
    assert [_without_place(record) for record in read(reader, topic, len(rows))] == expected


def _without_place(record: Record) -> tuple[object, ...]:
    return record.value, record.key, record.timestamp_ms, record.headers


def test_sliced_columns_are_written_as_they_look(logs: tuple[KafkaLog, KafkaLog]) -> None:
    """Columns that begin in the middle of their memory, bitmaps that begin in the middle of a byte."""
    writer, reader = logs
    topic = make_topic(writer)
    values = [None if number % 3 == 0 else b"v%d" % number for number in range(40)]
    headers = [[("n", b"%d" % number)] if number % 2 else None for number in range(40)]
    whole = outgoing(topic, values, keys=values[::-1], headers=headers, timestamps_ms=list(range(1, 41)))
    part = Outgoing(
        topic,
        value=whole.value.slice(5, 30),
        key=whole.key.slice(5, 30) if whole.key is not None else None,
        timestamp_ms=whole.timestamp_ms[5:35] if whole.timestamp_ms is not None else None,
        headers=whole.headers.slice(5, 30) if whole.headers is not None else None,
    )
    write(writer, part)
    got = read(reader, topic, 30)
    assert values_of(got) == values[5:35]
    assert [record.key for record in got] == values[::-1][5:35]
    assert [dict(record.headers) for record in got] == [dict(row or ()) for row in headers[5:35]]


def test_the_text_of_a_committed_offset_is_read_by_the_other_client(logs: tuple[KafkaLog, KafkaLog]) -> None:
    """Word for word, committed by a member or in a transaction; the zero at its end is nobody's business."""
    writer, reader = logs
    topic, group = make_topic(writer, 2), unique("group")
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    with closing(join(writer, group, [topic], 2)) as member:
        member.consumer.commit({first: OffsetAndMetadata(1, "größe"), second: OffsetAndMetadata(2, "")})
        with closing(writer.producer(transactional_id=unique("id"))) as producer:
            producer.begin()
            producer.commit({second: OffsetAndMetadata(3, "in a transaction")}, member.metadata())
    with closing(reader.consumer(group=group)) as other:
        assert other.committed([first, second]) == {
            first: OffsetAndMetadata(1, "größe"),
            second: OffsetAndMetadata(3, "in a transaction"),
        }


@pytest.mark.parametrize("chosen_by", ["the caller", "the key"])
@pytest.mark.parametrize("extra", ["plain", "with times"])
def test_rows_of_a_partition_stay_in_order(native_log: KafkaLog, chosen_by: str, extra: str) -> None:
    """However they are grouped on their way, and where `partition_for` says."""
    topic, count = make_topic(native_log, 7), 5000
    keys = [b"%d" % random.Random(number).randrange(900) for number in range(count)]
    records = outgoing(topic, numbered(count), keys=keys)
    expected = partition_for(records.key, 7)
    if chosen_by == "the caller":
        expected = np.random.default_rng(3).integers(0, 7, count).astype(np.int32)
    records = Outgoing(
        topic,
        records.value,
        records.key,
        partition=expected if chosen_by == "the caller" else None,
        timestamp_ms=np.arange(1, count + 1) if extra == "with times" else None,
    )
    write(native_log, records)
    got = read(native_log, topic, count, partitions=7)
    for number in range(7):
        of_partition = [record.value for record in got if record.partition == number]
        assert of_partition == [value for value, each in zip(numbered(count), expected, strict=True) if each == number]


def test_a_full_queue_in_the_middle_of_a_group_loses_nothing(kafka_bootstrap: str) -> None:
    """With room for a hundred, thousands of rows of many partitions arrive once, in order."""
    config = {"queue.buffering.max.messages": "100"}
    with closing(KafkaLog(kafka_bootstrap, producer_config=config, client="native")) as log:
        topic, count = make_topic(log, 5), 3000
        values = [b"%04d" % number for number in range(count)]
        write(log, outgoing(topic, values, keys=values))
        got = read(log, topic, count, partitions=5)
    assert in_order(values_of(got)) == values
    for number in range(5):
        of_partition = [record.value for record in got if record.partition == number]
        assert of_partition == sorted(of_partition)


def test_a_fetch_is_bounded_in_bytes(native_log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records are asked for; and no record is too large to be fetched at all."""
    monkeypatch.setattr(native_consumer, "FETCH_BYTES_MAX", 100_000)
    topic = make_topic(native_log)
    write(native_log, outgoing(topic, [b"x" * 20_000] * 50 + [b"y" * 500_000]))
    with closing(native_log.consumer()) as consumer:
        consumer.assign(beginning(topic))
        sizes, came = [], 0
        while came < 51:
            batches = consumer.poll(10_000, 1.0)
            sizes += [batch.value.get_total_buffer_size() for batch in batches]
            came += sum(map(len, batches))
    assert max(sizes[:-1]) < 250_000
    assert len(sizes) > 5


def test_records_of_several_topics_come_as_one_batch_each(native_log: KafkaLog) -> None:
    """Without nulls there is no bitmap, with a null there is; each topic has its own columns."""
    first, second = make_topic(native_log), make_topic(native_log)
    write(native_log, outgoing(first, numbered(100)), outgoing(second, [b"a", None] * 50, keys=[b"k"] * 100))
    with closing(native_log.consumer()) as consumer:
        consumer.assign(beginning(first) | beginning(second))
        got = drain(consumer, 200)
    assert values_of(got[first]) == numbered(100)
    assert values_of(got[second]) == [b"a", None] * 50
    assert {record.key for record in got[first]} == {None}
