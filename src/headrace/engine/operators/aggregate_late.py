"""Rows that come too late for their window.

Owns what becomes of them: counted, and where the step says so, dead letters or rows of their own.

- A row is counted once for each window that it is late for.
- Kept for a `LateStep`: one row per (row, window), all columns of the input with the window's bounds.
- As dead letters: each row once, whatever the number of windows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from headrace.engine.operator import SEQUENCE, SYSTEM_COLUMNS, OperatorContext, RowError
from headrace.engine.state.arrays import Ints
from headrace.flow.values import WINDOW_END, WINDOW_START, LateRows

LATE = "late"
LATE_CODE = "process.late"
TIMESTAMP = pl.Datetime("ms", "UTC")


class Latecomers:
    """Late rows of one aggregate."""

    def __init__(self, mode: LateRows, columns: Mapping[str, pl.DataType]) -> None:
        self._mode = mode
        bounds = dict.fromkeys((WINDOW_START, WINDOW_END), TIMESTAMP)
        self._empty = pl.DataFrame(schema={**columns, **bounds, **SYSTEM_COLUMNS})
        self._kept: list[pl.DataFrame] = []

    def note(self, frame: pl.DataFrame, rows: Ints, start_ms: Ints, end_ms: Ints, context: OperatorContext) -> None:
        """Row `rows[i]` of `frame` is late for the window i. Rows repeat."""
        if not len(rows):
            return
        context.count_dropped(LATE, len(rows))
        if self._mode == "dead_letter":
            self._bury(frame, rows, end_ms, context)
        elif self._mode == "stream":
            bounds = [pl.Series(n, t).cast(TIMESTAMP) for n, t in ((WINDOW_START, start_ms), (WINDOW_END, end_ms))]
            late = frame.select(pl.all().gather(pl.Series(rows))).with_columns(bounds)
            self._kept.append(late.select(self._empty.columns))

    def _bury(self, frame: pl.DataFrame, rows: Ints, end_ms: Ints, context: OperatorContext) -> None:
        named, of_row, counts = np.unique(rows, return_inverse=True, return_counts=True)
        last_end = np.full(len(named), np.iinfo(np.int64).min)
        np.maximum.at(last_end, of_row, end_ms)
        context.dead_letter(
            frame,
            [
                RowError(row, LATE_CODE, f"late for {count} windows, the last of which ended at {end} ms")
                for row, count, end in zip(named.tolist(), counts.tolist(), last_end.tolist(), strict=True)
            ],
        )

    def take(self) -> pl.DataFrame:
        """Late rows since the last call, in order of arrival."""
        kept, self._kept = self._kept, []
        return pl.concat(kept).sort(SEQUENCE, maintain_order=True) if kept else self._empty

    def clear(self) -> None:
        """Rows since the last commit come again, or nobody asked for them."""
        self._kept = []
