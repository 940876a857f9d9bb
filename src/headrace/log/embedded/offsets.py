"""Committed offsets of groups, and the one check of who may commit them.

- The check and the commit are one SQLite transaction; no member can lose a partition between them.
- A member may commit a partition only if it has owned it without interruption since its metadata was captured.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headrace.log.embedded.errors import InvalidUse
from headrace.log.embedded.topics import get_topic
from headrace.log.port import Fenced, GroupMetadata, OffsetAndMetadata, TopicPartition, TransactionAborted

METADATA_BYTES_MAX = 4096
"""Kafka's default for `offset.metadata.max.bytes`."""

NO_MEMBER = ""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a member was at one moment. `claims` numbers each ownership; a later owner has another number."""

    group: str
    member_id: str
    generation: int
    claims: Mapping[TopicPartition, int]


def as_membership(group: GroupMetadata) -> Membership:
    if not isinstance(group, Membership):
        raise InvalidUse(f"group metadata of another log: {type(group).__name__}")
    return group


def check_offsets(offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
    """Refuse what Kafka would refuse, before anything is written."""
    for partition, (offset, text) in offsets.items():
        place = f"{partition.topic}[{partition.partition}]"
        if offset < 0:
            raise InvalidUse(f"{place}: {offset} is no offset to commit")
        if len(text.encode()) > METADATA_BYTES_MAX:
            raise InvalidUse(f"{place}: the text beside offset {offset} is longer than {METADATA_BYTES_MAX} bytes")


def check_membership(
    connection: sqlite3.Connection, membership: Membership, partitions: Iterable[TopicPartition]
) -> None:
    """Raise unless this member may commit these partitions now."""
    group, member_id = membership.group, membership.member_id
    if member_id == NO_MEMBER:
        if connection.execute("SELECT 1 FROM members WHERE group_id = ?", (group,)).fetchone():
            raise Fenced(f"group {group!r} has members; a reader by hand cannot commit for it")
        return
    member = connection.execute(
        "SELECT 1 FROM members WHERE group_id = ? AND member_id = ?", (group, member_id)
    ).fetchone()
    if member is None:
        raise Fenced(f"group {group!r}: member {member_id} is no longer in the group", cure="rewind and join again")
    for partition in partitions:
        _check_owner(connection, membership, partition)


def _check_owner(connection: sqlite3.Connection, membership: Membership, partition: TopicPartition) -> None:
    topic = get_topic(connection, partition.topic)
    row = connection.execute(
        "SELECT owner, claim FROM ownership WHERE group_id = ? AND topic_id = ? AND partition = ?",
        (membership.group, topic.topic_id, partition.partition),
    ).fetchone()
    place = f"group {membership.group!r}: {partition.topic}[{partition.partition}]"
    if row is None and not _is_subscribed(connection, membership.group, topic.topic_id):
        return  # As in Kafka, a member may keep positions of topics that its group does not share out.
    if row is None or row[0] != membership.member_id:
        raise Fenced(f"{place} is not owned by member {membership.member_id}", cure="rewind what is still owned")
    if partition not in membership.claims:
        raise TransactionAborted(f"{place} was assigned after the group metadata was captured")
    if membership.claims[partition] != row[1]:
        raise Fenced(f"{place} had another owner since the group metadata was captured")


def _is_subscribed(connection: sqlite3.Connection, group: str, topic_id: int) -> bool:
    sql = "SELECT 1 FROM ownership WHERE group_id = ? AND topic_id = ? LIMIT 1"
    return connection.execute(sql, (group, topic_id)).fetchone() is not None


def store_offsets(
    connection: sqlite3.Connection, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> None:
    """Write offsets, inside the caller's transaction. Raises `UnknownTopic`."""
    for partition, (offset, text) in offsets.items():
        topic = get_topic(connection, partition.topic)
        topic.check_partition(partition.partition)
        connection.execute(
            "INSERT OR REPLACE INTO group_offsets VALUES (?, ?, ?, ?, ?)",
            (group, topic.topic_id, partition.partition, offset, text),
        )


def load_offsets(connection: sqlite3.Connection, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """All committed offsets of a group, by topic and partition."""
    rows = connection.execute(
        "SELECT name, partition, next_offset, metadata FROM group_offsets JOIN topics USING (topic_id)"
        " WHERE group_id = ? ORDER BY name, partition",
        (group,),
    )
    return {TopicPartition(name, partition): OffsetAndMetadata(offset, text) for name, partition, offset, text in rows}
