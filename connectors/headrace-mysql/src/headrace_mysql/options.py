"""What `options:` of an egress into MySQL or MariaDB says."""

from __future__ import annotations

from pydantic import Field

from headrace.egress.references import DatabaseUrl
from headrace.egress.sdk import Options


class MysqlOptions(Options):
    """`options:` of an egress with connector `mysql`."""

    database: DatabaseUrl
    """`mysql://user@host:port/name`; `${NAME}` stands for an environment variable."""
    table: str | None = Field(default=None, min_length=1)
    """Default: the topic with `_` for every dot and dash."""
    create: bool = True
    """Whether a missing table is made."""
    version_column: str | None = Field(default=None, min_length=1)
    """A column that keeps where each row stands in its source, so that a stale row changes nothing."""
    lock_timeout_s: int = Field(default=30, ge=1, le=600)
    """How long to wait for a table or a row that another session holds; then the egress tries again later."""
