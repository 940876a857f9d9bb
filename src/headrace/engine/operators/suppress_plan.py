"""Which held rows go out, and when.

Owns the rule of bounded suppression in one partition, over arrays; knows no state or frame.

The rule, row by row in order of arrival: the row is put in the place of the one held for its key, which keeps the time
it was first held at; a key that is not held is held from the row's event time on. Then rows go out, oldest first by
(first held, key): those first held at or before stream time - limit, and as long as more keys are held than the
maximum.

- Stream time is the largest event time that came, this row included.
- Without a maximum keys do not meet: each is solved by itself, all at once. With one, rows are walked.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from headrace.engine.state.arrays import NO_INTS, Ints, Mask

NOT_HELD = -(2**62)
STORED = -1
"""In place of a row: what was held before."""


@dataclass(frozen=True, slots=True)
class SuppressRows:
    """Rows of a partition by arrival, and the keys at hand."""

    key: Ints
    """By row, from 0; keys that are held without a row come along."""
    time_ms: Ints
    stream_time_ms: Ints
    held_ms: Ints
    """By key: since when it is held, or `NOT_HELD`."""
    rank: Ints
    """By key: its place among keys of one time."""


@dataclass(frozen=True, slots=True)
class Evictions:
    """What goes out, in order, and what is held then."""

    at: Ints
    """The row with which it goes out."""
    key: Ints
    row: Ints
    """The row that goes out, or `STORED`."""
    held_ms: Ints
    """By key, as before."""
    held_row: Ints
    """By key: the row that is held then, or `STORED` where no row came."""


def evict_by_time(rows: SuppressRows, limit_ms: int) -> Evictions:
    """Holds are followed one after the other, of all keys at once: as often as the busiest key goes out."""
    count = len(rows.key)
    code = np.sort(rows.key * (count + 1) + np.arange(count))
    begin = np.searchsorted(code, np.arange(len(rows.held_ms)) * (count + 1))
    end = np.searchsorted(code, (np.arange(len(rows.held_ms)) + 1) * (count + 1))
    held_ms, held_row = rows.held_ms.copy(), np.full(len(rows.held_ms), STORED, np.int64)
    found: list[tuple[Ints, Ints, Ints, Ints]] = []
    active = np.arange(len(held_ms), dtype=np.int64)
    while len(active):
        starts = held_ms[active] == NOT_HELD
        active = active[~starts | (begin[active] < end[active])]
        starts = held_ms[active] == NOT_HELD
        first = np.zeros(len(active), np.int64)
        first[starts] = code[begin[active[starts]]] % (count + 1)
        held_ms[active[starts]] = rows.time_ms[first[starts]]
        out = np.maximum(first, np.searchsorted(rows.stream_time_ms, held_ms[active] + limit_ms))
        goes: Mask = out < count
        behind = np.searchsorted(code, active * (count + 1) + np.minimum(out, count - 1), side="right")
        behind = np.where(goes, behind, end[active])
        has_row = behind > begin[active]
        last = np.where(has_row, code[np.maximum(behind, 1) - 1] % (count + 1), STORED)
        begin[active] = behind
        held_row[active] = np.where(goes, STORED, last)
        gone = active[goes]
        found.append((out[goes], held_ms[gone], gone, last[goes]))
        held_ms[gone] = NOT_HELD
        active = gone
    at, since, key, row = (np.concatenate([NO_INTS, *column]) for column in zip(*found, strict=True))
    order = np.lexsort((rows.rank[key], since, at))
    return Evictions(at[order], key[order], row[order], held_ms, held_row)


def evict_by_count(rows: SuppressRows, limit_ms: int | None, rows_max: int, held: int) -> Evictions:
    """`held` keys are held in all; those at hand are the oldest of them, as many as could go out."""
    since, row_of = rows.held_ms.tolist(), [STORED] * len(rows.held_ms)
    rank = rows.rank.tolist()
    heap = [(time_ms, rank[key], key) for key, time_ms in enumerate(since) if time_ms != NOT_HELD]
    heapq.heapify(heap)
    found: list[tuple[int, int, int]] = []
    columns = (rows.key.tolist(), rows.time_ms.tolist(), rows.stream_time_ms.tolist())
    for row, (key, time_ms, stream_time_ms) in enumerate(zip(*columns, strict=True)):
        row_of[key] = row
        if since[key] == NOT_HELD:
            since[key] = time_ms
            heapq.heappush(heap, (time_ms, rank[key], key))
            held += 1
        while heap and (held > rows_max or (limit_ms is not None and heap[0][0] <= stream_time_ms - limit_ms)):
            _, _, gone = heapq.heappop(heap)
            found.append((row, gone, row_of[gone]))
            since[gone], row_of[gone] = NOT_HELD, STORED
            held -= 1
    at, keys, out = np.array(found, np.int64).reshape(-1, 3).T
    return Evictions(at, keys, out, np.array(since, np.int64), np.array(row_of, np.int64))
