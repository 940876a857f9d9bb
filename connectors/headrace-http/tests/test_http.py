"""What an endpoint gets, in which order, signed how, and what its answers do."""

from __future__ import annotations

import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.errors import EgressInvalid
from headrace.egress.sdk import EgressBatch, Mode, TargetInvalid, arrow_schema
from headrace.testing.sink_harness import TOPIC, Stage, header, order, order_contract, wait_until
from headrace_http import HttpConnector, sender
from headrace_http.answers import EXCERPT_CHARACTERS, Answer, Verdict, excerpt, retry_after_s
from headrace_http.signing import Signer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OK: Any = (204, {}, b"")


def config(url: str, mode: Mode = Mode.APPEND, *, batch: Any = None, **options: Any) -> EgressConfig:
    values = {
        "name": "out",
        "topic": TOPIC,
        "connector": "http",
        "mode": mode,
        "options": {"url": url, **options},
        "batch": batch or {"rows_max": 50, "age_max_ms": 20},
        "retry": {"first_ms": 10, "max_ms": 50},
    }
    return EgressConfig.model_validate(values)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    monkeypatch.setenv("TEST_HOOK_OTHER_SECRET", OTHER_SECRET)


def ids(receiver: Any) -> list[int]:
    return [row["id"] for request in receiver.taken for row in request.rows]


def answering(reply: Any, when: Callable[[Any], bool]) -> Callable[[Any], Any]:
    return lambda request: reply if any(when(row) for row in request.rows) else OK


def once(replies: list[Any]) -> Callable[[Any], Any]:
    """These answers in turn, then 204."""
    left = list(replies)
    return lambda _: left.pop(0) if left else OK


def test_the_signature_is_that_of_the_specification() -> None:
    """A value that other implementations give."""
    headers = Signer([SECRET]).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_requests_are_signed_as_they_are_sent(stage: Stage, receiver: Any) -> None:
    """Body, id and a time of now are what was signed, once for each secret."""
    stage.publish([order(number) for number in range(5)])
    secrets = ["${TEST_HOOK_SECRET}", "${TEST_HOOK_OTHER_SECRET}"]
    stage.deliver(HttpConnector(), config(receiver.url, secret=secrets))
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
def test_formats(stage: Stage, receiver: Any, form: str, type_: str) -> None:
    """One row or many a request, no more than told; a row as the gateway reads it."""
    stage.publish([order(number) for number in range(100)])
    more = {} if form == "row" else {"rows_per_request": 7}
    stage.deliver(HttpConnector(), config(receiver.url, format=form, **more))
    assert sorted(ids(receiver)) == list(range(100))
    assert {request.headers["content-type"] for request in receiver.taken} == {f"application/{type_}"}
    sizes = {len(request.rows) for request in receiver.taken}
    assert max(sizes) == (1 if form == "row" else 7)
    rows = {row["id"]: row for request in receiver.taken for row in request.rows}
    assert rows[3] == order(3)


def test_requests_are_bounded_in_bytes(stage: Stage, receiver: Any) -> None:
    """A row that is larger alone goes alone."""
    rows = [{**order(number), "customer": "c" * (2_000 if number == 5 else 200)} for number in range(40)]
    stage.publish(rows)
    stage.deliver(HttpConnector(), config(receiver.url, format="array", bytes_per_request=1_024))
    assert sorted(ids(receiver)) == list(range(40))
    assert all(len(request.body) <= 1_024 or len(request.rows) == 1 for request in receiver.taken)
    assert any(len(request.rows) > 1 for request in receiver.taken)


def test_an_envelope_tells_what_happened(stage: Stage, receiver: Any) -> None:
    """Id, operation and place; a deletion has its key alone."""
    stage.publish([order(1)])
    stage.delete([{"id": 1}])
    stage.deliver(HttpConnector(), config(receiver.url, Mode.REPLICATE, envelope=True))
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


def test_headers_are_filled(stage: Stage, receiver: Any) -> None:
    """From the environment."""
    stage.publish([order(1)])
    stage.deliver(HttpConnector(), config(receiver.url, headers={"Authorization": "Bearer ${TEST_HOOK_SECRET}"}))
    assert receiver.taken[0].headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("status", [400, 422, 409, 429, 503])
