"""sum(): integers, decimals and doubles.

- Integers are summed exactly in 64 bits, decimals in 38 digits. A row whose value would take a sum out of that range
  is refused with `process.overflow` and changes nothing; sums in range are never affected by such rows.
- Doubles are summed exactly in a window and rounded once (see `limbs`); they overflow to infinity.
- Null when no value was added.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.engine.aggregates import decimals, limbs
from headrace.engine.aggregates.accumulator import Accumulator, RowRefused, Rows, Trial, to_array, with_nulls
from headrace.engine.aggregates.limbs import Floats, Limbs
from headrace.engine.state.arrays import Ints, Mask
from headrace.engine.state.slab import Slab
from headrace.native import native

OVERFLOW = "process.overflow"
LONG_MAX = 2**63 - 1
DECIMAL_MAX = 10**38 - 1
_WIDE = Context(prec=80)
"""Python's default of 28 digits would round."""
_SLACK = 1 - 1e-9
"""Bounds are computed in doubles; this much below the limit counts as at the limit."""


class WindowedSum:
    """Columns of an order-independent sum of doubles, for the accumulators that need one."""

    def __init__(self, slab: Slab, limbs_column: str, top_column: str, special_column: str, *, squares: bool) -> None:
        self._slab = slab
        self._limbs, self._top, self._special = limbs_column, top_column, special_column
        self._squares = squares
        self.origin_bits = limbs.SQUARES_ORIGIN_BITS if squares else limbs.ORIGIN_BITS

    def add(self, slots: Ints, values: Floats) -> None:
        columns = self._slab[self._limbs], self._slab[self._top], self._slab[self._special]
        if native is not None and not self._squares:
            native.add_doubles_at(*columns, slots, values)
            return
        columns[2][slots] |= np.uint8(limbs.HAS_VALUE)
        finite = np.isfinite(values)
        if not finite.all():
            special = ~finite
            np.bitwise_or.at(self._slab[self._special], slots[special], limbs.special_flags(values[special]))
            slots, values = slots[finite], values[finite]
        add_finite = limbs.add_squares if self._squares else limbs.add_doubles
        add_finite(*columns[:2], slots, values)

    def merge(self, into: Ints, other: Ints) -> None:
        np.bitwise_or.at(self._slab[self._special], into, self._slab[self._special][other])
        limbs.merge_windows(self._slab[self._limbs], self._slab[self._top], into, other)

    def relieve(self, slots: Ints) -> None:
        limbs.relieve(self._slab[self._limbs], slots)

    def exponent(self, slots: Ints) -> Limbs:
        """Power of two of each sum's lowest limb."""
        top: Limbs = self._slab[self._top][slots].astype(np.int64)
        return limbs.LIMB_BITS * (top - (limbs.WINDOW_LIMBS - 1)) - self.origin_bits

    def limbs(self, slots: Ints) -> Limbs:
        return self._slab.taken(self._limbs, slots)

    def has_value(self, slots: Ints) -> Mask:
        """Which sums have a term."""
        result: Mask = self._slab[self._special][slots] & np.uint8(limbs.HAS_VALUE) != 0
        return result

    def quotient(self, slots: Ints, divisor: Floats) -> Floats:
        """The sums, divided; not finite where a term was not."""
        if native is None:
            number, exponent = limbs.rounded(self.limbs(slots), self.exponent(slots))
        else:
            number, exponent = np.empty(len(slots)), self.exponent(slots)
            native.round_at(self._slab[self._limbs], slots, number)
        with np.errstate(over="ignore"):
            result = np.ldexp(number / divisor, exponent)
        return self.with_specials(slots, result)

    def total(self, slots: Ints) -> Floats:
        """The sums; not finite where a term was not."""
        if native is None:
            return self.quotient(slots, np.ones(len(slots)))
        result = np.empty(len(slots))
        native.sums_at(self._slab[self._limbs], self._slab[self._top], slots, self.origin_bits, result)
        return self.with_specials(slots, result)

    def with_specials(self, slots: Ints, result: Floats) -> Floats:
        """The result, or what NaN and infinities among the terms make of it."""
        return limbs.with_specials(self._slab[self._special][slots], result)


class DoubleSum(Accumulator):
    """Sum of floats and doubles."""

    tells_all = True

    def __init__(self, slab: Slab, name: str) -> None:
        super().__init__(slab, name)
        self._sum = WindowedSum(
            slab,
            self._part("sum", np.int64, width=limbs.WINDOW_LIMBS),
            self._part("top", np.int16, fill=limbs.NO_TOP),
            self._part("special", np.uint8),
            squares=False,
        )

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        self._sum.add(rows.slots, to_array(rows.values, pl.Float64()))

    def merge(self, into: Ints, other: Ints) -> None:
        self._sum.merge(into, other)

    def result(self, slots: Ints) -> pl.Series:
        return with_nulls(pl.Series(self.name, self._sum.total(slots)), ~self._sum.has_value(slots))

    def settle(self, changed: Ints) -> None:
        self._sum.relieve(changed)


