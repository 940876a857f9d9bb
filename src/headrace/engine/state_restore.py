"""Bringing the state of tasks to their checkpoints.

Owns which log gives which state: changelogs for stateful steps, the source topics themselves for tables that are only
looked up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import polars as pl

from headrace.engine import changelog
from headrace.engine.changelog import ChangelogMessage
from headrace.engine.checkpoint import Checkpoint
from headrace.engine.operator import SEQUENCE
from headrace.engine.restore import read_changelog, read_until
from headrace.engine.subtopology import SubtopologyRunner
from headrace.engine.topic_reader import TopicReader
from headrace.errors import HeadraceError
from headrace.flow.values import StatefulStep
from headrace.log.port import Log, RecordBatch, TopicPartition


class StateMeansAnother(HeadraceError):
    """The state on the log is not of the step as it is now."""

    code = "engine.state_means_another"


class StateRestorer:
    """Restores tasks of one pipeline."""

    def __init__(
        self,
        log: Log,
        readers: Mapping[str, TopicReader],
        *,
        on_progress: Callable[[str, int], None],
        retrying: Callable[[Callable[[], object]], object],
    ) -> None:
        self._log, self._readers = log, readers
        self._on_progress, self._retrying = on_progress, retrying
        self.delta_rows: Counter[tuple[str, int]] = Counter()
        """Rows of deltas since the last snapshot by (step, partition), as found."""

    def restore(
        self, runner: SubtopologyRunner, partitions: Sequence[int], checkpoints: Mapping[TopicPartition, Checkpoint]
    ) -> None:
        """Rebuild tables, then the other state, of these partitions; the runner holds nothing of them yet."""
        for topic in runner.lookup_topics(broadcast=False):
            self._restore_table(
                runner, topic, {each: kept for each, kept in checkpoints.items() if each.topic == topic}
            )
        for step in runner.steps:
            if isinstance(step, StatefulStep):
                self._restore_step(runner, step, partitions)
        runner.commit()

    def _restore_table(
        self, runner: SubtopologyRunner, topic: str, checkpoints: Mapping[TopicPartition, Checkpoint]
    ) -> None:
        targets = {here: kept.of(runner.index).offset for here, kept in checkpoints.items()}
        for batch in read_until(self._log, targets, lambda count: self._on_progress(topic, count)):
            runner.load_table(topic, self._rows(topic, batch))

    def _rows(self, topic: str, batch: RecordBatch) -> pl.DataFrame:
        # Bad records were dead-lettered when they were first read.
        frame = pl.DataFrame()

        def read() -> None:
            nonlocal frame
            frame = self._readers[topic].read(batch).frame

        self._retrying(read)
        return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE))

    def _restore_step(self, runner: SubtopologyRunner, step: StatefulStep, partitions: Sequence[int]) -> None:
        operator = runner.stateful[step.name]

        def count(messages: int) -> None:
            self._on_progress(step.changelog, messages)

        for kind, message in read_changelog(self._log, step.changelog, partitions, count):
            partition = message.change.partition
            _check_meaning(step, message)
            if kind == changelog.SNAPSHOT_FIRST:
                operator.forget(partition)
                self.delta_rows[step.name, partition] = 0
            operator.apply(message.change)
            if kind == changelog.DELTA:
                self.delta_rows[step.name, partition] += message.change.frame.height


def _check_meaning(step: StatefulStep, message: ChangelogMessage) -> None:
    if message.fingerprint != step.fingerprint:
        pipeline = step.changelog.removesuffix(f".{step.name}.changelog")
        raise StateMeansAnother(
            f"{step.changelog}[{message.change.partition}] holds state of another form of step {step.name!r}:"
            " what it keeps by key was changed",
            cure=f"run `headrace reset {pipeline}` to compute everything again, or `headrace reset {pipeline} --step"
            f" {step.name}` to begin anew where the pipeline stands; or bring the step back as it was",
        )
