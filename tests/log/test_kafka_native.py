"""The native client by itself: its memory, its checks, its end."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.log.columns import headers_column
from headrace.log.kafka import KafkaLog
from headrace.log.kafka.choice import why_not_native
from headrace.log.kafka.native_events import Callbacks, split_settings
from headrace.log.port import Outgoing
from headrace.native import native
from headrace.testing.log_conformance.probe import beginning, make_topic

pytestmark = pytest.mark.skipif(bool(why_not_native()), reason=f"the native Kafka client: {why_not_native()}")

NOWHERE = [("bootstrap.servers", "127.0.0.1:1"), ("log_level", "0")]
ROUNDS = 30


def test_columns_that_lie_are_refused() -> None:
    """Positions beyond the bytes, falling ones, other lengths, rows that are not there: no memory is read."""
    client = native.KafkaProducer(NOWHERE)
    ends, data = np.array([0, 1, 3], np.int64), b"abc"
    good = (None, ends, data, 0)

    def produce(
        value: object = good, rows: int = 2, stop: int = 2, partition: object = None, headers: object = None,
        order: object = None,
    ) -> None:  # fmt: skip
        client.produce("t", rows, 0, stop, value, None, partition, None, headers, order, True)

    produce()
    for wrong in (
        {"value": (None, np.array([0, 1, 9], np.int64), data, 0)},
        {"value": (None, np.array([0, 3, 1], np.int64), data, 0)},
        {"value": (None, np.array([-1, 1, 3], np.int64), data, 0)},
        {"value": (None, ends, data, 1)},
        {"value": (None, ends, data, 2**63)},
        {"value": (b"", ends, data, 0)},
        {"value": (None, None, None, 0)},
        {"rows": 1},
        {"stop": 3, "rows": 3},
        {"partition": np.zeros(3, np.int32)},
        {"order": np.array([0, 2], np.int64)},
        {"order": np.array([0, -1], np.int64)},
        {"headers": (np.array([1, 0], np.int64), good, good)},
        {"headers": (np.array([1, 9], np.int64), good, good)},
        {"headers": (np.array([-1, 2], np.int64), good, good)},
    ):
        with pytest.raises((ValueError, OverflowError)):
            produce(**wrong)  # type: ignore[arg-type]
    client.free()


def test_a_closed_client_says_so() -> None:
    """Closing twice is no error; any other call is one, and not a crash."""
    for client in (native.KafkaProducer(NOWHERE), native.KafkaConsumer([*NOWHERE, ("group.id", "g")])):
        client.free()
        client.free()
        with pytest.raises(RuntimeError, match="closed"):
            client.news()


def test_a_client_that_is_used_is_not_freed() -> None:
    """`free` returns at once while another thread's call is under way; the call ends as it would have."""
    client, outcome = native.KafkaProducer(NOWHERE), []

    def ask() -> None:
        try:
            client.brokers(None, 1500)
        except KafkaException as raised:
            outcome.append(raised.args[0].code())

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    began = time.monotonic()
    client.free()
    assert time.monotonic() - began < 1
    thread.join(30)
    assert outcome == [KafkaError._TRANSPORT] or outcome == [KafkaError._TIMED_OUT]


def test_settings_are_refused_with_librdkafkas_words() -> None:
    """As confluent-kafka does: the same error, by name."""
    with pytest.raises(KafkaException, match=r"no\.such\.setting") as caught:
        native.KafkaProducer([("no.such.setting", "1")])
    assert caught.value.args[0].code() == KafkaError._INVALID_ARG
    with pytest.raises(ValueError, match="zero"):
        native.KafkaProducer([("client.id", "a\0b")])


def test_a_forked_child_leaves_the_clients_of_its_parent_alone() -> None:
    """Its threads are not there: waiting for them would last for ever."""
    clients = [native.KafkaProducer(NOWHERE), native.KafkaConsumer([*NOWHERE, ("group.id", "g")])]
    child = os.fork()
    if child == 0:
        for client in clients:
            client.free()
        os._exit(7)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 7
    for client in clients:
        client.free()


def test_callbacks_hear_what_was_said_and_a_fatal_error_is_raised() -> None:
    """Errors go to `error_cb`, lines to the logger with the level of `logging`, and the fatal error to the caller."""
    told: list[object] = []

    class Logger:
        def log(self, level: int, pattern: str, *arguments: object) -> None:
            told.append((level, pattern % arguments))

    pairs, callbacks = split_settings(
        {"a": True, "b": 5, "error_cb": lambda error: told.append(error.code()), "logger": Logger(), "stats_cb": print}
    )
    assert pairs == [("a", "true"), ("b", "5")]
    errors = [(KafkaError._TRANSPORT, "gone", False), (KafkaError._FENCED, "fenced", True)]
    with pytest.raises(KafkaException) as caught:
        callbacks.serve(errors, [(3, "FAIL", "me", "text"), (7, "DBG", "me", "t")], None, 2)
    assert caught.value.args[0].fatal()
    assert caught.value.args[0].code() == KafkaError._FENCED
    assert told == [
        (40, "FAIL [me] text"),
        (10, "DBG [me] t"),
        (30, "2 more lines and errors were not kept"),
        KafkaError._TRANSPORT,
    ]
    Callbacks(None, None, None).serve(errors[:1], [(3, "FAIL", "me", "text")], "{}", 1)


def test_statistics_come_when_asked_for() -> None:
    """As JSON, to `stats_cb`, through the client's own polls."""
    client = native.KafkaProducer([*NOWHERE, ("statistics.interval.ms", "50")])
    deadline, statistics = time.monotonic() + 20, None
    while statistics is None and time.monotonic() < deadline:
        client.poll(100)
        statistics = client.news()[3]
    assert statistics is not None
    assert statistics.startswith("{")
    client.free()


@pytest.fixture
def native_log(kafka_bootstrap: str) -> Iterator[KafkaLog]:
    with closing(KafkaLog(kafka_bootstrap, client="native")) as log:
        yield log


@pytest.mark.kafka
def test_memory_stays_flat(native_log: KafkaLog) -> None:
    """Many times the bytes that the process may grow by go through it, headers and all: nothing is left behind."""
    topic, rows = make_topic(native_log), 4000
    values = pa.array([b"%04d" % number + b"v" * 500 for number in range(rows)], pa.large_binary())
    headers = headers_column([[("name", b"h" * 50), ("none", None)]] * rows)
    plain = Outgoing(topic, values, key=values)
    with_headers = Outgoing(topic, values, key=values, headers=headers, timestamp_ms=np.full(rows, 7))
    with closing(native_log.producer()) as producer, closing(native_log.consumer()) as consumer:

        def one_round() -> None:
            for records in (plain, with_headers):
                producer.produce(records)
            producer.flush()
            came = 0
            while came < 2 * rows:
                came += sum(map(len, consumer.poll(3000, 1.0)))

        consumer.assign(beginning(topic))
        for _ in range(5):
            one_round()
        before = _resident_bytes()
        for _ in range(ROUNDS):
            one_round()
        grown = _resident_bytes() - before
    # 280 MB went through in each direction.
    assert grown < 40 * 2**20, f"{grown / 2**20:.0f} MiB"


def _resident_bytes() -> int:
    gc.collect()
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the resident memory is read from /proc")
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
