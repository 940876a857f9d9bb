"""A user's `Aggregator` over the changes of a table, and the rows that it refused.

- Every call gets a copy of the state (see `custom`); one that raises changes nothing.
- A row that was refused when it came is remembered by its values, so that nothing is subtracted when it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from headrace.engine.aggregates.custom import Custom, CustomTrial
from headrace.engine.aggregates.signed import Multiset, Signed
from headrace.engine.state.arrays import Ints
from headrace.engine.state.slab import Slab
from headrace.flow.aggregator import SubtractorMethods

REFUSED = "#refused"


class SignedCustom(Signed, Custom):
    """Python states, changed row by row in a `SignedTrial`."""

    def __init__(self, slab: Slab, name: str, methods: SubtractorMethods, dtype: pl.DataType) -> None:
        Custom.__init__(self, slab, name, methods, dtype)
        self._subtractor = methods

    def signed_trial(self, values: pl.Series | None) -> SignedTrial:
        """A trial over these values."""
        return SignedTrial(self, self._subtractor, values)

    def empty(self, slot: int) -> None:
        """The state of no rows."""
        self._slab[self._place][slot] = -1


class SignedTrial(CustomTrial):
    """Rows one after the other, added or taken back."""

    def __init__(self, accumulator: SignedCustom, methods: SubtractorMethods, values: pl.Series | None) -> None:
        super().__init__(accumulator, methods, values)
        self._signed, self._subtract = accumulator, methods.subtract
        self._emptied: set[int] = set()

    def change(self, slot: int, row: int, sign: int) -> str:
        """The state of the slot after that row. Raises `RowRefused`."""
        if sign > 0:
            return self.step(self.read(slot), row)
        return self._looked_at(self._subtract, self.read(slot), row)

    def read(self, slot: int) -> str:
        if slot in self._emptied:
            return self._checked(self._methods.init)
        return super().read(slot)

    def put(self, slot: int, state: str) -> None:
        self._emptied.discard(slot)
        super().put(slot, state)

    def empty(self, slot: int) -> None:
        """The slot has no row left, and begins anew."""
        self._texts.pop(slot, None)
        self._emptied.add(slot)

    def finish(self, slots: Mapping[int, int]) -> None:
        super().finish(slots)
        for slot in self._emptied:
            self._signed.empty(slot)


class RefusedRows(Multiset):
    """The rows of each slot that were refused, by the columns that the aggregates read."""

    def __init__(self, slab: Slab, columns: Mapping[str, pl.DataType]) -> None:
        super().__init__(slab, REFUSED, pl.Struct(dict(columns)))
        self._columns = list(columns)

    def encode(self, frame: pl.DataFrame) -> Ints:
        """A code for each row; equal rows have equal ones."""
        return self._codes.encode(frame.select(pl.struct(self._columns).alias("value")).to_series())

    def remember(self, slot: int, code: int) -> None:
        """The row was refused."""
        self._tell(slot, code, 1)

    def take_back(self, slot: int, code: int) -> bool:
        """Whether such a row had been refused; it is forgotten then."""
        _, codes, _ = self._totals.values(np.array([slot]))
        if code not in codes:
            return False
        self._tell(slot, code, -1)
        return True

    def has_any(self, slots: Ints) -> Any:
        """Which slots have refused rows."""
        return self._totals.lengths(slots) > 0

    def _tell(self, slot: int, code: int, amount: int) -> None:
        self._totals.add(np.array([slot]), np.array([code]), np.array([amount]))
