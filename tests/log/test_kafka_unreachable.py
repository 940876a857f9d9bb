"""The Kafka log without a broker: settings that are refused, secrets that stay secret, calls that give up in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from types import SimpleNamespace

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException
from structlog.testing import capture_logs

from headrace.errors import Fault
from headrace.log.columns import outgoing
from headrace.log.kafka import KafkaLog, SettingsInvalid, choice, cluster
from headrace.log.kafka.client import ClientKind
from headrace.log.kafka.connection import NOTICE_INTERVAL_S, Connection
from headrace.log.port import (
    Consumer,
    Log,
    LogUnavailable,
    OffsetAndMetadata,
    RebalanceListener,
    TopicPartition,
    TopicSpec,
)

NOWHERE = "127.0.0.1:1"
UNAVAILABLE_AFTER_S = 0.5
PLACE = TopicPartition("orders", 0)
SECRET = "hunter2"


@pytest.fixture
def log(kafka_client: ClientKind) -> KafkaLog:
    return KafkaLog(NOWHERE, unavailable_after_s=UNAVAILABLE_AFTER_S)


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.admin().topics(),
        lambda log: log.admin().create_topics([TopicSpec("orders")]),
        lambda log: log.admin().end_offsets([PLACE]),
        lambda log: log.admin().groups(),
        lambda log: log.admin().group_offsets("g"),
        lambda log: log.admin().alter_group_offsets("g", {PLACE: OffsetAndMetadata(0)}),
        lambda log: log.producer(transactional_id="id"),
        lambda log: log.producer().produce(outgoing("orders", [b"x"])),
        lambda log: log.consumer(group="g").committed([PLACE]),
        lambda log: log.consumer().assign({PLACE: -2}),
    ],
)
def test_calls_give_up_in_time_and_name_the_brokers(log: KafkaLog, call: Callable[[Log], object]) -> None:
    """An unreachable broker is `LogUnavailable`, to be retried, with the address that was tried."""
    started = time.monotonic()
    with pytest.raises(LogUnavailable, match=NOWHERE) as caught:
        call(log)
    assert caught.value.fault is Fault.RETRY
    assert time.monotonic() - started < 20


def test_polling_goes_on_and_says_so(log: KafkaLog) -> None:
    """A member of a group waits for its broker: empty polls, and a line in the log instead of silence."""
    with closing(log.consumer(group="g")) as consumer, capture_logs() as lines:
        consumer.subscribe(["orders"], RebalanceListener(_ignore, _ignore, _ignore))
        deadline = time.monotonic() + 20
        while not lines and time.monotonic() < deadline:
            assert not consumer.poll(10, 0.1)
    assert [(line["event"], line["brokers"], line["log_level"]) for line in lines] == [
        ("kafka_unreachable", NOWHERE, "warning")
    ]
    assert "Connection refused" in lines[0]["reason"]


def test_a_consumer_that_hears_nobody_for_long_says_that_it_is_lost(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After silence it asks, and after patience it raises: its owner makes a new one (librdkafka #5301)."""
    monkeypatch.setattr("headrace.log.kafka.consumer.SILENT_AFTER_S", 0.3)
    monkeypatch.setattr("headrace.log.kafka.consumer.ASK_INTERVAL_S", 0.1)
    monkeypatch.setattr("headrace.log.kafka.consumer.ASK_TIMEOUT_S", 0.1)
    with closing(log.consumer(group="g")) as consumer:
        consumer.subscribe(["orders"], RebalanceListener(_ignore, _ignore, _ignore))
        began = time.monotonic()
        caught = _raised_by_polling(consumer)
    assert f"reading: Kafka at {NOWHERE}" in str(caught)
    assert caught.fault is Fault.RETRY
    assert time.monotonic() - began > 0.3 + UNAVAILABLE_AFTER_S


def _raised_by_polling(consumer: Consumer) -> LogUnavailable:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            assert not consumer.poll(10, 0.1)
        except LogUnavailable as error:
            return error
    raise AssertionError("nothing was raised")


def test_closing_does_not_wait_for_a_broker(log: KafkaLog) -> None:
    """Clients that never reached anybody close at once."""
    producer, consumer = log.producer(), log.consumer(group="g")
    consumer.subscribe(["orders"], RebalanceListener(_ignore, _ignore, _ignore))
    consumer.poll(10, 0.1)
    started = time.monotonic()
    for each in (producer, consumer, log):
        each.close()
    assert time.monotonic() - started < 5


