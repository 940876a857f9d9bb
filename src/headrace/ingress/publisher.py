"""The asynchronous publisher: what a service uses to write events.

Owns the queue between a service's coroutines and the one thread that encodes and delivers.

- `publish` returns when the record is durable, or raises why it is not; `send` returns a future that does the same.
- Records of one topic are delivered in the order of the calls.
- A batch goes when its oldest record has waited `linger_ms`, or when it is full; one batch is under way at a time.
- The queue is bounded by records and bytes: `publish` waits for room, `send` raises `QueueFull`.
- Leaving the `async with` block delivers everything that was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from headrace.contracts.contract import Contract
from headrace.contracts.registry import Registry
from headrace.errors import HeadraceError
from headrace.ingress.batch_publisher import BatchPublisher, Outcome, RecordMetadata
from headrace.ingress.encoder import Clock, Entry, now_ms
from headrace.ingress.environment import Environment, GivenEnvironment, open_environment
from headrace.ingress.violations import PublisherClosed, QueueFull
from headrace.log.port import Log

LINGER_MS = 5
"""Long enough to share one round trip between concurrent callers, too short to be felt."""
BATCH_RECORDS_MAX = 5_000
BATCH_BYTES_MAX = 4 * 1024 * 1024
QUEUE_RECORDS_MAX = 50_000
QUEUE_BYTES_MAX = 64 * 1024 * 1024
VALUE_BYTES_GUESS = 16
"""What a field without a length counts for; batches and queue are bounded by this estimate, not by encoded bytes."""

Headers = Mapping[str, str | bytes]


@dataclass(frozen=True, slots=True)
class _Queued:
    entry: Entry
    future: asyncio.Future[RecordMetadata]
    bytes: int
    queued_at: float


class Publisher:
    """Publishes records by contract. `name` is the service, for logs.

    Without `environment` (or `log`, `registry` and `contracts`), the workspace at `workspace`, or that of the current
    folder, says where to publish.
    """

    def __init__(
        self,
        name: str,
        *,
        workspace: Path | str | None = None,
        environment: Environment | None = None,
        log: Log | None = None,
        registry: Registry | None = None,
        contracts: Mapping[str, Contract] | None = None,
        linger_ms: float = LINGER_MS,
        clock: Clock = now_ms,
    ) -> None:
        self.name = name
        self._workspace, self._linger_s, self._clock = workspace, linger_ms / 1_000, clock
        self._environment = environment
        if log is not None and registry is not None and contracts is not None:
            self._environment = GivenEnvironment(log, registry, contracts, name)
        elif log is not None or registry is not None or contracts is not None:
            raise PublisherClosed("a publisher needs log, registry and contracts together", cure="give all three")
        self._owns_environment = self._environment is None
        self._core: BatchPublisher | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None
        self._queue: deque[_Queued] = deque()
        self._queue_bytes = 0
        self._closing = False

    async def __aenter__(self) -> Self:
        self._wake, self._room, self._idle = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._closing, self._hurried = False, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"publisher-{self.name}")
        try:
            self._core = await self._in_thread(self._open)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        self._task = asyncio.create_task(self._deliver_all(), name=f"publisher-{self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        assert self._thread is not None
        self._closing = True
        self._wake.set()
        self._room.set()
        try:
            await self._task
        finally:
            await self._in_thread(self._close)
            self._thread.shutdown()

    async def publish(
        self,
        topic: str,
        row: Mapping[str, Any],
        *,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> RecordMetadata:
        """Write one record and wait until it is durable.

        Raises `ContractViolation` (or `KeyMissing`, `EventTimeInvalid`) naming the field, `UnknownContract`,
        `RecordTooLarge`, or what the log says. After a log error the outcome is unknown: the record may be there.
        A cancelled call may still have written its record.
        """
        await self.ready()
        return await self.send(topic, row, timestamp_ms=timestamp_ms, headers=headers)

    async def delete(self, topic: str, key: Mapping[str, Any], *, timestamp_ms: int | None = None) -> RecordMetadata:
        """Delete the row of `key` from a topic of kind `table`, and wait until that is durable."""
        await self.ready()
        return await self._enqueue(topic, key, timestamp_ms, None, is_deletion=True)

    def send(
        self,
        topic: str,
        row: Mapping[str, Any],
        *,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        """Queue one record; the future ends as `publish` would. Raises `QueueFull`: await `ready()` between sends.

        `row` must not be changed until the future is done.
        """
        return self._enqueue(topic, row, timestamp_ms, headers, is_deletion=False)

    async def ready(self) -> None:
        """Wait until the queue has room."""
        while self._is_full() and not self._closing:
            self._room.clear()
            await self._room.wait()

    async def flush(self) -> None:
        """Wait until every record sent so far has its outcome; futures of failed ones tell why."""
        waiting = [queued.future for queued in self._queue]
        self._hurried += 1
        self._wake.set()
        try:
            if waiting:
                await asyncio.wait(waiting)
            await self._idle.wait()
        finally:
            self._hurried -= 1

    def _enqueue(
        self,
        topic: str,
        row: Mapping[str, Any],
        timestamp_ms: int | None,
        headers: Headers | None,
        *,
        is_deletion: bool,
    ) -> asyncio.Future[RecordMetadata]:
        if self._core is None or self._closing:
            raise PublisherClosed(f"publisher {self.name!r} is not open", cure="use it inside `async with`")
        if self._is_full():
            cure = "await publisher.ready() between sends"
            raise QueueFull(f"publisher {self.name!r} has {len(self._queue)} records waiting", cure=cure)
        self._core.require(topic)
        loop = asyncio.get_running_loop()
        stamp = self._clock() if timestamp_ms is None else timestamp_ms
        entry = Entry(topic, row, stamp, _header_row(headers), is_deletion)
        queued = _Queued(entry, loop.create_future(), estimated_bytes(row), loop.time())
        self._queue.append(queued)
        self._queue_bytes += queued.bytes
        self._wake.set()
        return queued.future

    def _is_full(self) -> bool:
        return len(self._queue) >= QUEUE_RECORDS_MAX or self._queue_bytes >= QUEUE_BYTES_MAX

    async def _deliver_all(self) -> None:
        """Deliver batch after batch until the publisher closes and the queue is empty."""
        while True:
            self._wake.clear()
            if not self._queue:
                if self._closing:
                    return
                await self._wake.wait()
                continue
            await self._linger()
            batch = self._take()
            self._idle.clear()
            try:
                await self._deliver(batch)
            finally:
                self._idle.set()

    async def _linger(self) -> None:
        """Wait for more records, unless the batch is full or somebody waits for it to go."""
        loop = asyncio.get_running_loop()
        deadline = self._queue[0].queued_at + self._linger_s
        while not self._closing and not self._hurried and not self._batch_is_full():
            left = deadline - loop.time()
            if left <= 0:
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)

    def _batch_is_full(self) -> bool:
        return len(self._queue) >= BATCH_RECORDS_MAX or self._queue_bytes >= BATCH_BYTES_MAX

    def _take(self) -> list[_Queued]:
        batch: list[_Queued] = []
        size = 0
        while self._queue and len(batch) < BATCH_RECORDS_MAX and size < BATCH_BYTES_MAX:
            queued = self._queue.popleft()
            self._queue_bytes -= queued.bytes
            if not queued.future.cancelled():
                batch.append(queued)
                size += queued.bytes
        self._room.set()
        return batch

    async def _deliver(self, batch: list[_Queued]) -> None:
        assert self._core is not None
        try:
            outcomes: list[Outcome] = await self._in_thread(self._core.deliver, [queued.entry for queued in batch])
        except Exception as error:  # noqa: BLE001 - a mistake of ours: every caller of the batch learns it
            for queued in batch:
                if not queued.future.done():
                    queued.future.set_exception(error)
            return
        for queued, outcome in zip(batch, outcomes, strict=True):
            if queued.future.done():
                continue
            if isinstance(outcome, HeadraceError):
                queued.future.set_exception(outcome)
            else:
                queued.future.set_result(outcome)

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _open(self) -> BatchPublisher:
        if self._environment is None:
            self._environment = open_environment(self._workspace)
        return BatchPublisher(self._environment, name=self.name, clock=self._clock)

    def _close(self) -> None:
        assert self._core is not None
        self._core.close()
        self._core = None
        if self._owns_environment and self._environment is not None:
            self._environment.close()
            self._environment = None


def estimated_bytes(value: Any) -> int:
    """About how many bytes a value holds."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(estimated_bytes, value.values()), VALUE_BYTES_GUESS)
    if isinstance(value, list | tuple):
        return sum(map(estimated_bytes, value), VALUE_BYTES_GUESS)
    return VALUE_BYTES_GUESS


def _header_row(headers: Headers | None) -> list[tuple[str, bytes | None]] | None:
    if headers is None:
        return None
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers.items()]
