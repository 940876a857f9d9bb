"""min() and max().

- Any type with an order. NaN is larger than every number, as in SQL; both zeros are zero; enums go by symbol order.
- State: the value itself (numbers, dates and times as 8 bytes; others as a code of a dictionary).
- Null when no value was added.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Accumulator, Rows, with_nulls
from headrace.engine.state.arrays import Array, Ints
from headrace.engine.state.slab import Slab
from headrace.engine.state.value_codes import ValueCodes, canonical_floats

_LONGS = np.iinfo(np.int64)


class NumberExtreme(Accumulator):
    """Smallest or largest of numbers, dates, times and booleans."""

    tells_all = True

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType, *, largest: bool) -> None:
        super().__init__(slab, name)
        self._is_float = dtype.is_float()
        self._dtype, self._codes = dtype, ValueCodes(dtype)
        self._seen = self._part("seen", np.bool_)
        self._offer: Any
        if self._is_float:
            # fmin skips the NaN it begins with; maximum keeps any NaN that comes.
            fill: Any = -np.inf if largest else np.nan
            self._offer = np.maximum if largest else np.fmin
        else:
            fill = _LONGS.min if largest else _LONGS.max
            self._offer = np.maximum if largest else np.minimum
        self._value = self._part("value", np.float64 if self._is_float else np.int64, fill=fill)

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        values = canonical_floats(rows.values) if self._is_float else self._codes.encode(rows.values)
        self._take(rows.slots, values)

    def merge(self, into: Ints, other: Ints) -> None:
        seen = self._slab[self._seen][other]
        into, other = into[seen], other[seen]
        self._take(into, self._slab[self._value][other])

    def _take(self, slots: Ints, values: Array) -> None:
        # A NaN is an ordinary value here.
        with np.errstate(invalid="ignore"):
            self._offer.at(self._slab[self._value], slots, values)
        self._slab[self._seen][slots] = True

    def result(self, slots: Ints) -> pl.Series:
        missing = ~self._slab[self._seen][slots]
        values = self._slab[self._value][slots]
        if self._is_float:
            return with_nulls(pl.Series(self.name, values).cast(self._dtype), missing)
        # The fill value may not be one of the type.
        return with_nulls(self._codes.decode(np.where(missing, 0, values)).alias(self.name), missing)


class Coded(Accumulator):
    """An accumulator that holds one value of any type per slot, as a code."""

    tells_all = True

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType) -> None:
        super().__init__(slab, name)
        self._codes = ValueCodes(dtype)
        self._seen = f"{name}.seen"
        self._code = f"{name}.value"
        slab.add_column(self._seen, np.bool_)
        slab.add_column(self._code, np.int64)

    def result(self, slots: Ints) -> pl.Series:
        return self._values(slots).alias(self.name)

    def state(self, slots: Ints, *, whole: bool) -> list[pl.Series]:
        return [*super().state(slots, whole=whole), self._values(slots).alias(self._code)]

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        super().load(slots, frame)
        values = frame[self._code].cast(self._codes.dtype)
        seen = values.is_not_null().to_numpy()
        self._slab[self._seen][slots] = seen
        self._slab[self._code][slots[seen]] = self._codes.encode(values.drop_nulls())

    def settle(self, changed: Ints) -> None:
        if self._codes.wants_retain:
            live = self._slab.live()
            self._codes.retain(self._slab[self._code][live[self._slab[self._seen][live]]])

    @property
    def bytes(self) -> int:
        return self._codes.bytes

    def _values(self, slots: Ints) -> pl.Series:
        seen = self._slab[self._seen][slots]
        values = self._codes.decode(self._slab[self._code][slots[seen]])
        if seen.all():
            return values
        rows = pl.Series(np.cumsum(seen) - 1).set(pl.Series(~seen), None)
        return values.gather(rows)


class ValueExtreme(Coded):
    """Smallest or largest of text, bytes, enums and decimals."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType, *, largest: bool) -> None:
        super().__init__(slab, name, dtype)
        self._largest = largest

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        self._offer(rows.slots, rows.values)

    def merge(self, into: Ints, other: Ints) -> None:
        seen = self._slab[self._seen][other]
        if seen.any():
            self._offer(into[seen], self._codes.decode(self._slab[self._code][other[seen]]))

    def _offer(self, slots: Ints, values: pl.Series) -> None:
        held = np.unique(slots)
        held = held[self._slab[self._seen][held]]
        if len(held):
            slots = np.concatenate([held, slots])
            values = pl.concat([self._codes.decode(self._slab[self._code][held]).alias("value"), values.alias("value")])
        best = (
            pl.DataFrame([pl.Series("slot", slots), values.alias("value")])
            .sort("value", descending=self._largest, maintain_order=True)
            .unique("slot", keep="first", maintain_order=True)
        )
        winners = best["slot"].to_numpy()
        self._slab[self._code][winners] = self._codes.encode(best["value"])
        self._slab[self._seen][winners] = True


def make_extreme(slab: Slab, name: str, dtype: pl.DataType, *, largest: bool) -> Accumulator:
    """The accumulator for this type."""
    if dtype.is_integer() or dtype.is_float() or dtype.is_temporal() or dtype == pl.Boolean:
        return NumberExtreme(slab, name, dtype, largest=largest)
    return ValueExtreme(slab, name, dtype, largest=largest)
