"""Topics that a pipeline needs for itself, and how many partitions everything has.

Owns their settings and the arithmetic of partitions. Creating them is the workspace's.

- A repartition topic has as many partitions as the topic it is like, or else as the widest topic its writers read.
- A subtopology has a task for each partition of the widest topic it reads; its changelogs have one each.
- Topics that are joined have equally many partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headrace.flow.errors import PartitionMismatch
from headrace.flow.plan import Plan
from headrace.flow.steps import (
    AnyStep,
    BufferedTableJoinStep,
    ForeignMatchStep,
    LookupJoinStep,
    RepartitionStep,
    SourceStep,
    StreamJoinStep,
    TableJoinStep,
    TableTableJoinStep,
)
from headrace.flow.values import StatefulStep

CHANGELOG_MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""A message holds many rows of state."""
DEAD_LETTER_PARTITIONS = 1
"""Dead letters are few, and read in order."""

JoinStep = TableJoinStep | BufferedTableJoinStep | StreamJoinStep | TableTableJoinStep | ForeignMatchStep
"""Joins that need their inputs in partitions of one number."""

_FOREVER = {"cleanup.policy": "delete", "retention.ms": "-1"}
"""Nothing ages out: headrace deletes what it no longer needs by `delete_records`, and only that."""


@dataclass(frozen=True, slots=True)
class InternalTopic:
    """A topic that belongs to one pipeline. `config` has Kafka's names and values."""

    name: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PlanPartitions:
    """How wide a plan is when its topics are as wide as they are."""

    tasks: Mapping[int, int]
    """Tasks by subtopology."""
    topics: Mapping[str, int]
    """Partitions of every topic read, repartition topics and changelogs included."""


def plan_partitions(plan: Plan, partitions_of: Callable[[str], int]) -> PlanPartitions:
    """`partitions_of` tells the partitions of a topic from outside. Raises `PartitionMismatch`."""
    steps = {step.name: step for step in plan.steps}
    widths: dict[str, int] = {}
    while True:
        found = _plan_partitions(plan, steps, partitions_of, widths)
        wider = _widened(plan, steps, found.topics)
        if not wider:
            break
        widths |= wider
    for step in plan.steps:
        if isinstance(step, JoinStep):
            _check_join(step, steps, found.topics)
    return found


def _plan_partitions(
    plan: Plan, steps: Mapping[str, AnyStep], partitions_of: Callable[[str], int], widths: Mapping[str, int]
) -> PlanPartitions:
    """As wide as what they read; `widths` are of repartition topics that are wider."""
    topics: dict[str, int] = {}
    tasks: dict[int, int] = {}
    for subtopology in plan.subtopologies:  # Writers before readers.
        for topic in subtopology.reads:
            if topic not in topics:
                topics[topic] = partitions_of(topic)
        count = max(topics[topic] for topic in subtopology.reads)
        tasks[subtopology.index] = count
        for name in subtopology.steps:
            step = steps[name]
            if isinstance(step, RepartitionStep):
                topics[step.topic] = widths.get(step.topic, count) if step.like is None else partitions_of(step.like)
            elif isinstance(step, StatefulStep):
                topics[step.changelog] = count
    return PlanPartitions(tasks, topics)


def _widened(plan: Plan, steps: Mapping[str, AnyStep], topics: Mapping[str, int]) -> dict[str, int]:
    """Repartition topics that must be wider, because they meet wider ones in a join. headrace spreads their rows by its
    own hash, so any number is right."""
    own = {step.topic for step in plan.steps if isinstance(step, RepartitionStep) and step.like is None}
    wider: dict[str, int] = {}
    for step in plan.steps:
        if isinstance(step, StreamJoinStep | TableTableJoinStep | ForeignMatchStep):
            meeting = {topic for name in step.inputs for topic in _topics(steps[name], steps)}
            count = max(topics[topic] for topic in meeting)
            wider |= {topic: count for topic in meeting & own if topics[topic] < count}
    return wider


def internal_topics(plan: Plan, partitions_of: Callable[[str], int]) -> tuple[InternalTopic, ...]:
    """The repartition, changelog and dead-letter topics of a plan, by name. Raises `PartitionMismatch`."""
    partitions = plan_partitions(plan, partitions_of).topics
    large = {**_FOREVER, "max.message.bytes": str(CHANGELOG_MESSAGE_BYTES_MAX)}
    found = [InternalTopic(plan.dead_letter_topic, DEAD_LETTER_PARTITIONS, large)]
    for step in plan.steps:
        if isinstance(step, RepartitionStep):
            found.append(InternalTopic(step.topic, partitions[step.topic], large))
        elif isinstance(step, StatefulStep):
            found.append(InternalTopic(step.changelog, partitions[step.changelog], large))
    return tuple(sorted(found, key=lambda topic: topic.name))


def _check_join(step: JoinStep, steps: Mapping[str, AnyStep], topics: Mapping[str, int]) -> None:
    """Rows that meet lie in partitions of one number."""
    left, right = (sorted(_topics(steps[name], steps)) for name in step.inputs)
    for mine in left:
        for other in right:
            if topics[mine] != topics[other]:
                raise PartitionMismatch(
                    f"{step.name} joins {mine!r} with {topics[mine]} partitions to {other!r} with {topics[other]}",
                    place=step.place,
                    cure="give both equally many partitions",
                )


def _topics(step: AnyStep, steps: Mapping[str, AnyStep]) -> set[str]:
    """The topics from which this step's rows come in its own subtopology."""
    if isinstance(step, SourceStep | RepartitionStep):
        return {step.topic}
    inputs = step.inputs[:1] if isinstance(step, LookupJoinStep) else step.inputs
    return {topic for name in inputs for topic in _topics(steps[name], steps)}
