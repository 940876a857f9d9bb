"""What an index holds, refuses and takes late, and what happens when the cluster is away, full, slow or locked.

The cluster is a real OpenSearch; what it cannot do at will (be slow, refuse a user) a server in front of it does.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from headrace.contracts.avro import AvroSchema
from headrace.contracts.contract import Contract
from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.errors import DriftRefused, EgressInvalid
from headrace.egress.sdk import EgressBatch, EgressError, Mode, TargetInvalid, TargetUnavailable, arrow_schema
from headrace.testing.sink_harness import ORDER, TOPIC, Stage, header, order, order_contract, wait_until
from headrace_opensearch import OpenSearchConnector, OpenSearchOptions, bulk
from headrace_opensearch.client import Reply

pytestmark = pytest.mark.xdist_group("opensearch")


class Front:
    """Passes everything on, unless `reply` answers itself."""

    def __init__(self, cluster: str) -> None:
        self.reply: Callable[[str, str], tuple[int, Any] | None] = lambda method, path: None
        self.change: Callable[[Any], Any] = lambda answer: answer
        """Of the answers to bulk requests."""
        self.headers: list[dict[str, str]] = []
        self.asked: list[str] = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                front.headers.append(dict(self.headers.items()))
                front.asked.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                status, answer = front.reply(self.command, self.path) or front.ask(cluster, self, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = handle_any

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def ask(self, cluster: str, asked: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        kind = {"Content-Type": asked.headers.get("content-type", "application/json")}
        request = urllib.request.Request(cluster + asked.path, method=asked.command, data=body or None, headers=kind)
        try:
            with urllib.request.urlopen(request) as reply:
                answer = json.loads(reply.read())
                return reply.status, self.change(answer) if "/_bulk" in asked.path else answer
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@pytest.fixture
def front(cluster: Any) -> Iterator[Front]:
    front = Front(cluster.url)
    yield front
    front.server.shutdown()
    front.server.server_close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


@pytest.fixture
def index(tmp_path: Path) -> str:
    return f"index-{tmp_path.name.lower()}-{time.time_ns()}"


def config(url: str, index: str, mode: Mode = Mode.UPSERT, *, drift: Any = None, **options: Any) -> EgressConfig:
    values = {
        "name": "out",
        "topic": TOPIC,
        "connector": "opensearch",
        "mode": mode,
        "options": {"url": url, "index": index, **options},
        "batch": {"rows_max": 50, "age_max_ms": 20},
        "retry": {"first_ms": 10, "max_ms": 50},
        "drift": drift or {},
    }
    return EgressConfig.model_validate(values)


def test_a_late_row_changes_nothing(stage: Stage, cluster: Any, index: str) -> None:
    """Everything is delivered again, oldest first: no document goes back for a moment, no deleted one comes back."""
    stage.publish([order(number) for number in range(10)])
    stage.publish([order(number, amount=100.0) for number in range(10)])
    stage.delete([{"id": 3}])
    found = config(cluster.url, index, Mode.REPLICATE)
    stage.deliver(OpenSearchConnector(), found)
    seen = []
    stage.forget_offsets(found)
    runner = stage.runner(OpenSearchConnector(), config(cluster.url, index, Mode.REPLICATE, rows_per_request=1))
    with stage.running(runner):
        while not stage.is_delivered(runner):
            seen.append(cluster.documents(index))
    seen.append(cluster.documents(index))
    assert all({source["amount"] for source in documents.values()} == {100.0} for documents in seen)
    assert all(set(documents) == {str(number) for number in range(10) if number != 3} for documents in seen)
    assert stage.records(found.dead_letter_topic) == []


def test_a_refused_row_stays_alone(tmp_path: Path, cluster: Any, index: str) -> None:
    """A date beyond the years that the index reads: a dead letter with its reason, and all others arrive."""
    date = {"type": "int", "logicalType": "date"}
    fields = [*ORDER["fields"], {"name": "at", "type": ["null", date], "default": None}]
    stage = Stage(tmp_path, order_contract(schema={**ORDER, "fields": fields}))
    stage.publish([{**order(number), "at": 4_000_000 if number == 4 else number} for number in range(9)])
    found = config(cluster.url, index)
    stage.deliver(OpenSearchConnector(), found)
    dates = {key: source["at"] for key, source in cluster.documents(index).items()}
    assert dates == {str(number): f"1970-01-0{number + 1}" for number in range(9) if number != 4}
    (letter,) = stage.records(found.dead_letter_topic)
    assert header(letter, "headrace.error.code") == "opensearch.refused"
    assert "parsing_exception" in (header(letter, "headrace.error.message") or "")
    stage.close()


def test_a_key_too_long_stays_alone(tmp_path: Path, cluster: Any, index: str) -> None:
    """One such id would fail the whole request."""
    fields = [{"name": name, "type": "string"} for name in ("a", "b")]
    schema = AvroSchema.parse({"type": "record", "name": "Pair", "fields": fields})
    stage = Stage(tmp_path, Contract(TOPIC, schema, key=("a", "b")))
    stage.publish([{"a": 'q"\\', "b": "1"}, {"a": "x" * 600, "b": "2"}, {"a": "", "b": "3"}])
    found = config(cluster.url, index)
    stage.deliver(OpenSearchConnector(), found)
    assert {tuple(json.loads(key)) for key in cluster.documents(index)} == {('q"\\', "1"), ("", "3")}
    (letter,) = stage.records(found.dead_letter_topic)
    assert header(letter, "headrace.error.code") == "opensearch.key_too_long"
    stage.close()


def test_fields_are_added(stage: Stage, cluster: Any, index: str) -> None:
    """What the contract gains the index gains; refused by policy, nothing changes."""
    stage.publish([order(1)])
    stage.deliver(OpenSearchConnector(), config(cluster.url, index))
    note = {"name": "note", "type": ["null", "string"], "default": None}
    wider = order_contract(schema={**ORDER, "fields": [*ORDER["fields"], note]})
    stage.publish([{**order(2), "note": "new"}], contract=wider)
    with pytest.raises(DriftRefused, match="note"):
        stage.deliver(OpenSearchConnector(), config(cluster.url, index, drift={"add": "refuse"}), wider)
    assert "note" not in cluster.ask("GET", f"{index}/_mapping")[index]["mappings"]["properties"]
    stage.deliver(OpenSearchConnector(), config(cluster.url, index), wider)
    assert cluster.ask("GET", f"{index}/_mapping")[index]["mappings"]["properties"]["note"]["type"] == "text"
    assert cluster.documents(index)["2"]["note"] == "new"


def test_a_field_that_would_change_stops_with_a_reason(stage: Stage, cluster: Any, index: str) -> None:
    """An index cannot widen or rename; nothing is written."""
    stage.publish([order(1)])
    stage.deliver(OpenSearchConnector(), config(cluster.url, index))
    fields = [{**field, "type": "string"} if field["name"] == "id" else field for field in ORDER["fields"]]
    renamed = [{**ORDER["fields"][1], "name": "buyer", "aliases": ["customer"]}, *fields[2:]]
    for changed in (fields, [ORDER["fields"][0], *renamed]):
        contract = order_contract(schema={**ORDER, "fields": changed})
        with pytest.raises(DriftRefused):
            stage.deliver(OpenSearchConnector(), config(cluster.url, index), contract)


def test_rows_without_room_are_sent_again(
    stage: Stage, cluster: Any, index: str, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 of single rows: those alone, in place and then with the runner's pauses; none is lost or refused."""
    monkeypatch.setattr(bulk, "ATTEMPT_PAUSE_S", 0.01)
    left = [5]

    def change(answer: Any) -> Any:
        if left[0]:
            left[0] -= 1
            answer["errors"] = True
            for item in answer["items"][::2]:
                item["index"] = {"status": 429, "error": {"type": "rejected_execution_exception"}}
        return answer

    front.change = change
    stage.publish([order(number) for number in range(20)])
    found = config(front.url, index)
    runner = stage.deliver(OpenSearchConnector(), found)
    assert len(cluster.documents(index)) == 20
    assert runner.counters.retries >= 1
    assert stage.records(found.dead_letter_topic) == []


