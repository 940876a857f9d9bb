"""What librdkafka said outside of any answer, brought from the native client to Python.

Owns the split of a client's settings into those for librdkafka and the callbacks, and their calls.

- librdkafka's threads never call Python: what they say waits in the native client, bounded, until the next call of its
  owner fetches it.
- A fatal error is raised by the call that fetches it, as confluent-kafka does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from headrace.log.kafka.settings import ClientSettings

CALLBACKS = frozenset({"error_cb", "logger", "stats_cb"})

LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)
"""The level of `logging` for each of syslog's."""


class Callbacks(NamedTuple):
    """Whom to tell."""

    on_error: Callable[[KafkaError], None] | None
    logger: Any
    on_statistics: Callable[[str], None] | None

    def serve(self, errors: list[Any], lines: list[Any], statistics: str | None, lost: int) -> None:
        """Tell what waited; raises the fatal error, if there is one, after all else was told."""
        fatal: KafkaError | None = None
        for level, facility, name, text in lines:
            if self.logger is not None:
                self.logger.log(LEVELS[min(max(level, 0), 7)], "%s [%s] %s", facility, name, text)
        if lost and self.logger is not None:
            self.logger.log(30, "%d more lines and errors were not kept", lost)
        if statistics is not None and self.on_statistics is not None:
            self.on_statistics(statistics)
        for code, reason, is_fatal in errors:
            if is_fatal:
                fatal = KafkaError(code, reason, fatal=True)
            elif self.on_error is not None:
                self.on_error(KafkaError(code, reason))
        if fatal is not None:
            raise KafkaException(fatal)


def split_settings(settings: ClientSettings) -> tuple[list[tuple[str, str]], Callbacks]:
    """The settings as librdkafka takes them, and who is to be called."""
    pairs = [(name, _text(value)) for name, value in settings.items() if name not in CALLBACKS]
    return pairs, Callbacks(settings.get("error_cb"), settings.get("logger"), settings.get("stats_cb"))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
