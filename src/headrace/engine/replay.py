"""Dead letters that come in again, in one process.

Owns the consumer of the pipeline's replay topic, the position of each of its partitions, and the way of a replayed
record to the step that failed.

- A replay partition belongs to a task, and is read by whoever runs that task. Its positions are committed with those
  of the task's sources, in the transaction that holds what came of the replay: it has its effect once.
- A record enters at its step and nowhere else. One that could not be decoded enters at its source, in every task that
  reads the topic.
- What cannot enter (the step is gone, its columns are others) becomes a dead letter again.
- Without a replay topic there is no consumer, and nothing to do. Somebody says (`tell`) when to look for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import polars as pl
import structlog

from headrace.engine.checkpoint import Checkpoint
from headrace.engine.dead_letters import DeadLetters, Original, original_of
from headrace.engine.operator import PARTITION, SEQUENCE, SOURCE, SYSTEM_COLUMNS
from headrace.engine.replay_rows import RowUnreadable, kept_row
from headrace.engine.retry import Patience
from headrace.engine.subtopology import Emit, SubtopologyRunner
from headrace.engine.tasks import TaskSet
from headrace.engine.topic_reader import TopicReader
from headrace.flow.plan import Plan
from headrace.flow.replays import SOURCE_STEP, ReplayLayout, TaskName, lookup_steps, lookup_topics, readers_of
from headrace.log.columns import take_batch
from headrace.log.port import (
    Admin,
    Consumer,
    Log,
    OffsetOutOfRange,
    RecordBatch,
    TopicDescription,
    TopicPartition,
    UnknownTopic,
)
from headrace.log.replays import Replay

POLL_RECORDS_MAX = 1_000
"""Replays between two polls of the sources."""
REFUSED = "process.replay_refused"
TABLE_WHY = "it is of a table that is looked up: every start reads it from its topic, where this would be missing"
SOURCE_FIELDS = ("topic", "partition", "offset")

log = structlog.get_logger("headrace.engine")


@dataclass(frozen=True, slots=True)
class _Entrant:
    """One record of a replay partition."""

    row: int
    """In its batch."""
    record: Original
    replay: Replay


class Replays:
    """Replays of one pipeline in one process. One thread."""

    def __init__(
        self,
        source: Log,
        plan: Plan,
        layout: ReplayLayout,
        *,
        admin: Admin,
        group: Consumer,
        tasks: TaskSet,
        readers: Mapping[str, TopicReader],
        dead_letters: DeadLetters,
    ) -> None:
        self._log, self._plan, self._layout = source, plan, layout
        self._admin, self._group, self._tasks = admin, group, tasks
        self._readers, self._dead_letters = readers, dead_letters
        self._closed_steps, self._closed_topics = lookup_steps(plan), lookup_topics(plan)
        self._consumer: Consumer | None = None
        self._partitions = 0
        self._is_told = False
        self._next: dict[TopicPartition, int] = {}
        """Behind the last record that is processed."""
        self._kept: dict[TopicPartition, int] = {}
        """The same as last committed."""
        self._has_taken = False
        """Whether the consumer may be ahead of what is committed."""

    def look(self, topics: Mapping[str, TopicDescription] | None = None) -> None:
        """See whether there is a replay topic by now, and read it from now on."""
        found = (self._admin.topics() if topics is None else topics).get(self._plan.replay_topic)
        self._partitions = 0 if found is None else found.partitions
        self.follow()

    def tell(self) -> None:
        """There may be a replay topic now, or a wider one: the next `poll` looks."""
        self._is_told = True

    def follow(self) -> None:
        """The tasks of this process may be others: read their partitions, and no more."""
        wanted = self._wanted() if self._partitions else []
        if self._next.keys() == set(wanted):
            return
        gained = [here for here in wanted if here not in self._next]
        known = {here: offset for here, offset in self._next.items() if here in wanted}
        starts = self._starts(gained)
        self._kept = {here: self._kept[here] for here in known} | starts
        self._next = known | starts
        self._read_from(self._next)

    def _wanted(self) -> list[TopicPartition]:
        running = {TaskName(task.runner.index, n) for task in self._tasks.tasks for n in task.partitions}
        numbers = (n for n in range(self._partitions) if self._layout.task(n) in running)
        return [TopicPartition(self._plan.replay_topic, number) for number in numbers]

    def _starts(self, wanted: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where reading begins: as committed, as far as the log still has it."""
        if not wanted:
            return {}
        committed = self._group.committed(wanted)
        begins, ends = self._group.beginning_offsets(wanted), self._group.end_offsets(wanted, committed=False)
        starts = dict(begins)
        starts |= {here: max(kept.offset, begins[here]) for here, kept in committed.items()}
        # Behind the end of a topic that was made anew nothing would ever come.
        return {here: start if start <= ends[here] else begins[here] for here, start in starts.items()}

    def _read_from(self, positions: Mapping[TopicPartition, int]) -> None:
        if not positions:
            self.close()
            return
        if self._consumer is None:
            self._consumer = self._log.consumer(client_id=f"headrace-replay-{self._plan.name}")
        self._consumer.assign(positions)

    def poll(self) -> Sequence[RecordBatch]:
        """What is to be replayed, without waiting."""
        if self._is_told:
            self._is_told = False
            self.look()
        if self._consumer is None:
            return ()
        try:
            batches = self._consumer.poll(POLL_RECORDS_MAX, 0.0)
        except (OffsetOutOfRange, UnknownTopic) as error:
            # What retention removed was not replayed in days; `headrace dlq list` shows it as open again.
            log.warning("replays_gone", code=error.code, reason=str(error))
            self._partitions, self._next, self._kept = 0, {}, {}
            self.close()
            self.look()
            return ()
        self._has_taken |= bool(batches)
        return batches

    def enter(self, batch: RecordBatch, emit: Emit, patience: Patience) -> None:
        """Bring records to their steps. A transaction is open."""
        self._dead_letters.remember(batch)
        for number in np.unique(batch.partition).tolist():
            rows = np.flatnonzero(batch.partition == number)
            piece = take_batch(batch, rows)
            task = self._layout.task(number)
            assert task is not None, "only partitions of tasks are read"
            for together in _runs(piece):
                self._enter_together(task, piece, together, emit, patience)
            self._next[TopicPartition(batch.topic, number)] = int(piece.offset[-1]) + 1

    def _enter_together(
        self, task: TaskName, batch: RecordBatch, entrants: Sequence[_Entrant], emit: Emit, patience: Patience
    ) -> None:
        """Records that one after the other go to one step."""
        replay = entrants[0].replay
        if why := self._why_not(task, replay):
            for each in entrants:
                self._refuse(each, why)
        elif replay.step.startswith(SOURCE_STEP):
            self._enter_source(task, batch, entrants, emit, patience)
        else:
            self._enter_step(task, batch, entrants, emit)

    def _why_not(self, task: TaskName, replay: Replay) -> str:
        """Why a record cannot enter; empty when it can."""
        if replay.task != task.text:
            return f"it was for task {replay.task}, which the pipeline as it is now does not have here"
        if replay.step.startswith(SOURCE_STEP):
            topic = replay.step.removeprefix(SOURCE_STEP)
            if topic not in self._readers or task.subtopology not in readers_of(self._plan, topic):
                return f"the pipeline does not read {topic} any more"
            return TABLE_WHY if topic in self._closed_topics else ""
        if replay.step not in self._steps(task):
            return f"the pipeline has no step {replay.step!r} there any more"
        if replay.step in self._closed_steps:
            return TABLE_WHY
        return ""

    def _steps(self, task: TaskName) -> set[str]:
        return {step.name for step in self._runner(task).steps}

    def _runner(self, task: TaskName) -> SubtopologyRunner:
        return next(each.runner for each in self._tasks.tasks if each.runner.index == task.subtopology)

    def _enter_source(
        self, task: TaskName, batch: RecordBatch, entrants: Sequence[_Entrant], emit: Emit, patience: Patience
    ) -> None:
        topic = entrants[0].replay.step.removeprefix(SOURCE_STEP)
        rows = np.array([each.row for each in entrants], np.int64)
        records = _as_source(take_batch(batch, rows), topic, task.partition, entrants)
        read = patience.call(lambda: self._readers[topic].read(records))
        if task.subtopology == readers_of(self._plan, topic)[0]:  # The others' records are the same.
            for bad in read.bad:
                each = entrants[bad.row]
                reason = ("decode", bad.code, bad.message)
                self._dead_letters.add_replay(each.record, each.replay, reason, step=each.replay.step, row=None)
        place = pl.lit(batch.topic).alias("topic"), pl.lit(int(batch.partition[0]), pl.Int32).alias("partition")
        offset = pl.col(SOURCE).struct.field("offset")
        frame = read.frame.with_columns(pl.struct(*place, offset).cast(SYSTEM_COLUMNS[SOURCE]).alias(SOURCE))
        numbered = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE))
        self._runner(task).run({topic: numbered}, emit)

    def _enter_step(self, task: TaskName, batch: RecordBatch, entrants: Sequence[_Entrant], emit: Emit) -> None:
        runner, step = self._runner(task), entrants[0].replay.step
        frames: dict[int, list[pl.DataFrame]] = {}
        for each in entrants:
            try:
                row = kept_row(each.replay.row or b"")
                frame = row.fitted(_known(runner.input_schema(step, row.input_index)))
            except RowUnreadable as error:
                self._refuse(each, str(error))
                continue
            place = (batch.topic, int(batch.partition[each.row]), int(batch.offset[each.row]))
            source = pl.Series(SOURCE, [dict(zip(SOURCE_FIELDS, place, strict=True))], SYSTEM_COLUMNS[SOURCE])
            here = pl.Series(PARTITION, [task.partition], dtype=pl.Int32)
            frames.setdefault(row.input_index, []).append(frame.with_columns(here, source))
        for input_index, pieces in frames.items():
            runner.replay(step, input_index, pl.concat(pieces), emit)

    def _refuse(self, entrant: _Entrant, why: str) -> None:
        replay = entrant.replay
        stage = "decode" if replay.row is None else replay.stage
        reason = (stage, REFUSED, why)
        self._dead_letters.add_replay(entrant.record, replay, reason, step=replay.step, row=replay.row)

    # Commit and undo

    def checkpoints(self) -> dict[TopicPartition, Checkpoint]:
        """Positions for a commit."""
        return {here: Checkpoint(offset) for here, offset in self._next.items()}

    def committed(self, durable: Mapping[TopicPartition, Checkpoint]) -> Mapping[TopicPartition, Checkpoint]:
        """These are durable now; returns those that are not of replays."""
        if not self._next:
            return durable
        self._kept.update({here: kept.offset for here, kept in durable.items() if here in self._next})
        self._has_taken = False
        return {here: kept for here, kept in durable.items() if here not in self._next}

    def rewind(self) -> None:
        """Back to the last commit."""
        if self._has_taken:
            self._has_taken = False
            self._next = dict(self._kept)
            self._read_from(self._next)

    def close(self) -> None:
        """Idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()


def _known(schema: Mapping[str, pl.DataType]) -> Mapping[str, pl.DataType]:
    if not schema:
        raise RowUnreadable("the step has fewer inputs than it had", cure="publish the record again")
    return schema


def _runs(batch: RecordBatch) -> Iterator[list[_Entrant]]:
    """Records that follow each other and go to one step. What is no replay record is left out: nobody waits for it."""
    entrants = []
    for row in range(len(batch)):
        record = original_of(batch, row)
        replay = Replay.of_headers(record.headers)
        if replay is None:
            log.warning("replay_record_unreadable", topic=batch.topic, offset=int(batch.offset[row]))
        else:
            entrants.append(_Entrant(row, record, replay))
    for _, together in groupby(entrants, key=lambda each: (each.replay.step, each.replay.task)):
        yield list(together)


def _as_source(batch: RecordBatch, topic: str, partition: int, entrants: Sequence[_Entrant]) -> RecordBatch:
    """Replay records as records of the source that they came from; offsets stay those of the replay topic."""
    recorded = [each.replay.place.get("time", "") for each in entrants]
    known = zip(recorded, batch.timestamp_ms.tolist(), strict=True)
    times = [int(text) if text.isdecimal() else replayed_ms for text, replayed_ms in known]
    return RecordBatch(
        topic,
        np.full(len(batch), partition, np.int32),
        batch.offset,
        np.array(times, np.int64),
        batch.key,
        batch.value,
        batch.headers,
    )
