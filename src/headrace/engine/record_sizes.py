"""Records that are too large for their topic.

Owns how the others of a call are produced all the same. The log says which row is the first that does not fit, before
it takes any.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.engine.state.arrays import Ints
from headrace.log.columns import take_outgoing
from headrace.log.port import Outgoing, Producer, RecordTooLarge

TOO_LARGE = "encode.record_too_large"


def produce_fitting(producer: Producer, records: Outgoing, refuse: Callable[[int, str], None]) -> int:
    """Produce the records that fit, and name each of the others once, with the reason; how many were produced."""
    rows = np.arange(len(records), dtype=np.int64)
    while len(rows):
        piece = records if len(rows) == len(records) else take_outgoing(records, rows)
        try:
            producer.produce(piece)
        except RecordTooLarge as error:
            sizes = _sizes(piece)
            # What is larger still fits no better; so a call with many of them is not tried once for each.
            gone = sizes >= sizes[error.row]
            for row, size in zip(rows[gone].tolist(), sizes[gone].tolist(), strict=True):
                refuse(row, f"a record of {size} bytes is more than topic {records.topic!r} takes (max.message.bytes)")
            rows = rows[~gone]
        else:
            return len(rows)
    return 0


def _sizes(records: Outgoing) -> Ints:
    """Bytes of key, value and headers."""
    total = _lengths(records.value)
    if records.key is not None:
        total = total + _lengths(records.key)
    if records.headers is not None:
        of_header = _lengths(pc.struct_field(records.headers.values, [0]))
        of_header = of_header + _lengths(pc.struct_field(records.headers.values, [1]))
        ends = np.concatenate([[0], np.cumsum(of_header)])
        offsets = records.headers.offsets.to_numpy() - records.headers.offsets[0].as_py()
        total = total + ends[offsets[1:]] - ends[offsets[:-1]]
    return total


def _lengths(column: pa.Array) -> Ints:
    lengths: Ints = pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths
