"""Aggregates against the reference: random rows, cuts, commits, aborts and restores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.engine.operator import DELETED, PARTITION, STREAM_TIME, TIME
from headrace.flow.plan import AggregateColumn, Emit, Window
from tests.engine.operators.aggregate_driver import (
    END,
    Driver,
    aggregate,
    comparable,
    hopping,
    make_step,
    result_rows,
    session,
    tumbling,
)
from tests.engine.reference import Reference, Result, Row, canonical

COLUMNS: dict[str, pl.DataType] = {
    "carrier": pl.String(),
    "gate": pl.Float64(),
    "seats": pl.Int64(),
    "delay": pl.Float64(),
    "plane": pl.String(),
    "fare": pl.Decimal(12, 2),
}
PARTITIONS = (0, 1)


def _aggregates() -> list[AggregateColumn]:
    def make(name: str, function: str, column: str | None, **options: Any) -> AggregateColumn:
        return aggregate(name, function, column, COLUMNS, **options)

    return [
        make("rows", "count", None),
        make("delays", "count", "delay"),
        make("sum_seats", "sum", "seats"),
        make("sum_delay", "sum", "delay"),
        make("sum_fare", "sum", "fare"),
        make("mean_seats", "mean", "seats"),
        make("mean_delay", "mean", "delay"),
        make("mean_fare", "mean", "fare"),
        make("min_delay", "min", "delay"),
        make("max_delay", "max", "delay"),
        make("min_plane", "min", "plane"),
        make("max_fare", "max", "fare"),
        make("first_plane", "first", "plane"),
        make("last_seats", "last", "seats"),
        make("var_seats", "var", "seats"),
        make("std_delay", "std", "delay"),
        make("planes", "count_distinct", "plane"),
        make("different_delays", "count_distinct", "delay"),
        make("median_delay", "quantile", "delay", q=0.5),
        make("p90_seats", "quantile", "seats", q=0.9),
        make("about_delay", "quantile", "delay", q=0.5, accuracy=0.01),
        make("top_fares", "top_k", "fare", k=2),
        make("some_planes", "collect", "plane", limit=3),
    ]


AGGREGATES = _aggregates()
ROUNDED = {"var_seats", "std_delay", "mean_fare", "mean_seats", "mean_delay"}
"""Results that may differ from the exact ones in the last bits."""
WINDOWS = {
    "tumbling": tumbling(10),
    "tumbling_grace": tumbling(10, 7),
    "hopping": hopping(10, 4, 3),
    "session": session(5),
    "session_grace": session(4, 9),
    "none": None,
}
GROUPS = (("carrier", "gate"), ("carrier",), ())


@dataclass(frozen=True)
class Scenario:
    """Rows, and what happens between them: at `cuts[i]` before row i."""

    rows: list[Row]
    closing: list[dict[int, int]]
    """Closing times after each row."""
    cuts: dict[int, str]


def _values() -> st.SearchStrategy[dict[str, Any]]:
    delays = st.one_of(
        st.none(),
        st.floats(-1e6, 1e6, allow_subnormal=False),
        st.sampled_from([0.1, 0.2, -0.0, 1e15, -1e15, math.nan, math.inf, -math.inf]),
    )
    return st.fixed_dictionaries(
        {
            "carrier": st.sampled_from([None, "AA", "a much longer carrier name"]),
            "gate": st.sampled_from([None, 0.0, -0.0, math.nan]),
            "seats": st.one_of(st.none(), st.integers(-50, 50)),
            "delay": delays,
            "plane": st.sampled_from([None, "N1", "N2", "a long tail number, not inlined"]),
            "fare": st.one_of(st.none(), st.decimals(-10_000, 10_000, places=2)),
        }
    )


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Rows of two partitions, each fed by two origins with clocks of their own."""
    count = draw(st.integers(1, 30))
    clocks = {(partition, origin): 0 for partition in PARTITIONS for origin in (0, 1)}
    rows, closing = [], []
    now = 0
    for _ in range(count):
        partition, origin = draw(st.sampled_from(list(clocks)))
        now += draw(st.integers(0, 6))
        time_ms = max(0, now - draw(st.sampled_from([0, 0, 0, 1, 3, 8, 20])))
        clocks[partition, origin] = max(clocks[partition, origin], time_ms)
        rows.append(Row(partition, time_ms, clocks[partition, origin], draw(_values())))
        closing.append({p: min(clocks[p, 0], clocks[p, 1]) for p in PARTITIONS})
    cuts = draw(
        st.dictionaries(
            st.integers(1, count),
            st.sampled_from(["cut", "commit", "abort", "restore", "snapshot", "idle"]),
            max_size=8,
        )
    )
    return Scenario(rows, closing, cuts)


