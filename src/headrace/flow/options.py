"""Arguments of the fluent API that are spans of time and counts.

Owns their reading, with the user's line in every error.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from headrace.contracts.duration import DurationInvalid, parse_duration_ms
from headrace.flow.errors import OptionInvalid
from headrace.flow.values import Place

Duration = str | datetime.timedelta
"""`"10m"`, or a timedelta of whole milliseconds."""
Names = str | Sequence[str] | None
"""Columns as the user names them: one, several, or none."""
MAX_WAIT_LIMIT_MS = 10 * 60 * 1000
"""A join waits at most this long for the other input to catch up."""


def duration_ms(value: Duration, name: str, place: Place, *, least_ms: int = 0, most_ms: int | None = None) -> int:
    """Milliseconds of an argument called `name`."""
    span_ms = _milliseconds(value, name, place)
    if span_ms < least_ms or (most_ms is not None and span_ms > most_ms):
        bounds = f"at least {least_ms} ms" + (f" and at most {most_ms} ms" if most_ms is not None else "")
        raise OptionInvalid(f"{name} is {span_ms} ms", place=place, cure=f"make it {bounds}")
    return span_ms


def _milliseconds(value: Duration, name: str, place: Place) -> int:
    if isinstance(value, datetime.timedelta):
        span_ms, rest = divmod(value, datetime.timedelta(milliseconds=1))
        if rest:
            raise OptionInvalid(f"{name}: {value} is not a whole number of milliseconds", place=place)
        return span_ms
    try:
        return parse_duration_ms(value)
    except DurationInvalid as error:
        raise OptionInvalid(f"{name}: {error.message}", place=place, cure=error.cure) from error


def whole(value: int, name: str, place: Place, *, least: int, most: int) -> int:
    """A count called `name`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise OptionInvalid(f"{name} is {value!r}, not a whole number from {least} to {most}", place=place)
    return value
