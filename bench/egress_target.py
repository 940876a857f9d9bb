"""What `python -m bench egress` measures: one target with what writes into it.

Owns the shape of a target, and how a loop over single rows is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NAIVE_ROWS_MAX = 20_000
"""A loop over single rows takes its time; its rate does not depend on how many there are."""

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Rival:
    """Another way into the same target."""

    write: Callable[[Sequence[Row], int], float]
    """Writes these rows, of so many keys, and returns the seconds."""
    rows_max: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One system, empty."""

    options: Mapping[str, Any]
    """Of headrace's connector, whose table is `target`."""
    count: Callable[[], int]
    """Rows of `target`."""
    rivals: Mapping[str, Rival] = field(default_factory=dict)
    rows_max: int | None = None
    """Of headrace too, where the target takes its time for each row."""


def connector_of(name: str) -> str:
    """Of a target's name: `http/ndjson` is the connector `http` with another setting."""
    return name.partition("/")[0]


def one_by_one(write: Callable[[Row], object], rows_max: int = NAIVE_ROWS_MAX) -> Rival:
    """One call a row."""

    def timed(rows: Sequence[Row], keys: int) -> float:
        started_s = time.perf_counter()
        for row in rows:
            write(row)
        return time.perf_counter() - started_s

    return Rival(timed, rows_max)
