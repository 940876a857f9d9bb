"""Signatures of requests, as the Standard Webhooks specification has them.

Owns the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.

- What is signed is `id.timestamp.body`, the body byte by byte as it is sent, with HMAC-SHA256.
- A secret is `whsec_` and base64; any other text is the key itself, in UTF-8.
- With several secrets there are several signatures, so that a receiver can take the new one before the old one goes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from headrace.egress.sdk import TargetInvalid

_PREFIX = "whsec_"
KEY_BYTES_MIN = 24
"""The specification's least; shorter keys can be guessed."""


class Signer:
    """Signs requests. Without secrets it adds nothing."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [_key(secret) for secret in secrets]

    def headers(self, message_id: str, timestamp_s: int, body: bytes) -> Mapping[str, str]:
        if not self._keys:
            return {}
        signed = b"%s.%d.%s" % (message_id.encode(), timestamp_s, body)
        signatures = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in self._keys]
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        }


def _key(secret: str) -> bytes:
    """Raises `TargetInvalid`, without the secret."""
    cure = f"export {_PREFIX} and base64 of {KEY_BYTES_MIN} to 64 random bytes"
    if not secret.startswith(_PREFIX):
        key = secret.encode()
    else:
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise TargetInvalid(f"option 'secret': what follows {_PREFIX} is not base64", cure=cure) from None
    if len(key) < KEY_BYTES_MIN:
        message = f"option 'secret': a key of {len(key)} bytes can be guessed; at least {KEY_BYTES_MIN}"
        raise TargetInvalid(message, cure=cure)
    return key
