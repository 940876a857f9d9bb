"""The project's own Kafka broker: it starts, stops, keeps its data when asked to, and never outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from tests.faults.proxy import Proxy

from headrace.log.columns import outgoing
from headrace.log.kafka import KafkaLog
from headrace.testing.broker import (
    QUICK_OPTIONS,
    find_broker,
    main,
    running_broker,
    start_broker,
    stop_broker,
)
from headrace.testing.kafka_jars import BrokerError, missing_programs
from headrace.testing.kafka_service import KafkaMissing, is_required, kafka_service
from headrace.testing.log_conformance.probe import make_topic, read, unique, values_of

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka")]

OUTAGE_TIMEOUT_MS = 120_000
"""Longer than a broker takes to come back on a busy machine: the transaction must still be open then."""

QUICKLY_OVER_MS = 1_000
"""Shorter than a broker takes to come back."""

OWNER = """
import sys
from headrace.testing.broker import QUICK_OPTIONS, running_broker
with running_broker(heap=QUICK_OPTIONS) as broker:
    print(broker.pid, broker.directory, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _programs() -> None:
    reason = missing_programs()
    if reason and not is_required():
        pytest.skip(reason)


def test_a_transaction_survives_a_restart_of_the_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command starts and stops; data and address stay; a commit over the outage stores each record once."""

    def here(action: str) -> str:
        """The command without a process of its own."""
        main([action, "--directory", str(home)])
        return capsys.readouterr().out.strip()

    home = tmp_path / "kafka"
    address = _command("start", home)
    try:
        assert here("start") == address
        assert address in here("status")
        with (
            closing(KafkaLog(address, transaction_timeout_ms=OUTAGE_TIMEOUT_MS)) as log,
            closing(log.producer(transactional_id=unique("id"))) as producer,
        ):
            topic = make_topic(log)
            producer.begin()
            producer.produce(outgoing(topic, [b"before"]))
            producer.commit()
            producer.begin()
            producer.produce(outgoing(topic, [b"over"]))
            producer.flush()
            assert _command("stop", home) == "stopped"
            assert here("stop") == "not running"
            assert here("status") == "not running"
            assert _command("start", home) == address
            producer.commit()
            assert values_of(read(log, topic, 2)) == [b"before", b"over"]
    finally:
        stop_broker(home)
    assert find_broker(home) is None
    assert (home / "data").is_dir()


def test_an_open_transaction_does_not_outlive_a_killed_broker(tmp_path: Path) -> None:
    """It times out while the broker comes back, which has nobody yet to tell (KAFKA-20734): its rows must not become
    those of the next transaction."""
    home = tmp_path / "kafka"
    address = start_broker(home, heap=QUICK_OPTIONS).bootstrap
    try:
        with closing(KafkaLog(address, transaction_timeout_ms=QUICKLY_OVER_MS)) as log:
            topic, name = make_topic(log), unique("id")
            with closing(log.producer(transactional_id=name)) as producer:
                producer.begin()
                producer.produce(outgoing(topic, [b"given up"]))
                producer.flush()
                assert stop_broker(home, hard=True)
                assert start_broker(home, heap=QUICK_OPTIONS).bootstrap == address
            with closing(log.producer(transactional_id=name)) as producer:
                producer.begin()
                producer.produce(outgoing(topic, [b"after"]))
                producer.commit()
            assert values_of(read(log, topic, 1)) == [b"after"]
    finally:
        stop_broker(home)


def test_a_broker_dies_with_its_owner() -> None:
    """Even kill -9 of the process that started it leaves no broker behind."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split(maxsplit=1)
        home = Path(directory.strip())
        assert find_broker(home) is not None
        owner.kill()
        owner.wait()
        deadline = time.monotonic() + 20
        while find_broker(home) is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert find_broker(home) is None, f"broker {pid} lives on"
    stop_broker(home)
    assert not home.exists(), "temporary data stays"


def test_the_context_leaves_nothing() -> None:
    """After `running_broker` there is no process and no directory."""
    with pytest.raises(KeyboardInterrupt), running_broker(heap=QUICK_OPTIONS) as broker:
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.killpg(broker.pid, signal.SIGTERM)
    assert not Path(broker.directory).exists()


def test_a_second_listener_tells_the_address_of_a_proxy(tmp_path: Path) -> None:
    """Who comes through the proxy stays behind it; it and further settings outlive a kill -9 of the broker."""
    home, settings = tmp_path / "kafka", {"group.consumer.max.size": "7"}
    with Proxy() as proxy:
        broker = start_broker(home, owner_pid=os.getpid(), heap=QUICK_OPTIONS, proxy=proxy.address, settings=settings)
        try:
            assert stop_broker(home, hard=True)
            again = start_broker(home, owner_pid=os.getpid(), heap=QUICK_OPTIONS)
            assert (again.bootstrap, again.behind_proxy) == (broker.bootstrap, broker.behind_proxy)
            assert again.behind_proxy is not None
            proxy.forward_to(again.behind_proxy)
            for address in (proxy.address, again.bootstrap):
                (told,) = AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).brokers.values()
                assert f"{told.host}:{told.port}" == address
            assert "group.consumer.max.size=7" in (home / "server.properties").read_text().splitlines()
        finally:
            stop_broker(home)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Java or Maven the error says which, and how to do without; nothing is started."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(BrokerError, match="java"):
        start_broker(tmp_path / "kafka")
    monkeypatch.delenv("HEADRACE_TEST_KAFKA", raising=False)
    monkeypatch.setattr("headrace.testing.kafka_service.docker_answers", lambda: False)
    with pytest.raises(KafkaMissing, match="HEADRACE_TEST_KAFKA"):
        kafka_service(tmp_path / "kafka", owner_pid=os.getpid())
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(BrokerError, match="Java 11"):
        start_broker(tmp_path / "kafka")


def test_maven_is_named_when_the_jars_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache and no Maven: the message tells that Maven is what is missing."""
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n")
    java.chmod(0o755)
    (tmp_path / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "mvn" in missing_programs()
    with pytest.raises(BrokerError, match="mvn"):
        start_broker(tmp_path / "kafka")


def test_a_given_address_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`HEADRACE_TEST_KAFKA` is used as it is; nothing is started."""
    monkeypatch.setenv("HEADRACE_TEST_KAFKA", "somewhere:9092")
    with kafka_service(tmp_path / "kafka", owner_pid=os.getpid()) as address:
        assert address == "somewhere:9092"
    assert not (tmp_path / "kafka").exists()


def _command(action: str, home: Path) -> str:
    command = [sys.executable, "-m", "headrace.testing.broker", action, "--directory", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
