"""Texts in Arrow's plain form."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.state.text_columns import plain_texts
from tests.engine.ways import NATIVE, PLAIN, taking

TEXTS = ["", "a", "twelve bytes", "thirteen byte", "ä text that is longer than a view\0", "x" * 300]


@settings(deadline=None, max_examples=80)
@given(
    texts=st.lists(st.sampled_from(TEXTS), max_size=12),
    first=st.integers(0, 12),
    pieces=st.booleans(),
    is_binary=st.booleans(),
)
def test_texts_are_the_same(texts: list[str], first: int, pieces: bool, is_binary: bool) -> None:
    """Short and long ones, of a run of a column, of a column in pieces; as bytes too."""
    series = pl.Series("t", texts, pl.String())
    series = pl.concat([series[: len(texts) // 2], series[len(texts) // 2 :]], rechunk=False) if pieces else series
    series = series.cast(pl.Binary()) if is_binary else series
    with taking(NATIVE):
        plain = plain_texts(series.slice(first))
    assert plain is not None
    plain.validate(full=True)
    assert plain.to_pylist() == series.slice(first).to_list()


@pytest.mark.parametrize("series", [pl.Series(["a", None]), pl.Series([1, 2])], ids=["nulls", "numbers"])
def test_other_columns_are_left_to_others(series: pl.Series) -> None:
    """Nulls have no plain form here, numbers are no texts."""
    with taking(NATIVE):
        assert plain_texts(series) is None


def test_without_the_compiled_part_there_is_no_answer() -> None:
    """The caller goes its own way."""
    with taking(PLAIN):
        assert plain_texts(pl.Series(["a"])) is None
