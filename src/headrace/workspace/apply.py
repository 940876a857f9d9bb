"""Carrying out a plan.

Owns the way from each change of a plan to the log, the registry or a source.

- The changes of the plan, in its order, and nothing else.
- A plan with problems is refused before the first change.
- Idempotent: what another `apply` did meanwhile is taken as done, and after a failure the next plan holds the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.log.port import Admin, TopicExists
from headrace.workspace.changes import (
    AddPartitions,
    AlterTopic,
    Change,
    CreateTopic,
    RegisterSchema,
    SetCompatibility,
    SetUpIngress,
    sentences,
)
from headrace.workspace.environment import Environment
from headrace.workspace.errors import PlanRefused
from headrace.workspace.load import Workspace
from headrace.workspace.plan import WorkspacePlan
from headrace.workspace.plan_connectors import set_up_ingress

Progress = Callable[[Change], None]
"""Called after each change that was made."""


def apply_plan(
    plan: WorkspacePlan, workspace: Workspace, environment: Environment, progress: Progress | None = None
) -> None:
    """Make every change of `plan`. Raises `PlanRefused` when it has problems."""
    if plan.problems:
        reasons = sentences(plan.problems)
        count = len(reasons)
        raise PlanRefused(
            f"the plan has {count} problem{'s' if count > 1 else ''}, nothing was changed: {'; '.join(reasons)}",
            reasons=reasons,
        )
    admin = environment.log.admin()
    try:
        for change in plan.changes:
            _apply(change, admin, workspace, environment)
            if progress is not None:
                progress(change)
    finally:
        admin.close()


def _apply(change: Change, admin: Admin, workspace: Workspace, environment: Environment) -> None:
    match change:
        case CreateTopic(spec=spec):
            try:
                admin.create_topics([spec])
            except TopicExists:
                # Made by another `apply` since the plan; the next plan compares it.
                return
        case AddPartitions(target=topic, after=partitions):
            admin.add_partitions(topic, partitions)
        case AlterTopic(target=topic, after=config):
            admin.alter_config(topic, config)
        case SetCompatibility(target=subject, after=mode):
            environment.registry.set_compatibility(subject, mode)
        case RegisterSchema(target=subject, schema=schema):
            environment.registry.register(subject, schema)
        case SetUpIngress(target=name):
            set_up_ingress(name, workspace, environment)
