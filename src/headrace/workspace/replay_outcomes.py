"""What became of dead letters that were replayed.

Owns the topics `<name>.replay` and `<name>.dlq.outcomes`, and the outcome of each dead letter.

- An entry of the outcomes is written in one transaction with the replay records that it tells of.
- Nobody writes whether a replay was processed: the positions committed for the replay topic say it, which are
  committed with what came of it. A dead letter that names the replayed one says that it failed again.
- Replay records age out after `REPLAY_RETENTION_MS`, long before a group's positions do: none is ever read twice.
  What was not taken up by then is open again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from headrace.flow.internal_topics import CHANGELOG_MESSAGE_BYTES_MAX
from headrace.log.port import Log, OffsetAndMetadata, TopicPartition, TopicSpec, UnknownTopic
from headrace.log.replays import LetterPlace
from headrace.workspace.dead_letters import read_records

REPLAY_RETENTION_MS = 3 * 24 * 60 * 60 * 1000
"""Kafka forgets positions of a topic that a group does not subscribe to after seven days."""
SEGMENT_MS = 24 * 60 * 60 * 1000
"""A segment that is written to does not age out."""
HEADERS_BYTES_MAX = 256 * 1024
"""What a replay record may have beside the dead letter it is of."""


class Outcome(StrEnum):
    """How a dead letter stands."""

    OPEN = "open"
    """Nobody replayed it, or its replay was not taken up in time."""
    PENDING = "pending"
    """It is replayed, and nobody has taken it up yet."""
    PROCESSED = "processed"
    """The step that had failed took it."""
    FAILED_AGAIN = "failed_again"
    """It failed again, there or at a later step: a newer dead letter tells."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """That a dead letter was replayed."""

    at_ms: int
    count: int
    """How often the record was replayed, this time included."""
    to: tuple[tuple[int, int], ...]
    """Partition and offset of each of its replay records."""
    patched: bool
    forced: bool

    def to_json(self) -> bytes:
        raw = {
            "at_ms": self.at_ms,
            "count": self.count,
            "to": [list(each) for each in self.to],
            "patched": self.patched,
            "forced": self.forced,
        }
        return json.dumps(raw, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Replayed:
        """Raises `ValueError`, `KeyError`."""
        raw = json.loads(text)
        to = tuple((int(partition), int(offset)) for partition, offset in raw["to"])
        return cls(int(raw["at_ms"]), int(raw["count"]), to, bool(raw["patched"]), bool(raw["forced"]))


def replay_topic(name: str, partitions: int, replication_factor: int) -> TopicSpec:
    """Where dead letters of a component come in again."""
    config = {
        "cleanup.policy": "delete",
        "retention.ms": str(REPLAY_RETENTION_MS),
        "segment.ms": str(SEGMENT_MS),
        "max.message.bytes": str(CHANGELOG_MESSAGE_BYTES_MAX + HEADERS_BYTES_MAX),
    }
    return TopicSpec(f"{name}.replay", partitions, replication_factor, config)


def outcomes_topic(name: str, replication_factor: int) -> TopicSpec:
    """Which dead letters of a component were replayed."""
    return TopicSpec(f"{name}.dlq.outcomes", 1, replication_factor, {"cleanup.policy": "compact"})


@dataclass(slots=True)
class Outcomes:
    """Outcomes of one component's dead letters, as of one moment."""

    replayed: Mapping[str, Replayed] = field(default_factory=dict)
    """By `LetterPlace.text`."""
    positions: Mapping[int, int] = field(default_factory=dict)
    """Committed, by replay partition."""
    begins: Mapping[int, int] = field(default_factory=dict)
    """The first offset that the log still has, by replay partition."""
    again: set[str] = field(default_factory=set)
    """Those of which a newer dead letter says that they failed again."""

    def of(self, place: LetterPlace) -> Outcome:
        """How a dead letter stands. All newer ones were `noted` before."""
        replayed = self.replayed.get(place.text)
        if replayed is None:
            return Outcome.OPEN
        if place.text in self.again:
            return Outcome.FAILED_AGAIN
        if all(self.positions.get(partition, 0) > offset for partition, offset in replayed.to):
            return Outcome.PROCESSED
        waits = [(p, offset) for p, offset in replayed.to if self.positions.get(p, 0) <= offset]
        return Outcome.OPEN if all(self.begins.get(p, 0) > offset for p, offset in waits) else Outcome.PENDING

    def note(self, again_of: str | None) -> None:
        """What a dead letter says of an earlier one."""
        if again_of is not None:
            self.again.add(again_of)


def read_outcomes(log: Log, name: str, group: str) -> Outcomes:
    """Of the component `name`, whose positions `group` keeps. Raises `LogUnavailable`."""
    try:
        records = list(read_records(log, outcomes_topic(name, -1).name))
    except UnknownTopic:
        return Outcomes()
    replayed: dict[str, Replayed] = {}
    for record in records:
        if record.key is not None and record.value is not None:
            replayed[record.key.decode()] = Replayed.from_json(record.value)
    positions, begins = _positions(log, name, group)
    return Outcomes(replayed, positions, begins)


def _positions(log: Log, name: str, group: str) -> tuple[dict[int, int], dict[int, int]]:
    topic = replay_topic(name, 1, -1).name
    admin = log.admin()
    try:
        found = admin.topics().get(topic)
        committed: Mapping[TopicPartition, OffsetAndMetadata] = admin.group_offsets(group)
    finally:
        admin.close()
    if found is None:
        return {}, {}
    consumer = log.consumer(client_id="headrace-dlq")
    try:
        begins = consumer.beginning_offsets([TopicPartition(topic, n) for n in range(found.partitions)])
    finally:
        consumer.close()
    positions = {here.partition: kept.offset for here, kept in committed.items() if here.topic == topic}
    return positions, {here.partition: offset for here, offset in begins.items()}