def test_an_answer_for_fewer_rows_is_none(stage: Stage, cluster: Any, index: str, front: Front) -> None:
    """Whatever it says of them, nobody knows which rows they are: all go again."""
    left = [2]

    def change(answer: Any) -> Any:
        left[0] -= 1
        return answer if left[0] < 0 else {"errors": True, "items": answer["items"][1:]}

    front.change = change
    stage.publish([order(number) for number in range(20)])
    runner = stage.deliver(OpenSearchConnector(), config(front.url, index))
    assert len(cluster.documents(index)) == 20
    assert runner.counters.retries >= 1


def test_a_request_has_its_bytes_bound_and_rows() -> None:
    """The lines of all rows in their order, in requests of at most so many rows and bytes, or of one row; those of a
    part of a batch alone, which goes again."""
    sent: list[bytes] = []

    class Recorder:
        def ask(self, method: str, path: str, body: bytes, *, returned: Any) -> Reply:
            sent.append(body)
            rows = body.splitlines()
            late = [{"index": {"status": 429, "error": {"type": "late"}}} for _ in rows[1:]]
            return Reply(200, {"errors": len(sent) == 1, "items": [{"index": {"status": 201}}, *late]})

    lines = [b"%d%s\n" % (number % 10, b"x" * size) for number, size in enumerate([300, *[200] * 9, 5_000, *[1] * 30])]
    options = OpenSearchOptions(url="http://host:9200", rows_per_request=10, bytes_per_request=1_024)
    target: Any = Recorder()
    array = pa.array([b"not\n", *lines, b"these\n"], pa.large_binary())[1:-1]
    assert bulk.Bulk(target, options, "index").send(np.arange(len(lines)), array) == []
    first, again, *others = sent
    assert (first, again) == (b"".join(lines[:4]), b"".join(lines[1:4]))
    assert b"".join([first, *others]) == b"".join(lines)
    assert [len(each.splitlines()) for each in others] == [5, 1, 1, 10, 10, 10]
    assert [len(each) for each in others if len(each) > 1_024] == [5_002]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_cluster_that_is_away_gets_everything(
    stage: Stage, cluster: Any, index: str, front: Front, status: int
) -> None:
    """Whole requests fail for a while: retried, and then all are there."""
    stage.publish([order(number) for number in range(20)])
    front.reply = lambda method, path: (status, {"error": {"type": "unwell"}})
    runner = stage.runner(OpenSearchConnector(), config(front.url, index, Mode.APPEND))
    with stage.running(runner):
        wait_until(lambda: runner.counters.retries > 2, "retries")
        assert f"answers {status} unwell" in str(runner.status().error)
        front.reply = lambda method, path: None
        wait_until(lambda: stage.is_delivered(runner), "delivered")
    assert len(cluster.documents(index)) == 20


