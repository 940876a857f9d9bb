"""`top_n` equals a plain reference and DuckDB's row_number, however the rows are cut, restarted and aborted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.operator import DELETED, PARTITION, STREAM_TIME, TIME, StatefulOperator
from headrace.engine.operators.arrival_ranks import smaller_before
from headrace.engine.operators.top_n import TopN
from headrace.flow.steps import TopNStep
from headrace.flow.values import Column, Emit, LateRows, Window
from tests.engine.operators.aggregate_driver import TIMESTAMP, hopping, tumbling
from tests.engine.operators.keyed_driver import KeyedDriver, columns_of, cuts, final_table, play, timed_rows
from tests.engine.reference import Row

SCHEMA = {"name": pl.String(), "price": pl.Float64(), "number": pl.Int64()}
ORDER = (("price", True), ("number", False))


def make_step(
    n: int,
    window: Window | None = None,
    emit: Emit = Emit.UPDATES,
    late: LateRows = "count",
    order: tuple[tuple[str, bool], ...] = ORDER,
) -> TopNStep:
    """A step over `SCHEMA` by name."""
    names, rest = columns_of({"name": SCHEMA["name"]}), columns_of({n: SCHEMA[n] for n in ("price", "number")})
    bounds = [Column(name=each, type=TIMESTAMP) for each in ("window_start", "window_end")] if window else []
    return TopNStep(
        name="t",
        columns=(*names, *bounds, Column(name="rank", type="long"), *rest),
        is_table=True,
        group=("name",),
        n=n,
        order=order,
        rank="rank",
        window=window,
        emit=emit,
        late=late,
        changelog="c",
        fingerprint="f",
    )


def driver_of(step: TopNStep) -> KeyedDriver:
    """The step at work."""

    def make() -> StatefulOperator:
        return TopN(step, SCHEMA)

    return KeyedDriver(make, SCHEMA)


@dataclass
class PlainRanking:
    """One group: rows that came, and when each rank last changed."""

    rows: list[Row] = field(default_factory=list)
    times: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, row: Row, n: int, order: Sequence[tuple[str, bool]]) -> None:
        """Put a row at its place."""

        def key(each: Row) -> tuple[Any, ...]:
            parts: list[Any] = []
            for name, descending in order:
                value = each.values[name]
                parts.append((value is None, 0 if value is None else -value if descending else value))
            return tuple(parts)

        at = sum(1 for other in self.rows if key(other) <= key(row))
        if at >= n:
            return
        before = self.times.get(len(self.rows), (0, 0))
        self.rows = [*self.rows[:at], row, *self.rows[at:]][:n]
        for rank in range(at + 1, len(self.rows) + 1):
            time_ms, stream_ms = self.times.get(rank, before)
            self.times[rank] = (max(time_ms, row.time_ms), max(stream_ms, row.stream_time_ms))


def plain(
    rows: Sequence[Row], n: int, window: Window | None, order: Sequence[tuple[str, bool]] = ORDER
) -> tuple[dict[tuple[Any, ...], PlainRanking], Counter[str]]:
    """Rankings by partition, name and window start."""
    rankings: dict[tuple[Any, ...], PlainRanking] = {}
    dropped = Counter[str]()
    for row in rows:
        if row.values["name"] is None:
            dropped["null_key"] += 1
            continue
        if window is None:
            rankings.setdefault((row.partition, row.values["name"], None), PlainRanking()).add(row, n, order)
            continue
        for start in range(0, row.time_ms + 1, window.advance_ms):
            if not start <= row.time_ms < start + window.size_ms:
                continue
            if start + window.size_ms + window.grace_ms <= row.stream_time_ms:
                dropped["late"] += 1
                continue
            rankings.setdefault((row.partition, row.values["name"], start), PlainRanking()).add(row, n, order)
    return rankings, dropped


VALUES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", None]),
        "price": st.sampled_from([None, 1.0, 2.0, 3.0, 5.0]),
        "number": st.integers(0, 3),
    }
)
WINDOWS = st.sampled_from([None, tumbling(10), tumbling(20, 7), hopping(20, 5), hopping(15, 10, 3)])


@settings(max_examples=80, deadline=None)
@given(timed_rows(VALUES, rows_max=40), cuts(), st.integers(1, 4), WINDOWS)
def test_updates_leave_the_table_of_the_reference(
    rows: list[Row], pieces: list[tuple[int, str]], n: int, window: Window | None
) -> None:
    """The table that updates leave behind, times included, and what was dropped."""
    driver = driver_of(make_step(n, window))
    played = play(driver, rows, pieces)
    rankings, dropped = plain(rows, n, window)
    assert played.dropped == dropped
    key = (PARTITION, "name", *(["window_start"] if window else []), "rank")
    found = {
        name: (row["price"], row["number"], row[TIME], row[STREAM_TIME])
        for name, row in final_table(in_milliseconds(played.rows), key).items()
    }
    wanted = {
        (partition, name, *([start] if window else []), rank): (
            *(row.values[each] for each in ("price", "number")),
            *ranking.times[rank],
        )
        for (partition, name, start), ranking in rankings.items()
        for rank, row in enumerate(ranking.rows, 1)
    }
    assert found == wanted
    if window is not None:
        assert driver.operator.keys_count() == {}, "closed windows are not kept"


def in_milliseconds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Window bounds as numbers."""
    return [
        {name: int(value.timestamp() * 1000) if name.startswith("window_") else value for name, value in row.items()}
        for row in rows
    ]


