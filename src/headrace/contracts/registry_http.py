"""HTTP to a Confluent-compatible schema registry: one request at a time, retried within bounds.

Owns connecting, authorisation, retries and the reading of replies. Knows nothing of schemas.

- A secret is in no message, no `repr` and no URL that a message shows.
- Trouble that may pass (no connection, no reply, 408, 429, 5xx) is tried again, then `RegistryUnavailable`.
- Redirects are not followed: the credentials belong to one host.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from headrace.contracts.registry import RegistryError, RegistryUnavailable

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
RESPONSE_BYTES_MAX = 32 * 1024 * 1024
"""Largest reply read; a registry's largest is a list of subjects."""

RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """Basic authorisation."""

    user: str
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class Endpoint(NamedTuple):
    """One address of the registry, without credentials."""

    scheme: str
    host: str
    port: int | None
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{f':{self.port}' if self.port else ''}{self.path}"


class Reply(NamedTuple):
    """What the registry answered."""

    status: int
    body: Any

    @property
    def error_code(self) -> int:
        """The registry's own code such as 40403; the HTTP status where it gave none."""
        code = self.body.get("error_code") if isinstance(self.body, dict) else None
        return code if isinstance(code, int) else self.status

    @property
    def message(self) -> str:
        text = self.body.get("message") if isinstance(self.body, dict) else None
        return text if isinstance(text, str) else http.client.responses.get(self.status, "no reason given")


class RegistryUnauthorised(RegistryError):
    """The registry does not take these credentials."""

    code = "registry.unauthorised"


class RegistryHttp:
    """Requests to the registry. Thread-safe: each request has a connection of its own."""

    def __init__(
        self,
        url: str,
        *,
        credentials: Credentials | None = None,
        timeout_s: float,
        attempts_max: int,
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.endpoints, in_url = parse_urls(url)
        self._credentials = credentials or in_url
        self._timeout_s = timeout_s
        self._attempts_max = attempts_max
        self._tls = tls
        self._sleep, self._jitter = sleep, jitter

    def request(self, method: str, path: str, body: Any = None) -> Reply:
        """The reply, whatever its status, save those tried again. Raises `RegistryUnavailable`."""
        trouble = ""
        for attempt in range(self._attempts_max):
            if attempt:
                self._sleep(backoff_s(attempt, self._jitter()))
            endpoint = self.endpoints[attempt % len(self.endpoints)]
            try:
                reply = self._once(endpoint, method, path, body)
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{endpoint}: {type(error).__name__}: {error}"
                continue
            if reply.status not in RETRY_STATUSES:
                return self._authorised(endpoint, reply)
            trouble = f"{endpoint} answered {reply.status}: {reply.message}"
        raise RegistryUnavailable(
            f"schema registry, {method} {path}, tried {self._attempts_max} times: {trouble}",
            cure="check the registry's URL and that it runs",
        )

    def _authorised(self, endpoint: Endpoint, reply: Reply) -> Reply:
        if reply.status in (401, 403):
            user = f"user {self._credentials.user!r}" if self._credentials else "no credentials"
            raise RegistryUnauthorised(
                f"schema registry {endpoint} refused {user}: {reply.status} {reply.message}",
                cure="check the registry's user and password in headrace.toml",
            )
        return reply

    def _once(self, endpoint: Endpoint, method: str, path: str, body: Any) -> Reply:
        connection = self._connection(endpoint)
        headers = {"Accept": f"{CONTENT_TYPE}, application/json", "Content-Type": CONTENT_TYPE}
        if self._credentials:
            headers["Authorization"] = self._credentials.header
        try:
            connection.request(method, endpoint.path + path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            data = response.read(RESPONSE_BYTES_MAX + 1)
        finally:
            connection.close()
        if len(data) > RESPONSE_BYTES_MAX:
            raise RegistryError(f"schema registry {endpoint}, {method} {path}: reply above {RESPONSE_BYTES_MAX} bytes")
        return Reply(response.status, self._json(endpoint, response, data))

    def _connection(self, endpoint: Endpoint) -> http.client.HTTPConnection:
        if endpoint.scheme == "http":
            return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=self._timeout_s, context=self._tls)

    def _json(self, endpoint: Endpoint, response: http.client.HTTPResponse, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            if response.status >= 400:
                return None  # A proxy's error page; the status says enough.
            raise RegistryError(
                f"{endpoint} answered {response.status} with something that is not JSON",
                cure="check that the URL is that of a schema registry",
            ) from None


def backoff_s(attempt: int, jitter: float) -> float:
    """Wait before the attempt, counted from 1: doubling up to a limit, `jitter` (0 to 1) takes up to half away."""
    whole = min(BACKOFF_FIRST_S * 2 ** (attempt - 1), BACKOFF_MAX_S)
    return float(whole * (1 - jitter / 2))


def parse_urls(url: str) -> tuple[Sequence[Endpoint], Credentials | None]:
    """The addresses in a comma-separated list, and the credentials of the first that has some."""
    endpoints: list[Endpoint] = []
    credentials: Credentials | None = None
    for text in filter(None, (part.strip() for part in url.split(","))):
        endpoint, found = _parse_url(text)
        endpoints.append(endpoint)
        credentials = credentials or found
    if not endpoints:
        raise RegistryError("the schema registry's URL is empty", cure="give one such as https://registry.example:8081")
    return tuple(endpoints), credentials


def _parse_url(text: str) -> tuple[Endpoint, Credentials | None]:
    shown = text.rpartition("@")[2]  # What stands before may be a secret.
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise RegistryError(f"schema registry URL {shown!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise RegistryError(
            f"schema registry URL {shown!r} is not an http or https URL", cure="write https://host:port"
        )
    endpoint = Endpoint(parts.scheme, host, port, parts.path.rstrip("/"))
    if not parts.username:
        return endpoint, None
    return endpoint, Credentials(unquote(parts.username), unquote(parts.password or ""))
