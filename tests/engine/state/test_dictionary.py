"""Dictionary, group keys, value codes and row store: rows and values of any type as numbers, and back."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal

from headrace.engine.state import key_rows
from headrace.engine.state.dictionary import RETAIN_ROWS_MIN, Dictionary
from headrace.engine.state.group_keys import GroupKeys
from headrace.engine.state.row_store import RowStore
from headrace.engine.state.value_codes import ValueCodes

pytestmark = pytest.mark.usefixtures("each_way")

UTC = datetime.UTC
VALUES: dict[str, tuple[pl.DataType, list[Any]]] = {
    "boolean": (pl.Boolean(), [True, False]),
    "int": (pl.Int32(), [0, -1, 2**31 - 1, -(2**31)]),
    "long": (pl.Int64(), [0, -1, 2**63 - 1, -(2**63)]),
    "float": (pl.Float32(), [0.5, -1.0, math.inf, math.nan]),
    "double": (pl.Float64(), [0.1, 5e-324, -math.inf, math.nan]),
    "string": (pl.String(), ["", "a", "a text that is too long to be inlined", "ä\0b"]),
    "bytes": (pl.Binary(), [b"", b"\0", b"bytes that are too long to be inlined"]),
    "enum": (pl.Enum(["B", "A"]), ["A", "B"]),
    "decimal": (pl.Decimal(38, 2), [Decimal("0.00"), Decimal("-0.01"), Decimal(10) ** 35]),
    "date": (pl.Date(), [datetime.date(1, 1, 1), datetime.date(2013, 6, 1)]),
    "time": (pl.Time(), [datetime.time(0), datetime.time(23, 59, 59, 999_999)]),
    "timestamp": (
        pl.Datetime("us", "UTC"),
        [datetime.datetime(1969, 1, 1, tzinfo=UTC), datetime.datetime(2013, 6, 1, tzinfo=UTC)],
    ),
    "local": (pl.Datetime("ms"), [datetime.datetime(2013, 6, 1)]),  # noqa: DTZ001
    "list": (pl.List(pl.Int64()), [[], [1], [1, None], [1, 2]]),
    "record": (pl.Struct({"a": pl.String(), "b": pl.Float64()}), [{"a": "x", "b": 1.0}, {"a": None, "b": None}]),
}


@pytest.mark.parametrize("kind", list(VALUES))
def test_values_of_every_type_come_back_from_their_codes(kind: str) -> None:
    """Different values have different codes, equal ones equal codes, whichever call they came in."""
    dtype, values = VALUES[kind]
    codes = ValueCodes(dtype)
    first = codes.encode(pl.Series(values, dtype=dtype))
    again = codes.encode(pl.Series([*values[::-1], *values], dtype=dtype))
    assert len(set(first.tolist())) == len(values)
    assert again.tolist() == [*first[::-1].tolist(), *first.tolist()]
    assert_series_equal(codes.decode(again), pl.Series([*values[::-1], *values], dtype=dtype), check_names=False)
    assert codes.decode(again[:0]).dtype == dtype


@pytest.mark.parametrize("dtype", [pl.Float32(), pl.Float64()])
def test_zeros_are_one_value_and_so_are_nans(dtype: pl.DataType) -> None:
    """Their codes are equal, so they count as one and compare as one."""
    codes = ValueCodes(dtype).encode(pl.Series([0.0, -0.0, math.nan, -math.nan], dtype=dtype))
    assert codes[0] == codes[1]
    assert codes[2] == codes[3]
    assert codes[0] != codes[2]


ROW = st.fixed_dictionaries(
    {
        "a": st.sampled_from([None, "", "x", "y", "a text that is too long to be inlined"]),
        "b": st.sampled_from([None, 0, 1, 2**62]),
        "c": st.sampled_from([None, 0.0, -0.0, math.nan, 1.5]),
    }
)
SCHEMA = {"a": pl.String(), "b": pl.Int64(), "c": pl.Float64()}


def canonical(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row that equals what equals it."""
    number = row["c"]
    plain = number if number is None else "nan" if math.isnan(number) else number + 0.0
    return row["a"], row["b"], plain


@settings(deadline=None, max_examples=60)
@given(batches=st.lists(st.lists(ROW, max_size=8), max_size=5))
def test_equal_rows_have_one_number_and_it_gives_them_back(batches: list[list[dict[str, Any]]]) -> None:
    """Over any batches, nulls and odd floats included; `find` knows what was added and nothing else."""
    dictionary, model = Dictionary(SCHEMA), dict[Any, int]()
    for rows in batches:
        frame = pl.DataFrame(rows, SCHEMA)
        known = dictionary.find(frame).tolist()
        assert known == [model.get(canonical(row), -1) for row in rows]
        for row, number in zip(rows, dictionary.intern(frame).tolist(), strict=True):
            assert model.setdefault(canonical(row), number) == number
    assert len(set(model.values())) == len(model) == len(dictionary)
    back = dictionary.take(np.array(list(model.values()), np.int64))
    assert [canonical(row) for row in back.iter_rows(named=True)] == list(model)


