"""Rows as bodies of requests.

Owns the id of each row, its JSON, and which rows share a request or must wait for each other.

- An id is the egress, partition and offset: the same for the same record, whatever shares a request with it, after
  every retry and restart.
- Bodies are made column by column, before anything is sent.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.egress.json_columns import TEXT, json_rows
from headrace.egress.key_columns import key_columns
from headrace.egress.sdk import Contract, EgressBatch, Mode
from headrace_http.options import Format, HttpOptions, Order

LANE_REQUESTS_MIN = 4
"""Full ones, where keys share lanes and rows share requests: the last request of a lane is seldom full."""

Lane = Sequence[int]
"""Rows of a batch, ascending, that are sent one request after the other."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to be: rows of a batch, ascending."""

    rows: Sequence[int]
    id: str
    body: bytes

    @property
    def can_be_halved(self) -> bool:
        return len(self.rows) > 1


class Bodies:
    """The rows of one batch, ready to be sent."""

    def __init__(self, batch: EgressBatch, contract: Contract, mode: Mode, options: HttpOptions, prefix: str) -> None:
        self._options, self._batch = options, batch
        self._rows_max = 1 if options.format is Format.ROW else options.rows_per_request
        names = [pa.array(values).cast(TEXT) for values in (batch.partition, batch.offset)]
        ids = pc.binary_join_element_wise(pa.scalar(prefix, TEXT), *names, pa.scalar("-", TEXT))
        texts = _row_texts(batch, contract)
        if options.envelope:
            texts = _enveloped(texts, ids, batch, contract.topic, mode)
        self._ids: list[str] = ids.to_pylist()
        self._texts: list[bytes] = texts.cast(pa.large_binary()).to_pylist()

    def lanes(self) -> list[Lane]:
        """Rows that wait for each other, in their order; lanes do not. The longest come first: they take longest."""
        codes = self._codes()
        order = np.argsort(codes, kind="stable")
        ends = np.flatnonzero(np.diff(codes[order])) + 1
        rows = order.tolist()
        lanes = [rows[start:stop] for start, stop in itertools.pairwise([0, *ends.tolist(), len(rows)])]
        return sorted(lanes, key=lambda lane: (-len(lane), lane[0]))

    def _codes(self) -> npt.NDArray[np.uint64]:
        """Rows of one lane have one number."""
        if self._options.order is Order.NONE:
            return np.arange(len(self._batch), dtype=np.uint64) // np.uint64(self._rows_max)
        if self._options.order is Order.PARTITION:
            return self._batch.partition.astype(np.uint64)
        hashes = key_columns(self._batch.rows, self._batch.key).hash_rows().to_numpy()
        if self._rows_max == 1:
            return hashes
        lanes = len(self._batch) // (self._rows_max * LANE_REQUESTS_MIN)
        return hashes % np.uint64(min(max(lanes, 1), self._options.requests_max))

    def requests(self, lane: Lane) -> Iterator[Request]:
        """The lane cut into requests."""
        rows: list[int] = []
        size = 0
        for row in lane:
            if rows and (len(rows) >= self._rows_max or size + len(self._texts[row]) > self._options.bytes_per_request):
                yield self.request(rows)
                rows, size = [], 0
            rows.append(row)
            size += len(self._texts[row]) + 1
        if rows:
            yield self.request(rows)

    def request(self, rows: Sequence[int]) -> Request:
        texts = [self._texts[row] for row in rows]
        if self._options.format is Format.ROW:
            body = texts[0]
        elif self._options.format is Format.ARRAY:
            body = b"[%s]" % b",".join(texts)
        else:
            body = b"\n".join(texts) + b"\n"
        if len(rows) == 1:
            return Request(rows, self._ids[rows[0]], body)
        # Other rows or other bytes are another key: no receiver may take one request for another.
        digest = hashlib.sha256(body).hexdigest()[:16]
        return Request(rows, f"{self._ids[rows[0]]}-{len(rows)}-{digest}", body)

    def halves(self, request: Request) -> tuple[Request, Request]:
        middle = len(request.rows) // 2
        return self.request(request.rows[:middle]), self.request(request.rows[middle:])


def _row_texts(batch: EgressBatch, contract: Contract) -> pa.Array:
    """Rows as JSON objects; a deletion has only its key."""
    texts = json_rows(batch.rows, contract.schema)
    deletes = batch.deletes()
    if not deletes.any():
        return texts
    return pc.if_else(pa.array(deletes), json_rows(batch.rows, contract.schema, batch.key), texts)


def _enveloped(texts: pa.Array, ids: pa.Array, batch: EgressBatch, topic: str, mode: Mode) -> pa.Array:
    written = "append" if mode is Mode.APPEND else "upsert"
    operation = pc.if_else(pa.array(batch.deletes()), pa.scalar("delete", TEXT), pa.scalar(written, TEXT))
    numbers = [pa.array(each).cast(TEXT) for each in (batch.partition, batch.offset, batch.timestamp_ms)]
    # Names of topics and egresses have no character that JSON escapes.
    labels = [
        '{"id":"',
        '","operation":"',
        f'","topic":"{topic}","partition":',
        ',"offset":',
        ',"timestamp_ms":',
        ',"row":',
    ]
    pieces = [pa.scalar(each, TEXT) for each in labels]
    values = [ids, operation, *numbers, texts]
    joined = [each for pair in zip(pieces, values, strict=True) for each in pair]
    return pc.binary_join_element_wise(*joined, pa.scalar("}", TEXT), pa.scalar("", TEXT))
