"""The two threads behind the gateway's HTTP: one prepares, one delivers.

Owns the queue of requests that wait, and the order in which things end.

- While one batch is on its way into the log the next is read, checked and encoded; a third waits as bytes.
- A batch goes when its oldest request has waited `linger_ms`, or when it is full.
- Every request that was submitted gets a reply, whatever happens.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from headrace.errors import Fault, HeadraceError
from headrace.ingress.batch_publisher import BatchPublisher, backoff_s
from headrace.ingress.gateway.answers import answer_of
from headrace.ingress.gateway.delivery import Delivery
from headrace.ingress.gateway.errors import Refusal
from headrace.ingress.gateway.preparing import Pending, Preparing, Reply, TopicBatch

BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Of bodies in one batch; one request is never cut."""
IDLE_S = 0.2
"""How late a process that has nothing to do learns the keys of others."""

_LOG = structlog.get_logger("headrace.ingress")

OnReply = Callable[[Sequence[tuple[Pending, Reply]]], None]


class Broken(Refusal):
    """A mistake of the gateway's own."""

    code, status, fault = "ingress.gateway_broken", 500, Fault.STOP


class Pipeline:
    """`start`, `submit` from one thread, `finish`. `on_reply` is called on the pipeline's threads."""

    def __init__(
        self,
        publisher: BatchPublisher,
        preparing: Preparing,
        delivery: Delivery,
        on_reply: OnReply,
        give_up: threading.Event,
        *,
        linger_s: float,
        batch_requests_max: int,
    ) -> None:
        self._publisher, self._preparing, self._delivery = publisher, preparing, delivery
        self._on_reply, self._give_up = on_reply, give_up
        self._linger_s, self._requests_max = linger_s, batch_requests_max
        self._inbox: deque[tuple[Pending, float]] = deque()
        self._inbox_bytes = 0
        self._wake = threading.Condition()
        self._closing = False
        self._prepared: queue.Queue[list[TopicBatch] | None] = queue.Queue(1)
        self._threads = [
            threading.Thread(target=self._prepare_all, name="gateway-prepare"),
            threading.Thread(target=self._deliver_all, name="gateway-deliver"),
        ]
        self.is_ready = threading.Event()
        """Set while the log answers."""
        self.failure: HeadraceError | None = None
        """Why nothing can be delivered until a person does something."""

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, request: Pending) -> None:
        """The reply comes later. The caller bounds what waits."""
        with self._wake:
            self._inbox.append((request, time.monotonic()))
            self._inbox_bytes += len(request.body.data)
            self._wake.notify()

    def finish(self) -> None:
        """Deliver what was submitted, and end the threads. Blocks; `give_up` hurries it."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _take(self) -> list[Pending]:
        """The next batch; empty at the end."""
        with self._wake:
            while not self._inbox and not self._closing:
                self._wake.wait()
            if not self._inbox:
                return []
            self._linger(self._inbox[0][1] + self._linger_s)
            batch: list[Pending] = []
            size = 0
            while self._inbox and len(batch) < self._requests_max and size < BATCH_BYTES_MAX:
                request, _ = self._inbox.popleft()
                size += len(request.body.data)
                batch.append(request)
            self._inbox_bytes -= size
            return batch

    def _linger(self, until: float) -> None:
        while not self._closing and self._inbox_bytes < BATCH_BYTES_MAX and len(self._inbox) < self._requests_max:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._wake.wait(left)

    def _prepare_all(self) -> None:
        try:
            while batch := self._take():
                try:
                    self._prepared.put(self._prepare(batch))
                except Exception as error:  # noqa: BLE001 - a mistake of ours: everybody of the batch learns it
                    self._broke(batch, error)
        finally:
            self._prepared.put(None)

    def _prepare(self, batch: Sequence[Pending]) -> list[TopicBatch]:
        waiting = [request for request in batch if not request.is_gone()]
        refused: list[tuple[Pending, Reply]] = []
        batches = self._preparing.prepare(waiting, lambda request, error: refused.append((request, error)))
        for each in batches:
            owners = set(each.owner.tolist())
            for number, request in enumerate(each.requests):
                if number not in owners:
                    # Nothing of it goes into the log, so it need not wait for that.
                    outcomes = [outcome for outcome in request.outcomes if outcome is not None]
                    refused.append((request, answer_of(request.contract.topic, outcomes)))
        self._on_reply(refused)
        return [each for each in batches if len(each.owner)]

    def _deliver_all(self) -> None:
        try:
            self._open()
            while True:
                try:
                    batches = self._prepared.get(timeout=IDLE_S)
                except queue.Empty:
                    self._idle()
                    continue
                if batches is None:
                    return
                self._deliver(batches)
        finally:
            self.is_ready.clear()
            self._delivery.close()
            self._publisher.close()

    def _open(self) -> None:
        """Wait for the log; a request that comes meanwhile waits, too."""
        for pause_s in backoff_s():
            try:
                self._delivery.open()
                self.is_ready.set()
                return
            except HeadraceError as error:
                if error.fault is not Fault.RETRY:
                    self.failure = error
                    return
                _LOG.warning("gateway waits", code=error.code, error=str(error))
                if self._give_up.wait(pause_s) or self._closing:
                    return

    def _idle(self) -> None:
        """Follow the keys of other processes."""
        try:
            self._delivery.open()
            self._delivery.keys.follow()
            self.is_ready.set()
        except HeadraceError as error:
            self.is_ready.clear()
            self._delivery.close()
            self._delivery.error = error

    def _deliver(self, batches: list[TopicBatch]) -> None:
        if not batches:
            return
        requests = [request for batch in batches for request in batch.requests]
        try:
            replies = self._delivery.deliver(batches)
        except Exception as error:  # noqa: BLE001 - a mistake of ours: everybody of the batch learns it
            self._delivery.close()
            self._broke(requests, error)
            return
        self._on_reply(list(replies.items()))

    def _broke(self, requests: Sequence[Pending], error: Exception) -> None:
        _LOG.error("gateway_broken", error=f"{type(error).__name__}: {error}", exc_info=True)
        broken = Broken("something went wrong here", cure="repeat the request with the same Idempotency-Key")
        self._on_reply([(request, broken) for request in requests])
