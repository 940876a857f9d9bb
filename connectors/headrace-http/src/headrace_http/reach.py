"""A look at an endpoint that asks it nothing: a connection, with its certificate checked, and its end.

Owns that connection. No byte of HTTP is sent, since a request means something to an endpoint.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from headrace.egress.sdk import TargetInvalid

_PORTS = {"http": 80, "https": 443}
_GOODBYE_S = 1.0
"""The endpoint may end the connection as it likes."""


async def reach(url: str, tls: ssl.SSLContext, timeout_s: float) -> str:
    """What stands in the way of a request; empty where nothing does. Raises `TargetInvalid` for what is no address."""
    host, port, is_tls = _address(url)
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port, ssl=tls if is_tls else None)
    except TimeoutError:
        return f"no connection within {timeout_s * 1_000:,.0f} ms"
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not trusted: {error.verify_message}"
    except (OSError, UnicodeError) as error:
        # A name that cannot be one is told as an error of its encoding.
        told = error.strerror if isinstance(error, OSError) else None
        return f"cannot be reached: {told or type(error).__name__}"
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_GOODBYE_S):
            await writer.wait_closed()
    return ""


def _address(url: str) -> tuple[str, int, bool]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in _PORTS:
        raise TargetInvalid("option 'url' is no address", cure="write https://host/path")
    return host, port or _PORTS[parts.scheme], parts.scheme == "https"
