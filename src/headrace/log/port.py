"""The log port: what headrace asks of a partitioned, transactional log.

Owns the protocols and value types that `log.embedded` and `log.kafka` implement; runs nothing itself.

- Records move as columns (`RecordBatch`), never as one object per record.
- A transaction holds records and consumed offsets together: all become visible, or none.
- Everything is read committed.
- A `Producer` and a `Consumer` belong to one thread; `Log` and `Admin` may be shared.
- One conformance suite (`headrace.testing.log_conformance`) holds every implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.errors import Fault, HeadraceError

Int32Column = npt.NDArray[np.int32]
Int64Column = npt.NDArray[np.int64]

HEADERS_TYPE = pa.list_(pa.struct([("key", pa.string()), ("value", pa.large_binary())]))
"""Arrow type of a header column: a list of (key, value) per record; order and repeats are kept."""

NO_TIMESTAMP = -1
"""Timestamp for "let the log set the current time"."""

BEGINNING = -2
"""Position for "where the partition begins when it is read"."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class OffsetAndMetadata(NamedTuple):
    """The next offset to read, with up to 4 KiB of the committer's own text."""

    offset: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records of one topic as equally long columns.

    Inside one partition rows are in offset order; partitions may interleave.
    `key` and `value` are `pa.LargeBinaryArray`, null where the record has none (a null value is a tombstone).
    `headers` is an array of `HEADERS_TYPE`, or None when no record of the batch has headers.
    `timestamp_ms` is milliseconds since the epoch.
    """

    topic: str
    partition: Int32Column
    offset: Int64Column
    timestamp_ms: Int64Column
    key: pa.LargeBinaryArray
    value: pa.LargeBinaryArray
    headers: pa.ListArray | None = None

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Records to produce to one topic, as equally long columns.

    `partition` None lets the log choose: murmur2 of the key as Java's client does, and for a null key any partition.
    `timestamp_ms` None, or `NO_TIMESTAMP` in a row, means the current time.
    """

    topic: str
    value: pa.LargeBinaryArray
    key: pa.LargeBinaryArray | None = None
    partition: Int32Column | None = None
    timestamp_ms: Int64Column | None = None
    headers: pa.ListArray | None = None

    def __len__(self) -> int:
        return len(self.value)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as asked for. `config` uses Kafka's topic config names (`cleanup.policy`, `retention.ms`, ...)."""

    name: str
    partitions: int = 1
    replication_factor: int = -1
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as it is. `config` holds at least the settings that differ from the log's defaults."""

    name: str
    partitions: int
    config: Mapping[str, str]
    topic_id: str
    """Changes when a topic is deleted and made again."""


class GroupMetadata(Protocol):
    """Opaque membership of a consumer at one moment: member id and generation.

    Capture it when a transaction begins and hand that object to `Producer.commit`: a later one would let a
    fenced member commit what another already did.
    """


RebalanceCallback = Callable[[Sequence[TopicPartition]], None]


@dataclass(frozen=True, slots=True)
class RebalanceListener:
    """Called on the consumer's thread, inside `poll` or `close`.

    `assigned`: partitions gained; reading starts at their committed offsets, or the beginning, unless `seek` is
    called here.
    `revoked`: partitions about to be given up, in order; commits made here still count.
    `lost`: partitions already owned by another member; commit nothing for them.
    """

    assigned: RebalanceCallback
    revoked: RebalanceCallback
    lost: RebalanceCallback


