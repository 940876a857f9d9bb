"""What becomes of rows when a real OpenSearch is full, closed, killed or too busy, or its index is another one.

No row is lost or refused for what time or somebody mends; what nobody mends is a dead letter or a reason.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from headrace.egress.config import EgressConfig
from headrace.egress.errors import DriftRefused
from headrace.egress.runner import EgressRunner
from headrace.egress.sdk import TargetInvalid
from headrace.testing.kafka_service import is_required
from headrace.testing.opensearch import OPENSEARCH, missing_programs, start_opensearch, stop_opensearch
from headrace.testing.sink_harness import ORDER, TOPIC, Stage, header, order, order_contract, wait_until
from headrace.testing.sink_kills import IS_LONG
from headrace_opensearch import OpenSearchConnector, bulk
from headrace_opensearch.client import Client, Reply

pytestmark = pytest.mark.xdist_group("opensearch")

SMALL = {
    "http.max_content_length": "64kb",
    "indexing_pressure.memory.limit": "32kb",
    "thread_pool.write.size": "1",
    "thread_pool.write.queue_size": "1",
    "cluster.info.update.interval": "10s",
}
"""Of the node that these tests may kill: what a large one bounds too, only later."""
INDEX = "adversity"
RETRY = {"first_ms": 10, "max_ms": 50}
REJECTED = (429, "rejected_execution_exception")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "ATTEMPT_PAUSE_S", 0.01)


class Node(NamedTuple):
    """A node of these tests alone."""

    home: Path
    url: str

    def start(self) -> None:
        """Where it was before."""
        start_opensearch(self.home, owner_pid=os.getpid(), settings={**SMALL, "port": str(urlsplit(self.url).port)})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    if (reason := missing_programs()) and not is_required():
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("node")
    with OPENSEARCH.running(home, settings=SMALL) as server:
        yield Node(home, server.url)


@pytest.fixture
def own(node: Node, cluster_at: Callable[[str], Any]) -> Any:
    """The node that may be killed, as `cluster` is the other one."""
    return cluster_at(node.url)


def config(url: str, **more: Any) -> EgressConfig:
    values = {"name": "out", "topic": TOPIC, "connector": "opensearch", "mode": "replicate"}
    values |= {"options": {"url": url, "index": INDEX}, "batch": {"rows_max": 50, "age_max_ms": 20}}
    return EgressConfig.model_validate({**values, "retry": RETRY, "breaker": {"failures_max": 1_000}, **more})


def wait_out(stage: Stage, given: EgressConfig, told: str, mend: Callable[[], object]) -> EgressRunner:
    """Deliver: the egress fails and says so, `mend` helps, and then everything arrives without a dead letter."""
    runner = stage.runner(OpenSearchConnector(), given)
    with stage.running(runner):
        wait_until(lambda: runner.counters.retries > 2 and told in str(runner.status().error), told)
        error = runner.status().error
        assert error is not None
        assert error.code == "egress.target_unavailable"
        mend()
        wait_until(lambda: stage.is_delivered(runner), "delivered")
    assert stage.records(given.dead_letter_topic) == []
    return runner


def test_a_full_disk_is_waited_out(stage: Stage, cluster: Any) -> None:
    """The block that OpenSearch sets on an index where the disk is full: every row waits, changes and deletions too."""
    given = config(cluster.url)
    stage.publish([order(number) for number in range(20)])
    stage.deliver(OpenSearchConnector(), given)
    cluster.ask("PUT", f"{INDEX}/_settings", {"index.blocks.read_only_allow_delete": True})
    stage.publish([order(number, amount=7.0) for number in range(10, 30)])
    stage.delete([{"id": 3}])
    block = {"index.blocks.read_only_allow_delete": None}
    wait_out(
        stage,
        given,
        "disk usage exceeded flood-stage watermark",
        lambda: cluster.ask("PUT", f"{INDEX}/_settings", block),
    )
    found = {int(key): source["amount"] for key, source in cluster.documents(INDEX).items()}
    assert found == {number: float(number) if number < 10 else 7.0 for number in range(30) if number != 3}


@pytest.mark.skipif(not IS_LONG, reason="OpenSearch looks at its disk every ten seconds; HEADRACE_LONG_FAULTS=1")
def test_a_disk_over_the_watermark_is_waited_out(stage: Stage, own: Any) -> None:
    """OpenSearch itself blocks the index and frees it again."""
    given = config(own.url)
    stage.publish([order(number) for number in range(20)])
    stage.deliver(OpenSearchConnector(), given)
    disk = "cluster.routing.allocation.disk"
    marks = {f"{disk}.watermark.{name}": "900tb" for name in ("low", "high", "flood_stage")}
    own.ask("PUT", "_cluster/settings", {"persistent": {f"{disk}.threshold_enabled": True, **marks}})

    def is_blocked() -> bool:
        settings = own.ask("GET", f"{INDEX}/_settings")[INDEX]["settings"]["index"]
        return "read_only_allow_delete" in settings.get("blocks", {})

    wait_until(is_blocked, "the index is blocked", 60)
    stage.publish([order(number) for number in range(20, 40)])
    with stage.running(runner := stage.runner(OpenSearchConnector(), given)):
        wait_until(lambda: "flood-stage" in str(runner.status().error), "the egress waits")
        own.ask("PUT", "_cluster/settings", {"persistent": dict.fromkeys(marks, "1kb")})
        wait_until(lambda: stage.is_delivered(runner), "delivered", 60)
    # It forbids new indexes too meanwhile.
    wait_until(lambda: "create_index" not in str(own.ask("GET", "_cluster/settings")), "as it was", 150)
    own.ask("PUT", "_cluster/settings", {"persistent": dict.fromkeys([f"{disk}.threshold_enabled", *marks])})
    assert len(own.documents(INDEX)) == 40
    assert stage.records(given.dead_letter_topic) == []


def test_a_closed_index_is_waited_out(stage: Stage, cluster: Any) -> None:
    """Each row is answered with 400 then, and none of them is at fault."""
    given = config(cluster.url)
    stage.publish([order(1)])
    stage.deliver(OpenSearchConnector(), given)
    cluster.ask("POST", f"{INDEX}/_close")
    stage.publish([order(number) for number in range(20)])
    wait_out(stage, given, "index_closed_exception", lambda: cluster.ask("POST", f"{INDEX}/_open"))
    assert len(cluster.documents(INDEX)) == 20


def test_a_removed_index_is_made_anew(stage: Stage, cluster: Any) -> None:
    """With the contract's fields, before the cluster makes one by itself; what comes from then on is in it."""
    given = config(cluster.url)
    runner = stage.runner(OpenSearchConnector(), given)
    with stage.running(runner):
        stage.publish([order(number) for number in range(10)])
        wait_until(lambda: stage.is_delivered(runner), "the first")
        before = cluster.ask("GET", f"{INDEX}/_mapping")
        cluster.ask("DELETE", INDEX)
        stage.publish([order(number) for number in range(10, 20)])
        wait_until(lambda: stage.is_delivered(runner), "the others")
    assert set(cluster.documents(INDEX)) == {str(number) for number in range(10, 20)}
    assert cluster.ask("GET", f"{INDEX}/_mapping") == before
    assert stage.records(given.dead_letter_topic) == []


