"""Dead letters of an egress: records that are no row, or that the target did not take.

Owns what goes to `<egress>.dlq`.

- Key, value and headers are the record's own; the headers of the error are added behind them.
- A replayed record that fails again keeps the place that it had in its topic, and says of which dead letter it is one
  more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from headrace.log.columns import HeaderRow, Record, batch_records, outgoing, take_batch
from headrace.log.dead_letters import Reason, error_headers
from headrace.log.port import Outgoing, RecordBatch
from headrace.log.replays import Replay

STEP = "egress"


def dead_letters(topic: str, batch: RecordBatch, reasons: Mapping[int, Reason], *, egress: str) -> Outgoing:
    """Records for the dead-letter topic `topic`: the rows of `batch` that `reasons` names, in row order."""
    rows = sorted(reasons)
    records = batch_records(take_batch(batch, np.asarray(rows, dtype=np.int64)))
    return outgoing(
        topic,
        [record.value for record in records],
        keys=[record.key for record in records],
        headers=[
            _headers(batch.topic, record, reasons[row], egress) for row, record in zip(rows, records, strict=True)
        ],
    )


def _headers(topic: str, record: Record, reason: Reason, egress: str) -> HeaderRow:
    replay = Replay.of_headers(record.headers)
    if replay is not None:
        told = error_headers(reason, pipeline=egress, step=STEP, place=replay.place)
        return [*replay.headers, *told, *replay.marks]
    place = {"topic": topic, "partition": record.partition, "offset": record.offset, "time": record.timestamp_ms}
    return [*record.headers, *error_headers(reason, pipeline=egress, step=STEP, place=place)]