class Producer(Protocol):
    """A way into the log. Order of calls: `begin (produce | flush)* (commit | abort)`, repeated, then `close`.

    Made without a transactional id, `begin`, `commit` and `abort` are not used and `flush` makes records durable.
    """

    def begin(self) -> None:
        """Start a transaction. Raises `Fenced` when a newer producer has this transactional id."""

    def produce(self, records: Outgoing) -> None:
        """Queue records. Blocks while the queue is full.

        Raises `RecordTooLarge` (naming the first row) before any row of the call is queued, `UnknownTopic`.
        """

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all queued records are stored; raises what went wrong with any of them."""

    def commit(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata] | None = None,
        group: GroupMetadata | None = None,
    ) -> None:
        """Make the transaction's records and `offsets` visible together, or raise.

        `offsets` and `group` come together. An unknown outcome is asked again until it is known.
        Raises `TransactionAborted` (call `abort`, rewind, go on), `Fenced` or `ProducerBroken` (make a new producer),
        `CommitUnknown` (look at the log before anything else).
        """

    def abort(self) -> None:
        """Drop the transaction. Raises `Fenced` or `ProducerBroken` when a new producer is needed."""

    def close(self) -> None:
        """Idempotent. An open transaction is aborted."""


class Consumer(Protocol):
    """A way out of the log: either `subscribe` (a group member) or `assign` (by hand), never both."""

    def subscribe(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        """Join the group for `topics`. Members with equal subscriptions get equal partition numbers of
        equally partitioned topics (range assignment), so that joins find their partner."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets; replaces the former assignment. -2 means the beginning."""

    def assignment(self) -> frozenset[TopicPartition]: ...

    def poll(self, records_max: int, timeout_s: float) -> Sequence[RecordBatch]:
        """Up to `records_max` records, one batch per topic; empty after `timeout_s` without any.

        Returns at once when some are there. Keeps the membership alive and runs the rebalance callbacks.
        An offset that retention removed raises `OffsetOutOfRange`.
        """

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read on from here; records already fetched but not returned are dropped. -2 means the beginning."""

    def pause(self, partitions: Sequence[TopicPartition]) -> None: ...

    def resume(self, partitions: Sequence[TopicPartition]) -> None: ...

    def position(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The next offset `poll` would look at: where reading starts, then behind the last row handed out.

        Once the end of a partition was reached it lies behind trailing transaction markers and aborted rows too,
        so that `position == end_offset` means "nothing committed is left to read".
        Asked of partitions that are assigned, inside `assigned` and `revoked` too.
        """

    def committed(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """The group's committed offsets; partitions without one are absent."""

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit outside a transaction (at least once). Raises `Fenced` from a stale generation."""

    def group_metadata(self) -> GroupMetadata: ...

    def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]: ...

    def end_offsets(
        self, partitions: Sequence[TopicPartition], *, committed: bool = True
    ) -> Mapping[TopicPartition, int]:
        """The next offset a committed read can reach (last stable offset), asked afresh from the log.

        `committed` False gives the high watermark, behind open transactions too: who must see every transaction
        that was decided before now reads until its position is there (a commit's markers may still be under way).
        """

    def offsets_for_time(self, time_ms: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        """The first offset whose timestamp is at or after the time; the end offset where there is none."""

    def close(self) -> None:
        """Leave the group (running `revoked`) and free everything. Idempotent."""


class Admin(Protocol):
    """Topic and group administration. Every call waits until the change can be seen."""

    def topics(self, *, internal: bool = False) -> Mapping[str, TopicDescription]:
        """All topics. `internal` adds the log's own."""

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Raises `TopicExists` for the first that is there; others of the call may have been made."""

    def delete_topics(self, names: Sequence[str]) -> None:
        """Raises `UnknownTopic`."""

    def add_partitions(self, topic: str, partitions: int) -> None:
        """Grow to `partitions` in all."""

    def alter_config(self, topic: str, config: Mapping[str, str]) -> None:
        """Set these settings, leave others."""

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """Drop records before these offsets."""

    def groups(self) -> Sequence[str]: ...

    def group_is_empty(self, group: str) -> bool:
        """Whether the group has no member at this moment; true of an unknown one."""

    def group_offsets(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """Committed offsets of a group; empty for an unknown one."""

    def alter_group_offsets(self, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Set offsets of a group that has no members; raises `GroupNotEmpty`."""

    def delete_group(self, group: str) -> None:
        """Forget a group that has no members; raises `GroupNotEmpty`. Unknown groups are ignored."""

    def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]: ...

    def close(self) -> None: ...


class Log(Protocol):
    """A log to connect to. Cheap to make; connections open with the producers, consumers and admins."""

    name: str
    """`embedded` or `kafka`, for messages."""

    def producer(self, *, transactional_id: str | None = None) -> Producer:
        """With an id the producer is transactional and fences older producers of that id."""

    def consumer(
        self, *, group: str | None = None, client_id: str = "headrace", instance: str | None = None
    ) -> Consumer:
        """With an `instance` the member is static: one that closes and comes back under that name within the
        group's session timeout finds its partitions again, and the other members notice nothing. A member that died
        without closing holds the name until its session ends (`InstanceInUse`). A log whose members come back at
        once may ignore it."""

    def admin(self) -> Admin: ...

    def close(self) -> None: ...


class LogError(HeadraceError):
    """Something about the log."""

    code = "log.error"


class LogUnavailable(LogError):
    """The log cannot be reached, or does not answer in time."""

    code: ClassVar[str] = "log.unavailable"
    fault = Fault.RETRY


class UnknownTopic(LogError):
    """A topic or partition that does not exist."""

    code = "log.unknown_topic"


class TopicExists(LogError):
    """A topic of this name is there already."""

    code = "log.topic_exists"


class RecordTooLarge(LogError):
    """A record above the log's size limit. `row` is its index in the call."""

    code = "log.record_too_large"
    fault = Fault.ROW

    def __init__(self, message: str, *, row: int) -> None:
        self.row = row
        super().__init__(message)


class OffsetOutOfRange(LogError):
    """Retention removed what was to be read."""

    code = "log.offset_out_of_range"

    def __init__(self, message: str, *, partition: TopicPartition) -> None:
        self.partition = partition
        cure = "stop what reads it, set its group's offsets to where it shall go on, and start it again"
        super().__init__(message, cure=cure)


class TransactionAborted(LogError):
    """The transaction must be aborted; the producer lives on."""

    code = "log.transaction_aborted"
    fault = Fault.RETRY


class Fenced(LogError):
    """Another producer or group member took over."""

    code = "log.fenced"
    fault = Fault.RETRY


class ProducerBroken(LogError):
    """The producer cannot go on; make a new one and rewind."""

    code = "log.producer_broken"
    fault = Fault.RETRY


class InstanceInUse(LogError):
    """A static member's name is held by another member, or by one that died a moment ago."""

    code = "log.instance_in_use"
    fault = Fault.RETRY


class CommitUnknown(LogError):
    """A commit was sent, and nobody can say any more what became of it. Whoever sent it must look at the log: make all
    clients anew (a new producer settles the old transaction) and go on from the committed offsets."""

    code = "log.commit_unknown"
    fault = Fault.RETRY


class GroupNotEmpty(LogError):
    """The group still has members."""

    code = "log.group_not_empty"
