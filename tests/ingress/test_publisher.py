"""The asynchronous publisher: what a service sees when it publishes."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from headrace.ingress import publisher as publisher_module
from headrace.ingress.batch_publisher import BatchPublisher, RecordMetadata
from headrace.ingress.publisher import Publisher, estimated_bytes
from headrace.ingress.violations import ContractViolation, PublisherClosed, QueueFull, UnknownContract
from headrace.log.port import LogUnavailable
from tests.ingress.shop import CONTRACTS, NOW_MS, Shop, order


def open_publisher(shop: Shop, **more: Any) -> Publisher:
    return Publisher("tests", environment=shop.environment, clock=lambda: NOW_MS, **more)


async def test_publish_returns_when_the_record_is_durable(shop: Shop) -> None:
    """After `publish` the record is in the log, and its metadata says where."""
    async with open_publisher(shop) as publisher:
        metadata = await publisher.publish("orders", order(1), headers={"trace": "abc", "raw": b"\x00"})
        (found,) = shop.records("orders")
    assert metadata == RecordMetadata("orders", found.partition, None, NOW_MS)
    assert found.headers == (("trace", b"abc"), ("raw", b"\x00"))


async def test_a_record_that_does_not_fit_raises_where_it_was_published(shop: Shop) -> None:
    """The caller of the bad record gets the violation; callers beside it in the same batch do not."""
    async with open_publisher(shop, linger_ms=50) as publisher:
        good, bad, other = await asyncio.gather(
            publisher.publish("orders", order(1)),
            publisher.publish("orders", order(2, amount="much")),
            publisher.publish("orders", order(3)),
            return_exceptions=True,
        )
    assert isinstance(good, RecordMetadata)
    assert isinstance(other, RecordMetadata)
    assert isinstance(bad, ContractViolation)
    assert bad.field == "amount"


async def test_a_topic_without_contract_raises_at_once(shop: Shop) -> None:
    """Nothing is queued for it."""
    async with open_publisher(shop, linger_ms=3_600_000) as publisher:
        with pytest.raises(UnknownContract):
            await publisher.publish("ordrs", order(1))
        with pytest.raises(UnknownContract):
            publisher.send("ordrs", order(1))


async def test_concurrent_calls_share_a_batch(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty calls at once go in few batches, not in fifty."""
    sizes: list[int] = []
    deliver = BatchPublisher.deliver

    def counted(self: BatchPublisher, entries: Any) -> Any:
        sizes.append(len(entries))
        return deliver(self, entries)

    monkeypatch.setattr(BatchPublisher, "deliver", counted)
    async with open_publisher(shop, linger_ms=20) as publisher:
        await asyncio.gather(*(publisher.publish("orders", order(number)) for number in range(50)))
    assert sum(sizes) == 50
    assert len(sizes) <= 5


async def test_records_of_a_topic_keep_the_order_of_the_calls(shop: Shop) -> None:
    """Five hundred versions of one row, over many batches."""
    async with open_publisher(shop, linger_ms=0) as publisher:
        futures = []
        for number in range(500):
            futures.append(publisher.send("customers", {"id": 1, "name": str(number)}))
            if number % 50 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*futures)
    assert [row["name"] for row in shop.rows("customers")] == [str(number) for number in range(500)]


async def test_leaving_the_block_delivers_what_was_sent(shop: Shop) -> None:
    """`send` without awaiting loses nothing, however long the linger."""
    async with open_publisher(shop, linger_ms=3_600_000) as publisher:
        futures = [publisher.send("orders", order(number)) for number in range(20)]
    assert all(future.done() for future in futures)
    assert len(shop.records("orders")) == 20


async def test_leaving_the_block_by_an_error_delivers_too(shop: Shop) -> None:
    """An error in the service is no reason to lose what it had sent."""

    async def service() -> None:
        async with open_publisher(shop, linger_ms=3_600_000) as publisher:
            publisher.send("orders", order(1))
            raise KeyError

    with pytest.raises(KeyError):
        await service()
    assert len(shop.records("orders")) == 1


async def test_flush_waits_for_everything_sent(shop: Shop) -> None:
    """`flush` hurries a lingering batch; failed records keep their errors in their futures."""
    async with open_publisher(shop, linger_ms=3_600_000) as publisher:
        good, bad = publisher.send("orders", order(1)), publisher.send("orders", {"id": "o-2"})
        await publisher.flush()
        assert good.done()
        assert isinstance(bad.exception(), ContractViolation)
        assert len(shop.records("orders")) == 1


