"""At which place each row stood when it came.

Owns one kernel over arrays, without a loop over rows.
"""

from __future__ import annotations

import numpy as np

from headrace.engine.state.arrays import Ints, starts_of_runs


def smaller_before(values: Ints) -> Ints:
    """For each place of a permutation of 0..n-1, how many smaller values stand before it.

    From the highest bit down, values lie in blocks of equal higher bits, each in the order of their places. Of two
    values, one block tells them apart by its bit: one with the bit set counts those before it in the block without it.
    """
    count = np.zeros(len(values), np.int64)
    place = np.arange(len(values), dtype=np.int64)
    for bit in reversed(range(int(len(values) - 1).bit_length())):
        shifted = values[place] >> bit
        is_zero = (shifted & 1) == 0
        first = np.flatnonzero(starts_of_runs(shifted >> 1))
        lengths = np.diff(np.append(first, len(values)))
        zeros_before = np.cumsum(is_zero) - is_zero
        zeros_before -= np.repeat(zeros_before[first], lengths)
        count[place[~is_zero]] += zeros_before[~is_zero]
        start = np.repeat(first, lengths)
        zeros = np.repeat(np.add.reduceat(is_zero, first, dtype=np.int64), lengths)
        ones_before = np.arange(len(values)) - start - zeros_before
        moved = np.empty_like(place)
        moved[start + np.where(is_zero, zeros_before, zeros + ones_before)] = place
        place = moved
    return count
