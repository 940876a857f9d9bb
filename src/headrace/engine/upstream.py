"""Whether tasks of other processes are really done.

Owns the questions that a word like "I am idle" needs before anybody relies on it: its speaker may have died since, with
records to read. The committed offsets of the group say what was processed, by whomever.

- An answer holds for the moment of its question. What was in the log by then is processed, and its rows are written.
- Questions are asked on a thread of their own, with a client of their own: an open transaction of a dead worker keeps
  offsets back for as long as it lasts, and must hold up nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import structlog

from headrace.errors import HeadraceError
from headrace.log.port import Consumer, Log, TopicPartition

CLOSE_TIMEOUT_S = 2.0
"""How long `close` waits for an open question; its thread then dies with the process."""

log = structlog.get_logger("headrace.engine")


class Upstream:
    """Of one worker. Called on the worker's thread."""

    def __init__(self, source: Log, group: str) -> None:
        self._log, self._group = source, group
        self._consumer: Consumer | None = None
        self._tickets = 0
        self._wanted: dict[int, Sequence[TopicPartition]] = {}
        """Questions that wait for their turn."""
        self._answers: dict[int, bool] = {}
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def ask(self, places: Sequence[TopicPartition]) -> int:
        """Ask whether the group has processed all of these partitions, as of some moment from now on; the ticket for
        the answer."""
        self._tickets += 1
        self._wanted[self._tickets] = places
        return self._tickets

    def answer(self, ticket: int) -> bool | None:
        """The answer, once; None while it is to come."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
        if ticket in self._answers:
            return self._answers.pop(ticket)
        if self._thread is None and self._wanted:
            wanted, self._wanted = self._wanted, {}
            self._thread = threading.Thread(target=self._ask, args=(wanted,), name="upstream", daemon=True)
            self._thread.start()
        return None

    def forget(self, ticket: int) -> None:
        """Nobody waits for this answer any more."""
        self._wanted.pop(ticket, None)
        self._answers.pop(ticket, None)

    def _ask(self, wanted: Mapping[int, Sequence[TopicPartition]]) -> None:
        places = sorted({here for each in wanted.values() for here in each})
        try:
            if self._consumer is None:
                self._consumer = self._log.consumer(group=self._group, client_id=f"{self._group}-upstream")
            ends = self._consumer.end_offsets(places, committed=False)
            committed = self._consumer.committed(places)
        except HeadraceError as error:
            log.info("upstream_not_known", code=error.code, reason=str(error))
            done: set[TopicPartition] = set()
        else:
            done = {
                here for here, end in ends.items() if not end or (here in committed and committed[here].offset >= end)
            }
        self._answers.update({ticket: done.issuperset(each) for ticket, each in wanted.items()})
        if self._is_closed:
            self._let_go()

    def close(self) -> None:
        """Wait a little for an open question."""
        self._is_closed = True
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
            if self._thread.is_alive():
                return
        self._let_go()

    def _let_go(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
