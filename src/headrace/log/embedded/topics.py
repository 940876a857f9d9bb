"""Topics of the embedded log: names, settings, and a cached view of the catalog.

- A name or setting that Kafka would refuse is refused here, so that a workspace moves to Kafka unchanged.
- A cached topic is looked up again whenever the catalog changed, in any process.
- Settings keep Kafka's names; those the embedded log does not know are stored and do nothing.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from headrace.log.embedded.errors import InvalidTopic
from headrace.log.embedded.storage import Storage
from headrace.log.port import TopicPartition, UnknownTopic

NAME_LENGTH_MAX = 249
PARTITIONS_MAX = 10_000
RECORD_BYTES_MAX = 256 * 1024 * 1024
"""The most `max.message.bytes` may ask for: SQLite holds a record in one blob."""

DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "cleanup.policy": "delete",
        "retention.ms": "604800000",
        "retention.bytes": "-1",
        "max.message.bytes": "1048588",
        "delete.retention.ms": "86400000",
        "min.cleanable.dirty.ratio": "0.5",
    }
)
"""The settings that mean something here, with Kafka's defaults."""

_NAME = re.compile(r"[a-zA-Z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the catalog has it."""

    topic_id: int
    name: str
    identity: str
    partitions: int
    config: Mapping[str, str]

    def setting(self, name: str) -> str:
        return self.config.get(name, DEFAULTS[name])

    @property
    def record_bytes_max(self) -> int:
        return int(self.setting("max.message.bytes"))

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.setting("cleanup.policy").split(",")

    @property
    def is_deleted_by_age(self) -> bool:
        return "delete" in self.setting("cleanup.policy").split(",")

    def check_partition(self, partition: int) -> None:
        if not 0 <= partition < self.partitions:
            raise unknown_partition(TopicPartition(self.name, partition), self.partitions)


def unknown_topic(name: str) -> UnknownTopic:
    return UnknownTopic(f"topic {name!r} does not exist", cure="create it, or check its name")


def unknown_partition(partition: TopicPartition, partitions: int) -> UnknownTopic:
    return UnknownTopic(f"topic {partition.topic!r} has {partitions} partitions, none numbered {partition.partition}")


def check_name(name: str) -> None:
    """Kafka's rule for topic names."""
    if not _NAME.fullmatch(name) or len(name) > NAME_LENGTH_MAX or name in (".", ".."):
        raise InvalidTopic(
            f"{name[:300]!r} is no topic name",
            cure=f"use 1 to {NAME_LENGTH_MAX} letters, digits, '.', '_' and '-', but not '.' or '..'",
        )


def check_config(name: str, config: Mapping[str, str]) -> None:
    """Refuse values that could not be read later."""
    for setting, value in config.items():
        check = _CHECKS.get(setting)
        if check is not None and not check(value):
            raise InvalidTopic(f"topic {name!r}: {value!r} is no value for {setting}")


def _integer(low: int, high: int = 2**63 - 1) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        return re.fullmatch(r"-?\d{1,19}", value) is not None and low <= int(value) <= high

    return check


def _is_policy(value: str) -> bool:
    parts = value.split(",")
    return set(parts) <= {"compact", "delete"}


def _is_ratio(value: str) -> bool:
    return re.fullmatch(r"0(\.\d+)?|1(\.0+)?|\.\d+", value) is not None


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    "cleanup.policy": _is_policy,
    "retention.ms": _integer(-1),
    "retention.bytes": _integer(-1),
    "max.message.bytes": _integer(0, RECORD_BYTES_MAX),
    "delete.retention.ms": _integer(0),
    "min.cleanable.dirty.ratio": _is_ratio,
}


_SELECT = "SELECT topic_id, name, identity, partitions, config FROM topics"


def all_topics(connection: sqlite3.Connection) -> list[Topic]:
    return [_topic(row) for row in connection.execute(f"{_SELECT} ORDER BY name")]


def find_topic(connection: sqlite3.Connection, name: str) -> Topic | None:
    row = connection.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchone()
    return None if row is None else _topic(row)


def get_topic(connection: sqlite3.Connection, name: str) -> Topic:
    """Raises `UnknownTopic`."""
    topic = find_topic(connection, name)
    if topic is None:
        raise unknown_topic(name)
    return topic


def _topic(row: tuple[int, str, str, int, str]) -> Topic:
    topic_id, name, identity, partitions, config = row
    return Topic(topic_id, name, identity, partitions, MappingProxyType(json.loads(config)))


class Catalog:
    """Topics by name, read once and again after the catalog changed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._topics: dict[str, Topic] = {}
        self._file_version: tuple[int, int] | None = None
        self._catalog_version = -1

    def get(self, name: str) -> Topic:
        """Raises `UnknownTopic`."""
        self._refresh()
        return self._get(name)

    def check(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Topic]:
        """The topic of each partition; raises `UnknownTopic` for one that does not exist."""
        self._refresh()
        found = {partition: self._get(partition.topic) for partition in partitions}
        for partition, topic in found.items():
            topic.check_partition(partition.partition)
        return found

    def _get(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            with self._storage.snapshot() as connection:
                topic = self._topics[name] = get_topic(connection, name)
        return topic

    def _refresh(self) -> None:
        version = self._storage.version()
        if version == self._file_version:
            return
        self._file_version = version
        row = self._storage.row("SELECT value FROM counters WHERE name = 'catalog'")
        assert row is not None
        if row[0] != self._catalog_version:
            self._catalog_version = row[0]
            self._topics.clear()
