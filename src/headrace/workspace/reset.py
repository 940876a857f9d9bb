"""Giving up what a pipeline has stored.

Owns `reset`: the state of one step, or everything a pipeline knows, positions included, so that it computes its results
again from the beginning of its sources.

- Nothing is reset while a worker of the pipeline is in its group or says that it lives.
- Output topics are left as they are: a pipeline that begins again writes its results again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.flow.internal_topics import internal_topics
from headrace.flow.plan import Plan
from headrace.flow.steps import RepartitionStep
from headrace.flow.values import StatefulStep
from headrace.log.port import Admin, TopicDescription, TopicPartition
from headrace.workspace.environment import Environment
from headrace.workspace.errors import PipelineRunning, UnknownName, did_you_mean
from headrace.workspace.load import Workspace
from headrace.workspace.overview import ALIVE
from headrace.workspace.status import ComponentKind, read_statuses


@dataclass(frozen=True, slots=True)
class Reset:
    """What a reset would do, or did."""

    pipeline: str
    group: str | None
    """Whose positions go; None: positions stay."""
    emptied: Sequence[str]
    """Topics all records of which go."""
    deleted: Sequence[str]
    """Topics that no step owns any more."""


def plan_reset(workspace: Workspace, environment: Environment, pipeline: str, step: str | None) -> Reset:
    """What to do. Raises `UnknownName`, `PipelineRunning`, `GroupNotEmpty`."""
    plans = {compiled.plan.name: compiled.plan for compiled in workspace.pipelines}
    if pipeline not in plans:
        raise UnknownName(f"no pipeline {pipeline!r} in the workspace", cure=did_you_mean(pipeline, plans))
    _refuse_running(workspace, environment, pipeline)
    admin = environment.log.admin()
    try:
        present = admin.topics(internal=True)
        # Setting what is set already is refused while anybody is in the group, wherever they run.
        group = f"{workspace.name}.{pipeline}"
        admin.alter_group_offsets(group, admin.group_offsets(group))
    finally:
        admin.close()
    if step is not None:
        return _of_step(plans[pipeline], step, present)
    return _of_all(workspace, plans[pipeline], present)


def _refuse_running(workspace: Workspace, environment: Environment, pipeline: str) -> None:
    for status in read_statuses(workspace.root):
        if (status.kind, status.name, status.environment) != (ComponentKind.PIPELINE, pipeline, environment.name):
            continue
        if status.state in ALIVE:
            raise PipelineRunning(
                f"pipeline {pipeline!r} runs as {status.instance} (process {status.pid})",
                cure="stop `headrace run` first",
            )


def _of_step(plan: Plan, step: str, present: Iterable[str]) -> Reset:
    changelog = f"{plan.name}.{step}.changelog"
    owned = {each.changelog: each.name for each in plan.steps if isinstance(each, StatefulStep)}
    if changelog in owned:
        return Reset(plan.name, None, [changelog] if changelog in present else [], [])
    if changelog in present:
        return Reset(plan.name, None, [], [changelog])
    raise UnknownName(
        f"pipeline {plan.name!r} has no state of a step {step!r}", cure=did_you_mean(step, owned.values())
    )


def _of_all(workspace: Workspace, plan: Plan, present: Iterable[str]) -> Reset:
    mine = [each.changelog for each in plan.steps if isinstance(each, StatefulStep)]
    mine += [each.topic for each in plan.steps if isinstance(each, RepartitionStep)]
    known = {topic.name for topic in internal_topics(plan, lambda _: 1)}
    left = [
        name
        for name in sorted(present)
        if name.startswith(f"{plan.name}.") and name.endswith(".changelog") and name not in known
    ]
    return Reset(plan.name, f"{workspace.name}.{plan.name}", [name for name in sorted(mine) if name in present], left)


def carry_out(reset: Reset, environment: Environment) -> None:
    """Do it. Positions go last: after a failure in between the next reset finds the rest."""
    admin = environment.log.admin()
    try:
        topics = admin.topics(internal=True)
        for name in reset.emptied:
            _empty(admin, topics[name])
        if reset.deleted:
            admin.delete_topics(list(reset.deleted))
        if reset.group is not None and reset.group in admin.groups():
            admin.delete_group(reset.group)
    finally:
        admin.close()


def _empty(admin: Admin, topic: TopicDescription) -> None:
    ends = admin.end_offsets([TopicPartition(topic.name, number) for number in range(topic.partitions)])
    held = {here: end for here, end in ends.items() if end}
    if held:
        admin.delete_records(held)
