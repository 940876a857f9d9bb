"""A request that comes again: with its key, with another content, elsewhere, after a death."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from headrace.ingress.gateway.answers import Accepted, kept_event
from headrace.ingress.gateway.key_index import Claim, KeyIndex
from headrace.ingress.gateway.key_log import InFlight, KeyLog
from headrace.log.embedded import EmbeddedLog
from headrace.log.port import Fenced, TopicSpec
from tests.ingress.gateway.scene import BATCH_TYPE, EVENT_TYPE, OTHER_TOKEN, Door, config, event
from tests.ingress.shop import order


def test_a_repeat_gets_the_same_answer_and_publishes_nothing(door: Door) -> None:
    """Byte for byte, refused records too; quotes around the key make no difference."""
    client = door.client(door.gateway())
    body = [order(1), {**order(2), "amount": "x"}, order(3)]
    first = client.post("orders", body, key="k-1")
    again = client.post("orders", body, key='"k-1"')
    assert (first.status, first.body) == (again.status, again.body)
    assert first.status == 207
    assert door.count("orders") == 2


def test_another_content_under_the_same_key_is_refused(door: Door) -> None:
    """422 and nothing published; the key of another client, or for another topic, is another key."""
    gateway = door.gateway()
    client = door.client(gateway)
    assert client.post("clicks", {"page": "/a"}, key="k").status == 200
    answer = client.post("clicks", {"page": "/b"}, key="k")
    assert (answer.status, answer.codes) == (422, ["ingress.key_reused"])
    assert door.client(gateway, OTHER_TOKEN).post("clicks", {"page": "/b"}, key="k").status == 200
    assert client.post("orders", order(1), key="k").status == 200
    assert door.count("clicks") == 2


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "ä"])
def test_keys_that_are_none(door: Door, key: str) -> None:
    """An empty or long one, and one that is not ASCII."""
    answer = door.client(door.gateway()).post("clicks", {"page": "/"}, key=key)
    assert (answer.status, answer.codes) == (400, ["ingress.request_malformed"])


def test_a_repeat_after_a_restart_and_at_another_process(door: Door) -> None:
    """The keys are in the log: whoever has read it knows them."""
    first = door.gateway("0")
    other = door.gateway("1")
    told = door.client(first).post("orders", order(1), key="k")
    assert door.client(other).post("orders", order(1), key="k").body == told.body
    door.stop(first)
    third = door.gateway("0")
    assert door.client(third).post("orders", order(1), key="k").body == told.body
    assert door.count("orders") == 1


def test_an_event_is_published_once(door: Door) -> None:
    """By source and id, in any mode, in one request too; other data under the same id is refused."""
    client = door.client(door.gateway())
    [told] = client.post("orders", event(1, order(1)), EVENT_TYPE).json["records"]
    batch = [event(1, order(1)), event(2, order(2)), event(2, order(2)), event(2, order(3)), event(1, order(9))]
    answer = client.post("orders", batch, BATCH_TYPE)
    assert answer.status == 207
    records = answer.json["records"]
    assert {**records[0], "index": 0} == told
    assert [each["outcome"] for each in records] == ["accepted"] * 3 + ["refused"] * 2
    assert {**records[2], "index": 1} == records[1]
    assert [each["code"] for each in records[3:]] == ["ingress.key_reused"] * 2
    binary = {"ce_specversion": "1.0", "ce_id": "e-1", "ce_source": "/shop", "ce_type": "placed"}
    [again] = client.post("orders", order(1), **binary).json["records"]
    assert again == told
    assert client.post("orders", {**event(1, order(4)), "source": "/other"}, EVENT_TYPE).status == 200
    assert sorted(row["id"] for row in door.rows("orders")) == ["o-1", "o-2", "o-4"]


def test_the_same_key_at_two_processes_at_once(door: Door) -> None:
    """Of requests that race, one publishes; the others are told to come again, or what the first was told."""
    gateways = [door.gateway("0"), door.gateway("1")]
    answers: list[Any] = []

    def post(gateway: Any, number: int) -> None:
        client = door.client(gateway)
        answers.append((number, client.post("orders", order(number), key=f"k-{number}")))

    threads = [
        threading.Thread(target=post, args=(gateway, number))
        for number in range(10)
        for gateway in (*gateways, *gateways)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = {answer.status for _, answer in answers}
    assert statuses <= {200, 409}
    for number in range(10):
        told = {answer.body for each, answer in answers if each == number and answer.status == 200}
        assert len(told) == 1
        assert door.client(gateways[0]).post("orders", order(number), key=f"k-{number}").body in told
    assert sorted(row["amount"] for row in door.rows("orders")) == [float(number) for number in range(10)]


class Keys:
    """The key logs of some processes, by hand."""

    def __init__(self, log: Any, now_ms: list[int]) -> None:
        self.log, self.now_ms = log, now_ms

    def process(self, name: str, **more: Any) -> KeyLog:
        return KeyLog(self.log, "shop", name, config(**more), lambda: self.now_ms[0])


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    now_ms = [1_700_000_000_000]
    return Keys(EmbeddedLog(tmp_path / "log.db", clock=lambda: now_ms[0]), now_ms)


def commit(keys: KeyLog, producer: Any, answers: dict[bytes, bytes], number: int) -> None:
    producer.begin()
    producer.produce(keys.answer_records(answers, keys.mark(number)))
    producer.commit()


ANSWER = kept_event(Accepted(1, 5), b"f" * 16)


def test_who_claims_first_publishes(keys: Keys) -> None:
    """Another process is told that the key is in flight, and the answer once there is one."""
    one, two = keys.process("one"), keys.process("two")
    producer, _ = one.open(), two.open()
    assert one.settle([b"k1", b"k2"]) == {b"k1": None, b"k2": None}
    assert two.settle([b"k1"]) == {b"k1": InFlight.HERE}
    assert one.settle([b"k1"]) == {b"k1": None}  # A second try of its own.
    commit(one, producer, {b"k1": ANSWER}, 1)
    assert two.settle([b"k1", b"k2"]) == {b"k1": ANSWER, b"k2": InFlight.HERE}


def test_of_two_claims_the_first_in_the_log_holds(keys: Keys) -> None:
    """Both were written before either process read the other's; a later one changes nothing for anybody."""
    one, two, third = keys.process("one"), keys.process("two"), keys.process("third")
    for each in (one, two):
        each.open()
    assert one.settle([b"k"]) == {b"k": None}
    follow, two.follow = two.follow, lambda: None  # type: ignore[method-assign]
    assert two.settle([b"k"]) == {b"k": InFlight.HERE}
    two.follow = follow  # type: ignore[method-assign]
    assert one.settle([b"k"]) == {b"k": None}
    assert two.settle([b"k"]) == {b"k": InFlight.HERE}
    third.open()
    held = third.index.get(b"k")
    assert isinstance(held, Claim)
    assert held.by == "one"


