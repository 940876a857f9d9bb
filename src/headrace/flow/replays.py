"""Where dead letters of a plan come in again.

Owns the numbering of replay partitions and the steps that nothing can be replayed to.

- The replay topic of a pipeline has one partition for each task: those of the first subtopology, then of the next.
- A table that is looked up is read from its topic at every start: what a replay put into it would be gone again, so
  nothing is replayed to the steps between that topic and the join.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from headrace.flow.plan import Plan
from headrace.flow.steps import LookupJoinStep, SourceStep

SOURCE_STEP = "source "
"""The step of a dead letter that could not be decoded is this and the topic."""


class TaskName(NamedTuple):
    """One partition number of one subtopology; its text is that of `headrace status`."""

    subtopology: int
    partition: int

    @property
    def text(self) -> str:
        return f"{self.subtopology}_{self.partition}"

    @classmethod
    def parse(cls, text: str) -> TaskName | None:
        """None for what is no task."""
        subtopology, _, partition = text.partition("_")
        return cls(int(subtopology), int(partition)) if subtopology.isdecimal() and partition.isdecimal() else None


@dataclass(frozen=True, slots=True)
class ReplayLayout:
    """The tasks of a plan in the order of its replay partitions."""

    tasks: tuple[TaskName, ...]

    @classmethod
    def of(cls, plan: Plan, partitions_of: Mapping[str, int]) -> ReplayLayout:
        """`partitions_of` has every topic that the plan's tasks read, as wide as it is."""
        widths = {each.index: max(partitions_of[topic] for topic in each.reads) for each in plan.subtopologies}
        return cls(tuple(TaskName(index, n) for index in sorted(widths) for n in range(widths[index])))

    def partition(self, task: TaskName) -> int | None:
        """None for a task that the plan does not have."""
        return self.tasks.index(task) if task in self.tasks else None

    def task(self, partition: int) -> TaskName | None:
        """None for a partition of a plan that was wider."""
        return self.tasks[partition] if partition < len(self.tasks) else None


def subtopology_of(plan: Plan, step: str) -> int | None:
    """The subtopology that runs a step; None where no step has that name."""
    return next((each.index for each in plan.subtopologies if step in each.steps), None)


def readers_of(plan: Plan, topic: str) -> list[int]:
    """The subtopologies that read a topic, in order."""
    return sorted(each.index for each in plan.subtopologies if topic in each.reads)


def lookup_steps(plan: Plan) -> frozenset[str]:
    """The steps between a table's topic and the joins that look it up."""
    found: set[str] = set()
    for join in plan.steps:
        if isinstance(join, LookupJoinStep):
            name = join.inputs[1]
            while name:
                found.add(name)
                inputs = plan.step(name).inputs
                name = inputs[0] if inputs else ""
    return frozenset(found)


def lookup_topics(plan: Plan) -> frozenset[str]:
    """The topics of tables that are looked up."""
    sources = (plan.step(name) for name in lookup_steps(plan))
    return frozenset(step.topic for step in sources if isinstance(step, SourceStep))
