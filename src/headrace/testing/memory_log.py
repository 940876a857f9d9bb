"""A log in memory, for one process and one thread: what `headrace.testing.Driver` runs pipelines on.

Owns records, committed offsets and the order in which everything arrived. `headrace.log.embedded` is the log for work.

- Records of a transaction become visible together at its commit, or never.
- Every record has an arrival number that rises over all topics and partitions; a poll hands records out in that order.
- Nothing waits: a poll returns what is there. The clock is an argument, and nothing else is read from outside.
- A group has one member, which owns every partition of what it subscribes to.
- It grows until it is thrown away.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from headrace.log.columns import concat_batches, null_column, slice_batch, take_batch
from headrace.log.partitioner import partition_for
from headrace.log.port import (
    BEGINNING,
    NO_TIMESTAMP,
    GroupMetadata,
    OffsetAndMetadata,
    Outgoing,
    RebalanceListener,
    RecordBatch,
    TopicDescription,
    TopicExists,
    TopicPartition,
    TopicSpec,
    TransactionAborted,
    UnknownTopic,
)

Ints = npt.NDArray[np.int64]
Positions = Mapping[TopicPartition, int]


@dataclass(slots=True)
class _Partition:
    """Records of one partition, as they were produced."""

    batches: list[RecordBatch] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """Offset behind each batch."""
    labels: list[int] = field(default_factory=list)
    """What the log's `label` was at each batch."""
    arrivals: array[int] = field(default_factory=lambda: array("q"))
    """By offset, those before `begin` too."""
    begin: int = 0

    @property
    def end(self) -> int:
        return len(self.arrivals)


@dataclass(slots=True)
class _Topic:
    partitions: list[_Partition]
    config: dict[str, str]
    topic_id: str


