"""What the answers of an endpoint do."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from headrace.egress.sdk import TargetInvalid
from headrace.testing.sink_harness import Stage, header, order
from headrace.testing.sink_http import OK, Receiver, answering, once, webhook_config
from headrace_http import HttpConnector, sender
from headrace_http.answers import EXCERPT_CHARACTERS, Answer, Verdict, excerpt, retry_after_s

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)


@pytest.mark.parametrize("status", [400, 422, 409, 429, 503, 507])
@pytest.mark.parametrize("form", ["row", "array"])
def test_a_refused_row_stays_alone(stage: Stage, receiver: Receiver, status: int, form: str) -> None:
    """Its dead letter has the answer's beginning; what passes is no refusal. All others arrive, each once."""
    stage.publish([order(number) for number in range(60)])
    poison = answering((status, {}, b"no\x00 such \x1b[31mcustomer " + b"x" * 5_000), lambda row: row["id"] == 17)
    passes = once([(status, {}, b"")])
    receiver.reply = poison if status in (400, 422) else passes
    found = webhook_config(receiver.url, format=form)
    stage.deliver(HttpConnector(), found)
    letters = stage.records(found.dead_letter_topic)
    if status not in (400, 422):
        assert (sorted(receiver.ids()), letters) == (list(range(60)), [])
        return
    assert sorted(receiver.ids()) == [number for number in range(60) if number != 17]
    (letter,) = letters
    assert header(letter, "headrace.error.code") == "http.refused"
    message = header(letter, "headrace.error.message") or ""
    assert message.startswith(f"{status}: no such [31mcustomer xxx")
    assert len(message) <= EXCERPT_CHARACTERS + 5


@pytest.mark.parametrize("form", ["array", "ndjson"])
def test_what_is_too_large_goes_in_halves(stage: Stage, receiver: Receiver, form: str) -> None:
    """Down to single rows; one that is too large alone is a dead letter."""
    rows = [{**order(number), "customer": "c" * (900 if number == 3 else 10)} for number in range(64)]
    stage.publish(rows)
    receiver.reply = lambda request: (413, {}, b"too much") if len(request.body) > 500 else OK
    found = webhook_config(receiver.url, format=form)
    stage.deliver(HttpConnector(), found)
    assert sorted(receiver.ids()) == [number for number in range(64) if number != 3]
    (letter,) = stage.records(found.dead_letter_topic)
    assert header(letter, "headrace.error.code") == "http.too_large"


def test_some_taken_is_not_all_taken(stage: Stage, receiver: Receiver) -> None:
    """207 speaks of single rows: they are sent again until each has its own answer."""
    stage.publish([order(number) for number in range(20)])
    receiver.reply = answering((207, {}, b"one is bad"), lambda row: row["id"] == 4)
    found = webhook_config(receiver.url, format="array")
    stage.deliver(HttpConnector(), found)
    (letter,) = stage.records(found.dead_letter_topic)
    assert header(letter, "headrace.error.message") == "207: one is bad"
    assert set(range(20)) - {4} <= set(receiver.ids())


@pytest.mark.parametrize("status", [301, 308, 401, 403, 404, 405, 410, 415])
def test_a_wrong_endpoint_stops_with_a_reason(stage: Stage, receiver: Receiver, status: int) -> None:
    """Which a person must mend. The address beyond its host, the answer and the headers are told nowhere."""
    stage.publish([order(1)])
    receiver.reply = lambda _: (status, {"Location": f"{receiver.url}/elsewhere"}, b"SECRET IN ANSWER")
    found = webhook_config(
        f"{receiver.url}/hidden/path?token=x", headers={"Authorization": "Bearer ${TEST_HOOK_SECRET}"}
    )
    with pytest.raises(TargetInvalid, match=str(status)) as raised:
        stage.deliver(HttpConnector(), found)
    assert raised.value.cure
    assert not any(word in str(raised.value) for word in ("hidden", "token=x", "SECRET", SECRET))
    assert {request.path for request in receiver.received} == {"/hidden/path?token=x"}


def test_a_bad_answer_among_many_is_asked_again_in_place(stage: Stage, receiver: Receiver) -> None:
    """The row is sent again, not those before it."""
    stage.publish([order(number) for number in range(50)])
    receiver.reply = once([OK] * 20 + [(503, {}, b"")])
    runner = stage.deliver(HttpConnector(), webhook_config(receiver.url))
    assert sorted(receiver.ids()) == list(range(50))
    assert runner.counters.retries == 0


@pytest.mark.parametrize("as_date", [False, True])
def test_a_busy_endpoint_says_when(stage: Stage, receiver: Receiver, as_date: bool) -> None:
    """Retry-After, as seconds or as a date, in place."""
    stage.publish([order(1)])
    asked: list[float] = []

    def reply(_: Any) -> Any:
        asked.append(time.time())
        after = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
        return OK if len(asked) > 1 else (429, {"Retry-After": after}, b"")

    receiver.reply = reply
    stage.deliver(HttpConnector(), webhook_config(receiver.url))
    # A date has whole seconds.
    assert asked[1] - asked[0] >= 0.9


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


def test_a_long_pause_is_the_runners(stage: Stage, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond our patience the egress is `retrying`, and nothing is asked before the time."""
    monkeypatch.setattr(sender, "PATIENCE_S", 0.5)
    stage.publish([order(1)])
    receiver.reply = once([(503, {"Retry-After": "1"}, b"")])
    started_s = time.monotonic()
    runner = stage.deliver(HttpConnector(), webhook_config(receiver.url))
    assert time.monotonic() - started_s >= 1
    assert (len(receiver.received), runner.counters.retries) == (2, 1)
