"""The OpenSearch connector passes the suite of all connectors, on a real OpenSearch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.testing.sink_conformance import SinkConformance
from headrace.testing.sink_harness import TOPIC, order, order_contract
from headrace.testing.sink_json import table_of_json
from headrace.testing.sink_types import every_type_contract
from headrace_opensearch import OpenSearchConnector

pytestmark = pytest.mark.xdist_group("opensearch")


class TestOpenSearch(SinkConformance):
    connector = OpenSearchConnector
    kills = 1

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        self.cluster = cluster
        is_every_type = "every_avro_type" in request.node.name
        self.contract = every_type_contract(TOPIC) if is_every_type else order_contract()
        if "one_refused_row" in request.node.name:
            # An index of the user's own, whose field takes texts of 32,766 bytes at most.
            cluster.ask("PUT", self.index(tmp_path), {"mappings": {"properties": {"customer": {"type": "keyword"}}}})

    def index(self, folder: Path) -> str:
        return f"test-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"

    def options(self, folder: Path) -> dict[str, Any]:
        return {"url": self.cluster.url, "index": self.index(folder)}

    def poison(self) -> dict[str, Any]:
        return {**order(9_999_999), "customer": "x" * 40_000}

    def read(self, folder: Path) -> pa.Table:
        return table_of_json(list(self.cluster.documents(self.index(folder)).values()), self.contract)

    def trace(self, folder: Path) -> Any:
        """Every index of the cluster, with its fields and documents."""
        mappings = self.cluster.ask("GET", "_mapping")
        return {index: (mapping, self.cluster.documents(index)) for index, mapping in mappings.items()}
