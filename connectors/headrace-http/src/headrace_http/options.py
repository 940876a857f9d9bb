"""What an egress with connector `http` may say under `options:`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from headrace.egress.sdk import Options
from headrace.egress.secret_option import Secret

_SECRET_HEADERS = re.compile(r"auth|token|key|secret|cookie|password", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS = frozenset({"content-type", "content-length", "host", "idempotency-key", "transfer-encoding"})


class Format(Enum):
    """What a request carries."""

    ROW = "row"
    """One row, as a JSON object."""
    ARRAY = "array"
    """Several, as a JSON array."""
    NDJSON = "ndjson"
    """Several, each in a line."""


class Order(Enum):
    """Whose rows wait for each other."""

    PARTITION = "partition"
    """All rows of a partition."""
    KEY = "key"
    """Rows of a key."""
    NONE = "none"
    """None, in `append`: a row that is tried again comes behind those after it."""


class HttpOptions(Options):
    """`options:` of an egress with connector `http`."""

    url: str = Field(pattern=r"^(https?://|\$\{[A-Za-z_][A-Za-z0-9_]*\}$)")
    """`https://...`, or `${NAME}` where the address itself is a secret."""
    format: Format = Format.ROW
    envelope: bool = False
    """Each row with its id, operation, topic, partition, offset and time; needed in `replicate`."""
    rows_per_request: int = Field(default=100, ge=1, le=10_000)
    """In `array` and `ndjson`."""
    bytes_per_request: int = Field(default=1_048_576, ge=1_024, le=268_435_456)
    """In `array` and `ndjson`; a larger row goes alone."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    """More headers; `${NAME}` in a value stands for an environment variable."""
    secret: Secret | tuple[Secret, ...] = ()
    """`${NAME}`: the key of the signature; several while one is replaced."""
    id_prefix: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,128}$")
    """Of the ids of rows. Default: the egress."""
    order: Order | None = None
    """Default: `key` where the topic has one, else `partition`."""
    requests_max: int = Field(default=8, ge=1, le=256)
    """Under way at once."""
    timeout_ms: int = Field(default=30_000, ge=10, le=120_000)
    """Of one request, from the connection to the answer."""
    ca_certificate: Path | None = None
    """PEM of the authority that signed the endpoint's certificate, where the system does not know it."""

    @field_validator("url")
    @classmethod
    def _names_nobody(cls, value: str) -> str:
        if "@" in urlsplit(value).netloc:
            raise ValueError("a user and a password do not belong in an address; use `headers` with ${NAME}")
        return value

    @field_validator("headers")
    @classmethod
    def _header_names(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name, text in value.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a header")
            if name.lower() in _OWN_HEADERS or name.lower().startswith("webhook-"):
                raise ValueError(f"{name!r} is set by headrace")
            if _SECRET_HEADERS.search(name) and "${" not in text:
                raise ValueError(f"{name!r}: a secret does not belong in a file; write ${{NAME}} and export it")
        return value

    @model_validator(mode="after")
    def _one_row(self) -> HttpOptions:
        if self.format is Format.ROW and "rows_per_request" in self.model_fields_set:
            raise ValueError("rows_per_request means nothing with format row")
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.secret,) if isinstance(self.secret, str) else self.secret
