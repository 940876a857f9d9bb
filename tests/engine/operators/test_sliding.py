"""Sliding windows: bounds, the first windows, closing, late rows, the order of updates; DuckDB and volume."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.engine.operator import PARTITION, SEQUENCE, SOURCE, STREAM_TIME, SYSTEM_COLUMNS, TIME
from headrace.flow.aggregator import Aggregator
from headrace.flow.values import Emit
from tests.engine.operators.aggregate_driver import END, Driver, aggregate, make_step, result_rows, sliding
from tests.engine.reference import Row

COLUMNS: dict[str, pl.DataType] = {"key": pl.String(), "value": pl.Int64()}
SUM = [aggregate("total", "sum", "value", COLUMNS)]
COUNT = [aggregate("rows", "count", None, COLUMNS)]


def driver(difference_ms: int, grace_ms: int = 0, emit: Emit = Emit.FINAL) -> Driver:
    """A sum by key."""
    return Driver(make_step(("key",), sliding(difference_ms, grace_ms), SUM, COLUMNS, emit), COLUMNS)


def row(time_ms: int, value: int = 1, reached_ms: int | None = None, key: str = "k") -> Row:
    """A row; stream time is its own time unless said."""
    return Row(0, time_ms, time_ms if reached_ms is None else reached_ms, {"key": key, "value": value})


def in_order(*times: int, grace_ms: int = 0) -> list[Row]:
    """Rows worth 1, 2, 4, ..., stream time going along."""
    reached, rows = 0, []
    for number, time_ms in enumerate(times):
        reached = max(reached, time_ms)
        rows.append(row(time_ms, 2**number, reached))
    return rows


def windows(frame: pl.DataFrame) -> list[tuple[int, int, int]]:
    """Start, end and total of the rows."""
    return [each[1:4] for each in result_rows(frame)]


def finals(difference_ms: int, rows: Sequence[Row], grace_ms: int = 0) -> list[tuple[int, int, int]]:
    """All windows of these rows."""
    return windows(driver(difference_ms, grace_ms).batch(rows, {0: END}))


def test_a_window_ends_at_each_row_and_one_begins_just_after_it() -> None:
    """Both bounds are in it; the window after the last row holds nothing, so it is none."""
    assert finals(10, in_order(20, 30)) == [(10, 20, 1), (20, 30, 3), (21, 31, 2)]
    assert finals(10, in_order(20, 31)) == [(10, 20, 1), (21, 31, 2)]
    assert finals(10, in_order(20, 32)) == [(10, 20, 1), (22, 32, 2)]


def test_rows_of_one_time_share_their_windows() -> None:
    """The window that ends at them has all of them, whichever came first."""
    assert finals(10, in_order(100, 100, 105)) == [(90, 100, 3), (95, 105, 7), (101, 111, 4)]


def test_no_window_begins_before_the_epoch() -> None:
    """Rows before `difference` share [0, difference]; the windows after them are as ever."""
    assert finals(10, in_order(0, 4, 9)) == [(0, 10, 7), (1, 11, 6), (5, 15, 4)]
    assert finals(10, in_order(10)) == [(0, 10, 1)]
    assert finals(10, in_order(11)) == [(1, 11, 1)]


def test_a_difference_of_nothing_puts_rows_of_one_time_together() -> None:
    """[t, t]."""
    assert finals(0, in_order(5, 5, 6)) == [(5, 5, 3), (6, 6, 4)]


def test_a_row_out_of_order_goes_into_all_windows_around_it() -> None:
    """And makes those that end at it and begin after it, with the rows that came before it."""
    assert finals(10, [row(20, 1), row(30, 2), row(25, 4, reached_ms=30)], grace_ms=100) == [
        (10, 20, 1),
        (15, 25, 5),
        (20, 30, 7),
        (21, 31, 6),
        (26, 36, 2),
    ]


def test_a_window_closes_when_stream_time_is_past_end_and_grace() -> None:
    """At the very bound it still takes rows."""
    op = driver(10, grace_ms=5)
    assert windows(op.batch([row(20)], {0: 25})) == []
    assert windows(op.batch([row(20, 2, reached_ms=25)], {0: 26})) == [(10, 20, 3)]
    assert op.context.dropped == {}


def test_a_late_row_goes_into_the_windows_that_are_open() -> None:
    """[86, 96], which would end at it, and [90, 100] are closed, and counted; [94, 104] takes it."""
    op = driver(10)
    op.batch([row(100, 1), row(104, 2)], {0: 104})
    out = op.batch([row(96, 4, reached_ms=104)], {0: END})
    assert windows(out) == [(94, 104, 7), (97, 107, 3), (101, 111, 2)]
    assert op.context.dropped == {"late": 2}


def test_a_row_late_for_all_windows_leaves_no_trace() -> None:
    """Not in a window, not asking for one, not kept."""
    op = driver(10)
    op.batch([row(100)], {0: 100})
    before = op.state([0])
    op.batch([row(89, 2, reached_ms=100)], {0: 100})
    assert op.state([0]) == before
    assert op.context.dropped == {"late": 1}


def test_a_late_row_that_no_window_takes_is_no_row() -> None:
    """It is not in a window that is made later, and asks for none; one that a window takes is and does."""
    op = driver(10)
    op.batch([row(100, 1, key="other"), row(95, 2, reached_ms=100), row(102, 4)], {0: 102})
    assert windows(op.batch([], {0: END}).filter(pl.col("key") == "k")) == [(92, 102, 4)]
    op = driver(10)
    rows = [row(91, 1), row(100, 1, key="other"), row(95, 2, reached_ms=100), row(102, 4)]
    op.batch(rows, {0: 102})
    assert windows(op.batch([], {0: END}).filter(pl.col("key") == "k")) == [(92, 102, 6), (96, 106, 4)]


def test_rows_that_kafka_streams_drops_are_dropped() -> None:
    """Its own example: the windows that would end at these rows are closed, and nothing else was there to take them."""
    op = driver(10, grace_ms=90)
    late = [row(time_ms, 2, reached_ms=200) for time_ms in (100, 101, 102, 103, 104, 105, 15)]
    assert windows(op.batch([row(200, 1), *late], {0: END})) == [(190, 200, 1)]
    assert op.context.dropped == {"late": 7}


def told(op: Driver, each: Row) -> list[tuple[int, int, int]]:
    """Process one row, commit; what the commit tells."""
    op.batch([each], {0: each.stream_time_ms})
    return windows(op.commit())


def test_updates_of_a_row_are_told_as_kafka_streams_tells_them() -> None:
    """Windows that were there, the latest first; the one after the row before; the one that ends at the row."""
    op = driver(10, emit=Emit.UPDATES)
    assert told(op, row(20)) == [(10, 20, 1)]
    assert told(op, row(25)) == [(21, 31, 1), (15, 25, 2)]
    assert told(op, row(30)) == [(21, 31, 2), (26, 36, 1), (20, 30, 3)]
    assert told(op, row(31)) == [(26, 36, 2), (21, 31, 3), (31, 41, 1)]


def test_updates_of_a_row_out_of_order_end_with_the_window_after_it() -> None:
    """It is made of the rows that were there."""
    op = driver(10, grace_ms=50, emit=Emit.UPDATES)
    assert told(op, row(20)) == [(10, 20, 1)]
    assert told(op, row(30)) == [(21, 31, 1), (20, 30, 2)]
    assert told(op, row(25, reached_ms=30)) == [(21, 31, 2), (20, 30, 3), (15, 25, 2), (26, 36, 1)]


def test_updates_of_the_first_rows_go_upwards() -> None:
    """Before `difference`: the windows that were there, the one after the row before, then [0, difference]."""
    op = driver(10, grace_ms=50, emit=Emit.UPDATES)
    assert told(op, row(2)) == [(0, 10, 1)]
    assert told(op, row(6)) == [(3, 13, 1), (0, 10, 2)]
    assert told(op, row(8)) == [(3, 13, 2), (7, 17, 1), (0, 10, 3)]
    assert told(op, row(4, reached_ms=8)) == [(3, 13, 3), (5, 15, 2), (0, 10, 4)]


def test_a_change_is_told_once_per_commit() -> None:
    """Of many rows in one commit: each window as it is then."""
    op = driver(10, emit=Emit.UPDATES)
    op.batch(in_order(20, 25, 30), {0: 30})
    assert sorted(windows(op.commit())) == [(10, 20, 1), (15, 25, 3), (20, 30, 7), (21, 31, 6), (26, 36, 4)]
    assert windows(op.commit()) == []


class Trail(Aggregator):
    """All values in order; a 13 raises."""

    type = "string"

    def init(self) -> str:
        return ""

    def add(self, state: str, value: int) -> str:
        if value == 13:
            raise ValueError("no such floor")
        return f"{state}{value}."

    def merge(self, left: str, right: str) -> str:
        raise AssertionError("windows are never merged: `merge` of a session may mean something else")

    def result(self, state: str) -> str:
        return state


def trails(rows: Sequence[Row], grace_ms: int = 0, difference_ms: int = 10) -> tuple[Driver, list[str]]:
    """What each window's trail is."""
    made = aggregate("trail", "custom", "value", COLUMNS, type=["null", "string"])
    op = Driver(
        make_step(("key",), sliding(difference_ms, grace_ms), [made], COLUMNS),
        COLUMNS,
        {"totals.trail": Trail("value")},
    )
    return op, [each[3] for each in result_rows(op.batch(rows, {0: END}))]


