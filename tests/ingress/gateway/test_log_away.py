"""A log that is slow, away, or fails in the middle; and a gateway that is told to end."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from headrace.log.port import Log, LogUnavailable, Producer, TransactionAborted
from headrace.testing.sink_harness import wait_until
from tests.ingress.gateway.scene import NDJSON, Client, Door, Response, event, ndjson
from tests.ingress.shop import order


class Switch:
    """What the log under a gateway does at its commits."""

    def __init__(self) -> None:
        self.is_away = False
        self.hold = threading.Event()
        self.hold.set()
        self.commits = 0
        self.failures: list[str] = []
        """Of the next commits: `before` they happen, or `after`, when their word is lost."""

    def commit(self, commit: Any) -> None:
        self.commits += 1
        self.hold.wait(30)
        if self.is_away:
            raise LogUnavailable("away, for the test")
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "before":
            raise TransactionAborted("aborted, for the test")
        commit()
        if failure == "after":
            raise LogUnavailable("the answer was lost, for the test")


class SwitchedProducer:
    def __init__(self, producer: Producer, switch: Switch) -> None:
        self._producer, self._switch = producer, switch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def commit(self, *given: Any) -> None:
        self._switch.commit(lambda: self._producer.commit(*given))


class SwitchedLog:
    def __init__(self, log: Log, switch: Switch) -> None:
        self._log, self._switch = log, switch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def producer(self, *, transactional_id: str | None = None) -> Any:
        return SwitchedProducer(self._log.producer(transactional_id=transactional_id), self._switch)


def switched(door: Door, **more: Any) -> tuple[Switch, Any]:
    switch = Switch()
    log: Any = SwitchedLog(door.log, switch)
    return switch, door.gateway(log=log, **more)


class Posting(threading.Thread):
    """A request that waits for its answer."""

    def __init__(self, client: Client, *given: Any, **more: Any) -> None:
        super().__init__(name="posting")
        self._client, self._given, self._more = client, given, more
        self.answer: Response | None = None
        self.start()

    def run(self) -> None:
        self.answer = self._client.post(*self._given, **self._more)

    def result(self) -> Response:
        self.join(30)
        assert self.answer is not None
        return self.answer


@pytest.mark.parametrize("failures", [["before"], ["after"], ["before", "after"], ["before", "before", "after"]])
def test_a_commit_that_fails_is_looked_up_and_never_doubled(door: Door, failures: list[str]) -> None:
    """Whether or not it came about: each record is there once, and the client hears that it is."""
    switch, gateway = switched(door)
    client = door.client(gateway)
    switch.failures = list(failures)
    assert client.post("orders", [order(1), order(2)]).status == 200
    switch.failures = list(failures)
    assert client.post("orders", [order(3)], key="k").status == 200
    assert client.post("orders", [order(3)], key="k").status == 200
    switch.failures = list(failures)
    assert client.post("orders", event(4, order(4)), "application/cloudevents+json").status == 200
    assert sorted(row["id"] for row in door.rows("orders")) == ["o-1", "o-2", "o-3", "o-4"]
    assert switch.failures == []


def test_a_log_that_is_away_is_told_and_waited_for(door: Door) -> None:
    """503 after the patience of a request, `/ready` says why; nothing that nobody waits for comes later."""
    switch, gateway = switched(door, answer_timeout_ms=4_000)
    client = door.client(gateway)
    switch.is_away = True
    began = time.monotonic()
    posting = Posting(door.client(gateway), "orders", order(1), key="k")
    wait_until(lambda: client.request("GET", "/ready").status == 503, "it is not ready")
    assert gateway.status().state == "retrying"
    answer = posting.result()
    assert (answer.status, answer.codes) == (503, ["ingress.outcome_unknown"])
    assert answer.headers["Retry-After"] == "1"
    # Load can only make it later. The clocks of the two threads may differ by a moment.
    assert time.monotonic() - began >= 3.9
    assert switch.commits > 1
    wait_until(lambda: gateway.status().error is None, "what nobody waits for is dropped")
    switch.is_away = False
    assert door.count("orders") == 0
    assert client.post("orders", order(1), key="k").status == 200
    assert door.count("orders") == 1


def test_what_waits_is_bounded(door: Door) -> None:
    """By requests and by bytes: one too many is told at once to come again, and the others get their answers."""
    switch, gateway = switched(door, waiting_requests_max=3, body_bytes_max=1_048_576, waiting_mb_max=1)
    switch.hold.clear()
    waiting = [Posting(door.client(gateway), "orders", order(number)) for number in range(3)]
    client = door.client(gateway)

    def text() -> str:
        return client.request("GET", "/metrics").body.decode()

    wait_until(lambda: 'headrace_gateway_waiting_requests{name="door"} 3.0' in text(), "three wait")
    answer = client.post("orders", order(9))
    assert (answer.status, answer.codes, answer.headers["Retry-After"]) == (503, ["ingress.overloaded"], "1")
    switch.hold.set()
    assert [each.result().status for each in waiting] == [200] * 3
    switch.hold.clear()
    large = ndjson([order(number, note="x" * 1_000) for number in range(600)])
    first = Posting(door.client(gateway), "orders", large, NDJSON)
    wait_until(lambda: f'waiting_bytes{{name="door"}} {float(len(large))}' in text(), "its bytes are counted")
    answer = client.post("orders", large, NDJSON)
    assert (answer.status, answer.codes) == (503, ["ingress.overloaded"])
    switch.hold.set()
    assert first.result().status == 200
    assert 'headrace_gateway_waiting_bytes{name="door"} 0.0' in text()


def test_what_is_refused_does_not_wait_for_the_log(door: Door) -> None:
    """A body that is wrong is told so while the log is away."""
    switch, gateway = switched(door)
    switch.hold.clear()
    held = Posting(door.client(gateway), "orders", order(1))
    wait_until(lambda: switch.commits > 0, "a commit under way")
    client = door.client(gateway)
    assert client.post("orders", b"{").status == 400
    assert client.post("orders", {**order(1), "amount": "x"}).status == 422
    switch.hold.set()
    assert held.result().status == 200


def test_requests_of_one_moment_share_a_transaction(door: Door) -> None:
    """While one transaction is on its way the others gather for the next."""
    switch, gateway = switched(door)
    switch.hold.clear()
    waiting = [Posting(door.client(gateway), "orders", order(0))]
    wait_until(lambda: switch.commits == 1, "the first commit")
    waiting += [Posting(door.client(gateway), "orders", order(number)) for number in range(1, 30)]
    client = door.client(gateway)
    metric = 'headrace_gateway_waiting_requests{name="door"} 30.0'
    wait_until(lambda: metric in client.request("GET", "/metrics").body.decode(), "all wait")
    switch.hold.set()
    assert [each.result().status for each in waiting] == [200] * 30
    assert switch.commits <= 4
    assert door.count("orders") == 30


def test_requests_under_way_get_their_answers_when_it_ends(door: Door) -> None:
    """A connection that is open is told that the gateway ends; a new one finds nobody."""
    switch, gateway = switched(door)
    other = door.client(gateway)
    assert other.request("GET", "/live").status == 200
    switch.hold.clear()
    held = Posting(door.client(gateway), "orders", order(1))
    wait_until(lambda: switch.commits > 0, "a commit under way")
    stopping = threading.Thread(target=door.stop, args=(gateway,))
    stopping.start()
    assert gateway.port is not None
    late: list[Response] = []

    def is_ending() -> bool:
        late.append(other.request("GET", "/ready"))
        return late[-1].status == 503

    wait_until(is_ending, "it says that it ends")
    assert late[-1].json["reasons"] == ["the gateway ends"]
    assert late[-1].headers["Connection"] == "close"
    switch.hold.set()
    assert held.result().status == 200
    stopping.join(30)
    assert not stopping.is_alive()
    assert door.count("orders") == 1
    assert gateway.status().state == "stopped"


def test_a_gateway_that_was_paused_runs_again(door: Door) -> None:
    """The same one, as a pause ends its run: it knows its keys, and its metrics go on."""
    gateway = door.gateway()
    client = door.client(gateway)
    told = client.post("orders", order(1), key="k")
    door.stop(gateway)
    stop = threading.Event()
    again = threading.Thread(target=gateway.run, args=(stop,))
    again.start()
    wait_until(lambda: gateway.port is not None, "it listens again")
    client = door.client(gateway)
    assert client.post("orders", order(1), key="k").body == told.body
    text = client.request("GET", "/metrics").body.decode()
    assert 'headrace_gateway_requests_total{name="door",status="200"} 2.0' in text
    assert 'headrace_gateway_keys{name="door"} 1.0' in text
    stop.set()
    again.join(30)
    assert not again.is_alive()
    assert door.count("orders") == 1


def test_a_topic_that_is_not_there_harms_no_other(door: Door) -> None:
    """Requests of the same moment for another topic go in; the answer tells nothing of the log."""
    admin = door.log.admin()
    admin.delete_topics(["clicks"])
    admin.close()
    switch, gateway = switched(door)
    switch.hold.clear()
    first = Posting(door.client(gateway), "orders", order(0))
    wait_until(lambda: switch.commits == 1, "the first commit")
    gone = Posting(door.client(gateway), "clicks", {"page": "/"})
    good = Posting(door.client(gateway), "orders", order(1))
    time.sleep(0.05)
    switch.hold.set()
    assert first.result().status == good.result().status == 200
    answer = gone.result()
    assert (answer.status, answer.codes) == (503, ["log.unknown_topic"])
    assert answer.json["detail"] == "the log cannot take the records now"
    assert door.count("orders") == 2
