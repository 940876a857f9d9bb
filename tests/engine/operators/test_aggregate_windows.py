"""The rules of windows, one small case each: bounds, closing, grace, late rows, idle close, emission, undo."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from headrace.engine.operator import DELETED, SOURCE
from headrace.engine.operators.aggregate import AggregateRefused, make_aggregate
from headrace.flow.values import Emit, Window
from tests.engine.operators.aggregate_driver import (
    Driver,
    aggregate,
    hopping,
    make_step,
    result_rows,
    session,
    tumbling,
)
from tests.engine.reference import Row

COLUMNS: dict[str, pl.DataType] = {"key": pl.String(), "value": pl.Int64()}
SUM = [aggregate("total", "sum", "value", COLUMNS)]


def driver(window: Window | None, emit: Emit = Emit.FINAL, group: tuple[str, ...] = ("key",)) -> Driver:
    """A sum by key."""
    return Driver(make_step(group, window, SUM, COLUMNS, emit), COLUMNS)


def row(time_ms: int, value: int = 1, key: str | None = "k", reached_ms: int | None = None, partition: int = 0) -> Row:
    """A row; stream time is its own time unless said."""
    return Row(partition, time_ms, time_ms if reached_ms is None else reached_ms, {"key": key, "value": value})


def windows(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Key, start, end and total of the rows."""
    return [each[:4] for each in result_rows(frame)]


