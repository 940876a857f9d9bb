"""What connectors are given to work with: batches, and the search for the rows that a target refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.egress.sdk import EgressBatch, Operation, isolate


class RowsRefused(Exception):
    """A target that only says that some row is bad."""


def batch(rows: list[tuple[int, str]], deletes: set[int] = frozenset()) -> EgressBatch:  # type: ignore[assignment]
    count = len(rows)
    operations = [Operation.DELETE if index in deletes else Operation.UPSERT for index in range(count)]
    return EgressBatch(
        rows=pa.table({"id": [row[0] for row in rows], "text": [row[1] for row in rows]}),
        key=("id",),
        operation=np.array(operations, np.int8),
        partition=np.zeros(count, np.int32),
        offset=np.arange(count, dtype=np.int64),
        timestamp_ms=np.zeros(count, np.int64),
        version=np.arange(count, dtype=np.int64),
    )


def test_latest_keeps_the_last_row_of_each_key() -> None:
    """Each key once, with its last row, deletions as well, in the order of those last rows."""
    latest = batch([(1, "a"), (2, "b"), (1, "c"), (3, "d"), (2, "")], deletes={4}).latest()
    assert latest.rows.to_pydict() == {"id": [1, 3, 2], "text": ["c", "d", ""]}
    assert latest.offset.tolist() == [2, 3, 4]
    assert latest.deletes().tolist() == [False, False, True]


def test_concat_keeps_order_and_places() -> None:
    """Batches one behind the other; a single one is itself."""
    first, second = batch([(1, "a")]), batch([(2, "b"), (3, "c")], deletes={1})
    joined = EgressBatch.concat([first, second])
    assert joined.rows.column("id").to_pylist() == [1, 2, 3]
    assert joined.offset.tolist() == [0, 0, 1]
    assert joined.deletes().tolist() == [False, False, True]
    assert EgressBatch.concat([first]) is first


@settings(max_examples=80, deadline=None)
@given(count=st.integers(0, 200), bad=st.sets(st.integers(0, 199), max_size=8))
def test_isolate_finds_exactly_the_bad_rows(count: int, bad: set[int]) -> None:
    """Any number of bad rows anywhere: they alone are refused, the others are written once and in order, and it takes
    about `2 * bad * log2(count)` attempts."""
    bad = {row for row in bad if row < count}
    written: list[int] = []
    attempts = 0

    def attempt(start: int, stop: int) -> None:
        nonlocal attempts
        attempts += 1
        if bad & set(range(start, stop)):
            raise RowsRefused(f"something in {start} to {stop}")
        written.extend(range(start, stop))

    refused = isolate(count, attempt, refuses=(RowsRefused,), code="test.bad")
    assert {each.row for each in refused} == bad
    assert written == [row for row in range(count) if row not in bad]
    assert all(each.code == "test.bad" and f"something in {each.row}" in each.message for each in refused)
    assert attempts <= 1 + 2 * len(bad) * math.ceil(math.log2(max(count, 2)))


def test_isolate_lets_other_errors_through() -> None:
    """A target that is away is no bad row."""

    def attempt(start: int, stop: int) -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        isolate(4, attempt, refuses=(RowsRefused,), code="test.bad")


def test_a_truncation_ends_what_was_before() -> None:
    """Rows behind the last one are left; with versions those that are not older, whatever their place."""
    rows = batch([(1, "a"), (0, ""), (2, "b"), (3, "c")])
    truncated = replace(rows, operation=np.array([0, 2, 0, 0], np.int8), version=np.array([9, 5, 4, 5]))
    version, left = truncated.since_truncate()
    assert (version, left.rows.column("id").to_pylist()) == (5, [2, 3])
    version, left = truncated.since_truncate(refuses_stale=True)
    assert (version, left.rows.column("id").to_pylist()) == (5, [1, 3])
    assert rows.since_truncate() == (None, rows)
