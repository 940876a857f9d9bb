"""The compiled state against the one in NumPy: the same calls, the same slots, ids, columns and bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from headrace.engine.aggregates.accumulator import Rows
from headrace.engine.aggregates.moments import DoubleMean
from headrace.engine.aggregates.sums import DoubleSum
from headrace.engine.state import int_keys, key_rows
from headrace.engine.state.arrays import Hashes, Ints, distinct, distinct_by_last
from headrace.engine.state.dictionary import Dictionary
from headrace.engine.state.keyed_slab import KeyedSlab
from headrace.engine.state.slab import Slab
from tests.engine.ways import NATIVE, PLAIN, WAYS, taking

HASH_MASKS = [2**64 - 1, 0xFF << 56, 1, 0]
"""Good hashes; 256 that differ in their shards; two; one."""
KEY = st.tuples(st.integers(0, 2), st.integers(0, 6), st.sampled_from([0, 1, -(2**63), 2**63 - 1]))
ACTION = st.one_of(
    st.tuples(st.just("upsert"), st.lists(KEY, max_size=9)),
    st.tuples(st.just("restored"), st.lists(KEY, max_size=9)),
    st.tuples(st.just("change"), st.lists(KEY, max_size=4)),
    st.tuples(st.just("drop"), st.lists(KEY, max_size=4, unique=True)),
    st.tuples(st.just("forget"), st.integers(0, 2)),
    st.tuples(st.just("commit"), st.none()),
    st.tuples(st.just("rollback"), st.none()),
)


def columns_of(keys: Sequence[tuple[int, int, int]]) -> list[Ints]:
    """Keys as columns."""
    return list(np.array(keys, np.int64).reshape(-1, 3).T)


def act(slab: KeyedSlab, name: str, given_: Any) -> Any:
    """Do one thing; what it says."""
    match name:
        case "upsert" | "restored":
            slots, new = slab.upsert(columns_of(given_), logged=name == "upsert")
            return slots.tolist(), new.tolist()
        case "change":
            slots = slab.find(columns_of(given_))
            slab.touch(slots[slots >= 0])
            slab["value"][slots[slots >= 0]] += 1
            slab["wide"][slots[slots >= 0]] += np.arange(3, dtype=np.int16)
            return slots.tolist()
        case "drop":
            slots = slab.find(columns_of(given_))
            slab.drop(slots[slots >= 0])
            return slots.tolist()
        case "forget":
            held = slab.held()
            slab.forget(held[slab["a"][held] == given_])
        case "commit":
            slab.commit()
        case "rollback":
            slab.rollback()
    return None


def seen(slab: KeyedSlab) -> Any:
    """Everything of a slab that shows."""
    live = slab.live()
    names = ("a", "b", "c", "value", "wide")
    columns = {name: slab[name][live].tolist() for name in names}
    dropped = slab.dropped()
    before = {name: slab.committed(name, dropped).tolist() for name in names}
    return live.tolist(), columns, slab.changed().tolist(), dropped.tolist(), before, len(slab._index)


@pytest.mark.parametrize("mask", HASH_MASKS, ids=["good", "shards", "two", "one"])
@settings(deadline=None, max_examples=60)
@given(actions=st.lists(ACTION, max_size=25))
def test_slots_are_the_same(mask: int, actions: list[tuple[str, Any]]) -> None:
    """Through new keys, removals, restores, aborts and partitions that leave, also where hashes collide."""
    slabs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int_keys, "HASH_MASK", mask)
        _mask_plain_hashes(patch, mask)
        for way in WAYS:
            with taking(way):
                slabs.append(KeyedSlab(("a", "b", "c")))
                slabs[-1].add_column("value", np.int64, fill=5)
                slabs[-1].add_column("wide", np.int16, width=3)
        for name, given_ in actions:
            said = [_on(way, act, slab, name, given_) for way, slab in zip(WAYS, slabs, strict=True)]
            assert said[0] == said[1], name
            shown = [_on(way, seen, slab) for way, slab in zip(WAYS, slabs, strict=True)]
            assert shown[0] == shown[1], name


def _on(way: str, what: Callable[..., Any], *arguments: Any) -> Any:
    with taking(way):
        return what(*arguments)


def _mask_plain_hashes(patch: pytest.MonkeyPatch, mask: int) -> None:
    hash_ints = int_keys.hash_ints

    def masked(columns: Sequence[Ints]) -> Hashes:
        return hash_ints(columns) & np.uint64(mask)

    patch.setattr(int_keys, "hash_ints", masked)


def test_a_hundred_thousand_keys_come_and_go_the_same() -> None:
    """Growth of every shard, several times, with removals and an abort between."""
    slabs, generator = {}, np.random.default_rng(5)
    for way in WAYS:
        with taking(way):
            slabs[way] = KeyedSlab(("a", "b"))
    for turn in range(25):
        keys = [generator.integers(0, 3, 9_000), generator.integers(0, 60_000, 9_000) + 3_000 * turn]
        said = [_on(way, slabs[way].upsert, keys) for way in WAYS]
        for left, right in zip(*said, strict=True):
            assert (left == right).all()
        gone = generator.permutation(slabs[PLAIN].live())[:4_000]
        for way in WAYS:
            with taking(way):
                slabs[way].drop(gone)
                slabs[way].rollback() if turn % 5 == 4 else slabs[way].commit()
        found = [_on(way, slabs[way].find, keys) for way in WAYS]
        assert (found[0] == found[1]).all()


VALUES: dict[pl.DataType, list[Any]] = {
    pl.String(): [None, "", "a", "twelve bytes", "thirteen byte", "ä text that is longer than a view\0"],
    pl.Binary(): [None, b"", b"\0", b"\xff" * 300, b"\0" * 13],
    pl.Int32(): [None, 0, -1, 2**31 - 1],
    pl.UInt64(): [None, 0, 2**64 - 1],
    pl.Boolean(): [None, True, False],
    pl.Enum(["x", "y"]): [None, "x", "y"],
    pl.Time(): [None],
}


@st.composite
def frames(draw: st.DrawFn) -> list[pl.DataFrame]:
    """Batches of rows of one schema."""
    types = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4))
    schema = {f"k{place}": dtype for place, dtype in enumerate(types)}
    row = st.tuples(*(st.sampled_from(VALUES[dtype]) for dtype in types))
    batches = draw(st.lists(st.lists(row, max_size=8), min_size=1, max_size=6))
    return [pl.DataFrame(rows, schema, orient="row") for rows in batches]


@pytest.mark.parametrize("mask", [2**64 - 1, 0], ids=["good", "one hash"])
@settings(deadline=None, max_examples=60)
@given(batches=frames(), data=st.data())
def test_ids_are_the_same(mask: int, batches: list[pl.DataFrame], data: st.DataObject) -> None:
    """For columns of texts, numbers and nulls, cut frames too; also after some were dropped and given again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_rows, "HASH_MASK", mask)
        made = [_on(way, Dictionary, batches[0].schema) for way in WAYS]
    for batch in batches:
        cut = data.draw(st.integers(0, batch.height))
        known = [each.find(batch.slice(cut)).tolist() for each in made]
        assert known[0] == known[1]
        ids = [each.intern(batch.slice(cut)) for each in made]
        assert ids[0].tolist() == ids[1].tolist()
        assert_frame_equal(made[1].take(ids[1]), batch.slice(cut))
        kept = data.draw(st.lists(st.sampled_from(ids[0].tolist()))) if len(ids[0]) else []
        if kept:
            for each in made:
                each.retain(np.array(kept, np.int64))
            taken = [each.take(np.array(kept, np.int64)) for each in made]
            assert_frame_equal(*taken)
        assert len(made[0]) == len(made[1])


