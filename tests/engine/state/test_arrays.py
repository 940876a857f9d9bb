"""Array kernels: hashes, ranges, runs."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.state.arrays import (
    distinct,
    hash_frame,
    hash_ints,
    next_power_of_two,
    ranges,
    starts_of_runs,
)

INTS = st.integers(-(2**63), 2**63 - 1)


def test_hashes_of_integers_differ_by_value_and_by_column() -> None:
    """Neighbouring pairs have no hash in common, and (a, b) is not (b, a)."""
    left, right = np.divmod(np.arange(250_000, dtype=np.int64), 500)
    assert len(np.unique(hash_ints([left, right]))) == 250_000
    assert hash_ints([np.array([1]), np.array([2])]) != hash_ints([np.array([2]), np.array([1])])


def test_hashes_fill_all_shards_evenly() -> None:
    """The top bits, which choose the shard, spread small numbers: no shard has half more than its share."""
    shards = np.bincount((hash_ints([np.arange(64_000)]) >> np.uint64(58)).astype(np.int64), minlength=64)
    assert shards.max() < 1_500
    assert shards.min() > 500


def test_rows_that_are_equal_have_equal_hashes() -> None:
    """Nulls, NaNs of any bits and both zeros: what is one key is one hash, in whichever batch it comes."""
    odd_nan = np.array([0x7FF8_0000_0000_1234], np.int64).view(np.float64)[0]
    frame = pl.DataFrame({"a": [math.nan, odd_nan, -math.nan, 0.0, -0.0, None, None], "b": ["x"] * 7})
    hashes = hash_frame(frame).tolist()
    assert len(set(hashes[:3])) == len(set(hashes[3:5])) == len(set(hashes[5:])) == 1
    assert len(set(hashes)) == 3
    assert hashes == [hash_frame(frame.slice(row, 1))[0] for row in range(7)]


def test_hashes_of_rows_do_not_depend_on_how_text_is_stored() -> None:
    """Short and long text, sliced, gathered and chunked, has the hash of a fresh copy."""
    values = ["", "short", "a text that is too long to be inlined", None] * 3
    fresh = hash_frame(pl.DataFrame({"k": values}))
    chunked = pl.concat([pl.DataFrame({"k": values[:5]}), pl.DataFrame({"k": values[5:]})], rechunk=False)
    assert hash_frame(chunked).tolist() == fresh.tolist()
    gathered = pl.DataFrame({"k": ["other", *values]}).select(pl.all().gather(np.arange(1, 13)))
    assert hash_frame(gathered).tolist() == fresh.tolist()


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 5)), max_size=20))
def test_ranges_are_the_positions_one_after_the_other(pairs: list[tuple[int, int]]) -> None:
    """Empty ranges and repeated starts included."""
    starts = np.array([start for start, _ in pairs], np.int64)
    lengths = np.array([length for _, length in pairs], np.int64)
    wanted = [at for start, length in pairs for at in range(start, start + length)]
    assert ranges(starts, lengths).tolist() == wanted


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=20))
def test_runs_start_where_any_column_changes(pairs: list[tuple[int, int]]) -> None:
    """As said row by row; nothing starts where there is nothing."""
    columns = np.array(pairs, np.int64).reshape(-1, 2).T
    wanted = [row == 0 or pairs[row] != pairs[row - 1] for row in range(len(pairs))]
    assert starts_of_runs(*columns).tolist() == wanted


@given(st.lists(st.integers(0, 9), max_size=30))
def test_distinct_keeps_the_order_of_first_appearance(values: list[int]) -> None:
    """As a dict does."""
    assert distinct(np.array(values, np.int64)).tolist() == list(dict.fromkeys(values))


@given(st.lists(st.integers(1, 2**40), min_size=1))
def test_the_next_power_of_two_is_enough_and_not_twice_enough(values: list[int]) -> None:
    """Also at the powers themselves, where logarithms round."""
    values += [2**power for power in range(41)]
    for value, power in zip(values, next_power_of_two(np.array(values, np.int64)).tolist(), strict=True):
        assert value <= power < 2 * value
        assert power & (power - 1) == 0
