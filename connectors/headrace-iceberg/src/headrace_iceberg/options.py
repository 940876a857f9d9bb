"""What `options:` of an egress with connector `iceberg` says.

Owns the model, and the properties that a catalog is opened with.

- The address tells the kind of catalog: `http` and `https` are REST, all else is a database of SQLAlchemy.
- A property whose name says that it is a secret must be `${NAME}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, field_validator

from headrace.egress.references import DatabaseUrl, filled
from headrace.egress.sdk import Options

_SECRET = re.compile(r"token|secret|password|credential|access-key", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class IcebergOptions(Options):
    """`options:` of an egress with connector `iceberg`."""

    uri: DatabaseUrl
    """The catalog: `https://...` or a database, `sqlite:///catalog.db`."""
    warehouse: str | None = Field(default=None, min_length=1)
    """Where the catalog puts tables: a folder or a URL. A SQL catalog needs it."""
    catalog: str = Field(default="headrace", min_length=1)
    """Name of the catalog; part of what a SQL catalog stores."""
    table: str | None = Field(default=None, pattern=r"^[^.]+(\.[^.]+)+$")
    """With its namespace; default: `headrace` and the topic with `_` for every dot and dash."""
    properties: Mapping[str, str] = Field(default_factory=dict)
    """More of the catalog's and the files' own."""
    metadata_versions_max: int = Field(default=20, ge=1, le=10_000)
    """Former metadata files that stay, for tables that are made here."""
    snapshots_max: int = Field(default=1_000, ge=2, le=100_000)
    """Older snapshots expire."""

    @field_validator("properties")
    @classmethod
    def _no_secrets(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name, text in value.items():
            if _SECRET.search(name) and not _REFERENCE.fullmatch(text):
                raise ValueError(f'{name}: a secret does not belong in a file; write "${{NAME}}" and export it')
        return value

    @property
    def is_rest(self) -> bool:
        return self.uri.lower().startswith(("http://", "https://"))

    def identifier(self, topic: str) -> str:
        """Of the table."""
        return self.table or f"headrace.{topic.replace('.', '_').replace('-', '_')}"

    def catalog_properties(self) -> dict[str, str]:
        """Variables filled in. Raises `TargetInvalid` for one that is not set."""
        found = {name: filled(text, f"properties.{name}") for name, text in self.properties.items()}
        found["uri"] = filled(self.uri, "uri")
        if self.warehouse is not None:
            warehouse = filled(self.warehouse, "warehouse")
            found["warehouse"] = warehouse if _URL.match(warehouse) or self.is_rest else str(Path(warehouse).resolve())
        return found
