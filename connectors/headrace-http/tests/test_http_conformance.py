"""The HTTP connector passes the suite of all connectors, before a real HTTP server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from headrace.egress.config import EgressConfig
from headrace.egress.sdk import Mode
from headrace.testing.sink_conformance import SinkConformance
from headrace.testing.sink_harness import TOPIC, order_contract
from headrace.testing.sink_json import table_of_json
from headrace.testing.sink_types import every_type_contract
from headrace_http import HttpConnector


class OnHttp(SinkConformance):
    more: ClassVar[dict[str, Any]]

    @pytest.fixture(autouse=True)
    def _receiver(self, receiver: Any, request: pytest.FixtureRequest) -> Any:
        self.receiver = receiver
        is_every_type = "every_avro_type" in request.node.name
        self.contract = every_type_contract(TOPIC) if is_every_type else order_contract()
        yield
        self.check_keys()

    def options(self, folder: Path) -> dict[str, Any]:
        return {"url": f"{self.receiver.url}{folder}", "envelope": True, **self.more}

    def read(self, folder: Path) -> pa.Table:
        appended: list[Any] = []
        latest: dict[Any, Any] = {}
        for request in self.receiver.taken:
            for event in request.rows if request.path == str(folder) else ():
                if event["operation"] == "append":
                    appended.append(event["row"])
                elif event["operation"] == "upsert":
                    latest[event["row"]["id"]] = event["row"]
                else:
                    latest.pop(event["row"]["id"], None)
        return table_of_json([*appended, *latest.values()], self.contract)

    def trace(self, folder: Path) -> Any:
        return list(self.receiver.received)

    def check_keys(self) -> None:
        """After every test, crashes included: a key never comes with another body, a row never with another id."""
        bodies: dict[tuple[str, str], bytes] = {}
        for request in self.receiver.received:
            place = request.path, request.headers["idempotency-key"]
            assert bodies.setdefault(place, request.body) == request.body
            for event in request.rows:
                assert event["id"].endswith(f"-{event['partition']}-{event['offset']}")


class TestHttpRows(OnHttp):
    connector = HttpConnector
    kills = 1
    more: ClassVar[dict[str, Any]] = {}


class TestHttpArrays(OnHttp):
    """Several rows a request, ordered by key: the crashes in one mode."""

    connector = HttpConnector
    kills = 1
    more: ClassVar[dict[str, Any]] = {"format": "array", "rows_per_request": 4, "order": "key"}

    def modes(self) -> list[Mode]:
        return [Mode.REPLICATE]

    def config(self, folder: Path, mode: Mode, **more: Any) -> EgressConfig:
        options = self.options(folder)
        if mode is Mode.APPEND:
            options.pop("order")
        return super().config(folder, mode, options=options, **more)
