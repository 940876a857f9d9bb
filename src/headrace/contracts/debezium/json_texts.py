"""Texts of Connect's JSON converter to payloads, many of one schema.

Owns `JsonTexts`: the schema in front of a payload is read once and known again by its bytes.

- Values are checked where they are taken: most of an envelope nobody asks for.
- The converter writes `{"schema":...,"payload":...}` with the same schema for every record of a table; what is not
  written like that is read whole, to the same result.
"""

from __future__ import annotations

import json
from collections import OrderedDict

from headrace.contracts.debezium.json_values import parse_json
from headrace.contracts.debezium.payloads import Payload, is_wrapped, json_payload
from headrace.contracts.debezium.types import ConnectType, json_type

PREFIXES_MAX = 50
"""Schemas known by their bytes; a topic has one for each version of its table."""

_OPENING, _BETWEEN, _CLOSING = b'{"schema":', b',"payload":', b"}"


class JsonTexts:
    """Reads values of one topic. May be used from one thread at a time."""

    def __init__(self) -> None:
        self._types: OrderedDict[bytes, ConnectType] = OrderedDict()

    def read(self, data: bytes) -> Payload:
        """The payload of a text, perhaps an unchecked one. Raises `Unreadable`."""
        if not data.startswith(_OPENING) or not data.endswith(_CLOSING):
            return self._whole(data)
        for prefix, of in self._types.items():
            if data.startswith(prefix):
                return Payload(parse_json(data[len(prefix) : -1]), of, is_unchecked=True)
        found = _prefix(data)
        return self._whole(data) if found is None else self._first(data, found)

    @staticmethod
    def _whole(data: bytes) -> Payload:
        value = parse_json(data)
        return json_payload(value) if is_wrapped(value) else Payload(value)

    def _first(self, data: bytes, prefix: bytes) -> Payload:
        schema = parse_json(prefix[len(_OPENING) : -len(_BETWEEN)])
        if schema is None:
            return Payload(parse_json(data[len(prefix) : -1]))
        of = self._types[prefix] = json_type(schema)
        if len(self._types) > PREFIXES_MAX:
            self._types.popitem(last=False)
        return Payload(parse_json(data[len(prefix) : -1]), of, is_unchecked=True)


def _prefix(data: bytes) -> bytes | None:
    """Everything in front of the payload; None where the text is not as the converter writes it."""
    try:
        text = data.decode()
        _, end = json.JSONDecoder().raw_decode(text, len(_OPENING))
    except (ValueError, RecursionError):
        return None  # Whoever reads the whole text tells what is wrong with it.
    prefix = text[:end].encode() + _BETWEEN
    return prefix if data.startswith(prefix) else None
