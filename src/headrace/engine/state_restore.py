"""Bringing the state of tasks to their checkpoints.

Owns which source gives which state: for stateful steps a copy (on this machine's disk, or a snapshot fetched to it) and
then the changelog behind it; for tables that are only looked up their source topics.

- A copy is used when the changelog goes on exactly where it ends; else the changelog is read from its beginning.
- A changelog must be whole: from its first commit or a snapshot on, without a gap. If not, the worker stops
  (`ChangelogTruncated`): it would compute on with wrong state.
- What is read from the log is written to the copy, so that the next restore finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from headrace.engine import changelog
from headrace.engine.bulk_apply import BulkApply
from headrace.engine.changelog import ChangelogMessage, ChangelogReader, ChangelogUnreadable
from headrace.engine.changelog_writer import ChangelogWriter, Written
from headrace.engine.checkpoint import Checkpoint
from headrace.engine.local_state import FileDamaged, Message
from headrace.engine.operator import SEQUENCE, StatefulOperator
from headrace.engine.restore import Extent, RestoreStalled, extent, read_changelog, read_until
from headrace.engine.state_copies import StateCopies
from headrace.engine.subtopology import SubtopologyRunner
from headrace.engine.table_copies import TableCopies
from headrace.engine.topic_reader import TopicReader
from headrace.errors import HeadraceError
from headrace.flow.values import StatefulStep
from headrace.log.port import Consumer, Log, OffsetOutOfRange, RecordBatch, TopicPartition

RESTORES_MAX = 5
"""Of one step, while its changelog is cut under the hands of whoever reads it."""
MIRROR_BYTES_MAX = 8_000_000
"""Read from the log before it is written to the copy."""


class StateMeansAnother(HeadraceError):
    """The state on the log is not of the step as it is now."""

    code = "engine.state_means_another"


class ChangelogTruncated(HeadraceError):
    """Records of a changelog are gone that nothing replaces."""

    code = "engine.changelog_truncated"


class _CopyDoesNotFit(Exception):
    """The changelog does not go on where a copy ends."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(partition)


