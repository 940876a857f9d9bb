"""Conformance: how far a consumer has read, and whether anything is left to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

from headrace.log.columns import outgoing
from headrace.log.port import (
    Consumer,
    Log,
    OffsetAndMetadata,
    Outgoing,
    Producer,
    RebalanceListener,
    TopicPartition,
)
from headrace.testing.log_conformance.probe import (
    POLL_S,
    READ_RECORDS_MAX,
    Member,
    beginning,
    drain,
    join,
    make_topic,
    numbered,
    settle,
    unique,
    values_of,
    wait_for,
    write,
)


class ProgressConformance:
    """`position`, and its meeting with `end_offsets`."""

    def test_position_before_the_first_poll(self, log: Log) -> None:
        """It is where reading will start: the first offset there is for -2, else the offset given."""
        topic = make_topic(log, 4)
        write(log, outgoing(topic, numbered(30), partitions=[0] * 10 + [1] * 10 + [2] * 10))
        first, second, third, empty = (TopicPartition(topic, number) for number in range(4))
        with closing(log.admin()) as admin:
            admin.delete_records({second: 3})
        with closing(log.consumer()) as consumer:
            consumer.assign({first: -2, second: -2, third: 7, empty: -2})
            assert consumer.position([first, second, third, empty]) == {first: 0, second: 3, third: 7, empty: 0}
            assert consumer.position([third]) == {third: 7}
            assert consumer.position([]) == {}
            assert consumer.position([empty]) == consumer.end_offsets([empty])
            consumer.assign({third: 9})
            assert consumer.position([third]) == {third: 9}

    def test_position_follows_the_rows_handed_out(self, log: Log) -> None:
        """After each poll it is behind the last row that came, however much was fetched ahead."""
        topic = make_topic(log, 2)
        write(log, outgoing(topic, numbered(40), partitions=[0, 1] * 20))
        partitions = [TopicPartition(topic, number) for number in (0, 1)]
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic, 2))
            behind = dict.fromkeys(partitions, 0)
            for _ in range(8):
                for record in drain(consumer, 1, records_max=5)[topic]:
                    behind[TopicPartition(topic, record.partition)] = record.offset + 1
                assert consumer.position(partitions) == behind
            assert sum(behind.values()) == 40
            assert consumer.position(partitions) == consumer.end_offsets(partitions)

    def test_position_waits_for_the_poll(self, log: Log) -> None:
        """What is written behind the end that was reached moves the end, and the position only when it is read."""
        topic, partition = _topic_of_one(log)
        write(log, outgoing(topic, numbered(2)))
        with closing(log.consumer()) as consumer:
            consumer.assign({partition: -2})
            drain(consumer, 2)
            _read_to_the_end(consumer, [partition])
            write(log, outgoing(topic, numbered(3)))
            assert consumer.position([partition]) == {partition: 2}
            assert consumer.end_offsets([partition]) == {partition: 5}
            drain(consumer, 3)
            assert consumer.position([partition]) == {partition: 5}

    def test_position_passes_a_commit_at_the_end(self, log: Log) -> None:
        """Behind the last committed row nothing is left, whatever the log keeps there of the transaction."""
        topic = make_topic(log, 2)
        partitions = [TopicPartition(topic, number) for number in (0, 1)]
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            _transaction(producer, outgoing(topic, numbered(6), partitions=[0, 1] * 3))
            _transaction(producer, outgoing(topic, numbered(2), partitions=[0, 0]))
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic, 2))
            drain(consumer, 8)
            _read_to_the_end(consumer, partitions)
            assert consumer.position(partitions) == consumer.end_offsets(partitions, committed=False)

    def test_position_passes_aborted_transactions(self, log: Log) -> None:
        """Aborted rows before, between and behind committed ones never hold a reader up."""
        topic, partition = _topic_of_one(log)
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            _aborted(producer, outgoing(topic, numbered(3, "aborted")))
            _transaction(producer, outgoing(topic, [b"one"]))
            _aborted(producer, outgoing(topic, numbered(2, "aborted")))
            _transaction(producer, outgoing(topic, [b"two"]))
            _aborted(producer, outgoing(topic, numbered(4, "aborted")))
        with closing(log.consumer()) as consumer:
            consumer.assign({partition: -2})
            assert values_of(drain(consumer, 2)[topic]) == [b"one", b"two"]
            _read_to_the_end(consumer, [partition])

    def test_position_passes_a_partition_of_nothing_but_aborts(self, log: Log) -> None:
        """Where no row was ever committed the end is reached all the same."""
        topic, partition = _topic_of_one(log)
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            for _ in range(3):
                _aborted(producer, outgoing(topic, numbered(2)))
        with closing(log.consumer()) as consumer:
            consumer.assign({partition: -2})
            _read_to_the_end(consumer, [partition])

    def test_uncommitted_end_covers_what_was_decided_before(self, log: Log) -> None:
        """Who reads to the end that open transactions count in has seen each that ended meanwhile, none of the
        aborted; until then the committed end lies before it."""
        topic, partition = _topic_of_one(log)
        with (
            closing(log.producer(transactional_id=unique("id"))) as producer,
            closing(log.producer(transactional_id=unique("id"))) as other,
            closing(log.consumer()) as consumer,
        ):
            consumer.assign({partition: -2})
            for each, values in ((producer, numbered(3)), (other, numbered(3, "aborted"))):
                each.begin()
                each.produce(outgoing(topic, values))
                each.flush()
            assert consumer.end_offsets([partition]) == {partition: 0}
            assert consumer.end_offsets([partition], committed=False)[partition] >= 0
            producer.commit()
            end = consumer.end_offsets([partition], committed=False)[partition]
            other.abort()
            got = _read_until(consumer, {partition: end})
        assert [value for _, value in got] == numbered(3)

    def test_position_after_a_seek(self, log: Log) -> None:
        """It is the place sought, at once: back to the middle, to the beginning, to the end, and on from there."""
        topic, partition = _topic_of_one(log)
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            _transaction(producer, outgoing(topic, numbered(10)))
        with closing(log.consumer()) as consumer:
            consumer.assign({partition: -2})
            drain(consumer, 10)
            _read_to_the_end(consumer, [partition])
            end = consumer.end_offsets([partition])[partition]
            for place, expected in ((4, 4), (-2, 0), (end, end), (7, 7)):
                consumer.seek({partition: place})
                assert consumer.position([partition]) == {partition: expected}
            assert values_of(drain(consumer, 3)[topic]) == numbered(10)[7:]
            _read_to_the_end(consumer, [partition])

    def test_position_after_a_rewind_amid_a_backlog(self, log: Log) -> None:
        """Rows fetched ahead do not show in the position of a partition that was rewound."""
        topic = make_topic(log, 2)
        write(log, outgoing(topic, numbered(200), partitions=[0, 1] * 100))
        first, second = (TopicPartition(topic, number) for number in (0, 1))
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic, 2))
            drain(consumer, 150, records_max=30)
            left = consumer.position([first, second])
            consumer.seek({first: 2})
            assert consumer.position([first, second]) == {first: 2, second: left[second]}
            got = drain(consumer, 98 + 100 - left[second])[topic]
            assert [record.offset for record in got if record.partition == 0] == list(range(2, 100))
            assert consumer.position([first, second]) == {first: 100, second: 100}

    def test_position_of_a_paused_partition_stands_still(self, log: Log) -> None:
        """It stays where the last row came from while others go on, and goes on itself after a resume."""
        topic = make_topic(log, 2)
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            _transaction(producer, outgoing(topic, numbered(100), partitions=[0, 1] * 50))
        paused, other = (TopicPartition(topic, number) for number in (0, 1))
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic, 2))
            drain(consumer, 10, records_max=10)
            consumer.pause([paused])
            still = consumer.position([paused])
            assert still[paused] < 50
            _read_to_the_end(consumer, [other])
            assert consumer.position([paused]) == still
            consumer.seek({paused: 20})
            assert consumer.position([paused]) == {paused: 20}
            _read_until(consumer, {})
            assert consumer.position([paused]) == {paused: 20}
            consumer.resume([paused])
            got = _read_to_the_end(consumer, [paused])
            assert [offset for offset, _ in got] == list(range(20, 50))

    def test_position_inside_assigned(self, log: Log) -> None:
        """A listener sees where each new partition starts: the committed offset, else the first there is, else
        where it has just sought."""
        topic, group = make_topic(log, 4), unique("group")
        write(log, outgoing(topic, numbered(40), partitions=[0] * 10 + [1] * 10 + [2] * 10 + [3] * 10))
        committed, begun, sought, rewound = (TopicPartition(topic, number) for number in range(4))
        with closing(join(log, group, [topic], 4)) as member, closing(log.admin()) as admin:
            member.consumer.commit({each: OffsetAndMetadata(4) for each in (committed, sought, rewound)})
            admin.delete_records({begun: 2, rewound: 1})
        seen: dict[TopicPartition, int] = {}
        with closing(log.consumer(group=group)) as consumer:

            def assigned(partitions: Sequence[TopicPartition]) -> None:
                places = {sought: 7, rewound: -2}
                consumer.seek({each: places[each] for each in partitions if each in places})
                seen.update(consumer.position(partitions))

            consumer.subscribe([topic], RebalanceListener(assigned, _ignore, _ignore))
            wait_for(lambda: len(seen) == 4 or (consumer.poll(1, POLL_S) and False), "four were assigned")
            assert seen == {committed: 4, begun: 2, sought: 7, rewound: 1}

    def test_position_inside_revoked(self, log: Log) -> None:
        """A listener that commits positions as partitions go leaves their next owner neither gap nor repeat."""
        topic, group = make_topic(log, 2), unique("group")
        partitions = [TopicPartition(topic, number) for number in (0, 1)]
        write(log, outgoing(topic, numbered(60), partitions=[0, 1] * 30))
        first = join(log, group, [topic], 2)
        settle([first], lambda: len(first.values()) == 60, "the first member read everything")
        first.consumer.seek(dict.fromkeys(partitions, 10))
        first.next_offset = dict.fromkeys(partitions, 10)
        told: dict[TopicPartition, int] = {}
        handed_out: dict[TopicPartition, int] = {}

        def note() -> None:
            handed_out.update(first.next_offset)
            told.update(first.consumer.position(partitions))
            first.consumer.commit({each: OffsetAndMetadata(offset) for each, offset in told.items()})

        first.before_revoke = note
        second = Member(log, group, [topic])
        settle([first, second], lambda: len(first.owned) == len(second.owned) == 1, "both own one partition")
        assert told == handed_out
        (taken,) = second.owned
        write(log, outgoing(topic, [b"last"], partitions=taken.partition))
        settle([second], lambda: b"last" in second.values(), "the heir reached the last record")
        assert [record.offset for record in second.records[taken]] == list(range(told[taken], 31))
        for member in (first, second):
            member.close()


def _topic_of_one(log: Log) -> tuple[str, TopicPartition]:
    topic = make_topic(log)
    return topic, TopicPartition(topic, 0)


def _transaction(producer: Producer, records: Outgoing) -> None:
    producer.begin()
    producer.produce(records)
    producer.commit()


def _aborted(producer: Producer, records: Outgoing) -> None:
    producer.begin()
    producer.produce(records)
    producer.flush()
    producer.abort()


def _read_to_the_end(consumer: Consumer, partitions: Sequence[TopicPartition]) -> list[tuple[int, bytes | None]]:
    """Poll until the positions are at the committed ends and no further."""
    got = _read_until(consumer, consumer.end_offsets(partitions))
    assert consumer.position(partitions) == consumer.end_offsets(partitions)
    return got


def _read_until(consumer: Consumer, ends: Mapping[TopicPartition, int]) -> list[tuple[int, bytes | None]]:
    """Poll, at least once, until the positions are there; offset and value of each row of these partitions."""
    wanted = list(ends)
    got: list[tuple[int, bytes | None]] = []

    def step() -> bool:
        for batch in consumer.poll(READ_RECORDS_MAX, POLL_S):
            rows = zip(batch.partition.tolist(), batch.offset.tolist(), batch.value.to_pylist(), strict=True)
            got.extend((row[1], row[2]) for row in rows if TopicPartition(batch.topic, row[0]) in ends)
        return all(offset >= ends[each] for each, offset in consumer.position(wanted).items())

    wait_for(step, f"the positions were at {dict(ends)}")
    return got


def _ignore(_: Sequence[TopicPartition]) -> None:
    """A callback without interest."""