def test_values_are_added_in_order_of_arrival() -> None:
    """Also in a window that is made of rows from before."""
    _, found = trails([row(30, 1), row(20, 2, 30), row(25, 3, 30), row(24, 4, 30)], grace_ms=100)
    by_start = {10: "2.", 14: "2.4.", 15: "2.3.4.", 20: "1.2.3.4.", 21: "1.3.4.", 25: "1.3.", 26: "1."}
    assert found == list(by_start.values())


def test_the_examples_of_kafka_streams() -> None:
    """Values and bounds as its own tests have them: in order, and out of order before `difference`."""
    in_time = [row(10, 1), row(15, 2), row(20, 3), row(22, 4), row(30, 5)]
    _, found = trails(in_time, grace_ms=50)
    assert found == ["1.", "1.2.", "1.2.3.", "2.3.", "2.3.4.", "3.4.", "3.4.5.", "4.5.", "5."]
    early = [row(0, 1), row(5, 2), row(6, 3), row(3, 4, 6), row(13, 5), row(10, 6, 13)]
    _, found = trails(early, grace_ms=50, difference_ms=50)
    assert found == ["1.2.3.4.5.6.", "2.3.4.5.6.", "2.3.5.6.", "3.5.6.", "5.6.", "5."]


def test_a_row_that_a_function_refuses_leaves_no_window() -> None:
    """Neither one that ends at it, nor one that begins after it; the rows around it are as if it had not come."""
    rows = in_order(20, 25, 30)
    rows[1] = row(25, 13)
    op, found = trails([*rows, row(27, 13, 30), row(31, 8)])
    _, wanted = trails([rows[0], rows[2], row(31, 8)])
    assert found == wanted
    assert [error.code for _, error in op.context.dead] == ["process.function_raised"] * 2


