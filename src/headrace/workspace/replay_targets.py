"""Where a dead letter comes in again: the step of a pipeline that failed, or the target of an egress.

Owns the choice of replay partitions and the records that are written to them, and the reasons why a dead letter
cannot be replayed.

- A replay goes to the step that failed and to nothing else. What could not be decoded comes in at its source.
- A patch that changes what tasks are chosen by brings the row to the task that has its new key.
- Nothing is replayed to where it would be lost, or where its task cannot be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from headrace.contracts.contract import Contract, TopicKind
from headrace.contracts.key import open_key_codec
from headrace.contracts.polars_types import from_frame
from headrace.contracts.registry import Registry
from headrace.egress.config import EgressConfig
from headrace.egress.sdk import Mode
from headrace.engine.build import frame_schemas, partitioner
from headrace.engine.operator import PARTITION
from headrace.engine.replay_rows import KeptRow, kept_row
from headrace.flow.plan import Plan
from headrace.flow.replays import (
    SOURCE_STEP,
    ReplayLayout,
    TaskName,
    lookup_steps,
    lookup_topics,
    readers_of,
    subtopology_of,
)
from headrace.flow.steps import AnyStep, LookupJoinStep, RepartitionStep, SourceStep
from headrace.log.columns import binary_column
from headrace.log.dead_letters import ORIGINAL
from headrace.log.partitioner import partition_for
from headrace.log.port import TopicPartition
from headrace.log.replays import Header, Replay
from headrace.workspace.dead_letters import DeadLetter
from headrace.workspace.errors import WorkspaceError
from headrace.workspace.replay_patch import Content, Patch, PatchRefused, changed_columns, patched_record, patched_row

EGRESS_STEP = "egress"


class NotReplayable(WorkspaceError):
    """A dead letter that has no way back."""

    code = "workspace.not_replayable"


@dataclass(frozen=True, slots=True)
class Entrance:
    """One record for the replay topic."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    step: str
    task: str


class ReplayTarget(Protocol):
    """A component that takes its dead letters again."""

    @property
    def partitions(self) -> int:
        """Of its replay topic."""

    def entrances(self, letter: DeadLetter, patch: Patch | None) -> Sequence[Entrance]:
        """What to write for a dead letter. Raises `NotReplayable`, `PatchRefused`, `RowUnreadable`."""

    def replaces(self, letter: DeadLetter) -> bool:
        """Whether the row takes the place of an earlier one of its key: then a newer one must not have come since."""


