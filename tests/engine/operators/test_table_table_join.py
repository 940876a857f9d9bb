"""Table-table join against a record-at-a-time reference, and against SQL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.operator import DELETED, PARTITION, SEQUENCE, SOURCE, STREAM_TIME, SYSTEM_COLUMNS, TIME
from headrace.engine.operators.table_table_join import TableTableJoin
from headrace.engine.operators.turns import Origin
from headrace.flow.steps import TableTableJoinStep
from headrace.flow.values import Column
from tests.engine.operators.table_driver import PIECES, Change, Driver, frame_of, last_per_key, plain_rows, played

How = Literal["inner", "left", "outer"]
HOWS: list[How] = ["inner", "left", "outer"]
LEFT = {"id": pl.String(), "a": pl.Int64(), "tags": pl.List(pl.String())}
RIGHT = {"key": pl.String(), "a": pl.Int64()}
NULLABLE = ["null", "long"]
COLUMNS = (
    Column(name="id", type="string"),
    Column(name="a", type=NULLABLE),
    Column(name="tags", type=["null", {"type": "array", "items": "string"}]),
    Column(name="a_right", type=NULLABLE),
)

CHANGES = st.lists(
    st.builds(
        lambda side, partition, key, value, time_ms: Change(
            side, partition, key, None if value is None else (value, ["x"] * (value % 3))[: 2 - side], time_ms
        ),
        st.integers(0, 1),
        st.integers(0, 1),
        st.sampled_from(["a", "b", "c"]),
        st.one_of(st.none(), st.integers(0, 9)),
        st.integers(-5, 30),
    ),
    max_size=40,
)


def make_join(how: How, versioned: tuple[bool, bool] = (False, False)) -> TableTableJoin:
    """The operator."""
    step = TableTableJoinStep(
        name="join",
        inputs=("l", "r"),
        columns=COLUMNS,
        is_table=True,
        key=("id",),
        on=(("id", "key"),),
        how=how,
        renames={"a": "a_right"},
        versioned=versioned,
        changelog="p.join.changelog",
        fingerprint="f",
    )
    return TableTableJoin(step, LEFT, RIGHT)


def frames(changes: Sequence[Change], first: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both inputs of one call."""
    numbered = list(enumerate(changes, first))
    left = frame_of([(n, c) for n, c in numbered if c.side == 0], "id", LEFT)
    return left, frame_of([(n, c) for n, c in numbered if c.side == 1], "key", RIGHT)


class Reference:
    """One record at a time, plainly: what each record puts out."""

    def __init__(self, how: How, versioned: tuple[bool, bool] = (False, False)) -> None:
        self.how, self.versioned = how, versioned
        self.rows: dict[tuple[int, int, str], Change] = {}
        """The newest change by side, partition and key; deletions too."""
        self.out_of_order = 0

    def result(self, partition: int, key: str) -> tuple[Any, ...] | None:
        left, right = (self.rows.get((side, partition, key)) for side in (0, 1))
        mine = left.values if left else None
        theirs = right.values if right else None
        stands = {"inner": mine and theirs, "left": mine, "outer": mine or theirs}[self.how]
        return (*(mine or (None, None)), *(theirs or (None,))) if stands else None

    def take(self, change: Change) -> list[tuple[Any, ...]]:
        here = (change.side, change.partition, change.key)
        known = self.rows.get(here)
        if self.versioned[change.side] and known is not None and change.time_ms < known.time_ms:
            self.out_of_order += 1
            return []
        before = self.result(change.partition, change.key)
        self.rows[here] = change
        after = self.result(change.partition, change.key)
        if before is None and after is None:
            return []
        other = self.rows.get((1 - change.side, change.partition, change.key))
        time_ms = max(change.time_ms, other.time_ms) if other and other.values else change.time_ms
        values = after or (None, None, None)
        return [(change.key, *values, change.partition, time_ms, change.stream_time_ms, after is None)]


