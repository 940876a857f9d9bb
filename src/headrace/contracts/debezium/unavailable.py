"""Debezium's stand-ins for values that the database did not log.

Owns `UnavailableValues`: which values stand for "unchanged", in every form that connectors give them.

- PostgreSQL does not log a large value (TOAST) that an update left alone; Debezium then writes a placeholder in the
  column's type. No reader may take it for data.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from typing import Any

PLACEHOLDER = "__debezium_unavailable_value"
"""Debezium's default of `unavailable.value.placeholder`."""
_HEX = "hex:"
_ENCODED_BYTES_MIN = 8
"""Shorter placeholders are not looked for in base64 or hexadecimal digits: a column may well hold such a text."""


class UnavailableValues:
    """Tells placeholders from data."""

    def __init__(self, placeholder: str = PLACEHOLDER) -> None:
        """`placeholder` as the connector is configured; `hex:` in front says bytes."""
        raw = bytes.fromhex(placeholder[len(_HEX) :]) if placeholder.startswith(_HEX) else placeholder.encode()
        text = raw.decode(errors="replace")
        self.bytes, self.text = raw, text
        map_text = json.dumps({text: text}, separators=(",", ":"), ensure_ascii=False)
        self.texts = frozenset({text, map_text, *(_encoded(raw) if len(raw) >= _ENCODED_BYTES_MIN else ())})
        self.codes = [byte - 256 if byte > 127 else byte for byte in raw]
        # Java's `UUID.nameUUIDFromBytes`: version 3 of the bytes, without a name space in front.
        identifier = str(uuid.UUID(bytes=hashlib.md5(raw, usedforsecurity=False).digest(), version=3))
        self.items = (text, identifier)
        """Of which one alone makes an array a stand-in."""

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, str):
            return value in self.texts
        if isinstance(value, bytes):
            return value == self.bytes
        if isinstance(value, list):
            return value == self.codes or (len(value) == 1 and value[0] in self.items)
        return isinstance(value, dict) and value == {self.text: self.text}


def _encoded(raw: bytes) -> set[str]:
    """The texts of bytes, as `binary.handling.mode` has them."""
    texts = {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    return {raw.hex(), *texts, *(text.rstrip("=") for text in texts)}
