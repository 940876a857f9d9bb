"""Accumulators whose rows can be taken back.

Owns what an operator asks of an accumulator over the changes of a table, beyond what `accumulator` says.

- A row comes with a sign: 1 adds its value, -1 takes an equal one back that was added before.
- Adding a value and taking it back leaves the state, and every later result, as if it had never come.
- No row is refused: a result that does not fit its type is null and told by `overflows`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from headrace.engine.aggregates.accumulator import Accumulator, Rows, list_parts, list_series
from headrace.engine.state.arrays import Ints, Mask
from headrace.engine.state.slab import Slab
from headrace.engine.state.totals import Totals
from headrace.engine.state.value_codes import ValueCodes


@dataclass(frozen=True, slots=True)
class SignedRows:
    """Rows on their way into slots or out of them, in order."""

    slots: Ints
    signs: Ints
    """1 or -1."""
    row_time_ms: Ints | None
    """Event time of the table's row that comes or goes; None where no accumulator asks for it."""
    values: pl.Series | None
    """The aggregate's column; None where it has none."""

    def select(self, kept: Mask) -> SignedRows:
        """Some of the rows."""
        times = None if self.row_time_ms is None else self.row_time_ms[kept]
        values = None if self.values is None else self.values.filter(pl.Series(kept))
        return SignedRows(self.slots[kept], self.signs[kept], times, values)


class Signed(Accumulator):
    """Base of accumulators over the changes of a table."""

    def change(self, rows: SignedRows) -> None:
        """Add and take back values; nulls are passed over."""
        if rows.values is not None and rows.values.null_count():
            rows = rows.select(rows.values.is_not_null().to_numpy())
        if len(rows.slots):
            self._change(rows)

    def _change(self, rows: SignedRows) -> None:
        raise AssertionError("a subclass changes")

    def _add(self, rows: Rows) -> None:
        raise AssertionError("rows come with a sign here")

    def overflows(self, slots: Ints) -> Mask:
        """Slots whose result does not fit its type."""
        return np.zeros(len(slots), np.bool_)


class SignedTotals(Signed):
    """Base: state is totals by code (`Totals`)."""

    def __init__(self, slab: Slab, name: str) -> None:
        super().__init__(slab, name)
        self._totals = Totals(slab, name)
        self._whole, self._amounts, self._keys = f"{name}.whole", f"{name}.amounts", f"{name}.codes"

    def state(self, slots: Ints, *, whole: bool) -> list[pl.Series]:
        lengths, codes, amounts = self._totals.values(slots) if whole else self._totals.changes(slots)
        return [
            *super().state(slots, whole=whole),
            pl.Series(self._whole, np.full(len(slots), whole)),
            list_series(self._keys, lengths, self._told(codes)),
            list_series(self._amounts, lengths, pl.Series(amounts)),
        ]

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        super().load(slots, frame)
        lengths, keys = list_parts(frame[self._keys])
        _, amounts = list_parts(frame[self._amounts])
        self._totals.load(slots, frame[self._whole].to_numpy(), lengths, self._untold(keys), amounts.to_numpy())

    def settle(self, changed: Ints) -> None:
        self._totals.settle()

    @property
    def bytes(self) -> int:
        return self._totals.bytes

    def _standing(self, slots: Ints) -> tuple[Ints, Ints, Ints]:
        """Codes and totals above 0, in the form of `Totals.values`.

        A total below 0 is of a value that went without having come: state of the steps above was not of one moment.
        """
        lengths, codes, totals = self._totals.values(slots)
        stands = totals > 0
        if stands.all():
            return lengths, codes, totals
        owners = np.repeat(np.arange(len(slots)), lengths)[stands]
        return np.bincount(owners, minlength=len(slots)), codes[stands], totals[stands]

    def _told(self, codes: Ints) -> pl.Series:
        """Codes as the changelog has them."""
        return pl.Series(codes)

    def _untold(self, told: pl.Series) -> Ints:
        codes: Ints = told.to_numpy()
        return codes


class Multiset(SignedTotals):
    """Base: the values of each slot, and how often each stands there."""

    def __init__(self, slab: Slab, name: str, dtype: pl.DataType) -> None:
        super().__init__(slab, name)
        self._codes = ValueCodes(dtype)

    def _change(self, rows: SignedRows) -> None:
        assert rows.values is not None
        self._totals.add(rows.slots, self._codes.encode(rows.values), rows.signs)

    def settle(self, changed: Ints) -> None:
        super().settle(changed)
        if self._codes.wants_retain:
            self._codes.retain(self._totals.codes_in_use())

    @property
    def bytes(self) -> int:
        return super().bytes + self._codes.bytes

    def _each(self, slots: Ints) -> tuple[Ints, Ints]:
        """How many values each slot has, repeats included, and their codes, one slot after the other."""
        lengths, codes, counts = self._standing(slots)
        owners = np.repeat(np.arange(len(slots)), lengths)
        return np.bincount(owners, counts, minlength=len(slots)).astype(np.int64), np.repeat(codes, counts)

    def _told(self, codes: Ints) -> pl.Series:
        return self._codes.decode(codes)

    def _untold(self, told: pl.Series) -> Ints:
        return self._codes.encode(told.cast(self._codes.dtype))