class MemoryLog:
    """A `Log` of this process alone."""

    name = "memory"

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._topics: dict[str, _Topic] = {}
        self._made = 0
        self._arrived = 0
        self.offsets: dict[str, dict[TopicPartition, OffsetAndMetadata]] = {}
        """Committed offsets by group."""
        self.label = 0
        """Kept with whatever is stored from now on; see `labelled`."""
        self.horizon: int | None = None
        """Records that arrived with this number or later are not handed out yet."""
        self.commits_to_refuse = 0
        """So many transactions are aborted instead of committed."""

    def producer(self, *, transactional_id: str | None = None) -> MemoryProducer:
        return MemoryProducer(self, is_transactional=transactional_id is not None)

    def consumer(
        self, *, group: str | None = None, client_id: str = "headrace", instance: str | None = None
    ) -> MemoryConsumer:
        return MemoryConsumer(self, group)

    def admin(self) -> MemoryAdmin:
        return MemoryAdmin(self)

    def close(self) -> None:
        """Nothing to free."""

    # What the driver asks beyond the port

    def arrivals(self, here: TopicPartition, offsets: Ints) -> Ints:
        """Arrival numbers of records of one partition."""
        return np.frombuffer(self.partition(here).arrivals, np.int64)[offsets]

    def arrivals_from(self, start: Positions) -> Ints:
        """Arrival numbers of the records of these partitions from these offsets on, ascending."""
        found = [np.frombuffer(self.partition(here).arrivals, np.int64)[offset:] for here, offset in start.items()]
        return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)

    def labelled(self, topic: str) -> list[tuple[RecordBatch, int]]:
        """Everything in a topic, each batch with the label it was stored under, in order of arrival."""
        found = [
            (partition.arrivals[int(batch.offset[0])], batch, label)
            for partition in self.topic(topic).partitions
            for batch, label in zip(partition.batches, partition.labels, strict=True)
        ]
        return [(batch, label) for _, batch, label in sorted(found, key=lambda each: each[0])]

    # What producers, consumers and admins share

    def topic(self, name: str) -> _Topic:
        """Raises `UnknownTopic`."""
        try:
            return self._topics[name]
        except KeyError:
            raise UnknownTopic(f"there is no topic {name!r}") from None

    def topics(self) -> Mapping[str, _Topic]:
        return self._topics

    def partition(self, here: TopicPartition) -> _Partition:
        """Raises `UnknownTopic`."""
        partitions = self.topic(here.topic).partitions
        if here.partition >= len(partitions):
            raise UnknownTopic(f"{here.topic} has {len(partitions)} partitions, no number {here.partition}")
        return partitions[here.partition]

    def create(self, spec: TopicSpec) -> None:
        """Raises `TopicExists`."""
        if spec.name in self._topics:
            raise TopicExists(f"there is a topic {spec.name!r}")
        self._made += 1
        partitions = [_Partition() for _ in range(spec.partitions)]
        self._topics[spec.name] = _Topic(partitions, dict(spec.config), f"topic-{self._made}")

    def drop(self, name: str) -> None:
        """Raises `UnknownTopic`."""
        self.topic(name)
        del self._topics[name]

    def store(self, records: Outgoing) -> None:
        """Append records for all to see."""
        partitions = self.topic(records.topic).partitions
        chosen = _chosen(records, len(partitions))
        batch = self._batch(records, chosen)
        numbers = np.arange(self._arrived, self._arrived + len(batch), dtype=np.int64)
        self._arrived += len(batch)
        for number in np.unique(chosen).tolist():
            rows = np.flatnonzero(chosen == number)
            self._append(partitions[number], batch if len(rows) == len(batch) else take_batch(batch, rows))
            partitions[number].arrivals.extend(numbers[rows].tolist())

    def _batch(self, records: Outgoing, partition: npt.NDArray[np.int32]) -> RecordBatch:
        times = records.timestamp_ms
        if times is None:
            times = np.full(len(records), NO_TIMESTAMP, np.int64)
        times = np.where(times == NO_TIMESTAMP, self._now_ms(), times)
        key = records.key if records.key is not None else null_column(len(records))
        return RecordBatch(
            records.topic, partition, np.empty(len(records), np.int64), times, key, records.value, records.headers
        )

    def _append(self, partition: _Partition, batch: RecordBatch) -> None:
        first = partition.end
        offsets = np.arange(first, first + len(batch), dtype=np.int64)
        placed = RecordBatch(
            batch.topic, batch.partition, offsets, batch.timestamp_ms, batch.key, batch.value, batch.headers
        )
        partition.batches.append(placed)
        partition.ends.append(first + len(batch))
        partition.labels.append(self.label)

    def read(self, here: TopicPartition, start: int) -> list[RecordBatch]:
        """The records of a partition from an offset on, up to the horizon."""
        partition = self.partition(here)
        start = max(start, partition.begin)
        end = partition.end if self.horizon is None else bisect_left(partition.arrivals, self.horizon)
        if start >= end:
            return []
        first = bisect_right(partition.ends, start)
        found = []
        for batch in partition.batches[first:]:
            begin = int(batch.offset[0])
            if begin >= end:
                break
            found.append(slice_batch(batch, max(0, start - begin), min(len(batch), end - begin)))
        return found

    def truncate(self, here: TopicPartition, before: int) -> None:
        """Forget records before an offset."""
        partition = self.partition(here)
        partition.begin = max(partition.begin, min(before, partition.end))
        gone = bisect_right(partition.ends, partition.begin)
        del partition.batches[:gone], partition.ends[:gone], partition.labels[:gone]


def _chosen(records: Outgoing, partitions: int) -> npt.NDArray[np.int32]:
    """Where each record goes: as told, by its key, or to the first partition."""
    if records.partition is not None:
        if len(records) and int(records.partition.max()) >= partitions:
            raise UnknownTopic(f"{records.topic} has {partitions} partitions, no number {records.partition.max()}")
        return records.partition
    if records.key is None or partitions == 1:
        return np.zeros(len(records), np.int32)
    return np.maximum(partition_for(records.key, partitions), 0).astype(np.int32)


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A `GroupMetadata`."""

    name: str


class MemoryProducer:
    """A `Producer`."""

    def __init__(self, log: MemoryLog, *, is_transactional: bool) -> None:
        self._log, self._is_transactional = log, is_transactional
        self._pending: list[Outgoing] = []

    def begin(self) -> None:
        assert not self._pending

    def produce(self, records: Outgoing) -> None:
        self._log.topic(records.topic)
        if self._is_transactional:
            self._pending.append(records)
        else:
            self._log.store(records)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Nothing waits."""

    def commit(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata] | None = None, group: GroupMetadata | None = None
    ) -> None:
        if self._log.commits_to_refuse:
            self._log.commits_to_refuse -= 1
            raise TransactionAborted("the test asked for it")
        pending, self._pending = self._pending, []
        for records in pending:
            self._log.store(records)
        if offsets is not None:
            assert isinstance(group, MemoryGroup)
            self._log.offsets.setdefault(group.name, {}).update(offsets)

    def abort(self) -> None:
        self._pending.clear()

    def close(self) -> None:
        self._pending.clear()


