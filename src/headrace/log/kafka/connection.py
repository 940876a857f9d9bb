"""Patience with a broker that does not answer.

Owns how often, how long and how loudly a call is made again, for all clients of one `KafkaLog`.

- A passing error is met with the very same call; what was asked for is never given up halfway.
- The repetition is bounded (`unavailable_after_s`); then `LogUnavailable` is raised and nothing is lost.
- Trouble is told at once and then at most every `NOTICE_INTERVAL_S`, however many calls suffer from it.
- A broker that answers "not yet" or "not here" is no outage: coordinators and leaders move, and move in when a group is
  new. That is `kafka_not_ready`, quiet at first; only no answer at all is `kafka_unreachable`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException

from headrace.log.kafka.errors import DENIED, is_passing, kafka_error
from headrace.log.port import LogUnavailable

Answer = TypeVar("Answer")

UNAVAILABLE_AFTER_S = 60.0
"""A broker that restarts was away for up to 33 s in our trials, its group and transaction coordinators included."""

REQUEST_TIMEOUT_S = 10.0
"""One attempt. Shorter than librdkafka's 60 s, so that trouble is told early."""

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 1.0
NOTICE_INTERVAL_S = 10.0

LOUD = DENIED | {KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE}
"""Errors of a client's own threads worth a line; a single lost connection is none while another broker answers."""

logger = structlog.get_logger("headrace.log.kafka")


class Connection:
    """What the clients of one log know together about the brokers' health. Any thread may call."""

    def __init__(self, bootstrap_servers: str, *, unavailable_after_s: float = UNAVAILABLE_AFTER_S) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.unavailable_after_s = unavailable_after_s
        self._last_error = ""
        self._told_at: dict[str, float] = {}
        """When each event was told last."""
        self._lock = threading.Lock()

    def on_client_error(self, error: KafkaError) -> None:
        """librdkafka's `error_cb`: something happened outside any call."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            # "All brokers are down" follows the error that tells why.
            self._last_error = error.str()
        if error.code() in LOUD:
            self.tell(self._last_error or error.str())

    def tell(self, reason: str, *, action: str = "") -> None:
        """One line about trouble, unless there was one a moment ago."""
        if self._is_due("kafka_unreachable"):
            extra = {"action": action} if action else {}
            logger.warning("kafka_unreachable", brokers=self.bootstrap_servers, reason=reason, retrying=True, **extra)

    def tell_of(self, error: KafkaError, *, action: str, for_s: float = 0.0) -> None:
        """One line about an error that passes, met by a call that has been repeated `for_s`."""
        if error.code() < 0:
            # The client's own codes: nobody answered.
            self.tell(error.str(), action=action)
        elif for_s >= NOTICE_INTERVAL_S:
            if self._is_due("kafka_not_ready_for_long"):
                logger.warning("kafka_not_ready", reason=error.str(), action=action, retrying=True, for_s=round(for_s))
        elif self._is_due("kafka_not_ready"):
            logger.info("kafka_not_ready", reason=error.str(), action=action, retrying=True)

    def _is_due(self, event: str) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._told_at.get(event, -NOTICE_INTERVAL_S) < NOTICE_INTERVAL_S:
                return False
            self._told_at[event] = now
            return True

    def repeat(self, action: str, call: Callable[[], Answer], *, within_s: float | None = None) -> Answer:
        """`call` until it answers or fails for good; a failure that does not pass is raised as it is.

        Raises `LogUnavailable` after `within_s`, by default after all the patience there is.
        """
        began_s = time.monotonic()
        deadline = began_s + (self.unavailable_after_s if within_s is None else within_s)
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                return call()
            except KafkaException as raised:
                error = kafka_error(raised)
                if not is_passing(error):
                    raise
                if time.monotonic() + backoff_s > deadline:
                    raise self.unavailable(action, error.str()) from raised
                self.tell_of(error, action=action, for_s=time.monotonic() - began_s)
            time.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    def unavailable(self, action: str, reason: str) -> LogUnavailable:
        """The error for a broker that did not answer for too long."""
        last = f"; last trouble: {self._last_error}" if self._last_error and self._last_error != reason else ""
        return LogUnavailable(
            f"{action}: Kafka at {self.bootstrap_servers} gave no answer for {self.unavailable_after_s:.0f} s "
            f"({reason}{last})",
            cure="check the brokers and the way to them; the same call may then be made again",
        )

    def request_timeout_s(self) -> float:
        """For one attempt of a call."""
        return min(REQUEST_TIMEOUT_S, self.unavailable_after_s)
