"""Topics and running components, put together from the log, the groups and the status files.

Owns the values behind `headrace topics` and `headrace status`.

- Lag is what a group has still to read: end offset less committed offset, over the topics that it reads.
- Lag in seconds is the age of the oldest record not yet read; 0 when there is none.
- Offsets that no record stands on (marks of transactions) are not lag: a partition whose rest holds no record has none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from headrace.log.port import BEGINNING, Log, TopicPartition
from headrace.workspace.control import Desired, control_topic, open_control
from headrace.workspace.environment import Environment
from headrace.workspace.load import Workspace
from headrace.workspace.status import ComponentKind, ComponentState, ComponentStatus, read_statuses

PROBE_TIMEOUT_S = 3.0
"""Longest look for the oldest unread records; what is not found by then is taken to be marks."""
PROBE_QUIET_S = 0.5
POLL_TIMEOUT_S = 0.1
POLL_RECORDS_MAX = 1_000
ALIVE = frozenset(
    {
        ComponentState.STARTING,
        ComponentState.RESTORING,
        ComponentState.RUNNING,
        ComponentState.WAITING,
        ComponentState.PAUSED,
        ComponentState.RETRYING,
    }
)


@dataclass(frozen=True, slots=True)
class TopicRow:
    """A topic of the workspace or of its internals, as it is on the log."""

    topic: str
    kind: str
    """event, table, change, internal or dead_letters; empty for a topic the workspace does not know."""
    owner: str
    partitions: int
    records: int
    """End less beginning offsets: marks of transactions and compacted records count."""
    exists: bool


@dataclass(frozen=True, slots=True)
class Lag:
    """What a group has still to read."""

    records: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ComponentRow:
    """A pipeline, ingress or egress over all its instances."""

    kind: str
    name: str
    state: str
    instances: int
    """Alive now."""
    lag: Lag | None
    """None for an ingress, and where the topics it reads are not there."""
    records_in: int
    records_out: int
    records_per_second: float
    dead_letters: int
    dropped: Mapping[str, int]
    stream_time_ms: int | None
    watermark_delay_s: float | None
    """Wall clock less stream time."""
    error: str | None
    statuses: Sequence[ComponentStatus]
    desired: Desired = field(default_factory=Desired)
    """What somebody wants of it."""


def topic_rows(workspace: Workspace, environment: Environment, *, every: bool = False) -> list[TopicRow]:
    """Topics of the workspace, whether or not they are there; `every` adds what it does not know."""
    admin = environment.log.admin()
    try:
        present = admin.topics()
    finally:
        admin.close()
    kinds = _kinds(workspace, present)
    names = sorted({*kinds, *present} if every else kinds)
    counts = _record_counts(environment.log, {name: present[name].partitions for name in names if name in present})
    contracts = workspace.topics
    return [
        TopicRow(
            topic=name,
            kind=kinds.get(name, ""),
            owner=contracts[name].owner if name in contracts else "",
            partitions=present[name].partitions if name in present else 0,
            records=counts.get(name, 0),
            exists=name in present,
        )
        for name in names
    ]


def component_rows(workspace: Workspace, environment: Environment) -> list[ComponentRow]:
    """Every component of the workspace with what is known and wanted of it."""
    with open_control(environment) as control:
        wanted = control.state()
    rows = _component_rows(workspace, environment)
    return [replace(row, desired=wanted.desired(row.kind, row.name)) for row in rows]


def _component_rows(workspace: Workspace, environment: Environment) -> list[ComponentRow]:
    statuses = [each for each in read_statuses(workspace.root) if each.environment == environment.name]
    prefix = workspace.name
    rows = [
        _row(
            ComponentKind.PIPELINE,
            pipeline.plan.name,
            statuses,
            environment.log,
            f"{prefix}.{pipeline.plan.name}",
            pipeline.plan.source_topics(),
        )
        for pipeline in workspace.pipelines
    ]
    rows += [_row(ComponentKind.INGRESS, each.name, statuses, environment.log) for each in workspace.ingress]
    rows += [
        _row(
            ComponentKind.EGRESS,
            each.name,
            statuses,
            environment.log,
            each.group(prefix),
            (each.topic,),
        )
        for each in workspace.egress
    ]
    return rows


def group_lag(log: Log, group: str, topics: Iterable[str]) -> Lag | None:
    """The lag of a group over `topics`, from the beginning where it never committed; None without such topics."""
    admin = log.admin()
    try:
        present = admin.topics(internal=True)
        here = [
            TopicPartition(topic, number)
            for topic in topics
            if topic in present
            for number in range(present[topic].partitions)
        ]
        if not here:
            return None
        committed = admin.group_offsets(group)
        ends = admin.end_offsets(here)
    finally:
        admin.close()
    positions = {each: committed[each].offset if each in committed else BEGINNING for each in here}
    behind = {each: position for each, position in positions.items() if ends[each] > max(position, 0)}
    oldest = _oldest_unread(log, behind) if behind else {}
    if not oldest:
        return Lag()
    records = sum(ends[each] - max(positions[each], offset) for each, (offset, _) in oldest.items())
    oldest_ms = min(time_ms for _, time_ms in oldest.values())
    return Lag(records, max(time.time() - oldest_ms / 1000, 0.0))


def _oldest_unread(log: Log, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, tuple[int, int]]:
    """Offset and timestamp of the first record at or after each position; partitions without any are absent."""
    consumer = log.consumer(client_id="headrace-status")
    found: dict[TopicPartition, tuple[int, int]] = {}
    started_s = last_s = time.monotonic()
    try:
        consumer.assign(positions)
        while len(found) < len(positions):
            for batch in consumer.poll(POLL_RECORDS_MAX, POLL_TIMEOUT_S):
                columns = (batch.partition.tolist(), batch.offset.tolist(), batch.timestamp_ms.tolist())
                for partition, offset, time_ms in zip(*columns, strict=True):
                    found.setdefault(TopicPartition(batch.topic, partition), (offset, time_ms))
                consumer.pause([each for each in positions if each in found])
                last_s = time.monotonic()
            now_s = time.monotonic()
            if now_s - started_s > PROBE_TIMEOUT_S or (found and now_s - last_s > PROBE_QUIET_S):
                break
    finally:
        consumer.close()
    return found


def _record_counts(log: Log, partitions: Mapping[str, int]) -> dict[str, int]:
    here = [TopicPartition(topic, number) for topic, count in partitions.items() for number in range(count)]
    if not here:
        return {}
    consumer = log.consumer(client_id="headrace-topics")
    try:
        begins, ends = consumer.beginning_offsets(here), consumer.end_offsets(here)
    finally:
        consumer.close()
    counts: dict[str, int] = {}
    for each in here:
        counts[each.topic] = counts.get(each.topic, 0) + ends[each] - begins[each]
    return counts


def _kinds(workspace: Workspace, present: Iterable[str]) -> dict[str, str]:
    kinds = {topic: contract.kind.value for topic, contract in workspace.topics.items()}
    dead = [pipeline.plan.dead_letter_topic for pipeline in workspace.pipelines]
    dead += [config.dead_letter_topic for config in workspace.dead_lettering]
    kinds.update(dict.fromkeys(dead, "dead_letters"))
    names = tuple(f"{pipeline.plan.name}." for pipeline in workspace.pipelines)
    internal = [
        topic for topic in present if topic.startswith(names) and topic.endswith((".repartition", ".changelog"))
    ]
    of_replays = {name + ending for name in workspace.names for ending in (".replay", ".dlq.outcomes")}
    internal += [topic for topic in present if topic in of_replays]
    internal += [topic for topic in present if topic == control_topic(workspace.name)]
    return {**dict.fromkeys(internal, "internal"), **kinds}


def _row(
    kind: ComponentKind,
    name: str,
    statuses: Sequence[ComponentStatus],
    log: Log,
    group: str = "",
    topics: Iterable[str] = (),
) -> ComponentRow:
    mine = [each for each in statuses if each.kind is kind and each.name == name]
    alive = [each for each in mine if each.state in ALIVE]
    counted = alive or mine
    times = [each.stream_time_ms for each in counted if each.stream_time_ms is not None]
    stream_time_ms = min(times) if times else None
    dropped: dict[str, int] = {}
    for each in counted:
        for reason, count in each.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return ComponentRow(
        kind=kind.value,
        name=name,
        state=_state(mine),
        instances=len(alive),
        lag=group_lag(log, group, topics) if group else None,
        records_in=sum(each.records_in for each in counted),
        records_out=sum(each.records_out for each in counted),
        records_per_second=sum(each.records_per_second for each in alive),
        dead_letters=sum(each.dead_letters for each in counted),
        dropped=dropped,
        stream_time_ms=stream_time_ms,
        watermark_delay_s=None if stream_time_ms is None else time.time() - stream_time_ms / 1000,
        error=next((each.error for each in mine if each.error), None),
        statuses=mine,
    )


_STATE_ORDER = (
    ComponentState.FAILED,
    ComponentState.RETRYING,
    ComponentState.WAITING,
    ComponentState.RESTORING,
    ComponentState.STARTING,
    ComponentState.PAUSED,
    ComponentState.RUNNING,
    ComponentState.LOST,
    ComponentState.STANDBY,
    ComponentState.STOPPED,
)
"""The state that a person should see first."""


def _state(statuses: Sequence[ComponentStatus]) -> str:
    states = {each.state for each in statuses}
    return next((state.value for state in _STATE_ORDER if state in states), "not started")
