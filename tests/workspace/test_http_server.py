"""HTTP of a worker: what it answers, and where it listens."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from headrace.engine.metrics import EngineMetrics
from headrace.workspace.health import Health
from headrace.workspace.http_port import OFF, PORT_MAX, worker_port
from headrace.workspace.http_server import HttpServer, HttpUnavailable, serving

from .test_health import TOTALS, status

HOST = "127.0.0.1"


@pytest.fixture
def health() -> Health:
    """Of a process with one pipeline."""
    return Health([TOTALS], EngineMetrics(), clock=lambda: 1_800_000_000.0)


@pytest.fixture
def server(health: Health) -> Iterator[HttpServer]:
    server = HttpServer(health, host=HOST, port=0)
    yield server
    server.close()


def get(server: HttpServer, path: str, accept: str = "*/*") -> tuple[int, str, str]:
    """Status, content type and body."""
    request = urllib.request.Request(f"http://{HOST}:{server.port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_live_says_nothing_of_the_work(server: HttpServer) -> None:
    """A process whose pipeline has not started is alive."""
    code, _, body = get(server, "/live")
    assert (code, json.loads(body)) == (200, {"live": True, "pid": os.getpid(), "stuck": []})


def test_ready_follows_the_components(server: HttpServer, health: Health) -> None:
    """503 with reasons, then 200 without, both as JSON of the documented shape."""
    code, kind, body = get(server, "/ready")
    assert (code, kind.partition(";")[0]) == (503, "application/json")
    assert json.loads(body)["reasons"] == ["pipeline 'totals' has not started"]
    health.note(status())
    code, _, body = get(server, "/ready")
    answer = json.loads(body)
    assert (code, answer["ready"], answer["reasons"]) == (200, True, [])
    assert set(answer["components"][0]) == {"kind", "name", "state", "error", "lag"}


def test_metrics_in_the_format_that_is_asked_for(server: HttpServer, health: Health) -> None:
    """Prometheus text by default, OpenMetrics on request, with the components' states in it."""
    health.note(status())
    code, kind, body = get(server, "/metrics")
    assert (code, kind.partition(";")[0]) == (200, "text/plain")
    assert 'headrace_component_state{kind="pipeline",name="totals",state="running"} 1.0' in body
    _, kind, body = get(server, "/metrics", "application/openmetrics-text")
    assert kind.partition(";")[0] == "application/openmetrics-text"
    assert body.rstrip().endswith("# EOF")


def test_other_paths_are_not_found(server: HttpServer) -> None:
    """Nothing else is served."""
    assert get(server, "/")[0] == 404


def test_a_taken_port_is_refused_with_its_place(server: HttpServer, health: Health) -> None:
    """A worker that cannot listen does not start; the error names host and port."""
    with (
        pytest.raises(HttpUnavailable, match=rf"cannot serve HTTP at {HOST}:{server.port}: .*--http-port"),
        serving(health, HOST, server.port),
    ):
        raise AssertionError("it must not begin")


def test_each_worker_of_a_machine_has_its_port(health: Health) -> None:
    """The next worker takes the next port, above the last one is an error, and of 0 the next one is 0."""
    assert [worker_port(9_100, number) for number in range(3)] == [9_100, 9_101, 9_102]
    assert worker_port(OFF, 3) == OFF
    with pytest.raises(HttpUnavailable, match="above 65535"), serving(health, HOST, worker_port(PORT_MAX, 1)):
        raise AssertionError("it must not begin")


def test_closing_frees_the_port(health: Health) -> None:
    """The next process can listen there at once; closing twice is fine."""
    server = HttpServer(health, host=HOST, port=0)
    server.close()
    server.close()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, server.port))
