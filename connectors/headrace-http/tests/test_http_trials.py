"""What is told of options and an endpoint before a row is sent, and what is shown that would be."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.errors import EgressInvalid
from headrace.egress.sdk import EgressBatch, Mode, TargetInvalid, arrow_schema
from headrace.testing.sink_harness import Stage, order, order_contract
from headrace.testing.sink_http import Receiver, webhook_config, with_certificate
from headrace_http import HttpConnector

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    monkeypatch.setenv("TEST_HOOK_OTHER_SECRET", OTHER_SECRET)


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
    found = webhook_config(**{"url": "https://host", **options})
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
        ({"mode": Mode.UPSERT, "order": "none"}, "must come last"),
    ],
)
def test_what_cannot_be_opened_is_told(
    stage: Stage, options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent, without the secret."""
    monkeypatch.setenv("TEST_HOOK_SHORT", "hidden")
    monkeypatch.setenv("TEST_HOOK_BAD", "whsec_hidden!")
    with pytest.raises(TargetInvalid, match=told) as raised:
        stage.deliver(HttpConnector(), webhook_config("http://localhost:9", **options))
    assert "hidden" not in str(raised.value)


def checked(given: EgressConfig) -> list[str]:
    found = HttpConnector()
    return list(found.check(connector_config(given, found), order_contract()))


def test_a_check_sends_nothing(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It connects, checks the certificate and leaves: not a byte of a request, and no part of a secret address told."""
    monkeypatch.setenv("TEST_HOOK_URL", f"{receiver.url}/hidden")
    assert checked(webhook_config("${TEST_HOOK_URL}", secret="${TEST_HOOK_SECRET}")) == []
    certificate = with_certificate(receiver, tmp_path)
    (problem,) = checked(webhook_config(f"{receiver.url}/hidden"))
    assert problem.startswith(f"{receiver.url}: its certificate is not trusted: ")
    assert checked(webhook_config(f"{receiver.url}/hidden", ca_certificate=str(certificate))) == []
    other_name = receiver.url.replace("localhost", "127.0.0.1")
    (problem,) = checked(webhook_config(f"{other_name}/hidden", ca_certificate=str(certificate)))
    assert "not valid for '127.0.0.1'" in problem
    receiver.stop()
    (problem,) = checked(webhook_config(f"{receiver.url}/hidden"))
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
        assert checked(webhook_config(f"http://127.0.0.1:{listener.getsockname()[1]}/x")) == []
        thread.join()
    assert got == [b""]


def test_a_check_does_not_wait_for_ever() -> None:
    """An endpoint that takes the connection and says nothing of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        assert checked(webhook_config(url, timeout_ms=200)) == [f"{url}: no connection within 200 ms"]


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
        checked(webhook_config(**{"url": "http://localhost:9", **options}))
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
    given = webhook_config("https://hooks.example:8443/hidden?q=1", headers=headers, secret="${TEST_HOOK_SECRET}")
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
    assert explained(webhook_config("${TEST_HOOK_URL}"), 1)[0] == "POST ${TEST_HOOK_URL}"
    lines = explained(webhook_config("https://hooks.example", format="array"), 1_000)
    assert lines[-1] == "-- and 10 more requests"
    assert lines[-2].startswith('[{"id":0,')
    assert len(lines[-2]) < 600
