"""The embedded log: one file, no service, any number of processes.

- Making one touches nothing; the file is made and opened by the first producer, consumer or admin.
- Each of these has a connection of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from headrace.log.embedded.admin import EmbeddedAdmin
from headrace.log.embedded.consumer import EmbeddedConsumer
from headrace.log.embedded.maintenance import Maintenance
from headrace.log.embedded.membership import SESSION_TIMEOUT_MS
from headrace.log.embedded.producer import EmbeddedProducer
from headrace.log.embedded.storage import Storage, Synchronous


def wall_clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class EmbeddedLog:
    """A log in one SQLite file.

    `synchronous="full"` keeps every commit through a power failure. `"normal"` is faster where the disk is slow: a
    killed process still loses nothing, a power failure may undo the last commits, each one whole.
    `clock` gives record times and ages for retention.
    """

    name: str = "embedded"

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Synchronous = "full",
        session_timeout_ms: int = SESSION_TIMEOUT_MS,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.path = Path(path)
        self._synchronous: Synchronous = synchronous
        self._session_timeout_ms = session_timeout_ms
        self._clock = clock

    def producer(self, *, transactional_id: str | None = None) -> EmbeddedProducer:
        storage = self._storage()
        return EmbeddedProducer(storage, Maintenance(storage, self._clock), self._clock, transactional_id)

    def consumer(
        self, *, group: str | None = None, client_id: str = "headrace", instance: str | None = None
    ) -> EmbeddedConsumer:
        # `instance` means nothing here: handing a partition over costs a few milliseconds.
        return EmbeddedConsumer(
            self._storage(),
            self._storage(),
            group=group,
            client_id=client_id,
            session_timeout_ms=self._session_timeout_ms,
        )

    def admin(self) -> EmbeddedAdmin:
        return EmbeddedAdmin(self._storage(), self._clock)

    def maintain(self) -> None:
        """Do all housekeeping at once: merge, compact, apply retention, free what is deleted."""
        storage = self._storage()
        try:
            Maintenance(storage, self._clock).run()
        finally:
            storage.close()

    def close(self) -> None:
        """Nothing to free: producers, consumers and admins close their own connections."""

    def _storage(self) -> Storage:
        return Storage(self.path, synchronous=self._synchronous)
