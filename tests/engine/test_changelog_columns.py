"""Columns of changes: told shortly, and back as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from headrace.engine.changelog_arrow import WrittenFrame
from headrace.engine.changelog_columns import unpacked

COLUMNS: dict[str, tuple[pl.DataType, list[Any]]] = {
    "long": (pl.Int64(), [0, -(2**63), 2**63 - 1]),
    "small": (pl.Int16(), [0, -1]),
    "unsigned": (pl.UInt64(), [0, 2**64 - 1]),
    "flag": (pl.Boolean(), [True, False]),
    "nullable": (pl.Int64(), [None, 1]),
    "double": (pl.Float64(), [0.0, -0.0, 1.5]),
    "text": (pl.String(), ["", "x", None]),
    "arrays": (pl.Array(pl.Int64(), 3), [[0, 0, 0], [0, 1, 0], [0, -1, 2**63 - 1]]),
    "lists": (pl.List(pl.Int64()), [[], [1]]),
}


def read(written: WrittenFrame, first: int, rows: int) -> pl.DataFrame:
    """A run as it comes out of a message."""
    columns = pl.from_arrow(pa.Table.from_batches([written.run(first, rows, {})]))
    assert isinstance(columns, pl.DataFrame)
    return unpacked(columns, written.description, rows)


@settings(deadline=None, max_examples=80)
@given(data=st.data(), rows=st.integers(0, 6), names=st.lists(st.sampled_from(list(COLUMNS)), unique=True, min_size=1))
def test_every_frame_comes_back(data: st.DataObject, rows: int, names: list[str]) -> None:
    """Types, nulls, order and values, whatever is the same in all rows."""
    values = {name: [data.draw(st.sampled_from(COLUMNS[name][1])) for _ in range(rows)] for name in names}
    frame = pl.DataFrame(values, {name: COLUMNS[name][0] for name in names})
    written = WrittenFrame.of(frame)
    assert_frame_equal(read(written, 0, rows), frame)
    first = data.draw(st.integers(0, rows))
    assert_frame_equal(read(written, first, rows - first), frame.slice(first))


def test_what_is_the_same_in_all_rows_is_not_written() -> None:
    """Nor are the places of arrays that are."""
    sums = np.zeros((1_000, 4), np.int64)
    sums[:, 2] = np.arange(1_000)
    frame = pl.DataFrame({"start": np.full(1_000, 60_000), "sum": sums, "gone": np.zeros(1_000, np.bool_)})
    (array,) = WrittenFrame.of(frame).arrays
    assert array.to_pylist() == list(range(1_000))


@pytest.mark.parametrize("description", [[["x", "plain"], ["y", "plain"]], [["x", "odd"]], [["x", "same", "Text", 1]]])
def test_a_description_that_does_not_fit_is_told(description: list[Any]) -> None:
    """Damage that a checksum does not see: another format."""
    with pytest.raises((ValueError, KeyError)):
        unpacked(pl.DataFrame({"0": [1]}), description, 1)
