"""When events happen.

- Event n happens `n / events_per_second` after the beginning, in whole milliseconds: event time never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BEGIN_MS = 1_777_636_770_000
"""2026-05-01 11:59:30 UTC."""
EVENTS_PER_SECOND = 10_000
EVENTS_PER_SECOND_MIN = 100
"""Slower, bids would come longer after their auction than the joins wait."""


@dataclass(frozen=True, slots=True)
class EventClock:
    """Event time by event number."""

    begin_ms: int = BEGIN_MS
    events_per_second: int = EVENTS_PER_SECOND

    def __post_init__(self) -> None:
        if self.events_per_second < EVENTS_PER_SECOND_MIN:
            raise ValueError(f"at least {EVENTS_PER_SECOND_MIN} events per second")

    def times_ms(self, numbers: np.ndarray) -> np.ndarray:
        """When these events happen."""
        times: np.ndarray = self.begin_ms + numbers * 1000 // self.events_per_second
        return times

    def takes_ms(self, events: int) -> int:
        """How long so many events take."""
        return events * 1000 // self.events_per_second