@dataclass(frozen=True, slots=True)
class PipelineTarget:
    """The steps of one pipeline."""

    plan: Plan
    contracts: Mapping[str, Contract]
    registry: Registry
    partitions_of: Mapping[str, int]
    """Of the topics that the tasks read, and that repartition steps write."""

    @property
    def _layout(self) -> ReplayLayout:
        return ReplayLayout.of(self.plan, self.partitions_of)

    @property
    def partitions(self) -> int:
        return len(self._layout.tasks)

    def entrances(self, letter: DeadLetter, patch: Patch | None) -> Sequence[Entrance]:
        if letter.stage in ("process", "encode") and letter.row is not None:
            return [self._at_step(letter, kept_row(letter.row), patch)]
        if letter.stage == "decode" or self._comes_from_elsewhere(letter):
            return self._at_source(letter, patch)
        raise NotReplayable(
            "the row as it came to the step is not kept: the step made it itself, or it has more than 64 KiB",
            cure="publish the record again once its cause is mended",
        )

    def replaces(self, letter: DeadLetter) -> bool:
        if letter.row is not None and letter.stage != "decode" and subtopology_of(self.plan, letter.step) is not None:
            inputs = self.plan.step(letter.step).inputs
            index = kept_row(letter.row).input_index
            return index < len(inputs) and self.plan.step(inputs[index]).is_table
        contract = self.contracts.get(letter.source.topic) if letter.source is not None else None
        return contract is not None and contract.kind is not TopicKind.EVENT

    def _comes_from_elsewhere(self, letter: DeadLetter) -> bool:
        """Dead letters of others hold the record itself; here it has failed nowhere yet."""
        return letter.component != self.plan.name and letter.is_original

    # At a source

    def _at_source(self, letter: DeadLetter, patch: Patch | None) -> list[Entrance]:
        if letter.source is None or not letter.is_original:
            raise NotReplayable(
                "the dead letter does not hold the record, or does not say where it came from",
                cure="publish the record again once its cause is mended",
            )
        topic, partition = letter.source
        readers = readers_of(self.plan, topic)
        if not readers:
            raise NotReplayable(f"pipeline {self.plan.name!r} does not read {topic}", cure="name one that does")
        if topic in lookup_topics(self.plan):
            raise NotReplayable(
                f"{topic} is a table that is looked up: every start reads it from its topic, where this is missing",
                cure="publish the corrected record to the topic",
            )
        record = Content.of(letter)
        if patch is not None:
            record = patched_record(letter, self.contracts[topic], self.registry, patch)
            if record.key is not None and record.key != letter.key:
                partition = int(partition_for(binary_column([record.key]), self.partitions_of[topic])[0])
        step = SOURCE_STEP + topic
        return [self._entrance(letter, record, step, TaskName(index, partition), None) for index in readers]

    # At a step

    def _at_step(self, letter: DeadLetter, row: KeptRow, patch: Patch | None) -> Entrance:
        index = subtopology_of(self.plan, letter.step)
        if index is None or row.input_index >= len(self.plan.step(letter.step).inputs):
            raise NotReplayable(
                f"pipeline {self.plan.name!r} has no step {letter.step!r} any more",
                cure="give the step its name back with .named(...), or publish the record again",
            )
        if letter.step in lookup_steps(self.plan):
            raise NotReplayable(
                f"step {letter.step!r} feeds a table that is looked up: every start reads it from its topic",
                cure="publish the corrected record to the topic",
            )
        above = self.plan.step(self.plan.step(letter.step).inputs[row.input_index])
        task = TaskName(index, int(row.frame[PARTITION][0]))
        record, patched = Content.of(letter), patched_row(row, above, patch or {})
        fitted = KeptRow(patched.fitted(frame_schemas(self.plan, self.contracts)[above.name]), row.input_index)
        if not patch:
            return self._entrance(letter, record, letter.step, task, letter.row)
        task = self._task_of(task, above, row.frame, fitted.frame)
        return self._entrance(letter, record, letter.step, task, fitted.to_bytes())

    def _task_of(self, task: TaskName, above: AnyStep, before: pl.DataFrame, after: pl.DataFrame) -> TaskName:
        """The task of a patched row: another one when the patch changed what tasks are chosen by."""
        entry = self._entry(above)
        key, named = set(entry.key), set(above.key)
        kept = [name for name in before.columns if name in after.columns]
        changed = set(changed_columns(before.select(kept), after.select(kept)))
        if not changed & (key if key <= named else key | named):
            return task
        if not key <= set(after.columns) or not key <= named:
            raise PatchRefused(
                f"the patch changes {', '.join(sorted(changed))}, and the row does not tell which task has that key",
                cure="publish the corrected record again instead",
            )
        if isinstance(entry, RepartitionStep):
            like = self.contracts[entry.like] if entry.like is not None else None
            choose = partitioner(entry, self.partitions_of[entry.topic], like, self.registry)
            return TaskName(task.subtopology, int(choose(after)[0]))
        assert isinstance(entry, SourceStep)
        keys = open_key_codec(self.contracts[entry.topic], self.registry).encode(from_frame(after.select(entry.key)))
        return TaskName(task.subtopology, int(partition_for(keys.values, self.partitions_of[entry.topic])[0]))

    def _entry(self, step: AnyStep) -> SourceStep | RepartitionStep:
        """From where a step's rows come into its subtopology."""
        while not isinstance(step, SourceStep | RepartitionStep):
            inputs = step.inputs[:1] if isinstance(step, LookupJoinStep) else step.inputs
            step = self.plan.step(inputs[0])
        return step

    def _entrance(self, letter: DeadLetter, record: Content, step: str, task: TaskName, row: bytes | None) -> Entrance:
        partition = self._layout.partition(task)
        if partition is None:
            raise NotReplayable(
                f"pipeline {self.plan.name!r} has no task {task.text} any more: its topics or steps are others now",
                cure="publish the record again",
            )
        headers = _replay(letter, record, step, task.text, row).to_headers()
        return Entrance(partition, record.key, record.value, headers, step, task.text)


@dataclass(frozen=True, slots=True)
class EgressTarget:
    """The target of one egress."""

    config: EgressConfig
    contract: Contract
    registry: Registry
    partitions: int

    def entrances(self, letter: DeadLetter, patch: Patch | None) -> Sequence[Entrance]:
        if letter.source is None or not letter.is_original:
            raise NotReplayable(
                "the dead letter does not hold the record, or does not say where it came from",
                cure="publish the record again once its cause is mended",
            )
        topic, partition = letter.source
        if topic != self.config.topic or partition >= self.partitions:
            raise NotReplayable(
                f"egress {self.config.name!r} reads {self.config.topic}, not {topic} partition {partition}",
                cure="name the egress that reads it",
            )
        record = Content.of(letter)
        if patch is not None:
            record = patched_record(letter, self.contract, self.registry, patch)
            if record.key is not None and record.key != letter.key:
                partition = int(partition_for(binary_column([record.key]), self.partitions)[0])
        task = TaskName(0, partition)
        headers = _replay(letter, record, EGRESS_STEP, task.text, None).to_headers()
        return [Entrance(partition, record.key, record.value, headers, EGRESS_STEP, task.text)]

    def replaces(self, letter: DeadLetter) -> bool:
        return self.config.mode is not Mode.APPEND


def _replay(letter: DeadLetter, record: Content, step: str, task: str, row: bytes | None) -> Replay:
    place: dict[str, str] = {}
    if letter.source is not None:
        place |= {"topic": letter.source.topic, "partition": str(letter.source.partition)}
        if letter.source_offset is not None:
            place["offset"] = str(letter.source_offset)
    if letter.source_time_ms is not None:
        place["time"] = str(letter.source_time_ms)
    if not letter.is_original:
        place[ORIGINAL] = "false"
    return Replay(letter.place.text, letter.replays + 1, letter.stage, step, task, row, place, record.headers)


def source_of(letter: DeadLetter) -> tuple[TopicPartition, int] | None:
    """Where the record of a dead letter lies."""
    if letter.source is None or letter.source_offset is None:
        return None
    return letter.source, letter.source_offset
