"""The times of an aggregation's slots: the largest event time and the largest stream time of their rows.

Owns how they are held in the slab; a subclass may hold them otherwise.
"""

from __future__ import annotations

import numpy as np

from headrace.engine.state.arrays import Ints
from headrace.engine.state.slab import Slab
from headrace.engine.stream_time import BEFORE_ALL_MS


class SlotTimes:
    """Base of all aggregations: `time_ms` and `stream_time_ms`, in milliseconds."""

    _slab: Slab

    def _add_times(self, slab: Slab) -> None:
        for name in ("time_ms", "stream_time_ms"):
            slab.add_column(name, np.int64, fill=BEFORE_ALL_MS)

    def _times(self, name: str, slots: Ints) -> Ints:
        times: Ints = self._slab[name][slots]
        return times

    def _set_times(self, name: str, slots: Ints, time_ms: Ints) -> None:
        """Of slots each named once."""
        self._slab.put(name, slots, time_ms)

    def _raise_times(self, name: str, slots: Ints, time_ms: Ints) -> None:
        """To at least these; slots repeat."""
        np.maximum.at(self._slab[name], slots, time_ms)
