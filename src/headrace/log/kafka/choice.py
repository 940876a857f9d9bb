"""Which client of Kafka is used: the native one where it can be, else confluent-kafka's.

Owns the choice. What was asked for by name (`KafkaLog(client=...)`, or `HEADRACE_KAFKA_CLIENT`) is used or refused,
never replaced.
"""

from __future__ import annotations

import functools
import os

import structlog

from headrace.log.kafka.client import ClientKind, Clients, ConsumerClient, OnFailure, ProducerClient
from headrace.log.kafka.library import librdkafka_places, librdkafka_version
from headrace.log.kafka.native_consumer import NativeConsumer
from headrace.log.kafka.native_producer import NativeProducer
from headrace.log.kafka.python_consumer import PythonConsumer
from headrace.log.kafka.python_producer import PythonProducer
from headrace.log.kafka.settings import ClientSettings, SettingsInvalid
from headrace.native import native

SWITCH = "HEADRACE_KAFKA_CLIENT"

logger = structlog.get_logger("headrace.log.kafka")


class PythonClients:
    """Clients of confluent-kafka."""

    kind: ClientKind = "python"

    def consumer(self, settings: ClientSettings) -> ConsumerClient:
        return PythonConsumer(settings)

    def producer(self, settings: ClientSettings, on_failure: OnFailure) -> ProducerClient:
        return PythonProducer(settings, on_failure)


class NativeClients:
    """Clients of `headrace-native`, but for the few settings that only confluent-kafka understands."""

    kind: ClientKind = "native"

    def consumer(self, settings: ClientSettings) -> ConsumerClient:
        return PythonConsumer(settings) if _is_for_python(settings) else NativeConsumer(settings)

    def producer(self, settings: ClientSettings, on_failure: OnFailure) -> ProducerClient:
        if _is_for_python(settings):
            return PythonProducer(settings, on_failure)
        return NativeProducer(settings, on_failure)


def _is_for_python(settings: ClientSettings) -> bool:
    """Whether confluent-kafka itself does what is asked for: fetching tokens of AWS, finding plugins in its wheel."""
    return (
        settings.get("sasl.oauthbearer.metadata.authentication.type") == "aws_iam" or "plugin.library.paths" in settings
    )


def chosen_clients(wanted: ClientKind | None = None) -> Clients:
    """The clients that were asked for, or the native ones where they can be had."""
    kind = wanted or os.environ.get(SWITCH) or None
    if kind not in (None, "native", "python"):
        raise SettingsInvalid(f"{SWITCH} is {kind!r}", cure="set it to native or python, or leave it out")
    if kind == "python":
        return PythonClients()
    reason = why_not_native()
    if not reason:
        return NativeClients()
    if kind == "native":
        raise SettingsInvalid(
            f"the native Kafka client cannot be used: {reason}",
            cure=f"build headrace-native (`make native`), or set {SWITCH}=python",
        )
    return PythonClients()


@functools.cache
def why_not_native() -> str:
    """Empty where the native client can be used. Looks once a process."""
    if native is None:
        return "the package headrace-native is not here, or switched off"
    version, tried = librdkafka_version(), []
    for place in librdkafka_places():
        try:
            native.open_librdkafka(place, version)
        except OSError as error:
            tried.append(str(error))
        else:
            return ""
    reason = "; ".join(tried) or "librdkafka is not where confluent-kafka keeps it"
    logger.warning("kafka_native_client_missing", reason=reason)
    return reason
