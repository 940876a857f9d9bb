"""The control topic: written by anybody, read whole or followed, on both logs."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.log.embedded import EmbeddedLog
from headrace.log.kafka import KafkaLog
from headrace.log.port import Log, LogUnavailable, Outgoing, TopicSpec
from headrace.workspace.control import (
    ControlInvalid,
    ControlTopic,
    Desired,
    DesiredState,
    control_topic,
)


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


class ControlSuite:
    """What holds on every log."""

    @pytest.fixture
    def workspace(self) -> str:
        return f"shop-{uuid.uuid4().hex[:8]}"

    def test_reading_makes_no_topic(self, log: Log, workspace: str) -> None:
        """Without entries everything is to run, nothing is made, and a watch knows so at once."""
        with ControlTopic(log, workspace) as control:
            assert control.desired("pipeline", "totals") == Desired()
            assert control.watching().known(20)
            assert control.instances() == {}
        with closing(log.admin()) as admin:
            assert control_topic(workspace) not in admin.topics()

    def test_what_one_writes_the_other_reads(self, log: Log, workspace: str) -> None:
        """Orders and advertised processes reach another reader, the last word of each, removed ones no more."""
        with ControlTopic(log, workspace) as writer, ControlTopic(log, workspace) as reader:
            writer.set_desired("pipeline", "totals", "paused")
            said = writer.set_desired("pipeline", "totals", DesiredState.STOPPED, reason="headrace reset")
            writer.advertise("host-0", {"url": "http://10.0.0.1:9100"})
            writer.advertise("host-1", {"url": "http://10.0.0.2:9100"})
            writer.withdraw("host-0")
            assert reader.desired("pipeline", "totals") == said
            assert (said.state, said.reason) == (DesiredState.STOPPED, "headrace reset")
            assert reader.desired("egress", "totals") == Desired()
            assert reader.instances() == {"host-1": {"url": "http://10.0.0.2:9100"}}

    def test_a_watch_follows(self, log: Log, workspace: str) -> None:
        """A watch that began before there was a topic sees what is written later, and tells its listener."""
        told = threading.Event()
        with ControlTopic(log, workspace) as writer, ControlTopic(log, workspace) as watcher:
            assert watcher.watching(told.set).known(20)
            writer.set_desired("pipeline", "totals", "paused")
            until(lambda: watcher.desired("pipeline", "totals").state is DesiredState.PAUSED)
            assert told.wait(5)
            writer.set_desired("pipeline", "totals", "running")
            until(lambda: watcher.desired("pipeline", "totals").state is DesiredState.RUNNING)

    def test_a_watch_starts_with_what_is_there(self, log: Log, workspace: str) -> None:
        """`known` means that older orders are in: a restarted process starts as it was told before."""
        with ControlTopic(log, workspace) as writer:
            writer.set_desired("pipeline", "totals", "paused")
        with ControlTopic(log, workspace) as watcher:
            assert watcher.watching().known(20)
            assert watcher.desired("pipeline", "totals").state is DesiredState.PAUSED

    def test_unreadable_entries_are_left_out(self, log: Log, workspace: str) -> None:
        """Bytes of somebody else, or of a release to come, stop nothing."""
        with ControlTopic(log, workspace) as control:
            control.set_desired("pipeline", "totals", "paused")
            values = [b"\xff", b"[1]", b'{"state":"hopping"}']
            with closing(log.producer()) as producer:
                keys = [b"instance/host-0", b"instance/host-1", b"component/pipeline/other"]
                values_column = pa.array(values, pa.large_binary())
                keys_column = pa.array(keys, pa.large_binary())
                place = np.zeros(3, np.int32)
                producer.produce(Outgoing(control.topic, values_column, key=keys_column, partition=place))
                producer.flush()
            assert control.state().entries.keys() == {"component/pipeline/totals"}

    def test_another_topic_of_its_name_is_refused(self, log: Log, workspace: str) -> None:
        """A topic that is not compacted would forget orders: writing says so."""
        with closing(log.admin()) as admin:
            admin.create_topics([TopicSpec(control_topic(workspace), 2)])
        with ControlTopic(log, workspace) as control, pytest.raises(ControlInvalid, match="2 partitions"):
            control.set_desired("pipeline", "totals", "paused")


class TestControlOnTheEmbeddedLog(ControlSuite):
    """The suite on one file."""

    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[EmbeddedLog]:
        with closing(EmbeddedLog(tmp_path / "log.db")) as log:
            yield log


@pytest.mark.kafka
class TestControlOnKafka(ControlSuite):
    """The suite on a broker, each test with a workspace of its own."""

    @pytest.fixture
    def log(self, kafka_log: KafkaLog) -> KafkaLog:
        return kafka_log


def test_an_outage_leaves_what_was_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the log does not answer a watch keeps its entries; afterwards it sees what it missed."""
    log = EmbeddedLog(tmp_path / "log.db")
    other = EmbeddedLog(tmp_path / "log.db")
    with ControlTopic(other, "shop") as writer, ControlTopic(log, "shop") as watcher:
        writer.set_desired("pipeline", "totals", "paused")
        is_away, consumer = threading.Event(), log.consumer
        failures = []

        def flaky(**options: str) -> object:
            made = consumer(**options)
            poll = made.poll

            def answer(*arguments: float) -> object:
                if is_away.is_set():
                    failures.append(1)
                    raise LogUnavailable("gone")
                return poll(*arguments)  # type: ignore[arg-type]

            monkeypatch.setattr(made, "poll", answer)
            return made

        monkeypatch.setattr(log, "consumer", flaky)
        assert watcher.watching().known(20)
        is_away.set()
        until(lambda: len(failures) >= 2)
        assert watcher.desired("pipeline", "totals").state is DesiredState.PAUSED
        writer.set_desired("pipeline", "totals", "running")
        is_away.clear()
        until(lambda: watcher.desired("pipeline", "totals").state is DesiredState.RUNNING)
