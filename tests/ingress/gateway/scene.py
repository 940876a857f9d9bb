"""A gateway in this process, on the embedded log or on one that is given, and a client of it."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.contracts.contract import Contract
from headrace.ingress.environment import GivenEnvironment
from headrace.ingress.gateway.config import GatewayConfig
from headrace.ingress.gateway.worker import Gateway
from headrace.log.port import Log, TopicSpec
from headrace.testing.sink_harness import Stage, wait_until
from tests.ingress.shop import CONTRACTS

TOKEN = "shop-token-0123456789"
OTHER_TOKEN = "clicks-token-0123456789"
EVENT_TYPE, BATCH_TYPE, NDJSON = (
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/x-ndjson",
)


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def clients() -> dict[str, Any]:
    return {
        "shop": {"sha256": sha256(TOKEN), "topics": ["orders", "customers", "items", "c*", "missing"]},
        "web": {"sha256": sha256(OTHER_TOKEN), "topics": ["clicks"]},
    }


def config(**more: Any) -> GatewayConfig:
    given = {"name": "door", "port": 0, "clients": clients(), "linger_ms": 1}
    return GatewayConfig.model_validate({**given, **more})


@dataclass(frozen=True, slots=True)
class Response:
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """Of the refused records, or of the problem."""
        if "records" in self.json:
            return [each["code"] for each in self.json["records"] if each["outcome"] == "refused"]
        return [self.json["code"]]


class Client:
    """One connection."""

    def __init__(self, port: int, token: str | None = TOKEN, timeout_s: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        self._token = token

    def close(self) -> None:
        self._connection.close()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        given = dict(headers or {})
        if self._token is not None:
            given.setdefault("Authorization", f"Bearer {self._token}")
        self._connection.request(method, path, body, given)
        response = self._connection.getresponse()
        found = Response(response.status, {**response.headers}, response.read())
        if response.headers.get("Connection", "").lower() == "close":
            self._connection.close()
        return found

    def post(
        self,
        topic: str,
        body: Any,
        content_type: str = "application/json",
        *,
        key: str | None = None,
        pack: bool = False,
        **headers: str,
    ) -> Response:
        """`body` as JSON, unless it is bytes. Names of headers: `_` stands for `-`."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Type": content_type}
        if key is not None:
            given["Idempotency-Key"] = key
        if pack:
            data, given["Content-Encoding"] = gzip.compress(data), "gzip"
        return self.request("POST", f"/topics/{topic}", data, given)


class Door(Stage):
    """The log of a shop, and gateways before it."""

    def __init__(
        self,
        folder: Path,
        contracts: Mapping[str, Contract] = CONTRACTS,
        *,
        log: Log | None = None,
        workspace: str = "shop",
        partitions: int = 2,
    ) -> None:
        first = next(iter(contracts.values()))
        super().__init__(folder, first, partitions=partitions, log=log)
        self.contracts, self.workspace = contracts, workspace
        admin = self.log.admin()
        admin.create_topics([TopicSpec(topic, partitions) for topic in contracts if topic != first.topic])
        admin.close()
        self._running: list[tuple[Gateway, threading.Event, threading.Thread]] = []
        self._clients: list[Client] = []

    def gateway(self, instance: str = "0", *, log: Log | None = None, ready: bool = True, **more: Any) -> Gateway:
        """A gateway that runs. `log`: another than the stage's, such as one that fails."""
        environment = GivenEnvironment(log or self.log, self.registry, self.contracts)
        made = Gateway(config(**more), environment, self.contracts, workspace=self.workspace, instance=instance)
        stop = threading.Event()
        thread = threading.Thread(target=made.run, args=(stop,), name=f"gateway-{instance}")
        thread.start()
        self._running.append((made, stop, thread))
        wait_until(lambda: made.port is not None, "the gateway listens")
        if ready:
            client = self.client(made)
            wait_until(lambda: client.request("GET", "/ready").status == 200, "the gateway is ready")
        return made

    def client(self, gateway: Gateway, token: str | None = TOKEN) -> Client:
        assert gateway.port is not None
        client = Client(gateway.port, token)
        self._clients.append(client)
        return client

    def stop(self, gateway: Gateway) -> None:
        for made, stop, thread in self._running:
            if made is gateway:
                stop.set()
                thread.join(30)
                assert not thread.is_alive()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for gateway, _, _ in self._running:
            self.stop(gateway)
        super().close()

    def rows(self, topic: str) -> list[dict[str, Any]]:
        return self.decoded(topic, self.contracts[topic].schema)

    def count(self, topic: str) -> int:
        return len(self.records(topic))


def event(number: int | str, data: Any, **more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": f"e-{number}", "source": "/shop", "type": "placed", "data": data, **more}


def ndjson(rows: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
