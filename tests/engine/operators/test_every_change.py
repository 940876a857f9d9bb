"""Bounded suppression below steps that speak at flushes: every change counts, whatever the cuts."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace import col
from headrace.engine.every_change import change_by_change, tellers
from headrace.engine.operator import PARTITION, SEQUENCE
from headrace.flow.plan import Plan
from headrace.flow.steps import AggregateStep
from tests.engine.operators.plan_driver import In, PlanDriver, play
from tests.engine.operators.test_nested_windows import READINGS
from tests.engine.operators.test_suppress import Change, Reference

Suppression = Callable[[], Any]
BOUNDS: dict[str, tuple[Suppression, int | None, int | None]] = {
    "time": (lambda: hr.until("10ms"), 10, None),
    "no time": (lambda: hr.until("0ms"), 0, None),
    "count": (lambda: hr.at_most(1), None, 1),
    "both": (lambda: hr.until("15ms", rows_max=2), 15, 2),
}


def reading(sensor: str, time_ms: int) -> In:
    """A row; sensors a and b are in partition 0, c in partition 1."""
    return In("readings", int(sensor == "c"), time_ms, {"sensor": sensor, "value": 1, "at": time_ms})


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[In], dict[int, str]]:
    """Rows out of order, and what happens between them."""
    now, rows = 0, []
    for _ in range(draw(st.integers(1, 30))):
        now += draw(st.sampled_from([0, 1, 2, 6, 14]))
        behind = draw(st.sampled_from([0, 0, 0, 3, 12]))
        rows.append(reading(draw(st.sampled_from("abc")), max(0, now - behind)))
    kinds = st.sampled_from(["cut", "cut", "commit", "abort", "restore"])
    return rows, draw(st.dictionaries(st.integers(1, 30), kinds, max_size=10))


def counts(rows: Sequence[In]) -> Iterator[Change]:
    """Every change of the number of rows by sensor."""
    number: collections.Counter[str] = collections.Counter()
    latest: dict[str, int] = {}
    for row in rows:
        sensor = row.values["sensor"]
        number[sensor] += 1
        latest[sensor] = max(row.time_ms, latest.get(sensor, 0))
        yield Change(row.partition, sensor, latest[sensor], number[sensor])


@pytest.mark.parametrize("name", list(BOUNDS))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(life=lives())
def test_suppressed_counts_equal_one_record_at_a_time(name: str, life: tuple[list[In], dict[int, str]]) -> None:
    """The rows that go out, in order in each partition: with the count as it was then, and when it was."""
    suppression, limit_ms, rows_max = BOUNDS[name]

    def shop() -> Any:
        table = hr.stream("readings").group_by("sensor").agg(n=hr.count())
        return table.with_columns(n=col("n") + 0).suppress(suppression()).to("out")

    rows, events = life
    reference = Reference(limit_ms, rows_max)
    wanted = [out for change in counts(rows) for out in reference.add(change)]
    driver = PlanDriver(shop, READINGS)
    found = [Change(p, sensor, time, n) for sensor, n, p, time, _ in play(driver, rows, events).get("out", [])]
    for partition in (0, 1):
        assert [c for c in found if c.partition == partition] == [c for c in wanted if c.partition == partition]


def windowed(window: Any, then: Callable[[Any], Any] = lambda table: table) -> Any:
    """Counts by window, held back."""

    def shop() -> Any:
        table = hr.stream("readings").group_by("sensor").window(window).agg(n=hr.count())
        return then(table).suppress(hr.until("10ms")).to("out")

    return shop


def joined() -> Any:
    """Two aggregates of one stream, joined: a change of either is a change of the result."""
    readings = hr.stream("readings").group_by("sensor")
    table = readings.agg(n=hr.count()).join(readings.agg(most=hr.max("at")), on="sensor", how="outer")
    return table.suppress(hr.until("10ms")).to("out")


PIPELINES = {
    "joined": joined,
    "hopping": windowed(hr.hopping("12ms", "5ms", grace="20ms")),
    "sliding": windowed(hr.sliding("9ms", grace="20ms")),
    "session": windowed(hr.session("5ms", grace="20ms")),
    "filtered": windowed(hr.tumbling("12ms", grace="20ms"), lambda table: table.filter(col("n") > 1)),
}


@pytest.mark.parametrize("name", list(PIPELINES))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(life=lives())
def test_any_cut_lets_the_same_rows_go(name: str, life: tuple[list[In], dict[int, str]]) -> None:
    """As one row in each batch does."""
    rows, events = life
    cut = play(PlanDriver(PIPELINES[name], READINGS), rows, events).get("out", [])
    one = play(PlanDriver(PIPELINES[name], READINGS), rows, dict.fromkeys(range(1, len(rows)), "commit")).get("out", [])
    for partition in (0, 1):
        mine, theirs = ([row for row in each if row[-3] == partition] for each in (cut, one))
        assert mine == theirs


def plan(function: Callable[[], Any]) -> Plan:
    """Compiled."""
    return PlanDriver(function, READINGS).compiled.plan


def test_only_steps_above_a_bounded_suppression_tell_every_change() -> None:
    """One that nothing is held back of keeps to one row per key and commit."""

    def shop() -> Any:
        table = hr.stream("readings").group_by("sensor").agg(n=hr.count()).named("held")
        other = hr.stream("readings").group_by("sensor").agg(most=hr.max("value")).named("free")
        return table.suppress(hr.at_most(3)).to("out"), other.to("others")

    assert tellers(plan(shop)) == {"held": False}


def _pieces(keys: str, sequence: Sequence[int]) -> list[str]:
    (step,) = [s for s in plan(windowed(hr.tumbling("5ms"))).steps if isinstance(s, AggregateStep)]
    frame = pl.DataFrame({"sensor": list(keys), PARTITION: [0] * len(keys), SEQUENCE: list(sequence)})
    return ["".join(piece["sensor"]) for _, (piece,) in change_by_change(step, [frame])]


def test_a_piece_goes_on_until_a_key_comes_again() -> None:
    """So no change of a key is lost, and no more pieces are made than needed."""
    assert _pieces("abcd", range(4)) == ["abcd"]
    assert _pieces("abacba", range(6)) == ["ab", "acb", "a"]
    assert _pieces("aaa", range(3)) == ["a", "a", "a"]
    assert _pieces("", []) == [""]


def test_rows_of_one_source_row_are_one_change() -> None:
    """An old row that is taken back and its new one are never cut apart."""
    assert _pieces("aabba", [0, 0, 1, 1, 2]) == ["aabb", "a"]
