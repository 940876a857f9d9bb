"""What an egress with connector `redis` may say under `options:`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from pydantic import Field, field_validator

from headrace.egress.sdk import ConnectorConfig, Mode, Options, TargetInvalid
from headrace.egress.secret_option import Secret

OWN_KEYS = "headrace:"
"""Keys that begin so are headrace's own; no row gets one."""


class Format(Enum):
    """What a row is in Redis."""

    HASH = "hash"
    """A field for each column that is not null: text, or bytes as they are."""
    JSON = "json"
    """One string with a JSON object."""


class RedisOptions(Options):
    """`options:` of an egress with connector `redis`."""

    url: str = Field(pattern=r"^(rediss?://[^@]+|unix:///[^@]+|rediss?\+sentinel://[^@/]+/[^@/]+(/\d+)?)$")
    """`redis://host:6379/0`, `rediss://` for TLS, `unix:///path`, `redis+sentinel://host:26379,host:26379/name/0`;
    without name and password of a user."""
    username: str | None = Field(default=None, min_length=1)
    password: Secret | None = None
    """`${NAME}`: an environment variable with the password."""
    ca_certificate: Path | None = None
    """PEM of the authority that signed the server's certificate, where the system does not know it."""
    prefix: str | None = Field(default=None, min_length=1)
    """Of the rows' keys, in `upsert` and `replicate`. Default: the topic and `:`."""
    format: Format = Format.HASH
    stream: str | None = Field(default=None, min_length=1)
    """Key of the stream, in `append`. Default: the topic."""
    stream_rows_max: int | None = Field(default=None, ge=1)
    """About how many entries the stream keeps; older ones are removed. Without it, all."""
    ttl_seconds: int | None = Field(default=None, ge=1, le=10**9)
    """After which a row goes unless it is written again, in `upsert` and `replicate`."""
    version_field: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """A field, or member, that keeps where each row stands in its source, so that a stale row changes nothing and a
    truncation knows the rows before it; in `upsert` and `replicate`."""
    timeout_ms: int = Field(default=10_000, ge=10, le=600_000)
    """How long a connection or an answer is waited for."""
    value_bytes_max: int = Field(default=512 * 1024 * 1024, ge=1_024, le=512 * 1024 * 1024)
    """Of a key, of a field, and of a JSON text; a row with a larger one is a dead letter."""

    @field_validator("prefix", "stream")
    @classmethod
    def _leaves_own_keys(cls, value: str | None) -> str | None:
        if value is not None and (value.startswith(OWN_KEYS) or OWN_KEYS.startswith(value)):
            raise ValueError(f"keys that begin with {OWN_KEYS!r} are headrace's own; choose another")
        return value

    def fits(self, config: ConnectorConfig) -> None:
        """Raises `TargetInvalid` for options that the mode does not have."""
        of_rows, of_stream = ("prefix", "ttl_seconds", "version_field"), ("stream", "stream_rows_max")
        others = of_rows if config.mode is Mode.APPEND else of_stream
        for name in others:
            if getattr(self, name) is not None:
                message = f"egress {config.egress!r}: option {name!r} means nothing in mode {config.mode.value}"
                raise TargetInvalid(message, cure="take it out, or choose another mode")

    def rows_under(self, config: ConnectorConfig) -> str:
        """Prefix of the rows, or in append the stream's key."""
        if config.mode is Mode.APPEND:
            return self.stream or config.topic
        return self.prefix or f"{config.topic}:"
