"""Gateways that are killed while clients repeat what had no answer: each record is there once."""

from __future__ import annotations

import http.client
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headrace.contracts.fastavro_codec import open_codec
from headrace.contracts.registry_store import StoredRegistry
from headrace.log.columns import binary_column
from headrace.log.embedded import EmbeddedLog
from headrace.log.kafka import KafkaLog
from headrace.log.port import BEGINNING, Log, TopicPartition, TopicSpec
from headrace.log.schema_topic import SchemaTopic
from headrace.testing.sink_harness import wait_until
from tests.ingress.gateway.gateway_child import contracts
from tests.ingress.gateway.scene import BATCH_TYPE, Client, event, sha256
from tests.ingress.shop import order

CLIENTS = 6
KILLS = 2
ROOT = Path(__file__).parents[3]
TOKEN = "shop-token-0123456789"
GONE = (OSError, http.client.HTTPException)


class Fleet:
    """Two gateways on one port."""

    def __init__(self, log: Log, kafka: str, file: Path) -> None:
        self.log = log
        name = f"kill{secrets.token_hex(4)}"
        self.topic = f"{name}.orders"
        admin = log.admin()
        admin.create_topics([TopicSpec(self.topic, 3)])
        admin.close()
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        client = {"sha256": sha256(TOKEN), "topics": [self.topic]}
        self._given = {
            "kafka": kafka,
            "file": str(file),
            "topic": self.topic,
            "workspace": name,
            "config": {"port": self.port, "clients": {"shop": client}, "claim_timeout_ms": 1_500, "linger_ms": 5},
        }
        self.processes = {instance: self.start(instance) for instance in ("0", "1")}

    def start(self, instance: str) -> subprocess.Popen[bytes]:
        given = json.dumps({**self._given, "instance": instance})
        return subprocess.Popen([sys.executable, "-m", "tests.ingress.gateway.gateway_child", given], cwd=ROOT)

    def kill(self, instance: str) -> None:
        self.processes[instance].send_signal(signal.SIGKILL)
        self.processes[instance].wait()
        self.processes[instance] = self.start(instance)

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            # One that came back a moment ago may be told to end before it can listen to that.
            assert process.wait(40) in (0, -signal.SIGTERM)
        self.log.close()

    def rows(self) -> list[dict[str, Any]]:
        contract = contracts(self.topic)[self.topic]
        registry = StoredRegistry(SchemaTopic(self.log))
        codec = open_codec(contract.schema, registry, f"{self.topic}-value")
        consumer = self.log.consumer()
        partitions = [TopicPartition(self.topic, number) for number in range(3)]
        consumer.assign(dict.fromkeys(partitions, BEGINNING))
        ends = consumer.end_offsets(partitions, committed=False)
        values: list[bytes] = []
        while any(consumer.position([each])[each] < ends[each] for each in partitions):
            values += [value for batch in consumer.poll(10_000, 0.5) for value in batch.value.to_pylist()]
        consumer.close()
        rows: list[dict[str, Any]] = codec.decode(binary_column(values)).table.to_pylist()
        registry.close()
        return rows


@pytest.fixture(
    params=[
        pytest.param("embedded"),
        pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.xdist_group("gateway")]),
    ]
)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    kafka = request.getfixturevalue("kafka_bootstrap") if request.param == "kafka" else ""
    file = tmp_path / "log.db"
    made = Fleet(KafkaLog(kafka) if kafka else EmbeddedLog(file), kafka, file)
    yield made
    made.close()


class Sender(threading.Thread):
    """A client that repeats a request with its key until it has an answer."""

    def __init__(self, port: int, topic: str, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"sender-{number}")
        self._port, self._topic, self._number, self._stop_sending = port, topic, number, stop
        self.sent: list[str] = []
        self.repeats = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        number = 0
        while not self._stop_sending.is_set():
            ids = [f"{self._number}-{number}-{part}" for part in range(3)]
            self._until_answered(ids, number)
            self.sent += ids
            number += 1

    def _until_answered(self, ids: list[str], number: int) -> None:
        rows = [{**order(1), "id": each} for each in ids]
        if self._number % 2:
            body: Any = [event(each, row) for each, row in zip(ids, rows, strict=True)]
            given: dict[str, Any] = {"content_type": BATCH_TYPE}
        else:
            body, given = rows, {"key": f"{self._number}-{number}"}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with closing(Client(self._port, TOKEN, timeout_s=5)) as client:
                    answer = client.post(self._topic, body, **given)
            except GONE:
                self.repeats += 1
                time.sleep(0.02)
                continue
            if answer.status == 200:
                return
            if answer.status not in (207, 409, 503):
                break
            self.repeats += 1
            time.sleep(0.05)
        self.wrong.append(f"{ids}: no answer, or a wrong one")
        self._stop_sending.set()


def test_each_record_is_there_once_however_gateways_die(fleet: Fleet) -> None:
    """Two processes on one port, killed in turn; clients repeat with the same key, and events by their id."""

    def answers() -> bool:
        try:
            with closing(Client(fleet.port, TOKEN)) as client:
                return client.request("GET", "/ready").status == 200
        except GONE:
            return False

    wait_until(answers, "a gateway is ready")
    kills = 6 * KILLS if os.environ.get("HEADRACE_LONG_FAULTS") else KILLS
    stop, random_moments = threading.Event(), random.Random(7)
    senders = [Sender(fleet.port, fleet.topic, number, stop) for number in range(CLIENTS)]
    for sender in senders:
        sender.start()
    for number in range(kills):
        before = sum(len(sender.sent) for sender in senders)
        wait_until(lambda before=before: sum(len(each.sent) for each in senders) > before or stop.is_set(), "answers")  # type: ignore[misc]
        time.sleep(random_moments.uniform(0.0, 0.3))
        fleet.kill(str(number % 2))
    before = sum(len(sender.sent) for sender in senders)
    wait_until(lambda: sum(len(each.sent) for each in senders) > before + 50 or stop.is_set(), "answers afterwards")
    stop.set()
    for sender in senders:
        sender.join()
    assert [wrong for sender in senders for wrong in sender.wrong] == []
    assert sum(sender.repeats for sender in senders) > 0
    found = sorted(row["id"] for row in fleet.rows())
    assert found == sorted(each for sender in senders for each in sender.sent)