@pytest.mark.parametrize("kind", list(VALUES))
def test_different_rows_with_one_hash_stay_apart(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash is only a hint: with a hash that is always the same, numbers are as ever, for any type."""
    monkeypatch.setattr(key_rows, "hash_frame", lambda frame: np.full(frame.height, 7, np.uint64))
    monkeypatch.setattr(key_rows, "HASH_MASK", 0)
    dtype, values = VALUES[kind]
    dictionary = Dictionary({"k": dtype, "n": pl.Int64()})
    frame = pl.DataFrame({"k": pl.Series([*values, None, *values], dtype=dtype), "n": 1}, {"k": dtype, "n": pl.Int64})
    numbers = dictionary.intern(frame).tolist()
    count = len(values)
    assert len(set(numbers[: count + 1])) == count + 1
    assert numbers[count + 1 :] == numbers[:count]
    assert dictionary.intern(frame).tolist() == numbers
    assert_frame_equal(dictionary.take(np.array(numbers)), frame)


def test_numbers_that_are_kept_stay_the_same_when_others_go() -> None:
    """`retain` frees rows nobody refers to; their numbers are given to new rows, never those still in use."""
    dictionary = Dictionary({"k": pl.String()})
    frame = pl.DataFrame({"k": [f"key-{n}" for n in range(RETAIN_ROWS_MIN)]})
    numbers = dictionary.intern(frame)
    assert dictionary.wants_retain
    kept = numbers[::8]
    dictionary.retain(np.repeat(kept, 2))
    assert not dictionary.wants_retain
    assert len(dictionary) == len(kept)
    assert dictionary.take(kept)["k"].to_list() == frame["k"].gather_every(8).to_list()
    fresh = dictionary.intern(pl.DataFrame({"k": [f"new-{n}" for n in range(100)]}))
    assert not set(fresh.tolist()) & set(kept.tolist())
    assert set(fresh.tolist()) < set(numbers.tolist())
    found = dictionary.find(frame)
    assert (found[::8] == kept).all()
    assert np.count_nonzero(found >= 0) == len(kept)


def test_memory_of_dropped_rows_comes_back() -> None:
    """A dictionary through which a million bytes of keys pass holds only those still used."""
    dictionary = Dictionary({"k": pl.String()})
    most = 0
    for generation in range(20):
        keys = pl.DataFrame({"k": [f"{generation}-{n}-{'x' * 40}" for n in range(2_000)]})
        numbers = dictionary.intern(keys)
        if dictionary.wants_retain:
            dictionary.retain(numbers)
        most = max(most, dictionary.bytes)
    assert len(dictionary) <= 2 * RETAIN_ROWS_MIN
    assert most < 5 * dictionary.bytes


def test_group_keys_without_any_value_are_no_keys() -> None:
    """All columns null: no group. One null among others is an ordinary value."""
    keys = GroupKeys({"a": pl.String(), "b": pl.Int64()})
    frame = pl.DataFrame({"a": ["x", None, None], "b": [None, 1, None]}, {"a": pl.String(), "b": pl.Int64()})
    assert keys.without_key(frame).tolist() == [False, False, True]
    assert len(set(keys.intern(frame).tolist())) == 3


def test_group_keys_without_columns_have_one_group() -> None:
    """Every row is in it; it has no columns to show, in memory and from the log."""
    keys = GroupKeys({})
    frame = pl.DataFrame({"other": [1, 2]})
    assert keys.intern(frame).tolist() == keys.intern_restored(frame).tolist() == [0, 0]
    assert not keys.without_key(frame).any()
    assert keys.take(np.zeros(2, np.int64)).width == 0


def test_group_keys_show_one_zero() -> None:
    """Whichever zero came first, output has the positive one."""
    keys = GroupKeys({"gate": pl.Float64()})
    shown = keys.take(keys.intern(pl.DataFrame({"gate": [-0.0, 0.0]})))["gate"].to_list()
    assert [str(value) for value in shown] == ["0.0", "0.0"]


def test_group_keys_from_the_log_are_those_from_the_input() -> None:
    """Types that Arrow widens (enums, short integers) find their group again."""
    schema: dict[str, pl.DataType] = {"carrier": pl.Enum(["AA", "UA"]), "day": pl.Int32()}
    keys = GroupKeys(schema)
    frame = pl.DataFrame({"carrier": ["UA", "AA"], "day": [1, None]}, schema)
    numbers = keys.intern(frame)
    widened = frame.with_columns(pl.col("carrier").cast(pl.String), pl.col("day").cast(pl.Int64))
    assert keys.intern_restored(widened).tolist() == numbers.tolist()


@settings(deadline=None, max_examples=40)
@given(batches=st.lists(st.lists(ROW, max_size=12), max_size=12), data=st.data())
def test_rows_come_back_by_number(batches: list[list[dict[str, Any]]], data: st.DataObject) -> None:
    """Through merging of chunks, in any order, with repeats; `keep` renumbers; equality is by value."""
    store, frames = RowStore(SCHEMA), [pl.DataFrame(rows, SCHEMA) for rows in batches]
    for frame in frames:
        store.append(frame)
    everything = pl.concat([pl.DataFrame(schema=SCHEMA), *frames])
    assert len(store) == everything.height
    chosen = np.array(data.draw(st.lists(st.integers(0, max(0, everything.height - 1)))), np.int64)
    if not everything.height:
        return
    wanted = everything.select(pl.all().gather(chosen))
    assert_frame_equal(store.take(chosen), wanted)
    assert store.equal(chosen, wanted).all()
    store.keep(chosen)
    assert_frame_equal(store.take(np.arange(len(chosen))), wanted)


def test_stored_rows_do_not_hold_on_to_their_batch() -> None:
    """One row of a large batch costs one row."""
    batch = pl.DataFrame({"k": [f"{n}-{'x' * 1_000}" for n in range(1_000)]})
    store = RowStore({"k": pl.String()})
    store.append(batch.slice(500, 1))
    assert store.bytes < 10_000
