"""The settings of every Kafka client headrace makes.

Owns the defaults (each with its reason), what a user may not change, and which values are secret.

- What the promises rest on (`PROMISED`) is refused as an override, by name.
- A user's settings win over the other defaults.
- The value of a secret never reaches a message, a log line or a `repr`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from headrace.log.port import LogError

ClientSettings = dict[str, Any]

COMMON: Mapping[str, Any] = {
    # Only what stops a client; connection trouble is told by our own lines, which are rate limited.
    "log_level": 2,
    # The default of 10 s keeps clients away long after a broker is back.
    "reconnect.backoff.max.ms": 1000,
    "socket.keepalive.enable": True,
}

PRODUCER: Mapping[str, Any] = {
    # With the default of 100 ms back-to-back transactions take 97 ms: the first request after a commit is
    # answered CONCURRENT_TRANSACTIONS and waits this long. At 5 ms they take 8 to 15.
    "retry.backoff.ms": 5,
    "retry.backoff.max.ms": 50,
    # Records come in columns, so a batch fills without waiting.
    "linger.ms": 1,
    "compression.type": "lz4",
    # The bounds of the queue; `produce` waits while it is full.
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 262_144,
    # The topic's own limit decides (checked before a call queues anything); this must not be below it.
    "message.max.bytes": 100_000_000,
}

CONSUMER: Mapping[str, Any] = {
    # The default of 1 s makes the fetcher idle each time its queue was full: four fifths of the throughput.
    "fetch.queue.backoff.ms": 10,
    "fetch.error.backoff.ms": 100,
    # One fetch a broker is under way. While it waits for news of idle partitions (by default 500 ms), a partition
    # just assigned or sought is not asked for.
    "fetch.wait.max.ms": 100,
    "check.crcs": True,
}

PROMISED_PRODUCER: Mapping[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    # The choice of Java's client, so that its records join ours.
    "partitioner": "murmur2_random",
    "delivery.report.only.error": True,
}

PROMISED_CONSUMER: Mapping[str, Any] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # A lost position is an error to be seen. New groups are sent to the beginning by hand.
    "auto.offset.reset": "error",
    # The only word of librdkafka on how far a read is when the last records are transaction markers.
    "enable.partition.eof": True,
}

PROMISED_MEMBER: Mapping[str, Any] = {
    # KIP-848: the broker assigns. Range gives equal numbers of equally partitioned topics to one member.
    "group.protocol": "consumer",
    "group.remote.assignor": "range",
}

OWN = frozenset({"bootstrap.servers", "group.id", "transactional.id", "group.instance.id", "error_cb", "logger"})
"""Given in other ways."""

PROMISED = OWN | PROMISED_PRODUCER.keys() | PROMISED_CONSUMER.keys() | PROMISED_MEMBER.keys()

BATCH_BYTES = 1_000_000
"""librdkafka's default `batch.size`, below the broker's default limit of 1,048,588 bytes a batch."""

MESSAGE_BYTES_MAX_DEFAULT = 1_048_588
"""The broker's default `max.message.bytes`, where the topic's may not be asked for."""

SECRET_WORDS = ("password", "secret", "sasl.username", "oauthbearer.config", "key.pem", "keystore", "jaas", "token")
SECRET_SHOWN = "***"


logger = structlog.get_logger("headrace.log.kafka")


class ClientLines:
    """librdkafka's own log lines, as structured ones. The client calls `log` from its polls.

    What it calls critical is no more than a warning here: whoever calls next is told by an error.
    """

    def log(self, level: int, pattern: str, *arguments: object) -> None:
        logger.log(min(level, logging.WARNING), "kafka_client", line=pattern % arguments)


class SettingsInvalid(LogError):
    """A setting of the Kafka clients that cannot be used."""

    code = "log.settings_invalid"


def check_settings(settings: Mapping[str, str]) -> None:
    """Refuse settings that belong to headrace."""
    for name in settings:
        if name in PROMISED:
            raise SettingsInvalid(
                f"the Kafka setting {name!r} is headrace's own",
                cure="remove it; docs/log.md tells what it is set to and why",
            )


def common_settings(
    bootstrap_servers: str, client_id: str, on_error: Callable[[Any], None], user: Mapping[str, str]
) -> ClientSettings:
    """What an admin client is made with; the other clients add to it."""
    own = {"bootstrap.servers": bootstrap_servers, "client.id": client_id, "error_cb": on_error}
    return {**COMMON, **user, **own}


def admin_settings(common: ClientSettings) -> ClientSettings:
    """For the admin client, which nobody polls: it cannot hand log lines to us, and prints none."""
    return {**common, "log_level": 0}


def producer_settings(
    common: ClientSettings,
    user: Mapping[str, str],
    *,
    transactional_id: str | None,
    transaction_timeout_ms: int,
) -> ClientSettings:
    """For one producer."""
    settings = {**PRODUCER, **common, **user, **PROMISED_PRODUCER, "logger": ClientLines()}
    if transactional_id is not None:
        settings |= {"transactional.id": transactional_id, "transaction.timeout.ms": transaction_timeout_ms}
    return settings


def consumer_settings(
    common: ClientSettings, user: Mapping[str, str], *, group: str, is_member: bool, instance: str | None = None
) -> ClientSettings:
    """For one consumer. librdkafka wants a group even of a consumer that never joins one."""
    member: ClientSettings = dict(PROMISED_MEMBER) if is_member else {}
    if is_member and instance is not None:
        member["group.instance.id"] = instance
    return {**CONSUMER, **common, **user, **PROMISED_CONSUMER, **member, "group.id": group, "logger": ClientLines()}


def is_secret(name: str) -> bool:
    """Whether the value of this setting must not be shown."""
    return any(word in name for word in SECRET_WORDS)


def shown(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings for a person to read."""
    return {name: SECRET_SHOWN if is_secret(name) else value for name, value in settings.items()}


def without_secrets(text: str, settings: Mapping[str, str]) -> str:
    """`text` with every secret value of `settings` hidden."""
    for name, value in settings.items():
        if is_secret(name) and value:
            text = text.replace(str(value), SECRET_SHOWN)
    return text