def key_of(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Key and partition of an output row."""
    return row[0], row[4]


@settings(max_examples=60, deadline=None)
@given(
    changes=CHANGES,
    how=st.sampled_from(HOWS),
    versioned=st.tuples(st.booleans(), st.booleans()),
    pieces=PIECES,
)
def test_cuts_restarts_and_undo_give_the_record_at_a_time_rows(
    changes: list[Change], how: How, versioned: tuple[bool, bool], pieces: list[tuple[int, str]]
) -> None:
    """Each commit says, for each key, the last that single records would have said, in order, times included."""
    driver = Driver(lambda: make_join(how, versioned))
    reference = Reference(how, versioned)
    said: list[list[tuple[Any, ...]]] = [reference.take(change) for change in changes]
    committed = 0
    for first, last, then in played(driver, len(changes), pieces):
        assert not driver.process(*frames(changes[first:last], first)).height
        if then == "commit":
            expected = [row for rows in said[committed:last] for row in rows]
            assert plain_rows(driver.commit()) == last_per_key(expected, key_of)
            committed = last
    if not any(end == "undo" for _, end in pieces):
        assert driver.context.dropped["out_of_order"] == reference.out_of_order


@settings(max_examples=30, deadline=None)
@given(changes=CHANGES, how=st.sampled_from(HOWS))
def test_the_last_results_are_the_sql_join_of_the_last_rows(changes: list[Change], how: How) -> None:
    """What stands at the end is DuckDB's join of what both tables hold at the end."""
    driver = Driver(lambda: make_join(how))
    table: dict[Any, tuple[Any, ...]] = {}
    for at in range(0, len(changes), 7):
        driver.process(*frames(changes[at : at + 7]))
        for row in plain_rows(driver.commit()):
            table.pop(key_of(row), None)
            if not row[-1]:
                table[key_of(row)] = (row[4], row[0], row[1], row[3])
    lasts = [{}, {}]
    for change in changes:
        lasts[change.side][change.partition, change.key] = change
    left, right = (
        pl.DataFrame(
            [(c.partition, c.key, c.values[0]) for c in last.values() if c.values],
            schema={"p": pl.Int64, "k": pl.String, "v": pl.Int64},
            orient="row",
        )
        for last in lasts
    )
    kind = {"inner": "INNER", "left": "LEFT", "outer": "FULL OUTER"}[how]
    with duckdb.connect() as connection:
        connection.register("l", left.to_arrow())
        connection.register("r", right.to_arrow())
        rows = connection.execute(
            "SELECT coalesce(l.p, r.p), coalesce(l.k, r.k), l.v, r.v FROM l "
            f"{kind} JOIN r ON l.p = r.p AND l.k = r.k ORDER BY ALL"
        ).fetchall()
    assert sorted(table.values(), key=repr) == sorted(rows, key=repr)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("inner", []),
        ("left", [("a", None, None, 3, True)]),
        ("outer", [("a", None, 7, 2, False)]),
    ],
)
def test_a_deletion_is_said_where_a_result_stood_only(how: How, expected: list[tuple[Any, ...]]) -> None:
    """A key whose result never was is never deleted; one that stands without its left row goes on standing."""
    driver = Driver(lambda: make_join(how))
    driver.process(*frames([Change(0, 0, "a", (1, []), 1)]))
    driver.commit()
    driver.process(*frames([Change(0, 0, "a", None, 3), Change(1, 0, "a", (7,), 2)]))
    assert driver.commit().select("id", "a", "a_right", TIME, DELETED).rows() == expected


def test_keys_without_rows_are_freed() -> None:
    """Nothing is kept of a key whose rows are gone on both sides, and its place is used again."""
    driver = Driver(lambda: make_join("outer"))
    for _ in range(3):
        alive = [Change(side, 0, f"k{n}", (n, [])[: 2 - side], n) for n in range(50) for side in (0, 1)]
        driver.process(*frames(alive))
        driver.commit()
        assert driver.keys() == 50
        driver.process(*frames([Change(c.side, 0, c.key, None, c.time_ms + 1) for c in alive]))
        driver.commit()
        assert driver.keys() == 0
    driver.restore()
    assert driver.keys() == 0