def test_a_question_to_a_client_that_was_given_up_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread gives up the client that all share: it answers with its end, or never."""
    monkeypatch.setattr(cluster, "ANSWER_MARGIN_S", 0.1)
    monkeypatch.setattr(cluster.Cluster, "_refresh", lambda _: None)
    shared = cluster.Cluster({"bootstrap.servers": NOWHERE}, Connection(NOWHERE))
    monkeypatch.setattr(shared.connection, "request_timeout_s", lambda: 0.1)
    ended: Future[str] = Future()
    ended.set_exception(KafkaException(KafkaError(KafkaError._DESTROY)))
    answered: Future[str] = Future()
    answered.set_result("here")
    answers = [answered, Future(), ended]
    assert shared.resolve("asking", ["a"], lambda keys: {key: answers.pop() for key in keys}) == {"a": "here"}
    assert not answers


def test_a_client_is_given_up_once() -> None:
    """Who waited for the old one leaves its successor alone."""
    shared = cluster.Cluster({"bootstrap.servers": NOWHERE}, Connection(NOWHERE, unavailable_after_s=0.0))
    first, successors = shared.client(), []

    def fails(_: list[str]) -> dict[str, Future[str]]:
        shared.close()
        successors.append(shared.client())
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    with pytest.raises(LogUnavailable):
        shared.resolve("asking", ["a"], fails)
    assert first is not shared.client()
    assert shared.client() is successors[-1]


def test_trouble_is_told_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls suffer, there is one line per interval; an error that does not pass is raised at once."""
    monkeypatch.setattr("headrace.log.kafka.connection.BACKOFF_FIRST_S", 0.0)
    connection, answers = Connection(NOWHERE), [KafkaError._TRANSPORT] * 5 + [KafkaError._TIMED_OUT] * 5

    def call() -> str:
        if answers:
            raise KafkaException(KafkaError(answers.pop()))
        return "done"

    with capture_logs() as lines:
        assert connection.repeat("asking", call) == "done"
        assert len(lines) == 1
        with pytest.raises(KafkaException):
            connection.repeat("asking", _denied)
        assert len(lines) == 1


def test_a_broker_that_answers_is_not_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that moves, as for each new group, is told quietly; when it takes long, as a warning; and an outage
    right after it is told all the same."""
    monkeypatch.setattr("headrace.log.kafka.connection.BACKOFF_FIRST_S", 0.0)
    connection = Connection(NOWHERE)
    answers = [KafkaError._TRANSPORT, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.NOT_COORDINATOR]

    def call() -> str:
        if answers:
            raise KafkaException(KafkaError(answers.pop()))
        return "done"

    with capture_logs() as lines:
        assert connection.repeat("asking", call) == "done"
        connection.tell_of(KafkaError(KafkaError.NOT_COORDINATOR), action="asking", for_s=NOTICE_INTERVAL_S)
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("kafka_not_ready", "info"),
        ("kafka_unreachable", "warning"),
        ("kafka_not_ready", "warning"),
    ]
    assert not answers


@pytest.mark.parametrize(
    "name", ["acks", "isolation.level", "partitioner", "group.protocol", "group.instance.id", "bootstrap.servers"]
)
def test_settings_that_promises_rest_on_are_refused(name: str) -> None:
    """Exactly-once, co-partitioning and fencing cannot be configured away, not even by accident."""
    for kind in ("config", "producer_config", "consumer_config"):
        with pytest.raises(SettingsInvalid, match=name):
            KafkaLog(NOWHERE, **{kind: {name: "1"}})


def test_no_brokers_are_refused() -> None:
    """An empty address is the user's mistake, not an outage."""
    with pytest.raises(SettingsInvalid):
        KafkaLog(" ")


@pytest.mark.parametrize(
    "config",
    [
        {"no.such.setting": "1"},
        {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.kerberos.min.time.before.relogin": "-7",
        },
        {"enable.ssl.certificate.verification": SECRET},
    ],
)
@pytest.mark.usefixtures("kafka_client")
def test_settings_the_client_refuses_are_named_without_secrets(config: dict[str, str]) -> None:
    """The message names the setting; no secret is in it, nor in the `repr` of the log."""
    log = KafkaLog(NOWHERE, config={"sasl.password": SECRET, **config})
    for make in (log.admin, log.producer, log.consumer):
        with pytest.raises(SettingsInvalid, match=list(config)[-1].replace(".", r"\.")) as caught:
            make()
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None
    assert "sasl.password" in repr(log)
    assert SECRET not in repr(KafkaLog(NOWHERE, config={"sasl.password": SECRET}))


def _ignore(_: object) -> None:
    """A callback without interest."""


def _denied() -> None:
    raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))


def test_a_machine_without_threads_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that cannot be made for want of memory is no wrong setting: the same call may work in a moment."""

    def refuse(*_: object) -> None:
        raise KafkaException(
            KafkaError(KafkaError._CRIT_SYS_RESOURCE, "Failed to create thread: Cannot allocate memory")
        )

    monkeypatch.setattr(choice.PythonClients, "producer", refuse)
    with (
        closing(KafkaLog("127.0.0.1:1", client="python")) as log,
        pytest.raises(LogUnavailable, match="Cannot allocate memory") as caught,
    ):
        log.producer()
    assert caught.value.fault is Fault.RETRY


def test_an_offset_that_is_none_is_asked_for_again(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that loses its brokers in the middle of a question answers with an offset that means "not known"."""
    answers = [OFFSET_INVALID, OFFSET_INVALID, 5]

    class Client:
        def list_offsets(self, wanted: dict[object, object], **_: object) -> dict[object, Future[object]]:
            future: Future[object] = Future()
            future.set_result(SimpleNamespace(offset=answers.pop(0)))
            return dict.fromkeys(wanted, future)

        def poll(self, _: float) -> None: ...
        def list_topics(self, **_: object) -> None: ...

    monkeypatch.setattr(log._cluster, "client", Client)
    assert log.admin().end_offsets([PLACE]) == {PLACE: 5}
    assert not answers
