"""Batches of records: each is durable or has its error, and one bad record fails alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from headrace.contracts.registry import RegistryUnavailable
from headrace.errors import Fault, HeadraceError
from headrace.ingress import batch_publisher
from headrace.ingress.batch_publisher import BatchPublisher, Outcome, RecordMetadata
from headrace.ingress.encoder import Entry
from headrace.ingress.environment import GivenEnvironment
from headrace.ingress.violations import (
    ContractViolation,
    EventTimeInvalid,
    KeyMissing,
    NotPublishable,
    UnknownContract,
)
from headrace.log.partitioner import partition_for
from headrace.log.port import LogUnavailable, RecordTooLarge, UnknownTopic
from tests.ingress.shop import CONTRACTS, CUSTOMERS, NOW_MS, Shop, order

DAY_MS = 86_400_000


@pytest.fixture
def publisher(shop: Shop) -> Iterator[BatchPublisher]:
    with BatchPublisher(shop.environment, clock=lambda: NOW_MS) as publisher:
        yield publisher


def violation(outcome: Outcome) -> ContractViolation:
    assert isinstance(outcome, ContractViolation), outcome
    return outcome


def test_rows_become_records_of_the_contract(shop: Shop, publisher: BatchPublisher) -> None:
    """Value, key, timestamp and headers arrive; defaults fill what is missing; the metadata says where."""
    stamped = Entry("orders", order(1, note="hello"), NOW_MS - 5, headers=[("trace", b"abc")])
    outcomes = publisher.deliver([stamped, Entry("orders", order(2, pieces=7), NOW_MS)])
    placed_at = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    found = {row["id"]: row for row in shop.rows("orders")}
    assert found == {
        "o-1": {"id": "o-1", "amount": 1.0, "note": "hello", "pieces": 1, "placed_at": placed_at},
        "o-2": {"id": "o-2", "amount": 2.0, "note": None, "pieces": 7, "placed_at": placed_at},
    }
    records = {record.key: record for record in shop.records("orders")}
    assert records[b"o-1"].headers == (("trace", b"abc"),)
    assert records[b"o-1"].timestamp_ms == NOW_MS - 5
    for outcome, key in zip(outcomes, (b"o-1", b"o-2"), strict=True):
        assert isinstance(outcome, RecordMetadata)
        assert outcome.partition == records[key].partition
        assert (outcome.topic, outcome.timestamp_ms) == ("orders", records[key].timestamp_ms)


def test_partitions_are_those_of_the_java_client(shop: Shop, publisher: BatchPublisher) -> None:
    """The record lies where murmur2 of its key says; a keyless one has no promised place."""
    outcomes = publisher.publish("orders", [order(number) for number in range(50)])
    records = shop.records("orders")
    keys = pa.array([record.key for record in records], pa.large_binary())
    assert [record.partition for record in records] == partition_for(keys, shop.partitions).tolist()
    assert {outcome.partition for outcome in outcomes if isinstance(outcome, RecordMetadata)} == {0, 1, 2}
    (click,) = publisher.publish("clicks", [{"page": "/"}])
    assert isinstance(click, RecordMetadata)
    assert click.partition is None


def test_one_bad_record_fails_alone(shop: Shop, publisher: BatchPublisher) -> None:
    """Of a hundred rows three do not fit: they have their errors, the others are there in their order."""
    rows: list[dict[str, Any]] = [order(number) for number in range(100)]
    rows[3]["amount"] = "much"
    rows[50] = {**rows[50], "colour": "red"}
    del rows[99]["id"]
    outcomes = publisher.publish("orders", rows)
    bad = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, HeadraceError)]
    assert bad == [3, 50, 99]
    amounts = [row["amount"] for row in shop.rows("orders")]
    assert sorted(amounts) == [float(number) for number in range(100) if number not in bad]
    by_partition = [record.key for record in shop.records("orders") if record.partition == 0 and record.key]
    assert by_partition == sorted(by_partition, key=lambda key: int(key[2:]))


@pytest.mark.parametrize(
    ("change", "kind", "field", "reason"),
    [
        ({"amount": None}, ContractViolation, "amount", "is null, which the contract does not allow"),
        ({"amount": "12"}, ContractViolation, "amount", "is str, not double"),
        ({"amount": True}, ContractViolation, "amount", "is bool, not double"),
        ({"pieces": 2**31}, ContractViolation, "pieces", ""),
        ({"pieces": 1.5}, ContractViolation, "pieces", ""),
        ({"note": 7}, ContractViolation, "note", "is int, not string"),
        ({"colour": "red"}, ContractViolation, "colour", "is not in the contract"),
        ({"id": None}, KeyMissing, "id", "it is a key"),
        ({"id": ...}, KeyMissing, "id", "is missing; it is a key"),
        ({"amount": ...}, ContractViolation, "amount", "is missing"),
        ({"placed_at": None}, EventTimeInvalid, "placed_at", "it is the event time"),
        ({"placed_at": -1}, EventTimeInvalid, "placed_at", "1969-12-31T23:59:59Z"),
        ({"placed_at": NOW_MS + DAY_MS + 1}, EventTimeInvalid, "placed_at", "says 2023-11-15"),
        ({"placed_at": NOW_MS * 1000}, EventTimeInvalid, "placed_at", "says"),
        ({"placed_at": datetime(2023, 1, 1)}, ContractViolation, "placed_at", "zone"),  # noqa: DTZ001
    ],
)
def test_violations_name_topic_and_field_and_never_the_value(
    publisher: BatchPublisher, change: dict[str, Any], kind: type[ContractViolation], field: str, reason: str
) -> None:
    """Whatever does not fit is told by topic, field and reason; what the value was is nobody's business."""
    row = {name: value for name, value in {**order(1), **change}.items() if value is not ...}
    (outcome,) = publisher.publish("orders", [row])
    error = violation(outcome)
    assert type(error) is kind
    assert (error.topic, error.field) == ("orders", field)
    assert reason in error.reason
    assert error.fault is Fault.ROW
    assert error.cure
    assert f"orders: field {field!r}" in str(error)


