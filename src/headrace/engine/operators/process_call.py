"""One call of a user's `Processor`: what it sees, and what it did.

Owns the `ProcessorContext` of the call. Nothing a call does is anybody else's before it has returned, and all of it
has been checked by then.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.contracts.duration import parse_duration_ms
from headrace.engine.operators.row_check import RowCheck, Values
from headrace.flow.options import Duration
from headrace.flow.processor import Rows

ROWS_PER_CALL_MAX = 100_000
"""Rows that one call may give: one that never stops giving must not fill the memory."""
STATE_CHARACTERS_MAX = 1_000_000
"""Of a key's state as JSON: it goes whole into a changelog message."""
TIMERS_PER_CALL_MAX = 10_000
"""Timers that one call may set."""
TIME_MAX_MS = 253_402_300_799_999
"""The end of the year 9999."""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UNREAD = object()
# Made once: `json.dumps` with an option makes an encoder for each call.
_encode = json.JSONEncoder(allow_nan=False).encode
_decode = json.JSONDecoder().decode


@dataclass(frozen=True, slots=True)
class Timer:
    """When a timer fires."""

    time_ms: int
    stream_time_ms: int
    """Of its rows: its own time, or that of the row that set it when it was due already."""
    is_wall: bool


@dataclass(frozen=True, slots=True)
class Effects:
    """What a call did."""

    rows: list[Values]
    state: str | None
    """The state after it, as JSON; None: there is none."""
    timers: Mapping[str, Timer | None]
    """Timers set, and taken back (None)."""


class Call:
    """A row, or a timer that fires, with its key's state."""

    __slots__ = ("_after_ms", "_key", "_now_ms", "_state", "_stream_time_ms", "_text", "_time_ms", "_timer", "_timers")

    def __init__(
        self,
        *,
        key: Mapping[str, Any],
        time_ms: int,
        stream_time_ms: int,
        now_ms: Callable[[], int],
        state: str | None,
        timer: str = "",
        after_ms: int | None = None,
    ) -> None:
        self._key, self._now_ms, self._text = key, now_ms, state
        self._time_ms, self._stream_time_ms, self._timer = time_ms, stream_time_ms, timer
        self._after_ms = after_ms
        """A timer of event time sets others behind this time only, so that time goes on."""
        self._state: Any = _UNREAD
        self._timers: dict[str, Timer | None] = {}

    @property
    def key(self) -> Mapping[str, Any]:
        return dict(self._key)

    @property
    def time_ms(self) -> int:
        return self._time_ms

    @property
    def stream_time_ms(self) -> int:
        return self._stream_time_ms

    @property
    def now_ms(self) -> int:
        return self._now_ms()

    @property
    def timer(self) -> str:
        return self._timer

    @property
    def state(self) -> Any:
        if self._state is _UNREAD:
            self._state = None if self._text is None else _decode(self._text)
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        self._state = value

    def at(self, time: int | datetime.datetime, name: str = "") -> None:
        time_ms = _epoch_ms(time)
        if not 0 <= time_ms <= TIME_MAX_MS:
            raise ValueError(f"a timer at {time_ms} ms, which is before 1970 or after 9999")
        if self._after_ms is not None and time_ms <= self._after_ms:
            raise ValueError(f"a timer of {self._after_ms} ms sets one for {time_ms} ms: it must be later")
        self._set(name, Timer(time_ms, max(time_ms, self._stream_time_ms), is_wall=False))

    def after(self, duration: Duration, name: str = "") -> None:
        time_ms = self._now_ms() + _span_ms(duration)
        if time_ms > TIME_MAX_MS:
            raise ValueError(f"a timer after {duration}, which is after 9999")
        self._set(name, Timer(time_ms, time_ms, is_wall=True))

    def cancel(self, name: str = "") -> None:
        self._set(name, None)

    def _set(self, name: str, timer: Timer | None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a timer's name is a text, not {type(name).__name__}")
        if len(self._timers) >= TIMERS_PER_CALL_MAX and name not in self._timers:
            raise ValueError(f"more than {TIMERS_PER_CALL_MAX} timers in one call")
        name.encode()  # A lone surrogate cannot be written.
        self._timers[name] = timer

    def run(self, method: Callable[[], Rows], check: RowCheck) -> Effects:
        """Call the user's method. Raises whatever is wrong with it."""
        rows = _rows(method(), check)
        return Effects(rows, self._state_after(), self._timers)

    def _state_after(self) -> str | None:
        if self._state is _UNREAD:
            return self._text
        if self._state is None:
            return None
        text = _encode(self._state)
        if len(text) > STATE_CHARACTERS_MAX:
            raise ValueError(f"a state of {len(text)} characters, and {STATE_CHARACTERS_MAX} is the most")
        return text


def _rows(given: Rows, check: RowCheck) -> list[Values]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [check.values(given)]
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"returned {type(given).__name__}, not a dict, several dicts or None")
    rows: list[Values] = []
    for row in given:
        if len(rows) == ROWS_PER_CALL_MAX:
            raise ValueError(f"gave more than {ROWS_PER_CALL_MAX} rows in one call")
        rows.append(check.values(row))
    return rows


def _epoch_ms(time: int | datetime.datetime) -> int:
    if isinstance(time, datetime.datetime):
        if time.tzinfo is None:
            raise ValueError(f"a timer at {time}, which has no zone")
        return (time - _EPOCH) // datetime.timedelta(milliseconds=1)
    if isinstance(time, bool) or not isinstance(time, int):
        raise TypeError(f"a timer at {time!r}, which is no whole number of milliseconds and no datetime")
    return time


def _span_ms(duration: Duration) -> int:
    if isinstance(duration, datetime.timedelta):
        span_ms = duration // datetime.timedelta(milliseconds=1)
    else:
        span_ms = parse_duration_ms(duration)
    if span_ms < 0:
        raise ValueError(f"a timer after {duration}, which is in the past")
    return span_ms
