"""What an egress with connector `opensearch` may say under `options:`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from headrace.egress.sdk import Options
from headrace.egress.secret_option import Secret


class OpenSearchOptions(Options):
    """`options:` of an egress with connector `opensearch`."""

    url: str = Field(pattern=r"^https?://[^@/]+/?$")
    """`https://host:9200`, without name and password."""
    username: str | None = Field(default=None, min_length=1)
    password: Secret | None = None
    """`${NAME}`, with `username`."""
    api_key: Secret | None = None
    """`${NAME}`: an API key of Elasticsearch, instead of a user."""
    ca_certificate: Path | None = None
    """PEM of the authority that signed the server's certificate, where the system does not know it."""
    index: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]{0,254}$")
    """The index; made when it is missing. Default: the topic in lower case."""
    rows_per_request: int = Field(default=1_000, ge=1, le=10_000)
    """Of a bulk request."""
    bytes_per_request: int = Field(default=5 * 1_048_576, ge=1_024, le=100 * 1_048_576)
    """Of a bulk request; a larger row goes alone."""
    timeout_ms: int = Field(default=30_000, ge=10, le=120_000)
    """Of one request."""

    @model_validator(mode="after")
    def _one_identity(self) -> OpenSearchOptions:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.username is not None and self.api_key is not None:
            raise ValueError("choose username and password, or api_key")
        return self
