"""Dates and times to whole numbers of a unit, without losing a digit.

Owns the reading of ISO 8601 text and of Python's date and time objects.

- A time finer than its unit is refused, never cut.
- An instant needs a zone, or a caller who says that UTC is meant; a local time must have none.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

PER_SECOND = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
SECONDS_PER_DAY = 86_400
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local times are counted from a local epoch
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_FRACTION = re.compile(r"(?<=\d\d)[.,](\d+)", re.ASCII)
_NANOSECOND_DIGITS = 9


def date_days(value: str | date) -> int:
    """Days since the epoch. Raises `ValueError`."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value.strip())
        except ValueError as error:
            raise ValueError("is not an ISO date, YYYY-MM-DD") from error
    return value.toordinal() - date(1970, 1, 1).toordinal()


def time_units(value: str | time, unit: str) -> int:
    """Units since midnight. Raises `ValueError`."""
    fraction = ""
    if isinstance(value, str):
        text, fraction = _split_fraction(value)
        try:
            value = time.fromisoformat(text)
        except ValueError as error:
            raise ValueError("is not an ISO time, HH:MM:SS") from error
    if value.tzinfo is not None:
        raise ValueError("is a time of day with a zone; give it without")
    seconds = value.hour * 3600 + value.minute * 60 + value.second
    return _units(seconds, value.microsecond, fraction, unit)


def datetime_units(value: str | datetime, unit: str, *, is_instant: bool, assume_utc: bool) -> int:
    """Units since the epoch, of an instant or a local time. Raises `ValueError`."""
    fraction, is_text = "", isinstance(value, str)
    if isinstance(value, str):
        text, fraction = _split_fraction(value)
        try:
            value = datetime.fromisoformat(text)
        except ValueError as error:
            raise ValueError("is not an ISO time such as 2013-01-01T05:15:00Z") from error
    if not is_instant and value.tzinfo is not None:
        raise ValueError("is a time with a zone, and the contract asks for a local time; give it without")
    if is_instant and value.tzinfo is None:
        if not assume_utc and is_text:
            raise ValueError("is a time without zone; end it with Z, or an offset such as +01:00")
        if not assume_utc:
            raise ValueError("is a datetime without zone; give it one, such as tzinfo=datetime.UTC")
        value = value.replace(tzinfo=UTC)
    # Whole microseconds of a timedelta are exact; a float of seconds would not be.
    since = value - (_EPOCH_UTC if is_instant else _EPOCH)
    whole, rest = divmod(since, timedelta(seconds=1))
    return _units(whole, rest.microseconds, fraction, unit)


def _units(seconds: int, microseconds: int, fraction: str, unit: str) -> int:
    digits = fraction.ljust(_NANOSECOND_DIGITS, "0")
    nanoseconds = int(digits[:_NANOSECOND_DIGITS]) if fraction else microseconds * 1_000
    step = 1_000_000_000 // PER_SECOND[unit]
    if nanoseconds % step or digits[_NANOSECOND_DIGITS:].strip("0"):
        raise ValueError(f"is finer than {unit}, the unit of the contract")
    units = seconds * PER_SECOND[unit] + nanoseconds // step
    if not -(2**63) <= units < 2**63:
        raise ValueError(f"is out of the range that {unit} can count")
    return units


def _split_fraction(text: str) -> tuple[str, str]:
    """The text without its fraction of a second, and the digits of that: Python drops those after the sixth."""
    text = text.strip()
    found = _FRACTION.search(text)
    return (text, "") if found is None else (text[: found.start()] + text[found.end() :], found.group(1))
