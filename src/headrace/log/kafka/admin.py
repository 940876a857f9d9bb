"""Administration of topics and groups.

Owns no state: the client is shared (`cluster.Cluster`), so an admin costs nothing and `close` frees nothing.

- Each change is waited for until a description shows it.
- Of several topics in one call those that can be changed are; then the first error is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from headrace.log.kafka.client import PartitionAnswer
from headrace.log.kafka.cluster import Cluster, awaited
from headrace.log.kafka.errors import group_error, is_passing, kafka_error, port_error
from headrace.log.port import (
    LogError,
    OffsetAndMetadata,
    OffsetOutOfRange,
    TopicDescription,
    TopicPartition,
    TopicSpec,
)


class KafkaAdmin:
    """The port's `Admin`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def topics(self, *, internal: bool = False) -> Mapping[str, TopicDescription]:
        listed = self._cluster.connection.repeat(
            "listing topics", lambda: self._cluster.client().list_topics(timeout=self._timeout_s())
        )
        described = {
            name: topic
            for name, topic in self._cluster.describe_topics(listed.topics).items()
            if not isinstance(topic, KafkaError) and (internal or not topic.is_internal)
        }
        configs = self._cluster.describe_configs(described)
        # A topic whose settings are gone was deleted between the questions.
        return {
            name: TopicDescription(name, len(topic.partitions), _own_settings(configs[name]), str(topic.topic_id))
            for name, topic in described.items()
            if not isinstance(configs[name], KafkaError)
        }

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        wanted = {spec.name: spec for spec in specs}

        def request(names: list[str]) -> Mapping[str, Future[Any]]:
            return self._cluster.client().create_topics(
                [_new_topic(wanted[name]) for name in names], request_timeout=self._timeout_s()
            )

        errors = self._change("creating topic", list(wanted), request)
        made = [name for name in wanted if name not in errors]
        self._cluster.wait_until("creating topics", lambda: self._are_ready({each: wanted[each] for each in made}))
        _raise_first(errors.values())

    def delete_topics(self, names: Sequence[str]) -> None:
        def request(keys: list[str]) -> Mapping[str, Future[Any]]:
            return self._cluster.client().delete_topics(keys, request_timeout=self._timeout_s())

        errors = self._change("deleting topic", names, request)
        gone = [name for name in names if name not in errors]
        self._cluster.wait_until(
            "deleting topics",
            lambda: all(isinstance(each, KafkaError) for each in self._cluster.describe_topics(gone).values()),
        )
        _raise_first(errors.values())

    def add_partitions(self, topic: str, partitions: int) -> None:
        def request(names: list[str]) -> Mapping[str, Future[Any]]:
            return self._cluster.client().create_partitions(
                [NewPartitions(name, partitions) for name in names], request_timeout=self._timeout_s()
            )

        _raise_first(self._change(f"growing to {partitions} partitions topic", [topic], request).values())
        spec = {topic: TopicSpec(topic, partitions)}
        self._cluster.wait_until(f"growing topic {topic!r}", lambda: self._are_ready(spec))

    def alter_config(self, topic: str, config: Mapping[str, str]) -> None:
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)

        def request(_: list[str]) -> Mapping[str, Future[Any]]:
            futures = self._cluster.client().incremental_alter_configs([resource], request_timeout=self._timeout_s())
            return {topic: futures[resource]}

        _raise_first(self._change("changing the settings of topic", [topic], request).values())
        self._cluster.wait_until(f"changing the settings of topic {topic!r}", lambda: self._has_settings(topic, config))

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        wanted = [KafkaPartition(*partition, offset) for partition, offset in before.items()]

        def request(keys: list[KafkaPartition]) -> Mapping[KafkaPartition, Future[Any]]:
            return self._cluster.client().delete_records(keys, request_timeout=self._timeout_s())

        answers = self._cluster.resolve("deleting records", wanted, request)
        for key, answer in answers.items():
            if isinstance(answer, KafkaError):
                raise self._deletion_error(answer, key)
        for topic in {partition.topic for partition in before}:
            self._cluster.forget(topic)

    def groups(self) -> Sequence[str]:
        return sorted(group.group_id for group in self._listed_groups())

    def _listed_groups(self) -> Sequence[Any]:
        def ask() -> Any:
            asked = self._cluster.client().list_consumer_groups(request_timeout=self._timeout_s())
            answer = awaited(asked, self._timeout_s())
            for error in answer.errors:
                raise error if isinstance(error, KafkaException) else KafkaException(error)
            return answer

        try:
            found: Sequence[Any] = self._cluster.connection.repeat("listing groups", ask).valid
        except KafkaException as raised:
            raise port_error(kafka_error(raised), action="listing groups") from raised
        return found

    def group_is_empty(self, group: str) -> bool:
        listed = {each.group_id: each.state for each in self._listed_groups()}
        return group not in listed or listed[group] in (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)

    def group_offsets(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        action = f"asking for the offsets of group {group!r}"
        timeout_s = self._timeout_s()
        with self._cluster.outsider(group) as client:

            def ask() -> Mapping[TopicPartition, OffsetAndMetadata]:
                topics = client.list_topics(timeout=timeout_s).topics
                every = [KafkaPartition(name, number) for name, topic in topics.items() for number in topic.partitions]
                return offsets_of(client.committed(every, timeout=timeout_s), action)

            try:
                return self._cluster.connection.repeat(action, ask)
            except KafkaException as raised:
                raise group_error(kafka_error(raised), action=action, group=group) from raised

    def alter_group_offsets(self, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        if not offsets:
            return
        action = f"setting the offsets of group {group!r}"
        wanted = kafka_offsets(offsets)

        def ask() -> Any:
            futures = self._cluster.client().alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, wanted)], request_timeout=self._timeout_s()
            )
            answer = awaited(futures[group], self._timeout_s())
            for partition in answer.topic_partitions:
                if partition.error is not None:
                    raise KafkaException(partition.error)
            return answer

        try:
            self._cluster.connection.repeat(action, ask)
        except KafkaException as raised:
            raise group_error(kafka_error(raised), action=action, group=group) from raised

    def delete_group(self, group: str) -> None:
        def request(keys: list[str]) -> Mapping[str, Future[Any]]:
            return self._cluster.client().delete_consumer_groups(keys, request_timeout=self._timeout_s())

        answer = self._cluster.resolve(f"deleting group {group!r}", [group], request)[group]
        if isinstance(answer, KafkaError) and answer.code() != KafkaError.GROUP_ID_NOT_FOUND:
            raise group_error(answer, action=f"deleting group {group!r}", group=group)

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return self._cluster.end_offsets(partitions)

    def close(self) -> None:
        """Nothing is owned here."""

    def _timeout_s(self) -> float:
        return self._cluster.connection.request_timeout_s()

    def _change(
        self, action: str, names: Sequence[str], request: Callable[[list[str]], Mapping[str, Future[Any]]]
    ) -> dict[str, LogError]:
        """Ask for a change of topics; the errors of those that could not be changed, in the order of `names`."""
        answers = self._cluster.resolve(action, names, request)
        for name in names:
            self._cluster.forget(name)
        return {
            name: port_error(answers[name], action=f"{action} {name!r}", subject=f"topic {name!r}")
            for name in names
            if isinstance(answers[name], KafkaError)
        }

    def _are_ready(self, specs: Mapping[str, TopicSpec]) -> bool:
        described = self._cluster.describe_topics(specs)
        return all(
            not isinstance(topic, KafkaError)
            and len(topic.partitions) == specs[name].partitions
            and all(partition.leader is not None for partition in topic.partitions)
            for name, topic in described.items()
        )

    def _deletion_error(self, error: KafkaError, key: KafkaPartition) -> LogError:
        partition = TopicPartition(key.topic, key.partition)
        action = f"deleting records before offset {key.offset} in partition {key.partition} of topic {key.topic!r}"
        if error.code() == KafkaError.OFFSET_OUT_OF_RANGE:
            return OffsetOutOfRange(f"{action}: the partition does not reach that far", partition=partition)
        return self._cluster.place_error(error, action=action, partition=partition)

    def _has_settings(self, topic: str, config: Mapping[str, str]) -> bool:
        found = self._cluster.describe_configs([topic])[topic]
        if isinstance(found, KafkaError):
            raise port_error(found, action=f"reading the settings of topic {topic!r}", subject=f"topic {topic!r}")
        return all(found[name].value == value for name, value in config.items())


