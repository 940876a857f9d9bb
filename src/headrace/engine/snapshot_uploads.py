"""Sending copies of local state to their store, now and then.

Owns when a copy is due, the thread that sends, and the count of what became of it.

- One thread sends, one copy at a time; per place at most one waits, and a newer one takes its place.
- Nobody waits for it, and nothing stops when it fails: a warning, a count, and another try when the next is due.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from headrace.engine.snapshots import ObjectSnapshots, SnapshotsUnavailable, StatePlace

CLOSE_TIMEOUT_S = 5.0
"""How long a process that ends waits for the copy that is on its way; an unfinished one leaves nothing behind."""
WAITING_MAX = 1_024
"""Places with a copy that waits, each an open file."""

log = structlog.get_logger("headrace.engine")


@dataclass(frozen=True, slots=True)
class SnapshotTotals:
    """What was sent since the start of the process."""

    uploaded: int = 0
    failed: int = 0
    uploaded_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Waiting:
    place: StatePlace
    file: int
    length_bytes: int
    number: int


class SnapshotUploads:
    """Sends copies when they are due, on a thread of its own. `is_due` and `offer` never wait."""

    def __init__(
        self,
        store: ObjectSnapshots,
        *,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._interval_s, self._clock = store, interval_s, clock
        self._due_s: dict[StatePlace, float] = {}
        self._sent: dict[StatePlace, int] = {}
        """The commit of the last copy that was sent or waits."""
        self._waiting: dict[StatePlace, _Waiting] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._totals = SnapshotTotals()
        self._thread = threading.Thread(target=self._send_all, name="headrace-snapshots", daemon=True)
        self._thread.start()

    def is_due(self, place: StatePlace, number: int) -> bool:
        """Whether a copy at this commit should be offered now.

        The first of a place is due some part of an interval after it was first asked for, another part for each
        place: a process that takes over many does not send all at once.
        """
        with self._changed:
            now_s = self._clock()
            if place not in self._due_s:
                part = zlib.crc32(place.folder.encode()) / 2**32
                self._due_s[place] = now_s + part * self._interval_s
            return now_s >= self._due_s[place] and number > self._sent.get(place, -1)

    def offer(self, place: StatePlace, path: Path, length_bytes: int, number: int) -> None:
        """Send the first `length_bytes` of this file, soon. The file is opened before this returns; it may grow,
        be renamed or be removed afterwards, but those bytes must not change."""
        with self._changed:
            if self._is_closed or (place not in self._waiting and len(self._waiting) >= WAITING_MAX):
                return
            try:
                file = os.open(path, os.O_RDONLY)
            except OSError as error:
                self._failed(place, number, str(error))
                return
            self._drop(place)
            self._waiting[place] = _Waiting(place, file, length_bytes, number)
            self._sent[place] = number
            self._due_s[place] = self._clock() + self._interval_s
            self._changed.notify()

    def forget(self, place: StatePlace) -> None:
        """The place moved to another worker."""
        with self._changed:
            self._drop(place)
            self._due_s.pop(place, None)
            self._sent.pop(place, None)

    @property
    def totals(self) -> SnapshotTotals:
        return self._totals

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Send nothing more; a copy on its way may finish in this time. Idempotent."""
        with self._changed:
            self._is_closed = True
            for place in list(self._waiting):
                self._drop(place)
            self._changed.notify()
        self._thread.join(timeout_s)

    def _drop(self, place: StatePlace) -> None:
        older = self._waiting.pop(place, None)
        if older is not None:
            os.close(older.file)

    def _next(self) -> _Waiting | None:
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return None
            return self._waiting.pop(next(iter(self._waiting)))

    def _send_all(self) -> None:
        while True:
            job = self._next()
            if job is None:
                return
            try:
                self._send(job)
            finally:
                os.close(job.file)

    def _send(self, job: _Waiting) -> None:
        try:
            self._store.put_open(job.place, job.file, job.length_bytes, job.number)
        except SnapshotsUnavailable as error:
            with self._changed:
                if self._sent.get(job.place) == job.number:
                    del self._sent[job.place]
                self._failed(job.place, job.number, error.message)
            return
        with self._changed:
            done = self._totals
            self._totals = SnapshotTotals(done.uploaded + 1, done.failed, done.uploaded_bytes + job.length_bytes)
        log.debug("snapshot_stored", place=str(job.place), number=job.number, bytes=job.length_bytes)

    def _failed(self, place: StatePlace, number: int, reason: str) -> None:
        done = self._totals
        self._totals = SnapshotTotals(done.uploaded, done.failed + 1, done.uploaded_bytes)
        log.warning("snapshot_not_stored", place=str(place), number=number, reason=reason)
