"""Windows of event time.

Owns what users may ask for. The rules of windows are the engine's.

- Sizes, advances and gaps are positive; a hop is never longer than its window, so no record is left out.
- `grace` is how long after its end a window still takes late records; `idle_close` closes windows of a partition
  without input by the clock.
"""

from __future__ import annotations

from headrace.flow.errors import OptionInvalid
from headrace.flow.options import Duration, duration_ms
from headrace.flow.place import caller_place
from headrace.flow.values import Place, Window, WindowKind

WINDOWS_PER_RECORD_MAX = 1_000
"""Hopping: each record is counted in this many windows at most; more multiply state beyond use."""


def tumbling(size: Duration, *, grace: Duration = "0ms", idle_close: Duration | None = None) -> Window:
    """Windows of one size, side by side, aligned to the epoch: every record is in one."""
    place = caller_place()
    size_ms = duration_ms(size, "size", place, least_ms=1)
    return Window(
        kind=WindowKind.TUMBLING,
        size_ms=size_ms,
        advance_ms=size_ms,
        grace_ms=duration_ms(grace, "grace", place),
        idle_close_ms=_idle_close_ms(idle_close, place),
    )


def hopping(
    size: Duration, advance: Duration, *, grace: Duration = "0ms", idle_close: Duration | None = None
) -> Window:
    """Windows of one size that start every `advance`: a record is in each that covers it."""
    place = caller_place()
    size_ms = duration_ms(size, "size", place, least_ms=1)
    advance_ms = duration_ms(advance, "advance", place, least_ms=1)
    if advance_ms > size_ms:
        raise OptionInvalid(
            f"advance ({advance_ms} ms) is longer than size ({size_ms} ms): records between would be in no window",
            place=place,
            cure="make advance at most size",
        )
    if size_ms > advance_ms * WINDOWS_PER_RECORD_MAX:
        raise OptionInvalid(
            f"a record would be in {size_ms // advance_ms} windows",
            place=place,
            cure=f"make advance at least a {WINDOWS_PER_RECORD_MAX}th of size",
        )
    return Window(
        kind=WindowKind.HOPPING,
        size_ms=size_ms,
        advance_ms=advance_ms,
        grace_ms=duration_ms(grace, "grace", place),
        idle_close_ms=_idle_close_ms(idle_close, place),
    )


def sliding(difference: Duration, *, grace: Duration = "0ms", idle_close: Duration | None = None) -> Window:
    """Windows of one length, bounds included: one that ends at each record, and one that begins just after it."""
    place = caller_place()
    return Window(
        kind=WindowKind.SLIDING,
        size_ms=duration_ms(difference, "difference", place),
        grace_ms=duration_ms(grace, "grace", place),
        idle_close_ms=_idle_close_ms(idle_close, place),
    )


def session(gap: Duration, *, grace: Duration = "0ms", idle_close: Duration | None = None) -> Window:
    """Windows that last while records of a key follow each other within `gap`."""
    place = caller_place()
    return Window(
        kind=WindowKind.SESSION,
        gap_ms=duration_ms(gap, "gap", place, least_ms=1),
        grace_ms=duration_ms(grace, "grace", place),
        idle_close_ms=_idle_close_ms(idle_close, place),
    )


def _idle_close_ms(value: Duration | None, place: Place) -> int | None:
    return None if value is None else duration_ms(value, "idle_close", place, least_ms=1)