class StateRestorer:
    """Restores tasks of one pipeline."""

    def __init__(
        self,
        log: Log,
        consumer: Consumer,
        readers: Mapping[str, TopicReader],
        writer: ChangelogWriter,
        copies: StateCopies,
        tables: TableCopies,
        *,
        on_progress: Callable[[str, int], None],
        on_loaded: Callable[[int], None],
        on_way: Callable[[int, int], None],
        retrying: Callable[[Callable[[], object]], object],
    ) -> None:
        self._log, self._consumer, self._readers = log, consumer, readers
        self._writer, self._copies, self._tables = writer, copies, tables
        self._on_progress, self._on_loaded, self._retrying = on_progress, on_loaded, retrying
        self._on_way = on_way
        """Told of distance covered, and of distance that is to be covered in addition."""

    def restore(
        self, runner: SubtopologyRunner, partitions: Sequence[int], checkpoints: Mapping[TopicPartition, Checkpoint]
    ) -> None:
        """Rebuild tables, then the other state, of these partitions; the runner holds nothing of them yet."""
        self._tell_distance(runner, partitions, checkpoints)
        for topic in runner.lookup_topics(broadcast=False):
            self._restore_table(
                runner, topic, {each: kept for each, kept in checkpoints.items() if each.topic == topic}
            )
        for step in runner.steps:
            if isinstance(step, StatefulStep):
                self._restore_step(step, runner.stateful[step.name], partitions)
        runner.commit()

    def _tell_distance(
        self, runner: SubtopologyRunner, partitions: Sequence[int], checkpoints: Mapping[TopicPartition, Checkpoint]
    ) -> None:
        """How far it is to the end of everything that is restored here."""
        tables = set(runner.lookup_topics(broadcast=False))
        ends = {here: kept.of(runner.index).offset for here, kept in checkpoints.items() if here.topic in tables}
        changelogs = [step.changelog for step in runner.steps if isinstance(step, StatefulStep)]
        places = [TopicPartition(topic, partition) for topic in changelogs for partition in partitions]
        if not ends and not places:
            return
        found = extent(self._consumer, [*ends, *places])
        distances = ({**found.ends, **ends}[here] - begin for here, begin in found.begins.items())
        self._on_way(0, sum(max(distance, 0) for distance in distances))

    def has_state(self, runner: SubtopologyRunner, partition: int) -> bool:
        """Whether anything was ever committed to a changelog of a restored partition."""
        steps = [step for step in runner.steps if isinstance(step, StatefulStep)]
        return any(self._writer.written(step.name, partition).commit for step in steps)

    def give_up(
        self,
        runner: SubtopologyRunner,
        partitions: Sequence[int],
        kept: Mapping[TopicPartition, Checkpoint],
        *,
        are_lost: bool,
    ) -> None:
        """Partitions moved away, with these last positions."""
        self._tables.forget(runner, kept, are_lost=are_lost)
        steps = [step for step in runner.steps if isinstance(step, StatefulStep)]
        self._writer.forget(steps, partitions, are_lost=are_lost)

    # Tables

    def _restore_table(
        self, runner: SubtopologyRunner, topic: str, checkpoints: Mapping[TopicPartition, Checkpoint]
    ) -> None:
        targets = {here: kept.of(runner.index).offset for here, kept in checkpoints.items()}
        begins = self._consumer.beginning_offsets(list(targets))
        starts = dict(begins)
        for here, target in targets.items():
            offset, loaded_bytes = self._tables.load(runner, here, begin=begins[here], target=target)
            if offset is not None:
                starts[here] = offset
                self._on_loaded(loaded_bytes)
                self._on_way(offset - begins[here], 0)
        batches = read_until(
            self._log,
            targets,
            lambda count: self._on_progress(topic, count),
            starts,
            on_way=lambda distance: self._on_way(distance, 0),
        )
        try:
            for batch in batches:
                rows = self._rows(topic, batch)
                runner.load_table(topic, rows)
                self._tables.add(runner, topic, rows)
        except OffsetOutOfRange as error:
            raise RestoreStalled(f"{topic} was cut while it was read", cure="nothing: it is read again") from error
        for here, target in targets.items():
            self._tables.restored(runner, here, target)

    def _rows(self, topic: str, batch: RecordBatch) -> pl.DataFrame:
        # Bad records were dead-lettered when they were first read.
        frame = pl.DataFrame()

        def read() -> None:
            nonlocal frame
            frame = self._readers[topic].read(batch).frame

        self._retrying(read)
        return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE))

    # Changelogs

    def _restore_step(self, step: StatefulStep, operator: StatefulOperator, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._writer.restored(step.name, partition, Written(copy=self._copies.open(step, partition)))
        for _ in range(RESTORES_MAX):
            try:
                self._try(step, operator, partitions)
                return
            except OffsetOutOfRange:
                # The last owner cuts what its last snapshot replaced.
                pass
            except _CopyDoesNotFit as misfit:
                self._discard(step, misfit.partition, "the changelog does not go on where it ends")
            for partition in partitions:
                operator.forget(partition)
                copy = self._writer.written(step.name, partition).copy
                if copy is not None:
                    # Whatever was written of a commit that was not read to its end must go.
                    copy.reload()
        raise RestoreStalled(
            f"{step.changelog} was cut {RESTORES_MAX} times while it was read", cure="see who deletes its records"
        )

    def _discard(self, step: StatefulStep, partition: int, reason: str) -> None:
        copy = self._writer.written(step.name, partition).copy
        assert copy is not None
        copy.discard(reason)

    def _try(self, step: StatefulStep, operator: StatefulOperator, partitions: Sequence[int]) -> None:
        here = {partition: TopicPartition(step.changelog, partition) for partition in partitions}
        found = extent(self._consumer, list(here.values()))
        starts = dict(found.begins)
        for partition, place in here.items():
            written = self._from_copy(step, operator, partition, found.begins[place])
            if written.commit:
                starts[place] = written.offset
                self._on_way(max(written.offset - found.begins[place], 0), 0)
        self._from_log(step, operator, starts, found)
        for partition, place in here.items():
            written = self._writer.written(step.name, partition)
            written.offset = found.ends[place]
            if written.copy is not None and written.commit and written.copy.offset < written.offset:
                written.copy.append(written.commit, written.offset, [])
            if not written.commit and found.begins[place]:
                raise _truncated(place, found.begins[place])

    def _from_copy(self, step: StatefulStep, operator: StatefulOperator, partition: int, begin: int) -> Written:
        """State as a copy has it, if it has it; the partition's knowledge, begun anew."""
        copy = self._writer.written(step.name, partition).copy
        written = Written(copy=copy)
        self._writer.restored(step.name, partition, written)
        if copy is None:
            return written
        if not self._copies.refresh(copy, begin):
            return written
        reader, bulk = ChangelogReader(partition), BulkApply(operator)
        try:
            for commit, messages in copy.commits():
                for kind, value in messages:
                    message = reader.read(value)
                    if message is not None:
                        _take(step, bulk, written, kind, message)
                written.commit = commit
            bulk.flush()
        except (ChangelogUnreadable, FileDamaged, OSError) as error:
            operator.forget(partition)
            copy.discard(str(error))
            written.commit = written.delta_rows = 0
            return written
        written.offset = copy.offset
        self._on_loaded(copy.length_bytes)
        return written

    def _from_log(
        self, step: StatefulStep, operator: StatefulOperator, starts: Mapping[TopicPartition, int], found: Extent
    ) -> None:
        places = {here.partition: self._writer.written(step.name, here.partition) for here in starts}
        known = {partition: written.commit for partition, written in places.items()}
        bulk = BulkApply(operator)
        mirrors = {here.partition: _Mirror(places[here.partition], offset) for here, offset in starts.items()}

        def count(messages: int) -> None:
            self._on_progress(step.changelog, messages)

        def cover(distance: int) -> None:
            self._on_way(distance, 0)

        for entry in read_changelog(self._log, starts, found.ends, known, count, cover):
            written = places[entry.partition]
            here = TopicPartition(step.changelog, entry.partition)
            follows = entry.commit in (written.commit, written.commit + 1) and (
                written.commit or not found.begins[here]
            )
            if not follows and entry.kind != changelog.SNAPSHOT_FIRST:
                if known[entry.partition]:
                    raise _CopyDoesNotFit(entry.partition)
                raise _truncated(here, found.begins[here])
            if entry.message is not None:
                _take(step, bulk, written, entry.kind, entry.message)
            written.commit = entry.commit
            mirrors[entry.partition].add(entry.kind, entry.value, entry.commit)
        bulk.flush()
        for mirror in mirrors.values():
            mirror.finish()


def _take(step: StatefulStep, bulk: BulkApply, written: Written, kind: bytes, message: ChangelogMessage) -> None:
    _check_meaning(step, message)
    partition = message.change.partition
    if kind == changelog.SNAPSHOT_FIRST:
        bulk.forget(partition)
        written.delta_rows = 0
    bulk.add(message.change, is_snapshot=kind != changelog.DELTA)
    if kind == changelog.DELTA:
        written.delta_rows += message.change.frame.height


class _Mirror:
    """Writes what is read from the log to the copy, commit by commit, in pieces of bounded size."""

    def __init__(self, written: Written, offset: int) -> None:
        self._copy = written.copy
        self._offset = offset
        """At or before everything read: what is written here goes on from there."""
        self._commit = written.commit
        self._messages: list[Message] = []
        self._bytes = 0
        self._anew = False

    def add(self, kind: bytes, value: memoryview | bytes, commit: int) -> None:
        """The next message."""
        if self._copy is None:
            return
        if commit != self._commit:
            self.finish()
            self._commit, self._anew = commit, kind == changelog.SNAPSHOT_FIRST
        self._messages.append((kind, memoryview(value)))
        self._bytes += len(memoryview(value))
        if self._bytes >= MIRROR_BYTES_MAX:
            self._write(is_complete=False)

    def finish(self) -> None:
        """The commit is whole."""
        if self._copy is not None and (self._messages or self._bytes):
            self._write(is_complete=True)
            self._bytes = 0

    def _write(self, *, is_complete: bool) -> None:
        assert self._copy is not None
        self._copy.append(self._commit, self._offset, self._messages, is_complete=is_complete, anew=self._anew)
        self._messages, self._anew = [], False


def _check_meaning(step: StatefulStep, message: ChangelogMessage) -> None:
    if message.fingerprint != step.fingerprint:
        pipeline = step.changelog.removesuffix(f".{step.name}.changelog")
        raise StateMeansAnother(
            f"{step.changelog}[{message.change.partition}] holds state of another form of step {step.name!r}:"
            " what it keeps by key was changed",
            cure=f"run `headrace reset {pipeline}` to compute everything again, or `headrace reset {pipeline} --step"
            f" {step.name}` to begin anew where the pipeline stands; or bring the step back as it was",
        )


def _truncated(here: TopicPartition, begin: int) -> ChangelogTruncated:
    pipeline = here.topic.split(".")[0]
    return ChangelogTruncated(
        f"{here.topic}[{here.partition}] begins at offset {begin} in the middle of the state: records before it were"
        " deleted, by its retention or by hand",
        cure=f"run `headrace reset {pipeline}`: it then computes its state anew from its sources; and let nothing but"
        " headrace delete records of changelogs",
    )