@settings(max_examples=60, deadline=None)
@given(timed_rows(VALUES, rows_max=40), cuts(), st.integers(1, 4), WINDOWS.filter(bool))
def test_final_rows_come_once(rows: list[Row], pieces: list[tuple[int, str]], n: int, window: Window) -> None:
    """Each window's ranking once, by window, group and rank in a partition; never late for what is promised."""
    driver = driver_of(make_step(n, window, Emit.FINAL))
    played = play(driver, rows, pieces)
    rankings, dropped = plain(rows, n, window)
    assert played.dropped == dropped
    found = [
        (row[PARTITION], row["window_start"], row["name"], row["rank"], row["price"], row["number"], row[TIME])
        for row in in_milliseconds(played.rows)
    ]
    wanted = [
        (partition, start, name, rank, row.values["price"], row.values["number"], ranking.times[rank][0])
        for (partition, name, start), ranking in rankings.items()
        for rank, row in enumerate(ranking.rows, 1)
    ]
    in_order = sorted(wanted, key=lambda row: row[:4])
    for partition in (0, 1):
        assert [row for row in found if row[0] == partition] == [row for row in in_order if row[0] == partition]
    assert all(row[STREAM_TIME] == row[TIME] for row in played.rows)
    assert all(not row[DELETED] for row in played.rows)


@settings(max_examples=20, deadline=None)
@given(timed_rows(VALUES, rows_max=60), st.integers(1, 5))
def test_it_is_row_number(rows: list[Row], n: int) -> None:
    """DuckDB's row_number over the same rows gives the same ranking."""
    rows = [row for row in rows if row.values["name"] is not None]
    played = play(driver_of(make_step(n)), rows, [(5, "commit"), (9, "restart"), (4, "rollback")])
    frame = pl.DataFrame(
        [{**row.values, "part": row.partition, "arrival": n} for n, row in enumerate(rows)],
        schema={**SCHEMA, "part": pl.Int64(), "arrival": pl.Int64()},
    )
    with duckdb.connect() as connection:
        connection.register("rows", frame.to_arrow())
        wanted = connection.execute(
            """select part, name, row_number() over (
                   partition by part, name order by price desc nulls last, number asc nulls last, arrival) as rank,
                   price, number from rows qualify rank <= $n""",
            {"n": n},
        ).fetchall()
    table = final_table(played.rows, (PARTITION, "name", "rank"))
    assert {(*key, row["price"], row["number"]) for key, row in table.items()} == set(wanted)


