"""Moves with frames without the query engine: what they give is what Polars gives."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.row_picks import FEW_ROWS_MAX, as_dtype, columns_of, frame_of, partitions_of_rows, picked

FRAME = pl.DataFrame({"a": [1, 2], "b": ["x", None], "c": [True, False]})


@pytest.mark.parametrize("names", [["a", "b", "c"], ["c", "a"], ["b"], []])
def test_columns_are_those_that_polars_picks(names: list[str]) -> None:
    """In the order asked for; of no names nothing; the frame itself where there is nothing to do."""
    picked = columns_of(FRAME, names)
    assert picked.equals(FRAME.select(names))
    assert picked.columns == names
    assert (picked is FRAME) == (names == FRAME.columns)


@pytest.mark.parametrize("names", [["a", "b", "c"], ["b"]])
def test_a_frame_of_columns_is_that_of_polars(names: list[str]) -> None:
    """One column or several, types and nulls as they are."""
    columns = [FRAME[name] for name in names]
    made = frame_of(columns)
    assert made.equals(pl.DataFrame(columns))
    assert made.schema == pl.DataFrame(columns).schema


def test_columns_of_different_lengths_or_equal_names_are_no_frame() -> None:
    """Our own mistakes are seen."""
    with pytest.raises(pl.exceptions.ShapeError):
        frame_of([FRAME["a"], FRAME["b"].head(1)])
    with pytest.raises(pl.exceptions.DuplicateError):
        frame_of([FRAME["a"], FRAME["a"]])


def test_a_type_is_only_changed_where_it_differs() -> None:
    """The very series where it has the type; a value that does not fit raises."""
    series = FRAME["a"]
    assert as_dtype(series, pl.Int64()) is series
    assert as_dtype(FRAME["a"], pl.Int8()).dtype == pl.Int8()
    with pytest.raises(pl.exceptions.InvalidOperationError):
        as_dtype(pl.Series([1000]), pl.Int8())


@settings(max_examples=100, deadline=None)
@given(partitions=st.lists(st.integers(0, 9), max_size=20))
def test_partitions_are_told_once_and_ascending(partitions: list[int]) -> None:
    """Of no row, of one, and of rows in any order."""
    assert partitions_of_rows(np.array(partitions, np.int32)) == sorted(set(partitions))


@given(st.lists(st.none() | st.booleans(), max_size=12), st.sampled_from([1, FEW_ROWS_MAX]))
@settings(deadline=None)
def test_picked_rows_are_those_of_a_filter(wanted: list[bool | None], times: int) -> None:
    """Few and many, with structs, lists and nulls in them; a predicate that is null takes no row."""
    count = len(wanted) * times
    frame = pl.DataFrame(
        {
            "number": pl.Series(range(count), dtype=pl.Int64),
            "text": pl.Series([None if n % 5 == 3 else f"text {n % 100}" for n in range(count)], dtype=pl.String),
            "wanted": pl.Series(wanted * times, dtype=pl.Boolean),
        }
    ).with_columns(pl.struct("number", "text").alias("both"), pl.concat_list("number").alias("list"))
    found = picked(frame, pl.col("wanted"))
    assert found.equals(frame.filter(pl.col("wanted")))
    assert found.schema == frame.schema


@pytest.mark.parametrize("predicate", [pl.lit(value=True), pl.lit(value=False), pl.col("a").max() > 1])
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_one_answer_for_all_rows_is_that_of_a_filter(predicate: pl.Expr, rows: int) -> None:
    """What does not look at rows says the same of each."""
    frame = FRAME.head(rows)
    assert picked(frame, predicate).equals(frame.filter(predicate))


def test_what_is_no_predicate_is_refused_as_by_a_filter() -> None:
    """By Polars itself."""
    with pytest.raises(pl.exceptions.PolarsError):
        picked(FRAME, pl.col("a"))
