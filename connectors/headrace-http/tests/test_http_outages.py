"""An endpoint that is away, slow, or not the one that it should be."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.testing.sink_harness import Stage, order, wait_until
from headrace.testing.sink_http import OK, Receiver, webhook_config, with_certificate
from headrace_http import HttpConnector, sender


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "ATTEMPT_PAUSE_S", 0.01)


def test_an_endpoint_that_was_away_gets_everything(stage: Stage, receiver: Receiver) -> None:
    """Down for a while: it says so, and all arrive in their order."""
    stage.publish([order(number) for number in range(30)])
    runner = stage.runner(HttpConnector(), webhook_config(receiver.url))
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


def test_a_slow_endpoint_is_tried_again(stage: Stage, receiver: Receiver) -> None:
    """An answer that does not come in time counts as none."""
    stage.publish([order(1)])

    def reply(_: Any) -> Any:
        if len(receiver.received) <= 4:
            time.sleep(0.3)
        return OK

    receiver.reply = reply
    runner = stage.deliver(HttpConnector(), webhook_config(receiver.url, timeout_ms=100))
    assert runner.counters.retries >= 1
    assert len({request.headers["idempotency-key"] for request in receiver.received}) == 1


def test_a_batch_without_end_is_given_up(stage: Stage, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the group puts the member out, and with a cure."""
    monkeypatch.setattr(sender, "WRITE_S_MAX", 0.2)
    stage.publish([order(number) for number in range(50)])
    receiver.reply = lambda _: time.sleep(0.05) or OK
    runner = stage.runner(HttpConnector(), webhook_config(receiver.url))
    with stage.running(runner):
        wait_until(lambda: "takes longer" in str(runner.status().error), "given up")
        monkeypatch.setattr(sender, "WRITE_S_MAX", 60)
        wait_until(lambda: stage.is_delivered(runner), "delivered")
    assert set(receiver.ids()) == set(range(50))


def test_certificates_are_checked(stage: Stage, receiver: Receiver, tmp_path: Path) -> None:
    """An authority that is not named is not trusted, and nothing is sent; named, all is well."""
    certificate = with_certificate(receiver, tmp_path)
    stage.publish([order(1)])
    runner = stage.runner(HttpConnector(), webhook_config(receiver.url))
    with stage.running(runner):
        wait_until(lambda: "certificate" in str(runner.status().error), "not trusted")
    assert receiver.received == []
    stage.deliver(HttpConnector(), webhook_config(receiver.url, ca_certificate=str(certificate)))
    assert receiver.ids() == [1]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"what is this?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
    ids=["nothing", "not HTTP", "cut", "endless"],
)
def test_what_is_no_answer_is_asked_again(stage: Stage, receiver: Receiver, answer: bytes) -> None:
    """A connection that ends, what is not HTTP, an answer that is cut or has no end: none of them took the row."""
    stage.publish([order(1)])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, stop = listener.getsockname()[1], threading.Event()
        listener.settimeout(0.05)

        def take() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(10_000)
                    connection.sendall(answer)

        thread = threading.Thread(target=take)
        thread.start()
        runner = stage.runner(HttpConnector(), webhook_config(f"http://127.0.0.1:{port}/hidden"))
        with stage.running(runner):
            wait_until(lambda: runner.counters.retries > 1, "retries")
            told = runner.status().error
            assert told is not None
            assert told.code == "egress.target_unavailable"
            assert told.message.startswith(f"http://127.0.0.1:{port}: cannot be asked: ")
            assert "hidden" not in str(told)
            stop.set()
            thread.join()
            listener.close()
            receiver.stop()
            receiver.port = port
            receiver.start()
            wait_until(lambda: stage.is_delivered(runner), "delivered")
    assert receiver.ids() == [1]


def test_a_name_that_nobody_knows_is_tried_again(stage: Stage) -> None:
    """It may be known in a minute; the address is told up to its host."""
    stage.publish([order(1)])
    runner = stage.runner(HttpConnector(), webhook_config("http://nowhere.invalid/hidden"))
    with stage.running(runner):
        wait_until(lambda: runner.counters.retries > 0, "retries")
        told = runner.status().error
    assert told is not None
    assert told.code == "egress.target_unavailable"
    assert told.message.startswith("http://nowhere.invalid: cannot be asked: ")
    assert "hidden" not in str(told)


def test_an_endpoint_without_tls_is_tried_again(stage: Stage, receiver: Receiver) -> None:
    """`https` where nobody speaks it: nothing of a row goes over the wire in the clear."""
    stage.publish([order(1)])
    url = receiver.url.replace("http:", "https:")
    runner = stage.runner(HttpConnector(), webhook_config(url))
    with stage.running(runner):
        wait_until(lambda: runner.counters.retries > 0, "retries")
        told = runner.status().error
    assert f"{url}: cannot be asked: " in str(told)
    assert receiver.received == []
