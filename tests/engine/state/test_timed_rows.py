"""Timed rows: a plain list of rows lives the same life, with commits, rollbacks, moves and restores."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.engine.operator import PARTITION
from headrace.engine.state.arrays import Ints
from headrace.engine.state.timed_rows import TimedRows

KEY = {"name": pl.String(), "number": pl.Int64()}
VALUES = {"text": pl.String(), "list": pl.List(pl.Int64()), "pair": pl.Struct({"a": pl.Int32(), "b": pl.String()})}
DUE_AFTER_MS = 5


@dataclass(frozen=True)
class Held:
    """One row as it should be."""

    identity: int
    partition: int
    key: tuple[str | None, int | None]
    time_ms: int
    text: str | None
    seen: int = 0


KEYS = st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([1, None]))
ROWS = st.lists(
    st.tuples(st.integers(0, 1), KEYS, st.integers(-20, 40), st.sampled_from(["x", "yy", None])), min_size=1, max_size=8
)


def to_frame(rows: list[tuple[int, tuple[str | None, int | None], str | None]]) -> pl.DataFrame:
    """Rows as a store takes them; the nested columns follow from the text."""
    data: dict[str, Any] = {
        PARTITION: pl.Series([row[0] for row in rows], dtype=pl.Int32),
        "name": pl.Series([row[1][0] for row in rows], dtype=pl.String),
        "number": pl.Series([row[1][1] for row in rows], dtype=pl.Int64),
        "text": pl.Series([row[2] for row in rows], dtype=pl.String),
        "list": pl.Series([None if row[2] is None else [len(row[2])] for row in rows], dtype=VALUES["list"]),
        "pair": pl.Series([{"a": row[0], "b": row[2]} for row in rows], dtype=VALUES["pair"]),
    }
    return pl.DataFrame(data)


def make() -> TimedRows:
    return TimedRows(KEY, VALUES, ["seen"], bucket_ms=4, due_after_ms=DUE_AFTER_MS)


class TimedRowsMachine(RuleBasedStateMachine):
    """A store beside a list of rows."""

    @initialize()
    def start(self) -> None:
        self.store = make()
        self.now: list[Held] = []
        self.then: list[Held] = []
        self.taken: set[int] = set()
        """Identities whose due time was postponed for good since they came or since the last restore."""
        self.taken_then: set[int] = set()
        self.log: list[tuple[int, pl.DataFrame]] = []

    def slots(self, rows: list[Held]) -> Ints:
        live = self.store.live()
        here = zip(self.store["partition"][live].tolist(), self.store["identity"][live].tolist(), strict=True)
        by_identity = dict(zip(here, live.tolist(), strict=True))
        return np.array([by_identity[row.partition, row.identity] for row in rows], np.int64)

    @rule(rows=ROWS, seen=st.integers(0, 3))
    def append(self, rows: list[tuple[int, Any, int, str | None]], seen: int) -> None:
        """New rows get identities in order, larger than all that live."""
        frame = to_frame([(p, key, text) for p, key, _, text in rows])
        times = np.array([row[2] for row in rows], np.int64)
        slots = self.store.append(frame, times, {"seen": np.full(len(rows), seen)})
        identities = self.store["identity"][slots].tolist()
        assert identities == sorted(set(identities))
        assert all(identities[0] > each.identity for each in self.now)
        for identity, (partition, key, time_ms, text) in zip(identities, rows, strict=True):
            self.now.append(Held(identity, partition, key, time_ms, text, seen))

    @precondition(lambda self: self.now)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """Some rows go."""
        gone = data.draw(st.lists(st.sampled_from(self.now), max_size=8, unique=True))
        self.store.drop(self.slots(gone))
        self.now = [row for row in self.now if row not in gone]

    @precondition(lambda self: self.now)
    @rule(data=st.data())
    def count(self, data: st.DataObject) -> None:
        """Numbers of some rows change."""
        chosen = data.draw(st.lists(st.sampled_from(self.now), max_size=5, unique=True))
        slots = self.slots(chosen)
        self.store.touch(slots)
        self.store["seen"][slots] += 1
        self.now = [replace(row, seen=row.seen + 1) if row in chosen else row for row in self.now]

    @rule(partition=st.integers(0, 1), before_ms=st.integers(-20, 60), keeps=st.booleans())
    def expire(self, partition: int, before_ms: int, keeps: bool) -> None:
        """What is due is all that is due, and is named once."""
        slots = self.store.expired(partition, before_ms)
        due = [
            row
            for row in self.now
            if row.partition == partition and row.time_ms + DUE_AFTER_MS < before_ms and row.identity not in self.taken
        ]
        assert self.store["identity"][slots].tolist() == [row.identity for row in due]
        if keeps:
            self.store.postpone(slots, self.store.time_ms(slots) + 10_000)
            self.taken |= {row.identity for row in due}
        else:
            self.store.drop(slots)
            self.now = [row for row in self.now if row not in due]

    @rule(asked=st.lists(st.tuples(st.integers(0, 1), KEYS, st.integers(-20, 40), st.integers(-2, 30)), max_size=6))
    def find(self, asked: list[tuple[int, Any, int, int]]) -> None:
        """Pairs by time range: row, then time, then arrival; cuts of them give the same."""
        frame = to_frame([(p, key, None) for p, key, _, _ in asked])
        low = np.array([row[2] for row in asked], np.int64)
        high = low + np.array([row[3] for row in asked], np.int64)
        rows, slots = self.store.pairs(frame, low, high)
        found = list(zip(rows.tolist(), self.store["identity"][slots].tolist(), strict=True))
        wanted = [
            (number, held.identity)
            for number, (partition, key, low_ms, span_ms) in enumerate(asked)
            for held in sorted(self.now, key=lambda each: (each.time_ms, each.identity))
            if (held.partition, held.key) == (partition, key) and low_ms <= held.time_ms <= low_ms + span_ms
        ]
        assert found == wanted
        matches = self.store.matches(frame, low, high)
        assert matches.total == len(found)
        pieces = [matches.cut(at, min(at + 3, len(found))) for at in range(0, len(found), 3)]
        again = [pair for rows, slots in pieces for pair in zip(rows.tolist(), slots.tolist(), strict=True)]
        assert again == list(zip(rows.tolist(), slots.tolist(), strict=True))

    @rule(asked=st.lists(st.tuples(st.integers(0, 1), KEYS), max_size=4))
    def rows_of_keys(self, asked: list[tuple[int, Any]]) -> None:
        """All rows of keys, each once."""
        slots = self.store.rows_of(to_frame([(p, key, None) for p, key in asked]))
        found = self.store["identity"][slots].tolist()
        assert sorted(found) == sorted(row.identity for row in self.now if (row.partition, row.key) in asked)

    @rule()
    def commit(self) -> None:
        """Changes go to the log."""
        first, second = self.store.changes(), self.store.changes()
        assert [(p, frame.rows()) for p, frame in first] == [(p, frame.rows()) for p, frame in second]
        self.log.extend(first)
        self.store.commit()
        self.then, self.taken_then = list(self.now), set(self.taken)

    @rule()
    def rollback(self) -> None:
        """Back to the last commit; what was postponed since is due again."""
        self.store.rollback()
        self.now, self.taken = list(self.then), set(self.taken_then)

    @rule(partition=st.integers(0, 1), from_snapshot=st.booleans())
    def move(self, partition: int, from_snapshot: bool) -> None:
        """A partition leaves and is restored from the log, or from a snapshot."""
        self.commit()
        if from_snapshot:
            self.log = [each for each in self.log if each[0] != partition]
            self.log.extend((partition, frame) for frame in self.store.snapshot(partition, 3))
        self.store.forget(partition)
        assert partition not in self.store.counts()
        self.restore_from_log(partition)

    @rule()
    def restart(self) -> None:
        """A new store from the log."""
        self.commit()
        self.store = make()
        for partition in (0, 1):
            self.restore_from_log(partition)

    def restore_from_log(self, partition: int) -> None:
        for number, frame in self.log:
            if number == partition:
                self.store.apply(partition, frame)
        self.store.commit()
        again = {row.identity for row in self.now if row.partition == partition}
        self.taken -= again
        self.taken_then = set(self.taken)

    @invariant()
    def agrees(self) -> None:
        """Rows, keys, values, numbers and counts are those of the list."""
        if not hasattr(self, "store"):
            return
        slots = self.slots(self.now)
        assert len(self.store) == len(self.now)
        assert self.store.time_ms(slots).tolist() == [row.time_ms for row in self.now]
        assert self.store["seen"][slots].tolist() == [row.seen for row in self.now]
        assert self.store.keys(slots).rows() == [row.key for row in self.now]
        wanted = to_frame([(row.partition, row.key, row.text) for row in self.now]).select(*VALUES)
        assert self.store.values(slots).rows() == wanted.rows()
        partitions = [row.partition for row in self.now]
        assert self.store.counts() == {p: partitions.count(p) for p in set(partitions)}


TimedRowsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_timed_rows_live_the_life_of_a_list = TimedRowsMachine.TestCase


def test_absent_slots_have_null_values() -> None:
    """A slot of -1 stands for no row, also in a store without rows."""
    store = make()
    assert store.values(np.array([-1])).rows() == [(None, None, None)]
    (slot,) = store.append(to_frame([(0, ("a", 1), "x")]), np.array([1]))
    assert store.values(np.array([-1, slot]))["text"].to_list() == [None, "x"]


def test_state_is_freed_when_rows_expire() -> None:
    """Rows that come and go for long leave no garbage behind: slots, lists, rows and keys stay in proportion."""
    store = TimedRows({"k": pl.String()}, {"v": pl.String()}, bucket_ms=10)
    sizes = []
    for now_ms in range(0, 400_000, 4_000):
        names = pl.Series("k", np.arange(now_ms, now_ms + 2_000)).cast(pl.String)
        hot = pl.Series("k", ["hot"]).new_from_index(0, 2_000)
        frame = pl.DataFrame({"k": pl.concat([names, hot]), "v": pl.concat([names, hot])})
        store.append(frame.with_columns(pl.lit(0, pl.Int32).alias(PARTITION)), np.arange(now_ms, now_ms + 4_000))
        store.drop(store.expired(0, now_ms - 4_000))
        store.commit()
        sizes.append(store.bytes)
    assert len(store) <= 12_000
    assert sizes[-1] < 2 * max(sizes[:30])
    store.drop(store.expired(0, 10**9))
    store.commit()
    assert store.counts() == {}


def test_a_hundred_thousand_rows_in_well_under_two_seconds() -> None:
    """Adding, finding and expiring are column operations."""
    count = 100_000
    random = np.random.default_rng(1)
    store = TimedRows({"k": pl.Int64()}, {"v": pl.Int64()}, bucket_ms=100)
    keys = random.integers(0, 5_000, count)
    times = np.sort(random.integers(0, 100_000, count))
    started = time.process_time()
    for at in range(0, count, 10_000):
        piece = slice(at, at + 10_000)
        frame = pl.DataFrame({PARTITION: pl.zeros(10_000, pl.Int32, eager=True), "k": keys[piece], "v": keys[piece]})
        rows, slots = store.pairs(frame, times[piece] - 2_000, times[piece])
        assert (store.values(slots)["v"].to_numpy() == keys[piece][rows]).all()
        store.append(frame, times[piece])
        store.changes()
        store.drop(store.expired(0, int(times[at]) - 2_000))
        store.commit()
    assert time.process_time() - started < 2.0


def test_equal_identities_of_two_partitions_are_not_mixed_up() -> None:
    """Partitions come from different processes; a slot may go from one to the other with the same identity."""
    logs = {}
    for partition in (0, 1):
        store = make()
        store.append(to_frame([(partition, ("a", 1), "x"), (partition, ("a", 1), "y")]), np.array([1, 2]))
        logs[partition] = list(store.snapshot(partition, 10))
    store = make()
    for frame in logs[0]:
        store.apply(0, frame)
    first = store.live()[store["identity"][store.live()] == 0]
    store.drop(first)
    store.commit()
    for frame in logs[1]:
        store.apply(1, frame)
    assert first[0] in store.live(1), "the slot is given again"
    asked = to_frame([(0, ("a", 1), None)])
    _, slots = store.pairs(asked, np.array([0]), np.array([9]))
    assert store.values(slots)["text"].to_list() == ["y"]
