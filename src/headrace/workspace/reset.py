"""What a reset of a pipeline would do.

Owns the plan of a reset: which topics are made anew, emptied or deleted, and where the group stands afterwards.
`headrace.workspace.resetting` carries it out. Changes nothing.

- State that goes, goes with its topic: a changelog is made anew, so that no copy of it on any machine is taken for it.
- A reset of a whole pipeline leaves nothing of its state, whatever position it is set to.
- Positions in topics of other purpose, such as replays of dead letters, stay.
- Output topics are left as they are: a pipeline that reads again writes its results again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.flow.internal_topics import internal_topics
from headrace.flow.plan import Plan
from headrace.flow.steps import RepartitionStep
from headrace.flow.values import StatefulStep
from headrace.log.port import OffsetAndMetadata, TopicDescription, TopicPartition
from headrace.workspace.environment import Environment
from headrace.workspace.errors import UnknownName, WorkspaceError, did_you_mean
from headrace.workspace.load import Workspace
from headrace.workspace.reading import Start
from headrace.workspace.reset_journal import Topic
from headrace.workspace.topics import topic_spec

Offsets = Mapping[TopicPartition, int]


class ResetTargetInvalid(WorkspaceError):
    """A place to reset to that the pipeline cannot stand at."""

    code = "workspace.reset_target_invalid"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a pipeline is to stand: at most one of these, or none for the beginning of its sources."""

    step: str | None = None
    """Give up this step's state only, and stand where the pipeline stands."""
    time_ms: int | None = None
    """At the first records of this time or later."""
    offsets: Offsets | None = None
    """At these offsets; partitions that are not named stay where they are."""

    @property
    def text(self) -> str:
        """For journals and people."""
        if self.step is not None:
            return f"step {self.step}"
        if self.time_ms is not None:
            return f"time {self.time_ms}ms"
        if self.offsets is not None:
            named = ",".join(f"{here.topic}:{here.partition}={offset}" for here, offset in sorted(self.offsets.items()))
            return f"offset {named}"
        return "beginning"


@dataclass(frozen=True, slots=True)
class Reset:
    """What a reset would do, or did."""

    pipeline: str
    group: str
    target: Target
    remade: Sequence[Topic]
    """Topics that are deleted and made again, empty."""
    emptied: Sequence[str]
    """Topics all records of which go."""
    deleted: Sequence[str]
    """Topics that no step owns any more."""
    positions: Mapping[TopicPartition, OffsetAndMetadata] | None
    """Of the group afterwards, without those at the beginning; None: they stay."""
    moves: Sequence[tuple[TopicPartition, int | None, int]] = field(default=())
    """Of each source partition: where it is, if anywhere, and where it will be."""


def parse_target(step: str | None, time: str | None, offsets: str | None) -> Target:
    """What an operator wrote; at most one is given. Raises `ResetTargetInvalid`, `StartInvalid`."""
    if time is not None:
        start = Start.parse(time)
        if start.time_ms is None:
            raise ResetTargetInvalid(f"{time!r} is no time", cure="write one such as 2026-01-31T12:00:00Z")
        return Target(time_ms=start.time_ms)
    if offsets is not None:
        return Target(offsets=dict(_parse_offset(each.strip()) for each in offsets.split(",")))
    return Target(step=step)


def _parse_offset(text: str) -> tuple[TopicPartition, int]:
    found = re.fullmatch(r"(.+):(\d+)=(\d+)", text)
    if found is None:
        raise ResetTargetInvalid(f"{text!r} names no offset", cure="write topic:partition=offset, such as orders:0=120")
    return TopicPartition(found.group(1), int(found.group(2))), int(found.group(3))


def pipeline_plan(workspace: Workspace, pipeline: str) -> Plan:
    """Raises `UnknownName`."""
    plans = {compiled.plan.name: compiled.plan for compiled in workspace.pipelines}
    if pipeline not in plans:
        raise UnknownName(f"no pipeline {pipeline!r} in the workspace", cure=did_you_mean(pipeline, plans))
    return plans[pipeline]


def plan_reset(workspace: Workspace, environment: Environment, pipeline: str, target: Target) -> Reset:
    """What to do. Raises `UnknownName`, `ResetTargetInvalid`, `LogError`."""
    plan = pipeline_plan(workspace, pipeline)
    group = f"{workspace.name}.{pipeline}"
    admin = environment.log.admin()
    try:
        present = admin.topics(internal=True)
        committed = admin.group_offsets(group)
    finally:
        admin.close()
    if target.step is not None:
        return _of_step(plan, group, target, present)
    remade, emptied, deleted = _topics(plan, environment, present)
    moves = _moves(plan, environment, target, present, committed)
    kept = _kept(plan, present, committed)
    moved = {} if target == Target() else {here: OffsetAndMetadata(to) for here, _, to in moves}
    return Reset(pipeline, group, target, remade, emptied, deleted, {**kept, **moved}, moves)