@pytest.mark.parametrize("form", ["row", "array"])
def test_a_refused_row_stays_alone(stage: Stage, receiver: Any, status: int, form: str) -> None:
    """Its dead letter has the answer's beginning; what passes is no refusal. All others arrive, each once."""
    stage.publish([order(number) for number in range(60)])
    poison = answering((status, {}, b"no\x00 such \x1b[31mcustomer " + b"x" * 5_000), lambda row: row["id"] == 17)
    passes = once([(status, {}, b"")])
    receiver.reply = poison if status in (400, 422) else passes
    found = config(receiver.url, format=form)
    stage.deliver(HttpConnector(), found)
    letters = stage.records(found.dead_letter_topic)
    if status not in (400, 422):
        assert (sorted(ids(receiver)), letters) == (list(range(60)), [])
        return
    assert sorted(ids(receiver)) == [number for number in range(60) if number != 17]
    (letter,) = letters
    assert header(letter, "headrace.error.code") == "http.refused"
    message = header(letter, "headrace.error.message") or ""
    assert message.startswith(f"{status}: no such [31mcustomer xxx")
    assert len(message) <= EXCERPT_CHARACTERS + 5


def test_what_is_too_large_goes_in_halves(stage: Stage, receiver: Any) -> None:
    """Down to single rows; one that is too large alone is a dead letter."""
    rows = [{**order(number), "customer": "c" * (900 if number == 3 else 10)} for number in range(64)]
    stage.publish(rows)
    receiver.reply = lambda request: (413, {}, b"too much") if len(request.body) > 500 else OK
    found = config(receiver.url, format="array")
    stage.deliver(HttpConnector(), found)
    assert sorted(ids(receiver)) == [number for number in range(64) if number != 3]
    (letter,) = stage.records(found.dead_letter_topic)
    assert header(letter, "headrace.error.code") == "http.too_large"


def test_some_taken_is_not_all_taken(stage: Stage, receiver: Any) -> None:
    """207 speaks of single rows: they are sent again until each has its own answer."""
    stage.publish([order(number) for number in range(20)])
    receiver.reply = answering((207, {}, b"one is bad"), lambda row: row["id"] == 4)
    found = config(receiver.url, format="array")
    stage.deliver(HttpConnector(), found)
    (letter,) = stage.records(found.dead_letter_topic)
    assert header(letter, "headrace.error.message") == "207: one is bad"
    assert set(range(20)) - {4} <= set(ids(receiver))


@pytest.mark.parametrize("status", [301, 308, 401, 403, 404, 405, 410, 415])
def test_a_wrong_endpoint_stops_with_a_reason(stage: Stage, receiver: Any, status: int) -> None:
    """Which a person must mend. The address beyond its host, the answer and the headers are told nowhere."""
    stage.publish([order(1)])
    receiver.reply = lambda _: (status, {"Location": f"{receiver.url}/elsewhere"}, b"SECRET IN ANSWER")
    found = config(f"{receiver.url}/hidden/path?token=x", headers={"Authorization": "Bearer ${TEST_HOOK_SECRET}"})
    with pytest.raises(TargetInvalid, match=str(status)) as raised:
        stage.deliver(HttpConnector(), found)
    assert raised.value.cure
    assert not any(word in str(raised.value) for word in ("hidden", "token=x", "SECRET", SECRET))
    assert {request.path for request in receiver.received} == {"/hidden/path?token=x"}


def test_a_bad_answer_among_many_is_asked_again_in_place(stage: Stage, receiver: Any) -> None:
    """The row is sent again, not those before it."""
    stage.publish([order(number) for number in range(50)])
    receiver.reply = once([OK] * 20 + [(503, {}, b"")])
    runner = stage.deliver(HttpConnector(), config(receiver.url))
    assert sorted(ids(receiver)) == list(range(50))
    assert runner.counters.retries == 0