def test_a_day_ahead_is_the_limit(shop: Shop, publisher: BatchPublisher) -> None:
    """Event times are judged by the record's own timestamp, so that a replay of old records agrees."""
    (now,) = publisher.publish("orders", [order(1, placed_at=NOW_MS + DAY_MS)])
    old = publisher.publish("orders", [order(2, placed_at=NOW_MS)], timestamp_ms=NOW_MS - DAY_MS - 1)
    assert isinstance(now, RecordMetadata)
    assert isinstance(old[0], EventTimeInvalid)


def test_deletions_are_tombstones_of_the_key(shop: Shop, publisher: BatchPublisher) -> None:
    """A deletion of a table's row: null value, the same key bytes as the row's; rows and deletions keep their order."""
    entries = [
        Entry("customers", {"id": 1, "name": "Ann"}, NOW_MS),
        Entry("customers", {"id": 1}, NOW_MS, is_deletion=True),
        Entry("customers", {"id": 1, "name": "Eve"}, NOW_MS),
    ]
    assert all(isinstance(outcome, RecordMetadata) for outcome in publisher.deliver(entries))
    records = shop.records("customers")
    assert [record.value is None for record in records] == [False, True, False]
    assert len({record.key for record in records}) == 1
    assert shop.key_of("customers", records[0]) == {"id": 1}


def test_deletions_that_cannot_be(publisher: BatchPublisher) -> None:
    """Events cannot be deleted; a deletion needs its whole key and nothing else."""
    event, keyless, more = publisher.deliver(
        [
            Entry("orders", {"id": "o-1"}, NOW_MS, is_deletion=True),
            Entry("customers", {}, NOW_MS, is_deletion=True),
            Entry("customers", {"id": 1, "name": "x"}, NOW_MS, is_deletion=True),
        ]
    )
    assert "is of kind event: only rows of a table can be deleted" in str(event)
    assert isinstance(keyless, KeyMissing)
    assert isinstance(more, KeyMissing)
    assert violation(more).field == "name"


