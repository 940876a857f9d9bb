"""When the answers of a foreign-key join change: a calculation over columns, without state.

Owns the rule of when a match speaks. A left key goes through *intervals*: from one of its subscriptions to the next.
In each it has one foreign key, whose right row comes and goes (`RightRows`).

- An answer is due after each record that leaves a result or takes one away, and after each `SUBSCRIBE`.
- Of all records of one call, the last that makes an answer due is the one whose times count.
- A left key that has left (`LEAVE`) owes nothing of what was due before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.engine.operators.foreign_key import Instruction
from headrace.engine.operators.pending import Touched
from headrace.engine.operators.turns import Values, before, first_of_run, last_of_runs, latest
from headrace.engine.state.arrays import Ints, Mask
from headrace.engine.stream_time import BEFORE_ALL_MS

PRIOR = -1
"""Instead of an instruction: the interval began before this call."""
NEVER = -1
"""Instead of a change: there was none in this call."""


@dataclass(frozen=True, slots=True)
class RightRows:
    """Changes of right rows in this call, by slot and place in the order of all records, and what was before.

    A slot of -1 is a right key that has no row all the time.
    """

    slot: Ints
    place: Ints
    time_ms: Ints
    stream_time_ms: Ints
    alive: Mask
    was_alive: Ints
    """By slot, before this call: 1 where there is a row."""
    was_time_ms: Ints
    """By slot: its time."""
    places: int

    def at(self, slots: Ints, places: Ints) -> Ints:
        """The last change of each slot before a place, `NEVER` where there is none."""
        width = self.places + 2
        found = np.searchsorted(self.slot * width + self.place, slots * width + places, "left") - 1
        is_own = (found >= 0) & (slots >= 0)
        is_own[is_own] = self.slot[found[is_own]] == slots[is_own]
        result: Ints = np.where(is_own, found, NEVER)
        return result

    def is_alive(self, slots: Ints, changes: Ints) -> Mask:
        """Whether there is a right row after these changes."""
        result: Mask = _chosen(changes, self.alive, (slots >= 0) & (self.was_alive[slots] == 1))
        return result

    def times(self, slots: Ints, changes: Ints) -> Ints:
        """The time of the right row after these changes; before everything where there is none."""
        time_ms = _chosen(changes, self.time_ms, self.was_time_ms[slots])
        result: Ints = np.where(self.is_alive(slots, changes), time_ms, BEFORE_ALL_MS)
        return result

    def ends(self) -> Ints:
        """For each change the last one up to it that took the row away."""
        first = first_of_run(self.slot)
        was_alive = before(self.alive, first, self.was_alive[self.slot] == 1)
        return latest(was_alive & ~self.alive, first)


def _at(values: Values, index: Ints) -> Values:
    """Values by index; -1 takes any."""
    result: Values = values[index] if len(values) else np.zeros(len(index), values.dtype)
    return result


def _chosen(changes: Ints, values: Values, otherwise: Values) -> Values:
    result: Values = np.where(changes >= 0, _at(values, changes), otherwise)
    return result


@dataclass(frozen=True, slots=True)
class Intervals:
    """Sorted by slot, those of one slot in their order."""

    slot: Ints
    """Of the subscription."""
    place: Ints
    """Where it begins in the order of all records; -1 for `PRIOR`."""
    right: Ints
    """Slot of the right key; -1 for one without a row."""
    instruction: Ints
    time_ms: Ints
    """Of the left row."""
    stream_time_ms: Ints


@dataclass(frozen=True, slots=True)
class Due:
    """What came of a call."""

    touched: Touched
    """In order of the records that made an answer due."""
    left: Ints
    """Slots whose earlier answers are not due any more."""


def due(intervals: Intervals, rights: RightRows, *, is_left: bool) -> Due:
    """The answers that are due after this call."""
    first = first_of_run(intervals.slot)
    subscribed = intervals.instruction < Instruction.LEAVE
    begin, end = _changes_around(intervals, rights)
    at_begin, at_end = (subscribed & (is_left | rights.is_alive(intervals.right, each)) for each in (begin, end))
    speaks = _speaks_at_begin(intervals, at_begin, at_end, first, is_left=is_left)
    change = np.where(subscribed, _last_spoken(rights, begin, end, at_end, is_left=is_left), NEVER)
    leave = latest(intervals.instruction == Instruction.LEAVE, first)
    spoken = np.flatnonzero(((change >= 0) | speaks) & (np.arange(len(first)) > _last_of_run(leave, intervals.slot)))
    last = spoken[last_of_runs(intervals.slot[spoken])]
    place = _chosen(change, rights.place, intervals.place)[last]
    last = last[np.argsort(place, kind="stable")]
    own_ms = np.maximum(intervals.time_ms, rights.times(intervals.right, begin))
    change_ms = np.maximum(_at(rights.time_ms, change), intervals.time_ms)
    time_ms = np.where(change >= 0, change_ms, own_ms)
    stream_time_ms = _chosen(change, rights.stream_time_ms, intervals.stream_time_ms)
    touched = Touched(intervals.slot, time_ms, stream_time_ms).select(last)
    return Due(touched, intervals.slot[leave >= 0])


def _changes_around(intervals: Intervals, rights: RightRows) -> tuple[Ints, Ints]:
    """The last right change before each interval's begin, and before its end."""
    following = np.concatenate([intervals.place[1:], [0]])
    ends = np.where(last_of_runs(intervals.slot), rights.places, following)
    return rights.at(intervals.right, intervals.place), rights.at(intervals.right, ends)


def _speaks_at_begin(intervals: Intervals, at_begin: Mask, at_end: Mask, first: Ints, *, is_left: bool) -> Mask:
    """Whether the record that begins an interval makes an answer due."""
    # What was before an interval that is the first is not known here: then it speaks.
    stood = before(at_end, first, np.ones(len(first), np.bool_))
    instruction = intervals.instruction
    changes = at_begin | stood | is_left
    result: Mask = (instruction == Instruction.SUBSCRIBE) | (
        np.isin(instruction, [Instruction.RENEW, Instruction.DELETE]) & changes
    )
    return result


def _last_spoken(rights: RightRows, begin: Ints, end: Ints, at_end: Mask, *, is_left: bool) -> Ints:
    """The last right change inside each interval that makes an answer due."""
    changed = end > begin
    if is_left:
        every: Ints = np.where(changed, end, NEVER)
        return every
    ended = _chosen(end, rights.ends(), np.full(len(end), NEVER))
    at_last = np.where(at_end, end, ended)
    result: Ints = np.where(changed & (at_last > begin), at_last, NEVER)
    return result


def _last_of_run(values: Ints, slots: Ints) -> Ints:
    """For each row the value of the last row of its run."""
    ends = np.flatnonzero(last_of_runs(slots))
    counts = np.diff(np.concatenate([[-1], ends]))
    result: Ints = np.repeat(values[ends], counts)
    return result