DOUBLES = st.one_of(
    st.floats(width=64),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, 1e308, -1e308, 1e16, -1e16, 1.0, math.inf, math.nan]),
    st.integers(-(10**6), 10**6).map(lambda number: number / 8),
)
TERMS = st.lists(st.tuples(st.integers(0, 3), DOUBLES), max_size=12)


@settings(deadline=None, max_examples=150)
@given(batches=st.lists(TERMS, max_size=5), merged=st.booleans())
def test_sums_of_doubles_are_the_same_to_the_last_bit(batches: list[list[tuple[int, float]]], merged: bool) -> None:
    """Limbs, not only results: so that each way can go on with what the other wrote."""
    shown = []
    for way in WAYS:
        with taking(way):
            shown.append(_summed(batches, merged=merged))
    for left, right in zip(*shown, strict=True):
        assert_frame_equal(left, right, check_exact=True)


def _summed(batches: list[list[tuple[int, float]]], *, merged: bool) -> list[pl.DataFrame]:
    slab = Slab()
    made = [DoubleSum(slab, "sum"), DoubleMean(slab, "mean")]
    slots, shown = slab.allocate(4), []
    for terms in batches:
        values = pl.Series([value for _, value in terms], dtype=pl.Float64)
        rows = Rows(np.array([slot for slot, _ in terms], np.int64), np.zeros(len(terms), np.int64), values)
        for each in made:
            each.add(rows)
        if merged:
            made[0].merge(slots[:2], slots[2:])
        for each in made:
            each.settle(slots)
        shown.append(pl.DataFrame([*(part for each in made for part in each.state(slots, whole=True))]))
        shown.append(pl.DataFrame([each.result(slots) for each in made]))
    return shown


def test_many_terms_overflow_no_limb() -> None:
    """A limb that is nearly full is carried alike."""
    full = np.full((2, 4), (1 << 61) + 12_345, np.int64)
    shown = []
    for way in WAYS:
        with taking(way):
            slab = Slab()
            total = DoubleSum(slab, "sum")
            slots = slab.allocate(2)
            slab["sum.sum"][:2] = full
            slab["sum.top"][:2], slab["sum.special"][:2] = 34, 8
            total.settle(slots)
            shown.append((slab["sum.sum"][:2].tolist(), total.result(slots).to_list()))
    assert shown[0] == shown[1]
    assert shown[0][0] != full.tolist()


@settings(deadline=None, max_examples=60)
@given(slots=st.lists(st.integers(0, 200)))
def test_different_slots_come_in_the_same_order(slots: list[int]) -> None:
    """By first and by last appearance."""
    given_ = np.array(slots, np.int64)
    for order in (distinct, distinct_by_last):
        found = [_on(way, order, given_).tolist() for way in WAYS]
        assert found[0] == found[1]


def test_new_keys_that_got_no_slot_leave_no_trace() -> None:
    """Where no memory is left for slots, the index is as before."""
    with taking(NATIVE):
        index = int_keys.make_int_keys()

        def fail(rows: Ints) -> Ints:
            raise MemoryError

        keys = [np.arange(100)]
        with pytest.raises(MemoryError):
            index.upsert(lambda: [np.empty(0, np.int64)], keys, fail)
        assert len(index) == 0
        slots, new = index.upsert(lambda: [np.arange(100)], keys, lambda rows: np.arange(len(rows)))
        assert slots.tolist() == new.tolist() == list(range(100))
