"""`ExpireStep`: keys go some time after their last change, the same for any cuts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.engine.operator import DELETED, PARTITION, SEQUENCE, SOURCE, STREAM_TIME, SYSTEM_COLUMNS, TIME
from headrace.engine.operators.expire import Expire
from headrace.flow.steps import ExpireStep
from tests.engine.operators.table_driver import PIECES, Change, Driver, frame_of, played
from tests.engine.operators.table_life import column

COLUMNS: dict[str, pl.DataType] = {"name": pl.String(), "size": pl.Int64()}
TTL_MS = 10
END_MS = 10**6


def driver(ttl_ms: int = TTL_MS) -> Driver:
    """The step at work."""
    step = ExpireStep(
        name="expire",
        columns=tuple(column(name, dtype) for name, dtype in COLUMNS.items()),
        key=("name",),
        is_table=True,
        changelog="p.expire.changelog",
        fingerprint="f",
        ttl_ms=ttl_ms,
    )
    return Driver(lambda: Expire(step, COLUMNS))


def frame(changes: Sequence[tuple[int, Change]], stream_times: Sequence[int]) -> pl.DataFrame:
    """Changes with these stream times."""
    made = frame_of(changes, "name", COLUMNS)
    return made.with_columns(pl.Series(STREAM_TIME, [stream_times[number] for number, _ in changes], pl.Int64))


def reference(changes: Sequence[Change], stream_times: Sequence[int]) -> dict[Any, list[Any]]:
    """By key, all its rows and deletions to the end of time: (value, time, deleted)."""
    said: dict[Any, list[Any]] = {}
    stands: dict[Any, int] = {}
    for change, now_ms in zip(changes, stream_times, strict=True):
        at = (change.partition, change.key)
        if at in stands and now_ms > stands[at] + TTL_MS:
            said[at].append((None, stands.pop(at) + TTL_MS, True))
        gone = change.values is None
        said.setdefault(at, []).append((None if gone else change.values[0], change.time_ms, gone))  # type: ignore[index]
        stands.pop(at, None) if gone else stands.__setitem__(at, change.time_ms)
    for at, time_ms in stands.items():
        said[at].append((None, time_ms + TTL_MS, True))
    return said


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[Change], list[int], list[dict[int, int]]]:
    """Changes of a few keys whose rows come from two origins with clocks of their own; closing times behind each."""
    clocks = {(partition, origin): 0 for partition in (0, 1) for origin in (0, 1)}
    changes, stream_times, closing, now = [], [], [], 0
    for _ in range(draw(st.integers(0, 25))):
        partition, origin = draw(st.sampled_from(list(clocks)))
        now += draw(st.sampled_from([0, 1, 5, 12]))
        time_ms = max(0, now - draw(st.sampled_from([0, 0, 3, 25])))
        clocks[partition, origin] = max(clocks[partition, origin], time_ms)
        values = draw(st.none() | st.tuples(st.integers(0, 9)))
        changes.append(Change(0, partition, draw(st.sampled_from("abc")), values, time_ms))
        stream_times.append(clocks[partition, origin])
        closing.append({p: min(clocks[p, 0], clocks[p, 1]) for p in (0, 1)})
    return changes, stream_times, closing


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(life=lives(), pieces=PIECES)
def test_each_key_says_the_same_for_any_cuts(life: Any, pieces: list[tuple[int, str]]) -> None:
    """Rows and deletions of a key, in order, are those of the reference; no promise of time is broken; all is freed."""
    changes, stream_times, closing = life
    made = driver()
    said: list[pl.DataFrame] = []
    pending: list[pl.DataFrame] = []
    behind, promised = 0, {0: -(2**62), 1: -(2**62)}
    kept, kept_closing = dict(promised), dict[int, int]()
    for first, last, end in played(made, len(changes), pieces):
        if first < behind:
            pending, promised, made.context.closing = [], dict(kept), dict(kept_closing)
        behind = last
        part = list(enumerate(changes))[first:last]
        if part:
            pending.append(made.process(frame(part, stream_times)))
            made.context.closing = closing[last - 1]
        pending.append(made.operator.advance(made.context))
        for row in pl.concat(pending[-2:] if part else pending[-1:]).iter_rows(named=True):
            assert row[STREAM_TIME] >= promised[row[PARTITION]]
        promised |= made.operator.output_closing_ms(made.context.closing)
        if end == "commit":
            made.commit()
            said, pending = [*said, *pending], []
            kept, kept_closing = dict(promised), dict(made.context.closing)
    made.context.closing = {0: END_MS, 1: END_MS}
    output = pl.concat([*said, made.operator.advance(made.context)])
    by_key: dict[Any, list[Any]] = {}
    for row in output.iter_rows(named=True):
        by_key.setdefault((row[PARTITION], row["name"]), []).append((row["size"], row[TIME], row[DELETED]))
    assert by_key == reference(changes, stream_times)
    made.commit()
    assert made.keys() == 0


def test_a_change_renews_a_key() -> None:
    """A key goes `ttl` after its last row, one millisecond after the bound, and not again."""
    made = driver()
    rows = [Change(0, 0, "a", (1,), 0), Change(0, 0, "a", (2,), 8)]
    made.process(frame(list(enumerate(rows)), [0, 8]))
    made.context.closing = {0: 18}
    assert not made.operator.advance(made.context).height
    made.context.closing = {0: 19}
    gone = made.operator.advance(made.context)
    assert gone.select("name", "size", TIME, STREAM_TIME, DELETED).rows() == [("a", None, 18, 18, True)]
    assert not made.operator.advance(made.context).height


def test_a_key_of_each_batch_keeps_no_list_of_its_changes() -> None:
    """What is noted for expiry is by key, not by change."""
    made = driver(ttl_ms=10**9)
    for number in range(200):
        made.process(frame([(0, Change(0, 0, "a", (number,), number))], [number]))
        made.operator.commit()
    assert made.operator.state_bytes() < 50_000


def test_a_hundred_thousand_keys_come_and_go() -> None:
    """In batches, without a Python loop over rows; and nothing is left."""
    made, count = driver(ttl_ms=1_000), 100_000
    names = pl.Series("name", [f"key {number}" for number in range(count)])
    times = pl.Series(TIME, np.arange(count))
    source = pl.Series(SOURCE, [None], SYSTEM_COLUMNS[SOURCE]).new_from_index(0, count)
    rows = pl.DataFrame([names, times, times.alias("size"), times.alias(STREAM_TIME), times.alias(SEQUENCE), source])
    rows = rows.with_columns(pl.lit(0, pl.Int32).alias(PARTITION), pl.lit(value=False).alias(DELETED))
    began, gone = time.process_time(), 0
    for start in range(0, count, 10_000):
        made.process(rows.slice(start, 10_000))
        made.context.closing = {0: start + 10_000}
        gone += made.operator.advance(made.context).height
        made.operator.changes()
        made.operator.commit()
    assert time.process_time() - began < 4.0
    assert made.keys() == count - gone <= 1_001
