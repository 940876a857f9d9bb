"""`dedupe` equals a plain reference and DuckDB, however the rows are cut, restarted and aborted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.operator import PARTITION, SEQUENCE, SOURCE, STREAM_TIME, TIME, StatefulOperator
from headrace.engine.operators.dedupe import Dedupe, first_of_each
from headrace.flow.steps import DedupeStep
from tests.engine.operators.keyed_driver import KeyedDriver, columns_of, cuts, play, timed_rows
from tests.engine.reference import Row

SCHEMA = {"name": pl.String(), "number": pl.Int64()}


def driver_of(within_ms: int, grace_ms: int = 0, late: Any = "count", by: Sequence[str] = ("name",)) -> KeyedDriver:
    """A step over `SCHEMA` at work."""
    step = DedupeStep(
        name="d",
        columns=columns_of(SCHEMA),
        by=tuple(by),
        within_ms=within_ms,
        grace_ms=grace_ms,
        late=late,
        changelog="c",
        fingerprint="f",
    )

    def make() -> StatefulOperator:
        return Dedupe(step, SCHEMA)

    return KeyedDriver(make, SCHEMA)


def plain(rows: Sequence[Row], within_ms: int, grace_ms: int) -> tuple[list[Row], Counter[str]]:
    """One record at a time, and nothing is ever forgotten."""
    seen: dict[Any, list[int]] = {}
    through, dropped = [], Counter[str]()
    for row in rows:
        name = row.values["name"]
        times = seen.setdefault((row.partition, name), [])
        if name is None:
            dropped["null_key"] += 1
        elif row.time_ms < row.stream_time_ms - within_ms - grace_ms:
            dropped["late"] += 1
        elif any(abs(row.time_ms - other) <= within_ms for other in times):
            dropped["repeat"] += 1
        else:
            times.append(row.time_ms)
            through.append(row)
    return through, dropped


VALUES = st.fixed_dictionaries({"name": st.sampled_from(["a", "b", None]), "number": st.integers(0, 9)})


@settings(max_examples=60, deadline=None)
@given(timed_rows(VALUES, rows_max=40), cuts(), st.integers(0, 12), st.integers(0, 12))
def test_rows_let_through_equal_the_reference(
    rows: list[Row], pieces: list[tuple[int, str]], within_ms: int, grace_ms: int
) -> None:
    """The same rows in the same order, and the same counts of what was left out; nothing is kept after the end."""
    driver = driver_of(within_ms, grace_ms)
    played = play(driver, rows, pieces)
    through, dropped = plain(rows, within_ms, grace_ms)
    found = [(row[PARTITION], row[TIME], row[STREAM_TIME], row["name"], row["number"]) for row in played.rows]
    wanted = [(r.partition, r.time_ms, r.stream_time_ms, r.values["name"], r.values["number"]) for r in through]
    for partition in (0, 1):
        assert [row for row in found if row[0] == partition] == [row for row in wanted if row[0] == partition]
    assert played.dropped == dropped
    assert driver.operator.keys_count() == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 300)), max_size=120), st.integers(0, 9))
def test_long_chains_are_resolved_in_turn(rows: list[tuple[int, int]], within_ms: int) -> None:
    """Rounds and the rest in turn give what one row after the other gives."""
    keys, times = (np.array([row[n] for row in rows], np.int64) for n in (0, 1))
    through, _ = plain([Row(k, t, 0, {"name": "a"}) for k, t in rows], within_ms, 0)
    kept = first_of_each(keys, times, within_ms)
    assert [(r.partition, r.time_ms) for r in through] == [rows[n] for n in np.flatnonzero(kept)]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2**40)), max_size=40))
def test_within_everything_it_is_distinct_on(rows: list[tuple[str, int]]) -> None:
    """With a span that covers all rows it is DuckDB's DISTINCT ON by arrival."""
    driver = driver_of(2**41)
    given_rows = [Row(0, at, at, {"name": name, "number": n}) for n, (name, at) in enumerate(rows)]
    played = play(driver, given_rows, [(7, "commit"), (3, "rollback"), (9, "restart")])
    frame = pl.DataFrame(
        {"name": [name for name, _ in rows], "number": range(len(rows))}, schema={"name": pl.String, "number": pl.Int64}
    )
    with duckdb.connect() as connection:
        connection.register("rows", frame.to_arrow())
        sql = "select distinct on (name) number from rows order by name, number"
        wanted = sorted(number for (number,) in connection.execute(sql).fetchall())
    assert [row["number"] for row in played.rows] == wanted


@pytest.mark.parametrize(("late", "letters"), [("count", 0), ("dead_letter", 1)])
def test_late_rows_are_counted_or_kept(late: str, letters: int) -> None:
    """A row at the bound is in time; one behind it is late."""
    driver = driver_of(10, 5, late)
    rows = [Row(0, 100, 100, {"name": "a", "number": 0}), Row(0, 85, 100, {"name": "b", "number": 1})]
    assert driver.batch(rows).height == 2
    assert not driver.batch([Row(0, 84, 100, {"name": "c", "number": 2})]).height
    assert driver.context.dropped == {"late": 1}
    assert [error.code for _, error in driver.context.dead] == ["process.late"] * letters


def test_a_repeat_of_a_repeat_is_let_through() -> None:
    """Only rows that were let through make others repeats: 0 hides 8, so 16 is not hidden by 8."""
    driver = driver_of(10)
    out = driver.batch([Row(0, at, at, {"name": "a", "number": at}) for at in (0, 8, 11, 16, 22)])
    assert out["number"].to_list() == [0, 11, 22]


def test_rows_keep_source_and_sequence() -> None:
    """What is let through is the row as it came."""
    driver = driver_of(10)
    out = driver.batch([Row(0, 5, 5, {"name": name, "number": 0}) for name in ("a", "a", "b")])
    assert out[SEQUENCE].to_list() == [0, 2]
    assert [source["offset"] for source in out[SOURCE]] == [0, 2]


@pytest.mark.parametrize("spacing_ms", [0, 7, 1000])
@pytest.mark.parametrize("keys", [1, 50_000])
def test_many_rows_take_columns_not_loops(keys: int, spacing_ms: int) -> None:
    """100,000 rows in a second or two, of one key or of many, in long chains or none; memory is given back."""
    driver = driver_of(10)
    took_s = 0.0
    for start in range(0, 100_000, 10_000):
        rows = [
            Row(0, n * spacing_ms, n * spacing_ms, {"name": f"k{n % keys}", "number": n})
            for n in range(start, start + 10_000)
        ]
        began = time.process_time()
        driver.batch(rows, {0: rows[-1].time_ms})
        took_s += time.process_time() - began
        driver.commit()
    assert took_s < 6, f"{took_s:.1f} s"
    if spacing_ms:
        assert sum(driver.operator.keys_count().values()) < 30
