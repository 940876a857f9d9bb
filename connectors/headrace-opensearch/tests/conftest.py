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
        """Sources by id."""
        self.ask("POST", f"{index}/_refresh")
        hits = self.ask("POST", f"{index}/_search", {"size": 10_000, "query": {"match_all": {}}})["hits"]["hits"]
        return {hit["_id"]: hit["_source"] for hit in hits}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with OsmemServer.start(japanese=False) as server:
        yield Cluster(server.url)
