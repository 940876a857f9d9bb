"""The plan: a pipeline as data, before anything runs.

Owns the frozen, serialisable model that engine, lineage, policy, docs and `headrace plan` all read.

- A plan holds no function, connection or clock; user functions appear as `FunctionReference` and live in
  `CompiledPipeline.functions`.
- Steps are in topological order; every input names an earlier step.
- A subtopology is what one task runs over one partition number; subtopologies meet only in repartition topics.
- Times and sizes are milliseconds and records.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headrace.flow.steps import AggregateStep, AnyStep, SourceStep, StreamJoinStep, TopNStep
from headrace.flow.values import Model, Place, SourceField

PLAN_FORMAT = 1
"""Raised when a stored plan of an older release can no longer be read as it is."""


class Delivery(enum.Enum):
    """What a crash may do to the output."""

    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"


def idle_close_ms(step: AnyStep) -> int | None:
    """After how much wall-clock time without input a step closes what it holds open; None: never."""
    if isinstance(step, StreamJoinStep):
        return step.idle_close_ms
    if isinstance(step, AggregateStep | TopNStep) and step.window is not None:
        return step.window.idle_close_ms
    return None


class Subtopology(Model):
    """Steps that one task runs.

    A repartition step belongs to the subtopology that writes it; its readers name its topic in `reads`.
    """

    index: int
    steps: tuple[str, ...]
    """In topological order."""
    reads: tuple[str, ...]
    """Source and repartition topics, co-partitioned: partition n of each makes task n."""
    broadcasts: tuple[str, ...] = ()
    """Topics of broadcast tables: read whole by every process."""
    writes: tuple[str, ...]
    """Repartition and derived topics."""


class DerivedTopic(Model):
    """The inferred contract of a topic that the pipeline writes."""

    topic: str
    kind: Literal["event", "table"]
    avro: Mapping[str, Any]
    """The record schema of the value."""
    key: tuple[str, ...]
    key_encoding: Literal["avro", "string"]
    time: str | None
    record_time: bool = False
    """The record's timestamp is the event time; `time` is None."""
    owner: str
    description: str
    tags: Mapping[str, tuple[str, ...]]
    units: Mapping[str, str]
    influences: tuple[SourceField, ...]
    """Source columns that decide which rows exist (filters, join and group keys) without being copied."""


class Plan(Model):
    """One pipeline."""

    format: int = PLAN_FORMAT
    name: str
    owner: str = ""
    description: str = ""
    place: Place
    delivery: Delivery = Delivery.EXACTLY_ONCE
    commit_interval_ms: int = 100
    steps: tuple[AnyStep, ...]
    subtopologies: tuple[Subtopology, ...]
    outputs: tuple[DerivedTopic, ...]

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.name}.dlq"

    @property
    def replay_topic(self) -> str:
        """Dead letters on their way back; made when the first one is replayed."""
        return f"{self.name}.replay"

    def step(self, name: str) -> AnyStep:
        """The step of this name; KeyError when there is none."""
        return {step.name: step for step in self.steps}[name]

    def source_topics(self) -> tuple[str, ...]:
        """Topics read from outside, sorted."""
        return tuple(sorted({step.topic for step in self.steps if isinstance(step, SourceStep)}))

    def to_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Plan:
        return cls.model_validate_json(text)


@dataclass(frozen=True, slots=True)
class CompiledPipeline:
    """A plan with the user functions that it names.

    By step name; those of custom aggregates (`Aggregator` objects) by `aggregator_key`.
    """

    plan: Plan
    functions: Mapping[str, Any]


def aggregator_key(step: str, aggregate: str) -> str:
    """Where `CompiledPipeline.functions` has the `Aggregator` of one aggregate column."""
    return f"{step}.{aggregate}"
