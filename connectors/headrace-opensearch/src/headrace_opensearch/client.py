"""Requests to one cluster, by its REST interface, which OpenSearch and Elasticsearch share.

Owns the connection of one egress, and what the status of a whole request means.

- Nothing is repeated here. No message holds a password, a key or a row.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from headrace.egress.references import filled
from headrace.egress.sdk import TargetInvalid, TargetUnavailable
from headrace_opensearch.options import OpenSearchOptions

_PASSING = frozenset({408, 429})
_BLOCKS = frozenset({"cluster_block_exception", "index_create_block_exception"})
"""403 that time or the cluster's keepers mend: a full disk, a cluster made read-only."""
REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; `body` is JSON, None where it is none."""

    status: int
    body: Any

    @property
    def reason(self) -> str:
        """The type of the error: the rest may hold values."""
        return str(self.error.get("type", ""))

    @property
    def told(self) -> str:
        """The error of a request that holds no values."""
        return " ".join(f"{self.reason}: {self.error.get('reason', '')}".split())[:REASON_CHARACTERS]

    @property
    def error(self) -> Mapping[str, Any]:
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return error if isinstance(error, dict) else {}


def told_error(error: Mapping[str, Any]) -> str:
    """Its type; of a block the reason too, which holds no values."""
    kind = str(error.get("type", ""))
    return f"{kind}: {error.get('reason', '')}"[:REASON_CHARACTERS] if kind in _BLOCKS else kind


class Client:
    """One connection at a time, on an event loop of its own."""

    def __init__(self, options: OpenSearchOptions) -> None:
        self._url, self._options = options.url.rstrip("/"), options
        self._headers: dict[str, str] = {}
        if options.api_key is not None:
            self._headers["Authorization"] = f"ApiKey {filled(options.api_key, 'api_key')}"
        if options.username is not None and options.password is not None:
            login = f"{options.username}:{filled(options.password, 'password')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        self._tls: ssl.SSLContext | bool = True
        if options.ca_certificate is not None:
            try:
                self._tls = ssl.create_default_context(cafile=str(options.ca_certificate))
            except (OSError, ssl.SSLError) as error:
                message = f"option 'ca_certificate': {options.ca_certificate} cannot be read: {error}"
                raise TargetInvalid(message, cure="name a PEM file") from error
        self._session: aiohttp.ClientSession | None = None
        self._loop = asyncio.Runner()

    def ask(self, method: str, path: str, body: Any = None, *, returned: Collection[str] = ()) -> Reply:
        """One request: JSON, or lines of it as bytes. Raises `TargetUnavailable`; `TargetInvalid` without rights.

        Answers with a 429 of the kinds `returned` are the caller's.
        """
        reply = self._loop.run(self._ask(method, path, body))
        if reply.status == 429 and reply.reason in returned:
            return reply
        if reply.status in (401, 403) and reply.reason not in _BLOCKS:
            message = f"{self._url}: answers {reply.status} {reply.reason}".rstrip()
            raise TargetInvalid(message, cure="check `username`, `password` or `api_key`, and their rights")
        if reply.status in _PASSING or reply.status >= 500 or reply.status == 403:
            raise self.unavailable(f"answers {reply.status} {told_error(reply.error)}".rstrip())
        return reply

    def unavailable(self, told: str) -> TargetUnavailable:
        return TargetUnavailable(f"{self._url}: {told}", cure="see to the cluster; headrace tries again")

    def close(self) -> None:
        """Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            self._loop.run(session.close())
        self._loop.close()

    async def _ask(self, method: str, path: str, body: Any) -> Reply:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1, ssl=self._tls),
                timeout=aiohttp.ClientTimeout(total=self._options.timeout_ms / 1_000),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        is_lines = isinstance(body, bytes)
        data = body if body is None or is_lines else json.dumps(body).encode()
        headers = {"Content-Type": "application/x-ndjson" if is_lines else "application/json"}
        url = f"{self._url}/{path}"
        try:
            async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as reply:
                return Reply(reply.status, _json(await reply.read()))
        except TimeoutError as error:
            raise self.unavailable(f"no answer within {self._options.timeout_ms:,} ms") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self.unavailable(f"cannot be asked: {error}") from error


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
