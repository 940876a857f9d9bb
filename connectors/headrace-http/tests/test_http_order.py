"""Which rows go at the same time, and which wait for each other."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.egress.sdk import Mode
from headrace.testing.sink_harness import Stage, order, order_contract
from headrace.testing.sink_http import OK, Received, Receiver, Reply, webhook_config
from headrace_http import HttpConnector, sender


def slowly(seed: int = 8) -> Callable[[Received], Reply]:
    delays = random.Random(seed)
    return lambda _: time.sleep(delays.random() / 100) or OK


@pytest.mark.parametrize("order_by", ["partition", "key", None])
@pytest.mark.parametrize("form", ["row", "array"])
def test_rows_keep_their_order_side_by_side(stage: Stage, receiver: Receiver, order_by: str | None, form: str) -> None:
    """Whatever the endpoint's delays: no row before an earlier one of its partition or key, so many at once at most.
    Without a word it is the key."""
    stage.publish([order(number % 20, amount=number) for number in range(240)])
    receiver.reply = slowly()
    more: dict[str, Any] = {} if form == "row" else {"rows_per_request": 3}
    more |= {"batch": {"rows_max": 240, "age_max_ms": 200}} | ({"order": order_by} if order_by else {})
    found = webhook_config(receiver.url, Mode.REPLICATE, envelope=True, format=form, requests_max=5, **more)
    stage.deliver(HttpConnector(), found)
    events = [event for request in receiver.received for event in request.rows]
    assert len(events) == 240
    lanes: dict[Any, list[int]] = {}
    for event in events:
        lanes.setdefault(event["partition"] if order_by == "partition" else event["row"]["id"], []).append(
            event["offset"]
        )
    assert all(offsets == sorted(offsets) for offsets in lanes.values())
    assert receiver.under_way_most <= 5
    assert receiver.under_way_most > (1 if order_by == "partition" else stage.partitions)


def test_one_at_a_time(stage: Stage, receiver: Receiver) -> None:
    """`requests_max: 1`, over all partitions."""
    stage.publish([order(number) for number in range(60)])
    receiver.reply = slowly()
    stage.deliver(HttpConnector(), webhook_config(receiver.url, requests_max=1))
    assert sorted(receiver.ids()) == list(range(60))
    assert receiver.under_way_most == 1


@pytest.mark.parametrize("form", ["row", "array"])
def test_a_failed_request_holds_its_key_back(stage: Stage, receiver: Receiver, form: str) -> None:
    """It fails so often that the egress begins again: no later row of its key overtakes it meanwhile, rows of others
    do, and what is repeated is the same request."""
    stage.publish([order(number % 6, amount=number) for number in range(90)])
    lock, failures = threading.Lock(), iter(range(8))
    taken: dict[int, set[float]] = defaultdict(set)
    overtaken: list[Any] = []

    def reply(request: Received) -> Reply:
        with lock:
            for row in request.rows:
                before = {number for number in range(int(row["amount"])) if number % 6 == row["id"]}
                overtaken.extend(before - taken[row["id"]])
                if row["amount"] == 33.0 and next(failures, None) is not None:
                    return 503, {}, b""
                taken[row["id"]].add(row["amount"])
        return OK

    receiver.reply = reply
    more: dict[str, Any] = {} if form == "row" else {"rows_per_request": 1}
    runner = stage.deliver(HttpConnector(), webhook_config(receiver.url, format=form, **more))
    assert overtaken == []
    assert runner.counters.retries > 1
    assert {row["amount"] for request in receiver.taken for row in request.rows} == set(range(90))
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for request in receiver.received:
        bodies[request.headers["idempotency-key"]].add(request.body)
    assert all(len(found) == 1 for found in bodies.values())
    assert len(bodies) == 90


def test_nothing_begins_after_a_failure(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way is waited for; the rest of the batch is left to the next try."""
    monkeypatch.setattr(sender, "ATTEMPTS", 1)
    stage = Stage(tmp_path, order_contract(), partitions=1)
    stage.publish([order(number) for number in range(100)])
    failures = iter(range(2))

    def reply(request: Received) -> Reply:
        is_first = request.rows[0]["id"] == 0 and next(failures, None) is not None
        time.sleep(0 if is_first else 0.05)
        return (503, {}, b"") if is_first else OK

    receiver.reply = reply
    batch = {"rows_max": 100, "age_max_ms": 200}
    stage.deliver(HttpConnector(), webhook_config(receiver.url, requests_max=4, batch=batch))
    tries = [index for index, request in enumerate(receiver.received) if request.rows[0]["id"] == 0]
    assert tries[1] - tries[0] <= 8
    assert set(receiver.ids()) == set(range(100))
    stage.close()


@pytest.mark.parametrize("form", ["row", "ndjson"])
def test_no_order_waits_for_nothing(tmp_path: Path, receiver: Receiver, form: str) -> None:
    """In `append`: rows of one key in one partition go at the same time, and one that is tried again stops no other."""
    stage = Stage(tmp_path, order_contract(), partitions=1)
    stage.publish([order(1, amount=number) for number in range(80)])
    failures = iter(range(1))

    def reply(request: Received) -> Reply:
        time.sleep(0.01)
        is_first = any(row["amount"] == 0 for row in request.rows)
        return (503, {}, b"") if is_first and next(failures, None) is not None else OK

    receiver.reply = reply
    more: dict[str, Any] = {} if form == "row" else {"rows_per_request": 5}
    batch = {"rows_max": 80, "age_max_ms": 200}
    found = webhook_config(receiver.url, order="none", requests_max=4, format=form, batch=batch, **more)
    runner = stage.deliver(HttpConnector(), found)
    amounts = [row["amount"] for request in receiver.taken for row in request.rows]
    assert sorted(amounts) == list(range(80))
    assert amounts[0] > 0
    assert receiver.under_way_most == 4
    assert runner.counters.retries == 0
    if form == "ndjson":
        assert {len(request.rows) for request in receiver.taken} == {5}
    stage.close()


def test_a_small_batch_is_no_crowd_of_small_requests(tmp_path: Path, receiver: Receiver) -> None:
    """Keys share requests: as many go together as would in the order of the partition."""
    stage = Stage(tmp_path, order_contract(), partitions=1)
    stage.publish([order(number) for number in range(60)])
    batch = {"rows_max": 60, "age_max_ms": 200}
    stage.deliver(HttpConnector(), webhook_config(receiver.url, format="array", rows_per_request=20, batch=batch))
    assert [len(request.rows) for request in receiver.taken] == [20, 20, 20]
    stage.close()