def _run(driver: Driver, scenario: Scenario, cuts: dict[int, str]) -> tuple[list[tuple[Any, ...]], dict[Any, Any]]:
    """All final rows, and the table that the updates leave."""
    finals: list[tuple[Any, ...]] = []
    table: dict[Any, Any] = {}
    committed = 0
    pending: list[tuple[Any, ...]] = []
    done = 0

    def feed(until: int) -> None:
        nonlocal done
        if until > done:
            pending.extend(result_rows(driver.batch(scenario.rows[done:until], scenario.closing[until - 1])))
            done = until

    def commit() -> None:
        nonlocal committed, pending
        _publish(table, driver.commit())
        finals.extend(pending)
        pending, committed = [], done

    for at in sorted(cuts):
        feed(at)
        match cuts[at]:
            case "abort":
                driver.operator.flush(driver.context)
                driver.operator.changes()
                driver.operator.rollback()
                pending, done = [], committed
                again = {cut: kind for cut, kind in cuts.items() if committed < cut < at and kind == "idle"}
                assert not again, "idle closes commit at once"
                feed(at)
            case "commit":
                commit()
            case "restore":
                commit()
                driver.restore()
            case "snapshot":
                commit()
                driver.restore_from_snapshots(PARTITIONS)
            case "idle":
                pending.extend(result_rows(driver.close_idle([0])))
                commit()
    feed(len(scenario.rows))
    commit()
    pending.extend(result_rows(driver.batch([], dict.fromkeys(PARTITIONS, END))))
    commit()
    return finals, table


def _publish(table: dict[Any, Any], flushed: pl.DataFrame) -> None:
    """Apply flushed rows to a table keyed like the output, minding that each key comes once, deletions first."""
    bounds = [name for name in ("window_start", "window_end") if name in flushed.columns]
    keys = [name for name in ("carrier", "gate") if name in flushed.columns]
    plain = flushed.with_columns(pl.col(pl.Datetime).dt.timestamp("ms"))
    seen = set()
    for row in plain.iter_rows(named=True):
        key = comparable(tuple(row[name] for name in [PARTITION, *keys, *bounds]))
        if row[DELETED]:
            assert table.pop(key, None) is not None, "a deletion takes back a row that stood"
        else:
            assert key not in seen, "at most one row per key and flush"
            seen.add(key)
            names = [each.name for each in AGGREGATES]
            table[key] = comparable((*(row[name] for name in names), row[TIME], row[STREAM_TIME]))


def _reference(scenario: Scenario, group: Sequence[str], window: Window | None) -> tuple[list[Result], Reference]:
    reference = Reference(group, window, AGGREGATES)
    finals = []
    idle = {at for at, kind in scenario.cuts.items() if kind == "idle"}
    for index, row in enumerate(scenario.rows):
        reference.add(row)
        for partition, closing_ms in scenario.closing[index].items():
            finals.extend(reference.close(partition, closing_ms))
        if index + 1 in idle:
            finals.extend(reference.close_idle(0))
    for partition in PARTITIONS:
        finals.extend(reference.close(partition, END))
    return finals, reference


def _key(result: Result) -> Any:
    bounds = () if result.start_ms is None else (result.start_ms, result.end_ms)
    return comparable((result.partition, *canonical(result.key), *bounds))


