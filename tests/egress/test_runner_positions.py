"""Where an egress goes on: from the target's positions, or the group's, and never twice where the target can tell."""

from __future__ import annotations

import re

import pytest

from headrace.egress.errors import TargetAhead
from headrace.egress.sdk import TargetUnavailable
from headrace.log.port import OffsetAndMetadata, TopicPartition
from headrace.testing.sink_harness import TOPIC, WORKSPACE, Stage, order, wait_until
from tests.egress.conftest import MakeConfig, ended_with
from tests.egress.memory_target import MemoryConnector, Target, failing

ROWS = 200


class Died(BaseException):
    """The end of the process."""


def group_offsets(stage: Stage, group: str) -> dict[int, int]:
    admin = stage.log.admin()
    try:
        return {partition.partition: each.offset for partition, each in admin.group_offsets(group).items()}
    finally:
        admin.close()


def set_group_offsets(stage: Stage, group: str, offset: int) -> None:
    admin = stage.log.admin()
    try:
        partitions = [TopicPartition(TOPIC, number) for number in range(stage.partitions)]
        admin.alter_group_offsets(group, {each: OffsetAndMetadata(offset) for each in partitions})
    finally:
        admin.close()


def test_every_record_arrives_once_and_offsets_are_committed(stage: Stage, make_config: MakeConfig) -> None:
    """All rows; the target's positions and the group's offsets are the ends of the topic."""
    target = Target()
    stage.publish([order(number) for number in range(ROWS)])
    runner = stage.deliver(MemoryConnector(target), make_config())
    assert target.ids == list(range(ROWS))
    assert target.positions == stage.ends()
    assert group_offsets(stage, make_config().group(WORKSPACE)) == stage.ends()
    assert (runner.counters.records, runner.counters.rows_written) == (ROWS, ROWS)


def test_rows_of_a_partition_keep_their_order(stage: Stage, make_config: MakeConfig) -> None:
    """A hundred versions of one row, over several flushes, arrive as they were written."""
    target = Target()
    stage.publish([order(1, amount=number) for number in range(100)])
    stage.deliver(MemoryConnector(target), make_config(batch={"rows_max": 7, "age_max_ms": 20}))
    assert [row["amount"] for row in target.rows] == [float(number) for number in range(100)]


@pytest.mark.parametrize("offset", [0, 50], ids=["group behind", "group ahead"])
def test_the_target_knows_better_than_the_group(stage: Stage, make_config: MakeConfig, offset: int) -> None:
    """Group offsets that are lost, or too far, change nothing: reading goes on where the target stands."""
    target = Target()
    stage.publish([order(number) for number in range(60)])
    stage.deliver(MemoryConnector(target), make_config())
    stage.publish([order(number) for number in range(60, 160)])
    set_group_offsets(stage, make_config().group(WORKSPACE), offset)
    stage.deliver(MemoryConnector(target), make_config())
    assert target.ids == list(range(160))


def test_a_target_that_knows_nothing_begins_at_the_beginning(stage: Stage, make_config: MakeConfig) -> None:
    """An emptied target of an egress that has run: every row again, whatever the group committed."""
    stage.publish([order(number) for number in range(30)])
    stage.deliver(MemoryConnector(Target()), make_config())
    emptied = Target()
    stage.deliver(MemoryConnector(emptied), make_config())
    assert emptied.ids == list(range(30))


def test_without_positions_in_the_target_the_group_says_where(stage: Stage, make_config: MakeConfig) -> None:
    """A target without atomic positions goes on from the committed offsets."""
    target = Target(atomic=False)
    stage.publish([order(number) for number in range(30)])
    stage.deliver(MemoryConnector(target), make_config())
    stage.publish([order(number) for number in range(30, 40)])
    runner = stage.deliver(MemoryConnector(target), make_config())
    assert target.ids == list(range(40))
    assert runner.counters.records == 10
    assert runner.status().delivery == "at_least_once"


