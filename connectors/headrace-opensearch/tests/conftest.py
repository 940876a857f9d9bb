"""A cluster for tests: a real OpenSearch node, and what indexes of it hold."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest


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

    def indexes(self) -> set[str]:
        return set(self.ask("GET", "_mapping"))

    def documents(self, index: str) -> dict[str, Any]:
        """Sources by id. One answer holds at most 10,000, so they come in several."""
        self.ask("POST", f"{index}/_refresh")
        found: dict[str, Any] = {}
        page = self.ask("POST", f"{index}/_search?scroll=1m", {"size": 10_000, "query": {"match_all": {}}})
        while hits := page["hits"]["hits"]:
            found |= {hit["_id"]: hit["_source"] for hit in hits}
            page = self.ask("POST", "_search/scroll", {"scroll": "1m", "scroll_id": page["_scroll_id"]})
        self.ask("DELETE", "_search/scroll", {"scroll_id": [page["_scroll_id"]]})
        return found


@pytest.fixture
def cluster_at() -> Iterator[Callable[[str], Cluster]]:
    """Makes a `Cluster` of a URL. What a test makes in it goes with the test: these tests share one worker."""
    opened: list[tuple[Cluster, set[str]]] = []

    def open_cluster(url: str) -> Cluster:
        cluster = Cluster(url)
        opened.append((cluster, cluster.indexes()))
        return cluster

    yield open_cluster
    for cluster, before in opened:
        for index in cluster.indexes() - before:
            cluster.ask("DELETE", index)


@pytest.fixture
def cluster(opensearch_url: str, cluster_at: Callable[[str], Cluster]) -> Cluster:
    """The session's."""
    return cluster_at(opensearch_url)