def taken_back(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Key, start and end of deleted rows."""
    return [each[:3] for each in result_rows(frame, deleted=True)]


@pytest.mark.parametrize(("time_ms", "start"), [(0, 0), (9, 0), (10, 10), (19, 10), (20, 20)])
def test_a_tumbling_window_has_its_start_and_not_its_end(time_ms: int, start: int) -> None:
    """Windows are [start, start + size), aligned to 1970."""
    assert windows(_closed(tumbling(10), [row(time_ms)])) == [("k", start, start + 10, 1)]


def _closed(window: Window, rows: list[Row]) -> pl.DataFrame:
    return driver(window).batch(rows, {0: 10_000})


def test_a_row_is_in_every_hopping_window_that_covers_it() -> None:
    """size 10, advance 4: time 9 lies in [0, 10), [4, 14) and [8, 18), and windows never start before 1970."""
    assert windows(_closed(hopping(10, 4), [row(9)])) == [("k", 0, 10, 1), ("k", 4, 14, 1), ("k", 8, 18, 1)]
    assert windows(_closed(hopping(10, 4), [row(3)])) == [("k", 0, 10, 1)]


def test_a_window_closes_when_stream_time_reaches_end_and_grace() -> None:
    """Not a millisecond before, and only once."""
    op = driver(tumbling(10, grace_ms=5))
    assert windows(op.batch([row(3)], {0: 14})) == []
    assert windows(op.batch([], {0: 15})) == [("k", 0, 10, 1)]
    assert windows(op.batch([], {0: 100})) == []


def test_lateness_is_judged_row_by_row() -> None:
    """Row 3 is in time when stream time is 14 and late when it is 15, though the batch is the same."""
    op = driver(tumbling(10, grace_ms=5))
    rows = [row(3, 1), row(14, 10), row(3, 2, reached_ms=14), row(15, 10), row(3, 4, reached_ms=15)]
    assert windows(op.batch(rows, {0: 15})) == [("k", 0, 10, 3)]
    assert op.context.dropped == {"late": 1}
    assert op.context.dead == [], "late rows are counted, they are no errors"


def test_a_row_may_be_late_for_some_of_its_windows() -> None:
    """Hopping: it goes into those that are still open; each miss is counted."""
    op = driver(hopping(10, 5))
    op.batch([row(12)], {0: 12})
    out = op.batch([row(7, 5, reached_ms=12)], {0: 1_000})
    assert windows(out) == [("k", 5, 15, 6), ("k", 10, 20, 1)]
    assert op.context.dropped == {"late": 1}


def test_windows_of_a_batch_close_in_order_of_start_then_key() -> None:
    """Whatever the order of the rows."""
    op = driver(tumbling(10))
    out = op.batch([row(15, key="b"), row(5, key="b"), row(15, key="a"), row(5, key="a")], {0: 1_000})
    assert [each[:2] for each in windows(out)] == [("a", 0), ("b", 0), ("a", 10), ("b", 10)]


def test_partitions_have_clocks_of_their_own() -> None:
    """One partition's time closes nothing of another, and equal keys do not mix."""
    op = driver(tumbling(10))
    rows = [row(1, 1), row(1, 10, partition=1)]
    assert windows(op.batch(rows, {0: 50, 1: 5})) == [("k", 0, 10, 1)]
    assert windows(op.batch([], {0: 50, 1: 50})) == [("k", 0, 10, 10)]


def test_idle_close_closes_for_good() -> None:
    """What comes later for a window closed as idle is late, also after a restore; the next window is open."""
    op = driver(tumbling(10, grace_ms=5))
    op.batch([row(3)], {0: 3})
    assert windows(op.close_idle([0])) == [("k", 0, 10, 1)]
    op.commit()
    op.restore()
    out = op.batch([row(4, reached_ms=4), row(15, 7)], {0: 1_000})
    assert windows(out) == [("k", 10, 20, 7)]
    assert op.context.dropped == {"late": 1}


def test_idle_close_leaves_other_partitions_alone() -> None:
    """Only those that are named."""
    op = driver(tumbling(10))
    op.batch([row(3), row(3, partition=1)], {})
    assert len(windows(op.close_idle([1]))) == 1
    assert len(windows(op.close_idle([0, 1]))) == 1


def test_updates_come_once_per_key_and_flush() -> None:
    """The value as it is at the flush; nothing where nothing changed; closing alone says nothing new."""
    op = driver(tumbling(10), Emit.UPDATES)
    assert windows(op.batch([row(1, 1), row(2, 2), row(3, 4, key="l")], {0: 3})) == []
    assert sorted(windows(op.commit())) == [("k", 0, 10, 3), ("l", 0, 10, 4)]
    op.batch([row(4, 8)], {0: 4})
    assert windows(op.commit()) == [("k", 0, 10, 11)]
    op.batch([], {0: 1_000})
    assert windows(op.commit()) == []


def test_an_update_that_was_not_flushed_yet_is_flushed_after_the_close() -> None:
    """Opened, changed and closed between two commits: still one row."""
    op = driver(tumbling(10), Emit.UPDATES)
    op.batch([row(1, 1), row(20, 2)], {0: 1_000})
    assert windows(op.commit()) == [("k", 0, 10, 1), ("k", 20, 30, 2)]


def test_sessions_join_within_the_gap_bounds_included() -> None:
    """Times 0, 5 and 10 are one session of gap 5; 16 begins another."""
    op = driver(session(5))
    out = op.batch([row(0), row(5), row(10), row(16)], {0: 1_000})
    assert windows(out) == [("k", 0, 10, 3), ("k", 16, 16, 1)]


def test_a_late_row_joins_two_sessions() -> None:
    """Grace keeps them open; in updates the two rows that stood are taken back."""
    op = driver(session(5, grace_ms=100), Emit.UPDATES)
    op.batch([row(0, 1), row(10, 2)], {0: 10})
    assert windows(op.commit()) == [("k", 0, 0, 1), ("k", 10, 10, 2)]
    op.batch([row(5, 4, reached_ms=10)], {0: 10})
    flushed = op.commit()
    assert sorted(taken_back(flushed)) == [("k", 0, 0), ("k", 10, 10)]
    assert windows(flushed) == [("k", 0, 10, 7)]


def test_an_abort_forgets_what_was_to_be_taken_back() -> None:
    """Two sessions that joined, and then did not: when they join again, each is taken back once."""
    op = driver(session(5, grace_ms=100), Emit.UPDATES)
    op.batch([row(0, 1), row(10, 2)], {0: 10})
    op.commit()
    op.batch([row(5, 4, reached_ms=10)], {0: 10})
    op.operator.rollback()
    assert op.commit().height == 0
    op.batch([row(5, 4, reached_ms=10)], {0: 10})
    assert sorted(taken_back(op.commit())) == [("k", 0, 0), ("k", 10, 10)]


def test_a_session_closes_after_its_gap_and_grace() -> None:
    """end + gap + grace < stream time; a row at the very bound still joins."""
    op = driver(session(5, grace_ms=2))
    assert windows(op.batch([row(10)], {0: 17})) == []
    assert windows(op.batch([row(12, reached_ms=17)], {0: 19})) == []
    assert windows(op.batch([], {0: 20})) == [("k", 10, 12, 2)]


def test_a_row_too_old_for_a_session_of_its_own_is_late() -> None:
    """time + gap + grace < stream time, and no open session in reach."""
    op = driver(session(5))
    assert windows(op.batch([row(100), row(94, reached_ms=100)], {0: 1_000})) == [("k", 100, 100, 1)]
    assert op.context.dropped == {"late": 1}


def test_rows_before_1970_have_no_window() -> None:
    """They become dead letters, counted; without windows they are rows like any other."""
    for window in (tumbling(10), session(10)):
        op = driver(window)
        assert windows(op.batch([row(-1)], {0: 1_000})) == []
        assert op.context.dropped == {"time_before_epoch": 1}
        assert [error.code for _, error in op.context.dead] == ["process.time_before_epoch"]
    op = driver(None, Emit.UPDATES)
    op.batch([row(-1)])
    assert len(op.commit()) == 1


def test_rows_without_a_key_become_dead_letters() -> None:
    """All group columns null: told by name, the others go on."""
    op = driver(tumbling(10))
    out = op.batch([row(1, key=None), row(1, 2)], {0: 1_000})
    assert windows(out) == [("k", 0, 10, 2)]
    ((_, error),) = op.context.dead
    assert error.code == "process.null_key"
    assert "key" in error.message
    assert op.context.dropped == {"null_key": 1}


def test_a_step_without_group_columns_has_one_group() -> None:
    """Per partition; also after a restore from deltas and from a snapshot."""
    for restore in (Driver.restore, lambda each: each.restore_from_snapshots([0])):
        op = driver(tumbling(10), group=())
        op.batch([row(1, 1), row(2, 2, key=None)], {0: 2})
        op.commit()
        restore(op)
        out = op.batch([row(3, 4)], {0: 1_000})
        assert [each[:3] for each in result_rows(out)] == [(0, 10, 7)]


def test_without_windows_nothing_closes_or_is_late() -> None:
    """A table that goes on for ever; its time never goes back."""
    op = driver(None, Emit.FINAL)
    op.batch([row(1_000, 1), row(1, 2, reached_ms=1_000)], {0: 10**6})
    assert len(op.close_idle([0])) == 0
    ((key, total, _, time_ms, _),) = result_rows(op.commit())
    assert (key, total, time_ms) == ("k", 3, 1_000)


def test_an_abort_leaves_no_trace() -> None:
    """Rows, new keys, closed windows and flushed updates come back or go as if they had not been."""
    op = driver(tumbling(10), Emit.UPDATES)
    op.batch([row(1, 1)], {0: 1})
    op.commit()
    before = op.state([0])
    op.batch([row(2, 2), row(3, 4, key="new"), row(50, 8)], {0: 1_000})
    op.operator.flush(op.context)
    op.operator.rollback()
    assert op.state([0]) == before
    assert op.operator.keys_count() == {0: 1}
    op.batch([row(2, 2)], {0: 2})
    assert windows(op.commit()) == [("k", 0, 10, 3)]


def test_state_goes_with_its_windows() -> None:
    """Keys are counted per partition, and closed windows are dropped from state and changelog."""
    op = driver(tumbling(10))
    op.batch([row(1), row(1, key="l"), row(1, partition=1)], {})
    assert op.operator.keys_count() == {0: 2, 1: 1}
    op.commit()
    op.batch([], {0: 1_000})
    op.commit()
    assert op.operator.keys_count() == {1: 1}
    op.restore()
    assert op.operator.keys_count() == {1: 1}


def test_the_changelog_of_a_commit_is_in_proportion_to_what_changed() -> None:
    """A thousand keys, one of them changed: one row."""
    op = driver(None, Emit.UPDATES)
    op.batch([row(n, key=f"k{n}") for n in range(1_000)])
    op.commit()
    op.batch([row(1_000, key="k7")])
    (change,) = op.operator.changes()
    assert change.frame.height == 1


def test_rows_of_an_aggregate_come_from_no_record() -> None:
    """So a dead letter behind it does not blame one of many records."""
    closed = _closed(tumbling(10), [row(1)])
    assert closed[SOURCE].null_count() == closed.height == 1
    assert closed[DELETED].to_list() == [False]


def test_what_cannot_run_is_refused_by_name() -> None:
    """Changes of tables and unknown columns: before anything runs."""
    step = make_step(("key",), tumbling(10), SUM, COLUMNS)
    with pytest.raises(AggregateRefused, match="groups the changes of a table"):
        make_aggregate(step, {**COLUMNS, DELETED: pl.Boolean()}, {})
    with pytest.raises(AggregateRefused, match="'key'"):
        make_aggregate(step, {"value": pl.Int64()}, {})


def test_changes_after_a_flush_are_changes_too() -> None:
    """The order of the flush is not theirs: other keys came, and a window that was told was closed."""
    it = driver(tumbling(10), Emit.UPDATES)
    it.batch([row(1, key="a"), row(2, key="b", partition=1)])
    assert len(windows(it.operator.flush(it.context))) == 2
    it.batch([row(3, key="c", partition=1)], closing={0: 10})
    told = {each.partition: each.frame["key"].to_list() for each in it.operator.changes()}
    assert told[1] == ["b", "c"]
    it.commit()
    it.batch([row(4, key="c", partition=1)])
    flushed = it.commit()
    it.restore()
    assert windows(flushed) == [("c", 0, 10, 2)]
    assert sorted(windows(it.operator.some_rows(1, 10))) == [("b", 0, 10, 1), ("c", 0, 10, 2)]
