"""Groups: who is in, who owns which partition, and how partitions move.

Owns `groups`, `members` and `ownership`. The rules are those of Kafka's KIP-848, moved into one file:

1. Whoever changes the membership computes everybody's target (range assignment) in the same transaction.
2. A member that owns what is not its target is told (`revoked`), then lets go.
3. A member takes what is its target once nobody owns it; each taking has a new claim number.
4. A member whose session expired is put out by any other member; its partitions are free at once.

- A partition has at most one owner, at every moment.
- Partitions that stay where they are keep their claim through any rebalance.
- Sessions are measured on the machine's monotonic clock, which all processes share and nobody can set.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.log.embedded import schema
from headrace.log.embedded.offsets import Membership
from headrace.log.embedded.storage import Storage
from headrace.log.embedded.topics import find_topic
from headrace.log.port import GroupNotEmpty, TopicPartition

SESSION_TIMEOUT_MS = 6_000
"""A member not heard of for so long is out. Short, because a killed worker's partitions stand still meanwhile."""
HEARTBEATS_PER_SESSION = 3
POLL_INTERVAL_MAX_MS = 300_000
"""A member that lives but does not poll for so long is given up, as with Kafka's `max.poll.interval.ms`."""


def monotonic_ms() -> int:
    """A clock common to all processes of this machine. It starts anew when the machine does."""
    return time.monotonic_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Change:
    """What a member must tell its owner, in this order: lost, then revoked, then assigned."""

    lost: Sequence[TopicPartition] = ()
    revoked: Sequence[TopicPartition] = ()
    assigned: Sequence[TopicPartition] = ()

    def __bool__(self) -> bool:
        return bool(self.lost or self.revoked or self.assigned)


