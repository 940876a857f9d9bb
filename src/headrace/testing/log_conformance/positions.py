"""Conformance: where a consumer reads, from which offsets, and what happens when they are gone."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from headrace.log.columns import batch_records, outgoing
from headrace.log.port import Consumer, Log, OffsetAndMetadata, OffsetOutOfRange, TopicPartition, UnknownTopic
from headrace.testing.log_conformance.probe import (
    DEADLINE_S,
    Member,
    beginning,
    drain,
    in_order,
    is_quiet,
    join,
    make_topic,
    numbered,
    settle,
    unique,
    values_of,
    write,
)


class PositionsConformance:
    """Consumers that place themselves, and the offsets they ask for."""

    def test_assign_starts_at_the_given_offsets(self, log: Log) -> None:
        """Each partition is read from its own position; -2 is the beginning, the end offset is the end."""
        topic = make_topic(log, 3)
        write(log, outgoing(topic, numbered(30), partitions=[0] * 10 + [1] * 10 + [2] * 10))
        with closing(log.consumer()) as consumer:
            positions = {TopicPartition(topic, 0): -2, TopicPartition(topic, 1): 7, TopicPartition(topic, 2): 10}
            consumer.assign(positions)
            assert consumer.assignment() == frozenset(positions)
            assert in_order(values_of(drain(consumer, 13)[topic])) == sorted(numbered(10) + numbered(20)[17:])
            assert is_quiet(consumer)
            write(log, outgoing(topic, [b"next"], partitions=2))
            assert values_of(drain(consumer, 1)[topic]) == [b"next"]

    def test_assign_replaces_the_former_assignment(self, log: Log) -> None:
        """Only the partitions of the last `assign` are read, from its positions."""
        topic = make_topic(log, 2)
        write(log, outgoing(topic, numbered(20), partitions=[0] * 10 + [1] * 10))
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic, 2))
            drain(consumer, 5, records_max=5)
            consumer.assign({TopicPartition(topic, 1): 8})
            assert consumer.assignment() == frozenset({TopicPartition(topic, 1)})
            assert values_of(drain(consumer, 2)[topic]) == numbered(20)[18:]
            assert is_quiet(consumer)
            consumer.assign({})
            assert consumer.assignment() == frozenset()

    def test_seek_moves_and_drops_what_was_fetched(self, log: Log) -> None:
        """After a seek the next record is the one sought, back to the beginning as well."""
        topic = make_topic(log, 2)
        write(log, outgoing(topic, numbered(200), partitions=[0, 1] * 100))
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic, 2))
            drain(consumer, 20, records_max=5)
            consumer.seek({TopicPartition(topic, 0): 98, TopicPartition(topic, 1): 97})
            got = drain(consumer, 5)[topic]
            assert sorted((record.partition, record.offset) for record in got) == [
                (0, 98),
                (0, 99),
                (1, 97),
                (1, 98),
                (1, 99),
            ]
            consumer.seek({TopicPartition(topic, 1): -2})
            assert values_of(drain(consumer, 100)[topic]) == numbered(200)[1::2]

    def test_paused_partitions_keep_their_place(self, log: Log) -> None:
        """A paused partition gives nothing and goes on where it was, without loss or repeat."""
        topic = make_topic(log, 2)
        write(log, outgoing(topic, numbered(100), partitions=[0, 1] * 50))
        with closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic, 2))
            before = drain(consumer, 10, records_max=10)[topic]
            paused, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
            consumer.pause([paused])
            assert consumer.assignment() == frozenset({paused, other})
            left = 50 - sum(record.partition == 1 for record in before)
            during = drain(consumer, left)[topic] if left else []
            assert {record.partition for record in during} <= {1}
            assert is_quiet(consumer)
            consumer.resume([paused])
            left = 50 - sum(record.partition == 0 for record in before)
            after = drain(consumer, left)[topic] if left else []
            mine = [record.offset for record in before + after if record.partition == 0]
            assert mine == list(range(50))
            assert is_quiet(consumer)

    def test_beginning_and_end_offsets(self, log: Log) -> None:
        """They are asked afresh, before and after writes, by consumers and admins alike."""
        topic = make_topic(log, 2)
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        with closing(log.consumer()) as consumer, closing(log.admin()) as admin:
            assert consumer.beginning_offsets([first, second]) == {first: 0, second: 0}
            assert consumer.end_offsets([first, second]) == {first: 0, second: 0}
            write(log, outgoing(topic, numbered(3), partitions=1))
            assert consumer.end_offsets([first, second]) == {first: 0, second: 3}
            assert admin.end_offsets([second]) == {second: 3}
            assert consumer.beginning_offsets([second]) == {second: 0}
            assert consumer.end_offsets([]) == {}
            admin.delete_records({second: 2})
            assert consumer.beginning_offsets([first, second]) == {first: 0, second: 2}
            assert consumer.end_offsets([second]) == {second: 3}

    def test_offsets_of_unknown_partitions_are_refused(self, log: Log) -> None:
        """Asking for a topic or partition that does not exist says so, by name."""
        topic, nowhere = make_topic(log), unique("nowhere")
        with closing(log.consumer()) as consumer:
            with pytest.raises(UnknownTopic, match=nowhere):
                consumer.end_offsets([TopicPartition(nowhere, 0)])
            with pytest.raises(UnknownTopic, match=topic):
                consumer.beginning_offsets([TopicPartition(topic, 1)])

    def test_offsets_for_time(self, log: Log) -> None:
        """The first offset at or after a time; the end offset where no record is that young."""
        topic = make_topic(log, 2)
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        times = [1000, 2000, 3000, 3000, 4000]
        for start in (0, 2):
            part = times[start : start + 2] if start == 0 else times[start:]
            write(log, outgoing(topic, numbered(len(part)), partitions=0, timestamps_ms=part))
        with closing(log.consumer()) as consumer:
            found = {
                time_ms: consumer.offsets_for_time({first: time_ms})[first] for time_ms in (0, 1000, 1001, 3000, 4000)
            }
            assert found == {0: 0, 1000: 0, 1001: 1, 3000: 2, 4000: 4}
            assert consumer.offsets_for_time({first: 4001, second: 0}) == {first: 5, second: 0}

    def test_offset_removed_by_retention_is_out_of_range(self, log: Log) -> None:
        """Reading what was deleted raises and names the partition; -2 and later offsets still read."""
        topic = make_topic(log)
        partition = TopicPartition(topic, 0)
        write(log, outgoing(topic, numbered(10)))
        with closing(log.admin()) as admin:
            admin.delete_records({partition: 6})
        with closing(log.consumer()) as consumer:
            consumer.assign({partition: 3})
            with pytest.raises(OffsetOutOfRange) as caught:
                _poll_until_raise(consumer)
            assert caught.value.partition == partition
            consumer.seek({partition: -2})
            got = drain(consumer, 4)[topic]
            assert [record.offset for record in got] == [6, 7, 8, 9]
            assert values_of(got) == numbered(10)[6:]
        with closing(log.consumer()) as consumer:
            consumer.assign({partition: 8})
            assert values_of(drain(consumer, 2)[topic]) == numbered(10)[8:]

    def test_committed_offsets_are_where_the_next_member_starts(self, log: Log) -> None:
        """A commit outside a transaction is read back with its text, and the group goes on from there."""
        topic, group = make_topic(log, 2), unique("group")
        write(log, outgoing(topic, numbered(20), partitions=[0] * 10 + [1] * 10))
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        with closing(join(log, group, [topic], 2)) as member:
            assert member.consumer.committed([first, second]) == {}
            member.consumer.commit({first: OffsetAndMetadata(4, "text")})
            assert member.consumer.committed([first, second]) == {first: OffsetAndMetadata(4, "text")}
        with closing(Member(log, group, [topic])) as heir:
            settle([heir], lambda: len(heir.values()) >= 16, "sixteen records came")
            assert heir.values() == numbered(20)[4:]

    def test_seek_inside_assigned_wins_over_the_committed_offset(self, log: Log) -> None:
        """A position chosen in the callback is where reading starts."""
        topic, group = make_topic(log), unique("group")
        write(log, outgoing(topic, numbered(10)))
        partition = TopicPartition(topic, 0)
        with closing(join(log, group, [topic], 1)) as member:
            member.consumer.commit({partition: OffsetAndMetadata(2)})
        with closing(Member(log, group, [topic])) as heir:
            heir.start_at = {partition: 7}
            settle([heir], lambda: len(heir.values()) >= 3, "three records came")
            assert heir.values() == numbered(10)[7:]

    def test_group_without_commit_starts_at_the_beginning(self, log: Log) -> None:
        """No record is skipped by a new group, not even one written before it existed or removed by retention."""
        topic, group = make_topic(log), unique("group")
        write(log, outgoing(topic, numbered(10)))
        with closing(log.admin()) as admin:
            admin.delete_records({TopicPartition(topic, 0): 3})
        with closing(Member(log, group, [topic])) as member:
            settle([member], lambda: len(member.values()) >= 7, "seven records came")
            assert member.values() == numbered(10)[3:]


def _poll_until_raise(consumer: Consumer) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for batch in consumer.poll(100, 0.2):
            raise AssertionError(f"read {batch_records(batch)}")
