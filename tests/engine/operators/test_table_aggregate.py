"""Aggregates of a table: whatever came and went, the answer is that of the rows that stand."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

from headrace.engine.operator import (
    DELETED,
    PARTITION,
    RETRACTS,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
)
from headrace.engine.operators.aggregate import AggregateRefused, make_aggregate
from headrace.flow.steps import AggregateColumn
from headrace.flow.values import ROW_TIME, Emit
from tests.engine.operators.aggregate_driver import Context, aggregate, make_step, tumbling
from tests.engine.operators.aggregate_scenarios import AGGREGATES, COLUMNS, ROUNDED, SKETCHED
from tests.engine.operators.table_life import RETRACTED, Chain, Change, Life, lives
from tests.engine.reference import RAISES


def examples(count: int) -> Any:
    """Settings of these tests."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assert_same(life: Life, made: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    """Rows agree: exactly, or within rounding where a result is rounded more than once."""
    width = len(life.group)
    assert made[:width] == wanted[:width]
    assert made[width + len(life.aggregates) :] == wanted[width + len(life.aggregates) :]
    for each, mine, theirs in zip(life.aggregates, made[width:], wanted[width:], strict=False):
        share = ROUNDED.get(each.name) or SKETCHED.get(each.name)
        if share is not None and isinstance(theirs, str) and theirs != "nan" and math.isfinite(float.fromhex(theirs)):
            assert float.fromhex(mine) == pytest.approx(float.fromhex(theirs), rel=share * (1 + 1e-9), abs=0), each.name
        else:
            assert mine == theirs, each.name


@examples(60)
@given(life=lives([each for each in AGGREGATES if each.function != "custom"]))
def test_every_commit_says_what_changed_in_the_table_as_it_stands(life: Life) -> None:
    """Rows, deletions and their order, for any cuts (between a row and its retraction too), aborts and restarts."""
    for told in Chain(life).run():
        assert len(told.made) == len(told.wanted)
        for made, wanted in zip(told.made, told.wanted, strict=True):
            assert_same(life, made, wanted)


@examples(25)
@given(life=lives([each for each in AGGREGATES if each.name in ("trail", "rows", "first_plane", "planes")]))
def test_rows_that_a_users_aggregate_refuses_leave_no_trace(life: Life) -> None:
    """Neither when they come nor when they go; the others are counted as ever."""
    for told in Chain(life).run():
        for made, wanted in zip(sorted(told.made, key=repr), sorted(told.wanted, key=repr), strict=True):
            assert_same(life, made, wanted)


def flown(
    changes: list[Change],
    aggregates: dict[str, tuple[str, str | None]],
    *,
    keep_empty: bool = False,
    cuts: Sequence[int] = (),
) -> list[tuple[Any, ...]]:
    """What commits say of the changes of a table grouped by carrier; a commit at each cut and at the end."""
    custom = {"type": ["null", "string"]}
    made = [
        aggregate(name, function, on, COLUMNS, **(custom if function == "custom" else {}))
        for name, (function, on) in aggregates.items()
    ]
    life = Life(changes, [], [], made, ("carrier",), keep_empty)
    chain, said = Chain(life), []
    for first, last in pairwise([0, *cuts, len(changes)]):
        chain.feed(changes[first:last])
        said.extend(chain.commit().rows())
    return said


def flight(key: int, carrier: str | None, seats: int | None, time_ms: int) -> Change:
    """A row of the table."""
    values = dict.fromkeys(COLUMNS) | {"carrier": carrier, "seats": seats, "plane": f"N{key}"}
    return Change(0, key, values, time_ms, time_ms)


def gone(key: int, time_ms: int) -> Change:
    """A deletion."""
    return Change(0, key, None, time_ms, time_ms)


COUNT: dict[str, tuple[str, str | None]] = {"flights": ("count", None), "seats": ("sum", "seats")}


@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 2]])
def test_time_begins_anew_in_a_group_that_was_empty(cuts: list[int]) -> None:
    """An emptied group is as good as new, whether a commit came in between or not."""
    said = flown([flight(1, "AA", 5, 10), gone(1, 20), flight(2, "AA", 7, 3)], COUNT, cuts=cuts)
    assert said[-1] == ("AA", 1, 7, 0, 3, 3, 0, None, False)
    assert len(said) == {(): 1, (1,): 2, (2,): 1, (1, 2): 3}[tuple(cuts)]


@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 2]])
def test_time_never_goes_back_where_empty_groups_are_kept(cuts: list[int]) -> None:
    """As Kafka Streams has it: the largest time of all rows that came and went."""
    said = flown([flight(1, "AA", 5, 10), gone(1, 20), flight(2, "AA", 7, 3)], COUNT, cuts=cuts, keep_empty=True)
    assert said[-1] == ("AA", 1, 7, 0, 20, 20, 0, None, False)


def test_a_group_moves_when_its_row_does() -> None:
    """Subtracted there, added here; an emptied group is deleted with the time of the row that emptied it."""
    said = flown([flight(1, "AA", 5, 10), flight(1, "BB", 6, 12), gone(1, 13)], COUNT, cuts=[1, 2])
    assert [(row[0], row[1], row[2], row[4], row[-1]) for row in said] == [
        ("AA", 1, 5, 10, False),
        ("AA", None, None, 12, True),
        ("BB", 1, 6, 12, False),
        ("BB", None, None, 13, True),
    ]


def test_an_empty_group_is_kept_where_asked_for() -> None:
    """With the aggregates of no rows."""
    said = flown([flight(1, "AA", 5, 10), flight(1, "BB", 6, 12)], COUNT, cuts=[1], keep_empty=True)
    assert [row[:3] for row in said] == [("AA", 1, 5), ("AA", 0, None), ("BB", 1, 6)]


def test_a_group_that_came_and_went_between_commits_says_nothing() -> None:
    """A deletion takes back a row that stood; none did."""
    assert flown([flight(1, "AA", 5, 10), gone(1, 11)], COUNT) == []


@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 2]])
def test_a_sum_out_of_range_is_null_until_it_fits_again(cuts: list[int]) -> None:
    """No row is refused, so what goes can be taken back; and it is told."""
    most = 2**63 - 1
    changes = [flight(1, "AA", most, 1), flight(2, "AA", most, 2), gone(1, 3)]
    assert flown(changes[:2], COUNT)[-1][:3] == ("AA", 2, None)
    assert flown(changes, COUNT, cuts=cuts)[-1][:3] == ("AA", 1, most)


def test_sums_of_doubles_leave_no_trace() -> None:
    """A small number survives a large one that came and went."""
    tiny = Change(0, 1, dict.fromkeys(COLUMNS) | {"carrier": "AA", "delay": 1e-300}, 1, 1)
    huge = Change(0, 2, dict.fromkeys(COLUMNS) | {"carrier": "AA", "delay": 1e300}, 2, 2)
    endless = Change(0, 3, dict.fromkeys(COLUMNS) | {"carrier": "AA", "delay": math.inf}, 3, 3)
    wanted: dict[str, tuple[str, str | None]] = {
        "sum": ("sum", "delay"),
        "mean": ("mean", "delay"),
        "std": ("std", "delay"),
    }
    said = flown([tiny, huge, endless, gone(2, 4), gone(3, 5)], wanted, cuts=[1, 2, 3, 4])
    assert [row[1] for row in said] == [1e-300, 1e300, math.inf, math.inf, 1e-300]
    assert [row[3] for row in said][:2] == [None, pytest.approx(1e300 / math.sqrt(2))]
    assert said[-1][3] is None


def test_last_goes_by_the_time_of_the_rows_that_stand() -> None:
    """A retraction names its row by value and time, not by the time of the change."""
    changes = [flight(1, "AA", 1, 1), flight(2, "AA", 2, 2), flight(3, "AA", 1, 3), gone(3, 9)]
    (row,) = flown(changes, {"last": ("last", "seats"), "first": ("first", "seats")})
    assert row[1:3] == (2, 1)


@pytest.mark.parametrize("cuts", [[], [2], [1, 2, 3]])
def test_a_row_refused_by_a_users_aggregate_is_not_subtracted(cuts: list[int]) -> None:
    """Its dead letter is the end of it: when the row changes, the new one counts, and nothing is refused again."""
    bad = dict.fromkeys(COLUMNS) | {"carrier": "AA", "plane": RAISES}
    changes = [flight(1, "AA", 1, 1), Change(0, 2, bad, 2, 2), flight(2, "AA", 1, 3), gone(2, 4)]
    trail = aggregate("trail", "custom", "plane", COLUMNS, type=["null", "string"])
    made = [trail, aggregate("flights", "count", None, COLUMNS)]
    chain, said = Chain(Life([], [], [], made, ("carrier",), keep_empty=False)), []
    for first, last in pairwise([0, *cuts, len(changes)]):
        chain.feed(changes[first:last])
        said.extend(chain.commit().rows())
        chain.restart()
    assert said[-1][1:3] == ("N1;", 1)
    assert [error.code for _, error in chain.aggregate.context.dead] == ["process.function_raised"]


def test_null_groups_are_counted_when_they_come() -> None:
    """And not again when they go."""
    life = Life([], [], [], [aggregate("flights", "count", None, COLUMNS)], ("carrier",), keep_empty=False)
    chain = Chain(life)
    chain.feed([flight(1, None, 1, 1), flight(1, None, 2, 2), gone(1, 3)])
    assert chain.commit().is_empty()
    assert chain.aggregate.context.dropped == {"null_key": 2}
    assert len(chain.aggregate.context.dead) == 2


def test_a_freed_group_leaves_no_state() -> None:
    """In memory, and in the changelog after a restart."""
    chain = Chain(Life([], [], [], list(AGGREGATES), ("carrier",), keep_empty=False))
    chain.feed([flight(1, "AA", 1, 1), flight(2, "BB", 1, 1)])
    chain.commit()
    assert chain.aggregate.keys() == 2
    chain.feed([gone(1, 2), gone(2, 3)])
    assert chain.commit()[DELETED].all()
    assert chain.aggregate.keys() == 0
    chain.aggregate.restore()
    assert chain.aggregate.keys() == 0


@pytest.mark.parametrize("each", AGGREGATES, ids=lambda each: each.name)
def test_a_retraction_of_a_row_that_never_came_stops_nothing(each: AggregateColumn) -> None:
    """Where the state of one step was given up and not that of the others, the worker stays up."""
    chain = Chain(Life([], [], [], [each], ("carrier",), keep_empty=True))
    chain.feed([flight(1, "AA", 5, 1), flight(2, "AA", 6, 1), flight(3, "BB", 6, 1)])
    chain.retract.commit()
    chain.aggregate.rollback()
    chain.feed([gone(1, 2), gone(3, 3), flight(4, "AA", 8, 4), flight(5, "AA", 9, 5)])
    # A user's `subtract` may raise, and its row is a dead letter then.
    assert chain.commit().height == (1 if each.function == "custom" else 2)
    chain.restart()
    chain.feed([gone(4, 6)])
    assert chain.commit().height == 1


def test_a_table_has_no_windows() -> None:
    """A plan that asks for them is refused, with the cure."""
    step = make_step(("carrier",), tumbling(10), [aggregate("flights", "count", None, COLUMNS)], COLUMNS)
    with pytest.raises(AggregateRefused, match="no one time") as refused:
        make_aggregate(step, COLUMNS, {}, retracts=True)
    assert "changes()" in refused.value.cure


SQL = {
    "flights": ("count", None, "count(*)"),
    "some": ("count", "seats", "count(seats)"),
    "sum_seats": ("sum", "seats", "sum(seats)::BIGINT"),
    "mean_seats": ("mean", "seats", "avg(seats)"),
    "least": ("min", "seats", "min(seats)"),
    "most": ("max", "plane", "max(plane)"),
    "different": ("count_distinct", "seats", "count(DISTINCT seats)"),
    "spread": ("std", "seats", "stddev_samp(seats)"),
    "first": ("first", "plane", "arg_min(plane, changed_at)"),
    "last": ("last", "plane", "arg_max(plane, changed_at)"),
    "most_seats": ("top_k", "seats", "max(seats, 3)"),
}


@pytest.mark.parametrize("seed", range(3))
def test_many_changes_give_what_duckdb_finds_in_the_final_table(seed: int) -> None:
    """30,000 changes of 2,000 keys in 40 groups, with commits and restarts between them."""
    random = np.random.default_rng(seed)
    options = {"most_seats": {"k": 3}}
    made = [aggregate(n, f, c, COLUMNS, **options.get(n, {})) for n, (f, c, _) in SQL.items()]
    chain = Chain(Life([], [], [], made, ("carrier",), keep_empty=False))
    count, table, found = 30_000, dict[int, tuple[Any, ...]](), dict[str, tuple[Any, ...]]()
    keys, carriers = random.integers(0, 2_000, count).tolist(), random.integers(0, 40, count).tolist()
    seats, kinds = random.integers(-20, 20, count).tolist(), random.random(count).tolist()
    changes = []
    for at, (key, carrier, seat, kind) in enumerate(zip(keys, carriers, seats, kinds, strict=True)):
        if kind < 0.3:
            table.pop(key, None)
            changes.append(gone(key, at))
            continue
        changes.append(flight(key, f"c{carrier}", None if kind < 0.4 else seat, at))
        table[key] = (f"c{carrier}", None if kind < 0.4 else seat, f"N{key}", at)
    for start in range(0, count, 6_000):
        for part in range(start, start + 6_000, 2_000):
            chain.feed(changes[part : part + 2_000])
        for row in chain.commit().iter_rows(named=True):
            found.pop(row["carrier"], None)
            if not row[DELETED]:
                found[row["carrier"]] = tuple(row[name] for name in SQL)
        chain.restart()
    schema = {"carrier": pl.String, "seats": pl.Int64, "plane": pl.String, "changed_at": pl.Int64}
    flights = pl.DataFrame(list(table.values()), schema, orient="row")
    texts = ", ".join(f'{sql} AS "{name}"' for name, (_, _, sql) in SQL.items())
    query = duckdb.sql(f"SELECT carrier, {texts} FROM flights GROUP BY carrier")
    wanted = {row[0]: row[1:] for row in query.fetchall()}
    assert flights.height > 500
    assert found.keys() == wanted.keys()
    for carrier, row in wanted.items():
        for name, mine, theirs in zip(SQL, found[carrier], row, strict=True):
            theirs = [] if name == "most_seats" and theirs is None else theirs
            assert mine == (pytest.approx(theirs, rel=1e-12) if isinstance(theirs, float) else theirs), name


@pytest.mark.parametrize(
    ("function", "column_name"), [("sum", "delay"), ("min", "plane"), ("last", "seats"), ("std", "delay")]
)
def test_a_hundred_thousand_rows_take_no_python_loop(function: str, column_name: str) -> None:
    """Changes of 5,000 groups in batches of 10,000 rows, far faster than a loop would be."""
    rows = 100_000
    made = [aggregate("result", function, column_name, COLUMNS)]
    operator = make_aggregate(make_step(("carrier",), None, made, COLUMNS, Emit.UPDATES), RETRACTED, {}, retracts=True)
    # Each row comes and goes ten thousand rows later.
    number = np.arange(rows // 2)
    come = pl.DataFrame(
        {
            "carrier": pl.Series(number * 7 % 5_000).cast(pl.String),
            "seats": number % 500,
            "delay": np.sin(number) * 100,
            "plane": pl.Series(number % 1_000).cast(pl.String),
            ROW_TIME: number,
            PARTITION: np.zeros(len(number), np.int32),
            RETRACTS: np.zeros(len(number), np.bool_),
        }
    )
    source = pl.Series(SOURCE, [None], SYSTEM_COLUMNS[SOURCE]).new_from_index(0, 10_000)
    context, began = Context(), time.process_time()
    for start in range(0, rows // 2, 5_000):
        come_now = come.slice(start, 5_000)
        before = come.slice(max(0, start - 5_000), 5_000 if start else 0)
        go_now = before.with_columns(pl.lit(value=True).alias(RETRACTS))
        frame = pl.concat([come_now, go_now])
        times = pl.Series(TIME, np.full(frame.height, start))
        frame = frame.hstack([times, times.alias(STREAM_TIME), times.alias(SEQUENCE), source.head(frame.height)])
        operator.process([frame], context)
        operator.flush(context)
        operator.changes()
        operator.commit()
    assert time.process_time() - began < 4.0
    assert sum(operator.keys_count().values()) == 5_000