@dataclass(slots=True)
class Member:
    """One member of a group, seen from inside. Belongs to the consumer's thread."""

    storage: Storage
    group: str
    client_id: str
    topics: tuple[str, ...]
    session_timeout_ms: int
    member_id: str = ""
    generation: int = 0
    claims: dict[TopicPartition, int] = field(default_factory=dict)
    _version: int = -1

    def join(self) -> None:
        """Enter the group, or change the subscription."""
        if not self.member_id:
            self.member_id = f"{self.client_id}-{uuid.uuid4().hex}"
        with self.storage.write() as connection:
            self._insert(connection)
        self._version = -1

    def membership(self) -> Membership:
        return Membership(self.group, self.member_id, self.generation, dict(self.claims))

    def next_change(self) -> Change:
        """The next thing to happen to this member, if any. Partitions assigned are owned already; those revoked
        are owned until `release`."""
        if not self._is_due():
            return Change()
        with self.storage.write() as connection:
            change, version = self._advance(connection), _version(connection, self.group)
        if not change:
            self._version = version
        return change

    def release(self, partitions: Sequence[TopicPartition]) -> None:
        """Give up ownership, after `revoked` was told."""
        with self.storage.write() as connection:
            self._release(connection, partitions)
        for partition in partitions:
            del self.claims[partition]

    def leave(self) -> None:
        """Leave the group; whatever is still owned is free at once."""
        with self.storage.write() as connection:
            remove_members(connection, self.group, [self.member_id])
            compute_targets(connection, self.group)
        self.claims.clear()

    def is_member(self) -> bool:
        sql = "SELECT 1 FROM members WHERE group_id = ? AND member_id = ?"
        return self.storage.row(sql, (self.group, self.member_id)) is not None

    def _is_due(self) -> bool:
        now_ms = monotonic_ms()
        row = self.storage.row(
            "SELECT version, catalog = (SELECT value FROM counters WHERE name = 'catalog'),"
            " EXISTS (SELECT 1 FROM members WHERE group_id = g.group_id AND member_id = ?),"
            f" EXISTS (SELECT 1 FROM members WHERE group_id = g.group_id AND member_id <> ? AND {_EXPIRED})"
            " FROM groups g WHERE group_id = ?",
            (self.member_id, self.member_id, now_ms, now_ms, self.group),
        )
        if row is None:
            return True
        version, same_catalog, present, others_expired = row
        return bool(version != self._version or not same_catalog or not present or others_expired)

    def _advance(self, connection: sqlite3.Connection) -> Change:
        if not self._is_present(connection):
            return self._rejoin(connection)
        if self._put_out_expired(connection) or _is_catalog_new(connection, self.group):
            compute_targets(connection, self.group)
        self.generation = _generation(connection, self.group)
        owned, free = self._owned(connection), self._claimable(connection)
        vanished = sorted(set(self.claims) - set(owned))
        if vanished:
            for partition in vanished:
                del self.claims[partition]
            return Change(lost=vanished)
        revoked = sorted(partition for partition, is_target in owned.items() if not is_target)
        if revoked:
            return Change(revoked=revoked)
        return Change(assigned=[self._claim(connection, topic_id, partition) for topic_id, partition in free])

    def _rejoin(self, connection: sqlite3.Connection) -> Change:
        """The session expired: everything is lost, and a new member begins."""
        lost = sorted(self.claims)
        self.claims.clear()
        self.member_id = f"{self.client_id}-{uuid.uuid4().hex}"
        self._insert(connection)
        return Change(lost=lost)

    def _insert(self, connection: sqlite3.Connection) -> None:
        known = connection.execute(
            "SELECT joined FROM members WHERE group_id = ? AND member_id = ?", (self.group, self.member_id)
        ).fetchone()
        joined = known[0] if known else schema.advance(connection, "join")
        session_ms = self.session_timeout_ms
        connection.execute("INSERT OR IGNORE INTO groups VALUES (?, 0, 0, -1)", (self.group,))
        connection.execute(
            "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?)",
            (self.group, self.member_id, joined, json.dumps(self.topics), session_ms, monotonic_ms() + session_ms),
        )
        compute_targets(connection, self.group)

    def _is_present(self, connection: sqlite3.Connection) -> bool:
        sql = "SELECT 1 FROM members WHERE group_id = ? AND member_id = ?"
        return connection.execute(sql, (self.group, self.member_id)).fetchone() is not None

    def _put_out_expired(self, connection: sqlite3.Connection) -> bool:
        expired = expired_members(connection, self.group)
        others = [member_id for member_id in expired if member_id != self.member_id]
        remove_members(connection, self.group, others)
        return bool(others)

    def _owned(self, connection: sqlite3.Connection) -> dict[TopicPartition, bool]:
        """What this member owns, and whether it may keep it."""
        rows = connection.execute(
            "SELECT name, partition, target IS owner FROM ownership JOIN topics USING (topic_id)"
            " WHERE group_id = ? AND owner = ?",
            (self.group, self.member_id),
        )
        return {TopicPartition(name, partition): bool(is_target) for name, partition, is_target in rows}

    def _claimable(self, connection: sqlite3.Connection) -> list[tuple[int, int]]:
        rows = connection.execute(
            "SELECT topic_id, partition FROM ownership JOIN topics USING (topic_id)"
            " WHERE group_id = ? AND target = ? AND owner IS NULL ORDER BY name, partition",
            (self.group, self.member_id),
        )
        return rows.fetchall()

    def _claim(self, connection: sqlite3.Connection, topic_id: int, partition: int) -> TopicPartition:
        claim = schema.advance(connection, "claim")
        connection.execute(
            "UPDATE ownership SET owner = ?, claim = ? WHERE group_id = ? AND topic_id = ? AND partition = ?",
            (self.member_id, claim, self.group, topic_id, partition),
        )
        name = connection.execute("SELECT name FROM topics WHERE topic_id = ?", (topic_id,)).fetchone()[0]
        taken = TopicPartition(name, partition)
        self.claims[taken] = claim
        return taken

    def _release(self, connection: sqlite3.Connection, partitions: Sequence[TopicPartition]) -> None:
        connection.executemany(
            "UPDATE ownership SET owner = NULL WHERE group_id = ? AND owner = ? AND partition = ?"
            " AND topic_id = (SELECT topic_id FROM topics WHERE name = ?)",
            [(self.group, self.member_id, partition, topic) for topic, partition in partitions],
        )
        _changed(connection, self.group)


