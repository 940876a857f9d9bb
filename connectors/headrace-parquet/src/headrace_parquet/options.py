"""What `options:` of an egress with connector `parquet` says.

Owns the model.

- `path` is a folder, or `s3://bucket/prefix`; what speaks of S3 alone is refused for a folder.
- A secret is never in the file: the keys of an account are `${NAME}`, read from the environment when the target opens.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from headrace.egress.references import filled
from headrace.egress.sdk import Options, TargetInvalid
from headrace.egress.secret_option import Secret

_BUCKET_URL = re.compile(r"s3://([^/]+)(?:/(.*))?")
_SECRETS = ("access_key_id", "secret_access_key", "session_token")


class ParquetOptions(Options):
    """`options:` of an egress with connector `parquet`."""

    path: Annotated[str, BeforeValidator(lambda path: os.fspath(path) if isinstance(path, os.PathLike) else path)]
    """Folder, made when it is missing; or `s3://bucket/prefix`, whose bucket must be there."""
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = "zstd"
    row_group_rows: int = Field(default=100_000, ge=1)
    endpoint: str | None = None
    """Of a store other than Amazon's."""
    region: str | None = None
    access_key_id: Secret | None = None
    """Without it the default chain of credentials counts."""
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    timeout_ms: int = Field(default=60_000, ge=100, le=3_600_000)
    """Of one request to S3, its file included."""

    @field_validator("path")
    @classmethod
    def _has_bucket(cls, value: str) -> str:
        if "://" in value and not _BUCKET_URL.fullmatch(value):
            raise ValueError("write a folder, or s3://bucket/prefix")
        return value

    @model_validator(mode="after")
    def _fits_path(self) -> Self:
        given = [name for name in ("endpoint", "region", *_SECRETS) if getattr(self, name) is not None]
        if given and not self.is_s3:
            raise ValueError(f"{given[0]} needs a path that begins with s3://")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        return self

    @property
    def is_s3(self) -> bool:
        return self.path.startswith("s3://")

    def bucket_and_prefix(self) -> tuple[str, str]:
        """Of an S3 path; the prefix has no slash at its ends. Raises `TargetInvalid` for a variable that is not set."""
        match = _BUCKET_URL.fullmatch(filled(self.path, "path"))
        if match is None:
            raise TargetInvalid(f"{self.path}: no s3://bucket/prefix", cure="mend the variable in it")
        return match.group(1), (match.group(2) or "").strip("/")

    def client_config(self) -> dict[str, Any]:
        """Region, endpoint and keys as they are given, variables filled in. Raises `TargetInvalid`."""
        names = ("endpoint", "region", *_SECRETS)
        return {name: filled(text, name) for name in names if (text := getattr(self, name)) is not None}
