"""What fails: retries with growing pauses, errors that stop, and the group that is served meanwhile."""

from __future__ import annotations

import re
from itertools import pairwise

from headrace.egress.config import RetryLimits
from headrace.egress.errors import RETRY_AFTER_MAX_S, ConnectorFailed, GaveUp
from headrace.egress.pace import pause_s
from headrace.egress.sdk import TargetInvalid, TargetUnavailable
from headrace.testing.sink_harness import Stage, order, wait_until
from tests.egress.conftest import MakeConfig, ended_with
from tests.egress.memory_target import MemoryConnector, Target, failing

ALWAYS = 1_000_000


def unavailable() -> TargetUnavailable:
    return TargetUnavailable("the target sleeps", cure="wake it")


def test_pauses_double_up_to_a_bound_and_part_by_chance() -> None:
    """Each pause lies between half of first_ms * 2^n and the whole of it, never above max_ms, and they differ."""
    retry = RetryLimits(first_ms=100, max_ms=1_000)
    for failures, longest_s in ((1, 0.1), (2, 0.2), (4, 0.8), (5, 1.0), (10_000, 1.0)):
        pauses = [pause_s(retry, failures) for _ in range(200)]
        assert longest_s / 2 <= min(pauses) < max(pauses) <= longest_s


def test_the_runner_waits_that_long(stage: Stage, make_config: MakeConfig) -> None:
    """Between attempts lies at least half of the pause; after a success the count begins again."""
    target = Target()
    target.fault = failing("flush", unavailable, times=3)
    stage.publish([order(1)])
    runner = stage.deliver(MemoryConnector(target), make_config(retry={"first_ms": 100, "max_ms": 150}))
    attempts = target.times("flush")
    gaps = [later - earlier for earlier, later in pairwise(attempts)]
    assert len(gaps) == 3
    assert all(gap >= least for gap, least in zip(gaps, (0.05, 0.075, 0.075), strict=True))
    assert (target.ids, runner.counters.retries) == ([1], 3)


def test_a_target_may_ask_for_more_time(stage: Stage, make_config: MakeConfig) -> None:
    """`retry_after_s` is waited out however short the pauses are, within bounds."""
    target = Target()
    target.fault = failing("flush", lambda: TargetUnavailable("busy", retry_after_s=0.4), times=2)
    stage.publish([order(1)])
    stage.deliver(MemoryConnector(target), make_config(retry={"first_ms": 1, "max_ms": 1}))
    gaps = [later - earlier for earlier, later in pairwise(target.times("flush"))]
    assert len(gaps) == 2
    assert min(gaps) >= 0.4
    assert TargetUnavailable("busy", retry_after_s=1e9).retry_after_s == RETRY_AFTER_MAX_S
    assert TargetUnavailable("busy", retry_after_s=-1).retry_after_s == 0


def test_gives_up_after_the_configured_attempts(stage: Stage, make_config: MakeConfig) -> None:
    """`attempts_max` failures of one delivery end the egress with the last reason and its cure."""
    target = Target()
    target.fault = failing("flush", unavailable, times=ALWAYS)
    stage.publish([order(1)])
    runner = stage.runner(MemoryConnector(target), make_config(retry={"first_ms": 1, "max_ms": 2, "attempts_max": 3}))
    error = ended_with(stage, runner, GaveUp)
    assert re.search("'out': 3 attempts failed, the last: the target sleeps", error.message)
    assert error.cure == "wake it"
    assert len(target.times("flush")) == 3
    assert target.rows == []


def test_failures_of_different_deliveries_do_not_add_up(stage: Stage, make_config: MakeConfig) -> None:
    """A success between them starts the count again: ten failures in all do not end an egress that allows two."""
    target = Target()
    flushes = [0]

    def every_other(call: str) -> None:
        flushes[0] += call == "flush"
        if call == "flush" and flushes[0] % 2 and flushes[0] < 20:
            raise unavailable()

    target.fault = every_other
    stage.publish([order(number) for number in range(40)])
    config = make_config(batch={"rows_max": 4, "age_max_ms": 20}, retry={"first_ms": 1, "max_ms": 2, "attempts_max": 2})
    runner = stage.deliver(MemoryConnector(target), config)
    assert target.ids == list(range(40))
    assert runner.counters.retries == 10