def test_only_changed_ranks_are_updated() -> None:
    """A row that comes in at the second place leaves the first alone; one that comes in nowhere changes nothing."""
    driver = driver_of(make_step(2))

    def rows(*prices: float) -> list[Row]:
        return [Row(0, 5, 5, {"name": "a", "price": price, "number": 0}) for price in prices]

    driver.batch(rows(5, 1))
    assert driver.commit().select("rank", "price").rows() == [(1, 5), (2, 1)]
    driver.batch(rows(3))
    assert driver.commit().select("rank", "price").rows() == [(2, 3)]
    driver.batch(rows(2, 3))
    assert not driver.commit().height
    driver.batch(rows(9))
    assert driver.commit().select("rank", "price").rows() == [(1, 9), (2, 5)]


def test_nan_is_the_largest_number_and_null_comes_last() -> None:
    """Descending and ascending."""
    prices = [1.0, None, float("nan"), 2.0]
    for descending, wanted in ((True, [float("nan"), 2.0, 1.0, None]), (False, [1.0, 2.0, float("nan"), None])):
        driver = driver_of(make_step(4, order=(("price", descending),)))
        driver.batch([Row(0, 5, 5, {"name": "a", "price": price, "number": 0}) for price in prices])
        assert driver.commit()["price"].to_list() == pytest.approx(wanted, nan_ok=True)


def test_a_window_closed_as_idle_takes_no_more_rows() -> None:
    """Its rows come out, and a row for it later is late; a restart knows."""
    driver = driver_of(make_step(2, tumbling(10), Emit.FINAL, "stream"))
    driver.batch([Row(0, 5, 5, {"name": "a", "price": 1.0, "number": 0})])
    closed = driver.operator.close_idle([0], driver.context)
    assert closed.select("name", "rank").rows() == [("a", 1)]
    driver.commit()
    driver.restore()
    driver.batch([Row(0, 6, 6, {"name": "a", "price": 2.0, "number": 7})])
    assert driver.context.dropped == {"late": 1}
    late = driver.operator.take_late()  # type: ignore[attr-defined]
    assert late["number"].to_list() == [7]
    assert not driver.batch([], {0: 1000}).height


def test_rows_of_nothing_but_their_group_are_ranked() -> None:
    """One column, which is group and order at once."""
    names = {"name": SCHEMA["name"]}
    columns = (*columns_of(names), Column(name="rank", type="long"))
    step = make_step(2, order=(("name", True),)).model_copy(update={"columns": columns})
    driver = KeyedDriver(lambda: TopN(step, names), names)
    for _ in range(3):
        driver.batch([Row(0, 5, 5, {"name": name}) for name in "ab"])
        driver.commit()
        driver.restore()
    assert driver.operator.keys_count() == {0: 4}
    driver.batch([Row(0, 5, 5, {"name": "c"})])
    assert driver.commit().select("name", "rank").rows() == [("c", 1)]


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(33)), st.integers(0, 33))
def test_smaller_before_counts(values: list[int], length: int) -> None:
    """The kernel, against counting."""
    some = sorted(values[:length])
    ranks = np.array([some.index(value) for value in values[:length]], np.int64)
    wanted = [sum(other < value for other in ranks[:at]) for at, value in enumerate(ranks)]
    assert smaller_before(ranks).tolist() == wanted


@pytest.mark.parametrize("prices", ["rising", "falling", "random"])
@pytest.mark.parametrize("names", [1, 20_000])
def test_many_rows_take_columns_not_loops(names: int, prices: str) -> None:
    """100,000 rows in a second or two, whatever their order; at most n rows a group are kept."""
    generator = np.random.default_rng(1)
    driver = driver_of(make_step(10))
    took_s = 0.0
    for start in range(0, 100_000, 10_000):
        numbers = np.arange(start, start + 10_000)
        price = {"rising": numbers, "falling": -numbers, "random": generator.permutation(numbers)}[prices]
        rows = [
            Row(0, n, n, {"name": f"k{n % names}", "price": float(p), "number": n})
            for n, p in zip(numbers.tolist(), price.tolist(), strict=True)
        ]
        began = time.process_time()
        driver.batch(rows)
        took_s += time.process_time() - began
        driver.commit()
    assert took_s < 6, f"{took_s:.1f} s"
    assert sum(driver.operator.keys_count().values()) == min(10, 100_000 // names) * names
