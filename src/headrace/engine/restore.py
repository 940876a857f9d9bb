"""Rebuilding state from the log.

Owns reading a partition up to a point in a consumer of its own. Restore never takes part in the group and never
writes.

- Changelogs are read to the high watermark as it was when restore began, open transactions included: a commit
  decided before the hand-over is then part of the state, even while its markers are still being written.
- Tables are read from their own topic up to the committed position.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from headrace.engine import changelog
from headrace.engine.changelog import DELTA, ChangelogMessage, ChangelogReader, ChangelogUnreadable
from headrace.errors import Fault, HeadraceError
from headrace.log.columns import take_batch
from headrace.log.port import Consumer, Log, RecordBatch, TopicPartition

POLL_RECORDS_MAX = 10_000
CHANGELOG_RECORDS_MAX = 64
"""Of one poll: they may have a megabyte each, and the client fetches the next ones meanwhile."""
POLL_TIMEOUT_S = 0.2
SILENCE_MAX_S = 60.0
"""How long restore waits for the log to come closer to its target; an open transaction of a dead worker ends within
its transaction timeout, well before."""


class RestoreStalled(HeadraceError):
    """The log does not give what its end offset promises."""

    code = "engine.restore_stalled"
    fault = Fault.RETRY


def read_until(
    log: Log,
    targets: Mapping[TopicPartition, int],
    on_progress: Callable[[int], None],
    starts: Mapping[TopicPartition, int],
    on_way: Callable[[int], None] = lambda distance: None,
    records_max: int = POLL_RECORDS_MAX,
) -> Iterator[RecordBatch]:
    """Records of these partitions from `starts` up to (not including) the targets. `on_way` is told of the distance
    covered.

    Raises `OffsetOutOfRange` when records go away before they are read, and `RestoreStalled`.
    """
    open_targets = {here: end for here, end in targets.items() if starts[here] < end}
    if not open_targets:
        return
    consumer = log.consumer(client_id="headrace-restore")
    try:
        covered = {here: starts[here] for here in open_targets}
        consumer.assign(covered)
        deadline = time.monotonic() + SILENCE_MAX_S
        while open_targets:
            for batch in consumer.poll(records_max, POLL_TIMEOUT_S):
                on_progress(len(batch))
                yield _before(batch, targets)
                # Behind the caller's work, which is no silence of the log.
                deadline = time.monotonic() + SILENCE_MAX_S
            reached = consumer.position(list(open_targets))
            now = {here: max(min(reached[here], end), covered[here]) for here, end in open_targets.items()}
            on_way(sum(now.values()) - sum(covered[here] for here in now))
            covered = now
            open_targets = {here: end for here, end in open_targets.items() if reached[here] < end}
            if open_targets and time.monotonic() > deadline:
                here, end = next(iter(open_targets.items()))
                raise RestoreStalled(
                    f"{here.topic}[{here.partition}] stays at offset {reached[here]} of {end}",
                    cure="look for a transaction that stays open, and start again",
                )
    finally:
        consumer.close()


def _before(batch: RecordBatch, targets: Mapping[TopicPartition, int]) -> RecordBatch:
    ends = {here.partition: end for here, end in targets.items() if here.topic == batch.topic}
    limit = np.array([ends[partition] for partition in batch.partition.tolist()], np.int64)
    keep = batch.offset < limit
    return batch if keep.all() else take_batch(batch, np.flatnonzero(keep))


@dataclass(frozen=True, slots=True)
class Extent:
    """From where to where changelog partitions hold records."""

    begins: Mapping[TopicPartition, int]
    ends: Mapping[TopicPartition, int]
    """The high watermarks."""


def extent(consumer: Consumer, here: Sequence[TopicPartition]) -> Extent:
    """As the log is now. Any consumer can ask."""
    # In this order: what is cut off after it was asked for ends lower than it begins, and is asked for again.
    return Extent(consumer.beginning_offsets(here), consumer.end_offsets(here, committed=False))


class Entry(NamedTuple):
    """One changelog message."""

    partition: int
    kind: bytes
    commit: int
    value: pa.Buffer
    message: ChangelogMessage | None
    """The change that it completes; None while more of it is to come, and for what is `known`."""


def read_changelog(
    log: Log,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    known: Mapping[int, int],
    on_progress: Callable[[int], None],
    on_way: Callable[[int], None],
) -> Iterator[Entry]:
    """Messages of the partitions of one changelog, in order per partition. Commits up to the `known` one of their
    partition are passed over."""
    readers = {here.partition: ChangelogReader(here.partition) for here in ends}
    for batch in read_until(log, ends, lambda count: None, starts, on_way, CHANGELOG_RECORDS_MAX):
        entries = (_entry(readers, batch, row, known) for row in range(len(batch)))
        fresh = 0
        for entry in entries:
            if entry is not None:
                fresh += 1
                yield entry
        if fresh:
            on_progress(fresh)


def _entry(
    readers: Mapping[int, ChangelogReader], batch: RecordBatch, row: int, known: Mapping[int, int]
) -> Entry | None:
    partition, value = int(batch.partition[row]), batch.value[row].as_buffer()
    try:
        commit = changelog.commit_of(value or b"")
        if commit <= known[partition]:
            return None
        return Entry(partition, batch.key[row].as_py() or DELTA, commit, value, readers[partition].read(value))
    except ChangelogUnreadable as error:
        raise ChangelogUnreadable(
            f"{batch.topic}[{partition}] at offset {batch.offset[row]}: {error.message}",
            cure="run `headrace reset PIPELINE`: it then computes its state anew from its sources",
        ) from error
