"""How many connections there are, and which of them never say anything.

Owns the limit of connections, and the time until the first request of one is there with its headers.

- A connection above the limit gets a fixed answer and no memory beyond that. One whose TLS has not begun counts.
- Later requests of a connection are aiohttp's to wait for: it closes idle ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

SWEEP_S = 0.25
LIMIT_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/problem+json\r\nContent-Length: 114\r\n\r\n"
    b'{"status":503,"title":"Service Unavailable","code":"ingress.overloaded",'
    b'"detail":"too many connections are open"}\n'
)
MAKING_S = 1.0
"""From a protocol to its connection, without TLS: a turn of the loop."""
SLOW_ANSWER = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class _Refusing(asyncio.Protocol):
    """A connection above the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(LIMIT_ANSWER)
        transport.close()


class Connections:
    """The open connections of one server. Used on one loop."""

    def __init__(
        self,
        server: web.Server,
        connections_max: int,
        patience_s: float,
        on_refused: Callable[[], None],
        *,
        has_tls: bool,
    ) -> None:
        self._server, self._max, self._patience_s, self._on_refused = server, connections_max, patience_s, on_refused
        self._making_s = patience_s if has_tls else MAKING_S
        self._fresh: dict[web.RequestHandler, float] = {}
        """Made, and perhaps not connected yet, the oldest first."""
        self._silent: dict[web.RequestHandler, float] = {}
        """Since when those have been open that sent no request."""
        self._spoke: set[object] = set()

    def __len__(self) -> int:
        return len(self._server.connections)

    def make(self) -> asyncio.BaseProtocol:
        """A protocol for a new connection."""
        connections = self._server.connections
        self._forget_fresh(connections)
        if len(connections) + len(self._fresh) >= self._max:
            self._on_refused()
            return _Refusing()
        made = self._server()
        self._fresh[made] = time.monotonic()
        return made

    def _forget_fresh(self, connections: list[web.RequestHandler]) -> None:
        """Those that are connected, or were: a connection may come and go between two looks."""
        for each in connections:
            self._fresh.pop(each, None)
        before = time.monotonic() - self._making_s
        while self._fresh and next(iter(self._fresh.values())) < before:
            del self._fresh[next(iter(self._fresh))]

    def spoke(self, handler: web.RequestHandler) -> None:
        """A request came on this connection."""
        self._fresh.pop(handler, None)
        self._spoke.add(handler)

    async def sweep(self) -> None:
        """Close silent connections, until cancelled."""
        while True:
            await asyncio.sleep(min(SWEEP_S, self._patience_s / 2))
            now = time.monotonic()
            connections = self._server.connections
            self._spoke.intersection_update(connections)
            self._silent = {each: self._silent.get(each, now) for each in connections if each not in self._spoke}
            for handler, since in self._silent.items():
                if now - since > self._patience_s and isinstance(handler.transport, asyncio.WriteTransport):
                    handler.transport.write(SLOW_ANSWER)
                    handler.transport.close()
            self._forget_fresh(connections)
