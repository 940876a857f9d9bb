"""PostgreSQL's dates and times as numbers, over its whole range.

Owns the reading of ISO texts (`datestyle = ISO`, `timezone = UTC`) that Python's calendar does not reach: years before
Christ, years of more than four digits, the infinities.

- A time finer than the unit is refused, never cut.
- The infinities become the numbers that Debezium writes for them.
"""

from __future__ import annotations

import re

from headrace.ingress.times import PER_SECOND, SECONDS_PER_DAY
from headrace.ingress.values import Misfit

INFINITY, MINUS_INFINITY = 9_223_372_036_825_200_000, -9_223_372_036_832_400_000
"""Of timestamps, in whatever unit: what Debezium writes."""
DATE_INFINITY, DATE_MINUS_INFINITY = 2**31 - 1, -(2**31)
_DATE = re.compile(r"(\d{4,7})-(\d\d)-(\d\d)( BC)?", re.ASCII)
_TIMESTAMP = re.compile(
    r"(\d{4,7}-\d\d-\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?([+-]\d\d(?::\d\d(?::\d\d)?)?)?( BC)?", re.ASCII
)
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?([+-]\d\d(?::\d\d(?::\d\d)?)?)?", re.ASCII)


def days_of(text: str) -> int:
    """Days since 1970 of a date."""
    if text in ("infinity", "-infinity"):
        return DATE_INFINITY if text == "infinity" else DATE_MINUS_INFINITY
    found = _DATE.fullmatch(text)
    if found is None:
        raise Misfit("is not a date")
    year, month, day = (int(part) for part in found.groups()[:3])
    return _days(1 - year if found.group(4) else year, month, day)


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970 in the proleptic Gregorian calendar; year 0 is 1 BC."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


def timestamp_units(text: str, unit: str) -> int:
    """Units since 1970 of a timestamp, with or without zone."""
    if text in ("infinity", "-infinity"):
        return INFINITY if text == "infinity" else MINUS_INFINITY
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise Misfit("is not a timestamp")
    date, hours, minutes, seconds, fraction, zone, before = found.groups()
    total = days_of(date + (before or "")) * SECONDS_PER_DAY + _seconds(hours, minutes, seconds) - _zone_seconds(zone)
    units = total * PER_SECOND[unit] + _fraction(fraction, unit)
    if not -(2**63) <= units < 2**63:
        raise Misfit(f"is out of the range that {unit} can count")
    return units


def time_of_day_units(text: str, unit: str) -> int:
    """Units since midnight (UTC where the time has a zone)."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise Misfit("is not a time of day")
    hours, minutes, seconds, fraction, zone = found.groups()
    total = _seconds(hours, minutes, seconds)
    if total >= SECONDS_PER_DAY:
        raise Misfit("is 24:00:00, which is no time of day")
    return (total - _zone_seconds(zone)) % SECONDS_PER_DAY * PER_SECOND[unit] + _fraction(fraction, unit)


def zoned_time_text(text: str) -> str:
    """A time with zone as ISO text in UTC, as Debezium writes it."""
    micros = time_of_day_units("00:00:00" + text[8:] if text.startswith("24:00:00") else text, "us")
    seconds, fraction = divmod(micros, PER_SECOND["us"])
    minutes, second = divmod(seconds, 60)
    digits = f".{fraction:06d}".rstrip("0") if fraction else ""
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}{digits}Z"


def _seconds(hours: str, minutes: str, seconds: str) -> int:
    return (int(hours) * 60 + int(minutes)) * 60 + int(seconds)


def _zone_seconds(zone: str | None) -> int:
    if zone is None:
        return 0
    parts = [int(part) for part in zone[1:].split(":")]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    offset = (hours * 60 + minutes) * 60 + seconds
    return -offset if zone[0] == "-" else offset


def _fraction(digits: str | None, unit: str) -> int:
    microseconds = int((digits or "").ljust(6, "0"))
    if unit == "ms" and microseconds % 1_000:
        raise Misfit("is finer than ms, the unit of the contract")
    return microseconds * PER_SECOND[unit] // PER_SECOND["us"]
