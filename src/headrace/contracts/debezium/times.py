"""Dates and times as text that compares equal where the values are equal.

Owns ISO 8601 texts of counts since 1970 and of counts within a day, and the bringing of other texts into that form.

- Years beyond 9999 have a sign, years before our era count as ISO counts them (`-0043` is 44 BC).
- A fraction has no zeros at its end, and stands only where it is not zero.
- An instant ends in `Z`; a time without a zone has none. `infinity` and `-infinity` are PostgreSQL's.
"""

from __future__ import annotations

import re
from decimal import Decimal

INFINITY, MINUS_INFINITY = "infinity", "-infinity"

INFINITE_DAYS = {
    -2147472692: INFINITY,
    -2147472691: MINUS_INFINITY,
    2**31 - 1: INFINITY,
    -(2**31): MINUS_INFINITY,
}
"""PostgreSQL's infinite dates: what Debezium makes of them (a count of days that ran over), then headrace's capture."""
_INFINITE = {9223372036825200000: INFINITY, -9223372036832400000: MINUS_INFINITY}
"""The PostgreSQL driver's infinite timestamps, in microseconds; in milliseconds the last three digits are gone."""
INFINITE_MICROS = _INFINITE
INFINITE_MILLIS = {**_INFINITE, 9223372036825200: INFINITY, -9223372036832400: MINUS_INFINITY}
INFINITE_NANOS = {**_INFINITE, 9223372036825200000 * 1000: INFINITY, -9223372036832400000 * 1000: MINUS_INFINITY}
_INFINITE_TEXTS = {
    "infinity": INFINITY,
    "-infinity": MINUS_INFINITY,
    "-5877611-06-21Z": INFINITY,
    "-5877611-06-22Z": MINUS_INFINITY,
    "+294247-01-10T04:00:25.2Z": INFINITY,
    "-290308-12-21T19:59:27.6Z": MINUS_INFINITY,
}

_DAYS_PER_400_YEARS = 146_097
_DAYS_TO_1970 = 719_468
"""From the first of March of the year 0 to 1970."""
NANOS_PER_DAY = 86_400 * 10**9

_TIMESTAMP = re.compile(
    r"(?P<date>[+-]?\d{4,9}-\d\d-\d\d)[T ]"
    r"(?P<time>\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)\s*"
    r"(?P<zone>Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?"
)
_DATE = re.compile(r"([+-]?\d{4,9})-(\d\d)-(\d\d)(Z|[+-]\d\d:?\d\d)?")
_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?")


def date_text(days: int) -> str:
    """The day that lies `days` behind 1970-01-01."""
    shifted = days + _DAYS_TO_1970
    era, of_era = divmod(shifted, _DAYS_PER_400_YEARS)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    march_month = (5 * of_year + 2) // 153
    day = of_year - (153 * march_month + 2) // 5 + 1
    month = march_month + 3 if march_month < 10 else march_month - 9
    year = year_of_era + era * 400 + (month <= 2)
    return f"{year_text(year)}-{month:02}-{day:02}"


def days_of(year: int, month: int, day: int) -> int:
    """The inverse of `date_text`."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + of_year
    return era * _DAYS_PER_400_YEARS + of_era - _DAYS_TO_1970


def year_text(year: int) -> str:
    if 0 <= year <= 9999:
        return f"{year:04}"
    return f"{'+' if year > 0 else '-'}{abs(year):04}"


def time_text(nanos: int) -> str | None:
    """A time of day; None beyond 24:00:00."""
    if not 0 <= nanos <= NANOS_PER_DAY:
        return None
    seconds, fraction = divmod(nanos, 10**9)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{fraction_text(fraction)}"


def fraction_text(nanos: int) -> str:
    return f".{nanos:09}".rstrip("0") if nanos else ""


def timestamp_text(nanos: int, zone: str = "") -> str:
    """The time that lies `nanos` behind 1970-01-01T00:00:00."""
    days, of_day = divmod(nanos, NANOS_PER_DAY)
    return f"{date_text(days)}T{time_text(of_day)}{zone}"


def duration_text(micros: int) -> str:
    """A span of microseconds as ISO 8601 seconds."""
    sign, micros = ("-" if micros < 0 else ""), abs(micros)
    seconds, fraction = divmod(micros, 10**6)
    return f"PT{sign}{seconds}{fraction_text(fraction * 1000)}S"


def instant_nanos(text: str) -> int | str | None:
    """The instant that a text with a zone names: nanoseconds since 1970, or infinite; None where it names none."""
    if text in _INFINITE_TEXTS:
        return _INFINITE_TEXTS[text]
    found = _TIMESTAMP.fullmatch(text)
    if found is None or found["zone"] is None:
        return None
    nanos = _date_nanos(found["date"]), _time_nanos(found["time"])
    if nanos[0] is None or nanos[1] is None:
        return None
    return nanos[0] + nanos[1] - _zone_seconds(found["zone"]) * 10**9


def local_nanos(text: str) -> int | str | None:
    """The same of a time without a zone; Debezium writes a `Z` behind it that means nothing."""
    if text in _INFINITE_TEXTS:
        return _INFINITE_TEXTS[text]
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        return None
    nanos = _date_nanos(found["date"]), _time_nanos(found["time"])
    return None if nanos[0] is None or nanos[1] is None else nanos[0] + nanos[1]


def date_days(text: str) -> int | str | None:
    """The days since 1970 of a date's text, whatever zone stands behind it."""
    if text in _INFINITE_TEXTS:
        return _INFINITE_TEXTS[text]
    found = _DATE.fullmatch(text)
    nanos = _date_nanos("-".join(found.groups()[:3])) if found else None
    return None if nanos is None else nanos // NANOS_PER_DAY


def time_nanos(text: str) -> int | None:
    """The time of day in a text, whatever zone stands behind it."""
    found = _TIME.fullmatch(text)
    return _time_nanos(text[: found.start(5)] if found[5] else text) if found else None


def zoned_time_text(text: str) -> str | None:
    """A time of day with its zone, with no needless zeros; None where it is none."""
    found = _TIME.fullmatch(text)
    nanos = time_nanos(text)
    if found is None or nanos is None:
        return None
    zone = found[5] or ""
    return f"{time_text(nanos)}{'Z' if zone in ('Z', '+00', '+00:00', '+0000') else zone}"


def _date_nanos(text: str) -> int | None:
    found = _DATE.fullmatch(text)
    assert found is not None
    year, month, day = (int(part) for part in found.groups()[:3])
    if not 1 <= month <= 12 or not 1 <= day <= 31:
        return None
    days = days_of(year, month, day)
    # A day that the month does not have comes back as another one.
    return days * NANOS_PER_DAY if date_text(days).endswith(f"-{month:02}-{day:02}") else None


def _time_nanos(text: str) -> int | None:
    found = _TIME.fullmatch(text)
    assert found is not None
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    nanos = ((hour * 60 + minute) * 60 + second) * 10**9 + int(Decimal(f"0.{found[4] or 0}") * 10**9)
    return nanos if minute < 60 and second < 60 and nanos <= NANOS_PER_DAY else None


def _zone_seconds(zone: str) -> int:
    if zone == "Z":
        return 0
    digits = zone[1:].replace(":", "").ljust(6, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + int(digits[4:6])
    return -seconds if zone[0] == "-" else seconds