def _of_step(plan: Plan, group: str, target: Target, present: Mapping[str, TopicDescription]) -> Reset:
    changelog = f"{plan.name}.{target.step}.changelog"
    owned = {each.changelog: each.name for each in plan.steps if isinstance(each, StatefulStep)}
    if changelog not in owned and changelog not in present:
        raise UnknownName(
            f"pipeline {plan.name!r} has no state of a step {target.step!r}",
            cure=did_you_mean(str(target.step), owned.values()),
        )
    found = [as_it_is(present[changelog])] if changelog in present else []
    if changelog in owned:
        return Reset(plan.name, group, target, found, [], [], None)
    return Reset(plan.name, group, target, [], [], [changelog], None)


def as_it_is(topic: TopicDescription) -> Topic:
    """To make it anew."""
    return Topic(name=topic.name, partitions=topic.partitions, config=dict(topic.config))


def _topics(
    plan: Plan, environment: Environment, present: Mapping[str, TopicDescription]
) -> tuple[list[Topic], list[str], list[str]]:
    """Topics to make anew, to empty and to delete, of those that are there. Widths follow the sources as they are."""
    changelogs = {each.changelog for each in plan.steps if isinstance(each, StatefulStep)}
    moving = {each.topic for each in plan.steps if isinstance(each, RepartitionStep)}
    remade, emptied = [], []
    for each in internal_topics(plan, lambda name: present[name].partitions if name in present else 1):
        there = present.get(each.name)
        if there is None or each.name not in changelogs | moving:
            continue
        if each.name in moving and there.partitions == each.partitions:
            emptied.append(each.name)
            continue
        own = topic_spec(each.name, each.partitions, each.config, environment.config)
        remade.append(Topic(name=each.name, partitions=each.partitions, config={**own.config, **there.config}))
    left = [
        name
        for name in sorted(present)
        if name.startswith(f"{plan.name}.") and name.endswith(".changelog") and name not in changelogs
    ]
    return remade, emptied, left


def _sources(plan: Plan, present: Mapping[str, TopicDescription]) -> list[TopicPartition]:
    """Partitions of outside topics that the group reads."""
    moving = {each.topic for each in plan.steps if isinstance(each, RepartitionStep)}
    topics = {topic for each in plan.subtopologies for topic in each.reads} - moving
    return [
        TopicPartition(topic, number)
        for topic in sorted(topics & present.keys())
        for number in range(present[topic].partitions)
    ]


def _kept(
    plan: Plan, present: Mapping[str, TopicDescription], committed: Mapping[TopicPartition, OffsetAndMetadata]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Positions that are about neither sources nor rows between steps."""
    moving = {each.topic for each in plan.steps if isinstance(each, RepartitionStep)}
    sources = {topic for each in plan.subtopologies for topic in each.reads} | moving
    return {here: each for here, each in committed.items() if here.topic not in sources and here.topic in present}


def _moves(
    plan: Plan,
    environment: Environment,
    target: Target,
    present: Mapping[str, TopicDescription],
    committed: Mapping[TopicPartition, OffsetAndMetadata],
) -> list[tuple[TopicPartition, int | None, int]]:
    """Where each source partition is, and where it will be."""
    here = _sources(plan, present)
    consumer = environment.log.consumer(client_id="headrace-reset")
    try:
        begins, ends = consumer.beginning_offsets(here), consumer.end_offsets(here)
        to: Offsets = begins
        if target.time_ms is not None:
            to = consumer.offsets_for_time(dict.fromkeys(here, target.time_ms))
    finally:
        consumer.close()
    if target.offsets is not None:
        _check_offsets(plan, target.offsets, begins, ends)
        stays = {each: committed[each].offset for each in here if each in committed}
        to = {**begins, **stays, **target.offsets}
    return [(each, committed[each].offset if each in committed else None, to[each]) for each in here]


def _check_offsets(plan: Plan, wanted: Offsets, begins: Offsets, ends: Offsets) -> None:
    for here, offset in wanted.items():
        place = f"{here.topic}:{here.partition}"
        if here not in begins:
            known = sorted({each.topic for each in begins})
            raise ResetTargetInvalid(
                f"pipeline {plan.name!r} reads no partition {place}", cure=did_you_mean(here.topic, known)
            )
        if not begins[here] <= offset <= ends[here]:
            raise ResetTargetInvalid(
                f"offset {offset} of {place} is not there", cure=f"give one from {begins[here]} to {ends[here]}"
            )
