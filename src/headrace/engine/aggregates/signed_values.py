"""min(), max(), quantile(), count_distinct(), top_k(), first(), last() and collect() over the changes of a table.

- All values of a group are kept, for any of them may be the next answer when others are taken back.
- `min`, `max`, `quantile`, `count_distinct` and `top_k` keep each different value once, with a count.
- `first`, `last` and `collect` keep the values in the order they came; taking a value back takes the first equal one
  (`first` and `last`: equal in event time too). `first` and `last` go by the event time of the table's rows.
- Results are those of the accumulators without signs (`extremes`, `quantiles`, `value_lists`, `edges`).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import list_parts, list_series
from headrace.engine.aggregates.quantiles import Buckets, quantiles_of
from headrace.engine.aggregates.signed import Multiset, Signed, SignedRows, SignedTotals
from headrace.engine.state.arrays import Ints, Mask, ranges, starts_of_runs
from headrace.engine.state.slab import Slab
from headrace.engine.state.slot_lists import SlotLists
from headrace.engine.state.value_codes import ValueCodes


class SignedExtreme(Multiset):
    """Smallest or largest value of any type with an order."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType, *, largest: bool) -> None:
        super().__init__(slab, name, dtype)
        self._largest = largest

    def result(self, slots: Ints) -> pl.Series:
        lengths, codes, _ = self._standing(slots)
        owners = np.repeat(np.arange(len(slots)), lengths)
        # Sorting puts NaN last, above every number.
        best = (
            pl.DataFrame([pl.Series("slot", owners), self._codes.decode(codes).alias("value")])
            .sort("slot", "value", descending=[False, self._largest])
            .unique("slot", keep="first", maintain_order=True)
        )
        missing = lengths == 0
        return _spread_out(best["value"], missing).alias(self.name)


class SignedCountDistinct(Multiset):
    """How many different values."""

    def result(self, slots: Ints) -> pl.Series:
        return pl.Series(self.name, self._standing(slots)[0])


class SignedQuantile(Multiset):
    """Exact quantile."""

    def __init__(self, slab: Slab, name: str, q: float) -> None:
        super().__init__(slab, name, pl.Float64())
        self._q = q

    def _change(self, rows: SignedRows) -> None:
        assert rows.values is not None
        self._totals.add(rows.slots, self._codes.encode(rows.values.cast(pl.Float64)), rows.signs)

    def result(self, slots: Ints) -> pl.Series:
        lengths, codes = self._each(slots)
        return quantiles_of(lengths, codes.view(np.float64), self._q).alias(self.name)


class SignedSketch(SignedTotals):
    """Quantile from counts by bucket."""

    def __init__(self, slab: Slab, name: str, q: float, accuracy: float) -> None:
        super().__init__(slab, name)
        self._q, self._by = q, Buckets(accuracy)

    def _change(self, rows: SignedRows) -> None:
        assert rows.values is not None
        self._totals.add(rows.slots, self._by.of(rows.values), rows.signs)

    def result(self, slots: Ints) -> pl.Series:
        return self._by.quantiles(*self._standing(slots), self._q).alias(self.name)


class SignedTopK(Multiset):
    """The `k` largest values, largest first, repeats included."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType, k: int) -> None:
        super().__init__(slab, name, dtype)
        self._k = k

    def result(self, slots: Ints) -> pl.Series:
        lengths, codes, counts = self._standing(slots)
        owners = np.repeat(np.arange(len(slots)), lengths)
        values = self._codes.decode(codes).alias("value")
        repeats = pl.Series("count", np.minimum(counts, self._k))
        ordered = pl.DataFrame([pl.Series("slot", owners), values, repeats]).sort(
            "slot", "value", descending=[False, True]
        )
        before, each = _places(ordered["slot"].to_numpy(), ordered["count"].to_numpy())
        kept = np.clip(self._k - before, 0, each)
        taken = ordered["value"].gather(np.repeat(np.arange(ordered.height), kept))
        found = np.bincount(ordered["slot"].to_numpy(), kept, minlength=len(slots)).astype(np.int64)
        return list_series(self.name, found, taken)


def _places(owners: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """How many values of the same owner lie before each row, and the rows' counts."""
    before = np.cumsum(counts) - counts
    starts = np.flatnonzero(starts_of_runs(owners))
    lengths = np.diff(np.append(starts, len(owners)))
    return before - np.repeat(before[starts], lengths), counts


def _spread_out(values: pl.Series, missing: Mask) -> pl.Series:
    """The values in order, with a null in each place that is missing."""
    if not missing.any():
        return values
    return values.gather(pl.Series(np.cumsum(~missing) - 1).set(pl.Series(missing), None))