def _assert_same(made: tuple[Any, ...], wanted: Result) -> None:
    """Results agree: exactly, or within rounding where a result is rounded more than once."""
    *values, time_ms, stream_time_ms = made
    assert (time_ms, stream_time_ms) == (wanted.time_ms, wanted.stream_time_ms)
    for each, mine, theirs in zip(AGGREGATES, values, wanted.values, strict=True):
        number = float.fromhex(mine) if isinstance(mine, str) and each.name in (*ROUNDED, "about_delay") else mine
        if each.name == "about_delay" and isinstance(theirs, float) and math.isfinite(theirs):
            assert number == pytest.approx(theirs, rel=0.01 + 1e-9), each.name
        elif each.name in ROUNDED and isinstance(theirs, float) and math.isfinite(theirs):
            assert number == pytest.approx(theirs, rel=1e-9, abs=1e-300), each.name
        else:
            assert mine == comparable(theirs), each.name


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: "+".join(group) or "all")
@pytest.mark.parametrize("window", [name for name in WINDOWS if name != "none"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenario=scenarios())
def test_final_results_equal_the_reference(window: str, group: tuple[str, ...], scenario: Scenario) -> None:
    """Whatever the cuts, commits, aborts, restores and idle closes: each window once, with the reference's values."""
    step = make_step(group, WINDOWS[window], AGGREGATES, COLUMNS, Emit.FINAL)
    driver = Driver(step, COLUMNS)
    finals, _ = _run(driver, scenario, scenario.cuts)
    wanted, reference = _reference(scenario, group, WINDOWS[window])
    made = {_made_key(row, len(group)): row[len(group) + 2 : -3] + row[-2:] for row in finals}
    assert len(made) == len(finals), "no window twice"
    expected = {_key(result): result for result in wanted}
    assert made.keys() == expected.keys()
    for key, row in made.items():
        _assert_same(row, expected[key])
    if "abort" not in scenario.cuts.values():
        assert dict(driver.context.dropped) == reference.dropped


def _made_key(row: tuple[Any, ...], width: int) -> Any:
    return (row[-3], *row[: width + 2])


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: "+".join(group) or "all")
@pytest.mark.parametrize("window", list(WINDOWS))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenario=scenarios())
def test_updates_leave_the_table_of_the_reference(window: str, group: tuple[str, ...], scenario: Scenario) -> None:
    """The rows and deletions of all flushes add up to the reference's table."""
    step = make_step(group, WINDOWS[window], AGGREGATES, COLUMNS, Emit.UPDATES)
    _, table = _run(Driver(step, COLUMNS), scenario, scenario.cuts)
    _, reference = _reference(scenario, group, WINDOWS[window])
    expected = {_key(result): result for result in reference.table.values()}
    assert table.keys() == expected.keys()
    for key, row in table.items():
        _assert_same(row, expected[key])


@pytest.mark.parametrize("emit", list(Emit))
@pytest.mark.parametrize("window", list(WINDOWS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenario=scenarios())
def test_any_cut_leaves_the_same_bits(window: str, emit: Emit, scenario: Scenario) -> None:
    """One batch, one row per batch, and the drawn cuts leave equal states and equal final rows, floats included."""
    step = make_step(("carrier",), WINDOWS[window], AGGREGATES, COLUMNS, emit)
    idle = {at: kind for at, kind in scenario.cuts.items() if kind == "idle"}
    count = len(scenario.rows)
    ways = [
        idle,
        {at: scenario.cuts.get(at, "cut") if at in idle else "cut" for at in range(1, count + 1)},
        scenario.cuts,
    ]
    outcomes = []
    for cuts in ways:
        driver = Driver(step, COLUMNS)
        finals, table = _run_open(driver, scenario, cuts)
        outcomes.append((sorted(finals, key=repr), table, driver.state(PARTITIONS)))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] == outcomes[2]


def _run_open(driver: Driver, scenario: Scenario, cuts: dict[int, str]) -> tuple[list[Any], dict[Any, Any]]:
    """As `_run`, stopping before the last windows close, so that their state can be looked at."""
    finals: list[Any] = []
    table: dict[Any, Any] = {}
    done = 0
    for at in [*sorted(cuts), len(scenario.rows)]:
        if at > done:
            finals.extend(result_rows(driver.batch(scenario.rows[done:at], scenario.closing[at - 1])))
            done = at
        if cuts.get(at) == "idle" and at <= len(scenario.rows):
            finals.extend(result_rows(driver.close_idle([0])))
            cuts = {**cuts, at: "cut"}
        if cuts.get(at) in ("commit", "abort"):
            _publish(table, driver.commit())
        if cuts.get(at) in ("restore", "snapshot"):
            _publish(table, driver.commit())
            driver.restore()
    _publish(table, driver.commit())
    return finals, table


def test_decimal_sums_keep_their_scale() -> None:
    """A sum of decimals is a decimal of 38 digits and the column's scale."""
    step = make_step(("carrier",), None, [aggregate("s", "sum", "fare", COLUMNS)], COLUMNS, Emit.UPDATES)
    driver = Driver(step, COLUMNS)
    values = dict.fromkeys(COLUMNS) | {"carrier": "AA"}
    driver.batch([Row(0, 1, 1, values | {"fare": Decimal("0.10")}), Row(0, 2, 2, values | {"fare": Decimal("-5.05")})])
    flushed = driver.commit()
    assert flushed.schema["s"] == pl.Decimal(38, 2)
    assert flushed["s"].to_list() == [Decimal("-4.95")]
