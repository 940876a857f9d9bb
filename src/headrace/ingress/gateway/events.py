"""CloudEvents 1.0: structured, batch and binary mode.

Owns the reading of one event: its attributes, and its data as a record.

- An event needs `specversion` 1.0, `id`, `source`, `type` and JSON data; what it lacks is told by name.
- Attributes become headers of the record as in the Kafka protocol binding: `ce_id`, `ce_source`, ...
- The same `source` and `id` on the same topic are the same event.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from headrace.ingress.json_rows import JsonReader, Unreadable, as_row
from headrace.log.columns import HeaderRow

EVENT_TYPE = "application/cloudevents+json"
BATCH_TYPE = "application/cloudevents-batch+json"
HTTP_PREFIX, KAFKA_PREFIX = "ce-", "ce_"
REQUIRED = ("specversion", "id", "source", "type")
_TEXTS = frozenset({*REQUIRED, "subject", "time", "dataschema", "datacontenttype"})
ATTRIBUTE_CHARACTERS_MAX = 1_024
ATTRIBUTES_MAX = 64

_NAME = re.compile(r"[a-z0-9]{1,64}")
_JSON_DATA = re.compile(r"application/(.+\+)?json(\s*;.*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Event:
    """An event that can be a record."""

    row: dict[str, Any]
    source: str
    id: str
    headers: HeaderRow


def attributes_of(headers: Mapping[str, str]) -> dict[str, str]:
    """The attributes among the headers of a request in binary mode; none in any other."""
    found = {name.lower(): value for name, value in headers.items()}
    return {name[len(HTTP_PREFIX) :]: unquote(value) for name, value in found.items() if name.startswith(HTTP_PREFIX)}


def binary_event(attributes: Mapping[str, str], data: Any) -> Event | Unreadable:
    """An event whose attributes are headers and whose data is the body."""
    return _event(attributes, as_row(data))


def read_event(event: Any, reader: JsonReader) -> Event | Unreadable:
    """An event that is one JSON object."""
    if not isinstance(event, dict):
        return Unreadable("is no CloudEvent: not a JSON object")
    attributes = {name: value for name, value in event.items() if name not in ("data", "data_base64")}
    data_type = event.get("datacontenttype")
    if data_type is not None and not (isinstance(data_type, str) and _JSON_DATA.fullmatch(data_type)):
        return Unreadable("is no record: its `datacontenttype` is not JSON")
    if "data_base64" in event and "data" in event:
        return Unreadable("is no CloudEvent: it has both `data` and `data_base64`")
    data = _unpacked(event["data_base64"], reader) if "data_base64" in event else event.get("data")
    row = as_row(data)
    return _event(attributes, Unreadable(f"`data` {row.reason}") if isinstance(row, Unreadable) else row)


def _unpacked(text: Any, reader: JsonReader) -> Any:
    try:
        return reader.value(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, TypeError):
        return Unreadable("is not base64")


def _event(attributes: Mapping[str, Any], row: dict[str, Any] | Unreadable) -> Event | Unreadable:
    texts: dict[str, str] = {}
    if len(attributes) > ATTRIBUTES_MAX:
        return Unreadable(f"is no CloudEvent: it has more than {ATTRIBUTES_MAX} attributes")
    for name, value in attributes.items():
        text = None if name in _TEXTS and not isinstance(value, str | None) else _text(value)
        if not _NAME.fullmatch(name):
            return Unreadable("is no CloudEvent: the name of an attribute is not of lower case letters and digits")
        if text is None:
            return Unreadable(f"is no CloudEvent: `{name}` is no text, whole number or boolean that fits")
        if value is not None:
            texts[name] = text
    missing = next((name for name in REQUIRED if not texts.get(name)), None)
    if missing is not None:
        return Unreadable(f"is no CloudEvent: `{missing}` is missing")
    if "time" in texts and not _is_instant(texts["time"]):
        return Unreadable("is no CloudEvent: `time` is not RFC 3339, such as 2013-01-01T05:15:00Z")
    if texts["specversion"] != "1.0":
        return Unreadable("is no CloudEvent that is read: `specversion` is not 1.0")
    if isinstance(row, Unreadable):
        return row
    headers: HeaderRow = [(KAFKA_PREFIX + name, text.encode()) for name, text in texts.items()]
    return Event(row, texts["source"], texts["id"], headers)


def _is_instant(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _text(value: Any) -> str | None:
    """An attribute as text; empty for null, None for what is none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        # JSON knows no difference between 1 and 1.0.
        return str(int(value)) if -(2**31) <= value < 2**31 and value == int(value) else None
    if not isinstance(value, str) or len(value) > ATTRIBUTE_CHARACTERS_MAX:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value
