"""Dead letters as they lie in their topics: of pipelines, ingress and egress, of Kafka Connect and Kafka Streams.

Owns the reading of their headers, the choice by filters, and the groups that `headrace dlq list` shows.

- Reading moves no group's position and changes nothing.
- A header that is not what it should be leaves its field unknown; the dead letter is shown all the same.
- Topics are read to the end that they had when the reading began.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from headrace.egress.config import EgressConfig
from headrace.log.columns import Record, batch_records, take_batch
from headrace.log.dead_letters import ORIGINAL, PREFIX, ROW, header_texts
from headrace.log.port import Log, LogUnavailable, RecordBatch, TopicPartition, UnknownTopic
from headrace.log.replays import OF, LetterPlace, own_headers, replay_count
from headrace.workspace.errors import UnknownName, did_you_mean
from headrace.workspace.load import IngressConfig, Workspace
from headrace.workspace.status import ComponentKind

POLL_RECORDS_MAX = 1_000
POLL_TIMEOUT_S = 0.25
SILENCE_MAX_S = 30.0
"""Longest wait for records that the log says are there."""
CONNECT, STREAMS = "__connect.errors.", "__streams.errors."
CONNECT_STAGES = {
    "KEY_CONVERTER": "decode",
    "VALUE_CONVERTER": "decode",
    "HEADER_CONVERTER": "decode",
    "TASK_PUT": "deliver",
    "KAFKA_PRODUCE": "deliver",
}
"""Of Kafka Connect's stages; the others process."""


class Writer(StrEnum):
    """Who wrote a dead letter."""

    HEADRACE = "headrace"
    CONNECT = "kafka_connect"
    STREAMS = "kafka_streams"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter. Fields that its headers do not tell are empty or None."""

    place: LetterPlace
    time_ms: int
    """When it was written."""
    writer: Writer
    stage: str
    code: str
    """Of Kafka Connect and Kafka Streams: the exception's class."""
    message: str
    component: str
    step: str
    source: TopicPartition | None
    source_offset: int | None
    source_time_ms: int | None
    is_original: bool
    """Whether key and value are those of the record that failed."""
    row: bytes | None
    replays: int
    """How often the record was replayed before."""
    again_of: str | None
    """The dead letter that was replayed and failed again with this one."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    """The record's own."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which dead letters are meant; an empty choice means all."""

    stages: frozenset[str] = frozenset()
    steps: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    offsets: frozenset[int] = frozenset()
    """In the dead-letter topic."""
    since_ms: int | None = None
    """Written then or later."""
    until_ms: int | None = None
    """Written before."""

    def takes(self, letter: DeadLetter) -> bool:
        chosen = (
            (self.stages, letter.stage),
            (self.steps, letter.step),
            (self.codes, letter.code),
            (self.offsets, letter.place.offset),
        )
        if any(wanted and value not in wanted for wanted, value in chosen):
            return False
        return (self.since_ms is None or letter.time_ms >= self.since_ms) and (
            self.until_ms is None or letter.time_ms < self.until_ms
        )


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose dead letters a topic holds."""

    kind: ComponentKind | None
    """None for a topic that is no component's."""
    name: str
    topic: str


@dataclass(slots=True)
class Group:
    """Dead letters that are alike."""

    owner: Owner
    stage: str
    step: str
    code: str
    count: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    example: DeadLetter | None = None
    """The last one."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """How many stand how (`headrace.workspace.replay_outcomes`)."""

    def add(self, letter: DeadLetter, outcome: str) -> None:
        self.count += 1
        self.first_ms = letter.time_ms if self.first_ms is None else min(self.first_ms, letter.time_ms)
        if self.last_ms is None or letter.time_ms >= self.last_ms:
            self.last_ms, self.example = letter.time_ms, letter
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


def owners(workspace: Workspace) -> list[Owner]:
    """Every dead-letter topic of the workspace."""
    pipelines = (pipeline.plan for pipeline in workspace.pipelines)
    found = [Owner(ComponentKind.PIPELINE, plan.name, plan.dead_letter_topic) for plan in pipelines]
    return found + [Owner(_kind(config), config.name, config.dead_letter_topic) for config in workspace.dead_lettering]


def owner(workspace: Workspace, log: Log, name: str) -> Owner:
    """Of a component's name, or of a topic of the log. Raises `UnknownName`."""
    known = owners(workspace)
    for each in known:
        if name in (each.name, each.topic):
            return each
    admin = log.admin()
    try:
        if name in admin.topics():
            return Owner(None, name, name)
    finally:
        admin.close()
    raise UnknownName(
        f"workspace {workspace.name!r} has no pipeline, ingress or egress {name!r}, and the log has no such topic",
        cure=did_you_mean(name, [each.name for each in known]),
    )


def _kind(config: IngressConfig | EgressConfig) -> ComponentKind:
    return ComponentKind.EGRESS if isinstance(config, EgressConfig) else ComponentKind.INGRESS


def read_letters(log: Log, topic: str) -> Iterator[DeadLetter]:
    """Every dead letter of a topic, in the order of each partition. Raises `UnknownTopic`, `LogUnavailable`."""
    for record in read_records(log, topic):
        yield letter_of(topic, record)


def read_records(log: Log, topic: str, starts: Mapping[TopicPartition, int] | None = None) -> Iterator[Record]:
    """Committed records of a topic up to its present end, from its beginning or from `starts` on.

    Raises `UnknownTopic`, `LogUnavailable`.
    """
    for batch in read_batches(log, topic, starts):
        yield from batch_records(batch)


