"""A cluster for tests: osmem, a stand-in for OpenSearch that keeps everything in memory."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from osmem_server import OsmemServer


@dataclass(frozen=True)
class Cluster:
    url: str

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as reply:
            return json.loads(reply.read())

    def documents(self, index: str) -> dict[str, Any]:
        """Sources by id. One answer holds at most 10,000, so they come in several."""
        self.ask("POST", f"{index}/_refresh")
        found: dict[str, Any] = {}
        page = self.ask("POST", f"{index}/_search?scroll=1m", {"size": 10_000, "query": {"match_all": {}}})
        while hits := page["hits"]["hits"]:
            found |= {hit["_id"]: hit["_source"] for hit in hits}
            page = self.ask("POST", "_search/scroll", {"scroll": "1m", "scroll_id": page["_scroll_id"]})
        return found


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with OsmemServer.start(japanese=False) as server:
        yield Cluster(server.url)
