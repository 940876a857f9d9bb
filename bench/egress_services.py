"""Targets of `python -m bench egress` that take rows as commands or requests: Redis, OpenSearch, HTTP.

One function each, as in `egress_targets`; beside each a client that sends one row at a time and waits for its answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.egress_target import NAIVE_ROWS_MAX, Row, Target, one_by_one
from bench.peers.installing import ROOT
from headrace.egress.sdk import Mode

FAR_ROWS_MAX = 1_000
"""In a loop to a receiver that is some milliseconds away."""
REQUEST_TIMEOUT_S = 60.0
"""Of one request of ours; to count takes longest."""


@contextmanager
def redis(folder: Path, mode: Mode) -> Iterator[Target]:
    """A server of this run alone: a stream in append, else hashes; beside one XADD or HSET a row."""
    import redis as client

    from headrace.testing.redis import running_redis

    with running_redis() as server, client.Redis.from_url(server.url) as connection:
        if mode is Mode.APPEND:
            naive = one_by_one(lambda row: connection.xadd("naive", row))
            yield Target(
                {"url": server.url, "stream": "target"}, lambda: int(connection.xlen("target")), {"naive": naive}
            )
        else:
            naive = one_by_one(lambda row: connection.hset(f"naive:{row['id']}", mapping=row))
            yield Target(
                {"url": server.url, "prefix": "target:"},
                lambda: len(set(connection.scan_iter(match="target:*", count=10_000))),
                {"naive": naive},
            )


@contextmanager
def opensearch(folder: Path, mode: Mode) -> Iterator[Target]:
    """A node of this run alone; beside one PUT a document."""
    from headrace.testing.opensearch import MEASURED_OPTIONS, OpenSearchServer

    with OpenSearchServer(MEASURED_OPTIONS).running() as server, _connected(server.url) as connection:

        def count() -> int:
            _ask(connection, "POST", "/target/_refresh")
            return int(json.loads(_ask(connection, "GET", "/target/_count"))["count"])

        naive = one_by_one(lambda row: _ask(connection, "PUT", f"/naive/_doc/{row['id']}", row))
        yield Target({"url": server.url, "index": "target"}, count, {"naive": naive})


def http(form: str, *, answer_ms: int = 0) -> Callable[[Path, Mode], AbstractContextManager[Target]]:
    """A receiver that only keeps what comes; `form` is the connector's `format`. Beside one POST a row. An answer takes
    `answer_ms`, as from another place."""

    @contextmanager
    def receiver(folder: Path, mode: Mode) -> Iterator[Target]:
        with _receiver(answer_ms) as url, _connected(url) as connection:

            def count() -> int:
                found = json.loads(_ask(connection, "GET", "/target"))
                # In append a row that came twice counts twice.
                return int(found["rows" if mode is Mode.APPEND else "ids"])

            waited_for = NAIVE_ROWS_MAX if not answer_ms else FAR_ROWS_MAX
            naive = one_by_one(lambda row: _ask(connection, "POST", "/naive", row), waited_for)
            rows_max = NAIVE_ROWS_MAX if form == "row" else None
            yield Target({"url": f"{url}/target", "format": form}, count, {"naive": naive}, rows_max)

    return receiver


@contextmanager
def _receiver(answer_ms: int) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.egress_receiver", str(answer_ms)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait()


def _connected(url: str) -> AbstractContextManager[HTTPConnection]:
    """One connection, kept over all requests."""
    return closing(HTTPConnection(urlsplit(url).netloc, timeout=REQUEST_TIMEOUT_S))


def _ask(connection: HTTPConnection, method: str, path: str, row: Row | None = None) -> Any:
    """The answer's body. Raises for what is no success: its rate would be none."""
    body = None if row is None else json.dumps(row)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    with connection.getresponse() as answer:
        told = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {told!r}")
        return told