def test_an_index_that_became_another_one_is_looked_at_again(stage: Stage, cluster: Any) -> None:
    """Under the running egress: a field that is gone is added, one that does not fit stops it; no row is refused."""
    given = config(cluster.url)
    runner = stage.runner(OpenSearchConnector(), given)

    def replace(**fields: str) -> None:
        cluster.ask("DELETE", INDEX)
        mappings = {name: {"type": kind} for name, kind in fields.items()}
        cluster.ask("PUT", INDEX, {"mappings": {"dynamic": "strict", "properties": mappings}})

    def change_twice() -> None:
        with stage.running(runner) as thread:
            stage.publish([order(1)])
            wait_until(lambda: stage.is_delivered(runner), "the first")
            replace(id="long", customer="keyword")
            stage.publish([order(2)])
            wait_until(lambda: stage.is_delivered(runner), "the second")
            assert cluster.documents(INDEX) == {"2": order(2)}
            replace(id="long", customer="keyword", amount="date")
            stage.publish([order(3)])
            wait_until(lambda: not thread.is_alive(), "the egress stops")

    with pytest.raises(DriftRefused, match="'amount' is date"):
        change_twice()
    assert cluster.documents(INDEX) == {}
    assert stage.records(given.dead_letter_topic) == []


def test_a_text_too_long_stays_alone(stage: Stage, cluster: Any) -> None:
    """For a keyword of the user's own: a dead letter with the index's reason."""
    cluster.ask("PUT", INDEX, {"mappings": {"properties": {"customer": {"type": "keyword"}}}})
    stage.publish([order(1), {**order(2), "customer": "ü" * 20_000}, order(3)])
    given = config(cluster.url)
    stage.deliver(OpenSearchConnector(), given)
    assert set(cluster.documents(INDEX)) == {"1", "3"}
    (letter,) = stage.records(given.dead_letter_topic)
    assert header(letter, "headrace.error.code") == "opensearch.refused"
    assert "longer than the max length 32766" in (header(letter, "headrace.error.message") or "")


