"""Rows without a key, where a step needs one.

Owns what becomes of them: counted as `null_key`, and dead letters. A row has a key when any of the columns has a value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from headrace.engine.operator import OperatorContext, RowError
from headrace.engine.row_picks import pick
from headrace.engine.state.arrays import Mask

NULL_KEY = "null_key"


def with_keys(
    frame: pl.DataFrame, key: Sequence[str], context: OperatorContext, *, input_index: int = 0
) -> pl.DataFrame:
    """The rows that have a key."""
    if not all(frame[name].null_count() for name in key):
        return frame
    unkeyed = np.logical_and.reduce([frame[name].is_null().to_numpy() for name in key])
    if not unkeyed.any():
        return frame
    drop_unkeyed(frame, unkeyed, f"every key column ({', '.join(key)}) is null", context, input_index=input_index)
    return pick(frame, ~unkeyed)


def drop_unkeyed(
    frame: pl.DataFrame, unkeyed: Mask, message: str, context: OperatorContext, *, input_index: int = 0
) -> None:
    """Count these rows, and send them to the dead letters."""
    rows = np.flatnonzero(unkeyed).tolist()
    if rows:
        context.count_dropped(NULL_KEY, len(rows))
        errors = [RowError(row, "process.null_key", message) for row in rows]
        context.dead_letter(frame, errors, input_index=input_index)
