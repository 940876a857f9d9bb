"""Sums of doubles, and of their squares, from which terms can be taken back.

Owns the sparse limbs of such sums. Unlike the windowed sums of `limbs`, nothing is cut off at the lower end: a small
term must still be there when a large one that came with it is gone.

- Exact: a sum is a function of the terms that are left, whatever came and went.
- NaN and the infinities are counted, so that they can be taken back too.
- State: 16 bytes for each 32-bit limb that is not zero, two or three of them for numbers of like size.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from headrace.engine.aggregates import limbs
from headrace.engine.aggregates.accumulator import to_array
from headrace.engine.aggregates.limbs import Flags, Floats, Limbs
from headrace.engine.aggregates.signed import SignedRows, SignedTotals
from headrace.engine.state.arrays import Ints
from headrace.engine.state.slab import Slab

DENSE_ROWS_MAX = 16_384
"""Sums that are laid out densely at once: one sum of numbers of very unlike size makes all of them wide."""
_ROOM = 1 << 61
"""A limb beyond it is carried."""


class ExactDoubles(SignedTotals):
    """A sum of doubles by slot; its codes are numbers of limbs."""

    def __init__(self, slab: Slab, name: str, *, squares: bool) -> None:
        super().__init__(slab, name)
        self._squares = squares
        self._origin_bits = limbs.SQUARES_ORIGIN_BITS if squares else limbs.ORIGIN_BITS
        self._special = self._part("special", np.int64, width=3)

    def _change(self, rows: SignedRows) -> None:
        assert rows.values is not None
        values = to_array(rows.values, pl.Float64())
        finite = np.isfinite(values)
        if not finite.all():
            self._count_specials(rows.slots[~finite], values[~finite], rows.signs[~finite])
        self._add_finite(rows.slots[finite], values[finite], rows.signs[finite])

    def load(self, slots: Ints, frame: pl.DataFrame) -> None:
        super().load(slots, frame)
        self._carry(slots)

    def quotient(self, slots: Ints, divisor: Floats) -> Floats:
        """The sums, divided; not finite where a term was not."""
        pieces = [np.empty(0)]
        for start in range(0, len(slots), DENSE_ROWS_MAX):
            part = slice(start, start + DENSE_ROWS_MAX)
            number, exponent = limbs.rounded(*self.dense(slots[part]))
            with np.errstate(over="ignore"):
                pieces.append(np.ldexp(number / divisor[part], exponent))
        return limbs.with_specials(self.specials(slots), np.concatenate(pieces))

    def dense(self, slots: Ints) -> tuple[Limbs, Limbs]:
        """The finite sums as rows of limbs, and the power of two of each row's first one."""
        lengths, codes, totals = self._totals.values(slots)
        ends = np.cumsum(lengths)
        lowest, highest = np.zeros(len(slots), np.int64), np.zeros(len(slots), np.int64)
        filled = lengths > 0
        lowest[filled], highest[filled] = codes[(ends - lengths)[filled]], codes[ends[filled] - 1]
        width = int((highest - lowest).max(initial=0)) + 1
        # One limb more than there is: what a limb holds may reach into the next.
        made = np.zeros((len(slots), width + 1), np.int64)
        owners = np.repeat(np.arange(len(slots)), lengths)
        made[owners, codes - lowest[owners]] = totals
        return made, limbs.LIMB_BITS * lowest - self._origin_bits

    def specials(self, slots: Ints) -> Flags:
        """Which of NaN and the infinities are among the terms."""
        counts = self._slab[self._special][slots] > 0
        flags = np.array([limbs.HAS_NAN, limbs.HAS_PLUS_INFINITY, limbs.HAS_MINUS_INFINITY], np.uint8)
        found: Flags = (counts * flags).sum(axis=1, dtype=np.uint8)
        return found

    def _count_specials(self, slots: Ints, values: Floats, signs: Ints) -> None:
        special = np.where(np.isnan(values), 0, np.where(values > 0, 1, 2))
        np.add.at(self._slab[self._special], (slots, special), signs)

    def _add_finite(self, slots: Ints, values: Floats, signs: Ints) -> None:
        mantissa, exponent, negative, nonzero = limbs.split_doubles(values)
        slots, signs = slots[nonzero], signs[nonzero]
        if not self._squares:
            self._deposit(slots, mantissa, exponent, np.where(negative, -signs, signs))
            return
        exponent = 2 * exponent
        high, low = mantissa >> 27, mantissa & ((1 << 27) - 1)
        self._deposit(
            np.concatenate([slots] * 3),
            np.concatenate([low * low, 2 * high * low, high * high]),
            np.concatenate([exponent, exponent + 27, exponent + 54]),
            np.concatenate([signs] * 3),
        )

    def _deposit(self, slots: Ints, number: Ints, exponent: Ints, signs: Ints) -> None:
        limb, pieces = limbs.limb_pieces(number, exponent)
        amounts = np.concatenate([signs * piece for piece in pieces])
        kept = amounts != 0
        owners = np.concatenate([slots] * 3)[kept]
        totals = self._totals.add(owners, np.concatenate([limb, limb + 1, limb + 2])[kept], amounts[kept])
        if np.abs(totals).max(initial=0) > _ROOM:
            self._carry(np.unique(owners))

    def _carry(self, slots: Ints) -> None:
        """Carry limbs that are about to run out of room."""
        lengths, codes, totals = self._totals.values(slots)
        tight = np.abs(totals) > _ROOM
        if not tight.any():
            return
        owners, codes = np.repeat(slots, lengths)[tight], codes[tight]
        carried = totals[tight] >> limbs.LIMB_BITS
        self._totals.add(
            np.concatenate([owners, owners]),
            np.concatenate([codes, codes + 1]),
            np.concatenate([-(carried << limbs.LIMB_BITS), carried]),
        )
