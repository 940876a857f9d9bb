"""A Kafka cluster as a log.

Owns the settings of one environment and the admin client that everything made from it shares.

- Making a `KafkaLog` opens no connection; producers, consumers and the first question do.
- Its `repr` and its errors never show a secret.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

from headrace.log.kafka.admin import KafkaAdmin
from headrace.log.kafka.choice import chosen_clients
from headrace.log.kafka.client import ClientKind
from headrace.log.kafka.cluster import Cluster
from headrace.log.kafka.connection import UNAVAILABLE_AFTER_S, Connection
from headrace.log.kafka.consumer import KafkaConsumer
from headrace.log.kafka.errors import kafka_error
from headrace.log.kafka.producer import KafkaProducer
from headrace.log.kafka.settings import (
    SettingsInvalid,
    admin_settings,
    check_settings,
    common_settings,
    consumer_settings,
    shown,
    without_secrets,
)
from headrace.log.port import LogUnavailable

TRANSACTION_TIMEOUT_MS = 15_000
"""How long the records of a killed worker hold up readers. It also bounds one commit interval from above."""

Client = TypeVar("Client")


class KafkaLog:
    """The port's `Log` over Kafka.

    `config` holds settings of librdkafka for all clients: TLS, SASL, timeouts. `producer_config` and
    `consumer_config` are for one kind. What the promises rest on is refused (`SettingsInvalid`).
    `client` says which client of Kafka is used; None leaves the choice to `choice`.
    """

    name = "kafka"

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        config: Mapping[str, str] | None = None,
        producer_config: Mapping[str, str] | None = None,
        consumer_config: Mapping[str, str] | None = None,
        client_id: str = "headrace",
        transaction_timeout_ms: int = TRANSACTION_TIMEOUT_MS,
        unavailable_after_s: float = UNAVAILABLE_AFTER_S,
        client: ClientKind | None = None,
    ) -> None:
        if not bootstrap_servers.strip():
            raise SettingsInvalid("no Kafka brokers are named", cure="set bootstrap servers like 'host:9092'")
        self._config = dict(config or {})
        self._producer_config = dict(producer_config or {})
        self._consumer_config = dict(consumer_config or {})
        for settings in (self._config, self._producer_config, self._consumer_config):
            check_settings(settings)
        self._clients = chosen_clients(client)
        self._client_id = client_id
        self._transaction_timeout_ms = transaction_timeout_ms
        self._connection = Connection(bootstrap_servers, unavailable_after_s=unavailable_after_s)
        self._cluster = Cluster(admin_settings(self._common(client_id)), self._connection)

    @property
    def client_kind(self) -> ClientKind:
        """Which client producers and consumers are made with."""
        return self._clients.kind

    def __repr__(self) -> str:
        return f"KafkaLog({self._connection.bootstrap_servers!r}, config={shown(self._config)})"

    def producer(self, *, transactional_id: str | None = None) -> KafkaProducer:
        return self._made(
            lambda: KafkaProducer(
                self._common(self._client_id),
                self._producer_config,
                self._cluster,
                self._clients,
                transactional_id=transactional_id,
                transaction_timeout_ms=self._transaction_timeout_ms,
            )
        )

    def consumer(
        self, *, group: str | None = None, client_id: str = "headrace", instance: str | None = None
    ) -> KafkaConsumer:
        settings = consumer_settings(
            self._common(client_id),
            self._consumer_config,
            group=group or f"{client_id}-{uuid.uuid4()}",
            is_member=group is not None,
            instance=instance,
        )
        return self._made(lambda: KafkaConsumer(self._clients.consumer(settings), self._cluster, group=group))

    def admin(self) -> KafkaAdmin:
        self._made(self._cluster.client)
        return KafkaAdmin(self._cluster)

    def close(self) -> None:
        """Free the shared admin client."""
        self._cluster.close()

    def _common(self, client_id: str) -> dict[str, object]:
        connection = self._connection
        return common_settings(connection.bootstrap_servers, client_id, connection.on_client_error, self._config)

    def _made(self, make: Callable[[], Client]) -> Client:
        """A client, or the setting it was refused for."""
        try:
            return make()
        except KafkaException as raised:
            error = kafka_error(raised)
            every = self._config | self._producer_config | self._consumer_config
            reason = without_secrets(error.str(), every)
            if error.code() == KafkaError._CRIT_SYS_RESOURCE:
                raise LogUnavailable(
                    f"this machine has nothing left to make a client of Kafka with: {reason}",
                    cure="give it memory and threads, or fewer workers; the same call may then be made again",
                ) from None
            # The original carries the value that was refused.
            raise SettingsInvalid(f"Kafka's client refuses its settings: {reason}", cure="see docs/log.md") from None
