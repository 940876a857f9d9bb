"""The airports: what tells of departures.

Owns the two ways of doing so: through the SDK into the log, and over HTTP to a gateway, as a service in any other
language would. Either way what was published is durable when the call returns.
"""

from __future__ import annotations

import http.client
import io
import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import polars as pl

from headrace.errors import HeadraceError
from headrace.ingress.batch_publisher import BatchPublisher
from headrace.workspace.environment import Environment

TOPIC = "flights.departed"
REQUEST_ROWS = 5_000
READY_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 60.0
TRIES_MAX = 100
AGAIN = (409, 429, 503)


class FlightsRefused(HeadraceError):
    """The gateway does not take the flights."""

    code = "demo.flights_refused"


class Airports(Protocol):
    """Whoever tells of departures."""

    def publish(self, flights: pl.DataFrame) -> None:
        """Flights with the columns of the contract, in their order."""


class PublishingAirports:
    """Through the SDK. A context manager."""

    def __init__(self, environment: Environment) -> None:
        self._publisher = BatchPublisher(environment, name="airports")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._publisher.close()

    def publish(self, flights: pl.DataFrame) -> None:
        encoder = self._publisher.encoder(TOPIC)
        table = flights.to_arrow()
        stamps = np.full(table.num_rows, self._publisher.clock(), np.int64)
        prepared = encoder.encode_columns(encoder.columns.from_table(table), stamps)
        assert not prepared.violations, "the source files fit their contract"
        refused = self._publisher.produce(prepared)
        assert not refused
        self._publisher.flush()


class PostingAirports:
    """Over HTTP. A request that has no answer is sent again under its key."""

    def __init__(self, port: int, token: str, alive: Callable[[], None] = lambda: None) -> None:
        self._port, self._token, self._alive = port, token, alive
        self._number = 0

    def publish(self, flights: pl.DataFrame) -> None:
        for start in range(0, flights.height, REQUEST_ROWS):
            body = io.BytesIO()
            _as_sent(flights[start : start + REQUEST_ROWS]).write_ndjson(body)
            self._number += 1
            self._post(body.getvalue(), f"flights-{self._number}")

    def wait_until_ready(self) -> None:
        """Raises `FlightsRefused` when the gateway does not come."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self._answer("GET", "/ready", None, {})[0] != 200:
            self._alive()
            if time.monotonic() > deadline:
                raise FlightsRefused(f"the gateway is not ready within {READY_TIMEOUT_S:g} s", cure="see its log")
            time.sleep(0.05)

    def _post(self, body: bytes, key: str) -> None:
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/x-ndjson",
            "Idempotency-Key": key,
        }
        for _ in range(TRIES_MAX):
            status, answer = self._answer("POST", f"/topics/{TOPIC}", body, headers)
            if status == 200:
                return
            if status and status not in AGAIN:
                told = json.dumps(answer)[:500]
                raise FlightsRefused(f"the gateway answered {status}: {told}", cure="see its log")
            self._alive()
            time.sleep(0.2)
        raise FlightsRefused(f"the gateway gave no answer in {TRIES_MAX} tries", cure="see its log")

    def _answer(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, object]:
        """Status and body; 0 without any answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()


def _as_sent(flights: pl.DataFrame) -> pl.DataFrame:
    """Times as RFC 3339."""
    return flights.with_columns(pl.col("scheduled_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