TIMES = st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab"), st.integers(-9, 9)), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=TIMES, cuts=st.sets(st.integers(0, 25)), difference_ms=st.sampled_from([0, 3, 12]))
def test_all_windows_equal_duckdb(drawn: list[tuple[int, str, int]], cuts: set[int], difference_ms: int) -> None:
    """Nothing late: the windows are a join of the rows with the windows they ask for."""
    op = driver(difference_ms, grace_ms=1_000)
    rows = [row(time_ms, value, key=key) for time_ms, key, value in drawn]
    bounds = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    for first, last in itertools.pairwise(bounds):
        op.batch(rows[first:last], {})
    made = sorted(each[:4] for each in result_rows(op.batch([], {0: END})))
    data = pl.DataFrame(drawn, {"t": pl.Int64, "k": pl.String, "v": pl.Int64}, orient="row")  # noqa: F841 - DuckDB
    wanted = duckdb.sql(
        f"""
        with windows as (
            select distinct k, unnest([greatest(t - {difference_ms}, 0), t + 1]) as s from data)
        select w.k, w.s, w.s + {difference_ms}, sum(v)::bigint from windows w
        join data d on d.k = w.k and d.t between w.s and w.s + {difference_ms}
        group by all order by all
        """
    ).fetchall()
    assert made == wanted


def frame(count: int, keys: int, span_ms: int) -> pl.DataFrame:
    """Random rows in order of time."""
    generator = np.random.default_rng(5)
    time_ms = np.sort(generator.integers(0, span_ms, count))
    data: dict[str, Any] = {
        "key": [f"key-{n}" for n in generator.integers(0, keys, count).tolist()],
        "value": generator.integers(0, 100, count),
        PARTITION: pl.Series(np.zeros(count), dtype=pl.Int32),
        TIME: time_ms,
        STREAM_TIME: time_ms,
        SEQUENCE: np.arange(count),
        SOURCE: pl.Series([None] * count, dtype=SYSTEM_COLUMNS[SOURCE]),
    }
    return pl.DataFrame(data, {**COLUMNS, **SYSTEM_COLUMNS})


@pytest.mark.parametrize("emit", list(Emit))
def test_a_hundred_thousand_rows_take_seconds_and_no_memory_stays(emit: Emit) -> None:
    """About five rows of a key in a window; state is freed as windows close."""
    op = Driver(make_step(("key",), sliding(1_000), COUNT, COLUMNS, emit), COLUMNS)
    rows = frame(100_000, 100, 200_000)
    found, sizes = 0, []
    began = time.perf_counter()
    for piece in rows.iter_slices(10_000):
        op.operator.process([piece], op.context)
        op.context.closing = {0: int(piece[TIME][-1])}
        found += op.operator.advance(op.context).height + op.operator.flush(op.context).height
        op.operator.commit()
        sizes.append(op.operator.state_bytes())
    took = time.perf_counter() - began
    assert took < 10, f"{took:.1f} s"
    assert sizes[-1] < 2 * max(sizes[:4])
    op.context.closing = {0: END}
    found += op.operator.advance(op.context).height
    op.operator.commit()
    assert op.operator.keys_count() == {}
    assert found >= 190_000
