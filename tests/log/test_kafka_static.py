"""Static members on a real broker: who comes back finds its partitions, and a held name is waited for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing

import pytest

from headrace.errors import Fault
from headrace.log.kafka import KafkaLog
from headrace.log.kafka.consumer import KafkaConsumer
from headrace.log.port import InstanceInUse, RebalanceListener, TopicPartition, TopicSpec

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

MEMBER = """
import sys
from headrace.log.kafka import KafkaLog
from headrace.log.port import RebalanceListener
address, group, topic, name = sys.argv[1:]
consumer = KafkaLog(address).consumer(group=group, instance=name)
told = lambda partitions: print(len(partitions), flush=True)
consumer.subscribe([topic], RebalanceListener(told, told, told))
while True:
    consumer.poll(10, 0.1)
"""


class Member:
    """A consumer that notes what it is told."""

    def __init__(self, log: KafkaLog, group: str, topic: str, name: str) -> None:
        self.told: list[tuple[str, int]] = []
        self.consumer: KafkaConsumer = log.consumer(group=group, instance=name)
        listener = RebalanceListener(self._note("assigned"), self._note("revoked"), self._note("lost"))
        self.consumer.subscribe([topic], listener)

    def _note(self, event: str) -> Callable[..., None]:
        return lambda partitions: self.told.append((event, len(partitions))) if partitions else None

    @property
    def owned(self) -> frozenset[TopicPartition]:
        return self.consumer.assignment()

    def poll_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.told
            self.consumer.poll(10, 0.1)


@pytest.fixture
def place(kafka_log: KafkaLog) -> tuple[str, str]:
    """A topic of four partitions, and a group."""
    topic, group = f"static-{uuid.uuid4().hex[:8]}", f"static-{uuid.uuid4().hex[:8]}"
    with closing(kafka_log.admin()) as admin:
        admin.create_topics([TopicSpec(topic, 4)])
    return topic, group


def test_who_comes_back_finds_its_partitions(kafka_log: KafkaLog, place: tuple[str, str]) -> None:
    """A member closes and comes back under its name: the other one is told nothing, and the group stays as it was."""
    topic, group = place
    other, over = Member(kafka_log, group, topic, "other"), threading.Event()

    def drive() -> None:
        while not over.is_set():
            other.consumer.poll(10, 0.1)

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        first = Member(kafka_log, group, topic, "mine")
        first.poll_until(lambda: len(first.owned) == 2 and len(other.owned) == 2)
        mine, told = first.owned, list(other.told)
        first.consumer.close()
        with closing(kafka_log.admin()) as admin:
            assert not admin.group_is_empty(group)
        second = Member(kafka_log, group, topic, "mine")
        second.poll_until(lambda: second.owned == mine)
        assert other.told == told
        second.consumer.close()
    finally:
        over.set()
        thread.join()
        other.consumer.close()


def test_a_held_name_is_an_error_that_passes(kafka_log: KafkaLog, place: tuple[str, str]) -> None:
    """While another member has the name a new one is refused, not the old one; then the same name works."""
    topic, group = place
    first = Member(kafka_log, group, topic, "mine")
    first.poll_until(lambda: len(first.owned) == 4)
    second = Member(kafka_log, group, topic, "mine")
    with pytest.raises(InstanceInUse) as raised:
        second.poll_until(lambda: False, 30)
    assert raised.value.fault is Fault.RETRY
    second.consumer.close()
    first.poll_until(lambda: len(first.owned) == 4)
    first.consumer.close()
    third = Member(kafka_log, group, topic, "mine")
    third.poll_until(lambda: len(third.owned) == 4)
    third.consumer.close()


def test_a_killed_member_comes_back(kafka_log: KafkaLog, kafka_bootstrap: str, place: tuple[str, str]) -> None:
    """kill -9: the name is free again when the session is over, and not before anybody else could have it."""
    topic, group = place
    child = subprocess.Popen(
        [sys.executable, "-c", MEMBER, kafka_bootstrap, group, topic, "mine"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        while child.stdout.readline().strip() != "4":
            assert child.poll() is None
    finally:
        child.kill()
        child.communicate()
    deadline = time.monotonic() + 90
    while True:
        member = Member(kafka_log, group, topic, "mine")
        try:
            member.poll_until(lambda: len(member.owned) == 4)  # noqa: B023 - called at once
            return
        except InstanceInUse:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        finally:
            member.consumer.close()