class MemoryConsumer:
    """A `Consumer`."""

    def __init__(self, log: MemoryLog, group: str | None) -> None:
        self._log, self._group = log, group or ""
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._joining: tuple[Sequence[str], RebalanceListener] | None = None

    def subscribe(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        """All their partitions are assigned by the next poll."""
        self._joining = (topics, listener)

    def _join(self) -> None:
        if self._joining is None:
            return
        (topics, listener), self._joining = self._joining, None
        gained = [TopicPartition(name, n) for name in topics for n in range(len(self._log.topic(name).partitions))]
        committed = self.committed(gained)
        self._positions = {here: committed[here].offset if here in committed else BEGINNING for here in gained}
        listener.assigned(gained)

    def assign(self, positions: Positions) -> None:
        self._positions = dict(positions)

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._positions)

    def poll(self, records_max: int, timeout_s: float) -> Sequence[RecordBatch]:
        """Everything up to `records_max` records, at once; records of one topic in order of arrival."""
        self._join()
        found: dict[str, list[RecordBatch]] = {}
        for here, position in self._positions.items():
            if here in self._paused or records_max <= 0:
                continue
            batches = self._log.read(here, position)
            if batches:
                batch = concat_batches(batches)
                taken = slice_batch(batch, 0, min(len(batch), records_max))
                records_max -= len(taken)
                self._positions[here] = int(taken.offset[-1]) + 1
                found.setdefault(here.topic, []).append(taken)
        return [self._in_order(batches) for batches in found.values()]

    def _in_order(self, batches: list[RecordBatch]) -> RecordBatch:
        if len(batches) == 1:
            return batches[0]
        arrivals = [
            self._log.arrivals(TopicPartition(batch.topic, int(batch.partition[0])), batch.offset) for batch in batches
        ]
        return take_batch(concat_batches(batches), np.argsort(np.concatenate(arrivals), kind="stable"))

    def seek(self, positions: Positions) -> None:
        self._positions.update(positions)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def position(self, partitions: Sequence[TopicPartition]) -> Positions:
        return {here: max(self._positions[here], self._log.partition(here).begin) for here in partitions}

    def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        kept = self._log.offsets.get(self._group, {})
        return {here: kept[here] for here in partitions if here in kept}

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self._log.offsets.setdefault(self._group, {}).update(offsets)

    def group_metadata(self) -> MemoryGroup:
        return MemoryGroup(self._group)

    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> Positions:
        return {here: self._log.partition(here).begin for here in partitions}

    def end_offsets(self, partitions: Sequence[TopicPartition], *, committed: bool = True) -> Positions:
        return {here: self._log.partition(here).end for here in partitions}

    def offsets_for_time(self, time_ms: Positions) -> Positions:
        return {here: self._first_at(here, ms) for here, ms in time_ms.items()}

    def _first_at(self, here: TopicPartition, time_ms: int) -> int:
        for batch in self._log.read(here, BEGINNING):
            late_enough = np.flatnonzero(batch.timestamp_ms >= time_ms)
            if len(late_enough):
                return int(batch.offset[late_enough[0]])
        return self._log.partition(here).end

    def close(self) -> None:
        self._positions.clear()


class MemoryAdmin:
    """An `Admin`."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def topics(self, *, internal: bool = False) -> Mapping[str, TopicDescription]:
        return {
            name: TopicDescription(name, len(topic.partitions), topic.config, topic.topic_id)
            for name, topic in self._log.topics().items()
        }

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        for spec in specs:
            self._log.create(spec)

    def delete_topics(self, names: Sequence[str]) -> None:
        for name in names:
            self._log.drop(name)

    def add_partitions(self, topic: str, partitions: int) -> None:
        there = self._log.topic(topic).partitions
        there.extend(_Partition() for _ in range(partitions - len(there)))

    def alter_config(self, topic: str, config: Mapping[str, str]) -> None:
        self._log.topic(topic).config.update(config)

    def delete_records(self, before: Positions) -> None:
        for here, offset in before.items():
            self._log.truncate(here, offset)

    def groups(self) -> Sequence[str]:
        return sorted(self._log.offsets)

    def group_is_empty(self, group: str) -> bool:
        return True

    def group_offsets(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        return dict(self._log.offsets.get(group, {}))

    def alter_group_offsets(self, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self._log.offsets.setdefault(group, {}).update(offsets)

    def delete_group(self, group: str) -> None:
        self._log.offsets.pop(group, None)

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> Positions:
        return {here: self._log.partition(here).end for here in partitions}

    def close(self) -> None:
        """Nothing to free."""
