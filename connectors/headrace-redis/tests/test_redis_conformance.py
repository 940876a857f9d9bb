"""The Redis connector passes the suite of all connectors, on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.contracts.contract import Contract
from headrace.egress.config import EgressConfig
from headrace.egress.sdk import Mode
from headrace.testing.sink_conformance import SinkConformance
from headrace.testing.sink_harness import TOPIC, order_contract
from headrace.testing.sink_types import every_type_contract
from headrace_redis import RedisConnector

pytestmark = [pytest.mark.redis, pytest.mark.xdist_group("redis")]


class OnRedis(SinkConformance):
    """Hashes; in append a stream."""

    form = "hash"

    @pytest.fixture(autouse=True)
    def _target(self, redis_target: Any, request: pytest.FixtureRequest) -> None:
        self.target = redis_target
        self.contract: Contract = (
            every_type_contract(TOPIC) if "every_avro_type" in request.node.name else order_contract()
        )

    def options(self, folder: Path) -> dict[str, Any]:
        return {"url": self.target.url, "format": self.form}

    def config(self, folder: Path, mode: Mode, **more: Any) -> EgressConfig:
        is_stream, name = mode is Mode.APPEND, self.target.name(folder)
        more_options = {"stream": name} if is_stream else {"prefix": name, "version_field": "seen"}
        options = {**self.options(folder), **more_options}
        return super().config(folder, mode, options=options, **more)

    def read(self, folder: Path) -> pa.Table:
        table: pa.Table = self.target.table(folder, self.contract)
        return table

    def trace(self, folder: Path) -> Any:
        """Every key of the server, with its value as Redis would store it."""
        return {key: self.target.client.dump(key) for key in self.target.client.scan_iter(count=10_000)}


class TestRedis(OnRedis):
    connector = RedisConnector
    kills = 1


class TestRedisJson(OnRedis):
    """The same as JSON texts, which no mode knows of: the crashes in one mode."""

    connector = RedisConnector
    kills = 1
    form = "json"

    def modes(self) -> list[Mode]:
        return [Mode.REPLICATE]
