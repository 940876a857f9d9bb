"""The gateway's HTTP.

Owns sockets, limits of requests and connections, and the way of a request from its bytes to its answer.

- A request is let in by its token, the topic's right, the client's rate, and the room that is left, in this order, and
  before its body is read. Its body is never in memory beyond the limit, packed or not.
- What is answered as accepted is durable. After a timeout the answer says that nobody knows.
- A connection above the limit is told so and closed; one that is slow with its headers is closed.
- `drain`: requests under way get their answers, others are told to come again.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import ClientPayloadError, web
from multidict import CIMultiDictProxy
from prometheus_client.exposition import choose_encoder

from headrace.errors import HeadraceError
from headrace.ingress.gateway.access import Access, Client
from headrace.ingress.gateway.answers import Answer
from headrace.ingress.gateway.bodies import Body, Unpacking, media_of
from headrace.ingress.gateway.config import GatewayConfig
from headrace.ingress.gateway.connections import Connections
from headrace.ingress.gateway.errors import OutcomeUnknown, Overloaded, RequestMalformed, RequestSlow, RequestTooLarge
from headrace.ingress.gateway.events import attributes_of
from headrace.ingress.gateway.metrics import GatewayMetrics, counts_of
from headrace.ingress.gateway.openapi import openapi_document
from headrace.ingress.gateway.preparing import Pending, Reply, fingerprint_of, hashed_key
from headrace.ingress.gateway.problems import problem_response

KEY_HEADER = "Idempotency-Key"
KEY_CHARACTERS_MAX = 255
BACKLOG = 512
KEEPALIVE_S = 75.0
"""How long a connection may be idle between requests: they are counted."""
LINGERING_S = 1.0
"""How long the rest of a refused body is thrown away, so that its sender sees the answer."""
DRAIN_S = 20.0
"""For requests under way when the gateway is told to end; shorter than the supervisor's patience."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Submit = Callable[[Pending], None]


