"""Several tasks of one egress: each has its partitions, all are one egress to everybody else."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from headrace.egress.config import connector_config
from headrace.egress.errors import EgressInvalid
from headrace.egress.sdk import TargetInvalid, TargetUnavailable
from headrace.egress.status import EgressCounters, EgressStatus, together
from headrace.log.kafka import KafkaLog
from headrace.testing.sink_harness import PARTITIONS, Stage, order, order_contract, wait_until
from tests.egress.conftest import MakeConfig
from tests.egress.memory_target import MemoryConnector, Target, failing

ROWS = 300


def has_all_partitions(tasks: Any) -> bool:
    return sorted(each for runner in tasks.runners for each in runner.status().positions) == list(range(PARTITIONS))


def test_each_task_has_its_partitions_and_every_row_comes_once(stage: Stage, make_config: MakeConfig) -> None:
    """Three tasks, three partitions: one each, all rows once, and the egress tells the sum of all."""
    target = Target()
    tasks = stage.tasks(lambda: MemoryConnector(target), make_config(tasks=3))
    with stage.running(tasks):
        stage.publish([order(number) for number in range(ROWS)])
        wait_until(lambda: stage.is_delivered(tasks) and has_all_partitions(tasks), "delivered")
        shares = [sorted(runner.status().positions) for runner in tasks.runners]
        status = tasks.status()
    assert sorted(shares) == [[0], [1], [2]]
    assert target.ids == list(range(ROWS))
    assert status.positions == stage.ends() == target.positions
    assert status.counters.rows_written == ROWS
    assert status.counters.flushes == sum(runner.counters.flushes for runner in tasks.runners)


def test_rows_of_a_partition_keep_their_order(stage: Stage, make_config: MakeConfig) -> None:
    """Versions of some keys over many small flushes of three tasks: of each key in the order of the topic."""
    target = Target()
    stage.publish([order(number % 9, amount=number) for number in range(ROWS)])
    tasks = stage.tasks(lambda: MemoryConnector(target), make_config(tasks=3, batch={"rows_max": 7}))
    with stage.running(tasks):
        wait_until(lambda: stage.is_delivered(tasks), "delivered")
    for key in range(9):
        amounts = [row["amount"] for row in target.rows if row["id"] == key]
        assert amounts == [float(number) for number in range(ROWS) if number % 9 == key]


def test_tasks_flush_at_the_same_time(stage: Stage, make_config: MakeConfig) -> None:
    """Three flushes are under way at once: each waits for the two others."""
    target = Target()
    together_s = threading.Barrier(3, timeout=20)
    target.fault = lambda call: (together_s.wait(), None)[1] if call == "flush" else None
    tasks = stage.tasks(lambda: MemoryConnector(target), make_config(tasks=3, batch={"rows_max": 1_000}))
    with stage.running(tasks):
        wait_until(lambda: has_all_partitions(tasks) or len(target.opened) >= 3, "joined")
        wait_until(lambda: sorted(map(len, target.opened[-3:])) == [1, 1, 1], "each has one")
        stage.publish([order(number) for number in range(90)])
        wait_until(lambda: len(target.rows) == 90, "delivered")
    assert not together_s.broken


def test_more_tasks_than_partitions_stand_idle(stage: Stage, make_config: MakeConfig) -> None:
    """Five tasks, three partitions: everything arrives, and the egress runs."""
    target = Target()
    stage.publish([order(number) for number in range(ROWS)])
    tasks = stage.tasks(lambda: MemoryConnector(target), make_config(tasks=5))
    with stage.running(tasks):
        wait_until(lambda: stage.is_delivered(tasks), "delivered")
        wait_until(lambda: sum(bool(each.status().positions) for each in tasks.runners) == 3, "two idle")
        assert tasks.status().state == "running"
    assert target.ids == list(range(ROWS))


def test_pause_reaches_all_tasks(stage: Stage, make_config: MakeConfig) -> None:
    """Nothing is delivered while the egress is paused, its targets are closed and its lag is told; then all goes on."""
    target, paused = Target(), threading.Event()
    tasks = stage.tasks(lambda: MemoryConnector(target), make_config(tasks=3), paused=paused)
    with stage.running(tasks):
        wait_until(lambda: sorted(map(len, target.opened[-3:])) == [1, 1, 1], "each has one")
        paused.set()
        wait_until(lambda: tasks.status().state == "paused", "all paused")
        closed = len(target.times("close"))
        assert closed >= 3
        stage.publish([order(number) for number in range(30)])
        wait_until(lambda: tasks.status().lag_records == 30, "the lag is told")
        assert target.rows == []
        paused.clear()
        wait_until(lambda: stage.is_delivered(tasks), "delivered")
    assert target.ids == list(range(30))


def test_what_stops_one_task_stops_the_egress(stage: Stage, make_config: MakeConfig) -> None:
    """A target that one task cannot use at all: the egress ends with that reason, the others deliver what they have."""
    target = Target()
    stage.publish([order(number) for number in range(ROWS)])
    target.fault = failing("flush", lambda: TargetInvalid("no such table"), times=1)
    tasks = stage.tasks(lambda: MemoryConnector(target), make_config(tasks=3))
    with pytest.raises(TargetInvalid, match="no such table"), stage.running(tasks) as thread:
        wait_until(lambda: not thread.is_alive(), "ended")
    assert tasks.status().state == "failed"
    assert tasks.status().error is not None
    assert len(target.ids) == len(set(target.ids))
    assert {each.status().state for each in tasks.runners} <= {"failed", "stopped"}


def test_an_unavailable_target_delays_one_task_alone(stage: Stage, make_config: MakeConfig) -> None:
    """One task's connection breaks: it is tried again, every row once, and the egress tells the retry."""
    target = Target()
    stage.publish([order(number) for number in range(ROWS)])
    target.fault = failing("flush", lambda: TargetUnavailable("gone"), times=1)
    tasks = stage.tasks(lambda: MemoryConnector(target), make_config(tasks=3))
    with stage.running(tasks):
        wait_until(lambda: stage.is_delivered(tasks), "delivered")
    assert target.ids == list(range(ROWS))
    assert tasks.status().counters.retries == 1


