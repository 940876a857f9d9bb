"""Bytes that stand as text, as `binary.handling.mode` has it.

Owns the reading of such a text without knowing which of the modes wrote it.
"""

from __future__ import annotations

import base64
import re

_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_SURELY_HEX = 8
"""Digits from which on nobody takes hexadecimal for base64: fewer than one text of base64 in 50,000 looks like that."""


def text_bytes(text: str) -> bytes | None:
    """The bytes in a text of base64, its URL-safe form, or hexadecimal digits; None where it is none of them."""
    if len(text) >= _SURELY_HEX and _HEX.fullmatch(text):
        return bytes.fromhex(text)
    try:
        return base64.b64decode(text.translate(_TO_STANDARD), validate=True)
    except ValueError:
        return bytes.fromhex(text) if _HEX.fullmatch(text) else None


_TO_STANDARD = str.maketrans("-_", "+/")
