"""What several rows of one key come to, beside a target that takes one row at a time."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.egress.sdk import EgressBatch, Operation

NOTHING_HELD = "held"
"""Stands for a value that the target has from before."""


class Change(NamedTuple):
    """One row; a value None is null, UNTOLD is unavailable."""

    id: int | None
    operation: Operation
    version: int
    small: str | None
    large: str | None


UNTOLD = "?"

values = st.sampled_from(["a", "b", None, UNTOLD])
changes = st.builds(
    Change,
    st.sampled_from([1, 2, None]),
    st.sampled_from([Operation.UPSERT, Operation.UPSERT, Operation.DELETE]),
    st.integers(0, 3),
    values,
    values,
)


def batch_of(rows: list[Change]) -> EgressBatch:
    count = len(rows)
    told = [row.operation == Operation.UPSERT for row in rows]
    columns = {"small": [row.small for row in rows], "large": [row.large for row in rows]}
    plain = {
        name: [value if is_told and value != UNTOLD else None for value, is_told in zip(column, told, strict=True)]
        for name, column in columns.items()
    }
    untold = {
        name: np.array([value == UNTOLD and is_told for value, is_told in zip(column, told, strict=True)], bool)
        for name, column in columns.items()
    }
    return EgressBatch(
        rows=pa.table(
            {
                "id": pa.array([row.id for row in rows], pa.int64()),
                **{name: pa.array(column, pa.string()) for name, column in plain.items()},
            }
        ),
        key=("id",),
        operation=np.array([row.operation for row in rows], np.int8),
        partition=np.zeros(count, np.int32),
        offset=np.arange(count, dtype=np.int64),
        timestamp_ms=np.zeros(count, np.int64),
        version=np.array([row.version for row in rows], np.int64),
        unavailable={name: mask for name, mask in untold.items() if mask.any()},
    )


Held = dict[Any, tuple[int, Any, Any]]


def apply(batch: EgressBatch, held: Held, *, refuses_stale: bool) -> None:
    """A target that takes rows one at a time. A deleted row keeps its version, as that of a target may."""
    untold = {name: batch.unavailable.get(name, np.zeros(len(batch), bool)) for name in ("small", "large")}
    for index, row in enumerate(batch.rows.to_pylist()):
        version, *before = held.get(row["id"], (-1, None, None))
        if refuses_stale and batch.version[index] < version:
            continue
        if batch.operation[index] == Operation.DELETE:
            held[row["id"]] = (int(batch.version[index]), None, None)
            continue
        new = [old if untold[name][index] else row[name] for name, old in zip(("small", "large"), before, strict=True)]
        held[row["id"]] = (int(batch.version[index]), *new)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(changes, max_size=12), refuses_stale=st.booleans(), held_version=st.integers(0, 3))
def test_latest_leaves_the_target_as_one_row_at_a_time_would(
    rows: list[Change], refuses_stale: bool, held_version: int
) -> None:
    """Any rows of any keys, deletions, stale rows and untold values among them: each key once, the same end."""
    batch = batch_of(rows)
    before: Held = dict.fromkeys((1, 2, None), (held_version if refuses_stale else -1, "held", "held"))
    expected, found = dict(before), dict(before)
    apply(batch, expected, refuses_stale=refuses_stale)
    if refuses_stale:
        # The target's own refusals come first: rows that it would not take must not hide behind those of the batch.
        batch = batch.take(np.flatnonzero(batch.version >= held_version))
    latest = batch.latest(refuses_stale=refuses_stale)
    apply(latest, found, refuses_stale=refuses_stale)
    assert found == expected
    keys = latest.rows.column("id").to_pylist()
    assert len(keys) == len(set(keys))
    assert latest.offset.tolist() == sorted(latest.offset.tolist())


def test_keys_of_more_digits_than_polars_has() -> None:
    """Decimals of 60 digits: the last row of each, null among them."""
    most, near, least = (Decimal(f"{text}{'9' * 57}.25") for text in ("9", "8", "-9"))
    ids = [most, None, near, most, None, least]
    rows = pa.table({"id": pa.array(ids, pa.decimal256(60, 2)), "number": list(range(len(ids)))})
    zeros = np.zeros(len(ids), dtype=np.int64)
    batch = EgressBatch(rows, ("id",), zeros.astype(np.int8), zeros.astype(np.int32), zeros, zeros, zeros)
    assert batch.latest().rows["number"].to_pylist() == [2, 3, 4, 5]
