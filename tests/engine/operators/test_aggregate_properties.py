"""Aggregates against the reference: random rows, cuts, commits, aborts, restores and moves.

Every example has a few of all aggregates, grouped by two columns, one or none, over two partitions whose rows come out
of order and late.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from headrace.flow.steps import AggregateColumn
from headrace.flow.values import Emit
from tests.engine.operators.aggregate_driver import comparable
from tests.engine.operators.aggregate_scenarios import (
    PARTITIONS,
    ROUNDED,
    SKETCHED,
    WINDOWS,
    Scenario,
    finals_by_key,
    key_of,
    play,
    play_reference,
    scenarios,
)
from tests.engine.reference import Result

PHASES = [phase for phase in settings.default.phases if phase is not Phase.explain]
"""Without the explanation of a failure, which takes minutes here."""


def examples(count: int) -> Any:
    """Settings of these tests; a Hypothesis profile with more examples than its default of 100 scales them."""
    count = count * settings.default.max_examples // 100
    return settings(max_examples=count, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])


def _assert_same(aggregates: list[AggregateColumn], made: tuple[Any, ...], wanted: Result) -> None:
    """Results agree: exactly, or within rounding where a result is rounded more than once."""
    *values, time_ms, stream_time_ms = made
    assert (time_ms, stream_time_ms) == (wanted.time_ms, wanted.stream_time_ms)
    for each, mine, theirs in zip(aggregates, values, wanted.values, strict=True):
        share = ROUNDED.get(each.name) or SKETCHED.get(each.name)
        if share is not None and isinstance(theirs, float) and math.isfinite(theirs):
            assert float.fromhex(mine) == pytest.approx(theirs, rel=share * (1 + 1e-9), abs=0), each.name
        else:
            assert mine == comparable(theirs), each.name


@pytest.mark.parametrize("window", [name for name in WINDOWS if name != "none"])
@examples(16)
@given(scenario=scenarios())
def test_final_results_equal_the_reference(window: str, scenario: Scenario) -> None:
    """Whatever the cuts, commits, aborts, restores and idle closes: each window once, with the reference's values."""
    driver = scenario.driver(WINDOWS[window], Emit.FINAL)
    finals = play(driver, scenario, scenario.events).finals
    wanted, reference = play_reference(scenario, WINDOWS[window])
    made = finals_by_key(finals, len(scenario.group))
    assert len(made) == len(finals), "no window twice"
    expected = {key_of(result): result for result in wanted}
    assert made.keys() == expected.keys()
    for key, row in made.items():
        _assert_same(scenario.aggregates, row, expected[key])
    if not {"abort", "abort_flushed"} & set(scenario.events.values()):
        assert dict(driver.context.dropped) == reference.dropped
        refused = [error for _, error in driver.context.dead if error.code != "process.null_key"]
        assert len(refused) == len(reference.refused)


@pytest.mark.parametrize("window", list(WINDOWS))
@examples(16)
@given(scenario=scenarios())
def test_updates_leave_the_table_of_the_reference(window: str, scenario: Scenario) -> None:
    """The rows and deletions of all flushes add up to the reference's table."""
    table = play(scenario.driver(WINDOWS[window], Emit.UPDATES), scenario, scenario.events).table
    _, reference = play_reference(scenario, WINDOWS[window])
    expected = {key_of(result): result for result in reference.table}
    assert table.keys() == expected.keys()
    for key, row in table.items():
        _assert_same(scenario.aggregates, row, expected[key])


@pytest.mark.parametrize("emit", list(Emit))
@pytest.mark.parametrize("window", list(WINDOWS))
@examples(6)
@given(scenario=scenarios())
def test_any_cut_leaves_the_same_bits(window: str, emit: Emit, scenario: Scenario) -> None:
    """One batch, batches of one row and of seven, and the drawn events leave equal state and equal rows, bit by bit."""
    count = len(scenario.rows)
    ways = [
        scenario.idle,
        dict.fromkeys(range(1, count + 1), "cut") | scenario.idle,
        dict.fromkeys(range(7, count + 1, 7), "cut") | scenario.idle,
        scenario.events,
    ]
    outcomes = []
    for events in ways:
        driver = scenario.driver(WINDOWS[window], emit)
        played = play(driver, scenario, events, close=False)
        outcomes.append((sorted(played.finals, key=repr), played.table, driver.state(PARTITIONS)))
    assert all(outcome == outcomes[0] for outcome in outcomes[1:])
