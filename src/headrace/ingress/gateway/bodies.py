"""Bodies of requests to rows.

Owns the media types that the gateway reads, and what is a record in each. CloudEvents are in `events`.

- JSON is one record, or an array of records; of NDJSON each line is one. Empty lines count for nothing.
- A record that cannot be read is refused alone; a body that cannot be read is refused whole.
- Nothing is read into rows before it is its turn: what waits is bytes.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.ingress.gateway.errors import MediaTypeUnknown, RequestMalformed, RequestTooLarge
from headrace.ingress.gateway.events import BATCH_TYPE, EVENT_TYPE, Event, binary_event, read_event
from headrace.ingress.json_rows import JsonReader, Unreadable, as_row

JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"
NDJSON_TYPES = frozenset({NDJSON_TYPE, "application/ndjson", "application/jsonl", "application/x-jsonlines"})
UNPACKED_PART_BYTES = 65_536


class Media(enum.Enum):
    """How a body holds its records."""

    JSON = "json"
    NDJSON = "ndjson"
    EVENT = "event"
    """One CloudEvent, in structured mode."""
    EVENTS = "events"
    """CloudEvents, in batch mode."""
    EVENT_DATA = "event data"
    """One CloudEvent, in binary mode: its attributes are headers."""


@dataclass(frozen=True, slots=True)
class Body:
    """A body as it came, unpacked."""

    media: Media
    data: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Of the CloudEvent in binary mode."""


@dataclass(slots=True)
class Rows:
    """What is in a body."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    """Number of each row among the records of the body."""
    unreadable: dict[int, Unreadable] = field(default_factory=dict)
    """Records that are no row, by number."""
    events: dict[int, Event] = field(default_factory=dict)
    """By number."""
    count: int = 0
    """Of records."""

    def add(self, row: dict[str, Any] | Unreadable) -> None:
        if isinstance(row, Unreadable):
            self.unreadable[self.count] = row
        else:
            self.rows.append(row)
            self.indexes.append(self.count)
        self.count += 1

    def add_event(self, event: Event | Unreadable) -> None:
        if isinstance(event, Event):
            self.events[self.count] = event
        self.add(event if isinstance(event, Unreadable) else event.row)


def media_of(content_type: str | None, attributes: Mapping[str, str]) -> Media:
    """How the body is to be read. Raises `MediaTypeUnknown`."""
    media_type, _, parameters = (content_type or "").partition(";")
    media_type = media_type.strip().lower()
    charset = dict(_parameters(parameters)).get("charset", "utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise MediaTypeUnknown(f"charset {charset[:40]!r} is not read", cure="send UTF-8")
    if media_type == EVENT_TYPE:
        return Media.EVENT
    if media_type == BATCH_TYPE:
        return Media.EVENTS
    if media_type == JSON_TYPE:
        return Media.EVENT_DATA if attributes else Media.JSON
    if media_type in NDJSON_TYPES and not attributes:
        return Media.NDJSON
    told = f"content type {media_type[:80]!r} is not read" if media_type else "no content type"
    raise MediaTypeUnknown(told, cure=f"send {JSON_TYPE}, {NDJSON_TYPE}, {EVENT_TYPE} or {BATCH_TYPE}")


def _parameters(text: str) -> Iterator[tuple[str, str]]:
    for part in text.split(";"):
        name, _, value = part.partition("=")
        yield name.strip().lower(), value.strip().strip('"').lower()


class Unpacking:
    """A body that comes in parts, packed or not. Never holds more than the limit."""

    def __init__(self, coding: str | None, bytes_max: int) -> None:
        coding = (coding or "identity").strip().lower()
        if coding not in ("identity", "gzip", "x-gzip"):
            raise MediaTypeUnknown(f"content coding {coding[:40]!r} is not read", cure="send gzip, or unpacked")
        self._gzip = zlib.decompressobj(wbits=31) if coding != "identity" else None
        self._bytes_max = bytes_max
        self._parts: list[bytes] = []
        self.size = 0

    def add(self, part: bytes) -> None:
        """Raises `RequestTooLarge`, `RequestMalformed`."""
        if self._gzip is None:
            self._keep(part)
            return
        while part:
            if self._gzip.eof:
                raise RequestMalformed("bytes behind the end of the gzip body", cure="send one gzip member")
            try:
                self._keep(self._gzip.decompress(part, UNPACKED_PART_BYTES))
            except zlib.error as error:
                raise RequestMalformed("the body is not gzip", cure="pack it anew, or send it unpacked") from error
            part = self._gzip.unconsumed_tail or self._gzip.unused_data

    def whole(self) -> bytes:
        """The body. Raises `RequestMalformed`."""
        if self._gzip is not None and not self._gzip.eof:
            raise RequestMalformed("the gzip body ends too early", cure="send it whole")
        return b"".join(self._parts)

    def _keep(self, part: bytes) -> None:
        self.size += len(part)
        if self.size > self._bytes_max:
            raise RequestTooLarge(f"the body is above {self._bytes_max} bytes", cure="send less at a time")
        self._parts.append(part)


def read_rows(body: Body, reader: JsonReader, records_max: int) -> Rows:
    """The records of a body. Raises `RequestMalformed`, `RequestTooLarge`."""
    found = Rows()
    exact = reader.must_be_exact(body.data)
    if body.media is Media.NDJSON:
        lines = [line for line in body.data.split(b"\n") if line and not line.isspace()]
        _check_count(len(lines), records_max)
        for line in lines:
            found.add(reader.row(line, exact=exact))
        return found
    value = reader.value(body.data, exact=exact)
    if isinstance(value, Unreadable):
        raise RequestMalformed(f"the body {value.reason}", cure="send JSON in UTF-8")
    if body.media is Media.EVENT_DATA:
        found.add_event(binary_event(body.attributes, value))
    elif body.media is Media.EVENT:
        found.add_event(read_event(value, reader))
    elif body.media is Media.EVENTS:
        for each in _array(value, records_max):
            found.add_event(read_event(each, reader))
    elif isinstance(value, dict):
        found.add(value)
    else:
        for each in _array(value, records_max):
            found.add(as_row(each))
    return found


def _array(value: Any, records_max: int) -> list[Any]:
    if not isinstance(value, list):
        raise RequestMalformed("the body is neither a JSON object nor an array of them", cure="send records as objects")
    _check_count(len(value), records_max)
    return value


def _check_count(count: int, records_max: int) -> None:
    if not count:
        raise RequestMalformed("the body holds no record", cure="send at least one")
    if count > records_max:
        raise RequestTooLarge(f"the body holds {count} records, above {records_max}", cure="send less at a time")
