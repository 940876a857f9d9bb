"""What an endpoint gets: bodies, headers and signatures."""

from __future__ import annotations

import time

import pytest

from headrace.egress.sdk import Mode
from headrace.testing.sink_harness import TOPIC, Stage, order
from headrace.testing.sink_http import Receiver, webhook_config
from headrace_http import HttpConnector
from headrace_http.signing import Signer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    monkeypatch.setenv("TEST_HOOK_OTHER_SECRET", OTHER_SECRET)


def test_the_signature_is_that_of_the_specification() -> None:
    """A value that other implementations give."""
    headers = Signer([SECRET]).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_requests_are_signed_as_they_are_sent(stage: Stage, receiver: Receiver) -> None:
    """Body, id and a time of now are what was signed, once for each secret."""
    stage.publish([order(number) for number in range(5)])
    secrets = ["${TEST_HOOK_SECRET}", "${TEST_HOOK_OTHER_SECRET}"]
    stage.deliver(HttpConnector(), webhook_config(receiver.url, secret=secrets))
    for request in receiver.taken:
        sent = request.headers
        assert sent["webhook-id"] == sent["idempotency-key"]
        assert abs(int(sent["webhook-timestamp"]) - time.time()) < 60
        signatures = [
            Signer([secret]).headers(sent["webhook-id"], int(sent["webhook-timestamp"]), request.body)
            for secret in (SECRET, OTHER_SECRET)
        ]
        assert sent["webhook-signature"].split() == [each["webhook-signature"] for each in signatures]


@pytest.mark.parametrize(("form", "type_"), [("row", "json"), ("array", "json"), ("ndjson", "x-ndjson")])
def test_formats(stage: Stage, receiver: Receiver, form: str, type_: str) -> None:
    """One row or many a request, no more than told; a row as the gateway reads it."""
    stage.publish([order(number) for number in range(100)])
    more = {} if form == "row" else {"rows_per_request": 7}
    stage.deliver(HttpConnector(), webhook_config(receiver.url, format=form, **more))
    assert sorted(receiver.ids()) == list(range(100))
    assert {request.headers["content-type"] for request in receiver.taken} == {f"application/{type_}"}
    sizes = {len(request.rows) for request in receiver.taken}
    assert max(sizes) == (1 if form == "row" else 7)
    rows = {row["id"]: row for request in receiver.taken for row in request.rows}
    assert rows[3] == order(3)


def test_requests_are_bounded_in_bytes(stage: Stage, receiver: Receiver) -> None:
    """A row that is larger alone goes alone."""
    rows = [{**order(number), "customer": "c" * (2_000 if number == 5 else 200)} for number in range(40)]
    stage.publish(rows)
    stage.deliver(HttpConnector(), webhook_config(receiver.url, format="array", bytes_per_request=1_024))
    assert sorted(receiver.ids()) == list(range(40))
    assert all(len(request.body) <= 1_024 or len(request.rows) == 1 for request in receiver.taken)
    assert any(len(request.rows) > 1 for request in receiver.taken)


def test_an_envelope_tells_what_happened(stage: Stage, receiver: Receiver) -> None:
    """Id, operation and place; a deletion has its key alone."""
    stage.publish([order(1)])
    stage.delete([{"id": 1}])
    stage.deliver(HttpConnector(), webhook_config(receiver.url, Mode.REPLICATE, envelope=True))
    written, deleted = (request.rows[0] for request in receiver.taken)
    record = next(each for each in stage.records(TOPIC) if each.value is not None)
    assert written == {
        "id": f"out-{record.partition}-0",
        "operation": "upsert",
        "topic": TOPIC,
        "partition": record.partition,
        "offset": 0,
        "timestamp_ms": record.timestamp_ms,
        "row": order(1),
    }
    assert (deleted["operation"], deleted["offset"], deleted["row"]) == ("delete", 1, {"id": 1})


def test_headers_are_filled(stage: Stage, receiver: Receiver) -> None:
    """From the environment."""
    stage.publish([order(1)])
    stage.deliver(
        HttpConnector(), webhook_config(receiver.url, headers={"Authorization": "Bearer ${TEST_HOOK_SECRET}"})
    )
    assert receiver.taken[0].headers["authorization"] == f"Bearer {SECRET}"
