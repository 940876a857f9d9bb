"""What `ingress/*.yaml` of the kinds that capture changes says.

Owns the models; `ingress.config` reads files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from headrace.contracts.yaml_model import place_of
from headrace.errors import Where
from headrace.ingress.outbox_table import DEFAULT_TABLE
from headrace.ingress.violations import IngressInvalid

IngressName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PASSWORD = re.compile(r"://[^/@:]*:(?!\$\{)[^/@]+@|\bpassword\s*=\s*(?!\$\{)")


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


class OutboxConfig(_Model):
    """A table in which services leave events, and where these may go."""

    table: str = Field(default=DEFAULT_TABLE, min_length=1)
    topics: tuple[str, ...] = Field(min_length=1)
    """A row of another topic is a dead letter."""
    prune_interval_ms: int = Field(default=1_000, ge=0, le=3_600_000)
    """How often published rows leave the table; 0: somebody else sees to that."""


class SqliteCdcConfig(CdcConfig):
    """One ingress from a SQLite database."""

    kind: Literal["sqlite-cdc"] = "sqlite-cdc"
    database: Path
    prune_interval_ms: int = Field(default=1_000, ge=0, le=3_600_000)
    """How often published changes leave the change log; that takes the database's write lock for a moment."""


class ServerCdcConfig(CdcConfig):
    """What an ingress from a database server says."""

    database: str = Field(min_length=1)
    """Where it is; `${NAME}` stands for an environment variable."""
    heartbeat_interval_ms: int = Field(default=10_000, ge=100, le=3_600_000)
    """How often the position moves while none of the tables changes."""
    truncates: Literal["write", "skip", "stop"] = "write"
    """What becomes of a TRUNCATE."""
    new_columns: Literal["ignore", "follow"] = "ignore"
    """Whether columns that the contract does not have are published too, as nullable fields of new schema versions."""
    generation: int = Field(default=1, ge=1)
    """Another number takes every snapshot again."""

    @field_validator("database")
    @classmethod
    def _no_secrets(cls, value: str) -> str:
        if _PASSWORD.search(value):
            raise ValueError('a password does not belong in a file; write "${NAME}" and export it')
        return value

    def connection_string(self) -> str:
        """With every `${NAME}` replaced. Raises `IngressInvalid`."""

        def filled(found: re.Match[str]) -> str:
            value = os.environ.get(found.group(1))
            if not value:
                raise IngressInvalid(
                    f"environment variable {found.group(1)} is not set",
                    where=place_of(self.where, "database"),
                    cure=f"export {found.group(1)}",
                )
            return value

        return _VARIABLE.sub(filled, self.database)


class PostgresCdcConfig(ServerCdcConfig):
    """One ingress from a PostgreSQL database: `postgresql://...`, or libpq's `key=value` form."""

    kind: Literal["postgres-cdc"] = "postgres-cdc"
    snapshot_workers: int = Field(default=2, ge=1, le=16)
    """Connections that read the snapshot side by side."""
    spool_mb_max: int = Field(default=10_000, ge=0, le=1_000_000)
    """Of disk for large transactions that the server sends before they commit; 0: it keeps them until then."""
    unlimited_wal: bool = False
    """Read from a server whose `max_slot_wal_keep_size` sets no limit."""
    tables: Mapping[str, CdcTable] = Field(default_factory=dict)
    outbox: OutboxConfig | None = None

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(sorted({*super().topics, *(self.outbox.topics if self.outbox else ())}))

    @model_validator(mode="after")
    def _has_something(self) -> Self:
        if not self.tables and self.outbox is None:
            raise ValueError("name at least one table under `tables`, or an `outbox`")
        if self.outbox is not None and self.outbox.table in self.tables:
            raise ValueError(f"{self.outbox.table!r} is the outbox, and no table to capture")
        return self


class MysqlCdcConfig(ServerCdcConfig):
    """One ingress from a MySQL or MariaDB database: `mysql://user@host:port/name`."""

    kind: Literal["mysql-cdc"] = "mysql-cdc"
    server_id: int | None = Field(default=None, ge=1, le=2**32 - 1)
    """Under which this ingress reads, as a replica does; made from its name where the file does not say it."""
