"""What a request is told: the outcome of each record.

Owns the answer's JSON and its status, and the form in which both are kept for a repeat of the request.

- 200: every record is durable. 207: some are, the others say why not. 4xx: none is, and nothing was published.
- A repeat is answered with the bytes of the first answer.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headrace.ingress.gateway.errors import KeyInFlight, RequestMalformed

FINGERPRINT_BYTES = 16
_PLACE = struct.Struct(">iq")
_NO_PARTITION = -1


class Accepted(NamedTuple):
    """A durable record."""

    partition: int | None
    timestamp_ms: int


class Refused(NamedTuple):
    """A record that is not in the log."""

    code: str
    field: str
    reason: str


Outcome = Accepted | Refused


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one request."""

    status: int
    body: bytes

    def kept(self, fingerprint: bytes) -> bytes:
        """As it is remembered."""
        return fingerprint + str(self.status).encode() + zlib.compress(self.body, 1)

    @classmethod
    def of_kept(cls, kept: bytes) -> Answer:
        start = FINGERPRINT_BYTES
        return cls(int(kept[start : start + 3]), zlib.decompress(kept[start + 3 :]))


def kept_event(accepted: Accepted, fingerprint: bytes) -> bytes:
    """The outcome of an event as it is remembered."""
    partition = _NO_PARTITION if accepted.partition is None else accepted.partition
    return fingerprint + _PLACE.pack(partition, accepted.timestamp_ms)


def event_of_kept(kept: bytes) -> Accepted:
    partition, timestamp_ms = _PLACE.unpack(kept[FINGERPRINT_BYTES:])
    return Accepted(None if partition == _NO_PARTITION else partition, timestamp_ms)


def is_same(kept: bytes, fingerprint: bytes) -> bool:
    """Whether what is remembered came with the same content."""
    return kept[:FINGERPRINT_BYTES] == fingerprint


def answer_of(topic: str, outcomes: Sequence[Outcome]) -> Answer:
    """The answer to a request with these outcomes, in the order of its records."""
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    records = ",".join([_record(index, outcome) for index, outcome in enumerate(outcomes)])
    accepted = len(outcomes) - len(refused)
    head = f'{{"topic":{json.dumps(topic)},"accepted":{accepted},"refused":{len(refused)},"records":['
    return Answer(_status(accepted, refused), f"{head}{records}]}}".encode())


def _status(accepted: int, refused: Sequence[Refused]) -> int:
    if not refused:
        return 200
    if accepted:
        return 207
    codes = {each.code for each in refused}
    for error in (RequestMalformed, KeyInFlight):
        if codes == {error.code}:
            return error.status
    return 422


def _record(index: int, outcome: Outcome) -> str:
    if isinstance(outcome, Accepted):
        partition = "null" if outcome.partition is None else outcome.partition
        return f'{{"index":{index},"outcome":"accepted","partition":{partition},"timestamp_ms":{outcome.timestamp_ms}}}'
    told = {"index": index, "outcome": "refused", "code": outcome.code, "field": outcome.field or None}
    return json.dumps({**told, "reason": outcome.reason}, separators=(",", ":"))
