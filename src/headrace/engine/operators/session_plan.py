"""Which session each row belongs to.

Owns the rule of sessions, over arrays; knows no state, frame or accumulator.

The rule, row by row in input order: a session is open to a row when end + gap + grace >= the row's stream time. The
row joins all open sessions of its key within `gap` of it; they become one. With none, it begins a session of its own,
unless even that would be closed (time + gap + grace < stream time): then the row is late.

1. Rows and sessions of a key that are linked by gaps form a component; rows of different components never meet.
2. A component where each row, in input order, meets the one session there is (most of all components, in order or
   not) is solved with array operations.
3. Components of late rows only are found the same way.
4. All others, where sessions merge, or close between two rows, are walked row by row.

The walk also gives *phases*: whatever happens to a session in phase n comes after its phase n - 1, and merges come
first in a phase; so adding values phase by phase, in bulk, equals adding row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from headrace.engine.state.arrays import Ints, Mask, starts_of_runs

_ROOM = 2**62

Attempt = Callable[[int, int, list[int]], bool]
"""Row, session, sessions merged into it for the row: whether the row is taken."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """Open sessions of the keys at hand."""

    key: Ints
    start_ms: Ints
    end_ms: Ints


@dataclass(frozen=True, slots=True)
class SessionRows:
    """Rows in input order."""

    key: Ints
    time_ms: Ints
    reached_ms: Ints
    """Stream time of the row, or the time up to which its partition was closed."""


@dataclass(frozen=True, slots=True)
class Components:
    """What may meet: numbers from 0 of the component of each session and row."""

    count: int
    of_session: Ints
    of_row: Ints


@dataclass(slots=True)
class SessionPlan:
    """What to do. Sessions are numbered: those there were, then the new ones."""

    row: Ints
    """Rows that are added, ascending inside a phase."""
    session: Ints
    phase: Ints
    """Ascending."""
    late: Ints
    merges: list[tuple[int, int, int]]
    """(phase, session, session merged into it), by phase."""
    key: Ints
    """By session, as `start_ms` and `end_ms`: how they are in the end."""
    start_ms: Ints
    end_ms: Ints


def components(sessions: Sessions, rows: SessionRows, gap_ms: int) -> Components:
    """Link sessions and rows of a key that are not more than `gap_ms` apart."""
    key = np.concatenate([sessions.key, rows.key])
    start = np.concatenate([sessions.start_ms, rows.time_ms])
    end = np.concatenate([sessions.end_ms, rows.time_ms])
    order = np.lexsort((start, key))
    begins_key = starts_of_runs(key[order])
    reach = running_max(end[order], np.cumsum(begins_key) - 1)
    begins = begins_key
    begins[1:] |= start[order][1:] > reach[:-1] + gap_ms
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(begins) - 1
    count = int(np.count_nonzero(begins))
    return Components(count, numbers[: len(sessions.key)], numbers[len(sessions.key) :])


def running_max(values: Ints, group: Ints) -> Ints:
    """Running maximum inside each run of `group` (ascending from 0)."""
    if not len(values):
        return values
    low = int(values.min())
    span = int(values.max()) - low + 1
    if span * (int(group[-1]) + 1) < _ROOM:
        shift = group * span - low
        return np.maximum.accumulate(values + shift) - shift
    # Times too far apart to shift: their ranks do as well.
    ranked, rank = np.unique(values, return_inverse=True)
    return ranked[running_max(rank.astype(np.int64), group)]


def plan_sessions(
    sessions: Sessions,
    rows: SessionRows,
    linked: Components,
    gap_ms: int,
    grace_ms: int,
    tried: Mask,
    attempt: Attempt,
) -> SessionPlan:
    """Give each row its session. Rows of the components in `tried` must be accepted by `attempt` one by one."""
    order = np.argsort(linked.of_row, kind="stable")
    simple, late = _sort_components(sessions, rows, linked, order, gap_ms, grace_ms)
    simple &= ~tried
    walk = _Walk(sessions, rows, gap_ms, grace_ms)
    session_of = np.full(linked.count, -1, np.int64)
    session_of[linked.of_session] = np.arange(len(sessions.key))
    fresh = np.flatnonzero(simple & (session_of < 0))
    session_of[fresh] = len(sessions.key) + np.arange(len(fresh))
    walk.next_session = len(sessions.key) + len(fresh)
    for component in _walked(linked, order, ~simple & ~late):
        walk.component(*component, attempt if tried[component[0]] else None)
    is_simple = simple[linked.of_row]
    is_late = late[linked.of_row]
    return _joined(sessions, rows, linked, session_of, is_simple, is_late, walk)


def _sort_components(
    sessions: Sessions, rows: SessionRows, linked: Components, order: Ints, gap_ms: int, grace_ms: int
) -> tuple[Mask, Mask]:
    """Components that array operations can solve, and components of nothing but late rows."""
    held = np.bincount(linked.of_session, minlength=linked.count)
    component, time, reached = linked.of_row[order], rows.time_ms[order], rows.reached_ms[order]
    alone_late = time + (gap_ms + grace_ms) < reached
    first = starts_of_runs(component)
    rank = np.cumsum(first) - 1
    # The bounds of the one session before each row: those of the session there is, or else the first row.
    start = time[np.flatnonzero(first)][rank]
    end = start.copy()
    with_session = held[component] > 0
    of_component = np.zeros(linked.count, np.int64)
    of_component[linked.of_session] = np.arange(len(sessions.key))
    start[with_session] = sessions.start_ms[of_component[component[with_session]]]
    end[with_session] = sessions.end_ms[of_component[component[with_session]]]
    before_max, before_min = running_max(time, rank), -running_max(-time, rank)
    end[1:] = np.where(first[1:], end[1:], np.maximum(end[1:], before_max[:-1]))
    start[1:] = np.where(first[1:], start[1:], np.minimum(start[1:], before_min[:-1]))
    meets = (time >= start - gap_ms) & (time <= end + gap_ms) & (end + (gap_ms + grace_ms) >= reached)
    wrong = np.bincount(component, ~meets, minlength=linked.count)
    in_time = np.bincount(component, ~alone_late, minlength=linked.count)
    has_rows = np.bincount(component, minlength=linked.count) > 0
    simple: Mask = has_rows & (wrong == 0) & (held <= 1)
    late: Mask = has_rows & (in_time == 0) & (held == 0)
    return simple & ~late, late


def _walked(linked: Components, order: Ints, chosen: Mask) -> Iterator[tuple[int, list[int], list[int]]]:
    """The chosen components that have rows: number, their rows in input order, their sessions."""
    rows = order[chosen[linked.of_row[order]]]
    if not len(rows):
        return
    starts = np.flatnonzero(starts_of_runs(linked.of_row[rows]))
    sessions: dict[int, list[int]] = {}
    for session in np.flatnonzero(chosen[linked.of_session]).tolist():
        sessions.setdefault(int(linked.of_session[session]), []).append(session)
    for piece in np.split(rows, starts[1:]):
        number = int(linked.of_row[piece[0]])
        yield number, piece.tolist(), sessions.get(number, [])


@dataclass(slots=True)
class _Open:
    start_ms: int
    end_ms: int
    session: int
    phase: int = 0


@dataclass(slots=True)
class _Walk:
    """Components walked row by row."""

    sessions: Sessions
    rows: SessionRows
    gap_ms: int
    grace_ms: int
    next_session: int = 0
    entries: list[tuple[int, int, int]] = field(default_factory=list)
    """(phase, row, session)"""
    merges: list[tuple[int, int, int]] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    bounds: list[_Open] = field(default_factory=list)
    """Sessions that the walk changed or made; the last entry of a session counts."""
    created: list[tuple[int, int]] = field(default_factory=list)
    """(session, key)"""

    def component(self, number: int, rows: list[int], sessions: list[int], attempt: Attempt | None) -> None:
        """Apply the rule to the rows of one component."""
        held = [_Open(int(self.sessions.start_ms[s]), int(self.sessions.end_ms[s]), s) for s in sessions]
        times, reached = self.rows.time_ms[rows].tolist(), self.rows.reached_ms[rows].tolist()
        for row, time_ms, reached_ms in zip(rows, times, reached, strict=True):
            self._row(held, row, time_ms, reached_ms, attempt)
        self.bounds.extend(held)

    def _row(self, held: list[_Open], row: int, time_ms: int, reached_ms: int, attempt: Attempt | None) -> None:
        gap_ms, open_ms = self.gap_ms, self.gap_ms + self.grace_ms
        met = [
            each
            for each in held
            if each.start_ms - gap_ms <= time_ms <= each.end_ms + gap_ms and each.end_ms + open_ms >= reached_ms
        ]
        if not met and time_ms + open_ms < reached_ms:
            self.late.append(row)
            return
        met.sort(key=lambda each: (each.start_ms, each.end_ms))
        target = met[0] if met else _Open(time_ms, time_ms, self.next_session)
        if attempt is not None and not attempt(row, target.session, [each.session for each in met[1:]]):
            return
        if not met:
            held.append(target)
            self.created.append((target.session, int(self.rows.key[row])))
            self.next_session += 1
        self._merge(held, target, met[1:])
        target.start_ms, target.end_ms = min(target.start_ms, time_ms), max(target.end_ms, time_ms)
        self.entries.append((target.phase, row, target.session))

    def _merge(self, held: list[_Open], target: _Open, others: list[_Open]) -> None:
        if not others:
            return
        target.phase = 1 + max(target.phase, *(each.phase for each in others))
        for other in others:
            self.merges.append((target.phase, target.session, other.session))
            target.end_ms = max(target.end_ms, other.end_ms)
            held.remove(other)


def _joined(
    sessions: Sessions,
    rows: SessionRows,
    linked: Components,
    session_of: Ints,
    is_simple: Mask,
    is_late: Mask,
    walk: _Walk,
) -> SessionPlan:
    """The plan of the simple components and the walked ones together."""
    total = walk.next_session
    missing = total - len(sessions.key)
    key = np.concatenate([sessions.key, np.zeros(missing, np.int64)])
    start = np.concatenate([sessions.start_ms, np.full(missing, _ROOM)])
    end = np.concatenate([sessions.end_ms, np.full(missing, -_ROOM)])
    simple_rows = np.flatnonzero(is_simple)
    targets = session_of[linked.of_row[simple_rows]]
    key[targets] = rows.key[simple_rows]
    np.minimum.at(start, targets, rows.time_ms[simple_rows])
    np.maximum.at(end, targets, rows.time_ms[simple_rows])
    for number, of_key in walk.created:
        key[number] = of_key
    for each in walk.bounds:
        start[each.session], end[each.session] = each.start_ms, each.end_ms
    walked = np.array(walk.entries, np.int64).reshape(-1, 3)
    row = np.concatenate([simple_rows, walked[:, 1]])
    phase = np.concatenate([np.zeros(len(simple_rows), np.int64), walked[:, 0]])
    session = np.concatenate([targets, walked[:, 2]])
    order = np.lexsort((row, phase))
    late = np.sort(np.concatenate([np.flatnonzero(is_late), np.array(walk.late, np.int64)]))
    return SessionPlan(
        row[order], session[order], phase[order], late, sorted(walk.merges, key=lambda m: m[0]), key, start, end
    )