def test_too_many_fields_stop_with_a_reason(stage: Stage, cluster: Any) -> None:
    """As the index is made, and as a contract gains one: nothing is written."""
    cluster.ask("PUT", INDEX, {"settings": {"index.mapping.total_fields.limit": 4}})
    stage.publish([order(1)])
    given = config(cluster.url)
    stage.deliver(OpenSearchConnector(), given)
    note = {"name": "note", "type": ["null", "string"], "default": None}
    wider = order_contract(schema={**ORDER, "fields": [*ORDER["fields"], note]})
    stage.publish([{**order(2), "note": "new"}], contract=wider)
    with pytest.raises(TargetInvalid, match=r"takes no field: 400 .*Limit of total fields \[4\] has been exceeded"):
        stage.deliver(OpenSearchConnector(), given, wider)
    assert set(cluster.documents(INDEX)) == {"1"}
    many = [*ORDER["fields"], *({"name": f"f{number}", "type": "long", "default": 0} for number in range(1_000))]
    other = config(cluster.url, options={"url": cluster.url, "index": f"{INDEX}-many"}, name="many")
    with pytest.raises(TargetInvalid, match=r"cannot be made: 400 .*Limit of total fields \[1000\]"):
        stage.deliver(OpenSearchConnector(), other, order_contract(schema={**ORDER, "fields": many}))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Statuses and errors of all requests that the connector makes, and of their rows."""
    seen: list[tuple[int, str]] = []
    ask = Client._ask

    async def watched(self: Client, method: str, path: str, body: Any) -> Reply:
        reply = await ask(self, method, path, body)
        seen.append((reply.status, reply.reason))
        items = reply.body.get("items", ()) if isinstance(reply.body, dict) else ()
        told = [each for item in items for each in item.values()]
        seen.extend((each["status"], each.get("error", {}).get("type", "")) for each in told)
        return reply

    monkeypatch.setattr(Client, "_ask", watched)
    return seen


def test_what_is_too_large_or_too_much_goes_in_parts(stage: Stage, own: Any, answers: list[tuple[int, str]]) -> None:
    """413 of the server, 429 of a node that bounds the bytes in hand; only a row that is too large alone is refused."""
    rows = [{**order(number), "customer": "c" * 1_000} for number in range(300)]
    stage.publish([*rows[:150], {**order(999), "customer": "c" * 70_000}, *rows[150:]])
    given = config(own.url, batch={"rows_max": 1_000, "age_max_ms": 50})
    runner = stage.deliver(OpenSearchConnector(), given)
    assert len(own.documents(INDEX)) == 300
    (letter,) = stage.records(given.dead_letter_topic)
    assert header(letter, "headrace.error.code") == "opensearch.too_large"
    assert {(413, ""), REJECTED} <= set(answers)
    assert runner.counters.retries == 0


def test_a_node_with_full_queues_is_tried_again(stage: Stage, own: Any, answers: list[tuple[int, str]]) -> None:
    """Others write so much that rows of ours are rejected: all are there in the end, and none is a dead letter."""
    given = config(own.url, batch={"rows_max": 10, "age_max_ms": 5})
    runner = stage.runner(OpenSearchConnector(), given)
    published = 0
    with stage.running(runner):
        with flooded(own):
            end_s = time.monotonic() + 30
            while REJECTED not in answers and time.monotonic() < end_s:
                stage.publish([order(number) for number in range(published, published + 50)])
                published += 50
                time.sleep(0.05)
        wait_until(lambda: stage.is_delivered(runner), "delivered")
    assert REJECTED in answers
    assert len(own.documents(INDEX)) == published
    assert stage.records(given.dead_letter_topic) == []


@contextmanager
def flooded(own: Any) -> Iterator[None]:
    """While others write small requests, one after the other, into an index of theirs."""
    lines = b"".join(b'{"create":{}}\n{"text":"some words to look at"}\n' for _ in range(20))
    headers = {"Content-Type": "application/x-ndjson"}
    stop = threading.Event()

    def write() -> None:
        request = urllib.request.Request(f"{own.url}/others/_bulk", data=lines, headers=headers)
        while not stop.is_set():
            with suppress(urllib.error.HTTPError), urllib.request.urlopen(request):
                pass

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_cluster_that_makes_no_index_is_waited_out(stage: Stage, own: Any) -> None:
    """What OpenSearch does where all disks are nearly full: 403, and no lack of rights."""
    own.ask("PUT", "_cluster/settings", {"persistent": {"cluster.blocks.create_index": True}})
    stage.publish([order(number) for number in range(20)])
    free = {"persistent": {"cluster.blocks.create_index": None}}
    wait_out(stage, config(own.url), "create-index blocked", lambda: own.ask("PUT", "_cluster/settings", free))
    assert len(own.documents(INDEX)) == 20


def test_a_killed_node_gets_everything_when_it_is_back(stage: Stage, own: Any, node: Node) -> None:
    """kill -9 while rows come in, and started again on its disk: what it confirmed is there, the rest comes again."""
    given = config(own.url)
    stage.publish([order(number) for number in range(2_000)])
    runner = stage.runner(OpenSearchConnector(), given)
    with stage.running(runner):
        wait_until(lambda: runner.counters.flushes > 2, "some rows are there")
        assert stop_opensearch(node.home, hard=True)
        stage.publish([order(number, amount=7.0) for number in range(1_000)])
        stage.delete([{"id": number} for number in range(1_990, 2_000)])
        wait_until(
            lambda: runner.counters.retries > 1 and "cannot be asked" in str(runner.status().error), "it is away"
        )
        node.start()
        wait_until(lambda: stage.is_delivered(runner), "delivered", 60)
    found = {int(key): source["amount"] for key, source in own.documents(INDEX).items()}
    assert found == {number: 7.0 if number < 1_000 else float(number) for number in range(1_990)}
    assert stage.records(given.dead_letter_topic) == []
