"""What is staged in a connector and not yet flushed.

Owns the count, bytes, age and positions of one flush, and its dead letters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from headrace.egress.config import BatchLimits
from headrace.egress.dead_letters import dead_letters
from headrace.egress.decoder import DecodedRows
from headrace.egress.sdk import Operation, Refused
from headrace.log.dead_letters import Reason
from headrace.log.port import Outgoing, RecordBatch


class Staged:
    """Everything since the last flush."""

    def __init__(self, limits: BatchLimits, *, egress: str, dead_letter_topic: str) -> None:
        self._limits, self._egress, self._dead_letter_topic = limits, egress, dead_letter_topic
        self.positions: dict[int, int] = {}
        """Next offset of each partition that moved."""
        self.records = 0
        self.rows = 0
        self.deletions = 0
        self.filtered = 0
        self.skipped = 0
        self.truncates = 0
        self.truncates_skipped = 0
        self.bytes = 0
        self.since_s: float | None = None
        """When the oldest record came in; None while nothing is staged."""
        self.dead: list[Outgoing] = []
        self.reasons: Counter[tuple[str, str]] = Counter()

    def add(self, records: RecordBatch, decoded: DecodedRows, refused: Sequence[Refused], now_s: float) -> None:
        """A batch that the connector took."""
        bad = dict(decoded.bad)
        for each in refused:
            bad[int(decoded.record[each.row])] = Reason("deliver", each.code, each.message)
        operation = decoded.batch.operation
        deletions, truncates = (int((operation == each).sum()) for each in (Operation.DELETE, Operation.TRUNCATE))
        self.positions.update(next_offsets(records))
        self.records += len(records)
        self.deletions += deletions
        self.truncates += truncates
        self.rows += len(decoded.batch) - deletions - truncates - len(refused)
        self.filtered += decoded.filtered
        self.skipped += decoded.skipped
        self.truncates_skipped += decoded.truncates_skipped
        self.bytes += decoded.batch.rows.nbytes
        self.since_s = now_s if self.since_s is None else self.since_s
        if bad:
            self.dead.append(dead_letters(self._dead_letter_topic, records, bad, egress=self._egress))
            self.reasons.update((reason.stage, reason.code) for reason in bad.values())

    def room(self) -> int:
        """Records that fit before a flush; 0 when one of the bounds is reached."""
        if self.bytes >= self._limits.bytes_max:
            return 0
        return max(0, self._limits.rows_max - self.records)

    def age_left_s(self, now_s: float) -> float | None:
        """Seconds until the oldest record must go; None while nothing is staged."""
        return None if self.since_s is None else self.since_s + self._limits.age_max_ms / 1_000 - now_s


def next_offsets(records: RecordBatch) -> Mapping[int, int]:
    """The offset after the last of each partition."""
    partitions = np.unique(records.partition)
    return {int(partition): int(records.offset[records.partition == partition].max()) + 1 for partition in partitions}
