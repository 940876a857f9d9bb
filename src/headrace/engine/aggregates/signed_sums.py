"""count(), sum(), mean(), var() and std() over the changes of a table.

- Adding the opposite takes a value back; all sums are exact, so nothing of it is left.
- A sum may pass through any size; a result that its type cannot hold (64 bits, 38 digits) is null, and told by
  `overflows`. It is a number again when it fits again.
- Results are those of the accumulators without signs (`sums`, `moments`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from headrace.engine.aggregates import decimals, limbs
from headrace.engine.aggregates.accumulator import to_array, with_nulls
from headrace.engine.aggregates.counts import Count
from headrace.engine.aggregates.exact_doubles import DENSE_ROWS_MAX, ExactDoubles
from headrace.engine.aggregates.limbs import LIMB_BITS, Floats, Limbs
from headrace.engine.aggregates.moments import ExactMean, spread_of
from headrace.engine.aggregates.signed import Signed, SignedRows
from headrace.engine.aggregates.sums import DECIMAL_MAX
from headrace.engine.state.arrays import Ints, Mask
from headrace.engine.state.slab import Slab

_LOW = (1 << LIMB_BITS) - 1
_DECIMAL_LIMBS = [(DECIMAL_MAX >> (LIMB_BITS * limb)) & _LOW for limb in range(4)]


class SignedCount(Signed, Count):
    """How many."""

    def _change(self, rows: SignedRows) -> None:
        np.add.at(self._slab[self._count], rows.slots, rows.signs)


class _ExactSum(Signed):
    """A sum of whole numbers or decimals in limbs, with a range."""

    tells_all = True
    _width: int

    def __init__(self, slab: Slab, name: str) -> None:
        super().__init__(slab, name)
        self._count = self._part("count", np.int64)
        self._sum = self._part("sum", np.int64, width=self._width)

    def result(self, slots: Ints) -> pl.Series:
        sums = self._slab[self._sum][slots]
        missing = (self._slab[self._count][slots] == 0) | ~self._fits(sums)
        return with_nulls(self._numbers(np.where(missing[:, None], 0, sums)).alias(self.name), missing)

    def overflows(self, slots: Ints) -> Mask:
        return ~self._fits(self._slab[self._sum][slots])

    def settle(self, changed: Ints) -> None:
        limbs.relieve(self._slab[self._sum], changed)

    def _fits(self, sums: Limbs) -> Mask:
        raise AssertionError("a subclass has a range")

    def _numbers(self, sums: Limbs) -> pl.Series:
        raise AssertionError("a subclass has a type")


class SignedLongSum(_ExactSum):
    """Sum of integers."""

    _width = 2

    def _change(self, rows: SignedRows) -> None:
        assert rows.values is not None
        _add_integers(self._slab[self._sum], rows, rows.values)
        np.add.at(self._slab[self._count], rows.slots, rows.signs)

    def _fits(self, sums: Limbs) -> Mask:
        even = limbs.normalised(sums)
        high, low = even[:, 1], even[:, 0]
        fits: Mask = (high < 1 << 31) & ((high > -(1 << 31)) | ((high == -(1 << 31)) & (low > 0)))
        return fits

    def _numbers(self, sums: Limbs) -> pl.Series:
        even = limbs.normalised(sums)
        return pl.Series((even[:, 1] << LIMB_BITS) + even[:, 0])


class SignedDecimalSum(_ExactSum):
    """Sum of decimals, at their scale."""

    _width = 4

    def __init__(self, slab: Slab, name: str, scale: int) -> None:
        super().__init__(slab, name)
        self._scale = scale

    def _change(self, rows: SignedRows) -> None:
        assert rows.values is not None
        _add_decimals(self._slab[self._sum], rows, rows.values)
        np.add.at(self._slab[self._count], rows.slots, rows.signs)

    def _fits(self, sums: Limbs) -> Mask:
        # The highest digit that differs from the largest number's decides.
        found, _ = limbs.absolute_digits(sums)
        fits: Mask = np.ones(len(sums), np.bool_)
        for limb, most in enumerate(_DECIMAL_LIMBS):
            digit = found[:, limb]
            fits = (digit < most) | ((digit == most) & fits)
        fits &= found[:, 4] == 0
        return fits

    def _numbers(self, sums: Limbs) -> pl.Series:
        return decimals.from_limbs(sums, self._scale)


class SignedExactMean(Signed, ExactMean):
    """Mean of integers or decimals."""

    def _change(self, rows: SignedRows) -> None:
        assert rows.values is not None
        add = _add_integers if self._scale is None else _add_decimals
        add(self._slab[self._sum], rows, rows.values)
        np.add.at(self._slab[self._count], rows.slots, rows.signs)


def _add_integers(sums: Limbs, rows: SignedRows, values: pl.Series) -> None:
    numbers = to_array(values, pl.Int64())
    np.add.at(sums[:, 0], rows.slots, rows.signs * (numbers & _LOW))
    np.add.at(sums[:, 1], rows.slots, rows.signs * (numbers >> LIMB_BITS))


def _add_decimals(sums: Limbs, rows: SignedRows, values: pl.Series) -> None:
    low, high = decimals.words(values)
    pieces = (low & _LOW, (low >> LIMB_BITS) & _LOW, high & _LOW, high >> LIMB_BITS)
    for limb, piece in enumerate(pieces):
        np.add.at(sums[:, limb], rows.slots, rows.signs * piece)


class _OfDoubles(Signed):
    """A count, and sums of doubles."""

    def __init__(self, slab: Slab, name: str) -> None:
        super().__init__(slab, name)
        self._count = self._part("count", np.int64)
        self._sum = ExactDoubles(slab, f"{name}.sum", squares=False)
        self._sums: Sequence[ExactDoubles] = [self._sum]

    def _change(self, rows: SignedRows) -> None:
        np.add.at(self._slab[self._count], rows.slots, rows.signs)
        for each in self._sums:
            each.change(rows)

    def state(self, slots: Ints, *, whole: bool) -> list[pl.Series]:
        parts = [part for each in self._sums for part in each.state(slots, whole=whole)]
        return [*super().state(slots, whole=whole), *parts]

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        super().load(slots, frame)
        for each in self._sums:
            each.load(slots, frame)

    def settle(self, changed: Ints) -> None:
        for each in self._sums:
            each.settle(changed)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self._sums)

    def _counts(self, slots: Ints) -> Floats:
        counts: Floats = self._slab[self._count][slots].astype(np.float64)
        return counts


class SignedDoubleSum(_OfDoubles):
    """Sum of floats and doubles."""

    def result(self, slots: Ints) -> pl.Series:
        sums = self._sum.quotient(slots, np.ones(len(slots)))
        return with_nulls(pl.Series(self.name, sums), self._counts(slots) == 0)


class SignedDoubleMean(_OfDoubles):
    """Mean of floats and doubles."""

    def result(self, slots: Ints) -> pl.Series:
        counts = self._counts(slots)
        means = self._sum.quotient(slots, np.maximum(counts, 1))
        return with_nulls(pl.Series(self.name, means), counts == 0)


class SignedSpread(_OfDoubles):
    """Variance of the sample, or its square root."""

    def __init__(self, slab: Slab, name: str, *, root: bool) -> None:
        super().__init__(slab, name)
        self._root = root
        self._squares = ExactDoubles(slab, f"{name}.squares", squares=True)
        self._sums = [self._sum, self._squares]

    def result(self, slots: Ints) -> pl.Series:
        parts = range(0, len(slots), DENSE_ROWS_MAX)
        spread = np.concatenate([np.empty(0), *(self._spread(slots[at : at + DENSE_ROWS_MAX]) for at in parts)])
        spread[self._sum.specials(slots) != 0] = np.nan
        return with_nulls(pl.Series(self.name, spread), self._counts(slots) < 2)

    def _spread(self, slots: Ints) -> Floats:
        sums, sums_exponent = self._sum.dense(slots)
        squares, exponent = self._squares.dense(slots)
        digits, _ = limbs.absolute_digits(squares)
        top = digits.shape[1] - 1 - np.argmax(digits[:, ::-1] != 0, axis=1)
        # Halved powers of two keep all steps far from overflow; `scale` is even so that its root is exact.
        scale = (exponent + LIMB_BITS * (top - 1)) & ~np.int64(1)
        return spread_of(
            limbs.expansion(sums, sums_exponent - scale // 2),
            limbs.expansion(squares, exponent - scale),
            self._counts(slots),
            scale,
            root=self._root,
        )
