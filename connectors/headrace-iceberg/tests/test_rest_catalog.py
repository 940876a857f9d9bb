"""The connector with a REST catalog. The server is a stand-in: pyiceberg's own models over a catalog in SQLite."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.rest import CreateTableRequest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, NamespaceAlreadyExistsError, NoSuchTableError
from pyiceberg.table import CommitTableRequest

from headrace.egress.config import EgressConfig, connector_config
from headrace.egress.sdk import TargetInvalid, TargetUnavailable
from headrace.testing.sink_harness import TOPIC, Stage, order, order_contract, wait_until
from headrace_iceberg import IcebergConnector

TOKEN = "a-token"
STATUS = {NoSuchTableError: 404, CommitFailedException: 409, NamespaceAlreadyExistsError: 409}


class RestServer:
    """One catalog, one thread for each request; `fails_with` answers everything that is asked of tables."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fails_with = folder, 0
        self.conflicts = 0
        """So many commits are answered with a conflict."""
        self.asked: list[str] = []
        """Methods, in order."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                server.asked.append(self.command)
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                status, value = server.answer(self.command, self.path.partition("?")[0], body) if allowed else (401, {})
                if status >= 400:
                    value = {"error": {"message": f"told {status}", "type": "Told", "code": status}}
                text = b"" if self.command == "HEAD" else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_HEAD = answer

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def catalog(self) -> SqlCatalog:
        return SqlCatalog("rest", uri=f"sqlite:///{self.folder}/catalog.db", warehouse=str(self.folder / "lake"))

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/v1/config":
            return 200, {"defaults": {}, "overrides": {}}
        if self.fails_with:
            return self.fails_with, {}
        with closing(self.catalog()) as catalog:
            try:
                return 200, self._done(catalog, method, path.removeprefix("/v1/").split("/"), body)
            except (NoSuchTableError, CommitFailedException, NamespaceAlreadyExistsError) as error:
                return STATUS[type(error)], {}

    def _done(self, catalog: SqlCatalog, method: str, parts: list[str], body: bytes) -> Any:
        if parts == ["namespaces"]:
            catalog.create_namespace(tuple(json.loads(body)["namespace"]))
            return {"namespace": ["shop"], "properties": {}}
        if len(parts) == 3:
            absent = {"location": None, "partition-spec": None, "write-order": None}
            wanted = CreateTableRequest.model_validate({**absent, **json.loads(body)})
            catalog.create_table((parts[1], wanted.name), wanted.table_schema, properties=wanted.properties)
            parts = [*parts, wanted.name]
        elif method == "POST":
            if self.conflicts:
                self.conflicts -= 1
                raise CommitFailedException("told to")
            asked = CommitTableRequest.model_validate_json(body)
            catalog.commit_table(catalog.load_table((parts[1], parts[3])), asked.requirements, asked.updates)
        table = catalog.load_table((parts[1], parts[3]))
        metadata = json.loads(table.metadata.model_dump_json())
        return {"metadata-location": table.metadata_location, "metadata": metadata, "config": {}}


@pytest.fixture
def rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RestServer]:
    monkeypatch.setenv("CATALOG_TOKEN", TOKEN)
    with closing(RestServer(tmp_path)) as server:
        yield server


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path, order_contract())
    yield stage
    stage.close()


def config(rest: RestServer) -> EgressConfig:
    return EgressConfig.model_validate(
        {
            "name": "out",
            "topic": TOPIC,
            "connector": "iceberg",
            "mode": "append",
            "options": {"uri": rest.url, "table": "shop.orders", "properties": {"token": "${CATALOG_TOKEN}"}},
            "batch": {"rows_max": 50, "age_max_ms": 20},
            "retry": {"first_ms": 1, "max_ms": 50},
        }
    )


def ids(rest: RestServer) -> list[int]:
    with closing(rest.catalog()) as catalog:
        return sorted(catalog.load_table("shop.orders").scan().to_arrow()["id"].to_pylist())


def test_a_table_is_made_and_each_row_comes_once(rest: RestServer, stage: Stage) -> None:
    """Also where the group's offsets are lost, and where commits meet conflicts."""
    stage.publish([order(number) for number in range(60)])
    stage.deliver(IcebergConnector(), config(rest))
    stage.forget_offsets(config(rest))
    stage.publish([order(number) for number in range(60, 80)])
    rest.conflicts = 2
    stage.deliver(IcebergConnector(), config(rest))
    assert rest.conflicts == 0
    assert ids(rest) == list(range(80))


def test_a_wrong_token_stops(rest: RestServer, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """401, and the token is in no message."""
    monkeypatch.setenv("CATALOG_TOKEN", "wrong-token")
    stage.publish([order(1)])
    with pytest.raises(TargetInvalid) as raised:
        stage.deliver(IcebergConnector(), config(rest))
    assert "token or keys" in raised.value.cure
    assert "wrong-token" not in str(raised.value)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_catalog_that_is_unwell_is_tried_again(rest: RestServer, stage: Stage, status: int) -> None:
    """Throttled, failed, or away: every row once when it is well."""
    runner = stage.runner(IcebergConnector(), config(rest))
    stage.publish([order(1)])
    with stage.running(runner):
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        rest.fails_with = status
        stage.publish([order(2)])
        wait_until(lambda: runner.counters.retries >= 2, "tried again")
        assert isinstance(runner.status().error, TargetUnavailable)
        rest.fails_with = 0
        wait_until(lambda: stage.is_delivered(runner), "delivered when it is well")
    assert ids(rest) == [1, 2]


def checked(rest: RestServer) -> list[str]:
    made = IcebergConnector()
    return list(made.check(connector_config(config(rest), made), order_contract()))


def test_a_check_asks_and_makes_nothing(rest: RestServer, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the table and with it, with a wrong token, of a catalog that is unwell: only questions are asked."""
    assert checked(rest) == []
    assert set(rest.asked) <= {"GET", "HEAD"}
    stage.publish([order(1)])
    stage.deliver(IcebergConnector(), config(rest))
    rest.asked.clear()
    assert checked(rest) == []
    rest.fails_with = 503
    with pytest.raises(TargetUnavailable, match="told 503"):
        checked(rest)
    monkeypatch.setenv("CATALOG_TOKEN", "wrong-token")
    with pytest.raises(TargetInvalid) as raised:
        checked(rest)
    assert "token or keys" in raised.value.cure
    assert "wrong-token" not in str(raised.value)
    assert set(rest.asked) <= {"GET", "HEAD"}
    rest.close()
    with pytest.raises(TargetUnavailable):
        checked(rest)
