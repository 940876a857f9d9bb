"""Spans of time as people write them: `500ms`, `10s`, `5m`, `1h30m`, `7d`.

Owns their grammar.

- A span is a whole number of milliseconds, never negative, at most `DURATION_MAX_MS`.
- A number without a unit is refused: nobody can tell which was meant.
"""

from __future__ import annotations

import re
from fractions import Fraction

from headrace.errors import HeadraceError, Where

UNITS_MS = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
"""Milliseconds of each unit; `d` and `w` are 24 and 168 hours, whatever the calendar."""

DURATION_MAX_MS = 2**53
"""Some 285,000 years; beyond it a span no longer fits the arithmetic of times."""

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


class DurationInvalid(HeadraceError):
    """A text that is no span of time."""

    code = "contracts.duration_invalid"


def parse_duration_ms(text: str, *, where: Where | None = None) -> int:
    """Milliseconds in `text`. Raises `DurationInvalid`."""
    compact = text.strip().replace(" ", "") if isinstance(text, str) else ""
    if len(compact) > 64 or not _WHOLE.fullmatch(compact):
        raise DurationInvalid(
            f"{text!r} is not a duration", where=where, cure="write a number and a unit: 500ms, 10s, 5m, 1h30m, 7d"
        )
    total = sum(Fraction(number) * UNITS_MS[unit] for number, unit in _PART.findall(compact))
    if total.denominator != 1:
        raise DurationInvalid(f"{text!r} is not a whole number of milliseconds", where=where, cure="use a smaller unit")
    if total > DURATION_MAX_MS:
        raise DurationInvalid(f"{text!r} is longer than {DURATION_MAX_MS} ms", where=where)
    return int(total)


def format_duration(duration_ms: int) -> str:
    """The shortest exact text of one or more units, such as `1h30m`; `parse_duration_ms` reads it back."""
    parts = []
    rest = duration_ms
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, UNITS_MS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