def test_a_slow_cluster_is_tried_again(stage: Stage, cluster: Any, index: str, front: Front) -> None:
    """An answer that does not come in time: the rows go again, and each is there once."""
    slow = [2]

    def reply(method: str, path: str) -> None:
        if "/_bulk" in path and slow[0]:
            slow[0] -= 1
            time.sleep(0.3)

    front.reply = reply
    stage.publish([order(number) for number in range(20)])
    runner = stage.deliver(OpenSearchConnector(), config(front.url, index, Mode.APPEND, timeout_ms=150))
    assert runner.counters.retries >= 1
    assert len(cluster.documents(index)) == 20


def test_what_is_too_large_goes_in_halves(stage: Stage, cluster: Any, index: str, front: Front) -> None:
    """413 of a whole request, down to one row, which is a dead letter."""
    asked: list[Any] = []
    front.reply = lambda method, path: (413, {}) if "/_bulk" in path and not asked.append(path) else None
    stage.publish([order(1), order(2)])
    found = config(front.url, index)
    stage.deliver(OpenSearchConnector(), found)
    codes = [header(letter, "headrace.error.code") for letter in stage.records(found.dead_letter_topic)]
    assert codes == ["opensearch.too_large"] * 2
    assert len(asked) >= 2


def test_wrong_credentials_stop_with_a_reason(
    stage: Stage, index: str, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are sent, and told nowhere."""
    monkeypatch.setenv("TEST_SEARCH_PASSWORD", "hidden horse")
    stage.publish([order(1)])
    front.reply = lambda method, path: (401, {"error": {"type": "security_exception", "reason": "hidden"}})
    who = ({"username": "u", "password": "${TEST_SEARCH_PASSWORD}"}, {"api_key": "${TEST_SEARCH_PASSWORD}"})
    for options, scheme in zip(who, ("Basic ", "ApiKey "), strict=True):
        with pytest.raises(TargetInvalid, match="401 security_exception") as raised:
            stage.deliver(OpenSearchConnector(), config(front.url, index, **options))
        assert "hidden" not in str(raised.value)
        assert front.headers[-1]["Authorization"].startswith(scheme)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "https://u:hidden@host:9200"}, "options.url"),
        ({"username": "u", "password": "hidden"}, "does not belong in a file"),
        ({"api_key": "hidden"}, "does not belong in a file"),
        ({"username": "u"}, "go together"),
        ({"username": "u", "password": "${A}", "api_key": "${B}"}, "choose username"),
        ({"index": "Upper"}, "options.index"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], told: str) -> None:
    """As the file is read, without what they hold."""
    found = config("http://host:9200", "index").model_copy(update={"options": {"url": "http://host:9200", **options}})
    with pytest.raises(EgressInvalid, match=told) as raised:
        connector_config(found, OpenSearchConnector())
    assert "hidden" not in str(raised.value)


def checked(given: EgressConfig, contract: Contract | None = None) -> list[str]:
    found = OpenSearchConnector()
    return list(found.check(connector_config(given, found), contract or order_contract()))


def test_a_check_tells_an_index_that_does_not_fit(stage: Stage, cluster: Any, index: str, front: Front) -> None:
    """By the policy, with the field; one that lacks a field that may be added is fine. Nothing is asked but fields."""
    cluster.ask("PUT", index, {"mappings": {"properties": {"id": {"type": "date"}}}})
    before = cluster.ask("GET", f"{index}/_mapping")
    with pytest.raises(DriftRefused, match="'id' is date, the contract asks for long"):
        checked(config(front.url, index))
    cluster.ask("PUT", f"{index}-2", {"mappings": {"properties": {"id": {"type": "long"}}}})
    assert checked(config(front.url, f"{index}-2")) == []
    with pytest.raises(DriftRefused, match="'customer' is missing"):
        checked(config(front.url, f"{index}-2", drift={"add": "refuse"}))
    assert checked(config(front.url, f"{index}-3")) == []
    assert {each.partition(" ")[0] for each in front.asked} == {"GET"}
    assert cluster.ask("GET", f"{index}/_mapping") == before
    assert f"{index}-3" not in cluster.ask("GET", "_mapping")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((401, {"error": {"type": "security_exception", "reason": "hidden"}}), "answers 401 security_exception"),
        ((403, {"error": {"type": "security_exception", "reason": "hidden"}}), "answers 403 security_exception"),
        ((503, {"error": {"type": "unwell", "reason": "hidden"}}), "answers 503 unwell"),
        ((404, {"message": "hidden"}), "answers 404 when asked for index"),
        ((200, ["hidden"]), "answers 200 when asked for index"),
        ((301, {}), "answers 301 when asked for index"),
    ],
)
def test_a_check_tells_what_the_cluster_answers(
    index: str, front: Front, answer: tuple[int, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong credentials, no rights, unwell, and something else at that address; no secret and no text of the answer."""
    monkeypatch.setenv("TEST_SEARCH_PASSWORD", "hidden horse")
    front.reply = lambda method, path: answer
    given = config(front.url, index, username="u", password="${TEST_SEARCH_PASSWORD}")
    try:
        (problem,) = checked(given)
    except EgressError as error:
        problem = str(error)
    assert f"{front.url}: {told}" in problem
    assert "hidden" not in problem


@pytest.mark.parametrize("answer", [(200, ["hidden"]), (200, None), (301, {})])
def test_what_is_no_cluster_stops_with_a_reason(index: str, front: Front, answer: tuple[int, Any]) -> None:
    """Something else at that address: no mistake of the connector, and nothing that time mends."""
    front.reply = lambda method, path: answer
    given = config(front.url, index)
    connector = OpenSearchConnector()
    with pytest.raises(TargetInvalid, match="see that `url` names the cluster") as raised:
        connector.open(connector_config(given, connector), order_contract(), [0])
    connector.close()
    assert "hidden" not in str(raised.value)


def test_a_check_tells_a_cluster_that_is_away(index: str) -> None:
    """Nobody listens there."""
    with pytest.raises(TargetUnavailable, match="cannot be asked"):
        checked(config("http://127.0.0.1:9", index))


@pytest.mark.parametrize(
    ("mode", "lines"),
    [
        (Mode.APPEND, ['{"create":{"_id":"orders-0-0"}}', '{"id":0,"customer":"customer 0","amount":0}']),
        (
            Mode.REPLICATE,
            [
                '{"index":{"_id":"0","version":0,"version_type":"external_gte"}}',
                '{"id":0,"customer":"customer 0","amount":0}',
                '{"delete":{"_id":"1","version":1,"version_type":"external_gte"}}',
            ],
        ),
    ],
)
def test_an_explanation_shows_the_first_lines(mode: Mode, lines: list[str]) -> None:
    """Of a bulk request, without a cluster and without its password; five rows of many, none longer than told."""
    rows = [{**order(number), "customer": "c" * 9_000} if number == 4 else order(number) for number in range(50)]
    count, offsets = len(rows), np.arange(len(rows))
    batch = EgressBatch(
        rows=pa.Table.from_pylist(rows, schema=arrow_schema(order_contract())),
        key=("id",),
        operation=np.isin(offsets, [] if mode is Mode.APPEND else [1]).astype(np.int8),
        partition=np.zeros(count, np.int32),
        offset=offsets,
        timestamp_ms=offsets,
        version=offsets,
    )
    found = OpenSearchConnector()
    given = config("http://127.0.0.1:9", "rows", mode, username="u", password="${TEST_SEARCH_UNSET}")
    told = found.explain(connector_config(given, found), order_contract(), batch)
    assert told[: len(lines) + 1] == ["POST rows/_bulk", *lines]
    assert told[-1] == "-- and 45 more rows"
    assert len(told) <= 12
    assert max(len(line) for line in told) < 600