def kafka_offsets(offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> list[KafkaPartition]:
    """Offsets to commit, as the client wants them."""
    return [
        KafkaPartition(*partition, committed.offset, committed.metadata) for partition, committed in offsets.items()
    ]


def offsets_of(answer: Sequence[PartitionAnswer], action: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """The offsets an answer holds; partitions without one are left out."""
    found: dict[TopicPartition, OffsetAndMetadata] = {}
    for each in answer:
        if each.error is not None:
            if is_passing(each.error):
                raise KafkaException(each.error)
            raise port_error(each.error, action=action, subject=f"partition {each.partition} of topic {each.topic!r}")
        if each.offset >= 0:
            found[TopicPartition(each.topic, each.partition)] = OffsetAndMetadata(each.offset, each.metadata or "")
    return found


def _new_topic(spec: TopicSpec) -> NewTopic:
    return NewTopic(spec.name, spec.partitions, spec.replication_factor, config=dict(spec.config))


def _own_settings(config: Mapping[str, ConfigEntry]) -> dict[str, str]:
    """The settings of the topic itself, without the broker's defaults."""
    own = ConfigSource.DYNAMIC_TOPIC_CONFIG
    return {
        name: entry.value
        for name, entry in config.items()
        if ConfigSource(entry.source) is own and entry.value is not None
    }


def _raise_first(errors: Any) -> None:
    for error in errors:
        raise error
