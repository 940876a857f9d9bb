"""What `ingress/*.yaml` of the kinds that capture changes says.

Owns the models; `ingress.config` reads files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from headrace.errors import Where

IngressName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class CdcTable(_Model):
    """Where the changes of one table go."""

    topic: str = Field(min_length=1)
    """A topic whose contract is of kind `change`; its columns are those that are captured."""


class CdcConfig(_Model):
    """What an ingress from any database says."""

    name: IngressName
    """The file's name without its ending, unless it says another."""
    tables: Mapping[str, CdcTable] = Field(min_length=1)
    """By table name."""
    owner: str = ""
    description: str = ""
    poll_interval_ms: int = Field(default=100, ge=1, le=60_000)
    """How long to wait before looking again when nothing changed."""
    batch_rows_max: int = Field(default=5_000, ge=1, le=100_000)
    """Changes of one table, or rows of a snapshot, in one transaction."""
    where: Where | None = Field(default=None, exclude=True)

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.name}.dlq"

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics written, sorted."""
        return tuple(sorted({table.topic for table in self.tables.values()}))


class SqliteCdcConfig(CdcConfig):
    """One ingress from a SQLite database."""

    kind: Literal["sqlite-cdc"] = "sqlite-cdc"
    database: Path
    prune_interval_ms: int = Field(default=1_000, ge=0, le=3_600_000)
    """How often published changes leave the change log; that takes the database's write lock for a moment."""
