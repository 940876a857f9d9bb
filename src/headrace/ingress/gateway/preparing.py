"""Requests that wait, to records by topic.

Owns the columnar half of the work: the rows of all requests of a batch are checked and encoded together, by topic.

- A request's records keep their order, and requests that of their coming.
- A body is read into rows when its turn has come: only one batch is in memory as rows.
- Keys are hashes: nothing that a client sends becomes a key of the log, or a line of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from headrace.contracts.contract import Contract
from headrace.errors import HeadraceError
from headrace.ingress.batch_publisher import BatchPublisher
from headrace.ingress.encoder import Prepared
from headrace.ingress.gateway.answers import FINGERPRINT_BYTES, Answer, Outcome, Refused
from headrace.ingress.gateway.bodies import Body, Rows, read_rows
from headrace.ingress.gateway.errors import RequestMalformed
from headrace.ingress.gateway.events import Event
from headrace.ingress.json_rows import JsonReader
from headrace.ingress.values import Form
from headrace.log.columns import HeaderRow
from headrace.log.port import Outgoing

Reply = Answer | HeadraceError


@dataclass(slots=True, eq=False)
class Pending:
    """A request between its body and its answer."""

    contract: Contract
    client: str
    body: Body
    key: bytes | None
    """Of the request as a whole."""
    fingerprint: bytes
    is_gone: Callable[[], bool] = lambda: False
    """Whether nobody waits for the answer any more. Thread-safe."""
    outcomes: list[Outcome | None] = field(default_factory=list)
    """By record, once it was read."""


@dataclass(frozen=True, slots=True)
class EventKey:
    """What makes an event the same, and what is in it."""

    key: bytes
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class TopicBatch:
    """Records of some requests for one topic."""

    requests: Sequence[Pending]
    outgoing: Outgoing
    owner: npt.NDArray[np.int64]
    """Of each record: which request."""
    number: npt.NDArray[np.int64]
    """Of each record: which one of its request."""
    event_keys: Sequence[EventKey | None]
    """Of each record; empty where there is no event."""


class Preparing:
    """Used on one thread."""

    def __init__(self, publisher: BatchPublisher, *, workspace: str, records_max: int) -> None:
        self._publisher, self._workspace, self._records_max = publisher, workspace, records_max
        self._readers: dict[str, JsonReader] = {}

    def prepare(
        self, pending: Sequence[Pending], on_refused: Callable[[Pending, HeadraceError], None]
    ) -> list[TopicBatch]:
        """Records of these requests; a request that is refused whole is told at once."""
        by_topic: dict[str, list[tuple[Pending, Rows]]] = {}
        for request in pending:
            try:
                rows = read_rows(request.body, self._reader(request.contract), self._records_max)
            except HeadraceError as error:
                on_refused(request, error)
                continue
            request.outcomes = [None] * rows.count
            for number, unreadable in rows.unreadable.items():
                request.outcomes[number] = Refused(RequestMalformed.code, "", unreadable.reason)
            by_topic.setdefault(request.contract.topic, []).append((request, rows))
        batches = []
        for topic, requests in by_topic.items():
            try:
                batches.append(self._batch(topic, requests))
            except HeadraceError as error:
                for request, _ in requests:
                    on_refused(request, error)
        return batches

    def _reader(self, contract: Contract) -> JsonReader:
        found = self._readers.get(contract.topic)
        if found is None:
            found = self._readers[contract.topic] = JsonReader(contract.schema)
        return found

    def _batch(self, topic: str, requests: Sequence[tuple[Pending, Rows]]) -> TopicBatch:
        rows = [row for _, each in requests for row in each.rows]
        owner = np.repeat(np.arange(len(requests)), [len(each.rows) for _, each in requests])
        number = np.array([index for _, each in requests for index in each.indexes], dtype=np.int64)
        events = [each.events.get(index) for _, each in requests for index in each.indexes]
        prepared = self._publisher.prepare(lambda: self._encoded(topic, rows, events))
        for row, violation in prepared.violations.items():
            refused = Refused(violation.code, violation.field, violation.reason)
            requests[owner[row]][0].outcomes[number[row]] = refused
        keys = (
            []
            if not any(events)
            else [
                None if events[row] is None else self._event_key(topic, events[row]) for row in prepared.rows.tolist()
            ]
        )
        pending = [request for request, _ in requests]
        return TopicBatch(pending, prepared.outgoing, owner[prepared.rows], number[prepared.rows], keys)

    def _encoded(self, topic: str, rows: Sequence[dict[str, object]], events: Sequence[Event | None]) -> Prepared:
        encoder = self._publisher.encoder(topic, Form.HTTP)
        stamps = np.full(len(rows), self._publisher.clock(), dtype=np.int64)
        headers: list[HeaderRow | None] | None = None
        if any(events):
            headers = [None if event is None else event.headers for event in events]
        return encoder.encode_columns(encoder.columns.from_rows(rows), stamps, headers)

    def _event_key(self, topic: str, event: Event | None) -> EventKey:
        assert event is not None
        data = json.dumps(event.row, sort_keys=True, default=str).encode(errors="surrogatepass")
        return EventKey(hashed_key(self._workspace, topic, event.source, event.id), fingerprint_of(data))


def hashed_key(*parts: str) -> bytes:
    """A key of the log, of parts that no others give."""
    text = json.dumps(parts).encode()
    return b"k" + hashlib.blake2b(text, digest_size=20).digest()


def fingerprint_of(*parts: bytes) -> bytes:
    """What tells one content from another."""
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
