"""What an answer means.

Owns the verdict on every status, and how long a target asks to be left alone.

- 2xx took the rows, all of them: 207 says that some were not, and counts as refused.
- What only a person can mend stops the egress; what passes is tried again; what is about the rows is about the rows.
- An answer's text is cut short and cleaned before it goes anywhere, and goes only to dead letters.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum, auto

EXCERPT_BYTES = 1_024
EXCERPT_CHARACTERS = 300
_RETRIED = frozenset({408, 409, 423, 425, 429})
_STOPS = frozenset({401, 402, 403, 404, 405, 406, 407, 410, 411, 415, 426, 431, 451})
"""The endpoint is another one than the options say, or wants something else of every request."""


class Verdict(Enum):
    TAKEN = auto()
    REFUSED = auto()
    TOO_LARGE = auto()
    RETRY = auto()
    STOP = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request. `status` is 0 when there was no answer."""

    status: int
    told: str
    """For a dead letter: cut and cleaned."""
    retry_after_s: float = 0.0

    @property
    def verdict(self) -> Verdict:
        if self.status == 0 or self.status in _RETRIED or self.status >= 500:
            return Verdict.RETRY
        if self.status == 413:
            return Verdict.TOO_LARGE
        if self.status in _STOPS or self.status < 200 or 300 <= self.status < 400:
            return Verdict.STOP
        return Verdict.TAKEN if self.status < 300 and self.status != 207 else Verdict.REFUSED


def excerpt(body: bytes) -> str:
    """The beginning of an answer as one line of printable text."""
    text = body[:EXCERPT_BYTES].decode(errors="replace")
    cleaned = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return cleaned[:EXCERPT_CHARACTERS]


def retry_after_s(header: str | None) -> float:
    """Seconds of a `Retry-After`, which is a number or a date; 0 for none that can be read."""
    if not header:
        return 0.0
    if header.strip().isdecimal():
        return float(header.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
