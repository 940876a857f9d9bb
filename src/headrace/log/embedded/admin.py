"""Topics and groups of the embedded log, made, changed and removed.

- Every call is one transaction (a topic each for `create_topics`); what it changed can be seen when it returns.
- A change of the catalog is counted, so that producers, consumers and groups of all processes look again.
- One admin may be used by several threads.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from headrace.log.embedded import schema
from headrace.log.embedded.errors import InvalidTopic, InvalidUse
from headrace.log.embedded.maintenance import Maintenance
from headrace.log.embedded.membership import require_empty
from headrace.log.embedded.offsets import check_offsets, load_offsets, store_offsets
from headrace.log.embedded.positions import bounds, end_offsets
from headrace.log.embedded.segments import Stored, remove, stored
from headrace.log.embedded.storage import Storage
from headrace.log.embedded.topics import (
    PARTITIONS_MAX,
    Catalog,
    Topic,
    all_topics,
    check_config,
    check_name,
    find_topic,
    get_topic,
)
from headrace.log.port import (
    GroupNotEmpty,
    OffsetAndMetadata,
    OffsetOutOfRange,
    TopicDescription,
    TopicExists,
    TopicPartition,
    TopicSpec,
)

END = -1
"""In `delete_records`: everything that is there now, as in Kafka."""


class EmbeddedAdmin:
    """An admin on one file."""

    def __init__(self, storage: Storage, clock: Callable[[], int]) -> None:
        self._storage = storage
        self._maintenance = Maintenance(storage, clock)

    def topics(self, *, internal: bool = False) -> Mapping[str, TopicDescription]:
        """All topics; the embedded log keeps none of its own, so `internal` adds nothing."""
        with self._storage.snapshot() as connection:
            found = all_topics(connection)
        return {
            topic.name: TopicDescription(topic.name, topic.partitions, topic.config, topic.identity) for topic in found
        }

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        for spec in specs:
            check_name(spec.name)
            check_config(spec.name, spec.config)
            if not 1 <= spec.partitions <= PARTITIONS_MAX:
                raise InvalidTopic(
                    f"topic {spec.name!r}: {spec.partitions} partitions; 1 to {PARTITIONS_MAX} are possible"
                )
            with self._storage.write() as connection:
                _create(connection, spec)

    def delete_topics(self, names: Sequence[str]) -> None:
        with self._storage.write() as connection:
            for topic in [get_topic(connection, name) for name in names]:
                _delete(connection, topic)
            schema.advance(connection, "catalog")
        self._maintenance.purge()

    def add_partitions(self, topic: str, partitions: int) -> None:
        with self._storage.write() as connection:
            known = get_topic(connection, topic)
            if not known.partitions < partitions <= PARTITIONS_MAX:
                raise InvalidTopic(
                    f"topic {topic!r} has {known.partitions} partitions and cannot get {partitions}",
                    cure=f"ask for more than it has, at most {PARTITIONS_MAX}",
                )
            connection.execute("UPDATE topics SET partitions = ? WHERE topic_id = ?", (partitions, known.topic_id))
            _insert_partitions(connection, known.topic_id, range(known.partitions, partitions))
            schema.advance(connection, "catalog")

    def alter_config(self, topic: str, config: Mapping[str, str]) -> None:
        with self._storage.write() as connection:
            known = get_topic(connection, topic)
            check_config(topic, config)
            text = json.dumps({**known.config, **config}, sort_keys=True)
            connection.execute("UPDATE topics SET config = ? WHERE topic_id = ?", (text, known.topic_id))
            schema.advance(connection, "catalog")

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        with self._storage.write() as connection:
            for partition, offset in before.items():
                _delete_before(connection, partition, offset)

    def groups(self) -> Sequence[str]:
        rows = self._storage.rows(
            "SELECT group_id FROM members UNION SELECT group_id FROM group_offsets ORDER BY group_id"
        )
        return [group for (group,) in rows]

    def group_is_empty(self, group: str) -> bool:
        try:
            with self._storage.write() as connection:
                require_empty(connection, group)
        except GroupNotEmpty:
            return False
        return True

    def group_offsets(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        with self._storage.snapshot() as connection:
            return load_offsets(connection, group)

    def alter_group_offsets(self, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        check_offsets(offsets)
        with self._storage.write() as connection:
            require_empty(connection, group)
            store_offsets(connection, group, offsets)

    def delete_group(self, group: str) -> None:
        with self._storage.write() as connection:
            require_empty(connection, group)
            for table in ("group_offsets", "ownership", "groups"):
                connection.execute(f"DELETE FROM {table} WHERE group_id = ?", (group,))

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return end_offsets(self._storage, Catalog(self._storage), partitions)

    def close(self) -> None:
        self._storage.close()


def _create(connection: sqlite3.Connection, spec: TopicSpec) -> None:
    if find_topic(connection, spec.name) is not None:
        raise TopicExists(f"topic {spec.name!r} is there already")
    _check_collision(connection, spec.name)
    topic_id = connection.execute(
        "INSERT INTO topics (name, identity, partitions, config) VALUES (?, ?, ?, ?)",
        (spec.name, str(uuid.uuid4()), spec.partitions, json.dumps(dict(spec.config), sort_keys=True)),
    ).lastrowid
    assert topic_id is not None
    _insert_partitions(connection, topic_id, range(spec.partitions))
    schema.advance(connection, "catalog")


def _check_collision(connection: sqlite3.Connection, name: str) -> None:
    row = connection.execute(
        "SELECT name FROM topics WHERE replace(name, '.', '_') = ?", (name.replace(".", "_"),)
    ).fetchone()
    if row is not None:
        raise InvalidTopic(
            f"topic {name!r} collides with {row[0]!r}: Kafka takes '.' and '_' for the same", cure="choose another name"
        )


def _insert_partitions(connection: sqlite3.Connection, topic_id: int, numbers: range) -> None:
    connection.executemany(
        "INSERT INTO partitions (topic_id, partition) VALUES (?, ?)", [(topic_id, number) for number in numbers]
    )


def _delete(connection: sqlite3.Connection, topic: Topic) -> None:
    """Forget a topic. Its segments are freed afterwards, piece by piece; nobody can reach them any more."""
    for table in ("topics", "partitions", "ownership", "group_offsets"):
        connection.execute(f"DELETE FROM {table} WHERE topic_id = ?", (topic.topic_id,))
    connection.execute("INSERT INTO deleted_topics VALUES (?)", (topic.topic_id,))


def _delete_before(connection: sqlite3.Connection, partition: TopicPartition, offset: int) -> None:
    topic = get_topic(connection, partition.topic)
    topic.check_partition(partition.partition)
    start, end = bounds(connection, topic, partition.partition)
    offset = end if offset == END else offset
    if offset < 0:
        raise InvalidUse(f"{partition.topic}[{partition.partition}]: {offset} is no offset to delete before")
    if offset > end:
        raise OffsetOutOfRange(
            f"{partition.topic}[{partition.partition}]: cannot delete before {offset}, the partition ends at {end}",
            partition=partition,
        )
    if offset <= start:
        return
    connection.execute(
        "UPDATE partitions SET start_offset = ? WHERE topic_id = ? AND partition = ?",
        (offset, topic.topic_id, partition.partition),
    )
    gone: list[Stored] = []
    with closing(stored(connection, topic.topic_id, partition.partition)) as segments:
        for segment in segments:
            if segment.last_offset >= offset:
                break
            gone.append(segment)
    remove(connection, topic.topic_id, partition.partition, gone)
