"""The texts of PostgreSQL's composed values: arrays, hstore, intervals, points, bits.

Owns their parsing, value by value; `text_columns` decides what becomes of the parts.

- What is no such text raises `Misfit`, never anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from headrace.ingress.values import Misfit

DIMENSIONS_MAX = 6
"""PostgreSQL's own limit for arrays."""
_BOUNDS = re.compile(r"(\[-?\d+:-?\d+\])+=")
_INTERVAL = re.compile(
    r"P(?:([+-]?\d+)Y)?(?:([+-]?\d+)M)?(?:([+-]?\d+)W)?(?:([+-]?\d+)D)?"
    r"(?:T(?:([+-]?\d+)H)?(?:([+-]?\d+)M)?(?:([+-]?)(\d+)(?:\.(\d{1,6}))?S)?)?",
    re.ASCII,
)
_POINT = re.compile(r"\(([^,()]+),([^,()]+)\)")
DAYS_PER_MONTH = 365.25 / 12
US_PER_SECOND = 1_000_000
US_PER_DAY = 86_400 * US_PER_SECOND


def array_items(text: str, delimiter: str = ",") -> list[Any]:
    """The items of an array as texts, None, or lists where it has more dimensions."""
    start = _BOUNDS.match(text)
    at = start.end() if start else 0
    stack: list[list[Any]] = []
    item: list[str] = []
    is_quoted = has_item = False
    while at < len(text):
        character = text[at]
        if character == "{":
            if has_item or len(stack) >= DIMENSIONS_MAX:
                break
            stack.append([])
        elif character == '"' and stack and not has_item:
            quoted, at = _quoted(text, at)
            item, is_quoted, has_item = [quoted], True, True
            continue
        elif character in (delimiter, "}") and stack:
            if has_item:
                found = "".join(item)
                stack[-1].append(None if found == "NULL" and not is_quoted else found)
            item, is_quoted, has_item = [], False, False
            if character == "}":
                done = stack.pop()
                if not stack:
                    if at + 1 != len(text):
                        break
                    return done
                stack[-1].append(done)
        elif stack and not is_quoted:
            at += character == "\\"
            item.append(text[at : at + 1])
            has_item = True
        else:
            break
        at += 1
    raise Misfit("is not the text of an array")


def _quoted(text: str, at: int) -> tuple[str, int]:
    """The text between the quotes that begin at `at`, and where it goes on."""
    parts: list[str] = []
    at += 1
    while at < len(text):
        if text[at] == '"':
            return "".join(parts), at + 1
        at += text[at] == "\\"
        parts.append(text[at : at + 1])
        at += 1
    raise Misfit("has quotes that do not end")


def hstore_items(text: str) -> dict[str, str | None]:
    """Keys and values of an hstore."""
    found: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        if text[at] != '"':
            raise Misfit("is not the text of an hstore")
        key, at = _quoted(text, at)
        if text[at : at + 2] != "=>":
            raise Misfit("is not the text of an hstore")
        at += 2
        if text[at : at + 4] == "NULL":
            value, at = None, at + 4
        elif text[at : at + 1] == '"':
            value, at = _quoted(text, at)
        else:
            raise Misfit("is not the text of an hstore")
        found[key] = value
        if at < len(text):
            if text[at : at + 2] != ", ":
                raise Misfit("is not the text of an hstore")
            at += 2
    return found


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval in PostgreSQL's three parts."""

    months: int
    days: int
    microseconds: int

    @property
    def total_us(self) -> int:
        """As Debezium counts: a month has 365.25 / 12 days."""
        return round(self.months * DAYS_PER_MONTH * US_PER_DAY) + self.days * US_PER_DAY + self.microseconds


def interval_parts(text: str) -> Interval:
    """Of an interval in ISO 8601 form (`intervalstyle = iso_8601`)."""
    found = _INTERVAL.fullmatch(text)
    if found is None or text in ("P", "PT") or text.endswith("T"):
        raise Misfit("is not the text of an interval")
    years, months, weeks, days, hours, minutes = (int(part or 0) for part in found.groups()[:6])
    sign, whole, fraction = found.groups()[6:]
    seconds_us = int(whole or 0) * US_PER_SECOND + int((fraction or "").ljust(6, "0"))
    if sign == "-":
        seconds_us = -seconds_us
    return Interval(years * 12 + months, weeks * 7 + days, (hours * 60 + minutes) * 60 * US_PER_SECOND + seconds_us)


def point_parts(text: str) -> tuple[float, float]:
    """x and y."""
    found = _POINT.fullmatch(text)
    try:
        if found is not None:
            return float(found.group(1)), float(found.group(2))
    except ValueError as error:
        raise Misfit("is not the text of a point") from error
    raise Misfit("is not the text of a point")


def bits_little_endian(text: str) -> bytes:
    """A bit string as Debezium's `Bits`: the last bit is the lowest, the first byte too."""
    if text.strip("01"):
        raise Misfit("is not a string of bits")
    return int(text or "0", 2).to_bytes((len(text) + 7) // 8, "little")
