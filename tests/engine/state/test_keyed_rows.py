"""`KeyedRows` against a dict: any calls, commits and rollbacks, and a copy rebuilt from changes and snapshots."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.operator import PARTITION
from headrace.engine.state import keyed_rows
from headrace.engine.state.keyed_rows import KeyedRows

pytestmark = pytest.mark.usefixtures("each_way")

KEY = {"name": pl.String(), "number": pl.Int64()}
VALUES = {"text": pl.String(), "parts": pl.List(pl.Int64())}

Key = tuple[int, str | None, int]
Model = dict[Key, tuple[int, tuple[Any, ...] | None]]

KEYS = st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", None]), st.integers(0, 2))
ROWS = st.tuples(
    st.one_of(st.none(), st.text(max_size=3)), st.one_of(st.none(), st.lists(st.integers(0, 9), max_size=3))
)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.dictionaries(KEYS, ROWS, max_size=6)),
        st.tuples(st.just("clear"), st.sets(KEYS, max_size=3)),
        st.tuples(st.just("add"), st.dictionaries(KEYS, st.integers(1, 5), max_size=6)),
        st.tuples(st.just("drop"), st.sets(KEYS, max_size=4)),
        st.sampled_from([("commit", None), ("rollback", None), ("snapshot", None), ("forget", 1)]),
    ),
    max_size=25,
)


def made() -> KeyedRows:
    return KeyedRows(KEY, VALUES, ["time_ms"])


def key_frame(keys: list[Key]) -> pl.DataFrame:
    columns = {PARTITION: pl.Int32(), **KEY}
    return pl.DataFrame(keys, schema=columns, orient="row")


def held(store: KeyedRows) -> Model:
    slots = store.live()
    keys, values = store.keys(slots), store.values(slots)
    filled = store.has_values(slots)
    return {
        (int(partition), *key): (int(time_ms), row if has else None)
        for partition, key, time_ms, row, has in zip(
            store["partition"][slots], keys.rows(), store["time_ms"][slots], values.rows(), filled, strict=True
        )
    }


class Pair:
    """A store, its model, and a copy that hears of changes only."""

    def __init__(self) -> None:
        self.store, self.copy = made(), made()
        self.model: Model = {}
        self.committed: Model = {}

    def put(self, rows: dict[Key, tuple[Any, ...]]) -> None:
        if not rows:
            return
        frame = key_frame(list(rows)).hstack(pl.DataFrame(list(rows.values()), schema=VALUES, orient="row"))
        slots, _ = self.store.upsert(frame)
        self.store.set_values(slots, frame)
        for key, row in rows.items():
            self.model[key] = (self.model.get(key, (0, None))[0], row)

    def add(self, amounts: dict[Key, int]) -> None:
        if not amounts:
            return
        slots, _ = self.store.upsert(key_frame(list(amounts)))
        self.store.touch(slots)
        self.store["time_ms"][slots] += np.array(list(amounts.values()))
        for key, amount in amounts.items():
            number, row = self.model.get(key, (0, None))
            self.model[key] = (number + amount, row)

    def known(self, keys: set[Key]) -> list[Key]:
        return [key for key in sorted(keys, key=str) if key in self.model]

    def clear(self, keys: set[Key]) -> None:
        known = self.known(keys)
        self.store.clear_values(self.store.find(key_frame(known)))
        self.model.update({key: (self.model[key][0], None) for key in known})

    def drop(self, keys: set[Key]) -> None:
        known = self.known(keys)
        self.store.drop(self.store.find(key_frame(known)))
        for key in known:
            del self.model[key]

    def commit(self, _: None) -> None:
        for partition, frame in self.store.changes():
            self.copy.apply(partition, frame)
        self.copy.commit()
        self.store.commit()
        self.committed = dict(self.model)
        assert held(self.copy) == self.committed

    def rollback(self, _: None) -> None:
        self.store.rollback()
        self.model = dict(self.committed)

    def snapshot(self, _: None) -> None:
        rebuilt = made()
        for partition in range(3):
            for frame in self.store.snapshot(partition, 2):
                rebuilt.apply(partition, frame)
        rebuilt.commit()
        assert held(rebuilt) == self.model

    def forget(self, partition: int) -> None:
        self.commit(None)
        for each in (self.store, self.copy):
            each.forget(partition)
        self.model = {key: row for key, row in self.model.items() if key[0] != partition}
        self.committed = dict(self.model)


@given(CALLS)
@settings(max_examples=60, deadline=None)
def test_any_calls_give_what_a_dict_holds(calls: list[tuple[str, Any]]) -> None:
    """Values, numbers, keys with nulls, undo, changes, snapshots and moves of partitions."""
    pair = Pair()
    for name, argument in calls:
        getattr(pair, name)(argument)
        assert held(pair.store) == pair.model
        assert sum(pair.store.counts().values()) == len(pair.model) == len(pair.store)
    pair.commit(None)


def test_replaced_rows_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were replaced many times over do not pile up."""
    monkeypatch.setattr(keyed_rows, "GARBAGE_ROWS_MIN", 100)
    pair = Pair()
    for turn in range(40):
        pair.put({(0, "a", n): (f"{turn} {n}" * 20, [turn]) for n in range(20)})
        pair.commit(None)
    assert pair.store.bytes < 100_000
    assert held(pair.store) == pair.model


def test_dropped_keys_are_freed() -> None:
    """A store that new keys pass through stays small."""
    store = made()
    for turn in range(30):
        frame = key_frame([(0, f"{turn} {n}", n) for n in range(1_000)])
        slots, _ = store.upsert(frame)
        store.commit()
        store.drop(slots)
        store.commit()
    assert len(store) == 0
    assert store.bytes < 2_000_000


def test_values_of_no_slot_are_null() -> None:
    """-1 stands for a key that is not there."""
    store = made()
    assert store.values(np.array([-1, -1])).to_dicts() == [{"text": None, "parts": None}] * 2
