"""What headrace asks of a Kafka client: the seam between its own rules and librdkafka.

Owns the protocols that the Python client (`python_consumer`, `python_producer`: confluent-kafka) and the native one
(`native_consumer`, `native_producer`: Rust) implement, and the values that cross them.

- Both clients stand on the same librdkafka and take the same settings; every rule about groups, transactions and lost
  positions is above this seam, once.
- Records cross it as columns; what happens rarely crosses it with confluent-kafka's own types.
- Errors are `confluent_kafka.KafkaException`, whichever client raises them.
- A client belongs to one thread, but for a call that `BoundedCalls` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from confluent_kafka import KafkaError
from confluent_kafka import TopicPartition as KafkaPartition

from headrace.log.kafka.settings import ClientSettings
from headrace.log.port import GroupMetadata, Outgoing, RecordBatch

ClientKind = Literal["native", "python"]

OnFailure = Callable[[KafkaError, str, int], None]
"""Called with the error and the topic of the first of so many records that could not be stored."""

OnRebalance = Callable[[Any, list[KafkaPartition]], None]


class Trouble(NamedTuple):
    """An error that came among the records of a fetch, the end of a partition included."""

    error: KafkaError
    topic: str | None
    partition: int
    offset: int | None


class Piece(NamedTuple):
    """What one call to `take` brought. `may_have_more` says that another call might bring more at once."""

    batches: Sequence[RecordBatch]
    troubles: Sequence[Trouble]
    may_have_more: bool


class PartitionAnswer(Protocol):
    """What the group's coordinator says of one partition; `confluent_kafka.TopicPartition` is one."""

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @property
    def metadata(self) -> str | None: ...

    @property
    def error(self) -> KafkaError | None: ...


class Listing(Protocol):
    """What is used of an answer about the cluster."""

    @property
    def brokers(self) -> Any: ...


class ConsumerClient(Protocol):
    """One librdkafka consumer."""

    def take(self, records_max: int, timeout_s: float) -> Piece:
        """Records, waiting for the first only; runs the callbacks of `subscribe` before it returns.

        A piece may hold fewer records than there are. It comes early, and perhaps empty, when a callback ran.
        """

    def subscribe(
        self, topics: list[str], *, on_assign: OnRebalance, on_revoke: OnRebalance, on_lost: OnRebalance
    ) -> None: ...

    def assign(self, partitions: list[KafkaPartition]) -> None: ...

    def incremental_assign(self, partitions: list[KafkaPartition]) -> None: ...

    def incremental_unassign(self, partitions: list[KafkaPartition]) -> None: ...

    def pause(self, partitions: list[KafkaPartition]) -> None: ...

    def resume(self, partitions: list[KafkaPartition]) -> None: ...

    def seek(self, partition: KafkaPartition) -> None: ...

    def committed(self, partitions: list[KafkaPartition], timeout: float) -> Sequence[PartitionAnswer]: ...

    def commit(self, offsets: list[KafkaPartition]) -> Sequence[PartitionAnswer]:
        """Waits for the answer."""

    def consumer_group_metadata(self) -> GroupMetadata: ...

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Listing: ...

    def close(self) -> None:
        """Leaves the group, running the callbacks."""


class Queued(NamedTuple):
    """How far a `Feed` came: the row after the last one queued, and why it went no further."""

    stop: int
    error: KafkaError | None


class Feed(Protocol):
    """The rows of one `Outgoing`, ready to be queued: in their order, or grouped by partition."""

    def queue(self, start: int, stop: int) -> Queued:
        """Queue these rows, counted in the order of the feed, until one is refused."""


class ProducerClient(Protocol):
    """One librdkafka producer."""

    def feed(self, records: Outgoing, *, may_group: bool) -> Feed:
        """`may_group` allows another order of rows of different partitions; rows of one always keep theirs."""

    def init_transactions(self, timeout: float) -> None: ...

    def begin_transaction(self) -> None: ...

    def send_offsets_to_transaction(
        self, positions: list[KafkaPartition], group_metadata: GroupMetadata | None, timeout: float
    ) -> None: ...

    def commit_transaction(self, timeout: float) -> None: ...

    def abort_transaction(self, timeout: float) -> None: ...

    def flush(self, timeout: float) -> int:
        """The number of records that are still not stored."""

    def poll(self, timeout: float) -> int: ...

    def purge(self) -> None: ...

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Listing: ...

    def close(self) -> None:
        """Free everything; what is queued is lost."""


class Clients(Protocol):
    """One way to make clients."""

    kind: ClientKind

    def consumer(self, settings: ClientSettings) -> ConsumerClient: ...

    def producer(self, settings: ClientSettings, on_failure: OnFailure) -> ProducerClient: ...