@pytest.mark.parametrize("atomic", [True, False])
def test_a_death_between_flush_and_commit(stage: Stage, make_config: MakeConfig, atomic: bool) -> None:
    """Rows that are in the target, offsets not committed: with positions once, without them again, never lost."""
    target = Target(atomic=atomic)
    target.fault = failing("flushed", Died, times=1)
    stage.publish([order(number) for number in range(ROWS)])
    with pytest.raises(Died):
        stage.deliver(MemoryConnector(target), make_config())
    runner = stage.deliver(MemoryConnector(target), make_config())
    assert set(target.ids) == set(range(ROWS))
    assert (len(target.ids) == ROWS) is atomic
    assert runner.status().delivery == ("exactly_once" if atomic else "at_least_once")


@pytest.mark.parametrize("call", ["open", "write", "flush", "flushed", "close"])
def test_errors_in_every_call_lose_nothing_and_double_nothing(stage: Stage, make_config: MakeConfig, call: str) -> None:
    """A target that is unavailable three times in this call: every row once."""
    target = Target()
    target.fault = failing(call, lambda: TargetUnavailable("not now"), times=3)
    stage.publish([order(number) for number in range(ROWS)])
    stage.deliver(MemoryConnector(target), make_config())
    assert target.ids == list(range(ROWS))


def test_another_process_was_faster(stage: Stage, make_config: MakeConfig) -> None:
    """`PositionMoved`: the connector is opened again, and reading goes on behind what the other delivered."""
    target = Target()
    stage.publish([order(number) for number in range(90)])
    ends = stage.ends()

    def other_delivers(call: str) -> None:
        if call == "flush" and not target.positions:
            target.positions.update(ends)
            target.flushes.append([{"id": "theirs"}])

    target.fault = other_delivers
    runner = stage.deliver(MemoryConnector(target), make_config(batch={"rows_max": 1_000, "age_max_ms": 50}))
    assert target.rows == [{"id": "theirs"}]
    assert runner.counters.retries == 1


def test_a_target_ahead_of_its_topic_is_refused(stage: Stage, make_config: MakeConfig) -> None:
    """Positions behind the topic's end mean another topic: a clear stop, and nothing is written."""
    target = Target(positions={0: 1_000})
    stage.publish([order(number) for number in range(30)])
    runner = stage.runner(MemoryConnector(target), make_config())
    error = ended_with(stage, runner, TargetAhead)
    assert re.search(r"orders partition 0 up to offset 1000, the topic ends at \d+", error.message)
    assert "made anew" in error.cure
    assert target.rows == []
    assert runner.status().state == "failed"


def test_two_members_share_the_partitions(stage: Stage, make_config: MakeConfig) -> None:
    """A second member of the group takes some partitions over while rows come; every row once, and both worked."""
    target = Target()
    runners = [stage.runner(MemoryConnector(target), make_config()) for _ in range(2)]
    with stage.running(runners[0]), stage.running(runners[1]):
        for start in range(0, 400, 40):
            stage.publish([order(number) for number in range(start, start + 40)])
        wait_until(lambda: all(runner.status().positions for runner in runners), "both have partitions")
        wait_until(lambda: len(target.rows) >= 400, "all delivered")
        shared = [set(runner.status().positions) for runner in runners]
    assert target.ids == list(range(400))
    assert shared[0] | shared[1] == {0, 1, 2}
    assert not shared[0] & shared[1]


def test_a_member_that_leaves_hands_over(stage: Stage, make_config: MakeConfig) -> None:
    """What a stopping member has staged is flushed, and the other goes on behind it."""
    target = Target()
    slow = make_config(batch={"rows_max": 10_000, "age_max_ms": 60_000})
    first = stage.runner(MemoryConnector(target), slow)
    with stage.running(first):
        stage.publish([order(number) for number in range(50)])
        wait_until(lambda: target.times("write") != [], "staged")
    assert 0 < len(target.ids) <= 50
    stage.publish([order(number) for number in range(50, 60)])
    stage.deliver(MemoryConnector(target), make_config())
    assert target.ids == list(range(60))
