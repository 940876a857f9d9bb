"""Rows of a frame chosen by a NumPy mask.

Owns the one way to do it on paths that run for every batch: small frames do not go through Polars' query engine, which
costs more than the work itself when a batch is one row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl


def pick(frame: pl.DataFrame, mask: npt.NDArray[np.bool_]) -> pl.DataFrame:
    """The rows where `mask` is true, in order."""
    rows = np.flatnonzero(mask)
    if len(rows) == frame.height:
        return frame
    if not len(rows):
        return frame.clear()
    first, behind = int(rows[0]), int(rows[-1]) + 1
    if behind - first == len(rows):
        return frame.slice(first, len(rows))
    return frame[rows]
