"""quantile(): exact, or a sketch of known relative accuracy.

- Exact: all values are kept; linear interpolation between neighbours at q * (n - 1), as SQL's percentile_cont, with the
  roundings of Polars' `quantile(q, "linear")`.
- With `accuracy`: DDSketch, counts by logarithmic bucket; a result is within `accuracy` of an exact neighbour value,
  relatively. State is bounded by the spread of the values, not by their number.
- Both are functions of the set of values: order, batches and merges do not matter.
- NaN is larger than every number. Null when no value was added.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Accumulator, Rows, list_parts, list_series, with_nulls
from headrace.engine.aggregates.limbs import Floats
from headrace.engine.aggregates.value_lists import ValueLists
from headrace.engine.state.arrays import Ints, distinct, starts_of_runs
from headrace.engine.state.slab import Slab
from headrace.engine.state.slot_lists import SlotLists
from headrace.engine.state.value_codes import canonical_floats

_ZERO = 0
_OFFSET = 1 << 40
"""Buckets of positive values are above it, of negative values below its negation; between them lies zero."""
_INFINITY, _NAN = 1 << 50, 1 << 51
_TINY = 5e-324


class ExactQuantile(ValueLists):
    """Keeps all values, as doubles."""

    def __init__(self, slab: Slab, name: str, q: float) -> None:
        super().__init__(slab, name, pl.Float64())
        self._q = q

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        self._lists.append(rows.slots, self._codes.encode(rows.values.cast(pl.Float64)))

    def merge(self, into: Ints, other: Ints) -> None:
        lengths, (codes,) = self._lists.values(other)
        self._lists.append(np.repeat(into, lengths), codes)

    def result(self, slots: Ints) -> pl.Series:
        lengths, (codes,) = self._lists.values(slots)
        return quantiles_of(lengths, codes.view(np.float64), self._q).alias(self.name)


def quantiles_of(lengths: Ints, values: Floats, q: float) -> pl.Series:
    """The quantile of each run of values; runs have these lengths."""
    if not len(values):
        return pl.Series([None] * len(lengths), dtype=pl.Float64)
    values = values[np.lexsort((values, np.repeat(np.arange(len(lengths)), lengths)))]
    starts = np.cumsum(lengths) - lengths
    position = np.maximum(lengths - 1, 0) * q
    lower = np.floor(position).astype(np.int64)
    upper = np.ceil(position).astype(np.int64)
    last = len(values) - 1
    quantiles = _between(
        values[np.minimum(starts + lower, last)], values[np.minimum(starts + upper, last)], position - lower
    )
    return with_nulls(pl.Series(quantiles), lengths == 0)


def _between(low: Floats, high: Floats, part: Floats) -> Floats:
    """Linear interpolation; exact where nothing lies between."""
    with np.errstate(invalid="ignore", over="ignore"):
        spread = high - low
        # Ends of opposite sign may be further apart than a double is large.
        mixed = np.where(np.isinf(spread) & np.isfinite(high), low * (1.0 - part) + high * part, low + spread * part)
    return np.where((part == 0) | (low == high) | np.isneginf(low), low, mixed)


class Buckets:
    """Logarithmic buckets of known accuracy: bucket i holds the values in (gamma**(i-1), gamma**i]."""

    def __init__(self, accuracy: float) -> None:
        self._gamma = (1 + accuracy) / (1 - accuracy)

    def of(self, values: pl.Series) -> Ints:
        """The bucket of each value."""
        return self._bucket(canonical_floats(values))

    def quantiles(self, lengths: Ints, buckets: Ints, counts: Ints, q: float) -> pl.Series:
        """The quantile of each run of (ascending) buckets and their counts; runs have these lengths."""
        if not len(buckets):
            return pl.Series([None] * len(lengths), dtype=pl.Float64)
        owners = np.repeat(np.arange(len(lengths)), lengths)
        totals = np.bincount(owners, counts, minlength=len(lengths)).astype(np.int64)
        rank = np.floor(np.maximum(totals - 1, 0) * q).astype(np.int64)
        before = np.cumsum(totals) - totals
        at = np.searchsorted(np.cumsum(counts), before + rank, side="right")
        found = self._middle(buckets[np.minimum(at, len(buckets) - 1)])
        return with_nulls(pl.Series(found), totals == 0)

    def _bucket(self, values: Floats) -> Ints:
        size = np.maximum(np.where(np.isfinite(values), np.abs(values), 1.0), _TINY)
        bucket = _OFFSET + np.ceil(np.log(size) / math.log(self._gamma)).astype(np.int64)
        bucket = np.where(values < 0, -bucket, bucket)
        bucket = np.where(values == 0, _ZERO, bucket)
        bucket = np.where(np.isinf(values), np.where(values > 0, _INFINITY, -_INFINITY), bucket)
        return np.where(np.isnan(values), _NAN, bucket)

    def _middle(self, buckets: Ints) -> Floats:
        """The value with the smallest relative distance to both ends of its bucket."""
        number = np.where(np.abs(buckets) < _INFINITY, np.abs(buckets) - _OFFSET, 0)
        with np.errstate(over="ignore", under="ignore"):
            size = 2.0 / (self._gamma + 1.0) * np.exp(number * math.log(self._gamma))
        size = np.minimum(size, np.finfo(np.float64).max)
        size = np.where(np.abs(buckets) == _INFINITY, np.inf, size)
        result = np.where(buckets == _ZERO, 0.0, np.sign(buckets) * size)
        return np.where(buckets == _NAN, np.nan, result)


class SketchQuantile(Accumulator):
    """Counts by bucket."""

    tells_all = True

    def __init__(self, slab: Slab, name: str, q: float, accuracy: float) -> None:
        super().__init__(slab, name)
        self._q, self._by = q, Buckets(accuracy)
        self._lists = SlotLists(slab, name, [np.int64, np.int64])
        self._buckets, self._counts = f"{name}.buckets", f"{name}.counts"

    def _add(self, rows: Rows) -> None:
        assert rows.values is not None
        buckets = self._by.of(rows.values)
        self._offer(rows.slots, buckets, np.ones(len(buckets), np.int64))

    def merge(self, into: Ints, other: Ints) -> None:
        lengths, (buckets, counts) = self._lists.values(other)
        self._offer(np.repeat(into, lengths), buckets, counts)

    def result(self, slots: Ints) -> pl.Series:
        lengths, (buckets, counts) = self._lists.values(slots)
        return self._by.quantiles(lengths, buckets, counts, self._q).alias(self.name)

    def state(self, slots: Ints, *, whole: bool) -> list[pl.Series]:
        lengths, (buckets, counts) = self._lists.values(slots)
        return [
            list_series(self._buckets, lengths, pl.Series(buckets)),
            list_series(self._counts, lengths, pl.Series(counts)),
        ]

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        lengths, buckets = list_parts(frame[self._buckets])
        _, counts = list_parts(frame[self._counts])
        self._lists.replace(slots, lengths, buckets.to_numpy(), counts.to_numpy())

    def settle(self, changed: Ints) -> None:
        self._lists.settle()

    @property
    def bytes(self) -> int:
        return self._lists.bytes

    def _offer(self, slots: Ints, buckets: Ints, counts: Ints) -> None:
        held = distinct(slots)
        lengths, (held_buckets, held_counts) = self._lists.values(held)
        slots = np.concatenate([np.repeat(held, lengths), slots])
        buckets, counts = np.concatenate([held_buckets, buckets]), np.concatenate([held_counts, counts])
        order = np.lexsort((buckets, slots))
        slots, buckets = slots[order], buckets[order]
        starts = np.flatnonzero(starts_of_runs(slots, buckets))
        if not len(starts):
            return
        counts = np.add.reduceat(counts[order], starts)
        owners = slots[starts]
        first = np.flatnonzero(starts_of_runs(owners))
        self._lists.replace(owners[first], np.diff(np.append(first, len(owners))), buckets[starts], counts)
