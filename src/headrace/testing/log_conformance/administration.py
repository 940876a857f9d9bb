"""Conformance: topics and groups are made, changed, listed and removed, and every wrong call has its own error."""

from __future__ import annotations

from contextlib import closing

import pytest

from headrace.log.columns import outgoing
from headrace.log.port import (
    GroupNotEmpty,
    Log,
    LogError,
    OffsetAndMetadata,
    TopicExists,
    TopicPartition,
    TopicSpec,
    UnknownTopic,
)
from headrace.testing.log_conformance.probe import in_order, join, make_topic, numbered, read, unique, values_of, write


class AdministrationConformance:
    """The admin."""

    def test_created_topics_are_listed_as_asked(self, log: Log) -> None:
        """Name, partitions and settings come back; several topics are made by one call."""
        first, second = unique("a"), unique("b")
        config = {"cleanup.policy": "compact", "retention.ms": "86400000"}
        with closing(log.admin()) as admin:
            admin.create_topics([TopicSpec(first, 3, config=config), TopicSpec(second)])
            topics = admin.topics()
            assert (topics[first].name, topics[first].partitions) == (first, 3)
            assert topics[first].config.items() >= config.items()
            assert topics[second].partitions == 1
            assert topics[first].topic_id != topics[second].topic_id
            assert set(admin.topics(internal=True)) >= {first, second}

    def test_creating_a_topic_twice_is_refused(self, log: Log) -> None:
        """`TopicExists` names the topic, and nothing about it changes."""
        name = make_topic(log, 2)
        with closing(log.admin()) as admin:
            with pytest.raises(TopicExists, match=name):
                admin.create_topics([TopicSpec(name, 5)])
            assert admin.topics()[name].partitions == 2

    @pytest.mark.parametrize("name", ["", ".", "..", "with space", "slash/es", "ü", "x" * 250])
    def test_bad_topic_names_are_refused(self, log: Log, name: str) -> None:
        """Kafka's rule for names holds everywhere, so that a workspace moves unchanged."""
        with closing(log.admin()) as admin, pytest.raises(LogError):
            admin.create_topics([TopicSpec(name)])

    def test_names_that_differ_by_dot_and_underscore_collide(self, log: Log) -> None:
        """Kafka refuses `a.b` beside `a_b`; so does every log."""
        name = unique("collide")
        with closing(log.admin()) as admin:
            admin.create_topics([TopicSpec(f"{name}.x")])
            with pytest.raises(LogError):
                admin.create_topics([TopicSpec(f"{name}_x")])

    def test_bad_settings_are_refused(self, log: Log) -> None:
        """A setting that cannot be read is refused when it is set, and the topic stays as it was."""
        name, bad = make_topic(log, config={"retention.ms": "1000"}), unique("bad")
        with closing(log.admin()) as admin:
            with pytest.raises(LogError):
                admin.create_topics([TopicSpec(bad, config={"retention.ms": "soon"})])
            assert bad not in admin.topics()
            with pytest.raises(LogError):
                admin.alter_config(name, {"cleanup.policy": "shred"})
            assert admin.topics()[name].config["retention.ms"] == "1000"

    def test_deleted_topics_are_gone(self, log: Log) -> None:
        """A topic made again under the same name is empty and has another identity."""
        name = make_topic(log)
        write(log, outgoing(name, [b"old"]))
        with closing(log.admin()) as admin:
            former = admin.topics()[name].topic_id
            admin.delete_topics([name])
            assert name not in admin.topics()
            with pytest.raises(UnknownTopic, match=name):
                admin.delete_topics([name])
            admin.create_topics([TopicSpec(name)])
            assert admin.topics()[name].topic_id != former
            assert admin.end_offsets([TopicPartition(name, 0)]) == {TopicPartition(name, 0): 0}
        write(log, outgoing(name, [b"new"]))
        assert values_of(read(log, name, 1)) == [b"new"]

    def test_partitions_grow_and_never_shrink(self, log: Log) -> None:
        """New partitions can be written at once, by producers that knew the topic before."""
        name = make_topic(log)
        with closing(log.admin()) as admin, closing(log.producer()) as producer:
            producer.produce(outgoing(name, [b"before"]))
            producer.flush()
            admin.add_partitions(name, 3)
            assert admin.topics()[name].partitions == 3
            with pytest.raises(LogError):
                admin.add_partitions(name, 2)
            with pytest.raises(UnknownTopic):
                admin.add_partitions(unique("nowhere"), 2)
            producer.produce(outgoing(name, [b"after"], partitions=2))
            producer.flush()
        assert in_order(values_of(read(log, name, 2, partitions=3))) == [b"after", b"before"]

    def test_altered_settings_leave_others_alone(self, log: Log) -> None:
        """Only the named settings change."""
        name = make_topic(log, config={"retention.ms": "1000", "cleanup.policy": "compact"})
        with closing(log.admin()) as admin:
            admin.alter_config(name, {"retention.ms": "2000", "max.message.bytes": "5000"})
            config = admin.topics()[name].config
            assert config["cleanup.policy"] == "compact"
            assert config["retention.ms"] == "2000"
            assert config["max.message.bytes"] == "5000"
            with pytest.raises(UnknownTopic):
                admin.alter_config(unique("nowhere"), {"retention.ms": "1"})

    def test_deleted_records_are_gone(self, log: Log) -> None:
        """Records before the offset cannot be read any more, the others keep their offsets."""
        name = make_topic(log, 2)
        write(log, outgoing(name, numbered(20), partitions=[0, 1] * 10))
        with closing(log.admin()) as admin:
            admin.delete_records({TopicPartition(name, 0): 4, TopicPartition(name, 1): 10})
            got = read(log, name, 6, partitions=2)
            assert [(record.partition, record.offset) for record in got] == [(0, offset) for offset in range(4, 10)]
            with pytest.raises(UnknownTopic):
                admin.delete_records({TopicPartition(unique("nowhere"), 0): 1})

    def test_end_offsets_of_unknown_topics_are_refused(self, log: Log) -> None:
        """An admin asked about a topic that does not exist says so."""
        nowhere = unique("nowhere")
        with closing(log.admin()) as admin, pytest.raises(UnknownTopic, match=nowhere):
            admin.end_offsets([TopicPartition(nowhere, 0)])

    def test_group_offsets_can_be_read_set_and_forgotten(self, log: Log) -> None:
        """Offsets of a group without members are set from outside; a deleted group is unknown again."""
        name, group = make_topic(log, 2), unique("group")
        offsets = {TopicPartition(name, 0): OffsetAndMetadata(3, "m"), TopicPartition(name, 1): OffsetAndMetadata(0)}
        with closing(log.admin()) as admin:
            assert admin.group_offsets(group) == {}
            assert group not in admin.groups()
            admin.alter_group_offsets(group, offsets)
            assert admin.group_offsets(group) == offsets
            assert group in admin.groups()
            admin.alter_group_offsets(group, {TopicPartition(name, 0): OffsetAndMetadata(1)})
            assert admin.group_offsets(group) == offsets | {TopicPartition(name, 0): OffsetAndMetadata(1)}
            admin.delete_group(group)
            assert admin.group_offsets(group) == {}
            assert group not in admin.groups()
            admin.delete_group(group)

    def test_set_offsets_are_where_a_member_starts(self, log: Log) -> None:
        """What an operator writes is what the next member reads from."""
        name, group = make_topic(log), unique("group")
        write(log, outgoing(name, numbered(5)))
        partition = TopicPartition(name, 0)
        with closing(log.admin()) as admin:
            admin.alter_group_offsets(group, {partition: OffsetAndMetadata(5)})
        with closing(join(log, group, [name], 1)) as member:
            assert member.consumer.committed([partition]) == {partition: OffsetAndMetadata(5)}
            write(log, outgoing(name, [b"next"]))
            for _ in range(200):
                member.poll()
                if member.values():
                    break
            assert member.values() == [b"next"]

    def test_a_group_with_members_is_not_touched(self, log: Log) -> None:
        """Offsets of a group at work cannot be set or deleted from outside; after its members left they can."""
        name, group = make_topic(log), unique("group")
        offsets = {TopicPartition(name, 0): OffsetAndMetadata(0)}
        with closing(log.admin()) as admin:
            assert admin.group_is_empty(group)
            with closing(join(log, group, [name], 1)):
                assert group in admin.groups()
                assert not admin.group_is_empty(group)
                with pytest.raises(GroupNotEmpty, match=group):
                    admin.alter_group_offsets(group, offsets)
                with pytest.raises(GroupNotEmpty, match=group):
                    admin.delete_group(group)
            assert admin.group_is_empty(group)
            admin.alter_group_offsets(group, offsets)
            assert admin.group_offsets(group) == offsets
            assert admin.group_is_empty(group)
            admin.delete_group(group)
            assert admin.group_offsets(group) == {}
