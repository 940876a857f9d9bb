"""A schema registry on a local port, for tests of what speaks to one over HTTP.

Owns the server's thread.

- It listens when `start` returns and is gone when `close` returns.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

from aiohttp import web

from headrace.contracts.registry import Registry
from headrace.contracts.registry_server import registry_app

STARTED_TIMEOUT_S = 10.0


class RegistryService:
    """Serves `registry` on 127.0.0.1. Use it as a context manager, or `start` and `close`."""

    def __init__(self, registry: Registry, *, port: int = 0) -> None:
        self._registry = registry
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="registry-service", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> RegistryService:
        self._thread.start()
        if not self._listening.wait(STARTED_TIMEOUT_S):
            raise TimeoutError("the registry service did not start")
        if self._failure is not None:
            raise self._failure
        return self

    def close(self) -> None:
        """Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self) -> RegistryService:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except OSError as error:  # The port is taken: told by `start`.
            self._failure = error
        finally:
            self._listening.set()
            self._loop.close()

    async def _serve(self) -> None:
        runner = web.AppRunner(registry_app(self._registry))
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
            self._port = int(runner.addresses[0][1])
            self._listening.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()