def test_a_claim_of_a_dead_process_is_taken_over_and_that_one_is_fenced(keys: Keys) -> None:
    """After the timeout; the former holder, should it live, can commit nothing, and learns who has the key."""
    one, two = keys.process("one"), keys.process("two")
    producer, _ = one.open(), two.open()
    one.settle([b"k"])
    producer.begin()
    producer.produce(one.answer_records({b"k": ANSWER}, one.mark(1)))
    keys.now_ms[0] += 19_999
    assert two.settle([b"k"]) == {b"k": InFlight.HERE}
    keys.now_ms[0] += 2
    assert two.settle([b"k"]) == {b"k": None}
    with pytest.raises(Fenced):
        producer.commit()
    producer.close()
    one.open()
    assert not one.is_last(one.mark(1))
    assert one.settle([b"k"]) == {b"k": InFlight.HERE}


def test_a_taker_that_finds_the_answer_publishes_nothing(keys: Keys) -> None:
    """The former holder committed after the taker had claimed, and before it was fenced."""
    one, two = keys.process("one"), keys.process("two")
    producer, _ = one.open(), two.open()
    one.settle([b"k"])
    keys.now_ms[0] += 30_000
    fence = two._fence

    def late(transactional_ids: Any) -> None:
        commit(one, producer, {b"k": ANSWER}, 1)
        fence(transactional_ids)

    two._fence = late  # type: ignore[method-assign]
    assert two.settle([b"k"]) == {b"k": ANSWER}


def test_a_process_that_comes_back_takes_its_own_claims_at_once(keys: Keys) -> None:
    """Under its transactional id, which has fenced its former life."""
    one = keys.process("one")
    one.open()
    one.settle([b"k"])
    again = keys.process("one")
    again.open()
    assert again.settle([b"k"]) == {b"k": None}


def test_the_mark_tells_what_became_of_a_transaction(keys: Keys) -> None:
    """Whoever opens anew under the id knows the last one that was committed."""
    one = keys.process("one")
    producer = one.open()
    commit(one, producer, {}, 7)
    producer.begin()
    producer.produce(one.answer_records({}, one.mark(8)))
    one.open()
    assert one.is_last(one.mark(7))


def test_keys_are_forgotten_by_age_and_by_memory() -> None:
    """The oldest first; those that memory did not last for are counted."""
    now_ms = [1_000]
    index = KeyIndex(kept_ms=100, bytes_max=2_000, clock_ms=lambda: now_ms[0])
    index.claim(b"a", Claim(0, "p", "l", 1_000), None)
    index.answer(b"a", b"x", 1_000)
    index.answer(b"b", b"x", 1_050)
    now_ms[0] = 1_101
    assert index.get(b"a") is None
    index.forget()
    assert (len(index), index.get(b"b"), index.forgotten_early) == (1, b"x", 0)
    for number in range(10):
        index.answer(bytes([number]), b"x", 1_101)
    index.forget()
    assert len(index) == 5
    assert index.get(bytes([9])) == b"x"
    assert index.forgotten_early == 6
    assert index.bytes <= 2_000
    now_ms[0] = 5_000
    index.forget()
    assert (len(index), index.bytes) == (0, 0)


def test_forgotten_keys_are_new_keys(keys: Keys) -> None:
    """After `keys_kept_seconds` the same request is another one; so the documentation says."""
    one = keys.process("one", keys_kept_seconds=10)
    producer = one.open()
    one.settle([b"k"])
    commit(one, producer, {b"k": ANSWER}, 1)
    one.committed({b"k": ANSWER})
    assert one.settle([b"k"]) == {b"k": ANSWER}
    keys.now_ms[0] += 10_001
    assert one.settle([b"k"]) == {b"k": None}


def test_a_topic_of_that_name_that_is_no_store_is_refused(door: Door) -> None:
    """It is not written to, and the gateway says why it is not ready."""
    admin = door.log.admin()
    admin.create_topics([TopicSpec("shop.gateway.claims", 2)])
    admin.close()
    gateway = door.gateway(ready=False)
    client = door.client(gateway)
    answer = client.post("orders", order(1))
    assert (answer.status, answer.codes) == (503, ["ingress.invalid"])
    error = gateway.status().error
    assert error is not None
    assert "shop.gateway.claims" in str(error)
    assert door.count("orders") == 0
