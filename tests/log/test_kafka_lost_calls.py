"""A call into librdkafka that never comes back: the producer is given up, not the worker."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from tests.engine.harness import wait_until

from headrace.log.kafka import KafkaLog, producer
from headrace.log.kafka.bounded_calls import BoundedCalls, CallLost
from headrace.log.kafka.client import Clients, OnFailure, ProducerClient
from headrace.log.kafka.settings import ClientSettings
from headrace.log.port import OffsetAndMetadata, Outgoing, ProducerBroken, TopicPartition, TopicSpec


class Hanging:
    """A client whose `send_offsets_to_transaction` waits as librdkafka's does while the coordinator is away."""

    release = threading.Event()
    closed: list[Hanging] = []  # noqa: RUF012 - of the class on purpose

    def __init__(self, client: ProducerClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def send_offsets_to_transaction(self, *_: Any) -> None:
        assert self.release.wait(60)

    def close(self) -> None:
        self.closed.append(self)
        self._client.close()


class HangingClients:
    """Makes them of another way's clients."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def producer(self, settings: ClientSettings, on_failure: OnFailure) -> Hanging:
        return Hanging(self._clients.producer(settings, on_failure))


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set at the latest when the test is over: no thread stays."""
    Hanging.release.clear()
    Hanging.closed.clear()
    yield Hanging.release
    Hanging.release.set()


@pytest.mark.kafka
def test_a_producer_that_hangs_is_replaced(
    kafka_log: KafkaLog, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    """The commit fails in time as `ProducerBroken`, `close` does not wait, a new producer does the work, and the old
    client is freed once its call comes back."""
    topic = f"lost{uuid.uuid4().hex[:8]}"
    admin = kafka_log.admin()
    admin.create_topics([TopicSpec(topic, partitions=1)])
    consumer = kafka_log.consumer(group=f"{topic}.group")
    row = Outgoing(topic, pa.array([b"row"], pa.large_binary()))
    offsets, group = {TopicPartition(topic, 0): OffsetAndMetadata(0)}, consumer.group_metadata()
    with monkeypatch.context() as patched:
        patched.setattr(kafka_log, "_clients", HangingClients(kafka_log._clients))
        broken = kafka_log.producer(transactional_id=f"{topic}.id")
        broken.begin()
        broken.produce(row)
        patched.setattr(producer, "LOST_AFTER_S", 0.2)
        patched.setattr(producer.KafkaProducer, "_timeout_s", lambda _: 0.3)
        began_s = time.monotonic()
        with pytest.raises(ProducerBroken, match="did not come back"):
            broken.commit(offsets, group)
        broken.close()
        assert time.monotonic() - began_s < 10
    with pytest.raises(ProducerBroken):
        broken.begin()
    following = kafka_log.producer(transactional_id=f"{topic}.id")
    following.begin()
    following.produce(row)
    following.commit()
    following.close()
    assert not Hanging.closed, "the client was closed while a thread of ours was inside"
    released.set()
    wait_until(lambda: bool(Hanging.closed), "the old client is freed")
    consumer.close()
    admin.delete_topics([topic])
    admin.close()


def answer_of(calls: BoundedCalls, call: Callable[[], None]) -> BaseException | None:
    """What a call raised."""
    try:
        calls.make(call, within_s=10)
    except Exception as error:  # noqa: BLE001 - looked at by the test
        return error
    return None


def test_errors_and_order_are_those_of_the_call() -> None:
    """Calls run one after the other on one thread; what they raise, `TimeoutError` too, comes back as it is."""
    seen: list[threading.Thread] = []
    calls = BoundedCalls(abandoned=lambda: seen.clear())
    raised = TimeoutError("of the call's own")

    def fail() -> None:
        raise raised

    for _ in range(3):
        assert answer_of(calls, lambda: seen.append(threading.current_thread())) is None
    assert answer_of(calls, fail) is raised
    assert len(set(seen)) == 1
    assert seen[0] is not threading.current_thread()
    calls.close()
    seen[0].join(10)
    assert not seen[0].is_alive()
    assert len(seen) == 3, "nothing was abandoned"


def test_what_is_lost_is_handed_over_when_it_comes_back() -> None:
    """`CallLost` in time; `abandoned` only once the call is over, and nothing may be asked after."""
    release, abandoned = threading.Event(), threading.Event()
    calls = BoundedCalls(abandoned.set)
    with pytest.raises(CallLost):
        calls.make(lambda: assert_released(release), within_s=0.05)
    assert not abandoned.is_set()
    release.set()
    assert abandoned.wait(10)


def assert_released(event: threading.Event) -> None:
    assert event.wait(30)