def test_a_null_key_goes_to_the_dead_letters() -> None:
    """Never silently lost."""
    driver = Driver(lambda: make_join("outer"))
    driver.process(*frames([Change(0, 0, None, (1, []), 1), Change(1, 0, None, (1,), 1), Change(1, 0, "a", (1,), 1)]))
    assert driver.context.dropped["null_key"] == 2
    assert [error.code for _, error in driver.context.dead] == ["process.null_key"] * 2
    assert driver.commit()["id"].to_list() == ["a"]


def test_tables_of_keys_alone_join() -> None:
    """No side needs another column than its key."""
    step = make_join("inner")._step.model_copy(update={"columns": COLUMNS[:1], "renames": {}})
    driver = Driver(lambda: TableTableJoin(step, {"id": pl.String()}, {"key": pl.String()}))
    left = frame_of([(0, Change(0, 0, "a", (), 1))], "id", {"id": pl.String()})
    right = frame_of([(1, Change(1, 0, "a", (), 2))], "key", {"key": pl.String()})
    driver.process(left, right)
    assert driver.commit().select("id", TIME, DELETED).rows() == [("a", 2, False)]
    driver.restore()
    driver.process(left.clear(), frame_of([(0, Change(1, 0, "a", None, 3))], "key", {"key": pl.String()}))
    assert driver.commit().select("id", TIME, DELETED).rows() == [("a", 3, True)]


def test_rows_of_a_flush_come_after_rows_that_were_read() -> None:
    """In a chain the row from the join before is the later one, whatever number it has."""
    step = make_join("left")._step
    changes = [Change(1, 0, "a", None, 9), Change(0, 0, "a", (1, []), 5)]
    left, right = frames(changes)
    for origin, time_ms in ((Origin.MADE, 5), (Origin.JOINED, 9), (Origin.READ, 9)):
        driver = Driver(lambda origin=origin: TableTableJoin(step, LEFT, RIGHT, (origin, Origin.READ)))  # type: ignore[misc]
        driver.process(
            left.with_columns(pl.lit(0, pl.Int64).alias(SEQUENCE)),
            right.with_columns(pl.lit(1, pl.Int64).alias(SEQUENCE)),
        )
        assert driver.commit()[TIME].to_list() == [time_ms]


def test_a_hundred_thousand_changes_take_less_than_two_seconds() -> None:
    """Columns, not rows, are worked on."""
    rows = 50_000
    random = np.random.default_rng(1)
    joined = Driver(lambda: make_join("outer"))
    inputs = []
    for columns, key in ((LEFT, "id"), (RIGHT, "key")):
        system = {PARTITION: 0, TIME: 1, STREAM_TIME: 1}
        frame = pl.DataFrame({key: random.integers(0, 20_000, rows).astype(str), "a": np.arange(rows)})
        frame = frame.with_columns(
            *(pl.lit(value, SYSTEM_COLUMNS[name]).alias(name) for name, value in system.items()),
            pl.int_range(pl.len(), dtype=pl.Int64).alias(SEQUENCE),
            pl.lit(None, SYSTEM_COLUMNS[SOURCE]).alias(SOURCE),
            pl.Series(DELETED, random.random(rows) < 0.2),
        )
        if "tags" in columns:
            frame = frame.with_columns(pl.lit(None, columns["tags"]).alias("tags"))
        inputs.append(frame.with_columns(pl.when(~pl.col(DELETED)).then(pl.col("a")).alias("a")))
    started = time.process_time()
    joined.operator.process(inputs, joined.context)
    flushed = joined.operator.flush(joined.context)
    assert time.process_time() - started < 2
    assert flushed.height > 15_000
