"""Whether topics are still those that a pipeline's state and positions are about.

Owns three refusals, each better than a wrong answer:

- A topic that was deleted and made again has other records at the old offsets (`TopicRecreated`).
- More partitions send keys elsewhere, away from their state (`PartitionsChanged`). A part of a pipeline that keeps no
  state just reads the new ones.
- State without a position would count everything again (`PositionLost`): the group was deleted, or its offsets expired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from headrace.engine.checkpoint import Checkpoint
from headrace.errors import Fault, HeadraceError
from headrace.flow.plan import Plan, Subtopology
from headrace.flow.steps import RepartitionStep
from headrace.flow.values import StatefulStep
from headrace.log.port import TopicDescription, TopicPartition

_RESET = "run `headrace reset {pipeline}`: it computes everything again from the topics as they are"


class TopicRecreated(HeadraceError):
    """A topic is another one than when its offsets were committed."""

    code = "engine.topic_recreated"


class PartitionsChanged(HeadraceError):
    """A topic has another number of partitions than the state that was computed from it."""

    code = "engine.partitions_changed"


class PositionLost(HeadraceError):
    """There is state, but no committed position to go on from."""

    code = "engine.position_lost"


class TopicsGrew(HeadraceError):
    """A topic got partitions while a worker ran; it starts anew to see them."""

    code = "engine.topics_grew"
    fault = Fault.RETRY


def check_partitions(plan: Plan, partitions_of: Mapping[str, int]) -> None:
    """Raises `PartitionsChanged`."""
    for subtopology in plan.subtopologies:
        tasks = max(partitions_of[topic] for topic in subtopology.reads)
        widest = next(topic for topic in subtopology.reads if partitions_of[topic] == tasks)
        for step in map(plan.step, subtopology.steps):
            if isinstance(step, StatefulStep) and partitions_of[step.changelog] != tasks:
                _refuse(plan, widest, tasks, f"the state of step {step.name!r}", partitions_of[step.changelog])
            if isinstance(step, RepartitionStep) and step.like is not None and step.like in partitions_of:
                like, own = partitions_of[step.like], partitions_of[step.topic]
                if like != own:
                    _refuse(plan, step.like, like, f"{step.topic}, which is joined to it,", own)


def _refuse(plan: Plan, topic: str, partitions: int, what: str, other: int) -> None:
    raise PartitionsChanged(
        f"{topic} has {partitions} partitions, {what} has {other}: keys would not find their state",
        cure=f"run `headrace reset {plan.name}`: it makes both equally wide and computes everything again; or copy"
        f" {topic} into a topic with {other} partitions",
    )


def check_growth(known: Mapping[str, int], now: Mapping[str, TopicDescription], topics: Iterable[str]) -> None:
    """Raises `TopicsGrew`."""
    for topic in topics:
        if topic in now and now[topic].partitions != known[topic]:
            raise TopicsGrew(f"{topic} has {now[topic].partitions} partitions now, it had {known[topic]}")


def check_same(pipeline: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Whether topics are still what they were a moment ago (ids by topic). Raises `TopicRecreated`."""
    for topic, topic_id in before.items():
        if now.get(topic, topic_id) != topic_id:
            raise TopicRecreated(
                f"topic {topic} was deleted and made again while {pipeline} ran", cure=_RESET.format(pipeline=pipeline)
            )


def check_identity(pipeline: str, here: TopicPartition, kept: Checkpoint, now: Mapping[str, str]) -> None:
    """Whether a checkpoint's topics are those of today (`now`: ids by topic). Raises `TopicRecreated`."""
    for topic, topic_id in kept.topic_ids.items():
        if now.get(topic, topic_id) != topic_id:
            raise TopicRecreated(
                f"topic {topic} was deleted and made again since {pipeline} committed its positions"
                f" in {here.topic}[{here.partition}]",
                cure=_RESET.format(pipeline=pipeline),
            )


def position_lost(pipeline: str, subtopology: Subtopology, partition: int) -> PositionLost:
    """The error for a task with state and without a position."""
    topics = ", ".join(subtopology.reads)
    return PositionLost(
        f"{pipeline} has state for partition {partition} of {topics}, but its group has no offset there: the group was"
        " deleted, its offsets expired, or the topic was made again",
        cure=_RESET.format(pipeline=pipeline),
    )
