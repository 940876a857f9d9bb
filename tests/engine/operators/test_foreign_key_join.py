"""Foreign-key join against a record-at-a-time reference, and against SQL, whatever overtakes what."""

from __future__ import annotations

import time
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.engine.operator import (
    DELETED,
    INSTRUCTION,
    PARTITION,
    SEQUENCE,
    SOURCE,
    STREAM_TIME,
    SYSTEM_COLUMNS,
    TIME,
    VERSION,
)
from headrace.engine.operators.foreign_key import Instruction
from headrace.engine.operators.foreign_resolve import FORGET_AFTER_MS
from tests.engine.operators.foreign_driver import (
    FOREIGN,
    LEFT_PARTITIONS,
    RIGHT_PARTITIONS,
    ForeignJoin,
    How,
    make_match,
    make_resolve,
    partition_of,
)
from tests.engine.operators.foreign_reference import ForeignReference
from tests.engine.operators.table_driver import ENDS, PIECES, Change, Driver, last_per_key

PRODUCTS = ["p", "q", "r"]


def left(key: str, foreign: str | None, value: int, time_ms: int = 0) -> Change:
    """A left row."""
    return Change(0, partition_of(key, LEFT_PARTITIONS), key, (foreign, value), time_ms)


def no_left(key: str, time_ms: int = 0) -> Change:
    """A left row is deleted."""
    return Change(0, partition_of(key, LEFT_PARTITIONS), key, None, time_ms)


def right(key: str, value: int | None, time_ms: int = 0) -> Change:
    """A right row, or its deletion."""
    return Change(1, partition_of(key, RIGHT_PARTITIONS), key, None if value is None else (value,), time_ms)


TIMES = st.integers(-5, 30)
KEYS = st.sampled_from(["a", "b", "c", "d"])
LEFTS = st.one_of(
    st.builds(left, KEYS, st.sampled_from([*PRODUCTS, None]), st.integers(0, 9), TIMES), st.builds(no_left, KEYS, TIMES)
)
RIGHTS = st.builds(right, st.sampled_from(PRODUCTS), st.one_of(st.none(), st.integers(0, 9)), TIMES)
CHANGES = st.lists(st.one_of(LEFTS, LEFTS, RIGHTS), max_size=40)
HOWS = st.sampled_from(["inner", "left"])


