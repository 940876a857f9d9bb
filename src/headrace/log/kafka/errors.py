"""What Kafka's errors mean for their catcher.

Owns the classes of error codes and the translation to the errors of the log port.

- `is_passing` errors are met with the same call again, never with another one.
- Every other error becomes one of the port's, naming what was attempted.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from headrace.log.port import GroupNotEmpty, InstanceInUse, LogError, TopicExists, UnknownTopic

PASSING = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._IN_PROGRESS,
        KafkaError._RESOLVE,
        KafkaError._RETRY,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._WAIT_CACHE,
        KafkaError._WAIT_COORD,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
        KafkaError.REBOOTSTRAP_REQUIRED,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)
"""The world is unwell or busy; librdkafka does not mark all of them retriable."""

PRODUCER_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
"""A newer producer has the transactional id, or the broker ended a transaction that was open too long."""

MEMBER_STALE = frozenset(
    {
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)
"""The group went on without this member, or without what it knew."""

UNKNOWN_PLACE = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)

DENIED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)

INSTANCE_IN_USE = KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str()

GROUP_BUSY = frozenset({KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.GROUP_SUBSCRIBED_TO_TOPIC})
"""What an admin is told who touches a group at work."""


class LogDenied(LogError):
    """The log does not let this user in, or not do this."""

    code = "log.denied"


def kafka_error(raised: KafkaException) -> KafkaError:
    """The error that an exception carries."""
    error = raised.args[0]
    assert isinstance(error, KafkaError), f"KafkaException without a KafkaError: {raised!r}"
    return error


def is_passing(error: KafkaError) -> bool:
    """Whether the same call may succeed later."""
    if error.fatal() or error.txn_requires_abort():
        return False
    return bool(error.retriable()) or error.code() in PASSING


def port_error(error: KafkaError, *, action: str, subject: str = "") -> LogError:
    """The port's error for one that does not pass. `action` reads like "creating topic 'orders'"."""
    code = error.code()
    told = f"{action}: {error.str()} ({error.name()})"
    if code in UNKNOWN_PLACE:
        return UnknownTopic(
            f"{action}: {subject or 'it'} does not exist", cure="create the topic with `headrace apply`"
        )
    if code == KafkaError.TOPIC_ALREADY_EXISTS:
        return TopicExists(f"{action}: {subject or 'it'} exists already")
    if code in DENIED:
        return LogDenied(told, cure="check the security settings of the environment and the rights of its user")
    if code == KafkaError.UNSUPPORTED_VERSION:
        return LogError(told, cure="headrace needs Apache Kafka 4.0 or newer")
    return LogError(told)


def is_fatal(error: KafkaError) -> bool:
    """Whether its client is of no more use. Calls after the fatal one say so by code, without the mark."""
    return bool(error.fatal()) or error.code() == KafkaError._FATAL


def reading_error(error: KafkaError, *, subject: str = "") -> LogError:
    """Like `port_error`, for what a consumer's client says. A fatal error tells its cause only by text."""
    if error.code() == KafkaError.UNRELEASED_INSTANCE_ID or (is_fatal(error) and INSTANCE_IN_USE in error.str()):
        return InstanceInUse(
            "the name of this static member is held by another member: one that was killed holds it until its session"
            " times out, 45 s by Kafka's default",
            cure="wait; when it stays so, look for a second process of this name",
        )
    return port_error(error, action="reading", subject=subject)


def group_error(error: KafkaError, *, action: str, group: str) -> LogError:
    """Like `port_error`, for a call on a group from outside."""
    if error.code() in GROUP_BUSY:
        return GroupNotEmpty(f"{action}: group {group!r} has members", cure="stop its pipeline first")
    return port_error(error, action=action, subject=f"group {group!r}")
