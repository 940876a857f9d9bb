"""One run of one system, watched from outside.

Owns what is measured and when.

- The run begins when the worker has its partitions (so that starting is not in it, and loading tables and joining state
  is), and ends when the last record of its input is committed.
- It is warm from the moment half of the records are committed.
- First output is counted from the start of the process to the first row that a read-committed consumer would see.
- A system without a consumer group tells its first and middle record itself, and ends with its input.
- Watching costs the broker about two small requests every ten milliseconds, and the system nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from bench.peers.processes import SystemProcess

POLL_S = 0.01
REQUEST_TIMEOUT_S = 10.0
ROUGH_REQUESTS_S = 0.05
"""Between two looks for the first output and the assignment."""


class Moment(NamedTuple):
    """When, how much processor time by then, and how many records."""

    at: float
    cpu_seconds: float
    records: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen."""

    began: Moment | None
    half: Moment | None
    end: Moment | None
    first_output_seconds: float | None
    peak_rss_mb: float
    exit_code: int | None
    done: int


class Offsets:
    """Ends and positions, asked of the broker."""

    def __init__(self, bootstrap: str, group: str | None, inputs: Sequence[str], output: str, partitions: int) -> None:
        self._group = group
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        # Not a member: it only reads the group's positions. Pending ones of a transaction must not hold it up.
        settings = {"group.id": group or "bench-nobody", "isolation.level": "read_uncommitted"}
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "enable.auto.commit": False, **settings})
        self._inputs = [TopicPartition(topic, number) for topic in inputs for number in range(partitions)]
        self._output = [TopicPartition(output, number) for number in range(partitions)]
        self.total = sum(self._consumer.get_watermark_offsets(each, REQUEST_TIMEOUT_S)[1] for each in self._inputs)

    def committed(self) -> int:
        """Records before the group's positions."""
        try:
            found = self._consumer.committed(self._inputs, REQUEST_TIMEOUT_S)
        except KafkaException:
            return 0  # The group's coordinator is not known yet.
        return sum(max(0, each.offset) for each in found)

    def is_assigned(self) -> bool:
        """Whether a member of the group has partitions."""
        assert self._group is not None
        with suppress(KafkaException):
            found = self.admin.describe_consumer_groups([self._group], request_timeout=REQUEST_TIMEOUT_S)
            members = found[self._group].result().members
            return any(member.assignment and member.assignment.topic_partitions for member in members)
        return False

    def has_output(self) -> bool:
        """Whether a committed row is there to be read."""
        asked = {each: OffsetSpec.latest() for each in self._output}
        with suppress(KafkaException):
            found = self.admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED)
            return any(each.result().offset > 0 for each in found.values())
        return False

    def close(self) -> None:
        self._consumer.close()


def measure(system: SystemProcess, offsets: Offsets, *, has_group: bool, limit_s: float) -> Measured:
    """Watch until all is committed, the system ends or the time is over."""
    watch = _Watch(system, offsets, has_group=has_group)
    deadline = system.started + limit_s
    while watch.end is None and time.perf_counter() < deadline:
        ended = system.has_ended()
        watch.look(ended=ended)
        if ended:
            break
        time.sleep(POLL_S)
    return Measured(
        watch.began, watch.half, watch.end, watch.first_output, system.peak_rss_mb(), system.exit_code, watch.done
    )


class _Watch:
    """What was seen so far."""

    def __init__(self, system: SystemProcess, offsets: Offsets, *, has_group: bool) -> None:
        self.began: Moment | None = None
        self.half: Moment | None = None
        self.end: Moment | None = None
        self.first_output: float | None = None
        self.done = 0
        self._system, self._offsets, self._has_group = system, offsets, has_group
        self._looked_at = 0.0

    def look(self, *, ended: bool) -> None:
        """Once more."""
        self.done = self._offsets.committed() if self._has_group else self._told(ended=ended)
        now = Moment(time.perf_counter(), self._system.cpu_seconds(), self.done)
        if self.half is None and 2 * self.done >= self._offsets.total:
            self.half = now
        if self.done >= self._offsets.total and (self._has_group or ended):
            self.end = now
        self._look_for_beginning(now, ended=ended)

    def _look_for_beginning(self, now: Moment, *, ended: bool) -> None:
        if self.began is None and (self.done > 0 or (self._has_group and self._offsets.is_assigned())):
            self.began = now if self._has_group else now._replace(records=0)
        if self.first_output is None and (ended or now.at - self._looked_at > ROUGH_REQUESTS_S / 2):
            self._looked_at = now.at
            if self._offsets.has_output():
                self.first_output = time.perf_counter() - self._system.started

    def _told(self, *, ended: bool) -> int:
        """Records by the system's own words; all, once it ended well."""
        if ended and self._system.exit_code == 0:
            return self._offsets.total
        lines = self._system.output.read_text(encoding="utf-8", errors="replace").splitlines()
        return max((int(line.split()[1]) for line in lines if line.startswith("progress ")), default=0)
