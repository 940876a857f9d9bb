"""Whose state lies on the log.

Owns the check that every changelog with records belongs to a step of the plan: a step that was renamed or taken out
would leave its state behind, and the pipeline would go on as if it had never had it.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.errors import HeadraceError
from headrace.flow.plan import Plan
from headrace.flow.values import StatefulStep
from headrace.log.port import Admin, TopicDescription, TopicPartition

_SUFFIX = ".changelog"


class StateWithoutStep(HeadraceError):
    """State on the log belongs to no step of the pipeline as it is now."""

    code = "engine.state_without_step"


def check_owners(plan: Plan, admin: Admin, topics: Mapping[str, TopicDescription]) -> None:
    """Raises `StateWithoutStep` for the first changelog of the pipeline that no step owns and that holds records."""
    owned = {step.changelog: step.name for step in plan.steps if isinstance(step, StatefulStep)}
    prefix = f"{plan.name}."
    left = sorted(name for name in topics if name.startswith(prefix) and name.endswith(_SUFFIX) and name not in owned)
    for topic in left:
        if not _has_records(admin, topics[topic]):
            continue
        step = topic[len(prefix) : -len(_SUFFIX)]
        fresh = [name for changelog, name in owned.items() if not _has_records(admin, topics[changelog])]
        renamed = f"; if it is step {fresh[0]!r} now, write .named({step!r}) behind that step" if fresh else ""
        raise StateWithoutStep(
            f"{topic} holds the state of step {step!r}, which pipeline {plan.name!r} has no more",
            cure=f"bring the step back{renamed}; to give the state up, run `headrace reset {plan.name} --step {step}`",
        )


def _has_records(admin: Admin, topic: TopicDescription) -> bool:
    here = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    return any(admin.end_offsets(here).values())