async def test_the_queue_is_bounded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """`send` refuses when it is full, `publish` waits; every record accepted is delivered."""
    monkeypatch.setattr(publisher_module, "QUEUE_RECORDS_MAX", 10)
    gate, begun, deliver = threading.Event(), threading.Event(), BatchPublisher.deliver

    def held(self: BatchPublisher, entries: Any) -> Any:
        begun.set()
        assert gate.wait(20)
        return deliver(self, entries)

    monkeypatch.setattr(BatchPublisher, "deliver", held)
    async with open_publisher(shop, linger_ms=0) as publisher:
        accepted = [publisher.send("orders", order(0))]
        await asyncio.to_thread(begun.wait, 20)
        accepted += [publisher.send("orders", order(number)) for number in range(1, 11)]
        with pytest.raises(QueueFull, match=r"10 records waiting; await publisher\.ready"):
            publisher.send("orders", order(11))
        waiting = asyncio.create_task(publisher.publish("orders", order(12)))
        ready = asyncio.create_task(publisher.ready())
        await asyncio.sleep(0)
        try:
            assert not ready.done()
            assert not waiting.done()
        finally:
            gate.set()
        await asyncio.gather(ready, waiting, *accepted)
    assert sorted(int(row["id"][2:]) for row in shop.rows("orders")) == [*range(11), 12]


async def test_the_queue_is_bounded_by_bytes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few large records fill it as well."""
    monkeypatch.setattr(publisher_module, "QUEUE_BYTES_MAX", 10_000)
    async with open_publisher(shop, linger_ms=50) as publisher:
        publisher.send("orders", order(1, note="n" * 20_000))
        with pytest.raises(QueueFull):
            publisher.send("orders", order(2))
        await publisher.ready()
        await publisher.publish("orders", order(3))
    assert estimated_bytes({"a": "x" * 100, "b": [b"12345", 1], "c": None}) > 105


async def test_deletions(shop: Shop) -> None:
    """`delete` writes a tombstone behind the row."""
    async with open_publisher(shop) as publisher:
        await publisher.publish("customers", {"id": 1, "name": "Ann"})
        await publisher.delete("customers", {"id": 1})
    assert [record.value is None for record in shop.records("customers")] == [False, True]


async def test_a_cancelled_call_disturbs_nobody(shop: Shop) -> None:
    """A caller that gives up takes its record out, as long as it is waiting, and the others go on."""
    async with open_publisher(shop, linger_ms=100) as publisher:
        given_up = asyncio.create_task(publisher.publish("orders", order(1)))
        kept = asyncio.create_task(publisher.publish("orders", order(2)))
        await asyncio.sleep(0)
        given_up.cancel()
        await kept
    assert [row["id"] for row in shop.rows("orders")] == ["o-2"]


async def test_errors_of_the_log_reach_every_caller_of_the_batch(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever `deliver` raises, no caller waits for ever, and the next batch is tried anew."""
    deliver, failures = BatchPublisher.deliver, [LogUnavailable("gone"), RuntimeError("a mistake")]

    def failing(self: BatchPublisher, entries: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return deliver(self, entries)

    monkeypatch.setattr(BatchPublisher, "deliver", failing)
    async with open_publisher(shop, linger_ms=0) as publisher:
        with pytest.raises(LogUnavailable):
            await publisher.publish("orders", order(1))
        with pytest.raises(RuntimeError):
            await publisher.publish("orders", order(2))
        await publisher.publish("orders", order(3))


async def test_outside_its_block_it_is_closed(shop: Shop) -> None:
    """Before and after: an error that says how to use it."""
    publisher = open_publisher(shop)
    with pytest.raises(PublisherClosed, match="'tests' is not open; use it inside `async with`"):
        publisher.send("orders", order(1))
    async with publisher:
        await publisher.publish("orders", order(1))
    with pytest.raises(PublisherClosed):
        await publisher.publish("orders", order(2))


async def test_it_opens_again(shop: Shop) -> None:
    """One object, two blocks."""
    publisher = open_publisher(shop)
    for number in range(2):
        async with publisher:
            await publisher.publish("orders", order(number))
    assert len(shop.records("orders")) == 2


async def test_parts_are_given_together(shop: Shop) -> None:
    """log, registry and contracts make an environment; one of them alone is a mistake."""
    async with Publisher("x", log=shop.log, registry=shop.registry, contracts=CONTRACTS) as publisher:
        await publisher.publish("clicks", {"page": "/"})
    assert len(shop.records("clicks")) == 1
    with pytest.raises(PublisherClosed, match="give all three"):
        Publisher("x", log=shop.log)
