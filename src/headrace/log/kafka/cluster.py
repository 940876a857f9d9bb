"""Questions to the cluster as a whole: one admin client, shared by everything a `KafkaLog` makes.

Owns that client, the offsets it lists and what is known about topics.

- A batch of questions is one request per broker; only those that met a passing error are asked again.
- Offsets are those a committed read can reach.
- `facts` are remembered; whoever meets a contradiction calls `forget`.
- A forked process makes its own client.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from confluent_kafka import OFFSET_INVALID, Consumer, IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclOperation,
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from headrace.log.kafka.connection import Connection
from headrace.log.kafka.errors import DENIED, is_passing, kafka_error, port_error
from headrace.log.kafka.settings import MESSAGE_BYTES_MAX_DEFAULT
from headrace.log.port import LogError, LogUnavailable, TopicPartition

Key = TypeVar("Key", bound=Hashable)

BEGINNING = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
END = OffsetSpec.latest()  # type: ignore[no-untyped-call]

VISIBLE_TIMEOUT_S = 30.0
"""How long a change may take to be seen after the controller confirmed it."""
VISIBLE_POLL_S = 0.02
ANSWER_MARGIN_S = 2.0
"""How long an answer may take beyond the timeout of its question before it is taken for lost."""

_GONE = KafkaError(KafkaError._TIMED_OUT, "the client that was asked is gone")

logger = structlog.get_logger("headrace.log.kafka")


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What a producer must know of a topic before it queues records."""

    partitions: int
    record_bytes_max: int
    read_at: float
    """Monotonic seconds."""


def _told(answer: Any) -> Any:
    """An answer that is one. A client that lost all its brokers in the middle of a question gives an offset that means
    "not known", and no error."""
    if getattr(answer, "offset", None) == OFFSET_INVALID:
        raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    return answer


def awaited(answer: Future[Any], timeout_s: float) -> Any:
    """What a question was answered, that had so much time. Raises `KafkaException`, of an error that passes when there
    is no answer: a client that another thread gives up answers with its end, or not at all."""
    try:
        return answer.result(max(0.0, timeout_s) + ANSWER_MARGIN_S)
    except TimeoutError as lost:
        raise KafkaException(_GONE) from lost
    except KafkaException as raised:
        if kafka_error(raised).code() == KafkaError._DESTROY:
            raise KafkaException(_GONE) from raised
        raise


def _is_writable(described: Any) -> bool:
    """Whether a topic's description, or the error in its place, leaves open that it may be written to."""
    if isinstance(described, KafkaError):
        return described.code() not in DENIED
    rights = described.authorized_operations
    return not rights or AclOperation.WRITE in rights