class _CheckedSum(Accumulator):
    """A sum with a range: what integers and decimals share."""

    tells_all = True

    _limit: int

    def __init__(self, slab: Slab, name: str) -> None:
        super().__init__(slab, name)
        self._count = self._part("count", np.int64)
        self._bound = 0.0
        """No sum is larger than this, about."""

    def may_refuse(self, values: pl.Series | None, merged_max: int) -> bool:
        coming = float(self._magnitudes(values.drop_nulls()).sum()) if values is not None else 0.0
        if self._bound * merged_max + coming >= self._limit * _SLACK:
            self._bound = float(np.abs(self._approximate(self._slab.live())).max(initial=0.0))
        self._bound = self._bound * merged_max + coming
        return self._bound >= self._limit * _SLACK

    def suspects(self, owners: Ints, values: pl.Series | None, slot_owners: Ints, slots: Ints, count: int) -> Mask:
        assert values is not None
        present = values.is_not_null().to_numpy()
        reach = np.bincount(owners[present], self._magnitudes(values.drop_nulls()), minlength=count)
        reach = reach + np.bincount(slot_owners, np.abs(self._approximate(slots)), minlength=count)
        result: Mask = reach >= self._limit * _SLACK
        return result

    def trial(self, values: pl.Series | None) -> Trial | None:
        assert values is not None
        return _SumTrial(self, values)

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        super().load(slots, frame)
        self._bound = max(self._bound, float(np.abs(self._approximate(slots)).max(initial=0.0)))

    def refuse(self, total: int) -> None:
        """Raises `RowRefused` for a sum out of range."""
        if not -self._limit <= total <= self._limit:
            raise RowRefused(OVERFLOW, f"{self.name}: the sum would leave its range of ±{self._limit}")

    def exact(self, slot: int) -> int:
        """The sum as a Python integer."""
        raise AssertionError("a subclass has a sum")

    def unscaled(self, value: int | Decimal) -> int:
        """The value as the integer that is added."""
        raise AssertionError("a subclass knows its values")

    def _magnitudes(self, values: pl.Series) -> Floats:
        raise AssertionError("a subclass knows its values")

    def _approximate(self, slots: Ints) -> Floats:
        raise AssertionError("a subclass has a sum")


class _SumTrial:
    def __init__(self, accumulator: _CheckedSum, values: pl.Series) -> None:
        self._accumulator, self._values = accumulator, values
        self._totals: dict[int, int] = {}

    def read(self, slot: int) -> int:
        if slot not in self._totals:
            self._totals[slot] = self._accumulator.exact(slot) if slot >= 0 else 0
        return self._totals[slot]

    def combine(self, left: int, right: int) -> int:
        # A merge alone may be out of range where the row brings it back: only `step` decides.
        return left + right

    def step(self, state: int, row: int) -> int:
        value = self._values[row]
        total = state if value is None else state + self._accumulator.unscaled(value)
        self._accumulator.refuse(total)
        return total

    def put(self, slot: int, state: int) -> None:
        self._totals[slot] = state

    def finish(self, slots: Mapping[int, int]) -> None:
        """The sums are added in bulk."""


class LongSum(_CheckedSum):
    """Sum of integers."""

    _limit = LONG_MAX

    def __init__(self, slab: Slab, name: str) -> None:
        super().__init__(slab, name)
        self._sum = self._part("sum", np.int64)

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        np.add.at(self._slab[self._sum], rows.slots, to_array(rows.values, pl.Int64()))
        np.add.at(self._slab[self._count], rows.slots, 1)

    def merge(self, into: Ints, other: Ints) -> None:
        for part in (self._sum, self._count):
            np.add.at(self._slab[part], into, self._slab[part][other])

    def result(self, slots: Ints) -> pl.Series:
        return with_nulls(pl.Series(self.name, self._slab[self._sum][slots]), self._slab[self._count][slots] == 0)

    def exact(self, slot: int) -> int:
        return int(self._slab[self._sum][slot])

    def unscaled(self, value: int | Decimal) -> int:
        return int(value)

    def _magnitudes(self, values: pl.Series) -> Floats:
        return np.abs(to_array(values, pl.Float64()))

    def _approximate(self, slots: Ints) -> Floats:
        result: Floats = self._slab[self._sum][slots].astype(np.float64)
        return result


class DecimalSum(_CheckedSum):
    """Sum of decimals, at their scale."""

    _limit = DECIMAL_MAX

    def __init__(self, slab: Slab, name: str, scale: int) -> None:
        super().__init__(slab, name)
        self._scale = scale
        self._sum = self._part("sum", np.int64, width=4)

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        limbs.add_words(self._slab[self._sum], rows.slots, *decimals.words(rows.values))
        np.add.at(self._slab[self._count], rows.slots, 1)

    def merge(self, into: Ints, other: Ints) -> None:
        for part in (self._sum, self._count):
            np.add.at(self._slab[part], into, self._slab[part][other])

    def result(self, slots: Ints) -> pl.Series:
        sums = decimals.from_limbs(self._slab[self._sum][slots], self._scale).alias(self.name)
        return with_nulls(sums, self._slab[self._count][slots] == 0)

    def settle(self, changed: Ints) -> None:
        limbs.relieve(self._slab[self._sum], changed)

    def exact(self, slot: int) -> int:
        row: npt.NDArray[np.int64] = self._slab[self._sum][slot]
        return sum(int(limb) << (limbs.LIMB_BITS * place) for place, limb in enumerate(row.tolist()))

    def unscaled(self, value: int | Decimal) -> int:
        return int(Decimal(value).scaleb(self._scale, _WIDE))

    def _magnitudes(self, values: pl.Series) -> Floats:
        return np.abs(to_array(values, pl.Float64())) * 10.0**self._scale

    def _approximate(self, slots: Ints) -> Floats:
        return decimals.approximate(self._slab[self._sum][slots])
