"""Decimal columns as pairs of 64-bit words, and back.

- A word pair is the unscaled 128-bit integer: low word (bits as they are) and signed high word, both in int64.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.engine.aggregates.limbs import LIMB_BITS, Limbs, normalised
from headrace.engine.state.arrays import Ints


def words(values: pl.Series) -> tuple[Ints, Ints]:
    """Low and high words of a decimal column without nulls."""
    array = values.rechunk().to_arrow()
    pairs = np.frombuffer(array.buffers()[1], np.int64).reshape(-1, 2)
    pairs = pairs[array.offset : array.offset + len(array)]
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def from_limbs(limbs: Limbs, scale: int) -> pl.Series:
    """A decimal(38, scale) column of sums of four limbs, each of which fits."""
    even = normalised(limbs)
    pairs = np.empty((len(even), 2), np.int64)
    pairs[:, 0] = even[:, 0] | (even[:, 1] << LIMB_BITS)
    pairs[:, 1] = even[:, 2] | (even[:, 3] << LIMB_BITS)
    array = pa.Array.from_buffers(pa.decimal128(38, scale), len(even), [None, pa.py_buffer(pairs.tobytes())])
    result = pl.from_arrow(array)
    assert isinstance(result, pl.Series), "an array becomes a series"
    return result


def approximate(limbs: Limbs) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Sums of four limbs as doubles, for bounds."""
    weights = np.ldexp(1.0, LIMB_BITS * np.arange(limbs.shape[1]))
    return limbs.astype(np.float64) @ weights