def read_batches(log: Log, topic: str, starts: Mapping[TopicPartition, int] | None = None) -> Iterator[RecordBatch]:
    """The same as columns."""
    here = list(starts) if starts is not None else _partitions(log, topic)
    consumer = log.consumer(client_id="headrace-dlq")
    try:
        ends = consumer.end_offsets(here)
        begins = consumer.beginning_offsets(here)
        consumer.assign({each: max(begins[each], (starts or begins)[each]) for each in here})
        deadline_s = time.monotonic() + SILENCE_MAX_S
        while any(offset < ends[each] for each, offset in consumer.position(here).items()):
            for batch in consumer.poll(POLL_RECORDS_MAX, POLL_TIMEOUT_S):
                deadline_s = time.monotonic() + SILENCE_MAX_S
                bounds = np.array([ends[TopicPartition(topic, n)] for n in batch.partition.tolist()], np.int64)
                inside = np.flatnonzero(batch.offset < bounds)
                yield batch if len(inside) == len(batch) else take_batch(batch, inside)
            if time.monotonic() > deadline_s:
                raise LogUnavailable(f"topic {topic!r} was not read to its end within {SILENCE_MAX_S:g} s")
    finally:
        consumer.close()


def end_offsets(log: Log, topic: str) -> Mapping[TopicPartition, int]:
    """Where a topic ends, open transactions included. Raises `UnknownTopic`."""
    here = _partitions(log, topic)
    consumer = log.consumer(client_id="headrace-dlq")
    try:
        return consumer.end_offsets(here, committed=False)
    finally:
        consumer.close()


def _partitions(log: Log, topic: str) -> list[TopicPartition]:
    admin = log.admin()
    try:
        found = admin.topics(internal=True).get(topic)
    finally:
        admin.close()
    if found is None:
        raise UnknownTopic(f"no topic {topic!r} on the {log.name} log", cure="run `headrace apply`")
    return [TopicPartition(topic, number) for number in range(found.partitions)]


def letter_of(topic: str, record: Record) -> DeadLetter:
    """What a record of a dead-letter topic says."""
    texts = header_texts(record.headers)
    place = LetterPlace(topic, record.partition, record.offset)
    if PREFIX + "code" in texts:
        return _ours(place, record, texts)
    if CONNECT + "topic" in texts or CONNECT + "exception.class.name" in texts:
        return _of_connect(place, record, texts)
    if STREAMS + "topic" in texts or STREAMS + "exception" in texts:
        return _of_streams(place, record, texts)
    return _letter(place, record, Writer.UNKNOWN, {}, headers=record.headers)


def _ours(place: LetterPlace, record: Record, texts: Mapping[str, str]) -> DeadLetter:
    told = {name.removeprefix(PREFIX): text for name, text in texts.items() if name.startswith(PREFIX)}
    told["component"] = told.get("pipeline", "")
    return _letter(
        place,
        record,
        Writer.HEADRACE,
        told,
        headers=own_headers(record.headers),
        row=dict(record.headers).get(ROW),
        again_of=texts.get(OF),
    )


def _of_connect(place: LetterPlace, record: Record, texts: Mapping[str, str]) -> DeadLetter:
    told = {name.removeprefix(CONNECT): text for name, text in texts.items() if name.startswith(CONNECT)}
    told |= {
        "code": told.get("exception.class.name", ""),
        "message": told.get("exception.message", ""),
        "component": told.get("connector.name", ""),
        "step": told.get("class.name", ""),
        "stage": CONNECT_STAGES.get(told.get("stage", ""), "process"),
    }
    # Both keep the record's own timestamp.
    return _letter(place, record, Writer.CONNECT, told, headers=_without(record, CONNECT), time_ms=record.timestamp_ms)


def _of_streams(place: LetterPlace, record: Record, texts: Mapping[str, str]) -> DeadLetter:
    told = {name.removeprefix(STREAMS): text for name, text in texts.items() if name.startswith(STREAMS)}
    # The header holds what Java's `toString` gives: the class, and after a colon the message.
    told["code"] = told.get("exception", "").split(":", 1)[0].strip()
    told["stage"] = "decode" if "Deserialization" in told["code"] or "Serialization" in told["code"] else "process"
    return _letter(place, record, Writer.STREAMS, told, headers=_without(record, STREAMS), time_ms=record.timestamp_ms)


def _without(record: Record, prefix: str) -> tuple[tuple[str, bytes | None], ...]:
    return tuple(each for each in own_headers(record.headers) if not each[0].startswith(prefix))


def _letter(
    place: LetterPlace,
    record: Record,
    writer: Writer,
    told: Mapping[str, str],
    *,
    headers: Sequence[tuple[str, bytes | None]],
    row: bytes | None = None,
    again_of: str | None = None,
    time_ms: int | None = None,
) -> DeadLetter:
    partition, offset = _number(told.get("partition")), _number(told.get("offset"))
    is_known = "topic" in told and partition is not None
    return DeadLetter(
        place=place,
        time_ms=record.timestamp_ms,
        writer=writer,
        stage=told.get("stage", ""),
        code=told.get("code", ""),
        message=told.get("message", ""),
        component=told.get("component", ""),
        step=told.get("step", ""),
        source=TopicPartition(told["topic"], partition) if is_known and partition is not None else None,
        source_offset=offset if is_known else None,
        source_time_ms=_number(told.get("time")) if time_ms is None else time_ms,
        is_original=told.get(ORIGINAL) != "false",
        row=row,
        replays=replay_count(record.headers),
        again_of=again_of,
        key=record.key,
        value=record.value,
        headers=tuple(headers),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