def test_the_rate_is_that_of_the_egress(stage: Stage, make_config: MakeConfig) -> None:
    """Three tasks of an egress that may read 200 rows a second: 120 rows take the time of one task's."""
    target = Target()
    stage.publish([order(number) for number in range(120)])
    tasks = stage.tasks(lambda: MemoryConnector(target), make_config(tasks=3, rows_per_second_max=200))
    with stage.running(tasks):
        wait_until(lambda: stage.is_delivered(tasks), "delivered")
    writes = target.times("write")
    # Each task may take a tenth of a second's rows at once.
    assert writes[-1] - writes[0] >= (120 - 3 * 20) / 200 * 0.9


def test_a_target_for_one_task_refuses_several(make_config: MakeConfig) -> None:
    """`tasks: 2` with a connector that is not parallel: the place, and what to do."""
    connector = MemoryConnector(Target(parallel=False))
    with pytest.raises(EgressInvalid, match="one task at a time, `tasks` is 2") as raised:
        connector_config(make_config(tasks=2), connector)
    assert raised.value.cure == "leave `tasks` out"
    connector_config(make_config(tasks=1), connector)


def status_of(**more: Any) -> EgressStatus:
    values: Mapping[str, Any] = {
        "name": "out",
        "topic": "orders",
        "connector": "memory",
        "state": "running",
        "delivery": "exactly_once",
        "positions": {},
        "lag_records": None,
        "counters": EgressCounters(),
        "error": None,
        **more,
    }
    return EgressStatus(**values)


def test_the_worst_state_is_that_of_the_egress() -> None:
    """States, errors and breakers: the worst with its error; paused and stopped only when all are."""
    error = TargetUnavailable("gone")
    both = together([status_of(), status_of(state="retrying", error=error, breaker="open")])
    assert (both.state, both.error, both.breaker) == ("retrying", error, "open")
    assert together([status_of(state="paused"), status_of()]).state == "running"
    assert together([status_of(breaker="probing"), status_of()]).breaker == "probing"
    order_of_states = ["failed", "retrying", "running", "created", "paused", "stopped"]
    for worse, better in pairwise(order_of_states):
        assert together([status_of(state=better), status_of(state=worse)]).state == worse


def test_numbers_of_tasks_are_summed() -> None:
    """Counters, dead letters by code, and lag as far as it is known; a partition told twice counts once."""
    counted = [EgressCounters(records=number, flush_s=0.5) for number in (1, 2)]
    for each in counted:
        each.dead_letters["decode", "x"] += 1
    both = together(
        [
            status_of(counters=counted[0], lag_records=3, positions={0: 5, 1: 7}),
            status_of(counters=counted[1], lag_records=4, positions={1: 6, 2: 1}),
        ]
    )
    assert (both.counters.records, both.counters.flush_s, both.counters.dead_letters) == (3, 1.0, {("decode", "x"): 2})
    assert (both.lag_records, both.positions) == (7, {0: 5, 1: 7, 2: 1})
    assert together([status_of(), status_of(lag_records=4)]).lag_records == 4
    assert together([status_of(), status_of()]).lag_records is None


def test_a_stop_ends_all_tasks(stage: Stage, make_config: MakeConfig) -> None:
    """No thread is left when the egress has ended."""
    tasks = stage.tasks(lambda: MemoryConnector(Target()), make_config(tasks=3))
    with stage.running(tasks):
        wait_until(lambda: tasks.status().state == "running", "running")
    assert not [each for each in threading.enumerate() if each.name.startswith("egress-out-")]


@pytest.mark.kafka
def test_tasks_on_kafka(kafka_log: KafkaLog, tmp_path: Path, make_config: MakeConfig) -> None:
    """The same on a broker: three members of one process share the partitions, every row once, positions right."""
    unique = uuid.uuid4().hex[:8]
    contract = replace(order_contract(), topic=f"orders-{unique}")
    target, config = Target(), make_config(name=f"out-{unique}", topic=contract.topic, tasks=3)
    with closing(Stage(tmp_path, contract, log=kafka_log)) as stage:
        stage.publish([order(number) for number in range(100)])
        tasks = stage.tasks(lambda: MemoryConnector(target), config)
        with stage.running(tasks):
            wait_until(lambda: all(each.status().positions for each in tasks.runners), "each has one", deadline_s=60)
            stage.publish([order(number) for number in range(100, ROWS)])
            wait_until(lambda: stage.is_delivered(tasks) and has_all_partitions(tasks), "delivered", deadline_s=60)
        assert target.ids == list(range(ROWS))
        assert target.positions == stage.ends()
