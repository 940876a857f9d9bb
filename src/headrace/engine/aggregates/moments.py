"""mean(), var() and std().

- The sums behind them are exact (integers, decimals) or exact in a window (doubles, see `limbs`), so the results do
  not depend on the order of rows; each is rounded a few times at the end.
- `var` and `std` are of the sample (divided by n - 1), null below two values, and computed from doubles. Sum and sum
  of squares are carried in about 106 bits to the end, so that a small spread around a large mean survives: the relative
  error is about 2**-96 of squared mean over variance, or the last bits of a double where that is more.
- A NaN or an infinity among the values makes `var` and `std` NaN.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from headrace.engine.aggregates import decimals, limbs
from headrace.engine.aggregates.accumulator import Accumulator, Rows, to_array, with_nulls
from headrace.engine.aggregates.limbs import Floats
from headrace.engine.aggregates.sums import WindowedSum
from headrace.engine.state.arrays import Ints
from headrace.engine.state.slab import Slab

_SPLITTER = 134217729.0
"""2**27 + 1: cuts a double into halves whose products are exact."""


class _Counted(Accumulator):
    tells_all = True

    def __init__(self, slab: Slab, name: str) -> None:
        super().__init__(slab, name)
        self._count = self._part("count", np.int64)

    def _counts(self, slots: Ints) -> Floats:
        result: Floats = self._slab[self._count][slots].astype(np.float64)
        return result

    def _windowed(self, part: str, *, squares: bool) -> WindowedSum:
        return WindowedSum(
            self._slab,
            self._part(part, np.int64, width=limbs.WINDOW_LIMBS),
            self._part(f"{part}_top", np.int16, fill=limbs.NO_TOP),
            self._part(f"{part}_special", np.uint8),
            squares=squares,
        )


class ExactMean(_Counted):
    """Mean of integers, or of decimals with `scale` digits behind the point."""

    def __init__(self, slab: Slab, name: str, scale: int | None = None) -> None:
        super().__init__(slab, name)
        self._scale = scale
        self._sum = self._part("sum", np.int64, width=2 if scale is None else 4)

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        if self._scale is None:
            limbs.add_integers(self._slab[self._sum], rows.slots, to_array(rows.values, pl.Int64()))
        else:
            limbs.add_words(self._slab[self._sum], rows.slots, *decimals.words(rows.values))
        np.add.at(self._slab[self._count], rows.slots, 1)

    def merge(self, into: Ints, other: Ints) -> None:
        for part in (self._sum, self._count):
            np.add.at(self._slab[part], into, self._slab[part][other])

    def result(self, slots: Ints) -> pl.Series:
        counts = self._counts(slots)
        number, exponent = limbs.rounded(self._slab[self._sum][slots], 0)
        means = np.ldexp(number, exponent) / (np.maximum(counts, 1) * 10.0 ** (self._scale or 0))
        return with_nulls(pl.Series(self.name, means), counts == 0)

    def settle(self, changed: Ints) -> None:
        limbs.relieve(self._slab[self._sum], changed)


class DoubleMean(_Counted):
    """Mean of floats and doubles."""

    def __init__(self, slab: Slab, name: str) -> None:
        super().__init__(slab, name)
        self._sum = self._windowed("sum", squares=False)

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        self._sum.add(rows.slots, to_array(rows.values, pl.Float64()))
        np.add.at(self._slab[self._count], rows.slots, 1)

    def merge(self, into: Ints, other: Ints) -> None:
        self._sum.merge(into, other)
        np.add.at(self._slab[self._count], into, self._slab[self._count][other])

    def result(self, slots: Ints) -> pl.Series:
        counts = self._counts(slots)
        means = self._sum.quotient(slots, np.maximum(counts, 1))
        return with_nulls(pl.Series(self.name, means), counts == 0)

    def settle(self, changed: Ints) -> None:
        self._sum.relieve(changed)


class Spread(_Counted):
    """Variance of the sample, or its square root."""

    def __init__(self, slab: Slab, name: str, *, root: bool) -> None:
        super().__init__(slab, name)
        self._root = root
        self._sum = self._windowed("sum", squares=False)
        self._squares = self._windowed("squares", squares=True)

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        values = to_array(rows.values, pl.Float64())
        self._sum.add(rows.slots, values)
        self._squares.add(rows.slots, values)
        np.add.at(self._slab[self._count], rows.slots, 1)

    def merge(self, into: Ints, other: Ints) -> None:
        self._sum.merge(into, other)
        self._squares.merge(into, other)
        np.add.at(self._slab[self._count], into, self._slab[self._count][other])

    def result(self, slots: Ints) -> pl.Series:
        counts = self._counts(slots)
        # Halved powers of two keep all steps far from overflow; `scale` is even so that its root is exact.
        scale = (self._squares.exponent(slots) + 2 * limbs.LIMB_BITS) & ~np.int64(1)
        sums = limbs.expansion(self._sum.limbs(slots), self._sum.exponent(slots) - scale // 2)
        squares = limbs.expansion(self._squares.limbs(slots), self._squares.exponent(slots) - scale)
        spread = spread_of(sums, squares, counts, scale, root=self._root)
        unknown = self._sum.with_specials(slots, np.zeros(len(slots))) != 0
        spread[unknown] = np.nan
        return with_nulls(pl.Series(self.name, spread), counts < 2)

    def settle(self, changed: Ints) -> None:
        self._sum.relieve(changed)
        self._squares.relieve(changed)


def variance(sums: tuple[Floats, Floats], squares: tuple[Floats, Floats], counts: Floats) -> Floats:
    """(squares - sums**2 / n) / (n - 1) in doubled precision; `counts` below 2 give anything."""
    n = np.maximum(counts, 2)
    high, low = sums
    product, error = _two_product(high, high)
    error = error + 2 * high * low
    part = product / n
    back, back_error = _two_product(part, n)
    rest = ((product - back) - back_error + error) / n
    difference, lost = limbs.two_sum(squares[0], -part)
    total = difference + (lost + squares[1] - rest)
    result: Floats = np.maximum(total, 0.0) / (n - 1)
    return result


def spread_of(
    sums: tuple[Floats, Floats], squares: tuple[Floats, Floats], counts: Floats, scale: Ints, *, root: bool
) -> Floats:
    """Variance or its root, of sums times 2**(-scale / 2) and of squares times 2**-scale; `scale` is even."""
    found = variance(sums, squares, counts)
    with np.errstate(over="ignore"):
        return np.ldexp(np.sqrt(found), scale // 2) if root else np.ldexp(found, scale)


def _two_product(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a * b and its rounding error (Dekker)."""
    a_high, b_high = _upper(a), _upper(b)
    a_low, b_low = a - a_high, b - b_high
    product = a * b
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _upper(a: Floats) -> Floats:
    scaled = _SPLITTER * a
    return scaled - (scaled - a)