class Server:
    """Used on one loop. `start`, then `drain` and `close`."""

    def __init__(
        self,
        config: GatewayConfig,
        workspace: str,
        access: Access,
        metrics: GatewayMetrics,
        submit: Submit,
        not_ready: Callable[[], str | None],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._config, self._workspace, self._access, self._metrics = config, workspace, access, metrics
        self._submit, self._not_ready, self._tls = submit, not_ready, tls
        self._replies: dict[Pending, asyncio.Future[Reply]] = {}
        self._waiting_bytes = self._waiting = self._under_way = 0
        self._is_draining = False
        app = web.Application(middlewares=[self._answered])
        app.router.add_post("/topics/{topic}", self._post)
        app.router.add_get("/openapi.json", self._openapi)
        app.router.add_get("/live", self._live)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics_text)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGERING_S,
        )
        self._connections: Connections | None = None
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self.port = 0
        metrics.gauge("headrace_gateway_waiting_requests", "Requests without answer.", lambda: self._waiting)
        metrics.gauge("headrace_gateway_waiting_bytes", "Bodies in memory.", lambda: self._waiting_bytes)
        metrics.gauge("headrace_gateway_connections", "Open connections.", lambda: len(self._connections or ()))

    async def start(self) -> None:
        """Listen. Raises `OSError`."""
        await self._runner.setup()
        assert self._runner.server is not None
        patience_s = self._config.body_timeout_ms / 1_000
        self._connections = Connections(
            self._runner.server,
            self._config.connections_max,
            patience_s,
            self._metrics.connection_refused,
            has_tls=self._tls is not None,
        )
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connections.make,
            self._config.host,
            self._config.port,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else patience_s,
            backlog=BACKLOG,
            reuse_port=True,
        )
        self._sweeping = loop.create_task(self._connections.sweep())
        self.port = self._server.sockets[0].getsockname()[1]

    async def drain(self) -> None:
        """Take nothing new, and wait for what is under way."""
        self._is_draining = True
        if self._server is not None:
            self._server.close()
        deadline = time.monotonic() + DRAIN_S
        while self._under_way and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Idempotent."""
        if self._server is not None:
            self._server.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self._runner.cleanup()

    def replied(self, replies: Sequence[tuple[Pending, Reply]]) -> None:
        """The pipeline knows what became of these."""
        for request, reply in replies:
            future = self._replies.get(request)
            if future is not None and not future.done():
                future.set_result(reply)

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.monotonic()
        assert self._connections is not None
        self._connections.spoke(request.protocol)
        self._under_way += 1
        try:
            response = await handler(request)
        except HeadraceError as error:
            response = problem_response(error)
        except web.HTTPException as error:
            response = problem_response(error)
        finally:
            self._under_way -= 1
        response.headers["Server"] = "headrace"
        if self._is_draining:
            response.force_close()
        if request.match_info.handler == self._post:
            self._metrics.answered(response.status, time.monotonic() - began)
        return response

    async def _post(self, request: web.Request) -> web.StreamResponse:
        if self._is_draining:
            raise Overloaded("the gateway ends", cure="send the request again, to another one or in a moment")
        client = self._access.client(request.headers.get("Authorization"))
        contract = self._access.contract(client, request.match_info["topic"])
        client.check_rate()
        attributes = attributes_of(request.headers)
        media = media_of(request.headers.get("Content-Type"), attributes)
        key = idempotency_key(request.headers)
        if self._waiting >= self._config.waiting_requests_max:
            raise Overloaded(f"{self._waiting} requests wait", cure="send the request again")
        self._waiting += 1
        unpacking = Unpacking(request.headers.get("Content-Encoding"), self._config.body_bytes_max)
        try:
            data = await self._body(request, unpacking)
            pending = Pending(contract, client.name, Body(media, data, attributes), None, b"")
            pending.fingerprint = fingerprint_of(
                contract.topic.encode(), media.value.encode(), json.dumps(attributes, sort_keys=True).encode(), data
            )
            if key is not None:
                pending.key = hashed_key(self._workspace, self._config.name, client.name, contract.topic, key)
            return await self._reply(pending, client)
        finally:
            self._waiting -= 1
            self._waiting_bytes -= unpacking.size

    async def _body(self, request: web.Request, unpacking: Unpacking) -> bytes:
        """The body, unpacked, within the limits of size, time and room."""
        limit = self._config.body_bytes_max
        if request.content_length is not None and request.content_length > limit:
            raise RequestTooLarge(f"the body is above {limit} bytes", cure="send less at a time")
        try:
            async with asyncio.timeout(self._config.body_timeout_ms / 1_000):
                async for part in request.content.iter_any():
                    before = unpacking.size
                    try:
                        unpacking.add(part)
                    finally:
                        self._waiting_bytes += unpacking.size - before
                    if self._waiting_bytes > self._config.waiting_mb_max * 1_048_576:
                        raise Overloaded("too much waits for the log", cure="send the request again")
        except TimeoutError as error:
            raise RequestSlow("the body took too long", cure="send it faster, or less at a time") from error
        except (ClientPayloadError, ConnectionError) as error:
            raise RequestMalformed("the body broke off", cure="send it whole") from error
        return unpacking.whole()

    async def _reply(self, pending: Pending, client: Client) -> web.Response:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        pending.is_gone = future.done
        self._replies[pending] = future
        client.rate.take(1)
        try:
            self._submit(pending)
            async with asyncio.timeout(self._config.answer_timeout_ms / 1_000):
                reply = await future
        except TimeoutError as error:
            future.cancel()
            raise OutcomeUnknown(
                "the log did not answer in time: the records may be there, or come",
                cure="send the request again with the same Idempotency-Key",
            ) from error
        finally:
            del self._replies[pending]
        if not isinstance(reply, Answer):
            raise reply
        accepted, refused = counts_of(reply)
        client.rate.take(accepted + refused - 1)
        self._metrics.recorded(pending.contract.topic, accepted, refused)
        return web.Response(status=reply.status, body=reply.body, content_type="application/json")

    async def _openapi(self, request: web.Request) -> web.Response:
        client = self._access.client(request.headers.get("Authorization"))
        client.check_rate()
        client.rate.take(1)
        return web.json_response(openapi_document(self._config, self._access.writable(client)))

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        reason = "the gateway ends" if self._is_draining else self._not_ready()
        body = {"ready": reason is None, "reasons": [] if reason is None else [reason]}
        return web.json_response(body, status=200 if reason is None else 503)

    async def _metrics_text(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics.registry), headers={"Content-Type": content_type})


def idempotency_key(headers: CIMultiDictProxy[str]) -> str | None:
    """The request's key, with or without the quotes of a structured field. Raises `RequestMalformed`."""
    values = headers.getall(KEY_HEADER, [])
    if not values:
        return None
    key = values[0].strip()
    if len(key) >= 2 and key.startswith('"') and key.endswith('"'):
        key = key[1:-1]
    if len(values) > 1 or not key or len(key) > KEY_CHARACTERS_MAX or not (key.isascii() and key.isprintable()):
        raise RequestMalformed(
            f"{KEY_HEADER} is not one text of 1 to {KEY_CHARACTERS_MAX} characters", cure="send a UUID, for instance"
        )
    return key