def rows_of(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Output rows without partition, sequence and source."""
    assert frame[SEQUENCE].to_list() == list(range(frame.height))
    return frame.drop(PARTITION, SEQUENCE, SOURCE).rows()


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES, how=HOWS, versioned=st.tuples(st.booleans(), st.booleans()), pieces=PIECES)
def test_cuts_and_restarts_give_the_record_at_a_time_rows(
    changes: list[Change], how: How, versioned: tuple[bool, bool], pieces: list[tuple[int, str]]
) -> None:
    """A commit says the last of what single records would have said of each key, times included; only deletions of
    what did not stand at the last commit are left out."""
    join, reference = ForeignJoin(how, versioned), ForeignReference(how, versioned)
    at, shown = 0, set()
    for size, end in [*pieces, (len(changes), "")]:
        run = list(enumerate(changes))[at : at + size]
        at += len(run)
        expected = [row for _, change in run for row in reference.take(change)]
        expected = [row for row in last_per_key(expected, lambda row: row[0]) if row[0] in shown or not row[-1]]
        found = rows_of(join.through(run))
        assert sorted(found, key=repr) == sorted(expected, key=repr)
        shown = set(reference.stands)
        for stage in join.stages:
            if end == "restore":
                stage.driver.restore()
            elif end == "snapshot":
                stage.driver.restore_from_snapshots(range(3))
            elif end == "move":
                stage.driver.move(0)
    dropped = join.subscribe.driver.context.dropped + join.match.driver.context.dropped
    assert dropped["out_of_order"] == reference.out_of_order
    assert dropped["null_key"] == reference.null_keys


ACTIONS = st.lists(
    st.tuples(st.sampled_from([0, 1, 1, 2]), st.lists(st.integers(0, 3), min_size=1, max_size=3), ENDS), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES, how=HOWS, actions=ACTIONS)
def test_whatever_overtakes_what_the_newest_left_row_wins(
    changes: list[Change], how: How, actions: list[tuple[int, list[int], str]]
) -> None:
    """Several partitions, each step reading as much of each queue as chance has it, restarted and rolled back between
    any two commits: at the end stands the join of both tables, each result with the larger time."""
    join, reference = ForeignJoin(how), ForeignReference(how)
    for change in changes:
        join.publish(change)
        reference.take(change)
    for number, counts, end in actions:
        stage = join.stages[number]
        join.work(number, counts)
        if end == "undo":
            stage.rollback()
        elif end:
            join.commit(number)
        if end == "restore":
            stage.driver.restore()
        elif end == "snapshot":
            stage.driver.restore_from_snapshots(range(3))
        elif end == "move":
            stage.driver.move(1)
    for number in range(3):
        join.commit(number)
    join.drain()
    table = {key: (row["product"], row["amount"], row["amount_right"]) for key, row in join.table.items()}
    assert table == reference.table()
    for key, row in join.table.items():
        found = reference.match(row["product"])
        if found is not None:
            assert row[TIME] == max(reference.left[key].time_ms, found.time_ms)


MOVES = st.lists(
    st.one_of(
        st.builds(left, st.just("a"), st.sampled_from([*PRODUCTS, None]), st.integers(0, 9), TIMES),
        st.builds(no_left, st.just("a"), TIMES),
    ),
    min_size=2,
    max_size=8,
)
READS = st.tuples(st.integers(0, 2), st.integers(1, 2), st.booleans())


@settings(max_examples=100, deadline=None)
@given(moves=MOVES, how=HOWS, reads=st.lists(READS, max_size=12))
@example([left("a", "p", 1), left("a", "q", 2)], "inner", [(2, 1, True), (1, 1, False), (1, 1, True)])
def test_tasks_that_lag_behind_do_not_bring_old_matches_back(
    moves: list[Change], how: How, reads: list[tuple[int, int, bool]]
) -> None:
    """A row moves between keys of different tasks, which read and answer in any order, one at a time."""
    join, reference = ForeignJoin(how), ForeignReference(how)
    for change in [*(right(product, 1) for product in PRODUCTS), *moves]:
        join.publish(change)
        reference.take(change)
    join.work(1, [1])
    join.commit(1)
    join.work(0, [len(moves)])
    join.commit(0)
    for partition, count, commits in reads:
        join.match_one(partition, count)
        if commits:
            join.commit(1)
    join.commit(1)
    join.drain()
    table = {key: (row["product"], row["amount"], row["amount_right"]) for key, row in join.table.items()}
    assert table == reference.table()


@settings(max_examples=30, deadline=None)
@given(changes=CHANGES, how=HOWS)
def test_the_last_results_are_the_sql_join_of_the_last_rows(changes: list[Change], how: How) -> None:
    """What stands at the end is DuckDB's join of what both tables hold at the end."""
    join = ForeignJoin(how)
    lasts: list[dict[str, Change]] = [{}, {}]
    for change in changes:
        join.publish(change)
        lasts[change.side][change.key] = change
    join.drain()
    lefts = [(c.key, *c.values) for c in lasts[0].values() if c.values]
    rights = [(c.key, *c.values) for c in lasts[1].values() if c.values]
    with duckdb.connect() as connection:
        connection.register("l", pl.DataFrame(lefts, {"k": pl.String, "f": pl.String, "v": pl.Int64}, orient="row"))
        connection.register("r", pl.DataFrame(rights, {"k": pl.String, "v": pl.Int64}, orient="row"))
        expected = connection.execute(f"SELECT l.k, l.f, l.v, r.v FROM l {how} JOIN r ON l.f = r.k").fetchall()
    table = [(row["id"], row["product"], row["amount"], row["amount_right"]) for row in join.table.values()]
    assert sorted(table, key=repr) == sorted(expected, key=repr)


def test_an_answer_of_the_old_foreign_key_that_comes_late_is_left_out() -> None:
    """The order that a version is for: the old key's task answers after the new one's."""
    answers = make_match("inner")._empty
    resolve = Driver(make_resolve)

    def answer(version: int, product: str | None) -> pl.DataFrame:
        row = {"id": "a", "product": product, "amount": 1, "amount_right": 2, VERSION: version, DELETED: not product}
        system = {PARTITION: 0, TIME: version, STREAM_TIME: version, SEQUENCE: 0, SOURCE: None}
        return pl.DataFrame([{**row, **system}], schema=answers.schema)

    resolve.process(answer(2, "q"))
    assert resolve.commit()["product"].to_list() == ["q"]
    resolve.process(answer(1, "p"))
    assert not resolve.commit().height
    resolve.process(answer(3, None))
    assert resolve.commit()[DELETED].to_list() == [True]
    resolve.process(answer(2, "q"))
    assert not resolve.commit().height, "also after a deletion"


def test_what_is_gone_is_forgotten() -> None:
    """Nothing is kept of rows that were deleted; by the last step after stream time has gone on."""
    join = ForeignJoin("left")
    keys = [f"k{n}" for n in range(40)]
    for change in [*(right(p, 1) for p in PRODUCTS), *(left(k, PRODUCTS[n % 3], n) for n, k in enumerate(keys))]:
        join.publish(change)
    join.drain()
    assert [stage.driver.keys() for stage in join.stages] == [40, 43, 40]
    for change in [
        *(left(k, None, 1) for k in keys[:20]),
        *(no_left(k) for k in keys),
        *(right(p, None) for p in PRODUCTS),
    ]:
        join.publish(change)
    join.drain()
    assert not join.table
    assert [stage.driver.keys() for stage in join.stages] == [0, 0, 40]
    last = join.resolve.driver
    last.context.closing = dict.fromkeys(range(LEFT_PARTITIONS), 1_000 + FORGET_AFTER_MS)
    last.restore()
    last.commit()
    assert last.keys() == 40, "an answer may still be on its way"
    last.context.closing = dict.fromkeys(range(LEFT_PARTITIONS), 1_001 + FORGET_AFTER_MS)
    last.operator.flush(last.context)
    last.rollback()
    assert last.keys() == 40
    last.commit()
    assert last.keys() == 0


def test_versions_go_on_after_a_key_was_deleted() -> None:
    """A key that comes back is newer than everything that was said of it before, also after a restart."""
    join = ForeignJoin("inner")
    for change in (left("a", "p", 1), no_left("a")):
        join.publish(change)
    join.work(0, [1000])
    join.commit(0)
    join.subscribe.driver.restore()
    join.publish(left("a", "q", 2))
    join.work(0, [1000])
    said = join.commit(0)
    assert said.select("id", FOREIGN, VERSION, INSTRUCTION).rows() == [("a", "q", 3, Instruction.SUBSCRIBE)]


def test_a_move_leaves_the_old_key_and_subscribes_to_the_new_one() -> None:
    """What goes to which task, for each kind of change of an inner join."""
    join = ForeignJoin("inner")
    steps = [left("a", "p", 1), left("a", "p", 2), left("a", "q", 3), left("a", None, 4), left("a", None, 5)]
    for change in [*steps, left("a", "p", 6), no_left("a"), no_left("a")]:
        join.publish(change)
    join.work(0, [1000])
    said = join.commit(0)
    wanted = [
        ("p", 1, Instruction.SUBSCRIBE, 1),
        ("p", 2, Instruction.RENEW, 2),
        ("p", 3, Instruction.LEAVE, None),
        ("q", 3, Instruction.SUBSCRIBE, 3),
        ("q", 4, Instruction.DELETE, None),
        ("p", 6, Instruction.SUBSCRIBE, 6),
        ("p", 7, Instruction.DELETE, None),
    ]
    assert said.select(FOREIGN, VERSION, INSTRUCTION, "amount").rows() == wanted
    context = join.subscribe.driver.context
    assert context.dropped == {"null_key": 1}
    assert [row["amount"] for row, _ in context.dead] == [5]


@pytest.mark.parametrize("how", ["inner", "left"])
def test_a_right_change_goes_out_to_a_hundred_thousand_left_rows(how: How) -> None:
    """Fan-out works on columns; each left key is answered once per commit."""
    rows = 100_000
    match = Driver(lambda: make_match(how))
    frame = pl.DataFrame({"id": np.arange(rows).astype(str)}).with_columns(
        pl.lit("p").alias("product"),
        pl.lit(1, pl.Int64).alias("amount"),
        pl.lit("p").alias(FOREIGN),
        *(pl.lit(0, SYSTEM_COLUMNS[name]).alias(name) for name in (PARTITION, TIME, STREAM_TIME)),
        pl.int_range(rows, dtype=pl.Int64).alias(SEQUENCE),
        pl.lit(None, SYSTEM_COLUMNS[SOURCE]).alias(SOURCE),
        pl.lit(1, pl.Int64).alias(VERSION),
        pl.lit(int(Instruction.SUBSCRIBE), pl.Int8).alias(INSTRUCTION),
    )
    rights = pl.DataFrame({"sku": ["p"] * 3, "amount": [1, 2, 3]}).with_columns(
        *(pl.lit(9, SYSTEM_COLUMNS[name]).alias(name) for name in (TIME, STREAM_TIME)),
        pl.lit(0, pl.Int32).alias(PARTITION),
        pl.int_range(rows, rows + 3, dtype=pl.Int64).alias(SEQUENCE),
        pl.lit(None, SYSTEM_COLUMNS[SOURCE]).alias(SOURCE),
        pl.lit(False).alias(DELETED),
    )
    started = time.process_time()
    match.operator.process([frame, rights.clear()], match.context)
    assert match.operator.flush(match.context).height == rows
    match.operator.commit()
    match.operator.process([frame.clear(), rights], match.context)
    answers = match.operator.flush(match.context)
    assert time.process_time() - started < 2
    assert answers.height == rows
    assert answers["amount_right"].unique().to_list() == [3]
