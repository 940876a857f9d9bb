"""Replayed dead letters of an egress: to its target, and, where that keeps positions, once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace.contracts.contract import TopicKind
from headrace.egress.config import EgressConfig
from headrace.egress.replay_input import REPLAYS_FROM
from headrace.egress.runner import EgressRunner
from headrace.egress.sdk import Mode, TargetUnavailable
from headrace.log.columns import outgoing
from headrace.testing.sink_harness import PARTITIONS, WORKSPACE, Stage, order, order_contract, wait_until
from headrace.workspace.dead_letters import DeadLetter, letter_of
from headrace.workspace.replay_outcomes import replay_topic
from headrace.workspace.replay_targets import EgressTarget
from tests.egress.conftest import MakeConfig
from tests.egress.memory_target import MemoryConnector, Target, failing

DLQ = "out.dlq"


@pytest.fixture
def events(tmp_path: Path) -> Any:
    """Rows of an event topic: none takes another's place."""
    stage = Stage(tmp_path, order_contract(TopicKind.EVENT))
    yield stage
    stage.close()


def letters(stage: Stage) -> list[DeadLetter]:
    return [letter_of(DLQ, record) for record in stage.records(DLQ)]


def replay(stage: Stage, config: EgressConfig, chosen: Sequence[DeadLetter], patch: Any = None) -> None:
    target = EgressTarget(config, stage.contract, stage.registry, PARTITIONS)
    admin, producer = stage.log.admin(), stage.log.producer()
    if config.replay_topic not in admin.topics():
        admin.create_topics([replay_topic(config.name, target.partitions, -1)])
    for letter in chosen:
        for each in target.entrances(letter, patch):
            records = outgoing(
                config.replay_topic, [each.value], keys=[each.key], partitions=each.partition, headers=[each.headers]
            )
            producer.produce(records)
    producer.flush()
    producer.close()


def deliver_until(stage: Stage, runner: EgressRunner, condition: Any) -> None:
    with stage.running(runner) as thread:
        wait_until(lambda: condition() or not thread.is_alive(), "the replays are delivered")


@pytest.mark.parametrize("atomic", [True, False])
def test_refused_rows_are_delivered_later(events: Stage, make_config: MakeConfig, atomic: bool) -> None:
    """Rows that the target refused, replayed when it takes them: written once each, the others not again, also by the
    next runner."""
    bad, config = {3, 40}, make_config()
    target = Target(atomic=atomic, refuses=lambda row: row["id"] in bad)
    events.publish([order(number) for number in range(60)])
    events.deliver(MemoryConnector(target), config)
    found = letters(events)
    assert {(each.stage, each.code) for each in found} == {("deliver", "memory.refused")}
    bad.clear()
    replay(events, config, found)
    deliver_until(events, events.runner(MemoryConnector(target), config), lambda: len(target.ids) == 60)
    events.publish([order(100)])
    events.deliver(MemoryConnector(target), config)
    assert target.ids == [*range(60), 100]
    assert len(letters(events)) == 2
    if atomic:
        replayed = {partition for partition in target.positions if partition >= REPLAYS_FROM}
        assert replayed <= {REPLAYS_FROM + number for number in range(PARTITIONS)}
        assert replayed


def test_a_running_egress_is_told(events: Stage, make_config: MakeConfig) -> None:
    """There was no replay topic when it started; once it has news it joins its group for both topics."""
    bad, config, news = {3}, make_config(), threading.Event()
    target = Target(refuses=lambda row: row["id"] in bad)
    events.publish([order(number) for number in range(10)])
    runner = EgressRunner(
        config, MemoryConnector(target), events.contract, events.log, events.registry, WORKSPACE, replay_news=news
    )
    with events.running(runner) as thread:
        wait_until(lambda: len(letters(events)) == 1 or not thread.is_alive(), "the dead letter")
        bad.clear()
        replay(events, config, letters(events))
        news.set()
        wait_until(lambda: len(target.ids) == 10 or not thread.is_alive(), "the replay")
    assert target.ids == [*range(10)]


def test_crashes_around_a_flush_double_nothing(events: Stage, make_config: MakeConfig) -> None:
    """The target keeps positions: whatever fails before, in and after the flush, each replay is there once."""
    bad, config = {1, 2, 5}, make_config()
    target = Target(refuses=lambda row: row["id"] in bad)
    events.publish([order(number) for number in range(10)])
    events.deliver(MemoryConnector(target), config)
    bad.clear()
    replay(events, config, letters(events))
    for call in ("write", "flush", "flushed"):
        target.fault = failing(call, lambda: TargetUnavailable("gone"), times=1)
        runner = events.runner(MemoryConnector(target), config)
        deliver_until(events, runner, lambda: len(target.ids) >= 10)
    events.forget_offsets(config)
    events.deliver(MemoryConnector(target), config)
    assert target.ids == [*range(10)]


def test_what_is_refused_again_keeps_its_place(events: Stage, make_config: MakeConfig) -> None:
    """The new dead letter has the record's own place, key, value and headers, and says of which one it is one more."""
    config = make_config()
    target = Target(refuses=lambda row: row["id"] == 3)
    events.publish([order(number) for number in range(5)])
    events.deliver(MemoryConnector(target), config)
    (first,) = letters(events)
    replay(events, config, [first])
    runner = events.runner(MemoryConnector(target), config)
    deliver_until(events, runner, lambda: len(letters(events)) == 2)
    _, second = letters(events)
    assert (second.again_of, second.replays) == (first.place.text, 1)
    assert (second.source, second.source_offset, second.source_time_ms) == (
        first.source,
        first.source_offset,
        first.source_time_ms,
    )
    assert (second.key, second.value, second.headers) == (first.key, first.value, ())


def test_a_patch_is_written_by_the_contract(events: Stage, make_config: MakeConfig) -> None:
    """Bytes that are no record become one, in the partition of its key."""
    config, target = make_config(), Target()
    events.produce_raw([b"junk"], [b"k"])
    events.deliver(MemoryConnector(target), config)
    (letter,) = letters(events)
    assert letter.stage == "decode"
    replay(events, config, [letter], {"id": 7, "customer": "x", "amount": 1.5})
    deliver_until(events, events.runner(MemoryConnector(target), config), lambda: bool(target.rows))
    assert target.rows == [{"id": 7, "customer": "x", "amount": 1.5}]


def test_keyed_modes_replace_rows(stage: Stage, make_config: MakeConfig) -> None:
    """Which a replay must not do to a newer one: `headrace dlq replay` asks."""
    config = make_config(Mode.UPSERT)
    stage.produce_raw([b"junk"], [b"k"])
    stage.deliver(MemoryConnector(Target()), config)
    (letter,) = letters(stage)
    assert EgressTarget(config, stage.contract, stage.registry, PARTITIONS).replaces(letter)
    appending = EgressTarget(make_config(), stage.contract, stage.registry, PARTITIONS)
    assert not appending.replaces(letter)