def test_an_error_that_a_person_must_mend_stops_at_once(stage: Stage, make_config: MakeConfig) -> None:
    """`TargetInvalid`: no second attempt, the state tells why, the connector is closed, no offset moves."""
    target = Target()
    target.fault = failing("write", lambda: TargetInvalid("no such column", cure="add it"), times=ALWAYS)
    stage.publish([order(1)])
    runner = stage.runner(MemoryConnector(target), make_config())
    error = ended_with(stage, runner, TargetInvalid)
    assert re.search("no such column", error.message)
    status = runner.status()
    assert (status.state, status.counters.retries) == ("failed", 0)
    assert isinstance(status.error, TargetInvalid)
    assert [name for name, _ in target.calls] == ["open", "write", "close"]


def test_a_connector_that_raises_anything_is_named(stage: Stage, make_config: MakeConfig) -> None:
    """A `KeyError` of a connector is tried again and told as a mistake of that connector, with the call."""
    target = Target()
    target.fault = failing("write", lambda: KeyError("oops"), times=ALWAYS)
    stage.publish([order(1)])
    runner = stage.runner(MemoryConnector(target), make_config(retry={"first_ms": 1, "max_ms": 2, "attempts_max": 2}))
    error = ended_with(stage, runner, GaveUp)
    assert re.search("connector 'memory' raised KeyError in write: 'oops'", error.message)
    assert isinstance(error.__cause__, ConnectorFailed)


def test_status_tells_of_a_target_that_is_away(stage: Stage, make_config: MakeConfig) -> None:
    """While it waits the state is `retrying` with the reason; afterwards `running` and nothing of it."""
    target = Target()
    target.fault = failing("flush", unavailable, times=ALWAYS)
    stage.publish([order(1)])
    runner = stage.runner(MemoryConnector(target), make_config())
    with stage.running(runner):
        wait_until(lambda: runner.status().state == "retrying", "retrying")
        assert str(runner.status().error) == "the target sleeps; wake it"
        target.fault = lambda call: None
        wait_until(lambda: stage.is_delivered(runner), "delivered")
        assert runner.status().error is None


def test_a_long_wait_costs_no_partitions_and_blocks_no_other(stage: Stage, make_config: MakeConfig) -> None:
    """A member that waits minutes for its target still answers the group: a second one gets its share at once."""
    broken, whole = Target(), Target()
    broken.fault = failing("flush", unavailable, times=ALWAYS)
    stage.publish([order(number) for number in range(60)])
    waiting = stage.runner(MemoryConnector(broken), make_config(retry={"first_ms": 600_000, "max_ms": 600_000}))
    working = stage.runner(MemoryConnector(whole), make_config())
    with stage.running(waiting):
        wait_until(lambda: waiting.status().state == "retrying", "the first waits")
        with stage.running(working):
            wait_until(lambda: bool(working.status().positions), "the second has partitions")
            mine = set(working.status().positions)
            ends = stage.ends()
            wait_until(lambda: all(working.status().positions[each] == ends[each] for each in mine), "delivered")
            assert 0 < len(mine) < stage.partitions
        assert waiting.status().state == "retrying"


def test_a_stop_ends_a_long_wait(stage: Stage, make_config: MakeConfig) -> None:
    """Stopping does not sit out the pause."""
    target = Target()
    target.fault = failing("open", unavailable, times=ALWAYS)
    runner = stage.runner(MemoryConnector(target), make_config(retry={"first_ms": 600_000, "max_ms": 600_000}))
    stage.publish([order(1)])
    with stage.running(runner):
        wait_until(lambda: runner.status().state == "retrying", "it waits")
    assert runner.status().state == "stopped"
