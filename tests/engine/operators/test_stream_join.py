"""Stream-stream join against a record-at-a-time reference, through cuts, restarts and rollbacks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.operator import PARTITION, SEQUENCE, SOURCE, STREAM_TIME, SYSTEM_COLUMNS, TIME
from headrace.engine.operators import stream_join
from tests.engine.operators.aggregate_driver import Context
from tests.engine.operators.stream_join_reference import (
    LEFT,
    RIGHT,
    Bounds,
    Event,
    How,
    Output,
    Reference,
    frames,
    make_join,
    outputs,
    with_stream_times,
)
from tests.engine.operators.table_driver import PIECES, Driver, played

KEYS = st.sampled_from([("a", 1)] * 5 + [("b", 1), ("a", 2), (None, 1), ("a", None)])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["left", "right"]),
        st.sampled_from([0, 0, 0, 1]),
        KEYS,
        st.sampled_from([0, 0, 1, 2, 3, 5, 12, -1, -3, -8]),
    ),
    min_size=5,
    max_size=40,
)
HOWS = st.sampled_from(["inner", "left", "outer"])
SPANS = st.sampled_from([0, 3, 5])
BOUNDS = st.builds(Bounds, SPANS, SPANS, st.sampled_from([0, 0, 2, 20]))


def stepped(steps: list[tuple[str, int, Any, int]]) -> list[Event]:
    """Events whose time goes forward, with some disorder; their values tell them apart."""
    events, now_ms = [], 20
    for number, (side, partition, key, step_ms) in enumerate(steps):
        now_ms = max(0, now_ms + step_ms)
        events.append(Event(side, partition, key, number, now_ms))
    return with_stream_times(events)


EVENTS = STEPS.map(stepped)


def closing(events: Sequence[Event]) -> dict[int, int]:
    """Where a task that reads source topics is after these records."""
    return {event.partition: event.stream_time_ms for event in events}


def play(driver: Driver, events: Sequence[Event], pieces: list[tuple[int, str]]) -> list[Output]:
    """Run events through the operator in pieces with restarts and undone stretches; what was committed."""
    committed: list[Output] = []
    waiting: list[Output] = []
    done = 0
    for first, last, what in played(driver, len(events), pieces):
        if first < done:
            waiting = []  # The stretch before was undone.
        driver.context.closing.update(closing(events[:last]))
        waiting += outputs(driver.process(*frames(events[first:last])))
        waiting += outputs(driver.operator.advance(driver.context))
        done = last
        if what == "commit":
            assert not driver.commit().height
            committed, waiting = committed + waiting, []
    return committed + waiting


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, how=HOWS, bounds=BOUNDS, pieces=PIECES)
def test_any_cut_restart_and_rollback_give_the_record_at_a_time_answer(
    events: list[Event], how: How, bounds: Bounds, pieces: list[tuple[int, str]]
) -> None:
    """The same rows in the same order, whatever the pieces."""
    reference = Reference(how, bounds)
    expected = [row for event in events for row in reference.take(event)]
    driver = Driver(lambda: make_join(how, bounds))
    assert by_partition(play(driver, events, pieces)) == by_partition(expected)


def by_partition(rows: list[Output]) -> dict[int, list[Output]]:
    return {partition: [row for row in rows if row[0] == partition] for partition in (0, 1)}


@settings(max_examples=30, deadline=None)
@given(events=EVENTS, how=HOWS, bounds=BOUNDS)
def test_what_is_left_out_is_counted_once(events: list[Event], how: How, bounds: Bounds) -> None:
    """Late rows and null keys; null keys of an inner join and, where asked for, late rows are dead letters."""
    reference = Reference(how, bounds)
    for event in events:
        reference.take(event)
    for late in ("count", "dead_letter"):
        driver = Driver(lambda: make_join(how, bounds, late))  # type: ignore[arg-type]  # noqa: B023
        driver.process(*frames(events))
        assert driver.context.dropped == Counter(reference.dropped)
        codes = Counter(error.code for _, error in driver.context.dead)
        assert codes["process.null_key"] == reference.dropped["null_key"]
        assert codes["process.late"] == (reference.dropped["late"] if late == "dead_letter" else 0)


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[list[Event], list[Event]]:
    """Rows of two origins with a clock each, interleaved in two ways."""
    origins = []
    for number in range(2):
        events = stepped(draw(STEPS))[:14]
        origins.append(with_stream_times([replace(e, partition=0, value=10 * e.value + number) for e in events]))
    ways = []
    for _ in range(2):
        order = draw(st.permutations([0] * len(origins[0]) + [1] * len(origins[1])))
        rest = [list(events) for events in origins]
        ways.append([rest[origin].pop(0) for origin in order])
    return ways[0], ways[1]


@settings(max_examples=60, deadline=None)
@given(ways=interleaved(), how=HOWS, bounds=BOUNDS, pieces=PIECES)
def test_the_interleaving_of_origins_does_not_change_the_result(
    ways: tuple[list[Event], list[Event]], how: How, bounds: Bounds, pieces: list[tuple[int, str]]
) -> None:
    """Rows that come through a repartition topic carry the clock of their origin; closing time is what is promised."""
    found = []
    for events, cuts in ((ways[0], []), (ways[1], pieces)):
        driver = Driver(lambda: make_join(how, bounds))
        rows: list[Output] = []
        at = 0
        for size, _ in [*cuts, (len(events), "")]:
            piece = events[at : at + size]
            at += size
            driver.context.closing = {0: min((event.stream_time_ms for event in events[at:]), default=10**6)}
            rows += outputs(driver.process(*frames(piece)))
            rows += outputs(driver.operator.advance(driver.context))
            driver.commit()
        found.append(Counter(rows))
        assert not driver.keys(), "at the end of time nothing is kept"
    assert found[0] == found[1]


@settings(max_examples=30, deadline=None)
@given(events=EVENTS, how=HOWS, bounds=BOUNDS, pieces=PIECES)
def test_output_keeps_its_promise_of_time(
    events: list[Event], how: How, bounds: Bounds, pieces: list[tuple[int, str]]
) -> None:
    """No row comes out with a smaller stream time than was promised before it."""
    driver = Driver(lambda: make_join(how, bounds))
    promised: dict[int, int] = {}
    at = 0
    for size, _ in [*pieces, (len(events), "")]:
        piece = events[at : at + size]
        at += size
        driver.context.closing.update(closing(piece))
        for partition, *_, time_ms, stream_time_ms in outputs(driver.process(*frames(piece))):
            assert stream_time_ms >= max(time_ms, promised.get(partition, stream_time_ms))
        promised = dict(driver.operator.output_closing_ms(driver.context.closing))
        driver.commit()


def test_idle_closing_lets_rows_out_once_and_survives_a_restart() -> None:
    """Rows of an idle partition come out alone; later rows that they were waiting for are late there, even after a
    restart, and the other partition is as it was."""
    bounds = Bounds(5, 5, 10)
    driver = Driver(lambda: make_join("outer", bounds))
    start = [
        Event("left", 0, ("a", 1), 1, 100, 100),
        Event("right", 0, ("b", 1), 2, 101, 101),
        Event("left", 1, ("a", 1), 3, 100, 100),
    ]
    driver.context.closing = closing(start)
    assert not driver.process(*frames(start)).height
    closed = outputs(driver.operator.close_idle([0], driver.context))
    assert closed == [(0, "a", 1, 1, None, 100, 100), (0, "b", 1, None, 2, 101, 101)]
    driver.commit()
    assert not driver.operator.close_idle([0], driver.context).height
    driver.restore()
    assert not driver.operator.advance(driver.context).height
    more = [
        Event("right", 0, ("a", 1), 4, 101, 101),  # Its bound, 116, was passed by the closing.
        Event("right", 0, ("a", 1), 5, 102, 102),
        Event("right", 1, ("a", 1), 6, 101, 101),
    ]
    assert outputs(driver.process(*frames(more))) == [
        (0, "a", 1, 1, 5, 102, 102),
        (1, "a", 1, 3, 6, 101, 101),
    ]
    assert driver.context.dropped == {"late": 1}


def test_idle_closing_of_an_inner_join_does_nothing() -> None:
    """It waits for nobody, so nothing is late because of it."""
    driver = Driver(lambda: make_join("inner", Bounds(5, 5, 0)))
    driver.process(*frames([Event("left", 0, ("a", 1), 1, 100, 100)]))
    assert not driver.operator.close_idle([0], driver.context).height
    assert outputs(driver.process(*frames([Event("right", 0, ("a", 1), 2, 100, 100)]))) == [(0, "a", 1, 1, 2, 100, 100)]


def test_a_stream_joined_with_itself_meets_every_row_and_itself() -> None:
    """Both sides get the same rows with the same sequence: each ordered pair once, a row with itself too."""
    events = [Event("left", 0, ("a", 1), value, time_ms, 10) for value, time_ms in ((1, 0), (2, 10), (3, 4))]
    events = with_stream_times(events)
    expected = [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (3, 2), (1, 3), (3, 3), (2, 3)]
    for cuts in ([3], [1, 1, 1], [2, 1], [1, 2]):
        join = make_join("inner", Bounds(10, 10, 0))
        found: list[tuple[Any, ...]] = []
        at = 0
        for size in cuts:
            left, _ = frames(events[at : at + size])
            right = left.select(pl.col("v"), pl.col("k").alias("ref"), pl.col("n").alias("m"), *SYSTEM_COLUMNS)
            at += size
            found += join.process([left, right], Context()).select("v", "v_right").rows()
        assert found == expected


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, bounds=BOUNDS, sizes=st.lists(st.integers(0, 15), max_size=5))
def test_a_self_join_is_a_join_with_each_row_first_left_then_right(
    events: list[Event], bounds: Bounds, sizes: list[int]
) -> None:
    """Both inputs are one stream, cut anywhere."""
    reference = Reference("inner", bounds)
    lefts = with_stream_times([replace(event, side="left") for event in events])
    expected = [
        row for event in lefts for side in ("left", "right") for row in reference.take(replace(event, side=side))
    ]
    driver = Driver(lambda: make_join("inner", bounds))
    found: list[Output] = []
    at = 0
    for size in [*sizes, len(lefts)]:
        piece = lefts[at : at + size]
        at += size
        driver.context.closing.update(closing(piece))
        left, _ = frames(piece)
        right = left.select(pl.col("v"), pl.col("k").alias("ref"), pl.col("n").alias("m"), *SYSTEM_COLUMNS)
        found += outputs(driver.process(left, right))
        driver.commit()
    assert by_partition(found) == by_partition(expected)
    assert driver.context.dropped == Counter(reference.dropped)


def test_a_cross_product_larger_than_a_piece_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs are made in pieces of bounded size, and come in the same order."""
    events = [Event(("left", "right")[n % 2], 0, ("a", 1), n, n // 4, n // 4) for n in range(60)]
    whole = outputs(make_join("outer", Bounds(20, 20, 0)).process(frames(events), Context()))
    monkeypatch.setattr(stream_join, "CANDIDATES_MAX", 7)
    cut = outputs(make_join("outer", Bounds(20, 20, 0)).process(frames(events), Context()))
    assert len(whole) == 30 * 30
    assert cut == whole


def test_rows_are_freed_when_no_partner_can_come() -> None:
    """Rows stay until time is beyond before + after + grace, and not longer."""
    driver = Driver(lambda: make_join("left", Bounds(10, 20, 5)))
    driver.context.closing = {0: 100}
    driver.process(*frames([Event("left", 0, ("a", 1), 1, 100, 100), Event("right", 0, ("b", 1), 1, 100, 100)]))
    for closing_ms, kept in ((125, 2), (126, 2), (135, 2), (136, 0)):
        driver.context.closing = {0: closing_ms}
        found = driver.operator.advance(driver.context)
        driver.commit()
        assert found.height == (1 if closing_ms == 126 else 0)
        assert driver.keys() == kept


def test_a_hundred_thousand_rows_take_under_two_seconds() -> None:
    """Joining is column operations; the state is bounded by the window."""
    count = 100_000
    random = np.random.default_rng(3)
    times = np.sort(random.integers(0, 200_000, count))
    side = random.integers(0, 2, count)
    key = random.integers(0, 2_000, count)
    driver = Driver(lambda: make_join("outer", Bounds(2_000, 2_000, 500)))
    rows = 0
    started = time.process_time()
    for first in range(0, count, 10_000):
        piece = slice(first, first + 10_000)
        left, right = (numbered(times[piece], key[piece], side[piece] == n, LEFT if n == 0 else RIGHT) for n in (0, 1))
        driver.context.closing = {0: int(times[piece][-1])}
        rows += driver.process(left, right).height
        driver.operator.changes()
        driver.operator.commit()
    assert time.process_time() - started < 2.0
    assert rows > count // 2
    assert driver.keys() < 8_000


def numbered(times: Any, keys: Any, mine: Any, types: dict[str, Any]) -> pl.DataFrame:
    """One side of a large input."""
    names = ("k", "n") if "k" in types else ("ref", "m")
    columns = {
        names[0]: pl.Series(keys[mine]).cast(pl.String),
        names[1]: keys[mine],
        "v": keys[mine],
        "tags": pl.Series([["x"]]).new_from_index(0, int(mine.sum())),
        PARTITION: pl.zeros(int(mine.sum()), pl.Int32, eager=True),
        TIME: times[mine],
        STREAM_TIME: times[mine],
        SEQUENCE: np.flatnonzero(mine),
    }
    schema = {**types, **SYSTEM_COLUMNS}
    nobody = pl.Series(SOURCE, [None], SYSTEM_COLUMNS[SOURCE]).new_from_index(0, int(mine.sum()))
    return pl.DataFrame([pl.Series(n, columns[n], t) if n != SOURCE else nobody for n, t in schema.items()])


def test_a_row_let_out_alone_may_still_meet_a_partner() -> None:
    """A partner that is in the window but came after the bound makes a pair; it was not in time to keep the row."""
    driver = Driver(lambda: make_join("left", Bounds(5, 5, 0)))
    events = with_stream_times(
        [
            Event("left", 0, ("a", 1), 1, 0),
            Event("right", 0, ("z", 1), 2, 8),
            Event("right", 0, ("a", 1), 3, 5),
        ]
    )
    found = []
    for event in events:
        driver.context.closing = closing([event])
        found += outputs(driver.process(*frames([replace(event)])))
    assert found == [(0, "a", 1, 1, None, 0, 0), (0, "a", 1, 1, 3, 5, 5)]


@settings(max_examples=25, deadline=None)
@given(events=EVENTS, how=HOWS, bounds=BOUNDS, sizes=st.lists(st.integers(0, 15), max_size=5))
def test_rows_that_are_all_in_time_give_what_sql_gives(
    events: list[Event], how: How, bounds: Bounds, sizes: list[int]
) -> None:
    """With a grace longer than the disorder, the join of streams is the join of tables."""
    bounds = replace(bounds, grace_ms=1_000)
    driver = Driver(lambda: make_join(how, bounds))
    found: list[Output] = []
    at = 0
    for size in [*sizes, len(events)]:
        driver.context.closing.update(closing(events[at : at + size]))
        found += outputs(driver.process(*frames(events[at : at + size])))
        at += size
    driver.context.closing = {0: 10**6, 1: 10**6}
    found += outputs(driver.operator.advance(driver.context))
    assert sorted((row[:6] for row in found), key=repr) == sorted(by_sql(events, how, bounds), key=repr)


def by_sql(events: list[Event], how: How, bounds: Bounds) -> list[tuple[Any, ...]]:
    """The batch answer."""
    left, right = (frame.rename({PARTITION: "p", TIME: "t"}) for frame in frames(events))
    kind = {"inner": "inner", "left": "left", "outer": "full outer"}[how]
    with duckdb.connect() as connection:
        connection.register("l", left)
        connection.register("r", right)
        return connection.sql(
            f"""
            select coalesce(l.p, r.p), coalesce(l.k, r.ref), coalesce(l.n, r.m), l.v, r.v,
            greatest(coalesce(l.t, r.t), coalesce(r.t, l.t))
            from l {kind} join r on l.p = r.p and l.k = r.ref and l.n = r.m
            and r.t between l.t - {bounds.before_ms} and l.t + {bounds.after_ms}
            """
        ).fetchall()


@pytest.mark.parametrize("cuts", [[6], [1] * 6, [3, 3], [4, 2]])
def test_rows_alone_come_before_the_row_that_moved_time_beyond_their_bound(cuts: list[int]) -> None:
    """Not before one that only reached it; right ones first at equal times, then by key."""
    driver = Driver(lambda: make_join("outer", Bounds(5, 5, 0)))
    events = with_stream_times(
        [
            Event("left", 0, ("b", 1), 1, 10),
            Event("left", 0, ("a", 1), 2, 10),
            Event("right", 0, ("c", 1), 3, 10),
            Event("left", 0, ("d", 1), 4, 15),
            Event("right", 0, ("d", 1), 5, 15),
            Event("right", 0, ("d", 1), 6, 16),
        ]
    )
    found = []
    for size in cuts:
        piece, events = events[:size], events[size:]
        driver.context.closing.update(closing(piece))
        found += outputs(driver.process(*frames(piece)))
    assert [row[:6] for row in found] == [
        (0, "d", 1, 4, 5, 15),
        (0, "c", 1, None, 3, 10),
        (0, "a", 1, 2, None, 10),
        (0, "b", 1, 1, None, 10),
        (0, "d", 1, 4, 6, 16),
    ]


def test_a_partner_may_come_at_the_last_moment() -> None:
    """A row is there as long as closing time has not passed the end of its retention, and goes when it has."""
    driver = Driver(lambda: make_join("left", Bounds(5, 0, 0)))
    first = [Event("left", 0, ("a", 1), 1, 0, 0)]
    ahead = [Event("left", 0, ("z", 1), 2, 5, 5)]
    last = [Event("right", 0, ("a", 1), 3, 0, 5)]
    found = []
    for piece in (first, ahead, last):
        driver.context.closing.update(closing(piece))
        found += outputs(driver.process(*frames(piece)))
        driver.commit()
    assert [row[3:5] for row in found] == [(1, None), (1, 3)]
    driver.context.closing = {0: 100}
    driver.operator.advance(driver.context)
    assert driver.keys() == 0


@pytest.mark.parametrize("restart", [False, True])
def test_a_row_whose_partners_were_let_go_is_late_and_counted(restart: bool) -> None:
    """An upstream task was waited for no longer, and brings rows after all: nothing is lost in silence."""
    bounds = Bounds(3, 3, 0)
    driver = Driver(lambda: make_join("inner", bounds))
    first = Event("left", 0, ("a", 1), 1, 10, 10)
    driver.process(*frames([first]))
    driver.context.closing[0] = 100  # Though no row said so.
    assert not driver.operator.advance(driver.context).height
    driver.commit()
    if restart:
        driver.restore()
    behind = Event("right", 0, ("a", 1), 2, 11, 11)
    assert not driver.process(*frames([behind])).height
    assert driver.context.dropped["late"] == 1
