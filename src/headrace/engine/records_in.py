"""From polled batches to rows in the task queues.

Owns the readers of source topics and the check that tables are partitioned as joins need them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from headrace.engine import repartition
from headrace.engine.dead_letters import DeadLetters
from headrace.engine.input_queue import INDEX, OFFSET
from headrace.engine.operator import PARTITION
from headrace.engine.retry import Patience
from headrace.engine.tasks import TaskSet
from headrace.engine.topic_reader import TopicReader
from headrace.errors import HeadraceError
from headrace.log.partitioner import partition_for
from headrace.log.port import RecordBatch, TopicPartition


class NotCopartitioned(HeadraceError):
    """A table's records do not lie where a join looks for them."""

    code = "engine.not_copartitioned"


class RowsOfAnotherForm(HeadraceError):
    """Rows on their way between two steps were written by the pipeline as it was before."""

    code = "engine.rows_of_another_form"


class RecordsIn:
    """Decodes batches and hands rows to the tasks. `moved`: the columns of each repartition topic."""

    def __init__(
        self,
        readers: Mapping[str, TopicReader],
        keyed: Mapping[str, int],
        moved: Mapping[str, Sequence[str]],
        tasks: TaskSet,
        dead_letters: DeadLetters,
    ) -> None:
        self._readers, self._keyed, self._tasks, self._dead_letters = readers, keyed, tasks, dead_letters
        self._moved = moved
        self.rows: Counter[tuple[str, str]] = Counter()
        """Records read (`in`) and rows made of them (`out`) so far, by `source <topic>`."""

    def add(self, batch: RecordBatch, patience: Patience, now_ms: int) -> None:
        """Take in one batch; undecodable records become dead letters."""
        reader = self._readers.get(batch.topic)
        if reader is None:
            self._add_repartitioned(batch, now_ms)
            return
        if batch.topic in self._keyed:
            _check_copartitioned(batch, self._keyed[batch.topic])
        self._dead_letters.remember(batch)
        rows = patience.call(lambda: reader.read(batch))
        if rows.bad:
            self._dead_letters.add_records(batch, rows.bad, step=f"source {batch.topic}")
        self.rows[f"source {batch.topic}", "in"] += len(batch)
        self.rows[f"source {batch.topic}", "out"] += rows.frame.height
        index = np.zeros(len(rows.offset), np.int64)
        frame = rows.frame.hstack([pl.Series(OFFSET, rows.offset), pl.Series(INDEX, index)])
        self._tasks.add(batch.topic, frame, now_ms)

    def _add_repartitioned(self, batch: RecordBatch, now_ms: int) -> None:
        frames: list[pl.DataFrame] = []
        for row in range(len(batch)):
            frame, marks = repartition.decode(batch.value[row].as_buffer())
            partition, offset = int(batch.partition[row]), int(batch.offset[row])
            if frame.height:
                self._check_form(frame, batch.topic, partition, offset)
                frames.append(
                    frame.hstack(
                        [
                            pl.Series(PARTITION, np.full(frame.height, partition, np.int32)),
                            pl.Series(OFFSET, np.full(frame.height, offset, np.int64)),
                            pl.Series(INDEX, np.arange(frame.height, dtype=np.int64)),
                        ]
                    )
                )
            if marks:
                self._tasks.add_marks(TopicPartition(batch.topic, partition), offset, marks)
        if frames:
            self._tasks.add(batch.topic, pl.concat(frames), now_ms)

    def _check_form(self, frame: pl.DataFrame, topic: str, partition: int, offset: int) -> None:
        missing = sorted(set(self._moved[topic]) ^ set(frame.columns))
        if missing:
            raise RowsOfAnotherForm(
                f"{topic}[{partition}]@{offset}: these rows were written before the pipeline was changed: their columns"
                f" differ in {', '.join(missing)}",
                cure="run the pipeline as it was until it has caught up, or give the rows up with `headrace reset`",
            )


def _check_copartitioned(batch: RecordBatch, partitions: int) -> None:
    expected = partition_for(batch.key, partitions)
    astray = np.flatnonzero((expected != batch.partition) & (expected >= 0))
    if len(astray):
        row = int(astray[0])
        raise NotCopartitioned(
            f"{batch.topic}[{batch.partition[row]}]@{batch.offset[row]}: murmur2 of the key gives partition"
            f" {expected[row]} of {partitions}, so a join would not find this row",
            cure="let the topic's producer use the murmur2 partitioner, or copy the topic with one that does",
        )
