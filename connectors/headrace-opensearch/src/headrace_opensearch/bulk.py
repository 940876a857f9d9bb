"""Bulk requests to one index, and what the answers say of each row.

Owns how large a request is, which rows go again, and which are refused.

- A request is a slice of the batch's lines: no Python runs for a row that is taken.
- What is too large, or too much at once, goes in halves, down to one row.
- Rows that the index does not take now (no room, blocked, closed) go again, then the runner waits: none is refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.egress.sdk import Refused
from headrace_opensearch.client import Client, Reply, told_error
from headrace_opensearch.options import OpenSearchOptions

ATTEMPTS = 3
"""Of rows that the cluster has no room for at the moment; then the runner waits and begins again."""
ATTEMPT_PAUSE_S = 0.5
REASON_CHARACTERS = 200
"""Of what the index says, and of the cause that it names: some begin with all of a long value."""
_ANSWER = "filter_path=errors,items.*.status,items.*.error"
"""What is looked at of an answer: it would be larger than the request else."""
_TAKEN = frozenset({200, 201, 409})
"""409: there already, or a newer one is."""
_TOO_MUCH = frozenset({"rejected_execution_exception", "es_rejected_execution_exception", "circuit_breaking_exception"})
"""429 that fewer rows may get past: a node bounds the bytes of all its requests."""


class _Rows(NamedTuple):
    """Some rows of a batch."""

    numbers: npt.NDArray[np.int64]
    lines: pa.LargeBinaryArray

    def some(self, start: int, stop: int) -> _Rows:
        return _Rows(self.numbers[start:stop], self.lines[start:stop])

    def take(self, places: Sequence[int]) -> _Rows:
        return _Rows(self.numbers[places], self.lines.take(pa.array(places, pa.int64())))

    def ends(self) -> npt.NDArray[np.int64]:
        """Where each row's lines begin in the buffer, and where the last one's end."""
        offsets = np.frombuffer(self.lines.buffers()[1], np.int64)
        return offsets[self.lines.offset : self.lines.offset + len(self.lines) + 1]

    def body(self) -> bytes:
        ends = self.ends()
        text: bytes = self.lines.buffers()[2][int(ends[0]) : int(ends[-1])].to_pybytes()
        return text


class Bulk:
    """The way into one index."""

    def __init__(self, client: Client, options: OpenSearchOptions, index: str) -> None:
        self._client, self._options, self._path = client, options, f"{index}/_bulk?{_ANSWER}"

    def send(self, numbers: npt.NDArray[np.int64], lines: pa.LargeBinaryArray) -> list[Refused]:
        """Rows of these numbers in their batch; returns when each was taken or refused. Raises `TargetUnavailable`."""
        assert len(numbers) == len(lines)
        refused: list[Refused] = []
        for rows in self._requests(_Rows(numbers, lines)):
            refused += self._send(rows)
        return refused

    def _requests(self, rows: _Rows) -> Iterator[_Rows]:
        ends, start, count = rows.ends(), 0, len(rows.numbers)
        while start < count:
            fits = int(np.searchsorted(ends, ends[start] + self._options.bytes_per_request, side="right")) - 1
            stop = min(max(fits, start + 1), start + self._options.rows_per_request, count)
            yield rows.some(start, stop)
            start = stop

    def _send(self, rows: _Rows) -> list[Refused]:
        """One request, again with the rows that are not taken now."""
        refused: list[Refused] = []
        for attempt in range(1, ATTEMPTS + 1):
            reply = self._client.ask("POST", self._path, rows.body(), returned=_TOO_MUCH if len(rows.lines) > 1 else ())
            if reply.status in (413, 429):
                return refused + self._send_halves(rows)
            waiting, why = self._judge(rows, reply, refused)
            if not waiting:
                return refused
            rows = rows.take(waiting)
            if attempt < ATTEMPTS:
                time.sleep(ATTEMPT_PAUSE_S * attempt)
        raise self._client.unavailable(f"{len(rows.lines):,} rows are not taken now: {why}")

    def _send_halves(self, rows: _Rows) -> list[Refused]:
        count = len(rows.lines)
        if count == 1:
            return [Refused(int(rows.numbers[0]), "opensearch.too_large", f"{len(rows.body()):,} bytes")]
        return self._send(rows.some(0, count // 2)) + self._send(rows.some(count // 2, count))

    def _judge(self, rows: _Rows, reply: Reply, refused: list[Refused]) -> tuple[list[int], str]:
        """Places of the rows to send again, and why the last of them was not taken; the refused join the others."""
        if reply.status != 200 or not isinstance(reply.body, dict) or "errors" not in reply.body:
            raise self._client.unavailable(f"a bulk request is answered with {reply.status} {reply.reason}".rstrip())
        if not reply.body["errors"]:
            return [], ""
        items = reply.body.get("items", ())
        if len(items) != len(rows.lines):
            raise self._client.unavailable(f"a bulk request of {len(rows.lines):,} rows is answered for {len(items):,}")
        waiting: list[int] = []
        why = ""
        for place, item in enumerate(items):
            (told,) = item.values()
            error = told.get("error")
            # Without one it was taken, a deletion of what is not there too.
            if error is None or told["status"] in _TAKEN:
                continue
            if _may_be_taken_later(told["status"], error):
                waiting.append(place)
                why = told_error(error)
            else:
                refused.append(Refused(int(rows.numbers[place]), "opensearch.refused", _reason(error)))
        return waiting, why


def _may_be_taken_later(status: int, error: Mapping[str, Any]) -> bool:
    """403 and 429: the index is blocked, of a full disk for example, or there is no room; 404: it was removed."""
    return status in (403, 404, 429) or status >= 500 or error.get("type") == "index_closed_exception"


def _reason(error: Mapping[str, Any]) -> str:
    told = (error.get("reason"), error.get("caused_by", {}).get("reason", ""))
    reason, cause = (" ".join(str(each).split())[:REASON_CHARACTERS] for each in told)
    return f"{error.get('type')}: {reason} {cause}".rstrip()
