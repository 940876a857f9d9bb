"""How many records a worker asks its log for at once.

Owns the number, between `BATCH_RECORDS_MIN` and what the settings allow. No result follows from it.

- A pass has a cost that does not depend on its rows: the more at once, the less a record costs.
- What is read is committed together. So a full batch takes no longer than a commit interval, where it can.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from headrace.engine.settings import BATCH_RECORDS_MAX

BATCH_RECORDS_MIN = 1_000
"""However slow a pipeline is: fewer would mostly pay for the pass."""
BATCH_RECORDS_FIRST = BATCH_RECORDS_MAX // 4
"""Before anything is known of the pipeline."""
GROWS_BELOW = 0.5
"""Share of the commit interval that a full batch takes at most when the next may be twice as large. What a log has at
hand is seldom exactly as much as was asked for: half of it tells as well."""
SMALL_BATCH_SHARE, SMALL_RECORDS_MAX = 0.1, 2_000
"""A batch below this share of the most, and below this number, is small."""


class BatchSize:
    """Of one worker, on its thread."""

    def __init__(
        self, records_max: int, commit_interval_s: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._records_max, self._interval_s, self._clock = records_max, commit_interval_s, clock
        self._records = 0
        """Of the batch that is worked on."""
        self._began_s = 0.0
        self.records = min(BATCH_RECORDS_FIRST, records_max)
        """To ask for."""

    def is_small(self, records: int) -> bool:
        """Whether a batch of so many shows that there is no backlog."""
        return records < min(SMALL_RECORDS_MAX, SMALL_BATCH_SHARE * self._records_max)

    def begin(self, records: int) -> None:
        """So many came."""
        self._records, self._began_s = records, self._clock()

    def end(self) -> None:
        """They are processed."""
        took_s = self._clock() - self._began_s
        if took_s > self._interval_s:
            self.records = min(self.records, max(BATCH_RECORDS_MIN, self._records // 2))
        elif 2 * self._records >= self.records:
            full_s = took_s * self.records / self._records
            if full_s < GROWS_BELOW * self._interval_s:
                self.records = min(2 * self.records, self._records_max)
