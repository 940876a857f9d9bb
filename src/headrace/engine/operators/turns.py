"""Changes of two tables, key by key, in the order in which they happened.

Owns how rows of two inputs are put into one order, and looks along the rows of a key without a loop over rows.

- The order is `SEQUENCE`, and after the record that it comes from what a join made of it. What does not say which
  record it comes from comes last: as it would if each record had a commit of its own.
- Functions are pure; `first` is always the index of the first row of a row's key.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl

from headrace.engine.operator import DELETED, SEQUENCE, STREAM_TIME, TIME
from headrace.engine.state.arrays import Ints, Mask, starts_of_runs

LEFT, RIGHT = 0, 1


class Origin(enum.IntEnum):
    """Where a table's rows come from."""

    READ = 0
    """A topic."""
    JOINED = 1
    """A flush, with the `SEQUENCE` of the row that was the cause."""
    MADE = 2
    """A flush, numbered in their own order."""


Values = TypeVar("Values", Ints, Mask)


@dataclass(frozen=True, slots=True)
class Turns:
    """Rows of two inputs, sorted by slot, those of one slot in their order."""

    slot: Ints
    side: Ints
    row: Ints
    """In the frame of its side."""
    place: Ints
    """In the order of all rows."""
    sequence: Ints
    time_ms: Ints
    stream_time_ms: Ints
    alive: Mask
    """Not a deletion."""
    first: Ints

    def __len__(self) -> int:
        return len(self.slot)


def in_turn(frames: Sequence[pl.DataFrame], slots: Sequence[Ints], origins: Sequence[Origin]) -> Turns:
    """The rows of both frames; `slots` are those of their keys."""
    heights = [frame.height for frame in frames]
    side = np.repeat(np.array([LEFT, RIGHT], np.int64), heights)
    row = np.concatenate([np.arange(height, dtype=np.int64) for height in heights])
    sequence, origin = _numbers(frames, SEQUENCE), np.array(origins)[side]
    order = np.lexsort((origin, sequence, origin == Origin.MADE))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    slot = np.concatenate(slots)
    by_slot = np.lexsort((place, slot))
    alive = ~np.concatenate([frame[DELETED].to_numpy() for frame in frames])
    return Turns(
        slot[by_slot],
        side[by_slot],
        row[by_slot],
        place[by_slot],
        sequence[by_slot],
        _numbers(frames, TIME)[by_slot],
        _numbers(frames, STREAM_TIME)[by_slot],
        alive[by_slot],
        first_of_run(slot[by_slot]),
    )


def _numbers(frames: Sequence[pl.DataFrame], name: str) -> Ints:
    return np.concatenate([frame[name].to_numpy() for frame in frames])


def first_of_run(values: Ints) -> Ints:
    """For each place of a sorted array, where its run of equal values begins."""
    at = np.arange(len(values), dtype=np.int64)
    first: Ints = np.maximum.accumulate(np.where(starts_of_runs(values), at, 0))
    return first


def latest(marked: Mask, first: Ints) -> Ints:
    """For each row the last marked row of its run up to and including it, -1 where there is none."""
    found = np.maximum.accumulate(np.where(marked, np.arange(len(marked)), -1))
    result: Ints = np.where(found >= first, found, -1)
    return result


def before(values: Values, first: Ints, at_first: Values) -> Values:
    """For each row the value of the row before it in its run; the first row's is in `at_first`."""
    shifted = np.concatenate([values[:1], values[:-1]])
    result: Values = np.where(first == np.arange(len(first)), at_first, shifted)
    return result


def not_older(slots: Ints, time_ms: Ints, known_ms: Ints) -> Mask:
    """Which rows are not older than those before them of the same slot, nor than `known_ms` (by row)."""
    order = np.argsort(slots, kind="stable")
    times, run = np.unique(time_ms[order], return_inverse=True)
    # Ranks instead of times: so the running maximum of all slots is one call.
    floor = np.cumsum(starts_of_runs(slots[order])) * len(times)
    newest = times[np.maximum.accumulate(floor + run) - floor]
    result = np.empty(len(slots), np.bool_)
    result[order] = time_ms[order] >= np.maximum(newest, known_ms[order])
    return result


def last_of_runs(slots: Ints) -> Mask:
    """Where the runs of a sorted array end."""
    ends = np.empty(len(slots), np.bool_)
    ends[:-1] = slots[1:] != slots[:-1]
    ends[-1:] = True
    return ends
