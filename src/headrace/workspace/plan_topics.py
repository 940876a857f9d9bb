"""The topic stage of a plan: which topics to create, grow or set anew.

Owns the comparison of wanted topics with those on the log.

- Topics that the workspace does not know are never touched, and none is ever deleted.
- The number of partitions of a keyed topic never changes: its keys would move away from their state and order.
- A contract that does not say how many partitions takes what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from headrace.errors import Where
from headrace.log.port import TopicDescription, TopicSpec
from headrace.workspace.changes import AddPartitions, AlterTopic, Change, CreateTopic, Problem


@dataclass(frozen=True, slots=True)
class WantedTopic:
    """A topic as the workspace wants it."""

    spec: TopicSpec
    purpose: str
    """Who wants it, in words: `published`, `derived by totals`, ..."""
    keyed: bool
    fixed_partitions: bool
    """Whether the count was asked for; else any count that is there is right."""
    where: Where | None = None
    cure: str = ""
    """What to do when it has another number of partitions, where that is not to ask for another one."""


@dataclass(slots=True)
class TopicStage:
    """What came of the comparison."""

    changes: list[Change] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def plan_topics(wanted: Iterable[WantedTopic], present: Mapping[str, TopicDescription]) -> TopicStage:
    """Compare; changes are in the order of `wanted`."""
    stage = TopicStage()
    for topic in wanted:
        there = present.get(topic.spec.name)
        if there is None:
            stage.changes.append(CreateTopic(topic.spec, topic.purpose))
            continue
        if topic.fixed_partitions and there.partitions != topic.spec.partitions:
            _partitions(topic, there, stage)
        _settings(topic, there, stage)
    return stage


def _partitions(topic: WantedTopic, there: TopicDescription, stage: TopicStage) -> None:
    name, before, after = there.name, there.partitions, topic.spec.partitions
    if after > before and not topic.keyed:
        stage.changes.append(AddPartitions(name, before, after))
        return
    reason = "its keys would move to other partitions" if after > before else "partitions cannot be taken away"
    stage.problems.append(
        Problem(
            "workspace.partitions_fixed",
            f"topic {name!r} ({topic.purpose}) has {before} partitions and {after} are asked for: {reason}",
            topic.where,
            topic.cure or f"ask for {before}, or make a new topic with {after}",
        )
    )


def _settings(topic: WantedTopic, there: TopicDescription, stage: TopicStage) -> None:
    after = {key: value for key, value in topic.spec.config.items() if there.config.get(key) != value}
    if after:
        stage.changes.append(AlterTopic(there.name, {key: there.config.get(key) for key in after}, after))