@pytest.mark.parametrize("as_date", [False, True])
def test_a_busy_endpoint_says_when(stage: Stage, receiver: Any, as_date: bool) -> None:
    """Retry-After, as seconds or as a date, in place."""
    stage.publish([order(1)])
    asked: list[float] = []

    def reply(_: Any) -> Any:
        asked.append(time.time())
        after = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
        return OK if len(asked) > 1 else (429, {"Retry-After": after}, b"")

    receiver.reply = reply
    stage.deliver(HttpConnector(), config(receiver.url))
    # A date has whole seconds.
    assert asked[1] - asked[0] >= 0.9


def test_a_long_pause_is_the_runners(stage: Stage, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond our patience the egress is `retrying`, and nothing is asked before the time."""
    monkeypatch.setattr(sender, "PATIENCE_S", 0.5)
    stage.publish([order(1)])
    receiver.reply = once([(503, {"Retry-After": "1"}, b"")])
    started_s = time.monotonic()
    runner = stage.deliver(HttpConnector(), config(receiver.url))
    assert time.monotonic() - started_s >= 1
    assert (len(receiver.received), runner.counters.retries) == (2, 1)


def test_an_endpoint_that_was_away_gets_everything(stage: Stage, receiver: Any) -> None:
    """Down for a while: it says so, and all arrive in their order."""
    stage.publish([order(number) for number in range(30)])
    runner = stage.runner(HttpConnector(), config(receiver.url))
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        receiver.stop()
        stage.publish([order(number % 30, amount=1_000.0 + number) for number in range(60)])
        wait_until(lambda: runner.status().state == "retrying" and runner.counters.retries > 1, "retrying")
        assert f"http://localhost:{receiver.port}: " in str(runner.status().error)
        receiver.start()
        wait_until(lambda: stage.is_delivered(runner), "delivered")
    latest = {row["id"]: row["amount"] for request in receiver.taken for row in request.rows}
    assert latest == {number: 1_030.0 + number for number in range(30)}


def test_a_slow_endpoint_is_tried_again(stage: Stage, receiver: Any) -> None:
    """An answer that does not come in time counts as none."""
    stage.publish([order(1)])

    def reply(_: Any) -> Any:
        if len(receiver.received) <= 4:
            time.sleep(0.3)
        return OK

    receiver.reply = reply
    runner = stage.deliver(HttpConnector(), config(receiver.url, timeout_ms=100))
    assert runner.counters.retries >= 1
    assert len({request.headers["idempotency-key"] for request in receiver.received}) == 1


def test_a_batch_without_end_is_given_up(stage: Stage, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the group puts the member out, and with a cure."""
    monkeypatch.setattr(sender, "WRITE_S_MAX", 0.2)
    stage.publish([order(number) for number in range(50)])
    receiver.reply = lambda _: time.sleep(0.05) or OK
    runner = stage.runner(HttpConnector(), config(receiver.url))
    with stage.running(runner):
        wait_until(lambda: "takes longer" in str(runner.status().error), "given up")
        monkeypatch.setattr(sender, "WRITE_S_MAX", 60)
        wait_until(lambda: stage.is_delivered(runner), "delivered")
    assert set(ids(receiver)) == set(range(50))


@pytest.mark.parametrize("order_by", ["partition", "key"])
def test_rows_keep_their_order_side_by_side(stage: Stage, receiver: Any, order_by: str) -> None:
    """Whatever the endpoint's delays: no row before an earlier one of its partition or key, so many at once at most."""
    stage.publish([order(number % 20, amount=number) for number in range(120)])
    delays = random.Random(8)
    receiver.reply = lambda _: time.sleep(delays.random() / 100) or OK
    found = config(receiver.url, Mode.REPLICATE, envelope=True, order=order_by, requests_max=5)
    stage.deliver(HttpConnector(), found)
    events = [request.rows[0] for request in receiver.received]
    assert len(events) == 120
    lanes: dict[Any, list[int]] = {}
    for event in events:
        lanes.setdefault(event["partition"] if order_by == "partition" else event["row"]["id"], []).append(
            event["offset"]
        )
    assert all(offsets == sorted(offsets) for offsets in lanes.values())
    assert receiver.under_way_most <= 5
    assert receiver.under_way_most > (1 if order_by == "partition" else stage.partitions)


def with_certificate(receiver: Any, folder: Path) -> Path:
    """Have the receiver speak TLS; returns the certificate."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", *kind, "-keyout", str(key), "-out", str(certificate), *names]
    subprocess.run(command, check=True, capture_output=True)
    receiver.stop()
    receiver.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    receiver.tls.load_cert_chain(certificate, key)
    receiver.start()
    return certificate


def test_certificates_are_checked(stage: Stage, receiver: Any, tmp_path: Path) -> None:
    """An authority that is not named is not trusted, and nothing is sent; named, all is well."""
    certificate = with_certificate(receiver, tmp_path)
    stage.publish([order(1)])
    runner = stage.runner(HttpConnector(), config(receiver.url))
    with stage.running(runner):
        wait_until(lambda: "certificate" in str(runner.status().error), "not trusted")
    assert receiver.received == []
    stage.deliver(HttpConnector(), config(receiver.url, ca_certificate=str(certificate)))
    assert ids(receiver) == [1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "ftp://host"}, "url"),
        ({"url": "https://user:hidden@host"}, "do not belong in an address"),
        ({"headers": {"Authorization": "Bearer hidden"}}, "does not belong in a file"),
        ({"headers": {"X-Api-Key": "hidden"}}, "does not belong in a file"),
        ({"headers": {"webhook-id": "x"}}, "is set by headrace"),
        ({"headers": {"a b": "x"}}, "no name of a header"),
        ({"secret": "hidden"}, "does not belong in a file"),
        ({"rows_per_request": 5}, "means nothing with format row"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], told: str) -> None:
    """As the file is read, without what they hold."""
    found = config(**{"url": "https://host", **options})
    with pytest.raises(EgressInvalid, match=told) as raised:
        connector_config(found, HttpConnector())
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"secret": "${TEST_HOOK_UNSET}"}, "TEST_HOOK_UNSET is not set"),
        ({"secret": "${TEST_HOOK_SHORT}"}, "can be guessed"),
        ({"secret": "${TEST_HOOK_BAD}"}, "not base64"),
        ({"ca_certificate": "/nowhere.pem"}, "cannot be read"),
        ({"mode": Mode.REPLICATE}, "whether a row is deleted"),
    ],
)
def test_what_cannot_be_opened_is_told(
    stage: Stage, options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent, without the secret."""
    monkeypatch.setenv("TEST_HOOK_SHORT", "hidden")
    monkeypatch.setenv("TEST_HOOK_BAD", "whsec_hidden!")
    with pytest.raises(TargetInvalid, match=told) as raised:
        stage.deliver(HttpConnector(), config("http://localhost:9", **options))
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("header_", "seconds"), [(None, 0), ("", 0), ("soon", 0), ("-5", 0), ("12", 12), ("9" * 40, 999_999_999)]
)
def test_a_pause_is_read_or_left(header_: str | None, seconds: float) -> None:
    """Whatever stands in the header."""
    assert retry_after_s(header_) == seconds
    assert retry_after_s(formatdate(time.time() - 100)) == 0