class Cluster:
    """The shared admin client and what it found out. Any thread may call."""

    def __init__(self, settings: Mapping[str, Any], connection: Connection) -> None:
        self.connection = connection
        self._settings = settings
        self._client: AdminClient | None = None
        self._client_pid = 0
        self._facts: dict[str, TopicFacts] = {}
        self._lock = threading.Lock()

    def client(self) -> AdminClient:
        """The client, made at the first call."""
        with self._lock:
            if self._client is None or self._client_pid != os.getpid():
                self._client, self._client_pid = AdminClient(dict(self._settings)), os.getpid()
            return self._client

    @contextlib.contextmanager
    def outsider(self, group: str) -> Iterator[Consumer]:
        """A client that asks for a group's offsets without joining it.

        The admin client's own question dereferences a null pointer when the group's coordinator moves or is only
        just made (librdkafka #5040): the process dies.
        """
        client = Consumer({**self._settings, "group.id": group, "enable.auto.commit": False})
        try:
            yield client
        finally:
            client.close()

    def close(self) -> None:
        """Let the client go. A later call makes a new one."""
        with self._lock:
            self._client = None

    def resolve(
        self, action: str, keys: Iterable[Key], request: Callable[[list[Key]], Mapping[Key, Future[Any]]]
    ) -> dict[Key, Any]:
        """The answer to each key: its value, or the `KafkaError` that does not pass."""
        answers: dict[Key, Any] = {}
        waiting = list(keys)
        asked: AdminClient | None = None

        def attempt() -> None:
            nonlocal asked
            asked = self.client()
            futures = request(waiting)
            deadline = time.monotonic() + self.connection.request_timeout_s()
            passing: KafkaError | None = None
            for key in list(waiting):
                try:
                    answers[key] = _told(awaited(futures[key], deadline - time.monotonic()))
                except KafkaException as raised:
                    error = kafka_error(raised)
                    if is_passing(error):
                        passing = error
                        continue
                    answers[key] = error
                waiting.remove(key)
            if passing is not None:
                self._refresh()
                raise KafkaException(passing)

        if waiting:
            try:
                self.connection.repeat(action, attempt)
            except LogUnavailable:
                # A client that has seen a broker without brokers may never ask again (librdkafka #5301).
                self._give_up(asked)
                raise
        return answers

    def _give_up(self, client: AdminClient | None) -> None:
        """Let a client go, unless another thread did already: its successor has questions of its own."""
        with self._lock:
            if self._client is client:
                self._client = None

    def _refresh(self) -> None:
        """Look again at who leads what: the client does not, and would ask with the epoch it knew for ever."""
        self.client().poll(0)
        try:
            self.client().list_topics(timeout=self.connection.request_timeout_s())
        except KafkaException as raised:
            self.connection.tell_of(kafka_error(raised), action="asking for the brokers")

    def wait_until(self, action: str, is_visible: Callable[[], bool]) -> None:
        """Block until a confirmed change can be seen."""
        deadline = time.monotonic() + VISIBLE_TIMEOUT_S
        while not is_visible():
            if time.monotonic() > deadline:
                raise self.connection.unavailable(action, "done, but not to be seen")
            time.sleep(VISIBLE_POLL_S)

    def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset of each partition."""
        return self._offsets("asking for beginning offsets", dict.fromkeys(partitions, BEGINNING))

    def end_offsets(self, partitions: Iterable[TopicPartition], *, committed: bool = True) -> dict[TopicPartition, int]:
        """The last stable offset of each partition, or the high watermark."""
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        return self._offsets("asking for end offsets", dict.fromkeys(partitions, END), isolation)

    def offsets_for_time(self, time_ms: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The first offset at or after the time, or the end."""
        specs = {partition: OffsetSpec.for_timestamp(time) for partition, time in time_ms.items()}
        found = self._offsets("asking for offsets by time", specs)
        beyond = [partition for partition, offset in found.items() if offset < 0]
        return found | (self.end_offsets(beyond) if beyond else {})

    def _offsets(
        self,
        action: str,
        specs: Mapping[TopicPartition, Any],
        isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
    ) -> dict[TopicPartition, int]:
        wanted = {KafkaPartition(*partition): spec for partition, spec in specs.items()}

        def request(keys: list[KafkaPartition]) -> Mapping[KafkaPartition, Future[Any]]:
            futures: Mapping[KafkaPartition, Future[Any]] = self.client().list_offsets(
                {key: wanted[key] for key in keys},
                isolation_level=isolation,
                request_timeout=self.connection.request_timeout_s(),
            )
            return futures

        answers = self.resolve(action, wanted, request)
        found: dict[TopicPartition, int] = {}
        for key, answer in answers.items():
            if isinstance(answer, KafkaError):
                raise self.place_error(answer, action=action, partition=TopicPartition(key.topic, key.partition))
            found[TopicPartition(key.topic, key.partition)] = answer.offset
        return found

    def place_error(self, error: KafkaError, *, action: str, partition: TopicPartition) -> LogError:
        """The port's error for a question about a partition."""
        subject = f"partition {partition.partition} of topic {partition.topic!r}"
        if error.code() == KafkaError._NOENT:
            # "No leaders found": there is no such partition, or all its brokers are away.
            described = self.describe_topics([partition.topic])[partition.topic]
            if isinstance(described, KafkaError):
                error = described
            elif partition.partition < len(described.partitions):
                return self.connection.unavailable(action, f"{subject} has no leader")
            else:
                error = KafkaError(KafkaError._UNKNOWN_PARTITION)
        return port_error(error, action=action, subject=subject)

    def describe_topics(self, names: Iterable[str], *, with_rights: bool = False) -> dict[str, Any]:
        """Kafka's description of each topic, or its error; if asked for, with what this user may do (KIP-430)."""

        def request(keys: list[str]) -> Mapping[str, Future[Any]]:
            futures: Mapping[str, Future[Any]] = self.client().describe_topics(
                TopicCollection(keys),
                include_authorized_operations=with_rights,
                request_timeout=self.connection.request_timeout_s(),
            )
            return futures

        return self.resolve("describing topics", names, request)

    def unwritable(self, names: Iterable[str]) -> list[str]:
        """Those of these topics that this user may not write to, as far as the brokers tell."""
        described = self.describe_topics(sorted(names), with_rights=True)
        return [name for name, topic in described.items() if not _is_writable(topic)]

    def describe_configs(self, names: Iterable[str]) -> dict[str, Any]:
        """The config entries of each topic by name, or its error."""
        resources = {ConfigResource(ResourceType.TOPIC, name): name for name in names}

        def request(keys: list[ConfigResource]) -> Mapping[ConfigResource, Future[Any]]:
            futures: Mapping[ConfigResource, Future[Any]] = self.client().describe_configs(
                keys, request_timeout=self.connection.request_timeout_s()
            )
            return futures

        answers = self.resolve("reading the settings of topics", resources, request)
        return {resources[key]: answer for key, answer in answers.items()}

    def facts(self, topic: str) -> TopicFacts:
        """What is known about a topic; asks when nothing is."""
        known = self._facts.get(topic)
        if known is None:
            known = self._facts[topic] = self._ask_facts(topic)
        return known

    def forget(self, topic: str) -> None:
        """Ask again the next time."""
        self._facts.pop(topic, None)

    def _ask_facts(self, topic: str) -> TopicFacts:
        described = self.describe_topics([topic])[topic]
        if isinstance(described, KafkaError):
            raise port_error(described, action=f"producing to topic {topic!r}", subject=f"topic {topic!r}")
        config = self.describe_configs([topic])[topic]
        if isinstance(config, KafkaError):
            if config.code() not in DENIED:
                raise port_error(config, action=f"producing to topic {topic!r}", subject=f"topic {topic!r}")
            logger.warning("kafka_record_limit_unknown", topic=topic, assumed_bytes=MESSAGE_BYTES_MAX_DEFAULT)
            limit = MESSAGE_BYTES_MAX_DEFAULT
        else:
            limit = int(config["max.message.bytes"].value)
        return TopicFacts(len(described.partitions), limit, time.monotonic())