class _InOrder(Signed):
    """Base: the values of each slot in the order they came, in lists of one or more columns that tell them apart."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType, columns: int) -> None:
        super().__init__(slab, name)
        self._codes = ValueCodes(dtype)
        self._lists = SlotLists(slab, name, [np.int64] * columns)
        self._base, self._values = f"{name}.base", f"{name}.values"

    def _change_lists(self, slots: Ints, signs: Ints, columns: list[Ints]) -> None:
        """`columns` are the values' codes, and what else tells values apart."""
        shrinking = np.unique(slots[signs < 0])
        apart = np.isin(slots, shrinking)
        self._lists.append(slots[~apart], *(column[~apart] for column in columns))
        if len(shrinking):
            self._rebuild(shrinking, slots[apart], signs[apart], [column[apart] for column in columns])

    def _rebuild(self, held: Ints, slots: Ints, signs: Ints, columns: list[Ints]) -> None:
        lengths, before = self._lists.values(held)
        owners = np.concatenate([np.repeat(held, lengths), slots])
        all_signs = np.concatenate([np.ones(int(lengths.sum()), np.int64), signs])
        every = [np.concatenate([old, new]) for old, new in zip(before, columns, strict=True)]
        left = np.flatnonzero(_stays(owners, all_signs, every))
        left = left[np.argsort(owners[left], kind="stable")]
        counts = np.searchsorted(owners[left], held, "right") - np.searchsorted(owners[left], held, "left")
        self._lists.replace(held, counts, *(column[left] for column in every))

    def settle(self, changed: Ints) -> None:
        self._lists.settle()
        if self._codes.wants_retain:
            self._codes.retain(self._lists.values(self._slab.live())[1][0])

    @property
    def bytes(self) -> int:
        return self._lists.bytes + self._codes.bytes

    def _told(self, slots: Ints, *, whole: bool) -> tuple[Ints, Ints, list[Ints]]:
        """Per slot how many values stand as they did at the last commit, and how many come behind them; those."""
        base = np.zeros(len(slots), np.int64) if whole else self._unchanged(slots)
        lengths, columns = self._lists.values(slots, base)
        return base, lengths, columns

    def _unchanged(self, slots: Ints) -> Ints:
        """How many values at the beginning of each list are those of the last commit."""
        old_lengths, old = self._lists.committed_values(slots)
        shared = np.minimum(old_lengths, self._lists.lengths(slots))
        places = ranges(np.zeros(len(slots), np.int64), shared)
        now_at = ranges(_starts(self._lists.lengths(slots)), shared)
        old_at = ranges(_starts(old_lengths), shared)
        _, now = self._lists.values(slots)
        differs = np.zeros(len(places), np.bool_)
        for mine, theirs in zip(now, old, strict=True):
            differs |= mine[now_at] != theirs[old_at]
        owners = np.repeat(np.arange(len(slots)), shared)
        np.minimum.at(shared, owners[differs], places[differs])
        return shared

    def state(self, slots: Ints, *, whole: bool) -> list[pl.Series]:
        base, lengths, columns = self._told(slots, whole=whole)
        return [
            pl.Series(self._base, base),
            list_series(self._values, lengths, self._codes.decode(columns[0])),
            *self._more_state(lengths, columns),
        ]

    def _more_state(self, lengths: Ints, columns: list[Ints]) -> list[pl.Series]:
        return []

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        self._lists.cut(slots, frame[self._base].to_numpy())
        lengths, values = list_parts(frame[self._values])
        codes = self._codes.encode(values.cast(self._codes.dtype))
        self._lists.append(np.repeat(slots, lengths), codes, *self._more_loaded(frame))

    def _more_loaded(self, frame: pl.DataFrame) -> list[Ints]:
        return []


def _starts(lengths: Ints) -> Ints:
    starts: Ints = np.cumsum(lengths) - lengths
    return starts


def _stays(owners: Ints, signs: Ints, columns: list[Ints]) -> Mask:
    """Which rows are left when each row of sign -1 takes the first equal one of its owner away."""
    order = np.lexsort((*columns, owners))
    runs = starts_of_runs(owners[order], *(column[order] for column in columns))
    run = np.cumsum(runs) - 1
    taken = np.bincount(run, signs[order] < 0).astype(np.int64)
    comes = (signs[order] > 0).astype(np.int64)
    total = np.cumsum(comes)
    rank = total - (total - comes)[runs][run]
    stays = np.zeros(len(owners), np.bool_)
    stays[order] = (comes > 0) & (rank > taken[run])
    return stays


class SignedEdge(_InOrder):
    """first() and last(): the value of the row with the earliest or latest event time."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType, *, last: bool) -> None:
        super().__init__(slab, name, dtype, columns=2)
        self._last, self._times = last, f"{name}.times"

    def _change(self, rows: SignedRows) -> None:
        assert rows.values is not None
        assert rows.row_time_ms is not None, "the flow passes the rows' times on"
        self._change_lists(rows.slots, rows.signs, [self._codes.encode(rows.values), rows.row_time_ms])

    def result(self, slots: Ints) -> pl.Series:
        lengths, (codes, times) = self._lists.values(slots)
        # By time and then arrival; of the latest the last one, of the earliest the first.
        order = np.lexsort((times, np.repeat(np.arange(len(slots)), lengths)))
        missing = lengths == 0
        ends = np.cumsum(lengths)[~missing]
        at = order[ends - 1 if self._last else ends - lengths[~missing]]
        return _spread_out(self._codes.decode(codes[at]), missing).alias(self.name)

    def _more_state(self, lengths: Ints, columns: list[Ints]) -> list[pl.Series]:
        return [list_series(self._times, lengths, pl.Series(columns[1]))]

    def _more_loaded(self, frame: pl.DataFrame) -> list[Ints]:
        return [list_parts(frame[self._times])[1].to_numpy()]


class SignedCollect(_InOrder):
    """The first `limit` values in order of arrival."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType, limit: int) -> None:
        super().__init__(slab, name, dtype, columns=1)
        self._limit = limit

    def _change(self, rows: SignedRows) -> None:
        assert rows.values is not None
        self._change_lists(rows.slots, rows.signs, [self._codes.encode(rows.values)])

    def result(self, slots: Ints) -> pl.Series:
        lengths, (codes,) = self._lists.values(slots)
        shown = np.minimum(lengths, self._limit)
        return list_series(self.name, shown, self._codes.decode(codes[ranges(_starts(lengths), shown)]))
