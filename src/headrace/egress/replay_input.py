"""Replayed dead letters of an egress, as more partitions of its topic.

Owns the consumer that reads `<egress>.replay` beside the topic, where there is one.

- Partition n of the replay topic is partition `REPLAYS_FROM` + n to everybody else: the target keeps its positions like
  any other's, so a target that gets each row once gets each replay once.
- A group shares the replay partitions out like those of the topic.
- Replays age out after days. A position from before reads on with what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from headrace.log.port import (
    Consumer,
    GroupMetadata,
    OffsetAndMetadata,
    RebalanceCallback,
    RebalanceListener,
    RecordBatch,
    TopicPartition,
)

REPLAYS_FROM = 1_000_000
"""No topic has so many partitions."""

Value = TypeVar("Value")


class WithReplays:
    """A `Consumer` of one topic and its replays."""

    def __init__(self, consumer: Consumer, topic: str, replay_topic: str | None) -> None:
        self._consumer, self._topic, self._replay_topic = consumer, topic, replay_topic

    def subscribe(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        more = [] if self._replay_topic is None else [self._replay_topic]
        told = RebalanceListener(
            self._telling(listener.assigned), self._telling(listener.revoked), self._telling(listener.lost)
        )
        self._consumer.subscribe([*topics, *more], told)

    def _telling(self, callback: RebalanceCallback) -> RebalanceCallback:
        return lambda partitions: callback([self._shown(each) for each in partitions])

    def _shown(self, here: TopicPartition) -> TopicPartition:
        return here if here.topic == self._topic else TopicPartition(self._topic, REPLAYS_FROM + here.partition)

    def _real(self, shown: TopicPartition) -> TopicPartition:
        if shown.partition < REPLAYS_FROM:
            return shown
        assert self._replay_topic is not None
        return TopicPartition(self._replay_topic, shown.partition - REPLAYS_FROM)

    def _all_real(self, shown: Iterable[TopicPartition]) -> list[TopicPartition]:
        return [self._real(each) for each in shown]

    def _map(
        self, ask: Callable[[Sequence[TopicPartition]], Mapping[TopicPartition, Value]], of: Iterable[TopicPartition]
    ) -> dict[TopicPartition, Value]:
        return {self._shown(here): value for here, value in ask(self._all_real(of)).items()}

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._consumer.assign({self._real(each): offset for each, offset in positions.items()})

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._shown(each) for each in self._consumer.assignment())

    def poll(self, records_max: int, timeout_s: float) -> Sequence[RecordBatch]:
        return [self._renamed(batch) for batch in self._consumer.poll(records_max, timeout_s)]

    def _renamed(self, batch: RecordBatch) -> RecordBatch:
        if batch.topic == self._topic:
            return batch
        return replace(batch, topic=self._topic, partition=(batch.partition + REPLAYS_FROM).astype(np.int32))

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        real = {self._real(each): offset for each, offset in positions.items()}
        replays = [each for each in real if each.topic != self._topic]
        if replays:
            begins = self._consumer.beginning_offsets(replays)
            real |= {each: max(real[each], begins[each]) for each in replays if real[each] >= 0}
        self._consumer.seek(real)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._consumer.pause(self._all_real(partitions))

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._consumer.resume(self._all_real(partitions))

    def position(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return self._map(self._consumer.position, partitions)

    def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        return self._map(self._consumer.committed, partitions)

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self._consumer.commit({self._real(each): offset for each, offset in offsets.items()})

    def group_metadata(self) -> GroupMetadata:
        return self._consumer.group_metadata()

    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return self._map(self._consumer.beginning_offsets, partitions)

    def end_offsets(
        self, partitions: Sequence[TopicPartition], *, committed: bool = True
    ) -> Mapping[TopicPartition, int]:
        return self._map(lambda real: self._consumer.end_offsets(real, committed=committed), partitions)

    def offsets_for_time(self, time_ms: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        real = {self._real(each): at_ms for each, at_ms in time_ms.items()}
        return {self._shown(here): offset for here, offset in self._consumer.offsets_for_time(real).items()}

    def close(self) -> None:
        self._consumer.close()