_EXPIRED = "expires_ms NOT BETWEEN ? AND ? + 2 * session_ms"
"""Over, or further ahead than a session can be: left from before the machine started anew."""


def expired_members(connection: sqlite3.Connection, group: str) -> list[str]:
    """Members whose session is over."""
    now_ms = monotonic_ms()
    rows = connection.execute(
        f"SELECT member_id FROM members WHERE group_id = ? AND {_EXPIRED}", (group, now_ms, now_ms)
    )
    return [member_id for (member_id,) in rows]


def remove_members(connection: sqlite3.Connection, group: str, member_ids: Sequence[str]) -> None:
    """Put members out and free what they own; the caller computes new targets."""
    for member_id in member_ids:
        connection.execute("DELETE FROM members WHERE group_id = ? AND member_id = ?", (group, member_id))
        connection.execute("UPDATE ownership SET owner = NULL WHERE group_id = ? AND owner = ?", (group, member_id))


def compute_targets(connection: sqlite3.Connection, group: str) -> None:
    """Range assignment per topic over its subscribers, oldest member first; starts a new generation."""
    members = connection.execute(
        "SELECT member_id, topics FROM members WHERE group_id = ? ORDER BY joined", (group,)
    ).fetchall()
    subscribers: dict[str, list[str]] = {}
    for member_id, topics in members:
        for name in json.loads(topics):
            subscribers.setdefault(name, []).append(member_id)
    connection.execute("UPDATE ownership SET target = NULL WHERE group_id = ?", (group,))
    for name, member_ids in subscribers.items():
        topic = find_topic(connection, name)
        if topic is not None:
            _set_targets(connection, group, topic.topic_id, range_assignment(topic.partitions, member_ids))
    connection.execute("DELETE FROM ownership WHERE group_id = ? AND target IS NULL AND owner IS NULL", (group,))
    connection.execute(
        "UPDATE groups SET generation = generation + 1,"
        " catalog = (SELECT value FROM counters WHERE name = 'catalog') WHERE group_id = ?",
        (group,),
    )
    _changed(connection, group)


def range_assignment(partitions: int, member_ids: Sequence[str]) -> list[str]:
    """The member of each partition: contiguous ranges, the first members one longer where it does not divide."""
    each, longer = divmod(partitions, len(member_ids))
    sizes = [each + (number < longer) for number in range(len(member_ids))]
    return [member_id for member_id, size in zip(member_ids, sizes, strict=True) for _ in range(size)]


def _set_targets(connection: sqlite3.Connection, group: str, topic_id: int, targets: Sequence[str]) -> None:
    connection.executemany(
        "INSERT INTO ownership (group_id, topic_id, partition, target) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET target = excluded.target",
        [(group, topic_id, partition, target) for partition, target in enumerate(targets)],
    )


def require_empty(connection: sqlite3.Connection, group: str) -> None:
    """Raise `GroupNotEmpty` while a member lives; dead ones are put out."""
    remove_members(connection, group, expired_members(connection, group))
    count = connection.execute("SELECT count(*) FROM members WHERE group_id = ?", (group,)).fetchone()[0]
    if count:
        raise GroupNotEmpty(f"group {group!r} has {count} members", cure="stop them first")


def _generation(connection: sqlite3.Connection, group: str) -> int:
    return int(connection.execute("SELECT generation FROM groups WHERE group_id = ?", (group,)).fetchone()[0])


def _version(connection: sqlite3.Connection, group: str) -> int:
    return int(connection.execute("SELECT version FROM groups WHERE group_id = ?", (group,)).fetchone()[0])


def _is_catalog_new(connection: sqlite3.Connection, group: str) -> bool:
    sql = "SELECT catalog <> (SELECT value FROM counters WHERE name = 'catalog') FROM groups WHERE group_id = ?"
    return bool(connection.execute(sql, (group,)).fetchone()[0])


def _changed(connection: sqlite3.Connection, group: str) -> None:
    connection.execute("UPDATE groups SET version = version + 1 WHERE group_id = ?", (group,))
