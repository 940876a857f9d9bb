"""What the conformance tests ask a log through: names, waits, readers and a group member that keeps a diary.

- Every wait has a deadline and polls a condition; none sleeps for a fixed time.
- Only the log port is used, so that a test holds for every implementation.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing

from headrace.log.columns import Record, batch_records
from headrace.log.port import (
    Consumer,
    GroupMetadata,
    Log,
    OffsetAndMetadata,
    Outgoing,
    RebalanceListener,
    TopicPartition,
    TopicSpec,
)

DEADLINE_S = 45.0
"""How long any one condition may take: a Kafka group needs several seconds to notice a member."""
POLL_S = 0.1
QUIET_S = 0.5
"""How long "nothing comes" is watched. Only a lower bound of what the log promises."""
READ_RECORDS_MAX = 10_000


def unique(prefix: str) -> str:
    """A name no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Call `condition` until it is true. It should block a little by itself, as a poll does."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {DEADLINE_S} s in vain until {what}")
        time.sleep(0.005)


def make_topic(log: Log, partitions: int = 1, *, prefix: str = "topic", config: Mapping[str, str] | None = None) -> str:
    """A new topic of a unique name."""
    name = unique(prefix)
    with closing(log.admin()) as admin:
        admin.create_topics([TopicSpec(name, partitions, config=dict(config or {}))])
    return name


def write(log: Log, *records: Outgoing) -> None:
    """Produce without a transaction, and wait until stored."""
    with closing(log.producer()) as producer:
        for each in records:
            producer.produce(each)
        producer.flush()


def beginning(topic: str, partitions: int = 1) -> dict[TopicPartition, int]:
    """Positions for `assign`: all of a topic."""
    return {TopicPartition(topic, number): -2 for number in range(partitions)}


def drain(consumer: Consumer, count: int, *, records_max: int = READ_RECORDS_MAX) -> dict[str, list[Record]]:
    """Poll until `count` records came; returns them by topic in the order they came."""
    found: dict[str, list[Record]] = {}
    deadline = time.monotonic() + DEADLINE_S
    while (have := sum(map(len, found.values()))) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{have} of {count} records came within {DEADLINE_S} s")
        for batch in consumer.poll(records_max, POLL_S):
            found.setdefault(batch.topic, []).extend(batch_records(batch))
    return found


def read(log: Log, topic: str, count: int, *, partitions: int = 1, records_max: int = READ_RECORDS_MAX) -> list[Record]:
    """The first `count` records or more of a topic."""
    with closing(log.consumer()) as consumer:
        consumer.assign(beginning(topic, partitions))
        return drain(consumer, count, records_max=records_max)[topic]


def values_of(records: Sequence[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def in_order(values: Iterable[bytes | None]) -> list[bytes | None]:
    """Sorted, nulls first."""
    return sorted(values, key=lambda value: (value is not None, value or b""))


def is_quiet(consumer: Consumer) -> bool:
    """Whether nothing comes for a while."""
    deadline = time.monotonic() + QUIET_S
    while time.monotonic() < deadline:
        if consumer.poll(READ_RECORDS_MAX, POLL_S):
            return False
    return True


def numbered(count: int, prefix: str = "v") -> list[bytes]:
    """Distinct values in order."""
    return [f"{prefix}{number}".encode() for number in range(count)]


class Member:
    """A group member that writes down its callbacks and records, and remembers the next offset of each partition."""

    def __init__(self, log: Log, group: str, topics: Sequence[str], *, commit_on_revoke: bool = False) -> None:
        self.consumer = log.consumer(group=group)
        self.events: list[tuple[str, tuple[TopicPartition, ...]]] = []
        self.records: dict[TopicPartition, list[Record]] = {}
        self.next_offset: dict[TopicPartition, int] = {}
        self.start_at: dict[TopicPartition, int] = {}
        """Seeks done inside `assigned`."""
        self.before_revoke: Callable[[], None] | None = None
        """Called once, in the first `revoked`."""
        self._commit_on_revoke = commit_on_revoke
        self.consumer.subscribe(topics, RebalanceListener(self._assigned, self._revoked, self._lost))

    @property
    def owned(self) -> frozenset[TopicPartition]:
        return self.consumer.assignment()

    def poll(self, timeout_s: float = POLL_S) -> None:
        for batch in self.consumer.poll(READ_RECORDS_MAX, timeout_s):
            for record in batch_records(batch):
                partition = TopicPartition(batch.topic, record.partition)
                self.records.setdefault(partition, []).append(record)
                self.next_offset[partition] = record.offset + 1

    def metadata(self) -> GroupMetadata:
        return self.consumer.group_metadata()

    def partitions(self, event: str) -> list[TopicPartition]:
        """All partitions of one kind of callback, in order."""
        return [partition for kind, partitions in self.events if kind == event for partition in partitions]

    def values(self) -> list[bytes | None]:
        return [record.value for partition in sorted(self.records) for record in self.records[partition]]

    def close(self) -> None:
        self.consumer.close()

    def _assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self.events.append(("assigned", tuple(partitions)))
        seeks = {partition: self.start_at[partition] for partition in partitions if partition in self.start_at}
        if seeks:
            self.consumer.seek(seeks)

    def _revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.events.append(("revoked", tuple(partitions)))
        act, self.before_revoke = self.before_revoke, None
        if act is not None:
            act()
        if self._commit_on_revoke:
            known = {each: OffsetAndMetadata(self.next_offset[each]) for each in partitions if each in self.next_offset}
            if known:
                self.consumer.commit(known)

    def _lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.events.append(("lost", tuple(partitions)))


def settle(members: Sequence[Member], condition: Callable[[], bool], what: str) -> None:
    """Poll all members in turn until the group looks as wanted."""

    def step() -> bool:
        for member in members:
            member.poll(0.05)
        return condition()

    wait_for(step, what)


def join(log: Log, group: str, topics: Sequence[str], partitions: int) -> Member:
    """A member that already owns all partitions of the topics."""
    member = Member(log, group, topics)
    settle([member], lambda: len(member.owned) == partitions * len(topics), "the only member owns everything")
    return member
