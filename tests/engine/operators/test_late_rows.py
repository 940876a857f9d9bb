"""Late rows of windows: counted, as dead letters, as rows of their own; the same for any cut."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.engine.operator import SYSTEM_COLUMNS, TIME, StatefulOperator, TakesLate
from headrace.flow.values import Emit, LateRows, Window
from tests.engine.operators.aggregate_driver import (
    Driver,
    aggregate,
    hopping,
    make_step,
    session,
    sliding,
    to_frame,
    tumbling,
)
from tests.engine.reference import Row

COLUMNS: dict[str, pl.DataType] = {"key": pl.String(), "value": pl.Int64(), "note": pl.String()}
SUM = [aggregate("total", "sum", "value", COLUMNS)]
WINDOWS = {"tumbling": tumbling(10), "hopping": hopping(10, 5), "session": session(5), "sliding": sliding(10)}


def driver(window: Window, late: LateRows) -> Driver:
    """A sum by key whose late rows become something."""
    step = make_step(("key",), window, SUM, COLUMNS, Emit.FINAL)
    return Driver(step.model_copy(update={"late": late}), COLUMNS)


def row(time_ms: int, reached_ms: int, note: str = "", value: int = 1) -> Row:
    """A row at some stream time; `note` is read by no aggregate."""
    return Row(0, time_ms, max(time_ms, reached_ms), {"key": "k", "value": value, "note": note})


def taken(operator: StatefulOperator) -> list[tuple[Any, ...]]:
    """Note, time and window bounds of the late rows that the operator hands on."""
    assert isinstance(operator, TakesLate)
    late = operator.take_late()
    plain = late.with_columns(pl.col(pl.Datetime).dt.timestamp("ms"))
    return plain.select("note", TIME, "window_start", "window_end").rows()


CASES: list[tuple[str, list[tuple[Any, ...]]]] = [
    ("tumbling", [("late", 96, 90, 100)]),
    ("hopping", [("late", 96, 90, 100)]),
    ("session", [("late", 96, 96, 96)]),
    ("sliding", [("late", 96, 86, 96)]),
]


@pytest.mark.parametrize(("name", "wanted"), CASES)
def test_late_rows_are_handed_on_with_the_bounds_of_their_window(name: str, wanted: list[tuple[Any, ...]]) -> None:
    """All their columns; once; also those that are in time for another window."""
    op = driver(WINDOWS[name], "stream")
    out = op.operator.process([_frame(op, [row(102, 102), row(96, 102, "late")])], op.context)
    assert out.height == 0
    assert taken(op.operator) == wanted
    assert taken(op.operator) == []
    assert op.context.dropped == {"late": 1}
    assert op.context.dead == []


def _frame(op: Driver, rows: list[Row]) -> pl.DataFrame:
    return to_frame(rows, op.columns)


def test_a_row_late_for_two_windows_comes_twice() -> None:
    """One row for each window that it missed."""
    op = driver(WINDOWS["hopping"], "stream")
    op.operator.process([_frame(op, [row(110, 110), row(96, 110, "late")])], op.context)
    assert taken(op.operator) == [("late", 96, 90, 100), ("late", 96, 95, 105)]
    assert op.context.dropped == {"late": 2}


def test_late_rows_have_the_columns_that_are_promised_though_there_are_none() -> None:
    """The runner reads them in every pass."""
    op = driver(WINDOWS["tumbling"], "stream").operator
    assert isinstance(op, TakesLate)
    assert op.take_late().columns == [*COLUMNS, "window_start", "window_end", *SYSTEM_COLUMNS]


@pytest.mark.parametrize("name", list(WINDOWS))
def test_late_rows_become_dead_letters_once_each(name: str) -> None:
    """By code, with what they were late for, and counted by window."""
    op = driver(WINDOWS[name], "dead_letter")
    op.operator.process([_frame(op, [row(110, 110), row(96, 110, "late"), row(110, 110)])], op.context)
    ((values, error),) = op.context.dead
    assert values["note"] == "late"
    assert error.code == "process.late"
    assert op.context.dropped["late"] >= 1


def test_neither_an_abort_nor_a_commit_leaves_late_rows_behind() -> None:
    """After an abort the rows come again; after a commit nobody asked for them, and they would pile up."""
    op = driver(WINDOWS["tumbling"], "stream")
    for end in (op.operator.rollback, op.operator.commit):
        op.operator.process([_frame(op, [row(110, 110), row(96, 110, "late")])], op.context)
        end()
        assert taken(op.operator) == []


@pytest.mark.parametrize("name", list(WINDOWS))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    times=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0, 0, 3, 9, 20])), max_size=25),
    cuts=st.sets(st.integers(1, 25)),
)
def test_every_row_is_in_time_or_handed_on(name: str, times: list[tuple[int, int]], cuts: set[int]) -> None:
    """For any cut: the same late rows; and of tumbling windows, each row is in a result or late."""
    now, rows = 0, []
    for number, (step, behind) in enumerate(times):
        now += step
        rows.append(row(max(0, now - behind), now, str(number)))
    cut, whole = driver(WINDOWS[name], "stream"), driver(WINDOWS[name], "stream")
    late, counted = [], 0
    for first, last in itertools.pairwise([0, *sorted(c for c in cuts if c < len(rows)), len(rows)]):
        closed = cut.batch(rows[first:last], {0: rows[last - 1].stream_time_ms} if last else {})
        counted += int(closed["total"].sum())
        late += taken(cut.operator)
    whole.batch(rows)
    assert Counter(late) == Counter(taken(whole.operator))
    counted += int(cut.batch([], {0: 10**9})["total"].sum())
    if name == "tumbling":
        assert counted + len(late) == len(rows)
