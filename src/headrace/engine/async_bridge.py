"""The event loop beside the columnar thread.

Owns one thread that runs an asyncio loop for users' coroutines and HTTP. The columnar thread hands coroutines over
and never runs them; nothing here touches state, consumer or producer. The thread starts with the first coroutine.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

STOP_TIMEOUT_S = 5.0
"""How long `close` waits for the loop's thread; what still runs then dies with the process."""


class AsyncBridge:
    """Runs coroutines on a loop of its own. Thread-safe; `close` is idempotent and cancels what runs."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"{name}-async", daemon=True)
        self._has_begun = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine; the future carries its result or error. Called on one thread."""
        if not self._has_begun:
            self._has_begun = True
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        if not self._has_begun:
            self._loop.close()
        elif self.is_running:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_TIMEOUT_S)
