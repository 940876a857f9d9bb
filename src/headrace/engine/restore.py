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

import numpy as np

from headrace.engine import changelog
from headrace.engine.changelog import ChangelogMessage, ChangelogReader, ChangelogUnreadable
from headrace.errors import Fault, HeadraceError
from headrace.log.columns import take_batch
from headrace.log.port import Log, RecordBatch, TopicPartition

POLL_RECORDS_MAX = 10_000
POLL_TIMEOUT_S = 0.2
SILENCE_MAX_S = 60.0
"""How long restore waits for the log to come closer to its target; an open transaction of a dead worker ends within
its transaction timeout, well before."""
BEGINNING = -2


class RestoreStalled(HeadraceError):
    """The log does not give what its end offset promises."""

    code = "engine.restore_stalled"
    fault = Fault.RETRY


def read_until(
    log: Log, targets: Mapping[TopicPartition, int], on_progress: Callable[[int], None]
) -> Iterator[RecordBatch]:
    """Records of these partitions from their beginning up to (not including) the targets."""
    consumer = log.consumer(client_id="headrace-restore")
    try:
        begins = consumer.beginning_offsets(list(targets))
        open_targets = {here: end for here, end in targets.items() if begins[here] < end}
        if not open_targets:
            return
        consumer.assign(dict.fromkeys(open_targets, BEGINNING))
        deadline = time.monotonic() + SILENCE_MAX_S
        while open_targets:
            batches = consumer.poll(POLL_RECORDS_MAX, POLL_TIMEOUT_S)
            for batch in batches:
                deadline = time.monotonic() + SILENCE_MAX_S
                on_progress(len(batch))
                yield _before(batch, targets)
            reached = consumer.position(list(open_targets))
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


def read_changelog(
    log: Log, topic: str, partitions: Sequence[int], on_progress: Callable[[int], None]
) -> Iterator[tuple[bytes, ChangelogMessage]]:
    """All changes in these changelog partitions with their kind, in order per partition."""
    here = [TopicPartition(topic, partition) for partition in partitions]
    consumer = log.consumer(client_id="headrace-restore")
    try:
        targets = consumer.end_offsets(here, committed=False)
    finally:
        consumer.close()
    readers = {partition: ChangelogReader(partition) for partition in partitions}
    for batch in read_until(log, targets, on_progress):
        for row in range(len(batch)):
            message = _read(readers[int(batch.partition[row])], batch, row)
            if message is not None:
                yield batch.key[row].as_py() or changelog.DELTA, message


def _read(reader: ChangelogReader, batch: RecordBatch, row: int) -> ChangelogMessage | None:
    try:
        return reader.read(batch.value[row].as_buffer() or b"")
    except ChangelogUnreadable as error:
        raise ChangelogUnreadable(
            f"{batch.topic}[{batch.partition[row]}] at offset {batch.offset[row]}: {error.message}",
            cure="run `headrace reset PIPELINE`: it then computes its state anew from its sources",
        ) from error