def test_every_status_has_a_verdict() -> None:
    """None raises, and only 2xx other than 207 takes rows."""
    verdicts = {status: Answer(status, "").verdict for status in range(600)}
    assert {status for status, each in verdicts.items() if each is Verdict.TAKEN} == set(range(200, 300)) - {207}
    assert excerpt(b"\xff\xfe\x00 a \r\n b") == "\ufffd\ufffd a b"


def checked(given: EgressConfig) -> list[str]:
    found = HttpConnector()
    return list(found.check(connector_config(given, found), order_contract()))


def test_a_check_sends_nothing(receiver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It connects, checks the certificate and leaves: not a byte of a request, and no part of a secret address told."""
    monkeypatch.setenv("TEST_HOOK_URL", f"{receiver.url}/hidden")
    assert checked(config("${TEST_HOOK_URL}", secret="${TEST_HOOK_SECRET}")) == []
    certificate = with_certificate(receiver, tmp_path)
    (problem,) = checked(config(f"{receiver.url}/hidden"))
    assert problem.startswith(f"{receiver.url}: its certificate is not trusted: ")
    assert checked(config(f"{receiver.url}/hidden", ca_certificate=str(certificate))) == []
    other_name = receiver.url.replace("localhost", "127.0.0.1")
    (problem,) = checked(config(f"{other_name}/hidden", ca_certificate=str(certificate)))
    assert "not valid for '127.0.0.1'" in problem
    receiver.stop()
    (problem,) = checked(config(f"{receiver.url}/hidden"))
    assert problem.startswith(f"{receiver.url}: cannot be reached: ")
    assert "hidden" not in problem
    assert receiver.received == []


def test_a_check_of_an_endpoint_says_what_it_gets_on_the_wire() -> None:
    """A plain socket that keeps what comes in: nothing does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        got: list[bytes] = []

        def take() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                got.append(connection.recv(100))

        thread = threading.Thread(target=take)
        thread.start()
        assert checked(config(f"http://127.0.0.1:{listener.getsockname()[1]}/x")) == []
        thread.join()
    assert got == [b""]


def test_a_check_does_not_wait_for_ever() -> None:
    """An endpoint that takes the connection and says nothing of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        begun_s = time.monotonic()
        assert checked(config(url, timeout_ms=200)) == [f"{url}: no connection within 200 ms"]
        assert time.monotonic() - begun_s < 5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"secret": "${TEST_HOOK_UNSET}"}, "TEST_HOOK_UNSET is not set"),
        ({"headers": {"Authorization": "Bearer ${TEST_HOOK_UNSET}"}}, "TEST_HOOK_UNSET is not set"),
        ({"url": "${TEST_HOOK_BAD}"}, "option 'url' is no address"),
        ({"url": "${TEST_HOOK_ODD}"}, "option 'url' is no address"),
        ({"secret": "${TEST_HOOK_BAD}"}, "can be guessed"),
        ({"ca_certificate": "/nowhere.pem"}, "cannot be read"),
        ({"mode": Mode.REPLICATE}, "whether a row is deleted"),
    ],
)
def test_a_check_tells_what_cannot_be_opened(
    options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As opening does, without the secret."""
    monkeypatch.setenv("TEST_HOOK_BAD", "hidden")
    monkeypatch.setenv("TEST_HOOK_ODD", "https://[hidden")
    with pytest.raises(TargetInvalid, match=told) as raised:
        checked(config(**{"url": "http://localhost:9", **options}))
    assert "hidden" not in str(raised.value)


def explained(given: EgressConfig, count: int) -> list[str]:
    found, offsets = HttpConnector(), np.arange(count)
    batch = EgressBatch(
        rows=pa.Table.from_pylist([order(each) for each in range(count)], schema=arrow_schema(order_contract())),
        key=("id",),
        operation=np.zeros(count, np.int8),
        partition=np.zeros(count, np.int32),
        offset=offsets,
        timestamp_ms=offsets,
        version=offsets,
    )
    return list(found.explain(connector_config(given, found), order_contract(), batch))


def test_an_explanation_shows_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Address up to its host, headers as the file has them, the body; nothing that a variable holds."""
    headers = {"Authorization": "Bearer ${TEST_HOOK_OTHER_SECRET}", "X-Team": "lake"}
    given = config("https://hooks.example:8443/hidden?q=1", headers=headers, secret="${TEST_HOOK_SECRET}")
    assert explained(given, 3) == [
        "POST https://hooks.example:8443",
        "Authorization: Bearer ${TEST_HOOK_OTHER_SECRET}",
        "X-Team: lake",
        "Content-Type: application/json",
        "User-Agent: headrace",
        "Idempotency-Key: out-0-0",
        "webhook-id: out-0-0",
        "webhook-timestamp: when it is sent",
        "webhook-signature: made with ${TEST_HOOK_SECRET}",
        '{"id":0,"customer":"customer 0","amount":0}',
        "-- and 2 more requests",
    ]
    monkeypatch.setenv("TEST_HOOK_URL", "https://hidden.example")
    assert explained(config("${TEST_HOOK_URL}"), 1)[0] == "POST ${TEST_HOOK_URL}"
    lines = explained(config("https://hooks.example", format="array"), 1_000)
    assert lines[-1] == "-- and 9 more requests"
    assert lines[-2].startswith('[{"id":0,')
    assert len(lines[-2]) < 600
