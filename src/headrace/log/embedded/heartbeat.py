"""The heartbeat of one group member: a thread that says "still here" while the process lives.

- It beats on its own, so that a long batch or a restore between two polls costs no membership.
- A stopped or killed process does not beat; after the session timeout its partitions go to others.
- It stops by itself when the member was put out, or did not poll for `POLL_INTERVAL_MAX_MS`.
- An unavailable log is tried again at the next beat; the member finds out in its next poll.
"""

from __future__ import annotations

import threading

from headrace.log.embedded.membership import HEARTBEATS_PER_SESSION, POLL_INTERVAL_MAX_MS, monotonic_ms
from headrace.log.embedded.storage import Storage
from headrace.log.port import LogError

STOP_WAIT_S = 5.0


class Heartbeat:
    """Beats for one member id at a time."""

    def __init__(self, storage: Storage, group: str, session_timeout_ms: int) -> None:
        self._storage, self._group, self._session_timeout_ms = storage, group, session_timeout_ms
        self._member_id = ""
        self._polled_ms = monotonic_ms()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.failures = 0
        """Beats that did not reach the file."""

    def polled(self, member_id: str) -> None:
        """The member is at work under this id."""
        self._polled_ms = monotonic_ms()
        self._member_id = member_id
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=f"heartbeat {self._group}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_WAIT_S)
        self._storage.close()

    def _run(self) -> None:
        pause_s = self._session_timeout_ms / HEARTBEATS_PER_SESSION / 1000
        while not self._stop.wait(pause_s):
            if monotonic_ms() - self._polled_ms > POLL_INTERVAL_MAX_MS:
                return
            try:
                self._beat()
            except LogError:
                self.failures += 1

    def _beat(self) -> None:
        with self._storage.write() as connection:
            connection.execute(
                "UPDATE members SET expires_ms = ? WHERE group_id = ? AND member_id = ?",
                (monotonic_ms() + self._session_timeout_ms, self._group, self._member_id),
            )
