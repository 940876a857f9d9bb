"""Whom events point at: hot keys, and others that are recent.

- All ids count from 0; `newest` is the last one there is at the time of the event.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

HOT_EVERY = 100
"""One id in so many is hot for a while: the last multiple."""
ACTIVE_PERSONS = 1000
IN_FLIGHT_AUCTIONS = 100
LEAD = 10
"""Events may point at so many ids that are only about to come."""


def hot_or(
    newest: np.ndarray, plus: int, ratio: int, others: Callable[[], np.ndarray], random: np.random.Generator
) -> np.ndarray:
    """The hot id and `plus` for all but one event in `ratio`, one of the `others` for the rest."""
    is_hot = random.integers(0, ratio, len(newest)) > 0
    return np.where(is_hot, newest // HOT_EVERY * HOT_EVERY + plus, others())


def person_ids(newest: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Any of the active persons, or of those about to come."""
    there = newest + 1
    active = np.minimum(there, ACTIVE_PERSONS)
    chosen: np.ndarray = there - active + random.integers(0, active + LEAD)
    return chosen


def auction_ids(newest: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Any of the open auctions, or of those about to begin."""
    oldest = np.maximum(newest - IN_FLIGHT_AUCTIONS, 0)
    chosen: np.ndarray = oldest + random.integers(0, newest - oldest + 1 + LEAD)
    return chosen
