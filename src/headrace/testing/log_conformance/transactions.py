"""Conformance: records and offsets become visible together, once, or not at all."""

from __future__ import annotations

from contextlib import closing

import pytest

from headrace.log.columns import outgoing
from headrace.log.port import (
    Fenced,
    Log,
    OffsetAndMetadata,
    Producer,
    ProducerBroken,
    TopicPartition,
    TransactionAborted,
)
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
    write,
)


class TransactionsConformance:
    """Producers with a transactional id."""

    def test_commit_shows_records_of_all_topics(self, log: Log) -> None:
        """Records of one transaction, in several topics and partitions, are all there after commit."""
        first, second = make_topic(log, 2), make_topic(log)
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            producer.begin()
            producer.produce(outgoing(first, numbered(10), partitions=[0, 1] * 5))
            producer.produce(outgoing(second, [b"one"], keys=[b"k"], headers=[[("h", b"x")]]))
            producer.flush()
            producer.produce(outgoing(second, [b"two"]))
            producer.commit()
        assert in_order(values_of(read(log, first, 10, partitions=2))) == numbered(10)
        got = read(log, second, 2)
        assert [(record.key, record.value, record.headers) for record in got] == [
            (b"k", b"one", (("h", b"x"),)),
            (None, b"two", ()),
        ]

    def test_open_transaction_is_invisible(self, log: Log) -> None:
        """Until commit nothing can be read, and the end offset that a committed read can reach does not move."""
        topic = make_topic(log)
        partition = TopicPartition(topic, 0)
        with closing(log.producer(transactional_id=unique("id"))) as producer, closing(log.consumer()) as consumer:
            consumer.assign(beginning(topic))
            producer.begin()
            producer.produce(outgoing(topic, [b"hidden"]))
            producer.flush()
            assert is_quiet(consumer)
            assert consumer.end_offsets([partition]) == {partition: 0}
            producer.commit()
            assert values_of(drain(consumer, 1)[topic]) == [b"hidden"]
            assert consumer.end_offsets([partition])[partition] >= 1

    def test_aborted_records_never_show(self, log: Log) -> None:
        """After an abort the producer goes on, and only what it commits later is read."""
        topic = make_topic(log)
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            producer.begin()
            producer.produce(outgoing(topic, [b"dropped"]))
            producer.flush()
            producer.abort()
            producer.begin()
            producer.abort()
            producer.begin()
            producer.produce(outgoing(topic, [b"kept"]))
            producer.commit()
        assert values_of(read(log, topic, 1)) == [b"kept"]

    def test_close_aborts_an_open_transaction(self, log: Log) -> None:
        """A producer closed in the middle leaves nothing behind that a reader could see or wait for."""
        topic = make_topic(log)
        producer = log.producer(transactional_id=unique("id"))
        producer.begin()
        producer.produce(outgoing(topic, [b"dropped"]))
        producer.flush()
        producer.close()
        write(log, outgoing(topic, [b"kept"]))
        assert values_of(read(log, topic, 1)) == [b"kept"]

    def test_transactions_follow_each_other(self, log: Log) -> None:
        """Many short transactions of one producer are all read, in order."""
        topic = make_topic(log)
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            for value in numbered(20):
                producer.begin()
                producer.produce(outgoing(topic, [value]))
                producer.commit()
        got = read(log, topic, 20)
        assert values_of(got) == numbered(20)
        offsets = [record.offset for record in got]
        assert offsets == sorted(set(offsets))

    def test_offsets_commit_with_records(self, log: Log) -> None:
        """Offsets and their text are committed by the transaction and survive it, word for word."""
        source, target, group = make_topic(log, 2), make_topic(log), unique("group")
        text = '{"time": 17, "größe": "✓"}' + "x" * 1000
        offsets = {
            TopicPartition(source, 0): OffsetAndMetadata(3, text),
            TopicPartition(source, 1): OffsetAndMetadata(0, ""),
        }
        with (
            closing(join(log, group, [source], 2)) as member,
            closing(log.producer(transactional_id=unique("id"))) as producer,
        ):
            producer.begin()
            producer.produce(outgoing(target, [b"result"]))
            assert member.consumer.committed(list(offsets)) == {}
            producer.commit(offsets, member.metadata())
            assert member.consumer.committed(list(offsets)) == offsets
        assert values_of(read(log, target, 1)) == [b"result"]
        with closing(log.admin()) as admin:
            assert admin.group_offsets(group) == offsets

    def test_offsets_alone_are_a_transaction(self, log: Log) -> None:
        """A transaction without records still commits its offsets."""
        source, group = make_topic(log), unique("group")
        offsets = {TopicPartition(source, 0): OffsetAndMetadata(5, "only")}
        with (
            closing(join(log, group, [source], 1)) as member,
            closing(log.producer(transactional_id=unique("id"))) as producer,
        ):
            producer.begin()
            producer.commit(offsets, member.metadata())
            assert member.consumer.committed(list(offsets)) == offsets

    def test_a_member_may_commit_offsets_of_other_topics(self, log: Log) -> None:
        """Positions of a topic that the group does not share out ride in a member's transaction, and are found again;
        those of a stale member do not."""
        source, beside, group = make_topic(log), make_topic(log, 2), unique("group")
        mine = {TopicPartition(beside, 1): OffsetAndMetadata(4, "beside")}
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            member = join(log, group, [source], 1)
            metadata = member.metadata()
            producer.begin()
            producer.commit(mine, metadata)
            assert member.consumer.committed([*mine, TopicPartition(beside, 0)]) == mine
            member.close()
            with closing(join(log, group, [source], 1)) as heir:
                producer.begin()
                with pytest.raises((TransactionAborted, Fenced)):
                    producer.commit({TopicPartition(beside, 1): OffsetAndMetadata(5)}, metadata)
                assert heir.consumer.committed(list(mine)) == mine

    def test_abort_commits_no_offsets(self, log: Log) -> None:
        """Offsets of an aborted transaction do not exist; the next transaction's do."""
        source, group = make_topic(log), unique("group")
        partition = TopicPartition(source, 0)
        with (
            closing(join(log, group, [source], 1)) as member,
            closing(log.producer(transactional_id=unique("id"))) as producer,
        ):
            for offset in (1, 2):
                producer.begin()
                producer.produce(outgoing(source, [b"a"]))
                if offset == 2:
                    producer.commit({partition: OffsetAndMetadata(offset)}, member.metadata())
                else:
                    producer.abort()
            assert member.consumer.committed([partition]) == {partition: OffsetAndMetadata(2)}

    def test_second_producer_fences_the_first(self, log: Log) -> None:
        """A newer producer of the same id ends the older one's transaction: its records never show."""
        topic, transactional_id = make_topic(log), unique("id")
        with closing(log.producer(transactional_id=transactional_id)) as old:
            old.begin()
            old.produce(outgoing(topic, [b"old"]))
            old.flush()
            with closing(log.producer(transactional_id=transactional_id)) as new:
                new.begin()
                new.produce(outgoing(topic, [b"new"]))
                with pytest.raises(Fenced):
                    old.commit()
                new.commit()
                with pytest.raises((Fenced, ProducerBroken)):
                    _whole_transaction(old, topic)
                new.begin()
                new.produce(outgoing(topic, [b"newer"]))
                new.commit()
        assert values_of(read(log, topic, 2)) == [b"new", b"newer"]

    def test_stale_group_metadata_is_refused(self, log: Log) -> None:
        """A member that left cannot commit what it read: neither records nor offsets of that transaction show."""
        source, target, group = make_topic(log), make_topic(log), unique("group")
        partition = TopicPartition(source, 0)
        member = join(log, group, [source], 1)
        metadata = member.metadata()
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            producer.begin()
            producer.produce(outgoing(target, [b"stale"]))
            member.close()
            with closing(join(log, group, [source], 1)) as heir:
                with pytest.raises((TransactionAborted, Fenced)) as caught:
                    producer.commit({partition: OffsetAndMetadata(9)}, metadata)
                if isinstance(caught.value, TransactionAborted):
                    producer.abort()
                assert heir.consumer.committed([partition]) == {}
        write(log, outgoing(target, [b"after"]))
        assert values_of(read(log, target, 1)) == [b"after"]

    def test_metadata_from_before_a_takeover_is_refused(self, log: Log) -> None:
        """Partitions given up to a second member cannot be committed with metadata captured while they were owned."""
        source, target, group = make_topic(log, 2), make_topic(log), unique("group")
        first = join(log, group, [source], 2)
        metadata = first.metadata()
        second = Member(log, group, [source])
        settle([first, second], lambda: len(first.owned) == len(second.owned) == 1, "both own one partition")
        taken = next(iter(second.owned))
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            producer.begin()
            producer.produce(outgoing(target, [b"stale"]))
            with pytest.raises((TransactionAborted, Fenced)) as caught:
                producer.commit({taken: OffsetAndMetadata(9)}, metadata)
            if isinstance(caught.value, TransactionAborted):
                producer.abort()
        assert second.consumer.committed([taken]) == {}
        for member in (first, second):
            member.close()
        write(log, outgoing(target, [b"after"]))
        assert values_of(read(log, target, 1)) == [b"after"]

    def test_commit_inside_revoked_counts(self, log: Log) -> None:
        """A transaction committed while partitions are being revoked is the truth for their next owner."""
        source, target, group = make_topic(log, 2), make_topic(log), unique("group")
        partitions = [TopicPartition(source, number) for number in (0, 1)]
        write(log, outgoing(source, numbered(14), partitions=[0, 1] * 7))
        first = join(log, group, [source], 2)
        with closing(log.producer(transactional_id=unique("id"))) as producer:
            producer.begin()
            producer.produce(outgoing(target, [b"done"]))
            metadata = first.metadata()
            first.before_revoke = lambda: producer.commit(
                {partition: OffsetAndMetadata(7, "seven") for partition in partitions}, metadata
            )
            second = Member(log, group, [source])
            settle([first, second], lambda: len(first.owned) == len(second.owned) == 1, "both own one partition")
            assert first.partitions("revoked")
            taken = next(iter(second.owned))
            assert second.consumer.committed([taken]) == {taken: OffsetAndMetadata(7, "seven")}
            assert second.records == {}
            for member in (first, second):
                member.close()
        assert values_of(read(log, target, 1)) == [b"done"]


def _whole_transaction(producer: Producer, topic: str) -> None:
    producer.begin()
    producer.produce(outgoing(topic, [b"never"]))
    producer.commit()
