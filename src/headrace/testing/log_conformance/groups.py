"""Conformance: members share the partitions of a group, none twice, none forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from headrace.log.columns import outgoing
from headrace.log.port import Log, TopicPartition
from headrace.testing.log_conformance.probe import Member, in_order, join, make_topic, numbered, settle, unique, write


class GroupsConformance:
    """Consumers that subscribe."""

    def test_a_single_member_owns_and_reads_everything(self, log: Log) -> None:
        """All partitions of all topics are assigned once, and all records read."""
        topics, group = [make_topic(log, 2), make_topic(log, 3)], unique("group")
        for topic in topics:
            write(log, outgoing(topic, numbered(12), keys=numbered(12)))
        with closing(Member(log, group, topics)) as member:
            settle([member], lambda: len(member.values()) >= 24, "all records came")
            everything = {TopicPartition(topics[0], each) for each in range(2)}
            everything |= {TopicPartition(topics[1], each) for each in range(3)}
            assert member.owned == everything
            assert sorted(member.partitions("assigned")) == sorted(everything)
            assert in_order(member.values()) == sorted(numbered(12) * 2)
        assert sorted(member.partitions("revoked")) == sorted(everything)
        assert member.partitions("lost") == []

    def test_two_members_share_equal_partition_numbers(self, log: Log) -> None:
        """Range assignment: over two topics of equal size each member owns the same numbers of both, so joins meet."""
        topics, group = [make_topic(log, 4), make_topic(log, 4)], unique("group")
        first, second = Member(log, group, topics), Member(log, group, topics)
        settle([first, second], lambda: len(first.owned) == len(second.owned) == 4, "both own half")
        for member in (first, second):
            numbers = [{each.partition for each in member.owned if each.topic == topic} for topic in topics]
            assert numbers[0] == numbers[1]
            assert len(numbers[0]) == 2
        assert not first.owned & second.owned
        for topic in topics:
            write(log, outgoing(topic, numbered(40), keys=numbered(40)))
        settle([first, second], lambda: len(first.values() + second.values()) >= 80, "all records came")
        assert in_order(first.values() + second.values()) == sorted(numbered(40) * 2)
        for member in (first, second):
            member.close()

    def test_a_joining_member_takes_over_without_loss_or_repeat(self, log: Log) -> None:
        """Commits made in `revoked` are where the new owner starts; what stays is not revoked and goes on reading."""
        topic, group = make_topic(log, 4), unique("group")
        write(log, outgoing(topic, numbered(40), partitions=[0, 1, 2, 3] * 10))
        first = Member(log, group, [topic], commit_on_revoke=True)
        settle([first], lambda: len(first.values()) == 40, "the first member read everything")
        second = Member(log, group, [topic], commit_on_revoke=True)
        settle([first, second], lambda: len(first.owned) == len(second.owned) == 2, "both own half")
        assert set(first.partitions("revoked")) == set(second.owned)
        assert first.partitions("lost") == []
        write(log, outgoing(topic, numbered(40, "w"), partitions=[0, 1, 2, 3] * 10))
        settle([first, second], lambda: len(first.values() + second.values()) >= 80, "the rest came")
        assert len(second.values()) == 20
        assert in_order(first.values() + second.values()) == sorted(numbered(40) + numbered(40, "w"))
        for member in (first, second):
            member.close()

    def test_a_leaving_member_hands_its_partitions_back(self, log: Log) -> None:
        """After a close the other member owns everything and goes on from the commits made in `revoked`."""
        topic, group = make_topic(log, 4), unique("group")
        first = Member(log, group, [topic], commit_on_revoke=True)
        second = Member(log, group, [topic], commit_on_revoke=True)
        settle([first, second], lambda: len(first.owned) == len(second.owned) == 2, "both own half")
        write(log, outgoing(topic, numbered(40), partitions=[0, 1, 2, 3] * 10))
        settle([first, second], lambda: len(first.values() + second.values()) >= 40, "all records came")
        gone = second.owned
        second.close()
        assert set(second.partitions("revoked")) >= gone
        settle([first], lambda: len(first.owned) == 4, "the other owns everything")
        write(log, outgoing(topic, numbered(40, "w"), partitions=[0, 1, 2, 3] * 10))
        settle([first], lambda: len(first.values() + second.values()) >= 80, "the rest came")
        assert in_order(first.values() + second.values()) == sorted(numbered(40) + numbered(40, "w"))
        first.close()

    def test_more_members_than_partitions(self, log: Log) -> None:
        """A member without partitions waits, and takes over when the owner leaves."""
        topic, group = make_topic(log), unique("group")
        first = join(log, group, [topic], 1)
        second = Member(log, group, [topic])
        settle([first, second], lambda: _owners([first, second]) == 1, "one owner")
        owner, other = (first, second) if first.owned else (second, first)
        owner.close()
        settle([other], lambda: len(other.owned) == 1, "the other took over")
        other.close()

    def test_groups_do_not_disturb_each_other(self, log: Log) -> None:
        """Two groups on one topic each read all of it."""
        topic = make_topic(log, 2)
        write(log, outgoing(topic, numbered(10), partitions=[0, 1] * 5))
        members = [Member(log, unique("group"), [topic]) for _ in range(2)]
        settle(members, lambda: all(len(member.values()) >= 10 for member in members), "both groups read everything")
        assert all(in_order(member.values()) == numbered(10) for member in members)
        for member in members:
            member.close()

    def test_seek_pause_and_resume_work_for_a_member(self, log: Log) -> None:
        """A member may rewind and pause what it owns, as an aborted transaction needs it."""
        topic, group = make_topic(log), unique("group")
        partition = TopicPartition(topic, 0)
        write(log, outgoing(topic, numbered(5)))
        with closing(Member(log, group, [topic])) as member:
            settle([member], lambda: len(member.values()) == 5, "all records came")
            member.consumer.seek({partition: 3})
            settle([member], lambda: len(member.values()) == 7, "two came again")
            assert member.values()[5:] == numbered(5)[3:]
            member.consumer.pause([partition])
            write(log, outgoing(topic, [b"later"]))
            for _ in range(5):
                member.poll(0.1)
            assert len(member.values()) == 7
            assert member.owned == frozenset({partition})
            member.consumer.resume([partition])
            settle([member], lambda: len(member.values()) == 8, "the paused record came")
            assert member.values()[7:] == [b"later"]


def _owners(members: Sequence[Member]) -> int:
    return sum(bool(member.owned) for member in members)
