"""HTTP of one worker process: `/live`, `/ready`, `/metrics`, `/tables`.

Owns the listening socket and the thread that answers. Reads `Health`; changes nothing.

- `/live` answers 200 as long as the process does, whatever the work does: a broker that is away, or a long restore, is
  no reason to kill a worker. Its body names components whose thread does not come back.
- `/ready` answers 200 or 503, with the reasons in its body.
- The thread is not the worker's: a long batch delays no answer, and no answer delays a batch.
- A process that cannot listen where it was told does not start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from headrace.engine.async_bridge import AsyncBridge
from headrace.workspace.errors import WorkspaceError
from headrace.workspace.health import Health
from headrace.workspace.http_port import PORT_MAX
from headrace.workspace.tables_http import TablesHttp

START_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 1.0
"""How long an answer under way may hold up the end of the process."""


class HttpUnavailable(WorkspaceError):
    """A worker cannot serve HTTP where it was told to."""

    code = "workspace.http_unavailable"


@contextmanager
def serving(health: Health, host: str, port: int, tables: TablesHttp | None = None) -> Iterator[int]:
    """Serve beside the block, and give the port, 0 taking any free one. Raises `HttpUnavailable`."""
    if port > PORT_MAX:
        raise HttpUnavailable(
            f"this worker's HTTP port would be {port}, above {PORT_MAX}",
            cure="choose a lower port with --http-port, or in [http] of headrace.toml",
        )
    server = HttpServer(health, host=host, port=port, tables=tables)
    try:
        yield server.port
    finally:
        server.close()


class HttpServer:
    """Listens from its making until `close`. Port 0 takes any free one."""

    def __init__(self, health: Health, *, host: str, port: int, tables: TablesHttp | None = None) -> None:
        self._health = health
        self._host, self._asked_port = host, port
        self.port = 0
        """Where it listens."""
        app = web.Application()
        app.router.add_get("/live", self._live)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        if tables is not None:
            tables.add_to(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
        self._bridge = AsyncBridge("http")
        try:
            self._bridge.submit(self._start()).result(START_TIMEOUT_S)
        except OSError as error:
            self.close()
            raise HttpUnavailable(
                f"cannot serve HTTP at {host}:{port}: {error.strerror or error}",
                cure="free the port, or choose another with --http-port or in [http] of headrace.toml",
            ) from error

    async def _start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._asked_port).start()
        self.port = self._runner.addresses[0][1]

    def close(self) -> None:
        """Idempotent."""
        if self._bridge.is_running:
            self._bridge.submit(self._runner.cleanup()).result(START_TIMEOUT_S)
            self._bridge.close()

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True, "pid": os.getpid(), "stuck": self._health.stuck()})

    async def _ready(self, _: web.Request) -> web.Response:
        readiness = self._health.readiness()
        body = {
            "ready": readiness.is_ready,
            "reasons": list(readiness.reasons),
            "components": list(readiness.components),
        }
        return web.json_response(body, status=200 if readiness.is_ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # `content_type=` would refuse the version and charset that are part of it.
        return web.Response(body=encode(self._health.registry), headers={"Content-Type": content_type})
