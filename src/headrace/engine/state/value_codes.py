"""Values of one type as 64-bit codes.

Owns how a value of any Polars type is held in an int64 column.

- Equal values have equal codes (all NaNs are one value, both zeros are one value); codes say nothing of order.
- Types of at most 64 bits are held as they are; others through a dictionary.
- Nulls have no code.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from headrace.engine.state.arrays import Ints
from headrace.engine.state.dictionary import Dictionary

_COLUMN = "value"
_FLOATS = (pl.Float32, pl.Float64)


class ValueCodes:
    """Codes for the values of one type."""

    def __init__(self, dtype: pl.DataType) -> None:
        self.dtype = dtype
        self._is_float = dtype in _FLOATS
        self._is_plain = dtype.is_integer() or dtype in (pl.Boolean, pl.Date, pl.Datetime, pl.Duration, pl.Time)
        self._dictionary = None if self._is_float or self._is_plain else Dictionary({_COLUMN: dtype})

    def encode(self, values: pl.Series) -> Ints:
        """Codes of values without nulls."""
        if self._is_float:
            numbers = canonical_floats(values)
            return numbers.view(np.int64)
        if self._is_plain:
            return values.to_physical().cast(pl.Int64, wrap_numerical=True).to_numpy()
        assert self._dictionary is not None
        return self._dictionary.intern(values.alias(_COLUMN).to_frame())

    def decode(self, codes: Ints) -> pl.Series:
        """The values of these codes."""
        if self._is_float:
            return pl.Series(_COLUMN, codes.view(np.float64)).cast(self.dtype)
        if self._is_plain:
            physical = pl.Series(_COLUMN, [], self.dtype).to_physical().dtype
            return pl.Series(_COLUMN, codes).cast(physical, wrap_numerical=True).cast(self.dtype)
        assert self._dictionary is not None
        return self._dictionary.take(codes)[_COLUMN]

    @property
    def bytes(self) -> int:
        return self._dictionary.bytes if self._dictionary else 0

    @property
    def wants_retain(self) -> bool:
        """Whether the dictionary has doubled since it was last told what is still used."""
        return self._dictionary is not None and self._dictionary.wants_retain

    def retain(self, codes: Ints) -> None:
        """Drop values whose codes are not among these."""
        assert self._dictionary is not None
        self._dictionary.retain(codes)


def canonical_floats(values: pl.Series) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """As float64 with one zero and one NaN, so that equal values have equal bits."""
    numbers = values.cast(pl.Float64).to_numpy() + 0.0
    numbers[np.isnan(numbers)] = np.nan
    return numbers
