"""What `ingress/*.yaml` of `kind: gateway` says.

Owns the model: tokens and their rights, where to listen, and every limit with its default.

- Tokens stand in the file as hashes, or not at all: `token:` takes nothing but `${NAME}`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from headrace.contracts.yaml_model import place_of
from headrace.errors import Where
from headrace.ingress.cdc.config import IngressName
from headrace.ingress.violations import IngressInvalid

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
TOKEN_CHARACTERS_MIN = 16
"""Of a token in clear, in an environment variable; shorter ones can be guessed."""

ClientName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class ClientConfig(_Model):
    """Who may send, and what."""

    topics: tuple[str, ...] = Field(min_length=1)
    """Names of topics, with `*` for any part."""
    sha256: tuple[str, ...] = ()
    """Hashes of its tokens, in hexadecimal digits; more than one while a token is replaced."""
    token: str = ""
    """`${NAME}`: an environment variable with the token itself."""
    records_per_second: float | None = Field(default=None, gt=0)
    """Another rate than the gateway's."""

    @field_validator("sha256", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _checked(self) -> ClientConfig:
        if any(not _SHA256.fullmatch(each) and not _VARIABLE.fullmatch(each) for each in self.sha256):
            raise ValueError('sha256 is 64 hexadecimal digits, as `sha256sum` prints them, or "${NAME}"')
        if self.token and not _VARIABLE.fullmatch(self.token):
            raise ValueError('a token does not belong in a file; write its sha256, or "${NAME}" and export it')
        if not self.sha256 and not self.token:
            raise ValueError("a client needs `sha256` or `token`")
        return self

    def may_write(self, topic: str) -> bool:
        return any(fnmatchcase(topic, pattern) for pattern in self.topics)


class TlsConfig(_Model):
    """A certificate of the gateway's own."""

    certificate: Path
    """PEM, with the chain; seen from the workspace."""
    key: Path


class GatewayConfig(_Model):
    """One gateway."""

    kind: Literal["gateway"] = "gateway"
    name: IngressName
    """The file's name without its ending, unless it says another."""
    owner: str = ""
    description: str = ""
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    """All processes of one machine share it."""
    tls: TlsConfig | None = None
    """Without it something before the gateway ends TLS, unless all are on one machine."""
    clients: Mapping[ClientName, ClientConfig] = Field(min_length=1)
    """By name, for logs."""
    body_bytes_max: int = Field(default=4_194_304, ge=1_024, le=268_435_456)
    """Of a request, unpacked."""
    records_max: int = Field(default=10_000, ge=1, le=1_000_000)
    """Of a request."""
    body_timeout_ms: int = Field(default=10_000, ge=10, le=600_000)
    """From the first byte of a connection to the end of the headers, and from there to the end of the body."""
    answer_timeout_ms: int = Field(default=30_000, ge=100, le=600_000)
    """How long a request waits for the log."""
    records_per_second: float = Field(default=100_000, gt=0)
    """Of one client, in each process."""
    burst_seconds: float = Field(default=2, ge=0.1, le=3_600)
    """What a client did not use is kept for so long."""
    waiting_requests_max: int = Field(default=5_000, ge=1, le=1_000_000)
    waiting_mb_max: int = Field(default=64, ge=1, le=10_000)
    """Bodies that came, or come, and are not in the log."""
    connections_max: int = Field(default=1_000, ge=1, le=100_000)
    linger_ms: float = Field(default=5, ge=0, le=1_000)
    """How long the first request of a transaction waits for others."""
    batch_records_max: int = Field(default=10_000, ge=1, le=1_000_000)
    """Of a transaction; one request is never cut."""
    keys_kept_seconds: int = Field(default=86_400, ge=1, le=2_592_000)
    """How long idempotency keys are remembered."""
    keys_mb_max: int = Field(default=256, ge=1, le=100_000)
    """Of memory for them, in each process; the oldest are forgotten first."""
    claim_timeout_ms: int = Field(default=20_000, ge=100, le=600_000)
    """After which another process takes over the keys of one that died in between."""
    where: Where | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _one_request_fits(self) -> GatewayConfig:
        if self.waiting_mb_max * 1_048_576 < self.body_bytes_max:
            raise ValueError("waiting_mb_max must hold one body of body_bytes_max")
        return self

    def hashes(self) -> list[tuple[bytes, str]]:
        """Hash of each token, and whose it is. Raises `IngressInvalid` without a value of an environment variable."""
        found: list[tuple[bytes, str]] = []
        for name, client in self.clients.items():
            for text in client.sha256:
                filled = self._filled(text, name, "sha256").strip().lower()
                if not _SHA256.fullmatch(filled):
                    raise self._wrong(name, "sha256", "is no SHA-256: 64 hexadecimal digits", "see `sha256sum`")
                found.append((bytes.fromhex(filled), name))
            if client.token:
                token = self._filled(client.token, name, "token")
                if len(token) < TOKEN_CHARACTERS_MIN:
                    cure = f"take at least {TOKEN_CHARACTERS_MIN} characters, best `openssl rand -hex 32`"
                    raise self._wrong(name, "token", "can be guessed: it is too short", cure)
                found.append((hashlib.sha256(token.encode()).digest(), name))
        seen: set[bytes] = set()
        for digest, name in found:
            if digest in seen:
                raise self._wrong(name, "sha256", "is a token that another entry has, too", "give each its own")
            seen.add(digest)
        return found

    def _filled(self, text: str, client: str, key: str) -> str:
        variable = _VARIABLE.fullmatch(text)
        if variable is None:
            return text
        value = os.environ.get(variable.group(1))
        if not value:
            problem = f"needs the environment variable {variable.group(1)}, which is not set"
            raise self._wrong(client, key, problem, f"export {variable.group(1)}")
        return value

    def _wrong(self, client: str, key: str, problem: str, cure: str) -> IngressInvalid:
        place = place_of(self.where, "clients", client, key)
        return IngressInvalid(f"'clients.{client}.{key}' {problem}", where=place, cure=cure)
