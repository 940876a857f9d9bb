"""Small array kernels that the state rests on.

- Integer arrays are int64 unless a name says otherwise.
- Functions are pure.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.native import native

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]
Name = TypeVar("Name")

NO_INTS: Ints = np.empty(0, np.int64)
DOUBLED_ROWS_MAX = 1 << 18
FAR = 4
SMALL_NUMBER_END = 1 << 15
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix(values: Hashes) -> Hashes:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def hash_ints(columns: Sequence[Ints]) -> Hashes:
    """One 64-bit hash per row of integer columns."""
    wide = [column.astype(np.int64, copy=False).view(np.uint64) for column in columns]
    result = mix(wide[0] + _GOLDEN)
    for column in wide[1:]:
        result = mix((result * _GOLDEN) ^ (column + _GOLDEN))
    return result


def hash_frame(frame: pl.DataFrame) -> Hashes:
    """One 64-bit hash per row; rows that Polars calls equal (nulls, NaN, both zeros too) have equal hashes."""
    return mix(frame.hash_rows(seed=0).to_numpy())


def all_different(hashes: Hashes) -> bool:
    """Whether no value comes twice. A fifth of the time of a sort."""
    return len(hashes) <= 1 or pl.Series(hashes).n_unique() == len(hashes)


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """All positions of the ranges [start, start + length), one range after the other."""
    total = int(lengths.sum())
    if not total:
        return NO_INTS
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(total, dtype=np.int64)


def bisected(values: Ints, begin: Ints, end: Ints, wanted: Ints) -> Ints:
    """For each row the first position in [begin, end) whose value is not below `wanted` (values rise in each range)."""
    low, high = begin.copy(), end.copy()
    searching = np.flatnonzero(low < high)
    while len(searching):
        middle = (low[searching] + high[searching]) // 2
        below = values[middle] < wanted[searching]
        low[searching[below]] = middle[below] + 1
        high[searching[~below]] = middle[~below]
        searching = searching[low[searching] < high[searching]]
    return low


def starts_of_runs(*columns: Array) -> Mask:
    """Where a row differs from the row before it in any of the (sorted) columns; the first row always does."""
    changed = np.zeros(len(columns[0]), np.bool_)
    if len(changed):
        changed[0] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def distinct(slots: Ints) -> Ints:
    """The different values (small and not negative) in order of first appearance. Not to be written to."""
    if len(slots) <= 1:
        return slots
    if native is not None:
        return np.frombuffer(native.distinct_slots(np.ascontiguousarray(slots, np.int64)), np.int64)
    rows = np.arange(len(slots), dtype=np.int64)
    # No sort: scatter and look. Never initialised: only places that were written are read. Backwards, so that the
    # first appearance stays.
    first = np.empty(int(slots.max()) + 1, np.int64)
    first[slots[::-1]] = rows[::-1]
    is_first = first[slots] == rows
    return slots if is_first.all() else slots[is_first]


def distinct_by_last(slots: Ints) -> Ints:
    """The same, in order of last appearance."""
    if native is not None:
        return np.frombuffer(native.distinct_slots(np.ascontiguousarray(slots, np.int64), by_last=True), np.int64)
    return distinct(slots[::-1])[::-1]


def by_small_number(numbers: Array) -> Ints:
    """The order (stable) of rows by a column of integers of few different sizes, as partitions are."""
    if len(numbers) and numbers.min() >= 0 and numbers.max() < SMALL_NUMBER_END:
        # Of 16 bits: then NumPy sorts by digits.
        return np.argsort(numbers.astype(np.int16), kind="stable")
    return np.argsort(numbers, kind="stable")


def next_power_of_two(values: Ints) -> Ints:
    """The smallest powers of two that are not below the (positive) values."""
    exact: Ints = np.int64(1) << np.ceil(np.log2(np.maximum(values, 1))).astype(np.int64)
    return exact


def more_than(capacity: int) -> int:
    """The next size of an array that is full: double, then, since `resize` moves large ones for free, a sixteenth."""
    return capacity + min(capacity, max(DOUBLED_ROWS_MAX // 4, capacity // 16))


def grow(arrays: MutableMapping[Name, Array], name: Name, capacity: int, fill: Any) -> None:
    """Give one of these arrays more rows, filled. Where nobody else holds it, large ones are moved without a copy."""
    array = arrays.pop(name)
    rows = len(array)
    # Far larger: `resize` would write all of it, while cleared memory costs nothing before it is used.
    is_resized = capacity <= FAR * rows
    if is_resized:
        try:
            array.resize((capacity, *array.shape[1:]))
        except ValueError:
            is_resized = False
    if not is_resized:
        grown: Array = np.zeros((capacity, *array.shape[1:]), array.dtype)
        grown[:rows] = array
        array = grown
    if array.dtype.hasobject or fill != 0:
        array[rows:] = fill
    arrays[name] = array
