"""The keys that one pass of a `process` step works on: their states and timers as Python values.

Owns what is between the stores and the user's calls. A pass loads the keys of its rows and the timers that may fire,
and writes back what changed.

- A key is known by its slot in the store of states, made for the time of the pass where it has no state yet.
- A timer that is set in the pass and due by event time fires in it; one of the clock waits for the next pass.
- A timer that was set, moved, taken back or fired in this pass is in `_changed`, and that counts; else the store does.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from headrace.engine.operator import PARTITION
from headrace.engine.operators.process_call import Timer
from headrace.engine.state.arrays import NO_INTS, Ints, distinct
from headrace.engine.state.keyed_rows import KeyedRows

STATE = "__state"
TIMER_NAME = "__timer"
TIMER_TIME, TIMER_STREAM_TIME, TIMER_IS_WALL = "time_ms", "stream_time_ms", "is_wall"

Order = tuple[tuple[bool, Any], ...]
"""Compares keys, nulls first."""


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """A timer in its turn: by time, then key, then name."""

    time_ms: int
    order: Order
    name: str
    slot: int
    stream_time_ms: int
    is_wall: bool


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the pass."""

    partition: int
    values: Mapping[str, Any]
    order: Order


class WorkingKeys:
    """States and timers of the keys of one pass, over event time or `by_clock`."""

    def __init__(self, states: KeyedRows, timers: KeyedRows, *, by_clock: bool = False) -> None:
        self._states, self._timers, self._by_clock = states, timers, by_clock
        self.keys: dict[int, Key] = {}
        self._texts: dict[int, str | None] = {}
        self._dirty: set[int] = set()
        self._changed: dict[tuple[int, str], Timer | None] = {}
        self._due: dict[int, list[Due]] = {}
        self._until: dict[int, int] = {}

    # In

    def load(self, frame: pl.DataFrame) -> Ints:
        """Slots of the keys of these rows; the keys are ready."""
        slots, _ = self._states.upsert(frame)
        fresh = distinct(slots)
        fresh = fresh[[slot not in self.keys for slot in fresh.tolist()]] if self.keys else fresh
        if len(fresh):
            self._read(fresh)
        return slots

    def _read(self, slots: Ints) -> None:
        keys = self._states.keys(slots)
        texts = self._states.values(slots)[STATE].to_list()
        physical = keys.select(pl.all().to_physical()).rows()
        partitions = self._states["partition"][slots].tolist()
        rows = zip(slots.tolist(), partitions, keys.iter_rows(named=True), physical, texts, strict=True)
        for slot, partition, values, numbers, text in rows:
            order = tuple((each is not None, each) for each in numbers)
            self.keys[slot] = Key(partition, values, order)
            self._texts[slot] = text

    def load_timers(self, slots: Ints, until_ms: Mapping[int, int]) -> None:
        """Timers that may fire in this pass, and the times up to which they all are here."""
        self._until.update(until_ms)
        if not len(slots):
            return
        keys = self._timers.keys(slots)
        partition = pl.Series(PARTITION, self._timers["partition"][slots], dtype=pl.Int32)
        owners = self.load(keys.drop(TIMER_NAME).with_columns(partition))
        columns = (TIMER_TIME, TIMER_STREAM_TIME, TIMER_IS_WALL)
        numbers = (self._timers[name][slots].tolist() for name in columns)
        for owner, name, time_ms, stream_ms, wall in zip(owners.tolist(), keys[TIMER_NAME], *numbers, strict=True):
            self._push(owner, name, Timer(time_ms, stream_ms, bool(wall)))

    # State and timers in the turn of a call

    def state(self, slot: int) -> str | None:
        """The state of a key."""
        return self._texts[slot]

    def put(self, slot: int, state: str | None, timers: Mapping[str, Timer | None]) -> None:
        """What a call did to its key."""
        if state != self._texts[slot]:
            self._texts[slot] = state
            self._dirty.add(slot)
        for name, timer in timers.items():
            self._changed[slot, name] = timer
            if timer is not None and not timer.is_wall and not self._by_clock:
                self._push(slot, name, timer)

    def is_due(self, partition: int, until_ms: int) -> bool:
        """Whether a timer of the partition may fire."""
        waiting = self._due.get(partition)
        return waiting is not None and len(waiting) > 0 and waiting[0].time_ms <= until_ms

    def next_due(self, partition: int, until_ms: int) -> Due | None:
        """Take out the next timer of a partition that is due; it is gone from its key."""
        waiting = self._due.get(partition)
        while waiting and waiting[0].time_ms <= until_ms:
            due = heapq.heappop(waiting)
            if self._is_current(due):
                self._changed[due.slot, due.name] = None
                return due
        return None

    def _is_current(self, due: Due) -> bool:
        known = self._changed.get((due.slot, due.name), due)
        return known is not None and known.time_ms == due.time_ms and known.is_wall == due.is_wall

    def _push(self, slot: int, name: str, timer: Timer) -> None:
        key = self.keys[slot]
        if timer.time_ms <= self._until.get(key.partition, -1):
            due = Due(timer.time_ms, key.order, name, slot, timer.stream_time_ms, timer.is_wall)
            heapq.heappush(self._due.setdefault(key.partition, []), due)

    # Out

    def write(self) -> Ints:
        """Put everything into the stores; returns the slots of timers that are to be noted."""
        noted = self._write_timers()
        filled = [slot for slot in self._dirty if self._texts[slot] is not None]
        if filled:
            texts = pl.DataFrame({STATE: pl.Series([self._texts[slot] for slot in filled], dtype=pl.String)})
            self._states.set_values(np.array(filled, np.int64), texts)
        # No key without a state: neither one that lost it nor one that was only looked at.
        empty = [slot for slot, text in self._texts.items() if text is None]
        self._states.drop(np.array(empty, np.int64))
        return noted

    def _write_timers(self) -> Ints:
        if not self._changed:
            return NO_INTS
        owners = np.array([slot for slot, _ in self._changed], np.int64)
        frame = self._states.keys(owners).with_columns(
            pl.Series(TIMER_NAME, [name for _, name in self._changed], dtype=pl.String),
            pl.Series(PARTITION, self._states["partition"][owners], dtype=pl.Int32),
        )
        timers = list(self._changed.values())
        gone = np.array([timer is None for timer in timers])
        found = self._timers.find(frame.filter(pl.Series(gone)))
        self._timers.drop(found[found >= 0])
        kept = [timer for timer in timers if timer is not None]
        slots, _ = self._timers.upsert(frame.filter(pl.Series(~gone)))
        self._timers.touch(slots)
        self._timers[TIMER_TIME][slots] = [timer.time_ms for timer in kept]
        self._timers[TIMER_STREAM_TIME][slots] = [timer.stream_time_ms for timer in kept]
        self._timers[TIMER_IS_WALL][slots] = [int(timer.is_wall) for timer in kept]
        return slots


def timers_due(timers: KeyedRows, noted: Ints, until_ms: int, *, is_wall: bool) -> tuple[Ints, Ints]:
    """Of noted timers those that are due, and those that are to be noted again."""
    noted = distinct(noted)
    live = noted[timers.is_live(noted)]
    live = live[timers[TIMER_IS_WALL][live] == int(is_wall)]
    due = timers[TIMER_TIME][live] <= until_ms
    return live[due], live[~due]


def timer_letter(key: Mapping[str, Any], due: Due, system: Sequence[pl.Series]) -> pl.DataFrame:
    """What a dead letter of a timer shows."""
    shown = {"timer": due.name, "timer_time_ms": due.time_ms, **key}
    return pl.DataFrame([*(pl.Series(name, [value]) for name, value in shown.items()), *system])