def test_topics_that_may_not_be_published(publisher: BatchPublisher) -> None:
    """No contract: the nearest is proposed. Changes of a database: only its ingress writes them."""
    with pytest.raises(UnknownContract, match=r"topic 'order' has no contract; did you mean 'orders'\?"):
        publisher.publish("order", [order(1)])
    with pytest.raises(NotPublishable, match="'items' holds changes of a database"):
        publisher.publish("items", [{"id": 1}])


def test_topics_of_one_batch_do_not_disturb_each_other(shop: Shop, publisher: BatchPublisher) -> None:
    """A topic without contract, a topic with one that does not exist on the log, and a good one, in one call."""
    missing = {**CONTRACTS, "gone": type(CUSTOMERS)("gone", CUSTOMERS.schema)}
    with BatchPublisher(GivenEnvironment(shop.log, shop.registry, missing)) as other:
        outcomes = other.deliver(
            [
                Entry("nowhere", {}, NOW_MS),
                Entry("gone", {"id": 1, "name": "x"}, NOW_MS),
                Entry("customers", {"id": 1, "name": "x"}, NOW_MS),
            ]
        )
    assert isinstance(outcomes[0], UnknownContract)
    assert isinstance(outcomes[1], UnknownTopic)
    assert isinstance(outcomes[2], RecordMetadata)
    assert len(shop.records("customers")) == 1


def test_a_record_that_is_too_large_fails_alone(shop: Shop, publisher: BatchPublisher) -> None:
    """The log's size limit concerns one record of the batch."""
    rows = [order(1), order(2, note="n" * 4_000_000), order(3)]
    outcomes = publisher.publish("orders", rows)
    assert isinstance(outcomes[1], RecordTooLarge)
    assert sorted(row["id"] for row in shop.rows("orders")) == ["o-1", "o-3"]
    assert all(isinstance(outcomes[index], RecordMetadata) for index in (0, 2))


class Unreachable:
    """A registry that answers after some failures."""

    def __init__(self, inner: Any, failures: int) -> None:
        self._inner, self.failures = inner, failures

    def __getattr__(self, name: str) -> Any:
        if self.failures and name == "register":
            self.failures -= 1
            raise RegistryUnavailable("nobody answers")
        return getattr(self._inner, name)


def test_an_unreachable_registry_is_waited_for(shop: Shop) -> None:
    """Records wait while it is away and go when it is back; after the time limit every record has the error."""
    registry: Any = Unreachable(shop.registry, failures=2)
    with BatchPublisher(GivenEnvironment(shop.log, registry, CONTRACTS)) as publisher:
        (outcome,) = publisher.publish("clicks", [{"page": "/"}])
    assert isinstance(outcome, RecordMetadata)
    assert registry.failures == 0


def test_a_registry_that_stays_away_fails_the_batch(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `DELIVERY_TIMEOUT_S` each record has its outcome: nothing was written, and it may be tried again."""
    monkeypatch.setattr(batch_publisher, "DELIVERY_TIMEOUT_S", 0.1)
    registry: Any = Unreachable(shop.registry, failures=1_000)
    with BatchPublisher(GivenEnvironment(shop.log, registry, CONTRACTS)) as publisher:
        outcomes = publisher.publish("clicks", [{"page": "/"}, {"page": "/x"}])
    assert all(isinstance(outcome, RegistryUnavailable) for outcome in outcomes)
    assert shop.records("clicks") == []


def test_a_log_that_fails_to_flush_fails_its_records_and_no_later_ones(
    shop: Shop, publisher: BatchPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome of an unflushed batch is the error; the publisher goes on with a fresh producer."""
    publisher.publish("clicks", [{"page": "/"}])
    producer: Any = publisher._producer

    def broken(timeout_s: float) -> None:
        raise LogUnavailable("the disk is gone")

    monkeypatch.setattr(producer, "flush", broken)
    bad, good = publisher.deliver([Entry("clicks", {"page": 1}, NOW_MS), Entry("clicks", {"page": "/2"}, NOW_MS)])
    assert isinstance(bad, ContractViolation), "its own error is more telling"
    assert isinstance(good, LogUnavailable)
    (later,) = publisher.publish("clicks", [{"page": "/3"}])
    assert isinstance(later, RecordMetadata)
